"""Looks of findings inside the lungs: opacity, consolidation, atelectasis, edema, fibrosis, nodule, mass."""

from __future__ import annotations

import math

import numpy as np

from longview.data.phantom.anatomy import Scene
from longview.data.phantom.body import LEFT, RIGHT
from longview.data.phantom.canvas import Array, oval, smooth
from longview.data.phantom.finding import Finding

_LOBES = {
    "upper lobe": ((0.40, -0.42, 0.10), (0.20, 0.17, 0.22)),
    "middle lobe": ((0.26, 0.10, 0.34), (0.16, 0.14, 0.16)),
    "lower lobe": ((0.42, 0.20, -0.36), (0.19, 0.15, 0.15)),
}
"""Centre (|x|, y, z) and radii (x, y, z) of each lobe's consolidation."""


def _place(scene: Scene, point: tuple[float, float, float]) -> tuple[float, float]:
    """A point of the body in the scene's plane."""
    across = scene.canvas.project(np.array(point))
    return float(across[0]), float(across[1])


def _patch(scene: Scene, centre: tuple[float, float, float], radii: tuple[float, float, float], rough: Array) -> Array:
    """A cloud (S, S) in [0, 1] with an uneven edge around a point of the body."""
    across = radii[0] if scene.frontal else radii[2]
    hump = scene.canvas.blob(_place(scene, centre), (across, radii[1]))
    return hump * (1 + np.float32(0.35) * rough)


def draw_opacity(scene: Scene, finding: Finding, rng: np.random.Generator) -> None:
    """Lung Opacity: one to three hazy patches without a border, through which vessels still show."""
    grow, low = finding.between(0.11, 0.20), rng.uniform(-0.45, 0.22)
    centre = (finding.side * rng.uniform(0.34, 0.46), low, rng.uniform(-0.35, 0.15))
    shape = (grow * rng.uniform(0.8, 1.3), grow * rng.uniform(0.8, 1.2), grow * rng.uniform(0.9, 1.4))
    offsets = rng.normal(0, 0.15, (2, 3))
    rough = scene.canvas.noise(rng, 0.12)
    cloud = _patch(scene, centre, shape, rough)
    for x, y, z in offsets[: round(2 * finding.severity)]:
        cloud = np.maximum(cloud, _patch(scene, (centre[0] + x, low + y, centre[2] + z), shape, rough))
    share = finding.between(0.42, 0.56) * (1.0 if scene.frontal else 1.5)
    scene.opacify(finding.side, np.clip(cloud * 1.15, 0, 1), share)


def draw_consolidation(scene: Scene, finding: Finding, rng: np.random.Generator) -> None:
    """Consolidation: a dense lobe, cut off straight at a fissure, with dark air bronchograms inside."""
    centre, radii = _LOBES[finding.kind]
    grow = finding.between(0.85, 1.35)
    point = (finding.side * centre[0], centre[1] + rng.uniform(-0.04, 0.04), centre[2] * scene.body.depth)
    tilt, start = rng.uniform(-0.08, 0.08), rng.uniform(-0.5, 0.5)
    canvas, rough = scene.canvas, 0.6 * scene.canvas.noise(rng, 0.13)
    cloud = _patch(scene, point, (radii[0] * grow, radii[1] * grow, radii[2] * grow), rough)
    mask = np.clip((cloud - 0.24) * 3.2, 0, 1)
    slant = 0.85 * canvas.u - 0.04  # the oblique fissure, as a lateral film shows it
    if finding.kind == "upper lobe":
        mask *= 1 - canvas.below(np.float32(-0.20) + np.float32(tilt) * canvas.u, soft=0.02)
        if not scene.frontal:
            mask *= 1 - canvas.below(slant, soft=0.02)
    elif finding.kind == "middle lobe":
        mask *= canvas.below(np.float32(-0.10) + np.float32(tilt) * canvas.u, soft=0.02)
        if not scene.frontal:
            mask *= 1 - canvas.below(slant, soft=0.02)
    elif not scene.frontal:
        mask *= canvas.below(slant, soft=0.02)
    u, y = _place(scene, point)
    turns = start + np.array([-0.5, 0.0, 0.45]) + (0.0 if finding.side == RIGHT or not scene.frontal else math.pi)
    tubes = [np.array([(u, y), (u - 0.13 * math.cos(t), y - 0.13 * math.sin(t))]) for t in turns]
    mask *= 1 - np.float32(0.40) * canvas.stroke(*tubes, width=0.024, soft=0.006)
    scene.opacify(finding.side, mask, 0.92 if scene.frontal else 1.25)


def draw_atelectasis(scene: Scene, finding: Finding, rng: np.random.Generator) -> None:
    """Atelectasis: plate-like bands above the diaphragm, or a collapsed lower lobe behind the heart."""
    canvas, body = scene.canvas, scene.body
    if finding.kind == "lower lobe":
        _draw_collapse(scene, finding)
        return
    count = 1 + round(2.4 * finding.severity)
    floor = body.top(finding.side)
    for height in floor - 0.06 - np.cumsum(rng.uniform(0.05, 0.09, count)):
        x, z = finding.side * rng.uniform(0.34, 0.46), rng.uniform(-0.3, 0.1)
        half, angle, width = rng.uniform(0.12, 0.19), rng.uniform(-0.3, 0.3), rng.uniform(0.024, 0.038)
        u, y = _place(scene, (x, float(height), z))
        arm = np.array([half * math.cos(angle), half * math.sin(angle)])
        curve = smooth([(u - arm[0], y - arm[1]), (u, y - 0.012), (u + arm[0], y + arm[1])])
        mask = canvas.stroke(curve, width=width, soft=0.008)
        canvas.density += mask * scene.lung_mask(finding.side) * np.float32(0.20 if scene.frontal else 0.17)


def _draw_collapse(scene: Scene, finding: Finding) -> None:
    """A lower lobe without air: a wedge at the back, above the diaphragm, with a straight front edge."""
    canvas, body = scene.canvas, scene.body
    floor, grow = body.top(finding.side), finding.between(0.75, 1.15)
    if scene.frontal:
        x = finding.side * 0.08
        wedge = [(x, floor - 0.42 * grow), (x + finding.side * 0.34 * grow, floor + 0.16), (x, floor + 0.2)]
    else:
        back = float(body.back(0.3))
        wedge = [(back - 0.02, floor - 0.38 * grow), (back + 0.46 * grow, floor + 0.16), (back - 0.02, floor + 0.45)]
    mask = canvas.fill(np.array(wedge), soft=0.012) * np.clip(scene.lung() / 0.08, 0, 1)
    canvas.density += mask * np.float32(finding.between(0.12, 0.16) if scene.frontal else finding.between(0.18, 0.24))


def draw_edema(scene: Scene, finding: Finding, rng: np.random.Generator) -> None:
    """Edema: bat-wing haze around both hila, thick blurred vessels, short septal lines at the bases."""
    canvas, body = scene.canvas, scene.body
    rough = canvas.noise(rng, 0.10)
    spread = finding.between(0.16, 0.24)
    lines = rng.uniform(0.0, 1.0, (14, 2))
    share = finding.between(0.26, 0.58)
    for side in (RIGHT, LEFT):
        x, y, z = body.hilum(side)
        wing = _patch(scene, (x + side * 0.13, y + 0.08, z), (spread, spread * 1.5, spread), rough)
        scene.opacify(side, np.clip(wing, 0, 1), share if scene.frontal else 0.85 * share)
    thick = np.minimum(canvas.blur(scene.vessels, 0.018), 0.08)
    canvas.density += thick * np.float32(finding.between(0.5, 1.1))
    septa = []
    for x_share, y_share in lines:
        y = body.dome - 0.02 - 0.30 * y_share
        if scene.frontal:
            side = 1 if x_share > 0.5 else -1
            outer = side * (float(body.half_width(y)) - 0.02)
            septa.append(np.array([(outer, y), (outer - side * 0.075, y + 0.004)]))
        else:
            u = float(body.back(y)) + 0.05 + 0.25 * x_share
            septa.append(np.array([(u, y), (u + 0.06, y + 0.01)]))
    canvas.density += canvas.stroke(*septa, width=0.010) * np.float32(0.10)


def draw_fibrosis(scene: Scene, finding: Finding, rng: np.random.Generator) -> None:
    """Fibrosis: a net of fine lines and small holes, densest at the bases and along the chest wall."""
    canvas, body = scene.canvas, scene.body
    fine = canvas.noise(rng, 0.050)
    coarse = canvas.noise(rng, 0.085)
    net = np.exp(-((fine / np.float32(0.32)) ** 2)) + 0.7 * np.exp(-((coarse / np.float32(0.26)) ** 2))
    net -= np.float32(0.42)
    low = np.clip((canvas.y + np.float32(finding.between(0.05, 0.45))) / 0.42, 0, 1)
    if scene.frontal:
        half = np.maximum(body.half_width(canvas.y), 0.1).astype(np.float32)
        rim = np.clip(np.abs(canvas.u) / half, 0, 1) ** 1.3
    else:
        front, back = body.front(canvas.y).astype(np.float32), body.back(canvas.y).astype(np.float32)
        rim = np.clip(1.0 - (canvas.u - back) / (front - back) * 0.8, 0.15, 1)
    room = np.clip(scene.lung() / np.float32(0.15), 0, 1)
    strength = finding.between(0.11, 0.17) * (1.0 if scene.frontal else 0.9)
    canvas.density += (net * low * rim * room * np.float32(strength)).astype(np.float32)


def _spot(scene: Scene, finding: Finding, rng: np.random.Generator, radius: float) -> tuple[float, float, float]:
    """Where a nodule or mass lies, so that the projections that are to show it can."""
    x, y, z = rng.uniform(0.30, 0.50), rng.uniform(-0.42, 0.14), rng.uniform(-0.35, 0.12)
    if finding.shown == "lateral":  # behind the heart, or in the recess behind the diaphragm
        deepest = max(0.10, scene.body.dome - 0.03 - radius)  # a high diaphragm leaves a mass no room below
        x, y, z = 0.12, rng.uniform(0.10, deepest), rng.uniform(-0.40, -0.24)
    elif finding.shown == "frontal":  # in the lung tip, which the shoulders hide from the side
        x, y, z = rng.uniform(0.24, 0.36), rng.uniform(-0.56, -0.46), -0.1
    return finding.side * x, y, z * scene.body.depth


def draw_nodule(scene: Scene, finding: Finding, rng: np.random.Generator) -> None:
    """Nodule: a round, well-defined ball of 1 to 3 cm."""
    radius = finding.between(0.042, 0.075)
    point = _spot(scene, finding, rng, radius)
    u, y = _place(scene, point)
    canvas = scene.canvas
    far = ((canvas.u - np.float32(u)) ** 2 + (canvas.y - np.float32(y)) ** 2) / np.float32(radius**2)
    ball = np.sqrt(np.clip(1 - far, 0, 1))
    canvas.density += canvas.blur(ball, 0.006) * np.float32(finding.between(0.17, 0.22))


def draw_mass(scene: Scene, finding: Finding, rng: np.random.Generator) -> None:
    """Mass: a dense, lobulated ball of more than 3 cm with short spikes into the lung."""
    radius = finding.between(0.10, 0.17)
    u, y = _place(scene, _spot(scene, finding, rng, radius))
    canvas = scene.canvas
    lobes = [oval((u, y), (radius * 0.85, radius * 0.8))]
    for turn in rng.uniform(0, 2 * math.pi) + np.arange(4) * math.pi / 2:
        away = radius * rng.uniform(0.35, 0.55)
        part = radius * rng.uniform(0.45, 0.62)
        lobes.append(oval((u + away * math.cos(turn), y + away * math.sin(turn)), (part, part)))
    spikes = []
    for turn in np.linspace(0, 2 * math.pi, 9, endpoint=False) + rng.uniform(0, 0.5, 9):
        out = np.array([math.cos(turn), math.sin(turn)])
        spikes.append(np.stack([out * radius * 0.8, out * radius * rng.uniform(1.15, 1.5)]) + np.array([u, y]))
    body = canvas.fill(*lobes, soft=0.010)
    depth = np.sqrt(np.clip(1 - ((canvas.u - u) ** 2 + (canvas.y - y) ** 2) / np.float32((1.25 * radius) ** 2), 0.1, 1))
    canvas.density += (body * depth * np.float32(finding.between(0.24, 0.32))).astype(np.float32)
    canvas.density += canvas.stroke(*spikes, width=0.012) * np.float32(0.07) * (1 - body)
