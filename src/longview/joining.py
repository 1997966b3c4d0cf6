"""Ids and labels in tables of any origin: finding them by name, and matching two tables by them.

Our own tables say `image_id`, `study_id`, `patient_id`; CXR-LT says `dicom_id` and `subject_id`, PadChest
`ImageID`, NIH `Image Index`. Nothing is ever matched by position.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd

from longview import InputError
from longview.data.manifest import ID_COLUMNS, META_PREFIX
from longview.labels import LabelSet

IDS = {
    "image_id": ("image_id", "dicom_id", "ImageID", "Image Index"),
    "study_id": ("study_id", "StudyID"),
    "patient_id": ("patient_id", "subject_id", "PatientID", "Patient ID"),
}
"""Our name of an id -> its names in the tables of data sets and challenges, preferred first."""

_METADATA = frozenset(
    {"path", "fpath", "imagedir", "split", "source", "index", "report", "followup", "findinglabels"}
    | {"view", "viewposition", "viewpositiondicom", "viewcodesequencecodemeaning", "projection"}
    | {"frontallateral", "appa", "patientorientationcodesequencecodemeaning"}
    | {"studydate", "studydatedicom", "studytime", "rows", "columns"}
    | {"performedprocedurestepdescription", "procedurecodesequencecodemeaning"}
    | {"sex", "patientsex", "patientgender", "patientsexdicom", "age", "patientage", "patientbirth"}
    | {"originalimagewidth", "height", "originalimagepixelspacingx", "y"}  # NIH's header splits its brackets
)
"""Columns of public tables that are no labels, as :func:`_squeeze` writes them."""

_ENDING = re.compile(r"\.(png|jpe?g|tiff?|dcm|dicom)$", re.IGNORECASE)
_MIMIC_STUDY = re.compile(r"^s(?=\d+$)")  # `s50414267` in CXR-LT is 50414267 in MIMIC-CXR's own tables
_SHOWN = 5  # ids named in a message before it says how many more there are


def _squeeze(column: str) -> str:
    return re.sub(r"[^a-z0-9]", "", column.casefold())


_ID_NAMES = {_squeeze(alias): name for name, aliases in IDS.items() for alias in aliases}


def text_columns() -> list[str]:
    """Names under which ids go anywhere: columns to read as text."""
    return [alias for aliases in IDS.values() for alias in aliases]


def identify(table: pd.DataFrame, origin: str) -> dict[str, pd.Series[Any]]:
    """Find the id columns of a table.

    Returns:
        `image_id`, `study_id`, `patient_id`, as far as the table has them, as text.

    Raises:
        InputError: Where an id column holds floats (ids do not survive that) or has empty cells.
    """
    names = {_squeeze(column): column for column in reversed(list(table.columns))}
    found = {}
    for name, aliases in IDS.items():
        column = next((names[_squeeze(alias)] for alias in aliases if _squeeze(alias) in names), None)
        if column is not None:
            found[name] = _as_text(table[column], origin)
    return found


def _as_text(ids: pd.Series[Any], origin: str) -> pd.Series[Any]:
    if pd.api.types.is_float_dtype(ids):
        raise InputError(
            f"{origin}: column {str(ids.name)!r} holds floating-point numbers ({ids.iloc[0]}), which ids do "
            f"not survive (3.24E+38 may be two patients); save it as text"
        )
    if ids.isna().any():
        row = int(ids.isna().to_numpy().argmax())
        raise InputError(f"{origin}: column {str(ids.name)!r} has an empty cell in data row {row + 1}")
    return ids.astype("str")


def label_candidates(columns: Iterable[str]) -> list[str]:
    """Columns that are neither ids nor known metadata, in the table's order."""
    return [
        column
        for column in columns
        if column not in ID_COLUMNS
        and not column.startswith((META_PREFIX, "Unnamed:"))
        and _squeeze(column) not in _METADATA
        and _squeeze(column) not in _ID_NAMES
    ]


def columns_of(labels: LabelSet, columns: Sequence[str], context: str) -> dict[str, str]:
    """Find the columns of a label set's labels, seen and unseen, by name or alias.

    Args:
        labels: The label set.
        columns: Label columns of a table; those that are no label of the set are passed over.
        context: What the table is, for the message.

    Returns:
        Label -> column, in the label set's order.

    Raises:
        InputError: Where two columns stand for one label.
    """
    found: dict[str, str] = {}
    for column in columns:
        name = labels.canonical(column)
        if name is None:
            continue
        if name in found:
            raise InputError(f"{context}: columns {found[name]!r} and {column!r} both stand for label {name!r}")
        found[name] = column
    return {label.name: found[label.name] for label in labels.labels if label.name in found}


def join_keys(left: pd.Series[Any], right: pd.Series[Any]) -> tuple[pd.Series[Any], pd.Series[Any]]:
    """Make the ids of two tables comparable.

    They are compared as they stand. Only where none agrees, image-file endings (`.png`) and the `s` that
    CXR-LT puts before MIMIC's study numbers are dropped on both sides.
    """
    if left.isin(right).any():
        return left, right
    plain = tuple(
        ids.str.replace(_ENDING, "", regex=True).str.replace(_MIMIC_STUDY, "", regex=True) for ids in (left, right)
    )
    return (plain[0], plain[1]) if plain[0].isin(plain[1]).any() else (left, right)


def some(items: Sequence[object] | pd.Series[Any] | pd.Index[Any]) -> str:
    """The first few items, and how many more there are."""
    names = [str(item) for item in items]
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
