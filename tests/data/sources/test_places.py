"""Where images are found."""

import pandas as pd
import pytest

from longview.data.sources import open_source
from longview.data.sources.places import find_images


@pytest.fixture
def source(tmp_path):
    return open_source("vinbig", tmp_path)


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def found(source, *ids, **options):
    return find_images(source, pd.Series(ids, dtype="str"), "train/{}.dicom", **options).to_list()


def test_the_own_ending_goes_before_copies_and_the_first_folder_before_later_ones(source, tmp_path):
    touch(tmp_path, "a/x.png", "b/x.dicom", "c/x.dicom", "a/y.PNG", "b/y.jpg", "z.dicom", "a/b/w.dicom", "notes/x.txt")
    assert found(source, "x", "y", "z", "w") == ["b/x.dicom", "a/y.PNG", "z.dicom", "a/b/w.dicom"]
    assert source.report == {"images with another ending than the data set's": ["a/y.PNG"]}


def test_one_that_lies_nowhere_too_deep_or_hidden_gets_its_official_place(source, tmp_path):
    touch(tmp_path, "a/b/c/deep.dicom", ".trash/gone.dicom")
    assert found(source, "deep", "gone") == ["train/deep.dicom", "train/gone.dicom"]
    assert source.report == {}


def test_names_that_share_a_key_are_one_image(source, tmp_path):
    touch(tmp_path, "train/0007.dicom")
    assert found(source, "7", key=lambda name: name.lstrip("0")) == ["train/0007.dicom"]


def test_a_dot_in_a_name_is_no_ending(source, tmp_path):
    touch(tmp_path, "train/1.2.840.dicom")
    assert found(source, "1.2.840") == ["train/1.2.840.dicom"]
