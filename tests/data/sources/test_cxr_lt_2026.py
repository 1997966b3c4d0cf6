"""The CXR-LT 2026 source on a small PadChest tree with the challenge's tables as they are published."""

import gzip

import numpy as np
import pandas as pd
import pytest

from longview import InputError
from longview.data.sources import open_source, source_class
from longview.data.sources.cxr_lt_2026 import PADCHEST, REMOVAL, TRAINING
from longview.data.splits import assign_splits
from longview.labels import LabelSet

SET = LabelSet.load("cxr_lt_2026")
TEST1, TEST2 = "CXRLT_2026_TEST_ALL_TASK1.csv", "CXRLT_2026_TEST_ALL_TASK2.csv"
IDS = ["ImageID", "StudyDate_DICOM", "PatientID"]
DIGITS = "3240000000000000000000000000000000000{:02d}"  # patients that a spreadsheet makes one: 3.24E+38
VIEWS = ["PA", "L", "AP_horizontal", "COSTAL"]


def image_id(patient, study, number):
    return f"{10**30 + 10 * patient + study}_{number:06x}.png"


def table(patients, names=(), seed=0):
    """Ids of two studies of each patient, two images each, as the challenge's tables have them, and labels."""
    rows = [
        {"ImageID": image_id(patient, study, number), "StudyDate_DICOM": 20140101 + study, "PatientID": "3.24E+38"}
        for patient in patients
        for study in range(2)
        for number in range(2)
    ]
    raw = pd.DataFrame(rows)
    rng = np.random.default_rng(seed)
    for name in sorted(names):
        raw[name] = np.repeat(rng.integers(0, 2, len(raw) // 2), 2)
    return raw[[*IDS, *names]]


def padchest(patients):
    """PadChest's own table of these patients; its first column has no name, its reports are not in it here."""
    raw = table(patients)
    number = raw["ImageID"].str.extract(r"^(\d+)_(\w+)")
    raw["StudyID"] = number[0]
    raw["PatientID"] = [DIGITS.format((int(study) - 10**30) // 10) for study in number[0]]
    raw["ImageDir"] = [str(row % 3) for row in range(len(raw))]
    raw["Projection"] = [VIEWS[row % len(VIEWS)] for row in range(len(raw))]
    return raw.reset_index(names="")[["", "ImageID", "ImageDir", "StudyID", "PatientID", "Projection"]]


def write(root, tables, folder="{}"):
    """A root with these tables and an empty file for each image, in the folder that PadChest's table names."""
    root.mkdir(exist_ok=True)
    for name, raw in tables.items():
        raw.to_csv(root / name, index=False)
    places = tables[PADCHEST].set_index("ImageID")["ImageDir"] if PADCHEST in tables else {}
    for name in {image for raw in tables.values() for image in raw["ImageID"]}:
        place = root / folder.format(places.get(name, ""))
        place.mkdir(parents=True, exist_ok=True)
        (place / name).touch()
    return root


def published():
    """The files of the challenge's repository, and PadChest's table: patients 0 to 5 train, 6 and 7 test."""
    test1 = table([6]).assign(**{f"Unnamed: {column}": "" for column in range(3, 33)})
    return {
        TRAINING: table(range(6), SET.names),
        TEST1: test1,
        TEST2: table([7]),
        REMOVAL: table([6, 7]),
        PADCHEST: padchest(range(8)),
    }


def test_ids_views_and_paths_are_those_of_padchests_own_table(tmp_path):
    tables = published()
    root = write(tmp_path / "r", tables)
    # as published: 30 columns without a name
    text = (root / TEST1).read_text().splitlines()
    (root / TEST1).write_text("\n".join([",".join(IDS) + "," * 30, *text[1:]]) + "\n")
    manifest = open_source("cxr-lt-2026", root).read()
    found, own = manifest.table.set_index("image_id"), tables[PADCHEST].set_index("ImageID")
    own.index = own.index.str.removesuffix(".png")
    assert len(found) == len(own)
    assert found["patient_id"].to_dict() == own["PatientID"].to_dict()
    assert found["study_id"].to_dict() == own["StudyID"].to_dict()
    assert found["path"].to_dict() == (own["ImageDir"] + "/" + own.index + ".png").to_dict()
    views = dict(zip(VIEWS, ["PA", "lateral", "AP", "unknown"], strict=True))
    assert found["view"].to_dict() == own["Projection"].map(views).to_dict()
    assert found["patient_id"].nunique() == 8


def test_labels_are_those_of_the_training_table_whatever_its_order_and_none_of_the_unlabelled_test_tables(tmp_path):
    tables = published()
    tables[TRAINING] = tables[TRAINING].sample(frac=1, random_state=3)[[*SET.names[::-1], *IDS[::-1]]]
    manifest = open_source("cxr-lt-2026", write(tmp_path / "r", tables)).read()
    assert manifest.labels == SET.names
    assert manifest.table["split"].value_counts().to_dict() == {"train": 24, "test": 8}
    train = manifest.table[manifest.table["split"] == "train"].set_index("image_id")
    expected = tables[TRAINING].set_index(tables[TRAINING]["ImageID"].str.removesuffix(".png"))
    expected = expected.loc[train.index, SET.names].astype(np.float32)
    pd.testing.assert_frame_equal(train[SET.names], expected, check_names=False)
    assert manifest.table.loc[manifest.table["split"] == "test", SET.names].isna().all(axis=None)


def test_a_patient_id_that_a_spreadsheet_made_a_number_is_refused_without_padchests_table(tmp_path):
    tables = published()
    del tables[PADCHEST]
    root = write(tmp_path / "r", tables)
    with pytest.raises(InputError, match=rf"{TRAINING}: PatientID was saved as a number \(3.24E\+38\).*{PADCHEST}"):
        open_source("cxr-lt-2026", root).read()
    padchest(range(8)).assign(PatientID="3,24e38").to_csv(root / PADCHEST, index=False)
    with pytest.raises(InputError, match=rf"{PADCHEST}: PatientID was saved as a number.*take the original"):
        open_source("cxr-lt-2026", root).read()


def test_whole_patient_ids_need_no_other_table_and_a_study_is_a_patient_on_a_day(tmp_path):
    raw = table(range(6), SET.names)
    raw["PatientID"] = np.repeat([DIGITS.format(patient) for patient in range(6)], 4)
    manifest = open_source("cxr-lt-2026", write(tmp_path / "r", {TRAINING: raw}, "images")).read()
    row = manifest.table.iloc[3]
    assert row["patient_id"] == DIGITS.format(0)
    assert row["study_id"] == f"{DIGITS.format(0)}_20140102"
    assert row["view"] == "unknown"
    assert row["path"] == f"images/{image_id(0, 1, 1)}"
    assert manifest.table["study_id"].nunique() == 12
    assert set(manifest.table["split"]) == {"none"}
    divided = assign_splits(manifest, 0.2, 0.2).table
    assert set(divided["split"]) == {"train", "val", "test"}
    assert divided.groupby("patient_id")["split"].nunique().max() == 1


def test_evaluation_labels_of_both_tasks_are_joined_by_image_and_training_sees_no_unseen_one(tmp_path):
    tables = published()
    task1, task2 = table([6], SET.names, seed=1), table([6], SET.unseen_names, seed=2).iloc[::-1]
    tables |= {"CXRLT_2026_development_task1.csv": task1, "CXRLT_2026_development_TASK2.csv": task2}
    tables[TEST1] = table([7])
    tables[TRAINING][SET.unseen_names[0]] = 1  # even where somebody adds one
    manifest = open_source("cxr-lt-2026", write(tmp_path / "r", tables)).read()
    assert manifest.labels == [*SET.names, *SET.unseen_names]
    parts = dict(tuple(manifest.table.groupby("split")))
    val = parts["val"].set_index("image_id")
    for raw, names in ((task1, SET.names), (task2, SET.unseen_names)):
        expected = raw.set_index(raw["ImageID"].str.removesuffix(".png"))[names].astype(np.float32)
        pd.testing.assert_frame_equal(val[names], expected.loc[val.index], check_names=False)
    assert parts["train"][SET.unseen_names].isna().all(axis=None)
    assert len(parts["test"]) == 4


def test_development_images_without_a_label_become_test(tmp_path):
    tables = published() | {"CXRLT_2026_DEV_TASK1.csv": table([6])}
    del tables[TEST1]
    source = open_source("cxr-lt-2026", write(tmp_path / "r", tables))
    assert source.read().table["split"].value_counts().to_dict() == {"train": 24, "test": 8}
    assert len(source.report["development images without labels cannot validate, taken as test"]) == 4


def test_an_evaluation_patient_and_what_is_to_be_removed_do_not_train(tmp_path):
    tables = published()
    tables[TEST1] = table([6, 5]).iloc[:6]  # the last study of patient 5 is in training only
    tables[REMOVAL] = table([0])
    source = open_source("cxr-lt-2026", write(tmp_path / "r", tables))
    found = source.read().table
    assert found["split"].value_counts().to_dict() == {"train": 16, "test": 10}
    assert len(source.report["left out, the patient stands in a stricter split too"]) == 4
    assert len(source.report["left out, named in Removal.csv"]) == 4
    assert DIGITS.format(0) not in set(found["patient_id"])


def test_a_part_of_the_tree_and_of_padchests_table_is_normal_and_counted(tmp_path):
    tables = published()
    root = write(tmp_path / "r", tables)
    for file in (root / "1").iterdir():
        file.unlink()
    padchest(range(1, 8)).to_csv(root / PADCHEST, index=False)
    source = open_source("cxr-lt-2026", root)
    found = source.read().table
    assert len(source.report[f"left out, not named in {PADCHEST}"]) == 4
    assert len(found) == 28 - len(source.report["left out, image file not there"])
    assert len(found) < 28
    padchest([99]).to_csv(root / PADCHEST, index=False)
    with pytest.raises(InputError, match=r"names none of the 32 images.*is it PadChest's own table\?"):
        open_source("cxr-lt-2026", root).read()


def test_tables_may_lie_gzipped_in_the_folder_of_the_challenge(tmp_path):
    root = write(tmp_path / "r", published(), "images/{}")
    expected = open_source("cxr-lt-2026", root).read().table
    folder = root / "CXRLT-2026-TRAINING DATA"
    folder.mkdir()
    for file in list(root.glob("*.csv")):
        with gzip.open(folder / f"{file.name}.gz", "wb") as stream:
            stream.write(file.read_bytes())
        file.unlink()
    pd.testing.assert_frame_equal(open_source("cxr-lt-2026", root).read().table, expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda raw: raw.drop(columns="PatientID"), "lacks the columns PatientID; it has ImageID"),
        (lambda raw: raw.rename(columns={"Mass": "Mas"}), "without a column: Mass; columns that are no label: Mas"),
        (lambda raw: raw.assign(Mass="yes"), "label columns Mass hold text"),
        (lambda raw: raw.assign(PatientID=""), "'PatientID' is empty in 24 rows, first line 2"),
        (lambda raw: pd.concat([raw, raw.iloc[:1]]), "'ImageID' must be unique"),
    ],
)  # fmt: skip
def test_a_damaged_training_table_is_named(tmp_path, change, message):
    tables = published()
    root = write(tmp_path / "r", tables)
    change(tables[TRAINING]).to_csv(root / TRAINING, index=False)
    with pytest.raises(InputError, match=rf"{TRAINING}.*{message}"):
        open_source("cxr-lt-2026", root).read()


def test_what_every_published_source_must_do(tmp_path):
    source = source_class("cxr-lt-2026")
    for fact in ("Size", "Licence", "Labels", "Split", "Ids", "Quirks", "Cite"):
        assert f"**{fact}**" in source.__doc__
    with pytest.raises(InputError, match=TRAINING):
        open_source("cxr-lt-2026", tmp_path).read()
    (tmp_path / TRAINING).touch()
    with pytest.raises(InputError, match=f"{TRAINING} cannot be read as a"):
        open_source("cxr-lt-2026", tmp_path).read()
    write(tmp_path / "r", published(), "elsewhere/deeper/{}")
    with pytest.raises(InputError, match="none of the 32 images"):
        open_source("cxr-lt-2026", tmp_path / "r").read()
