"""The phantom: procedurally drawn chest radiographs in the raw layout of a real data set.

Frontal and lateral films are projections of one simple body per patient, with 16 findings of long-tailed
prevalence that come together, grow and go as in a hospital; see :mod:`.population` for who has what, :mod:`.findings`
for the table of findings, :mod:`.anatomy` for the healthy chest, and :mod:`.film` for the exposure.
"""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, get_args

from longview import InputError, __version__

logger = logging.getLogger(__name__)

__all__ = ["phantom"]

LayoutName = Literal[
    "nih", "nih-google", "cxr-lt-2023", "cxr-lt-2024", "cxr-lt-2026", "chexpert", "mimic", "vinbig", "vindr",
    "padchest", "rsna", "openi",
]  # fmt: skip
"""Data sets in whose layout a phantom can be drawn: the keys of `layouts.LAYOUTS`, here without loading OpenCV."""

_FORMAT = 1  # raised when the same settings come to mean other pixels
_INFO = "phantom.json"
_SIZES = (16, 2048)
_TILE = 192  # pixels per film on the contact sheet; a small one where the phantom is only for a test


def phantom(
    layout: LayoutName,
    output: Path,
    studies: int = 2000,
    size: int = 128,
    seed: int = 0,
    workers: int | None = None,
    overwrite: bool = False,
) -> None:
    """Draw a phantom data set: synthetic chest X-rays in the raw layout of a real data set.

        uv run main.py phantom --layout cxr-lt-2024 --studies 2000 --output data/raw/phantom

    Writes the images and tables that the real data set has, and beside them boxes.csv (true boxes of all findings),
    contact_sheet.png (every finding, frontal and lateral) and phantom.json (settings and counts). Equal settings give
    equal bytes, whatever the number of processes.

    Args:
        layout: Whose files and tables to write.
        output: Folder to make. One that holds a phantom of the same settings is left as it is.
        studies: Number of studies; a patient has about three.
        size: Side of the images in pixels.
        seed: Seed of everything.
        workers: Processes to draw with; 0 draws in this one. Default: as many as there are cores and work for.
        overwrite: Replace a phantom of other settings.

    Raises:
        InputError: For impossible settings, or where something else stands at `output`.
        OSError: Where the disk is full or fails; nothing of the phantom is kept, and what stood there stays.
    """
    _check(layout, studies, size, seed, workers)
    output = Path(output).absolute()
    settings = {"format": _FORMAT, "layout": layout, "studies": studies, "size": size, "seed": seed}
    if _is_there(output, settings, overwrite):
        logger.info("%s holds this phantom already", output)
        return
    try:
        with _partial(output) as folder:
            info = _draw(folder, settings, layout, studies, size, seed, workers)
            (folder / _INFO).write_text(json.dumps(info, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        if error.errno not in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
            raise
        told = f"{error.strerror}; the phantom was not finished and nothing of it was kept"
        raise OSError(error.errno, told, str(output)) from error
    logger.info("%s: %d images of %d studies and %d patients", output, info["images"], studies, info["patients"])


def _check(layout: str, studies: int, size: int, seed: int, workers: int | None) -> None:
    if layout not in get_args(LayoutName):
        raise InputError(f"layout is {layout!r}; give {', '.join(get_args(LayoutName))}")
    if studies < 1:
        raise InputError(f"studies is {studies}; give at least 1")
    if not _SIZES[0] <= size <= _SIZES[1]:
        raise InputError(f"size is {size}; give {_SIZES[0]} to {_SIZES[1]} pixels")
    if seed < 0 or (workers is not None and workers < 0):
        raise InputError(f"seed is {seed} and workers is {workers}; neither may be negative")


def _is_there(output: Path, settings: dict[str, Any], overwrite: bool) -> bool:
    """Whether the phantom exists; an error where something stands there that must not be replaced."""
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return False
    info = output / _INFO
    if not info.is_file():
        raise InputError(f"{output} exists and is no phantom ({_INFO} is not in it); give another --output")
    before = read_settings(output)
    if before == settings:
        return True
    if not overwrite:
        differing = [f"{key} {before.get(key)}, now {now}" for key, now in settings.items() if before.get(key) != now]
        raise InputError(
            f"{output} holds a phantom of other settings ({'; '.join(differing)}); give another --output, or "
            f"--overwrite true to replace it"
        )
    return False


def read_settings(folder: Path) -> dict[str, Any]:
    """What a finished phantom was drawn with: format, layout, studies, size and seed.

    Raises:
        InputError: Where its phantom.json is damaged.
    """
    info = folder / _INFO
    try:
        settings: dict[str, Any] = dict(json.loads(info.read_text(encoding="utf-8"))["settings"])
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{info} is damaged ({error!r}); remove {folder} and draw the phantom again") from error
    return settings


@contextmanager
def _partial(output: Path) -> Iterator[Path]:
    """Give a hidden folder beside `output` and move it there when all is done; a failure removes it.

    A killed process leaves it behind, under a name that nothing reads; the next one clears it. A lock keeps two
    processes from drawing into one folder.
    """
    folder, old = (output.with_name(f".{output.name}.{end}") for end in ("partial", "old"))
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (NotADirectoryError, FileExistsError) as error:
        raise InputError(f"{output} cannot be made: a part of its path is a file, not a folder") from error
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise InputError(f"another process is drawing {output} at this moment") from error
        try:
            for entry in folder.iterdir():
                if entry.is_dir():
                    shutil.rmtree(entry)
                elif entry.name != "lock":
                    entry.unlink()
            yield folder
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        (folder / "lock").unlink()
        shutil.rmtree(old, ignore_errors=True)
        if output.exists():
            output.replace(old)
        folder.replace(output)
    shutil.rmtree(old, ignore_errors=True)


def _draw(
    folder: Path, settings: dict[str, Any], layout: str, studies: int, size: int, seed: int, workers: int | None
) -> dict[str, Any]:
    """Draw everything into a folder; returns what phantom.json says."""
    # imported here so that `phantom --help` does not load OpenCV
    from longview.data.phantom.drawing import draw_images
    from longview.data.phantom.findings import LABELS
    from longview.data.phantom.layouts import LAYOUTS
    from longview.data.phantom.layouts.base import Drawn, part_of, write_boxes
    from longview.data.phantom.sheet import write_contact_sheet

    images: list[Drawn] = []
    for part in _with_progress(draw_images(folder, layout, studies, size, seed, workers), studies):
        images += part
    LAYOUTS[layout].write_tables(folder, images, size)
    write_boxes(folder / "boxes.csv", images)
    write_contact_sheet(folder / "contact_sheet.png", _TILE if size >= 64 else 64, seed)
    labels = {image.place.study_id: image.labels for image in images}
    counts = Counter(label for found in labels.values() for label in found)
    parts = Counter(part_of(image.patient) for image in images)
    return {
        "settings": settings,
        "longview_version": __version__,
        "patients": len({image.patient for image in images}),
        "images": len(images),
        "images_per_part": {name: parts[name] for name in ("train", "development", "test")},
        "studies_per_label": {label: counts[label] for label in LABELS},
    }


def _with_progress(parts: Iterable[list[Any]], studies: int) -> Iterator[list[Any]]:
    """Pass on what is drawn under a bar with rate and time left, on a terminal."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("drawing"), BarColumn(), MofNCompleteColumn(), TextColumn("studies"),
        TextColumn("{task.fields[rate]}"), TimeRemainingColumn(),
    )  # fmt: skip
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=studies, rate="")
        for part in parts:
            bar.advance(task, len({image.place.study_id for image in part}))
            speed = bar.tasks[0].speed
            bar.update(task, rate=f"{speed:.0f}/s" if speed else "")
            yield part
