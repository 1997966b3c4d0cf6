"""Calibrators: what scikit-learn fits, monotone, and defined wherever a probability is."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.calibration import _sigmoid_calibration, _TemperatureScaling
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from longview import InputError
from longview.calibration.calibrators import (
    SLOWEST,
    STEEPEST,
    Beta,
    Isotonic,
    Platt,
    Temperature,
    fit_beta,
    fit_isotonic,
    fit_platt,
    fit_temperature,
    logarithms,
    softened,
)
from longview.calibration.figures import cross_entropy
from longview.calibration.fitting import fit_labels, flat, held_out
from longview.ranking import auroc_ap

FITS = [fit_temperature, fit_platt, fit_beta, fit_isotonic]
LINE = np.linspace(0, 1, 4001)


def drawn(rows=2000, seed=0, slope=2.5, shift=-1.0, kind=np.float32):
    """Probabilities of a model that is too sure by `slope` and off by `shift`, and the truth."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(-1.5, 1.5, rows)
    truth = (rng.random(rows) < 1 / (1 + np.exp(-logits))).astype(float)
    return (1 / (1 + np.exp(-slope * logits - shift))).astype(kind), truth


def logit(probabilities):
    wide = probabilities.astype(float)
    return np.log(wide) - np.log1p(-wide)


def loss(calibrator, probabilities, truth):
    return cross_entropy(calibrator.apply(probabilities)[:, None], truth[:, None])[0]


@pytest.mark.parametrize("seed", range(3))
def test_the_temperature_is_scikit_learns(seed):
    probabilities, truth = drawn(seed=seed, kind=np.float64)
    found = fit_temperature(probabilities, truth)
    two = np.stack([np.zeros(len(truth)), logit(probabilities)], axis=1)  # its softmax of 0 and z is sigmoid(z)
    oracle = _TemperatureScaling().fit(two, truth)
    assert 1 / found.temperature == pytest.approx(oracle.beta_, rel=1e-4)
    wanted = oracle.predict(two)[:, 1]
    np.testing.assert_allclose(found.apply(probabilities), wanted, atol=1e-4)
    assert found.temperature > 1.5  # the model is too sure of itself


@pytest.mark.parametrize("seed", range(3))
def test_platts_line_is_scikit_learns(seed):
    probabilities, truth = drawn(seed=seed, kind=np.float64)
    a, b = _sigmoid_calibration(logit(probabilities), truth)
    found = fit_platt(probabilities, truth)
    assert (found.slope, found.intercept) == pytest.approx((-a, -b), rel=1e-3, abs=1e-3)


def test_the_isotonic_map_is_scikit_learns_with_ties_too():
    for seed, digits in ((0, 9), (1, 2), (2, 1)):
        probabilities, truth = drawn(seed=seed, kind=np.float64)
        probabilities = probabilities.round(digits)
        oracle = IsotonicRegression(out_of_bounds="clip").fit(probabilities, truth)
        found = fit_isotonic(probabilities, truth)
        np.testing.assert_allclose(found.apply(LINE), oracle.predict(LINE), atol=2e-7)


def test_beta_is_a_logistic_regression_on_both_logarithms():
    probabilities, truth = drawn(kind=np.float64)
    log_p, log_q = logarithms(probabilities)
    features, soft = np.stack([log_p, -log_q], axis=1), softened(truth)
    # soft truth, for scikit-learn: each row once as positive and once as negative, with weights
    oracle = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000)
    oracle.fit(np.tile(features, (2, 1)), np.repeat([1, 0], len(soft)), np.append(soft, 1 - soft))
    found = fit_beta(probabilities, truth)
    assert (found.a, found.b, found.c) == pytest.approx((*oracle.coef_[0], oracle.intercept_[0]), rel=1e-3)


def test_a_negative_coefficient_of_beta_is_held_at_0_and_the_rest_is_best():
    rng = np.random.default_rng(3)
    probabilities = rng.random(3000)
    truth = (rng.random(3000) < 0.1 + 0.8 * (probabilities > 0.05)).astype(float)  # steep near 0, flat near 1
    truth[probabilities > 0.9] = rng.random((probabilities > 0.9).sum()) < 0.6
    found = fit_beta(probabilities, truth)
    assert found.b == 0 and found.a > 0
    best = loss(found, probabilities, truth)
    for a, c in ((1.05, 0), (0.95, 0), (1, 0.05), (1, -0.05)):
        assert loss(Beta(found.a * a, 0.0, found.c + c), probabilities, truth) > best
    assert np.isfinite(found.apply(np.array([0.0, 1.0]))).all()


@pytest.mark.parametrize(("fit", "slope"), [(fit_temperature, 2.5), (fit_temperature, 0.4), (fit_platt, 2.5)])
def test_no_near_parameters_have_a_lower_cross_entropy(fit, slope):
    probabilities, truth = drawn(slope=slope, shift=0.0)
    found = fit(probabilities, truth)
    if isinstance(found, Temperature):
        near = [Temperature(found.temperature * factor) for factor in (0.98, 1.02)]
    else:
        near = [Platt(found.slope * factor, found.intercept) for factor in (0.95, 1.05)]
    assert all(loss(other, probabilities, truth) > loss(found, probabilities, truth) for other in near)


def test_soft_truth_is_fitted_as_that_share_of_a_positive():
    probabilities, truth = drawn(600)
    soft = np.concatenate([truth, np.full(200, 0.25)])
    more = np.linspace(0.1, 0.9, 200)
    once = np.concatenate([probabilities, more])
    # the same, with four hard rows in place of each soft one, and each hard row four times
    hard = np.concatenate([np.repeat(truth, 4), np.tile([1.0, 0, 0, 0], 200)])
    often = np.concatenate([np.repeat(probabilities, 4), np.repeat(more, 4)])
    assert fit_temperature(once, soft).temperature == pytest.approx(fit_temperature(often, hard).temperature)
    np.testing.assert_allclose(fit_isotonic(once, soft).apply(LINE), fit_isotonic(often, hard).apply(LINE), atol=1e-8)


@given(st.lists(st.tuples(st.floats(0, 1, width=32), st.sampled_from([0.0, 0.3, 1.0])), min_size=2, max_size=40))
@settings(deadline=None, max_examples=60, derandomize=True)
def test_whatever_it_is_fitted_on_a_map_is_finite_in_0_to_1_and_never_falls(rows):
    probabilities = np.array([row[0] for row in rows], np.float32)
    truth = np.array([row[1] for row in rows])
    grid = np.unique(np.concatenate([LINE.astype(np.float32), probabilities]))
    for fit in FITS:
        values = fit(probabilities, truth).apply(grid)
        assert ((values >= 0) & (values <= 1)).all() and values.dtype == np.float64
        assert (np.diff(values) >= 0).all()


@given(st.integers(0, 10_000), st.sampled_from([0.3, 1.0, 3.0]), st.sampled_from([-3.0, 0.0, 2.0]))
@settings(deadline=None, max_examples=25, derandomize=True)
def test_temperature_platt_and_beta_change_no_auroc_and_no_average_precision(seed, slope, shift):
    probabilities, truth = drawn(400, seed, slope, shift)
    truth[:2] = 0, 1
    before = auroc_ap(probabilities, truth)
    for fit in FITS[:3]:
        assert auroc_ap(fit(probabilities, truth).apply(probabilities), truth) == before


def test_scores_that_fall_with_the_truth_keep_their_ranking_and_are_known():
    probabilities, truth = drawn(500)
    for fit in FITS[:3]:
        found = fit(probabilities, 1 - truth)
        assert flat(found) and not flat(fit(probabilities, truth))
        assert auroc_ap(found.apply(probabilities), truth) == auroc_ap(probabilities, truth)
    assert fit_platt(probabilities, 1 - truth).slope == SLOWEST


def test_isotonic_makes_ties():
    probabilities, truth = drawn(500)
    values = fit_isotonic(probabilities, truth).apply(probabilities)
    assert len(np.unique(values)) < len(np.unique(probabilities)) / 4


def test_perfectly_parted_truth_gives_finite_parameters():
    probabilities, truth = np.array([0.1, 0.2, 0.8, 0.9]), np.array([0.0, 0, 1, 1])
    assert 1 / STEEPEST <= fit_temperature(probabilities, truth).temperature < 0.1
    assert 0 < fit_platt(probabilities, truth).slope < 10
    assert np.isfinite(fit_beta(probabilities, truth).apply(LINE)).all()


def test_0_and_1_are_apart_from_their_neighbours_in_either_precision():
    for kind in (np.float32, np.float64):
        edge = np.array([0, np.nextafter(kind(0), kind(1)), 0.5, np.nextafter(kind(1), kind(0)), 1], kind)
        for calibrator in (Temperature(3.0), Platt(0.3, -2.0), Beta(0.3, 0.4, 0.1)):
            assert (np.diff(calibrator.apply(edge)) > 0).all()


@pytest.mark.parametrize(
    "make",
    [
        lambda: Temperature(0.0),
        lambda: Temperature(float("nan")),
        lambda: Platt(-1.0, 0.0),
        lambda: Platt(1.0, float("inf")),
        lambda: Beta(0.0, 0.0, 1.0),
        lambda: Beta(-1.0, 1.0, 0.0),
        lambda: Isotonic([0.5, 0.1], [0.1, 0.2]),
        lambda: Isotonic([0.1, 0.5], [0.2, 0.1]),
        lambda: Isotonic([0.1], [0.1, 0.2]),
        lambda: Isotonic([], []),
        lambda: Isotonic([0.1], [1.2]),
    ],
)
def test_maps_that_fall_or_are_not_defined_are_refused(make):
    with pytest.raises(InputError):
        make()


def labels(rows=1500, seed=5):
    """Two labels with many positives, one with 6, one that nobody knows."""
    columns = [drawn(rows, seed + label, slope=1.0 + label) for label in range(4)]
    scores, targets = (np.stack(column, axis=1) for column in zip(*columns, strict=True))
    targets[:, 2] = 0
    targets[:6, 2] = 1
    targets[:, 3] = np.nan
    targets[::7, 0] = np.nan
    return scores, targets


@pytest.mark.parametrize("method", ["vector", "platt", "beta", "isotonic"])
def test_labels_with_few_rows_of_a_kind_get_the_temperature_of_all(method):
    scores, targets = labels()
    calibrators, pooled, shared = fit_labels(method, scores, targets)
    assert pooled == [False, False, True, True]
    known = ~np.isnan(targets)
    assert shared == fit_temperature(scores[known], targets[known]).temperature
    assert calibrators[2:] == [Temperature(shared)] * 2
    assert fit_labels(method, scores, targets, minimum=6)[1] == [False, False, False, True]
    same = fit_labels("temperature", scores, targets)
    assert same[0] == [Temperature(shared)] * 4 and same[1] == pooled


def test_a_map_is_of_its_own_labels_known_rows_only():
    scores, targets = labels()
    targets[::5, 1] = 0.3  # soft
    calibrators, _, _ = fit_labels("platt", scores, targets)
    known = ~np.isnan(targets[:, 0])
    assert calibrators[0] == fit_platt(scores[known, 0], targets[known, 0])
    assert calibrators[1] == fit_platt(scores[:, 1], targets[:, 1])


@pytest.mark.parametrize("value", [0.0, 1.0, np.nan])
def test_truth_of_one_kind_is_refused(value):
    with pytest.raises(InputError, match="needs positives and negatives"):
        fit_labels("temperature", np.full((4, 2), 0.3), np.full((4, 2), value))


def test_held_out_rows_are_calibrated_by_a_fit_on_other_patients():
    scores, targets = labels(200)
    patients = np.repeat(np.arange(50), 4)
    values = held_out("platt", scores, targets, patients, folds=50)
    others = patients != 7
    calibrators, _, _ = fit_labels("platt", scores[others], targets[others])
    wanted = np.stack([item.apply(scores[~others, index]) for index, item in enumerate(calibrators)], axis=1)
    np.testing.assert_allclose(values[~others], wanted)
    assert held_out("platt", scores, targets, patients, folds=0) is None
    assert held_out("platt", scores, targets, np.zeros(200), folds=5) is None
