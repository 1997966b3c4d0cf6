"""Rows of an evaluation by view, sex, age, source or any other column of the truth."""

from __future__ import annotations

import itertools
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from longview import InputError
from longview.data.manifest import META_PREFIX
from longview.joining import some

logger = logging.getLogger(__name__)

UNKNOWN = "unknown"
"""Subgroup of the rows whose cell is empty, or holds no age."""

AGES = (0, 18, 40, 60, 80)
"""Years from which the bands of age start; the last is open."""

_NAMES = {
    "view": ("view", "viewposition", "viewpositiondicom", "projection", "frontallateral"),
    "sex": ("sex", "patientsex", "patientgender", "patientsexdicom", "gender"),
    "age": ("age", "patientage"),
}
"""Our name of a column -> its names in the tables of data sets, squeezed."""

_MOST = 30  # subgroups of one column: a column of ids or free text has more
_FEW_NUMBERS = 6  # distinct numbers that are subgroups by themselves; more are banded
_AGE = re.compile(r"^\s*([+-]?\d+(?:\.\d*)?)\s*([YyMmWwDd]?)\s*$")  # 58, 58.0, and DICOM's 058Y, 006M, 003W, 002D
_YEARS = {"m": 1 / 12, "w": 7 / 365.25, "d": 1 / 365.25}  # of a DICOM unit; years themselves are 1
_OLDEST = 120  # years; more is a mistake, as NIH's 414


@dataclass(frozen=True)
class Subgroup:
    """Rows that have something in common.

    Args:
        column: As the user named it.
        value: What they have there: a category, a band such as `18-39`, or :data:`UNKNOWN`.
        rows: (n,) whether a row is among them.
    """

    column: str
    value: str
    rows: npt.NDArray[np.bool_]


def subgroups(table: pd.DataFrame, column: str, origin: str) -> list[Subgroup]:
    """Part the rows of a table by a column.

    Args:
        table: (n,) rows; columns go by their own name, by `meta_` and it, or by the names that data sets give to view,
            sex and age.
        column: One of them, or `labels` of none.
        origin: What the table is, for messages.

    Raises:
        InputError: Where there is no such column, or it has too many values to be one of categories.
    """
    name = _find(table, column)
    if name is None:
        raise InputError(f"--by {column}: {origin} has no such column; it has {', '.join(map(str, table.columns))}")
    values = table[name].reset_index(drop=True)
    blank = values.isna() | (values.astype("str").str.strip() == "")
    age = _squeeze(column) in _NAMES["age"]
    numbers = _ages(values) if age else _numbers(values)
    banded = numbers is not None and numbers.nunique() > (0 if age else _FEW_NUMBERS)
    if numbers is not None and banded:
        _tell_strange(values[numbers.isna() & ~blank], f"--by {column}: of {len(values):,} rows of {origin}")
        text, order = _bands(numbers, age=age)
    else:
        text = values.astype("str").str.strip()
        counts = text[~blank].value_counts()
        order = sorted(counts.index, key=lambda value: (-counts[value], value))
    if len(order) > _MOST:
        raise InputError(
            f"--by {column}: column {name!r} of {origin} has {len(order)} values ({some(order)}), too many for "
            f"subgroups"
        )
    parts = [Subgroup(column, str(value), ((text == value) & ~blank).to_numpy(np.bool_)) for value in order]
    unknown = blank.to_numpy(np.bool_)
    if banded and numbers is not None:
        unknown = numbers.isna().to_numpy(np.bool_)
    parts = [part for part in parts if part.rows.any()]
    return [*parts, Subgroup(column, UNKNOWN, unknown)] if unknown.any() else parts


def _squeeze(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.casefold())


def _find(table: pd.DataFrame, column: str) -> Any:
    for name in (column, f"{META_PREFIX}{column}"):
        if name in table.columns:
            return name
    wanted = _NAMES.get(column, (_squeeze(column),))
    squeezed = {_squeeze(str(name).removeprefix(META_PREFIX)): name for name in reversed(list(table.columns))}
    return next((squeezed[name] for name in wanted if name in squeezed), None)


def _tell_strange(values: pd.Series[Any], where: str) -> None:
    """Say which cells stand under unknown although they are not empty."""
    if len(values):
        logger.warning("%s, %d hold no age from 0 to %d years and stand under %r: %s",
                       where, len(values), _OLDEST, UNKNOWN, some(list(values.unique())))  # fmt: skip


def _ages(values: pd.Series[Any]) -> pd.Series[float] | None:
    """The column in years, NaN where it holds none; None where no cell can be read as an age."""
    parts = values.astype("str").str.extract(_AGE)
    factor = parts[1].str.lower().map(_YEARS).fillna(1.0).astype(np.float64)
    years = pd.to_numeric(parts[0], errors="coerce").astype(np.float64) * factor
    years = years.where((years >= 0) & (years <= _OLDEST))
    return years if years.notna().any() else None


def _numbers(values: pd.Series[Any]) -> pd.Series[float] | None:
    """The column as numbers, where it is one of numbers."""
    if pd.api.types.is_bool_dtype(values):
        return None
    numbers = pd.to_numeric(values, errors="coerce").astype(np.float64)
    text = values.notna() & (values.astype("str").str.strip() != "")
    return numbers if numbers.notna().any() and not (numbers.isna() & text).any() else None


def _bands(numbers: pd.Series[float], *, age: bool) -> tuple[pd.Series[str], list[str]]:
    """Each row's band and the bands in order: decades of age as above, else quarters of the known rows."""
    known = numbers.dropna()
    if age:
        edges: Sequence[float] = AGES
        names = [f"{low}-{high - 1}" for low, high in itertools.pairwise(AGES)] + [f"{AGES[-1]}+"]
    else:
        edges = np.unique(np.quantile(known, [0, 0.25, 0.5, 0.75])).tolist()
        ends = [*edges[1:], float(known.max())]
        names = [f"{low:g} to {high:g}" for low, high in zip(edges, ends, strict=True)]
    place = np.searchsorted(np.asarray(edges, np.float64), numbers.fillna(edges[0]).to_numpy(), side="right") - 1
    text = pd.Series(np.asarray(names, object)[np.maximum(place, 0)], index=numbers.index)
    return text.mask(numbers.isna(), "").astype("str"), names
