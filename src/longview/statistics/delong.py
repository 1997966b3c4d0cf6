"""Variance of AUROC without resampling: DeLong's, and Obuchowski's for rows that come in clusters.

Sources: DeLong, DeLong and Clarke-Pearson, Biometrics 44, 1988; Obuchowski, Biometrics 53, 1997 (for a patient per
row the two are the same). A check of the bootstrap, in closed form.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

_NORMAL = NormalDist()

MOST_ROWS = 100_000
"""Rows up to which an evaluation has these intervals beside those of its resamples."""


@dataclass(frozen=True)
class AreaTest:
    """AUROCs of M models on the same rows of one label.

    Args:
        auroc: (M,).
        covariance: (M, M) of these; NaN where positives or negatives are of one patient only.
    """

    auroc: FloatArray
    covariance: FloatArray

    @classmethod
    def of(cls, scores: npt.NDArray[Any], targets: npt.NDArray[Any], clusters: npt.ArrayLike | None = None) -> AreaTest:
        """Estimate.

        Args:
            scores: (n, M) finite.
            targets: (n,); those that are not 0 or 1 are masked.
            clusters: (n,) each row's patient; None: each row is its own.
        """
        known = (targets == 0) | (targets == 1)
        names = np.arange(len(targets)) if clusters is None else np.asarray(clusters)
        _, cluster = np.unique(names[known], return_inverse=True)
        scores, positive = scores[known], targets[known] == 1
        models, size = scores.shape[1], int(cluster.max(initial=-1)) + 1
        hits, others = int(positive.sum()), int((~positive).sum())
        if not (hits and others):
            return cls(np.full(models, np.nan), np.full((models, models), np.nan))
        counts = [np.bincount(cluster[mask], minlength=size) for mask in (positive, ~positive)]
        auroc = np.empty(models)
        sums = np.empty((2, models, size))  # of the distances of components from their mean, by patient
        for model in range(models):
            components = _components(scores[:, model], positive)
            auroc[model] = components[0].mean()
            for kind, (mask, values) in enumerate(zip((positive, ~positive), components, strict=True)):
                total = np.bincount(cluster[mask], values, minlength=size)
                sums[kind, model] = total - counts[kind] * auroc[model]
        return cls(auroc, _covariance(sums, counts, (hits, others)))

    def error(self, model: int) -> float:
        """Standard error of one model's AUROC."""
        return float(np.sqrt(self.covariance[model, model]))

    def interval(self, model: int, level: float = 0.95) -> tuple[float, float]:
        """Interval of one model's AUROC, within 0 and 1; NaN where the error is not defined."""
        reach = _NORMAL.inv_cdf((1 + level) / 2) * self.error(model)
        low, high = np.clip((self.auroc[model] - reach, self.auroc[model] + reach), 0, 1)
        return float(low), float(high)

    def p_value(self, one: int, other: int) -> float:
        """Two-sided, that two models' AUROCs are the same; 1 where they never differ."""
        variance = self.covariance[one, one] + self.covariance[other, other] - 2 * self.covariance[one, other]
        distance = abs(self.auroc[one] - self.auroc[other])
        if np.isnan(variance):
            return float("nan")
        if variance <= 1e-18:  # rounding
            return 1.0 if distance <= 1e-9 else 0.0
        return 2 * _NORMAL.cdf(-float(distance / np.sqrt(variance)))


def _components(scores: npt.NDArray[Any], positive: npt.NDArray[np.bool_]) -> tuple[FloatArray, FloatArray]:
    """Share of negatives below each positive, and of positives above each negative; a tie counts half."""
    high, low = np.sort(scores[positive]), np.sort(scores[~positive])
    below = np.searchsorted(low, scores[positive]) + np.searchsorted(low, scores[positive], side="right")
    above = np.searchsorted(high, scores[~positive]) + np.searchsorted(high, scores[~positive], side="right")
    return below / (2 * len(low)), 1 - above / (2 * len(high))


def _covariance(sums: FloatArray, counts: list[IntArray], rows: tuple[int, int]) -> FloatArray:
    """Obuchowski's estimate from sums (2, M, patients), rows per patient and kind, and rows of each kind."""
    models = sums.shape[1]
    patients = [np.count_nonzero(count) for count in counts]
    every = np.count_nonzero(counts[0] + counts[1])
    if min(patients) < 2:
        return np.full((models, models), np.nan)
    hits, others = rows
    within = [
        patients[kind] / ((patients[kind] - 1) * rows[kind]) * sums[kind] @ sums[kind].T for kind in (0, 1)
    ]  # S10, S01
    across = every / (every - 1) * sums[0] @ sums[1].T  # S11
    covariance: FloatArray = within[0] / hits + within[1] / others + (across + across.T) / (hits * others)
    return covariance
