"""ROC and precision-recall plots, and bars, one panel or row per label."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from longview.ranking import LabelScores

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FloatArray = npt.NDArray[np.float64]

GROUPS = ("head", "medium", "tail", "unseen")
"""Groups of labels in the order in which they are shown; unseen: without training rows that know them."""
_COLOURS = {"head": "#1b6ca8", "medium": "#2a8f5b", "tail": "#c4552d", "unseen": "#7d4fa8", "": "#4a4a4a"}
_POINTS = 400  # vertices drawn per curve: more than a panel has pixels
_PANEL = (1.9, 1.9)  # inches


@dataclass(frozen=True)
class Curve:
    """Counts at each distinct threshold of one label, from the highest score to the lowest.

    Args:
        hits: (T,) positives with at least this score.
        false_alarms: (T,) negatives with at least this score.
    """

    hits: FloatArray
    false_alarms: FloatArray

    @classmethod
    def of(cls, scores: npt.NDArray[Any], targets: npt.NDArray[Any]) -> Curve:
        """Count, for scores (n,) and label values (n,) of which those that are not 0 or 1 are masked."""
        hard = (targets == 0) | (targets == 1)
        scores, targets = scores[hard], targets[hard]
        order = np.argsort(scores)[::-1]
        ranked = scores[order]
        last = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))  # the last row of each tie
        hits = np.cumsum(targets[order], dtype=np.float64)[last]
        return cls(hits, last + 1 - hits)

    def roc(self, points: int = _POINTS) -> tuple[FloatArray, FloatArray]:
        """False positive rate and true positive rate, from (0, 0) to (1, 1), at most `points` of each."""
        x = np.append(0, self.false_alarms / self.false_alarms[-1])
        y = np.append(0, self.hits / self.hits[-1])
        return _thinned(x, y, points, along=x + y)

    def precision_recall(self, points: int = _POINTS) -> tuple[FloatArray, FloatArray]:
        """Recall and precision at the thresholds that gain a positive, from low recall to 1, at most `points` of each.

        A staircase through them, each step at the precision of its end, encloses the average precision.
        """
        gains = np.diff(self.hits, prepend=0) > 0
        hits, false_alarms = self.hits[gains], self.false_alarms[gains]
        return _thinned(hits / hits[-1], hits / (hits + false_alarms), points, along=hits)


def _thinned(x: FloatArray, y: FloatArray, points: int, along: FloatArray) -> tuple[FloatArray, FloatArray]:
    """At most `points` vertices, evenly along `along` (rising), ends included."""
    if len(x) <= points:
        return x, y
    wanted = np.searchsorted(along, np.linspace(along[0], along[-1], points - 1))
    keep = np.unique(np.concatenate((wanted, [len(x) - 1])))
    return x[keep], y[keep]


def plot_curves(
    kind: Literal["roc", "pr"],
    curves: Mapping[str, Curve],
    names: Sequence[str],
    scores: LabelScores,
    *,
    group_of: Mapping[str, str],
    file: Path,
) -> None:
    """Draw a panel per label, most frequent first, coloured by head, medium and tail.

    Args:
        kind: ROC or precision-recall.
        curves: Label -> curve, for the labels that have both kinds.
        names: L label names.
        scores: Their metrics.
        group_of: Label -> `head`, `medium`, `tail`; empty where not known.
        file: PNG to write.
    """
    shown = sorted(curves, key=lambda name: -scores.prevalence[names.index(name)])
    columns = min(len(shown), 8 if len(shown) > 24 else 7 if len(shown) > 15 else 5)
    rows = -(-len(shown) // columns)
    width, height = columns * _PANEL[0] + 0.5, rows * (_PANEL[1] + 0.28) + 1.0
    figure = empty_figure(max(width, 4.5), height)
    axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    for axis, name in zip(axes, shown, strict=False):
        index = names.index(name)
        colour = _COLOURS[group_of.get(name, "")]
        if kind == "roc":
            _roc_panel(axis, curves[name], colour, scores.auroc[index])
        else:
            _pr_panel(axis, curves[name], colour, scores.ap[index], scores.prevalence[index])
        positives = f"{scores.positives[index]:,} of {scores.positives[index] + scores.negatives[index]:,}"
        axis.set_title(f"{shorten(name)}\n{positives}", fontsize=7.5, color=colour)
        axis.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xticks=(0, 0.5, 1), yticks=(0, 0.5, 1))
        axis.tick_params(labelsize=7)
    for axis in axes[len(shown) :]:
        axis.remove()
    words = ("false positive rate", "true positive rate") if kind == "roc" else ("recall", "precision")
    figure.supxlabel(words[0], fontsize=9)
    figure.supylabel(words[1], fontsize=9)
    mean = np.nanmean(scores.auroc if kind == "roc" else scores.ap)
    metric = "ROC, mean AUROC" if kind == "roc" else "precision-recall, mean AP"
    _headline(figure, f"{metric} {mean:.3f} over {len(shown)} labels", shown, group_of)
    figure.savefig(file, dpi=130)


def plot_bars(names: Sequence[str], scores: LabelScores, group_of: Mapping[str, str], file: Path) -> None:
    """Draw AUROC and AP of each label as bars, most frequent first; a tick marks what chance would reach.

    Args:
        names: L label names.
        scores: Their metrics; labels without both kinds are left out.
        group_of: Label -> `head`, `medium`, `tail`; empty where not known.
        file: PNG to write.
    """
    order = [index for index in np.argsort(-scores.prevalence, kind="stable") if scores.scored[index]]
    places = np.arange(len(order))
    figure = empty_figure(9, 1.4 + 0.24 * len(order))
    left, right = figure.subplots(1, 2, sharey=True)
    colours = [_COLOURS[group_of.get(names[index], "")] for index in order]
    chance = (np.full(len(order), 0.5), scores.prevalence[order])
    for axis, values, level, title in zip(
        (left, right),
        (scores.auroc[order], scores.ap[order]),
        chance,
        ("AUROC", "average precision"),
        strict=True,
    ):
        axis.barh(places, values, color=colours, height=0.72)
        axis.vlines(level, places - 0.42, places + 0.42, color="black", linewidth=1.6)
        for place, value, mark in zip(places, values, level, strict=True):
            # right of the mark too, which would strike through the figure of a bar that ends before it
            axis.text(max(value, mark) + 0.015, place, f"{value:.3f}", va="center", fontsize=7.5)
        axis.set(xlim=(0, 1.12), xticks=(0, 0.5, 1), title=title)
        axis.spines[["top", "right"]].set_visible(False)
    left.set_yticks(places, [shorten(names[index]) for index in order], fontsize=8)
    left.set_ylim(len(order) - 0.4, -0.6)  # most frequent on top
    _headline(figure, "most frequent label first; black: chance", [names[index] for index in order], group_of)
    figure.savefig(file, dpi=130)


def empty_figure(width: float, height: float) -> Figure:
    """An empty figure of this many inches, drawn without a display and without pyplot's global state."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # half a second, only for plots
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _roc_panel(axis: Axes, curve: Curve, colour: str, auroc: float) -> None:
    x, y = curve.roc()
    axis.plot([0, 1], [0, 1], color="0.75", linewidth=0.8, linestyle="--")
    axis.fill_between(x, y, color=colour, alpha=0.12, linewidth=0)
    axis.plot(x, y, color=colour, linewidth=1.4)
    axis.text(0.97, 0.06, f"AUROC {auroc:.3f}", ha="right", fontsize=8)


def _pr_panel(axis: Axes, curve: Curve, colour: str, ap: float, prevalence: float) -> None:
    x, y = curve.precision_recall()
    x, y = np.append(0, x), np.append(y[0], y)
    axis.fill_between(x, y, step="pre", color=colour, alpha=0.12, linewidth=0)
    axis.step(x, y, where="pre", color=colour, linewidth=1.4)
    axis.axhline(prevalence, color="0.6", linewidth=0.8, linestyle="--")
    behind = {"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 1}
    text = f"AP {ap:.3f}\n{ap / prevalence:.1f}x chance"
    axis.text(0.97, 0.96, text, ha="right", va="top", fontsize=7.5, bbox=behind)


def _headline(figure: Figure, title: str, names: Sequence[str], group_of: Mapping[str, str]) -> None:
    """Title, and a legend of the groups that occur."""
    from matplotlib.patches import Patch

    figure.suptitle(title, fontsize=11)
    present = [group for group in GROUPS if group in {group_of.get(name) for name in names}]
    if present:
        patches = [Patch(color=_COLOURS[group], label=group) for group in present]
        figure.legend(handles=patches, loc="outside upper right", ncols=len(patches), fontsize=8, frameon=False)


def shorten(name: str) -> str:
    """A name as long as a panel is wide."""
    return name if len(name) <= 26 else f"{name[:25]}…"
