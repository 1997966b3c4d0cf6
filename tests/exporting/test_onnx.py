"""Graphs: equal to PyTorch on any number of images, studies and views, and opened in place of a checkpoint."""

import importlib
import json
import logging

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from exporting.models import LABELS, NAMES, PARTS, SIZE, checkpoint
from longview import VIEWS, InputError
from longview.calibration.calibrators import Platt
from longview.calibration.file import CalibratedLabel, Calibration
from longview.classify import classify
from longview.data.phantom import phantom
from longview.exported.runtime import OnnxNetwork
from longview.exporting.export import export
from longview.exporting.graph import drawn_batch
from longview.inference import open_model
from longview.outputs import sha256

# rows of images' studies: one film, one study of three, unequal studies out of order, more studies than views
BATCHES = ([0], [0, 0, 0], [3, 0, 2, 0, 1, 3, 0], [1, 0], [4, 3, 2, 1, 0])


@pytest.fixture(scope="module")
def calibration(tmp_path_factory):
    return Calibration("platt", {name: CalibratedLabel(Platt(0.9, -0.1), thresholds={"f1": 0.4}) for name in NAMES})


@pytest.fixture(scope="module", params=["image", "study"])
def pair(request, tmp_path_factory, calibration):
    """A checkpoint, and the .onnx file of it."""
    folder = tmp_path_factory.mktemp(request.param)
    made = checkpoint(folder, PARTS[request.param], consistent=True, tta={"flip": True})
    calibration.write(folder / "calibration.json")
    export(str(made), "onnx", folder / "out" / "m.onnx", calibration=folder / "calibration.json")
    return made, folder / "out" / "m.onnx"


@pytest.fixture(scope="module")
def both(pair):
    made, file = pair
    return open_model(made, device="cpu"), open_model(file, device="cpu")


@pytest.mark.parametrize("rows", BATCHES)
def test_a_graph_gives_pytorchs_logits(both, rows):
    ours, theirs = both
    images, study, view = drawn_batch(rows, SIZE, seed=7)
    expected = ours.network(images, study, view, max(rows) + 1)
    found = theirs.network(images, study, view, max(rows) + 1)
    assert found.dtype == torch.float32
    assert (found - expected).abs().max() < 1e-4
    assert expected.std() > 0.1, "logits must differ, or the comparison says nothing"


def test_probabilities_of_an_open_graph_are_the_checkpoints_averaged_and_consistent(both):
    ours, theirs = both
    batch = drawn_batch([1, 0, 1, 2], SIZE)
    expected, found = ours.probabilities(*batch, 3), theirs.probabilities(*batch, 3)
    assert torch.allclose(found, expected, atol=1e-5)
    assert theirs.averaging.flip
    assert (found[:, 0] >= found[:, 1:3].amax(1)).all()


def test_views_of_a_study_are_told_apart_only_where_the_network_does(pair, both):
    images, study, _ = drawn_batch([0, 0], SIZE)
    there = both[1].network(images, study, torch.tensor([0, 2]), 1)
    back = both[1].network(images, study, torch.tensor([2, 0]), 1)
    assert torch.equal(there, back) == ("image" in pair[0].parent.name)


def test_the_file_alone_serves_whoever_has_onnx_runtime(pair):
    made, file = pair
    session = onnxruntime.InferenceSession(file)
    images, study, view = (tensor.numpy() for tensor in drawn_batch([1, 0, 1], SIZE))
    logits, probabilities = session.run(None, {"images": images, "study": study, "view": view})
    expected = 1 / (1 + np.exp(-logits))
    expected[:, 0] = expected[:, :3].max(1)  # a parent is raised to its highest child
    assert np.allclose(probabilities, expected, atol=1e-6)
    assert [value.shape for value in session.get_inputs()] == [["N", 1, SIZE, SIZE], ["N"], ["N"]]
    assert [value.shape for value in session.get_outputs()] == [["B", 5], ["B", 5]]
    told = session.get_modelmeta().custom_metadata_map
    assert json.loads(told["labels"]) == NAMES
    assert json.loads(told["preprocessing"]) == {"size": 80, "resize": "letterbox"}
    assert json.loads(told["checkpoint_sha256"]) == sha256(made)
    assert json.loads(told["views"]) == list(VIEWS)
    assert json.loads(told["calibration"])["labels"]["Edema"]["thresholds"] == {"f1": 0.4}
    onnx.checker.check_model(str(file))


def test_metadata_card_and_calibration_travel_with_the_file(pair, calibration):
    folder = pair[1].parent
    assert sorted(path.name for path in folder.iterdir()) == [
        "m.README.md", "m.calibration.json", "m.metadata.json", "m.onnx",
    ]  # fmt: skip
    told = json.loads((folder / "m.metadata.json").read_text())
    assert told["labels"] == NAMES
    assert 0 <= told["difference_from_pytorch"]["logits"] < 1e-4
    assert Calibration.read(folder / "m.calibration.json").labels == calibration.labels
    card = (folder / "m.README.md").read_text()
    assert "Not a medical device" in card
    assert "m.onnx" in card


def test_an_open_graph_is_the_checkpoint_in_all_but_its_network(both):
    ours, theirs = both
    for name in ("name", "labels", "names", "image_size", "preprocessing", "sha256", "averaging", "edges"):
        assert getattr(theirs, name) == getattr(ours, name), name
    assert theirs.labels == LABELS
    assert isinstance(theirs.network, OnnxNetwork)


def test_classify_scores_films_with_a_graph_as_with_the_checkpoint(pair, shared_data, tmp_path):
    films = shared_data / "nih-fullsize"
    for model, name in zip(pair, ("ours.csv", "theirs.csv"), strict=True):
        classify([str(model)], films, output=tmp_path / name, calibration=pair[1].parent / "m.calibration.json")
    ours, theirs = (
        np.genfromtxt(tmp_path / name, delimiter=",", skip_header=1, usecols=range(3, 8))
        for name in ("ours.csv", "theirs.csv")
    )
    assert ours.shape == (6, 5)
    assert np.abs(ours - theirs).max() < 1e-4


def test_logits_of_any_size_stay_finite(tmp_path):
    parts = {
        **PARTS["image"],
        "decoder": {"class_path": "longview.models.decoder.LinearDecoder", "init_args": {"pool": "lse"}},
        "fusion": {"class_path": "longview.models.fusion.WeightedFusion"},
    }
    made = checkpoint(tmp_path, parts, loud=400.0)
    export(str(made), "onnx", tmp_path / "m.onnx")
    batch = drawn_batch([1, 0, 1, 2], SIZE)
    expected = open_model(made, device="cpu").network(*batch, 3)
    assert expected.abs().max() > 100, "where exp(-x) underflows"
    found = open_model(tmp_path / "m.onnx", device="cpu").network(*batch, 3)
    assert torch.allclose(found, expected, rtol=1e-4)


@pytest.fixture(scope="module")
def phantom_films(tmp_path_factory):
    folder = tmp_path_factory.mktemp("phantom") / "cxr_lt"
    phantom("cxr-lt-2024", folder, studies=3, size=SIZE, workers=1)
    return sorted(path for path in folder.rglob("*.jpg") if path.parent != folder)[:4]


@pytest.mark.parametrize("origin", ["real", "phantom"])
def test_films_of_studies_get_pytorchs_logits(both, request, origin):
    ours, theirs = both
    if origin == "real":
        paths = sorted((request.getfixturevalue("shared_data") / "nih-fullsize").glob("*.png"))[:4]
    else:
        paths = request.getfixturevalue("phantom_films")
    images = torch.stack([theirs.read(path).pixels for path in paths])
    assert len(images.flatten(1).unique(dim=0)) == 4
    study, view = torch.tensor([0, 0, 1, 0]), torch.tensor([0, 2, 1, 2])
    assert torch.allclose(theirs.network(images, study, view, 2), ours.network(images, study, view, 2), atol=1e-4)


def test_rounding_to_eight_bits_is_another_model_that_says_so(tmp_path, shared_data):
    made = checkpoint(tmp_path, PARTS["image"], loud=1.0)
    export(str(made), "onnx", tmp_path / "m.onnx", quantize="int8", films=shared_data / "nih-fullsize")
    ours, theirs = open_model(made, device="cpu"), open_model(tmp_path / "m.onnx", device="cpu")
    batch = drawn_batch([1, 0, 1, 2], SIZE)
    gap = (ours.probabilities(*batch, 3) - theirs.probabilities(*batch, 3)).abs().max()
    assert 0 < gap < 0.1
    assert theirs.sha256 == sha256(tmp_path / "m.onnx") != ours.sha256
    assert (tmp_path / "m.onnx").stat().st_size < 0.5 * made.stat().st_size
    told = json.loads((tmp_path / "m.metadata.json").read_text())
    assert told["quantized"] == "int8"
    assert told["single_precision"]["difference_from_pytorch"]["logits"] < 1e-4


@pytest.mark.parametrize(("device", "tolerance"), [("openvino", 1e-4), ("openvino-bf16", 0.1)])
def test_openvino_gives_the_same(both, pair, device, tolerance):
    pytest.importorskip("openvino")
    theirs = open_model(pair[1], device=device)
    batch = drawn_batch([1, 0, 1, 2], SIZE)
    gap = (both[0].network(*batch, 3) - theirs.network(*batch, 3)).abs().max()
    assert gap < tolerance


def test_what_a_graph_cannot_do_is_said(both, pair, tmp_path, monkeypatch):
    network = both[1].network
    images, study, view = drawn_batch([0, 2], SIZE)
    with pytest.raises(InputError, match="need the checkpoint"):
        network.encode(images)
    with pytest.raises(ValueError, match="study 1 of the batch's 3 has no image"):
        network(images, study, view, 3)
    with pytest.raises(ValueError, match="study 2 of the batch's 2 has no image"):
        network(images, study, view, 2)
    with pytest.raises(InputError, match=r"--device mps.*openvino"):
        open_model(pair[1], device="mps")
    with pytest.raises(InputError, match="no provider RocketProvider"):
        open_model(pair[1], providers=["RocketProvider"])
    with pytest.raises(InputError, match=r"providers are for .onnx"):
        open_model(pair[0], providers=["CPUExecutionProvider"])
    assert open_model(pair[1], providers=["CPUExecutionProvider"]).names == NAMES
    (tmp_path / "bad.onnx").write_bytes(b"not a graph")
    with pytest.raises(InputError, match="is no ONNX file, or is damaged"):
        open_model(tmp_path / "bad.onnx")
    onnx.save(onnx.ModelProto(ir_version=10), tmp_path / "other.onnx")
    with pytest.raises(InputError, match=r"was not written by `main.py export`"):
        open_model(tmp_path / "other.onnx")
    with pytest.raises(InputError, match="does not exist"):
        open_model(tmp_path / "none.onnx")
    with pytest.raises(InputError, match="cannot be exported as a graph"):
        export(str(pair[1]), "onnx", tmp_path / "again.onnx")


@pytest.mark.parametrize(
    ("module", "device", "extra"), [("onnxruntime", "cpu", "onnx"), ("openvino", "openvino", "openvino")]
)
def test_a_runtime_that_is_not_installed_is_named_with_its_extra(pair, monkeypatch, module, device, extra):
    load = importlib.import_module

    def absent(name):
        if name == module:
            raise ImportError(name)
        return load(name)

    monkeypatch.setattr("longview.exported.runtime.import_module", absent)
    with pytest.raises(InputError, match=f"{module}, which is not installed: uv sync --extra {extra}"):
        open_model(pair[1], device=device)


def test_a_file_further_off_than_allowed_is_not_kept(pair, tmp_path, monkeypatch, caplog):
    from longview.exporting import forms as written

    monkeypatch.setattr(
        written, "write_onnx", lambda graph, metadata, file, opset: file.write_bytes(pair[1].read_bytes())
    )
    other = checkpoint(tmp_path, PARTS["image" if "image" in pair[0].parent.name else "study"], seed=1)
    with pytest.raises(InputError, match=r"would differ from PyTorch by .* it was not kept"):
        export(str(other), "onnx", tmp_path / "m.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["model.ckpt"]
    with caplog.at_level(logging.INFO):
        export(str(pair[0]), "onnx", tmp_path / "m.onnx")
    assert "largest difference" in caplog.text
