"""Where a film's pixels are in the square that a network sees, and back: the geometry of each resize policy.

Coordinates are continuous: pixel i covers i to i + 1, its centre is at i + 0.5, and an image of W columns reaches
from 0 to W. Resizing maps edges onto edges, so that both directions are a scale and a shift per axis, without any
rounding but the one that `letterbox` makes when it pads whole pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from longview import InputError
from longview.data.images import Resize

FloatArray = npt.NDArray[np.float32]
Box = tuple[float, float, float, float]
"""x, y, width, height; x and y of the upper left corner."""


@dataclass(frozen=True)
class Frame:
    """How a film of (height, width) pixels became a square of `size` pixels.

    Args:
        height: Rows of the film.
        width: Columns of the film.
        size: S, side in pixels of the square that the network sees.
        resize: The policy, as :func:`longview.data.images.resize_image` has it.
        stored: Side in pixels of the square that the policy made (`Preprocessing.size`), where it was resized to S
            after that; None: S. It decides how `letterbox` rounds.

    Raises:
        InputError: For a side below 1 pixel, or another policy.
    """

    height: int
    width: int
    size: int
    resize: Resize = "squash"
    stored: int | None = None

    def __post_init__(self) -> None:
        sides = {"height": self.height, "width": self.width, "size": self.size, "stored": self.stored or self.size}
        for name, value in sides.items():
            if value < 1:
                raise InputError(f"Frame: {name} is {value}; it must be at least 1 pixel")
        if self.resize not in {"squash", "letterbox", "crop"}:
            raise InputError(f"Frame: resize is {self.resize!r}; there are squash, letterbox, crop")

    @property
    def scale(self) -> tuple[float, float]:
        """Pixels of the square per pixel of the film, along x and y."""
        return self._axis(self.width)[0], self._axis(self.height)[0]

    @property
    def offset(self) -> tuple[float, float]:
        """Where the film's upper left corner is in the square, x and y; below 0 where it was cropped away."""
        return self._axis(self.width)[1], self._axis(self.height)[1]

    @property
    def visible(self) -> Box:
        """The part of the film that the square shows: all of it, but for `crop`."""
        return self.box_to_original(0, 0, self.size, self.size)

    def to_original(self, values: npt.NDArray[np.floating]) -> FloatArray:
        """Bring maps over the square into the film's frame, bilinearly.

        Args:
            values: (..., h, w), of any resolution: h rows and w columns that cover the whole square, as a network's
                feature map does, or S x S.

        Returns:
            (..., height, width) float32 within the range of `values` and 0: what stood for padding is dropped, what was
            cropped away is 0.
        """
        rows = _bilinear(*self._back(self.height, values.shape[-2]), self.height, values.shape[-2])
        columns = _bilinear(*self._back(self.width, values.shape[-1]), self.width, values.shape[-1])
        return np.asarray(rows @ values.astype(np.float32) @ columns.T, np.float32)

    def to_model(self, values: npt.NDArray[np.floating]) -> FloatArray:
        """Bring maps or masks over the film into the square, each pixel the mean over the area that it shows.

        Args:
            values: (..., height, width).

        Returns:
            (..., S, S) float32; 0 where the square is padding.

        Raises:
            ValueError: Where `values` are of another size than the film.
        """
        if values.shape[-2:] != (self.height, self.width):
            raise ValueError(f"values are {values.shape[-2:]}, the film has {(self.height, self.width)}")
        rows = _area(*self._axis(self.height), self.height, self.size)
        columns = _area(*self._axis(self.width), self.width, self.size)
        return np.asarray(rows @ values.astype(np.float32) @ columns.T, np.float32)

    def box_to_model(self, x: float, y: float, width: float, height: float) -> Box:
        """A box of the film in pixels of the square, cut at its edges; width or height 0 where nothing is left."""
        (scale_x, scale_y), (left, top) = self.scale, self.offset
        return _cut(
            x * scale_x + left, y * scale_y + top, width * scale_x, height * scale_y, float(self.size), float(self.size)
        )

    def box_to_original(self, x: float, y: float, width: float, height: float) -> Box:
        """A box of the square in pixels of the film, cut at its edges; width or height 0 where nothing is left."""
        (scale_x, scale_y), (left, top) = self.scale, self.offset
        return _cut(
            (x - left) / scale_x, (y - top) / scale_y, width / scale_x, height / scale_y,
            float(self.width), float(self.height),
        )  # fmt: skip

    def _axis(self, length: int) -> tuple[float, float]:
        """Scale and offset of one axis, from the film to the square."""
        stored = self.stored or self.size
        if self.resize == "squash":
            return self.size / length, 0.0
        if self.resize == "crop":
            side = min(self.height, self.width)
            return self.size / side, -((length - side) // 2) * self.size / side
        inner = max(1, round(length * (stored / max(self.height, self.width))))  # as resize_image rounds it
        return inner / length * self.size / stored, (stored - inner) // 2 * self.size / stored

    def _back(self, length: int, cells: int) -> tuple[float, float]:
        """Scale and offset of one axis, from the film to a map of so many cells over the square."""
        scale, offset = self._axis(length)
        return scale * cells / self.size, offset * cells / self.size


def _bilinear(scale: float, offset: float, count: int, cells: int) -> FloatArray:
    """Weights (count, cells) that read a map of cells at the centres of pixels; 0 for pixels beyond the map.

    Beyond the centres of the outermost cells their value holds, as in every bilinear resize.
    """
    place = (np.arange(count) + 0.5) * scale + offset
    inside = (place >= 0) & (place <= cells)
    place = np.clip(place - 0.5, 0, cells - 1)
    lower = np.minimum(place.astype(np.int64), max(cells - 2, 0))
    share = place - lower
    weights = np.zeros((count, cells), np.float32)
    weights[np.arange(count), lower] = (1 - share) * inside
    weights[np.arange(count), np.minimum(lower + 1, cells - 1)] += share * inside
    return weights


def _area(scale: float, offset: float, count: int, size: int) -> FloatArray:
    """Weights (size, count) of film pixels in square pixels: the overlap of each pair, as a share of the latter."""
    edges = np.arange(count + 1) * scale + offset
    left = np.maximum(edges[None, :-1], np.arange(size)[:, None])
    right = np.minimum(edges[None, 1:], np.arange(1, size + 1)[:, None])
    return np.asarray(np.maximum(right - left, 0), np.float32)


def _cut(x: float, y: float, width: float, height: float, columns: float, rows: float) -> Box:
    """The part of a box that lies on an image of so many columns and rows."""
    left, top = min(max(x, 0.0), columns), min(max(y, 0.0), rows)
    right, bottom = min(max(x + width, 0.0), columns), min(max(y + height, 0.0), rows)
    return left, top, right - left, bottom - top
