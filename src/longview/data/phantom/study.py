"""One study drawn: its images, what each shows and where."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from longview.data.phantom.anatomy import Scene, draw_anatomy
from longview.data.phantom.body import LEFT, RIGHT, Body
from longview.data.phantom.canvas import Plane
from longview.data.phantom.film import Film
from longview.data.phantom.finding import Finding
from longview.data.phantom.findings import FINDINGS, NORMAL
from longview.data.phantom.population import StudyPlan

_VISIBLE = 0.03  # least change of density that counts as visible: about five grey levels
_EDGE = 0.18  # a box reaches to where the change falls to this share of its greatest


@dataclass(frozen=True)
class Box:
    """Where an image shows a finding: whole pixels, `x` and `y` of the top-left one."""

    label: str
    finding: Finding
    x: int
    y: int
    width: int
    height: int


@dataclass(frozen=True)
class View:
    """One image (S, S) uint8 of a study, with the boxes of all that it shows."""

    view: str
    image: npt.NDArray[np.uint8]
    boxes: tuple[Box, ...]


def draw_study(plan: StudyPlan, size: int, noise: bool = True) -> list[View]:
    """Draw all films of a study, `size` pixels square; without noise for pictures that are to stay small."""
    return [_draw_view(plan, index, size, noise) for index in range(len(plan.views))]


def study_labels(views: list[View]) -> set[str]:
    """What a report on these films would name: everything that one of them shows, else Normal."""
    return {box.label for view in views for box in view.boxes} or {NORMAL}


def _draw_view(plan: StudyPlan, index: int, size: int, noise: bool) -> View:
    """Draw one film of a study."""
    view = plan.views[index]
    plane: Plane = "lateral" if view == "lateral" else "frontal"
    rng = np.random.default_rng([plan.seed, plan.patient, 5, plan.number, index])
    yaw = float(np.clip(rng.normal(0, 0.05), -0.14, 0.14))
    film = Film.draw(rng, plan.portable, plane == "frontal", (plan.seed, plan.patient, 6, plan.number, index))
    if not noise:
        film = replace(film, noise=0.0)
    body = plan.body
    if view == "AP":  # the heart lies farther from the film, which magnifies it
        body = replace(body, heart=body.heart * 1.06)
    scene = draw_anatomy(body, size, plane, yaw)
    boxes: list[Box] = []
    for finding in plan.findings:
        if finding.shows_in(plane):
            changed = _draw_finding(scene, finding)
            place = None if changed is None else film.box(changed)
            if place is not None:
                spec = FINDINGS[finding.label]
                names = filter(None, (finding.label, spec.implies))
                boxes += [Box(label, finding, *place) for label in names]
    return View(view, film.expose(scene.canvas.density), tuple(boxes))


def _draw_finding(scene: Scene, finding: Finding) -> npt.NDArray[np.bool_] | None:
    """Draw a finding; returns where it is, (S, S), or None where nobody could see it."""
    spec = FINDINGS[finding.label]
    if spec.draw is None:
        return _shape(scene, finding)
    before = scene.canvas.density.copy()
    spec.draw(scene, finding, np.random.default_rng(finding.seed))
    change = np.abs(scene.canvas.density - before)
    greatest = float(change.max())
    if greatest < _VISIBLE:
        return None
    result: npt.NDArray[np.bool_] = change > _EDGE * greatest
    return result


def _shape(scene: Scene, finding: Finding) -> npt.NDArray[np.bool_]:
    """Where a finding lies that is a shape of the body: the heart, or both lungs."""
    if finding.label == "Cardiomegaly":
        body: Body = scene.body
        return scene.canvas.fill(body.heart_frontal() if scene.frontal else body.heart_lateral()) > 0.5
    result: npt.NDArray[np.bool_] = np.maximum(scene.lung_mask(RIGHT), scene.lung_mask(LEFT)) > 0.5
    return result
