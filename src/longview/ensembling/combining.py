"""Averaging the scores of several models on one of three scales."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

FloatArray = npt.NDArray[np.float64]

Scale = Literal["probability", "logit", "rank"]
"""What is averaged."""

_CLOSEST = 2.0**-25
"""Distance to 0 and 1 that a logit is taken at: half a step of float32 below 1, where a sigmoid becomes exactly 1."""


def to_scale(probabilities: npt.NDArray[Any], on: Scale) -> FloatArray:
    """Bring probabilities to the scale that is averaged; the order within each label stays, ties with it.

    Args:
        probabilities: (n, L) in [0, 1].
        on: `logit`: an exact 0 or 1 counts as 3e-8 from it. `rank`: place among the n rows, ties sharing their mean
            place, in (0, 1).

    Returns:
        (n, L) float64.
    """
    values = np.asarray(probabilities, np.float64)
    if on == "logit":
        values = values.clip(_CLOSEST, 1 - _CLOSEST)
        return np.asarray(np.log(values) - np.log1p(-values), np.float64)
    if on == "rank":
        places = pd.DataFrame(values).rank(method="average").to_numpy(np.float64)
        return np.asarray((places - 0.5) / len(values), np.float64)
    return values


def from_scale(values: FloatArray, on: Scale) -> FloatArray:
    """Bring averages (n, L) back to [0, 1]; those of ranks stay as they are, and are no probabilities."""
    if on != "logit":
        return values.clip(0, 1)  # rounding may leave 1 by one bit
    small = np.exp(-np.abs(values))
    return np.asarray(np.where(values >= 0, 1, small) / (1 + small), np.float64)


def combine(scores: Sequence[npt.NDArray[Any]], weights: FloatArray, on: Scale) -> FloatArray:
    """The weighted mean of M models' scores.

    Args:
        scores: M arrays (n, L) of probabilities.
        weights: (M, L), not negative, with a positive sum for each label.
        on: What is averaged.

    Returns:
        (n, L) float64 in [0, 1].
    """
    shares = weights / weights.sum(axis=0)
    total = np.zeros(scores[0].shape)
    for one, share in zip(scores, shares, strict=True):
        if share.any():
            total += to_scale(one, on) * share
    return from_scale(total, on)
