"""Replicates are scored as scikit-learn scores the rows that they repeat."""

import subprocess
import sys
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from longview.calibration.thresholds import Rule, achieved
from longview.statistics import resampling
from longview.statistics.figures import rankings
from longview.statistics.ranked import LEVELS, Ranked, Ranking
from longview.statistics.resampling import Resamples

KINDS = ["continuous", "tied", "two values", "constant", "negative"]


def data(seed, kind, rows, labels=3, masked=0.1, prevalence=0.3, dtype=np.float32):
    rng = np.random.default_rng(seed)
    scores = rng.normal(-1, 1, (rows, labels))
    targets = (rng.random((rows, labels)) < prevalence).astype(np.float32)
    targets[rng.random((rows, labels)) < masked] = np.nan
    targets[rng.random((rows, labels)) < masked] = 0.4
    scores += 0.7 * np.nan_to_num(targets)
    if kind == "tied":
        scores = scores.round(1)
    elif kind == "two values":
        scores = (scores > 0).astype(float)
    elif kind == "constant":
        scores[:] = 0.3
    return (scores if kind == "negative" else 1 / (1 + np.exp(-scores))).astype(dtype), targets


def repeated(scores, targets, resamples, replicate):
    """A replicate, built."""
    times = resamples.weights[replicate][resamples.cluster]
    return np.repeat(scores, times, axis=0), np.repeat(targets, times, axis=0)


def oracle(scores, targets):
    hard = (targets == 0) | (targets == 1)
    scores, targets = scores[hard], targets[hard]
    if len(targets) == 0 or targets.min() == targets.max():
        return np.nan, np.nan
    return roc_auc_score(targets, scores), average_precision_score(targets, scores)


def expect(scores, targets, resamples, figures, column):
    for replicate in range(resamples.replicates):
        some, truth = repeated(scores, targets, resamples, replicate)
        found = figures.auroc[replicate, column], figures.ap[replicate, column]
        assert found == pytest.approx(oracle(some, truth), abs=1e-9, nan_ok=True)


@given(
    st.integers(0, 10_000),
    st.sampled_from(KINDS),
    st.sampled_from([2, 7, 40, 150]),
    st.sampled_from([np.float32, np.float64]),
    st.sampled_from([0.02, 0.3, 1.0]),
)
@settings(deadline=None, max_examples=40, derandomize=True)
def test_every_replicate_equals_scikit_learn_on_the_rows_it_repeats(seed, kind, rows, dtype, prevalence):
    scores, targets = data(seed, kind, rows, labels=2, prevalence=prevalence, dtype=dtype)
    resamples = Resamples.draw(np.random.default_rng(seed).integers(0, max(rows // 3, 1), rows), 9, seed)
    figures = Ranked.of(rankings(scores, targets, resamples), resamples)
    for column in range(2):
        expect(scores[:, column], targets[:, column], resamples, figures, column)


@given(st.integers(0, 10_000), st.sampled_from(KINDS))
@settings(deadline=None, max_examples=15, derandomize=True)
def test_all_cells_together_equal_scikit_learns_micro_average(seed, kind):
    scores, targets = data(seed, kind, 60)
    resamples = Resamples.draw(np.arange(60) // 2, 5, seed)
    figures = Ranked.of(rankings(scores, targets, resamples, micro=True), resamples)
    for replicate in range(resamples.replicates):
        some, truth = repeated(scores, targets, resamples, replicate)
        found = figures.auroc[replicate, -1], figures.ap[replicate, -1]
        assert found == pytest.approx(oracle(some.ravel(), truth.ravel()), abs=1e-9)


@pytest.mark.parametrize(("rows", "patients", "bits"), [(20_000, 9_000, 8), (6_000, 40, 16), (300_000, 1_000, 32)])
def test_lanes_are_wide_enough_for_heavy_ties(rows, patients, bits):
    rng = np.random.default_rng(0)
    targets = (rng.random(rows) < 0.4).astype(np.float32)
    scores = rng.integers(0, 3 if bits > 8 else 1 << 40, rows) / 2.0
    resamples = Resamples.draw(rng.integers(0, patients, rows), 20)
    ranking = Ranking.of(scores, targets, resamples.cluster, resamples.most)
    assert ranking.bits == bits
    figures = Ranked.of([ranking], resamples)
    for replicate in (0, 1, 20, 21):
        some, truth = repeated(scores, targets, resamples, replicate)
        assert (figures.auroc[replicate, 0], figures.ap[replicate, 0]) == pytest.approx(oracle(some, truth), abs=1e-9)


@given(st.integers(0, 10_000), st.sampled_from(["continuous", "tied", "two values"]))
@settings(deadline=None, max_examples=25, derandomize=True)
def test_operating_points_are_the_best_of_the_roc_curve(seed, kind):
    scores, targets = data(seed, kind, 90, labels=1, masked=0)
    scores, targets = scores[:, 0], targets[:, 0]
    resamples = Resamples.draw(np.arange(90) // 2, 4, seed)
    figures = Ranked.of([Ranking.of(scores, targets, resamples.cluster, resamples.most)], resamples, points=True)
    for replicate in range(resamples.replicates):
        some, truth = repeated(scores, targets, resamples, replicate)
        alarms, hits, _ = roc_curve(truth, some, drop_intermediate=False)
        for level in LEVELS:
            found = figures.points[f"sensitivity_at_specificity_{level:.2f}"][replicate, 0]
            assert found == pytest.approx(hits[1 - alarms >= level - 1e-9].max())
            found = figures.points[f"specificity_at_sensitivity_{level:.2f}"][replicate, 0]
            assert found == pytest.approx((1 - alarms)[hits >= level - 1e-9].max())


def test_operating_points_are_those_of_the_threshold_rules():
    scores, targets = data(3, "continuous", 400, labels=1, masked=0)
    resamples = Resamples.draw(np.arange(400), 0)
    figures = Ranked.of(rankings(scores, targets, resamples), resamples, points=True)
    for level in LEVELS:
        threshold = Rule("specificity", level).choose(scores[:, 0], targets[:, 0])
        expected = achieved(scores[:, 0], targets[:, 0], threshold)["sensitivity"]
        assert figures.points[f"sensitivity_at_specificity_{level:.2f}"][0, 0] == pytest.approx(expected)


def test_many_groups_and_few_find_the_same_operating_points(monkeypatch):
    scores, targets = data(1, "continuous", 300)
    resamples = Resamples.draw(np.arange(300) // 3, 20)
    few = Ranked.of(rankings(scores, targets, resamples), resamples, points=True)
    monkeypatch.setattr("longview.statistics.ranked._FEW", 0)
    many = Ranked.of(rankings(scores, targets, resamples), resamples, points=True)
    for name, values in few.points.items():
        np.testing.assert_array_equal(values, many.points[name])


def test_threads_and_cache_sizes_change_nothing(monkeypatch):
    scores, targets = data(2, "tied", 500)
    resamples = Resamples.draw(np.arange(500) // 2, 100)
    first = Ranked.of(rankings(scores, targets, resamples), resamples, points=True)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    monkeypatch.setattr(resampling.os, "sched_getaffinity", lambda _: {0, 1, 2}, raising=False)
    assert resampling.threads() == 3
    monkeypatch.setattr("longview.statistics.ranked._CELLS", 700)
    second = Ranked.of(rankings(scores, targets, resamples), resamples, points=True)
    np.testing.assert_array_equal(first.auroc, second.auroc)
    np.testing.assert_array_equal(first.ap, second.ap)


def test_one_kind_only_is_not_defined_and_says_nothing():
    scores = np.linspace(0, 1, 6, dtype=np.float32)[:, None]
    resamples = Resamples.draw(np.arange(6), 3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for truth in (np.zeros((6, 1)), np.ones((6, 1)), np.full((6, 1), np.nan)):
            figures = Ranked.of(rankings(scores, truth, resamples), resamples, points=True)
            assert np.isnan(figures.auroc).all() and np.isnan(figures.ap).all()
            assert all(np.isnan(values).all() for values in figures.points.values())


def test_imports_numpy_alone():
    code = (
        "import sys, longview.statistics.ranked; "
        "sys.exit(any(m in sys.modules for m in ('torch', 'pandas', 'sklearn', 'scipy')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
