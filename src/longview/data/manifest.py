"""The manifest: one row per image, with its ids, view, path, split and one float column per label.

A manifest is checked whenever it is read or written, so that whatever lies on disk keeps the rules: image ids
are unique, a study belongs to one patient, no patient stands in two splits, label values are NaN or in [0, 1],
and ids are text even when they look like numbers.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from longview import VIEWS, InputError

ID_COLUMNS = ("source", "patient_id", "study_id", "image_id", "view", "path", "split")
"""Text columns that every manifest has, in this order, before the labels."""

META_PREFIX = "meta_"
"""Columns that are neither ids nor labels (`meta_age`, `meta_sex`, `meta_pixel_spacing_mm`) start with this."""

SPLITS = ("train", "val", "test", "none")
"""Values of `split`; `none` is an image that was not assigned (a folder to predict on)."""

_SHOWN = 5  # ids named in an error message before it says how many more there are


@dataclass(frozen=True)
class Manifest:
    """A validated table of images.

    Args:
        table: `ID_COLUMNS` as text, any number of `meta_` columns, and one float column per label (values in
            [0, 1] or NaN). Every other column is a label.
        origin: Where the table came from, for error messages.

    Raises:
        InputError: Where the table breaks a rule; the message names the origin, the column and the first ids.
    """

    table: pd.DataFrame
    origin: str = "manifest"

    def __post_init__(self) -> None:
        validate(self.table, self.origin)

    def __len__(self) -> int:
        return len(self.table)

    @property
    def labels(self) -> list[str]:
        """Names of the label columns, in the table's order."""
        return label_columns(self.table.columns)

    def targets(self, names: Sequence[str]) -> npt.NDArray[np.float32]:
        """Values of the named labels, (rows, L) float32; NaN for a label that the manifest does not know."""
        return self.table.reindex(columns=list(names)).to_numpy(np.float32)

    @classmethod
    def read(cls, path: str | Path) -> Manifest:
        """Read and check a `.parquet` or `.csv` manifest.

        Raises:
            InputError: Where the file is missing, unreadable, empty or breaks a rule.
        """
        file = Path(path)
        if file.is_dir():
            file = file / "manifest.parquet"
        return cls(_with_types(read_table(file), str(file)), origin=str(file))

    def write(self, path: str | Path) -> None:
        """Write as `.parquet` or `.csv`, under a temporary name first, so that no half file is ever seen."""
        write_table(self.table, path)


def label_columns(columns: Sequence[str] | pd.Index[str]) -> list[str]:
    """Columns of a manifest or a prediction table that are labels: neither ids nor `meta_` columns."""
    return [column for column in columns if column not in ID_COLUMNS and not column.startswith(META_PREFIX)]


def read_table(path: str | Path) -> pd.DataFrame:
    """Read a `.csv`, `.csv.gz`, `.tsv` or `.parquet` table; columns whose name ends in `_id` are kept as text.

    Raises:
        InputError: Where the file is missing, of another kind, unreadable or without rows.
    """
    file = Path(path)
    if not file.is_file():
        raise InputError(f"{file} does not exist; give a .parquet or .csv file")
    try:
        if file.suffix == ".parquet":
            table = pd.read_parquet(file)
        elif file.name.endswith((".csv", ".csv.gz", ".tsv", ".tsv.gz")):
            separator = "\t" if ".tsv" in file.name else ","
            columns = pd.read_csv(file, nrows=0, sep=separator).columns
            texts = {name: "str" for name in columns if name in ID_COLUMNS or name.endswith("_id")}
            table = pd.read_csv(file, dtype=texts, keep_default_na=True, sep=separator, low_memory=False)
        else:
            raise InputError(f"{file} is neither .parquet, .csv nor .tsv")
    except InputError:
        raise
    except (OSError, ValueError) as error:  # pyarrow and pandas parser errors are both
        raise InputError(f"{file} cannot be read as a table: {error}") from error
    if table.empty:
        raise InputError(f"{file} has no rows")
    return table


def write_table(table: pd.DataFrame, path: str | Path) -> None:
    """Write a `.parquet` or `.csv` table under a temporary name and move it into place.

    Raises:
        InputError: For another ending.
        OSError: Where the disk is full; the temporary file is removed and what stood there before stays.
    """
    file = Path(path)
    if file.suffix not in {".parquet", ".csv"}:
        raise InputError(f"{file} must end in .parquet or .csv")
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f".{file.name}.{os.getpid()}.partial")
    try:
        if file.suffix == ".parquet":
            table.to_parquet(partial, index=False)
        else:
            table.to_csv(partial, index=False)
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)


def _with_types(table: pd.DataFrame, origin: str) -> pd.DataFrame:
    """Ids as text, labels as float32; `meta_` columns as they were read."""
    table = table.copy()
    for column in ID_COLUMNS:
        if column in table.columns:
            table[column] = table[column].astype("str")
    for column in label_columns(table.columns):
        try:
            table[column] = table[column].astype(np.float32)
        except (TypeError, ValueError) as error:
            raise InputError(
                f"{origin}: column {column!r} holds values that are not numbers ({error}); a label is 0, 1, a value "
                f"between, or empty; a column that is not a label must start with {META_PREFIX!r}"
            ) from error
    return table


def _first(ids: Sequence[object] | pd.Index[str]) -> str:
    names = [str(item) for item in ids]
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")


def validate(table: pd.DataFrame, origin: str = "manifest") -> None:
    """Check the rules of a manifest.

    Raises:
        InputError: For the first rule that is broken.
    """
    if table.empty:
        raise InputError(f"{origin} has no rows")
    absent = [column for column in ID_COLUMNS if column not in table.columns]
    if absent:
        raise InputError(f"{origin} lacks the columns {', '.join(absent)}; it has {', '.join(map(str, table.columns))}")
    _validate_ids(table, origin)
    for column, allowed in (("view", VIEWS), ("split", SPLITS)):
        strange = sorted(set(table[column].unique()) - set(allowed))
        if strange:
            raise InputError(f"{origin}: {column} has {_first(strange)}; allowed: {', '.join(allowed)}")
    for column in label_columns(table.columns):
        values = table[column]
        if not pd.api.types.is_float_dtype(values):
            raise InputError(f"{origin}: label {column!r} is {values.dtype}, not float")
        bad = ~((values >= 0) & (values <= 1)) & values.notna()
        if bad.any():
            row = table.loc[bad].iloc[0]
            raise InputError(
                f"{origin}: label {column!r} has {row[column]} for image {row['image_id']!r} ({int(bad.sum())} such "
                f"rows); allowed are 0 to 1 and empty. A column that is not a label must start with {META_PREFIX!r}"
            )


def _validate_ids(table: pd.DataFrame, origin: str) -> None:
    for column in ID_COLUMNS:
        if not pd.api.types.is_string_dtype(table[column]):
            raise InputError(f"{origin}: column {column!r} must be text, not {table[column].dtype}")
        if table[column].isna().any() or (column != "path" and (table[column] == "").any()):
            raise InputError(f"{origin}: column {column!r} has empty cells")
    twice = table["image_id"].duplicated()
    if twice.any():
        raise InputError(f"{origin}: image ids stand twice: {_first(table.loc[twice, 'image_id'].unique())}")
    patients = table[["study_id", "patient_id"]].drop_duplicates()
    shared = patients["study_id"].duplicated()
    if shared.any():
        raise InputError(f"{origin}: studies of two patients: {_first(patients.loc[shared, 'study_id'].unique())}")
    splits = table[["patient_id", "split"]].drop_duplicates()
    split = splits["patient_id"].duplicated()
    if split.any():
        raise InputError(f"{origin}: patients in two splits: {_first(splits.loc[split, 'patient_id'].unique())}")
