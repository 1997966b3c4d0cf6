"""Exact AUROC and average precision of many labels, ties included, in one sort per label.

A score and its label are packed into one unsigned integer whose order is that of the scores: the bits of a
non-negative IEEE 754 number, read as an integer, rise with the number and never use the sign bit, so
`bits << 1 | label` fits the same word. Sorting such keys *by value* costs a fraction of an argsort and a
gather, and both metrics follow from where the positives end up. Negative scores are packed by magnitude in a
half of their own, so any finite score is ranked exactly. Rows that cannot interleave with a positive are only
counted: a label of the tail sorts next to nothing.

Labels that are unknown (NaN) or soft (between 0 and 1) are masked and counted. A label without positives or
without negatives has no AUROC and no meaningful average precision: both are NaN, means leave it out, and
:func:`summarise` names it.

Sources: AUROC is the Mann-Whitney statistic (Hanley and McNeil, Radiology 143, 1982); average precision is
the step-wise sum over distinct thresholds, without interpolation, as in scikit-learn.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, TypedDict

import numpy as np
import numpy.typing as npt

from longview import InputError

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

_COLUMNS_AT_ONCE = 8  # labels made contiguous together: whole cache lines are read, little extra memory is held
_KEY = {4: np.uint32, 8: np.uint64}  # bytes of a score -> type of its key
_SIEVE_FROM = 4096  # rows from which the sieve costs less than the sorting it saves
_SAMPLE = 256  # rows looked at to see whether scores share few values, and so need few buckets
_FEW_BUCKETS = 12  # 2**12 buckets: enough to keep some hundred evenly spaced values apart
_MOST_BUCKETS = 20  # 2**20 buckets: beyond, they no longer fit a core's cache; float32 still spreads over them


@dataclass(frozen=True)
class LabelScores:
    """Counts and metrics of L labels.

    Args:
        positives: (L,) rows with value 1.
        negatives: (L,) rows with value 0.
        unknown: (L,) rows that say nothing (NaN); masked.
        soft: (L,) rows with a value between 0 and 1; masked, since ranking metrics need a yes or a no.
        auroc: (L,) area under the ROC curve; NaN without positives or without negatives.
        ap: (L,) average precision; NaN in the same cases.
    """

    positives: IntArray
    negatives: IntArray
    unknown: IntArray
    soft: IntArray
    auroc: FloatArray
    ap: FloatArray

    @property
    def prevalence(self) -> FloatArray:
        """(L,) share of positives among the rows that are 0 or 1: the AP of a random ranking; else NaN."""
        total = (self.positives + self.negatives).astype(np.float64)
        share = np.full(len(total), np.nan)
        np.divide(self.positives, total, out=share, where=total > 0)
        return share

    @property
    def scored(self) -> npt.NDArray[np.bool_]:
        """(L,) labels that have both kinds."""
        return (self.positives > 0) & (self.negatives > 0)


class Summary(TypedDict):
    """Macro means over the labels that have both kinds; NaN where there is no such label."""

    map: float
    auroc: float
    map_head: float
    map_medium: float
    map_tail: float
    skipped: list[str]


def auroc_ap(scores: npt.ArrayLike, labels: npt.ArrayLike) -> tuple[float, float]:
    """AUROC and average precision of one label.

    Args:
        scores: (n,) finite scores, probabilities or logits; higher means more likely present.
        labels: (n,) 1 present, 0 absent; NaN and values between are masked.

    Returns:
        AUROC and average precision, each NaN without positives or without negatives.

    Raises:
        InputError: For shapes that do not fit, scores that are not finite, labels outside [0, 1].
    """
    column = per_label(np.asarray(scores)[:, None], np.asarray(labels)[:, None])
    return float(column.auroc[0]), float(column.ap[0])


def per_label(scores: npt.ArrayLike, targets: npt.ArrayLike, names: Sequence[str] | None = None) -> LabelScores:
    """Counts, AUROC and average precision of each of L labels.

    Args:
        scores: (n, L) finite scores; float32 is ranked in 32-bit keys, which sort about twice as fast.
        targets: (n, L) label values: 1, 0, NaN (unknown) or a value between (soft); bool and int work too.
        names: L label names, for error messages.

    Raises:
        InputError: For shapes that do not fit, scores that are not finite, values outside [0, 1]; names the
            label and the count.
    """
    score, target = _as_float(scores), np.asarray(targets)
    if score.ndim != 2 or score.shape != target.shape:
        raise InputError(f"scores {score.shape} and targets {target.shape} must both be (rows, labels)")
    names = list(names) if names is not None else [f"label {column}" for column in range(score.shape[1])]
    if len(names) != score.shape[1]:
        raise InputError(f"{len(names)} label names for {score.shape[1]} columns of scores")
    counts = np.zeros((4, len(names)), np.int64)  # positives, negatives, unknown, soft
    metrics = np.full((2, len(names)), np.nan)
    for column, values, truth in _columns(score, target):
        positive = truth == 1
        known = positive | (truth == 0)
        if not np.isfinite(values).all():
            count = int((~np.isfinite(values)).sum())
            raise InputError(f"{count} scores of label {names[column]!r} are NaN or infinite; nothing can rank them")
        rows, hits = len(truth), int(np.count_nonzero(positive))
        hard = int(np.count_nonzero(known))
        counts[:2, column] = hits, hard - hits
        if hard < rows:
            counts[2:, column] = _count_masked(truth, names[column])
        if 0 < hits < hard == rows:
            metrics[:, column] = _rank(values, positive)
        elif 0 < hits < hard:
            metrics[:, column] = _rank(values[known], positive[known])
    return LabelScores(counts[0], counts[1], counts[2], counts[3], metrics[0], metrics[1])


def macro(values: npt.ArrayLike, names: Sequence[str]) -> tuple[float, list[str]]:
    """Mean over the labels whose value is defined.

    Args:
        values: (L,) AUROC or AP, NaN where undefined.
        names: L label names.

    Returns:
        The mean (NaN where no label has a value) and the names of the labels left out.
    """
    array = np.asarray(values, np.float64)
    defined = ~np.isnan(array)
    mean = float(array[defined].mean()) if defined.any() else float("nan")
    return mean, [name for name, known in zip(names, defined, strict=True) if not known]


def group_means(values: npt.ArrayLike, names: Sequence[str], groups: Mapping[str, Sequence[str]]) -> dict[str, float]:
    """Mean over the labels of each group that are defined.

    Args:
        values: (L,) AUROC or AP, NaN where undefined.
        names: L label names.
        groups: Group -> label names, as :func:`longview.labels.groups` gives them; names that are not scored
            here are passed over.

    Returns:
        Group -> mean, NaN for a group without a defined label.
    """
    array, place = np.asarray(values, np.float64), {name: index for index, name in enumerate(names)}
    means = {}
    for group, members in groups.items():
        inside = [place[name] for name in members if name in place]
        means[group] = macro(array[inside], [names[index] for index in inside])[0]
    return means


def summarise(names: Sequence[str], scores: LabelScores, groups: Mapping[str, Sequence[str]] | None = None) -> Summary:
    """Macro means over all labels and over head, medium and tail.

    Args:
        names: L label names.
        scores: Metrics of these labels.
        groups: `head`, `medium`, `tail` -> label names; None where training counts are not known.

    Returns:
        `map`, `auroc`, `map_head`, `map_medium`, `map_tail` (floats, NaN where no label counts) and
        `skipped`, the names of the labels without positives or without negatives.
    """
    mean_ap, skipped = macro(scores.ap, names)
    means = group_means(scores.ap, names, groups or {})
    return Summary(
        map=mean_ap,
        auroc=macro(scores.auroc, names)[0],
        map_head=means.get("head", float("nan")),
        map_medium=means.get("medium", float("nan")),
        map_tail=means.get("tail", float("nan")),
        skipped=skipped,
    )


def _as_float(scores: npt.ArrayLike) -> npt.NDArray[Any]:
    """Scores as float32 or float64, whichever holds them exactly."""
    array = np.asarray(scores)
    if array.dtype in (np.float32, np.float64):
        return array
    return array.astype(np.float32 if array.dtype == np.float16 else np.float64)


def _columns(
    scores: npt.NDArray[Any], targets: npt.NDArray[Any]
) -> Iterator[tuple[int, npt.NDArray[Any], npt.NDArray[Any]]]:
    """Yield (index, scores (n,), targets (n,)) of each label, contiguous in memory."""
    for start in range(0, scores.shape[1], _COLUMNS_AT_ONCE):
        stop = start + _COLUMNS_AT_ONCE
        block = np.ascontiguousarray(scores[:, start:stop].T)  # (8, n)
        truth = np.ascontiguousarray(targets[:, start:stop].T)
        for offset in range(len(block)):
            yield start + offset, block[offset], truth[offset]


def _count_masked(truth: npt.NDArray[Any], name: str) -> tuple[int, int]:
    """Numbers of unknown and of soft values; the rest must be 0 or 1."""
    unknown = int(np.count_nonzero(np.isnan(truth)))
    soft = int(np.count_nonzero((truth > 0) & (truth < 1)))
    outside = int(np.count_nonzero((truth < 0) | (truth > 1)))
    if outside:
        raise InputError(
            f"{outside} values of label {name!r} are outside 0 to 1; give 1, 0, a value between, or NaN "
            f"where nothing is known"
        )
    return unknown, soft


class _Places(NamedTuple):
    """Where the positives stand: one entry, in any order, for each of G distinct scores of positives."""

    size: IntArray  # (G,) positives with the score
    hits_below: IntArray  # (G,) positives with a lower score
    below: IntArray  # (G,) negatives with a lower score
    equal: IntArray  # (G,) negatives with the same score


_NOWHERE = _Places(*(np.zeros(0, np.int64) for _ in range(4)))


def _joined(one: _Places, other: _Places) -> _Places:
    return _Places(*(np.concatenate(pair) for pair in zip(one, other, strict=True)))


def _rank(scores: npt.NDArray[Any], positive: npt.NDArray[np.bool_]) -> tuple[float, float]:
    """AUROC and AP from finite scores (n,) and labels (n,) that hold both kinds."""
    places = _places(scores, positive)
    hits = int(np.sum(places.size))
    negatives = len(scores) - hits
    # twice the Mann-Whitney count, in integers: exact, and far from overflow at any size that fits in memory
    wins = int(np.sum(places.size * (2 * places.below + places.equal)))
    called = len(scores) - places.hits_below - places.below  # rows called positive at each threshold
    precision = (hits - places.hits_below) / called
    return wins / (2 * hits * negatives), float(np.sum(places.size * precision) / hits)


def _places(scores: npt.NDArray[Any], positive: npt.NDArray[np.bool_]) -> _Places:
    """Places of the positives among all rows, for scores of either sign."""
    negative = scores < 0  # False for -0.0, which ties with 0.0
    if not negative.any():
        return _places_of_half(scores, positive)
    low = _places_of_half(-scores[negative], positive[negative])  # by magnitude, so in falling order of the score
    high = _places_of_half(scores[~negative], positive[~negative])
    rows, hits = int(np.count_nonzero(negative)), int(np.sum(low.size))
    risen = low._replace(hits_below=hits - low.hits_below - low.size, below=rows - hits - low.below - low.equal)
    high = high._replace(hits_below=high.hits_below + hits, below=high.below + (rows - hits))
    return _joined(risen, high)


def _places_of_half(scores: npt.NDArray[Any], positive: npt.NDArray[np.bool_]) -> _Places:
    """Places of the positives among rows with scores >= 0, from one sort of the keys that matter."""
    if not positive.any():
        return _NOWHERE
    sieve = _sieve(scores, positive) if len(scores) >= _SIEVE_FROM else None
    if sieve is not None:
        scores, positive = scores[sieve.near], positive[sieve.near]
        if not len(scores):
            return sieve.settled
    keys = (scores + scores.dtype.type(0)).view(_KEY[scores.itemsize])  # + 0.0 turns -0.0 into 0.0
    keys <<= 1
    keys |= positive
    keys.sort()
    at = np.flatnonzero((keys & 1).astype(np.bool_))  # (P,) positives; in a tie they come after the negatives
    hits = keys[at]
    first = np.flatnonzero(np.concatenate(([True], hits[1:] != hits[:-1])))  # (G,) first of each distinct score
    size = np.diff(first, append=len(hits))
    hits, start = hits[first], at[first]
    tied = np.flatnonzero((start > 0) & (keys[start - 1] == (hits ^ 1)))  # a negative of the same score before it
    start[tied] = np.searchsorted(keys, hits[tied] ^ 1)
    places = _Places(size, first, below=start - first, equal=at[first] - start)
    return places if sieve is None else sieve.put_back(places, (hits >> 1).view(scores.dtype))


@dataclass(frozen=True)
class _Sieve:
    """Rows that must be sorted, and what the others amount to."""

    near: IntArray  # rows whose order matters
    settled: _Places  # of the positives among the others
    lowest: np.floating[Any]
    scale: np.floating[Any]
    hits: IntArray  # (buckets,) positives left out of the sort, in this bucket or a lower one
    others: IntArray  # (buckets,) negatives left out, likewise

    def put_back(self, places: _Places, scores: npt.NDArray[Any]) -> _Places:
        """Places among all rows, from those among the sorted rows and their scores (G,)."""
        bucket = _buckets(scores, self.lowest, self.scale)
        below, hits_below = places.below + self.others[bucket], places.hits_below + self.hits[bucket]
        return _joined(places._replace(below=below, hits_below=hits_below), self.settled)


def _sieve(scores: npt.NDArray[Any], positive: npt.NDArray[np.bool_]) -> _Sieve | None:
    """Find the rows whose order matters; None where the scores cannot be spread over buckets.

    Negatives between two positives need no order of their own: counting them is enough. A label of the tail
    has few positives, so nearly all rows drop out before the sort. Where many remain, buckets that hold a
    single score (scores in half precision share few values) are settled by counting too. The bucket is a
    monotone function of the score (a difference, a product and a cut, each rounded monotonically), so all
    counts are exact.
    """
    sample = np.sort(scores[:: len(scores) // _SAMPLE])
    few = 2 * np.count_nonzero(sample[1:] != sample[:-1]) < _SAMPLE  # a guess, on which only the time depends
    count = 1 << (_FEW_BUCKETS if few else min(len(scores).bit_length(), _MOST_BUCKETS))
    lowest, highest = scores.min(), scores.max()
    with np.errstate(over="ignore", divide="ignore"):
        scale = scores.dtype.type((count - 1) / (np.float64(highest) - np.float64(lowest)))
    if not np.isfinite(scale):
        return None  # a constant column, or a range too small to divide by
    bucket = _buckets(scores, lowest, scale)
    occupied = np.zeros(count, np.bool_)
    hit = bucket[np.flatnonzero(positive)]  # twice as fast as by the mask
    occupied[hit] = True
    others = np.bincount(bucket, minlength=count)  # where no positive is, these are the negatives
    near = occupied[bucket]
    settled, hits_left_out = _NOWHERE, np.zeros(count, np.int64)
    if 2 * np.count_nonzero(near) > len(scores):
        hits = np.bincount(hit, minlength=count)
        others -= hits
        single = _single_scores(scores, bucket, count)
        settled = _places_of_buckets(np.flatnonzero(occupied & single), hits, others)
        occupied &= ~single
        near = occupied[bucket]
        hits_left_out = np.cumsum(np.where(occupied, 0, hits))
    others_left_out = np.cumsum(np.where(occupied, 0, others))
    return _Sieve(np.flatnonzero(near), settled, lowest, scale, hits_left_out, others_left_out)


def _single_scores(scores: npt.NDArray[Any], bucket: npt.NDArray[np.intp], count: int) -> npt.NDArray[np.bool_]:
    """(buckets,) whether all rows of a bucket have one score."""
    one = np.zeros(count, scores.dtype)
    one[bucket] = scores
    single = np.ones(count, np.bool_)
    single[bucket[one[bucket] != scores]] = False
    return single


def _places_of_buckets(which: IntArray, hits: IntArray, others: IntArray) -> _Places:
    """Places of the positives in buckets that hold a single score, from positives and negatives per bucket."""
    hits_below, below = np.cumsum(hits) - hits, np.cumsum(others) - others
    return _Places(hits[which], hits_below[which], below[which], others[which])


def _buckets(scores: npt.NDArray[Any], lowest: np.floating[Any], scale: np.floating[Any]) -> npt.NDArray[np.intp]:
    """Bucket of each score; a higher score never has a lower bucket."""
    buckets: npt.NDArray[np.intp] = ((scores - lowest) * scale).astype(np.intp)
    return buckets
