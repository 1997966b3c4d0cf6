import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import HEADS, LABELS, images_of, linear, network_of

from longview import InputError
from longview.data.frames import Frame
from longview.explain.maps import Explainer, heat_map, mask_of
from longview.models.decoder import LabelDecoder, LinearDecoder
from longview.models.encoder import Encoder
from longview.models.network import StudyNetwork

METHODS = ("gradcam", "gradcam++", "hirescam", "xgradcam", "layercam", "eigencam", "ablationcam", "scorecam")


@settings(deadline=None, derandomize=True, max_examples=30)
@given(
    shape=st.tuples(st.integers(8, 90), st.integers(8, 90)),
    policy=st.sampled_from(["squash", "letterbox", "crop"]),
    seed=st.integers(0, 50),
    power=st.integers(-20, 20),
)
def test_maps_are_in_the_films_frame_within_0_and_1_and_the_hottest_place_is_in_every_mask(shape, policy, seed, power):
    raw = torch.rand(2, 5, 5, generator=torch.Generator().manual_seed(seed)) * 10.0**power
    frames = [Frame(*shape, 40, policy), Frame(shape[1], 30, 40, policy)]
    found = heat_map(raw, frames)
    assert [view.shape for view in found.maps] == [shape, (shape[1], 30)]
    for view in found.maps:
        assert view.dtype == np.float32 and np.isfinite(view).all() and view.min() >= 0 and view.max() <= 1
    hottest = max(found.maps, key=lambda view: view.max())
    assert hottest.max() == 1
    for threshold in (0.1, 0.5, 1.0):
        assert mask_of(hottest, threshold)[np.unravel_index(hottest.argmax(), hottest.shape)]
    np.testing.assert_allclose(found.shares.sum(), 1, rtol=1e-6)
    np.testing.assert_allclose(found.shares[0], raw[0].sum() / raw.sum(), rtol=1e-4)


def test_no_evidence_stays_zero_and_its_views_share_alike():
    found = heat_map(torch.zeros(3, 4, 4), [Frame(20, 30, 32)] * 3)
    assert found.empty and all((view == 0).all() for view in found.maps)
    assert not any(mask_of(view, 0.5).any() for view in found.maps)
    np.testing.assert_allclose(found.shares, 1 / 3)


def test_what_is_not_finite_counts_as_nothing():
    raw = torch.ones(1, 4, 4)
    raw[0, 0, 0], raw[0, 3, 3] = torch.nan, torch.inf
    view = heat_map(raw, [Frame(16, 16, 16)]).maps[0]
    assert np.isfinite(view).all() and view[0, 0] == view[-1, -1] == 0 and view.max() == 1


def test_evidence_in_the_padding_alone_is_none_on_the_film():
    raw = torch.zeros(1, 8, 8)
    raw[0, 0] = 1
    assert heat_map(raw, [Frame(100, 400, 64, "letterbox")]).empty


@pytest.mark.parametrize("kind", [kind for kind, (decoder, _) in HEADS.items() if decoder is not linear])
def test_a_study_of_three_views_has_three_maps_per_label_whose_shares_sum_to_1(kind):
    decoder, fusion = HEADS[kind]
    found = Explainer(network_of(decoder(), fusion()), images_of(3), torch.tensor([0, 2, 3]))
    frames = [Frame(60, 50, 48), Frame(48, 48, 48), Frame(90, 40, 48)]
    methods = [*METHODS, "attention", "gradattention"] if isinstance(found.network.decoder, LabelDecoder) else METHODS
    for method in methods:
        for raw in found.raw(method, [2, 0]):
            label = heat_map(raw, frames)
            assert [view.shape for view in label.maps] == [(60, 50), (48, 48), (90, 40)]
            np.testing.assert_allclose(label.shares.sum(), 1, rtol=1e-6)


def test_a_view_that_shows_nothing_has_no_share():
    network = network_of(linear())
    found = Explainer(network, images_of(2), torch.zeros(2, dtype=torch.int64))
    found.features[1] = 0
    assert heat_map(found.raw("cam", [0])[0], [Frame(48, 48, 48)] * 2).shares.tolist() == [1, 0]


@pytest.mark.parametrize("decoder", [LinearDecoder, lambda: LabelDecoder(width=16, heads=2, feedforward=16)])
@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "swin_tiny_patch4_window7_224"])
def test_every_family_of_encoders_has_maps(name, decoder):
    """Convolutional, plain tokens, and tokens whose map lies channels-last."""
    size = 224 if name.startswith("swin") else 160
    network = StudyNetwork(Encoder(name), decoder())
    network.build(LABELS, size)
    network.eval().requires_grad_(requires_grad=False)
    found = Explainer(network, images_of(1, size=size), torch.zeros(1, dtype=torch.int64))
    for method in ("gradcam", "gradcam++", "hirescam", "xgradcam", "layercam", "eigencam"):
        label = heat_map(found.raw(method, [1])[0], [Frame(300, 200, size)])
        assert label.maps[0].shape == (300, 200) and np.isfinite(label.maps[0]).all()


def test_a_network_without_places_has_no_map():
    network = network_of(linear())
    network.encode = lambda images: torch.ones(len(images), 4, 1, 1)
    with pytest.raises(InputError, match=r"best: its features are of shape \(1, 4, 1, 1\), which is no map"):
        Explainer(network, images_of(), torch.zeros(1, dtype=torch.int64), "best")
    network.encode = lambda images: torch.full((len(images), 4, 2, 2), torch.nan)
    with pytest.raises(InputError, match="best: its features are not finite"):
        Explainer(network, images_of(), torch.zeros(1, dtype=torch.int64), "best")


def test_scores_that_are_not_finite_are_refused():
    network = network_of(linear())
    network.decoder.readout.bias[0] = torch.nan
    with pytest.raises(InputError, match="best: its scores are not finite"):
        Explainer(network, images_of(), torch.zeros(1, dtype=torch.int64), "best").logits()
