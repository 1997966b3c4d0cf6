"""Derived labels: Kleene's logic with soft values, closure, and contradictions that are listed and left."""

import logging

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from longview.data.derive import complete, contradictions, derive, label_values
from longview.data.manifest import Manifest
from longview.data.prepare import prepare
from longview.data.store import Store
from longview.labels import Label, LabelSet

NAN = float("nan")
CHEXPERT = LabelSet.load("chexpert_hierarchical")
SMALL = LabelSet(
    "small",
    [
        Label("No Finding"), Label("Top", derived="any"), Label("Group", derived="any"), Label("A"), Label("B"),
        Label("C"), Label("Nothing", derived="none"),
    ],
    hierarchy={"Top": ["Group", "C"], "Group": ["A", "B"], "A": ["B"]},
)  # fmt: skip
N = SMALL.names


def rows(*values):
    """(n, L) of mappings label -> value; the others are 0, derived ones NaN."""
    derived = {label.name for label in SMALL.labels if label.derived}
    return np.array([[row.get(name, NAN if name in derived else 0.0) for name in N] for row in values], np.float32)


def column(values, name, labels=SMALL):
    return values[:, labels.names.index(name)].tolist()


@pytest.mark.parametrize(
    ("row", "group", "top", "nothing"),
    [
        ({}, 0, 0, 1),
        ({"No Finding": 1}, 0, 0, 0),
        ({"A": 1}, 1, 1, 0),
        ({"A": 1, "B": NAN}, 1, 1, 0),
        ({"A": 0, "B": NAN}, NAN, NAN, NAN),
        ({"A": 0, "B": NAN, "C": 1}, NAN, 1, 0),
        ({"A": 0.3, "B": 0.6}, 0.6, 0.6, 0.4),
        ({"A": 0.3, "B": NAN}, NAN, NAN, NAN),
        ({"C": 0.3, "No Finding": NAN}, 0, 0.3, NAN),
        (dict.fromkeys(["No Finding", "A", "B", "C"], NAN), NAN, NAN, NAN),
    ],
)
def test_what_follows_from_unknown_values_is_unknown_unless_the_known_ones_decide_it(row, group, top, nothing):
    found = derive(rows(row), SMALL)[0]
    np.testing.assert_allclose([found[N.index(name)] for name in ("Group", "Top", "Nothing")], [group, top, nothing])


VALUES = arrays.arrays(
    np.float32, (5, len(CHEXPERT.names)), elements=st.sampled_from([0.0, 1.0, 0.25, 0.75, NAN])
)  # fmt: skip


@given(values=VALUES)
@settings(deadline=None, derandomize=True, max_examples=60)
def test_derived_parents_are_closed_own_labels_stay_and_twice_is_once(values):
    before = values.copy()
    found = derive(values, CHEXPERT)
    np.testing.assert_array_equal(values, before)
    names, derived = CHEXPERT.names, {label.name for label in CHEXPERT.labels if label.derived}
    own = [name not in derived for name in names]
    np.testing.assert_array_equal(found[:, own], values[:, own])
    for parent, child in CHEXPERT.edges:
        if parent in derived:
            above, below = found[:, names.index(parent)], found[:, names.index(child)]
            assert (above[below == 1] == 1).all()
            assert not (above < below).any()
    np.testing.assert_array_equal(derive(found, CHEXPERT), found)
    listed = contradictions(found, CHEXPERT, range(5))
    assert {str(item).split(" in ")[0] for item in listed} <= {
        "Pneumonia without Consolidation",
        "Cardiomegaly without Enlarged Cardiomediastinum",
        "No Finding beside Abnormal",
    }


@given(values=VALUES, known=VALUES)
@settings(deadline=None, derandomize=True, max_examples=40)
def test_learning_an_unknown_label_never_turns_a_hard_value_round(values, known):
    derived = np.array([bool(label.derived) for label in CHEXPERT.labels])
    values[:, derived] = NAN
    before, after = derive(values, CHEXPERT), derive(np.where(np.isnan(values), known.round(), values), CHEXPERT)
    hard = np.isin(before, [0.0, 1.0]) & derived
    np.testing.assert_array_equal(after[hard], before[hard])


def test_the_derived_value_wins_over_the_table_unless_it_is_unknown():
    unknown = dict.fromkeys(["A", "B"], NAN)
    values = rows({"Group": 1}, {"Group": 0, "A": 1}, {"Group": 1, **unknown}, {"Group": 1, "A": NAN})
    found = derive(values, SMALL)
    np.testing.assert_array_equal(column(found, "Group"), [0, 1, 1, 1])
    assert column(found, "Top")[2] == 1  # and what is above follows
    below = derive(rows({"Group": 0, "A": 0.4, "B": NAN}), SMALL)  # the table's is below a child
    assert np.isnan(column(below, "Group")[0])


def test_contradictions_are_counted_with_their_first_rows_and_nothing_is_changed():
    values = rows(
        {"B": 1}, {"B": 1, "A": NAN}, {"B": 1, "A": 1}, {"No Finding": 1, "C": 1}, {"Group": 1}, *[{"B": 1}] * 4
    )
    before = values.copy()
    ids = [f"i{row}" for row in range(len(values))]
    found = contradictions(values, SMALL, ids)
    assert [(item.text, item.count, item.ids) for item in found] == [
        ("B without A", 5, ["i0", "i5", "i6"]),
        ("No Finding beside Top", 1, ["i3"]),
        ("Group in the table against what follows from the others", 1, ["i4"]),
    ]
    assert str(found[0]) == "B without A in 5 rows, first i0, i5, i6"
    np.testing.assert_array_equal(values, before)


def manifest(values, names):
    count = len(values)
    ids = {"source": "x", "patient_id": [f"p{i}" for i in range(count)], "study_id": [f"s{i}" for i in range(count)],
           "image_id": [f"i{i}" for i in range(count)], "view": "PA", "path": "a.png", "split": "train"}  # fmt: skip
    table = pd.DataFrame(ids).astype("str")
    return Manifest(table.assign(meta_age="40", **dict(zip(names, np.array(values, np.float32).T, strict=True))))


def test_a_manifest_gets_the_derived_columns_and_its_contradictions_are_warned_of(caplog):
    source = manifest([[0, 0, 1, 1], [1, 0, 0, 0], [0, 0, 1, 0]], ["C", "No Finding", "B", "A"])
    with caplog.at_level(logging.WARNING):
        found = complete(source, SMALL)
    assert found.labels == N
    assert found.table["Group"].tolist() == [1, 0, 1]
    assert found.table["Top"].tolist() == [1, 1, 1]
    assert found.table["meta_age"].tolist() == ["40"] * 3
    assert found.table["A"].tolist() == [1, 0, 0]  # the contradiction is listed, not mended
    assert [record.message for record in caplog.records] == [
        "manifest: B without A in 1 row, first i2; it is left as it is"
    ]
    pd.testing.assert_frame_equal(complete(found, SMALL).table, found.table)


def test_a_set_that_derives_nothing_leaves_the_manifest_alone():
    source = manifest([[0, 1]], ["Mass", "Nodule"])
    assert complete(source, None) is source
    assert complete(source, LabelSet.load("nih")) is source


def test_labels_without_a_column_are_unknown():
    source = manifest([[0, 1]], ["Tumour", "A"])
    labels = LabelSet("x", [Label("A"), Label("B"), Label("C")])
    np.testing.assert_array_equal(label_values(source, labels, {"C": "Tumour", "A": "A"}), [[1, NAN, 0]])


def test_prepare_writes_derived_labels_beside_the_sources_own(shared_data, tmp_path, caplog):
    prepare("nih", shared_data / "nih-1000", tmp_path / "nih", size=8, labels="nih_hierarchical", workers=0)
    table = Store(tmp_path / "nih").manifest.table
    own = LabelSet.load("nih").names
    np.testing.assert_array_equal(table["Abnormal"], table[own].max(axis=1))
    np.testing.assert_array_equal(table["Lung Lesion"], table[["Mass", "Nodule"]].max(axis=1))
    assert not [record for record in caplog.records if "without" in record.message]
