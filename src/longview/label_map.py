"""How alike a text encoder finds the labels of a set: their cosines as a heat-map and as a table."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from longview import InputError
from longview.outputs import make_folder

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FloatArray = npt.NDArray[np.float64]

PICTURES = (".png", ".pdf", ".svg")
"""Endings of the pictures that can be written."""

_UNSEEN = "#00695c"  # a colour that the map has not
_DPI = 300
_VALUES_TO = 30  # labels up to which each cell holds its figure


@dataclass(frozen=True)
class LabelMap:
    """Cosines between the labels of a set.

    Args:
        names: L label names.
        unseen: Those among them that have no training data.
        cosines: (L, L) symmetric, in [-1, 1], ones on the diagonal.
    """

    names: list[str]
    unseen: frozenset[str]
    cosines: FloatArray

    @classmethod
    def of(
        cls, names: Sequence[str], unseen: Sequence[str], vectors: npt.NDArray[np.floating], center: bool
    ) -> LabelMap:
        """Compare vectors.

        Args:
            names: L label names.
            unseen: Those among them that have no training data.
            vectors: (L, E), of any length.
            center: Subtract the mean of the seen labels' vectors first. What all labels share (they are all findings
                in a chest film) then counts no more.
        """
        rows = _to_length_one(np.asarray(vectors, np.float64))
        if center:
            seen = [index for index, name in enumerate(names) if name not in unseen]
            if (rows[seen] != rows[seen[0]]).any():  # else nothing would be left of them
                rows = _to_length_one(rows - rows[seen].mean(axis=0))
        return cls(list(names), frozenset(unseen), np.clip(rows @ rows.T, -1, 1))

    def ordered(self, order: Sequence[int]) -> LabelMap:
        """The same with labels in another order: positions in `names`."""
        index = np.asarray(order, np.intp)
        return LabelMap([self.names[place] for place in index], self.unseen, self.cosines[np.ix_(index, index)])

    def pairs(self) -> FloatArray:
        """(L (L - 1) / 2,) cosines of different labels."""
        pairs: FloatArray = self.cosines[np.triu_indices(len(self.names), 1)]
        return pairs

    def extreme(self, sign: int) -> tuple[str, str, float]:
        """The pair of different labels with the highest (`sign` 1) or lowest (-1) cosine. Needs two labels."""
        first, second = np.triu_indices(len(self.names), 1)
        best = int(np.argmax(sign * self.pairs()))
        return self.names[first[best]], self.names[second[best]], float(self.pairs()[best])

    def nearest_seen(self, name: str, count: int = 3) -> list[tuple[str, float]]:
        """The seen labels with the highest cosines to a label, itself excepted, highest first."""
        row = self.cosines[self.names.index(name)]
        seen = [index for index, other in enumerate(self.names) if other not in self.unseen and other != name]
        best = sorted(seen, key=lambda index: -row[index])[:count]
        return [(self.names[index], float(row[index])) for index in best]


def _to_length_one(rows: FloatArray) -> FloatArray:
    lengths: FloatArray = np.linalg.norm(rows, axis=1, keepdims=True)
    # a vector that is nothing but the mean has no direction: it is like no other
    scaled: FloatArray = np.divide(rows, lengths, out=np.zeros_like(rows), where=lengths > 1e-9)
    return scaled


def by_similarity(cosines: FloatArray) -> list[int]:
    """An order in which labels that are alike stand together.

    Average linkage: the two most similar groups are joined until one is left; of the four ways to put two groups
    in a row, the one whose ends that meet are most alike is taken.

    Args:
        cosines: (L, L) symmetric.

    Returns:
        L positions, each once; the same for the same cosines.
    """
    groups = [[index] for index in range(len(cosines))]
    between = cosines.copy()  # mean cosine of each two groups; -inf: no pair of groups
    np.fill_diagonal(between, -np.inf)
    for _ in range(len(groups) - 1):
        one, other = sorted(int(place) for place in np.unravel_index(np.argmax(between), between.shape))
        left, right = groups[one], groups[other]
        mean = (len(left) * between[one] + len(right) * between[other]) / (len(left) + len(right))
        between[one], between[:, one] = mean, mean
        between[one, one] = between[other] = between[:, other] = -np.inf
        ways = [(a, b) for a in (left, left[::-1]) for b in (right, right[::-1])]
        a, b = max(ways, key=lambda way: cosines[way[0][-1], way[1][0]])
        groups[one] = a + b
    order = groups[0]
    return order if order[0] <= order[-1] else order[::-1]


def check_picture(output: Path) -> None:
    """Refuse a file that no picture can be written to, before anything is computed.

    Raises:
        InputError: For another ending, or a folder in its place.
    """
    if output.suffix.lower() not in PICTURES:
        raise InputError(f"--output {output} must end in {', '.join(PICTURES[:-1])} or {PICTURES[-1]}")
    if output.is_dir():
        raise InputError(f"--output {output} is a folder; give the name of a file in it")


def write_map(found: LabelMap, title: str, subtitle: str, output: Path) -> Path:
    """Write the heat-map, and beside it the cosines as a CSV of the same name; both appear whole.

    Args:
        found: The cosines, in the order to draw.
        title: First line over the picture.
        subtitle: Second, smaller line.
        output: Picture to write; its ending is one of :data:`PICTURES`.

    Returns:
        The CSV: a column `label`, then one per label, as many rows, in the picture's order.
    """
    check_picture(output)
    make_folder(output.parent, output)
    table = output.with_suffix(".csv")
    drawn = output.with_name(f".{output.name}.{os.getpid()}.partial")
    written = table.with_name(f".{table.name}.{os.getpid()}.partial")
    try:
        picture = _draw(found, title, subtitle)
        picture.savefig(drawn, dpi=_DPI, bbox_inches="tight", pad_inches=0.08, format=output.suffix[1:].lower())
        with written.open("w", encoding="utf-8", newline="") as file:
            rows = csv.writer(file, lineterminator="\n")
            rows.writerow(["label", *found.names])
            for name, values in zip(found.names, found.cosines, strict=True):
                rows.writerow([name, *(f"{value:.6f}" for value in values)])
        drawn.replace(output)
        written.replace(table)
    finally:
        drawn.unlink(missing_ok=True)
        written.unlink(missing_ok=True)
    return table


def _draw(found: LabelMap, title: str, subtitle: str) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # half a second, only for pictures
    from matplotlib.figure import Figure

    count = len(found.names)
    # inches of a cell and points of a label, so that up to 45 labels fit the width of a printed page
    cell, size = (0.32, 8.0) if count <= 20 else (0.22, 7.0) if count <= _VALUES_TO else (0.135, 6.5)
    side = max(cell * count, 2.0)
    figure = Figure(figsize=(side + 3.0, side + 3.0))  # what is empty is cut off when it is saved
    FigureCanvasAgg(figure)
    room = 1.8 / (side + 3.0)
    axis = figure.add_axes((room, room, side / (side + 3.0), side / (side + 3.0)))
    # one scale for all encoders, so that their maps can be compared: white is unrelated, full red the same
    image = axis.imshow(found.cosines, cmap="RdBu_r", vmin=-1, vmax=1, interpolation="nearest")
    _name_labels(axis, found, size)
    if count <= _VALUES_TO:
        _write_values(axis, found.cosines, size * 0.7)
    bar = figure.colorbar(image, cax=axis.inset_axes((1 + 0.12 / side, 0.25, 0.13 / side, 0.5)))
    bar.ax.set_ylim(min(0.0, float(found.cosines.min())), 1)  # the part of the scale that occurs
    bar.set_label("cosine", fontsize=8)
    bar.ax.tick_params(labelsize=7, width=0.6)
    bar.outline.set_linewidth(0.6)
    _headline(axis, title, subtitle, found)
    return figure


def _name_labels(axis: Axes, found: LabelMap, size: float) -> None:
    """Labels along both sides, unseen ones coloured and starred, and lines between seen and unseen."""
    places = np.arange(len(found.names))
    texts = [f"{_shorten(name)}{' *' if name in found.unseen else ''}" for name in found.names]
    axis.set_xticks(places, texts, fontsize=size, rotation=90)
    axis.set_yticks(places, texts, fontsize=size)
    axis.tick_params(length=1.5, width=0.5, pad=2)
    for ticks in (axis.get_xticklabels(), axis.get_yticklabels()):
        for tick, name in zip(ticks, found.names, strict=True):
            if name in found.unseen:
                tick.set(color=_UNSEEN, fontweight="bold")
    kinds = np.array([name in found.unseen for name in found.names])
    for edge in np.flatnonzero(kinds[1:] != kinds[:-1]) + 0.5:
        axis.axhline(edge, color=_UNSEEN, linewidth=0.6)
        axis.axvline(edge, color=_UNSEEN, linewidth=0.6)
    axis.spines[:].set_linewidth(0.6)


def _write_values(axis: Axes, cosines: FloatArray, size: float) -> None:
    for (row, column), value in np.ndenumerate(cosines):
        if row != column:  # 1 by definition
            text = two_digits(float(value)).replace("0.", ".").replace("-", "\N{MINUS SIGN}")
            colour = "white" if abs(value) > 0.62 else "black"
            axis.text(column, row, text, ha="center", va="center", fontsize=size, color=colour)


def _headline(axis: Axes, title: str, subtitle: str, found: LabelMap) -> None:
    """Title and subtitle over the map, and what the star means."""
    star = [("* unseen: no training data", 8.0, _UNSEEN)] if found.unseen else []
    lines = [(title, 10.0, "black"), (subtitle, 8.0, "0.25"), *star]
    for number, (line, size, colour) in enumerate(reversed(lines)):
        place = (0, 6 + 12 * number)
        axis.annotate(
            line, (0, 1), place, "axes fraction", "offset points", fontsize=size, color=colour, annotation_clip=False
        )


def two_digits(value: float) -> str:
    """`0.27`, and `0.00` where rounding would leave a minus before it."""
    return f"{value:.2f}".replace("-0.00", "0.00")


def _shorten(name: str) -> str:
    return name if len(name) <= 32 else f"{name[:31]}…"
