"""From a stored film to the network's input size: one warp and one look-up table, on uint8, one channel.

Geometric augmentation is composed into a single affine matrix, so that crop, flip, rotation, zoom, shift and
the resize to the network's size read and interpolate each pixel once; brightness and contrast are one table
of 256 entries. Widening to float and normalising belong to the device.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import cv2
import numpy as np
import numpy.typing as npt

from longview import InputError
from longview.data.images import Resize

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Preprocessing:
    """How a film became a stored square; a checkpoint carries it so that new films are treated alike.

    Args:
        size: Side of the stored square in pixels, before the resize to the network's size.
        resize: How the film's sides were made equal: `squash`, `letterbox` or `crop`.
    """

    size: int = 512
    resize: Resize = "squash"

    def __post_init__(self) -> None:
        if self.size < 1:
            raise InputError(f"preprocessing size is {self.size}; give a side in pixels, such as 512")


@dataclass(frozen=True)
class Augment:
    """Random crop, flip, rotation, zoom, shift, brightness and contrast of a film.

    What the warp sees beyond the film is black, like the collimated border of a radiograph; mirroring the
    border instead would draw anatomy that is not there. Flipping is off by default: the heart's side is a
    finding.

    Args:
        rotate: Largest angle in degrees, either way.
        scale: Range of the zoom about the centre of the crop; 1.1 shows everything 10 % larger.
        shift: Largest shift along each axis, as a share of the side.
        crop: Range of the area of a square crop at a random place, as a share of the film; the crop fills the
            output.
        flip: Probability of a left-right flip, in [0, 1].
        brightness: Largest relative change of brightness, either way; a factor, so that dark lungs keep their detail.
        contrast: Largest relative change of contrast about middle grey, either way.

    Raises:
        InputError: For a value out of its range; the message names it.
    """

    rotate: float = 10.0
    scale: tuple[float, float] = (0.9, 1.1)
    shift: float = 0.05
    crop: tuple[float, float] = (0.9, 1.0)
    flip: float = 0.0
    brightness: float = 0.2
    contrast: float = 0.2

    def __post_init__(self) -> None:
        allowed = {
            "rotate": (0.0, 180.0),
            "scale": (0.1, 10.0),
            "shift": (0.0, 1.0),
            "crop": (0.01, 1.0),
            "flip": (0.0, 1.0),
            "brightness": (0.0, 1.0),
            "contrast": (0.0, 1.0),
        }
        for field in fields(self):
            value, (low, high) = getattr(self, field.name), allowed[field.name]
            values = tuple(value) if isinstance(value, tuple | list) else (value,)
            if not all(low <= number <= high for number in values) or list(values) != sorted(values):
                order = ", smaller value first" if len(values) > 1 else ""
                raise InputError(f"augment.{field.name} is {value}; allowed: {low:g} to {high:g}{order}")

    def __call__(self, image: Pixels, size: int, rng: np.random.Generator, out: Pixels | None = None) -> Pixels:
        """Draw one variant of a film.

        Args:
            image: (S, S) uint8, as stored; it is not changed.
            size: Side of the result in pixels.
            rng: Where all random numbers come from: ten per call, whatever the settings are.
            out: (size, size) uint8, C-contiguous, to write into; a new array where None.

        Returns:
            (size, size) uint8; `out` itself where it was given.
        """
        draws = rng.random(10).tolist()
        step = math.sqrt(_between(self.crop, draws[0])) / _between(self.scale, draws[1])
        image = _shrink(image, step, size)
        out = _result(size, out)
        cv2.warpAffine(
            image,
            self._matrix(image.shape[0], size, step, draws),
            (size, size),
            dst=out,
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_CONSTANT,
            borderValue=0,
        )
        contrast = self.contrast * (2.0 * draws[8] - 1.0)
        brightness = self.brightness * (2.0 * draws[9] - 1.0)
        if contrast or brightness:
            cv2.LUT(out, _table(1.0 + contrast, 1.0 + brightness), dst=out)
        return out

    def _matrix(self, stored: int, size: int, step: float, draws: list[float]) -> npt.NDArray[np.float64]:
        """The (2, 3) matrix from a pixel (x, y) of the result to the place in the film that it shows.

        Places are shares of the side, measured from the middle; pixel i covers i to i + 1, so its centre is i
        + 0.5. `step` is how far one moves over the film while moving over the whole result.
        """
        margin = 1.0 - math.sqrt(_between(self.crop, draws[0]))  # how far the crop may stray, to both sides together
        left, top = margin * (draws[2] - 0.5), margin * (draws[3] - 0.5)
        right = self.shift * (2.0 * draws[4] - 1.0)
        down = self.shift * (2.0 * draws[5] - 1.0)
        angle = math.radians(self.rotate * (2.0 * draws[6] - 1.0))
        mirror = -1.0 if draws[7] < self.flip else 1.0
        cosine, sine = step * math.cos(angle), step * math.sin(angle)
        xx, xy, yx, yy = mirror * cosine, -sine, mirror * sine, cosine
        first = 0.5 / size - 0.5  # where the centre of the result's first pixel is
        x = left + xx * (first - right) + xy * (first - down)
        y = top + yx * (first - right) + yy * (first - down)
        pixels = stored / size
        return np.array(
            [
                [xx * pixels, xy * pixels, stored * (x + 0.5) - 0.5],
                [yx * pixels, yy * pixels, stored * (y + 0.5) - 0.5],
            ]
        )


def _between(bounds: tuple[float, float], share: float) -> float:
    return bounds[0] + (bounds[1] - bounds[0]) * share


def _table(contrast: float, brightness: float) -> Pixels:
    """The 256 results of brightness and then contrast about middle grey, rounded and clipped."""
    table: Pixels = np.clip(_GREYS * (brightness * contrast) + (127.5 - 127.5 * contrast + 0.5), 0, 255).astype(
        np.uint8
    )
    return table


_GREYS = np.arange(256, dtype=np.float32)


def _shrink(image: Pixels, step: float, size: int) -> Pixels:
    """Halve by averaging as long as a bilinear kernel would step over pixels."""
    while image.shape[0] * step >= 2 * size:
        half = image.shape[0] // 2
        image = np.asarray(cv2.resize(image, (half, half), interpolation=cv2.INTER_AREA), np.uint8)
    return image


def _result(size: int, out: Pixels | None) -> Pixels:
    if out is None:
        return np.empty((size, size), np.uint8)
    if out.shape != (size, size) or out.dtype != np.uint8 or not out.flags.c_contiguous:
        raise ValueError(f"out must be a contiguous ({size}, {size}) uint8 array, not {out.dtype} {out.shape}")
    return out


def resize_only(image: Pixels, size: int, out: Pixels | None = None) -> Pixels:
    """Resize a stored film to the network's size with the same kernel as :class:`Augment`, nothing random.

    Args:
        image: (S, S) uint8.
        size: Side of the result in pixels.
        out: (size, size) uint8, C-contiguous, to write into; a new array where None.

    Returns:
        (size, size) uint8; `out` itself where it was given.
    """
    out = _result(size, out)
    image = _shrink(image, 1.0, size)
    if image.shape[0] == size:
        np.copyto(out, image)
    else:
        cv2.resize(image, (size, size), dst=out, interpolation=cv2.INTER_LINEAR)
    return out
