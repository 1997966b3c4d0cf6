"""Who has what."""

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longview.data.phantom.findings import FINDINGS, LABELS
from longview.data.phantom.population import plan_patient, study_counts
from longview.labels import LabelSet

STUDIES = 6000


@pytest.fixture(scope="module")
def plans():
    return [plan for patient, n in enumerate(study_counts(STUDIES, 1)) for plan in plan_patient(1, patient, n)]


@pytest.fixture(scope="module")
def present(plans):
    """(studies, findings) bool."""
    return np.array([[any(f.label == label for f in plan.findings) for label in FINDINGS] for plan in plans])


def test_the_drawing_table_and_the_label_set_name_the_same_labels():
    assert set(LABELS) == set(LabelSet.load("phantom").names)
    assert len(FINDINGS) == 16


def test_prevalences_are_those_of_the_table_and_long_tailed(present):
    shares = present.mean(axis=0)
    for share, spec in zip(shares, FINDINGS.values(), strict=True):
        # studies of a patient are not independent: allow for about a third of them as sample; and for a third of the
        # prevalence at most, or a rare finding that never comes would pass
        allowed = min(2 * np.sqrt(spec.prevalence / (STUDIES / 3)), spec.prevalence / 3)
        assert abs(share - spec.prevalence) < allowed, spec.label
    assert 0.30 < shares.max() < 0.40
    assert 0.003 < shares.min() < 0.013
    assert (shares < 0.01).sum() >= 1
    assert (shares > 0.10).sum() >= 5


def test_findings_come_together_as_in_a_hospital(present):
    index = {label: column for column, label in enumerate(FINDINGS)}
    pairs = [("Edema", "Cardiomegaly"), ("Edema", "Pleural Effusion"), ("Lung Opacity", "Consolidation")]
    for one, other in pairs:
        a, b = present[:, index[one]], present[:, index[other]]
        assert (a & b).mean() > 1.5 * a.mean() * b.mean(), (one, other)


def test_view_counts_are_those_of_cxr_lt(plans):
    counts = Counter(len(plan.views) for plan in plans)
    for images, share in ((1, 0.45), (2, 0.46), (3, 0.08), (4, 0.01)):
        assert abs(counts[images] / STUDIES - share) < 0.03
    assert all(view in {"PA", "AP", "lateral"} for plan in plans for view in plan.views)
    assert all(plan.views[0] != "lateral" for plan in plans)
    single = Counter(plan.views[0] for plan in plans if len(plan.views) == 1)
    assert single["AP"] > 5 * single["PA"] > 0


def test_lasting_findings_stay_and_passing_ones_go(plans):
    stays = {label: [] for label in ("Cardiomegaly", "Edema")}
    for before, after in pairwise(plans):
        if before.patient == after.patient:
            for label, kept in stays.items():
                if any(finding.label == label for finding in before.findings):
                    kept.append(any(finding.label == label for finding in after.findings))
    assert np.mean(stays["Cardiomegaly"]) > np.mean(stays["Edema"]) + 0.15
    severities = [
        {finding.label: finding.severity for finding in plan.findings}.get("Pleural Effusion") for plan in plans[:400]
    ]
    assert len({round(value, 6) for value in severities if value is not None}) > 50


def test_a_finding_keeps_its_place_over_studies(plans):
    seen = {}
    for plan in plans:
        for finding in plan.findings:
            if finding.label in {"Nodule", "Mass", "Hernia"}:
                known = seen.setdefault((plan.patient, finding.label), (finding.side, finding.shown, finding.seed))
                assert known == (finding.side, finding.shown, finding.seed)
    assert len(seen) > 50


@given(st.integers(1, 400), st.integers(0, 50))
@settings(deadline=None, max_examples=30)
def test_patients_have_as_many_studies_together_as_asked_for(studies, seed):
    counts = study_counts(studies, seed)
    assert sum(counts) == studies
    assert min(counts) >= 1
    if studies >= 12:
        assert len(counts) >= 5


def test_more_studies_of_a_patient_change_none_of_the_first():
    assert plan_patient(4, 11, 5)[:2] == plan_patient(4, 11, 2)
