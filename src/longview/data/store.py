"""The store: a data set's images, resized once to one size, packed for random reading, with their manifest.

    store.json         what it holds (:class:`StoreInfo`); written last, so a folder without it is no store
    manifest.parquet   one row per image that could be read
    images.npy         (rows, S, S) uint8, read through a memory map; or
    images.bin         one grey JPEG after another, for large images on small disks
    rows.npy           (manifest rows,) int64: manifest row -> row of images.npy (files that could not be read
                       leave holes, which take no room on disk); or
    offsets.npy        (manifest rows, 2) int64: manifest row -> first byte and length in images.bin
    rejected.csv       path and reason of each file that could not be read
    codes.parquet      what the source's tables say before any policy, where they say more than present and absent
    boxes.parquet      boxes of findings, where the source has any

`longview prepare` makes one under another name and moves it into place when it is whole. A store may borrow its
images: `longview pseudo` writes other labels for the films of another store, whose files it reads, and copies none.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal, Self

import cv2
import numpy as np
import numpy.typing as npt
import pandas as pd

from longview import InputError
from longview.data.images import Resize
from longview.data.manifest import Manifest
from longview.data.room import bytes_needed, check_room, existing_folder, folder_bytes, human_bytes

__all__ = ["bytes_needed", "check_room", "existing_folder", "folder_bytes", "human_bytes"]  # for those who size a store

logger = logging.getLogger(__name__)

Packing = Literal["npy", "jpeg"]
"""`npy`: plain pixels, the fastest to read; `jpeg`: about a tenth of the room, a decode per image."""

FORMAT_VERSION = 1
"""Raised when a store that this version writes could be misread by an older one."""

INFO_FILE, MANIFEST_FILE, REJECTED_FILE = "store.json", "manifest.parquet", "rejected.csv"
CODES_FILE, BOXES_FILE = "codes.parquet", "boxes.parquet"
IMAGES_FILE: dict[Packing, str] = {"npy": "images.npy", "jpeg": "images.bin"}
INDEX_FILE: dict[Packing, str] = {"npy": "rows.npy", "jpeg": "offsets.npy"}


@dataclass(frozen=True)
class StoreInfo:
    """What a store says about itself, in `store.json`.

    Args:
        format_version: Layout of the folder.
        size: Side of the square images in pixels.
        resize: How a film became a square: squash, letterbox or crop.
        packing: npy or jpeg.
        source: Name of the source (`nih`), or several joined by `+`.
        root: Folder that the raw files were read from.
        labels: Label columns of the manifest, in order.
        images: Rows of the manifest.
        rejected: Files that could not be read.
        settings: Everything that decides the content, to tell whether it would come out the same again.
        content_hash: Of the manifest and every pixel; equal for equal stores, wherever they were made.
        longview_version: Version that wrote it.
        borrowed: Where the images are another store's: its `path`, from this folder, and its `content_hash`.
    """

    format_version: int
    size: int
    resize: str
    packing: Packing
    source: str
    root: str
    labels: list[str]
    images: int
    rejected: int
    settings: dict[str, Any]
    content_hash: str
    longview_version: str
    borrowed: dict[str, str] | None = None

    def write(self, folder: Path) -> None:
        """Write `store.json` into a folder that is being made."""
        data = asdict(self)
        if self.borrowed is None:
            del data["borrowed"]
        (folder / INFO_FILE).write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> StoreInfo:
        """Read `store.json`.

        Raises:
            InputError: Where the folder is no store, is only half made, or was written by a newer version.
        """
        file = folder / INFO_FILE
        if not Store.is_store(folder):
            raise InputError(f"{folder} {_why_no_store(folder)}")
        try:
            data = json.loads(file.read_text(encoding="utf-8"))
            version = data["format_version"]
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{file} is damaged ({error}); prepare the store again with --overwrite") from error
        if version != FORMAT_VERSION:
            raise InputError(
                f"{file} has store format {version}, this version of longview reads {FORMAT_VERSION}; "
                f"prepare the store again, or use the longview that wrote it ({data.get('longview_version')})"
            )
        names = {field.name for field in fields(cls)}
        if set(data) | {"borrowed"} != names:
            differing = sorted((set(data) | {"borrowed"}) ^ names)
            raise InputError(f"{file} is damaged: its keys differ by {', '.join(differing)}")
        return cls(**data)


LOCK_FILE = "lock"
"""In the folder of a store under construction: held by the process that builds it."""


def partial_folder(output: Path) -> Path:
    """Where the store `output` is built before it is moved into place."""
    return output.with_name(f".{output.name}.partial")


def replaced_folder(output: Path) -> Path:
    """Where the store that is being replaced stands between two renames: the old one aside, the new one in."""
    return output.with_name(f".{output.name}.old")


def recover(output: Path) -> None:
    """Put the old store back where a kill between those two renames left nothing under its name.

    Nothing is done while a process that holds the lock is about to put the new one there.
    """
    if not output.name:
        return
    old = replaced_folder(output)
    # locked by the process that replaces it, put back by another, a read-only disk, or a path that is none
    with suppress(OSError):
        if output.exists() or not (old / INFO_FILE).is_file():
            return
        lock = os.open(partial_folder(output) / LOCK_FILE, os.O_RDWR) if partial_folder(output).is_dir() else None
        try:
            if lock is not None:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            old.rename(output)
            logger.warning("%s: replacing it was cut short; the old one is back in its place", output)
        finally:
            if lock is not None:
                os.close(lock)


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
    """Everything that decides what a store will hold: equal settings, but for the options, equal store.

    Args:
        manifest: All images; its rows count by their hash, so that another table or split is another store.
        root: Folder of the raw files.
        size: Side in pixels.
        resize: How a film becomes a square.
        packing: npy or jpeg.
        jpeg_quality: 1 to 100; counts only where the packing is jpeg.
        options: What the manifest was made with (seed, fractions, label set): no part of the comparison, but named
            where manifests differ.
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
    """`size 512, now 384`, for messages; empty where both make the same store.

    Options are named where the manifests differ, and only there: by themselves they decide nothing.
    """
    flat = [dict(item) for item in (before, now)]
    options = [item.pop("options", None) or {} for item in flat]
    if before.get("manifest") != now.get("manifest"):
        flat = [item | option for item, option in zip(flat, options, strict=True)]
    keys = [key for key in flat[1] | flat[0] if flat[0].get(key) != flat[1].get(key)]
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


def content_hash(table: pd.DataFrame, digests: Iterable[str]) -> str:
    """Hash of a store's manifest and images, put together from the digests that the workers made of each."""
    total = blake2b(table_hash(table).encode(), digest_size=16)
    for digest in digests:
        total.update(bytes.fromhex(digest))
    return total.hexdigest()


def _why_no_store(folder: Path) -> str:
    again = "run the same `prepare` command again: it goes on where it stopped"
    if folder.name.startswith(".") and folder.name.endswith(".partial"):
        return f"is a store that is only half made; {again}"
    if not folder.exists():
        half = partial_folder(folder).is_dir()
        return f"is only half made; {again}" if half else "does not exist; make it with `prepare`"
    if not folder.is_dir():
        return "is not a folder; a store is the folder that `prepare` wrote"
    return f"is not a store (it has no {INFO_FILE}); give the folder that `prepare` wrote"


def _lender(path: Path, borrowed: Mapping[str, str]) -> Path:
    """The folder that holds the images of a store that borrows them.

    Raises:
        InputError: Where it is gone, or holds other images by now.
    """
    folder = Path(os.path.normpath(path.resolve() / borrowed["path"]))
    remedy = f"put it back, or write {path} again with the command that made it (pseudo --overwrite true)"
    if not Store.is_store(folder):
        raise InputError(f"{path} borrows its images from the store {folder}, which is not there; {remedy}")
    found = StoreInfo.read(folder).content_hash
    if found != borrowed["content_hash"]:
        raise InputError(
            f"{path} borrows its images from the store {folder}, which was made anew since (content {found}, not "
            f"{borrowed['content_hash']}); {remedy}"
        )
    return folder


class Store:
    """A finished store, opened for reading; opening reads no pixels and no rows of the manifest.

    It may be handed to worker processes: what is pickled is the path, and each opens its own memory map of
    the same pages.

    Args:
        path: The folder that `prepare` wrote.

    Raises:
        InputError: Where there is no store, it is only half made, a file has the wrong size, or the store whose images
            it borrows is gone or another one.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.info = StoreInfo.read(self.path)
        self.images_folder = self.path if self.info.borrowed is None else _lender(self.path, self.info.borrowed)
        """Where the images are: in this store, or in the one that it borrows them from."""
        self._index: npt.NDArray[np.int64] = self._load(INDEX_FILE[self.info.packing], "r")
        self._pixels: npt.NDArray[np.uint8] = (
            self._load(IMAGES_FILE["npy"], "r") if self.info.packing == "npy" else self._open_blob()
        )
        self._check()

    @staticmethod
    def is_store(path: str | Path) -> bool:
        """Whether there is a finished store at `path` (it may still be damaged: opening tells).

        A store that was being replaced when the process was killed is put back first; see :func:`recover`.
        """
        recover(Path(path))
        return (Path(path) / INFO_FILE).is_file() and not Path(path).name.endswith(".partial")

    def __len__(self) -> int:
        return self.info.images

    def __repr__(self) -> str:
        return f"Store({str(self.path)!r}, {len(self)} images of {self.info.size} px, {self.info.source})"

    def __reduce__(self) -> tuple[type[Self], tuple[Path]]:
        return type(self), (self.path,)

    @cached_property
    def manifest(self) -> Manifest:
        """The manifest, read and checked on first use.

        Raises:
            InputError: Where it breaks a rule or has another number of rows than the store.
        """
        manifest = Manifest.read(self.path / MANIFEST_FILE)
        if len(manifest) != len(self):
            file = self.path / MANIFEST_FILE
            raise InputError(
                f"{file} is damaged: {len(manifest)} rows, {INFO_FILE} says {len(self)}; prepare it again with "
                f"--overwrite"
            )
        return manifest

    def codes(self) -> pd.DataFrame | None:
        """What the source's tables say before any policy: `source`, `image_id`, an int8 column per label; else None.

        Raises:
            InputError: Where the file is damaged.
        """
        return self._beside(CODES_FILE)

    def boxes(self) -> pd.DataFrame | None:
        """Boxes of findings, a row each, in pixels of the raw film; None where the source has none.

        Raises:
            InputError: Where the file is damaged.
        """
        return self._beside(BOXES_FILE)

    def _beside(self, name: str) -> pd.DataFrame | None:
        file = self.path / name
        if not file.is_file():
            return None
        try:
            return pd.read_parquet(file)
        except (OSError, ValueError) as error:  # pyarrow's errors are among these
            raise InputError(f"{file} is damaged ({error}); prepare the store again with --overwrite") from error

    def image(self, row: int) -> npt.NDArray[np.uint8]:
        """The image of a manifest row, (S, S) uint8; read-only, and no copy, where the packing is npy."""
        if self.info.packing == "npy":
            image: npt.NDArray[np.uint8] = self._pixels[self._index[row]]
            return image
        start, length = self._index[row]
        decoded = cv2.imdecode(self._pixels[start : start + length], cv2.IMREAD_GRAYSCALE)
        if decoded is None or decoded.shape != (self.info.size, self.info.size):
            raise self._damaged(IMAGES_FILE["jpeg"], f"row {row} does not decode")
        return np.asarray(decoded, np.uint8)

    def _damaged(self, name: str, what: str) -> InputError:
        return InputError(f"{self.images_folder / name} is damaged: {what}; prepare it again with --overwrite")

    def _load(self, name: str, mode: Literal["r"]) -> npt.NDArray[Any]:
        """A .npy file as a plain array over its memory map (indexing a memmap costs several times more)."""
        file = self.images_folder / name
        if not file.is_file():
            raise self._damaged(name, "it is missing")
        try:
            return np.asarray(np.load(file, mmap_mode=mode))
        except (ValueError, EOFError, OSError) as error:  # a header that is none, or more rows than bytes
            raise self._damaged(name, str(error)) from error

    def _open_blob(self) -> npt.NDArray[np.uint8]:
        file = self.images_folder / IMAGES_FILE["jpeg"]
        if not file.is_file() or file.stat().st_size == 0:
            raise self._damaged(file.name, "it is missing or empty")
        return np.asarray(np.memmap(file, np.uint8, mode="r"))

    def _check(self) -> None:
        """Sizes of all files against each other: damage must not be found in the middle of training."""
        name = IMAGES_FILE[self.info.packing]
        size, index = self.info.size, self._index
        wanted = (len(self),) if self.info.packing == "npy" else (len(self), 2)
        if index.dtype != np.int64 or index.shape != wanted or len(index) == 0 or index.min() < 0:
            raise self._damaged(INDEX_FILE[self.info.packing], f"shape {index.shape}, not {wanted}")
        if self.info.packing == "npy":
            if self._pixels.dtype != np.uint8 or self._pixels.shape[1:] != (size, size):
                found = f"{self._pixels.dtype} {self._pixels.shape}"
                raise self._damaged(name, f"{found}, not uint8 (rows, {size}, {size})")
            end = int(index.max()) + 1
        else:
            end = int(index.sum(axis=1).max())
        if end > len(self._pixels):
            raise self._damaged(name, f"its end is missing ({len(self._pixels)} of {end} rows or bytes)")
