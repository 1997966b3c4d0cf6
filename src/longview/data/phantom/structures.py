"""Looks of findings in bones, aorta and stomach: fracture, calcified aorta, hiatal hernia."""

from __future__ import annotations

import math
from dataclasses import replace

import cv2
import numpy as np

from longview.data.phantom.anatomy import Scene, vertebra_outline
from longview.data.phantom.body import Body
from longview.data.phantom.canvas import oval, smooth
from longview.data.phantom.finding import Finding


def draw_fracture(scene: Scene, finding: Finding, rng: np.random.Generator) -> None:
    """Fracture: ribs broken with a step and a gap, or a vertebra crushed to a wedge."""
    if finding.kind == "vertebra":
        _draw_crushed_vertebra(scene, finding, rng)
        return
    canvas, body = scene.canvas, scene.body
    first, count = int(rng.integers(2, 5)), 1 + round(1.6 * finding.severity)
    turn, step = int(rng.integers(9, 13)), finding.between(0.050, 0.070) * rng.choice([-1, 1])
    for number in range(first, first + count):
        curve = canvas.project(body.ribs[0 if finding.side < 0 else 1, number])
        here, along = curve[turn], curve[turn + 1] - curve[turn - 1]
        along = along / np.linalg.norm(along)
        near = oval(here, (0.10, 0.062), math.atan2(along[1], along[0]))
        window = canvas.fill(near, soft=0.006)
        across = np.array([[-along[1], along[0]]]) * 0.08
        far_half = canvas.fill(
            np.concatenate([here - across, here + across, here + along * 0.2 + across, here + along * 0.2 - across])
        )
        move = np.array([[1, 0, -along[1] * step * canvas.size / 2], [0, 1, along[0] * step * canvas.size / 2]])
        moved = cv2.warpAffine(scene.ribs, move, (canvas.size, canvas.size), flags=cv2.INTER_LINEAR)
        canvas.density += window * far_half * (moved - scene.ribs)
        cleft = np.concatenate([here - across * 0.6, here + across * 0.6 + along * 0.02])
        canvas.density -= canvas.stroke(cleft, width=0.024) * scene.ribs * np.float32(0.9)
        ends = [
            oval(here + s * along * 0.028 + (across[0] / 0.08 * step if s > 0 else 0), (0.024, 0.030), points=12)
            for s in (-1, 1)
        ]
        canvas.density += canvas.fill(*ends, soft=0.006) * np.float32(0.085)  # callus


def _draw_crushed_vertebra(scene: Scene, finding: Finding, rng: np.random.Generator) -> None:
    """One vertebra (two if severe) lower in front than behind, denser, with a widened space above."""
    canvas, body = scene.canvas, scene.body
    first, crush = int(rng.integers(7, 10)), finding.between(0.42, 0.60)
    for number in range(first, first + 1 + round(finding.severity * 0.9)):
        whole = vertebra_outline(body, number)
        block = canvas.fill(whole + (whole - whole.mean(axis=0)) * 0.12, soft=0.006)
        wedge = vertebra_outline(body, number, crush)
        wedge += (wedge - wedge.mean(axis=0)) * np.array([0.10, 0.0])
        canvas.density -= block * scene.spine
        canvas.density += canvas.fill(wedge, soft=0.004) * np.float32(0.20)
        canvas.density += canvas.stroke(wedge[:2], wedge[2:], width=0.018) * np.float32(0.12)


def draw_calcification(scene: Scene, finding: Finding, rng: np.random.Generator) -> None:
    """Calcification of the Aorta: thin white arcs along the wall of the arch and the descending aorta."""
    canvas, body = scene.canvas, scene.body
    size, start = body.aorta, rng.uniform(-1.3, -0.9)
    spots = rng.uniform(0, 1, 4)
    if scene.frontal:
        turn = np.linspace(start, start + finding.between(1.4, 2.3), 9)
        centre = (0.075 + 0.025 * size, -0.34)
        arc = np.stack([centre[0] + 0.078 * size * np.cos(turn), centre[1] + 0.088 * size * np.sin(turn)], axis=1)
        curves = [smooth(arc)]
        y = -0.22 + 0.4 * spots[: round(3 * finding.severity)]
        curves += [np.array([(0.125, at), (0.125 + 0.004, at + 0.045)]) for at in y]
    else:
        over = [(0.13, -0.33), (0.05, -0.44), (-0.03, -0.485), (-0.13, -0.46), (-0.20, -0.40), (-0.27, -0.25)]
        outer = smooth([(z, y + 0.02 - 0.06 * (size - 1)) for z, y in over[: 4 + round(2 * finding.severity)]])
        curves = [outer]
        for at in (-0.1 + 0.5 * spots[: 2 + round(2 * finding.severity)]).tolist():
            z = float(body.spine(at)) + 0.12 + 0.07
            curves.append(np.array([(z, at), (z + 0.004, at + 0.06)]))
    canvas.density += canvas.stroke(*curves, width=0.022, soft=0.004) * np.float32(finding.between(0.14, 0.20))


def draw_hernia(scene: Scene, finding: Finding, rng: np.random.Generator) -> None:
    """Hernia: a part of the stomach behind the heart, above the diaphragm, with air over a fluid level."""
    canvas, body = scene.canvas, scene.body
    radius = finding.between(0.12, 0.18)
    x, z, level = rng.uniform(0.0, 0.08), rng.uniform(-0.24, -0.18), rng.uniform(-0.2, 0.25)
    centre = (x if scene.frontal else z, body.dome + 0.04 - radius * 0.75)
    sac = oval(centre, (radius, radius * 0.85))
    mask, wall = canvas.fill(sac, soft=0.008), canvas.stroke(np.concatenate([sac, sac[:1]]), width=0.020)
    inside = canvas.fill(oval(centre, (radius * 0.86, radius * 0.72)), soft=0.006)
    air = inside * (1 - canvas.below(centre[1] + level * radius))
    canvas.density += mask * np.float32(0.09 if scene.frontal else 0.13) + wall * np.float32(0.03)
    canvas.density -= air * np.float32(0.21)


def enlarge_heart(body: Body, finding: Finding) -> Body:
    """Cardiomegaly: a heart wider than half of the chest (ratio 0.52 to 0.66; 0.44 in health)."""
    return replace(body, heart=max(body.heart, 0.94) * finding.between(1.24, 1.52))


def inflate_lungs(body: Body, finding: Finding) -> Body:
    """Emphysema: black, large lungs with few vessels, a low flat diaphragm, a narrow heart and a deep chest."""
    grow = finding.between(0.6, 1.0)
    return replace(
        body, flat=grow, air=body.air * (1 + 0.16 * grow), depth=body.depth * (1 + 0.09 * grow), dome=body.dome + 0.02
    )
