"""Names of stores in figures: short, and never two alike."""

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
from hypothesis import given, settings
from hypothesis import strategies as st

from longview.data.store_names import store_names


@dataclass
class Named:
    path: Path
    sources: tuple[str, ...]

    @property
    def manifest(self):
        return SimpleNamespace(table=pd.DataFrame({"source": list(self.sources)}))


def names(*stores, sizes=None):
    made = [Named(Path(path), sources) for path, *sources in stores]
    return store_names(made, sizes or [1] * len(made))


def test_a_store_is_called_by_its_source():
    assert names(("/d/x", "nih"), ("/d/y", "mimic", "a")) == {0: "nih", 1: "a+mimic"}


def test_one_store_with_studies_needs_no_name():
    assert names(("/d/x", "nih")) == {}
    assert names(("/d/x", "nih"), ("/d/y", "mimic"), sizes=[3, 0]) == {}
    assert names(("/d/x", "nih"), ("/d/y", "mimic"), ("/d/z", "rsna"), sizes=[3, 0, 2]) == {0: "nih", 2: "rsna"}


def test_two_of_a_source_are_called_by_as_much_of_their_path_as_tells_them_apart():
    assert names(("/d/x", "nih"), ("/d/y", "nih"), ("/d/z", "mimic")) == {0: "x", 1: "y", 2: "mimic"}
    assert names(("/old/nih", "nih"), ("/new/nih", "nih")) == {0: "old-nih", 1: "new-nih"}


def test_no_store_takes_the_name_of_a_group_of_labels():
    assert names(("/d/x", "tail"), ("/d/y", "nih")) == {0: "x", 1: "nih"}


part = st.sampled_from(["a", "b", "head"])


@given(st.lists(st.tuples(st.lists(part, min_size=1, max_size=3), part), min_size=2, max_size=4))
@settings(deadline=None, derandomize=True, max_examples=100)
def test_no_two_stores_ever_have_the_same_name(stores):
    found = names(*(("/" + "/".join(path), source) for path, source in stores))
    assert len(set(found.values())) == len(stores)
