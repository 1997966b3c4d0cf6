"""A picture per film: what each member found, and what is true."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import numpy.typing as npt

from longview.curves import empty_figure
from longview.localization.explained import Film
from longview.localization.localising import CENTRE, OnFilm, Shown, short_names

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's orange and sky blue, which every colour vision tells apart; the line tells them apart too
_TRUE: dict[str, Any] = {"color": "#E69F00", "linewidth": 2.0, "linestyle": "-"}
_FOUND: dict[str, Any] = {"color": "#56B4E9", "linewidth": 1.8, "linestyle": (0, (4, 1.5))}
_PANEL = 2.6  # inches
_PIXELS = 512  # of the longer side: more than a panel has


def draw(result: OnFilm, file: Path) -> None:
    """Draw a film: a row per label, a panel per member and consolidation, with predicted and true boxes.

    The thick dashed boxes are what was found, thin lines the mask that they hold, orange lines what is true; labels
    that have true boxes are shown, or all where none has.

    Args:
        result: What was found, with masks.
        file: PNG to write.
    """
    labels = [label for label in result.shown if label in result.true] or list(result.shown)
    columns = max(len(result.shown[label]) for label in labels)
    columns -= any(CENTRE in result.shown[label] for label in labels)
    shape = result.film.height / result.film.width
    width, height = max(columns * _PANEL, 4.2), len(labels) * (_PANEL * min(shape, 2.5) + 0.45) + 0.75
    figure = empty_figure(width, height)
    axes = figure.subplots(len(labels), columns, squeeze=False)
    picture = _picture(result.film)
    short = short_names(list(dict.fromkeys(name for label in labels for name in result.shown[label])))
    for row, label in zip(axes, labels, strict=True):
        shown = {name: item for name, item in result.shown[label].items() if name != CENTRE}
        for axis, (name, item) in zip(row, shown.items(), strict=False):
            _panel(axis, picture, result, label, item)
            axis.set_title(f"{_short(short[name], 36)}\n{_caption(label, item)}", fontsize=7.5)
        for axis in row[len(shown) :]:
            axis.remove()
    figure.suptitle(_short(result.film.image_id, 60), fontsize=9)
    figure.legend(handles=_legend(bool(result.true)), loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    figure.savefig(file, dpi=110)


def _panel(axis: Axes, picture: npt.NDArray[Any], result: OnFilm, label: str, shown: Shown) -> None:
    from matplotlib.patches import Rectangle
    from matplotlib.patheffects import withStroke

    width, height = result.film.width, result.film.height
    axis.imshow(picture, cmap="gray", vmin=0, vmax=255, extent=(0, width, height, 0), interpolation="bilinear")
    mask = _small(shown.found.mask.astype(np.uint8))
    if mask.any() and not mask.all():
        across = (np.arange(mask.shape[1]) + 0.5) * width / mask.shape[1]
        down = (np.arange(mask.shape[0]) + 0.5) * height / mask.shape[0]
        axis.contour(across, down, mask, levels=[0.5], colors=[_FOUND["color"]], linewidths=0.7)
    halo = [withStroke(linewidth=3.2, foreground="black")]  # seen on bone and on air
    for x, y, across, down in result.true.get(label, np.zeros((0, 4))):
        axis.add_patch(Rectangle((x, y), across, down, fill=False, clip_on=False, path_effects=halo, **_TRUE))
    for box in shown.found.boxes:
        axis.add_patch(
            Rectangle(box[:2], box.width, box.height, fill=False, clip_on=False, path_effects=halo, **_FOUND)
        )
    axis.set(xlim=(0, width), ylim=(height, 0), xticks=[], yticks=[])


def _caption(label: str, shown: Shown) -> str:
    """The label, and how well its best-scored box fits, or why there is none."""
    if not shown.found.boxes:
        return f"{_short(label)}: no box, {shown.found.why}"
    if not shown.figures:
        count = len(shown.found.boxes)
        return f"{_short(label)}: {count} box{'es' if count > 1 else ''}, score {shown.found.boxes[0].score:.2f}"
    return f"{_short(label)}: IoU {shown.figures['iou']:.2f}, Dice {shown.figures['dice']:.2f}"


def _legend(with_truth: bool) -> list[Any]:
    from matplotlib.lines import Line2D

    lines = [
        Line2D([], [], label="found", **_FOUND),
        Line2D([], [], color=_FOUND["color"], linewidth=0.7, label="mask"),
    ]
    return [Line2D([], [], label="true", **_TRUE), *lines] if with_truth else lines


def _picture(film: Film) -> npt.NDArray[Any]:
    """The film's picture in grey, no larger than is seen; black where there is none."""
    read = None if film.picture is None else cv2.imread(str(film.picture), cv2.IMREAD_GRAYSCALE)
    return np.zeros((1, 1), np.uint8) if read is None else _small(np.asarray(read))


def _small(pixels: npt.NDArray[Any]) -> npt.NDArray[Any]:
    factor = _PIXELS / max(pixels.shape)
    if factor >= 1:
        return pixels
    size = max(1, round(pixels.shape[1] * factor)), max(1, round(pixels.shape[0] * factor))
    return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA if pixels.max() > 1 else cv2.INTER_NEAREST))


def _short(text: str, most: int = 30) -> str:
    """A text as long as a panel is wide: model and method stand at its ends."""
    half = most // 2
    return text if len(text) <= most else f"{text[: most - half - 1]}…{text[-half:]}"
