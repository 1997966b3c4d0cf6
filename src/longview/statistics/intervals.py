"""Intervals from replicates: percentile, and bias-corrected and accelerated (BCa).

Average precision of a label with few positives comes out too high in resamples, in which they stand twice; the mean
over a long tail of labels inherits that, and percentile intervals of it lie too high. BCa intervals correct most of
it (benchmarks/coverage.py), so they are what is shown.

Source: Efron, Better bootstrap confidence intervals, J. Am. Stat. Assoc. 82, 1987, equations 2.3 and 6.6; the
acceleration from a jackknife over groups of patients (Efron and Tibshirani, An Introduction to the Bootstrap, 1993,
equation 14.15).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

LEVEL = 0.95
"""How often intervals should hold the true value."""

_NORMAL = NormalDist()


@dataclass(frozen=True)
class Interval:
    """A figure and how sure it is; NaN where not defined.

    Args:
        value: On the data as they are.
        low: End of the interval that is shown: BCa, or percentile where all replicates are on one side of the value.
        high: (the same)
        percentile_low: 2.5 % quantile of the bootstrap replicates.
        percentile_high: 97.5 % quantile.
        error: Standard error: their standard deviation.
        undefined: Replicates without the figure, as of a label that lacks positives or negatives there.
    """

    value: float
    low: float
    high: float
    percentile_low: float
    percentile_high: float
    error: float
    undefined: int

    @classmethod
    def of(cls, replicates: FloatArray, drawn: int, *, sure: bool = True) -> Interval:
        """From a figure's (K,) replicates.

        Args:
            replicates: The data as they are, then the bootstrap's, then the jackknife's.
            drawn: How many are the bootstrap's.
            sure: Whether there is enough for an interval (:func:`longview.statistics.support.supported`).
        """
        value, boot, left_out = float(replicates[0]), replicates[1 : 1 + drawn], replicates[1 + drawn :]
        known = np.sort(boot[~np.isnan(boot)])
        undefined = drawn - len(known)
        if not sure or not len(known) or np.isnan(value):
            nan = float("nan")
            return cls(value, nan, nan, nan, nan, nan, undefined)
        tail = (1 - LEVEL) / 2
        low, high = (float(end) for end in np.quantile(known, (tail, 1 - tail)))
        corrected = _bca(value, known, left_out[~np.isnan(left_out)], tail) or (low, high)
        error = float(known.std(ddof=1)) if len(known) > 1 else float("nan")
        return cls(value, *corrected, low, high, error, undefined)

    def entries(self) -> dict[str, float | int]:
        """By name, for JSON and tables."""
        return asdict(self)


def acceleration(left_out: FloatArray) -> float:
    """Skewness of a figure's values without each group of patients, over 6; 0 where they are all the same."""
    if not len(left_out):
        return 0.0
    distance = left_out.mean() - left_out
    scale = float(np.sum(distance**2)) ** 1.5
    return float(np.sum(distance**3)) / (6 * scale) if scale > 0 else 0.0


def _bca(value: float, known: FloatArray, left_out: FloatArray, tail: float) -> tuple[float, float] | None:
    """Quantiles of sorted replicates, at levels that bias and skewness shift; None where these are not defined."""
    close = 1e-12 * max(1.0, abs(value))  # sums in another order differ in their last digits
    below = np.count_nonzero(known < value - close)
    equal = np.count_nonzero(np.abs(known - value) <= close)
    share = (below + equal / 2) / len(known)
    if not 0 < share < 1:
        return None
    bias, skew = _NORMAL.inv_cdf(share), acceleration(left_out)
    levels = []
    for level in (tail, 1 - tail):
        shifted = bias + _NORMAL.inv_cdf(level)
        rest = 1 - skew * shifted
        if rest <= 0:
            return None
        levels.append(_NORMAL.cdf(bias + shifted / rest))
    low, high = np.quantile(known, levels)
    return float(low), float(high)


def holm(p_values: npt.ArrayLike) -> FloatArray:
    """P-values corrected for their number (Holm, Scand. J. Stat. 6, 1979); NaN stays and does not count.

    Args:
        p_values: (m,).
    """
    values = np.asarray(p_values, np.float64)
    result = np.full(len(values), np.nan)
    known = np.flatnonzero(~np.isnan(values))
    order = known[np.argsort(values[known], kind="stable")]
    steps = np.arange(len(order), 0, -1)
    result[order] = np.minimum(np.maximum.accumulate(values[order] * steps), 1) if len(order) else []
    return result


def difference_p(replicates: FloatArray, drawn: int) -> tuple[float, float]:
    """Two-sided p-values of a difference's (K,) replicates against 0; NaN where it is not defined.

    The first is the larger of two: that of the difference over its standard error (as in pROC's bootstrap test: Robin
    et al., BMC Bioinformatics 12, 2011), which can be small enough to survive a correction for many labels, and twice
    the share of replicates on the other side of 0, so that it never contradicts the percentile interval. The second
    is that share alone, with one replicate added on either side; it is at least 2 / (B + 1).
    """
    value, boot = float(replicates[0]), replicates[1 : 1 + drawn]
    known = boot[~np.isnan(boot)]
    if np.isnan(value) or len(known) < 2:
        return float("nan"), float("nan")
    side = min(np.count_nonzero(known <= 0), np.count_nonzero(known >= 0))
    share = min(1.0, 2 * (side + 1) / (len(known) + 1))
    error = float(known.std(ddof=1))
    if error <= 1e-12:  # rounding of equal figures
        return (1.0, 1.0) if abs(value) <= 1e-12 else (0.0, share)
    normal = 2 * _NORMAL.cdf(-abs(value) / error)
    return max(normal, min(1.0, 2 * side / len(known))), share
