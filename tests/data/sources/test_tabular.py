"""A user's own table and a plain folder."""

import os

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longview import InputError
from longview.data.sources import open_source
from longview.labels import LabelSet

LABELS = LabelSet.from_dict(
    {"name": "two", "labels": ["Edema", {"name": "Pleural Effusion", "aliases": {"nih": ["Effusion"]}}]}
)


def frame(**columns):
    return pd.DataFrame(
        {
            "Path": ["b/1.png", "a/2.jpg", "a/1.png"],
            "Patient ID": ["007", "008", "007"],
            "ViewPosition": ["PA", None, "LATERAL"],
            "Edema": [1, 0, None],
            "Effusion": [0.25, 1.0, 0.0],
            **columns,
        }
    )


def write(root, table, name="films.csv"):
    for path in table.get("Path", pd.Series(["b/1.png", "a/2.jpg", "a/1.png"])):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()
    table.to_parquet(root / name) if name.endswith(".parquet") else table.to_csv(root / name, index=False)
    return root


def read(root, table, labels=None, **options):
    return open_source("table", write(root, table), labels, "films.csv", **options).read()


@pytest.mark.parametrize("name", ["films.csv", "films.csv.gz", "films.parquet"])
def test_columns_are_found_under_usual_names_and_the_rest_are_labels(tmp_path, name):
    manifest = open_source("table", write(tmp_path, frame(meta_ward="3b"), name), table=name).read()
    table = manifest.table
    assert manifest.labels == ["Edema", "Effusion"]
    assert table["image_id"].to_list() == table["study_id"].to_list() == ["b/1", "a/2", "a/1"]
    assert table["view"].to_list() == ["PA", "unknown", "lateral"]
    assert set(table["split"]) == {"none"}
    assert table["meta_ward"].to_list() == ["3b"] * 3
    np.testing.assert_array_equal(table["Edema"], np.float32([1, 0, np.nan]))
    assert table["patient_id"].to_list() == ["007", "008", "007"]


def test_named_columns_win_over_usual_names(tmp_path):
    table = frame(person=["x", "y", "y"], exam=["e1", "e2", "e2"], uid=["i", "j", "k"], set=["Train", "DEV", "dev"])
    columns = {"patient_id": "person", "image_id": "uid", "split": "set"}
    found = read(tmp_path, table.drop(columns="Patient ID"), columns=columns)
    assert found.table[["patient_id", "study_id", "image_id", "split"]].to_numpy().tolist() == [
        ["x", "e1", "i", "train"],
        ["y", "e2", "j", "val"],
        ["y", "e2", "k", "val"],
    ]


def test_a_label_set_aligns_by_alias_and_demands_every_label(tmp_path):
    manifest = read(tmp_path, frame(ward=[1, 2, 3]), LABELS)
    assert manifest.labels == ["Edema", "Pleural Effusion"]
    np.testing.assert_array_equal(manifest.table["Pleural Effusion"], np.float32([0.25, 1, 0]))
    with pytest.raises(InputError, match="labels without a column: Edema; columns that are no label: Oedema"):
        read(tmp_path, frame().rename(columns={"Edema": "Oedema"}), LABELS)


def test_columns_that_are_no_label_are_reported(tmp_path):
    table = frame(age=[57, 1, 0], ward=["a", "b", "c"], blank=[None] * 3)
    source = open_source("table", write(tmp_path, table), table="films.csv")
    assert source.read().labels == ["Edema", "Effusion"]
    assert source.report["columns that are no label, left out"] == ["age", "ward", "blank"]


def test_a_table_without_labels_can_be_read_for_prediction(tmp_path):
    source = open_source("table", write(tmp_path, frame()[["Path", "Patient ID"]]), table="films.csv")
    assert source.read().labels == []
    assert any("no label columns" in what for what in source.report)


@pytest.mark.parametrize(("uncertain", "value"), [("zero", 0.0), ("one", 1.0), ("soft", 0.5), ("ignore", np.nan)])
def test_minus_one_is_an_error_until_a_policy_says_what_it_becomes(tmp_path, uncertain, value):
    table = frame(Edema=[1, -1, None])
    for labels in (None, LABELS):
        with pytest.raises(InputError, match=r"'Edema' has -1 in 1 rows.*--uncertain zero, one, soft or ignore"):
            read(tmp_path, table, labels)
        found = read(tmp_path, table, labels, uncertain=uncertain).table["Edema"]
        np.testing.assert_array_equal(found, np.float32([1, value, np.nan]))


def test_a_policy_may_differ_by_label_and_the_codes_keep_what_the_table_said(tmp_path):
    write(tmp_path, frame(Edema=[1, -1, None], Mass=[-1, 0, 1]).drop(columns="Effusion", errors="ignore"))
    policy = {"Edema": 0.7, "default": "zero"}
    source = open_source("table", tmp_path, table="films.csv", uncertain=policy)
    found = source.read().table
    np.testing.assert_array_equal(found[["Edema", "Mass"]], np.float32([[1, 0], [0.7, 0], [np.nan, 1]]))
    np.testing.assert_array_equal(source.codes[["Edema", "Mass"]], [[1, -1], [-1, 0], [-2, 1]])
    with pytest.raises(InputError, match="uncertain names Oedema, which this source has no label for"):
        open_source("table", tmp_path, table="films.csv", uncertain={"Oedema": "one"}).read()


def test_a_label_of_text_is_named_with_its_values(tmp_path):
    with pytest.raises(InputError, match=r"'Edema' holds text \(yes, no\)"):
        read(tmp_path, frame(Edema=["yes", "no", None]), LABELS)
    with pytest.raises(InputError, match=r"'Edema' holds text \(maybe\)"):
        read(tmp_path, frame(Edema=["true", "maybe", "0"]), LABELS)


def test_a_label_outside_zero_and_one_is_named(tmp_path):
    with pytest.raises(InputError, match=r"label 'Edema' has 3.0 for image 'b/1'"):
        read(tmp_path, frame(Edema=[3, 0, 1]), LABELS)


def test_without_a_path_or_a_patient_the_remedy_is_said(tmp_path):
    with pytest.raises(
        InputError, match=r"columns film, Patient ID, .*none of which is known as the path.*--columns\.path COLUMN"
    ):
        read(tmp_path, frame().rename(columns={"Path": "film"}))
    table = frame().rename(columns={"Patient ID": "person"})
    with pytest.raises(InputError, match=r"Splits are made by patient.*--columns\.patient_id Path"):
        read(tmp_path, table)
    found = read(tmp_path, table, columns={"patient_id": "Path"}).table
    assert found["patient_id"].to_list() == ["b/1.png", "a/2.jpg", "a/1.png"]


def test_two_columns_for_one_role_must_be_told_apart(tmp_path):
    with pytest.raises(InputError, match=r"Path, filename may each be the path; say which with --columns\.path"):
        read(tmp_path, frame(filename="x"))


def test_a_wrong_mapping_or_no_table_is_refused(tmp_path):
    with pytest.raises(InputError, match="needs --table FILE"):
        open_source("table", tmp_path)
    with pytest.raises(InputError, match="columns maps person; it may map path, patient_id"):
        open_source("table", tmp_path, table="films.csv", columns={"person": "x"})
    with pytest.raises(InputError, match=r"columns names film, but .* has the columns Path"):
        read(tmp_path, frame(), columns={"path": "film"})
    with pytest.raises(InputError, match=r"other.csv does not exist"):
        open_source("table", tmp_path, table="other.csv").read()
    with pytest.raises(InputError, match="uncertain is 'maybe'"):
        open_source("table", tmp_path, table="films.csv", uncertain="maybe")


def test_blank_ids_and_strange_splits_and_repeated_images_are_named(tmp_path):
    with pytest.raises(InputError, match="'Patient ID' is empty in 1 rows, first line 3"):
        read(tmp_path, frame(**{"Patient ID": ["7", None, "8"]}))
    with pytest.raises(InputError, match="'split' has fold1; a split is train, training"):
        read(tmp_path, frame(split="fold1"))
    with pytest.raises(InputError, match="image ids stand twice: b/1"):
        table = frame()
        read(tmp_path, pd.concat([table, table[:1]]))


def test_files_that_differ_in_their_ending_only_keep_it_in_their_id(tmp_path):
    found = read(tmp_path, frame(Path=["a/1.png", "a/1.jpg", "a/2.png"])).table
    assert found["image_id"].to_list() == ["a/1.png", "a/1.jpg", "a/2.png"]


def test_absolute_paths_below_the_root_become_relative(tmp_path):
    write(tmp_path, frame())
    table = frame(Path=[str(tmp_path / "b/1.png"), "./a/2.jpg", "a//1.png"])
    assert read(tmp_path, table).table["path"].to_list() == ["b/1.png", "a/2.jpg", "a/1.png"]


@given(seed=st.integers(0, 2**32 - 1), labels=st.sampled_from([None, LABELS]))
@settings(max_examples=10, deadline=None)
def test_order_of_columns_and_rows_never_changes_a_label(tmp_path_factory, seed, labels):
    rng = np.random.default_rng(seed)
    table = frame(age=[57, 1, 0])
    shuffled = table.iloc[rng.permutation(3), rng.permutation(table.shape[1])]
    expected = read(tmp_path_factory.mktemp("a"), table, labels).table.set_index("image_id")
    found = read(tmp_path_factory.mktemp("b"), shuffled, labels).table.set_index("image_id")
    pd.testing.assert_frame_equal(found.loc[expected.index, expected.columns], expected)


def test_a_folder_is_listed_in_order_with_ids_from_the_paths(tmp_path):
    for name in (
        "b/2.PNG",
        "b/10.dcm",
        "a.jpg",
        ".hidden/x.png",
        "b/._2.png",
        "notes.txt",
        "c/1.png",
        "c/1.jpg",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    source = open_source("folder", tmp_path)
    manifest = source.read()
    assert manifest.table["path"].to_list() == ["a.jpg", "b/10.dcm", "b/2.PNG", "c/1.jpg", "c/1.png"]
    ids = ["a", "b/10", "b/2", "c/1.jpg", "c/1.png"]
    for column in ("image_id", "study_id", "patient_id"):
        assert manifest.table[column].to_list() == ids
    assert set(manifest.table["split"]) == {"none"}
    assert manifest.labels == []
    assert not source.assign


def test_a_folder_without_images_says_what_was_looked_for(tmp_path):
    with pytest.raises(InputError, match=r"no images in .*looked for .*\.png"):
        open_source("folder", tmp_path).read()


def test_ids_in_columns_of_any_known_name_keep_their_zeros(tmp_path):
    (tmp_path / "table.csv").write_text("patient,study,file,Mass\n007,010,a.png,1\n008,011,b.png,0\n")
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(b"")
    table = open_source("table", tmp_path, table="table.csv").read().table
    assert table["patient_id"].to_list() == ["007", "008"]
    assert table["study_id"].to_list() == ["010", "011"]


@pytest.mark.parametrize("column", ["Patient", "Subject", "MRN"])
def test_a_patient_called_na_is_one_whatever_the_column_is_called(tmp_path, column):
    table = frame().rename(columns={"Patient ID": column}).assign(accession=["NA", "x", "N/A"])
    table[column] = ["NA", "x", "null"]
    found = read(tmp_path, table, columns={"patient_id": "MRN"} if column == "MRN" else None).table
    assert found["patient_id"].to_list() == ["NA", "x", "null"]
    assert found["study_id"].to_list() == ["NA", "x", "N/A"]


@pytest.mark.parametrize("name", ["films.csv", "films.parquet"])
@pytest.mark.parametrize("cells", [[True, None, False], ["True", None, "FALSE"], ["1", "", "0"], ["1.0", "NA", "0"]])
@pytest.mark.parametrize("labels", [None, LABELS])
def test_true_and_false_and_numbers_written_as_text_are_labels(tmp_path, name, cells, labels):
    table = frame(Edema=pd.Series(cells, dtype="object"), visit_id=["0", "1", "0"])
    manifest = open_source("table", write(tmp_path, table, name), labels, name).read()
    assert len(manifest.labels) == 2
    np.testing.assert_array_equal(manifest.table["Edema"], np.float32([1, np.nan, 0]))


def test_ids_that_floating_point_numbers_cannot_hold_are_refused(tmp_path):
    write(tmp_path, frame(**{"Patient ID": [1e30, 2.0, None]}), "films.parquet")
    with pytest.raises(
        InputError, match=r"films\.parquet: column 'Patient ID' holds floating-point numbers \(1e\+30\)"
    ):
        open_source("table", tmp_path, table="films.parquet").read()
    write(tmp_path, frame(**{"Patient ID": [7.0, 8.0, 7.0]}), "films.parquet")
    table = open_source("table", tmp_path, table="films.parquet").read().table
    assert table["patient_id"].to_list() == ["7", "8", "7"]


def test_dicom_files_are_found_whatever_their_name_and_other_files_reported(tmp_path):
    for name in ("st/IM0001", "st/1.2.840.7", "DICOMDIR", ".hidden"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(bytes(128) + b"DICM and so on")
    for name in ("a.png", "README", "st/notes.txt"):
        (tmp_path / name).write_bytes(b"x" * 200)
    os.mkfifo(tmp_path / "pipe")
    source = open_source("folder", tmp_path)
    table = source.read().table
    assert table["path"].to_list() == ["a.png", "st/1.2.840.7", "st/IM0001"]
    assert table["image_id"].to_list() == ["a", "st/1.2.840.7", "st/IM0001"]
    assert source.report == {"left out, neither an image's ending nor DICOM": ["README", "pipe", "st/notes.txt"]}


def test_linked_and_unreadable_folders_are_reported(tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    root = tmp_path / "root"
    (root / "locked").mkdir(parents=True)
    (root / "a.png").touch()
    (root / "link").symlink_to(tmp_path / "elsewhere")
    scan = os.scandir

    def refuse(path):
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)  # the tests may run as root, who may read everything
    source = open_source("folder", root)
    assert source.read().table["path"].to_list() == ["a.png"]
    assert [names for what, names in source.report.items() if "link" in what] == [[str(root / "link")]]
    assert [names for what, names in source.report.items() if "cannot be read" in what] == [[str(root / "locked")]]
