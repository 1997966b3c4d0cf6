"""The contact sheet: every finding as a frontal and a lateral film show it, with its true box."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from longview.data.phantom.canvas import Plane
from longview.data.phantom.finding import Finding
from longview.data.phantom.findings import FINDINGS, LABELS, Case, Spec
from longview.data.phantom.population import StudyPlan, plan_patient
from longview.data.phantom.study import draw_study

_ACROSS = 3  # pairs of films in a row
_CAPTION = 16  # pixels above each film
_GREYS = 64  # levels of the sheet: films keep more, but a sheet of 34 must stay small
_BOX, _TEXT = _GREYS, _GREYS + 1  # palette entries after the greys
_SEVERITY = 0.6

Pixels = npt.NDArray[np.uint8]


def write_contact_sheet(file: Path, tile: int, seed: int) -> None:
    """Write a palette PNG of all labels, `tile` pixels per film."""
    pairs = []
    for number, label in enumerate(LABELS):
        spec = FINDINGS.get(label)
        plan = plan_patient(seed, 1000 + number, 1)[0]
        pairs.append(np.hstack([_film(plan, spec, label, plane, tile) for plane in ("frontal", "lateral")]))
    blank = np.zeros_like(pairs[0])
    pairs += [blank] * (-len(pairs) % _ACROSS)
    rows = [np.hstack(pairs[start : start + _ACROSS]) for start in range(0, len(pairs), _ACROSS)]
    sheet = Image.fromarray(np.vstack(rows), mode="P")
    greys = [round(level * 255 / (_GREYS - 1)) for level in range(_GREYS) for _ in range(3)]
    sheet.putpalette([*greys, 255, 176, 0, 255, 255, 255])
    sheet.save(file, format="PNG", optimize=True)


def _cases(spec: Spec, plane: Plane) -> tuple[tuple[Finding, ...], str]:
    """Findings to show in one plane, and the caption of the lateral film."""
    index = list(FINDINGS).index(spec.label)
    wanted = {"both"} if spec.lateral_only + spec.frontal_only < 1 else {plane}
    for attempt in range(60):
        rng = np.random.default_rng([attempt, index])
        choices = spec.choose(Case(rng, _SEVERITY, portable=False))
        if {shown for _, _, shown in choices} <= wanted:
            seed = (attempt, index)
            found = [Finding(spec.label, kind, side, _SEVERITY, shown, seed) for kind, side, shown in choices]
            return tuple(found), "lateral" if "both" in wanted else choices[0][0]
    return (), "not seen"


def _film(plan: StudyPlan, spec: Spec | None, label: str, plane: Plane, tile: int) -> Pixels:
    """One film with its caption, as palette entries."""
    findings, remark = _cases(spec, plane) if spec else ((), "lateral")
    plan = replace(plan, views=("PA" if plane == "frontal" else "lateral",)).with_findings(findings)
    view = draw_study(plan, tile, noise=False)[0]
    film = (view.image.astype(np.uint16) * (_GREYS - 1) // 255).astype(np.uint8)
    for box in view.boxes:
        if box.label == label:
            _corners(film, box.x, box.y, box.x + box.width, box.y + box.height)
    caption = np.zeros((_CAPTION, tile), np.uint8)
    text = label if plane == "frontal" else remark
    scale = min(0.36, 0.36 * (tile - 6) / cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, 0.36, 1)[0][0])
    cv2.putText(caption, text, (3, 11), cv2.FONT_HERSHEY_SIMPLEX, scale, _TEXT, 1, cv2.LINE_8)
    return np.vstack([caption, film])


def _corners(film: Pixels, left: int, top: int, right: int, bottom: int) -> None:
    """Mark a box by its four corners, so that what is in it stays visible."""
    last = len(film) - 1
    left, top, right, bottom = max(left - 2, 0), max(top - 2, 0), min(right + 1, last), min(bottom + 1, last)
    arm = max(3, min(right - left, bottom - top) // 5)
    for x, inward in ((left, arm), (right, -arm)):
        for y, down in ((top, arm), (bottom, -arm)):
            cv2.line(film, (x, y), (x + inward, y), _BOX, 1)
            cv2.line(film, (x, y), (x, y + down), _BOX, 1)
