"""How far probabilities are from frequencies."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt


def calibration_error(
    probabilities: npt.NDArray[np.floating], targets: npt.NDArray[np.floating], bins: int = 15
) -> npt.NDArray[np.float64]:
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

    def total(values: npt.NDArray[np.floating]) -> npt.NDArray[np.float64]:
        sums = np.bincount(place[known], values[known].astype(np.float64), minlength=labels * bins)
        return sums.reshape(labels, bins).astype(np.float64)

    gap = np.abs(total(probabilities) - total(targets)).sum(axis=1)
    rows = known.sum(axis=0)
    error = np.full(labels, np.nan)
    np.divide(gap, rows, out=error, where=rows > 0)
    return error
