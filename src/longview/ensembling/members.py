"""The members of an ensemble: prediction tables brought to the same rows and labels, by id and by name."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from longview import InputError
from longview.calibration.file import CALIBRATION, attributes_of
from longview.joining import columns_of, join_keys, some
from longview.labels import Label, LabelSet
from longview.predictions import KEYS, MODEL, TEST_TIME, labels_of, read_predictions

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Members:
    """Predictions of M models for the same n rows and L labels.

    Args:
        files: M files.
        ids: (n,) id columns, as the first file has them, in its order.
        names: L labels, as the first file names them, in its order.
        scores: M arrays (n, L) of probabilities.
        attributes: M mappings of what each file says of itself: model, calibration, test-time averaging.
    """

    files: list[Path]
    ids: pd.DataFrame
    names: list[str]
    scores: list[npt.NDArray[np.float64]]
    attributes: list[dict[str, object]]

    @property
    def models(self) -> list[str | None]:
        """SHA-256 of each member's checkpoint; None where its file does not say."""
        return [None if (found := item.get(MODEL)) is None else str(found) for item in self.attributes]

    def table(self, values: npt.NDArray[np.float64]) -> pd.DataFrame:
        """A prediction table of the members' rows and labels.

        Args:
            values: (n, L).
        """
        return pd.concat([self.ids, pd.DataFrame(values, columns=self.names)], axis=1)


def read_members(
    files: Sequence[Path],
    labels: LabelSet | None = None,
    average: Callable[[pd.DataFrame, Path], pd.DataFrame] | None = None,
) -> Members:
    """Read prediction tables and bring them to the rows and labels of the first.

    Args:
        files: Tables that `predict` wrote, all per image or all per study.
        labels: Label set whose aliases count; None: names must be equal but for case, spaces and hyphens.
        average: Makes a table per study of one per image; one per study is left alone.

    Raises:
        InputError: Where a file stands twice, or rows or labels differ; names the file and both sides.
    """
    twice = sorted({str(file) for file in files if list(files).count(file) > 1})
    if twice:
        raise InputError(f"{', '.join(twice)} stands more than once; name it once and raise its weight")
    tables = [read_predictions(file) for file in files]
    if average is not None:
        tables = [
            average(table, file) if "image_id" in table else table for table, file in zip(tables, files, strict=True)
        ]
    first, origin = tables[0], files[0]
    names = labels_of(first)
    scores = [first[names].to_numpy(np.float64)]
    for table, file in zip(tables[1:], files[1:], strict=True):
        rows, columns = _rows(first, table, origin, file), _columns(first, table, origin, file, labels)
        scores.append(table[columns].to_numpy(np.float64)[rows])
    attributes = [dict(attributes_of(file)) for file in files]
    _warn_of_mixture(files, attributes)
    ids = first[[key for key in KEYS if key in first.columns]].reset_index(drop=True)
    return Members(list(files), ids, names, scores, attributes)


def _rows(first: pd.DataFrame, other: pd.DataFrame, origin: Path, file: Path) -> npt.NDArray[np.int64]:
    """(n,) row of the other table for each row of the first."""
    levels = ["image_id" if "image_id" in table else "study_id" for table in (first, other)]
    if levels[0] != levels[1]:
        told = [
            f"{name} has a row per {level.removesuffix('_id')}"
            for name, level in zip((origin, file), levels, strict=True)
        ]
        raise InputError(f"{' and '.join(told)}; make studies of the images with --study_weights, or predict alike")
    key = levels[0]
    wanted, given = join_keys(first[key], other[key])
    for table_ids, name in ((wanted, origin), (given, file)):
        if table_ids.duplicated().any():  # `1.png` and `1.jpg`, once endings are dropped
            raise InputError(f"{name}: {key} {some(table_ids[table_ids.duplicated()])} twice once endings are dropped")
    sides = ((file, wanted[~wanted.isin(given)]), (origin, given[~given.isin(wanted)]))
    lacking = [f"{name} lacks {len(ids)} {key}s: {some(ids)}" for name, ids in sides if len(ids)]
    if lacking:
        raise InputError(
            f"the members have different rows; {'; '.join(lacking)}. Predict the same part with each model"
        )
    place = pd.Series(np.arange(len(given)), index=pd.Index(given))
    return place.reindex(wanted).to_numpy(np.int64)


def _columns(first: pd.DataFrame, other: pd.DataFrame, origin: Path, file: Path, labels: LabelSet | None) -> list[str]:
    """The other table's columns of the first one's labels, in their order."""
    names, given = labels_of(first), labels_of(other)
    known = labels or LabelSet("predictions", [Label(name) for name in names])
    mine, theirs = (
        {**columns_of(known, columns, str(name)), **{one: one for one in columns if known.canonical(one) is None}}
        for columns, name in ((names, origin), (given, file))
    )
    sides = ((file, set(mine) - set(theirs)), (origin, set(theirs) - set(mine)))
    lacking = [f"{name} lacks {', '.join(sorted(absent))}" for name, absent in sides if absent]
    if lacking:
        raise InputError(
            f"the members have different labels; {'; '.join(lacking)}. Drop the columns that are not in each, or give "
            f"--labels with a label set that holds aliases"
        )
    found = {column: theirs[name] for name, column in mine.items()}
    return [found[name] for name in names]


def _warn_of_mixture(files: Sequence[Path], attributes: Sequence[dict[str, object]]) -> None:
    for key, what in ((CALIBRATION, "calibrated"), (TEST_TIME, "averaged at test time")):
        marked = [str(file) for file, found in zip(files, attributes, strict=True) if key in found]
        if 0 < len(marked) < len(files):
            logger.warning(
                "%s %s %s, the other members are not", ", ".join(marked), "are" if len(marked) > 1 else "is", what
            )
