"""Differences between models on the same rows: paired resamples, p-values, and which labels were won."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from longview import InputError
from longview.joining import some
from longview.ranking import LabelScores, per_label
from longview.statistics.delong import AreaTest
from longview.statistics.figures import Figures, Track, ranking_figures
from longview.statistics.intervals import Interval, difference_p, holm
from longview.statistics.resampling import Resamples
from longview.truth import Match

logger = logging.getLogger(__name__)

FloatArray = npt.NDArray[np.float64]

ALPHA = 0.05
"""A label is won where its corrected p-value is below this."""

FIGURES = ("ap", "auroc")


@dataclass(frozen=True)
class Aligned:
    """Several models' scores of the same rows and labels.

    Args:
        models: M names.
        names: L label names.
        scores: M of (n, L).
        targets: (n, L).
        clusters: (n,) each row's patient.
        unit: What the clusters are.
        left_out: Labels that some model, or the truth, does not have.
    """

    models: list[str]
    names: list[str]
    scores: list[npt.NDArray[Any]]
    targets: npt.NDArray[np.float64]
    clusters: npt.NDArray[Any]
    unit: str
    left_out: list[str]

    @classmethod
    def of(cls, matches: Mapping[str, Match]) -> Aligned:
        """Bring matches with one truth into one order of rows and labels.

        Args:
            matches: Model -> its match.

        Raises:
            InputError: Where models predicted other rows, or have no label in common.
        """
        models, first = list(matches), next(iter(matches.values()))
        order = np.argsort(first.keys)
        names = [name for name in first.names if all(name in match.names for match in matches.values())]
        scores = []
        for model, match in matches.items():
            _check_rows(models[0], first, model, match)
            place = np.argsort(match.keys)
            scores.append(match.scores[place][:, [match.names.index(name) for name in names]])
        if not names:
            raise InputError(f"{', '.join(models)} have no label in common that the truth holds")
        known = {name: None for match in matches.values() for name in [*match.names, *match.unscored]}
        left_out = [name for name in known if name not in names]
        targets = first.targets[order][:, [first.names.index(name) for name in names]]
        return cls(models, names, scores, targets, first.clusters[order], first.unit, left_out)


def _check_rows(one: str, first: Match, other: str, match: Match) -> None:
    if first.level != match.level:
        raise InputError(
            f"{one} is per {first.level} and {other} per {match.level}, so they cannot be compared row by row; "
            f"predict both alike"
        )
    mine, theirs = set(first.keys), set(match.keys)
    if mine != theirs:
        only = [(one, sorted(mine - theirs)), (other, sorted(theirs - mine))]
        listed = "; ".join(f"only in {name}: {len(keys)} {first.level}s, {some(keys)}" for name, keys in only if keys)
        raise InputError(
            f"{one} and {other} are of different rows, on which figures cannot be compared; {listed}. Predict the same "
            f"part with both, or choose one with --split"
        )


@dataclass(frozen=True)
class Difference:
    """One model's figure less another's.

    Args:
        interval: Value and interval of the difference; the percentile one is shown, with which the p-values agree.
        p: Two-sided (see :func:`longview.statistics.intervals.difference_p`).
        p_percentile: The same from the share of resamples on the other side of 0 alone.
        p_holm: `p` corrected for the comparisons in its family: the labels of a pair, or the pairs of models.
        p_delong: AUROC of labels only: by DeLong's test for clustered rows, uncorrected; else NaN.
    """

    interval: Interval
    p: float
    p_percentile: float
    p_holm: float = float("nan")
    p_delong: float = float("nan")

    @property
    def sign(self) -> int:
        """1 where the first model is better, -1 where the other is, 0 where neither is, after correction."""
        if not self.p_holm < ALPHA:
            return 0
        return 1 if self.interval.value > 0 else -1


@dataclass(frozen=True)
class Pair:
    """Two models, the one with the higher mAP first.

    Args:
        one: A model.
        other: Another.
        means: `ap`, `auroc` -> difference of the means over labels.
        groups: Group -> the same.
        labels: `ap`, `auroc` -> L differences.
    """

    one: str
    other: str
    means: dict[str, Difference]
    groups: dict[str, dict[str, Difference]]
    labels: dict[str, list[Difference]]


@dataclass(frozen=True)
class Comparison:
    """What :func:`compare_models` finds.

    Args:
        aligned: The models, the best mAP first.
        scores: Counts per label.
        figures: Model -> AUROC and AP in all replicates.
        groups: Group -> labels.
        pairs: Every two models.
        resamples: The replicates.
    """

    aligned: Aligned
    scores: LabelScores
    figures: dict[str, Figures]
    groups: dict[str, list[str]]
    pairs: list[Pair]
    resamples: Resamples


def compare_models(
    aligned: Aligned,
    groups: Mapping[str, Sequence[str]],
    *,
    bootstrap: int = 1000,
    seed: int = 0,
    track: Track = lambda steps, _: steps,
) -> Comparison:
    """Score all models on the same resamples, and test every pair.

    Args:
        aligned: Two models or more.
        groups: Group -> label names.
        bootstrap: Resamples, 2 or more.
        seed: Of these.
        track: Shows the progress.

    Raises:
        InputError: Where no label has both positives and negatives.
    """
    resamples = Resamples.draw(aligned.clusters, bootstrap, seed)
    scores = per_label(aligned.scores[0], aligned.targets, aligned.names)
    if not scores.scored.any():
        raise InputError("no label has both positives and negatives among the rows, so nothing can be compared")
    figures = {
        model: ranking_figures(aligned.names, values, aligned.targets, resamples, groups, track=track)
        for model, values in zip(aligned.models, aligned.scores, strict=True)
    }
    ranked = sorted(aligned.models, key=lambda model: -figures[model].overall["map"][0])
    place = [aligned.models.index(model) for model in ranked]
    aligned = Aligned(
        ranked,
        aligned.names,
        [aligned.scores[index] for index in place],
        aligned.targets,
        aligned.clusters,
        aligned.unit,
        aligned.left_out,
    )
    areas = _areas(aligned)
    pairs = [
        _pair(one, other, figures, [area.p_value(ranked.index(one), ranked.index(other)) for area in areas])
        for one, other in itertools.combinations(ranked, 2)
    ]
    given = {group: list(names) for group, names in groups.items()}
    return Comparison(aligned, scores, figures, given, _corrected(pairs), resamples)


def _areas(aligned: Aligned) -> list[AreaTest]:
    """DeLong's test of each label."""
    return [
        AreaTest.of(np.stack([scores[:, column] for scores in aligned.scores], axis=1), truth, aligned.clusters)
        for column, truth in enumerate(aligned.targets.T)
    ]


def _pair(one: str, other: str, figures: Mapping[str, Figures], delong: Sequence[float]) -> Pair:
    """Differences of two models, those of labels corrected for the number of labels."""
    left, right, drawn = figures[one], figures[other], figures[one].drawn
    means = {
        figure: _difference(left.overall[name] - right.overall[name], drawn, sure=bool(left.supported.any()))
        for figure, name in (("ap", "map"), ("auroc", "auroc"))
    }
    groups = {
        group: {
            figure: _difference(found[name] - right.groups[group][name], drawn, sure=left.sure_of(group))
            for figure, name in (("ap", "map"), ("auroc", "auroc"))
        }
        for group, found in left.groups.items()
    }
    labels = {}
    for figure in FIGURES:
        change = left.labels[figure] - right.labels[figure]  # (K, L)
        found = [
            _difference(column, drawn, sure=bool(sure)) for column, sure in zip(change.T, left.supported, strict=True)
        ]
        corrected = holm([item.p for item in found])
        labels[figure] = [
            Difference(item.interval, item.p, item.p_percentile, float(p), area if figure == "auroc" else float("nan"))
            for item, p, area in zip(found, corrected, delong, strict=True)
        ]
    return Pair(one, other, means, groups, labels)


def _difference(replicates: FloatArray, drawn: int, *, sure: bool) -> Difference:
    """Without interval and p-value where there are too few patients to be sure of either."""
    tests = difference_p(replicates, drawn) if sure else (float("nan"), float("nan"))
    return Difference(Interval.of(replicates, drawn, sure=sure), *tests)


def _corrected(pairs: list[Pair]) -> list[Pair]:
    """Means corrected for the number of pairs."""
    corrected = {figure: holm([pair.means[figure].p for pair in pairs]) for figure in FIGURES}
    return [
        Pair(
            pair.one,
            pair.other,
            {
                figure: Difference(found.interval, found.p, found.p_percentile, float(corrected[figure][index]))
                for figure, found in pair.means.items()
            },
            pair.groups,
            pair.labels,
        )
        for index, pair in enumerate(pairs)
    ]
