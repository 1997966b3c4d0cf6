"""`longview prepare`: from a raw data set to a store, once, with worker processes; safe to kill and resume.

uv run main.py prepare --source nih --root ../shared/data/nih-1000 --size 64 --output data/nih-1000
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Literal

import pandas as pd
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from longview import InputError
from longview.data.images import Resize
from longview.data.manifest import Manifest
from longview.data.packing import Job, Outcome, pack_files
from longview.data.partial import PartialStore, build_settings, bytes_done, describe_difference
from longview.data.sources import open_source, source_class
from longview.data.splits import assign_splits, split_table
from longview.data.store import REJECTED_FILE, Packing, Store
from longview.labels import LabelSet

logger = logging.getLogger(__name__)

_JPEG_BYTES = 0.25  # bytes per pixel at most, of films of 256 to 1024 px at quality 92
_BESIDE = 2000  # bytes per image for manifest, index and journal
_WORTH_BYTES, _WORTH_FILES = 50e6, 2000  # to read, for each second that a worker takes to start
_HOPELESS = 500  # files rejected in a row from the first on: the root or the disk is at fault, not the files
_LOG_SECONDS = 10.0  # between lines of progress where there is no terminal
_STATTED = 2000  # files whose size is looked up for a dry run
_SHOWN_LABELS = 10  # labels in the table of a dry run


def prepare(
    source: str,
    root: Path,
    output: Path,
    *,
    size: int = 512,
    resize: Resize = "squash",
    packing: Packing = "npy",
    jpeg_quality: int = 92,
    labels: Path | None = None,
    table: Path | None = None,
    columns: dict[str, str] | None = None,
    uncertain: Literal["error", "zero", "one", "ignore"] | None = None,
    unknown: Literal["error", "ignore"] | None = None,
    task: Literal[1, 2, 3] | None = None,
    development: Literal["val", "test", "ignore"] | None = None,
    val_fraction: float = 0.1,
    test_fraction: float = 0.1,
    seed: int = 0,
    workers: int | None = None,
    strict: bool = False,
    dry_run: bool = False,
    overwrite: bool = False,
) -> None:
    """Read a raw data set once and write a store: a manifest with splits, and all images resized and packed.

    Example: main.py prepare --source nih --root ../shared/data/nih-1000 --size 64 --output data/nih-1000

    Raw files are only read. The store appears under its name when it is whole; until then it grows in
    `.NAME.partial` beside it, and the same command goes on where it was stopped or killed. Files that cannot
    be read are listed in `rejected.csv` of the store with the reason, and left out of its manifest.

    Args:
        source: Layout of the raw data: nih, covid-chestxray, cxr-lt-2024, phantom, table (your own CSV) or folder.
        root: Folder of the raw data.
        output: Folder of the store to make; it must lie outside of the root.
        size: Side of the square images in pixels; train at this size or below.
        resize: squash stretches films to the square, letterbox pads them with black, crop keeps the centre.
        packing: npy is the fastest to read; jpeg takes about a tenth of the room (1024 px on a small disk).
        jpeg_quality: Quality of packing jpeg, 1 to 100.
        labels: Label set to align to, a YAML file or a name in configs/labels; default: the source's own.
        table: CSV or parquet file with paths and labels, for source table.
        columns: Which column is what, for source table: '{"path": "file", "patient_id": "mrn"}'.
        uncertain: What -1 in a label becomes, for source table: zero, one or ignore (empty); default: an error.
        unknown: Findings outside of the labels, for nih and covid-chestxray: error (default) or ignore.
        task: Which task's files to read, for cxr-lt-2024; default: those that fit the labels.
        development: What the development images are, for cxr-lt-2024: val (default), test or ignore.
        val_fraction: Share for validation, by patient, where the data set has no official validation part.
        test_fraction: Share for testing, by patient, of images without an official split.
        seed: Seed of the division into splits.
        workers: Worker processes; 0 works in this one; default: one per CPU, fewer for few images.
        strict: Stop at the first file that cannot be read, instead of listing it.
        dry_run: Say what would be read and how large the store would be, and write nothing.
        overwrite: Replace a store of other settings; the old one stays until the new one is whole.
    """
    label_set = None if labels is None else LabelSet.load(labels)
    given = {"uncertain": uncertain, "unknown": unknown, "task": task, "development": development}
    manifest = open_source(source, root, label_set, table=table, columns=columns, **given).read()
    options: dict[str, Any] = {"source": source, "labels": None if labels is None else str(labels)}
    options |= {name: value for name, value in given.items() if value is not None}
    if source_class(source).assign:
        manifest = assign_splits(manifest, val_fraction, test_fraction, seed)
        options |= {"val_fraction": val_fraction, "test_fraction": test_fraction, "seed": seed}
    if dry_run:
        _check_arguments(root, output, size, jpeg_quality, workers)
        _describe(manifest, root, output, _bytes_needed(len(manifest), size, packing))
        return
    store = prepare_manifest(
        manifest, root, output, size=size, resize=resize, packing=packing, jpeg_quality=jpeg_quality,
        workers=workers, strict=strict, overwrite=overwrite, options=options,
    )  # fmt: skip
    _print_splits(store.manifest)


def prepare_manifest(
    manifest: Manifest,
    root: Path,
    output: Path,
    *,
    size: int = 512,
    resize: Resize = "squash",
    packing: Packing = "npy",
    jpeg_quality: int = 92,
    workers: int | None = None,
    strict: bool = False,
    overwrite: bool = False,
    options: Mapping[str, Any] | None = None,
) -> Store:
    """Pack the images of a manifest into a store, or go on with a half-made one.

    Args:
        manifest: Images with their splits and labels; paths are relative to the root.
        root: Folder of the raw files.
        output: Folder of the store, outside of the root.
        size: Side of the square images in pixels.
        resize: squash, letterbox or crop; see :func:`longview.data.images.resize_image`.
        packing: npy or jpeg.
        jpeg_quality: 1 to 100.
        workers: Processes; 0: this one; None: one per CPU, fewer for few images.
        strict: Stop at the first file that cannot be read.
        overwrite: Replace a finished store, and drop a half-made one of other settings.
        options: What the manifest was made with, kept in the store's settings.

    Returns:
        The finished store; the one that is there already where it has the same settings and manifest.

    Raises:
        InputError: For a store of other settings at `output`, too little room, or no readable file.
        OSError: Where the disk fills up or fails on the way; running again goes on.
    """
    _check_arguments(root, output, size, jpeg_quality, workers)
    output = output.resolve()  # a link to another disk: the store is built there
    settings = build_settings(
        manifest, root, size=size, resize=resize, packing=packing, jpeg_quality=jpeg_quality,
        options=options or {},
    )  # fmt: skip
    if not overwrite and _is_done(output, settings, strict):
        logger.info("%s is there already, made with the same settings", output)
        return Store(output)
    _check_output(output, overwrite)
    output.parent.mkdir(parents=True, exist_ok=True)
    _check_room(output, _bytes_needed(len(manifest), size, packing) - bytes_done(output))
    with PartialStore(output, manifest, settings, restart=overwrite) as partial:
        jobs = partial.jobs()
        if len(jobs) < len(manifest):
            logger.info("going on: %d of %d images are done", len(partial.done), len(manifest))
        count = _workers(workers, jobs, root)
        outcomes = pack_files(jobs, partial.pack_settings(root, resize, jpeg_quality), count)
        try:
            with closing(outcomes):
                _pack(partial, outcomes, strict)
            _check_any(partial)
            partial.finish(root)
        except KeyboardInterrupt:
            logger.warning(_stopped(partial, "interrupted"))
            raise
        except OSError as error:
            full = error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
            reason = "the disk is full" if full else f"writing failed ({error.strerror})"
            raise OSError(error.errno, _stopped(partial, reason), str(partial.folder)) from error
    store = Store(output)
    if partial.rejected:
        listed = output / REJECTED_FILE
        logger.warning("%d files could not be read and were left out; see %s", len(partial.rejected), listed)
    logger.info("%s: %d images of %d px, %s", output, len(store), size, _human(_folder_bytes(output)))
    return store


def _check_arguments(root: Path, output: Path, size: int, jpeg_quality: int, workers: int | None) -> None:
    if size < 1:
        raise InputError(f"size must be at least 1, not {size}")
    if not 1 <= jpeg_quality <= 100:
        raise InputError(f"jpeg_quality must be 1 to 100, not {jpeg_quality}")
    if workers is not None and workers < 0:
        raise InputError(f"workers must be 0 or more, not {workers}")
    if not root.is_dir():
        raise InputError(f"root {root} is not a folder; give the folder of the raw data")
    inner, outer = output.resolve(), root.resolve()
    if inner == outer or outer in inner.parents or inner in outer.parents:
        raise InputError(f"output {output} and root {root} lie in each other; raw data are never written to")


def _is_done(output: Path, settings: Mapping[str, Any], strict: bool) -> bool:
    """Whether the store that is wanted is there.

    Raises:
        InputError: Where another one is there.
    """
    if not Store.is_store(output):
        return False
    store = Store(output)
    if store.info.settings != settings:
        differing = describe_difference(store.info.settings, settings)
        raise InputError(f"{output} is a store already, made otherwise ({differing}); --overwrite replaces it")
    if strict and store.info.rejected:
        raise InputError(f"{output} was made without {store.info.rejected} files; see {output / REJECTED_FILE}")
    return True


def _check_output(output: Path, overwrite: bool) -> None:
    """Never replace a folder that is not a store."""
    if output.exists() and not Store.is_store(output) and (output.is_file() or any(output.iterdir())):
        extra = "; --overwrite replaces stores only" if overwrite else ""
        raise InputError(f"{output} exists and is not a store{extra}; give another output, or remove it")


def _check_room(output: Path, needed: int) -> None:
    free = shutil.disk_usage(output.parent).free
    if needed > free:
        raise InputError(
            f"the store needs {_human(needed)} more, {output.parent} has {_human(free)} "
            f"free; choose a smaller --size, --packing jpeg or another disk"
        )


def _bytes_needed(images: int, size: int, packing: Packing) -> int:
    return int(images * (size * size * (1 if packing == "npy" else _JPEG_BYTES) + _BESIDE))


def _workers(asked: int | None, jobs: Sequence[Job], root: Path) -> int:
    """Number of processes; 0 for so little work that starting one costs more than it brings."""
    if asked is not None:
        return min(asked, len(jobs))
    if not jobs:
        return 0
    sizes = _file_sizes(root, [path for _, path in jobs[:: len(jobs) // 50 + 1]])
    share = sum(sizes) / max(len(sizes), 1) / _WORTH_BYTES + 1 / _WORTH_FILES
    # the CPUs that a job scheduler or container grants; macOS does not know of such
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    count = min(cpus, int(len(jobs) * share))
    return count if count > 1 else 0


def _file_sizes(root: Path, paths: Iterable[str]) -> list[int]:
    """Bytes of those files that are there."""
    return [(root / path).stat().st_size for path in paths if (root / path).is_file()]


def _pack(partial: PartialStore, outcomes: Iterable[list[Outcome]], strict: bool) -> None:
    """Record outcomes and show how far it is."""
    with _Meter(len(partial.manifest), len(partial.done)) as meter:
        for some in outcomes:
            partial.record(some)
            bad = [outcome.reason for outcome in some if outcome.reason]
            if bad and strict:
                raise InputError(f"{bad[0]}; stopped, because of --strict, at the first file that cannot be read")
            if not partial.done and len(partial.rejected) >= _HOPELESS:
                raise InputError(f"the first {len(partial.rejected)} files cannot be read: {bad[0]}")
            meter.update(len(partial.done), len(partial.rejected))


def _check_any(partial: PartialStore) -> None:
    if not partial.done:
        reasons = "; ".join(list(partial.rejected.values())[:3])
        shutil.rmtree(partial.folder)
        raise InputError(f"none of the {len(partial.rejected)} files can be read: {reasons}")


def _stopped(partial: PartialStore, reason: str) -> str:
    return (
        f"{reason} after {partial.rescue()} of {len(partial.manifest)} images; they are kept: "
        f"the same command goes on from there"
    )


class _Meter:
    """A progress bar on a terminal, a log line now and then elsewhere; both with images/s and time left."""

    def __init__(self, total: int, done: int) -> None:
        self._total, self._before, self._begun = total, done, time.monotonic()
        self._logged = self._begun
        console = Console(stderr=True)
        columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
        self._bar = Progress(*columns, console=console) if console.is_terminal else None
        self._task = self._bar.add_task("", total=total, completed=done) if self._bar else None

    def __enter__(self) -> _Meter:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar:
            self._bar.stop()

    def update(self, done: int, rejected: int) -> None:
        """Show how many images are packed and how many files were rejected."""
        now = time.monotonic()
        rate = (done + rejected - self._before) / max(now - self._begun, 1e-9)
        speed = f"{rate:.0f} images/s" + (f", {rejected} rejected" if rejected else "")
        if self._bar and self._task is not None:
            self._bar.update(self._task, completed=done + rejected, description=speed)
        elif now - self._logged >= _LOG_SECONDS:
            left = (self._total - done - rejected) / max(rate, 1e-9)
            logger.info("%d of %d, %s, %.0f s left", done + rejected, self._total, speed, left)
            self._logged = now


def _describe(manifest: Manifest, root: Path, output: Path, needed: int) -> None:
    """Print what a dry run found: rows per split and view, common labels, bytes to read and to write."""
    console, data = Console(), manifest.table
    sizes = _file_sizes(root, _sample(data["path"]))
    looked = min(len(data), _STATTED)
    to_read = int(sum(sizes) / looked * len(data))
    how = "all files" if looked == len(data) else f"from the sizes of {looked}"
    existing = next(folder for folder in [output.resolve(), *output.resolve().parents] if folder.exists())
    table = Table(title=f"{manifest.origin}: would become {output}", show_header=False)
    table.add_row("images", f"{len(data):,} of {data['patient_id'].nunique():,} patients")
    for column in ("split", "view"):
        counts = data[column].value_counts()
        table.add_row(column, ", ".join(f"{name} {count:,}" for name, count in counts.items()))
    positives = data[manifest.labels].sum().sort_values(ascending=False)
    top = [f"{name} {count:,.0f}" for name, count in positives.head(_SHOWN_LABELS).items()]
    table.add_row(f"labels ({len(manifest.labels)})", ", ".join(top) or "none")
    if len(sizes) < looked:
        table.add_row("missing", f"{looked - len(sizes)} of {looked} files looked at are not there")
    table.add_row("to read", f"{_human(to_read)} ({how})")
    table.add_row("store", f"{_human(needed)}; {_human(shutil.disk_usage(existing).free)} free at {existing}")
    console.print(table)


def _sample(paths: pd.Series[str]) -> pd.Series[str]:
    return paths if len(paths) <= _STATTED else paths.sample(_STATTED, random_state=0)


def _print_splits(manifest: Manifest) -> None:
    counts = split_table(manifest)
    table = Table(title="images, studies, patients, and positive images per label")
    table.add_column("")
    for split in counts.columns:
        table.add_column(str(split), justify="right")
    for name, row in counts.iterrows():
        table.add_row(str(name), *(f"{value:,}" for value in row))
    Console().print(table)


def _folder_bytes(folder: Path) -> int:
    return sum(file.stat().st_blocks * 512 for file in folder.iterdir())  # POSIX: units of 512


def _human(count: float) -> str:
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "bytes" or count >= 100 else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
