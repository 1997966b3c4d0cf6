"""Forest plot of differences between models."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from longview.comparison import Comparison, Difference, Pair
from longview.curves import empty_figure, shorten
from longview.truth import PLURAL

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLOURS = {1: "#1b6ca8", -1: "#c4552d", 0: "#8a8a8a"}
_MOST_PANELS = 5  # beside the best model
_ROW, _WIDTH = 0.21, 3.1  # inches
_TITLES = {"ap": "average precision", "auroc": "AUROC"}


def plot_forest(result: Comparison, file: Path) -> None:
    """Draw the difference of each label and of the mean, with intervals.

    Two models: a panel for AP and one for AUROC. More: a panel of AP for each, against the best.

    Args:
        result: The comparison.
        file: PNG to write.
    """
    best = result.aligned.models[0]
    pairs = [pair for pair in result.pairs if pair.one == best][:_MOST_PANELS]
    panels = [(pairs[0], "ap"), (pairs[0], "auroc")] if len(pairs) == 1 else [(pair, "ap") for pair in pairs]
    order = [index for index in np.argsort(-result.scores.prevalence, kind="stable") if result.scores.scored[index]]
    names = ["mean over labels", *(shorten(result.aligned.names[index]) for index in order)]
    figure = empty_figure(2.2 + _WIDTH * len(panels), 1.7 + _ROW * len(names))
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axis, (pair, metric) in zip(axes, panels, strict=True):
        _panel(axis, pair, metric, order)
    axes[0].set_yticks(np.arange(len(names)), names, fontsize=8)
    axes[0].get_yticklabels()[0].set_fontweight("bold")
    axes[0].set_ylim(len(names) - 0.4, -0.6)  # the mean on top, then from frequent to rare
    drawn = f"{result.resamples.drawn:,} resamples of {result.resamples.clusters:,} {PLURAL[result.aligned.unit]}"
    figure.suptitle(f"Differences with 95 % intervals ({drawn}), most frequent label first", fontsize=9.5)
    figure.supxlabel("coloured: p < 0.05 after Holm's correction over labels (mean: over pairs of models)", fontsize=8)
    figure.savefig(file, dpi=130)


def _panel(axis: Axes, pair: Pair, metric: str, order: Sequence[int]) -> None:
    shown: list[Difference] = [pair.means[metric], *(pair.labels[metric][index] for index in order)]
    axis.axvline(0, color="black", linewidth=0.8)
    axis.axhline(0.5, color="0.8", linewidth=0.8)
    for place, found in enumerate(shown):
        interval, colour = found.interval, _COLOURS[found.sign]
        axis.hlines(
            place, interval.percentile_low, interval.percentile_high, color=colour, linewidth=2.6 if place == 0 else 1.4
        )
        axis.plot(interval.value, place, "D" if place == 0 else "o", color=colour, markersize=6 if place == 0 else 4)
    every = [(found.interval.percentile_low, found.interval.percentile_high) for found in shown]
    ends = np.abs(every)
    widest = np.max(ends[np.isfinite(ends)], initial=0)  # few patients: no interval
    if widest > 0:
        axis.set_xlim(-1.06 * widest, 1.06 * widest)
    axis.set_title(f"{_TITLES[metric]}\n{shorten(pair.other)} better  |  {shorten(pair.one)} better", fontsize=8.5)
    axis.tick_params(labelsize=7.5)
    axis.spines[["top", "right"]].set_visible(False)
