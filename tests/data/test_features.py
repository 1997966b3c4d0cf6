"""Files of features: every bit, the order in memory, and what is damaged."""

import json
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from longview import InputError
from longview.data.features import FeatureFile, FeatureLayout, FeatureWriter, describe


def write(path, features, pieces=1):
    layout = FeatureLayout.of(features)
    writer = FeatureWriter(path, layout, len(features))
    writer.begin()
    with path.open("r+b") as file:
        for places in torch.arange(len(features)).chunk(pieces)[::-1]:
            writer.write(file, int(places[0]), features[places[0] : places[-1] + 1])
    describe(path, layout, {"encoder": "none"})
    return FeatureFile(path)


def read(file, places):
    room = torch.empty((len(places), *file.layout.stored_shape), dtype=file.layout.torch_dtype)
    return file.read(np.array(places), room)


@given(
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16, torch.float64]),
    shape=st.tuples(*[st.integers(1, 4)] * 4),
    last=st.booleans(),
    data=st.data(),
)
@settings(deadline=None, max_examples=40)
def test_what_was_written_is_read_bit_for_bit_and_laid_out_alike(dtype, shape, last, data, tmp_path_factory):
    features = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    features[0, 0, 0, 0] = float("nan")
    if last:
        features = features.to(memory_format=torch.channels_last)
    file = write(tmp_path_factory.mktemp("f") / "key.npy", features, data.draw(st.integers(1, 3)))
    assert len(file) == len(features)
    places = data.draw(st.lists(st.integers(0, len(features) - 1), min_size=1))
    found = read(file, places)
    assert found.dtype == dtype
    assert found.is_contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)
    bits = {2: torch.int16, 4: torch.int32, 8: torch.int64}[dtype.itemsize]
    assert torch.equal(found.contiguous().view(bits), features[places].contiguous().view(bits))


def test_the_file_is_an_ordinary_array(tmp_path):
    features = torch.randn(3, 2, 4, 4)
    write(tmp_path / "key.npy", features)
    np.testing.assert_array_equal(np.load(tmp_path / "key.npy"), features)
    write(tmp_path / "half.npy", features.bfloat16())
    assert np.load(tmp_path / "half.npy").dtype == np.uint16
    info = {"dtype": "bfloat16", "shape": [2, 4, 4], "channels_last": False, "encoder": "none"}
    assert json.loads((tmp_path / "half.json").read_text()) == info


def test_a_worker_gets_the_path_and_not_the_numbers(tmp_path):
    file = write(tmp_path / "key.npy", torch.randn(50, 8, 4, 4))
    sent = pickle.dumps(file)
    assert len(sent) < 500
    assert torch.equal(read(pickle.loads(sent), [7]), read(file, [7]))


def test_a_damaged_or_missing_file_is_named(tmp_path):
    path = tmp_path / "key.npy"
    write(path, torch.randn(5, 2, 4, 4))
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"key\.npy is no file of features, or is damaged .*delete it"):
        FeatureFile(path)
    np.save(path, np.zeros((5, 2, 4), np.float32))
    with pytest.raises(InputError, match=r"does not fit key\.json"):
        FeatureFile(path)
    (tmp_path / "key.json").unlink()
    with pytest.raises(InputError, match="delete it"):
        FeatureFile(path)


def test_features_of_another_kind_are_refused(tmp_path):
    writer = FeatureWriter(tmp_path / "key.npy", FeatureLayout.of(torch.zeros(1, 2, 4, 4)), 2)
    writer.begin()
    with writer.path.open("r+b") as file, pytest.raises(InputError, match=r"float16 \(2, 4, 4\) after float32"):
        writer.write(file, 0, torch.zeros(1, 2, 4, 4).half())
