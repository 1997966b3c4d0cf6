import copy
import io

import pytest
import torch
from jsonargparse import ArgumentParser

from longview import InputError
from longview.labels import Label, LabelSet
from longview.models import label_text
from longview.models.decoder import Decoder, LabelDecoder
from longview.models.label_text import LabelText
from longview.models.queries import LearnedQueries, TextQueries

RANDOM = LabelText("random")
ABSENT = LabelText("/no/such/encoder")


def label_set(*names, unseen=()):
    return LabelSet("test", [Label(name, unseen=name in unseen) for name in names])


def built(queries, labels, width=32, weights=True):
    torch.manual_seed(0)
    queries.build(labels, width, weights)
    return queries


def through_a_file(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


VARIANTS = [
    {},
    {"project": False},
    {"residual": True},
    {"center": False},
    {"project": False, "residual": True, "center": False},
]
EACH = pytest.mark.parametrize("options", VARIANTS)


# ---- learned -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "queries", "share"), [(1, 1, 1), (100, 100, 1), (101, 51, 2), (250, 84, 3)])
def test_up_to_a_hundred_labels_have_a_query_each_and_more_share_evenly(count, queries, share):
    learned = built(LearnedQueries(), label_set(*map(str, range(count))))
    assert learned().shape == (queries, 32)
    assert learned.share == share
    assert learned.per_label() == (["vectors"] if share == 1 else [])


def test_learned_queries_learn_unless_told_not_to(labels):
    assert built(LearnedQueries(), labels)().requires_grad
    frozen = built(LearnedQueries(train=False), labels)
    assert not frozen().requires_grad
    assert list(frozen.state_dict()) == ["vectors"]


def test_learned_queries_have_nothing_for_another_label(labels):
    queries = built(LearnedQueries(), labels)
    assert not queries.open_vocabulary
    with pytest.raises(InputError, match=r"LearnedQueries has queries only for the labels .*TextQueries"):
        queries.set_labels(labels)


# ---- text --------------------------------------------------------------------------------------------------


@EACH
def test_one_query_per_seen_label_of_the_same_scale_whatever_the_variant(options, labels):
    queries = built(TextQueries(RANDOM, **options), labels)
    found = queries()
    assert found.shape == (4, 32)
    assert found.dtype == torch.float32
    assert 0.7 < found.std() < 1.4  # as learned queries start
    assert queries.open_vocabulary


@pytest.mark.parametrize("width", [384, 400, 1024])
def test_a_fixed_map_keeps_inner_products_where_there_is_room(width):
    labels = label_set(*"abcdef")
    queries = built(TextQueries(RANDOM, project=False, center=False), labels, width)
    text = RANDOM.embed(labels.prompts)
    torch.testing.assert_close(queries() @ queries().T, width * text @ text.T, rtol=1e-4, atol=1e-3 * width)
    assert list(queries.parameters()) == []
    if width == 384:
        torch.testing.assert_close(queries(), text * 384**0.5)
    again = TextQueries(RANDOM, project=False, center=False)
    torch.manual_seed(7)
    again.build(labels, width)
    assert torch.equal(again(), queries())


def test_what_seen_labels_have_in_common_is_taken_off_all_labels(labels):
    queries = built(TextQueries(RANDOM, project=False), labels, 384)
    text = RANDOM.embed({name: [name] for name in [*labels.names, *labels.unseen_names]})
    centre = text[:4].mean(0)  # not that of the unseen label
    expected = torch.nn.functional.normalize(text - centre, dim=1) * 384**0.5
    torch.testing.assert_close(queries(), expected[:4], rtol=1e-4, atol=1e-4)
    queries.set_labels(labels)
    torch.testing.assert_close(queries(), expected, rtol=1e-4, atol=1e-4)
    queries.set_labels(label_set("Cyst", "Hernia"))  # another set is centred on the same point
    torch.testing.assert_close(queries(), expected[[4, 3]], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("names", [["a"], ["a", "b"]])
def test_too_few_labels_to_centre_still_have_finite_queries(names):
    twins = LabelSet("twins", [Label(name, prompts=["the same"]) for name in names])
    found = built(TextQueries(RANDOM), twins)()
    assert found.isfinite().all()
    assert found.norm(dim=1).min() > 1


def test_labels_with_the_same_prompts_are_named(caplog):
    built(TextQueries(RANDOM), LabelSet("x", [Label("a", ["same"]), Label("b", ["same"]), Label("c")]))
    assert "labels 'a' and 'b' have the same prompts" in caplog.text


def test_the_residual_starts_at_zero_learns_and_is_none_of_an_unseen_label(labels):
    plain, queries = built(TextQueries(RANDOM), labels), built(TextQueries(RANDOM, residual=True), labels)
    assert torch.equal(plain(), queries())
    queries().sum().backward()
    assert [name for name, value in queries.named_parameters() if value.grad is None or not value.grad.any()] == []
    torch.nn.init.normal_(queries.residual)
    queries.set_labels(label_set("Hernia", "new", "Cyst"))
    plain.set_labels(label_set("Hernia", "new", "Cyst"))
    torch.testing.assert_close(queries() - plain(), torch.stack([queries.residual[3], *torch.zeros(2, 32)]))


def test_order_follows_names_and_never_position(labels):
    queries = built(TextQueries(RANDOM, residual=True), labels)
    torch.nn.init.normal_(queries.residual)
    trained = dict(zip(labels.names, queries().detach(), strict=True))
    other = label_set("Hernia", "Cyst", "Support Devices", unseen=["Hernia"])
    queries.set_labels(other)
    found = dict(zip(["Cyst", "Support Devices", "Hernia"], queries().detach(), strict=True))
    for name in ("Support Devices", "Hernia"):
        torch.testing.assert_close(found[name], trained[name])


def test_known_prompts_need_no_encoder_and_unknown_ones_name_their_labels(labels):
    queries = built(TextQueries(RANDOM), labels)
    queries.text = ABSENT
    queries.set_labels(LabelSet("renamed", [Label("Effusion", prompts=["Pleural Effusion"]), Label("Cyst")]))
    before = queries().detach()
    with pytest.raises(InputError, match=r"no embeddings are known of Mass: .*/no/such/encoder"):
        queries.set_labels(label_set("Cyst", "Mass"))
    assert torch.equal(queries(), before)  # what failed changed nothing
    queries.set_labels(labels)
    assert queries().shape == (5, 32)


def test_changed_prompts_of_an_untrained_label_are_embedded_anew(labels):
    queries = built(TextQueries(RANDOM), labels)
    queries.set_labels(LabelSet("x", [Label("Hernia"), Label("Cyst", prompts=["bulla"])]))
    fresh = RANDOM.embed({"": ["bulla"]})[0]
    torch.testing.assert_close(queries.embeddings[-1], fresh)
    assert len(queries.embeddings) == 6


def test_a_trained_label_keeps_its_row_where_prompts_were_exchanged_or_changed(labels):
    """Edited prompts must not swap two trained labels, nor score one of them by another vector."""
    queries = built(TextQueries(RANDOM, residual=True), labels)
    torch.nn.init.normal_(queries.residual)
    before, (one, two, *_) = queries().detach(), labels.names
    queries.set_labels(LabelSet("x", [Label(one, prompts=[two]), Label(two, prompts=[one]), Label("Cyst")]))
    torch.testing.assert_close(queries()[:2], before[:2])
    queries.text = ABSENT
    queries.set_labels(LabelSet("x", [Label(two, prompts=["reworded"])]))
    torch.testing.assert_close(queries(), before[1:2])


def test_labels_of_equal_prompts_keep_their_own_residuals():
    queries = built(TextQueries(RANDOM, residual=True), LabelSet("x", [Label(n, prompts=["same"]) for n in "ab"]))
    torch.nn.init.normal_(queries.residual)
    before = queries().detach()
    queries.set_labels(LabelSet("x", [Label(n, prompts=["same"]) for n in "ab"]))
    torch.testing.assert_close(queries(), before)


def test_vectors_at_random_for_untrained_labels_are_named(labels, caplog):
    queries = built(TextQueries(RANDOM), labels)
    queries.set_labels(label_set(*labels.names))
    assert not caplog.records
    queries.set_labels(label_set("Hernia", "Cyst"))
    assert "scored at random" in caplog.text and "Cyst" in caplog.text and "Hernia" not in caplog.text


def test_another_encoder_than_the_training_one_is_refused(labels, monkeypatch):
    queries = built(TextQueries(RANDOM), labels)
    monkeypatch.setattr(label_text, "_random", lambda texts: torch.randn(len(texts), 384))
    with pytest.raises(InputError, match=r"'random' .* does not give the embeddings .* Mass cannot be scored"):
        queries.set_labels(label_set("Mass"))
    monkeypatch.setattr(label_text, "_random", lambda texts: torch.randn(len(texts), 100))
    with pytest.raises(InputError, match="does not give the embeddings"):
        queries.set_labels(label_set("Mass"))


# ---- checkpoints -------------------------------------------------------------------------------------------


@EACH
def test_a_checkpoint_needs_no_text_encoder(options, labels):
    trained = built(TextQueries(RANDOM, **options), labels)
    for value in trained.parameters():
        torch.nn.init.normal_(value)
    restored = built(TextQueries(ABSENT, **options), labels, weights=False)
    held = dict(restored.named_parameters())
    restored.load_state_dict(through_a_file(trained.state_dict()))
    assert all(held[name] is value for name, value in restored.named_parameters())  # an optimizer may hold them
    torch.testing.assert_close(restored(), trained())
    trained.set_labels(labels)
    restored.set_labels(labels)
    assert restored().shape == (5, 32)
    torch.testing.assert_close(restored(), trained())
    assert restored().requires_grad == any(value.requires_grad for value in restored.parameters())


def test_a_state_may_hold_other_unseen_labels_but_not_fewer_seen_ones(labels):
    trained = built(TextQueries(RANDOM), label_set(*labels.names, "Mass", "Nodule", unseen=["Mass", "Nodule"]))
    restored = built(TextQueries(RANDOM), labels)
    restored.load_state_dict(trained.state_dict())
    torch.testing.assert_close(restored(), trained())
    smaller = built(TextQueries(RANDOM), label_set("a", "b"))
    with pytest.raises(RuntimeError, match="size mismatch for embeddings"):
        restored.load_state_dict(smaller.state_dict())


def test_queries_without_their_checkpoint_say_so(labels):
    with pytest.raises(AssertionError, match="load a checkpoint first"):
        built(TextQueries(ABSENT), labels, weights=False)()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_labels_are_found_again_at_any_precision_and_after_averaging_weights(labels, dtype):
    queries = built(TextQueries(RANDOM), labels)
    averaged = torch.optim.swa_utils.AveragedModel(
        queries, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.99), use_buffers=True
    )
    for _ in range(5):
        averaged.update_parameters(queries)
    found = averaged.module.to(dtype)
    found.text = ABSENT
    found.set_labels(labels)
    assert found().shape == (5, 32)


def test_rows_per_label_are_named(labels):
    queries = built(TextQueries(RANDOM, residual=True), labels)
    sizes = {name: len(queries.state_dict()[name]) for name in queries.per_label()}
    assert sizes == {"embeddings": 5, "prompt_hashes": 5, "residual": 4}
    assert "residual" not in built(TextQueries(RANDOM), labels).per_label()


def test_queries_copy_and_keep_single_precision_under_autocast(labels):
    queries = built(TextQueries(RANDOM), labels)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(copy.deepcopy(queries)(), queries())


def test_the_command_line_builds_them():
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--decoder", type=Decoder)
    config = parser.parse_args(
        [
            "--decoder=longview.models.decoder.LabelDecoder",
            "--decoder.readout=shared",
            "--decoder.queries=longview.models.queries.TextQueries",
            "--decoder.queries.text=longview.models.label_text.LabelText",
            "--decoder.queries.text.encoder=random",
            "--decoder.queries.residual=true",
        ]
    )
    decoder = parser.instantiate(config).decoder
    assert isinstance(decoder, LabelDecoder)
    assert decoder.open_vocabulary
    assert decoder.queries.text.encoder == "random"
    assert decoder.queries.learn_residual
