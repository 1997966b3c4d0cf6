import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from longview.labels import Label, LabelSet
from longview.losses import ASL, BCE
from longview.models.decoder import LabelDecoder, LinearDecoder
from longview.models.encoder import Encoder
from longview.models.network import StudyNetwork
from longview.models.prior import ClassPrior

LABELS = LabelSet("test", [Label("Cardiomegaly"), Label("Edema"), Label("Hernia"), Label("Cyst", unseen=True)])
DECODERS = {
    "linear": LinearDecoder,
    "label": lambda: LabelDecoder(width=32, heads=4, feedforward=48),
}
_built = {}


def network_of(decoder="label", encoder="test_convnext"):
    """One network per kind, in evaluation mode."""
    key = decoder, encoder
    if key not in _built:
        torch.manual_seed(0)
        network = StudyNetwork(Encoder(encoder), DECODERS[decoder]())
        network.build(LABELS, 64)
        _built[key] = network
    return _built[key].eval()


def batch(views=(2, 1, 3), seed=0):
    generator = torch.Generator().manual_seed(seed)
    study = torch.repeat_interleave(torch.arange(len(views)), torch.tensor(views))
    images = torch.randint(0, 256, (len(study), 1, 64, 64), dtype=torch.uint8, generator=generator)
    view = torch.randint(0, 4, (len(study),), generator=generator)
    return images, study, view, len(views)


KINDS = [("label", "test_convnext"), ("linear", "test_resnet"), ("label", "test_vit")]
EACH = pytest.mark.parametrize(("decoder", "encoder"), KINDS)
close = torch.testing.assert_close


@EACH
def test_a_study_alone_scores_as_in_a_batch(decoder, encoder):
    network = network_of(decoder, encoder)
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
def test_each_view_matters_to_its_study_and_to_no_other(decoder, encoder):
    network = network_of(decoder, encoder)
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
def test_a_forward_pass_changes_no_parameter_or_buffer(decoder, encoder):
    network = network_of(decoder, encoder)
    before = {key: value.clone() for key, value in network.state_dict().items()}
    images, *rest = batch()
    pixels = images.clone()
    with torch.no_grad():
        network(images, *rest)
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())
    assert torch.equal(images, pixels)


@EACH
def test_half_precision_scores_like_single(decoder, encoder):
    network = network_of(decoder, encoder)
    with torch.no_grad():
        single = network(*batch())
        with torch.autocast("cpu", torch.bfloat16):
            half = network(*batch())
    assert half.dtype == torch.float32
    close(half, single, rtol=0.1, atol=0.05)


@EACH
@pytest.mark.parametrize("loss", [BCE(), ASL()])
def test_every_trainable_parameter_learns(decoder, encoder, loss):
    network = network_of(decoder, encoder).train()
    network.zero_grad()
    target = torch.tensor([[1, 0, float("nan")], [0, 1, 0], [0, 0, 1]])
    loss(network(*batch()), target).backward()
    assert [name for name, value in network.named_parameters() if value.grad is None] == []
    assert all(value.grad.isfinite().all() for value in network.parameters())


def test_places_reach_the_label_decoder():
    network = network_of("label")
    features = torch.zeros(1, network.encoder.channels, 4, 6)
    tokens = network.tokens(features).view(4, 6, -1)
    assert tokens.std(dim=0).mean() > 0.05
    assert tokens.std(dim=1).mean() > 0.05
    assert network.tokens(features.bfloat16()).dtype == torch.bfloat16
    assert not network_of("linear").tokens(features).any()


def test_tokens_come_row_by_row():
    network = network_of("linear")
    features = torch.arange(6.0).view(1, 1, 2, 3)
    assert network.tokens(features).flatten().tolist() == [0, 1, 2, 3, 4, 5]


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
