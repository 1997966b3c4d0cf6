import logging

import pytest
import torch
from safetensors.torch import save_file

from longview import InputError
from longview.labels import Label, LabelSet
from longview.models.decoder import LabelDecoder, LinearDecoder
from longview.models.encoder import Encoder
from longview.models.label_text import LabelText
from longview.models.network import StudyNetwork
from longview.models.prior import ClassPrior
from longview.models.queries import LearnedQueries, TextQueries
from longview.models.transfer import build_from, freeze, take_over, warn_of_random

MINE = LabelSet("mine", [Label("Mass"), Label("Edema"), Label("Nodule")])
PERMUTED = LabelSet("theirs", [Label("Nodule"), Label("Mass"), Label("Edema")])
OTHER = LabelSet("other", [Label("Hernia"), Label("Nodule"), Label("Mass")])
STRANGE = LabelSet("strange", [Label("Cyst"), Label("Scar"), Label("Bulla")])


def text(tmp_path, **options):
    return TextQueries(LabelText("random", cache=str(tmp_path)), **options)


def decoder(**options):
    return LabelDecoder(**{"width": 16, "heads": 2, "feedforward": 8, "dropout": 0.0, **options})


def network(labels=MINE, seed=0, made=decoder, encoder="test_resnet", **options):
    """A built network whose every tensor is random, biases included."""
    torch.manual_seed(seed)
    result = StudyNetwork(Encoder(encoder), made(**options))
    result.build(labels, 32)
    with torch.no_grad():
        for value in result.parameters():
            value.normal_(std=0.3)
    return result.eval()


def batch(studies=3):
    pixels = torch.randint(0, 256, (studies, 1, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    return pixels, torch.arange(studies), torch.zeros(studies, dtype=torch.int64), studies


def logits(model):
    with torch.no_grad():
        return model(*batch())


def same(one, other):
    return torch.equal(one, other)


# ---- by name ---------------------------------------------------------------------------------------------------


def test_the_same_network_is_taken_over_whole():
    stage1, stage2 = network(seed=1), network(seed=2)
    result = take_over(stage2, stage1.state_dict(), MINE, MINE)
    torch.testing.assert_close(logits(stage2), logits(stage1))
    assert result.whole == set(stage2.state_dict())
    assert not (result.missing or result.unused or result.unfit or result.fresh)
    assert result.covers(stage2, "encoder") and result.covers(stage2, "decoder")


@pytest.mark.parametrize(
    "made",
    [LinearDecoder, decoder, lambda: decoder(queries=LearnedQueries(train=False))],
    ids=["linear", "own", "fixed"],
)
def test_rows_of_labels_in_another_order_are_matched_by_name(made):
    stage1, stage2 = network(PERMUTED, seed=1, made=made), network(MINE, seed=2, made=made)
    result = take_over(stage2, stage1.state_dict(), PERMUTED, MINE)
    order = [PERMUTED.names.index(name) for name in MINE.names]
    torch.testing.assert_close(logits(stage2), logits(stage1)[:, order])
    assert not torch.allclose(logits(stage2), logits(stage1))
    assert result.by_label and result.fresh == []
    assert result.covers(stage2, "decoder")


def test_labels_that_the_checkpoint_lacks_are_left_as_initialised_and_named(caplog):
    stage1, stage2 = network(OTHER, seed=1), network(MINE, seed=2)
    before = stage2.decoder.readout.clone()
    with caplog.at_level(logging.INFO):
        result = take_over(stage2, stage1.state_dict(), OTHER, MINE)
        result.report("stage1.ckpt")
    for mine, theirs in (("Mass", 2), ("Nodule", 1)):
        assert same(stage2.decoder.readout[MINE.names.index(mine)], stage1.decoder.readout[theirs])
    assert same(stage2.decoder.readout[1], before[1])
    assert result.fresh == ["Edema"]
    assert not result.covers(stage2, "decoder") and result.covers(stage2, "encoder")
    assert "does not know, left as initialised: Edema" in caplog.text
    torch.testing.assert_close(logits(stage2)[:, 2], logits(stage1)[:, 1])


def test_no_label_in_common_takes_the_encoder_and_no_row():
    stage1, stage2 = network(STRANGE, seed=1), network(MINE, seed=2)
    before = stage2.decoder.readout.clone()
    result = take_over(stage2, stage1.state_dict(), STRANGE, MINE)
    assert same(stage2.decoder.readout, before)
    assert result.covers(stage2, "encoder")
    assert "decoder.readout" not in result.matched
    assert result.fresh == MINE.names


def test_queries_that_labels_share_are_left_out_where_the_label_sets_differ(monkeypatch, caplog):
    monkeypatch.setattr(LearnedQueries, "MAX_QUERIES", 2)
    stage1, stage2 = network(PERMUTED, seed=1), network(MINE, seed=2)
    before = stage2.decoder.queries.vectors.clone()
    result = take_over(stage2, stage1.state_dict(), PERMUTED, MINE)
    assert set(result.unfit) == {"decoder.readout", "decoder.queries.vectors"}
    assert same(stage2.decoder.queries.vectors, before)
    result.report("x")
    assert "left as initialised: decoder.readout, since labels share its rows" in caplog.text
    alike = take_over(stage2, stage1.state_dict(), MINE, MINE)
    assert not alike.unfit  # the same labels share the same queries


@pytest.mark.parametrize("shared", ["theirs", "mine"])
def test_queries_shared_on_one_side_only_are_never_taken_for_rows(shared, monkeypatch):
    four = LabelSet("four", [Label(name) for name in ("Mass", "Edema", "Nodule", "Cyst")])
    two = LabelSet("two", [Label("Edema"), Label("Mass")])
    theirs, mine = (four, two) if shared == "theirs" else (two, four)
    monkeypatch.setattr(LearnedQueries, "MAX_QUERIES", 2)  # both have two query vectors
    stage1, stage2 = network(theirs, seed=1), network(mine, seed=2)
    before = stage2.decoder.queries.vectors.clone()
    result = take_over(stage2, stage1.state_dict(), theirs, mine)
    assert same(stage2.decoder.queries.vectors, before)
    assert "decoder.queries.vectors" in result.unfit


def test_the_class_prior_is_matched_by_name_too():
    ours, theirs = ClassPrior(), ClassPrior()
    ours.build(MINE, 32)
    theirs.build(PERMUTED, 32)
    theirs.bias.data = torch.tensor([1.0, 2.0, 3.0])
    take_over(ours, theirs.state_dict(), PERMUTED, MINE)
    assert ours.bias.tolist() == [2.0, 3.0, 1.0]


# ---- label text ------------------------------------------------------------------------------------------------


def test_text_queries_take_over_what_was_learned_and_keep_their_own_text(tmp_path):
    worded = LabelSet("worded", [Label("Edema", ["fluid in the lung"]), Label("Mass")])
    options = {"residual": True}
    stage1 = network(MINE, seed=1, queries=text(tmp_path, **options), readout="shared")
    stage2 = network(worded, seed=2, queries=text(tmp_path, **options), readout="shared")
    before = {key: value.clone() for key, value in stage2.decoder.queries.state_dict().items()}
    result = take_over(stage2, stage1.state_dict(), MINE, worded)
    ours, theirs = stage2.decoder.queries, stage1.decoder.queries
    assert same(ours.embeddings, before["embeddings"]) and same(ours.prompt_hashes, before["prompt_hashes"])
    assert same(ours.projection, theirs.projection) and same(ours.centre, theirs.centre)
    assert same(ours.residual, theirs.residual[[1, 0]])
    torch.testing.assert_close(logits(stage2)[:, 1], logits(stage1)[:, 0])  # Mass, whose prompts are the same
    assert not result.unfit and not result.missing


def test_the_map_of_another_text_encoder_is_not_taken_over(tmp_path, caplog):
    stage1, stage2 = (network(MINE, seed=seed, queries=text(tmp_path), readout="shared") for seed in (1, 2))
    before = stage2.decoder.queries.projection.clone()
    state = stage1.state_dict()
    state["decoder.queries.probe"] = torch.randn(len(state["decoder.queries.probe"]))
    result = take_over(stage2, state, MINE, MINE)
    assert same(stage2.decoder.queries.projection, before)
    assert set(result.unfit) == {f"decoder.queries.{key}" for key in ("projection", "offset", "centre")}
    result.report("x")
    assert "another text encoder" in caplog.text


# ---- what does not match ---------------------------------------------------------------------------------------


def test_the_report_names_modules_and_what_is_missing_unused_or_of_another_shape(caplog):
    stage1 = network(seed=1, made=LinearDecoder)
    stage2 = network(seed=2)
    with caplog.at_level(logging.INFO):
        take_over(stage2, stage1.state_dict(), MINE, MINE).report("runs/a/version_0/checkpoints/best.ckpt")
    count = len(stage2.encoder.state_dict())
    assert (
        f"best.ckpt: took over decoder 0 of {len(stage2.decoder.state_dict())} tensors, encoder {count} of {count}"
        in (caplog.text)
    )
    assert "left as initialised: " in caplog.text
    assert "in the checkpoint, but not used: 2 of decoder (decoder.readout.weight, decoder.readout.bias)" in caplog.text


def test_another_shape_is_named(caplog):
    stage1, stage2 = network(seed=1, width=32), network(seed=2)
    result = take_over(stage2, stage1.state_dict(), MINE, MINE)
    result.report("x")
    channels = stage2.encoder.channels
    assert f"decoder.embed.weight, since it is 32x{channels} in the checkpoint and 16x{channels} here" in caplog.text


def test_nothing_that_matches_is_an_error():
    stage1, stage2 = network(seed=1, encoder="test_vit", made=LinearDecoder), network(seed=2)
    with pytest.raises(InputError, match=r"a\.ckpt holds no parameter of this network.*encoder\.model\.pos_embed"):
        take_over(stage2, stage1.state_dict(), MINE, MINE, "a.ckpt")


# ---- building --------------------------------------------------------------------------------------------------


def unbuilt(pretrained, name="test_resnet"):
    return StudyNetwork(Encoder(name, pretrained=pretrained), decoder())


def test_an_encoder_in_the_checkpoint_needs_no_weights_of_its_own():
    stage1, stage2 = network(seed=1), unbuilt("/no/such/file.safetensors")
    build_from(stage2, MINE, 32, stage1.state_dict(), MINE)
    torch.testing.assert_close(logits(stage2.eval()), logits(stage1))
    assert stage2.encoder.pretrained == "/no/such/file.safetensors"


def test_an_encoder_that_the_checkpoint_lacks_reads_its_own_weights(tmp_path):
    file = tmp_path / "weights.safetensors"
    whole = network(seed=3).encoder.model
    save_file({key: value.contiguous() for key, value in whole.state_dict().items()}, file)
    stage1, stage2 = network(seed=1, encoder="test_vit"), unbuilt(str(file))
    state = {key: value for key, value in stage1.state_dict().items() if "embed" not in key}
    result = build_from(stage2, MINE, 32, state, MINE)
    assert not result.covers(stage2, "encoder")
    assert same(stage2.encoder.model.layer1[0].conv1.weight, whole.layer1[0].conv1.weight)
    assert same(stage2.decoder.readout, stage1.decoder.readout)


# ---- freezing --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["encodr"], r"StudyNetwork has no part 'encodr'; it has encoder, decoder, fusion"),
        (["encoder.model.stm"], r"encoder\.model has no part 'stm'; it has conv1.*in 'encoder\.model\.stm'"),
        ([""], r"StudyNetwork has no part ''"),
        (["encoder", "decoder"], r"nothing is left to train with encoder, decoder frozen"),
    ],
)
def test_a_part_that_cannot_be_frozen(names, message):
    with pytest.raises(InputError, match=message):
        freeze(network(), names)


def test_a_part_of_a_part_is_frozen_alone():
    model = network()
    freeze(model, ["encoder.model.layer1"])
    frozen = {name for name, value in model.named_parameters() if not value.requires_grad}
    assert frozen == {f"encoder.model.layer1.{name}" for name, _ in model.encoder.model.layer1.named_parameters()}


def test_freezing_random_weights_is_told(caplog):
    model = network()
    warn_of_random(model, ["encoder"], {name for name, _ in model.named_parameters()})
    model.encoder.pretrained = True
    warn_of_random(model, ["encoder", "encoder.model.layer1"], set())
    assert not caplog.records
    warn_of_random(model, ["decoder"], {"decoder.bias"})
    assert "decoder has random weights" in caplog.text


def test_a_checkpoint_of_another_encoder_cannot_be_frozen():
    with pytest.raises(InputError, match=r"model.freeze: .* holds nothing of encoder that fits, .* stay random"):
        warn_of_random(network(), ["encoder"], {"decoder.bias"})
