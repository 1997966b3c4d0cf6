"""AUROC and average precision are scikit-learn's, whatever the scores, ties and masks."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import average_precision_score, roc_auc_score

from longview import InputError
from longview.ranking import auroc_ap, macro, per_label, summarise

DTYPES = st.sampled_from([np.float32, np.float64])


def oracle(scores, labels):
    hard = (labels == 0) | (labels == 1)
    labels, scores = labels[hard], scores[hard]
    if labels.min() == labels.max():
        return np.nan, np.nan
    return roc_auc_score(labels, scores), average_precision_score(labels, scores)


@st.composite
def columns(draw):
    """Scores and labels: continuous or with ties, of one or both signs, with unknown and soft values."""
    dtype = draw(DTYPES)
    rows = draw(st.integers(2, 60))
    width = np.finfo(dtype).bits
    finite = st.floats(width=width, allow_nan=False, allow_infinity=False)
    ties = st.sampled_from([-2.0, -1.5, -0.0, 0.0, 0.25, 1.0])
    probability = st.floats(0, 1, width=width)
    elements = draw(st.sampled_from([finite, ties, probability]))
    scores = draw(hnp.arrays(dtype, rows, elements=elements))
    labels = draw(hnp.arrays(np.float32, rows, elements=st.sampled_from([0.0, 0.0, 1.0, np.nan, 0.3])))
    labels[:2] = 0, 1
    return scores, labels


def large(seed, positives, dtype, kind="logits", rows=6000):
    """Enough rows for the sieve, which small examples do not reach."""
    rng = np.random.default_rng(seed)
    labels = (rng.random(rows) < positives).astype(np.float32)
    labels[:2] = 0, 1
    scores = rng.normal(-1, 2, rows) + labels
    if kind == "probabilities":
        scores = 1 / (1 + np.exp(-scores))
    elif kind == "tied":
        scores = scores.round(1)
    elif kind == "half":  # few values in common, and some that share a bucket
        scores = (1 / (1 + np.exp(-scores))).astype(np.float16)
    elif kind == "outlier":
        scores[7] = 1e30
    elif kind == "constant":
        scores[:] = 0.3
    elif kind == "denormal":
        scores = np.abs(scores) * np.finfo(dtype).smallest_subnormal * 50
    return scores.astype(dtype), labels


@given(columns())
@settings(deadline=None, max_examples=120)
def test_equals_scikit_learn(case):
    scores, labels = case
    assert auroc_ap(scores, labels) == pytest.approx(oracle(scores, labels), abs=1e-9)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("positives", [0.0005, 0.05, 0.6])
@pytest.mark.parametrize("kind", ["logits", "probabilities", "tied", "half", "outlier", "constant", "denormal"])
def test_equals_scikit_learn_where_the_sieve_is_used(kind, positives, dtype):
    scores, labels = large(0, positives, dtype, kind)
    labels[5:50] = np.nan
    assert auroc_ap(scores, labels) == pytest.approx(oracle(scores, labels), abs=1e-9)


@given(columns(), st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=40)
def test_order_of_rows_does_not_matter(case, random):
    scores, labels = case
    order = list(range(len(scores)))
    random.shuffle(order)
    assert auroc_ap(scores[order], labels[order]) == auroc_ap(scores, labels)


@given(
    hnp.arrays(np.float64, 40, elements=st.integers(-9, 9).map(float)),
    st.sampled_from([np.arctan, np.exp, lambda x: 3 * x - 100]),
)
@settings(deadline=None, max_examples=40)
def test_a_rising_transform_of_the_scores_changes_nothing(scores, transform):
    labels = np.arange(40) % 3 == 0
    assert auroc_ap(transform(scores), labels) == pytest.approx(auroc_ap(scores, labels), abs=1e-12)


@given(columns())
@settings(deadline=None, max_examples=40)
@example((np.array([-0.0, 0.0, -0.0, 0.0]), np.array([0.0, 1.0, 1.0, 0.0])))
def test_negated_scores_mirror_the_auroc(case):
    scores, labels = case
    assert auroc_ap(-scores, labels)[0] == pytest.approx(1 - auroc_ap(scores, labels)[0], abs=1e-12)


def test_known_values_by_hand():
    # ranking from the top: 1 0 1 0; precisions at the hits 1/1 and 2/3; 3 of 4 pairs in order
    assert auroc_ap([0.9, 0.8, 0.7, 0.1], [1, 0, 1, 0]) == pytest.approx((0.75, (1 + 2 / 3) / 2))


def test_labels_of_one_kind_are_skipped_and_named_not_counted_as_zero():
    scores = np.array([[0.1, 0.2, 0.3], [0.9, 0.8, 0.1]])
    result = per_label(scores, np.array([[0, 0, 1], [1, 0, 1]]))
    summary = summarise(["a", "no positives", "no negatives"], result)
    assert summary["skipped"] == ["no positives", "no negatives"]
    assert summary["map"] == summary["auroc"] == 1.0


def test_unknown_and_soft_values_are_masked_and_counted():
    targets = np.array([[1], [0], [np.nan], [0.97], [0.5], [0]])
    scores = np.array([[0.9], [0.1], [0.2], [0.0], [0.3], [0.4]])
    result = per_label(scores, targets)
    counts = [int(item[0]) for item in (result.positives, result.negatives, result.unknown, result.soft)]
    assert counts == [1, 2, 1, 2]
    assert result.ap[0] == 1.0
    assert result.prevalence[0] == pytest.approx(1 / 3)


def test_group_means_cover_only_labels_with_both_kinds():
    scores = np.tile(np.array([[0.1], [0.9], [0.5]]), (1, 3))
    targets = np.array([[0, 1, 0], [1, 0, 0], [0, 0, 0]])
    result = per_label(scores, targets)
    summary = summarise(["a", "b", "c"], result, {"head": ["a", "elsewhere"], "medium": ["b", "c"], "tail": ["c"]})
    assert (summary["map_head"], summary["map_medium"]) == pytest.approx((1.0, 1 / 3))
    assert np.isnan(summary["map_tail"])
    assert summary["map"] == pytest.approx((1 + 1 / 3) / 2)


def test_no_rows_and_no_scored_label_give_nan_not_an_error():
    result = per_label(np.zeros((0, 2), np.float32), np.zeros((0, 2), np.float32))
    assert np.isnan(summarise(["a", "b"], result)["map"])
    assert np.isnan(result.prevalence).all()
    assert macro([np.nan], ["a"])[1] == ["a"]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_scores_that_cannot_be_ranked_are_refused_by_label_and_count(bad):
    scores = np.array([[0.1, bad], [0.2, bad], [0.3, 0.4]])
    with pytest.raises(InputError, match=r"2 scores of label 'Mass'"):
        per_label(scores, np.zeros((3, 2)), ["Edema", "Mass"])


@pytest.mark.parametrize("bad", [-1.0, 2.0])
def test_targets_outside_0_to_1_are_refused(bad):
    with pytest.raises(InputError, match="1 values of label 'Mass' are outside"):
        per_label(np.zeros((2, 1)), np.array([[bad], [0.0]]), ["Mass"])


@pytest.mark.parametrize("shape", [(3,), (3, 1), (2, 2)])
def test_shapes_must_fit(shape):
    with pytest.raises(InputError, match="must both be"):
        per_label(np.zeros((3, 2)), np.zeros(shape))


def test_inputs_are_left_as_they_are():
    scores, labels = large(1, 0.1, np.float32)
    before = scores.copy(), labels.copy()
    auroc_ap(scores, labels)
    assert np.array_equal(scores, before[0])
    assert np.array_equal(labels, before[1])


def test_imports_numpy_alone():
    code = "import sys, longview.ranking; sys.exit(any(m in sys.modules for m in ('torch', 'pandas', 'sklearn')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
