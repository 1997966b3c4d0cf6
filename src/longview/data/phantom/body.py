"""The body that is projected: one patient's chest as a few numbers, curves and surfaces in three dimensions."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from longview.data.phantom.canvas import Array, Points, smooth

RIGHT, LEFT = -1, 1
"""Sides of the patient; the right one is at the left of a frontal image."""

RIBS = 9
VERTEBRAE = 16


@dataclass(frozen=True)
class Body:
    """A patient's chest at one moment.

    Args:
        width: Half-width of the rib cage (units; about 0.72).
        depth: Depth of the chest, a factor about 1.
        apex: Height of the lung tips (about -0.76).
        dome: Height of the top of the right half of the diaphragm (about 0.36); the left one is lower.
        dome_step: How much lower the left dome is.
        flat: How flat the diaphragm is: 0 normal, 1 flat.
        heart: Size of the heart, a factor about 1 (ratio of heart to chest about 0.44).
        aorta: Size of the aortic knob, a factor about 1.
        fat: Thickness of the soft tissue of the chest wall (0 to 1).
        breast: Size of the breasts, 0 for none.
        slope: How far a rib drops from the spine to its front end.
        curve: Sideways bend of the spine (units).
        kyphosis: Roundness of the back, a factor about 1.
        air: Density of the lungs that air takes away, a factor about 1.
        bone: Density of the bones, a factor about 1.
        seed: Seed of the lung vessels.
    """

    width: float
    depth: float
    apex: float
    dome: float
    dome_step: float
    flat: float
    heart: float
    aorta: float
    fat: float
    breast: float
    slope: float
    curve: float
    kyphosis: float
    air: float
    bone: float
    seed: tuple[int, ...]

    @classmethod
    def draw(cls, rng: np.random.Generator, age: float, female: bool, seed: tuple[int, ...]) -> Body:
        """Draw a patient; the old have a larger aortic knob, a rounder back and thinner bones."""
        old = (age - 55) / 20
        size = rng.normal(-0.02 if female else 0.01, 0.035)
        return cls(
            width=float(np.clip(0.72 + size, 0.62, 0.80)),
            depth=float(np.clip(rng.normal(1.0, 0.06), 0.86, 1.15)),
            apex=float(np.clip(rng.normal(-0.76, 0.03), -0.84, -0.68)),
            dome=float(np.clip(rng.normal(0.37, 0.05), 0.26, 0.48)),
            dome_step=float(rng.uniform(0.02, 0.09)),
            flat=0.0,
            heart=float(np.clip(rng.normal(0.97, 0.06), 0.82, 1.1)),
            aorta=float(np.clip(rng.normal(1.0 + 0.08 * old, 0.1), 0.75, 1.35)),
            fat=float(np.clip(rng.normal(0.35, 0.22), 0.0, 1.0)),
            breast=float(rng.uniform(0.5, 1.1)) if female else 0.0,
            slope=float(rng.normal(0.30, 0.035)),
            curve=float(rng.normal(0, 0.012)),
            kyphosis=float(np.clip(rng.normal(1 + 0.15 * old, 0.15), 0.6, 1.5)),
            air=float(np.clip(rng.normal(1.0, 0.06), 0.85, 1.15)),
            bone=float(np.clip(rng.normal(1.0 - 0.1 * old, 0.12), 0.65, 1.35)),
            seed=seed,
        )

    @property
    def base(self) -> float:
        """Height of the bottom of the pleural space."""
        return 0.70

    def share(self, y: Array | Points | float) -> Points:
        """How far down the chest a height is: 0 at the lung tips, 1 at the bottom."""
        return np.clip((np.asarray(y, dtype=np.float64) - self.apex) / (self.base - self.apex), 0, 1)

    def half_width(self, y: Array | Points | float) -> Points:
        """Half-width of the inside of the rib cage at a height; 0 above the lung tips."""
        s = self.share(y)
        rise = np.sqrt(np.maximum(1 - (1 - np.minimum(s / 0.62, 1)) ** 2.3, 0))
        return self.width * rise * (1 - 0.06 * np.maximum(s - 0.62, 0) / 0.38) * np.where(s > 0, 1, 0)

    def front(self, y: Array | Points | float) -> Points:
        """Where the lungs end in front (z): behind the breast bone, which slants forwards."""
        s = self.share(y)
        return self.depth * (0.10 + 0.50 * np.minimum(s / 0.8, 1) ** 0.75)

    def back(self, y: Array | Points | float) -> Points:
        """Where the lungs end behind (z)."""
        s = self.share(y)
        return -self.depth * (0.43 + 0.25 * self.kyphosis * np.sin(math.pi * np.minimum(0.12 + 0.75 * s, 1)) ** 0.8)

    def spine(self, y: Array | Points | float) -> Points:
        """Centre of the vertebrae (z) at a height."""
        return self.back(y) + 0.17

    def midline(self, y: Array | Points | float) -> Points:
        """Centre of the vertebrae (x) at a height."""
        return self.curve * np.sin(2.2 * np.asarray(y, dtype=np.float64))

    def top(self, side: int) -> float:
        """Height of the top of one dome."""
        return self.dome + 0.14 * self.flat + (self.dome_step if side == LEFT else 0.0)

    def floor_frontal(self, x: Array, side: int) -> Array:
        """Height of the diaphragm's outline over x (its highest line), as a frontal film shows it."""
        top, crest = self.top(side), 0.40 * self.width / 0.72
        out = side * x - crest
        reach = np.where(out > 0, self.width - crest, crest)
        drop = np.where(out > 0, 0.27, 0.10) * (1 - 0.72 * self.flat)
        return np.asarray(top + drop * np.minimum(np.abs(out) / reach, 1.3) ** 2.1, np.float32)

    def floor_lateral(self, z: Array, side: int) -> Array:
        """Height of one dome over z, as a lateral film shows it: it falls steeply behind."""
        crest = 0.10 * self.depth
        behind = crest - z
        reach = np.where(behind > 0, crest - float(self.back(0.4)), float(self.front(0.4)) - crest)
        drop = np.where(behind > 0, 0.34, 0.12) * (1 - 0.72 * self.flat)
        return np.asarray(self.top(side) - 0.02 + drop * np.minimum(np.abs(behind) / reach, 1.3) ** 2, np.float32)

    @cached_property
    def ribs(self) -> Points:
        """Centre lines (2, RIBS, 25, 3), right ones first, each from its head at the spine round to its front end."""
        turn = np.linspace(0.10, 2.55, 25)[None, None, :]
        number = np.arange(RIBS, dtype=np.float64)[None, :, None]
        side = np.array([RIGHT, LEFT], dtype=np.float64)[:, None, None]
        fall = self.slope * (0.75 + 0.07 * number)
        y = self.apex + 0.03 + number * 0.132 - 0.035 * np.sin(2 * turn) + fall * (1 - np.cos(turn)) / 2
        half = self.half_width(np.minimum(self.apex + 0.03 + number * 0.132 + 0.45 * fall, self.base)) + 0.012
        back, front = self.back(y), self.front(y)
        z = (back + front) / 2 - (front - back) / 2 * 1.03 * np.cos(turn)
        x = side * (0.055 + (half - 0.055) * np.sin(turn) ** 0.9) + self.midline(y)
        shape = (2, RIBS, 25)
        return np.stack([np.broadcast_to(x, shape), np.broadcast_to(y, shape), np.broadcast_to(z, shape)], axis=-1)

    @cached_property
    def vertebrae(self) -> Points:
        """Centre height, height, z and x of each vertebra's body, (VERTEBRAE, 4); they grow downwards."""
        number = np.arange(VERTEBRAE, dtype=np.float64)
        y = -0.95 + number * 0.125 + 0.002 * number**2
        return np.stack([y, 0.105 + 0.004 * number, self.spine(y), self.midline(y)], axis=1)

    def heart_frontal(self) -> Points:
        """Outline of the heart as a frontal film shows it."""
        shift = self.dome - 0.37 + 0.10 * self.flat
        knots = np.array(
            [
                (-0.09, -0.20), (-0.12, -0.05), (-0.18, 0.08), (-0.205, 0.21), (-0.17, 0.36), (0.0, 0.47),
                (0.24, 0.50), (0.40, 0.44), (0.455, 0.34), (0.41, 0.19), (0.30, 0.02), (0.20, -0.10), (0.14, -0.20),
            ]
        )  # fmt: skip
        grow = self.heart * (1 - 0.14 * self.flat)
        knots[:, 0] *= grow * self.width / 0.72
        knots[:, 1] = 0.46 + (knots[:, 1] - 0.46) * (1 + 0.35 * (grow - 1)) + shift
        return smooth(knots, closed=True)

    def heart_lateral(self) -> Points:
        """Outline of the heart as a lateral film shows it: it lies on the diaphragm, behind the breast bone."""
        shift = self.dome - 0.37 + 0.10 * self.flat
        grow = self.heart * (1 - 0.14 * self.flat)
        knots = np.array(
            [
                (0.02, -0.16), (-0.10, -0.02), (-0.17, 0.16), (-0.13, 0.33), (0.02, 0.44), (0.22, 0.46), (0.40, 0.40),
                (0.43, 0.26), (0.38, 0.10), (0.26, -0.06), (0.13, -0.17),
            ]
        )  # fmt: skip
        centre = 0.36 * self.depth
        knots[:, 0] = centre + (knots[:, 0] * self.depth - centre) * (1 + 1.1 * (grow - 1))
        knots[:, 1] = 0.46 + (knots[:, 1] - 0.46) * (1 + 0.55 * (grow - 1)) + shift
        return smooth(knots, closed=True)

    def hilum(self, side: int) -> tuple[float, float, float]:
        """Where the vessels enter a lung; the left one is a little higher."""
        return side * (0.155 + 0.04 * (self.heart - 1)), -0.10 if side == RIGHT else -0.14, -0.03

    @cached_property
    def vessels(self) -> list[Points]:
        """Lung vessels as curves (n, 6, 3): the main branches, their branches, and the finest."""
        rng = np.random.default_rng([*self.seed, 7])
        angle = np.linspace(-1.2, 1.25, 8) + rng.normal(0, 0.1, (2, 8))
        tilt = rng.uniform(-0.8, 0.8, (2, 8))
        sides = np.array([[RIGHT], [LEFT]])
        heading = np.stack([sides * np.cos(angle) * np.cos(tilt), np.sin(angle), np.sin(tilt) * 0.9], axis=-1)
        start = np.repeat(np.array([self.hilum(RIGHT), self.hilum(LEFT)]), 8, axis=0)
        length = rng.uniform(0.36, 0.56, 16)
        heading, steps, result = heading.reshape(-1, 3), 5, []
        for _ in range(3):
            bend = np.cumsum(rng.normal(0, 0.13, (len(start), steps, 3)), axis=1) + heading[:, None]
            walk = np.cumsum(bend * (length / steps)[:, None, None], axis=1)
            path = start[:, None] + np.concatenate([np.zeros((len(start), 1, 3)), walk], axis=1)
            result.append(path)
            forks = [2, 3, 4]
            start = path[:, forks].reshape(-1, 3)
            away = bend[:, forks].reshape(-1, 3) + rng.normal(0, 0.5, (len(start), 3))
            heading = away / np.linalg.norm(away, axis=1, keepdims=True)
            length = np.repeat(length, len(forks)) * rng.uniform(0.4, 0.65, len(start))
        return result
