"""Policies: what uncertain and blank cells become, per label."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longview import InputError
from longview.data.sources.base import CODES
from longview.data.sources.policy import Policy, apply, codes_table, read_codes

EVERY = [CODES["present"], CODES["absent"], CODES["uncertain"], CODES["blank"], CODES["not in source"]]
"""One row per code."""


def codes(*names, rows=EVERY):
    return pd.DataFrame({name: np.array(rows, np.int8) for name in names}, index=range(7, 7 + len(rows)))


def test_by_default_uncertain_is_unknown_and_blank_is_absent():
    table = apply(codes("Edema"), Policy())
    np.testing.assert_array_equal(table["Edema"], np.array([1, 0, np.nan, 0, np.nan], np.float32))
    assert table["Edema"].dtype == np.float32
    assert table.index.to_list() == list(range(7, 12))


@pytest.mark.parametrize(
    ("rule", "value"),
    [("zero", 0), ("one", 1), ("ignore", np.nan), ("soft", 0.5), (0.25, 0.25), ("0.25", 0.25), ("One", 1), (1, 1)],
)
def test_a_rule_is_a_word_or_a_number_for_uncertain_and_for_blank(rule, value):
    table = apply(codes("Edema", "Hernia"), Policy(uncertain=rule, blank="one"))
    np.testing.assert_array_equal(table["Edema"], np.array([1, 0, value, 1, np.nan], np.float32))
    table = apply(codes("Edema", "Hernia"), Policy(uncertain="one", blank=rule))
    np.testing.assert_array_equal(table["Hernia"], np.array([1, 0, 1, value, np.nan], np.float32))


def test_a_mapping_names_labels_and_default_stands_for_the_rest():
    policy = Policy(uncertain={"Edema": "one", "default": "soft"}, blank={"Hernia": 0.1})
    table = apply(codes("Hernia", "Edema", "Mass"), policy)
    np.testing.assert_array_equal(table.loc[9], np.array([0.5, 1, 0.5], np.float32))  # uncertain
    np.testing.assert_array_equal(table.loc[10], np.array([0.1, 0, 0], np.float32))  # blank: else zero
    table = apply(codes("Hernia", "Edema"), Policy(uncertain={"Edema": "one"}))
    np.testing.assert_array_equal(table.loc[9], np.array([np.nan, 1], np.float32))  # uncertain: else ignore


@pytest.mark.parametrize(
    "rule", ["maybe", "", 1.5, -1, "-1", float("nan"), "nan", True, None, ["one"], {"Edema": "one"}]
)
def test_anything_else_is_refused_when_the_policy_is_made(rule):
    with pytest.raises(InputError, match=r"uncertain is .*; give zero, one, soft, ignore or a number from 0 to 1"):
        Policy(uncertain={"Edema": rule})
    with pytest.raises(InputError, match="blank is"):
        Policy(blank={"Edema": "one", "default": rule})


def test_a_label_that_the_source_does_not_have_is_refused_with_those_it_has():
    with pytest.raises(InputError, match=r"blank names oedema, which this source has no label for; it has Edema, Mass"):
        apply(codes("Edema", "Mass"), Policy(blank={"oedema": "one"}))


@pytest.mark.parametrize("name", ["Pleural Effusion", "pleural effusion", "Pleural_Effusion", "PLEURAL-EFFUSION"])
def test_labels_of_a_policy_match_without_case_like_those_of_tables(name):
    table = apply(codes("Pleural Effusion", "Mass"), Policy(uncertain={name: "one", "Default": "zero"}))
    np.testing.assert_array_equal(table.loc[9], np.array([1, 0], np.float32))


def test_a_label_named_twice_is_refused_and_labels_that_differ_in_case_only_are_told_apart():
    with pytest.raises(InputError, match="uncertain names the label Edema twice: Edema, edema"):
        apply(codes("Edema"), Policy(uncertain={"Edema": "one", "edema": "zero"}))
    table = apply(codes("a", "A"), Policy(uncertain={"a": "one", "A": "zero"}))
    np.testing.assert_array_equal(table.loc[9], np.array([1, 0], np.float32))
    table = apply(codes("default", "b"), Policy(uncertain={"default": "one"}))
    np.testing.assert_array_equal(table.loc[9], np.array([1, 1], np.float32))
    with pytest.raises(InputError, match="names A_x, which this source has no label for; it has a x, a X"):
        apply(codes("a x", "a X"), Policy(uncertain={"A_x": "one"}))


def test_what_is_no_code_is_an_error_and_no_value():
    with pytest.raises(ValueError, match="codes of 'Edema' go from 0 to 2"):
        apply(codes("Edema", rows=[0, 2]), Policy())


def test_the_table_counts_each_code_of_each_label():
    table = codes("Edema", "Mass")
    table["Mass"] = np.array([1, 1, 0, -3, 1], np.int8)
    counts = codes_table(table)
    assert counts.index.name == "label"
    assert list(counts.columns) == ["present", "absent", "uncertain", "blank", "not in source"]
    assert counts.loc["Edema"].to_list() == [1, 1, 1, 1, 1]
    assert counts.loc["Mass"].to_list() == [3, 1, 0, 0, 1]


def test_no_rows_are_no_error():
    assert apply(codes("Edema", rows=[]), Policy()).shape == (0, 1)
    assert codes_table(codes("Edema", rows=[])).loc["Edema"].sum() == 0


def test_cells_become_codes_by_the_columns_name(tmp_path):
    cells = pd.DataFrame({"b": ["1.0", "0", "-1.0", " "], "a": ["-1", "", "1", "0.0"]}, dtype="str")
    found = read_codes(cells, {"A": "a", "B": "b"}, tmp_path / "x.csv")
    assert found.to_dict("list") == {"A": [-1, -2, 1, 0], "B": [1, 0, -1, -2]}
    assert set(found.dtypes) == {np.dtype(np.int8)}


@pytest.mark.parametrize("cell", ["0.5", "2", "yes", "nan", "1.00", "-0.0", "-2"])
def test_a_cell_that_is_no_label_is_named_with_its_line(cell, tmp_path):
    cells = pd.DataFrame({"Edema": ["1.0", "", cell, cell]}, dtype="str")
    with pytest.raises(InputError, match=rf"x\.csv: label column 'Edema' holds {cell}, first in line 4; a label is"):
        read_codes(cells, {"Edema": "Edema"}, tmp_path / "x.csv")


@given(
    rows=st.lists(st.lists(st.sampled_from(EVERY), min_size=3, max_size=3), min_size=1, max_size=20),
    order=st.permutations(range(3)),
    uncertain=st.sampled_from(["zero", "one", "ignore", 0.3]),
)
@settings(max_examples=30, deadline=None, derandomize=True)
def test_order_of_columns_never_changes_a_value(rows, order, uncertain):
    table = pd.DataFrame(np.array(rows, np.int8), columns=["a", "b", "c"])
    policy = Policy(uncertain={"b": uncertain, "default": "one"}, blank={"c": "soft"})
    expected = apply(table, policy)
    pd.testing.assert_frame_equal(apply(table.iloc[:, order], policy), expected.iloc[:, order])
    known = table.isin([1, 0])
    assert (expected.where(known) == table.where(known)).to_numpy()[known.to_numpy()].all()
