"""What a film shows, where, and where not."""

from dataclasses import replace

import numpy as np
import pytest

from longview.data.phantom.anatomy import draw_anatomy
from longview.data.phantom.finding import Finding
from longview.data.phantom.findings import FINDINGS, LABELS, NORMAL, Case
from longview.data.phantom.population import plan_patient, study_counts
from longview.data.phantom.study import draw_study, study_labels

SIZE = 96
CASES = [(label, plane) for label in FINDINGS for plane in ("frontal", "lateral")]


def plan_with(label, plane, severity=0.6, patient=3, attempt=0):
    """A study with one finding that shows in a plane; None where the finding never does."""
    plan = replace(plan_patient(0, patient, 1)[0], views=("PA", "lateral"))
    for seed in range(attempt, attempt + 60):
        rng = np.random.default_rng([seed, list(FINDINGS).index(label)])
        choices = FINDINGS[label].choose(Case(rng, severity, portable=False))
        if all(shown in {"both", plane} for _, _, shown in choices):
            found = [
                Finding(label, kind, side, severity, shown, (seed, i)) for i, (kind, side, shown) in enumerate(choices)
            ]
            return plan.with_findings(found)
    return None


def changes(plan, label):
    """Per view: change of grey without noise (S, S) that the finding makes, and its boxes."""
    with_it, without = draw_study(plan, SIZE, noise=False), draw_study(plan.without(label), SIZE, noise=False)
    for view, plain in zip(with_it, without, strict=True):
        change = np.abs(view.image.astype(int) - plain.image.astype(int))
        yield view, change, [box for box in view.boxes if box.label == label]


@pytest.mark.parametrize(("label", "plane"), CASES)
def test_a_finding_changes_the_film_in_its_box_and_hardly_elsewhere(label, plane):
    if FINDINGS[label].frontal_only == 1 and plane == "lateral":
        assert plan_with(label, plane) is None
        return
    plan = plan_with(label, plane)
    view, change, boxes = list(changes(plan, label))[0 if plane == "frontal" else 1]
    assert boxes
    inside = np.zeros((SIZE, SIZE), bool)
    for box in boxes:
        assert box.x >= 0
        assert box.y >= 0
        assert box.x + box.width <= SIZE
        assert box.y + box.height <= SIZE
        assert box.width > 0
        assert box.height > 0
        inside[max(box.y - 2, 0) : box.y + box.height + 2, max(box.x - 2, 0) : box.x + box.width + 2] = True
    assert change.max() >= 8  # grey levels: more than the noise of a good film
    # a deeper chest (emphysema) moves its wall too, which lies around the lungs' box
    assert change[inside].sum() > (0.6 if FINDINGS[label].reshape else 0.8) * change.sum()
    assert view.view == ("PA" if plane == "frontal" else "lateral")


@pytest.mark.parametrize("severity", [0.02, 0.98])
def test_every_finding_is_visible_at_each_severity(severity):
    for label, spec in FINDINGS.items():
        planes = ["frontal"] if spec.lateral_only < 1 else ["lateral"]
        for plane in planes:
            plan = plan_with(label, plane, severity)
            assert label in study_labels(draw_study(plan, SIZE)), (label, plane)


def test_most_findings_are_larger_when_they_are_more_severe():
    for label in ("Pleural Effusion", "Cardiomegaly", "Nodule", "Mass", "Hernia", "Pneumoperitoneum"):
        areas = []
        for severity in (0.1, 0.9):
            plan = plan_with(label, "frontal", severity)
            areas.append(sum(box.width * box.height for box in draw_study(plan, SIZE)[0].boxes))
        assert areas[1] > 1.1 * areas[0], label


@pytest.mark.parametrize("label", [name for name, spec in FINDINGS.items() if spec.lateral_only])
def test_a_finding_that_only_the_lateral_film_shows_leaves_the_frontal_one_untouched(label):
    for attempt in range(40):
        plan = plan_with(label, "lateral", attempt=attempt)
        if plan.findings[0].shown == "lateral":
            break
    frontal, lateral = draw_study(plan, SIZE)
    plain = draw_study(plan.without(label), SIZE)
    assert np.array_equal(frontal.image, plain[0].image)
    assert not frontal.boxes
    assert not np.array_equal(lateral.image, plain[1].image)
    assert label in study_labels([frontal, lateral])
    assert study_labels([frontal]) == {NORMAL}


def test_left_and_right_are_the_patients():
    for label in ("Pleural Effusion", "Pneumothorax", "Lung Opacity", "Nodule"):
        for side, name in ((-1, "right"), (1, "left")):
            plan = plan_with(label, "frontal")
            found = [replace(plan.findings[0], side=side)]
            view = draw_study(plan.with_findings(found), SIZE)[0]
            box = view.boxes[0]
            centre = box.x + box.width / 2
            assert box.finding.side_name == name
            assert (centre < SIZE / 2) == (name == "right"), (label, name, centre)


def test_opacities_on_top_of_each_other_are_no_denser_than_a_full_one():
    effusion = replace(plan_with("Pleural Effusion", "frontal", 0.9), views=("PA",))
    opacity = plan_with("Consolidation", "frontal", 0.9).findings
    side = effusion.findings[0].side
    both = [replace(finding, side=side) for finding in opacity * 3]
    alone = draw_study(effusion, SIZE, noise=False)[0].image.astype(int)
    together = draw_study(effusion.with_findings([*both, *effusion.findings]), SIZE, noise=False)[0].image.astype(int)
    assert (together - alone).max() > 10
    rows = slice(int(0.55 * SIZE), int(0.65 * SIZE))
    assert together[rows].max() <= alone[rows].max() + 8


def test_consolidation_is_a_lung_opacity_too():
    views = draw_study(plan_with("Consolidation", "frontal"), SIZE)
    assert study_labels(views) == {"Consolidation", "Lung Opacity"}


def test_a_study_without_findings_is_normal():
    plan = plan_patient(0, 3, 1)[0].with_findings([])
    assert study_labels(draw_study(plan, 48)) == {"Normal"}


def test_a_patient_looks_alike_over_studies_and_unlike_others():
    def chest(patient, number):
        return draw_anatomy(plan_patient(0, patient, 3)[number].healthy, 64, "frontal").canvas.density

    patients = range(12)
    own = [np.abs(chest(patient, 0) - chest(patient, 1)).mean() for patient in patients]
    others = [np.abs(chest(patient, 0) - chest((patient + 5) % 12, 1)).mean() for patient in patients]
    assert np.median(own) < 0.4 * np.median(others)


def test_brightness_alone_does_not_tell_findings():
    """The mean grey of a film separates no finding well: AUROC of each stays below 0.85."""
    means, shown = [], []
    for patient, count in enumerate(study_counts(400, 3)):
        for plan in plan_patient(3, patient, count, frontal_only=True):
            view = draw_study(plan, 32)[0]
            means.append(view.image.mean())
            shown.append(study_labels([view]))
    order = np.argsort(np.argsort(means))
    for label in LABELS:
        positive = np.array([label in labels for labels in shown])
        if positive.sum() >= 15:
            auroc = (order[positive].mean() - (positive.sum() - 1) / 2) / (~positive).sum()
            assert max(auroc, 1 - auroc) < 0.85, (label, auroc)
