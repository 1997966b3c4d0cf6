"""All figures of an evaluation in all replicates: of labels, of groups of labels, and over all labels."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from longview.ranking import auroc_ap
from longview.statistics.counted import Cells, Summing, cut
from longview.statistics.intervals import Interval
from longview.statistics.ranked import AT_ONCE, Counting, Ranking
from longview.statistics.resampling import Resamples
from longview.statistics.support import BoolArray, supported

FloatArray = npt.NDArray[np.float64]

FIXED = "fixed"
"""The rule whose figures bear no suffix: one threshold for all labels."""

Track = Callable[[Iterable[None], int], Iterable[None]]
"""Iterates over so many steps, showing how far it is."""


@dataclass(frozen=True)
class Figures:
    """Figures of L labels in K replicates; the first replicate is the data as they are.

    Args:
        names: L label names.
        labels: Figure -> (K, L); NaN where a label has not both positives and negatives.
        overall: Figure -> (K,): `map` and `auroc`, the means over labels; `ap_micro`, `auroc_micro`, over all cells;
            `ap_weighted`, `auroc_weighted`, means weighted by positives; the means of all else.
        groups: Group -> figure -> (K,), means over its labels.
        cells: Rule -> `tp`, `fp`, `fn`, `tn` -> (K, L).
        drawn: How many replicates are the bootstrap's.
        supported: (L,) labels that have enough patients for intervals; a mean has one where any of its labels has.
        members: Group -> places of its labels.
        known: Intervals that were asked for already.
    """

    names: list[str]
    labels: dict[str, FloatArray]
    overall: dict[str, FloatArray]
    groups: dict[str, dict[str, FloatArray]]
    cells: dict[str, Cells]
    drawn: int
    supported: BoolArray
    members: dict[str, list[int]]
    known: dict[str, dict[str, Interval]] = field(default_factory=dict, repr=False)

    def of_label(self, name: str) -> dict[str, Interval]:
        """Figure -> value and interval of one label."""
        index = self.names.index(name)
        return self._intervals(f"label {name}", {key: values[:, index] for key, values in self.labels.items()},
                               sure=bool(self.supported[index]))  # fmt: skip

    def over_all(self) -> dict[str, Interval]:
        """Figure -> value and interval over all labels."""
        return self._intervals("all", self.overall, sure=bool(self.supported.any()))

    def of_group(self, name: str) -> dict[str, Interval]:
        """Figure -> value and interval over a group's labels."""
        return self._intervals(f"group {name}", self.groups[name], sure=self.sure_of(name))

    def sure_of(self, group: str) -> bool:
        """Whether a group's means have intervals."""
        return bool(self.supported[self.members[group]].any())

    def _intervals(self, key: str, replicates: Mapping[str, FloatArray], *, sure: bool) -> dict[str, Interval]:
        if key not in self.known:
            self.known[key] = {
                figure: Interval.of(values, self.drawn, sure=sure) for figure, values in replicates.items()
            }
        return self.known[key]


def rankings(
    scores: npt.NDArray[Any], targets: npt.NDArray[Any], resamples: Resamples, *, micro: bool = False
) -> list[Ranking]:
    """Sort each label of scores (n, L); with `micro` also all cells together, as one more."""
    sorted_ = [
        Ranking.of(np.ascontiguousarray(scores[:, column]), targets[:, column], resamples.cluster, resamples.most)
        for column in range(scores.shape[1])
    ]
    if micro:
        each = np.repeat(resamples.cluster, scores.shape[1])
        sorted_.append(Ranking.of(scores.ravel(), targets.ravel(), each, resamples.most))
    return sorted_


def ranking_figures(
    names: Sequence[str],
    scores: npt.NDArray[Any],
    targets: npt.NDArray[Any],
    resamples: Resamples,
    groups: Mapping[str, Sequence[str]],
    *,
    track: Track = lambda steps, _: steps,
) -> Figures:
    """AUROC and AP only, of labels, groups and over all.

    Args:
        names: L label names.
        scores: (n, L).
        targets: (n, L); what is neither 0 nor 1 is masked.
        resamples: Replicates of the n rows.
        groups: Group -> label names; names that are not scored here are passed over.
        track: Shows the progress.
    """
    counting = Counting(rankings(scores, targets, resamples), resamples)
    _walk(counting, track)
    labels = {"auroc": counting.result.auroc, "ap": counting.result.ap}
    overall = {"map": mean(labels["ap"]), "auroc": mean(labels["auroc"])}
    members = _members(names, groups)
    means = _groups(labels, members)
    return Figures(list(names), labels, overall, means, {}, resamples.drawn, supported(targets, resamples), members)


def all_figures(
    names: Sequence[str],
    scores: npt.NDArray[Any],
    targets: npt.NDArray[Any],
    resamples: Resamples,
    groups: Mapping[str, Sequence[str]],
    thresholds: Mapping[str, FloatArray],
    *,
    track: Track = lambda steps, _: steps,
) -> Figures:
    """Every figure (see :class:`Figures`).

    Args:
        names: L label names.
        scores: (n, L) probabilities.
        targets: (n, L); what is neither 0 nor 1 is masked (but soft values count for the Brier score).
        resamples: Replicates of the n rows.
        groups: Group -> label names.
        thresholds: Rule -> (L,); :data:`FIXED` is one of them.
        track: Shows the progress.
    """
    several, count = resamples.replicates > 1, len(names)
    counting = Counting(rankings(scores, targets, resamples, micro=several), resamples, points=True)
    _walk(counting, track)
    summing = Summing(scores, targets, thresholds, resamples)
    _walk(summing, track)
    ranked = counting.result
    labels = {"auroc": ranked.auroc[:, :count], "ap": ranked.ap[:, :count]}
    for rule, cells in summing.cells.items():
        labels |= {_named(figure, rule): values for figure, values in cut(cells).items()}
    labels |= {figure: ranked.points[figure][:, :count] for figure in AT_ONCE}
    labels |= {"brier": summing.brier, "ece": summing.ece}
    overall = {"map": mean(labels["ap"]), "auroc": mean(labels["auroc"])}
    if several:
        overall |= {"ap_micro": ranked.ap[:, -1], "auroc_micro": ranked.auroc[:, -1]}
    else:  # a sort by value costs far less than one that keeps the rows
        auroc, ap = auroc_ap(scores.ravel(), targets.ravel())
        overall |= {"ap_micro": np.array([ap]), "auroc_micro": np.array([auroc])}
    overall |= {f"{figure}_weighted": mean(labels[figure], ranked.positives[:, :count]) for figure in ("ap", "auroc")}
    overall |= {figure: mean(values) for figure, values in labels.items() if figure not in {"ap", "auroc"}}
    for rule, cells in summing.cells.items():
        together = {name: values.sum(axis=1) for name, values in cells.items()}
        overall[_named("f1_micro", rule)] = cut(together)["f1"]
    members = _members(names, groups)
    sure = supported(targets, resamples)
    return Figures(
        list(names), labels, overall, _groups(labels, members), summing.cells, resamples.drawn, sure, members
    )


def mean(values: FloatArray, weights: FloatArray | None = None) -> FloatArray:
    """(K,) mean of (K, L) over the labels that are defined; NaN where none is."""
    known = ~np.isnan(values)
    weights = known.astype(np.float64) if weights is None else np.where(known, weights, 0.0)
    result = np.full(len(values), np.nan)
    total = weights.sum(axis=1)
    np.divide((np.where(known, values, 0) * weights).sum(axis=1), total, out=result, where=total > 0)
    return result


def _members(names: Sequence[str], groups: Mapping[str, Sequence[str]]) -> dict[str, list[int]]:
    place = {name: index for index, name in enumerate(names)}
    return {group: [place[name] for name in members if name in place] for group, members in groups.items()}


def _groups(labels: Mapping[str, FloatArray], members: Mapping[str, Sequence[int]]) -> dict[str, dict[str, FloatArray]]:
    found = {}
    for group, places in members.items():
        inside = list(places)
        means = {figure: mean(values[:, inside]) for figure, values in labels.items()}
        found[group] = {"map": means.pop("ap")} | means
    return found


def _named(figure: str, rule: str) -> str:
    return figure if rule == FIXED else f"{figure}_{rule}"


def _walk(steps: Counting | Summing, track: Track) -> None:
    for _ in track(steps, len(steps)):
        pass
