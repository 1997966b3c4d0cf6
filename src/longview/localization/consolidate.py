"""Several models' or methods' maps of one label as one: by their masks, or by their values.

Values are averaged, never colours: the mean of coloured heat-maps is no heat-map.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from longview.localization.boxes import BoxOptions, FloatArray, Found, Mask, find_boxes

How = Literal["union", "intersection", "majority", "mean"]
"""`union`: pixels that any member's mask holds; `intersection`: all; `majority`: more than half of them; `mean`: the
weighted mean of the members' maps, cut like any map."""


def mean_map(maps: Sequence[FloatArray], weights: Sequence[float] | None = None) -> npt.NDArray[np.float32]:
    """Weighted mean (H, W) of M maps (H, W) in [0, 1].

    Args:
        maps: The maps.
        weights: M weights, not negative, not all 0; None: all alike.
    """
    shares = np.asarray(weights if weights is not None else [1.0] * len(maps), np.float64)
    total = np.zeros(maps[0].shape, np.float64)
    for heat, share in zip(maps, shares / shares.sum(), strict=True):
        total += share * heat
    return np.clip(total, 0, 1).astype(np.float32)


def consolidate(
    how: How,
    maps: Sequence[FloatArray],
    masks: Sequence[Mask],
    options: BoxOptions,
    weights: Sequence[float] | None = None,
) -> tuple[npt.NDArray[np.float32], Found]:
    """Boxes of several maps of one film and label.

    Args:
        how: See :data:`How`.
        maps: M maps (H, W).
        masks: M masks (H, W) of these.
        options: How boxes are made.
        weights: M weights of the maps, only for `mean`.

    Returns:
        A map and what it shows. Outside of a union, intersection or majority the map is 0, inside it is the plain
        mean of the members', so that its maximum lies in the mask.
    """
    if how == "mean":
        heat = mean_map(maps, weights)
        return heat, find_boxes(heat, options)
    votes: npt.NDArray[np.int64] = np.sum(masks, axis=0, dtype=np.int64)
    needed = {"union": 1, "intersection": len(masks), "majority": len(masks) // 2 + 1}[how]
    mask: Mask = votes >= needed
    heat = np.where(mask, mean_map(maps), np.float32(0))
    return heat, find_boxes(heat, options, mask)
