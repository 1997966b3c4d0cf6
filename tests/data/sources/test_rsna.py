"""The RSNA source on every row of the real table, on the phantom and on hand-made trees."""

import json
import time

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from real_roots import positives, read_all, real_root

from longview import InputError
from longview.data.images import read_image
from longview.data.phantom import phantom
from longview.data.sources import open_source
from longview.data.sources.rsna import MAPPING
from longview.labels import LabelSet

HEADER = "patientId,x,y,width,height,Target"
ROWS = ["u1,264.0,152.0,213.0,379.0,1", "u2,,,,,0", "u1,562.0,152.0,256.0,453.0,1", "u3,,,,,0"]


def write(root, rows=ROWS, mapping=None):
    (root / "stage_2_train_images").mkdir(parents=True, exist_ok=True)
    (root / "stage_2_train_labels.csv").write_text("\n".join([HEADER, *rows]) + "\n")
    for image in ("u1", "u2", "u3"):
        (root / "stage_2_train_images" / f"{image}.dcm").touch()
    if mapping is not None:
        (root / MAPPING).write_text(json.dumps(mapping))
    return root


def entries(**images):
    return [{"subset_img_id": film, "img_id": image, "orig_labels": ["No Finding"]} for film, image in images.items()]


def test_every_row_of_the_real_table_is_read_within_seconds(tmp_path):
    root = real_root(
        tmp_path,
        stage_2_train_labels="kaggle_stage_2_train_labels.csv",
        kaggle_stage_2_train_images_dicom_headers="kaggle_stage_2_train_images_dicom_headers.csv",
    )
    start = time.process_time()
    source = open_source("rsna", root)
    manifest = read_all(source)
    assert time.process_time() - start < 5
    assert len(manifest) == 26684
    assert positives(manifest) == {"Lung Opacity": 6012}
    assert (manifest.table["Lung Opacity"] == 0).sum() == 20672
    assert len(source.boxes) == 9555
    assert source.boxes["image_id"].nunique() == 6012
    assert manifest.table["view"].value_counts().to_dict() == {"PA": 14511, "AP": 12173}
    assert manifest.table["meta_age"].max() < 140
    # a positive film has a row per box, another one has one
    assert len(pd.read_csv(root / "stage_2_train_labels.csv")) == 9555 + 20672 == 30227


def test_a_film_is_positive_once_with_all_its_boxes_in_the_frame_of_1024(tmp_path):
    source = open_source("rsna", write(tmp_path))
    table = source.read().table
    assert table["image_id"].to_list() == ["u1", "u2", "u3"]
    assert table["Lung Opacity"].to_list() == [1, 0, 0]
    assert set(table["view"]) == {"unknown"}
    box = ["u1", "Lung Opacity", 264, 152, 213, 379, 1024, 1024, ""]
    assert source.boxes.to_numpy().tolist()[0] == box
    assert len(source.boxes) == 2


def test_with_the_mapping_patients_are_nihs_and_without_it_that_is_said(tmp_path):
    source = open_source("rsna", write(tmp_path))
    assert source.read().table["patient_id"].to_list() == ["u1", "u2", "u3"]
    assert any("each film counts as a patient" in what for what in source.report)
    write(tmp_path, mapping=entries(u1="00000013_005.png", u2="00000013_006.png", u9="00000001_000.png"))
    source = open_source("rsna", tmp_path)
    table = source.read().table
    assert table["patient_id"].to_list() == ["00000013", "00000013", "u3"]
    assert table["meta_nih_image"].to_list() == ["00000013_005", "00000013_006", ""]
    assert [names for what, names in source.report.items() if "does not name" in what] == [
        ["stage_2_train_images/u3.dcm"]
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [("[{", "is not the challenge's mapping"), ('[{"img_id": "x"}]', "KeyError.*subset_img_id"), ("[3]", "TypeError"),
     ('[{"subset_img_id": "u1", "img_id": "13_5.png"}]', "img_id that are no NIH images: 13_5.png")],
)  # fmt: skip
def test_a_damaged_mapping_is_named(tmp_path, text, message):
    (write(tmp_path) / MAPPING).write_text(text)
    with pytest.raises(InputError, match=rf"{MAPPING}.*{message}"):
        open_source("rsna", tmp_path).read()


def test_the_detailed_class_is_kept_beside_the_label(tmp_path):
    classes = "patientId,class\nu1,Lung Opacity\nu1,Lung Opacity\nu2,Normal\n"
    (write(tmp_path) / "stage_2_detailed_class_info.csv").write_text(classes)
    assert open_source("rsna", tmp_path).read().table["meta_class"].to_list() == ["Lung Opacity", "Normal", ""]


def test_the_label_is_lung_opacity_of_other_sets_by_name_or_alias(tmp_path):
    own = LabelSet.from_dict({"name": "own", "labels": ["Edema", "Lung Opacity"]})
    for labels, name in ((own, "Lung Opacity"), ("chexpert", "Lung Opacity"), ("nih_google", "Airspace opacity")):
        found = LabelSet.load(labels) if isinstance(labels, str) else labels
        assert open_source("rsna", write(tmp_path), found).read().labels == [name]
    with pytest.raises(InputError, match="no finding of source 'rsna' is a label of set 'nih'"):
        open_source("rsna", tmp_path, LabelSet.load("nih")).read()


def test_rows_that_cannot_be_are_named(tmp_path):
    with pytest.raises(InputError, match="Target is '2' in line 3; it is 0 or 1"):
        open_source("rsna", write(tmp_path, [ROWS[0], "u2,,,,,2"])).read()
    with pytest.raises(InputError, match="films with Target 0 and 1: u1"):
        open_source("rsna", write(tmp_path, [*ROWS, "u1,,,,,0"])).read()
    with pytest.raises(InputError, match=r"x, y, width, height are 264\.0, many, 213\.0, 379\.0 in line 2"):
        open_source("rsna", write(tmp_path, [ROWS[0].replace("152.0", "many")])).read()


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=6, deadline=None, derandomize=True)
def test_order_of_columns_and_rows_never_changes_an_image(tmp_path_factory, seed):
    root = write(tmp_path_factory.mktemp("permuted"))
    raw = pd.read_csv(root / "stage_2_train_labels.csv", dtype="str", keep_default_na=False)
    rng = np.random.default_rng(seed)
    shuffled = raw.iloc[rng.permutation(len(raw)), rng.permutation(raw.shape[1])]
    shuffled.to_csv(root / "stage_2_train_labels.csv", index=False)
    source = open_source("rsna", root)
    assert source.read().table.set_index("image_id")["Lung Opacity"].to_dict() == {"u1": 1, "u2": 0, "u3": 0}
    assert set(source.boxes["x"]) == {264, 562}
    assert set(source.boxes["height"]) == {379, 453}


def test_the_phantom_in_its_layout_has_the_boxes_of_lung_opacity(tmp_path):
    phantom("rsna", tmp_path / "p", studies=40, size=32, seed=2, workers=0)
    source = open_source("rsna", tmp_path / "p")
    table = source.read().table
    true = pd.read_csv(tmp_path / "p/boxes.csv")
    true = true[true["label"] == "Lung Opacity"]
    assert set(table.loc[table["Lung Opacity"] == 1, "image_id"]) == set(true["image_id"])
    np.testing.assert_allclose(sorted(source.boxes["width"]), sorted(true["width"] * 1024 / 32))
    assert (tmp_path / "p/stage_2_train_labels.csv").read_text().startswith(HEADER)
    assert read_image(tmp_path / "p" / table["path"][0]).pixels.std() > 20
