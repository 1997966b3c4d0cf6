"""The MIMIC-CXR-JPG source on the phantom, on hand-made tables, and on tables of the full size."""

import gzip
import time

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longview import InputError
from longview.data.phantom import phantom
from longview.data.sources import base, open_source
from longview.data.sources.mimic import LABELS
from longview.data.sources.policy import codes_table
from longview.labels import LabelSet

METADATA = [
    "dicom_id", "subject_id", "study_id", "PerformedProcedureStepDescription", "ViewPosition", "Rows", "Columns",
    "StudyDate", "StudyTime", "ProcedureCodeSequence_CodeMeaning", "ViewCodeSequence_CodeMeaning",
    "PatientOrientationCodeSequence_CodeMeaning",
]  # fmt: skip
VIEWS = ["PA", "LATERAL", "AP", "", "LAO", "LL", "XTABLE LATERAL", "PA LLD"]
LABEL_HEADER = ",".join(["subject_id", "study_id", *LABELS])
CELLS = {"1.0": 1, "0.0": 0, "-1.0": -1, "": -2}


def tables(subjects=4, seed=0):
    """Metadata, split and both labellers' tables: two images in one study of each subject."""
    rng = np.random.default_rng(seed)
    metadata, splits = [], []
    for row in range(2 * subjects):
        subject, study, image = 10000032 + row // 2, 50414267 + row // 2, f"{row:08x}-{row:08x}"
        view = VIEWS[row % len(VIEWS)]
        metadata.append([image, subject, study, "CHEST", view, 3056, 2544 + row, 21800506, 213014.531, "", "", "Erect"])
        splits.append([image, study, subject, ("train", "validate", "test")[row // 2 % 3]])
    found = {
        "metadata": pd.DataFrame(metadata, columns=METADATA),
        "split": pd.DataFrame(splits, columns=["dicom_id", "study_id", "subject_id", "split"]),
    }
    for labeler in ("chexpert", "negbio"):
        ids = found["metadata"][["subject_id", "study_id"]].drop_duplicates().reset_index(drop=True)
        for label in LABELS:
            ids[label] = rng.choice(list(CELLS), len(ids))
        found[labeler] = ids
    return found


def write(root, found, version="2.0.0", ending=".csv.gz", images=True):
    root.mkdir(exist_ok=True)
    for name, table in found.items():
        table.to_csv(root / f"mimic-cxr-{version}-{name}{ending}", index=False)
    for row in found["metadata"].to_dict("records") if images else []:
        subject = str(row["subject_id"])
        folder = root / f"files/p{subject[:2]}/p{subject}/s{row['study_id']}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{row['dicom_id']}.jpg").touch()
    return root


def expected(found, labeler="chexpert"):
    """Codes per image, joined by hand."""
    cells = found[labeler].set_index("study_id")
    return [[CELLS[cells.loc[study, label]] for label in LABELS] for study in found["metadata"]["study_id"]]


@pytest.mark.parametrize(("version", "ending"), [("2.0.0", ".csv.gz"), ("2.0.0", ".csv"), ("2.1.0", ".csv.gz")])
def test_ids_paths_views_sizes_splits_and_labels_are_joined(tmp_path, version, ending):
    found = tables()
    source = open_source("mimic", write(tmp_path, found, version, ending))
    manifest = source.read()
    table = manifest.table
    assert manifest.labels == list(LABELS) == LabelSet.load("mimic").names
    assert table.loc[1, ["patient_id", "study_id", "image_id", "view", "path", "split"]].to_list() == [
        "10000032",
        "s50414267",
        "00000001-00000001",
        "lateral",
        "files/p10/p10000032/s50414267/00000001-00000001.jpg",
        "train",
    ]
    assert table["view"].to_list() == ["PA", "lateral", "AP", "unknown", "unknown", "lateral", "lateral", "PA"]
    assert table["split"].to_list() == ["train"] * 2 + ["val"] * 2 + ["test"] * 2 + ["train"] * 2
    assert table.loc[1, ["meta_height", "meta_width"]].to_list() == [3056, 2545]
    assert source.codes.to_numpy().tolist() == expected(found)
    known = source.codes.isin([0, 1])
    assert (table[list(LABELS)].where(known) == source.codes.where(known)).to_numpy()[known].all()
    assert table[list(LABELS)].isna().to_numpy().tolist() == (source.codes == -1).to_numpy().tolist()


def test_negbio_labels_are_read_on_demand(tmp_path):
    found = tables()
    source = open_source("mimic", write(tmp_path, found), labeler="negbio")
    source.read()
    assert source.codes.to_numpy().tolist() == expected(found, "negbio") != expected(found)
    with pytest.raises(InputError, match="labeler is 'nlp'; give --labeler chexpert, negbio"):
        open_source("mimic", tmp_path, labeler="nlp")


def test_policies_are_per_label(tmp_path):
    found = tables(12)
    source = open_source("mimic", write(tmp_path, found), uncertain={"Edema": "one"}, blank={"Fracture": "ignore"})
    table = source.read().table
    for label in LABELS:
        meaning = {1: 1.0, 0: 0.0, -1: 1.0 if label == "Edema" else np.nan, -2: np.nan if label == "Fracture" else 0.0}
        np.testing.assert_array_equal(table[label], source.codes[label].map(meaning).astype(np.float32))


def test_the_newest_release_is_read_where_there_are_several(tmp_path):
    old, new = tables(), tables(seed=1)
    write(write(tmp_path, old), {"chexpert": new["chexpert"], "metadata": new["metadata"]}, "2.1.0", ".csv")
    (tmp_path / "mimic-cxr-2.1.0-chexpert.csv.sha256").touch()
    source = open_source("mimic", tmp_path)
    source.read()
    assert source.codes.to_numpy().tolist() == expected(new) != expected(old)


def test_a_study_without_labels_is_kept_with_every_label_unknown(tmp_path):
    found = tables()
    found["chexpert"] = found["chexpert"].drop(index=1)
    source = open_source("mimic", write(tmp_path, found))
    table = source.read().table
    assert (source.codes[2:4] == -3).all(axis=None)
    assert table.loc[2:3, list(LABELS)].isna().all(axis=None)
    assert not (source.codes.drop(index=[2, 3]) == -3).any(axis=None)
    assert source.report["studies that mimic-cxr-2.0.0-chexpert.csv.gz does not name, labels unknown"] == ["s50414268"]


def test_a_part_of_the_tree_is_normal_and_codes_stay_with_their_images(tmp_path):
    found = tables()
    root = write(tmp_path, found)
    gone = root / "files/p10/p10000033/s50414268/00000002-00000002.jpg"
    gone.unlink()
    source = open_source("mimic", root)
    assert len(source.read()) == 7
    assert source.report["left out, image file not there"] == [str(gone.relative_to(root))]
    rows = expected(found)
    assert source.codes.to_numpy().tolist() == rows[:2] + rows[3:]


def test_an_image_that_the_split_does_not_name_is_left_out_and_no_split_is_made_up(tmp_path):
    found = tables()
    rows = expected(found)
    found["split"] = found["split"].drop(index=0)
    source = open_source("mimic", write(tmp_path, found))
    assert len(source.read()) == 7
    assert source.codes.to_numpy().tolist() == rows[1:]
    assert source.report["left out, not in the split table"] == ["00000000-00000000"]
    (tmp_path / "mimic-cxr-2.0.0-split.csv.gz").unlink()
    source = open_source("mimic", tmp_path)
    assert set(source.read().table["split"]) == {"none"}
    assert source.report["no table of the official split (mimic-cxr-2.*-split.csv) in"] == [str(tmp_path)]


def test_another_label_set_gets_columns_only_for_what_mimic_labels(tmp_path):
    labels = LabelSet.load("cxr_lt_2024_task1")
    source = open_source("mimic", write(tmp_path, tables()), labels)
    manifest = source.read()
    assert manifest.labels == list(source.codes.columns) == [name for name in labels.names if name in LABELS]
    with pytest.raises(InputError, match="no label of source 'mimic' is a label of set 'other'"):
        open_source("mimic", tmp_path, LabelSet.from_dict({"name": "other", "labels": ["Goiter"]})).read()


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("metadata", {"dicom_id": "00000000-00000000"}, r"metadata\.csv\.gz: 'dicom_id' must be unique"),
        ("metadata", {"subject_id": " "}, r"metadata\.csv\.gz: column 'subject_id' is empty in 1 rows, first line 3"),
        ("split", {"split": "dev"}, r"split\.csv\.gz: split has dev; known are train, validate, test"),
        ("split", {"split": "test"}, "patients in two splits: 10000032"),
        ("chexpert", {"Edema": "2.0"}, r"chexpert\.csv\.gz: label column 'Edema' holds 2\.0, first in line 3"),
        ("chexpert", {"study_id": "50414267"}, r"chexpert\.csv\.gz: 'study_id' must be unique.*s50414267"),
    ],
)
def test_what_cannot_be_is_named(tmp_path, name, change, message):
    found = tables()
    root = write(tmp_path, found)
    table = found[name].astype("str")
    for column, cell in change.items():
        table.loc[1, column] = cell
    table.to_csv(root / f"mimic-cxr-2.0.0-{name}.csv.gz", index=False)
    with pytest.raises(InputError, match=message):
        open_source("mimic", root).read()


def test_missing_tables_columns_and_images_are_named(tmp_path):
    with pytest.raises(InputError, match=r"no table of metadata in .*; looked for mimic-cxr-2\.\*-metadata\.csv and"):
        open_source("mimic", tmp_path).read()
    found = tables()
    write(tmp_path, found, images=False)
    with pytest.raises(
        InputError, match=r"none of the 8 images .*; looked for .*/files/p10/p10000032/s50414267/00000000"
    ):
        open_source("mimic", tmp_path).read()
    found["negbio"] = found["negbio"].rename(columns={"Edema": "Oedema"})
    write(tmp_path, found)
    with pytest.raises(InputError, match=r"negbio\.csv\.gz lacks the columns Edema; it has subject_id, study_id, Atel"):
        open_source("mimic", tmp_path, labeler="negbio").read()
    (tmp_path / "mimic-cxr-2.0.0-metadata.csv.gz").write_bytes(gzip.compress(b"x" * 9999)[:20])
    with pytest.raises(InputError, match=r"metadata\.csv\.gz cannot be read as a table"):
        open_source("mimic", tmp_path).read()


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=6, deadline=None, derandomize=True)
def test_order_of_columns_and_rows_never_swaps_labels(tmp_path_factory, seed):
    rng = np.random.default_rng(seed)
    found = tables()
    shuffled = {
        name: table.iloc[rng.permutation(len(table)), rng.permutation(table.shape[1])] for name, table in found.items()
    }
    source = open_source("mimic", write(tmp_path_factory.mktemp("tree"), shuffled))
    table = source.read().table
    codes = source.codes.set_index(table["image_id"]).loc[found["metadata"]["dicom_id"], list(LABELS)]
    assert codes.to_numpy().tolist() == expected(found)
    splits = table.set_index("image_id").loc[found["split"]["dicom_id"], "split"].to_list()
    assert splits == found["split"]["split"].replace("validate", "val").to_list()


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    root = tmp_path_factory.mktemp("drawn")
    for layout in ("mimic", "cxr-lt-2024"):
        phantom(layout, root / layout, studies=60, size=32, workers=0)
    return root


def test_the_phantom_has_the_real_headers(drawn):
    headers = {"metadata": METADATA, "split": ["dicom_id", "study_id", "subject_id", "split"]}
    headers |= {labeler: ["subject_id", "study_id", *LABELS] for labeler in ("chexpert", "negbio")}
    for name, header in headers.items():
        file = drawn / "mimic" / f"mimic-cxr-2.0.0-{name}.csv.gz"
        assert pd.read_csv(file, nrows=0).columns.to_list() == header


def test_the_phantom_is_the_same_in_mimics_and_in_cxr_lts_tables_but_for_what_reports_leave_open(drawn):
    source = open_source("mimic", drawn / "mimic")
    table = source.read().table
    other = open_source("cxr-lt-2024", drawn / "cxr-lt-2024").read().table
    ids = ["patient_id", "study_id", "image_id", "view", "path", "split"]
    order = other.set_index("image_id", drop=False).loc[table["image_id"]].reset_index(drop=True)
    pd.testing.assert_frame_equal(table[ids], order[ids])
    for label in ("Edema", "Pleural Effusion", "Support Devices", "Cardiomegaly"):
        assert (order.loc[source.codes[label] == 1, label] == 1).all()
        assert (order.loc[source.codes[label].isin([0, -2]), label] == 0).all()
    counts = codes_table(source.codes).sum()
    assert (counts[["present", "absent", "uncertain", "blank"]] > 0.02 * counts.sum()).all()
    again = open_source("mimic", drawn / "mimic", labeler="negbio")
    again.read()
    assert (again.codes.to_numpy() != source.codes.to_numpy()).any()


def test_a_quarter_of_the_full_tables_is_read_in_a_second_or_two(tmp_path, monkeypatch):
    """94,277 images of 56,958 studies. The limit for all of MIMIC, 20 s, leaves 5 s; it takes one."""
    studies = np.sort(
        np.concatenate([np.arange(56_958), np.random.default_rng(0).integers(0, 56_958, 94_277 - 56_958)])
    )
    metadata, split = [",".join(METADATA)], ["dicom_id,study_id,subject_id,split"]
    for row, study in enumerate(studies.tolist()):
        image, subject = f"{row:08x}-dc0b34ff-{row:08x}-7bc16630-4e384014", 10_000_000 + study * 2 // 7
        metadata.append(f"{image},{subject},{study},CHEST (PA AND LAT),PA,3056,2544,21800506,213014.531,CHEST,PA,Erect")
        split.append(f"{image},{study},{subject},train")
    cells = "1.0,,0.0,,,-1.0,,,,,1.0,,,"
    labels = [f"{10_000_000 + study * 2 // 7},{study},{cells}" for study in range(56_958)]
    for name, lines in {"metadata": metadata, "split": split, "chexpert": [LABEL_HEADER, *labels]}.items():
        (tmp_path / f"mimic-cxr-2.0.0-{name}.csv").write_text("\n".join(lines) + "\n")
    monkeypatch.setattr(base, "files_present", lambda root, paths: pd.Series(True, index=paths.index))
    source, start = open_source("mimic", tmp_path), time.process_time()
    assert len(source.read()) == 94_277
    assert time.process_time() - start < 5
    assert codes_table(source.codes)["present"].to_dict() == dict.fromkeys(LABELS, 0) | {
        "Atelectasis": 94_277,
        "Pleural Other": 94_277,
    }
