"""Truth tables, and the matching of predictions to them by id and by label name."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from longview import InputError
from longview.data.families import family_of
from longview.data.manifest import read_table
from longview.joining import columns_of, identify, join_keys, label_candidates, some, text_columns
from longview.labels import Label, LabelSet, groups
from longview.predictions import labels_of

logger = logging.getLogger(__name__)

_PATIENT = "longview patient"  # column for patients, under a name that no table has

Level = Literal["image", "study"]

PLURAL = {"patient": "patients", "study": "studies", "image": "images"}

SEVERAL = "several"
"""What a study has of a column in which its images differ."""


@dataclass(frozen=True)
class Truth:
    """A table of label values.

    Args:
        file: The file that was read.
        ids: `image_id` and `study_id`, as far as there are, and `split` where the table has one; text.
        table: The columns that may be labels, as read.
        others: The other columns: patients, views, sources and the like.
    """

    file: Path
    ids: pd.DataFrame
    table: pd.DataFrame
    others: pd.DataFrame | None = None

    @classmethod
    def read(cls, path: Path) -> Truth:
        """Read a store folder, a manifest, or any table with an id column and label columns.

        Raises:
            InputError: Where there is none, or it has no id column.
        """
        file = path
        if path.is_dir():
            if not (path / "store.json").is_file():
                raise InputError(f"{path} is not a finished store; give the folder that `prepare` wrote, or a table")
            file = path / "manifest.parquet"
        table = read_table(file, text=[*text_columns(), "split"])
        ids = identify(table, str(file))
        ids.pop("patient_id", None)
        if not ids:
            raise InputError(
                f"{file} has no id column: name one image_id or study_id (dicom_id, ImageID, Image Index "
                f"are known too); it has {some(table.columns)}"
            )
        if "split" in table.columns:
            ids["split"] = table["split"].astype("str")
        labels = label_candidates(table.columns)
        return cls(file, pd.DataFrame(ids), table[labels], table.drop(columns=labels))

    def rows(self, keep: npt.NDArray[np.bool_]) -> Truth:
        """The rows where `keep` (n,) is True."""
        others = None if self.others is None else self.others.loc[keep]
        return Truth(self.file, self.ids.loc[keep], self.table.loc[keep], others)

    def patients(self) -> pd.Series[Any] | None:
        """Each row's patient, told apart by source, "" where it is not known; None where the table does not say.

        Sources of one family (NIH's films are RSNA's too) share their patients.
        """
        if self.others is None:
            return None
        found = identify(self.others, str(self.file)).get("patient_id")
        if found is None:
            return None
        if "source" not in self.others.columns:
            return found
        family = self.others["source"].astype("str").map(family_of)
        return family.str.cat(found, sep="/").mask(found == "", "")

    def targets(self, columns: Sequence[str]) -> npt.NDArray[np.float64]:
        """Values of some columns, (n, L), NaN where empty.

        Raises:
            InputError: For a value that is no number or lies outside [0, 1]; names the row.
        """
        targets = np.empty((len(self.table), len(columns)))
        for position, column in enumerate(columns):
            numbers = pd.to_numeric(self.table[column], errors="coerce").astype(np.float64)
            bad = (numbers.isna() & self.table[column].notna()) | (numbers < 0) | (numbers > 1)
            if bad.any():
                row = int(bad.to_numpy().argmax())
                raise InputError(
                    f"{self.file}: label {column!r} is {self.table[column].iloc[row]} for "
                    f"{' '.join(self.ids.iloc[row])} ({int(bad.sum())} such rows); give 1, 0, a value "
                    f"between, or an empty cell for unknown (`prepare` turns marks such as -1 into one)"
                )
            targets[:, position] = numbers
        return targets


@dataclass(frozen=True)
class Match:
    """Predictions and truth, row by row and label by label.

    Args:
        level: Whether a row is an image or a study.
        names: L label names.
        columns: The truth's columns of these labels.
        predicted: The predictions' columns of these labels.
        scores: (n, L) probabilities.
        targets: (n, L) label values.
        splits: The truth's splits that the rows are from; empty where it has none.
        extra: Predicted rows that the truth does not hold.
        unscored: Predicted labels that the truth does not hold.
        unpredicted: The truth's labels that were not predicted.
        keys: (n,) image or study of each row.
        clusters: (n,) its patient; its study, or the row itself, where patients are not known.
        unit: What the clusters are: `patient`, `study` or `image`.
        others: (n,) rows of the truth's other columns, such as views or hospitals; a study whose images differ has
            :data:`SEVERAL` there.
        patientless: Rows without a patient, for lack of which the clusters are not patients.
    """

    level: Level
    names: list[str]
    columns: list[str]
    predicted: list[str]
    scores: npt.NDArray[Any]
    targets: npt.NDArray[np.float64]
    splits: list[str]
    extra: int
    unscored: list[str]
    unpredicted: list[str]
    keys: npt.NDArray[Any]
    clusters: npt.NDArray[Any]
    unit: str
    others: pd.DataFrame
    patientless: int = 0


def unknown_patients(found: Match) -> str:
    """A sentence on rows without a patient."""
    count = len(found.targets)
    part = "" if found.patientless == count else f" for {found.patientless:,} of {count:,} {PLURAL[found.level]}"
    return f"Patients are not known{part}"


def match(predictions: pd.DataFrame, truth: Truth, labels: LabelSet | None = None, split: str | None = None) -> Match:
    """Bring predictions and truth together by id and by label name.

    Rows are images where both tables have image ids; truth that only knows studies is copied to a study's
    images, and predictions of studies are compared with the truth of the study, on which its images must agree.

    Args:
        predictions: As :func:`longview.predictions.read_predictions` gives it.
        truth: All rows of it (of `split`) must be predicted.
        labels: Score only these, matched by name or alias on both sides; None: those predicted, by name.
        split: Split of the truth; None: those that the predicted rows are from, each of which must be whole.

    Raises:
        InputError: Where rows are not predicted, nothing is in common, or a label has no counterpart while
            the other side has columns without one.
    """
    predicted, actual, unscored, unpredicted = _match_labels(predictions, truth, labels)
    level: Level = "image" if "image_id" in predictions.columns else "study"
    by = _common_id(level, truth)
    given, wanted = join_keys(predictions[by], truth.ids[by])
    known = wanted.isin(given).to_numpy()
    if not known.any():
        raise InputError(
            f"predictions and {truth.file} have no {by} in common: {some(given.iloc[:2])} against "
            f"{some(wanted.iloc[:2])}"
        )
    keep, splits = _rows_of_split(truth, known, split)
    missing = wanted[keep & ~known].drop_duplicates()
    if len(missing):
        where = f" of split {' and '.join(splits)}" if splits else ""
        raise InputError(
            f"predictions lack {len(missing)} {by}s{where} that {truth.file} holds: {some(missing)}; predict "
            f"them, or choose another part with --split"
        )
    names, columns = list(actual), list(actual.values())
    kept = truth.rows(keep)
    targets, place = _one_per_key(kept, wanted[keep], columns)
    position = place.reindex(given).to_numpy(np.float64)  # (rows predicted,) row of targets, NaN where unknown
    inside = ~np.isnan(position)
    row = position[inside].astype(np.int64)
    found = predictions.loc[inside]
    others = _others_per_key(kept, wanted[keep], columns).iloc[row].reset_index(drop=True)
    clusters, unit, patientless = _clusters(found, others, level)
    return Match(
        level=level,
        names=names,
        columns=columns,
        predicted=[predicted[name] for name in names],
        scores=found[[predicted[name] for name in names]].to_numpy(),
        targets=targets[row],
        splits=splits,
        extra=int((~inside).sum()),
        unscored=unscored,
        unpredicted=unpredicted,
        keys=given[inside].to_numpy(object),
        clusters=clusters,
        unit=unit,
        patientless=patientless,
        others=others.drop(columns=_PATIENT),
    )


def _others_per_key(truth: Truth, keys: pd.Series[Any], labels: Sequence[str]) -> pd.DataFrame:
    """The truth's columns beside the scored labels, and its patients as :data:`_PATIENT`, with one row per id."""
    table = truth.table.drop(columns=list(labels))
    if truth.others is not None:
        table = pd.concat([truth.others, table], axis=1)
    patients = truth.patients()
    table = table.assign(**{_PATIENT: "" if patients is None else patients})
    codes, unique = pd.factorize(keys)
    first = table.loc[~keys.duplicated().to_numpy()].reset_index(drop=True)
    if len(unique) == len(keys):
        return first
    for column in table.columns:
        value, _ = pd.factorize(table[column])
        differ = np.zeros(len(unique), np.bool_)
        differ[codes[value != value[np.flatnonzero(~keys.duplicated().to_numpy())][codes]]] = True
        if differ.any():
            first[column] = first[column].astype(object).mask(differ, SEVERAL)
    return first


def _clusters(predictions: pd.DataFrame, others: pd.DataFrame, level: Level) -> tuple[npt.NDArray[Any], str, int]:
    """What rows are drawn together, its name, and the rows without a patient.

    The truth's patients, else those of the predictions, else studies.
    """
    known = others[_PATIENT]
    lacking = int(known.isin(["", SEVERAL]).sum())
    if len(known) and not lacking:
        return known.to_numpy(object), "patient", 0
    for unit in ("patient", "study"):
        column = f"{unit}_id"
        if column not in predictions.columns:
            continue
        blank = int((predictions[column] == "").sum())
        if not blank:
            return predictions[column].to_numpy(object), unit, 0 if unit == "patient" else lacking
        lacking = min(lacking, blank) if unit == "patient" else lacking
    return np.arange(len(predictions)), level, lacking


def training_groups(
    table: Truth, names: Sequence[str], columns: Sequence[str], level: Level = "image", *, whole: bool = False
) -> dict[str, list[str]] | None:
    """Head, medium and tail by the prevalence among a table's training rows: those whose `split` is `train`.

    Args:
        table: One row per image (as the challenge counts) or per study.
        names: Label names.
        columns: The table's columns of these labels.
        level: `study` counts each study once, as training on studies does.
        whole: Whether all rows of a table without a column `split` are training rows. Only its giver knows: a
            table to be scored holds test rows, which must not make groups.

    Returns:
        Group -> names; None where the table has no training rows.
    """
    if "split" in table.ids.columns:
        table = table.rows((table.ids["split"] == "train").to_numpy())
    elif not whole:
        return None
    if table.ids.empty:
        return None
    if level == "study" and "study_id" in table.ids.columns:
        table = table.rows(~table.ids["study_id"].duplicated().to_numpy())
    targets = table.targets(columns)
    return groups(names, np.nansum(targets, axis=0), (~np.isnan(targets)).sum(axis=0))


def _common_id(level: Level, truth: Truth) -> str:
    """The id to join by: the image's where both tables have it, else the study's."""
    for name in ("image_id", "study_id")[level == "study" :]:
        if name in truth.ids.columns:
            return name
    raise InputError(
        f"predictions are per {level}, but {truth.file} has no study_id column, only "
        f"{', '.join(truth.ids.columns)}; predict per image, or add the column"
    )


def _rows_of_split(
    truth: Truth, known: npt.NDArray[np.bool_], split: str | None
) -> tuple[npt.NDArray[np.bool_], list[str]]:
    """Rows that must be predicted, and the names of their splits."""
    if "split" not in truth.ids.columns:
        if split is not None:
            raise InputError(f"--split {split}: {truth.file} has no column `split`")
        return np.ones(len(known), np.bool_), []
    column = truth.ids["split"]
    if split is None:
        splits = sorted(column[known].unique())
        if "train" in splits:
            logger.warning("the predictions cover training rows: scores on them say nothing about new patients")
    elif (column == split).any():
        splits = [split]
    else:
        raise InputError(f"--split {split}: {truth.file} has only {some(sorted(column.unique()))}")
    return column.isin(splits).to_numpy(), splits


def _match_labels(
    predictions: pd.DataFrame, truth: Truth, labels: LabelSet | None
) -> tuple[dict[str, str], dict[str, str], list[str], list[str]]:
    """Label -> column of the predictions, label -> column of the truth, and what has no counterpart."""
    given = labels_of(predictions)
    wanted = labels or LabelSet("predictions", [Label(name) for name in given])
    predicted = columns_of(wanted, given, "the predictions")
    actual = columns_of(wanted, list(truth.table.columns), str(truth.file))
    strange = [
        column for column in truth.table.columns if column not in actual.values() and _may_be_label(truth, column)
    ]
    both = {name: actual[name] for name in predicted if name in actual}
    unscored = [name for name in predicted if name not in actual]
    unpredicted = [name for name in actual if name not in predicted]
    if (unscored and strange) or not both or (labels and unpredicted):
        named = f"label set {labels.name!r}" if labels else "the predictions"
        sides = [
            ("predicted, but not in the truth", unscored or [column for column in given if not both]),
            (f"columns of the truth that are no label of {named}", strange),
            ("in the truth, but not predicted", unpredicted),
        ]
        listed = "; ".join(f"{title}: {some(items)}" for title, items in sides if items)
        raise InputError(
            f"labels of the predictions and of {truth.file} do not fit; {listed}. Rename columns, or give "
            f"--labels with a label set that holds aliases, or only the labels to score"
        )
    return predicted, both, unscored, unpredicted if labels else strange


def _may_be_label(truth: Truth, column: str) -> bool:
    """Whether a column holds label values: numbers from 0 to 1, at least one of them known."""
    values = truth.table[column]
    if not (pd.api.types.is_numeric_dtype(values) or pd.api.types.is_bool_dtype(values)):
        return False
    known = values.dropna()
    return bool(len(known) and known.astype(np.float64).between(0, 1).all())


def _one_per_key(
    truth: Truth, keys: pd.Series[Any], columns: Sequence[str]
) -> tuple[npt.NDArray[np.float64], pd.Series[int]]:
    """Targets with one row per id, and id -> row; rows of one id must agree where they know a label."""
    targets = truth.targets(columns)
    codes, unique = pd.factorize(keys)
    place = pd.Series(np.arange(len(unique)), index=pd.Index(unique))
    if len(unique) == len(keys):
        return targets, place
    frame = pd.DataFrame(targets).groupby(codes)
    low, high = frame.min().to_numpy(), frame.max().to_numpy()  # both skip NaN
    differ = high > low
    if differ.any():
        row, column = np.argwhere(differ)[0]
        raise InputError(
            f"{truth.file}: rows of {keys.name} {unique[row]!r} disagree on label {columns[column]!r} "
            f"({int(differ.any(axis=1).sum())} such ids); images of a study share labels, so give a "
            f"truth per study, or predict per image"
        )
    return low, place
