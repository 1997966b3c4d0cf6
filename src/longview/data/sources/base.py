"""What all sources share: options, tables as text, views, findings, files that are not there."""

from __future__ import annotations

import logging
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd

from longview import InputError
from longview.data.manifest import ID_COLUMNS, Manifest, read_csv
from longview.labels import LabelSet, OnMismatch

logger = logging.getLogger(__name__)

_SHOWN = 5  # ids or paths named in a message before it says how many more there are
_LATERAL = {"LATERAL", "LL", "RL", "L", "LAT", "XTABLE LATERAL", "SWIMMERS"}
_FRONTAL = {
    "POSTERO ANTERIOR": "PA",
    "POSTEROANTERIOR": "PA",
    "ANTERO POSTERIOR": "AP",
    "ANTEROPOSTERIOR": "AP",
}


CODES = {"present": 1, "absent": 0, "uncertain": -1, "blank": -2, "not in source": -3}
"""What a source may say of a label: `blank` is a label of the source that a report does not mention."""

BOX_COLUMNS = ("image_id", "label", "x", "y", "width", "height", "frame_width", "frame_height", "reader")
"""A box: its label under the source's own name, left, top and size in pixels of a frame (NaN: that of the image file),
and who drew it ("" where that is not told)."""


class Source(ABC):
    """A raw data set on disk that can be read into a manifest.

    A subclass implements :meth:`rows`; ids, the check of files and the report of what was left out are here.
    Constructors touch no disk.

    Args:
        root: Folder of the raw data; it is only ever read.
        labels: Label set to align the source's labels to; None: :attr:`default_labels`.
    """

    name: ClassVar[str]
    """Name on the command line, in the manifest's `source` column and in the aliases of label sets."""

    default_labels: ClassVar[str | None] = None
    """Label set (file name in `configs/labels`) for a reader that was given none."""

    assign: ClassVar[bool] = True
    """False where rows without an official split must stay so (nothing to train on)."""

    def __init__(self, root: str | Path, labels: LabelSet | None = None) -> None:
        self.root = Path(root)
        self._labels = labels
        self.report: dict[str, list[str]] = {}
        """After :meth:`read`: what was left out or is worth knowing -> the ids, paths or names concerned."""
        self.codes: pd.DataFrame | None = None
        """What the source's tables say, before any policy: int8 values of :data:`CODES`, a row per row of the manifest
        and a column per label. :meth:`rows` sets it, by its own index, where blank and uncertain are not the same."""
        self.boxes: pd.DataFrame | None = None
        """Boxes of findings, where the source has any: the columns of :data:`BOX_COLUMNS`. :meth:`rows` sets it."""

    @property
    def labels(self) -> LabelSet | None:
        """The label set that was given, else the source's own; None for a source that has none."""
        if self._labels is None and self.default_labels is not None:
            self._labels = LabelSet.load(self.default_labels)
        return self._labels

    def require_labels(self) -> LabelSet:
        """:attr:`labels`, for a source that cannot do without.

        Raises:
            InputError: Where there are none.
        """
        if self.labels is None:
            raise InputError(f"source {self.name!r} needs a label set; give --labels")
        return self.labels

    @abstractmethod
    def rows(self) -> tuple[pd.DataFrame, str]:
        """Read the source's tables.

        Returns:
            One row per image that the tables name: the columns of :data:`ID_COLUMNS` but `source` (paths
            relative to the root, with `/`), `meta_` columns, and one float column per label. And the file or
            folder that they come from, for messages.
        """

    def read(self) -> Manifest:
        """Read the manifest: all images that the tables name and that are there.

        What was left out is logged as a warning and kept in :attr:`report`.

        Raises:
            InputError: Where the root or a table is missing, a table breaks a rule, or no image is there.
        """
        if not self.root.is_dir():
            raise InputError(
                f"root {self.root} of source {self.name!r} is not a folder; give the folder of the raw data"
            )
        self.report = {}
        table, origin = self.rows()
        there = self._present(table, origin)
        table = table[there]
        if self.codes is not None:
            self.codes = self.codes[there].reset_index(drop=True)
        if self.boxes is not None:
            kept = self.boxes["image_id"].isin(table["image_id"])
            self.boxes = self.boxes.loc[kept, list(BOX_COLUMNS)].reset_index(drop=True)
        ids = table.reindex(columns=[column for column in ID_COLUMNS if column != "source"]).astype("str")
        ids.insert(0, "source", pd.Series(self.name, index=table.index, dtype="str"))
        rest = table.drop(columns=ids.columns, errors="ignore")
        return Manifest(pd.concat([ids, rest], axis=1).reset_index(drop=True), origin=origin)

    def note(self, what: str, names: Iterable[object]) -> None:
        """Log and keep what was left out or is odd, and the images, rows or columns concerned, if any."""
        found = [str(name) for name in names]
        if found:
            logger.warning("%s: %s: %d (%s)", self.name, what, len(found), first(found))
            self.report[what] = found

    def _present(self, table: pd.DataFrame, origin: str) -> pd.Series[bool]:
        """Which images are there; says which are not, and which splits they leave (nearly) empty."""
        paths = table["path"]
        there = files_present(self.root, paths)
        missing = paths[~there]
        windows = missing[missing.str.contains("\\", regex=False) & (os.sep == "/")]
        if not there.any():
            tried = first([str(self.root / path) for path in paths])
            remedy = (
                r"Its paths have Windows' \; write them with /" if len(windows) else f"Is {self.root} the right --root?"
            )
            raise InputError(
                f"none of the {len(paths)} images that {origin} names is there; looked for {tried}. {remedy}"
            )
        self.note("left out, image file not there", missing)
        self.note(r"of these, paths with Windows' \; write them with /", windows)
        found = there.groupby(table["split"], sort=False).agg(["sum", "size"])
        scant = found[found["sum"] * 2 < found["size"]]
        names = {"none": "without a split"}
        lines = [f"{names.get(split, split)}: {here} of {count} there" for split, here, count in scant.itertuples()]
        self.note("splits that lack most of their image files", lines)
        return there

    def find_table(self, names: Sequence[str], folders: Sequence[str] = ("",)) -> Path | None:
        """The first of `names`, as it is or gzipped, that is a file in one of these folders of the root."""
        candidates = (
            self.root / folder / f"{name}{end}" for folder in folders for name in names for end in ("", ".gz")
        )
        return next((file for file in candidates if file.is_file()), None)

    def require_table(self, names: Sequence[str], folders: Sequence[str] = ("",)) -> Path:
        """:meth:`find_table`, where there must be one.

        Raises:
            InputError: Where there is none; the message says which names were looked for.
        """
        file = self.find_table(names, folders)
        if file is None:
            places = " or ".join(str(self.root / folder) for folder in folders)
            raise InputError(f"source {self.name!r} found no table in {places}; looked for {', '.join(names)}")
        return file

    def finding_labels(
        self,
        cells: pd.Series[str],
        split: Callable[[str], list[str] | None],
        known: Sequence[str],
        unknown: OnMismatch,
        origin: str,
    ) -> pd.DataFrame:
        """Turn a column of listed findings into label columns.

        A label is 1 where one of the row's findings, or a descendant in the set's hierarchy, stands for it,
        and 0 in the other rows. Labels of the set that no finding of this source can stand for get no column:
        the source says nothing about them.

        Args:
            cells: One text of findings per row.
            split: Text -> its findings, [] for a row without any, None where the row says nothing (NaN).
            known: All codes that this source uses, so that a label which no row has still gets its zeros.
            unknown: What to do about a finding that stands for no label of the set.
            origin: File name for the message.

        Raises:
            InputError: For a finding outside the label set, unless ignored, or none inside.
        """
        labels = self.require_labels()
        codes, texts = pd.factorize(cells)  # each distinct text is taken apart once
        lists = [split(str(text)) for text in texts]
        findings = {finding for found in lists for finding in found or []}
        # a code may be a path, most general first: `Pneumonia/Viral/COVID-19`
        meanings = {code: _meanings(code, labels, self.name) for code in sorted({*known, *findings})}
        strange = sorted(code for code in findings if not meanings[code] and code not in _NOTHING)
        if strange and unknown == "error":
            raise InputError(
                f"{origin}: findings that are no label of set {labels.name!r}: {', '.join(strange)}; labels "
                f"are {', '.join(labels.names)}. Correct the table, add aliases for {self.name!r} to the "
                f"label set, or leave those findings out with --unknown ignore"
            )
        self.note(f"findings that are no label of set {labels.name!r}, left out", strange)
        columns = [name for name in labels.names if any(name in found for found in meanings.values())]
        if not columns:
            raise InputError(f"{origin}: no finding of source {self.name!r} is a label of set {labels.name!r}")
        values = np.zeros((len(texts), len(columns)), np.float32)
        for row, found in zip(values, lists, strict=True):
            present = {name for finding in found or [] for name in meanings[finding]}
            row[:] = np.nan if found is None else [name in present for name in columns]
        return pd.DataFrame(values[codes], columns=columns, index=cells.index)


_NOTHING = {"No Finding"}  # says that no label is there, and is itself a label only where the set has it


def _meanings(code: str, labels: LabelSet, source: str) -> set[str]:
    """The labels that a finding of a source stands for: its own, those of its path, and their ancestors."""
    parts = (code, *code.split("/"))
    names = {name for part in parts if (name := labels.canonical(part, source)) is not None}
    names |= {above for name in names for above in labels.ancestors(name)}
    return names & set(labels.names)  # not the unseen ones: nothing may train on them


def first(names: Sequence[object]) -> str:
    """The first few names for a message, and how many more there are."""
    shown = ", ".join(map(str, names[:_SHOWN]))
    return f"{shown} and {len(names) - _SHOWN} more" if len(names) > _SHOWN else shown


def view_of(code: str) -> str:
    """The view that a ViewPosition code means, one of :data:`longview.VIEWS`.

    Frontal views keep their direction whatever else the code says (`AP Supine`, `AP AXIAL`, `PA LLD`); `L`,
    `LL`, `LATERAL`, `XTABLE LATERAL` and `SWIMMERS` are lateral; obliques (`LAO`, `RAO`, `LPO`) and blanks
    are unknown.
    """
    text = re.sub(r"[\s_\-]+", " ", code).strip().upper()
    if text in _LATERAL:
        return "lateral"
    if text in _FRONTAL:
        return _FRONTAL[text]
    word = text.partition(" ")[0]
    return {"PA": "PA", "AP": "AP", "APS": "AP"}.get(word, "unknown")


def views_of(codes: pd.Series[str]) -> pd.Series[str]:
    """:func:`view_of` for a column."""
    return codes.map({code: view_of(code) for code in codes.unique()}).astype("str")


def read_text(file: Path, required: Sequence[str]) -> pd.DataFrame:
    """Read a CSV with every cell as text, so that no id is ever taken for a number; blank cells are "".

    Raises:
        InputError: Where the file is unreadable, has no rows, or lacks a required column.
    """
    table = read_csv(file, dtype="str", keep_default_na=False)
    absent = [column for column in required if column not in table.columns]
    if absent:
        raise InputError(f"{file} lacks the columns {', '.join(absent)}; it has {', '.join(map(str, table.columns))}")
    if table.empty:
        raise InputError(f"{file} has no rows")
    return table


def check_filled(values: pd.Series[str], file: Path) -> None:
    """Refuse a table (as :func:`read_text` gives it, whole or in part) with blank cells in a column that needs none.

    Raises:
        InputError: Naming the file, the column and the first line.
    """
    blank = values[values.str.strip() == ""]
    if len(blank):
        raise InputError(
            f"{file}: column {values.name!r} is empty in {len(blank)} rows, first line {blank.index[0] + 2}; fill it "
            f"in, or remove the rows"
        )


def check_unique(values: pd.Series[str], file: Path) -> None:
    """Refuse a table that names an image twice.

    Raises:
        InputError: Naming the file, the column and the first such ids.
    """
    twice = values[values.duplicated()].unique()
    if len(twice):
        raise InputError(
            f"{file}: {values.name!r} must be unique, but {len(twice)} values stand twice: "
            f"{first(list(twice))}; remove the repeated rows"
        )


def files_present(root: Path, paths: pd.Series[str]) -> pd.Series[bool]:
    """Which of the relative paths exist, by listing each folder that they name once (no call per file)."""
    listings: dict[str, set[str]] = {}
    there: list[bool] = []
    for path in paths.tolist():
        folder, _, name = path.rpartition("/")
        if folder not in listings:
            listings[folder] = _names(os.path.join(root, folder))  # noqa: PTH118 - a Path per study costs seconds
        there.append(name in listings[folder])
    return pd.Series(there, index=paths.index, dtype="bool")


def _names(folder: str) -> set[str]:
    try:
        with os.scandir(folder) as entries:
            return {entry.name for entry in entries}
    except (FileNotFoundError, NotADirectoryError):
        return set()
