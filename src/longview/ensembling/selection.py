"""Weights of an ensemble's members, chosen for average precision on validation rows.

Greedy forward selection with replacement (Caruana et al., ICML 2004): begin with nothing, add in each round the member
(again, too) with which the average ranks best, and keep the best of all rounds. A member's weight is how often it was
taken, so weights are not negative and those of useless members are 0. Nothing is random: of equals the first is taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from longview.data.splits import split_patients
from longview.ensembling.combining import FloatArray, Scale, combine, to_scale
from longview.ranking import macro, per_label

ROUNDS = 25
"""Members taken: weights are multiples of 1/25 at the finest, enough where models differ by hundredths."""

_PATIENCE = 8  # rounds without a better average after which no further one is tried


@dataclass(frozen=True)
class Selected:
    """Chosen weights, and what they are worth.

    Args:
        names: L labels.
        weights: (M, L), each label's sum 1.
        shared: (M,) weights of the labels that have none of their own.
        own: Labels with weights of their own.
        figures: Macro AP on the rows: of each member (`members`), of their plain mean (`uniform`), of the weighted mean
            (`fitted`, on the very rows it was fitted on), and of weights fitted on other patients (`held_out`, NaN
            where that was not asked for).
        rows: n.
    """

    names: list[str]
    weights: FloatArray
    shared: FloatArray
    own: list[str]
    figures: dict[str, float | list[float]]
    rows: int


def select(
    scores: Sequence[npt.NDArray[np.floating]],
    targets: FloatArray,
    names: Sequence[str],
    patients: npt.NDArray[np.object_],
    *,
    on: Scale,
    minimum: int | None,
    folds: int,
) -> Selected:
    """Choose weights by macro AP, and say what they are worth on patients that they were not fitted on.

    Args:
        scores: M arrays (n, L) of probabilities.
        targets: (n, L) label values, NaN where unknown.
        names: L labels.
        patients: (n,) patient of each row.
        on: What is averaged.
        minimum: Positives and negatives that a label needs for weights of its own; None: all labels share theirs.
        folds: Parts of the patients for the held-out figure; 0 or 1: none.
    """
    scaled = [to_scale(one, on) for one in scores]
    weights, shared, own = _fit(scaled, targets, minimum)
    uniform = np.ones_like(weights)
    figures: dict[str, float | list[float]] = {
        "members": [mean_ap(one, targets, names) for one in scores],
        "uniform": mean_ap(combine(scores, uniform, on), targets, names),
        "fitted": mean_ap(combine(scores, weights, on), targets, names),
        "held_out": float("nan"),
    }
    if folds > 1:
        held = np.zeros_like(targets)
        parts = split_patients(patients.astype(str), targets, {str(fold): 1 / folds for fold in range(folds)}, seed=0)
        for part in np.unique(parts):
            inside = parts == part
            fitted, _, _ = _fit([one[~inside] for one in scaled], targets[~inside], minimum)
            # ranks are taken over all rows, as they are where weights are used
            held[inside] = np.add.reduce([one[inside] * share for one, share in zip(scaled, fitted, strict=True)])
        figures["held_out"] = mean_ap(held, targets, names)
    own_names = [name for name, is_own in zip(names, own, strict=True) if is_own]
    return Selected(list(names), weights, shared, own_names, figures, len(targets))


def mean_ap(scores: npt.NDArray[np.floating], targets: FloatArray, names: Sequence[str]) -> float:
    """Macro AP over the labels that have positives and negatives."""
    return macro(per_label(scores, targets, names).ap, names)[0]


def _fit(
    scaled: Sequence[FloatArray], targets: FloatArray, minimum: int | None
) -> tuple[FloatArray, FloatArray, npt.NDArray[np.bool_]]:
    """Weights (M, L), those (M,) that all labels share, and which labels (L,) have their own."""
    counts = per_label(scaled[0], targets)
    common = _greedy(scaled, targets, counts.scored)
    weights = np.repeat(common[:, None], targets.shape[1], axis=1)
    own = np.zeros(targets.shape[1], np.bool_)
    if minimum is not None:
        own = counts.scored & (np.minimum(counts.positives, counts.negatives) >= minimum)
        for label in np.flatnonzero(own):
            columns = [one[:, [label]] for one in scaled]
            weights[:, label] = _greedy(columns, targets[:, [label]], np.array([True]))
    return weights, common, own


def _greedy(scaled: Sequence[FloatArray], targets: FloatArray, scored: npt.NDArray[np.bool_]) -> FloatArray:
    """Shares (M,) of the members by their mean AP over the labels that are scored; all alike where none is."""
    members = len(scaled)
    if members == 1 or not scored.any():
        return np.full(members, 1 / members)
    columns, truth = [one[:, scored] for one in scaled], targets[:, scored]
    taken, total = np.zeros(members), np.zeros_like(truth)
    best, best_value, since = taken, -np.inf, 0
    for _ in range(ROUNDS):
        # a sum ranks as its mean does
        values = [float(per_label(total + one, truth).ap.mean()) for one in columns]
        choice = int(np.argmax(values))
        taken = taken + (np.arange(members) == choice)
        total += columns[choice]
        since = 0 if values[choice] > best_value else since + 1
        if since == 0:
            best, best_value = taken, values[choice]
        if since == _PATIENCE:
            break
    return np.asarray(best / best.sum(), np.float64)
