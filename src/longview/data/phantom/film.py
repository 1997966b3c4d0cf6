"""From density to a film: position, exposure, contrast, scatter, noise, collimation and side marker."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from longview.data.phantom.canvas import Array


@dataclass(frozen=True)
class Film:
    """How one exposure was taken.

    Args:
        angle: Turn of the patient in the image plane, degrees.
        scale: Magnification.
        shift: Where the centre lies, in shares of the image.
        gain: Contrast.
        offset: Brightness.
        gamma: Bend of the grey scale.
        veil: Scatter: how much a blurred copy greys the image, 0 to 1.
        noise: Standard deviation of the quantum noise, in grey levels of 255.
        border: Shares of the image that the collimator hides: left, top, right, bottom.
        marker: Letters of the side marker.
        seed: Seed of the noise.
    """

    angle: float
    scale: float
    shift: tuple[float, float]
    gain: float
    offset: float
    gamma: float
    veil: float
    noise: float
    border: tuple[float, float, float, float]
    marker: str
    seed: tuple[int, ...]

    @classmethod
    def draw(cls, rng: np.random.Generator, portable: bool, frontal: bool, seed: tuple[int, ...]) -> Film:
        """Draw an exposure; a portable one (AP, in bed) is more crooked, greyer and noisier."""
        loose = 1.6 if portable else 1.0
        border = np.where(rng.random(4) < 0.4, rng.uniform(0, 0.045, 4), 0.0)
        marker = ("AP" if rng.random() < 0.5 else "L") if portable else "L"
        return cls(
            angle=float(np.clip(rng.normal(0, 1.3 * loose), -6, 6)),
            scale=float(np.clip(rng.normal(1.0 if frontal else 1.04, 0.03 * loose), 0.9, 1.13)),
            shift=(
                float(np.clip(rng.normal(0, 0.015 * loose), -0.05, 0.05)),
                float(rng.normal(0, 0.014 * loose)),
            ),
            gain=float(np.clip(rng.normal(0.97 if portable else 1.05, 0.09), 0.78, 1.3)),
            offset=float(np.clip(rng.normal(0.0, 0.04), -0.09, 0.12)),
            gamma=float(np.clip(rng.normal(1.2, 0.12), 0.9, 1.5)),
            veil=float(rng.uniform(0.05, 0.30) if portable else rng.uniform(0.0, 0.15)),
            noise=float(rng.uniform(2.5, 7.5) if portable else rng.uniform(2.0, 5.0)),
            border=(float(border[0]), float(border[1]), float(border[2]), float(border[3])),
            marker=marker if rng.random() < 0.7 else "",
            seed=seed,
        )

    def _matrix(self, size: int) -> npt.NDArray[np.float64]:
        """Affine (2, 3) from body pixels to film pixels."""
        turn, centre = math.radians(self.angle), (size - 1) / 2
        cosine, sine = self.scale * math.cos(turn), self.scale * math.sin(turn)
        matrix = np.array([[cosine, -sine, 0.0], [sine, cosine, 0.0]])
        target = np.array([centre + self.shift[0] * size, centre + self.shift[1] * size])
        matrix[:, 2] = target - matrix[:, :2] @ np.array([centre, centre])
        return matrix

    def _open(self, size: int) -> tuple[slice, slice]:
        """Rows and columns that the collimator leaves open."""
        left, top, right, bottom = (round(share * size) for share in self.border)
        return slice(top, size - bottom), slice(left, size - right)

    def box(self, changed: npt.NDArray[np.bool_]) -> tuple[int, int, int, int] | None:
        """Where a mask (S, S) over the body lies on the film: x, y, width, height in pixels; None if hidden."""
        size = len(changed)
        moved = cv2.warpAffine(changed.astype(np.uint8) * 255, self._matrix(size), (size, size), flags=cv2.INTER_LINEAR)
        rows, columns = self._open(size)
        x, y, width, height = cv2.boundingRect((moved[rows, columns] > 96).astype(np.uint8))
        if not width or not height:
            return None
        return x + columns.start, y + rows.start, width, height

    def expose(self, density: Array) -> npt.NDArray[np.uint8]:
        """Turn a density map (S, S) into a grey image (S, S)."""
        size = len(density)
        moved = cv2.warpAffine(
            density, self._matrix(size), (size, size), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
        )
        small = cv2.resize(moved, (8, 8), interpolation=cv2.INTER_AREA)
        veil = cv2.resize(small, (size, size), interpolation=cv2.INTER_LINEAR)
        grey = moved * np.float32(1 - self.veil) + veil * np.float32(self.veil)
        grey = np.clip(grey * np.float32(self.gain) + np.float32(self.offset), 0.0, 1.3)
        # the shoulder of a film's characteristic curve keeps dense parts apart: 1 - exp bends towards white
        grey = (1 - np.exp(np.float32(-1.2) * grey ** np.float32(self.gamma))) * np.float32(255 / 0.66)
        rng = np.random.default_rng(self.seed)
        grain = rng.standard_normal((size, size), dtype=np.float32)
        grey += (grain + np.roll(grain, 1, axis=1)) * np.float32(0.7 * self.noise)
        image = np.clip(grey, 0, 255).astype(np.uint8)
        if self.marker and size >= 96:
            place = (round(size * (0.93 - 0.05 * len(self.marker))), round(size * 0.10))
            cv2.putText(
                image,
                self.marker,
                place,
                cv2.FONT_HERSHEY_SIMPLEX,
                size / 420,
                235,
                max(1, size // 200),
                cv2.LINE_AA,
            )
        rows, columns = self._open(size)
        framed = np.full((size, size), 3, np.uint8)
        framed[rows, columns] = image[rows, columns]
        return framed
