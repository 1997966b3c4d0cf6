"""The CheXpert source on every row of the real table, on the phantom and on hand-made trees."""

import time

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from real_tables import needed_table

from longview import InputError
from longview.data.phantom import phantom
from longview.data.sources import base, open_source
from longview.data.sources.chexpert import LABELS
from longview.data.sources.policy import codes_table
from longview.labels import LabelSet

ABOUT = ["Path", "Sex", "Age", "Frontal/Lateral", "AP/PA"]
FULL, SMALL = "CheXpert-v1.0", "CheXpert-v1.0-small"

# present, absent, uncertain, blank; counted in train.csv with other tools
REAL = {
    "No Finding": (22381, 0, 0, 201033),
    "Enlarged Cardiomediastinum": (10798, 21638, 12403, 178575),
    "Cardiomegaly": (27000, 11116, 8087, 177211),
    "Lung Opacity": (105581, 6599, 5598, 105636),
    "Lung Lesion": (9186, 1270, 1488, 211470),
    "Edema": (52246, 20726, 12984, 137458),
    "Consolidation": (14783, 28097, 27742, 152792),
    "Pneumonia": (6039, 2799, 18770, 195806),
    "Atelectasis": (33376, 1328, 33739, 154971),
    "Pneumothorax": (19448, 56341, 3145, 144480),
    "Pleural Effusion": (86187, 35396, 11628, 90203),
    "Pleural Other": (3523, 316, 2653, 216922),
    "Fracture": (9040, 2512, 642, 211220),
    "Support Devices": (116001, 6137, 1079, 100197),
}
ROWS = [  # path below the part, sex, age, side, AP/PA
    ("patient00001/study1/view1_frontal.jpg", "Female", 68, "Frontal", "AP"),
    ("patient00001/study2/view1_frontal.jpg", "Female", 68, "Frontal", "PA"),
    ("patient00001/study2/view2_lateral.jpg", "Female", 68, "Lateral", ""),
    ("patient00002/study1/view1_frontal.jpg", "Unknown", 0, "Frontal", "LL"),
]


def part(name, prefix=SMALL, rows=ROWS, seed=0, cells=("1.0", "0.0", "-1.0", "")):
    """A part's table; values of a label do not depend on the order of columns."""
    table = pd.DataFrame([[f"{prefix}/{name}/{row[0]}", *row[1:]] for row in rows], columns=ABOUT, dtype="str")
    rng = np.random.default_rng([seed, len(name)])
    for label in sorted(LABELS):
        table[label] = rng.choice(cells, len(table))
    return table[[*ABOUT, *LABELS]]


def write(root, tables, folder=SMALL):
    """A root with these tables in a folder of it, and an empty file for each image of them in that folder."""
    for name, table in tables.items():
        (root / folder).mkdir(parents=True, exist_ok=True)
        table.to_csv(root / folder / name, index=False)
        for path in table["Path"]:
            touch(root / folder / path.partition("/")[2])
    return root


def touch(file):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch()


def trees():
    """Three parts: two patients to train with, one to validate and one to test."""
    other = [(path.replace("patient0", "patient6"), *rest) for path, *rest in ROWS]
    return {
        "train.csv": part("train"),
        "valid.csv": part("valid", rows=other[:3], cells=("1.0", "0.0")),
        "test.csv": part("test", rows=other[3:], cells=("1.0", "0.0")),
    }


def codes_of(source, table):
    """Codes as the table's cells say them, in its order."""
    cells = {"1.0": 1, "0.0": 0, "-1.0": -1, "": -2}
    return table[list(source.codes.columns)].map(lambda cell: cells[cell]).to_numpy()


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """Every row of the real table, with seconds of processor time; its images count as present."""
    root = tmp_path_factory.mktemp("real")
    (root / "train.csv.gz").symlink_to(needed_table("chexpert_train.csv"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(base, "files_present", lambda root, paths: pd.Series(True, index=paths.index))
        source, start = open_source("chexpert", root), time.process_time()
        return source, source.read(), time.process_time() - start


def test_every_real_row_is_counted_as_it_was_with_other_tools(real):
    source, manifest, _ = real
    table = manifest.table
    assert manifest.labels == list(LABELS) == LabelSet.load("chexpert").names
    assert (len(table), table["patient_id"].nunique(), table["study_id"].nunique()) == (223414, 64540, 187641)
    assert table["study_id"].value_counts().value_counts().to_dict() == {1: 153647, 2: 32215, 3: 1779}
    counts = codes_table(source.codes)
    assert {label: tuple(row[:4]) for label, row in zip(counts.index, counts.to_numpy(), strict=True)} == REAL
    assert counts["not in source"].sum() == 0
    assert table["view"].value_counts().to_dict() == {"AP": 161590, "lateral": 32387, "PA": 29420, "unknown": 17}
    assert set(table["split"]) == {"train"}
    assert table["meta_sex"].value_counts().to_dict() == {"M": 132636, "F": 90777, "": 1}
    assert table["meta_age"].isna().sum() == 3
    assert (table["meta_age"].min(), table["meta_age"].max()) == (18, 90)


def test_every_real_value_follows_from_its_cell(real):
    source, manifest, _ = real
    for label, (present, absent, uncertain, blank) in REAL.items():
        values = manifest.table[label]
        assert (values == 1).sum() == present
        assert (values == 0).sum() == absent + blank
        assert values.isna().sum() == uncertain
        assert ((source.codes[label] == 1) == (values == 1)).all()


def test_the_real_table_is_read_in_seconds(real):
    assert real[2] < 12  # 3 s, with some room for a busy machine


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    root = tmp_path_factory.mktemp("drawn") / "raw"
    phantom("chexpert", root, studies=60, size=32, workers=0)
    return root


def test_the_phantom_has_the_real_headers_and_tree(drawn, real):
    header = pd.read_csv(needed_table("chexpert_train.csv"), nrows=0).columns.to_list()
    for name in ("train.csv", "valid.csv", "test.csv"):
        assert pd.read_csv(drawn / SMALL / name, nrows=0).columns.to_list() == header
    assert pd.read_csv(drawn / "train_cheXbert.csv", nrows=0).columns[-2:].to_list() == [
        "Support Devices",
        "No Finding",
    ]
    first = pd.read_csv(drawn / SMALL / "train.csv")["Path"][0]
    assert first == "CheXpert-v1.0-small/train/patient00001/study1/view1_frontal.jpg"
    assert (drawn / first).is_file()


def test_a_phantom_of_one_study_has_a_training_part_only(tmp_path):
    phantom("chexpert", tmp_path / "raw", studies=1, size=32, workers=0)
    assert set(open_source("chexpert", tmp_path / "raw").read().table["split"]) == {"train"}
    assert not (tmp_path / "raw" / SMALL / "valid.csv").exists()


def test_the_phantom_leaves_findings_blank_or_uncertain_but_never_a_present_one_blank(drawn):
    told = open_source("chexpert", drawn)
    shown = open_source("chexpert", drawn, labeler="visualchexbert")
    table, truth = told.read().table, shown.read().table
    assert set(table["split"]) == {"train", "val", "test"}
    train = (table["split"] == "train").to_numpy()
    codes = told.codes[train].drop(columns="No Finding").to_numpy()
    real = truth.loc[train, [label for label in LABELS if label != "No Finding"]].to_numpy()
    shares = {code: (codes == code).mean() for code in (1, 0, -1, -2)}
    assert shares[-2] > 0.4
    assert min(shares.values()) > 0.02
    assert not (codes[real == 1] == -2).any()
    assert not (codes[real == 1] == 0).any()
    assert not (codes[real == 0] == 1).any()
    assert not told.codes[~train].isin([-1, -2]).any(axis=None)
    pd.testing.assert_frame_equal(table[~train], truth[~train])
    again = open_source("chexpert", drawn, labeler="chexbert")
    again.read()
    assert (again.codes[train].to_numpy() != told.codes[train].to_numpy()).any()


def test_parts_views_and_ids_are_read_from_small_tables(tmp_path):
    tables = trees()
    source = open_source("chexpert", write(tmp_path, tables))
    table = source.read().table
    assert table["split"].to_list() == ["train"] * 4 + ["val"] * 3 + ["test"]
    assert table["view"][:4].to_list() == ["AP", "PA", "lateral", "unknown"]
    assert table.loc[2, ["patient_id", "study_id", "image_id", "path"]].to_list() == [
        "patient00001",
        "patient00001/study2",
        "patient00001/study2/view2_lateral",
        f"{SMALL}/train/patient00001/study2/view2_lateral.jpg",
    ]
    assert table["meta_sex"][:4].to_list() == ["F", "F", "F", ""]
    np.testing.assert_array_equal(table["meta_age"][:4], [68, 68, 68, np.nan])
    odd = ["patient00002/study1/view1_frontal", "patient60002/study1/view1_frontal"]
    assert source.report["frontal images that AP/PA calls lateral, view unknown"] == odd
    np.testing.assert_array_equal(source.codes.to_numpy(), codes_of(source, pd.concat(tables.values())))


@pytest.mark.parametrize("prefix", [FULL, SMALL, "somewhere/else"])
@pytest.mark.parametrize("folder", ["", FULL, SMALL, "CheXpert-v1.0-downsampled"])
def test_any_prefix_and_folder_lead_to_the_images(tmp_path, prefix, folder):
    write(tmp_path, {"train.csv": part("train")}, folder)
    (tmp_path / folder / "train.csv").unlink()
    part("train", prefix).to_csv(tmp_path / folder / "train.csv", index=False)
    table = open_source("chexpert", tmp_path).read().table
    assert table["path"][0] == f"{folder}/train/{ROWS[0][0]}".removeprefix("/")


def test_the_full_release_is_read_in_the_batches_that_it_comes_in(tmp_path):
    csvs = tmp_path / "CheXpert-v1.0 batch 1 (validate & csv)"
    tables = trees()
    csvs.mkdir()
    for name in ("train.csv", "valid.csv"):
        tables[name].to_csv(csvs / name, index=False)
    touch(tmp_path / "CheXpert-v1.0 batch 2 (train 1)" / ROWS[0][0])
    touch(tmp_path / "CheXpert-v1.0 batch 4 (train 3)" / ROWS[3][0])
    touch(csvs / tables["valid.csv"]["Path"][0].partition("/")[2])
    source = open_source("chexpert", tmp_path)
    assert source.read().table["path"].to_list() == [
        f"CheXpert-v1.0 batch 2 (train 1)/{ROWS[0][0]}",
        f"CheXpert-v1.0 batch 4 (train 3)/{ROWS[3][0]}",
        "CheXpert-v1.0 batch 1 (validate & csv)/valid/patient60001/study1/view1_frontal.jpg",
    ]
    assert len(source.report["left out, image file not there"]) == 4


def test_a_part_of_the_tree_is_normal_and_what_is_missing_is_said(tmp_path, caplog):
    root = write(tmp_path, trees())
    (root / SMALL / "test.csv").unlink()
    gone = root / SMALL / "train/patient00002/study1/view1_frontal.jpg"
    gone.unlink()
    gone.parent.rmdir()
    gone.parent.parent.rmdir()
    source = open_source("chexpert", root)
    table = source.read().table
    assert len(table) == len(source.codes) == 6
    assert source.codes.index.to_list() == list(range(6))
    assert source.report["left out, image file not there"] == [str(gone.relative_to(root))]
    assert source.report[f"patients of train/ without a folder in {root}, {SMALL}/"] == ["train/patient00002"]
    assert source.report[f"tables that are not in {root}, their part left out"] == ["test.csv"]
    assert "train/patient00002" in caplog.text


def test_codes_stay_with_their_images_where_some_are_missing(tmp_path):
    tables = {"train.csv": part("train")}
    root = write(tmp_path, tables)
    (root / tables["train.csv"]["Path"][1]).unlink()
    source = open_source("chexpert", root)
    assert len(source.read()) == 3
    np.testing.assert_array_equal(source.codes.to_numpy(), codes_of(source, tables["train.csv"].drop(index=1)))


def test_the_other_labelers_relabel_the_training_part_only(tmp_path):
    tables = trees()
    root = write(tmp_path, tables)
    bert = part("train", FULL, seed=5)[[*ABOUT, *LABELS[1:], LABELS[0]]]
    visual = part("train", FULL, seed=6, cells=("1.0", "0.0"))
    bert.to_csv(root / "train_cheXbert.csv", index=False)
    visual.to_csv(root / "train_visualCheXbert.csv", index=False)
    for labeler, table in {"chexpert": tables["train.csv"], "chexbert": bert, "visualchexbert": visual}.items():
        source = open_source("chexpert", root, labeler=labeler)
        assert source.read().labels == list(LABELS)
        evaluation = pd.concat([tables["valid.csv"], tables["test.csv"]])
        np.testing.assert_array_equal(source.codes[:4].to_numpy(), codes_of(source, table))
        np.testing.assert_array_equal(source.codes[4:].to_numpy(), codes_of(source, evaluation))


def test_a_labelers_table_that_is_not_there_is_named_with_those_that_are(tmp_path):
    root = write(tmp_path, trees())
    with pytest.raises(InputError, match=r"chexbert needs train_cheXbert\.csv, .*train\.csv \(--labeler chexpert\)"):
        open_source("chexpert", root, labeler="chexbert").read()
    (root / SMALL / "train.csv").rename(root / "train_cheXbert.csv")
    with pytest.raises(InputError, match=r"needs train\.csv, .*train_cheXbert\.csv \(--labeler chexbert\)"):
        open_source("chexpert", root).read()
    (root / "train_cheXbert.csv").unlink()
    with pytest.raises(InputError, match=r"found no table in .*; looked for train_visualCheXbert\.csv"):
        open_source("chexpert", root, labeler="visualchexbert").read()
    assert set(open_source("chexpert", root).read().table["split"]) == {"val", "test"}


def test_options_with_other_values_are_refused(tmp_path):
    with pytest.raises(InputError, match="labeler is 'bert'; give --labeler chexpert, chexbert, visualchexbert"):
        open_source("chexpert", tmp_path, labeler="bert")
    with pytest.raises(InputError, match="uncertain is 'maybe'; give zero, one"):
        open_source("chexpert", tmp_path, uncertain="maybe")


def test_policies_are_per_label_and_codes_say_what_the_table_said(tmp_path):
    root = write(tmp_path, {"train.csv": part("train")})
    default, other = (
        open_source("chexpert", root),
        open_source("chexpert", root, uncertain={"Edema": "one", "default": "soft"}, blank="ignore"),
    )
    default.read()
    table = other.read().table
    pd.testing.assert_frame_equal(default.codes, other.codes)
    for label in LABELS:
        unsure = 1.0 if label == "Edema" else 0.5
        expected = other.codes[label].map({1: 1.0, 0: 0.0, -1: unsure, -2: np.nan})
        np.testing.assert_array_equal(table[label], expected.astype(np.float32))


def test_a_test_table_of_paths_and_labels_only_is_read(tmp_path):
    tables = trees()
    write(tmp_path, tables)
    (tmp_path / SMALL / "test.csv").unlink()
    bare = tables["test.csv"].drop(columns=ABOUT[1:])
    bare["Path"] = bare["Path"].str.partition("/")[2]
    bare.to_csv(tmp_path / SMALL / "test_labels.csv", index=False)
    table = open_source("chexpert", tmp_path).read().table
    row = table[table["split"] == "test"].iloc[0]
    assert row[["view", "meta_sex"]].to_list() == ["unknown", ""]
    assert row["path"] == f"{SMALL}/test/patient60002/study1/view1_frontal.jpg"
    assert np.isnan(row["meta_age"])


def test_a_label_that_one_table_lacks_is_unknown_there_and_a_misspelt_one_an_error(tmp_path):
    tables = trees()
    tables["valid.csv"] = tables["valid.csv"].drop(columns="Fracture")
    source = open_source("chexpert", write(tmp_path, tables))
    table = source.read().table
    inside = (table["split"] == "val").to_numpy()
    assert (source.codes.loc[inside, "Fracture"] == -3).all()
    assert table.loc[inside, "Fracture"].isna().all()
    assert not (source.codes.loc[~inside, "Fracture"] == -3).any()
    assert source.report["labels that valid.csv has no column for, unknown there"] == ["Fracture"]
    write(tmp_path, {"train.csv": tables["train.csv"].rename(columns={"Edema": "Oedema"})})
    with pytest.raises(InputError, match=r"train\.csv lacks the label columns Edema and has Oedema, which are none"):
        open_source("chexpert", tmp_path).read()


def test_another_label_set_gets_columns_only_for_what_chexpert_labels(tmp_path):
    tables = {"train.csv": part("train")}
    labels = LabelSet.load("cxr_lt_2024_task1")
    source = open_source("chexpert", write(tmp_path, tables), labels)
    manifest = source.read()
    assert manifest.labels == [name for name in labels.names if name in LABELS]
    assert len(manifest.labels) == 13  # all but No Finding, which is not Normal
    assert list(source.codes.columns) == manifest.labels
    np.testing.assert_array_equal(source.codes.to_numpy(), codes_of(source, tables["train.csv"]))
    effusion = open_source("chexpert", tmp_path, LabelSet.load("nih")).read().table["Effusion"]
    np.testing.assert_array_equal(effusion == 1, tables["train.csv"]["Pleural Effusion"] == "1.0")
    with pytest.raises(InputError, match="no label of source 'chexpert' is a label of set 'other'"):
        open_source("chexpert", tmp_path, LabelSet.from_dict({"name": "other", "labels": ["Goiter"]})).read()


@pytest.mark.parametrize(
    ("column", "cell", "message"),
    [
        ("Path", f"{SMALL}/patient00002/view1.jpg", r"train\.csv: Path is .* in line 3; it should end like"),
        ("Path", f"{SMALL}/train/{ROWS[0][0]}", r"train\.csv: 'Path' must be unique"),
        ("Edema", "0.5", r"train\.csv: label column 'Edema' holds 0\.5, first in line 3"),
    ],
)
def test_a_cell_that_cannot_be_is_named(tmp_path, column, cell, message):
    table = part("train")
    root = write(tmp_path, {"train.csv": table})
    table.loc[1, column] = cell
    table.to_csv(root / SMALL / "train.csv", index=False)
    with pytest.raises(InputError, match=message):
        open_source("chexpert", root).read()


def test_a_table_without_paths_and_a_root_without_tables_are_named(tmp_path):
    with pytest.raises(InputError, match=r"found no table in .*; looked for train\.csv, valid\.csv, test\.csv"):
        open_source("chexpert", tmp_path).read()
    part("train").rename(columns={"Path": "path"}).to_csv(tmp_path / "train.csv", index=False)
    with pytest.raises(InputError, match=r"train\.csv lacks the columns Path"):
        open_source("chexpert", tmp_path).read()
    part("train").to_csv(tmp_path / "train.csv", index=False)
    with pytest.raises(InputError, match=rf"none of the 4 images .* looked for {tmp_path}/train/patient00001/study1"):
        open_source("chexpert", tmp_path).read()


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=5, deadline=None, derandomize=True)
def test_order_of_columns_and_rows_never_swaps_labels(tmp_path_factory, seed):
    rng = np.random.default_rng(seed)
    tables = trees()
    shuffled = {
        name: table.iloc[rng.permutation(len(table)), rng.permutation(table.shape[1])] for name, table in tables.items()
    }
    found = []
    for parts in (tables, shuffled):
        source = open_source("chexpert", write(tmp_path_factory.mktemp("tree"), parts))
        table = source.read().table
        found.append((table.set_index("image_id"), source.codes.set_index(table["image_id"])))
    (table, codes), (other, others) = found
    pd.testing.assert_frame_equal(other.loc[table.index], table)
    pd.testing.assert_frame_equal(others.loc[codes.index], codes)
