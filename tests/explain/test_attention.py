import sys

import pytest
import torch
from networks import HEADS, images_of, linear, network_of, queries, transformer
from torch.nn import functional

from longview import InputError
from longview.explain.maps import Explainer
from longview.labels import Label, LabelSet
from longview.models.fusion import AttentionFusion, MeanFusion

LABELS = [3, 0, 4]
DECODERS = pytest.mark.parametrize("kind", [kind for kind, (decoder, _) in HEADS.items() if decoder is queries])


def explainer(kind, views=3):
    decoder, fusion = HEADS[kind]
    return Explainer(network_of(decoder(), fusion()), images_of(views), torch.arange(views))


def spelled_out(found, monkeypatch):
    """Attention (b, heads, Q, T) with its gradients for each label, by attention spelled out within the decoder."""
    seen = []

    def attend(query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False):
        looked = (query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5).softmax(-1)
        if query.shape[2] != key.shape[2]:  # the decoder's, not a layer's of the fusion
            looked.retain_grad()
            seen.append(looked)
        return looked @ value

    monkeypatch.setattr(functional, "scaled_dot_product_attention", attend)
    grads = []
    for label in LABELS:
        seen.clear()
        found.head.logits(found.features.clone().requires_grad_())[0, label].backward()
        grads.append(seen[0].grad)
    monkeypatch.undo()
    return seen[0].detach(), torch.stack(grads)


@DECODERS
@pytest.mark.parametrize("views", [1, 3])
def test_attention_is_what_the_query_looks_at_and_sums_to_one(kind, views, monkeypatch):
    found = explainer(kind, views)
    maps = found.raw("attention", LABELS)
    assert maps.shape == (3, views, 6, 6)
    if "reduced" in kind:
        return
    torch.testing.assert_close(maps.sum(dim=(1, 2, 3)), torch.ones(3))
    looked, _ = spelled_out(found, monkeypatch)
    each = looked.mean(1)[:, LABELS].transpose(0, 1)  # (n, b, T)
    if each.shape[1] > 1:
        each = each * found.head.view_weights(found.features)[LABELS][..., None]
    torch.testing.assert_close(maps, each.reshape(3, views, 6, 6))


@DECODERS
@pytest.mark.parametrize("views", [1, 3])
def test_gradient_weighted_attention_is_the_papers(kind, views, monkeypatch):
    found = explainer(kind, views)
    looked, grads = spelled_out(found, monkeypatch)
    maps = found.raw("gradattention", LABELS)
    if "reduced" in kind:
        return
    for n, label in enumerate(LABELS):
        wanted = (grads[n] * looked).clamp(min=0).mean(1)[:, label]  # (b, T)
        torch.testing.assert_close(maps[n], wanted.reshape(views, 6, 6), rtol=1e-3, atol=1e-7)


def test_labels_that_share_a_query_have_one_attention_and_gradients_of_their_own(monkeypatch):
    labels = LabelSet("many", [Label(f"Finding {number:03d}") for number in range(150)])
    network = network_of(queries(), MeanFusion(), labels=labels)
    assert network.decoder.queries.share == 2
    found = Explainer(network, images_of(), torch.zeros(1, dtype=torch.int64))
    looked = found.raw("attention", [6, 7, 8])
    assert (looked[0] == looked[1]).all() and not torch.allclose(looked[0], looked[2])
    weighed = found.raw("gradattention", [6, 7])
    assert not torch.allclose(weighed[0], weighed[1])
    monkeypatch.setattr(sys.modules[__name__], "LABELS", [6, 7])
    attention, grads = spelled_out(found, monkeypatch)
    for n in range(2):
        wanted = (grads[n] * attention).clamp(min=0).mean(1)[0, 3].reshape(6, 6)
        torch.testing.assert_close(weighed[n, 0], wanted, rtol=1e-3, atol=1e-7)


def test_weights_of_views_are_the_fusions_own():
    one, three = torch.zeros(3, dtype=torch.int64), torch.arange(3)
    mean = explainer("label decoder").head.view_weights(explainer("label decoder").features)
    torch.testing.assert_close(mean, torch.full((5, 3), 1 / 3))
    largest = explainer("label decoder, largest")
    each = torch.stack([largest.network.decoder(_tokens(largest, v))[0] for v in range(3)])
    torch.testing.assert_close(
        largest.head.view_weights(largest.features), functional.one_hot(each.argmax(0), 3).float()
    )
    network = network_of(queries(), AttentionFusion(8))
    learned = Explainer(network, images_of(3), three)
    wanted = network.fusion.weights(learned.features, one, three, 1).expand(5, 3)
    torch.testing.assert_close(learned.head.view_weights(learned.features), wanted)


def _tokens(found, view):
    from longview.models.fusion import tokens_of

    return tokens_of(found.features[view : view + 1], position=True)


def test_tokens_of_a_halved_map_stand_at_every_second_place():
    from longview.explain.attention import _between

    values = torch.tensor([[[[0.0, 2, 4, 6]]]])
    assert _between(values, 7, 3)[0, 0, 0].tolist() == [0, 1, 2, 3, 4, 5, 6]
    assert _between(values, 8, 3)[0, 0, 0].tolist() == [0, 1, 2, 3, 4, 5, 6, 6]
    found = Explainer(network_of(queries(), transformer(reduce=True)), images_of(2, size=56), torch.arange(2))
    assert found.raw("attention", [1]).shape == found.raw("gradattention", [1]).shape == (1, 2, 7, 7)


@pytest.mark.parametrize("method", ["attention", "gradattention"])
def test_without_a_label_decoder_there_is_no_attention(method):
    found = Explainer(network_of(linear()), images_of(), torch.zeros(1, dtype=torch.int64))
    with pytest.raises(InputError, match="no label decoder; take gradcam"):
        found.raw(method, [0])
