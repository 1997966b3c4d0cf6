import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from longview import VIEWS, InputError
from longview.labels import Label, LabelSet
from longview.models.decoder import LabelDecoder, LinearDecoder
from longview.models.fusion import (
    AttentionFusion,
    MaxFusion,
    MeanFusion,
    TransformerFusion,
    WeightedFusion,
    tokens_of,
)
from longview.optim import decay_groups

CHANNELS, HEIGHT, WIDTH = 24, 4, 3
LABELS = LabelSet("test", [Label("Cardiomegaly"), Label("Edema"), Label("Hernia")])
SMALL = {"width": 32, "heads": 4, "feedforward": 48}
FUSIONS = {
    "mean": MeanFusion,
    "max": MaxFusion,
    "weighted": WeightedFusion,
    "attention": lambda: AttentionFusion(8),
    "transformer": lambda: TransformerFusion(**SMALL),
    "transformer, same width": lambda: TransformerFusion(**{**SMALL, "width": CHANNELS}),
    "transformer, reduced": lambda: TransformerFusion(**SMALL, reduce=True, embedding="none"),
    "transformer, slots": lambda: TransformerFusion(**SMALL, embedding="slot", slots=2),
    "transformer, padded": lambda: TransformerFusion(**SMALL, pad=True),
    "transformer, each view alone": lambda: TransformerFusion(**SMALL, across=False),
    "transformer, padded slots": lambda: TransformerFusion(**SMALL, embedding="slot", pad=True),
}
TRANSFORMERS = [name for name in FUSIONS if name.startswith("transformer")]
EACH = pytest.mark.parametrize("name", FUSIONS)
EACH_TRANSFORMER = pytest.mark.parametrize("name", TRANSFORMERS)
COUNTS = st.lists(st.integers(1, 5), min_size=1, max_size=5)
few = settings(deadline=None, derandomize=True, max_examples=8)
close = torch.testing.assert_close


def decoder_of(channels, kind="label"):
    torch.manual_seed(1)
    decoder = LabelDecoder(**SMALL) if kind == "label" else LinearDecoder()
    decoder.build(channels, LABELS)
    return decoder


class Fused(torch.nn.Module):
    """A fusion with its decoder."""

    def __init__(self, fusion, kind="label"):
        super().__init__()
        torch.manual_seed(0)
        self.fusion = fusion
        self.decoder = decoder_of(fusion.build(CHANNELS), kind)

    def forward(self, features, study, view, studies):
        return self.fusion(features, study, view, studies, self.decoder)


def fused(name, kind="label"):
    return Fused(FUSIONS[name](), kind).eval()


def batch(counts=(2, 1, 3), seed=0):
    """Features of studies of so many views, in mixed order."""
    generator = torch.Generator().manual_seed(seed)
    study = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    study = study[torch.randperm(len(study), generator=generator)]
    features = torch.randn(len(study), CHANNELS, HEIGHT, WIDTH, generator=generator)
    view = torch.randint(0, len(VIEWS), (len(study),), generator=generator)
    return features, study, view, len(counts)


def alone(model, row, features, study, view):
    mine = study == row
    return model(features[mine], torch.zeros(int(mine.sum()), dtype=torch.int64), view[mine], 1)[0]


# ---- what every fusion keeps ---------------------------------------------------------------------------------------


@EACH
@given(counts=COUNTS, seed=st.integers(0, 99))
@few
def test_a_study_alone_scores_as_in_any_batch(name, counts, seed):
    model = fused(name)
    features, study, view, studies = batch(counts, seed)
    with torch.no_grad():
        logits = model(features, study, view, studies)
        assert logits.shape == (studies, 3)
        assert logits.dtype == torch.float32
        assert logits.isfinite().all()
        for row in range(studies):
            close(logits[row], alone(model, row, features, study, view), rtol=1e-4, atol=1e-5)


@EACH
@given(seed=st.integers(0, 99))
@few
def test_order_of_studies_and_views_changes_nothing_but_the_order_of_rows(name, seed):
    model = fused(name)
    features, study, view, studies = batch((2, 1, 3, 2), seed)
    images, rows = torch.randperm(len(study)), torch.randperm(studies)
    if "slots" in name:  # a slot is a place in the batch's order, within the study
        images = torch.cat([(study == row).nonzero()[:, 0] for row in rows])
    with torch.no_grad():
        expected = model(features, study, view, studies)
        found = model(features[images], rows[study[images]], view[images], studies)
    close(found[rows], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", [name for name in FUSIONS if name != "max"])
def test_each_view_matters_to_its_study_and_to_no_other(name):
    model = fused(name)
    features, study, view, studies = batch((2, 1, 3, 4))
    with torch.no_grad():
        before = model(features, study, view, studies)
        for image in range(len(study)):
            changed = features.clone()
            changed[image] = -changed[image]
            moved = (model(changed, study, view, studies) - before).abs().amax(dim=1)
            mine = torch.arange(studies) == study[image]
            assert (moved[mine] > 1e-4).all()
            assert (moved[~mine] < 1e-5).all()


@EACH
def test_a_study_of_one_view_scores_as_that_image_would_without_fusion_of_others(name):
    model = fused(name)
    features, study, view, studies = batch((1, 1, 3, 1))
    with torch.no_grad():
        together = model(features, study, view, studies)
        single = model(features, torch.arange(6), view, 6)
        if name in {"mean", "max", "weighted", "attention"}:
            close(single, model.decoder(tokens_of(features, position=True)), rtol=1e-4, atol=1e-5)
    for row in (0, 1, 3):
        close(together[row], single[study == row][0], rtol=1e-4, atol=1e-5)


@EACH
@pytest.mark.parametrize("training", [False, True])
def test_a_forward_pass_changes_no_parameter_and_no_input(name, training):
    model = fused(name).train(training)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    given_batch = batch()
    copies = [value.clone() for value in given_batch[:3]]
    logits = model(*given_batch)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert all(torch.equal(copy, value) for copy, value in zip(copies, given_batch, strict=False))
    assert logits.std(dim=0).min() > 1e-4  # the studies are not made all alike


@EACH
def test_half_precision_scores_like_single_and_keeps_studies_apart(name):
    model = fused(name)
    features, study, view, studies = batch((2, 1, 3, 2))
    with torch.no_grad():
        single = model(features, study, view, studies)
        with torch.autocast("cpu", torch.bfloat16):
            half = model(features, study, view, studies)
            separate = torch.stack([alone(model, row, features, study, view) for row in range(studies)])
            from_half = model(features.bfloat16(), study, view, studies)
    assert half.dtype == from_half.dtype == torch.float32
    close(half, single, rtol=0.05, atol=0.05)
    close(from_half, single, rtol=0.05, atol=0.05)
    close(separate, half, rtol=0.02, atol=0.02)


@EACH
@pytest.mark.parametrize("kind", ["label", "linear"])
def test_every_trainable_parameter_learns(name, kind):
    model = fused(name, kind).train()
    features, study, _, studies = batch((2, 1, 3, 2))
    model(features, study, torch.arange(8) % 4, studies).square().sum().backward()
    assert [key for key, value in model.named_parameters() if value.grad is None or not value.grad.any()] == []
    assert all(value.grad.isfinite().all() for value in model.parameters())


@EACH
def test_no_parameter_is_unused_where_all_studies_have_one_frontal_view(name):
    model = fused(name).train()
    features, study, _, studies = batch((1, 1, 1))
    model(features, study, torch.zeros(3, dtype=torch.int64), studies).square().sum().backward()
    assert [key for key, value in model.named_parameters() if value.grad is None] == []


@pytest.mark.parametrize(
    ("name", "matters"),
    [
        ("mean", False),
        ("max", False),
        ("weighted", True),
        ("attention", True),
        ("transformer", True),
        ("transformer, padded", True),
        ("transformer, reduced", False),  # embedding "none"
        ("transformer, slots", False),
    ],
)
def test_view_types_matter_to_those_fusions_that_say_so(name, matters):
    model = fused(name)
    features, study, _, studies = batch((2, 3))
    with torch.no_grad():
        scores = [model(features, study, torch.tensor([code, 0, 0, 0, 0]), studies) for code in range(len(VIEWS))]
    for code in (1, 2, 3):
        same_weight = name == "weighted" and VIEWS[code] == "AP"
        moved = (scores[code] - scores[0])[study[0]].abs().max()
        assert (moved > 1e-5) == (matters and not same_weight)


@EACH
def test_a_study_without_image_is_refused(name):
    model = fused(name)
    features, study, view, studies = batch((2, 1))
    with pytest.raises(ValueError, match="study 2 of the batch's 3 has no image"):
        model(features, study, view, studies + 1)
    with pytest.raises(ValueError, match="study 0 of the batch's 1 has no image"):
        model(features[:0], study[:0], view[:0], 1)


@EACH
@pytest.mark.parametrize("kind", ["label", "linear"])
def test_a_blank_view_is_a_view_not_padding(name, kind):
    model = fused(name, kind)
    features, study, view, _ = batch((2,))
    blank = torch.zeros_like(features[:1])
    with torch.no_grad():
        one = model(features[:1], study[:1], view[:1], 1)
        two = model(torch.cat([features[:1], blank]), study, view[:1].expand(2), 1)
    assert (two - one).abs().max() > 1e-4


# ---- pooling of views ------------------------------------------------------------------------------------------------


@given(counts=COUNTS, seed=st.integers(0, 99))
@few
def test_mean_maximum_and_weighted_mean_are_what_their_names_say(counts, seed):
    features, study, view, studies = batch(counts, seed)
    decoder = decoder_of(CHANNELS).eval()
    with torch.no_grad():
        each = decoder(tokens_of(features, position=True)).double()
        found = {name: fused(name)(features, study, view, studies) for name in ("mean", "max", "weighted")}
    weights = torch.tensor([7.0, 7.0, 3.0, 5.0], dtype=torch.float64)[view]
    for row in range(studies):
        mine = study == row
        close(found["mean"][row].double(), each[mine].mean(0), rtol=1e-4, atol=1e-5)
        close(found["max"][row].double(), each[mine].amax(0), rtol=1e-4, atol=1e-5)
        share = (weights[mine] / weights[mine].sum())[:, None]
        close(found["weighted"][row].double().sigmoid(), (share * each[mine].sigmoid()).sum(0), rtol=1e-4, atol=1e-5)


def test_weighted_mean_is_exact_where_probabilities_round_to_0_and_1():
    fusion = WeightedFusion(pa=3, lateral=1)
    logits = torch.tensor([[200.0, -200.0, 200.0, 50.0], [200.0, -200.0, -200.0, -50.0]], requires_grad=True)
    features, study, view = torch.zeros(2, 1, 1, 1), torch.tensor([0, 0]), torch.tensor([0, 2])
    found = fusion.pool(logits, features, study, view, 1)
    close(found, torch.tensor([[200.0, -200.0, math.log(3), math.log(3)]]))
    found.sum().backward()
    assert logits.grad.isfinite().all()
    close(logits.grad[:, 0], torch.tensor([0.75, 0.25]))


def test_attention_weights_sum_to_one_over_a_study_and_start_from_the_mean():
    model = fused("attention")
    features, study, view, studies = batch((1, 2, 4))
    with torch.no_grad():
        weights = model.fusion.weights(features, study, view, studies)
        close(torch.zeros(3).index_add(0, study, weights), torch.ones(3))
        assert weights[study == 0].item() == pytest.approx(1)
        assert weights[study == 2].std() > 1e-4
        model.fusion.score.weight.zero_()
        close(model(features, study, view, studies), fused("mean")(features, study, view, studies))
        model.fusion.score.weight.fill_(1e4)
        assert model(features, study, view, studies).isfinite().all()


def test_fusions_without_parameters_share_their_checkpoints():
    assert all(not fused(name).fusion.state_dict() for name in ("mean", "max", "weighted"))


# ---- the transformer -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("embedding", ["view", "slot", "none"])
@given(counts=COUNTS, seed=st.integers(0, 99))
@few
def test_one_padded_pass_scores_as_groups_without_padding(embedding, counts, seed):
    grouped = Fused(TransformerFusion(**SMALL, embedding=embedding)).eval()
    padded = Fused(TransformerFusion(**SMALL, embedding=embedding, pad=True)).eval()
    padded.load_state_dict(grouped.state_dict())
    with torch.no_grad():
        close(padded(*batch(counts, seed)), grouped(*batch(counts, seed)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["label", "linear"])
def test_what_padding_holds_has_no_effect(kind):
    model = fused("transformer", kind)
    tokens = torch.randn(3, 12, 32)
    padding = torch.arange(12) >= torch.tensor([12, 8, 4])[:, None]
    noise = torch.where(padding[:, :, None], 1e3 * torch.randn(3, 12, 32), tokens)

    def logits(values):
        return model.decoder(model.fusion.attend(values, padding), padding)

    for gradients in (False, True):  # torch takes another path without gradients
        with torch.set_grad_enabled(gradients):
            close(logits(noise), logits(tokens), rtol=0, atol=1e-6)
            assert (model.fusion.attend(noise, None) - model.fusion.attend(tokens, None))[~padding].abs().max() > 1e-3


def test_no_study_of_a_padded_batch_can_spoil_another():
    model = fused("transformer, padded")
    features, study, view, studies = batch((3, 1, 2))
    features[study == 0] = math.nan
    with torch.no_grad():
        assert model(features, study, view, studies)[1:].isfinite().all()


@EACH_TRANSFORMER
def test_tokens_of_one_view_look_at_those_of_another(name):
    model = fused(name)
    tokens = torch.randn(2, 8, model.fusion.width)
    changed = tokens.clone()
    changed[0, 4:] = torch.randn(4, model.fusion.width)
    moved = (model.fusion.attend(changed, None) - model.fusion.attend(tokens, None)).abs().amax(dim=2)
    assert (moved[0, :4] > 1e-4).all()
    assert moved[1].max() < 1e-6


@EACH_TRANSFORMER
@pytest.mark.parametrize("kind", ["label", "linear"])
@pytest.mark.parametrize("dim", [2, 3])
def test_where_a_feature_is_along_rows_and_columns_reaches_the_logits(name, kind, dim):
    model = fused(name, kind)
    features, study, view, studies = batch()
    with torch.no_grad():
        moved = model(features.flip(dim), study, view, studies) - model(features, study, view, studies)
    assert moved.abs().amax(dim=1).min() > 1e-5


def test_a_slot_is_the_place_within_the_study_and_late_ones_share_the_last():
    model = fused("transformer, slots")  # two slots
    features, study, view, _ = batch((4,))
    features[0], features[1] = features[1] + 2, features[0] - 2
    with torch.no_grad():
        logits = model(features, study, view, 1)
        swapped = {pair: model(features[list(pair)], study, view, 1) for pair in ((1, 0, 2, 3), (0, 1, 3, 2))}
    assert (swapped[1, 0, 2, 3] - logits).abs().max() > 1e-5
    close(swapped[0, 1, 3, 2], logits, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("reduce", "side", "expected"), [(False, (4, 3), 12), (True, (4, 3), 4), (True, (1, 1), 1)])
def test_token_reduction_halves_rows_and_columns(reduce, side, expected):
    fusion = TransformerFusion(**SMALL, reduce=reduce)
    assert fusion.build(CHANNELS) == 32
    tokens = fusion.tokens(torch.randn(2, CHANNELS, *side), torch.tensor([0, 2]), torch.tensor([0, 1]))
    assert tokens.shape == (2, expected, 32)


def test_features_of_the_right_width_are_not_projected():
    fusion = TransformerFusion(width=CHANNELS, heads=4)
    assert fusion.build(CHANNELS) == CHANNELS
    assert not any("project" in name for name, _ in fusion.named_parameters())


def test_a_single_study_needs_nothing_from_the_host(monkeypatch):
    model = fused("transformer")
    monkeypatch.setattr(TransformerFusion, "_group", None)
    assert model(*batch((3,))).isfinite().all()


@EACH_TRANSFORMER
def test_images_are_arranged_before_there_are_features(name):
    model = fused(name)
    features, study, view, studies = batch((2, 1, 3, 2))
    arrangement = model.fusion.arrange(study, studies)
    seen = torch.cat([group.images.flatten() for group in arrangement.groups])
    if "padded" not in name:
        assert sorted(seen.tolist()) == list(range(8))  # every image once: no padding
        assert len(arrangement.groups) == 3
    with torch.no_grad():
        found = model.fusion(features, study, view, studies, model.decoder, arrangement)
        close(found, model(features, study, view, studies))


def test_views_that_are_not_attended_across_count_as_studies_of_their_own():
    model = fused("transformer, each view alone")
    features, study, view, studies = batch((2, 1, 3))
    with torch.no_grad():
        each = model(features, torch.arange(len(study)), view, len(study))
        found = model(features, study, view, studies)
    close(found, torch.stack([each[study == row].mean(dim=0) for row in range(studies)]))


def test_view_embeddings_do_not_decay():
    for name in ("attention", "transformer"):
        model = fused(name)
        embedding = model.fusion.view if name == "attention" else model.fusion.origin
        spared = decay_groups(model, 0.1)[1]["params"]
        assert any(parameter is embedding.weight for parameter in spared)


def test_constructors_make_no_parameter_and_refuse_nonsense():
    for make in FUSIONS.values():
        assert list(make().parameters()) == []
    with pytest.raises(InputError, match="TransformerFusion: width 100 is not a multiple of heads 8"):
        TransformerFusion(width=100)
    with pytest.raises(InputError, match="layers must be at least 1, found 0"):
        TransformerFusion(layers=0)
    with pytest.raises(InputError, match="weight of lateral must be above 0 and finite, found 0"):
        WeightedFusion(lateral=0)
    with pytest.raises(InputError, match="width must be at least 1, found 0"):
        AttentionFusion(0)


@pytest.mark.parametrize("name", ["width", "layers", "heads", "feedforward", "slots"])
def test_a_size_below_one_is_refused(name):
    with pytest.raises(InputError, match=rf"TransformerFusion: {name} must be at least 1, found 0"):
        TransformerFusion(**{name: 0})


@pytest.mark.parametrize("dropout", [-0.1, 1.0, 2])
def test_a_dropout_that_is_no_share_is_refused(dropout):
    with pytest.raises(InputError, match="TransformerFusion: dropout must be in"):
        TransformerFusion(dropout=dropout)


@pytest.mark.parametrize("fusion", [MeanFusion, MaxFusion, AttentionFusion, WeightedFusion])
def test_views_are_pooled_in_networks_of_half_precision_too(fusion):
    pooling = fusion()
    pooling.build(8)
    pooling.to(torch.bfloat16)
    features = torch.randn(3, 8, 2, 2, dtype=torch.bfloat16)
    study, view = torch.tensor([0, 0, 1]), torch.tensor([0, 2, 1])
    pooled = pooling.pool(torch.randn(3, 5), features, study, view, 2)
    assert pooled.shape == (2, 5) and pooled.dtype == torch.float32 and pooled.isfinite().all()
