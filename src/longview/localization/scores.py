"""What a film's boxes and mask of one label are worth against its true boxes.

Boxes are continuous rectangles [x, x + width) x [y, y + height), as COCO has them; masks are counted in pixels.

Sources: pointing game: Zhang et al., ECCV 2016 (arXiv 1608.00507), here without their margin of 15 pixels. CorLoc:
Deselaers et al., Int. J. Comput. Vis. 100, 2012: the share of images whose one box overlaps a true one by the PASCAL
criterion, here at several IoU. IoBB: Wang et al., CVPR 2017 (arXiv 1705.02315): intersection over the detected box.
Dice: Dice, Ecology 26, 1945.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from longview.localization.boxes import FloatArray, Found, Mask

CORLOC = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
"""IoU from which a box counts as found."""

FIGURES = ("pointing", "iou", "iou_best", "iobb", "dice", "mask_iou", *(f"corloc_{level}" for level in CORLOC))
"""Figures of a film and label; all in [0, 1], more is better.

* `pointing`: whether the map's maximum lies in a true box; of several equal maxima, the share that does
* `iou`: of the box with the highest score, with the true box that it fits best; 0 without a box
* `iou_best`: for each true box the IoU of the box that fits it best; their mean
* `iobb`: share of the box with the highest score that lies in a true box, the one that holds most of it
* `dice`, `mask_iou`: of the mask and the pixels of all true boxes
* `corloc_T`: whether `iou` is at least T
"""


def box_iou(ours: npt.ArrayLike, true: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """IoU of boxes (n, 4) and boxes (m, 4), x, y, width, height; (n, m)."""
    first, second = np.asarray(ours, np.float64).reshape(-1, 4), np.asarray(true, np.float64).reshape(-1, 4)
    shared = _shared(first, second)
    union = (first[:, 2] * first[:, 3])[:, None] + (second[:, 2] * second[:, 3])[None] - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


def _shared(first: npt.NDArray[np.float64], second: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Area that boxes (n, 4) and (m, 4) share, (n, m)."""
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum((first[:, :2] + first[:, 2:])[:, None], (second[:, :2] + second[:, 2:])[None])
    sides = np.clip(high - low, 0, None)
    area: npt.NDArray[np.float64] = sides[..., 0] * sides[..., 1]
    return area


def box_mask(boxes: npt.NDArray[np.float64], shape: tuple[int, int]) -> Mask:
    """Pixels (H, W) of boxes (n, 4), whose edges are rounded to whole pixels; each has one pixel at least."""
    mask = np.zeros(shape, np.bool_)
    for x, y, width, height in boxes:
        left, top = min(round(x), shape[1] - 1), min(round(y), shape[0] - 1)
        mask[top : max(top + 1, round(y + height)), left : max(left + 1, round(x + width))] = True
    return mask


def score(heat: FloatArray, found: Found, true: npt.NDArray[np.float64]) -> dict[str, float]:
    """Figures of one film and label.

    Args:
        heat: (H, W) map.
        found: Its boxes and mask.
        true: (n, 4) true boxes in pixels of the film, at least one.

    Returns:
        :data:`FIGURES`.
    """
    ours = np.array([box[:4] for box in found.boxes], np.float64).reshape(-1, 4)
    overlap = box_iou(ours, true)
    iou = float(overlap[0].max()) if len(ours) else 0.0
    inside = float((_shared(ours[:1], true) / (ours[0, 2] * ours[0, 3])).max()) if len(ours) else 0.0
    region = box_mask(true, found.mask.shape)
    both, total = int((region & found.mask).sum()), int(region.sum()) + int(found.mask.sum())
    figures = {
        "pointing": pointing(heat, true),
        "iou": iou,
        "iou_best": float(overlap.max(axis=0).mean()) if len(ours) else 0.0,
        "iobb": inside,
        "dice": 2 * both / total,
        "mask_iou": both / (total - both),
    }
    return figures | {f"corloc_{level}": float(iou >= level) for level in CORLOC}


def pointing(heat: FloatArray, true: npt.NDArray[np.float64]) -> float:
    """Share of a map's maxima (H, W) whose pixel's centre lies in one of the boxes (n, 4); 0 for a constant map."""
    top = heat.max()
    if heat.min() == top:
        return 0.0
    rows, columns = np.nonzero(heat == top)
    x, y = columns[:, None] + 0.5, rows[:, None] + 0.5
    right, bottom = true[:, 0] + true[:, 2], true[:, 1] + true[:, 3]
    hit: npt.NDArray[Any] = (x >= true[:, 0]) & (x <= right) & (y >= true[:, 1]) & (y <= bottom)
    return float(hit.any(axis=1).mean())


def centre_map(height: int, width: int) -> npt.NDArray[np.float32]:
    """A bump in the middle of the film (H, W), which has looked at nothing: the baseline of Choe et al., CVPR 2020.

    A Gaussian (arXiv 2001.07437, section 5.1), here as wide as half of each side at half of its height, so that a cut
    at 0.5 gives a centred box of half the width and half the height.
    """
    rows, columns = ((np.arange(side) + 0.5) / side - 0.5 for side in (height, width))
    bump = np.exp(-np.log(2) * ((rows[:, None] / 0.25) ** 2 + (columns[None] / 0.25) ** 2))
    return np.asarray(bump, np.float32)
