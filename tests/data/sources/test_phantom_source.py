import re

import numpy as np
import pandas as pd
import pytest

from longview import InputError
from longview.data.phantom import phantom
from longview.data.phantom.findings import FINDINGS, Case
from longview.data.sources import open_source
from longview.data.sources.phantom import KINDS
from longview.labels import LabelSet


@pytest.mark.parametrize("layout", ["nih", "cxr-lt-2024"])
def test_it_is_read_with_the_parser_of_its_layout(layout, tmp_path):
    phantom(layout, tmp_path / "raw", studies=9, size=32, workers=0)
    found = open_source("phantom", tmp_path / "raw").read().table
    same = open_source(layout, tmp_path / "raw", LabelSet.load("phantom")).read().table
    assert set(found["source"]) == {"phantom"}
    pd.testing.assert_frame_equal(found.drop(columns="source"), same.drop(columns="source"))


def test_a_folder_that_is_no_phantom_is_named(tmp_path):
    with pytest.raises(InputError, match=r"is no phantom: it lacks phantom\.json"):
        open_source("phantom", tmp_path).read()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"settings": ', "damaged"),
        ("[]", "damaged"),
        ('{"settings": {}}', "damaged"),
        ('{"settings": {"layout": "x"}}', "layout is 'x'"),
    ],
)
def test_a_damaged_mark_is_named(tmp_path, text, message):
    (tmp_path / "phantom.json").write_text(text)
    with pytest.raises(InputError, match=rf"phantom\.json.*{message}"):
        open_source("phantom", tmp_path).read()


ZERO_SHOT = LabelSet.load("phantom_zero_shot")


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """A phantom and the table of its boxes."""
    root = tmp_path_factory.mktemp("drawn") / "raw"
    phantom("cxr-lt-2024", root, studies=120, size=32, workers=0)
    return root, pd.read_csv(root / "boxes.csv", dtype={"study_id": "str"})


def labels_of(*aliases, unseen=False):
    first = {"name": "Derived", "aliases": {"phantom": list(aliases)}, "unseen": unseen}
    return LabelSet.from_dict({"name": "mine", "labels": [first, {"name": "Normal"}]})


@pytest.mark.parametrize(
    ("alias", "query"),
    [
        ("Pleural Effusion", "label == 'Pleural Effusion'"),
        ("Pleural Effusion / left", "label == 'Pleural Effusion' and side == 'left' and view != 'lateral'"),
        ("Pleural Effusion / right", "label == 'Pleural Effusion' and side == 'right' and view != 'lateral'"),
        ("Cardiomegaly/left", "label == 'Cardiomegaly' and view != 'lateral'"),  # on both sides
        ("Lung Opacity / small", "label == 'Lung Opacity' and size == 'small'"),
        ("Support Devices / chest drain", "kind == 'chest drain'"),
        ("Support Devices / left / chest drain", "kind == 'chest drain' and side == 'left' and view != 'lateral'"),
    ],
)
def test_a_derived_label_is_what_the_boxes_of_the_study_show(drawn, alias, query):
    root, boxes = drawn
    table = open_source("phantom", root, labels_of(alias)).read().table
    shown = set(boxes.query(query)["study_id"])
    assert shown
    assert set(table.loc[table["Derived"] == 1, "study_id"]) == shown
    assert set(table.loc[table["Derived"] == 0, "study_id"]) == set(table["study_id"]) - shown


def test_one_of_several_aliases_is_enough_and_an_effusion_on_both_sides_has_each_side(drawn):
    root, boxes = drawn
    either = open_source("phantom", root, labels_of("Mass", "Nodule / ball")).read().table
    assert set(either.loc[either["Derived"] == 1, "study_id"]) == set(
        boxes.loc[boxes["label"].isin(["Mass", "Nodule"]), "study_id"]
    )
    sides = [open_source("phantom", root, labels_of(f"Pleural Effusion / {side}")).read() for side in ("left", "right")]
    assert (sides[0].table["Derived"] + sides[1].table["Derived"]).max() == 2


def test_unseen_labels_are_known_in_evaluation_and_nan_in_training(drawn):
    root, boxes = drawn
    table = open_source("phantom", root, labels_of("Pleural Effusion", unseen=True)).read().table
    train = table["split"] == "train"
    assert table.loc[train, "Derived"].isna().all()
    assert table.loc[~train, "Derived"].notna().all()
    evaluated = set(table.loc[~train, "study_id"])
    effusions = set(boxes.loc[boxes["label"] == "Pleural Effusion", "study_id"])
    assert set(table.loc[table["Derived"] == 1, "study_id"]) == effusions & evaluated
    assert effusions & evaluated


def test_the_plain_labels_beside_derived_ones_are_those_of_the_plain_set(drawn):
    root, _ = drawn
    found = open_source("phantom", root, ZERO_SHOT).read()
    plain = open_source("phantom", root).read()
    assert found.labels == [*ZERO_SHOT.names, *ZERO_SHOT.unseen_names]
    assert plain.labels == ZERO_SHOT.names[:17]
    pd.testing.assert_frame_equal(found.table[plain.table.columns], plain.table)


def test_a_phantom_in_the_layout_of_nih_has_derived_labels_too(tmp_path):
    phantom("nih", tmp_path / "raw", studies=40, size=32, workers=0)
    table = open_source("phantom", tmp_path / "raw", ZERO_SHOT).read().table
    boxes = pd.read_csv(tmp_path / "raw/boxes.csv", dtype="str")
    left = set(boxes.query("label == 'Pleural Effusion' and side == 'left'")["study_id"])
    assert left
    assert set(table.loc[table["Left Pleural Effusion"] == 1, "study_id"]) == left
    assert table.loc[table["split"] == "train", "Left Lung Opacity"].isna().all()
    assert table.loc[table["split"] == "test", "Left Lung Opacity"].notna().all()


@pytest.mark.parametrize(
    ("alias", "message"),
    [
        ("Effusion / left", "label 'Derived': alias 'Effusion / left' names no finding of a phantom; those"),
        ("Mass / upper", "has the qualifier 'upper'; Mass knows left, right, small, medium, large, lobulated"),
        ("Mass / ", "has the qualifier ''"),
    ],
)  # fmt: skip
def test_an_unknown_alias_is_named_with_what_there_is(drawn, alias, message):
    with pytest.raises(InputError, match=message):
        open_source("phantom", drawn[0], labels_of(alias)).read()


def test_a_set_of_derived_labels_only_and_a_phantom_without_boxes_are_refused(drawn, tmp_path):
    only = LabelSet.from_dict({"name": "only", "labels": [{"name": "X", "aliases": {"phantom": ["Mass"]}}]})
    with pytest.raises(InputError, match="'only': every seen label has aliases for 'phantom'; leave at least one"):
        open_source("phantom", drawn[0], only).read()
    for file in ("phantom.json", "train_labeled.csv"):
        (tmp_path / file).write_bytes((drawn[0] / file).read_bytes())
    with pytest.raises(InputError, match=r"boxes\.csv is not there, which every phantom has"):
        open_source("phantom", tmp_path, ZERO_SHOT).read()


def test_kinds_are_those_that_the_phantom_draws():
    rng = np.random.default_rng(0)
    cases = [Case(rng, severity, portable) for severity in (0.2, 0.9) for portable in (True, False)] * 40
    drawn = {label: {kind for case in cases for kind, _, _ in spec.choose(case)} for label, spec in FINDINGS.items()}
    for label, spec in FINDINGS.items():
        if spec.implies:
            drawn[spec.implies] |= drawn[label]
    assert {label: set(kinds) for label, kinds in KINDS.items()} == drawn


def test_every_word_of_an_unseen_label_occurs_among_the_seen_ones_but_its_combination_does_not():
    def words(*names):
        return {word for name in names for text in (name, *ZERO_SHOT.prompts[name]) for word in words_of(text)}

    seen = words(*ZERO_SHOT.names)
    assert len(ZERO_SHOT.unseen_names) == 8
    for name in ZERO_SHOT.unseen_names:
        assert words(name) <= seen, name
        attribute, _, finding = name.partition(" ")
        assert not any({attribute.lower(), *words_of(finding)} <= words(other) for other in ZERO_SHOT.names), name
        # the finding is seen by itself and with another attribute, and the attribute on at least three findings
        assert finding in ZERO_SHOT.names
        assert sum(other.endswith(f" {finding}") for other in ZERO_SHOT.names) >= 1
        assert sum(other.startswith(f"{attribute} ") for other in ZERO_SHOT.names) >= 3
    attributes = [name.partition(" ")[0] for name in ZERO_SHOT.unseen_names]
    assert {attribute: attributes.count(attribute) for attribute in attributes} == {
        "Left": 2, "Right": 2, "Large": 2, "Small": 2,
    }  # fmt: skip


def words_of(text):
    return re.findall(r"[a-z0-9]+", text.lower())
