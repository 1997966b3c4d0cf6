"""Thresholds: the best by each rule, strictest of equals, between two scores."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import f1_score, roc_curve

from longview import InputError
from longview.calibration.fitting import choose_thresholds
from longview.calibration.thresholds import Points, Rule, achieved, parse_rules

RULES = ["f1", "youden", "sensitivity=0.8", "specificity=0.9", "cost=5"]


def drawn(rows=400, seed=0, digits=3):
    rng = np.random.default_rng(seed)
    scores = rng.random(rows).round(digits)
    truth = (rng.random(rows) < scores**2).astype(float)
    truth[:2] = 0, 1
    return scores, truth


def goodness(rule, scores, truth, threshold):
    """What a rule maximises, from its definition; minus infinity where its condition is broken."""
    over = scores >= threshold
    hits, alarms = (over & (truth == 1)).sum(), (over & (truth == 0)).sum()
    positives, negatives = (truth == 1).sum(), (truth == 0).sum()
    match rule.partition("=")[0]:
        case "f1":
            return f1_score(truth, over, zero_division=0)
        case "youden":
            return hits / positives - alarms / negatives
        case "sensitivity":
            return -alarms if hits >= 0.8 * positives else -np.inf
        case "specificity":
            return hits if negatives - alarms >= 0.9 * negatives else -np.inf
    return -(alarms + 5 * (positives - hits))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("seed", range(3))
def test_no_other_threshold_is_better(rule, seed):
    scores, truth = drawn(seed=seed, digits=2)
    found = goodness(rule, scores, truth, Rule.parse(rule).choose(scores, truth))
    others = [goodness(rule, scores, truth, cut) for cut in np.append(np.unique(scores), [0, 1.01])]
    assert found == pytest.approx(max(others)) and found > -np.inf


def test_the_operating_points_are_scikit_learns():
    scores, truth = drawn()
    points = Points.of(scores, truth)
    rate, hit, _ = roc_curve(truth, scores, drop_intermediate=False)
    np.testing.assert_allclose(points.sensitivity, hit)
    np.testing.assert_allclose(1 - points.specificity, rate, atol=1e-12)


@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=2, max_size=30))
@settings(deadline=None, max_examples=100, derandomize=True)
def test_counts_are_those_of_scores_at_or_over_the_threshold(rows):
    scores, truth = np.array([row[0] for row in rows]), np.array([row[1] for row in rows], float)
    points = Points.of(scores, truth)
    assert (np.diff(points.thresholds) < 0).all() and points.thresholds[-1] == 0
    for cut, hits, alarms in zip(points.thresholds, points.hits, points.alarms, strict=True):
        over = scores >= cut
        assert (hits, alarms) == (truth[over].sum(), (1 - truth[over]).sum())
    assert len(points.thresholds) == len(np.unique(scores)) + 1


def test_unknown_and_soft_truth_is_left_out():
    scores, truth = drawn()
    more = np.append(scores, np.linspace(0, 1, 100))
    masked = np.append(truth, np.tile([np.nan, 0.5], 50))
    for rule in map(Rule.parse, RULES):
        assert rule.choose(more, masked) == rule.choose(scores, truth)
    assert achieved(more, masked, 0.5) == achieved(scores, truth, 0.5)


def test_a_share_that_floats_miss_by_a_hair_is_reached_exactly():
    assert 0.55 * 100 > 55  # by rounding
    scores, truth = np.arange(1, 201) / 201, np.tile([0.0, 1.0], 100)
    for rule in ("sensitivity", "specificity"):
        cut = Rule(rule, 0.55).choose(scores, truth)
        assert achieved(scores, truth, cut)[rule] == 0.55


def test_thresholds_lie_between_scores():
    np.testing.assert_allclose(Points.of(np.array([0.2, 0.6]), np.array([0.0, 1])).thresholds, [0.8, 0.4, 0])


def test_a_missed_finding_that_costs_more_lowers_the_threshold_and_costs_of_calibrated_scores_are_the_known_ones():
    rng = np.random.default_rng(0)
    scores = rng.random(200_000)
    truth = (rng.random(200_000) < scores).astype(float)
    for ratio in (1, 4, 19):
        assert Rule("cost", ratio).choose(scores, truth) == pytest.approx(1 / (1 + ratio), abs=0.02)


def test_figures_at_a_threshold():
    scores, truth = np.array([0.1, 0.4, 0.6, 0.9]), np.array([0.0, 1, 0, 1])
    assert achieved(scores, truth, 0.5) == {"sensitivity": 0.5, "specificity": 0.5, "precision": 0.5, "f1": 0.5}
    nothing = achieved(scores, truth, 0.95)
    assert np.isnan(nothing["precision"]) and nothing["f1"] == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("f2", "there are f1, youden"),
        ("f1=2", "takes no value"),
        ("sensitivity", "sensitivity=0.9"),
        ("cost", "cost=10"),
        ("specificity=1.5", "up to 1"),
        ("cost=0", "over 0"),
        ("cost=inf", "over 0"),
        ("cost=high", "no number"),
        ("f1,f1", "twice"),
        ("", "there are"),
    ],
)
def test_rules_that_make_no_sense_are_refused(text, message):
    with pytest.raises(InputError, match=message):
        parse_rules(text)


def test_rules_are_read_as_they_are_written():
    assert [str(rule) for rule in parse_rules("f1, sensitivity=0.90,cost=12")] == ["f1", "sensitivity=0.9", "cost=12"]
    assert parse_rules("none") == []


def test_truth_of_one_kind_has_no_threshold():
    with pytest.raises(InputError, match="--threshold none"):
        Rule("f1").choose(np.array([0.1, 0.2]), np.array([1, np.nan]))


def test_rare_labels_share_a_threshold_that_is_not_the_frequent_ones():
    rng = np.random.default_rng(1)
    scores = rng.random((500, 3)) * [1, 0.02, 0.02]
    truth = np.zeros((500, 3))
    truth[:, 0] = scores[:, 0] > 0.6
    for label in (1, 2):
        truth[np.argsort(scores[:, label])[-7:], label] = 1
    (cuts,) = choose_thresholds([Rule("f1")], scores, truth).values()
    assert cuts[1] == cuts[2] < 0.02 < cuts[0]
    (alone,) = choose_thresholds([Rule("f1")], scores[:, :2], truth[:, :2]).values()
    assert alone[1] == Rule("f1").choose(scores[:, :2].ravel(), truth[:, :2].ravel())
