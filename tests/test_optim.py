import math

import lightning.pytorch as pl
import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonargparse import ArgumentParser
from timm.optim import param_groups_layer_decay
from torch import nn

from longview import InputError
from longview.labels import Label, LabelSet
from longview.models.decoder import LabelDecoder
from longview.models.encoder import Encoder
from longview.models.network import StudyNetwork
from longview.models.prior import ClassPrior
from longview.optim import AdamW, Optimizer, Schedule, WarmupCosine, decay_groups

LABELS = LabelSet("test", [Label("Edema"), Label("Hernia")])


def names_without_decay(module):
    names = {id(value): name for name, value in module.named_parameters()}
    return {names[id(value)] for value in decay_groups(module, 0.1)[1]["params"]}


def rates(schedule, total, peak=0.5):
    """Learning rate of each optimizer step."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=peak)
    scheduler = schedule.build(optimizer, total)
    used = []
    for _ in range(total):
        used.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return used


def test_biases_norms_and_embeddings_do_not_decay():
    module = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Linear(4, 3), nn.LayerNorm(3), nn.Embedding(5, 3))
    assert names_without_decay(module) == {
        "0.bias",
        "1.weight",
        "1.bias",
        "2.bias",
        "3.weight",
        "3.bias",
        "4.weight",
    }


@pytest.mark.parametrize(
    ("encoder", "spared"),
    [
        ("test_vit", {"encoder.model.pos_embed", "encoder.model.cls_token"}),
        (
            "swin_tiny_patch4_window7_224",
            {"encoder.model.layers.0.blocks.0.attn.relative_position_bias_table"},
        ),
    ],
)
def test_codes_of_positions_tokens_and_labels_do_not_decay(encoder, spared):
    network = StudyNetwork(Encoder(encoder), LabelDecoder(width=32, heads=4, feedforward=48))
    network.build(LABELS, 64)
    found = names_without_decay(network)
    assert spared | {"decoder.queries.vectors", "decoder.bias", "decoder.attend_norm.weight"} <= found
    assert {name for name, value in network.named_parameters() if value.ndim <= 1} <= found
    assert "decoder.readout" not in found
    assert "decoder.embed.weight" not in found


def test_every_trainable_parameter_is_in_one_group_and_no_frozen_one():
    module = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 3), nn.Linear(3, 2))
    module[0].requires_grad_(False)
    module[2].weight = module[1].weight  # shared
    optimizer = AdamW(lr=0.1, weight_decay=0.2).build(module)
    grouped = [id(value) for group in optimizer.param_groups for value in group["params"]]
    assert sorted(grouped) == sorted({id(value) for value in module[1:].parameters()})
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.2, 0.0]


def test_adamw_passes_its_arguments_on():
    optimizer = AdamW(lr=0.3, weight_decay=0.2, betas=(0.8, 0.7), eps=1e-5).build(nn.Linear(2, 2))
    for group in optimizer.param_groups:
        assert (group["lr"], group["betas"], group["eps"]) == (0.3, (0.8, 0.7), 1e-5)
        assert not group["fused"]  # on a CPU
    assert AdamW(fused=True).build(nn.Linear(2, 2)).param_groups[0]["fused"]


# ---- layer-wise decay ------------------------------------------------------------------------------------------


def rate_by_name(module, optimizer, key="lr"):
    found = {id(value): group[key] for group in optimizer.param_groups for value in group["params"]}
    return {name: found[id(value)] for name, value in module.named_parameters() if id(value) in found}


def layered(name="test_resnet", decoder=None):
    network = StudyNetwork(Encoder(name), decoder or LabelDecoder(width=16, heads=2, feedforward=8))
    network.build(LABELS, 64)
    return network


def test_each_layer_of_the_encoder_learns_at_its_own_rate():
    network = layered()  # test_resnet: a stem, then four blocks
    optimizer = AdamW(lr=0.1, weight_decay=0.2, layer_decay=0.5).build(network)
    rates_of = rate_by_name(network, optimizer)
    expected = {"conv1.": 0.1 / 32, "bn1.": 0.1 / 32, "layer1.": 0.1 / 16, "layer2.": 0.1 / 8, "layer3.": 0.1 / 4,
                "layer4.": 0.1 / 2}  # fmt: skip
    for start, rate in expected.items():
        found = [value for name, value in rates_of.items() if name.startswith(f"encoder.model.{start}")]
        assert found and found == pytest.approx([rate] * len(found)), start
    assert {value for name, value in rates_of.items() if not name.startswith("encoder.")} == {0.1}
    assert rates_of.keys() == dict(network.named_parameters()).keys()
    assert optimizer.param_groups[0]["lr"] == 0.1
    plain = rate_by_name(network, AdamW(lr=0.1, weight_decay=0.2).build(network), "weight_decay")
    assert rate_by_name(network, optimizer, "weight_decay") == plain


@pytest.mark.parametrize("name", ["test_vit", "test_convnext", "test_resnet", "test_efficientnet", "densenet121"])
def test_layers_are_those_of_timm_with_its_own_head(name):
    whole = timm.create_model(name, in_chans=1, num_classes=2, **({"img_size": 64} if "vit" in name else {}))
    scales = rate_by_name(whole, torch.optim.SGD(param_groups_layer_decay(whole, layer_decay=0.5)), "lr_scale")
    network = layered(name)
    found = rate_by_name(network.encoder.model, AdamW(lr=1.0, layer_decay=0.5).build(network))
    assert found == {key: pytest.approx(scales[key]) for key in found}
    assert len(set(found.values())) > 3


def test_a_schedule_scales_every_layers_rate_alike():
    network = layered()
    optimizer = AdamW(lr=0.1, layer_decay=0.5).build(network)
    start = [group["lr"] for group in optimizer.param_groups]
    assert len(set(start)) == 6
    scheduler = WarmupCosine(warmup=4).build(optimizer, 10)
    plain = rates(WarmupCosine(warmup=4), 10, peak=1.0)
    for factor in plain:
        assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([factor * lr for lr in start])
        optimizer.step()
        scheduler.step()


def test_frozen_layers_have_no_group():
    network = layered()
    network.encoder.model.layer1.requires_grad_(False)
    optimizer = AdamW(lr=0.1, layer_decay=0.5).build(network)
    assert 0.1 / 16 not in {group["lr"] for group in optimizer.param_groups}
    trained = {name for name, value in network.named_parameters() if value.requires_grad}
    assert rate_by_name(network, optimizer).keys() == trained
    network.encoder.requires_grad_(False)
    assert {group["lr"] for group in AdamW(lr=0.1, layer_decay=0.5).build(network).param_groups} == {0.1}


@pytest.mark.parametrize("value", [0, -0.5, 1.01])
def test_a_layer_decay_out_of_range(value):
    with pytest.raises(InputError, match=f"layer_decay must be above 0 and at most 1.*{value}"):
        AdamW(layer_decay=value)


def test_a_layer_decay_without_an_encoder():
    prior = ClassPrior()
    prior.build(LABELS, 64)
    with pytest.raises(InputError, match="ClassPrior has none"):
        AdamW(layer_decay=0.5).build(prior)


class Regression(pl.LightningModule):
    def __init__(self, fused):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(2, 1)
        self.fused = fused

    def training_step(self, batch, index):
        return 100 * self.layer(batch).square().mean()

    def configure_optimizers(self):
        return AdamW(lr=0.1, fused=self.fused).build(self)


def test_gradients_can_be_clipped_in_mixed_precision_when_fused():
    weights = []
    for fused in (True, False):
        module = Regression(fused)
        trainer = pl.Trainer(
            accelerator="cpu",
            precision="bf16-mixed",
            gradient_clip_val=1.0,
            max_steps=3,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(module, torch.utils.data.DataLoader(torch.ones(6, 2), batch_size=2))
        weights.append(module.layer.weight.detach())
    torch.testing.assert_close(*weights)


def test_a_scaler_unscales_before_a_fused_step():
    steps = {}
    for scale in (1.0, 1024.0):
        torch.manual_seed(0)
        module = nn.Linear(2, 1)
        optimizer = AdamW(lr=0.1, eps=1.0, fused=True).build(module)  # a large eps: the step depends on the scale
        scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        scaler.scale(module(torch.ones(1, 2)).sum()).backward()
        scaler.unscale_(optimizer)
        nn.utils.clip_grad_norm_(module.parameters(), 0.5)
        scaler.step(optimizer)
        steps[scale] = module.weight.detach().clone()
    torch.testing.assert_close(steps[1.0], steps[1024.0])


def test_decay_acts_on_matrices_alone():
    module = nn.Linear(2, 2)
    nn.init.ones_(module.weight)
    nn.init.ones_(module.bias)
    optimizer = AdamW(lr=0.1, weight_decay=0.5).build(module)
    for value in module.parameters():
        value.grad = torch.zeros_like(value)
    optimizer.step()
    torch.testing.assert_close(module.weight.data, torch.full((2, 2), 0.95))
    torch.testing.assert_close(module.bias.data, torch.ones(2))


def test_a_network_with_biases_alone_can_be_fitted():
    prior = ClassPrior()
    prior.build(LABELS, 64)
    assert len(AdamW().build(prior).param_groups) == 1


def test_nothing_to_train_is_an_error():
    frozen = nn.Linear(2, 2).requires_grad_(False)
    for module in (frozen, nn.ReLU()):
        with pytest.raises(InputError, match=f"{type(module).__name__} has no trainable parameter"):
            AdamW().build(module)


def test_warmup_and_cosine_by_step():
    used = rates(WarmupCosine(warmup=4, final=0.1), 12, peak=0.5)
    rise = [0.125, 0.25, 0.375, 0.5]
    fall = [0.5 * (0.1 + 0.9 * (1 + math.cos(math.pi * k / 8)) / 2) for k in range(1, 9)]
    assert used == pytest.approx(rise + fall)
    assert used[-1] == pytest.approx(0.05)


@given(
    total=st.integers(1, 60),
    warmup=st.one_of(st.integers(0, 20), st.floats(0, 1)),
    final=st.floats(0, 1),
)
@settings(deadline=None, derandomize=True, max_examples=50)
def test_rates_rise_then_fall_within_bounds(total, warmup, final):
    used = rates(WarmupCosine(warmup, final), total, peak=1.0)
    steps = warmup if isinstance(warmup, int) else round(warmup * total)
    assert all(0 <= rate <= 1 + 1e-9 for rate in used)
    assert used[0] > 0 or total == 1 or steps == 0
    peak = min(steps, total)
    assert used[:peak] == sorted(used[:peak])
    assert used[peak:] == sorted(used[peak:], reverse=True)
    if steps < total:
        assert used[-1] == pytest.approx(final, abs=1e-9)


def test_a_share_is_a_number_of_steps():
    assert rates(WarmupCosine(warmup=0.25), 40) == rates(WarmupCosine(warmup=10), 40)


def test_steps_beyond_the_last_keep_the_final_rate():
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = WarmupCosine(warmup=1, final=0.2).build(optimizer, 3)
    for _ in range(10):
        optimizer.step()
        scheduler.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.2)


def test_a_warmup_longer_than_the_run_is_told(caplog):
    assert rates(WarmupCosine(warmup=10), 2) == pytest.approx([0.05, 0.1])
    assert "warm-up of 10 steps does not end in a run of 2" in caplog.text


def test_the_schedule_resumes_where_it_was(tmp_path):
    expected = rates(WarmupCosine(warmup=3), 10)
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.5)
    scheduler = WarmupCosine(warmup=3).build(optimizer, 10)
    for _ in range(5):
        optimizer.step()
        scheduler.step()
    torch.save({"scheduler": scheduler.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    again = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.5)
    resumed = WarmupCosine(warmup=3).build(again, 10)
    resumed.load_state_dict(state["scheduler"])
    again.load_state_dict(state["optimizer"])
    used = []
    for _ in range(5):
        used.append(again.param_groups[0]["lr"])
        again.step()
        resumed.step()
    assert used == pytest.approx(expected[5:])


@pytest.mark.parametrize("arguments", [{"warmup": -1}, {"warmup": 1.5}, {"final": 1.1}, {"final": -0.1}])
def test_settings_without_meaning(arguments):
    with pytest.raises(InputError, match=f"{next(iter(arguments))} must be"):
        WarmupCosine(**arguments)


@pytest.mark.parametrize("total", [float("inf"), 0, -1])
def test_an_endless_run_has_no_cosine(total):
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    with pytest.raises(InputError, match=r"trainer\.max_epochs"):
        WarmupCosine().build(optimizer, total)


@pytest.mark.parametrize("name", ["longview.optim.{}", "{}"])
def test_configurations_inject_them_by_class_path_or_short_name(name):
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--optimizer", type=Optimizer)
    parser.add_argument("--schedule", type=Schedule)
    config = parser.parse_string(
        f"""
        optimizer:
          class_path: {name.format("AdamW")}
          init_args: {{lr: 3e-5, betas: [0.9, 0.98]}}
        schedule:
          class_path: {name.format("WarmupCosine")}
          init_args: {{warmup: 500}}
        """
    )
    built = parser.instantiate(config)
    assert isinstance(built.optimizer, AdamW)
    assert built.optimizer.lr == 3e-5
    assert tuple(built.optimizer.betas) == (0.9, 0.98)
    assert isinstance(built.schedule, WarmupCosine)
    assert built.schedule.warmup == 500
    assert isinstance(built.schedule.warmup, int)
