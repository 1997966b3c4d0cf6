"""Patients drawn again: how often each of them counts in each replicate of a data set.

A bootstrap replicate draws as many patients as there are, with replacement, and takes all rows of each as often as it
was drawn (the cluster bootstrap: Davison and Hinkley, Bootstrap Methods and their Application, 1997, §3.8). Rows of a
patient resemble each other, so drawing rows by themselves makes intervals too narrow. A replicate is never built: it
is a column of whole numbers by which rows count.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]

JACKKNIFE = 200
"""Groups of patients left out in turn, for the acceleration of BCa intervals (each patient, where they are fewer).

The third moment over groups has the expectation of that over patients, with a standard error of about 0.65 / groups.
"""

WORD = 64
"""Bits of a machine word, in which lanes lie side by side."""

NARROWEST = 8
"""Bits of the narrowest lane."""

_WORDS_AT_ONCE = 6  # that a thread packs and sums before it derives figures: bounds its memory


@dataclass(frozen=True)
class Resamples:
    """K replicates of a data set of n rows in P clusters.

    The first replicate is the data as they are, then come those of the bootstrap, then those of the jackknife.

    Args:
        cluster: (n,) cluster of each row, 0 to P - 1.
        weights: (K, P) how often a cluster counts.
        drawn: Bootstrap replicates, B; the others after the first are the jackknife's.
        seed: Of the draws.
    """

    cluster: IntArray
    weights: npt.NDArray[np.uint8]
    drawn: int
    seed: int

    @classmethod
    def draw(cls, clusters: npt.ArrayLike, count: int = 1000, seed: int = 0) -> Resamples:
        """Draw replicates.

        Args:
            clusters: (n,) name or number of each row's patient.
            count: B; 0 draws none, and leaves none out.
            seed: Same seed, same patients in the same order, same draws.
        """
        names, cluster = np.unique(np.asarray(clusters), return_inverse=True)
        size = len(names)
        groups = min(size, JACKKNIFE) if count else 0
        weights = np.ones((1 + count + groups, size), np.uint8)
        generator = np.random.default_rng(seed)
        for row in weights[1 : 1 + count]:
            times = np.bincount(generator.integers(size, size=size), minlength=size)
            row[:] = np.minimum(times, 255)  # never reached: a patient drawn 255 times has a chance below 1e-500
        if groups:
            group = generator.permutation(size) % groups
            weights[1 + count + group, np.arange(size)] = 0
        return cls(cluster.astype(np.int64), weights, count, seed)

    @property
    def replicates(self) -> int:
        """K."""
        return len(self.weights)

    @functools.cached_property
    def most(self) -> int:
        """How often any cluster counts in any replicate, at most."""
        return int(self.weights.max(initial=1))

    @property
    def clusters(self) -> int:
        """P."""
        return int(self.weights.shape[1])

    def of_rows(self, rows: npt.NDArray[np.bool_]) -> Resamples:
        """The same replicates for some of the rows (n,)."""
        return replace(self, cluster=self.cluster[rows])

    def parts(self) -> list[slice]:
        """Replicates in parts, each of some whole words of the narrowest lanes."""
        lanes = WORD // NARROWEST
        words = -(-self.replicates // lanes)
        each = max(1, min(_WORDS_AT_ONCE, -(-words // (2 * threads()))))
        return [slice(start * lanes, (start + each) * lanes) for start in range(0, words, each)]

    def packed(self, part: slice, bits: int) -> npt.NDArray[np.uint64]:
        """Weights (words, P) of some replicates, 64 / `bits` of them side by side in each word.

        Sums of such words are the sums of each lane, as long as none overflows: one addition serves several replicates.
        """
        lanes, weights = WORD // bits, self.weights[part]
        words = -(-len(weights) // lanes)
        wide = np.zeros((words, self.clusters, lanes), f"u{bits // 8}")
        for lane in range(lanes):
            chosen = weights[lane::lanes]
            wide[: len(chosen), :, lane] = chosen
        return wide.view(np.uint64)[:, :, 0]


def threads() -> int:
    """Cores that this process may use: those it is bound to, and no more than `OMP_NUM_THREADS` says."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return max(1, min(cores, int(asked))) if asked.isdigit() else cores


def concurrently(work: Callable[[Any], None], items: list[Any]) -> Iterator[None]:
    """Do `work` for each item in as many threads as there are cores; yield once for each that is done."""
    if len(items) < 2 or threads() == 1:
        for item in items:
            work(item)
            yield
        return
    with ThreadPoolExecutor(threads()) as pool:
        for future in as_completed([pool.submit(work, item) for item in items]):
            future.result()
            yield
