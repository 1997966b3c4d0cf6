"""Figures that follow from sums over rows: those of a threshold, and of calibration, in any number of replicates.

A replicate's sum is a weighted sum of its patients' sums: one product of matrices serves all replicates.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from longview.statistics.resampling import Resamples, concurrently

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

CUT = ("f1", "mcc", "sensitivity", "specificity", "ppv", "npv")
"""Figures of a threshold; PPV is precision."""

BINS = 15
"""Of equal width, for the expected calibration error."""

_CLUSTERS_AT_ONCE = 8192
_LABELS_AT_ONCE = 8
_OTHERS = 4  # columns beside the bins: positives, negatives, squared distance, rows known

Cells = dict[str, FloatArray]
"""`tp`, `fp`, `fn`, `tn` -> (K, L)."""


class Summing:
    """Sums of L labels in K replicates: iterate over it, a step for each part that is done (for a progress bar).

    Args:
        probabilities: (n, L) in [0, 1].
        targets: (n, L) in [0, 1], NaN where unknown.
        thresholds: Name -> (L,); at least this is positive.
        resamples: K replicates of the n rows.
    """

    def __init__(
        self,
        probabilities: npt.NDArray[Any],
        targets: npt.NDArray[np.floating],
        thresholds: Mapping[str, FloatArray],
        resamples: Resamples,
    ) -> None:
        self.probabilities, self.targets = probabilities, targets
        self.thresholds, self.resamples = thresholds, resamples
        labels = probabilities.shape[1]
        shape = (resamples.replicates, labels)
        self.cells: dict[str, Cells] = {
            rule: {name: np.zeros(shape) for name in ("tp", "fp", "fn", "tn")} for rule in thresholds
        }
        self.brier, self.ece = np.full(shape, np.nan), np.full(shape, np.nan)
        self.parts = [slice(start, start + _LABELS_AT_ONCE) for start in range(0, labels, _LABELS_AT_ONCE)]

    def __len__(self) -> int:
        return len(self.parts)

    def __iter__(self) -> Iterator[None]:
        return concurrently(self._sum, self.parts)

    def _sum(self, part: slice) -> None:
        columns = range(self.probabilities.shape[1])[part]
        sums = [self._of_clusters(column) for column in columns]
        total = self._of_replicates(np.concatenate(sums, axis=1))  # (K, labels x width)
        width = sums[0].shape[1]
        with np.errstate(divide="ignore", invalid="ignore"):
            for place, column in enumerate(columns):
                self._settle(column, total[:, place * width : (place + 1) * width])

    def _of_clusters(self, column: int) -> FloatArray:
        """(P, 4 + 2 per rule + bins) sums of a label over the rows of each patient."""
        values = self.probabilities[:, column].astype(np.float64)
        truth = self.targets[:, column].astype(np.float64)
        positive, negative, known = truth == 1, truth == 0, ~np.isnan(truth)
        hard = positive | negative
        squared = np.where(known, (values - np.where(known, truth, 0)) ** 2, 0)
        masks: list[npt.NDArray[Any]] = [positive, negative, squared, known]
        for thresholds in self.thresholds.values():
            over = values >= thresholds[column]
            masks += [positive & over, negative & over]
        cluster, size = self.resamples.cluster, self.resamples.clusters
        sums = np.empty((size, len(masks) + BINS))
        for place, mask in enumerate(masks):
            chosen = np.flatnonzero(mask)
            weights = mask[chosen].astype(np.float64) if mask.dtype != np.bool_ else None
            sums[:, place] = np.bincount(cluster[chosen], weights, minlength=size)
        bins = np.minimum((self.probabilities[:, column] * BINS).astype(np.int64), BINS - 1)[hard]
        gaps = values[hard] - truth[hard]
        gap = np.bincount(cluster[hard] * BINS + bins, gaps, minlength=size * BINS)
        sums[:, len(masks) :] = gap.reshape(size, BINS)
        return sums

    def _of_replicates(self, sums: FloatArray) -> FloatArray:
        """(K, C) from sums (P, C) of patients; the first replicate, the data as they are, in full precision."""
        used = sums.any(axis=0)
        single = sums[:, used].astype(np.float32)  # counts below 2**24 stay exact
        total = np.zeros((self.resamples.replicates, sums.shape[1]))
        if self.resamples.replicates > 1:
            found = np.zeros((self.resamples.replicates, single.shape[1]))
            for start in range(0, len(single), _CLUSTERS_AT_ONCE):
                stop = start + _CLUSTERS_AT_ONCE
                found += self.resamples.weights[:, start:stop].astype(np.float32) @ single[start:stop]
            total[:, used] = found
        total[0] = sums.sum(axis=0)
        return total

    def _settle(self, column: int, total: FloatArray) -> None:
        positives, negatives = total[:, 0], total[:, 1]
        self.brier[:, column] = total[:, 2] / total[:, 3]  # 0 / 0 where nothing is known: NaN
        for place, cells in enumerate(self.cells.values()):
            hits, alarms = total[:, _OTHERS + 2 * place], total[:, _OTHERS + 2 * place + 1]
            found = {"tp": hits, "fp": alarms, "fn": positives - hits, "tn": negatives - alarms}
            for name, values in found.items():
                cells[name][:, column] = values
        gaps = np.abs(total[:, _OTHERS + 2 * len(self.cells) :]).sum(axis=1)
        self.ece[:, column] = gaps / (positives + negatives)


def cut(cells: Cells) -> dict[str, FloatArray]:
    """Figures of a threshold (:data:`CUT`) -> the shape of the cells.

    NaN without positives or without negatives, and where none is called so (PPV, NPV); MCC is 0 where all are called
    alike, as in scikit-learn.
    """
    tp, fp, fn, tn = (cells[name] for name in ("tp", "fp", "fn", "tn"))
    with np.errstate(divide="ignore", invalid="ignore"):
        called, left = tp + fp, tn + fn
        scale = np.sqrt(called) * np.sqrt(left) * np.sqrt(tp + fn) * np.sqrt(tn + fp)
        found = {
            "f1": 2 * tp / (2 * tp + fp + fn),
            "mcc": np.where(scale > 0, (tp * tn - fp * fn) / scale, 0.0),
            "sensitivity": tp / (tp + fn),
            "specificity": tn / (tn + fp),
            "ppv": tp / called,
            "npv": tn / left,
        }
    both = (tp + fn > 0) & (tn + fp > 0)
    return {name: np.where(both, values, np.nan) for name, values in found.items()}
