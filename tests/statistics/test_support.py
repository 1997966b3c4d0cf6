"""Where intervals have enough to go by, counted in patients and not in rows."""

import numpy as np
import pytest

from longview.statistics.delong import AreaTest
from longview.statistics.figures import ranking_figures
from longview.statistics.resampling import Resamples
from longview.statistics.support import caveats, clusters_with, supported

PATIENTS = np.repeat(np.arange(4), 3)


def test_rows_of_one_patient_are_one():
    targets = np.zeros((12, 4))
    targets[:3, 0] = targets[2:4, 1] = 1
    targets[:9, 2] = 1  # absent in one patient only
    targets[:, 3] = np.nan
    resamples = Resamples.draw(PATIENTS, 10)
    assert clusters_with(targets, resamples.cluster, 1).tolist() == [1, 2, 3, 0]
    assert supported(targets, resamples).tolist() == [False, True, False, False]


def test_a_mean_has_an_interval_where_any_of_its_labels_has_one():
    rng = np.random.default_rng(0)
    targets = np.zeros((12, 2))
    targets[:1, 0] = targets[2:7, 1] = 1
    groups = {"rare": ["a"], "both": ["a", "b"], "none": []}
    found = ranking_figures(["a", "b"], rng.random((12, 2)), targets, Resamples.draw(PATIENTS, 50), groups)
    known = {group: not np.isnan(found.of_group(group)["map"].low) for group in groups}
    assert known == {"rare": False, "both": True, "none": False}
    assert found.of_label("a")["auroc"].undefined > 0 and np.isnan(found.of_label("a")["auroc"].error)


@pytest.mark.parametrize(("patients", "said"), [(29, True), (30, False)])
def test_few_clusters_are_said(patients, said):
    targets = (np.arange(patients) % 2)[:, None]
    found = caveats(targets, Resamples.draw(np.arange(patients), 2), ["a"], "patients")
    assert bool(found) == said
    assert caveats(targets, Resamples.draw(np.arange(patients), 0), ["a"], "patients") == []


def test_intervals_in_closed_form_stay_within_0_and_1():
    rng = np.random.default_rng(1)
    targets = np.arange(30) % 2
    low, high = AreaTest.of((targets + rng.normal(0, 0.4, 30))[:, None], targets).interval(0)
    assert 0.5 < low < high <= 1
