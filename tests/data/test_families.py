"""Sources that share patients: no patient and no image of a family in two splits of a run's stores."""

import logging

import pandas as pd
import pytest

from longview import InputError
from longview.data.families import FAMILIES, check_apart, check_once, family_of
from longview.data.sources import SOURCES


def table(source, **splits):
    """One film per patient, `patient=split`; the image is called like the patient."""
    patients = list(splits)
    ids = {"patient_id": patients, "image_id": [f"{source}-{patient}" for patient in patients]}
    return pd.DataFrame({"source": source, **ids, "split": list(splits.values())}, dtype="str")


def test_every_source_is_in_one_family():
    members = [source for sources in FAMILIES.values() for source in sources]
    assert len(members) == len(set(members))
    assert family_of("rsna") == family_of("nih") == "nih"
    assert family_of("chexpert") == "chexpert" and "chexpert" in {*SOURCES, "chexpert"}


@pytest.mark.parametrize("family", FAMILIES)
def test_a_patient_in_two_splits_of_two_sources_of_a_family_is_named_with_both_stores(family):
    first, second = FAMILIES[family][:2]
    tables = {"data/a": table(first, p1="train", p2="val"), "data/b": table(second, p1="train", p2="train", p3="test")}
    message = rf"1 patients .*'p2' of {'/'.join(sorted([first, second]))}: val in data/a; train in data/b\. .*use one"
    with pytest.raises(InputError, match=message):
        check_apart(tables)


def test_two_stores_of_one_source_are_told_of_their_seed():
    with pytest.raises(InputError, match=r"2 patients .*\('p1', 'p2'\).*same --seed"):
        check_apart({"a": table("nih", p1="train", p2="val"), "b": table("nih", p1="val", p2="train")})


def test_an_image_in_two_splits_is_found_though_the_sources_name_its_patient_otherwise():
    mimic, challenge = table("mimic", p10="train"), table("cxr-lt-2024", s10="test")
    mimic["image_id"] = challenge["image_id"] = "02aa"
    with pytest.raises(InputError, match=r"1 images .*'02aa' of cxr-lt-2024/mimic: train in a; test in b"):
        check_apart({"a": mimic, "b": challenge})


def test_the_same_splits_unassigned_films_and_other_families_are_fine(caplog):
    with caplog.at_level(logging.WARNING):
        check_apart({"a": table("nih", p1="train", p2="val"), "b": table("nih-google", p1="train", p2="val")})
        check_apart({"a": table("nih", p1="train"), "b": table("nih", p1="none")})
        check_apart({"a": table("nih", p1="train"), "b": table("chexpert", p1="test")})
        check_apart({"a": table("nih", p1="train")})
    assert not caplog.text


def test_films_of_rsna_that_name_no_patient_of_nih_are_warned_of(caplog):
    nih = table("nih", **{"00000001": "train"})
    with caplog.at_level(logging.WARNING):
        check_apart({"n": nih, "r": table("rsna", **{"00000001": "train"})})
        check_apart({"c": table("chexpert", p="train"), "r": table("rsna", **{"0a1b-2c": "test"})})
    assert not caplog.text
    with caplog.at_level(logging.WARNING):
        check_apart({"n": nih, "r": table("rsna", **{"0a1b-2c": "test"})})
    assert "r: 1 films of rsna" in caplog.text and "mappings_2018.json" in caplog.text


def test_a_store_beside_one_that_borrows_its_films_is_refused_and_films_of_two_sources_are_counted(tmp_path, caplog):
    tables = {"st/nih": table("nih", p1="train"), "ps/nih": table("nih", p1="train")}
    with pytest.raises(InputError, match=r"st/nih and ps/nih show the same films, of .*/images, which would count"):
        check_once(tables, dict.fromkeys(tables, tmp_path / "images"))
    with pytest.raises(InputError, match="show the same films"):
        check_once(tables, {"st/nih": tmp_path / "images", "ps/nih": tmp_path / "other/../images"})
    mimic, challenge = table("mimic", p1="train", p2="val"), table("cxr-lt-2024", p1="train", p3="val")
    mimic["image_id"], challenge["image_id"] = ["01", "02"], ["01", "03"]
    with caplog.at_level(logging.WARNING):
        check_once({"a": mimic, "b": challenge}, {"a": tmp_path / "a", "b": tmp_path / "b"})
    assert "1 films stand in more than one of a, b, such as '01'" in caplog.text
    caplog.clear()
    check_once({"a": mimic, "b": table("chexpert", p1="train")}, {"a": tmp_path / "a", "b": tmp_path / "b"})
    assert not caplog.records
