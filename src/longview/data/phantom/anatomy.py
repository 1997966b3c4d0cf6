"""The healthy chest on a canvas: soft tissue, lungs, heart, bones and vessels, kept apart for findings to change."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from longview.data.phantom.body import LEFT, RIBS, RIGHT, VERTEBRAE, Body
from longview.data.phantom.canvas import Array, Canvas, Plane, Points, oval, smooth

_AIR = 0.52
"""Density that the air of both lungs takes away at the deepest place (soft tissue alone gives about 0.62)."""


@dataclass
class Scene:
    """A projection of a body whose parts findings may look at and change.

    Args:
        canvas: The density so far; outside the body 0, lungs about 0.2, heart 0.7, abdomen 0.75.
        body: Whose it is.
        air: Density (S, S) that air takes away, per side: what an opacity can still fill.
        lungs: The same before anything was filled: where the lungs are.
        vessels: Density (S, S) of the lung vessels, part of the canvas already.
        ribs: Density (S, S) of the ribs, part of the canvas already.
        spine: Density (S, S) of the vertebrae, part of the canvas already.
    """

    canvas: Canvas
    body: Body
    air: dict[int, Array]
    lungs: dict[int, Array]
    vessels: Array
    ribs: Array
    spine: Array

    @property
    def plane(self) -> Plane:
        """The canvas's plane."""
        return self.canvas.plane

    @property
    def frontal(self) -> bool:
        """Whether this is a frontal projection."""
        return self.canvas.plane == "frontal"

    def lung(self, side: int | None = None) -> Array:
        """Air (S, S) of one lung, or of both added."""
        return self.air[side] if side is not None else self.air[RIGHT] + self.air[LEFT]

    def lung_mask(self, side: int) -> Array:
        """Where one lung is, soft at its edges, in [0, 1]."""
        full = np.float32(0.18 if self.frontal else 0.09)
        return np.asarray(np.minimum(self.lungs[side] / full, 1), np.float32)

    def opacify(self, side: int | None, mask: Array, share: float) -> None:
        """Fill a share of a lung's air where the mask is; what is filled cannot be filled again."""
        for lung in (RIGHT, LEFT) if side is None else (side,):
            self.canvas.density += mask * self.air[lung] * np.float32(share)
            self.air[lung] = self.air[lung] * (1 - np.clip(mask * np.float32(share), 0, 1))

    def side_of(self, curves: list[Points]) -> list[Points]:
        """Project body curves (n, 3) into this plane."""
        return [self.canvas.project(curve) for curve in curves]


def draw_anatomy(body: Body, size: int, plane: Plane, yaw: float = 0.0) -> Scene:
    """Draw a healthy chest in one plane, `size` pixels square."""
    canvas = Canvas(size, plane, yaw)
    if plane == "frontal":
        air, heart = _frontal_air(canvas, body), canvas.fill(body.heart_frontal(), soft=0.012)
        middle = _frontal_middle(canvas, body)
        centre = np.maximum(heart, middle)
        for side in air:
            air[side] *= 1 - np.float32(0.86) * centre
        canvas.density += _frontal_tissue(canvas, body) + np.float32(0.05) * heart + np.float32(0.05) * middle
    else:
        air, heart = _lateral_air(canvas, body), canvas.fill(body.heart_lateral(), soft=0.03)
        for side in air:
            air[side] *= 1 - np.float32(0.62) * heart
        canvas.density += _lateral_tissue(canvas, body) + _lateral_middle(canvas, body)
    for side in air:
        canvas.density -= air[side]
    spine = _frontal_spine(canvas, body) if plane == "frontal" else _lateral_spine(canvas, body)
    ribs = _ribs(canvas, body)
    vessels = _vessels(canvas, body, air)
    canvas.density += spine + ribs + vessels
    if plane == "frontal":
        canvas.density += _shoulder_girdle(canvas, body)
    return Scene(canvas, body, air, dict(air), vessels, ribs, spine)


def _frontal_tissue(canvas: Canvas, body: Body) -> Array:
    """Trunk, neck, arms, breasts and belly, with the stomach bubble."""
    wall = body.width + 0.07 + 0.10 * body.fat
    right = [
        (-0.19, -1.3), (-0.20, -0.95), (-0.30, -0.87), (-0.62, -0.80), (-0.92, -0.66), (-1.12, -0.35), (-1.1, -0.05),
        (-wall - 0.10, -0.12), (-wall - 0.01, 0.05), (-wall, 0.45), (-wall - 0.02, 1.4),
    ]  # fmt: skip
    outline = smooth(right + [(-x, y) for x, y in reversed(right)])
    arms = [np.array([(s * 1.02, -0.3), (s * 1.4, -0.3), (s * 1.4, 1.4), (s * (wall + 0.17), 1.4)]) for s in (-1, 1)]
    tissue = canvas.fill(outline, soft=0.035) * np.float32(0.60 + 0.06 * body.fat)
    tissue += canvas.fill(*arms, soft=0.05) * np.float32(0.35)
    belly = canvas.below(np.minimum(body.floor_frontal(canvas.u, -1), body.floor_frontal(canvas.u, 1)))
    tissue *= 1 + np.float32(0.10) * belly + np.float32(0.06) * np.clip(canvas.y, 0, 1)
    if body.breast:
        for side in (RIGHT, LEFT):
            breast = canvas.fill(oval((side * 0.44, 0.20), (0.30, 0.20 + 0.10 * body.breast)), soft=0.012)
            tissue += np.float32(0.07 * body.breast) * breast * np.clip((canvas.y + 0.1) / 0.5, 0, 1)
    bubble = oval((0.36, body.top(LEFT) + 0.13), (0.13, 0.055))
    return tissue - np.float32(0.12) * canvas.fill(bubble, soft=0.02)


def _frontal_air(canvas: Canvas, body: Body) -> dict[int, Array]:
    """Air of each lung: the chord of an oval chest, cut off by the diaphragm."""
    half = np.maximum(body.half_width(canvas.y[:, 0]), 1e-3).astype(np.float32)[:, None]
    across = np.clip(1 - (canvas.u / half) ** 2, 0, 1)
    depth = ((body.front(canvas.y) - body.back(canvas.y)) / 1.05).astype(np.float32)
    chord = np.sqrt(across) * np.clip(across * 6, 0, 1) ** 0.5 * (0.45 + 0.55 * depth) * (half > 0.01)
    air = {}
    for side in (RIGHT, LEFT):
        floor = canvas.below(body.floor_frontal(canvas.u, side), soft=0.02)
        inner = np.clip((side * canvas.u) * (canvas.size / 2) + 0.5, 0, 1)
        sulcus = canvas.below(body.base - 0.08, soft=0.12)
        open_ = 1 - floor * (np.float32(0.88) + np.float32(0.12) * sulcus)
        air[side] = (chord * inner * open_ * np.float32(_AIR * body.air)).astype(np.float32)
    return air


def _frontal_middle(canvas: Canvas, body: Body) -> Array:
    """Mask of what stands in the middle besides the heart: great vessels, aortic knob, descending aorta, windpipe."""
    column = smooth(
        [
            (-0.09, -1.2), (-0.10, -0.62), (-0.125, -0.42), (-0.125, -0.2), (-0.10, 0.9), (0.10, 0.9),
            (0.12, -0.12), (0.11, -0.3), (0.10, -0.6), (0.085, -1.2),
        ],
        closed=True,
    )  # fmt: skip
    knob = oval((0.075 + 0.025 * body.aorta, -0.34), (0.085 * body.aorta, 0.095 * body.aorta))
    artery = oval((0.13, -0.17), (0.065, 0.07))
    return canvas.fill(column, knob, artery, soft=0.012)


def _frontal_spine(canvas: Canvas, body: Body) -> Array:
    """Vertebrae, pedicles, and the windpipe in front of them."""
    heights = np.linspace(-1.1, 1.1, 12)
    path = np.stack([body.midline(heights), heights], axis=1)
    side = np.array([0.085, 0.0])
    layer = canvas.fill(np.concatenate([path - side, path[::-1] + side]), soft=0.012) * np.float32(0.07)
    y, height, _, x = body.vertebrae.T
    under = y + 0.6 * height
    discs = np.stack([np.stack([x - 0.075, under], axis=1), np.stack([x + 0.075, under], axis=1)], axis=1)
    pedicle = oval((0.0, 0.0), (0.014, 0.024), points=8)
    centres = np.concatenate([np.stack([x + s * 0.05, y - 0.01], axis=1) for s in (-1, 1)])
    layer -= canvas.stroke(discs, width=0.014) * np.float32(0.035)
    layer += canvas.fill(pedicle + centres[:, None]) * np.float32(0.05)
    windpipe = smooth([(0.0, -1.1), (0.0, -0.6), (-0.015, -0.33)])
    forks = [
        smooth([(-0.015, -0.34), (-0.07, -0.24), (-0.15, -0.14)]),
        smooth([(-0.015, -0.34), (0.06, -0.25), (0.15, -0.17)]),
    ]
    canvas.density -= canvas.stroke(windpipe, width=0.085, soft=0.01) * np.float32(0.13)
    canvas.density -= canvas.stroke(*forks, width=0.05, soft=0.012) * np.float32(0.07)
    return layer * np.float32(body.bone)


def _shoulder_girdle(canvas: Canvas, body: Body) -> Array:
    """Collar bones and shoulder blades of a frontal film."""
    bones = []
    blades = []
    for side in (RIGHT, LEFT):
        lift = canvas.yaw * 0.3
        points = [(0.06, -0.56), (0.22, -0.60), (0.42, -0.68), (0.62, -0.735), (0.80, -0.73)]
        bones.append(smooth([(side * x + lift, y) for x, y in points]))
        blades.append(
            smooth(
                [
                    (side * x, y)
                    for x, y in [
                        (0.80, -0.66),
                        (0.70, -0.52),
                        (0.70, -0.20),
                        (0.76, 0.02),
                        (0.84, -0.2),
                        (0.92, -0.5),
                    ]
                ],
                closed=True,
            )
        )
    layer = canvas.stroke(*bones, width=0.066, soft=0.006) * np.float32(0.10)
    layer += canvas.stroke(
        *[bone + np.array([0.0, s]) for bone in bones for s in (-0.03, 0.03)], width=0.012
    ) * np.float32(0.05)
    layer += canvas.fill(*blades, soft=0.01) * np.float32(0.06)
    heads = [oval((side * 0.97, -0.50), (0.13, 0.15)) for side in (RIGHT, LEFT)]
    return (layer + canvas.fill(*heads, soft=0.01) * np.float32(0.08)) * np.float32(body.bone)


def _ribs(canvas: Canvas, body: Body) -> Array:
    """All ribs; the part behind is denser than the one in front, and edges are denser than the marrow."""
    frontal = canvas.plane == "frontal"
    curves = canvas.project(body.ribs).reshape(2 * RIBS, -1, 2)
    behind, before = curves[:, :17], curves[:, 14:]
    strength = (0.058, 0.036) if frontal else (0.026, 0.022)
    width = 0.050
    edge = np.array([0.0, width / 2])
    layer = canvas.stroke(behind, width=width) * np.float32(strength[0])
    layer += canvas.stroke(before, width=width * 1.15, soft=0.01) * np.float32(strength[1])
    layer += canvas.stroke(behind - edge, behind + edge, width=0.010) * np.float32(strength[0] * 0.8)
    if not frontal:
        breast_bone = np.array([(float(body.front(y)) + 0.035, y) for y in np.linspace(-0.5, 0.35, 10)])
        layer += canvas.stroke(breast_bone, width=0.045, soft=0.01) * np.float32(0.07)
    return layer * np.float32(body.bone)


def _vessels(canvas: Canvas, body: Body, air: dict[int, Array]) -> Array:
    """Hila and lung markings, only where there is air around them."""
    layer = np.zeros((canvas.size, canvas.size), np.float32)
    strength = (0.075, 0.060, 0.045) if canvas.plane == "frontal" else (0.050, 0.040, 0.030)
    for paths, width, density in zip(body.vessels, (0.022, 0.013, 0.008), strength, strict=True):
        layer += canvas.stroke(canvas.project(paths), width=width) * np.float32(density)
    layer = canvas.blur(layer, 0.008)
    for side in (RIGHT, LEFT):
        x, y, z = body.hilum(side)
        at = x if canvas.plane == "frontal" else z
        layer += canvas.blob((at, y), (0.045, 0.085)) * np.float32(0.14)
    room = np.clip((air[RIGHT] + air[LEFT]) / np.float32(0.30), 0, 1)
    return np.asarray(layer * room * np.float32(1 - 0.45 * body.flat), np.float32)


def _lateral_tissue(canvas: Canvas, body: Body) -> Array:
    """Trunk from the side: back, breast, belly; denser at the shoulders."""
    heights = np.array([-1.3, -0.95, -0.6, -0.25, 0.1, 0.45, 0.8, 1.4])
    back = body.back(heights) - 0.13 - 0.08 * body.fat
    front = body.front(heights) + 0.10 + 0.10 * body.fat + 0.10 * body.fat * np.clip(heights - 0.3, 0, 1)
    front = front + 0.20 * body.breast * np.exp(-(((heights - 0.12) / 0.26) ** 2))
    front[0] += 0.25  # raised arms
    front[1] += 0.12
    back[0] -= 0.05
    knots = np.concatenate([np.stack([front, heights], axis=1), np.stack([back, heights], axis=1)[::-1]])
    tissue = canvas.fill(smooth(knots), soft=0.035) * np.float32(0.60 + 0.05 * body.fat)
    shoulder = np.exp(-(((canvas.y + 1.0) / np.float32(0.42)) ** 2))
    belly = canvas.below(np.minimum(body.floor_lateral(canvas.u, RIGHT), body.floor_lateral(canvas.u, LEFT)))
    tissue *= 1 + np.float32(0.30) * shoulder + np.float32(0.12) * belly
    bubble = oval((0.12, body.top(LEFT) + 0.12), (0.14, 0.05))
    return tissue - np.float32(0.10) * canvas.fill(bubble, soft=0.02)


def _lateral_air(canvas: Canvas, body: Body) -> dict[int, Array]:
    """Air of each lung from the side: between breast bone and back, above its half of the diaphragm."""
    heights = canvas.y[:, 0]
    front, back = body.front(heights)[:, None], body.back(heights)[:, None]
    middle, half = (front + back) / 2, (front - back) / 2
    across = np.clip(1 - ((canvas.u - middle) / half) ** 2, 0, 1)
    width = np.clip(body.half_width(heights)[:, None] / 0.72, 0, 1.2)
    chord = across**0.28 * np.clip(across * 6, 0, 1) ** 0.5 * width
    air = {}
    for side in (RIGHT, LEFT):
        floor = canvas.below(body.floor_lateral(canvas.u, side))
        air[side] = (chord * (1 - floor) * np.float32(0.47 * _AIR * body.air)).astype(np.float32)
    return air


def _lateral_middle(canvas: Canvas, body: Body) -> Array:
    """Aortic arch, descending aorta and great vessels from the side; the windpipe takes density away."""
    tail = [(float(body.spine(y)) + 0.12, y) for y in (0.0, 0.3, 0.6)]
    arch = smooth([(0.13, -0.12), (0.10, -0.30), (-0.02, -0.41), (-0.15, -0.35), (-0.21, -0.18), *tail])
    layer = canvas.stroke(arch, width=0.15 * body.aorta, soft=0.02) * np.float32(0.075)
    layer += canvas.fill(oval((0.07, -0.55), (0.13, 0.28)), soft=0.06) * np.float32(0.06)
    windpipe = smooth([(-0.02, -1.1), (-0.05, -0.65), (-0.09, -0.20)])
    layer -= canvas.stroke(windpipe, width=0.085, soft=0.012) * np.float32(0.10)
    layer -= canvas.fill(oval((-0.085, -0.13), (0.035, 0.04))) * np.float32(0.06)
    return layer


def _lateral_spine(canvas: Canvas, body: Body) -> Array:
    """The row of vertebrae from the side, with end plates and disc spaces, and the arches behind it."""
    blocks = np.stack([vertebra_outline(body, number) for number in range(VERTEBRAE)])
    arch = oval((-0.15, 0.03), (0.05, 0.025), 0.6, points=10)
    arches = arch + body.vertebrae[:, None, [2, 0]]
    layer = canvas.fill(blocks, soft=0.006) * np.float32(0.105)
    layer += canvas.stroke(blocks[:, :2], blocks[:, 2:], width=0.012) * np.float32(0.05)
    return (layer + canvas.fill(arches, soft=0.008) * np.float32(0.05)) * np.float32(body.bone)


def vertebra_outline(body: Body, number: int, crush: float = 0.0) -> Points:
    """Corners (4, 2) of a vertebra from the side: top back, top front, bottom front, bottom back.

    Args:
        body: Whose.
        number: Which, counted from the top.
        crush: Share of its height that it has lost in front.
    """
    y, height, z, _ = body.vertebrae[number]
    above, under = body.vertebrae[max(number - 1, 0)], body.vertebrae[min(number + 1, VERTEBRAE - 1)]
    lean = (under[2] - above[2]) / (under[0] - above[0])  # the column's slant
    half = 0.072
    result = np.array([(-half, -height / 2), (half, -height * (0.5 - crush)), (half, height / 2), (-half, height / 2)])
    result[:, 0] += result[:, 1] * lean
    result[:, 1] -= result[:, 0] * lean * 0.5
    outline: Points = result + np.array([z, y])
    return outline
