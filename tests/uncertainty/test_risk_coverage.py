"""Risk and coverage: areas by hand, ties, and that a good order beats a random one."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longview.uncertainty.risk import RiskReport, errors_of, plot_risk, risk_coverage


def test_a_curve_by_hand():
    curve = risk_coverage(np.array([0, 1, 0, 1.0]), np.array([0.1, 0.3, 0.2, 0.4]))
    np.testing.assert_allclose(curve.coverage, [0.25, 0.5, 0.75, 1])
    np.testing.assert_allclose(curve.risk, [0, 0, 1 / 3, 1 / 2])
    assert curve.aurc == pytest.approx((1 / 3 + 1 / 2) / 4)
    assert curve.excess == 0 and curve.gain == 1 and curve.random == 0.5
    assert curve.at(0.5) == 0 and curve.at(0.6) == pytest.approx(1 / 3) and curve.at(1) == 0.5


def test_rows_of_equal_uncertainty_stand_in_no_order():
    errors = np.random.default_rng(0).random(30)
    flat = risk_coverage(errors, np.zeros(30))
    np.testing.assert_allclose(flat.risk, errors.mean())
    assert flat.aurc == pytest.approx(flat.random) and flat.gain == pytest.approx(0)


@settings(deadline=None, derandomize=True, max_examples=30)
@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(1, 6))
def test_ties_are_the_mean_over_their_orders_and_no_order_beats_the_errors_own(seed, rows, levels):
    rng = np.random.default_rng(seed)
    errors, uncertainty = rng.random(rows), rng.integers(0, levels, rows).astype(float)
    found = risk_coverage(errors, uncertainty)
    orders = [risk_coverage(errors, uncertainty + 1e-6 * rng.random(rows)).risk for _ in range(400)]
    np.testing.assert_allclose(found.risk, np.mean(orders, axis=0), atol=0.12)
    assert found.best <= found.aurc + 1e-12
    assert risk_coverage(errors, errors).excess == pytest.approx(0, abs=1e-12)
    assert found.risk[-1] == pytest.approx(errors.mean())
    shuffled = rng.permutation(rows)
    np.testing.assert_allclose(risk_coverage(errors[shuffled], uncertainty[shuffled]).risk, found.risk)


def test_unknown_truth_counts_in_no_curve():
    targets = np.array([[1, np.nan], [0, 0.5], [1, np.nan]])
    probabilities = np.array([[0.9, 0.2], [0.6, 0.2], [0.2, 0.1]])
    squared = errors_of(probabilities, targets, "squared")
    np.testing.assert_allclose(squared[:, 0], [0.01, 0.36, 0.64])
    assert np.isnan(squared[:, 1]).all()
    wrong = errors_of(probabilities, targets, "wrong", np.array([0.15, 0.5]))
    np.testing.assert_array_equal(wrong[:, 0], [0, 1, 0])
    report = RiskReport.of(["A", "B"], squared, 1 - probabilities, "squared")
    assert report.macro().aurc == report.curves[0].aurc
    figures = report.figures()
    assert figures["per_label"][1]["aurc"] is None and figures["per_label"][1]["rows"] == 0
    assert figures["macro"]["risk_at_100"] == pytest.approx(squared[:, 0].mean())


def test_figures_are_plain_data_and_the_macro_is_the_mean_of_labels(tmp_path):
    rng = np.random.default_rng(3)
    doubt = rng.random((1000, 3))
    errors = (rng.random((1000, 3)) < doubt * [0.5, 0.2, 0.02]).astype(float)
    report = RiskReport.of(["A", "B", "C"], errors, doubt, "wrong", "variance")
    figures = json.loads(json.dumps(report.figures(), allow_nan=False))
    rows = figures["per_label"]
    for key in ("aurc", "aurc_random", "excess_aurc", "risk_at_100"):
        assert figures["macro"][key] == pytest.approx(np.mean([row[key] for row in rows]))
    assert all(row["aurc"] < row["aurc_random"] and row["risk_at_50"] < row["risk_at_100"] for row in rows)
    assert len(figures["curves"][""]["risk"]) == len(figures["curves"]["A"]["coverage"]) == 200
    plot_risk(report, tmp_path / "risk.png")
    assert (tmp_path / "risk.png").stat().st_size > 10_000
