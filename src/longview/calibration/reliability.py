"""Reliability diagrams: how often a label is present where a model says so with a certain probability."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from longview.calibration.figures import calibration_error

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FloatArray = npt.NDArray[np.float64]

_BEFORE, _AFTER = "#c4552d", "#1b6ca8"
_PANEL = (2.1, 2.1)  # inches
_BINS = 10
_ROWS_PER_BIN = 5  # of the rarer kind: with fewer, what is drawn is chance


def reliability(
    probabilities: npt.NDArray[Any], targets: npt.NDArray[Any], bins: int | None = None
) -> tuple[FloatArray, FloatArray, npt.NDArray[np.int64]]:
    """Mean probability and share of positives in bins of one label that hold equally many rows, as far as ties allow.

    Bins of equal width, over which the calibration error is summed, would show one point for a rare label.

    Args:
        probabilities: (n,) in [0, 1].
        targets: (n,); those that are not 0 or 1 are masked.
        bins: At most so many; None: 2 to 10, so that on average a bin holds 5 positives and 5 negatives.

    Returns:
        Mean probability, share of positives, rows: (b,) each, b <= bins, by rising probability; empty without rows.
    """
    hard = (targets == 0) | (targets == 1)
    values, truth = probabilities[hard].astype(np.float64), targets[hard].astype(np.float64)
    if not values.size:
        return np.empty(0), np.empty(0), np.empty(0, np.int64)
    if bins is None:
        positives = int(truth.sum())
        bins = int(np.clip(min(positives, len(truth) - positives) // _ROWS_PER_BIN, 2, _BINS))
    edges = np.unique(np.quantile(values, np.linspace(0, 1, bins + 1)[1:-1]))
    place = np.searchsorted(edges, values, side="right")
    rows = np.bincount(place)
    filled = rows > 0
    means = [np.bincount(place, column)[filled] / rows[filled] for column in (values, truth)]
    return means[0], means[1], rows[filled]


@dataclass(frozen=True)
class Diagram:
    """What :func:`reliability` finds of one label, (b,) each."""

    probability: FloatArray
    share: FloatArray
    rows: npt.NDArray[np.int64]


def diagrams(
    names: Sequence[str], probabilities: npt.NDArray[Any], targets: npt.NDArray[Any], bins: int | None = None
) -> dict[str, Diagram]:
    """Label -> diagram, of those L labels that have positives and negatives.

    Args:
        names: L label names.
        probabilities: (n, L) in [0, 1].
        targets: (n, L); those that are not 0 or 1 are masked.
        bins: As :func:`reliability` takes it.
    """
    found = {}
    for index, name in enumerate(names):
        truth = targets[:, index]
        if (truth == 1).any() and (truth == 0).any():
            found[name] = Diagram(*reliability(np.ascontiguousarray(probabilities[:, index]), truth, bins))
    return found


def plot_reliability(
    names: Sequence[str],
    before: npt.NDArray[Any],
    after: npt.NDArray[Any],
    targets: npt.NDArray[Any],
    *,
    title: str,
    file: Path,
) -> None:
    """Draw a panel per label that has positives and negatives, most frequent first, before and after calibration.

    Args:
        names: L label names.
        before: (n, L) probabilities.
        after: (n, L) calibrated ones.
        targets: (n, L); those that are not 0 or 1 are masked.
        title: Headline.
        file: PNG to write.
    """
    errors = [calibration_error(values, targets) for values in (before, after)]
    positives, negatives = (targets == 1).sum(axis=0), (targets == 0).sum(axis=0)
    first, second = diagrams(names, before, targets), diagrams(names, after, targets)
    places = {name: index for index, name in enumerate(names)}
    panels = {}
    for name in sorted(first, key=lambda name: -positives[places[name]]):
        index = places[name]
        known = positives[index] + negatives[index]
        change = f"ECE {errors[0][index]:.3f} → {errors[1][index]:.3f}"
        panels[f"{shortened(name)}\n{positives[index]:,} of {known:,}\n{change}"] = [first[name], second[name]]
    _plot(list(panels.items()), title, {"before": _BEFORE, "after": _AFTER}, file)


def plot_diagrams(
    found: Mapping[str, Diagram],
    errors: Mapping[str, float],
    counts: Mapping[str, tuple[int, int]],
    *,
    title: str,
    file: Path,
) -> None:
    """Draw a panel per label, most frequent first.

    Args:
        found: Label -> diagram.
        errors: Label -> expected calibration error.
        counts: Label -> positives and known rows.
        title: Headline.
        file: PNG to write.
    """
    panels = []
    for name in sorted(found, key=lambda name: -counts[name][0]):
        positives, known = counts[name]
        panels.append((f"{shortened(name)}\n{positives:,} of {known:,}\nECE {errors[name]:.3f}", [found[name]]))
    _plot(panels, title, {"": _AFTER}, file)


def shortened(name: str) -> str:
    """A name as long as a panel is wide."""
    return name if len(name) <= 26 else f"{name[:25]}…"


def _plot(panels: Sequence[tuple[str, Sequence[Diagram]]], title: str, colours: Mapping[str, str], file: Path) -> None:
    """Draw panels, each a heading and one curve per colour; names of colours make the legend."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # half a second, only for plots
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    count = len(panels)
    columns = max(min(count, 8 if count > 24 else 6 if count > 15 else 5), 1)
    rows = max(-(-count // columns), 1)
    figure = Figure(figsize=(max(columns * _PANEL[0] + 0.5, 6.5), rows * (_PANEL[1] + 0.3) + 1.0), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis, (heading, curves) in zip(axes, panels, strict=False):
        _panel(axis, curves, list(colours.values()))
        axis.set_title(heading, fontsize=7.5)
    for axis in axes[count:]:
        axis.remove()
    figure.supxlabel("mean probability", fontsize=9)
    figure.supylabel("share of positives", fontsize=9)
    figure.suptitle(title, fontsize=11)
    if len(colours) > 1:
        lines = [Line2D([], [], color=colour, marker="o", markersize=4) for colour in colours.values()]
        figure.legend(lines, list(colours), loc="outside upper right", ncols=len(lines), fontsize=8, frameon=False)
    figure.savefig(file, dpi=130)


def _panel(axis: Axes, curves: Sequence[Diagram], colours: Sequence[str]) -> None:
    """Curves over the diagonal, on the square that holds them: a rare label fills its panel as a frequent one."""
    top = max(float(values.max()) for curve in curves for values in (curve.probability, curve.share))
    top = min(1.0, 1.12 * max(top, 1e-3))
    axis.plot([0, top], [0, top], color="0.7", linewidth=0.8, linestyle="--")
    for curve, colour in zip(curves, colours, strict=True):
        axis.plot(curve.probability, curve.share, color=colour, linewidth=1.2, marker="o", markersize=3)
    axis.set(xlim=(-0.03 * top, 1.03 * top), ylim=(-0.03 * top, 1.03 * top))
    axis.locator_params(nbins=3)
    axis.tick_params(labelsize=7)
    axis.set_aspect("equal")
