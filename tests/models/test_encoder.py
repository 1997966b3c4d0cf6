import logging

import pytest
import timm
import torch

from longview import InputError
from longview.models.encoder import Encoder

# one small model of each family, with the strides that matter to its sizes
FAMILIES = [
    "resnet10t",
    "densenet121",
    "convnext_atto",
    "convnextv2_atto",
    "efficientnet_b0",
    "mobilenetv3_small_050",
    "vit_tiny_patch16_224",
    "deit3_small_patch16_224",
    "vit_small_plus_patch16_dinov3",  # four register tokens, rotary positions
    "swin_tiny_patch4_window7_224",
    "swinv2_cr_tiny_224",
    "maxvit_pico_rw_256",
    "test_mambaout",  # timm's num_features is not the width of its map
]


def images(count=2, size=64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 1, size, size), dtype=torch.uint8, generator=generator)


def built(name="test_convnext", size=64, **arguments):
    torch.manual_seed(0)
    encoder = Encoder(name, **arguments)
    encoder.build(size)
    return encoder


@pytest.mark.parametrize("name", FAMILIES)
def test_each_family_gives_a_map_and_trains_every_parameter(name):
    encoder = built(name)
    features = encoder(images())
    stride = 16 if "patch16" in name else 32
    assert features.shape == (2, encoder.channels, 64 // stride, 64 // stride)
    features.square().mean().backward()
    assert [key for key, value in encoder.named_parameters() if value.grad is None] == []
    encoder.eval()
    with torch.no_grad():
        alone, together = encoder(images()[:1]), encoder(images())[:1]
    torch.testing.assert_close(alone, together, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "size", "side"),
    [
        ("resnet10t", 100, 4),
        ("convnext_atto", 96, 3),
        ("vit_tiny_patch16_224", 160, 10),
        ("swin_tiny_patch4_window7_224", 128, 4),
        ("swin_tiny_patch4_window7_224", 100, 4),
        ("maxvit_pico_rw_256", 96, 3),
    ],
)
def test_any_size_that_the_family_takes(name, size, side):
    encoder = built(name, size).eval()
    with torch.no_grad():
        assert encoder(images(1, size)).shape == (1, encoder.channels, side, side)


@pytest.mark.parametrize("name", FAMILIES)
def test_large_images_need_no_arithmetic_to_be_checked(name):
    encoder = Encoder(name)
    encoder.build(512)
    assert encoder.channels > 0


@pytest.mark.parametrize(
    ("name", "size", "nearest"),
    [
        ("vit_tiny_patch16_224", 100, "96 or 112"),
        ("vit_small_patch14_dinov2", 64, "56 or 70"),
        ("maxvit_pico_rw_256", 100, "96 or 128"),
        ("test_vit", 8, "16"),
    ],
)
def test_a_size_that_does_not_fit_is_refused_with_the_nearest(name, size, nearest):
    with pytest.raises(InputError, match=f"{name}.*{size} px.*nearest sizes: {nearest} px"):
        built(name, size)


def test_an_edge_that_is_not_seen_is_told(caplog):
    with caplog.at_level(logging.WARNING):
        built("convnext_atto", 72)
    assert "the last 8 px of rows and columns of 72 px" in caplog.text
    assert "64 or 96 px" in caplog.text
    caplog.clear()
    built("resnet10t", 72)  # pads instead
    assert not caplog.records


def test_a_fixed_size_meets_another_size():
    with pytest.raises(InputError, match="built for 64 px, the images have 96x96 px"):
        built("test_vit")(images(1, 96))


def test_patch_tokens_stand_where_their_pixels_are():
    encoder = built("test_vit").eval()
    encoder.model.blocks = torch.nn.Identity()  # leave the patches where they are
    plain = torch.zeros(1, 1, 64, 64, dtype=torch.uint8)
    spot = plain.clone()
    spot[..., 16:32, 48:64] = 255  # row 1, column 3 of patches of 16 px
    with torch.no_grad():
        change = (encoder(spot) - encoder(plain)).abs().sum(dim=1)[0]
    assert change.nonzero().tolist() == [[1, 3]]


def encoder_input(encoder, pixels):
    return (pixels.float() / 255 - encoder.mean) / encoder.std


def test_nhwc_models_keep_rows_and_columns_apart():
    encoder = built("swin_tiny_patch4_window7_224").eval()
    with torch.no_grad():
        raw = encoder.model(encoder_input(encoder, images()))
        torch.testing.assert_close(encoder(images()), raw.movedim(-1, 1))


def test_pixels_are_normalised_by_the_mean_over_the_pretrained_channels():
    encoder = built("resnet10t")
    cfg = timm.get_pretrained_cfg("resnet10t")
    assert encoder.mean.item() == pytest.approx(sum(cfg.mean) / 3)
    assert encoder.std.item() == pytest.approx(sum(cfg.std) / 3)
    encoder.model = torch.nn.Identity()
    values = encoder(torch.tensor([[[[0, 255], [51, 102]]]], dtype=torch.uint8))
    expected = (torch.tensor([[0, 1], [0.2, 0.4]]) - encoder.mean) / encoder.std
    torch.testing.assert_close(values[0, 0], expected)


def test_checkpointed_gradients_are_the_same():
    plain, checkpointed = built("test_convnext"), built("test_convnext", checkpoint_gradients=True)
    for encoder in (plain, checkpointed):
        encoder(images()).square().sum().backward()
    for one, other in zip(plain.parameters(), checkpointed.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)
    assert checkpointed.model.stages[0].grad_checkpointing


@pytest.mark.parametrize("name", FAMILIES)
def test_every_parameter_of_each_family_lies_in_a_layer(name):
    encoder = built(name)
    above = encoder.layers_above()
    assert above.keys() == {key for key, _ in encoder.named_parameters()}
    order = list(above.values())
    assert min(order) in {0, 1} and max(order) >= 3
    assert max(order) in order[:3]  # the stem is the farthest from the head


def test_a_model_whose_layers_are_not_known():
    encoder = built()
    encoder.model = torch.nn.Linear(2, 2)
    with pytest.raises(InputError, match=r"test_convnext.*leave layer_decay out"):
        encoder.layers_above()


def test_drop_path_reaches_the_model():
    encoder = built("convnext_atto", drop_path=0.5)
    drops = [m.drop_prob for m in encoder.modules() if type(m).__name__ == "DropPath"]
    assert max(drops) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "convnext_smal"}, "no model 'convnext_smal'; did you mean.*convnext_small"),
        ({"name": "???"}, "no model"),
        ({"name": "resnet18.imagenet"}, "no weights 'imagenet'; tags:.*a1_in1k"),
        ({"name": "densenet121", "drop_path": 0.1}, "densenet121.*no stochastic depth"),
        ({"name": "resnet10t", "drop_path": 1.0}, "drop_path must be in"),
        ({"name": "convit_tiny", "checkpoint_gradients": True}, "cannot recompute activations"),
        ({"name": "crossvit_tiny_240"}, "no feature map"),
        ({"name": "deit_tiny_distilled_patch16_224"}, "no feature map"),
    ],
)
def test_what_a_model_cannot_do_is_said(arguments, message):
    with pytest.raises(InputError, match=message):
        Encoder(**arguments).build(240 if "crossvit" in arguments["name"] else 64)


def test_the_constructor_makes_nothing():
    encoder = Encoder("no such model", pretrained="/no/such/file.pth")
    assert list(encoder.parameters()) == []
