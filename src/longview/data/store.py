"""The store: a data set's images, resized once to one size, packed for random reading, with their manifest.

    store.json         what it holds (:class:`StoreInfo`); written last, so a folder without it is no store
    manifest.parquet   one row per image that could be read
    images.npy         (rows, S, S) uint8, read through a memory map; or
    images.bin         one grey JPEG after another, for large images on small disks
    rows.npy           (manifest rows,) int64: manifest row -> row of images.npy (files that could not be read
                       leave holes, which take no room on disk); or
    offsets.npy        (manifest rows, 2) int64: manifest row -> first byte and length in images.bin
    rejected.csv       path and reason of each file that could not be read

`longview prepare` makes one under another name and moves it into place when it is whole.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self

import cv2
import numpy as np
import numpy.typing as npt

from longview import InputError
from longview.data.manifest import Manifest

Packing = Literal["npy", "jpeg"]
"""`npy`: plain pixels, the fastest to read; `jpeg`: about a tenth of the room, a decode per image."""

FORMAT_VERSION = 1
"""Raised when a store that this version writes could be misread by an older one."""

INFO_FILE, MANIFEST_FILE, REJECTED_FILE = "store.json", "manifest.parquet", "rejected.csv"
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

    def write(self, folder: Path) -> None:
        """Write `store.json` into a folder that is being made."""
        (folder / INFO_FILE).write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")

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
        if set(data) != names:
            raise InputError(f"{file} is damaged: its keys differ by {', '.join(sorted(set(data) ^ names))}")
        return cls(**data)


def partial_folder(output: Path) -> Path:
    """Where the store `output` is built before it is moved into place."""
    return output.with_name(f".{output.name}.partial")


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


class Store:
    """A finished store, opened for reading; opening reads no pixels and no rows of the manifest.

    It may be handed to worker processes: what is pickled is the path, and each opens its own memory map of
    the same pages.

    Args:
        path: The folder that `prepare` wrote.

    Raises:
        InputError: Where there is no store, it is only half made, or a file has the wrong size.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.info = StoreInfo.read(self.path)
        self._index: npt.NDArray[np.int64] = self._load(INDEX_FILE[self.info.packing], "r")
        self._pixels: npt.NDArray[np.uint8] = (
            self._load(IMAGES_FILE["npy"], "r") if self.info.packing == "npy" else self._open_blob()
        )
        self._check()

    @staticmethod
    def is_store(path: str | Path) -> bool:
        """Whether there is a finished store at `path` (it may still be damaged: opening tells)."""
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
            raise self._damaged(MANIFEST_FILE, f"{len(manifest)} rows, {INFO_FILE} says {len(self)}")
        return manifest

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
        return InputError(f"{self.path / name} is damaged: {what}; prepare it again with --overwrite")

    def _load(self, name: str, mode: Literal["r"]) -> npt.NDArray[Any]:
        """A .npy file as a plain array over its memory map (indexing a memmap costs several times more)."""
        file = self.path / name
        if not file.is_file():
            raise self._damaged(name, "it is missing")
        try:
            return np.asarray(np.load(file, mmap_mode=mode))
        except (ValueError, EOFError, OSError) as error:  # a header that is none, or more rows than bytes
            raise self._damaged(name, str(error)) from error

    def _open_blob(self) -> npt.NDArray[np.uint8]:
        file = self.path / IMAGES_FILE["jpeg"]
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
