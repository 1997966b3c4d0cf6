"""Rows are parted by columns of the truth under whatever name, and numbers in bands."""

import numpy as np
import pandas as pd
import pytest

from longview import InputError
from longview.subgroups import UNKNOWN, subgroups


def parts(values, column="view", name=None):
    table = pd.DataFrame({name or column: values, "other": 1})
    return {part.value: np.flatnonzero(part.rows).tolist() for part in subgroups(table, column, "t.csv")}


def test_categories_from_frequent_to_rare_and_empty_cells_by_themselves():
    found = parts(["AP", "PA", "PA", None, " ", "AP", "PA"])
    assert list(found.items()) == [("PA", [1, 2, 6]), ("AP", [0, 5]), (UNKNOWN, [3, 4])]


@pytest.mark.parametrize(
    ("column", "name"),
    [("view", "ViewPosition"), ("view", "Projection"), ("sex", "Patient Gender"), ("sex", "PatientSex_DICOM"),
     ("sex", "meta_sex"), ("scanner", "meta_Scanner"), ("scanner", "Scanner")],
)  # fmt: skip
def test_columns_go_by_the_names_of_data_sets(column, name):
    assert parts(["a", "b", "a"], column, name) == {"a": [0, 2], "b": [1]}


@pytest.mark.parametrize("values", [[17, 18, 95, 40, np.nan], ["017Y", "018Y", "095Y", "40", ""]])
def test_ages_are_banded(values):
    found = parts(values, "age", "Patient Age")
    assert found == {"0-17": [0], "18-39": [1], "40-59": [3], "80+": [2], UNKNOWN: [4]}


@pytest.mark.parametrize("column", ["age", "Patient Age"])
def test_ages_are_read_however_they_are_written_and_what_is_none_is_counted(caplog, column):
    values = ["070Y", "23.0", "006M", "003w", "058", "-1", "414", "about 40", None, " 12 y "]
    found = parts(values, column, "Patient Age")
    assert found == {"0-17": [2, 3, 9], "18-39": [1], "40-59": [4], "60-79": [0], UNKNOWN: [5, 6, 7, 8]}
    assert "of 10 rows of t.csv, 3 hold no age from 0 to 120 years and stand under 'unknown': -1, 414" in caplog.text
    assert parts(["young", "old"], "age") == {"old": [1], "young": [0]}


def test_ages_beyond_a_human_life_are_unknown_among_numbers_too(caplog):
    assert parts([-3, 20, 121, np.nan, 120], "age") == {"18-39": [1], "80+": [4], UNKNOWN: [0, 2, 3]}
    assert "2 hold no age" in caplog.text


def test_many_numbers_are_banded_in_quarters_and_few_are_categories():
    found = parts(np.arange(40) / 2, "dose")
    assert [len(rows) for rows in found.values()] == [10, 10, 10, 10] and next(iter(found)).startswith("0 to ")
    assert sorted(map(int, parts([1, 2, 1, 2], "dose"))) == [1, 2]
    assert parts([True, False, True], "flag") == {"True": [0, 2], "False": [1]}


def test_every_row_is_in_one_subgroup():
    table = pd.DataFrame({"x": [*np.random.default_rng(0).normal(size=50), np.nan]})
    assert np.sum([part.rows for part in subgroups(table, "x", "t")], axis=0).tolist() == [1] * 51


def test_unknown_columns_and_those_of_ids_are_refused_by_name():
    with pytest.raises(InputError, match=r"--by colour: t\.csv has no such column; it has view, other"):
        subgroups(pd.DataFrame({"view": ["a"], "other": 1}), "colour", "t.csv")
    with pytest.raises(InputError, match=r"40 values .* too many for subgroups"):
        parts([f"id{i}" for i in range(40)], "reader")
