"""Images that are in no store: a folder, one file, or a table with paths, read on the fly to predict on."""

from __future__ import annotations

import logging
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd

from longview import InputError
from longview.data.images import read_image, resize_image
from longview.data.manifest import Manifest, read_table
from longview.data.sources.tabular import ROLES, Folder, Table, is_image
from longview.data.transforms import Pixels, Preprocessing

logger = logging.getLogger(__name__)

_TABLES = (".csv", ".csv.gz", ".tsv", ".tsv.gz", ".parquet")


class ImageFiles:
    """Images on disk that are read when asked for, treated as a store's were when it was made.

    Args:
        path: A folder (searched with its sub-folders), an image, or a `.csv`, `.tsv` or `.parquet` table with
            a path column; its paths are absolute or relative to the table's folder. A table without a patient
            column is taken as one patient per image: nothing is split here.
        preprocessing: Size and policy of the store that the model was trained on.
        skip_unreadable: Read every file once at the start, and leave out those that cannot be read, with a
            warning that names them; else the first such file stops the run.

    Raises:
        InputError: Where there is nothing to read at `path`.
    """

    def __init__(self, path: Path, preprocessing: Preprocessing, skip_unreadable: bool = False) -> None:
        self.path, self.preprocessing = path, preprocessing
        manifest, self._root = _manifest(path)
        self.manifest = self._readable(manifest) if skip_unreadable else manifest
        self._files = self.manifest.table["path"].to_numpy(str)

    @staticmethod
    def fits(path: Path) -> bool:
        """Whether `path` is something that can be read on the fly: a folder, an image or a table."""
        return path.is_dir() or (path.is_file() and (_is_table(path) or is_image(path)))

    def __len__(self) -> int:
        """Number of images."""
        return len(self.manifest)

    def image(self, row: int) -> Pixels:
        """Read an image as (S, S) uint8, with S the size of the preprocessing.

        Raises:
            InputError: Where the file cannot be read; the message names it.
        """
        return self._read(str(self._files[row]))

    def _read(self, file: str) -> Pixels:
        size, policy = self.preprocessing.size, self.preprocessing.resize
        return resize_image(read_image(self._root / file, min_size=size).pixels, size, policy)

    def _readable(self, manifest: Manifest) -> Manifest:
        def reason(file: str) -> str | None:
            try:
                self._read(file)
            except InputError as error:
                return str(error)
            return None

        with ThreadPoolExecutor() as pool:  # decoding releases the interpreter's lock
            reasons = list(pool.map(reason, manifest.table["path"]))
        for text in filter(None, reasons):
            logger.warning("left out: %s", text)
        good = [text is None for text in reasons]
        if not any(good):
            raise InputError(f"none of the {len(good)} images of {self.path} can be read; first: {reasons[0]}")
        return Manifest(manifest.table[good].reset_index(drop=True), manifest.origin)


def _is_table(path: Path) -> bool:
    return path.name.lower().endswith(_TABLES)


def _manifest(path: Path) -> tuple[Manifest, Path]:
    """The images at `path`, and the folder that their paths are relative to."""
    if path.is_dir():
        return Folder(path).read(), path
    if _is_table(path):
        columns = None
        names = {re.sub(r"[\W_]+", "", str(name)).casefold(): str(name) for name in read_table(path).columns}
        if not names.keys() & set(ROLES["patient_id"]):
            place = next((names[name] for name in ROLES["path"] if name in names), None)
            columns = place and {"path": place, "patient_id": place}
        return Table(
            path.parent, table=path.absolute(), columns=columns or None, uncertain="ignore"
        ).read(), path.parent
    ids = dict.fromkeys(("patient_id", "study_id", "image_id"), path.stem)
    row = {"source": "folder", **ids, "view": "unknown", "path": path.name, "split": "none"}
    return Manifest(pd.DataFrame([row], dtype="str"), str(path)), path.parent
