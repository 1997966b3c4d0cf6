"""Votes of several readers."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longview.data.sources.readers import codes_of_labels, combine, count_votes
from longview.labels import LabelSet

CELL = st.sampled_from([0.0, 1.0, np.nan])


@given(st.lists(st.tuples(st.integers(0, 3), CELL), min_size=1, max_size=24))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_votes_are_nested_whatever_the_number_of_readers_and_what_they_leave_open(rows):
    images = pd.Series([str(image) for image, _ in rows], dtype="str")
    readings = pd.DataFrame({"Mass": [cell for _, cell in rows]})
    counted = {votes: count_votes(readings, images, votes)["Mass"] for votes in ("any", "majority", "all", "fraction")}
    for image in images.unique():
        cells = [cell for other, cell in rows if str(other) == image and not np.isnan(cell)]
        values = {votes: found[image] for votes, found in counted.items()}
        if not cells:
            assert all(np.isnan(value) for value in values.values())
            continue
        assert values["fraction"] == pytest.approx(sum(cells) / len(cells))
        assert values["any"] == float(1 in cells)
        assert values["all"] == float(0 not in cells)
        assert values["majority"] == float(2 * sum(cells) > len(cells))
        assert values["all"] <= values["majority"] <= values["any"]


def test_a_code_is_a_whole_name_and_parents_have_their_childrens_codes():
    labels = LabelSet.from_dict(
        {"name": "mine", "labels": ["Nodule", "Lesion", "Any mass"], "hierarchy": {"Lesion": ["Nodule", "Any mass"]}}
    )
    assert codes_of_labels(labels, "x", ["Nodule/Mass", "any_mass", "Edema"]) == {
        "Lesion": ["any_mass"], "Any mass": ["any_mass"],
    }  # fmt: skip


def test_a_label_of_two_columns_is_unknown_only_where_it_may_yet_be():
    values = pd.DataFrame({"a": [1, 0, 0, np.nan], "b": [np.nan, 0, np.nan, np.nan]})
    np.testing.assert_equal(combine(values, {"L": ["a", "b"]})["L"].to_list(), [1, 0, np.nan, np.nan])
