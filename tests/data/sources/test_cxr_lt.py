"""The CXR-LT source on a small MIMIC-CXR-JPG tree with the challenge's tables."""

import gzip

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longview import InputError
from longview.data.sources import open_source
from longview.labels import LabelSet

TASK1 = LabelSet.load("cxr_lt_2024_task1")
TASK2 = LabelSet.load("cxr_lt_2024_task2")
TASK3 = LabelSet.load("cxr_lt_2024_task3")
VIEWS = ["PA", "LATERAL", "AP", None, "LAO", "LL"]
PARTS = {"train": range(6), "development": range(6, 9), "test": range(9, 12)}  # subjects, two images each


def images(part, path="fpath"):
    """Metadata columns of a part: a study of two images per subject."""
    rows = []
    for subject in PARTS[part]:
        for view in range(2):
            study, image = 50000000 + subject, f"{subject:08x}-{view:08x}"
            number = 10000000 + subject
            rows.append(
                {
                    "dicom_id": image,
                    "subject_id": number,
                    "study_id": f"s{study}",
                    "ViewPosition": VIEWS[(2 * subject + view) % len(VIEWS)],
                    "ViewCodeSequence_CodeMeaning": "postero-anterior",
                    path: f"files/p{str(number)[:2]}/p{number}/s{study}/{image}.jpg",
                }
            )
    return pd.DataFrame(rows)


def labelled(part, names, seed=0, path="fpath"):
    """The table of a part; the same values for a study's images."""
    table = images(part, path)
    rng = np.random.default_rng([seed, len(part)])
    for name in sorted(names):  # values do not depend on the order of columns
        table[name] = np.repeat(rng.integers(0, 2, len(table) // 2), 2)
    return table[[*table.columns[:6], *names]]


def write(root, tables):
    """A root with these tables and an empty file for each image."""
    for name, table in tables.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        table.to_csv(root / name, index=False)
        for path in table.get("fpath", table.get("path")):
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).touch()
    return root


def tables_2024():
    unseen = TASK3.unseen_names
    gold = labelled("test", TASK2.names, seed=9).iloc[:2]  # the hand-read part of test is small
    return {
        "train_labeled.csv": labelled("train", TASK1.names),
        "development_labeled_task1.csv": labelled("development", TASK1.names),
        "test_labeled_task1.csv": labelled("test", TASK1.names),
        "development_labeled_task2.csv": labelled("development", TASK2.names, seed=8),
        "test_labeled_task2.csv": gold,
        "development_labeled_task3.csv": labelled("development", unseen, seed=7).iloc[::-1],
        "test_labeled_task3.csv": labelled("test", unseen, seed=7),
    }


def assert_values(manifest, split, table, names):
    """The manifest's rows of a split hold exactly the table's values of these labels."""
    found = manifest.table[manifest.table["split"] == split].set_index("image_id")
    assert len(found) == len(table)
    expected = table.set_index("dicom_id").loc[found.index, names].astype(np.float32)
    pd.testing.assert_frame_equal(found[names], expected, check_names=False)


def test_task_1_reads_its_tables_into_the_official_splits(tmp_path):
    tables = tables_2024()
    manifest = open_source("cxr-lt-2024", write(tmp_path, tables)).read()
    assert manifest.labels == TASK1.names
    assert manifest.table["split"].value_counts().to_dict() == {"train": 12, "val": 6, "test": 6}
    assert_values(manifest, "train", tables["train_labeled.csv"], TASK1.names)
    assert_values(manifest, "val", tables["development_labeled_task1.csv"], TASK1.names)
    assert_values(manifest, "test", tables["test_labeled_task1.csv"], TASK1.names)
    row = manifest.table.iloc[1]
    assert row[["patient_id", "study_id", "image_id", "view"]].to_list() == [
        "10000000",
        "s50000000",
        "00000000-00000001",
        "lateral",
    ]
    assert row["path"] == "files/p10/p10000000/s50000000/00000000-00000001.jpg"
    assert manifest.table["view"][:6].to_list() == ["PA", "lateral", "AP", "unknown", "unknown", "lateral"]


def test_task_2_takes_its_26_labels_by_name_from_train_and_its_own_tables(tmp_path):
    tables = tables_2024()
    manifest = open_source("cxr-lt-2024", write(tmp_path, tables), TASK2).read()
    assert manifest.labels == TASK2.names
    assert_values(manifest, "train", tables["train_labeled.csv"], TASK2.names)
    assert_values(manifest, "val", tables["development_labeled_task2.csv"], TASK2.names)
    assert_values(manifest, "test", tables["test_labeled_task2.csv"], TASK2.names)
    noisy = open_source("cxr-lt-2024", tmp_path, TASK2, task=1).read()
    assert_values(noisy, "test", tables["test_labeled_task1.csv"], TASK2.names)


def test_a_smaller_label_set_reads_the_large_tables_of_task_1(tmp_path):
    tables = tables_2024()
    names = ["Hernia", "Edema", "Normal"]
    labels = LabelSet.from_dict({"name": "three", "labels": names})
    manifest = open_source("cxr-lt-2024", write(tmp_path, tables), labels).read()
    assert manifest.labels == names
    assert_values(manifest, "test", tables["test_labeled_task1.csv"], names)


def test_task_3_adds_unseen_labels_for_evaluation_and_none_for_training(tmp_path):
    tables, unseen = tables_2024(), TASK3.unseen_names
    manifest = open_source("cxr-lt-2024", write(tmp_path, tables), TASK3).read()
    assert manifest.labels == [*TASK3.names, *unseen]
    assert_values(manifest, "val", tables["development_labeled_task3.csv"], unseen)
    assert_values(manifest, "test", tables["test_labeled_task3.csv"], unseen)
    assert_values(manifest, "test", tables["test_labeled_task1.csv"], TASK3.names)
    train = manifest.table["split"] == "train"
    assert manifest.table.loc[train, unseen].isna().all(axis=None)
    assert manifest.table.loc[train, TASK3.names].notna().all(axis=None)


def test_2023_tables_with_path_in_a_folder_of_their_own(tmp_path):
    labels = LabelSet.load("cxr_lt_2023")
    tables = {
        "cxr-lt-2023/train.csv": labelled("train", labels.names, path="path"),
        "cxr-lt-2023/development.csv": images("development", "path"),
        "cxr-lt-2023/test.csv": labelled("test", labels.names, path="path"),
    }
    source = open_source("cxr-lt-2024", write(tmp_path, tables), labels)
    manifest = source.read()
    assert_values(manifest, "train", tables["cxr-lt-2023/train.csv"], labels.names)
    # unlabelled development cannot validate anything: it joins test, to be predicted on
    development = manifest.table["image_id"].isin(tables["cxr-lt-2023/development.csv"]["dicom_id"])
    assert set(manifest.table.loc[development, "split"]) == {"test"}
    assert manifest.table.loc[development, labels.names].isna().all(axis=None)
    assert manifest.table.loc[~development, labels.names].notna().all(axis=None)
    assert any("cannot validate" in what for what in source.report)


def tables_2023(seed=0):
    names = LabelSet.load("cxr_lt_2023").names
    return {
        "cxr-lt-2023/train.csv": labelled("train", names, seed, path="path"),
        "cxr-lt-2023/development.csv": images("development", "path"),
        "cxr-lt-2023/test.csv": labelled("test", names, seed, path="path"),
    }


def test_2023_is_a_source_of_its_own_with_its_26_labels(tmp_path):
    tables, labels = tables_2023(), LabelSet.load("cxr_lt_2023")
    manifest = open_source("cxr-lt-2023", write(tmp_path, tables)).read()
    assert manifest.labels == labels.names
    assert {"No Finding", "Lung Lesion"} < set(labels.names)
    assert "Normal" not in labels.names
    assert set(manifest.table["source"]) == {"cxr-lt-2023"}
    assert_values(manifest, "train", tables["cxr-lt-2023/train.csv"], labels.names)
    other = open_source("cxr-lt-2024", tmp_path, labels).read().table
    pd.testing.assert_frame_equal(manifest.table.drop(columns="source"), other.drop(columns="source"))


def test_each_year_reads_its_own_tables_where_both_are_there(tmp_path):
    old, new = tables_2023(seed=3), {f"cxr-lt-2024/{name}": table for name, table in tables_2024().items()}
    write(write(tmp_path, old), new)
    labels = LabelSet.load("cxr_lt_2023")
    manifest = open_source("cxr-lt-2023", tmp_path).read()
    assert_values(manifest, "train", old["cxr-lt-2023/train.csv"], labels.names)
    assert_values(
        open_source("cxr-lt-2024", tmp_path).read(), "train", new["cxr-lt-2024/train_labeled.csv"], TASK1.names
    )


def test_2023_knows_no_tasks_and_names_its_own_tables(tmp_path):
    with pytest.raises(InputError, match=r"'cxr-lt-2023' takes no option 'task'; its options are: development"):
        open_source("cxr-lt-2023", tmp_path, task=1)
    write(tmp_path, {"train_labeled.csv": labelled("train", TASK1.names)})
    with pytest.raises(
        InputError, match=r"found no table in .*; looked for train\.csv, development\.csv, test\.csv, lab"
    ):
        open_source("cxr-lt-2023", tmp_path).read()
    assert open_source("cxr-lt-2023", tmp_path, development="ignore").development == "ignore"


@pytest.mark.parametrize(("development", "split"), [("test", "test"), ("ignore", None)])
def test_development_becomes_what_the_option_says(tmp_path, development, split):
    tables = tables_2024()
    table = open_source("cxr-lt-2024", write(tmp_path, tables), development=development).read().table
    ids = tables["development_labeled_task1.csv"]["dicom_id"]
    assert set(table.loc[table["image_id"].isin(ids), "split"]) == ({split} if split else set())


def test_options_with_other_values_are_refused(tmp_path):
    with pytest.raises(InputError, match="development is 'dev'; give --development val, test or ignore"):
        open_source("cxr-lt-2024", tmp_path, development="dev")
    with pytest.raises(InputError, match="task is 4; give --task 1, 2 or 3"):
        open_source("cxr-lt-2024", tmp_path, task=4)


def test_a_patient_in_two_tables_stays_in_the_strictest_and_is_reported(tmp_path, caplog):
    tables = tables_2024()
    train = tables["train_labeled.csv"]
    train.loc[0, "subject_id"] = 10000009  # stands in test
    train.loc[1, "study_id"] = "s59999999"
    tables["development_labeled_task1.csv"].loc[0:1, "subject_id"] = 10000001  # stands in train
    source = open_source("cxr-lt-2024", write(tmp_path, tables))
    table = source.read().table
    assert table["split"].value_counts().to_dict() == {"train": 9, "val": 6, "test": 6}
    left_out = ["00000000-00000000", "00000001-00000000", "00000001-00000001"]
    assert source.report["left out, the patient stands in a stricter split too"] == left_out
    assert left_out[0] in caplog.text


def test_a_part_of_the_tree_is_normal_and_counted(tmp_path, caplog):
    tables = tables_2024()
    write(tmp_path, tables)
    gone = tables["train_labeled.csv"]["fpath"][:3]
    for path in gone:
        (tmp_path / path).unlink()
    source = open_source("cxr-lt-2024", tmp_path)
    assert len(source.read()) == 21
    assert source.report["left out, image file not there"] == list(gone)
    assert "not there: 3" in caplog.text


def test_no_image_at_all_says_where_they_were_looked_for(tmp_path):
    labelled("train", TASK1.names).to_csv(tmp_path / "train_labeled.csv", index=False)
    with pytest.raises(InputError, match=rf"none of the 12 images.*{tmp_path}/files/p10/p10000000/s50000000"):
        open_source("cxr-lt-2024", tmp_path).read()


def test_a_misspelt_label_column_is_an_error_that_lists_both_sides(tmp_path):
    table = labelled("train", TASK1.names).rename(columns={"Hernia": "Hernai"})
    write(tmp_path, {"train_labeled.csv": table})
    with pytest.raises(InputError, match="labels without a column: Hernia; columns that are no label: Hernai"):
        open_source("cxr-lt-2024", tmp_path).read()


def test_a_repeated_image_or_a_missing_id_column_is_named(tmp_path):
    table = labelled("train", TASK1.names)
    write(tmp_path, {"train_labeled.csv": pd.concat([table, table[:1]])})
    with pytest.raises(InputError, match=r"train_labeled.csv: 'dicom_id' must be unique.*00000000-00000000"):
        open_source("cxr-lt-2024", tmp_path).read()
    table.drop(columns=["fpath", "study_id"]).to_csv(tmp_path / "train_labeled.csv", index=False)
    with pytest.raises(InputError, match=r"lacks the columns study_id, fpath \(or path\)"):
        open_source("cxr-lt-2024", tmp_path).read()


def test_a_label_outside_zero_and_one_or_of_text_is_named(tmp_path):
    table = labelled("train", TASK1.names)
    write(tmp_path, {"train_labeled.csv": table.assign(Edema=-1)})
    with pytest.raises(InputError, match=r"label 'Edema' has -1.0 for image '00000000-00000000'"):
        open_source("cxr-lt-2024", tmp_path).read()
    write(tmp_path, {"train_labeled.csv": table.assign(Edema="yes")})
    with pytest.raises(InputError, match="label columns Edema hold text"):
        open_source("cxr-lt-2024", tmp_path).read()


def test_labels_csv_alone_serves_with_its_split_column(tmp_path):
    parts = [labelled(part, [*TASK3.names, *TASK3.unseen_names]).assign(split=part) for part in PARTS]
    write(tmp_path, {"labels.csv": pd.concat(parts)})
    manifest = open_source("cxr-lt-2024", tmp_path, TASK3).read()
    assert_values(manifest, "val", parts[1], [*TASK3.names, *TASK3.unseen_names])
    train = manifest.table["split"] == "train"
    assert manifest.table.loc[train, TASK3.unseen_names].isna().all(axis=None)
    assert len(open_source("cxr-lt-2024", tmp_path, development="ignore").read()) == 18


def test_height_and_width_come_from_the_metadata_where_it_is_there(tmp_path):
    write(tmp_path, {"train_labeled.csv": labelled("train", TASK1.names)})
    pd.DataFrame({"dicom_id": ["00000000-00000001"], "Rows": [3056], "Columns": [2544]}).to_csv(
        tmp_path / "mimic-cxr-2.0.0-metadata.csv.gz", index=False
    )
    table = open_source("cxr-lt-2024", tmp_path).read().table
    assert table.loc[1, ["meta_height", "meta_width"]].to_list() == [3056, 2544]
    assert table["meta_height"].notna().sum() == 1


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=6, deadline=None)
def test_order_of_columns_and_rows_never_changes_a_label(tmp_path_factory, seed):
    tables = tables_2024()
    rng = np.random.default_rng(seed)
    shuffled = {
        name: table.iloc[rng.permutation(len(table)), rng.permutation(table.shape[1])] for name, table in tables.items()
    }
    first = open_source("cxr-lt-2024", write(tmp_path_factory.mktemp("a"), tables), TASK3).read()
    second = open_source("cxr-lt-2024", write(tmp_path_factory.mktemp("b"), shuffled), TASK3).read()
    expected = first.table.set_index("image_id")
    pd.testing.assert_frame_equal(second.table.set_index("image_id").loc[expected.index], expected)


def test_metadata_that_lacks_columns_or_is_damaged_is_named(tmp_path):
    root = write(tmp_path, tables_2024())
    file = root / "mimic-cxr-2.0.0-metadata.csv.gz"
    file.write_bytes(gzip.compress(b"dicom_id,Rows\nx,1\n"))
    with pytest.raises(InputError, match=r"metadata\.csv\.gz lacks the columns Columns; it has dicom_id, Rows"):
        open_source("cxr-lt-2024", root).read()
    whole = gzip.compress(("dicom_id,Rows,Columns\n" + "".join(f"x{n},{n * 7919},1\n" for n in range(9999))).encode())
    for content in (whole[: len(whole) // 2], whole[:99] + bytes(99) + whole[198:], b"no gzip"):
        file.write_bytes(content)
        with pytest.raises(InputError, match=r"metadata\.csv\.gz cannot be read as a table"):
            open_source("cxr-lt-2024", root).read()
