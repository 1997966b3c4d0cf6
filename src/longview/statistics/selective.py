"""The area under the risk-coverage curve in all replicates of a data set."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from longview.statistics.resampling import Resamples, concurrently

FloatArray = npt.NDArray[np.float64]

_CELLS = 2**15  # rows times replicates that are worked on at once: they should stay in the processor's cache


def aurc_replicates(errors: npt.NDArray[Any], uncertainty: npt.NDArray[Any], resamples: Resamples) -> FloatArray:
    """AURC (K, L) of L labels in K replicates: the mean risk over all coverages, the most certain rows kept first.

    A row that counts w times is w rows of equal uncertainty, and such rows stand in no order. Of W rows with mean error
    m after N rows with errors of sum E, the j-th step has the risk (E + j m) / (N + j) = m + (E - N m) / (N + j); the
    sum over j is W m + (E - N m) (H(N + W) - H(N)), with H the harmonic numbers.

    Args:
        errors: (n, L), not negative; NaN where a row does not count for a label.
        uncertainty: (n, L), larger for less certain; NaN as above.
        resamples: Replicates of the n rows.

    Returns:
        NaN where a label has no row.
    """
    result = np.full((resamples.replicates, errors.shape[1]), np.nan)
    most = int(resamples.weights.astype(np.int64)[:, resamples.cluster].sum(axis=1).max()) if len(errors) else 0
    harmonic = np.concatenate([[0.0], np.cumsum(1 / np.arange(1, most + 1))])

    def work(column: int) -> None:
        result[:, column] = _of_label(errors[:, column], uncertainty[:, column], resamples, harmonic)

    for _ in concurrently(work, list(range(errors.shape[1]))):
        pass
    return result


def _of_label(
    error: npt.NDArray[Any], doubt: npt.NDArray[Any], resamples: Resamples, harmonic: FloatArray
) -> FloatArray:
    """AURC (K,) of one label."""
    result = np.full(resamples.replicates, np.nan)
    known = np.flatnonzero(np.isfinite(error) & np.isfinite(doubt))
    if not len(known):
        return result
    rows = known[np.argsort(doubt[known], kind="stable")]
    values, clusters = np.asarray(error[rows], np.float64), resamples.cluster[rows]
    tied = _ties(doubt[rows])
    step = max(1, _CELLS // len(rows))
    for start in range(0, resamples.replicates, step):
        count = np.take(resamples.weights[start : start + step], clusters, axis=1).astype(np.float64)  # (k, n)
        sums, mean = count * values, values
        if len(tied.rows):
            mean = _shared(count, sums, values, tied)
            sums = count * mean
        kept = np.cumsum(count, axis=1)
        before = np.cumsum(sums, axis=1)
        total = before[:, -1].copy()
        before -= sums
        kept -= count
        before -= kept * mean  # E - N m
        kept += count
        steps = np.diff(np.take(harmonic, kept.astype(np.intp)), axis=1, prepend=0.0)
        area = total + np.einsum("ij,ij->i", before, steps)
        np.divide(area, kept[:, -1], out=result[start : start + step], where=kept[:, -1] > 0)
    return result


class _Ties(NamedTuple):
    """Rows of equal uncertainty: their places, where each group of them starts among these, and its size."""

    rows: npt.NDArray[np.intp]
    starts: npt.NDArray[np.intp]
    sizes: npt.NDArray[np.intp]


def _ties(doubt: npt.NDArray[Any]) -> _Ties:
    """Groups of two or more in sorted uncertainties (n,)."""
    sizes = np.diff(np.append(np.flatnonzero(np.diff(doubt, prepend=-np.inf)), len(doubt)))
    several = sizes[sizes > 1]
    return _Ties(np.flatnonzero(np.repeat(sizes > 1, sizes)), np.cumsum(several) - several, several)


def _shared(count: FloatArray, sums: FloatArray, values: FloatArray, tied: _Ties) -> FloatArray:
    """Errors (k, n) in which rows of equal uncertainty have the mean of theirs, so that they stand in no order."""
    counted, summed = (np.add.reduceat(part[:, tied.rows], tied.starts, axis=1) for part in (count, sums))
    result = np.tile(values, (len(count), 1))
    result[:, tied.rows] = np.repeat(summed / np.maximum(counted, 1), tied.sizes, axis=1)
    return result
