"""Monte-Carlo dropout: only what follows the first dropout is repeated, as if the network were run again and again."""

import pytest
import torch
from torch import nn

from longview import InputError, StudyKey
from longview.labels import Label, LabelSet
from longview.models.decoder import LabelDecoder, LinearDecoder
from longview.models.encoder import Encoder
from longview.models.fusion import AttentionFusion, MaxFusion, MeanFusion, TransformerFusion, WeightedFusion
from longview.models.network import Network, StudyNetwork
from longview.test_time import Averaging
from longview.uncertainty.dropout import MonteCarlo, check, sample_logits
from longview.uncertainty.masks import Masks
from longview.uncertainty.sites import Sites

LABELS = LabelSet("labels", [Label(f"Finding {number}") for number in range(3)])
STUDY = torch.tensor([1, 0, 2, 0, 3, 3])
VIEW = torch.tensor([0, 1, 2, 3, 0, 2])
IMAGES = torch.randint(0, 256, (6, 1, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))

DECODERS = {
    "linear": lambda: LinearDecoder(dropout=0.3),
    "lse": lambda: LinearDecoder("lse", dropout=0.3),
    "label": lambda: LabelDecoder(width=16, heads=2, feedforward=24, dropout=0.2),
}
FUSIONS = {
    "mean": MeanFusion,
    "max": MaxFusion,
    "weighted": WeightedFusion,
    "attention": lambda: AttentionFusion(8),
    "transformer": lambda: TransformerFusion(16, layers=1, heads=2, feedforward=24, dropout=0.2),
    "padded": lambda: TransformerFusion(16, layers=1, heads=2, feedforward=24, dropout=0.2, pad=True),
    "slots": lambda: TransformerFusion(16, 1, 2, 24, 0.2, reduce=True, embedding="slot", across=False),
    "transformer without dropout": lambda: TransformerFusion(16, 1, 2, 24, dropout=0),
}
DROPPING = (nn.Dropout, nn.MultiheadAttention, nn.TransformerEncoderLayer, LabelDecoder)


class Maps(Encoder):
    """A small encoder with a batch norm, and a dropout where that is asked for."""

    def __init__(self, dropout=0.0):
        super().__init__("small")
        self.dropout = nn.Dropout2d(dropout)
        self.passes = 0

    def build(self, image_size, weights=True):
        self.channels, self.image_size = 8, image_size
        self.norm = nn.BatchNorm2d(8)
        self.convolution = nn.Conv2d(1, 8, 16, 16)

    def forward(self, images):
        self.passes += 1
        features = self.norm(self.convolution(images.float() / 255 - 0.5))
        return self.dropout(features).relu() * 10


def make(decoder="linear", fusion="mean", encoder_dropout=0.0):
    torch.manual_seed(1)
    network = StudyNetwork(Maps(encoder_dropout), DECODERS[decoder](), FUSIONS[fusion]())
    network.build(LABELS, 64)
    network.encoder.norm.running_mean.uniform_(-1, 1)
    return network.eval()


def batch(images=IMAGES, study=STUDY, view=VIEW):
    count = int(study.max()) + 1
    ids = [StudyKey("", str(row), "") for row in range(count)]
    return {"images": images, "study": study, "view": view, "ids": ids, "target": torch.empty(count, 3)}


def naive(network, samples, study=STUDY, view=VIEW, images=IMAGES):
    """(T, B, L): whole passes, with torch's own dropout in training mode and everything else in evaluation.

    The encoder, which drops nothing here, is run once.
    """
    found = network.encode(images)
    network.encode = lambda _: found
    for module in network.modules():
        module.training = isinstance(module, DROPPING)
    logits = torch.stack([network(images, study, view, int(study.max()) + 1) for _ in range(samples)])
    network.eval()
    del network.encode
    return logits


def with_same_masks(network, samples, study=STUDY, view=VIEW, images=IMAGES):
    """(T, B, L): whole passes one by one, sample by sample and study by study, without vmap, by the same masks."""
    rows = []
    for sample in range(samples):
        row = []
        for place in range(int(study.max()) + 1):
            own = study == place
            sites = Sites(Masks(samples, 0))
            sites.begin(torch.tensor(sample))
            with sites.within(network):
                row.append(network(images[own], torch.zeros(int(own.sum()), dtype=torch.int64), view[own], 1)[0])
        rows.append(torch.stack(row))
    return torch.stack(rows)


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("decoder", DECODERS)
@torch.inference_mode()
def test_samples_are_those_of_whole_passes_with_the_same_masks(decoder, fusion):
    network = make(decoder, fusion)
    found = sample_logits(network, IMAGES, STUDY, VIEW, 4, samples=3)
    assert found.shape == (3, 4, 3)
    torch.testing.assert_close(found, with_same_masks(network, 3), rtol=1e-4, atol=1e-5)
    assert (found.std(dim=0) > 1e-3).all()


@pytest.mark.parametrize(("decoder", "fusion"), [("linear", "mean"), ("label", "mean"), ("label", "transformer")])
@torch.inference_mode()
def test_samples_have_the_distribution_of_naive_repetition(decoder, fusion):
    network = make(decoder, fusion)
    count = 4000 if decoder == "linear" else 2000
    found = sample_logits(network, IMAGES, STUDY, VIEW, 4, samples=count)
    # whole passes side by side: each copy of the studies has masks of its own
    copies = 200
    study = torch.cat([STUDY + 4 * copy for copy in range(copies)])
    runs = []
    for _ in range(count // copies):
        if decoder == "linear":
            runs.append(naive(network, 1, study, VIEW.repeat(copies), IMAGES.repeat(copies, 1, 1, 1))[0])
        else:  # one mask for the queries of a whole batch
            runs.append(naive(network, copies).flatten(0, 1))
    wanted = torch.cat(runs).reshape(count, 4, 3)
    error = (found.var(dim=0) / count + wanted.var(dim=0) / count).sqrt()
    assert ((found.mean(dim=0) - wanted.mean(dim=0)).abs() < 4.5 * error).all()
    ratio = found.var(dim=0) / wanted.var(dim=0)
    assert ratio.min() > 0.85 and ratio.max() < 1.18, ratio
    skew = [(values - values.mean(dim=0)).pow(3).mean(dim=0) / values.std(dim=0) ** 3 for values in (found, wanted)]
    assert (skew[0] - skew[1]).abs().max() < 0.35


@torch.inference_mode()
def test_a_studys_samples_depend_on_seed_and_study_alone():
    network = make("label", "transformer")
    all_of = sample_logits(network, IMAGES, STUDY, VIEW, 4, samples=5, seed=3)
    own = STUDY == 3
    alone = sample_logits(network, IMAGES[own], STUDY[own] - 3, VIEW[own], 1, samples=5, seed=3)
    torch.testing.assert_close(alone[:, 0], all_of[:, 3], rtol=1e-4, atol=1e-5)
    more = sample_logits(network, IMAGES, STUDY, VIEW, 4, samples=8, seed=3)
    torch.testing.assert_close(more[:5], all_of)
    torch.manual_seed(99)  # the global generator is neither used nor changed
    before = torch.get_rng_state()
    assert torch.equal(sample_logits(network, IMAGES, STUDY, VIEW, 4, samples=5, seed=3), all_of)
    assert torch.equal(torch.get_rng_state(), before)
    assert not torch.allclose(sample_logits(network, IMAGES, STUDY, VIEW, 4, samples=5, seed=4), all_of, atol=1e-2)


@torch.inference_mode()
def test_a_head_with_nothing_said_can_be_sampled():
    network = StudyNetwork(Maps(), LinearDecoder())
    network.build(LABELS, 64)
    assert (sample_logits(network.eval(), IMAGES, STUDY, VIEW, 4, samples=9).std(dim=0) > 0).all()


@torch.inference_mode()
def test_little_memory_gives_the_same_samples(monkeypatch):
    network = make("label", "transformer")
    wanted = sample_logits(network, IMAGES, STUDY, VIEW, 4, samples=7)
    monkeypatch.setattr("longview.uncertainty.dropout._NUMBERS", 1)
    torch.testing.assert_close(sample_logits(network, IMAGES, STUDY, VIEW, 4, samples=7), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("decoder", "runs"), [("linear", 10), ("label", 10)])
@torch.inference_mode()
def test_encoder_and_pooling_run_once_and_what_follows_for_all_samples_together(decoder, runs, monkeypatch):
    network = make(decoder)
    shapes = []
    first = network.decoder.readout if decoder == "linear" else network.decoder.embed
    real = nn.functional.linear

    def watched(values, weight, bias=None):
        level = values
        size = 1
        while torch._C._functorch.is_batchedtensor(level):
            level = torch._C._functorch.get_unwrapped(level)
            size = level.numel()
        shapes.append((weight.shape, max(size, level.numel())))
        return real(values, weight, bias)

    monkeypatch.setattr(nn.functional, "linear", watched)
    study, view = torch.arange(6), VIEW
    sample_logits(network, IMAGES, study, view, 6, samples=runs)
    assert network.encoder.passes == 1
    sizes = {size for shape, size in shapes if shape == first.weight.shape}
    # the read-out sees all samples at once; what is before the first dropout no sample at all
    assert sizes == ({runs * 6 * 8} if decoder == "linear" else {6 * 16 * 8})


@torch.inference_mode()
def test_an_encoder_that_drops_is_part_of_what_is_repeated():
    network = make(encoder_dropout=0.4)
    found = sample_logits(network, IMAGES, STUDY, VIEW, 4, samples=3)
    torch.testing.assert_close(found, with_same_masks(network, 3), rtol=1e-4, atol=1e-5)
    only_head = make()
    assert not torch.allclose(found, sample_logits(only_head, IMAGES, STUDY, VIEW, 4, samples=3), atol=1e-2)


@torch.inference_mode()
def test_the_network_is_left_as_it_was_and_its_own_answer_comes_first():
    network = make("label", "transformer")
    statistics = network.encoder.norm.running_mean.clone()
    wanted = network(IMAGES, STUDY, VIEW, 4)
    found = MonteCarlo(4).logits(network, batch())
    assert found.shape == (5, 4, 3)
    assert torch.equal(found[0], wanted)
    assert torch.equal(network(IMAGES, STUDY, VIEW, 4), wanted)
    assert torch.equal(network.encoder.norm.running_mean, statistics)
    assert not any(module.training or "forward" in vars(module) for module in network.modules())
    known = {**batch(IMAGES[:, :, :0, :0]), "features": network.encode(IMAGES)}
    torch.testing.assert_close(MonteCarlo(4).logits(network, known), found)


@torch.inference_mode()
def test_each_sample_is_averaged_over_the_versions_of_the_images():
    network, sampler = make(), MonteCarlo(3)
    found = Averaging(flip=True).predict(sampler.over(network), batch())
    sides = [sampler.logits(network, batch(images)).sigmoid() for images in (IMAGES, IMAGES.flip(-1))]
    torch.testing.assert_close(found, (sides[0] + sides[1]) / 2)


@torch.inference_mode()
def test_under_autocast_samples_are_made_in_the_precision_of_the_weights():
    network = make("label", "transformer")
    wanted = sample_logits(network, IMAGES, STUDY, VIEW, 4, samples=3)
    with torch.autocast("cpu", torch.bfloat16):
        found = sample_logits(network, IMAGES, STUDY, VIEW, 4, samples=3)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, wanted, rtol=0.05, atol=0.1)


class Idle(Network):
    """A network with a dropout that no pass goes through."""

    def __init__(self):
        super().__init__()
        self.unused = nn.Dropout(0.5)
        self.linear = nn.Linear(1, 3)

    def build(self, labels, image_size, weights=True):
        pass

    def forward(self, images, study, view, studies, features=None):
        return self.linear(images.float().mean((1, 2, 3))[:, None])


@torch.inference_mode()
def test_a_network_without_active_dropout_is_refused_by_name():
    network = StudyNetwork(Maps(), LinearDecoder(dropout=0), MaxFusion())
    network.build(LABELS, 64)
    with pytest.raises(
        InputError, match=r"StudyNetwork \(MaxFusion, LinearDecoder\) has no active dropout.*none with p"
    ):
        check(network.eval())
    with pytest.raises(InputError, match=r"decoder.init_args.dropout 0.2.*ensemble --uncertainty"):
        sample_logits(network, IMAGES, STUDY, VIEW, 4)
    with pytest.raises(InputError, match=r"Idle has no active dropout.*goes through none of them"):
        sample_logits(Idle(), IMAGES[:1], STUDY[:1] * 0, VIEW[:1], 1)
    with pytest.raises(InputError, match=r"--samples 1"):
        MonteCarlo(1)


def test_timms_functional_dropout_does_not_count():
    network = StudyNetwork(Encoder("test_resnet", drop_path=0.2), LinearDecoder(dropout=0))
    network.build(LABELS, 64)
    vars(network.encoder.model)["drop_rate"] = 0.5
    with pytest.raises(InputError, match="has no active dropout"):
        check(network)


def test_gradients_pass_through_samples():
    network = make()
    with torch.inference_mode():
        sampler = MonteCarlo(3)
        plain = sampler.sample(network, IMAGES, STUDY, VIEW, 4, network.encode(IMAGES))
    features = network.encode(IMAGES).detach().requires_grad_()
    found = sampler.sample(network, IMAGES, STUDY, VIEW, 4, features)
    torch.testing.assert_close(found, plain)
    found.mean().backward()
    assert features.grad.abs().sum() > 0


def test_a_study_without_an_image_is_refused():
    with pytest.raises(ValueError, match="no image"):
        sample_logits(make(), IMAGES, STUDY + 1, VIEW, 5)
