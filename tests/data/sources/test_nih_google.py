"""The source of Google's labels on every row of the real table and on hand-made trees."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from real_roots import positives, read_all, real_root

from longview import InputError
from longview.data.sources import open_source
from longview.data.sources.nih import CODES as NIH_CODES
from longview.labels import LabelSet

HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y],Fracture,Pneumothorax,Airspace opacity,Nodule or mass"
)
VAL = ["00000013_008.png,No Finding,8,13,60,M,AP,3056,2544,0.139,0.139,NO,NO,YES,NO"]
TEST = [
    "00000211_006.png,Hernia,6,211,41,F,PA,2500,2048,0.168,0.168,YES,NO,NO,YES",
    "00029560_000.png,Pneumothorax,0,29560,41,F,PA,2500,2048,0.168,0.168,NO,,NO,NO",
]
FOUR, ALL = "four_findings_expert_labels", "all_findings_expert_labels"
ALL_HEADER = (
    "Image ID,Patient ID,Abnormal,Atelectasis,Cardiomegaly,Effusion,Infiltration,Mass,Nodule,Pneumonia,Pneumothorax,"
    "Consolidation,Edema,Emphysema,Fibrosis,Pleural Thickening,Hernia,Other"
)
ALL_ROWS = [
    "00029560_000.png,29560,0,NO,NO,NO,NO,NO,NO,NO,NO,NO,NO,NO,NO,NO,NO,NO",
    "00000211_006.png,211,1,YES,NO,NO,NO,NO,NO,NO,NO,NO,NO,NO,NO,YES,NO,YES",
]


def write(root, val=VAL, test=TEST, header=HEADER, folder=FOUR, prefix=""):
    for name, rows in (("validation_labels.csv", val), ("test_labels.csv", test)):
        if rows:
            file = root / folder / f"{prefix}{name}"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("\n".join([header, *rows]) + "\n")
    (root / "images_002/images").mkdir(parents=True, exist_ok=True)
    for name in ("00000013_008.png", "00000211_006.png", "00029560_000.png", "00000001_000.png"):
        (root / "images_002/images" / name).touch()
    return root


def test_every_row_of_the_real_table_is_read(tmp_path):
    name = "google2019_nih-chest-xray-labels"
    root = real_root(tmp_path, **{name: f"{name}.csv"})
    manifest = read_all(open_source("nih-google", root))
    table = manifest.table
    assert len(table) == 4376
    assert table["patient_id"].nunique() == 1695
    assert table["split"].value_counts().to_dict() == {"val": 2414, "test": 1962}
    assert positives(manifest) == {
        "Fracture": 186, "Pneumothorax": 238, "Airspace opacity": 2166, "Nodule or mass": 605,
    }  # fmt: skip
    test = table[table["split"] == "test"]
    assert [int(test[label].sum()) for label in manifest.labels] == [72, 195, 1135, 295]
    assert table["patient_id"].str.len().eq(8).all()
    assert not table[manifest.labels].isna().any(axis=None)


@pytest.mark.parametrize(
    ("folder", "prefix"),
    [
        (FOUR, ""),
        ("", f"{FOUR}_"),
        (FOUR, f"{FOUR}_"),
        (f"gcs-public-data--healthcare-nih-chest-xray-labels/{FOUR}", ""),
    ],
)
def test_the_parts_are_found_in_folders_and_under_long_names(tmp_path, folder, prefix):
    table = open_source("nih-google", write(tmp_path, folder=folder, prefix=prefix)).read().table
    assert table["split"].to_list() == ["val", "test", "test"]
    assert table["patient_id"].to_list() == ["00000013", "00000211", "00029560"]
    assert table["path"].to_list()[0] == "images_002/images/00000013_008.png"
    assert table["Airspace opacity"].to_list() == [1, 0, 0]
    np.testing.assert_equal(table["Pneumothorax"].to_list(), [0, 0, np.nan])
    assert table["meta_width"].to_list() == [3056, 2500, 2500]


def test_what_the_reports_said_is_not_read(tmp_path):
    manifest = open_source("nih-google", write(tmp_path), LabelSet.load("nih")).read()
    assert manifest.labels == ["Pneumothorax"]


def test_other_sets_get_opacities_and_fractures_but_neither_nodule_nor_mass(tmp_path):
    manifest = open_source("nih-google", write(tmp_path), LabelSet.load("cxr_lt_2024_task1")).read()
    assert manifest.labels == ["Fracture", "Lung Opacity", "Pneumothorax"]
    assert open_source("nih-google", tmp_path, LabelSet.load("vinbig")).read().labels == [
        "Lung Opacity", "Nodule/Mass", "Pneumothorax",
    ]  # fmt: skip


def test_all_findings_are_nihs_14_of_pa_films_of_the_test_part(tmp_path):
    write(tmp_path, [], ALL_ROWS, ALL_HEADER, ALL)
    manifest = open_source("nih-google", tmp_path, findings="all").read()
    table = manifest.table
    assert manifest.labels == list(NIH_CODES)
    assert set(table["split"]) == {"test"}
    assert set(table["view"]) == {"PA"}
    assert [name for name in NIH_CODES if table[name][1] == 1] == ["Atelectasis", "Pleural_Thickening"]
    assert table["patient_id"].to_list() == ["00029560", "00000211"]


def test_a_table_of_the_other_study_and_other_options_are_refused(tmp_path):
    write(tmp_path, [], ALL_ROWS, ALL_HEADER, FOUR)
    with pytest.raises(InputError, match=r"lacks the columns Fracture.*Is it that of the four findings"):
        open_source("nih-google", tmp_path).read()
    with pytest.raises(InputError, match="findings is 'some'; give four, all"):
        open_source("nih-google", tmp_path, findings="some")
    with pytest.raises(InputError, match="found no table"):
        open_source("nih-google", tmp_path, findings="all").read()


def test_one_part_alone_is_read_and_the_other_named(tmp_path):
    source = open_source("nih-google", write(tmp_path, val=[]))
    assert len(source.read()) == 2
    assert source.report[f"{FOUR}: no table of these parts"] == ["val"]


def test_cells_and_parts_that_cannot_be_are_named(tmp_path):
    with pytest.raises(InputError, match="Fracture is 'HEDGE' in line 2; it is YES, NO or blank"):
        open_source("nih-google", write(tmp_path / "a", [VAL[0].replace("NO,NO,YES", "HEDGE,NO,YES")])).read()
    rows = [f"{row},test" for row in VAL]
    with pytest.raises(InputError, match="Set Id is 'test' in line 2; it is val"):
        open_source("nih-google", write(tmp_path / "b", rows, [], f"{HEADER},Set Id")).read()
    with pytest.raises(InputError, match=r"'image_id' must be unique.*00000013_008"):
        open_source("nih-google", write(tmp_path / "c", test=[*TEST, *VAL])).read()


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=6, deadline=None, derandomize=True)
def test_order_of_columns_and_rows_never_changes_an_image(tmp_path_factory, seed):
    root = write(tmp_path_factory.mktemp("permuted"))
    expected = open_source("nih-google", root).read().table.set_index("image_id")
    rng = np.random.default_rng(seed)
    for name in ("validation_labels.csv", "test_labels.csv"):
        raw = pd.read_csv(root / FOUR / name, dtype="str", keep_default_na=False)
        raw.iloc[rng.permutation(len(raw)), rng.permutation(raw.shape[1])].to_csv(root / FOUR / name, index=False)
    found = open_source("nih-google", root).read().table.set_index("image_id")
    pd.testing.assert_frame_equal(found.loc[expected.index], expected)
