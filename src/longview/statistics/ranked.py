"""Rows sorted once by score; AUROC, AP and operating points of any number of replicates follow by counting.

Only the order of the scores matters, and no replicate changes it. So a label's rows are sorted once, and a replicate
is one cumulative sum of weights along that order, read off where positives stand. Eight replicates share a 64-bit
word: the sum may run over from lane to lane, for the difference of two of its values is the sum of the rows between,
which are kept so few that no lane of it overflows. Replicates are shared among threads (NumPy lets go of the
interpreter), and no compiled extension is needed. All counts are whole numbers, and so exact; ties count as
scikit-learn counts them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from longview.statistics.resampling import NARROWEST, WORD, Resamples, concurrently

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

LEVELS = (0.80, 0.90, 0.95)
"""Specificities at which sensitivity is told, and the reverse."""

AT_ONCE = tuple(f"sensitivity_at_specificity_{level:.2f}" for level in LEVELS) + tuple(
    f"specificity_at_sensitivity_{level:.2f}" for level in LEVELS
)
"""Figures of operating points that are chosen on the rows themselves, anew in each replicate."""

_CELLS = 1 << 16  # of a replicates x rows table handled at once: stays in a core's cache
_FEW = 512  # groups up to which comparing all of them costs less than a call per replicate
_SLACK = 1e-9  # of a share: 0.9 of 10 is 9, in spite of rounding


@dataclass(frozen=True)
class Ranking:
    """One label's rows whose truth is 0 or 1, from the highest score to the lowest.

    A group is one distinct score that a positive has; there are G of them, of which T hold other rows too. Rows are
    summed in S segments, cut where a group starts or ends, and wherever a lane might overflow.

    Args:
        bits: Width of a lane.
        order: (n,) cluster of each row.
        hits: (P,) cluster of each positive.
        ends: (S,) place of each segment's last row.
        last: (G,) segment in which a group ends.
        last_hit: (G,) place among the positives of its last.
        tied: (T,) groups of several rows.
        above: (T,) segment that ends where such a group starts; -1 where nothing is above it.
    """

    bits: int
    order: IntArray
    hits: IntArray
    ends: IntArray
    last: IntArray
    last_hit: IntArray
    tied: IntArray
    above: IntArray

    @classmethod
    def of(cls, scores: npt.NDArray[Any], targets: npt.NDArray[Any], cluster: IntArray, most: int) -> Ranking:
        """Sort.

        Args:
            scores: (n,) finite.
            targets: (n,) 1 or 0; what is neither is masked.
            cluster: (n,) each row's, as the replicates know them.
            most: How often a replicate counts a cluster, at most.
        """
        positive = targets == 1
        known = positive | (targets == 0)
        if not known.all():
            scores, positive, cluster = scores[known], positive[known], cluster[known]
        falling = np.argsort(scores)[::-1]
        ranked, positive = scores[falling], positive[falling]
        order = cluster[falling]
        starts = np.flatnonzero(ranked[1:] != ranked[:-1]) + 1
        starts = np.concatenate((np.zeros(min(len(order), 1), np.int64), starts))
        stops = np.append(starts[1:], len(order))[: len(starts)]  # the row after a group's last
        found = np.cumsum(positive)[stops - 1]
        holds = np.diff(found, prepend=0) > 0
        first, stop, last_hit = starts[holds], stops[holds], found[holds] - 1
        bits = _bits(np.diff(last_hit, prepend=-1), most)
        tied = np.flatnonzero(stop - first > 1)
        fit = ((1 << bits) - 1) // most  # rows whose sum fits into a lane
        cuts = np.concatenate((stop, first[tied], np.arange(fit, len(order), fit), [len(order)]))
        ends = np.unique(cuts[cuts > 0]) - 1
        last, above = np.searchsorted(ends, stop - 1), np.searchsorted(ends, first[tied]) - 1
        return cls(bits, order, order[positive], ends, last, last_hit, tied, above)


def _bits(hits: IntArray, most: int) -> int:
    """The narrowest lane that holds the weights of a group's positives (G,), each counted up to `most` times."""
    largest = int(hits.max(initial=1)) * most
    return next(bits for bits in (NARROWEST, 16, 32) if largest < 1 << bits)


@dataclass(frozen=True)
class Ranked:
    """Figures of L rankings in K replicates; NaN where one has no positives, or no negatives.

    Args:
        auroc: (K, L) area under the ROC curve, the probability that a positive ranks over a negative.
        ap: (K, L) average precision, the step-wise sum.
        points: Name in :data:`AT_ONCE` -> (K, L); empty where none was asked for.
        positives: (K, L) positives.
        negatives: (K, L) negatives.
    """

    auroc: FloatArray
    ap: FloatArray
    points: dict[str, FloatArray]
    positives: FloatArray
    negatives: FloatArray

    @classmethod
    def of(cls, rankings: Sequence[Ranking], resamples: Resamples, *, points: bool = False) -> Ranked:
        """Count all replicates."""
        counting = Counting(rankings, resamples, points)
        for _ in counting:
            pass
        return counting.result


class Counting:
    """The work of :meth:`Ranked.of`: iterate over it, a step for each part that is done (for a progress bar).

    Args:
        rankings: L of them.
        resamples: K replicates.
        points: Whether to find the operating points too.
    """

    def __init__(self, rankings: Sequence[Ranking], resamples: Resamples, points: bool = False) -> None:
        self.rankings = rankings
        self.resamples = resamples
        shape = (resamples.replicates, len(rankings))
        self.result = Ranked(
            auroc=np.full(shape, np.nan),
            ap=np.full(shape, np.nan),
            points={name: np.full(shape, np.nan) for name in AT_ONCE if points},
            positives=np.zeros(shape),
            negatives=np.zeros(shape),
        )
        self.parts = resamples.parts()

    def __len__(self) -> int:
        return len(self.parts)

    def __iter__(self) -> Iterator[None]:
        return concurrently(self._count, self.parts)

    def _count(self, part: slice) -> None:
        for bits in {ranking.bits for ranking in self.rankings}:
            columns = [column for column, ranking in enumerate(self.rankings) if ranking.bits == bits]
            packed = self.resamples.packed(part, bits)
            sums = [_Sums.empty(self.rankings[column], len(packed)) for column in columns]
            each = max(1, _CELLS // max(1, *(len(self.rankings[column].order) for column in columns)))
            for start in range(0, len(packed), each):  # labels within: a word's weights stay in a core's cache
                place = slice(start, start + each)
                for column, total in zip(columns, sums, strict=True):
                    total.add(self.rankings[column], packed[place], place)
            rows = np.arange(self.resamples.replicates)[part]
            for column, total in zip(columns, sums, strict=True):
                self._settle(column, total, rows)

    def _settle(self, column: int, sums: _Sums, rows: IntArray) -> None:
        """Figures of the replicates `rows`, in the order in which lanes and words hold them."""
        ranking, result = self.rankings[column], self.result
        lanes = WORD // ranking.bits
        each = max(1, _CELLS // (2 * lanes * max(len(ranking.ends), 1)))
        for start in range(0, len(sums.hits), each):
            some = rows[start * lanes : (start + each) * lanes]
            counts = _Counts.of(ranking, sums, slice(start, start + each), len(some))
            result.positives[some, column], result.negatives[some, column] = counts.positives, counts.negatives
            if not len(ranking.last):
                continue
            with np.errstate(divide="ignore", invalid="ignore"):  # no positives, or no negatives: NaN
                result.auroc[some, column], result.ap[some, column] = counts.auroc_ap()
                for name, values in (counts.points() if result.points else {}).items():
                    result.points[name][some, column] = values


@dataclass(frozen=True)
class _Sums:
    """Packed sums along a ranking, in W words.

    Args:
        rows: (W, S) of each segment.
        hits: (W, G) of each group's positives.
    """

    rows: npt.NDArray[np.uint64]
    hits: npt.NDArray[np.uint64]

    @classmethod
    def empty(cls, ranking: Ranking, words: int) -> _Sums:
        """Room for a ranking's sums."""
        return cls(*(np.zeros((words, size), np.uint64) for size in (len(ranking.ends), len(ranking.last))))

    def add(self, ranking: Ranking, words: npt.NDArray[np.uint64], place: slice) -> None:
        """Sum packed weights (w, P) into the place of these words."""
        if not len(ranking.order):
            return
        total = words.take(ranking.order, axis=1)
        np.cumsum(total, axis=1, out=total)  # may run over; the differences do not
        _differences(total.take(ranking.ends, axis=1), out=self.rows[place])
        hits = words.take(ranking.hits, axis=1)
        if len(ranking.last_hit) == hits.shape[1]:
            self.hits[place] = hits
        else:
            np.cumsum(hits, axis=1, out=hits)
            _differences(hits.take(ranking.last_hit, axis=1), out=self.hits[place])


def _differences(rising: npt.NDArray[np.uint64], out: npt.NDArray[np.uint64]) -> None:
    """Differences along the rows of (w, S), the first from 0."""
    out[:, :1] = rising[:, :1]
    np.subtract(rising[:, 1:], rising[:, :-1], out=out[:, 1:])


@dataclass(frozen=True)
class _Counts:
    """Counts in R replicates at G groups, from the highest score.

    Args:
        new: (R, G) positives with the group's score.
        hits: (R, G) positives at or above it.
        called: (R, G) rows at or above it.
        above: (R, T) rows above it, for the groups of several rows.
        tied: (T,) these groups.
        positives: (R,).
        negatives: (R,).
    """

    new: FloatArray
    hits: FloatArray
    called: FloatArray
    above: FloatArray
    tied: IntArray
    positives: FloatArray
    negatives: FloatArray

    @classmethod
    def of(cls, ranking: Ranking, sums: _Sums, place: slice, replicates: int) -> _Counts:
        """Take the lanes of some words apart; the last word may hold fewer replicates than lanes."""
        called = _unpacked(sums.rows[place], ranking.bits, replicates)
        np.cumsum(called, axis=1, out=called)
        new = _unpacked(sums.hits[place], ranking.bits, replicates)
        hits = np.cumsum(new, axis=1)
        zero = np.zeros((replicates, 1), np.int64)
        positives = (hits if hits.shape[1] else zero)[:, -1].astype(np.float64)
        rows = (called if called.shape[1] else zero)[:, -1]
        above = called.take(np.maximum(ranking.above, 0), axis=1)
        above[:, ranking.above < 0] = 0
        if len(ranking.last) != called.shape[1]:
            called = called.take(ranking.last, axis=1)
        return cls(
            new.astype(np.float64),
            hits.astype(np.float64),
            called.astype(np.float64),
            above.astype(np.float64),
            ranking.tied,
            positives,
            rows - positives,
        )

    def auroc_ap(self) -> tuple[FloatArray, FloatArray]:
        """AUROC (R,): one minus the share of pairs in the wrong order, a tie counting half. AP (R,): mean precision."""
        lost = np.einsum("rg,rg->r", self.new, self.called - self.hits)
        if len(self.tied):
            # called - hits counts negatives of the same score as lost; half of that is taken back
            new = self.new[:, self.tied]
            lost -= np.einsum("rt,rt->r", new, self.called[:, self.tied] - self.above - new) / 2
        auroc = 1 - lost / (self.positives * self.negatives)
        precision = np.maximum(self.called, 1)
        np.divide(self.hits, precision, out=precision)
        ap = np.einsum("rg,rg->r", self.new, precision) / self.positives
        ap[self.negatives == 0] = np.nan
        return auroc, ap

    def points(self) -> dict[str, FloatArray]:
        """Name in :data:`AT_ONCE` -> (R,), at the best threshold that reaches the level."""
        alarms = self.called - self.hits
        rows = np.arange(len(alarms))
        found = {}
        for level, name in zip(LEVELS, AT_ONCE, strict=False):
            allowed = self.negatives - np.ceil(level * self.negatives - _SLACK * self.negatives)
            group = _first_over(alarms, allowed) - 1  # the last group with so few false alarms
            found[name] = np.where(group >= 0, self.hits[rows, np.maximum(group, 0)], 0) / self.positives
        for level, name in zip(LEVELS, AT_ONCE[len(LEVELS) :], strict=True):
            needed = np.ceil(level * self.positives - _SLACK * self.positives)
            group = _first_over(self.hits, needed - 0.5)  # whole numbers: the first that reaches it
            found[name] = 1 - alarms[rows, np.minimum(group, alarms.shape[1] - 1)] / self.negatives
        both = (self.positives > 0) & (self.negatives > 0)
        return {name: np.where(both, values, np.nan) for name, values in found.items()}


def _first_over(rising: FloatArray, limits: FloatArray) -> IntArray:
    """(R,) first place in each row of (R, G), which never falls, whose value is over the row's limit; else G."""
    if rising.shape[1] <= _FEW:
        count: IntArray = (rising <= limits[:, None]).sum(axis=1, dtype=np.int64)
        return count
    places = [np.searchsorted(row, limit, side="right") for row, limit in zip(rising, limits, strict=True)]
    return np.array(places, np.int64)


def _unpacked(words: npt.NDArray[np.uint64], bits: int, replicates: int) -> IntArray:
    """The first lanes (replicates, S) of words (W, S)."""
    lanes = WORD // bits
    apart = words.view(f"u{bits // 8}").reshape(len(words), words.shape[1], lanes)
    result = np.empty((len(words), lanes, words.shape[1]), np.int64)
    result[:] = apart.transpose(0, 2, 1)
    return result.reshape(len(words) * lanes, words.shape[1])[:replicates]
