import pandas as pd
import pytest

from longview import InputError
from longview.data.phantom import phantom
from longview.data.sources import open_source
from longview.labels import LabelSet


@pytest.mark.parametrize("layout", ["nih", "cxr-lt-2024"])
def test_it_is_read_with_the_parser_of_its_layout(layout, tmp_path):
    phantom(layout, tmp_path / "raw", studies=9, size=32, workers=0)
    found = open_source("phantom", tmp_path / "raw").read().table
    same = open_source(layout, tmp_path / "raw", LabelSet.load("phantom")).read().table
    assert set(found["source"]) == {"phantom"}
    pd.testing.assert_frame_equal(found.drop(columns="source"), same.drop(columns="source"))


def test_a_folder_that_is_no_phantom_is_named(tmp_path):
    with pytest.raises(InputError, match=r"is no phantom: it lacks phantom\.json"):
        open_source("phantom", tmp_path).read()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"settings": ', "damaged"),
        ("[]", "damaged"),
        ('{"settings": {}}', "damaged"),
        ('{"settings": {"layout": "x"}}', "layout is 'x'"),
    ],
)
def test_a_damaged_mark_is_named(tmp_path, text, message):
    (tmp_path / "phantom.json").write_text(text)
    with pytest.raises(InputError, match=rf"phantom\.json.*{message}"):
        open_source("phantom", tmp_path).read()
