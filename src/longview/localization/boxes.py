"""Heat-map -> mask -> boxes, all in pixels of the original film.

A map is thresholded as it is, never as a coloured picture of it: the luma of a colour map is not the activation, and
cutting that loses the hottest core. What is in the mask falls into connected components, each of which is a box.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import cv2
import numpy as np
import numpy.typing as npt

from longview import InputError

FloatArray = npt.NDArray[np.floating[Any]]
Mask = npt.NDArray[np.bool_]

_EIGHT = 8  # neighbours of a pixel that belong to its component


class Box(NamedTuple):
    """A box in pixels of the film: its left upper corner, its size, and how sure it is.

    A box that holds just the pixel in column j and row i is x = j, y = i, width = height = 1.
    """

    x: float
    y: float
    width: float
    height: float
    score: float = float("nan")


@dataclass(frozen=True)
class Threshold:
    """Where a map is cut.

    Args:
        kind: `share`: at this share of the map's maximum (Zhou et al., CVPR 2016, arXiv 1512.04150, cut at 20 %);
            `percentile`: at this percentile of its pixels; `otsu`: where the variance between both sides is largest
            (Otsu, IEEE Trans. SMC 9, 1979), on 256 steps between minimum and maximum.
        value: The share in (0, 1], or the percentile in (0, 100).
    """

    kind: str = "share"
    value: float = 0.5

    @classmethod
    def parse(cls, text: str) -> Self:
        """From `0.5`, `p90` or `otsu`.

        Raises:
            InputError: For anything else.
        """
        word = text.strip().lower()
        if word == "otsu":
            return cls("otsu")
        try:
            kind, value = ("percentile", float(word[1:])) if word.startswith("p") else ("share", float(word))
        except ValueError:
            kind, value = "", 0.0
        if (kind == "share" and 0 < value <= 1) or (kind == "percentile" and 0 < value < 100):
            return cls(kind, value)
        raise InputError(
            f"--threshold {text!r}: give a share of the map's maximum such as 0.5, a percentile such as p90, or otsu"
        )

    def cut(self, heat: FloatArray) -> tuple[Mask, float]:
        """The mask of a map (H, W) that is not constant, and the lowest value in it.

        The hottest pixels are always inside, the coldest never.
        """
        low, high = float(heat.min()), float(heat.max())
        if self.kind == "otsu":
            steps = np.rint((heat.astype(np.float64) - low) * (255 / (high - low))).astype(np.uint8)
            level, _ = cv2.threshold(steps, 0, 1, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
            mask = steps > level
        else:
            level = self.value * high if self.kind == "share" else float(np.percentile(heat, self.value))
            # half of the film may be at 0, which is then a percentile too
            mask = (heat >= level) & (heat > low)
        return mask, float(heat[mask].min())


@dataclass(frozen=True)
class Extent:
    """A number of pixels, or a share of the film.

    Args:
        value: Pixels, or per cent.
        relative: Whether it is per cent.
    """

    value: float = 0.0
    relative: bool = False

    @classmethod
    def parse(cls, text: str, option: str) -> Self:
        """From `25` or `0.5%`.

        Raises:
            InputError: For anything else; names the option.
        """
        word = text.strip()
        try:
            value = float(word.removesuffix("%"))
        except ValueError:
            value = -1.0
        relative = word.endswith("%")
        if not 0 <= value < (100 if relative else float("inf")):
            raise InputError(f"{option} {text!r}: give a number of pixels such as 25, or a share of the film as 0.5%")
        return cls(value, relative)

    def pixels(self, whole: float) -> float:
        """Of a film with so many pixels: in all for an area, along the longer side for a distance."""
        return self.value / 100 * whole if self.relative else self.value


@dataclass(frozen=True)
class BoxOptions:
    """How boxes are made of a map.

    Args:
        threshold: Where the map is cut.
        min_area: Smallest number of mask pixels that a box must hold.
        top_k: How many boxes are kept, those with the highest scores; None: all.
        merge: Components with a gap of at most so many pixels between them, along both axes, are one. 0: none are.
    """

    threshold: Threshold = Threshold()
    min_area: Extent = Extent()
    top_k: int | None = None
    merge: Extent = Extent()


@dataclass(frozen=True)
class Found:
    """What a map shows.

    Args:
        boxes: Its boxes, that with the highest score first.
        mask: (H, W) pixels above the threshold, whether a box holds them or not.
        level: The lowest value inside the mask; NaN where it is empty.
        why: Why there is no box; "" where there is one.
    """

    boxes: list[Box]
    mask: Mask
    level: float
    why: str = ""


def find_boxes(heat: FloatArray, options: BoxOptions, mask: Mask | None = None) -> Found:
    """Make boxes of a map.

    Args:
        heat: (H, W) in [0, 1], of the original film, no NaN.
        options: Threshold, smallest area, how many, merging.
        mask: (H, W) to take instead of cutting the map, as consolidation makes one.

    Returns:
        Boxes in pixels of the film, scored by the mean of the map over their mask pixels. None, and why, for a map
        that is the same everywhere (all zero, say), for an empty mask, and where all components are too small.

    Raises:
        InputError: For a map of another shape, outside of [0, 1], or with NaN.
    """
    if heat.ndim != 2 or heat.size == 0:
        raise InputError(f"a map must be (height, width), this one has the shape {heat.shape}")
    low, high = float(heat.min()), float(heat.max())
    if not (low >= 0 and high <= 1):  # NaN too
        raise InputError(f"a map must lie in [0, 1], this one goes from {low:g} to {high:g}")
    if mask is None:
        if low == high:
            return Found([], np.zeros(heat.shape, np.bool_), float("nan"), f"the map is {low:g} everywhere")
        mask, level = options.threshold.cut(heat)
    else:
        level = float(heat[mask].min()) if mask.any() else float("nan")
    if not mask.any():
        return Found([], mask, level, "the mask is empty")
    boxes = _components(mask, heat, options)
    why = "" if boxes else f"no component has {options.min_area.pixels(mask.size):g} pixels"
    return Found(boxes[: options.top_k], mask, level, why)


def _components(mask: Mask, heat: FloatArray, options: BoxOptions) -> list[Box]:
    """Boxes of the components that are large enough, that with the highest score first; the larger of equals."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=_EIGHT)
    areas = stats[:, cv2.CC_STAT_AREA].astype(np.float64)
    sums = np.bincount(labels.ravel(), weights=heat.ravel().astype(np.float64), minlength=count)
    left, top = stats[:, cv2.CC_STAT_LEFT], stats[:, cv2.CC_STAT_TOP]
    right, bottom = left + stats[:, cv2.CC_STAT_WIDTH], top + stats[:, cv2.CC_STAT_HEIGHT]
    group = _groups(mask, labels, count, round(options.merge.pixels(max(mask.shape))))
    smallest = max(1.0, options.min_area.pixels(mask.size))
    boxes: list[tuple[Box, float]] = []
    for number in np.unique(group[1:]):
        members = np.flatnonzero(group == number)
        area = float(areas[members].sum())
        if area >= smallest:
            x, y = int(left[members].min()), int(top[members].min())
            width, height = int(right[members].max()) - x, int(bottom[members].max()) - y
            score = float(sums[members].sum()) / area
            boxes.append((Box(x, y, width, height, min(score, 1.0)), area))
    boxes.sort(key=lambda item: (-item[0].score, -item[1], item[0].y, item[0].x))
    return [box for box, _ in boxes]


def _groups(mask: Mask, labels: npt.NDArray[Any], count: int, gap: int) -> npt.NDArray[np.int64]:
    """(count,) group of each component (0, the background, is in none), those with small gaps in the same."""
    if gap == 0:
        return np.append(-1, np.arange(1, count)).astype(np.int64)
    # squares that reach `gap` pixels in all, so that two pixels with so many others between them touch
    kernel = np.ones((gap + 1, gap + 1), np.uint8)
    _, joined = cv2.connectedComponents(cv2.dilate(mask.astype(np.uint8), kernel), connectivity=_EIGHT)
    group = np.full(count, -1, np.int64)
    group[labels[mask]] = joined[mask]
    return group
