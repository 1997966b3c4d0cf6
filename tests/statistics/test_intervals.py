"""Intervals, p-values and their correction are those of the books."""

import numpy as np
import pytest
from scipy import stats

from longview.statistics.delong import AreaTest
from longview.statistics.figures import ranking_figures
from longview.statistics.intervals import Interval, acceleration, difference_p, holm
from longview.statistics.resampling import Resamples


def replicates(statistic, sample, drawn=2000, seed=0):
    """A statistic of a sample in all replicates, as Resamples orders them."""
    resamples = Resamples.draw(np.arange(len(sample)), drawn, seed)
    return np.array([statistic(np.repeat(sample, weights)) for weights in resamples.weights]), resamples


def test_percentile_and_bca_intervals_agree_with_scipys():
    sample = np.random.default_rng(1).exponential(size=60)
    values, resamples = replicates(np.mean, sample, 4000)
    found = Interval.of(values, resamples.drawn)
    for method, low, high in (
        ("percentile", found.percentile_low, found.percentile_high),
        ("BCa", found.low, found.high),
    ):
        expected = stats.bootstrap((sample,), np.mean, method=method, n_resamples=20_000, rng=2).confidence_interval
        assert (low, high) == pytest.approx((expected.low, expected.high), abs=0.02)
    assert found.low > found.percentile_low and found.high > found.percentile_high  # skewed to the right
    assert found.error == pytest.approx(sample.std(ddof=1) / np.sqrt(60), rel=0.05)


def test_acceleration_over_groups_is_close_to_that_over_rows():
    sample = np.random.default_rng(3).exponential(size=4000)
    values, resamples = replicates(np.mean, sample, 1)
    skewness = stats.skew(sample) / (6 * np.sqrt(len(sample)))
    assert acceleration(values[2:]) == pytest.approx(skewness, abs=3 * 0.65 / len(resamples.weights[2:]))
    assert acceleration(np.array([0.5, 0.5])) == 0 and acceleration(np.array([])) == 0


def test_replicates_without_the_figure_are_left_out_and_counted():
    found = Interval.of(np.array([0.5, 0.4, np.nan, 0.6, np.nan]), 4)
    assert (found.value, found.undefined) == (0.5, 2) and 0.4 <= found.low <= found.high <= 0.6
    nothing = Interval.of(np.array([np.nan, np.nan, 0.2]), 2)
    assert np.isnan(nothing.value) and np.isnan(nothing.low) and nothing.undefined == 1
    single = Interval.of(np.array([0.5]), 0)
    assert single.value == 0.5 and np.isnan(single.low)


def test_where_all_replicates_are_on_one_side_percentiles_are_shown():
    found = Interval.of(np.concatenate(([0.2], np.linspace(0.5, 0.9, 50))), 50)
    assert (found.low, found.high) == (found.percentile_low, found.percentile_high) and found.low > 0.49
    same = Interval.of(np.ones(60), 50)
    assert (same.low, same.percentile_low, same.high) == (1, 1, 1)


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, np.nan]).tolist() == pytest.approx([0.03, 0.06, 0.06, np.nan], nan_ok=True)
    assert holm([]).tolist() == [] and holm([0.9, 0.8]).tolist() == [1, 1]


def test_p_values_of_equal_models_and_of_clear_differences():
    assert difference_p(np.zeros(100), 99) == (1, 1)
    rng = np.random.default_rng(0)
    normal, share = difference_p(np.concatenate(([5], rng.normal(5, 1, 999))), 999)
    assert normal < 1e-5 and share == pytest.approx(2 / 1000)
    assert np.isnan(difference_p(np.array([np.nan, 1, 2]), 2)[0])


def test_a_p_value_never_contradicts_the_percentile_interval():
    for seed in range(200):
        rng = np.random.default_rng(seed)
        values = np.concatenate(([rng.normal(2, 1)], rng.normal(2, 1, 400) + rng.exponential(1, 400)))
        found = Interval.of(values, 400)
        if found.percentile_low < 0 < found.percentile_high:
            assert difference_p(values, 400)[0] > 0.045


def test_p_values_are_even_under_no_difference():
    """Of 300 pairs of equal means, about 5 % have p < 0.05."""
    rng = np.random.default_rng(5)
    below = 0
    for seed in range(300):
        values, _ = replicates(np.mean, rng.normal(0, 1, 80), 200, seed)
        below += difference_p(values, 200)[0] < 0.05
    assert 5 <= below <= 30


def areas(seed, patients=150, views=1, shift=1.0):
    rng = np.random.default_rng(seed)
    truth = np.repeat(rng.random(patients) < 0.4, views).astype(float)
    own = np.repeat(rng.normal(size=patients), views)
    one = shift * truth + own + 0.3 * rng.normal(size=len(truth))
    return np.stack([one, one + rng.normal(size=len(truth))], axis=1), truth, np.repeat(np.arange(patients), views)


def test_delong_by_its_definition():
    scores, truth, _ = areas(0, patients=40)
    found = AreaTest.of(scores, truth)
    high, low = scores[truth == 1], scores[truth == 0]
    wins = (high[:, None] > low[None]) + 0.5 * (high[:, None] == low[None])  # (P, N, M)
    expected = np.cov(wins.mean(axis=1).T) / len(high) + np.cov(wins.mean(axis=0).T) / len(low)
    np.testing.assert_allclose(found.covariance, expected, rtol=1e-9)
    np.testing.assert_allclose(found.auroc, wins.mean(axis=(0, 1)))


@pytest.mark.parametrize("views", [1, 4])
def test_the_bootstrap_agrees_with_delong_and_obuchowski(views):
    scores, truth, patients = areas(2, patients=300, views=views)
    closed = AreaTest.of(scores, truth, patients)
    boot = ranking_figures(["x"], scores[:, :1], truth[:, None], Resamples.draw(patients, 1500), {}).of_label("x")
    assert boot["auroc"].value == pytest.approx(closed.auroc[0])
    assert boot["auroc"].error == pytest.approx(closed.error(0), rel=0.08)
    if views > 1:  # what rows by themselves would say
        assert AreaTest.of(scores, truth).error(0) < 0.7 * closed.error(0)


def test_delong_of_a_model_against_itself_and_of_one_kind():
    scores, truth, patients = areas(3)
    found = AreaTest.of(scores[:, [0, 0]], truth, patients)
    assert found.p_value(0, 1) == 1
    assert np.isnan(AreaTest.of(scores, np.ones(len(truth))).p_value(0, 1))
    assert AreaTest.of(scores, truth, patients).p_value(0, 1) < 0.05
