"""Weights for timm and for longview, a hub's folder, exported programs; and what cannot be exported."""

import json
from pathlib import Path

import pytest
import timm
import torch
import yaml

from exporting.models import LABELS, NAMES, PARTS, SIZE, checkpoint
from longview import InputError
from longview.calibration.calibrators import Platt
from longview.calibration.file import CalibratedLabel, Calibration
from longview.exporting.export import export
from longview.exporting.graph import Graph, drawn_batch
from longview.inference import open_model
from longview.labels import LabelSet
from longview.models.encoder import Encoder
from longview.models.fusion import MaxFusion
from longview.models.network import StudyNetwork
from longview.models.prior import ClassPrior
from longview.outputs import sha256

BATCH = drawn_batch([1, 0, 1, 2], SIZE)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return checkpoint(tmp_path_factory.mktemp("study"), PARTS["study"], consistent=True)


@pytest.fixture(scope="module")
def model(made):
    return open_model(made, device="cpu")


@pytest.fixture
def calibration(tmp_path):
    def write(names=NAMES, of=None):
        found = Calibration("platt", {name: CalibratedLabel(Platt(1.0, 0.0)) for name in names}, of)
        found.write(tmp_path / "calibration.json")
        return tmp_path / "calibration.json"

    return write


@pytest.mark.parametrize(("form", "name"), [("safetensors", "m.safetensors"), ("hub-folder", "hub")])
def test_exported_weights_open_as_the_checkpoint_itself(made, model, tmp_path, form, name):
    export(str(made), form, tmp_path / name)
    opened = open_model(tmp_path / name, device="cpu")
    assert torch.equal(opened.probabilities(*BATCH, 3), model.probabilities(*BATCH, 3))
    for field in ("name", "labels", "names", "image_size", "preprocessing", "sha256", "averaging", "edges"):
        assert getattr(opened, field) == getattr(model, field), field
    assert not opened.network.training


def test_a_hub_folder_has_the_files_and_keys_of_hugging_face(made, calibration, tmp_path):
    export(str(made), "hub-folder", tmp_path / "hub", calibration=calibration(of=sha256(made)))
    assert sorted(path.name for path in (tmp_path / "hub").iterdir()) == [
        "README.md", "calibration.json", "config.json", "labels.yaml", "metadata.json", "model.safetensors",
        "preprocessor_config.json",
    ]  # fmt: skip
    config = json.loads((tmp_path / "hub/config.json").read_text())
    assert list(config["id2label"].values()) == NAMES
    assert config["problem_type"] == "multi_label_classification"
    assert config["task"]["network"]["init_args"]["encoder"]["init_args"]["name"] == "test_convnext"
    assert json.loads((tmp_path / "hub/preprocessor_config.json").read_text())["size"] == {"height": 64, "width": 64}
    assert LabelSet.load(tmp_path / "hub/labels.yaml") == LABELS
    card = (tmp_path / "hub/README.md").read_text()
    front = yaml.safe_load(card.split("---\n")[1])
    assert front["library_name"] == "longview"
    assert 'open_model("hub")' in card
    assert json.loads((tmp_path / "hub/metadata.json").read_text())["checkpoint_sha256"] == sha256(made)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_an_exported_encoder_is_timms_and_another_runs_start(made, model, tmp_path, suffix):
    file = tmp_path / f"encoder{suffix}"
    export(str(made), "encoder", file)
    told = json.loads((tmp_path / "encoder.metadata.json").read_text())
    theirs = timm.create_model(
        told["timm_model"],
        pretrained=True,
        pretrained_cfg_overlay={"file": str(file), "num_classes": 0},
        **told["timm_options"],
    )
    ours = model.network.encoder
    grey = (BATCH[0].float() / 255 - told["mean"]) / told["std"]
    with torch.no_grad():
        assert torch.allclose(theirs.eval()(grey), ours(BATCH[0]), atol=1e-5)
    again = Encoder("test_convnext", pretrained=str(file))
    again.build(SIZE)
    assert all(torch.equal(value, again.model.state_dict()[key]) for key, value in ours.model.state_dict().items())
    assert "timm.create_model" in (tmp_path / "encoder.README.md").read_text()


def test_an_exported_program_runs_by_torch_alone(tmp_path):
    made = checkpoint(tmp_path, PARTS["image"], consistent=True)
    model = open_model(made, device="cpu")
    export(str(made), "pt2", tmp_path / "m.pt2")
    extra = {"metadata.json": ""}
    program = torch.export.load(str(tmp_path / "m.pt2"), extra_files=extra).module()
    assert json.loads(extra["metadata.json"])["labels"] == NAMES
    for rows in ([0], [0, 0, 0], [3, 0, 2, 0, 1, 3, 0]):
        images, study, view = drawn_batch(rows, SIZE, seed=3)
        with torch.no_grad():
            logits, probabilities = program(images, study, view)
        assert torch.allclose(logits, model.network(images, study, view, max(rows) + 1), atol=1e-4)
        assert torch.allclose(probabilities, model.probabilities(images, study, view, max(rows) + 1), atol=1e-5)


def test_a_card_is_that_of_the_models_own_evaluation(made, tmp_path):
    with pytest.raises(InputError, match=r"holds no metrics.json"):
        export(str(made), "safetensors", tmp_path / "m.safetensors", evaluation=tmp_path)
    (tmp_path / "metrics.json").write_text(json.dumps({"model": {"sha256": "0" * 64}}))
    with pytest.raises(InputError, match="is of another model"):
        export(str(made), "safetensors", tmp_path / "m.safetensors", evaluation=tmp_path)
    (tmp_path / "metrics.json").write_text(json.dumps({"model": None}))
    with pytest.raises(InputError, match="evaluate with --checkpoint"):
        export(str(made), "safetensors", tmp_path / "m.safetensors", evaluation=tmp_path)
    assert not (tmp_path / "m.safetensors").exists()


def test_a_calibration_of_another_model_or_of_other_labels_is_refused(made, calibration, tmp_path):
    with pytest.raises(InputError, match="fitted on another model"):
        export(str(made), "safetensors", tmp_path / "m.safetensors", calibration=calibration(of="0" * 64))
    with pytest.raises(InputError, match="fitted on other labels"):
        export(str(made), "safetensors", tmp_path / "m.safetensors", calibration=calibration(NAMES[:-1]))


@pytest.mark.parametrize(
    ("form", "name", "options", "message"),
    [
        ("onnx", "m.pt2", {}, "ends in .onnx"),
        ("encoder", "m.bin", {}, "ends in .safetensors or .pth"),
        ("hub-folder", "m.safetensors", {}, "without .safetensors"),
        ("pt2", "m.pt2", {"quantize": "int8"}, "--quantize int8 is for --to onnx"),
        ("onnx", "m.onnx", {"quantize": "int8"}, "belong together"),
        ("onnx", "m.onnx", {"films": Path(__file__)}, "belong together"),
        ("onnx", "m.onnx", {"quantize": "int8", "films": Path("none")}, "--films none does not exist"),
        (
            "onnx",
            "m.onnx",
            {"quantize": "int8", "films": Path(__file__), "calibration": Path("c.json")},
            "of the model in single precision",
        ),
        ("onnx", "m.onnx", {"opset": 9}, "--opset 9: give one from 18"),
        ("onnx", "taken.onnx", {}, "exists already"),
    ],
)
def test_options_that_do_not_fit_are_errors_that_say_so(made, tmp_path, form, name, options, message):
    (tmp_path / "taken.onnx").touch()
    with pytest.raises(InputError, match=message):
        export(str(made), form, tmp_path / name, **options)
    assert [path.name for path in tmp_path.iterdir()] == ["taken.onnx"]


def test_networks_that_are_no_graph_are_refused_with_the_reason():
    class Own(StudyNetwork):
        def forward(self, images, study, view, studies, features=None):
            return super().forward(images, study, view, studies, features) * 2

    class Arranged(MaxFusion):
        def arrange(self, study, studies):
            return None

    prior = ClassPrior()
    with pytest.raises(InputError, match="a ClassPrior cannot be exported"):
        Graph(prior)
    with pytest.raises(InputError, match="Own has a forward pass of its own"):
        Graph(Own(Encoder("test_resnet"), None))
    with pytest.raises(InputError, match="Arranged arranges images in a way of its own"):
        Graph(StudyNetwork(Encoder("test_resnet"), None, Arranged()))


def test_a_network_that_torch_cannot_follow_is_refused_with_torchs_reason(tmp_path):
    from longview.exporting.graph import exported

    class Counting(MaxFusion):
        def pool(self, logits, features, study, view, studies):
            return super().pool(logits, features, study, view, studies) * (1.0 if float(logits.sum()) > 0 else 2.0)

    from longview.models.decoder import LinearDecoder

    network = StudyNetwork(Encoder("test_resnet"), LinearDecoder(), Counting())
    network.build(LABELS, SIZE)
    with pytest.raises(InputError, match=r"test_resnet, Counting, LinearDecoder\) cannot be exported as a graph: "):
        exported(Graph(network.eval()), SIZE)


def test_files_that_are_damaged_or_of_others_are_errors(made, tmp_path):
    from safetensors.torch import save_file

    (tmp_path / "bad.safetensors").write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"is no .safetensors file, or is damaged"):
        open_model(tmp_path / "bad.safetensors")
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(InputError, match=r"was not written by `main.py export`"):
        open_model(tmp_path / "other.safetensors")
    with pytest.raises(InputError, match="does not exist"):
        open_model(tmp_path)
    with pytest.raises(InputError, match="does not exist"):
        open_model(tmp_path / "none.safetensors")
    export(str(made), "encoder", tmp_path / "encoder.safetensors")
    with pytest.raises(InputError, match=r"was not written by `main.py export`|does not say"):
        open_model(tmp_path / "encoder.safetensors")
