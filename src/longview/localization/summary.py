"""Figures over films: per label and over labels, with intervals, and differences between members."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from longview import InputError
from longview.localization import ranked, scores
from longview.localization.annotated import Truth
from longview.localization.boxes import Box
from longview.localization.localising import OnFilm
from longview.statistics.intervals import Interval, difference_p
from longview.statistics.resampling import Resamples
from longview.statistics.support import LEAST

FloatArray = npt.NDArray[np.float64]

FIGURES = (*scores.FIGURES, *ranked.FIGURES)
"""All figures; those of :mod:`~longview.localization.ranked` count the films known to be without the finding too."""

MEAN = "mean over labels"
"""Stands for a label."""


@dataclass(frozen=True)
class Summary:
    """Figures of N names and L labels in K replicates; the first replicate is the data as they are.

    Args:
        names: Members, consolidations and the baseline.
        labels: Labels with true boxes, in order.
        films: Label -> films with true boxes of it.
        absent: Label -> films known to be without it.
        figures: (name, label or :data:`MEAN`) -> figure -> (K,).
        resamples: The replicates.
        unit: What is drawn: `patient` or `image`.
        units: Label or :data:`MEAN` -> how many of those have it; below two there is no interval.
    """

    names: list[str]
    labels: list[str]
    films: dict[str, int]
    absent: dict[str, int]
    figures: dict[tuple[str, str], dict[str, FloatArray]]
    resamples: Resamples
    unit: str
    units: dict[str, int]

    def interval(self, name: str, label: str, figure: str) -> Interval:
        """A figure with its interval."""
        sure = self.units[label] >= LEAST
        return Interval.of(self.figures[name, label][figure], self.resamples.drawn, sure=sure)

    def rows(self) -> list[dict[str, Any]]:
        """One row per name and label, and one for the mean over labels: counts, and figures with intervals."""
        rows = []
        for name, label in self.figures:
            row: dict[str, Any] = {"name": name, "label": label, "films": self._count(self.films, label)}
            row["films_without"] = self._count(self.absent, label)
            for figure in FIGURES:
                found = self.interval(name, label, figure)
                row[figure] = found.value
                if self.resamples.drawn:
                    row |= {f"{figure}_low": found.low, f"{figure}_high": found.high}
            rows.append(row)
        return rows

    def differences(self, pairs: Sequence[tuple[str, str]]) -> list[dict[str, Any]]:
        """How much better one name is than another on the same films, with intervals and p-values."""
        rows = []
        for first, second in pairs:
            for label in (*self.labels, MEAN):
                ours, theirs = self.figures.get((first, label)), self.figures.get((second, label))
                if ours is None or theirs is None:
                    continue
                for figure in ("pointing", "corloc_0.3", "iou", "dice", "map"):
                    gap = ours[figure] - theirs[figure]
                    sure = self.units[label] >= LEAST
                    found = Interval.of(gap, self.resamples.drawn, sure=sure)
                    row = {"name": first, "over": second, "label": label, "figure": figure, "difference": found.value}
                    if self.resamples.drawn:
                        p_value, _ = difference_p(gap, self.resamples.drawn)
                        row |= {"low": found.low, "high": found.high, "p": p_value if sure else float("nan")}
                    rows.append(row)
        return rows

    def _count(self, counts: dict[str, int], label: str) -> int:
        return sum(counts.values()) if label == MEAN else counts[label]


def summarise(films: Sequence[OnFilm], truth: Truth, names: Sequence[str], bootstrap: int, seed: int) -> Summary:
    """Put the figures of all films together.

    Patients are drawn again, each with all films. Means over labels are over those that every name knows.

    Args:
        films: What was found on each.
        truth: True boxes, patients, and films known to be without a finding.
        names: Names, in order.
        bootstrap: Replicates to draw; 0: no intervals.
        seed: Of the drawing.

    Raises:
        InputError: Where no film has a true box of a label that was explained.
    """
    labels = sorted({label for film in films for label in film.true})
    if not labels:
        raise InputError("no film that was explained by every member has a true box of an explained label")
    resamples = Resamples.draw([truth.patients[film.film.image_id] for film in films], bootstrap, seed)
    weights = resamples.weights[:, resamples.cluster]  # (K, films)
    values: dict[tuple[str, str], dict[str, FloatArray]] = {}
    for name in names:
        for label, found in _label_values(films, truth, name, labels, weights).items():
            values[name, label] = found
    shared = [label for label in labels if all((name, label) in values for name in names)]
    for name in names if shared else []:
        means = {}
        for figure in FIGURES:
            stack = np.stack([values[name, label][figure] for label in shared])
            with warnings.catch_warnings():  # a replicate without any label at all
                warnings.simplefilter("ignore", RuntimeWarning)
                means[figure] = np.nanmean(stack, axis=0)
        values[name, MEAN] = means
    counts = {label: sum(label in film.true for film in films) for label in labels}
    absent = {
        label: sum(label in film.shown and (film.film.image_id, label) in truth.absent for film in films)
        for label in labels
    }
    units = {
        label: len({truth.patients[film.film.image_id] for film in films if label in film.true}) for label in labels
    }
    units[MEAN] = max(units.values())
    return Summary(list(names), labels, counts, absent, values, resamples, truth.unit, units)


def _label_values(
    films: Sequence[OnFilm], truth: Truth, name: str, labels: Sequence[str], weights: npt.NDArray[Any]
) -> dict[str, dict[str, FloatArray]]:
    """Label -> figure -> (K,) of one name, for the labels that it knows."""
    known = [
        label for label in labels if any(name in film.shown.get(label, {}) for film in films if label in film.true)
    ]
    found: dict[tuple[int, str], Sequence[Box]] = {}
    true: dict[tuple[int, str], FloatArray] = {}
    for index, film in enumerate(films):
        for label in known:
            if name not in film.shown.get(label, {}):
                continue
            if label in film.true:
                true[index, label] = film.true[label]
            elif (film.film.image_id, label) not in truth.absent:
                continue
            found[index, label] = film.shown[label][name].ranked
    matched = ranked.match(found, true, len(films), known)
    result: dict[str, dict[str, FloatArray]] = {}
    for label in known:
        rows = np.array([index for index, of in true if of == label], np.int64)
        figures = [films[index].shown[label][name].figures for index in rows]
        table = np.array([[item[figure] for figure in scores.FIGURES] for item in figures])
        counted = weights[:, rows].astype(np.float64)
        total = counted.sum(axis=1, keepdims=True)
        means = np.divide(counted @ table, total, out=np.full((len(counted), table.shape[1]), np.nan), where=total > 0)
        result[label] = dict(zip(scores.FIGURES, means.T, strict=True))
        result[label] |= ranked.average_precision(matched[label], weights)
    return result
