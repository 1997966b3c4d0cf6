"""Bringing deep pixels (10 to 32 bits, floating point) to 8 bits, the same way for every file format.

A 16-bit PNG or TIFF and a DICOM without a window say nothing about which part of their range holds the film:
PadChest uses most of 65,536 grey values, a 12-bit detector in a 16-bit file a sixteenth of them. Dividing by
257 would turn the second into a black square, so a film is stretched between its own robust extremes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

LOW_PERCENT, HIGH_PERCENT = 0.1, 99.9
"""Percentiles that become black and white: a few dead or hot pixels and dust do not set the contrast."""

_SAMPLE = 1 << 20  # pixels that the percentiles are taken from; a regular grid of them is exact enough
_TABLE = 1 << 16  # integers with a range up to this are mapped by look-up, which is several times faster


def robust_range(values: npt.NDArray[Any]) -> tuple[float, float]:
    """The grey values that become black and white.

    Args:
        values: (…) integer or floating-point pixels; NaN and infinities are left out.

    Returns:
        The 0.1 and 99.9 percentiles, or minimum and maximum where those two are equal (a nearly empty film);
        (0, 0) for no finite value.
    """
    finite = values[np.isfinite(values)] if values.dtype.kind == "f" else values.reshape(-1)
    if finite.size == 0:
        return 0.0, 0.0
    # an odd step: an even one could fall on every other column of the film only
    sample = finite[:: finite.size // _SAMPLE | 1]
    low, high = np.percentile(sample, (LOW_PERCENT, HIGH_PERCENT))
    if low == high:
        low, high = finite.min(), finite.max()
    return float(low), float(high)


def to_uint8(values: npt.NDArray[Any], low: float, high: float) -> npt.NDArray[np.uint8]:
    """Map `low` to 0 and `high` to 255 linearly, clipped and rounded; NaN and a constant film become 0."""
    if not high > low:
        return np.zeros(values.shape, np.uint8)
    if values.dtype.kind in "iu" and values.size > _TABLE:
        first, last = int(values.min()), int(values.max())
        if last - first < _TABLE:
            table = to_uint8(np.arange(first, last + 1, dtype=np.float64), low, high)
            index = values if first == 0 else values.astype(np.int64) - first
            return table[index]
    scaled = (values.astype(np.float64) - low) * (255.0 / (high - low))
    return np.rint(np.clip(np.nan_to_num(scaled, nan=0.0), 0, 255)).astype(np.uint8)


def stretch(values: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Map a film to 8 bits between its own robust extremes; see :func:`robust_range`."""
    return to_uint8(values, *robust_range(values))
