"""One projection under construction: a density map with anti-aliased polygons, strokes and smooth noise.

Body coordinates: x from the patient's right (-1) to left (+1), y from head (-1) to feet (+1), z from back (-1) to
front (+1). A frontal image looks at the patient: its left side shows x = -1. A lateral one shows the back at its
left: its horizontal axis u is z. One unit is about 18 cm.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]
Points = npt.NDArray[np.float64]
Plane = Literal["frontal", "lateral"]

_FIXED = 8  # bits of sub-pixel precision in OpenCV's polygon coordinates
_SPLINE_STEPS = 6


def _spline_weights() -> Points:
    """Catmull-Rom weights of four neighbouring points at `_SPLINE_STEPS` positions, (steps, 4)."""
    t = np.arange(_SPLINE_STEPS) / _SPLINE_STEPS
    columns = [-t + 2 * t**2 - t**3, 2 - 5 * t**2 + 3 * t**3, t + 4 * t**2 - 3 * t**3, -(t**2) + t**3]
    return 0.5 * np.stack(columns, axis=1)


_WEIGHTS = _spline_weights()


def smooth(points: Sequence[Sequence[float]] | Points, closed: bool = False) -> Points:
    """Catmull-Rom curve through (n, k) points: (6 n, k) if closed, else (6 (n - 1) + 1, k)."""
    knots = np.asarray(points, dtype=np.float64)
    n = len(knots)
    if closed:
        index = (np.arange(n)[:, None] + np.arange(-1, 3)) % n
    else:
        index = np.clip(np.arange(n - 1)[:, None] + np.arange(-1, 3), 0, n - 1)
    curve = np.einsum("sk,nkd->nsd", _WEIGHTS, knots[index]).reshape(-1, knots.shape[1])
    return curve if closed else np.concatenate([curve, knots[-1:]])


def band(curve: Points, width: float) -> Points:
    """Outlines (..., 2 n, 2) of strokes of a width along curves (..., n, 2)."""
    tangent = np.empty_like(curve)
    tangent[..., 1:-1, :] = curve[..., 2:, :] - curve[..., :-2, :]
    tangent[..., 0, :] = curve[..., 1, :] - curve[..., 0, :]
    tangent[..., -1, :] = curve[..., -1, :] - curve[..., -2, :]
    normal = np.stack([-tangent[..., 1], tangent[..., 0]], axis=-1)
    normal *= width / 2 / np.maximum(np.sqrt((tangent**2).sum(axis=-1, keepdims=True)), 1e-9)
    return np.concatenate([curve + normal, (curve - normal)[..., ::-1, :]], axis=-2)


def oval(centre: Sequence[float], radii: Sequence[float], angle: float = 0.0, points: int = 28) -> Points:
    """Outline (points, 2) of an ellipse, turned by `angle` radians."""
    turn = np.linspace(0, 2 * math.pi, points, endpoint=False)
    across, down = radii[0] * np.cos(turn), radii[1] * np.sin(turn)
    cosine, sine = math.cos(angle), math.sin(angle)
    return np.stack([centre[0] + across * cosine - down * sine, centre[1] + across * sine + down * cosine], axis=1)


class Canvas:
    """A square density map in one plane.

    Args:
        size: Side in pixels.
        plane: Which projection.
        yaw: How far the patient is turned about the long axis, in radians: things in front move sideways.
    """

    def __init__(self, size: int, plane: Plane, yaw: float = 0.0) -> None:
        centres = ((np.arange(size) + 0.5) * (2 / size) - 1).astype(np.float32)
        self.size, self.plane, self.yaw = size, plane, yaw
        self.u: Array = centres[None, :]
        self.y: Array = centres[:, None]
        self.density: Array = np.zeros((size, size), np.float32)

    def project(self, points: Points) -> Points:
        """Points of the body (..., 3) as points of this plane (..., 2)."""
        if self.plane == "frontal":
            return np.stack([points[..., 0] + self.yaw * points[..., 2], points[..., 1]], axis=-1)
        return np.stack([points[..., 2] - self.yaw * points[..., 0], points[..., 1]], axis=-1)

    def _fixed(self, shapes: tuple[Points, ...]) -> list[npt.NDArray[np.int32]]:
        """Shapes (n, 2) or stacks of them (m, n, 2) as a list in OpenCV's fixed-point pixels."""
        result: list[npt.NDArray[np.int32]] = []
        for shape in shapes:
            pixels = ((shape + 1) * (self.size / 2) - 0.5) * (1 << _FIXED) + 0.5
            whole = np.floor(pixels).astype(np.int32)
            result.extend(whole if whole.ndim == 3 else [whole])
        return result

    def blur(self, layer: Array, sigma: float) -> Array:
        """Gaussian blur; sigma in body units."""
        pixels = sigma * self.size / 2
        if pixels < 0.3:
            return layer
        width = 2 * math.ceil(2.2 * pixels) + 1
        blurred = cv2.GaussianBlur(layer, (width, width), pixels, borderType=cv2.BORDER_REPLICATE)
        return np.asarray(blurred, np.float32)

    def fill(self, *outlines: Points, soft: float = 0.0) -> Array:
        """Mask (S, S) in [0, 1] of the union of polygons (n, 2) or (m, n, 2), its edge blurred by `soft` units."""
        layer = np.zeros((self.size, self.size), np.uint8)
        for outline in self._fixed(outlines):
            cv2.fillPoly(layer, [outline], 255, cv2.LINE_AA, _FIXED)
        return self.blur(layer.astype(np.float32) / np.float32(255), soft)

    def stroke(self, *curves: Points, width: float, soft: float = 0.0) -> Array:
        """Mask of curves (n, 2) or (m, n, 2) of a width in units; one thinner than a pixel is drawn fainter."""
        pixels = width * self.size / 2
        if pixels >= 2.5:
            return self.fill(*[band(curve, width) for curve in curves], soft=soft)
        # OpenCV's lines are faster than outlines, where a whole number of pixels will do
        layer = np.zeros((self.size, self.size), np.uint8)
        value = round(255 * min(1.0, pixels / max(1, round(pixels))))
        cv2.polylines(layer, self._fixed(curves), False, value, max(1, round(pixels)), cv2.LINE_AA, _FIXED)
        return self.blur(layer.astype(np.float32) / np.float32(255), soft)

    def below(self, edge: Array | float, soft: float = 0.0) -> Array:
        """Mask of what lies below a height given per column (1, S): 1 below, 0 above, one pixel (or `soft`) wide."""
        ramp = (self.y - edge) / np.float32(max(2 / self.size, soft)) + np.float32(0.5)
        result: Array = np.clip(ramp, 0, 1, dtype=np.float32)
        return result

    def blob(self, centre: Sequence[float], radii: Sequence[float], angle: float = 0.0) -> Array:
        """A Gaussian hump (S, S) of height 1; radii are its standard deviations."""
        across, down = self.u - np.float32(centre[0]), self.y - np.float32(centre[1])
        if angle:
            cosine, sine = np.float32(math.cos(angle)), np.float32(math.sin(angle))
            across, down = across * cosine + down * sine, down * cosine - across * sine
        return np.exp(-0.5 * ((across / np.float32(radii[0])) ** 2 + (down / np.float32(radii[1])) ** 2))

    def noise(self, rng: np.random.Generator, grain: float) -> Array:
        """Smooth noise (S, S) of about unit variance, whose spots are `grain` units wide."""
        cells = max(3, round(2 / grain) + 2)
        coarse = rng.standard_normal((cells, cells), dtype=np.float32)
        spots = cv2.resize(coarse, (self.size, self.size), interpolation=cv2.INTER_CUBIC)
        return np.asarray(spots, np.float32) * np.float32(1.3)
