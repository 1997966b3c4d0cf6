"""The calibration error."""

from itertools import pairwise

import numpy as np
import pytest
from sklearn.metrics import brier_score_loss, log_loss

from longview.calibration.figures import Figures, calibration_error


def plain(probability, target, bins=15):
    """The definition, bin by bin."""
    known = np.isin(target, [0, 1])
    probability, target = probability[known], target[known]
    edges = np.linspace(0, 1, bins + 1)
    error = 0.0
    for first, last in pairwise(edges):
        inside = (probability >= first) & ((probability < last) | (last == 1))
        if inside.any():
            error += inside.mean() * abs(probability[inside].mean() - target[inside].mean())
    return error


def test_it_is_that_of_the_definition_for_each_label_unknown_and_soft_rows_left_out():
    rng = np.random.default_rng(0)
    probabilities = rng.random((500, 4)) ** 2
    targets = (rng.random((500, 4)) < probabilities**1.5).astype(float)
    targets[rng.random((500, 4)) < 0.2] = np.nan
    targets[:30, 1] = 0.4
    expected = [plain(probabilities[:, label], targets[:, label]) for label in range(4)]
    np.testing.assert_allclose(calibration_error(probabilities, targets), expected, rtol=1e-9)


def test_certainty_that_is_right_is_0_and_wrong_is_1():
    targets = np.array([[0.0, 0], [1, 1]])
    assert calibration_error(targets, targets).tolist() == [0, 0]
    assert calibration_error(1 - targets, targets).tolist() == [1, 1]


def test_a_label_that_nobody_knows_has_none():
    error = calibration_error(np.full((3, 2), 0.5), np.array([[np.nan, 1]] * 3))
    assert np.isnan(error[0]) and error[1] == pytest.approx(0.5)


def test_brier_and_cross_entropy_are_scikit_learns_on_hard_truth_and_mask_nan():
    rng = np.random.default_rng(1)
    probabilities = rng.random((300, 3)).astype(np.float32)
    targets = (rng.random((300, 3)) < probabilities).astype(float)
    targets[:50, 0] = np.nan
    found = Figures.of(probabilities, targets)
    for label in range(3):
        known = ~np.isnan(targets[:, label])
        true, score = targets[known, label], probabilities[known, label].astype(float)
        assert found.brier[label] == pytest.approx(brier_score_loss(true, score), abs=1e-12)
        assert found.bce[label] == pytest.approx(log_loss(true, score), abs=1e-9)
    assert found.macro() == pytest.approx({name: getattr(found, name).mean() for name in ("ece", "brier", "bce")})


def test_soft_truth_counts_as_it_is_in_brier_and_cross_entropy():
    found = Figures.of(np.array([[0.5], [0.25]]), np.array([[0.25], [0.25]]))
    assert found.brier[0] == pytest.approx(0.25**2 / 2)
    entropy = -(0.25 * np.log(0.25) + 0.75 * np.log(0.75))
    assert found.bce[0] == pytest.approx((np.log(2) + entropy) / 2)
    assert np.isnan(found.ece[0])


def test_a_wrong_certainty_has_a_finite_cost_and_unknown_labels_have_no_figures():
    found = Figures.of(np.array([[0.0, 0.3]]), np.array([[1.0, np.nan]]))
    assert found.bce[0] == pytest.approx(24 * np.log(2))
    assert np.isnan([found.bce[1], found.brier[1], found.ece[1]]).all()
    assert found.macro()["brier"] == 1
