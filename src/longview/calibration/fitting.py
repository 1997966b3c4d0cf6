"""Fitting the calibrators of many labels, and judging them on patients that the fit has not seen."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from longview import InputError
from longview.calibration.calibrators import (
    SLOWEST,
    Beta,
    Calibrator,
    Platt,
    Temperature,
    fit_beta,
    fit_isotonic,
    fit_platt,
    fit_temperature,
)
from longview.calibration.figures import Figures
from longview.calibration.file import CalibratedLabel, Calibration, plain
from longview.calibration.thresholds import Rule

logger = logging.getLogger(__name__)

FloatArray = npt.NDArray[np.float64]

Method = Literal["temperature", "vector", "platt", "isotonic", "beta"]

_FITS: dict[str, Callable[[npt.NDArray[Any], FloatArray], Calibrator]] = {
    "vector": fit_temperature,
    "platt": fit_platt,
    "isotonic": fit_isotonic,
    "beta": fit_beta,
}


@dataclass(frozen=True)
class Known:
    """Predictions with what is true.

    Args:
        names: L predicted labels.
        scores: (n, L) probabilities.
        targets: (n, L) label values, NaN where unknown.
        patients: (n,) whom a row is of, as far as that is known: see `unit`.
        level: `image` or `study`.
        unit: What `patients` really holds: `patient`, or `study` or `image` where nothing says the patient.
    """

    names: list[str]
    scores: npt.NDArray[Any]
    targets: FloatArray
    patients: npt.NDArray[Any]
    level: str
    unit: str = "patient"


@dataclass(frozen=True)
class Fit:
    """A calibration and what it does to the rows it was fitted on.

    Args:
        calibration: What is written.
        known: The rows.
        after: (n, L) their calibrated probabilities.
        held: (n, L) the same, each by a fit on other patients; None without folds.
    """

    calibration: Calibration
    known: Known
    after: FloatArray
    held: FloatArray | None

    @property
    def honest(self) -> FloatArray:
        """(n, L) calibrated probabilities to judge by: of held-out patients, as far as there are."""
        return self.after if self.held is None else self.held


def fit(
    known: Known,
    method: Method,
    rules: Sequence[Rule] = (),
    *,
    minimum: int = 10,
    folds: int = 5,
    model: str | None = None,
    about: Mapping[str, Any] | None = None,
) -> Fit:
    """Fit a calibration and thresholds.

    Args:
        known: Predictions with what is true.
        method: How probabilities are mapped.
        rules: How thresholds are chosen.
        minimum: Positives and negatives that a label needs for parameters and thresholds of its own.
        folds: Parts of the patients (of what `known.unit` says) for held-out figures; 0: none.
        model: SHA-256 of the checkpoint; None where it is not known.
        about: What else the file is to say.

    Raises:
        InputError: Where no truth is known, or all of it is of one kind.
    """
    scores, targets = known.scores, known.targets
    calibrators, pooled, temperature = fit_labels(method, scores, targets, minimum)
    if against := [name for name, item in zip(known.names, calibrators, strict=True) if flat(item)]:
        logger.warning("the truth falls where the score rises, so only the ranking is kept: %s", ", ".join(against))
    after = np.stack([item.apply(scores[:, index]) for index, item in enumerate(calibrators)], axis=1)
    held = held_out(method, scores, targets, known.patients, minimum=minimum, folds=folds)
    stages = {"before": scores, "after": after} | ({} if held is None else {"held_out": held})
    figures = {stage: Figures.of(values, targets) for stage, values in stages.items()}
    cuts = choose_thresholds(rules, after, targets, minimum)
    counts = [_counts(targets[:, index]) for index in range(len(known.names))]
    entries = {
        name: CalibratedLabel(
            calibrators[index],
            pooled[index],
            {rule: values[index] for rule, values in cuts.items()},
            counts[index],
            {stage: found.label(index) for stage, found in figures.items()},
        )
        for index, name in enumerate(known.names)
    }
    drawn = len(np.unique(known.patients))
    few = [name for name, own in zip(known.names, enough(targets, minimum), strict=True) if not own]
    notes = {
        **(about or {}),
        "level": known.level,
        "rows": len(targets),
        "unit": known.unit,
        "units": drawn,
        "patients": drawn if known.unit == "patient" else None,
        "minimum": minimum,
        "folds": 0 if held is None else min(folds, drawn),
        "pooled_temperature": temperature,
        "pooled": [name for name, entry in entries.items() if entry.pooled],
        "pooled_thresholds": few if rules else [],
        "macro": {stage: found.macro() for stage, found in figures.items()},
    }
    return Fit(Calibration(method, entries, model, plain(notes)), known, after, held)


def enough(targets: FloatArray, minimum: int) -> npt.NDArray[np.bool_]:
    """Whether each label has rows enough for a threshold of its own, (L,).

    Args:
        targets: (n, L) label values; those that are not 0 or 1 are masked.
        minimum: Positives and negatives that it needs.
    """
    kinds = np.stack([(targets == value).sum(axis=0) for value in (0, 1)])
    result: npt.NDArray[np.bool_] = kinds.min(axis=0) >= max(minimum, 1)
    return result


def choose_thresholds(
    rules: Sequence[Rule], after: FloatArray, targets: FloatArray, minimum: int = 10
) -> dict[str, list[float]]:
    """A threshold per rule and label.

    Labels with too few positives or negatives get one threshold for them together (of all labels, where even that
    is too little): with the frequent labels' they would never be found.

    Args:
        rules: How to choose.
        after: (n, L) calibrated probabilities.
        targets: (n, L) label values; those that are not 0 or 1 are masked.
        minimum: Positives and negatives that a label needs for a threshold of its own.

    Returns:
        Rule -> L thresholds.
    """
    kinds = np.stack([(targets == value).sum(axis=0) for value in (0, 1)])  # (2, L)
    own = enough(targets, minimum)
    rare = ~own if kinds[:, ~own].sum(axis=1).min() >= max(minimum, 1) else np.ones_like(own)
    result = {}
    for rule in rules:
        shared = math.nan if own.all() else rule.choose(after[:, rare].ravel(), targets[:, rare].ravel())
        result[str(rule)] = [
            rule.choose(after[:, index], targets[:, index]) if enough else shared for index, enough in enumerate(own)
        ]
    return result


def _counts(targets: FloatArray) -> dict[str, int]:
    positives, negatives = int((targets == 1).sum()), int((targets == 0).sum())
    unknown = int(np.isnan(targets).sum())
    soft = len(targets) - positives - negatives - unknown
    return {"positives": positives, "negatives": negatives, "soft": soft, "unknown": unknown}


def fit_labels(
    method: Method, scores: npt.NDArray[Any], targets: FloatArray, minimum: int = 10
) -> tuple[list[Calibrator], list[bool], float]:
    """Fit a calibrator per label; the temperature of all labels where a label has too few rows of a kind.

    Args:
        method: Which map.
        scores: (n, L) probabilities.
        targets: (n, L) label values: NaN is masked; a soft value counts as that share of a positive.
        minimum: Positives and negatives that a label needs for a fit of its own.

    Returns:
        L calibrators; for each whether it has too few rows for parameters of its own, whatever the method; and the
        temperature of all labels.

    Raises:
        InputError: Where all truth that is known is 0, all is 1, or there is none.
    """
    known = ~np.isnan(targets)
    together = targets[known]
    if not 0 < together.sum() < len(together):
        raise InputError(
            f"calibration needs positives and negatives; {len(together):,} label values are known, "
            f"{together.sum():g} of them positive"
        )
    shared = fit_temperature(scores[known], together)
    calibrators: list[Calibrator] = []
    pooled = []
    for index in range(scores.shape[1]):
        rows = known[:, index]
        values = targets[rows, index]
        positives = values.sum()
        pooled.append(bool(min(positives, len(values) - positives) < max(minimum, 1)))
        alone = method != "temperature" and not pooled[-1]
        calibrators.append(_FITS[method](scores[rows, index], values) if alone else shared)
    return calibrators, pooled, shared.temperature


def held_out(
    method: Method,
    scores: npt.NDArray[Any],
    targets: FloatArray,
    patients: npt.NDArray[Any],
    *,
    minimum: int = 10,
    folds: int = 5,
) -> FloatArray | None:
    """Calibrate each fold of the patients by a fit on the others: what a calibration does to new patients.

    Args:
        method: Which map.
        scores: (n, L) probabilities.
        targets: (n, L) label values.
        patients: (n,) whom each row is of.
        minimum: As in :func:`fit_labels`.
        folds: How many; fewer where there are fewer patients.

    Returns:
        (n, L) calibrated probabilities; None with less than two folds, or where the others of a fold have truth of
        one kind only.
    """
    unique, place = np.unique(patients, return_inverse=True)
    folds = min(folds, len(unique))
    if folds < 2:
        return None
    fold = (np.random.default_rng(0).permutation(len(unique)) % folds)[place]  # (n,)
    result = np.empty(scores.shape)
    for number in range(folds):
        inside = fold == number
        others = targets[~inside]
        known = others[~np.isnan(others)]
        if not 0 < known.sum() < len(known):
            logger.warning("no held-out figures: without a fold of patients, all known truth is of one kind")
            return None
        calibrators, _, _ = fit_labels(method, scores[~inside], others, minimum)
        for index, calibrator in enumerate(calibrators):
            result[inside, index] = calibrator.apply(scores[inside, index])
    return result


def flat(calibrator: Calibrator) -> bool:
    """Whether a map is as flat as it may be: the truth falls where the score rises, and the ranking is kept."""
    if isinstance(calibrator, Temperature):
        return calibrator.temperature >= 1 / SLOWEST
    if isinstance(calibrator, Platt):
        return calibrator.slope <= SLOWEST
    return isinstance(calibrator, Beta) and max(calibrator.a, calibrator.b) <= SLOWEST
