"""The table of findings: how often, with what, how lasting, where they show, and how they are drawn.

Prevalences fall from 35 % of studies to 0.7 %, like those of CXR-LT. A finding may be one that only the lateral
projection shows (behind the heart or the diaphragm) or only the frontal one; a model that sees one image cannot
know it from the other, which is what makes fusing views worth while. Below, the share of a finding's cases, and in
brackets the share of the label's positive studies whose frontal films do not show it (3000 studies in CXR-LT's view
counts; fewer, since half of the studies have no lateral film and then lack the label).

==========================  ==============  ============
label                       lateral only    frontal only
==========================  ==============  ============
Hernia                      65 % (40 %)
Nodule                      45 % (33 %)     20 %
Fracture                    40 % (25 %)     60 %
Calcification of the Aorta  35 % (17 %)     25 %
Atelectasis                 35 % (16 %)     15 %
Consolidation               30 % (15 %)
Pleural Effusion            25 % (12 %)
Mass                        20 % (7 %)
Pneumothorax                                100 %
==========================  ==============  ============
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from longview.data.phantom import airspace, devices, pleura, structures
from longview.data.phantom.anatomy import Scene
from longview.data.phantom.body import LEFT, RIGHT, Body
from longview.data.phantom.finding import Finding, Shown

NORMAL = "Normal"
"""The label of a study none of whose images shows a finding."""

Draw = Callable[[Scene, Finding, np.random.Generator], None]
Reshape = Callable[[Body, Finding], Body]
Choice = tuple[str, int, Shown]  # kind, side, projections


@dataclass(frozen=True)
class Case:
    """What a choice of looks depends on: the patient's generator for this finding, its severity, and the film."""

    rng: np.random.Generator
    severity: float
    portable: bool

    def side(self, left: float = 0.5) -> int:
        """Draw a side, the left one with this probability."""
        return LEFT if self.rng.random() < left else RIGHT

    def views(self, lateral: float, frontal: float = 0.0) -> Shown:
        """Draw the projections that show it, given the shares of cases that only one shows."""
        at = self.rng.random()
        return "lateral" if at < lateral else "frontal" if at < lateral + frontal else "both"


Choose = Callable[[Case], list[Choice]]


@dataclass(frozen=True)
class Spec:
    """One row of the table.

    Args:
        label: The name, as the label set has it.
        prevalence: Share of studies that have it, shown or not.
        weights: Loading on each factor that findings share (see :mod:`longview.data.phantom.population`).
        lasting: Correlation of its own part of the liability between a patient's consecutive studies.
        choose: Draws kinds, sides and projections.
        draw: Changes a scene.
        reshape: Changes the body before it is projected.
        lateral_only: Share of cases that only a lateral film shows.
        frontal_only: Share of cases that only a frontal film shows.
        implies: A wider label that goes with it.
    """

    label: str
    prevalence: float
    weights: Mapping[str, float]
    lasting: float
    choose: Choose
    draw: Draw | None = None
    reshape: Reshape | None = None
    lateral_only: float = 0.0
    frontal_only: float = 0.0
    implies: str | None = None


def _whole(kind: str) -> Choose:
    """A finding of both sides that every projection shows."""
    return lambda _: [(kind, 0, "both")]


def _choose_devices(case: Case) -> list[Choice]:
    side, order = case.side(0.6), case.rng.permutation(4)
    in_bed = ("endotracheal tube", "central line", "feeding tube", "chest drain")
    at_home = ("pacemaker", "pacemaker", "central line", "pacemaker")
    kinds = [in_bed[index] for index in order] if case.portable else [at_home[order[0]]]
    count = 1 + (case.severity > 0.4) + (case.severity > 0.75)
    return [(kind, LEFT if kind == "pacemaker" else side, "both") for kind in kinds[:count]]


def _choose_effusion(case: Case) -> list[Choice]:
    if case.views(0.25) == "lateral":
        return [("posterior sulcus", case.side(), "lateral")]
    sides = [RIGHT, LEFT] if case.rng.random() < 0.3 else [case.side()]
    return [("meniscus", side, "both") for side in sides]


def _choose_opacity(case: Case) -> list[Choice]:
    sides = [RIGHT, LEFT] if case.rng.random() < 0.25 else [case.side()]
    return [("haze", side, "both") for side in sides]


def _choose_atelectasis(case: Case) -> list[Choice]:
    shown = case.views(0.35, 0.15)
    return [("lower lobe" if shown == "lateral" or case.rng.random() < 0.3 else "plates", case.side(), shown)]


def _choose_consolidation(case: Case) -> list[Choice]:
    shown, side = case.views(0.30), case.side(0.4)
    lobes = ["upper lobe", "middle lobe", "lower lobe"]
    return [("lower lobe" if shown == "lateral" else lobes[int(case.rng.integers(3))], side, shown)]


def _choose_fracture(case: Case) -> list[Choice]:
    if case.views(0.40) == "lateral":
        return [("vertebra", 0, "lateral")]
    return [("ribs", case.side(), "frontal")]


def _choose_free_air(case: Case) -> list[Choice]:
    return [("sickle", 0 if case.rng.random() < 0.4 else RIGHT, "both")]


def _one(kind: str, lateral: float, frontal: float = 0.0, sided: bool = True) -> Choose:
    """A finding of one side (or of the middle) of which some cases show in one projection only."""

    def choose(case: Case) -> list[Choice]:
        shown = case.views(lateral, frontal)
        return [(kind, case.side() if sided else 0, shown)]

    return choose


_SPECS = (
    Spec(
        "Support Devices", 0.36, {"acuity": 0.60, "congestion": 0.25}, 0.70, _choose_devices, devices.draw_device
    ),
    Spec(
        "Lung Opacity", 0.25, {"infection": 0.60, "acuity": 0.35}, 0.40, _choose_opacity, airspace.draw_opacity
    ),
    Spec(
        "Cardiomegaly", 0.26, {"congestion": 0.65, "age": 0.25}, 0.95, _whole("large heart"),
        reshape=structures.enlarge_heart,
    ),
    Spec(
        "Pleural Effusion", 0.24, {"congestion": 0.55, "acuity": 0.35}, 0.60, _choose_effusion,
        pleura.draw_effusion, lateral_only=0.25,
    ),
    Spec(
        "Atelectasis", 0.21, {"acuity": 0.45, "congestion": 0.25}, 0.50, _choose_atelectasis,
        airspace.draw_atelectasis, lateral_only=0.35, frontal_only=0.15,
    ),
    Spec("Edema", 0.13, {"congestion": 0.70, "acuity": 0.30}, 0.30, _whole("bat wing"), airspace.draw_edema),
    Spec(
        "Consolidation", 0.075, {"infection": 0.70, "acuity": 0.25}, 0.40, _choose_consolidation,
        airspace.draw_consolidation, lateral_only=0.30, implies="Lung Opacity",
    ),
    Spec(
        "Pneumothorax", 0.060, {"trauma": 0.55, "acuity": 0.30}, 0.40, _one("edge", 0.0, 1.0),
        pleura.draw_pneumothorax, frontal_only=1.0,
    ),
    Spec(
        "Fracture", 0.050, {"trauma": 0.60, "age": 0.20}, 0.92, _choose_fracture, structures.draw_fracture,
        lateral_only=0.40, frontal_only=0.60,
    ),
    Spec(
        "Nodule", 0.042, {"age": 0.30, "smoke": 0.30}, 0.97, _one("ball", 0.45, 0.20), airspace.draw_nodule,
        lateral_only=0.45, frontal_only=0.20,
    ),
    Spec(
        "Mass", 0.027, {"age": 0.30, "smoke": 0.40}, 0.97, _one("lobulated", 0.20), airspace.draw_mass,
        lateral_only=0.20,
    ),
    Spec(
        "Calcification of the Aorta", 0.022, {"age": 0.75}, 0.99, _one("arcs", 0.35, 0.25, sided=False),
        structures.draw_calcification, lateral_only=0.35, frontal_only=0.25,
    ),
    Spec(
        "Hernia", 0.024, {"age": 0.50}, 0.98, _one("hiatal", 0.65, sided=False), structures.draw_hernia,
        lateral_only=0.65,
    ),
    Spec(
        "Emphysema", 0.015, {"smoke": 0.75, "age": 0.20}, 0.99, _whole("flat diaphragm"),
        reshape=structures.inflate_lungs,
    ),
    Spec("Fibrosis", 0.011, {"smoke": 0.30, "age": 0.40}, 0.98, _whole("net"), airspace.draw_fibrosis),
    Spec("Pneumoperitoneum", 0.007, {"acuity": 0.50}, 0.30, _choose_free_air, pleura.draw_free_air),
)  # fmt: skip

FINDINGS: dict[str, Spec] = {spec.label: spec for spec in _SPECS}
"""Findings by label, from the most to the least frequent."""

LABELS = (*FINDINGS, NORMAL)
"""Every label that a phantom may have."""
