"""The manifest: one row per image, with its ids, view, path, split and one float column per label.

A manifest is checked whenever it is read or written, so that whatever lies on disk keeps the rules: image
ids are unique, a study belongs to one patient, no patient stands in two splits, label values are NaN or in
[0, 1], and ids are text even when they look like numbers.
"""

from __future__ import annotations

import csv
import gzip
import os
import re
import zlib
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from longview import VIEWS, InputError

ID_COLUMNS = ("source", "patient_id", "study_id", "image_id", "view", "path", "split")
"""Text columns that every manifest has, in this order, before the labels."""

META_PREFIX = "meta_"
"""Columns that are neither ids nor labels (`meta_age`, `meta_pixel_spacing_mm`) start with this."""

SPLITS = ("train", "val", "test", "none")
"""Values of `split`; `none` is an image that was not assigned (a folder to predict on)."""

ID_PATTERN = re.compile(r"(^|[_ ])id$|[a-z]I[Dd]$|[_ ]ID$")
"""Names of id columns in tables of other hands (search); `COVID` is none."""

BLANKS = ["", "NA", "N/A", "n/a", "NaN", "nan", "null", "NULL", "None", "<NA>", "#N/A"]
"""What stands for an unknown value in a column of numbers."""

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
        """Check, then write as `.parquet` or `.csv`, under a temporary name first: no half file is ever seen.

        Raises:
            InputError: Where the table was changed and breaks a rule now, or for another ending.
            OSError: Where the disk is full; the temporary file is removed and what stood there before stays.
        """
        validate(self.table, self.origin)
        write_table(self.table, path)


def label_columns(columns: Sequence[str] | pd.Index[str]) -> list[str]:
    """Columns of a manifest or a prediction table that are labels: neither ids nor `meta_` columns."""
    return [column for column in columns if column not in ID_COLUMNS and not column.startswith(META_PREFIX)]


def read_table(path: str | Path, text: Collection[str] = ()) -> pd.DataFrame:
    """Read a `.csv`, `.csv.gz`, `.tsv`, `.tsv.gz` or `.parquet` table with its ids as text.

    In CSV, columns of ids (`patient_id`, `PatientID`, `Patient ID`, `id`), the text columns of a manifest and
    those named in `text` are read letter by letter: `00000001`, `3.24E+38`, `NA` and an empty cell stay as
    they are. In all other columns an empty cell, `NA`, `NaN` and the like are NaN.

    Args:
        path: The file.
        text: Further columns to read as text.

    Raises:
        InputError: Where the file is missing, of another kind, unreadable or empty, or has a column twice.
    """
    file = Path(path)
    if not file.is_file():
        raise InputError(f"{file} does not exist; give a .parquet or .csv file")
    if is_csv(file):
        table = _read_typed(file, text)
    elif file.suffix == ".parquet":
        try:
            table = pd.read_parquet(file)
        except (OSError, ValueError) as error:  # pyarrow's errors are among these
            raise InputError(f"{file} cannot be read as a table: {error}") from error
    else:
        raise InputError(f"{file} is neither .parquet, .csv nor .tsv")
    if table.empty:
        raise InputError(f"{file} has no rows")
    return table


def _read_typed(file: Path, text: Collection[str]) -> pd.DataFrame:
    header = read_header(file)
    named = pd.Series([name for name in header if name], dtype="str")
    if named.duplicated().any():  # pandas would rename the second one, and it would pass for a further label
        raise InputError(f"{file} has the column {_first(named[named.duplicated()].unique())} twice")
    texts = [name for name in header if name in ID_COLUMNS or name in text or ID_PATTERN.search(name)]
    blanks = {name: BLANKS for name in read_csv(file, nrows=0).columns if name not in texts}
    return read_csv(file, dtype=dict.fromkeys(texts, "str"), na_values=blanks, keep_default_na=False, low_memory=False)


def is_csv(file: Path) -> bool:
    """Whether a file's ending is that of a table of text: `.csv` or `.tsv`, plain or gzipped."""
    return file.name.lower().endswith((".csv", ".csv.gz", ".tsv", ".tsv.gz"))


def read_csv(file: Path, **options: Any) -> pd.DataFrame:
    """`pandas.read_csv` by the file's ending, with everything that is wrong with the file as one kind of error.

    Args:
        file: A `.csv` (commas) or `.tsv` (tabs) file in UTF-8, plain or gzipped.
        options: Further options of `pandas.read_csv`.

    Raises:
        InputError: Where the file is unreadable, damaged, in another encoding, has other separators, or rows
            with more cells than the header; names the file and the likely remedy.
    """
    read_header(file)
    try:
        table: pd.DataFrame = pd.read_csv(file, sep=_separator(file), encoding="utf-8-sig", **options)
    except UnicodeDecodeError as error:
        raise InputError(_wrong_encoding(file, error)) from error
    except (OSError, EOFError, zlib.error, ValueError) as error:  # pandas' parser errors are ValueErrors
        raise InputError(f"{file} cannot be read as a table: {error}") from error
    return table


def read_header(file: Path) -> list[str]:
    """Names of the columns of a `.csv` or `.tsv` file, as they stand there.

    Raises:
        InputError: As :func:`read_csv`, as far as the first two lines show it.
    """
    packed = file.name.lower().endswith(".gz")
    try:
        with (
            gzip.open(file, "rt", encoding="utf-8-sig", newline="")
            if packed
            else file.open(encoding="utf-8-sig", newline="") as lines
        ):
            rows = (row for row in csv.reader(lines, delimiter=_separator(file)) if row)
            header, row = next(rows, []), next(rows, [])
    except UnicodeDecodeError as error:
        raise InputError(_wrong_encoding(file, error)) from error
    except (OSError, EOFError, zlib.error, csv.Error) as error:
        raise InputError(f"{file} cannot be read as a table: {error}") from error
    if not header:
        raise InputError(f"{file} cannot be read as a table: it is empty")
    own = _separator(file)
    other = next((mark for mark in ";\t|," if mark != own and mark in header[0]), None)
    if len(header) == 1 and other:
        raise InputError(
            f"{file}: its columns seem to be separated by {other!r}; save it with {'tabs' if own != ',' else 'commas'}"
        )
    if len(row) > len(header):  # pandas would take the first cells for an index, and shift every column
        raise InputError(
            f"{file}: its rows have more cells ({len(row)}) than its header ({len(header)}); remove the commas at the "
            f"end of the rows, or name the columns that the header lacks"
        )
    return header


def _separator(file: Path) -> str:
    return "\t" if ".tsv" in file.name.lower() else ","


def _wrong_encoding(file: Path, error: UnicodeDecodeError) -> str:
    """What to do about a table that is not UTF-8."""
    utf_16 = error.object[:2] in {b"\xff\xfe", b"\xfe\xff"}
    likely = "UTF-16" if utf_16 else "Latin-1 (Windows-1252)"
    return (
        f"{file} cannot be read as a table: it is not UTF-8 but, by its bytes, {likely}; save it as `CSV UTF-8`, or: "
        f"iconv -f {'UTF-16' if utf_16 else 'WINDOWS-1252'} -t UTF-8 {file} > NEW.csv"
    )


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
    _validate_columns(table, origin)
    typed: dict[str, pd.Series[Any]] = {}
    for column in table.columns:
        values = table[column]
        if column in ID_COLUMNS:
            if pd.api.types.is_float_dtype(values) and values.notna().any():
                raise InputError(
                    f"{origin}: column {column!r} holds floating-point numbers ({values.dropna().iloc[0]}), "
                    f"which ids do not survive (3.24E+38 may be two patients); save it as text"
                )
            values = values.astype("str")
        elif not column.startswith(META_PREFIX):
            try:
                values = values.astype(np.float32)
            except (TypeError, ValueError) as error:
                raise InputError(
                    f"{origin}: column {column!r} holds values that are not numbers ({error}); a label is 0, "
                    f"1, a value between, or empty; other columns must start with {META_PREFIX!r}"
                ) from error
        typed[column] = values
    return pd.DataFrame(typed)


def _first(ids: Iterable[object]) -> str:
    names = [str(item) for item in ids]
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")


def validate(table: pd.DataFrame, origin: str = "manifest") -> None:
    """Check the rules of a manifest.

    Raises:
        InputError: For the first rule that is broken.
    """
    if table.empty:
        raise InputError(f"{origin} has no rows")
    _validate_columns(table, origin)
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
                f"{origin}: label {column!r} has {row[column]} for image {row['image_id']!r} and is wrong in "
                f"{int(bad.sum())} rows; allowed are 0 to 1 and empty; other columns must start with "
                f"{META_PREFIX!r}"
            )


def _validate_columns(table: pd.DataFrame, origin: str) -> None:
    numbers = [column for column in table.columns if not isinstance(column, str)]
    if numbers:
        raise InputError(f"{origin}: column names must be text, found {_first(numbers)}")
    if table.columns.has_duplicates:
        raise InputError(f"{origin}: columns stand twice: {_first(table.columns[table.columns.duplicated()])}")


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
    assigned = table["split"] != "none"  # an image that was not assigned leaks nothing
    splits = table.loc[assigned, ["patient_id", "split"]].drop_duplicates()
    split = splits["patient_id"].duplicated()
    if split.any():
        raise InputError(f"{origin}: patients in two splits: {_first(splits.loc[split, 'patient_id'].unique())}")
