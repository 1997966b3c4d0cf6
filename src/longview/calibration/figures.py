"""How far probabilities are from frequencies."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

EDGE = 2.0**-24
"""Distance from 0 and 1 at which a probability is cut before its logarithm is averaged: float32's below 1."""


@dataclass(frozen=True)
class Figures:
    """What says how well L labels are calibrated; NaN for a label whose truth is nowhere known.

    Args:
        ece: (L,) expected calibration error, in [0, 1].
        brier: (L,) mean squared distance of probability and truth, in [0, 1].
        bce: (L,) mean binary cross-entropy, in nats.
    """

    ece: FloatArray
    brier: FloatArray
    bce: FloatArray

    @classmethod
    def of(cls, probabilities: npt.NDArray[np.floating], targets: npt.NDArray[np.floating]) -> Figures:
        """Compute them for probabilities (N, L) and targets (N, L)."""
        return cls(
            calibration_error(probabilities, targets),
            brier_score(probabilities, targets),
            cross_entropy(probabilities, targets),
        )

    def macro(self) -> dict[str, float]:
        """Means over the labels that have any; NaN where none has."""
        return {name: _mean(values) for name, values in self._named()}

    def label(self, index: int) -> dict[str, float]:
        """The figures of one label."""
        return {name: float(values[index]) for name, values in self._named()}

    def _named(self) -> list[tuple[str, FloatArray]]:
        return [("ece", self.ece), ("brier", self.brier), ("bce", self.bce)]


def calibration_error(
    probabilities: npt.NDArray[np.floating], targets: npt.NDArray[np.floating], bins: int = 15
) -> FloatArray:
    """Expected calibration error of each label (Naeini et al. 2015; Guo et al. 2017, arXiv 1706.04599).

    `sum over bins of n_b / n |mean probability - share of positives|`, over bins of equal width, on the probability
    of the label being present (so 0.01 for a label of 1 % is a large error, as it should be).

    Args:
        probabilities: (N, L) in [0, 1].
        targets: (N, L): 1, 0; NaN and soft values are masked.
        bins: Number of bins.

    Returns:
        (L,), NaN where no row is known.
    """
    labels = probabilities.shape[1]
    known = (targets == 0) | (targets == 1)
    place = np.minimum((probabilities * bins).astype(np.int64), bins - 1) + np.arange(labels) * bins  # (N, L)

    def total(values: npt.NDArray[np.floating]) -> FloatArray:
        sums = np.bincount(place[known], values[known].astype(np.float64), minlength=labels * bins)
        return sums.reshape(labels, bins).astype(np.float64)

    gap = np.abs(total(probabilities) - total(targets)).sum(axis=1)
    rows = known.sum(axis=0)
    error = np.full(labels, np.nan)
    np.divide(gap, rows, out=error, where=rows > 0)
    return error


def brier_score(probabilities: npt.NDArray[np.floating], targets: npt.NDArray[np.floating]) -> FloatArray:
    """Mean squared distance of probability and truth of each label (Brier, Monthly Weather Review 78, 1950).

    Args:
        probabilities: (N, L) in [0, 1].
        targets: (N, L) in [0, 1]; NaN is masked, soft values count as they are.

    Returns:
        (L,) in [0, 1], NaN where no row is known.
    """
    return _known_mean((probabilities.astype(np.float64) - targets) ** 2)


def cross_entropy(probabilities: npt.NDArray[np.floating], targets: npt.NDArray[np.floating]) -> FloatArray:
    """Mean binary cross-entropy of each label, in nats.

    Args:
        probabilities: (N, L) in [0, 1]; cut to :data:`EDGE` and 1 - `EDGE`, so that one wrong certainty costs 16.6.
        targets: (N, L) in [0, 1]; NaN is masked, soft values count as they are.

    Returns:
        (L,), NaN where no row is known.
    """
    inside = np.clip(probabilities.astype(np.float64), EDGE, 1 - EDGE)
    return _known_mean(-targets * np.log(inside) - (1 - targets) * np.log1p(-inside))


def _known_mean(values: FloatArray) -> FloatArray:
    """Mean of each column of (N, L) over its values that are not NaN; (L,), NaN where there are none."""
    rows = (~np.isnan(values)).sum(axis=0)
    mean = np.full(values.shape[1], np.nan)
    np.divide(np.nansum(values, axis=0), rows, out=mean, where=rows > 0)
    return mean


def _mean(values: FloatArray) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else math.nan
