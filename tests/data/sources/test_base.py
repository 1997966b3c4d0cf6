"""What all sources share, and how they are opened."""

import pandas as pd
import pytest

from longview import VIEWS, InputError
from longview.data.sources import SOURCES, open_source, source_class
from longview.data.sources.base import check_unique, files_present, read_text, view_of

PUBLISHED = {"nih", "covid-chestxray", "cxr-lt-2024", "cxr-lt-2026"}


@pytest.mark.parametrize("name", SOURCES)
def test_every_source_is_named_as_it_is_registered_and_has_a_data_sheet(name):
    source = source_class(name)
    assert source.name == name
    facts = ["**Labels**", "**Split**"]
    if name in PUBLISHED:
        facts += ["**Size**", "**Licence**", "**Ids**", "**Quirks**", "**Cite**"]
    for fact in facts:
        assert fact in source.__doc__


def test_an_unknown_source_is_refused_with_those_that_exist(tmp_path):
    with pytest.raises(InputError, match="unknown source 'nhi'; known: nih, covid-chestxray"):
        open_source("nhi", tmp_path)


def test_an_option_that_a_source_does_not_take_is_refused_with_those_it_does(tmp_path):
    with pytest.raises(InputError, match="'nih' takes no option 'table'; its options are: unknown"):
        open_source("nih", tmp_path, table="t.csv")
    with pytest.raises(InputError, match=r"'folder' takes no option 'task'; its options are: \(none\)"):
        open_source("folder", tmp_path, task=1)


def test_opening_a_source_touches_no_disk():
    assert open_source("nih", "/nowhere").root.name == "nowhere"


@pytest.mark.parametrize("name", [name for name in SOURCES if name != "table"])
def test_a_missing_root_is_named(name, tmp_path):
    with pytest.raises(InputError, match=f"{tmp_path / 'nowhere'} of source '{name}' is not a folder"):
        open_source(name, tmp_path / "nowhere").read()


@pytest.mark.parametrize(
    ("name", "table"),
    [
        ("nih", "Data_Entry_2017_v2020.csv, Data_Entry_2017.csv"),
        ("covid-chestxray", "metadata.csv"),
        ("cxr-lt-2024", "train_labeled.csv, train.csv, development_labeled_task1.csv"),
        ("cxr-lt-2026", "CXRLT_2026_training.csv"),
    ],
)
def test_a_root_without_a_table_says_which_names_were_looked_for(name, table, tmp_path):
    with pytest.raises(InputError, match=table):
        open_source(name, tmp_path).read()


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("nih", "Data_Entry_2017.csv"),
        ("covid-chestxray", "metadata.csv"),
        ("cxr-lt-2024", "train_labeled.csv"),
        ("cxr-lt-2026", "CXRLT_2026_training.csv"),
    ],
)
def test_an_empty_table_is_named(name, file, tmp_path):
    (tmp_path / file).touch()
    with pytest.raises(InputError, match=f"{file} cannot be read as a"):
        open_source(name, tmp_path).read()


@pytest.mark.parametrize(
    ("code", "view"),
    [("PA", "PA"), ("PA LLD", "PA"), ("postero-anterior", "PA")]
    + [("AP", "AP"), ("AP Supine", "AP"), ("AP AXIAL", "AP"), ("AP_horizontal", "AP"), ("APS", "AP")]
    + [(code, "lateral") for code in ("LATERAL", "LL", "L", "l", "XTABLE LATERAL", "SWIMMERS")]
    + [(code, "unknown") for code in ("", "LAO", "RAO", "LPO", "PAIN", "frontal")],
)
def test_view_position_codes(code, view):
    assert view_of(code) == view
    assert view in VIEWS


def test_files_are_found_in_the_folders_that_paths_name(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "1.png").touch()
    (tmp_path / "2.png").touch()
    paths = pd.Series(["a/b/1.png", "a/b/2.png", "2.png", "c/1.png", "2.png/1.png"], index=[9, 8, 7, 6, 5])
    assert files_present(tmp_path, paths).to_dict() == {9: True, 8: False, 7: True, 6: False, 5: False}


def test_text_tables_keep_leading_zeros_and_survive_byte_order_marks(tmp_path):
    file = tmp_path / "t.csv"
    file.write_text("\ufeffid,age\n007,058Y\n008,NA\n", encoding="utf-8")
    assert read_text(file, ["id"]).to_dict("list") == {"id": ["007", "008"], "age": ["058Y", "NA"]}
    with pytest.raises(InputError, match="lacks the columns view; it has id, age"):
        read_text(file, ["id", "view"])
    with pytest.raises(InputError, match="'id' must be unique, but 1 values stand twice: 007"):
        check_unique(pd.Series(["007", "007"], name="id"), file)
    file.write_text("id,age\n007,058Y,\n")
    with pytest.raises(InputError, match=r"more cells \(3\) than its header \(2\)"):
        read_text(file, ["id"])
    file.write_text("id,age\n")
    with pytest.raises(InputError, match="no rows"):
        read_text(file, ["id"])


def test_paths_of_windows_are_told_from_a_wrong_root(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.png").touch()
    (tmp_path / "t.csv").write_text("path,patient_id\na\\1.png,1\n")
    with pytest.raises(InputError, match=r"none of the 1 images.*Windows' \\; write them with /"):
        open_source("table", tmp_path, table="t.csv").read()
    (tmp_path / "t.csv").write_text("path,patient_id\nb/1.png,1\n")
    with pytest.raises(InputError, match=r"the right --root\?"):
        open_source("table", tmp_path, table="t.csv").read()


def test_a_split_of_which_most_files_are_missing_is_named_and_paths_of_windows_too(tmp_path, caplog):
    """Windows' paths in the rows of one split: without a word, the split would vanish."""
    lines = ["path,patient_id,split"]
    for split, sign, files in (("train", "\\", 6), ("val", "/", 4), ("test", "/", 4)):
        (tmp_path / split).mkdir()
        for number in range(files):
            (tmp_path / split / f"{number}.png").touch()
            lines.append(f"{split}{sign}{number}.png,{split}{number},{split}")
    (tmp_path / "t.csv").write_text("\n".join(lines))
    (tmp_path / "val" / "0.png").unlink()
    (tmp_path / "val" / "1.png").unlink()  # half of them: nothing to shout about
    source = open_source("table", tmp_path, table="t.csv")
    assert len(source.read()) == 6
    assert "train: 0 of 6 there" in caplog.text
    assert "val:" not in caplog.text and "test:" not in caplog.text
    assert r"paths with Windows' \; write them with /: 6 (train\0.png" in caplog.text
    (tmp_path / "val" / "2.png").unlink()
    caplog.clear()
    source.read()
    assert "train: 0 of 6 there, val: 1 of 4 there" in caplog.text


def test_without_windows_paths_no_hint_is_given(tmp_path, caplog):
    (tmp_path / "t.csv").write_text("path,patient_id\na.png,1\nb.png,2\n")
    (tmp_path / "a.png").touch()
    open_source("table", tmp_path, table="t.csv").read()
    assert "image file not there: 1 (b.png)" in caplog.text
    assert "Windows" not in caplog.text and "of 2 there" not in caplog.text
