"""Measures of several probabilities, and the table that they are kept in."""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from longview import InputError
from longview.uncertainty.summary import (
    MEASURES,
    Uncertainty,
    companion,
    long_table,
    read_uncertainty,
    wide_table,
    write_uncertainty,
)


def test_measures_of_two_samples_by_hand():
    found = Uncertainty.of(np.array([[[0.0, 0.5, 0.2]], [[1.0, 0.5, 0.6]]]))
    np.testing.assert_allclose(found.mean, [[0.5, 0.5, 0.4]])
    np.testing.assert_allclose(found.variance, [[0.25, 0, 0.04]], atol=1e-15)
    np.testing.assert_allclose(found.standard_deviation, [[0.5, 0, 0.2]], atol=1e-15)

    def entropy(p):
        return -p * math.log(p) - (1 - p) * math.log(1 - p)

    np.testing.assert_allclose(found.predictive_entropy, [[math.log(2), math.log(2), entropy(0.4)]])
    # sure samples that disagree: all doubt is theirs; unsure ones that agree: none is
    disagree = entropy(0.4) - (entropy(0.2) + entropy(0.6)) / 2
    np.testing.assert_allclose(found.mutual_information, [[math.log(2), 0, disagree]], atol=1e-15)


@settings(deadline=None, derandomize=True, max_examples=40)
@given(arrays(np.float32, (5, 3, 2), elements=st.floats(0, 1, width=32)))
def test_measures_stay_in_their_ranges(probabilities):
    found = Uncertainty.of(probabilities)
    np.testing.assert_allclose(found.variance, probabilities.astype(np.float64).var(axis=0), atol=1e-12)
    assert (found.variance <= 0.25 + 1e-12).all() and (found.mean <= 1).all()
    assert (found.mutual_information >= 0).all()
    assert (found.mutual_information <= found.predictive_entropy).all()
    assert (found.predictive_entropy <= math.log(2) + 1e-12).all()


def test_weights_count_members_as_often_as_they_say():
    values = np.random.default_rng(0).random((2, 4, 3))
    weights = np.array([[2.0, 1, 1], [1, 1, 0]])
    found = Uncertainty.of(values, weights)
    for label, times in enumerate(([0, 0, 1], [0, 1], [0, 0])):
        wanted = Uncertainty.of(values[times][..., label : label + 1])
        for measure in MEASURES:
            np.testing.assert_allclose(getattr(found, measure)[:, label], getattr(wanted, measure)[:, 0], atol=1e-12)


def test_one_sample_has_no_spread():
    with pytest.raises(InputError, match="two samples"):
        Uncertainty.of(np.zeros((1, 2, 2)))


def table(labels=("Mass", "Edema")):
    ids = pd.DataFrame({"patient_id": ["01", "02"], "study_id": ["a", "b"]})
    return long_table(ids, list(labels), Uncertainty.of(np.random.default_rng(1).random((6, 2, len(labels)))))


def test_a_table_has_a_row_for_each_id_and_label_and_reads_back(tmp_path):
    made = table()
    assert list(made.columns) == ["patient_id", "study_id", "label", *MEASURES]
    assert list(made["study_id"]) == ["a", "a", "b", "b"] and list(made["label"]) == ["Mass", "Edema"] * 2
    path = companion(tmp_path / "p.csv")
    assert path.name == "p.uncertainty.parquet"
    write_uncertainty(made, path, {"longview_uncertainty": {"samples": 6}})
    found = read_uncertainty(path)
    assert list(found["patient_id"]) == ["01", "01", "02", "02"]
    np.testing.assert_array_equal(found["variance"], made["variance"])
    assert pd.read_parquet(path).attrs["longview_uncertainty"] == {"samples": 6}
    wide = wide_table(found, "variance")
    assert list(wide.columns) == ["patient_id", "study_id", "Mass", "Edema"]
    np.testing.assert_array_equal(wide[["Mass", "Edema"]].to_numpy().ravel(), made["variance"])


def test_a_table_that_is_none_is_refused(tmp_path):
    path = tmp_path / "p.parquet"
    made = table()
    made.drop(columns="variance").to_parquet(path)
    with pytest.raises(InputError, match="no column variance; give a file that predict --uncertainty"):
        read_uncertainty(path)
    made.assign(variance=[0, 0, math.nan, 0]).to_parquet(path)
    with pytest.raises(
        InputError, match="1 values of variance are out of range; first nan for label 'Mass' of study_id 'b'"
    ):
        read_uncertainty(path)
    pd.concat([made, made]).to_parquet(path)
    with pytest.raises(InputError, match="stand twice: a, b"):
        read_uncertainty(path)
    with pytest.raises(InputError, match="no Edema of study_id b"):
        wide_table(made.iloc[:3], "mean")
