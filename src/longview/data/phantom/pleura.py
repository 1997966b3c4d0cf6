"""Looks of findings around the lungs: effusion, pneumothorax, free air in the belly."""

from __future__ import annotations

import numpy as np

from longview.data.phantom.anatomy import Scene
from longview.data.phantom.body import LEFT, RIGHT
from longview.data.phantom.finding import Finding


def draw_effusion(scene: Scene, finding: Finding, rng: np.random.Generator) -> None:
    """Pleural Effusion: fluid that hides the costophrenic angle and climbs the chest wall (meniscus)."""
    canvas, body, side = scene.canvas, scene.body, finding.side
    climb = rng.uniform(0.85, 1.15)
    if finding.kind == "posterior sulcus":
        level = body.top(side) + 0.07 - finding.between(0.0, 0.14)
    else:
        level = body.top(side) + 0.14 - finding.between(0.06, 0.62)
    if scene.frontal:
        reach = np.clip(side * canvas.u / np.float32(body.width), 0, 1)
        edge = np.float32(level) + np.float32(0.16 * climb) * (1 - reach) ** 0.9 - 0.09 * reach**6
    else:
        back, front = float(body.back(0.3)), float(body.front(0.3))
        reach = np.clip((canvas.u - back) / np.float32(front - back), 0, 1)
        edge = np.float32(level + 0.05) + np.float32(0.55 * climb) * reach * (1 - reach) - 0.05 * (1 - reach) ** 6
    mask = canvas.below(edge.astype(np.float32), soft=0.05)
    scene.opacify(side, mask, 0.95 if scene.frontal else 1.35)
    canvas.density -= scene.vessels * mask * np.float32(0.6) * (np.sign(canvas.u) == side if scene.frontal else 0.5)


def draw_pneumothorax(scene: Scene, finding: Finding, rng: np.random.Generator) -> None:
    """Pneumothorax: a thin line, the edge of the lung, and outside it black without any vessels."""
    canvas, body, side = scene.canvas, scene.body, finding.side
    gap, drop = finding.between(0.075, 0.34), finding.between(0.10, 0.30)
    taper = finding.between(1.1, 0.35) * rng.uniform(0.9, 1.1)
    y = np.linspace(body.apex + drop, body.top(side) + 0.22, 24)
    share = (y - y[0]) / (y[-1] - y[0])
    wall = body.half_width(y)
    cap = np.sqrt(np.clip(1 - (1 - np.minimum(share / 0.28, 1)) ** 2, 0, 1))  # the collapsed lung has a round tip
    x = 0.10 + (np.maximum(wall - gap * (1 - taper * share**1.6 * 0.8), 0.16) - 0.10) * (0.25 + 0.75 * cap)
    edge = np.stack([side * x, y], axis=1)
    inner = np.array([(side * 0.02, y[-1]), (side * 0.02, y[0])])
    lung = canvas.fill(np.concatenate([edge, inner]))
    visible = scene.lung_mask(side)
    outside = (1 - lung) * visible
    tip = np.array([(side * 0.13, y[0] + 0.02)])
    line = canvas.stroke(np.concatenate([tip, edge]), width=0.015) * visible
    canvas.density -= outside * (scene.vessels + np.float32(0.22) * scene.lung(side))
    canvas.density += line * np.float32(0.12)
    canvas.density += lung * visible * scene.lung(side) * np.float32(finding.between(0.06, 0.28))


def draw_free_air(scene: Scene, finding: Finding, rng: np.random.Generator) -> None:
    """Pneumoperitoneum: a black sickle between the thin white line of the diaphragm and the liver."""
    canvas, body = scene.canvas, scene.body
    thick = finding.between(0.045, 0.105) * rng.uniform(0.9, 1.1)
    sides = (RIGHT, LEFT) if finding.side == 0 else (finding.side,)
    for side in sides:
        if scene.frontal:
            floor, centre, half = body.floor_frontal(canvas.u, side), side * 0.40, 0.27
        else:
            floor, centre, half = body.floor_lateral(canvas.u, side), 0.16, 0.28
        bulge = np.clip(1 - ((canvas.u - np.float32(centre)) / np.float32(half)) ** 2, 0, 1)
        top = floor + np.float32(0.018)
        air = canvas.below(top) * (1 - canvas.below(top + np.float32(thick) * bulge**0.7)) * np.clip(bulge * 6, 0, 1)
        line = canvas.below(floor - np.float32(0.004)) * (1 - canvas.below(top)) * np.clip(bulge * 4, 0, 1)
        strength = 0.46 if scene.frontal else 0.40
        canvas.density += line * np.float32(0.02) - air * np.float32(strength)
