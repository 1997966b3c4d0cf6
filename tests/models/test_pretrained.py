import re
import socket
import time

import pytest
import timm
import torch
from huggingface_hub import constants
from jsonargparse import ArgumentParser
from safetensors.torch import save_file

from longview import InputError
from longview.models import hub, pretrained
from longview.models.encoder import Encoder
from longview.models.network import Network, StudyNetwork

SIZES = {"vit_tiny_patch16_224": 224, "swin_tiny_patch4_window7_224": 224, "maxvit_pico_rw_256": 256}
FAMILIES = [
    "resnet10t",
    "densenet121",
    "convnext_atto",
    "convnextv2_atto",
    "efficientnet_b0",
    "mobilenetv3_small_050",
    *SIZES,
]


def rgb_model(name="test_resnet", **options):
    torch.manual_seed(1)
    return timm.create_model(name, **options).eval()


@pytest.fixture
def resnet_file(tmp_path):
    file = tmp_path / "model.safetensors"
    save_file(rgb_model().state_dict(), file)
    return file


def encoder_of(file, name="test_resnet", size=64):
    encoder = Encoder(name, pretrained=str(file))
    encoder.build(size)
    return encoder.eval()


@pytest.mark.parametrize("name", FAMILIES)
def test_a_folded_stem_is_the_same_as_three_copies_of_the_image(name, tmp_path):
    size = SIZES.get(name, 64)
    original = rgb_model(name)
    save_file(original.state_dict(), tmp_path / "model.safetensors")
    encoder = encoder_of(tmp_path / "model.safetensors", name, size)
    original.reset_classifier(0, "")
    image = torch.randn(1, 1, size, size)
    with torch.no_grad():
        expected, found = original(image.expand(-1, 3, -1, -1)), encoder.model(image)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", list(SIZES))
def test_weights_of_one_size_are_resampled_to_another(name, tmp_path):
    save_file(rgb_model(name).state_dict(), tmp_path / "model.safetensors")
    encoder = encoder_of(tmp_path / "model.safetensors", name, 96)
    assert encoder(torch.zeros(1, 1, 96, 96, dtype=torch.uint8)).isfinite().all()


@pytest.mark.parametrize("wrap", [lambda s: s, lambda s: {"state_dict": s}, lambda s: {"epoch": 3, "model": s}])
@pytest.mark.parametrize("suffix", [".pth", ".bin"])
def test_plain_and_training_checkpoints(tmp_path, wrap, suffix):
    model = rgb_model()
    torch.save(wrap(model.state_dict()), tmp_path / f"model{suffix}")
    encoder = encoder_of(tmp_path / f"model{suffix}")
    torch.testing.assert_close(encoder.model.layer1[0].conv1.weight, model.layer1[0].conv1.weight)


@pytest.mark.parametrize("options", [{"num_classes": 14}, {"num_classes": 0}, {"in_chans": 1, "num_classes": 18}])
def test_a_head_of_any_size_and_a_stem_of_one_channel(tmp_path, options):
    model = rgb_model(**options)
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    encoder = encoder_of(tmp_path / "model.safetensors")
    torch.testing.assert_close(encoder.model.layer4[0].conv2.weight, model.layer4[0].conv2.weight)
    if "in_chans" in options:
        torch.testing.assert_close(encoder.model.conv1[0].weight, model.conv1[0].weight)


def test_weights_can_be_left_to_a_checkpoint_that_is_loaded_next(resnet_file):
    trained = encoder_of(resnet_file)
    resnet_file.unlink()
    restored = Encoder("test_resnet", pretrained=str(resnet_file))
    restored.build(64, weights=False)
    restored.load_state_dict(trained.state_dict())
    images = torch.randint(0, 256, (2, 1, 64, 64), dtype=torch.uint8)
    torch.testing.assert_close(restored.eval()(images), trained(images))


def test_a_file_of_another_model_is_refused_with_what_fitted(resnet_file):
    with pytest.raises(InputError) as caught:
        encoder_of(resnet_file, "test_efficientnet")
    message = str(caught.value)
    assert str(resnet_file) in message
    assert re.search(r" \d of the file's \d\d+ tensors fit", message)  # a norm or two may agree by chance
    assert "the model's but not in the file (conv_stem.weight" in message
    assert "in the file but not the model's (conv1." in message
    assert len(message) < 1000


def test_a_missing_a_strange_and_a_misshapen_key_are_named(tmp_path):
    state = rgb_model().state_dict()
    del state["layer2.0.conv1.weight"]
    state["layer2.0.conv9.weight"] = torch.zeros(3, 3)
    state["layer3.0.conv1.weight"] = torch.zeros(3, 3)
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(InputError) as caught:
        encoder_of(tmp_path / "model.safetensors")
    for part in (
        f"{len(state) - 2} of the file's {len(state)} tensors fit",
        "1 the model's but not in the file (layer2.0.conv1.weight)",
        "1 in the file but not the model's (layer2.0.conv9.weight)",
        "1 of another shape (layer3.0.conv1.weight)",
    ):
        assert part in str(caught.value)


def test_weights_that_timm_loads_without_strictness_do_not_stay_random(tmp_path, resnet_file):
    save_file({"norm.weight": torch.ones(3), "conv.weight": torch.ones(3, 3)}, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match=r"only 0 of the model's \d+ weight matrices"):
        encoder_of(tmp_path / "model.safetensors", "dla34")
    with pytest.raises(InputError, match=r"convnextv2_atto\.fcmae.*does not recognise its layout"):
        encoder_of(resnet_file, "convnextv2_atto.fcmae")


def test_fcmae_weights_without_their_head_norm_load(tmp_path):
    state = {key: value for key, value in rgb_model("convnextv2_atto").state_dict().items() if "head" not in key}
    save_file(state, tmp_path / "model.safetensors")
    encoder = encoder_of(tmp_path / "model.safetensors", "convnextv2_atto.fcmae")
    torch.testing.assert_close(
        encoder.model.stages[0].blocks[0].mlp.fc1.weight, state["stages.0.blocks.0.mlp.fc1.weight"]
    )


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("model.safetensors", b"not weights", "cannot be read"),
        ("model.pth", b"not weights", "cannot be read"),
        ("model.pth", b"", "cannot be read"),
        ("model.txt", b"", "must be a timm checkpoint"),
        ("last.ckpt", b"", "loaded by the task"),
    ],
)
def test_a_file_that_holds_no_weights(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        encoder_of(tmp_path / name)


def test_a_table_of_something_else(tmp_path):
    torch.save({"epoch": 3, "lr": 0.1}, tmp_path / "model.pth")
    with pytest.raises(InputError, match="no table of weights"):
        encoder_of(tmp_path / "model.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(InputError, match="cannot be read"):
        encoder_of(tmp_path / "list.pth")


def test_a_truncated_file(resnet_file):
    resnet_file.write_bytes(resnet_file.read_bytes()[:-1000])
    with pytest.raises(InputError, match="cannot be read"):
        encoder_of(resnet_file)


def test_a_missing_file():
    with pytest.raises(InputError, match=r"/no/such/model\.pth do not exist; correct --model\.network\.encoder"):
        encoder_of("/no/such/model.pth")


def test_offline_the_message_says_what_to_put_where_and_comes_at_once(monkeypatch, tmp_path):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    start = time.monotonic()
    with pytest.raises(InputError) as caught:
        Encoder("resnet10t.c3_in1k", pretrained=True).build(64)
    assert time.monotonic() - start < 2
    for part in (
        "'resnet10t.c3_in1k' cannot be downloaded",
        "https://huggingface.co/timm/resnet10t.c3_in1k/resolve/main/model.safetensors",
        "--model.network.encoder.pretrained=/path/to/model.safetensors",
    ):
        assert part in str(caught.value)


def test_a_hub_that_does_not_answer_is_given_up_early(monkeypatch, tmp_path):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub, "PROBE_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/model.safetensors"
        monkeypatch.setattr(pretrained, "hf_hub_url", lambda *_, **__: url)
        with pytest.raises(InputError, match=r"cannot be downloaded: no answer from 127\.0\.0\.1.*timed out"):
            Encoder("resnet10t", pretrained=True).build(64)
    with pytest.raises(InputError, match="refused"):  # the server is closed now
        Encoder("resnet10t", pretrained=True).build(64)


def test_weights_in_the_cache_need_no_network(monkeypatch, tmp_path):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    repository = tmp_path / "models--timm--resnet10t.c3_in1k"
    (repository / "snapshots" / "abc").mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    model = rgb_model("resnet10t")
    save_file(model.state_dict(), repository / "snapshots" / "abc" / "model.safetensors")
    encoder = Encoder("resnet10t", pretrained=True)
    encoder.build(64)
    torch.testing.assert_close(encoder.model.layer4[0].conv2.weight, model.layer4[0].conv2.weight)


def test_a_model_that_timm_has_no_weights_for():
    with pytest.raises(InputError, match=r"no weights for 'densenet264d', but for .*densenet"):
        Encoder("densenet264d", pretrained=True).build(64)


def test_the_option_that_messages_name_exists():
    class Task:
        def __init__(self, network: Network):
            self.network = network

    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(Task, "model")
    config = parser.parse_args(
        [
            "--model.network=longview.models.network.StudyNetwork",
            "--model.network.encoder=longview.models.encoder.Encoder",
            "--model.network.encoder.name=resnet10t",
            f"{pretrained.OPTION}=/path/to/model.safetensors",
            "--model.network.decoder=longview.models.decoder.LabelDecoder",
            "--model.network.decoder.width=64",
        ]
    )
    network = parser.instantiate(config).model.network
    assert isinstance(network, StudyNetwork)
    assert network.encoder.pretrained == "/path/to/model.safetensors"
    assert network.decoder.width == 64
