"""Manifests: every rule, ids that look like other things, round trips, and disks that fill up."""

import errno
import gzip

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longview import InputError
from longview.data.manifest import ID_COLUMNS, Manifest, label_columns, read_table, write_table

STRANGE_IDS = [
    "00000001",
    "3.24E+38",
    "nan",
    "NA",
    "None",
    "1e5",
    "-0",
    "True",
    " a ",
    "ä,;\"'",
    "2020-01-01",
    "#N/A",
]


def table(rows=3, **columns):
    """A correct manifest of `rows` images of as many patients, changed by `columns`."""
    number = [str(row) for row in range(rows)]
    base = {
        "source": ["test"] * rows,
        "patient_id": [f"p{n}" for n in number],
        "study_id": [f"s{n}" for n in number],
        "image_id": [f"i{n}" for n in number],
        "view": ["PA"] * rows,
        "path": [f"{n}.png" for n in number],
        "split": ["train"] * rows,
        "Mass": np.array([0, 1, np.nan] * rows, np.float32)[:rows],
        "Nodule": np.array([0.25, 1, 0] * rows, np.float32)[:rows],
        "meta_age": [50.0, np.nan, 7.5] * (rows // 3) + [1.0] * (rows % 3),
    }
    result = pd.DataFrame(base | columns)
    texts = [column for column in ID_COLUMNS if column not in columns]
    return result.astype(dict.fromkeys(texts, "str"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_id": ["a", "a", "b"]}, "image ids stand twice: a"),
        ({"study_id": ["s", "s", "t"]}, "studies of two patients: s"),
        ({"patient_id": ["p", "p", "q"], "split": ["train", "val", "val"]}, "patients in two splits: p"),
        ({"split": ["train", "valid", "test"]}, "split has valid; allowed: train, val, test, none"),
        ({"view": ["PA", "LL", "AP"]}, "view has LL; allowed: PA, AP, lateral, unknown"),
        ({"Mass": [0.0, 1.5, -1.0]}, r"label 'Mass' has 1.5 for image 'i1' and is wrong in 2 rows"),
        ({"Mass": [0.0, np.inf, 1.0]}, "label 'Mass' has inf"),
        ({"Mass": [0, 1, 0]}, "label 'Mass' is int64, not float"),
        ({"patient_id": ["p", "", "q"]}, "'patient_id' has empty cells"),
        ({"patient_id": ["p", None, "q"]}, "'patient_id' has empty cells"),
        ({"patient_id": [1, 2, 3]}, "'patient_id' must be text, not int64"),
        ({3: [0.0, 0.0, 0.0]}, "column names must be text, found 3"),
    ],
)
def test_a_broken_rule_is_refused_by_name(changes, message):
    with pytest.raises(InputError, match=message):
        Manifest(table().assign(**changes) if 3 not in changes else table().assign(x=0.0).rename(columns={"x": 3}))


def test_missing_and_double_columns_are_refused():
    with pytest.raises(InputError, match=r"lacks the columns study_id, split; it has source"):
        Manifest(table().drop(columns=["study_id", "split"]))
    with pytest.raises(InputError, match="columns stand twice: Mass"):
        Manifest(pd.concat([table(), table()[["Mass"]]], axis=1))
    with pytest.raises(InputError, match="no rows"):
        Manifest(table().iloc[:0])


def test_an_unassigned_image_of_a_patient_with_a_split_is_no_leak():
    assert len(Manifest(table(patient_id=["p", "p", "q"], split=["train", "none", "val"]))) == 3


def test_labels_are_all_columns_but_ids_and_meta():
    manifest = Manifest(table())
    assert manifest.labels == ["Mass", "Nodule"]
    assert label_columns(["split", "meta_x", "Edema"]) == ["Edema"]


def test_targets_come_by_name_and_an_unknown_label_is_nan():
    targets = Manifest(table()).targets(["Nodule", "Edema", "Mass"])
    assert targets.dtype == np.float32
    np.testing.assert_array_equal(targets, [[0.25, np.nan, 0], [1, np.nan, 1], [0, np.nan, np.nan]])


@pytest.mark.parametrize("ending", ["parquet", "csv"])
def test_what_is_written_is_what_is_read(tmp_path, ending):
    rows = len(STRANGE_IDS)
    manifest = Manifest(table(rows, image_id=STRANGE_IDS, patient_id=STRANGE_IDS, path=STRANGE_IDS))
    manifest.write(tmp_path / f"m.{ending}")
    again = Manifest.read(tmp_path / f"m.{ending}")
    assert again.table["image_id"].tolist() == STRANGE_IDS
    pd.testing.assert_frame_equal(again.table, manifest.table)


@settings(deadline=None, max_examples=25)
@given(
    ids=st.lists(
        st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), min_size=1),
        min_size=1,
        max_size=4,
        unique=True,
    ),
    values=st.lists(st.one_of(st.none(), st.floats(0, 1, width=32)), min_size=4, max_size=4),
)
@pytest.mark.parametrize("ending", ["parquet", "csv"])
def test_any_printable_text_survives_as_id_and_any_value_as_label(tmp_path_factory, ending, ids, values):
    file = tmp_path_factory.mktemp("round") / f"m.{ending}"
    labels = np.array([np.nan if value is None else value for value in values], np.float32)[: len(ids)]
    manifest = Manifest(table(len(ids), image_id=ids, study_id=ids, Mass=labels).drop(columns="meta_age"))
    manifest.write(file)
    pd.testing.assert_frame_equal(Manifest.read(file).table, manifest.table)


def test_a_folder_stands_for_the_manifest_inside(tmp_path):
    Manifest(table()).write(tmp_path / "manifest.parquet")
    assert len(Manifest.read(tmp_path)) == 3


def test_ids_of_other_hands_are_text_and_empty_label_cells_are_nan(tmp_path):
    file = tmp_path / "t.csv"
    file.write_text(
        "ImageID,PatientID,Patient ID,patientId,subject_id,COVID,MRN\n01,3.24E+38,NA,007,,,0012\nx,1,2,3,4,1,5\n"
    )
    read = read_table(file, text=["MRN"])
    assert read.iloc[0].tolist()[:5] == ["01", "3.24E+38", "NA", "007", ""]
    assert np.isnan(read["COVID"][0])
    assert read["MRN"].tolist() == ["0012", "5"]


@pytest.mark.parametrize("blank", ["", "NA", "NaN", "nan", "null"])
def test_every_way_to_leave_a_label_empty_is_nan(tmp_path, blank):
    file = tmp_path / "m.csv"
    Manifest(table()).write(file)
    text = file.read_text()
    assert ",,0.0" in text
    file.write_text(text.replace(",,0.0", f",{blank},0.0"))
    assert np.isnan(Manifest.read(file).table["Mass"][2])


def test_tables_may_be_tab_separated_zipped_and_begin_with_a_byte_order_mark(tmp_path):
    text = "image_id\tMass\n01\t1\n"
    (tmp_path / "t.tsv").write_text(text)
    (tmp_path / "t.csv.gz").write_bytes(gzip.compress(text.replace("\t", ",").encode("utf-8-sig")))
    for name in ("t.tsv", "t.csv.gz"):
        read = read_table(tmp_path / name)
        assert read["image_id"].tolist() == ["01"]
        assert read["Mass"].tolist() == [1]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("no.csv", None, "no.csv does not exist"),
        ("t.xlsx", b"x", "neither .parquet, .csv nor .tsv"),
        ("t.csv", b"", "cannot be read as a table"),
        ("t.csv", b"image_id,Mass\n", "has no rows"),
        ("t.csv", b'image_id,Mass\na,1\nb,1,2,3\n"', "cannot be read as a table"),
        ("t.csv", b"image_id,Mass,Mass\na,1,0\n", "has the column Mass twice"),
        ("t.csv", "image_id,Mass\n\u00e9,1\n".encode("latin-1"), r"it is not UTF-8.*Latin-1.*iconv -f WINDOWS-1252"),
        ("t.csv", b"image_id,Mass\n" + b"a,1\n" * 99999 + b"\xe9,1\n", r"it is not UTF-8.*Latin-1"),
        ("t.csv", "image_id,Mass\na,1\n".encode("utf-16"), r"it is not UTF-8.*UTF-16.*iconv -f UTF-16"),
        ("t.csv", b"image_id;Mass\na;1\n", r"separated by ';'; save it with commas"),
        ("t.tsv", b"image_id,Mass\na,1\n", r"separated by ','; save it with tabs"),
        ("t.csv", b"image_id,Mass\na,1,\nb,0,\n", r"more cells \(3\) than its header \(2\); remove the commas"),
        ("t.csv", b"image_id,Mass\n1,1,\n2,0,\n", r"more cells \(3\) than its header \(2\); remove the commas"),
        ("t.csv", b"image_id,Mass\na,1\nb,0,\n", "cannot be read as a table.*line 3"),
        # mtime: gzip writes the second into the bytes, and pytest-xdist refuses names that differ between processes
        ("t.csv.gz", gzip.compress(b"image_id,Mass\na,1\n" * 9, mtime=0)[:-12], "cannot be read as a table"),
        ("t.parquet", b"PAR1 and no more", "cannot be read as a table"),
    ],
)
def test_a_file_that_is_no_table_is_refused_by_name(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        read_table(tmp_path / name)
    assert name in str(caught.value)


def test_a_text_among_the_labels_is_refused_with_its_column(tmp_path):
    write_table(table().assign(Report=["a", "b", "c"]), tmp_path / "m.csv")
    with pytest.raises(InputError, match=r"m.csv: column 'Report' holds values that are not numbers"):
        Manifest.read(tmp_path / "m.csv")


def test_ids_that_were_saved_as_numbers_are_text_where_nothing_was_lost(tmp_path):
    write_table(table().assign(patient_id=[1, 2, 3]), tmp_path / "m.parquet")
    assert Manifest.read(tmp_path / "m.parquet").table["patient_id"].tolist() == ["1", "2", "3"]
    write_table(table().assign(patient_id=[3.24e38, 3.24e38, 1.0]), tmp_path / "m.parquet")
    with pytest.raises(InputError, match="'patient_id' holds floating-point numbers"):
        Manifest.read(tmp_path / "m.parquet")


def test_a_table_that_was_changed_for_the_worse_is_not_written(tmp_path):
    manifest = Manifest(table())
    manifest.table.loc[0, "Mass"] = 2
    with pytest.raises(InputError, match=r"has 2\.0"):
        manifest.write(tmp_path / "m.parquet")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("ending", "writer"), [("parquet", "to_parquet"), ("csv", "to_csv")])
def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, ending, writer):
    file = tmp_path / f"m.{ending}"
    Manifest(table()).write(file)
    before = file.read_bytes()

    def full(self, path, **options):
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(pd.DataFrame, writer, full)
    with pytest.raises(OSError, match="No space left"):
        Manifest(table(2)).write(file)
    assert file.read_bytes() == before
    assert list(tmp_path.iterdir()) == [file]


def test_a_table_is_written_under_known_endings_only(tmp_path):
    with pytest.raises(InputError, match=r"must end in .parquet or .csv"):
        write_table(table(), tmp_path / "m.txt")
