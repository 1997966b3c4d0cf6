import pytest
import torch
from networks import HEADS, NAMES, images_of, linear, network_of, queries, transformer
from torch import nn
from torch.nn import functional

from longview import InputError
from longview.explain import cam
from longview.explain.heads import Head
from longview.explain.maps import Explainer
from longview.models.xrv import OperatingPointDecoder

LABELS = [3, 0, 4]
EVERY = pytest.mark.parametrize("kind", HEADS)
VIEWS = pytest.mark.parametrize("views", [1, 3])


def explainer(kind, views=1, seed=0):
    decoder, fusion = HEADS[kind]
    network = network_of(decoder(), fusion(), seed)
    return Explainer(network, images_of(views), torch.arange(views))


def one_by_one(network, images, view):
    """Features, logits and gradients by one whole forward and backward pass per label."""
    grads, logits = [], []
    for label in LABELS:
        features = network.encode(images).requires_grad_()
        blank = torch.empty(len(images), 1, 0, 0, dtype=torch.uint8)
        score = network(blank, torch.zeros(len(images), dtype=torch.int64), view, 1, features)[0, label]
        score.backward()
        grads.append(features.grad)
        logits.append(score.detach())
    return features.detach(), torch.stack(logits), torch.stack(grads)


@VIEWS
@EVERY
def test_gradients_of_all_labels_in_one_pass_are_those_of_one_pass_each(kind, views):
    found = explainer(kind, views)
    features, logits, grads = one_by_one(found.network, found.images, found.head.view)
    torch.testing.assert_close(found.features, features)
    torch.testing.assert_close(found.logits()[LABELS], logits)
    torch.testing.assert_close(found.head.gradients(features, LABELS), grads, rtol=1e-4, atol=1e-7)


@VIEWS
@EVERY
def test_maps_of_gradients_follow_the_equations_of_their_papers(kind, views):
    found = explainer(kind, views)
    features, _, grads = one_by_one(found.network, found.images, found.head.view)
    wanted = {method: torch.zeros(len(LABELS), views, *features.shape[2:]) for method in
              ("gradcam", "gradcam++", "hirescam", "xgradcam", "layercam")}  # fmt: skip
    for n in range(len(LABELS)):
        for v in range(views):
            for c in range(features.shape[1]):
                a, g = features[v, c], grads[n, v, c]
                wanted["gradcam"][n, v] += g.mean() * a
                alpha = g**2 / (2 * g**2 + a.sum() * g**3)
                alpha = torch.where(g == 0, torch.zeros_like(g), alpha)
                wanted["gradcam++"][n, v] += (alpha * g.clamp(min=0)).sum() * a
                wanted["hirescam"][n, v] += g * a
                wanted["xgradcam"][n, v] += (a * g).sum() / a.sum() * a if a.sum() > 0 else 0
                wanted["layercam"][n, v] += g.clamp(min=0) * a
    for method, maps in wanted.items():
        torch.testing.assert_close(
            found.raw(method, LABELS), maps.clamp(min=0), rtol=2e-3, atol=1e-6 * float(maps.abs().max()) + 1e-9,
            msg=lambda text, method=method: f"{method}: {text}",
        )  # fmt: skip


@pytest.mark.parametrize("kind", ["linear", "lse", "label decoder"])
def test_gradcam_is_captums(kind):
    attr = pytest.importorskip("captum.attr")
    found = explainer(kind)
    network = found.network

    class Whole(nn.Module):
        def __init__(self):
            super().__init__()
            self.network = network

        def forward(self, images):
            rows = torch.arange(len(images))
            return self.network(images, rows, rows * 0, len(images))

    whole = Whole()
    for n, label in enumerate(LABELS):
        images = found.images.float().requires_grad_()
        theirs = attr.LayerGradCam(whole, network.encoder).attribute(images, target=label, relu_attributions=True)
        torch.testing.assert_close(found.raw("gradcam", LABELS)[n], theirs[:, 0].detach(), rtol=1e-4, atol=1e-7)


@VIEWS
def test_the_class_activation_map_of_a_linear_head_is_its_logit_place_by_place(views):
    found = explainer("linear", views)
    decoder = found.network.decoder
    whole = torch.einsum("lc,vchw->lvhw", decoder.readout.weight, found.features)
    torch.testing.assert_close(whole.mean(dim=(1, 2, 3)) + decoder.readout.bias, found.logits())
    maps = found.raw("cam", LABELS)
    torch.testing.assert_close(maps, whole[LABELS].relu())
    # for such a head Grad-CAM, HiResCAM and XGrad-CAM are the same map, by their definitions
    for method in ("gradcam", "hirescam", "xgradcam"):
        torch.testing.assert_close(found.raw(method, LABELS) * found.features[:, 0].numel(), maps, rtol=1e-4, atol=1e-5)


def test_views_of_a_linear_head_under_learned_weights_count_by_their_weight():
    found = explainer("linear, learned weights", 3)
    weights = found.network.fusion.weights(found.features, torch.zeros(3, dtype=torch.int64), torch.arange(3), 1)
    maps = torch.einsum("lc,vchw->lvhw", found.network.decoder.readout.weight, found.features).relu()
    torch.testing.assert_close(found.raw("cam", LABELS), (maps * weights[:, None, None])[LABELS])


@pytest.mark.parametrize("decoder", [queries, lambda: linear("max")])
def test_a_head_that_is_not_linear_on_the_mean_has_no_class_activation_map(decoder):
    found = Explainer(network_of(decoder()), images_of(), torch.zeros(1, dtype=torch.int64))
    with pytest.raises(InputError, match="no exact class activation map; take hirescam"):
        found.raw("cam", [0])
    with pytest.raises(InputError, match="no exact class activation"):
        Explainer(network_of(linear(), transformer()), images_of(), torch.zeros(1, dtype=torch.int64)).raw("cam", [0])


@VIEWS
@EVERY
def test_ablation_weighs_a_channel_by_what_the_logit_loses_without_it(kind, views):
    found = explainer(kind, views)
    maps = torch.zeros(len(LABELS), views, *found.features.shape[2:])
    logits = found.logits()[LABELS]
    for v in range(views):
        for c in range(found.features.shape[1]):
            without = found.features.clone()
            without[v, c] = 0
            loss = logits - found.head.logits(without)[0, LABELS]
            maps[:, v] += loss[:, None, None] * found.features[v, c]
    torch.testing.assert_close(found.raw("ablationcam", LABELS), maps.relu(), rtol=1e-3, atol=1e-5)


@VIEWS
@EVERY
def test_scorecam_weighs_a_channel_by_the_score_of_the_masked_film(kind, views):
    found = explainer(kind, views)
    features, images = found.features, found.images
    maps = torch.zeros(len(LABELS), views, *features.shape[2:])
    for v in range(views):

        def score(film, v=v):
            whole = features.clone()
            whole[v] = found.network.encode(film[None])[0]
            return found.head.logits(whole)[0, LABELS]

        live, rises = [], []
        for c in range(features.shape[1]):
            mask = functional.interpolate(features[v, c][None, None], (48, 48), mode="bilinear")[0]
            if mask.max() > mask.min():
                mask = (mask - mask.min()) / (mask.max() - mask.min())
                live.append(c)
                rises.append(score((mask * images[v]).round().to(torch.uint8)) - score(images[v] * 0))
        for c, weight in zip(live, torch.stack(rises).softmax(dim=0), strict=True):
            maps[:, v] += weight[:, None, None] * features[v, c]
    torch.testing.assert_close(found.raw("scorecam", LABELS), maps, rtol=1e-3, atol=1e-5)


def test_eigencam_is_the_first_principal_direction_and_the_same_for_every_label():
    found = explainer("linear", 2)
    maps = found.raw("eigencam", LABELS)
    assert maps.shape == (3, 2, 6, 6) and (maps[0] == maps[1]).all() and (maps >= 0).all()
    for v in range(2):
        places = found.features[v].flatten(1).T
        _, vectors = torch.linalg.eigh(places.T @ places)
        wanted = places @ vectors[:, -1]
        wanted = wanted * wanted.sum().sign()
        torch.testing.assert_close(maps[0, v].flatten(), wanted.relu(), rtol=1e-3, atol=1e-4)


def test_nothing_in_the_features_gives_nothing_and_no_nan():
    network = network_of(linear())
    found = Explainer(network, images_of(), torch.zeros(1, dtype=torch.int64))
    found.features = torch.zeros_like(found.features)
    for method in (
        "gradcam",
        "gradcam++",
        "hirescam",
        "xgradcam",
        "layercam",
        "eigencam",
        "ablationcam",
        "scorecam",
        "cam",
    ):
        assert (found.raw(method, [0, 1]) == 0).all(), method


def test_labels_are_explained_in_the_order_asked_for():
    found = explainer("label decoder")
    every = found.raw("hirescam", range(len(NAMES)))
    torch.testing.assert_close(found.raw("hirescam", LABELS), every[LABELS])
    assert not torch.allclose(every[0], every[1])


def test_the_gradient_is_taken_label_by_label_where_memory_is_short(monkeypatch):
    found = explainer("label decoder", 2)
    wanted = found.head.gradients(found.features, LABELS)
    monkeypatch.setattr(Head, "at_once", lambda self, features: 1)
    torch.testing.assert_close(found.head.gradients(found.features, LABELS), wanted)
    torch.testing.assert_close(
        cam.ablationcam(found.head, found.features, LABELS), explainer("label decoder", 2).raw("ablationcam", LABELS)
    )


@VIEWS
def test_moved_operating_points_change_no_map_of_one_film_and_count_between_views(views):
    decoder = OperatingPointDecoder()
    network = network_of(decoder)
    decoder.thresholds.copy_(torch.tensor([0.01, 0.2, 0.5, 0.7, 0.9]))
    found = Explainer(network, images_of(views), torch.arange(views))
    _, _, grads = one_by_one(network, found.images, found.head.view)
    ours = found.head.gradients(found.features, LABELS)
    if views == 1:  # the closed form is that of the score before its operating point, on another scale
        ours, grads = (values / values.abs().amax(dim=(1, 2, 3, 4), keepdim=True) for values in (ours, grads))
    torch.testing.assert_close(ours, grads, rtol=1e-4, atol=1e-7)
    wanted = torch.einsum("lc,vchw->lvhw", decoder.readout.weight[LABELS], found.features).relu()
    torch.testing.assert_close(found.raw("cam", LABELS), wanted)
