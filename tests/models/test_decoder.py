import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from longview import InputError
from longview.labels import Label, LabelSet
from longview.models.decoder import LabelDecoder, LinearDecoder, position_code
from longview.models.label_text import LabelText
from longview.models.queries import LearnedQueries, TextQueries

POOLS = ["avg", "max", "avgmax", "lse"]


def decoder_of(kind, labels, channels=24, **arguments):
    torch.manual_seed(0)
    small = {"width": 32, "heads": 4, "feedforward": 48} if kind is LabelDecoder else {}
    decoder = kind(**{**small, **{name: value() if callable(value) else value for name, value in arguments.items()}})
    decoder.build(channels, labels)
    return decoder


def text_queries(**options):
    return TextQueries(LabelText("random"), **options)


CASES = [
    (LabelDecoder, {}),
    (LabelDecoder, {"readout": "shared"}),
    (LabelDecoder, {"queries": text_queries}),
    (LabelDecoder, {"queries": lambda: text_queries(residual=True), "readout": "shared"}),
    (LabelDecoder, {"queries": lambda: text_queries(project=False), "readout": "shared"}),
    *[(LinearDecoder, {"pool": pool}) for pool in POOLS],
]
EACH = pytest.mark.parametrize(("kind", "arguments"), CASES)


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 67))
@settings(deadline=None, derandomize=True, max_examples=25)
def test_position_code_tells_all_positions_apart(height, width, channels):
    code = position_code(height, width, channels)
    assert code.shape == (height * width, channels)
    assert code.dtype == torch.float32
    assert code.abs().max() <= 1
    if channels >= 16:
        distances = torch.cdist(code, code) + 10 * torch.eye(len(code))
        assert distances.min() > 1e-2


def test_position_code_varies_along_rows_and_columns():
    code = position_code(5, 7, 64).view(5, 7, 64)
    assert code.std(dim=0).mean() > 0.05
    assert code.std(dim=1).mean() > 0.05
    torch.testing.assert_close(code[:, 0, :32], code[:, 6, :32])  # the first half knows the row alone
    torch.testing.assert_close(code[0, :, 32:], code[4, :, 32:])
    row, k = 3, 2
    assert code[row, 0, k].item() == pytest.approx(math.sin(row / 10000 ** (k / 16)))
    assert code[row, 0, 16 + k].item() == pytest.approx(math.cos(row / 10000 ** (k / 16)))


@EACH
def test_one_logit_per_seen_label_in_float32(kind, arguments, labels):
    decoder = decoder_of(kind, labels, **arguments)
    tokens = torch.randn(3, 10, 24)
    assert decoder(tokens).shape == (3, 4)
    with torch.autocast("cpu", torch.bfloat16):
        half = decoder(tokens.bfloat16())
    assert half.dtype == torch.float32


@EACH
def test_every_trainable_parameter_gets_a_gradient(kind, arguments, labels):
    decoder = decoder_of(kind, labels, **arguments)
    decoder(torch.randn(3, 10, 24)).square().sum().backward()
    assert [name for name, value in decoder.named_parameters() if value.grad is None or not value.grad.any()] == []


@EACH
def test_padding_counts_for_nothing(kind, arguments, labels):
    decoder = decoder_of(kind, labels, **arguments).eval()
    tokens = torch.randn(2, 10, 24)
    padding = torch.zeros(2, 14, dtype=torch.bool)
    padding[0, 6:] = True
    padding[1, 10:] = True
    longer = torch.cat([tokens, torch.full((2, 4, 24), 1e4)], dim=1)
    longer[0, 6:] = -1e4
    found = decoder(longer, padding)
    torch.testing.assert_close(found[0], decoder(tokens[:1, :6])[0])
    torch.testing.assert_close(found[1], decoder(tokens[1:])[0])


@EACH
def test_order_of_tokens_does_not_matter_but_each_token_does(kind, arguments, labels):
    decoder = decoder_of(kind, labels, **arguments).eval()
    tokens = torch.randn(1, 6, 24)
    logits = decoder(tokens)
    torch.testing.assert_close(decoder(tokens[:, torch.randperm(6)]), logits)
    for token in range(6):
        changed = tokens.clone()
        changed[0, token] += 3
        assert (decoder(changed) - logits).abs().max() > 1e-4


@pytest.mark.parametrize("pool", POOLS)
def test_pooling_is_what_its_name_says(pool, labels):
    decoder = decoder_of(LinearDecoder, labels, pool=pool, sharpness=5.0).double()
    tokens = torch.randn(2, 9, 24, dtype=torch.float64)
    expected = {
        "avg": tokens.mean(1),
        "max": tokens.max(1).values,
        "avgmax": (tokens.mean(1) + tokens.max(1).values) / 2,
        "lse": torch.log(torch.exp(5 * tokens).mean(1)) / 5,
    }[pool]
    torch.testing.assert_close(decoder._pooled(tokens, None), expected)


def test_soft_maximum_stays_finite_for_large_features(labels):
    decoder = decoder_of(LinearDecoder, labels, pool="lse")
    assert decoder(torch.full((1, 5, 24), 1e3)).isfinite().all()


def test_dropout_of_the_head_is_a_module_of_its_own(labels):
    decoder = decoder_of(LinearDecoder, labels, dropout=0.5).eval()
    tokens = torch.randn(1, 4, 24)
    torch.testing.assert_close(decoder(tokens), decoder(tokens))
    decoder.dropout.train()
    assert not torch.equal(decoder(tokens), decoder(tokens))


def reference(decoder, tokens):
    """ML-Decoder written with torch's own attention module and the decoder's weights, in float64."""
    width = decoder.width
    attention = torch.nn.MultiheadAttention(width, decoder.heads, batch_first=True).double()
    with torch.no_grad():
        attention.in_proj_weight.copy_(torch.cat([decoder.attend_query.weight, decoder.attend_memory.weight]))
        attention.in_proj_bias.copy_(torch.cat([decoder.attend_query.bias, decoder.attend_memory.bias]))
        attention.out_proj.load_state_dict(decoder.attend_output.state_dict())
    memory = torch.relu(decoder.embed(tokens))
    queries = decoder.query_norm(2 * decoder.queries()).expand(len(tokens), -1, -1)
    queries = decoder.attend_norm(queries + attention(queries, memory, memory)[0])
    hidden = decoder.contract(torch.relu(decoder.expand(queries)))
    queries = decoder.feedforward_norm(queries + hidden)
    readout = decoder.readout.expand(4, -1) if decoder.readout.ndim == 1 else decoder.readout[:, 0]
    logits = [queries[:, label] @ readout[label] for label in range(4)]
    return torch.stack(logits, dim=1) + decoder.bias


@pytest.mark.parametrize("readout", ["label", "shared"])
@pytest.mark.parametrize("queries", [LearnedQueries, text_queries])
def test_label_decoder_is_ml_decoder(labels, readout, queries):
    decoder = decoder_of(LabelDecoder, labels, queries=queries, readout=readout).double().eval()
    torch.nn.init.normal_(decoder.bias)
    tokens = torch.randn(2, 7, 24, dtype=torch.float64)
    torch.testing.assert_close(decoder(tokens).double(), reference(decoder, tokens), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("count", "queries", "share"), [(1, 1, 1), (100, 100, 1), (101, 51, 2), (250, 84, 3)])
def test_many_labels_share_queries_and_none_is_idle(count, queries, share):
    labels = LabelSet("many", [Label(f"label {i}") for i in range(count)])
    decoder = decoder_of(LabelDecoder, labels)
    assert decoder.queries().shape == (queries, 32)
    assert decoder.readout.shape == (queries, share, 32)
    logits = decoder(torch.randn(2, 5, 24))
    assert logits.shape == (2, count)
    logits.square().sum().backward()
    assert decoder.queries.vectors.grad.abs().sum(1).min() > 0


def test_queries_that_are_not_trained_stay_as_they_were_drawn(labels):
    frozen = decoder_of(LabelDecoder, labels, queries=lambda: LearnedQueries(train=False))
    assert [name for name, value in frozen.named_parameters() if not value.requires_grad] == ["queries.vectors"]


# ---- labels that training never saw ------------------------------------------------------------------------


def label_set(*names):
    return LabelSet("other", [Label(name) for name in names])


def open_decoder(labels, weights=True, **options):
    torch.manual_seed(0)
    decoder = LabelDecoder(32, 4, 48, queries=text_queries(**options), readout="shared")
    decoder.build(24, labels, weights)
    return decoder.eval()


@pytest.mark.parametrize("residual", [False, True])
def test_a_label_scores_the_same_in_another_label_set(residual):
    decoder = open_decoder(label_set("a", "b"), residual=residual)
    for value in decoder.parameters():
        torch.nn.init.normal_(value, std=0.3)
    tokens = torch.randn(3, 6, 24)
    before = decoder(tokens)
    assert decoder.open_vocabulary
    decoder.set_labels(label_set("b", "c"))
    after = decoder(tokens)
    assert after.shape == (3, 2)
    torch.testing.assert_close(after[:, 0], before[:, 1])
    assert (after[:, 1:] - before).abs().amax(0).min() > 1e-3  # c is neither a nor b


def test_seen_labels_come_first_then_unseen_ones_once_they_are_asked_for(labels):
    decoder = open_decoder(labels)
    tokens = torch.randn(2, 6, 24)
    trained = decoder(tokens)
    assert trained.shape == (2, 4)
    decoder.set_labels(labels)
    assert decoder(tokens).shape == (2, 5)
    torch.testing.assert_close(decoder(tokens)[:, :4], trained)


def test_an_open_decoder_is_restored_without_a_text_encoder(labels):
    trained, restored = open_decoder(labels), open_decoder(labels, weights=False)
    restored.queries.text = LabelText("/no/such/encoder")
    restored.load_state_dict(trained.state_dict())
    tokens = torch.randn(2, 6, 24)
    torch.testing.assert_close(restored(tokens), trained(tokens))
    restored.set_labels(labels)
    assert restored(tokens).shape == (2, 5)


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ({}, ["readout: label, which must be shared", "LearnedQueries, which must be", "queries.TextQueries"]),
        ({"readout": "shared"}, ["LearnedQueries, which must be"]),
        ({"queries": text_queries}, ["readout: label, which must be shared"]),
    ],
)
def test_a_decoder_that_would_score_unseen_labels_at_random_refuses(arguments, parts, labels):
    decoder = decoder_of(LabelDecoder, labels, **arguments)
    assert not decoder.open_vocabulary
    with pytest.raises(InputError) as caught:
        decoder.set_labels(label_set("Cyst"))
    assert all(part in str(caught.value) for part in parts)
    assert ("readout" in str(caught.value)) == (arguments.get("readout") != "shared")


def test_a_linear_decoder_refuses_and_names_the_one_that_can(labels):
    decoder = decoder_of(LinearDecoder, labels)
    assert not decoder.open_vocabulary
    with pytest.raises(InputError, match=r"LabelDecoder whose queries are .*TextQueries and whose readout is shared"):
        decoder.set_labels(label_set("Cyst"))


def test_more_than_a_hundred_labels_from_text_have_a_query_each():
    many = label_set(*[f"label {i}" for i in range(130)])
    assert open_decoder(many)(torch.randn(2, 5, 24)).shape == (2, 130)
    assert decoder_of(LabelDecoder, many, queries=text_queries)(torch.randn(2, 5, 24)).shape == (2, 130)
    with pytest.raises(InputError, match="130 labels share LearnedQueries; use TextQueries, or readout: label"):
        decoder_of(LabelDecoder, many, readout="shared")


@pytest.mark.parametrize(
    ("kind", "arguments", "names"),
    [
        (LinearDecoder, {}, ["readout.weight", "readout.bias"]),
        (LabelDecoder, {}, ["queries.vectors", "readout", "bias"]),
        (LabelDecoder, {"readout": "shared"}, ["queries.vectors"]),
        (LabelDecoder, {"queries": text_queries, "readout": "shared"}, ["queries.embeddings", "queries.prompt_hashes"]),
    ],
)
def test_tensors_with_a_row_per_label_are_named(kind, arguments, names, labels):
    decoder = decoder_of(kind, labels, **arguments)
    assert decoder.per_label() == names
    state = decoder.state_dict()
    assert {len(state[name]) for name in names} <= {4, 5}
    others = [name for name in state if name not in names and state[name].ndim and len(state[name]) in {4, 5}]
    assert others == []


def test_labels_that_share_queries_have_only_biases_of_their_own():
    assert decoder_of(LabelDecoder, label_set(*map(str, range(101)))).per_label() == ["bias"]


def test_only_the_decoder_that_looks_at_places_asks_for_their_code():
    assert LabelDecoder.uses_position
    assert not LinearDecoder.uses_position


def test_constructors_make_nothing_and_refuse_nonsense():
    assert list(LabelDecoder().parameters()) == []
    assert list(LinearDecoder().parameters()) == []
    with pytest.raises(InputError, match="width 100 is not a multiple of heads 8"):
        LabelDecoder(width=100)
    with pytest.raises(InputError, match="sharpness must be above 0, found 0"):
        LinearDecoder(pool="lse", sharpness=0)
    with pytest.raises(InputError, match="readout must be one of label, shared, found 'both'"):
        LabelDecoder(readout="both")
