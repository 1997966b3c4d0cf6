"""The VinDr-CXR source on hand-made trees in its layout; its tables are nowhere to be had without an agreement."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longview import InputError
from longview.data.sources import open_source
from longview.data.sources.vindr import CODES
from longview.labels import LabelSet


def labels_of(**present):
    """A row of label cells; names with `_` for spaces and slashes."""
    wanted = {name.replace("_", " ").replace("Nodule Mass", "Nodule/Mass"): value for name, value in present.items()}
    return {code: wanted.get(code, 0) for code in CODES}


TRAIN = [
    {"image_id": "aa", "rad_id": "R1", **labels_of(Rib_fracture=1, COPD=1)},
    {"image_id": "aa", "rad_id": "R2", **labels_of(Rib_fracture=1)},
    {"image_id": "aa", "rad_id": "R3", **labels_of(No_finding=1)},
    {"image_id": "bb", "rad_id": "R1", **labels_of(Other_diseases=1)},
    {"image_id": "bb", "rad_id": "R2", **labels_of(Other_diseases=1)},
    {"image_id": "bb", "rad_id": "R9", **labels_of(Other_diseases=1, Nodule_Mass=1)},
]
TEST = [
    {"image_id": "cc", **labels_of(Other_diseases=1)},
    {"image_id": "dd", **labels_of(No_finding=1)},
]
BOXES = [
    {"image_id": "aa", "rad_id": "R1", "class_name": "Rib fracture", "x_min": 1, "y_min": 2, "x_max": 11, "y_max": 22},
    {"image_id": "bb", "rad_id": "R9", "class_name": "No finding", "x_min": "", "y_min": "", "x_max": "", "y_max": ""},
]


def write(root, train=TRAIN, test=TEST, folder="annotations", rng=None):
    (root / folder).mkdir(parents=True, exist_ok=True)
    for part, rows in (("train", train), ("test", test)):
        if rows:
            raw = pd.DataFrame(rows)
            if part == "test":
                raw = raw.rename(columns={"Other diseases": "Other disease"})
            if rng is not None:
                raw = raw.iloc[rng.permutation(len(raw)), rng.permutation(raw.shape[1])]
            raw.to_csv(root / folder / f"image_labels_{part}.csv", index=False)
            (root / part).mkdir(exist_ok=True)
            for image in raw["image_id"]:
                (root / part / f"{image}.dicom").touch()
    pd.DataFrame(BOXES).to_csv(root / folder / "annotations_train.csv", index=False)
    test_boxes = pd.DataFrame([{**BOXES[0], "image_id": "cc"}]).drop(columns="rad_id")
    test_boxes.to_csv(root / folder / "annotations_test.csv", index=False)
    return root


def test_training_films_are_voted_on_and_test_films_are_a_consensus(tmp_path):
    table = open_source("vindr", write(tmp_path)).read().table.set_index("image_id")
    assert table["split"].to_dict() == {"aa": "train", "bb": "train", "cc": "test", "dd": "test"}
    assert table["path"].to_list() == ["train/aa.dicom", "train/bb.dicom", "test/cc.dicom", "test/dd.dicom"]
    assert table["Rib fracture"].to_list() == [1, 0, 0, 0]
    assert table["COPD"].to_list() == [0, 0, 0, 0]
    assert table["No finding"].to_list() == [0, 0, 0, 1]
    shares = open_source("vindr", tmp_path, votes="fraction").read().table
    np.testing.assert_allclose(shares["COPD"], [1 / 3, 0, 0, 0])
    assert open_source("vindr", tmp_path, votes="any").read().table["COPD"].to_list() == [1, 0, 0, 0]


def test_both_spellings_of_other_diseases_are_one_label_in_every_label_set(tmp_path):
    own = LabelSet.from_dict({"name": "own", "labels": ["Other diseases"]})
    for labels in (None, own):
        assert open_source("vindr", write(tmp_path), labels).read().table["Other diseases"].to_list() == [0, 1, 1, 0]


def test_all_28_labels_come_in_the_order_of_the_files(tmp_path):
    manifest = open_source("vindr", write(tmp_path, folder="")).read()
    assert manifest.labels == list(CODES)
    assert len(CODES) == 28


def test_two_columns_of_one_label_make_it_present_together_and_a_blank_is_unknown(tmp_path):
    labels = LabelSet.from_dict(
        {"name": "mine", "labels": [{"name": "Fracture", "aliases": {"vindr": ["Rib fracture", "Clavicle fracture"]}}]}
    )
    blank = [{**row, "Clavicle fracture": ""} for row in TRAIN]
    source = open_source("vindr", write(tmp_path, blank), labels, votes="fraction")
    # a rib is enough; without one, the clavicle might be
    np.testing.assert_allclose(source.read().table["Fracture"], [1, np.nan, 0, 0])
    assert source.report["images of image_labels_train.csv with an unknown label"] == ["bb"]


def test_boxes_of_both_parts_keep_their_reader_where_one_is_told(tmp_path):
    source = open_source("vindr", write(tmp_path))
    source.read()
    assert source.boxes[["image_id", "label", "width", "height", "reader"]].to_numpy().tolist() == [
        ["aa", "Rib fracture", 10, 20, "R1"],
        ["cc", "Rib fracture", 10, 20, ""],
    ]


def test_without_the_test_part_no_split_is_made_up_and_without_both_none_is_found(tmp_path):
    table = open_source("vindr", write(tmp_path / "r", test=[])).read().table
    assert set(table["split"]) == {"none"}
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"found no table.*looked for image_labels_train\.csv, image_labels_test\.csv"):
        open_source("vindr", tmp_path / "empty").read()


def test_cells_columns_and_rows_that_cannot_be_are_named(tmp_path):
    bad = [{**TRAIN[0], "COPD": 2}, *TRAIN[1:]]
    with pytest.raises(InputError, match=r"column 'COPD' has '2' in line 2; a label is 0, 1 or blank"):
        open_source("vindr", write(tmp_path / "a", bad)).read()
    with pytest.raises(InputError, match="no label of source 'vindr': COPDD"):
        open_source("vindr", write(tmp_path / "b", [{**row, "COPDD": 1} for row in TRAIN])).read()
    assert open_source("vindr", tmp_path / "b", unknown="ignore").read().labels == list(CODES)
    with pytest.raises(InputError, match=r"'image_id by rad_id' must be unique.*aa by R1"):
        open_source("vindr", write(tmp_path / "c", [*TRAIN, TRAIN[0]])).read()
    with pytest.raises(InputError, match=r"'image_id' must be unique.*cc"):
        open_source("vindr", write(tmp_path / "d", test=[*TEST, TEST[0]])).read()
    with pytest.raises(InputError, match=r"'image_id' must be unique.*aa"):
        open_source("vindr", write(tmp_path / "e", test=[{**TEST[0], "image_id": "aa"}])).read()


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=8, deadline=None, derandomize=True)
def test_order_of_columns_and_rows_never_changes_an_image(tmp_path_factory, seed):
    root = tmp_path_factory.mktemp("permuted")
    expected = open_source("vindr", write(root), votes="fraction").read().table.set_index("image_id")
    write(root, rng=np.random.default_rng(seed))
    found = open_source("vindr", root, votes="fraction").read().table.set_index("image_id")
    pd.testing.assert_frame_equal(found.loc[expected.index], expected)
