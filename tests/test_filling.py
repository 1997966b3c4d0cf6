"""Filling open cells: known ones stay, bounds hold, joint labels decide what they can."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longview import InputError
from longview.filling import Rule, fill_cells

NAN = float("nan")


def fill(values, probabilities, rule=None, joint=None, joint_values=None, fillable=None):
    values, probabilities = np.array(values, float), np.array(probabilities, float)
    open_cells = np.isnan(values) if fillable is None else np.array(fillable, bool)
    joint_values = {number: np.array(column, float) for number, column in (joint_values or {}).items()}
    return fill_cells(values, probabilities, open_cells, rule or Rule(), joint or {}, joint_values)


cell = st.sampled_from([0.0, 1.0, 0.5, NAN])


@given(st.lists(st.tuples(cell, cell, cell), min_size=1, max_size=8), st.sampled_from([None, 0.0, 0.3]),
       st.sampled_from([None, 0.7, 1.0]), st.sampled_from([None, 0.5]), st.sampled_from([0.5, 1.0, 3.0]))  # fmt: skip
@settings(deadline=None, derandomize=True, max_examples=80)
def test_known_cells_never_change_and_each_cell_is_counted_once(rows, lower, upper, hard, temperature):
    values = np.array(rows)
    probabilities = np.random.default_rng(len(rows)).random(values.shape)
    result = fill(values, probabilities, Rule(temperature, lower, upper, hard), {0: [0, 1]}, {0: values[:, 2]})
    known = ~np.isnan(values)
    np.testing.assert_array_equal(result.targets[known], values[known])
    counts = result.counts("abc", np.ones(len(values), bool))
    total = counts[["known", "filled", "implied", "left"]].sum(axis=1)
    assert (total == len(values)).all()
    assert counts["left"].tolist() == np.isnan(result.targets).sum(axis=0).tolist()


def test_bounds_leave_what_is_unsure_open():
    row = [[NAN] * 5]
    unsure = [[0.05, 0.2, 0.5, 0.8, 0.95]]
    for rule, expected in (
        (Rule(), unsure[0]),
        (Rule(lower=0.2), [0.05, 0.2, NAN, NAN, NAN]),
        (Rule(upper=0.8), [NAN, NAN, NAN, 0.8, 0.95]),
        (Rule(lower=0.1, upper=0.9), [0.05, NAN, NAN, NAN, 0.95]),
        (Rule(lower=0.2, upper=0.8, hard=0.5), [0, 0, NAN, 1, 1]),
    ):
        np.testing.assert_array_equal(fill(row, unsure, rule).targets[0], expected)


def test_what_is_not_predicted_stays_open():
    assert np.isnan(fill([[NAN]], [[NAN]], Rule(hard=0.5)).targets).all()


def test_temperature_divides_the_logits():
    tempered = fill([[NAN] * 4], [[0.9, 0.5, 0.0, 1.0]], Rule(temperature=2.0)).targets[0]
    np.testing.assert_allclose(tempered, [0.75, 0.5, 0.0, 1.0])  # the root of the odds 9 is 3
    sharp = fill([[NAN]], [[0.75]], Rule(temperature=0.5, upper=0.89)).targets  # bounds hold for what is filled
    np.testing.assert_allclose(sharp, [[0.9]])


def test_a_joint_label_that_is_present_makes_its_likeliest_member_present():
    """Columns: Nodule, Mass."""
    result = fill([[NAN, NAN]] * 3, [[0.2, 0.3], [0.4, 0.3], [0.6, 0.7]], None, {0: [0, 1]}, {0: [1, 1, 0]})
    np.testing.assert_array_equal(result.targets, [[0.2, 1], [1, 0.3], [0, 0]])
    assert result.implied.tolist() == [[False, True], [True, False], [True, True]]


def test_a_joint_label_decides_nothing_that_is_known_or_unasked():
    joint, present, absent = {0: [0, 1]}, {0: [1]}, {0: [0]}
    for values, column, expected in (
        ([[1, NAN]], present, [1, 0.9]),  # one is known to be there: the other is as predicted
        ([[NAN, 0]], present, [1, 0]),  # the only one that it can be
        ([[0, 0]], present, [0, 0]),  # a contradiction stays as the source has it
        ([[1, NAN]], absent, [1, 0]),
        ([[NAN, NAN]], {0: [NAN]}, [0.4, 0.9]),
        ([[NAN, NAN]], {0: [0.5]}, [0.4, 0.9]),
    ):
        np.testing.assert_array_equal(fill(values, [[0.4, 0.9]], None, joint, column).targets[0], expected)


def test_a_joint_label_needs_a_prediction_to_say_which_but_none_to_say_neither():
    result = fill([[NAN, NAN]] * 2, [[NAN, NAN]] * 2, None, {0: [0, 1]}, {0: [1, 0]})
    np.testing.assert_array_equal(result.targets, [[NAN, NAN], [0, 0]])


def test_cells_that_may_not_be_filled_are_not_even_by_a_joint_label():
    result = fill([[NAN, NAN]], [[0.4, 0.9]], None, {0: [0, 1]}, {0: [0]}, [[False, False]])
    assert np.isnan(result.targets).all()


def test_the_mean_probability_is_of_what_was_filled_before_any_threshold():
    result = fill([[NAN, 1], [NAN, 0], [0, 0]], [[0.2, 0.5], [0.6, 0.5], [0.9, 0.5]], Rule(hard=0.5))
    counts = result.counts(["a", "b"], np.array([True, True, True]))
    assert counts["mean_probability"].tolist()[0] == pytest.approx(0.4)
    assert np.isnan(counts["mean_probability"][1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0}, "--temperature is 0"),
        ({"temperature": NAN}, "--temperature is nan"),
        ({"lower": -0.1}, "--lower is -0.1"),
        ({"upper": 2}, "--upper is 2"),
        ({"hard": 1.5}, "--hard is 1.5"),
        ({"lower": 0.8, "upper": 0.2}, "above --upper"),
    ],
)
def test_impossible_rules_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        Rule(**options)
