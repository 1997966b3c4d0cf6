"""A store under construction: what is done is journalled, so that it can be killed at any moment and go on.

The folder `.<name>.partial` lies beside the output, on the same disk: the last step is one rename.
`settings.json` says what is being built, `journal.jsonl` has one line per file that is done. A line is
written only after the pixels it speaks of are on disk: even a power cut leaves no line without its pixels.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd

from longview import InputError, __version__
from longview.data.annotations import Annotations
from longview.data.images import Resize
from longview.data.manifest import Manifest, label_columns
from longview.data.packing import Outcome, PackSettings
from longview.data.room import folder_bytes
from longview.data.store import (
    FORMAT_VERSION,
    IMAGES_FILE,
    INDEX_FILE,
    LOCK_FILE,
    MANIFEST_FILE,
    REJECTED_FILE,
    Packing,
    Store,
    StoreInfo,
    content_hash,
    describe_difference,
    partial_folder,
    replaced_folder,
)

DONE_FILE = "done.json"
"""In the folder of a shard that is finished: the files that it rejected."""

_SETTINGS, _JOURNAL, _RESERVE = "settings.json", "journal.jsonl", "reserve"
_TOOLS = (_SETTINGS, f"{_SETTINGS}.new", _JOURNAL, LOCK_FILE, _RESERVE)  # no part of the finished store
_LINE_BYTES = 160  # of a journal line at most: room for all of them is reserved, for the day that the disk is full
_SQUARE = 0.01  # difference of the sides of a pixel that still makes a square
_SECONDS = 2.0  # between two syncs to disk: what a kill costs at most
_SHARE = 10  # syncing may take a tenth of the time, on slow disks too


class PartialStore:
    """The store `output`, or a shard of it, while it is being built; a context that holds a lock on the folder.

    Args:
        output: Where the store will be.
        manifest: All images, readable or not; for a shard, its own.
        settings: What decides the content; see :func:`build_settings`.
        restart: Throw away what was built with other settings, instead of an error.
        folder: Where it is built; None: :func:`~longview.data.store.partial_folder`.
        anew: Throw away whatever was built.

    Raises:
        InputError: Where another process builds this store, or a half-made one has other settings.
    """

    def __init__(
        self,
        output: Path,
        manifest: Manifest,
        settings: Mapping[str, Any],
        restart: bool,
        folder: Path | None = None,
        anew: bool = False,
    ) -> None:
        self.output, self.folder = output, partial_folder(output) if folder is None else folder
        self.manifest, self.settings = manifest, dict(settings)
        self.done: dict[int, Outcome] = {}
        self.rejected: dict[int, str] = {}
        self._unsaved: list[Outcome] = []
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = lock(self.folder, output)
        try:
            self._resume_or_begin(restart, anew)
            self._images = os.open(self.folder / IMAGES_FILE[self.packing], os.O_RDWR)
            self._journal = os.open(self.folder / _JOURNAL, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        except BaseException:
            os.close(self._lock)
            raise
        self._saved_at, self._save_cost = time.monotonic(), 0.0

    @property
    def packing(self) -> Packing:
        """Npy or jpeg."""
        packing: Packing = self.settings["packing"]
        return packing

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        """Save what is done and let go of the folder; the folder itself stays."""
        try:
            if kind is None:
                self.save()
            else:
                self.rescue()
        finally:
            for file in (self._images, self._journal, self._lock):
                os.close(file)

    def _resume_or_begin(self, restart: bool, anew: bool) -> None:
        file = self.folder / _SETTINGS
        before = settings_of(self.folder)
        check_partial(self.folder, self.settings, restart or anew)
        if anew or (before is not None and describe_difference(before, self.settings)):
            before = None
        images = self.folder / IMAGES_FILE[self.packing]
        if before is None or not images.is_file():
            for leftover in self.folder.iterdir():
                if leftover.name != LOCK_FILE:
                    leftover.unlink()
            self._create_images(images)
            write_synced(file, json.dumps(self.settings, indent=2))
        else:
            self.done = read_journal(self.folder)
        (self.folder / _RESERVE).write_bytes(bytes(len(self.jobs()) * _LINE_BYTES))

    def _create_images(self, file: Path) -> None:
        """An images file of its final length; what is not written yet takes no room."""
        with file.open("wb") as stream:
            if self.packing == "npy":
                size = self.settings["size"]
                header = {"descr": "|u1", "fortran_order": False, "shape": (len(self.manifest), size, size)}
                np.lib.format.write_array_header_1_0(stream, header)
                stream.truncate(stream.tell() + len(self.manifest) * size * size)

    def jobs(self) -> list[tuple[int, str]]:
        """Rows that are still to be packed, with their paths; files rejected before are tried again."""
        return [(row, path) for row, path in enumerate(self.manifest.table["path"].tolist()) if row not in self.done]

    def pack_settings(self, root: Path, resize: Resize, jpeg_quality: int) -> PackSettings:
        """What the workers have to know."""
        if self.packing == "npy":
            size = self.settings["size"]
            offset = (self.folder / IMAGES_FILE["npy"]).stat().st_size - len(self.manifest) * size * size
        else:
            offset = max((outcome.start + outcome.length for outcome in self.done.values()), default=0)
        return PackSettings(
            root,
            self.folder / IMAGES_FILE[self.packing],
            self.settings["size"],
            resize,
            self.packing,
            jpeg_quality,
            offset,
        )

    def record(self, outcomes: Iterable[Outcome]) -> None:
        """Note what became of some files, and save it now and then."""
        for outcome in outcomes:
            if outcome.reason:
                self.rejected[outcome.row] = outcome.reason
            else:
                self.done[outcome.row] = outcome
                self._unsaved.append(outcome)
        if time.monotonic() - self._saved_at > max(_SECONDS, _SHARE * self._save_cost):
            self.save()

    def save(self) -> None:
        """Bring pixels to the disk, then the journal lines that vouch for them."""
        if not self._unsaved:
            return
        begun = time.monotonic()
        os.fsync(self._images)
        lines = "".join(json.dumps(outcome) + "\n" for outcome in self._unsaved).encode()
        while lines:
            lines = lines[os.write(self._journal, lines) :]
        os.fsync(self._journal)
        self._unsaved.clear()
        self._saved_at = time.monotonic()
        self._save_cost = self._saved_at - begun

    def rescue(self) -> int:
        """Save what can be saved after an error, on a full disk in the room that was reserved for it.

        Returns:
            Number of images that are safe; the others are packed again.
        """
        (self.folder / _RESERVE).unlink(missing_ok=True)
        with suppress(OSError):  # the error that led here is the one to report
            self.save()
        return len(self.done) - len(self._unsaved)

    def finish(self, root: Path, annotations: Annotations | None = None) -> None:
        """Write manifest, index, annotations and `store.json`, and move the folder into place.

        What stood there before is moved aside first and removed last. After a kill between the two renames
        it is put back when the store is next opened or prepared (:func:`longview.data.store.recover`).
        """
        self.save()
        rows = np.array(sorted(self.done), np.int64)
        outcomes = [self.done[int(row)] for row in rows]
        table = _with_meta(self.manifest.table.iloc[rows].reset_index(drop=True), outcomes)
        manifest = Manifest(table, str(self.folder / MANIFEST_FILE))
        manifest.write(self.folder / MANIFEST_FILE)
        (annotations or Annotations()).write(self.folder, table, rows)
        if self.packing == "npy":
            index = rows
        else:
            index = np.array([(outcome.start, outcome.length) for outcome in outcomes], np.int64)
            os.ftruncate(self._images, int(index.sum(axis=1).max()))
        np.save(self.folder / INDEX_FILE[self.packing], index)
        self._rejected_table().to_csv(self.folder / REJECTED_FILE, index=False)
        info = StoreInfo(
            format_version=FORMAT_VERSION,
            size=self.settings["size"],
            resize=self.settings["resize"],
            packing=self.packing,
            source="+".join(sorted(table["source"].unique())),
            root=str(root),
            labels=manifest.labels,
            images=len(table),
            rejected=len(self.rejected),
            settings=self.settings,
            content_hash=content_hash(table, (outcome.digest for outcome in outcomes)),
            longview_version=__version__,
        )
        info.write(self.folder)
        self._move_into_place()

    def _rejected_table(self) -> pd.DataFrame:
        paths = self.manifest.table["path"]
        rows = [(paths.iloc[row], self.rejected[row]) for row in sorted(self.rejected)]
        return pd.DataFrame(rows, columns=["path", "reason"])

    def _move_into_place(self) -> None:
        for file in self.folder.iterdir():
            sync(file)
        sync(self.folder)
        old = replaced_folder(self.output)
        if self.output.is_dir() and any(self.output.iterdir()):
            _remove(old)
            self.output.replace(old)
        self.folder.replace(self.output)
        sync(self.output.parent)
        clear_leftovers(self.output)  # only now: with those files a kill before the move costs nothing


def clear_leftovers(output: Path) -> None:
    """Remove what a kill just after the move into place left: the replaced store, and the tools of building."""
    if Store.is_store(output):
        for name in _TOOLS:
            (output / name).unlink(missing_ok=True)
        _remove(replaced_folder(output))


def lock(folder: Path, output: Path) -> int:
    """Take the lock of a folder in which `output` is being built; it is let go when the descriptor is closed.

    Returns:
        The descriptor.

    Raises:
        InputError: Where another process has it.
    """
    descriptor = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise InputError(f"another process is preparing {output} at this moment (in {folder})") from error
    return descriptor


def read_journal(folder: Path) -> dict[int, Outcome]:
    """What is done, by row; a last line that was cut by a kill is dropped, here and in the file."""
    file = folder / _JOURNAL
    if not file.is_file():
        return {}
    content = file.read_bytes()
    whole = content[: content.rfind(b"\n") + 1]
    if len(whole) < len(content):
        os.truncate(file, len(whole))
    # one document for all lines: a third of the time that a call per line takes
    lines = json.loads(b"[" + whole.rstrip(b"\n").replace(b"\n", b",") + b"]")
    return {line[0]: Outcome(*line) for line in lines}


def settings_of(folder: Path) -> dict[str, Any] | None:
    """The settings of what is being built in a folder; None where nothing is."""
    return _read_json(folder / _SETTINGS)


def check_partial(folder: Path, settings: Mapping[str, Any], restart: bool) -> int:
    """Number of images that are done already in a folder where a store or a shard is being built.

    Raises:
        InputError: Where it was made with other settings, unless it may be begun anew (`restart`).
    """
    before, journal = settings_of(folder), folder / _JOURNAL
    if before is None or not journal.is_file():
        return 0
    done = journal.read_bytes().count(b"\n")
    differing = describe_difference(before, settings)
    if differing and done and not restart:
        state = "finished, but" if (folder / DONE_FILE).exists() else "half made"
        raise InputError(
            f"{folder} is {state} with other settings ({differing}); keep to those, or begin anew with --overwrite true"
        )
    return 0 if differing else done


def bytes_done(folder: Path) -> int:
    """Bytes on disk that a half-made store takes already."""
    return folder_bytes(folder) if folder.is_dir() else 0


def _with_meta(table: pd.DataFrame, outcomes: list[Outcome]) -> pd.DataFrame:
    """Size in pixels and pixel spacing of the files as they were read.

    Where a file has no spacing, the source's is kept. It speaks of the film whose width and height the source
    gives (NIH: the detector's, not that of the 1024 px PNG), so it is scaled to the file's pixels. Where those
    are no squares any more (their sides differ by more than 1 %), no one number is true, and it is NaN.
    """
    labels = label_columns(table.columns)
    rest = table.drop(columns=labels)
    sizes = {
        "meta_height": np.array([outcome.height for outcome in outcomes], np.int64),
        "meta_width": np.array([outcome.width for outcome in outcomes], np.int64),
    }
    spacing = pd.Series([outcome.spacing_mm for outcome in outcomes], index=rest.index, dtype=np.float64)
    if "meta_pixel_spacing_mm" in rest.columns:
        of_source = rest["meta_pixel_spacing_mm"].astype(np.float64)
        down, across = (
            rest[name].astype(np.float64) / size if name in rest.columns else pd.Series(np.nan, index=rest.index)
            for name, size in sizes.items()
        )
        # a source that gives one side alone is believed to have scaled both alike
        down, across = down.fillna(across).fillna(1.0), across.fillna(down).fillna(1.0)
        square = np.isclose(down, across, rtol=_SQUARE, atol=0)
        spacing = spacing.fillna((of_source * (down + across) / 2).where(square))
    rest["meta_pixel_spacing_mm"] = spacing
    return pd.concat([rest.assign(**sizes), table[labels]], axis=1)


def _read_json(file: Path) -> dict[str, Any] | None:
    try:
        data: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return data


def write_synced(file: Path, text: str) -> None:
    """Write a text file, whole and on disk or not at all."""
    partial = file.with_name(f"{file.name}.new")
    partial.write_text(text, encoding="utf-8")
    sync(partial)
    partial.replace(file)


def sync(path: Path) -> None:
    """Bring a file or folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)
