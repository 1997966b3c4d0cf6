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
from hashlib import blake2b
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd

from longview import InputError, __version__
from longview.data.images import Resize
from longview.data.manifest import Manifest, label_columns
from longview.data.packing import Outcome, PackSettings
from longview.data.store import (
    FORMAT_VERSION,
    IMAGES_FILE,
    INDEX_FILE,
    MANIFEST_FILE,
    REJECTED_FILE,
    Packing,
    StoreInfo,
    partial_folder,
)

_SETTINGS, _JOURNAL, _LOCK, _RESERVE = "settings.json", "journal.jsonl", "lock", "reserve"
_LINE_BYTES = 160  # of a journal line at most: room for all of them is reserved, for the day that the disk is full
_SECONDS = 2.0  # between two syncs to disk: what a kill costs at most
_SHARE = 10  # syncing may take a tenth of the time, on slow disks too


class PartialStore:
    """The store `output` while it is being built; a context that holds a lock on the folder.

    Args:
        output: Where the store will be.
        manifest: All images, readable or not.
        settings: What decides the content; see :func:`build_settings`.
        restart: Throw away what was built with other settings, instead of an error.

    Raises:
        InputError: Where another process builds this store, or a half-made one has other settings.
    """

    def __init__(self, output: Path, manifest: Manifest, settings: Mapping[str, Any], restart: bool) -> None:
        self.output, self.folder = output, partial_folder(output)
        self.manifest, self.settings = manifest, dict(settings)
        self.done: dict[int, Outcome] = {}
        self.rejected: dict[int, str] = {}
        self._unsaved: list[Outcome] = []
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = os.open(self.folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._lock)
            raise InputError(f"another process is preparing {output} at this moment") from error
        try:
            self._resume_or_begin(restart)
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

    def _resume_or_begin(self, restart: bool) -> None:
        file = self.folder / _SETTINGS
        before = _read_json(file)
        if before is not None and before != self.settings:
            if not restart and _has_lines(self.folder / _JOURNAL):
                differing = describe_difference(before, self.settings)
                raise InputError(
                    f"{self.folder} is half made with other settings ({differing}); go on "
                    f"with those, or begin anew with --overwrite"
                )
            before = None
        images = self.folder / IMAGES_FILE[self.packing]
        if before is None or not images.is_file():
            for leftover in self.folder.iterdir():
                if leftover.name != _LOCK:
                    leftover.unlink()
            self._create_images(images)
            _write_synced(file, json.dumps(self.settings, indent=2))
        else:
            self._read_journal()
        (self.folder / _RESERVE).write_bytes(bytes(len(self.jobs()) * _LINE_BYTES))

    def _create_images(self, file: Path) -> None:
        """An images file of its final length; what is not written yet takes no room."""
        with file.open("wb") as stream:
            if self.packing == "npy":
                size = self.settings["size"]
                header = {"descr": "|u1", "fortran_order": False, "shape": (len(self.manifest), size, size)}
                np.lib.format.write_array_header_1_0(stream, header)
                stream.truncate(stream.tell() + len(self.manifest) * size * size)

    def _read_journal(self) -> None:
        """Read what is done; a last line that was cut by a kill is dropped, here and in the file."""
        file = self.folder / _JOURNAL
        if not file.is_file():
            return
        content = file.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):
            os.truncate(file, len(whole))
        for line in whole.splitlines():
            outcome = Outcome(*json.loads(line))
            self.done[outcome.row] = outcome

    def jobs(self) -> list[tuple[int, str]]:
        """Rows that are still to be packed, with their paths; files rejected before are tried again."""
        return [(row, path) for row, path in enumerate(self.manifest.table["path"]) if row not in self.done]

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

    def finish(self, root: Path) -> None:
        """Write manifest, index and `store.json`, and move the folder into place.

        What stood there before is moved aside first and removed last, so that one of both is always there.
        """
        self.save()
        rows = np.array(sorted(self.done), np.int64)
        outcomes = [self.done[int(row)] for row in rows]
        table = _with_meta(self.manifest.table.iloc[rows].reset_index(drop=True), outcomes)
        manifest = Manifest(table, str(self.folder / MANIFEST_FILE))
        manifest.write(self.folder / MANIFEST_FILE)
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
            content_hash=content_hash(table, outcomes),
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
            _sync(file)
        _sync(self.folder)
        old = self.output.with_name(f".{self.output.name}.old")
        _remove(old)
        if self.output.is_dir() and any(self.output.iterdir()):
            self.output.replace(old)
        self.folder.replace(self.output)
        _sync(self.output.parent)
        for name in (_SETTINGS, _JOURNAL, _LOCK, _RESERVE):  # only now: with them a kill before the move costs nothing
            (self.output / name).unlink(missing_ok=True)
        _remove(old)


def bytes_done(output: Path) -> int:
    """Bytes on disk that a half-made store takes already."""
    folder = partial_folder(output)
    return sum(file.stat().st_blocks * 512 for file in folder.iterdir()) if folder.is_dir() else 0  # POSIX: of 512


def build_settings(
    manifest: Manifest,
    root: Path,
    *,
    size: int,
    resize: Resize,
    packing: Packing,
    jpeg_quality: int,
    options: Mapping[str, Any],
) -> dict[str, Any]:
    """Everything that decides what a store will hold: equal settings, equal store.

    Args:
        manifest: All images; its rows count by their hash, so that another table or split is another store.
        root: Folder of the raw files.
        size: Side in pixels.
        resize: How a film becomes a square.
        packing: npy or jpeg.
        jpeg_quality: 1 to 100; counts only where the packing is jpeg.
        options: What the manifest was made with (seed, fractions, label set), to say what differs.
    """
    settings = {
        "format_version": FORMAT_VERSION,
        "root": str(root.resolve()),
        "size": size,
        "resize": resize,
        "packing": packing,
        "jpeg_quality": jpeg_quality if packing == "jpeg" else None,
        "options": dict(options),
        "images": len(manifest),
        "manifest": table_hash(manifest.table),
    }
    result: dict[str, Any] = json.loads(json.dumps(settings, default=str))  # as it will be read back
    return result


def describe_difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """`size 512, now 384`, for messages."""
    flat = [dict(item) | dict(item.get("options") or {}) for item in (before, now)]
    keys = [key for key in flat[1] | flat[0] if key != "options" and flat[0].get(key) != flat[1].get(key)]
    if len(keys) > 1 and "manifest" in keys:  # it follows from the others; alone, it says that the tables differ
        keys.remove("manifest")
    return ", ".join(f"{key} {flat[0].get(key)}, now {flat[1].get(key)}" for key in keys)


def table_hash(table: pd.DataFrame) -> str:
    """Hash of a table's column names and values; NaN equals NaN, integers equal the same floats."""
    total = blake2b(digest_size=16)
    for name in table.columns:
        total.update(f"\x1e{name}\x1f".encode())
        if pd.api.types.is_numeric_dtype(table[name]):
            values = table[name].to_numpy(np.float64, na_value=np.nan) + 0.0  # -0 becomes 0
            values[np.isnan(values)] = np.nan  # one NaN, whatever its bits
            total.update(values.tobytes())
        else:
            total.update("\x1f".join(table[name].astype("str")).encode())
    return total.hexdigest()


def content_hash(table: pd.DataFrame, outcomes: Iterable[Outcome]) -> str:
    """Hash of a store's manifest and images, put together from the digests that the workers made of each."""
    total = blake2b(table_hash(table).encode(), digest_size=16)
    for outcome in outcomes:
        total.update(bytes.fromhex(outcome.digest))
    return total.hexdigest()


def _with_meta(table: pd.DataFrame, outcomes: list[Outcome]) -> pd.DataFrame:
    """Size in pixels and pixel spacing of the files as they were read.

    Where a file has no spacing, the source's is kept. It speaks of the film whose width the source gives
    (NIH: the detector's, not that of the 1024 px PNG), so it is scaled to the file's pixels.
    """
    labels = label_columns(table.columns)
    rest = table.drop(columns=labels)
    width = np.array([outcome.width for outcome in outcomes], np.int64)
    spacing = pd.Series([outcome.spacing_mm for outcome in outcomes], index=rest.index, dtype=np.float64)
    if "meta_pixel_spacing_mm" in rest.columns:
        of_source = rest["meta_pixel_spacing_mm"].astype(np.float64)
        if "meta_width" in rest.columns:
            of_source *= (rest["meta_width"].astype(np.float64) / width).fillna(1.0)
        spacing = spacing.fillna(of_source)
    rest["meta_pixel_spacing_mm"] = spacing
    rest["meta_height"] = np.array([outcome.height for outcome in outcomes], np.int64)
    rest["meta_width"] = width
    return pd.concat([rest, table[labels]], axis=1)


def _has_lines(journal: Path) -> bool:
    return journal.is_file() and journal.stat().st_size > 0


def _read_json(file: Path) -> dict[str, Any] | None:
    try:
        data: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return data


def _write_synced(file: Path, text: str) -> None:
    partial = file.with_name(f"{file.name}.new")
    partial.write_text(text, encoding="utf-8")
    _sync(partial)
    partial.replace(file)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(folder: Path) -> None:
    if folder.exists():
        shutil.rmtree(folder)
