"""Looks of Support Devices: pacemaker, tubes, lines, drains."""

from __future__ import annotations

import numpy as np

from longview.data.phantom.anatomy import Scene
from longview.data.phantom.canvas import Points, oval, smooth
from longview.data.phantom.finding import Finding


def draw_device(scene: Scene, finding: Finding, rng: np.random.Generator) -> None:
    """Support Devices: one of pacemaker, endotracheal tube, central line, feeding tube, chest drain."""
    _DEVICES[finding.kind](scene, finding, rng)


def _wire(scene: Scene, points: list[tuple[float, float, float]], width: float, density: float) -> None:
    """A wire or tube through points (x, y, z) of the body."""
    curve: Points = scene.canvas.project(smooth(points))
    scene.canvas.density += scene.canvas.stroke(curve, width=width) * np.float32(density)


def _pacemaker(scene: Scene, finding: Finding, rng: np.random.Generator) -> None:
    """A can under the collar bone and two leads through the great vein into the heart."""
    side, body = finding.side, scene.body
    x, y = side * rng.uniform(0.50, 0.60), rng.uniform(-0.50, -0.42)
    z = float(body.front(y)) + 0.06
    tip, dome = rng.uniform(0.16, 0.26), body.dome
    vein = [(x * 0.85, y - 0.06, z), (side * 0.30, -0.58, 0.10), (-0.02, -0.50, 0.06), (-0.10, -0.32, 0.04)]
    scene_can = scene.canvas.project(np.array([x, y, z]))
    can = oval(scene_can.tolist(), (0.105, 0.085) if scene.frontal else (0.035, 0.085), 0.2 if scene.frontal else -0.25)
    scene.canvas.density += scene.canvas.fill(can, soft=0.004) * np.float32(0.42)
    _wire(scene, [*vein, (-0.13, -0.05, 0.10), (-0.08, dome - 0.16, 0.16), (tip, dome - 0.02, 0.34)], 0.014, 0.24)
    if finding.severity > 0.4:
        _wire(scene, [*vein, (-0.14, -0.05, 0.10), (-0.15, 0.08, 0.20), (-0.08, 0.02, 0.28)], 0.014, 0.24)


def _breathing_tube(scene: Scene, _: Finding, rng: np.random.Generator) -> None:
    """An endotracheal tube: a wide tube with a bright stripe, ending above the fork of the windpipe."""
    end = rng.uniform(-0.56, -0.44)
    z = -0.06
    path = [(0.01, -1.2, 0.02), (0.0, -0.9, 0.0), (-0.005, end, z)]
    _wire(scene, path, 0.050, 0.09)
    _wire(scene, [(x + 0.015, y, z + 0.015) for x, y, z in path], 0.018, 0.30)


def _central_line(scene: Scene, finding: Finding, rng: np.random.Generator) -> None:
    """A thin catheter from the neck or arm that runs down the right side of the middle to the heart."""
    end, start = rng.uniform(-0.20, -0.02), rng.random()
    if start < 0.5:
        path = [(finding.side * 0.14, -1.1, 0.0), (finding.side * 0.12, -0.75, 0.03)]
    else:
        path = [
            (finding.side * 0.9, -0.40, -0.05),
            (finding.side * 0.62, -0.62, 0.0),
            (finding.side * 0.3, -0.62, 0.05),
        ]
    _wire(scene, [*path, (-0.06, -0.52, 0.06), (-0.115, -0.38, 0.05), (-0.12, end, 0.06)], 0.017, 0.28)


def _feeding_tube(scene: Scene, _: Finding, rng: np.random.Generator) -> None:
    """A tube down the gullet, through the diaphragm into the stomach."""
    sway, low = rng.uniform(-0.02, 0.02), scene.body.dome
    path = [(0.02, -1.1, -0.1), (0.03 + sway, -0.5, -0.16), (0.04 - sway, 0.0, -0.18), (0.05, low + 0.05, -0.14)]
    _wire(scene, [*path, (0.16, low + 0.24, 0.0), (0.30, low + 0.30, 0.08)], 0.020, 0.27)


def _drain(scene: Scene, finding: Finding, rng: np.random.Generator) -> None:
    """A chest drain that enters between the ribs and runs up to the lung tip."""
    side, body = finding.side, scene.body
    enter, tip = rng.uniform(0.15, 0.30), rng.uniform(-0.52, -0.38)
    wall = float(body.half_width(enter))
    path = [(side * (wall + 0.22), enter + 0.10, -0.05), (side * (wall - 0.03), enter - 0.02, -0.08)]
    path += [(side * 0.52, -0.10, -0.14), (side * 0.33, tip, -0.10)]
    _wire(scene, path, 0.034, 0.12)
    _wire(scene, [(x + 0.008, y, z + 0.008) for x, y, z in path], 0.016, 0.24)


_DEVICES = {
    "pacemaker": _pacemaker,
    "endotracheal tube": _breathing_tube,
    "central line": _central_line,
    "feeding tube": _feeding_tube,
    "chest drain": _drain,
}
DEVICE_KINDS = tuple(_DEVICES)
