import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from longview import InputError
from longview.labels import Label, LabelSet
from longview.losses import ASL, BCE
from longview.models.decoder import LabelDecoder, LinearDecoder
from longview.models.encoder import Encoder
from longview.models.fusion import AttentionFusion, MaxFusion, TransformerFusion, WeightedFusion, tokens_of
from longview.models.network import StudyNetwork
from longview.models.prior import ClassPrior

LABELS = LabelSet("test", [Label("Cardiomegaly"), Label("Edema"), Label("Hernia"), Label("Cyst", unseen=True)])
DECODERS = {
    "linear": LinearDecoder,
    "label": lambda: LabelDecoder(width=32, heads=4, feedforward=48),
}
SMALL = {"width": 32, "heads": 4, "feedforward": 48}
FUSIONS = {
    "mean": None,
    "max": MaxFusion,
    "weighted": WeightedFusion,
    "attention": lambda: AttentionFusion(8),
    "transformer": lambda: TransformerFusion(**SMALL),
    "transformer, reduced and padded": lambda: TransformerFusion(**SMALL, reduce=True, pad=True),
}
_built = {}


def network_of(decoder="label", encoder="test_convnext", fusion="mean"):
    """One network per kind, in evaluation mode."""
    key = decoder, encoder, fusion
    if key not in _built:
        torch.manual_seed(0)
        make = FUSIONS[fusion]
        network = StudyNetwork(Encoder(encoder), DECODERS[decoder](), make and make())
        network.build(LABELS, 64)
        _built[key] = network
    return _built[key].eval()


def batch(views=(2, 1, 3), seed=0):
    generator = torch.Generator().manual_seed(seed)
    study = torch.repeat_interleave(torch.arange(len(views)), torch.tensor(views))
    images = torch.randint(0, 256, (len(study), 1, 64, 64), dtype=torch.uint8, generator=generator)
    view = torch.randint(0, 4, (len(study),), generator=generator)
    return images, study, view, len(views)


KINDS = [
    ("label", "test_convnext", "mean"),
    ("linear", "test_resnet", "mean"),
    ("label", "test_vit", "mean"),
    ("linear", "test_resnet", "weighted"),
    ("label", "test_resnet", "attention"),
    ("label", "test_resnet", "transformer"),
    ("label", "test_vit", "transformer"),
    ("linear", "test_convnext", "transformer, reduced and padded"),
]
EACH = pytest.mark.parametrize(("decoder", "encoder", "fusion"), KINDS)
close = torch.testing.assert_close


@EACH
def test_a_study_alone_scores_as_in_a_batch(decoder, encoder, fusion):
    network = network_of(decoder, encoder, fusion)
    images, study, view, studies = batch()
    with torch.no_grad():
        together = network(images, study, view, studies)
        assert together.shape == (3, 3)
        for row in range(studies):
            mine = study == row
            alone = network(images[mine], torch.zeros(int(mine.sum()), dtype=torch.int64), view[mine], 1)
            close(alone[0], together[row], rtol=1e-4, atol=1e-5)


@given(st.permutations(range(6)), st.permutations(range(3)))
@settings(deadline=None, derandomize=True, max_examples=10)
def test_order_of_views_and_studies_changes_nothing_but_the_order_of_rows(views, rows):
    network = network_of()
    images, study, view, studies = batch()
    views, rows = torch.tensor(views), torch.tensor(rows)
    with torch.no_grad():
        expected = network(images, study, view, studies)
        found = network(images[views], rows[study[views]], view[views], studies)
    close(found[rows], expected, rtol=1e-4, atol=1e-5)


@EACH
def test_each_view_matters_to_its_study_and_to_no_other(decoder, encoder, fusion):
    network = network_of(decoder, encoder, fusion)
    images, study, view, studies = batch()
    with torch.no_grad():
        before = network(images, study, view, studies)
        for image in range(len(images)):
            changed = images.clone()
            changed[image] = 255 - changed[image]
            moved = (network(changed, study, view, studies) - before).abs().amax(dim=1)
            mine = torch.arange(studies) == study[image]
            assert (moved[mine] > 1e-4).all()
            assert (moved[~mine] < 1e-5).all()


def test_an_added_study_never_moves_another():
    network = network_of()
    images, study, view, studies = batch()
    more = torch.full((2, 1, 64, 64), 255, dtype=torch.uint8)
    with torch.no_grad():
        before = network(images, study, view, studies)
        after = network(
            torch.cat([more, images]),
            torch.cat([torch.tensor([3, 3]), study]),
            torch.cat([torch.tensor([0, 1]), view]),
            studies + 1,
        )
    close(after[:3], before, rtol=1e-4, atol=1e-5)


def test_a_study_scores_the_mean_of_its_views():
    network = network_of()
    images, study, view, _ = batch((1, 1))
    with torch.no_grad():
        single = network(images, study, view, 2)
        joined = network(images, torch.zeros_like(study), view, 1)
    close(joined[0], single.mean(0))


@EACH
def test_a_forward_pass_changes_no_parameter_or_buffer(decoder, encoder, fusion):
    network = network_of(decoder, encoder, fusion)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    images, *rest = batch()
    pixels = images.clone()
    with torch.no_grad():
        network(images, *rest)
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())
    assert torch.equal(images, pixels)


@EACH
def test_half_precision_scores_like_single(decoder, encoder, fusion):
    network = network_of(decoder, encoder, fusion)
    with torch.no_grad():
        single = network(*batch())
        with torch.autocast("cpu", torch.bfloat16):
            half = network(*batch())
    assert half.dtype == torch.float32
    close(half, single, rtol=0.1, atol=0.05)


@EACH
@pytest.mark.parametrize("loss", [BCE(), ASL()])
def test_every_trainable_parameter_learns(decoder, encoder, fusion, loss):
    network = network_of(decoder, encoder, fusion).train()
    network.zero_grad()
    target = torch.tensor([[1, 0, float("nan")], [0, 1, 0], [0, 0, 1]])
    loss(network(*batch()), target).backward()
    assert [name for name, value in network.named_parameters() if value.grad is None] == []
    assert all(value.grad.isfinite().all() for value in network.parameters())


@pytest.mark.parametrize(("kind", "coded"), [("label", True), ("linear", False)])
def test_places_reach_the_decoder_that_asks_for_them(kind, coded, monkeypatch):
    network, seen = network_of(kind), []
    monkeypatch.setattr(network.decoder, "forward", lambda tokens: seen.append(tokens) or tokens[:, 0, :3])
    features = torch.zeros(1, network.encoder.channels, 4, 6)
    network(torch.zeros(1, 1, 0, 0), torch.tensor([0]), torch.tensor([0]), 1, features)
    tokens = seen[0].view(4, 6, -1)
    assert (tokens.std(dim=0).mean() > 0.05) == coded
    assert (tokens.std(dim=1).mean() > 0.05) == coded
    assert tokens_of(features.bfloat16(), position=coded).dtype == torch.bfloat16


def test_tokens_come_row_by_row():
    features = torch.arange(6.0).view(1, 1, 2, 3)
    assert tokens_of(features, position=False).flatten().tolist() == [0, 1, 2, 3, 4, 5]


@EACH
def test_features_made_before_score_as_their_images(decoder, encoder, fusion):
    network = network_of(decoder, encoder, fusion)
    images, study, view, studies = batch()
    with torch.no_grad():
        expected = network(images, study, view, studies)
        features = network.encode(images)
        close(network(torch.zeros(6, 1, 0, 0), study, view, studies, features), expected)


def test_fusion_is_arranged_before_the_encoder_runs(monkeypatch):
    network, calls = network_of(encoder="test_resnet", fusion="transformer"), []
    arrange, encode = network.fusion.arrange, network.encode
    monkeypatch.setattr(network.fusion, "arrange", lambda *given: calls.append("arrange") or arrange(*given))
    monkeypatch.setattr(network, "encode", lambda images: calls.append("encode") or encode(images))
    network(*batch())
    assert calls == ["arrange", "encode"]


@pytest.mark.parametrize("fusion", FUSIONS)
def test_a_checkpoint_holds_all_of_a_fusion(fusion):
    network = network_of("label", "test_resnet", fusion)
    make = FUSIONS[fusion]
    restored = StudyNetwork(Encoder("test_resnet"), DECODERS["label"](), make and make())
    restored.build(LABELS, 64, weights=False)
    restored.load_state_dict(network.state_dict())
    with torch.no_grad():
        close(restored.eval()(*batch()), network(*batch()))


def test_labels_are_the_decoders_business(monkeypatch):
    network = network_of("linear")
    state = network.state_dict()
    assert network.per_label() == ["decoder.readout.weight", "decoder.readout.bias"]
    assert all(len(state[name]) == 3 for name in network.per_label())
    assert not network.open_vocabulary
    with pytest.raises(InputError, match="LinearDecoder"):
        network.set_labels(LABELS)
    given_labels = []
    monkeypatch.setattr(LinearDecoder, "open_vocabulary", True)
    monkeypatch.setattr(LinearDecoder, "set_labels", lambda self, labels: given_labels.append(labels))
    network.set_labels(LABELS)
    assert network.open_vocabulary
    assert given_labels == [LABELS]


def test_prior_has_a_number_per_label():
    prior = ClassPrior()
    prior.build(LABELS, 64)
    assert sorted(prior.per_label()) == sorted(prior.state_dict())
    assert all(len(value) == 3 for value in prior.state_dict().values())


def test_weights_are_left_out_on_request():
    network = StudyNetwork(Encoder("test_resnet", pretrained="/no/such/file.pth"), LinearDecoder())
    network.build(LABELS, 64, weights=False)
    assert network(*batch()).shape == (3, 3)


def test_counts_are_offered_to_every_network():
    network_of().set_counts(torch.ones(3), torch.ones(3))


def test_prior_scores_the_training_prevalence_for_every_study():
    prior = ClassPrior()
    prior.build(LABELS, 64)
    prior.set_counts(torch.tensor([25.0, 0.0, 0.0]), torch.tensor([100.0, 100.0, 0.0]))
    logits = prior(*batch())
    assert logits.shape == (3, 3)
    close(logits.sigmoid(), torch.tensor([[25.5 / 101, 0.5 / 101, 0.5]]).expand(3, 3))


def test_prior_can_be_fitted_and_travels_in_a_checkpoint():
    prior = ClassPrior()
    prior.build(LABELS, 64)
    prior.set_counts(torch.tensor([30.0, 20.0, 10.0]), torch.full((3,), 100.0))
    prior(*batch()).sum().backward()
    assert prior.bias.grad.tolist() == [3, 3, 3]
    restored = ClassPrior()
    restored.build(LABELS, 64, weights=False)
    restored.load_state_dict(prior.state_dict())
    close(restored(*batch()), prior(*batch()))
