"""The calibration error."""

from itertools import pairwise

import numpy as np
import pytest

from longview.calibration import calibration_error


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
