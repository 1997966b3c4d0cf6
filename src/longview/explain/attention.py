"""Where the queries of a label decoder look: its cross-attention, plain and weighted by gradients, per view."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from longview import InputError
from longview.explain.heads import Head, decoder_of, fusion_of, recorded
from longview.models.decoder import LabelDecoder
from longview.models.fusion import TransformerFusion


def attention(head: Head, features: Tensor, labels: Sequence[int]) -> Tensor:
    """Attention (n, V, h, w) of each label's query on the tokens, the mean over heads; it sums to 1 over the study.

    Where views are decoded alone, each view's attention counts as its logit does in the study's
    (:meth:`~longview.explain.heads.Head.view_weights`); where they are decoded together, the query divides its
    attention among them itself.

    Args:
        head: Of a network with a label decoder.
        features: (V, C, h, w).
        labels: Positions of n labels in the logits.

    Raises:
        InputError: For a network without a label decoder.
    """
    decoder = _label_decoder(head)
    with torch.no_grad(), _watched(decoder) as seen:
        head.logits(features)
    looked = seen.probabilities(decoder).mean(dim=1)  # (b, Q, T)
    queries = [label // decoder.queries.share for label in labels]
    maps = looked[:, queries].transpose(0, 1)  # (n, b, T)
    if len(looked) > 1:
        maps = maps * head.view_weights(features)[list(labels), :, None]
    return _as_maps(maps, head, features)


def gradattention(head: Head, features: Tensor, labels: Sequence[int]) -> Tensor:
    """Attention weighted by gradients (Chefer et al. 2021, arXiv 2103.15679, eq. 5).

    `mean over heads of ReLU(dy/dP * P)`, P the attention of the label's query and y the study's logit: what the label
    looks at and is raised by. It is the cross-attention's part of their rule; what tokens hold of each other after
    `TransformerFusion` is not traced back.

    Returns:
        (n, V, h, w), at least 0.

    Raises:
        InputError: For a network without a label decoder.
    """
    decoder = _label_decoder(head)
    share = decoder.queries.share
    with torch.enable_grad(), _watched(decoder) as seen:
        logits = head.logits(features.detach().clone().requires_grad_())[0]  # (L,)
        attended = seen.attended[0]  # (b, Q, D)
        # no query sees another, so that one pass gives each label's gradient at its own query; labels that share a
        # query are asked in turn
        slots = [
            torch.autograd.grad(logits[slot::share].sum(), attended, retain_graph=slot < share - 1)[0]
            for slot in range(share)
        ]
    probabilities, values = (
        seen.probabilities(decoder),
        seen.values(decoder),
    )  # (b, heads, Q, T), (b, heads, T, D/heads)
    maps = []
    for label in labels:
        query = label // share
        rise = slots[label % share][:, query].reshape(len(attended), decoder.heads, -1)  # (b, heads, D / heads)
        gradient = torch.einsum("bhd,bhtd->bht", rise, values)
        maps.append((gradient * probabilities[:, :, query]).relu().mean(dim=1))  # (b, T)
    return _as_maps(torch.stack(maps), head, features)


@dataclass(frozen=True)
class _Seen:
    """What passed through a label decoder's attention."""

    queries: list[Tensor]
    """(b, Q, D), projected."""
    memory: list[Tensor]
    """(b, T, 2 D), keys and values."""
    attended: list[Tensor]
    """(b, Q, D), values summed under the attention, all heads."""

    def probabilities(self, decoder: LabelDecoder) -> Tensor:
        """Attention (b, heads, Q, T): the softmax of scaled products of queries and keys."""
        query = _split(self.queries[0].detach(), decoder.heads)
        key = _split(self.memory[0].detach().chunk(2, dim=-1)[0], decoder.heads)
        scores: Tensor = query @ key.transpose(2, 3) / query.shape[-1] ** 0.5
        return scores.softmax(dim=-1)

    def values(self, decoder: LabelDecoder) -> Tensor:
        """(b, heads, T, D / heads)."""
        return _split(self.memory[0].detach().chunk(2, dim=-1)[1], decoder.heads)


@contextmanager
def _watched(decoder: LabelDecoder) -> Iterator[_Seen]:
    attended: list[Tensor] = []
    handle = decoder.attend_output.register_forward_pre_hook(lambda _module, inputs: attended.append(inputs[0]))
    with ExitStack() as stack:
        stack.callback(handle.remove)
        queries = stack.enter_context(recorded(decoder.attend_query))
        memory = stack.enter_context(recorded(decoder.attend_memory))
        yield _Seen(queries, memory, attended)


def _label_decoder(head: Head) -> LabelDecoder:
    decoder = decoder_of(head.network)
    if not isinstance(decoder, LabelDecoder):
        raise InputError(
            "methods attention and gradattention: this model has no label decoder; take gradcam, hirescam or another "
            "of the cam methods"
        )
    return decoder


def _split(values: Tensor, heads: int) -> Tensor:
    """(b, n, D) to (b, heads, n, D / heads)."""
    return values.reshape(*values.shape[:2], heads, -1).transpose(1, 2)


def _as_maps(tokens: Tensor, head: Head, features: Tensor) -> Tensor:
    """Values (n, b, T) of tokens as maps (n, V, h, w) over the features' places."""
    height, width = features.shape[2:]
    fusion = fusion_of(head.network)
    if not (isinstance(fusion, TransformerFusion) and fusion.reduce):
        return tokens.reshape(len(tokens), head.views, height, width)
    coarse = tokens.reshape(len(tokens), head.views, -(-height // 2), -(-width // 2))
    # a token of the convolution of stride 2 stands at every second place; between them is interpolated
    return _between(_between(coarse, height, 2), width, 3)


def _between(values: Tensor, size: int, dim: int) -> Tensor:
    """Values that stand at places 0, 2, 4, ... of a dimension, at all of its `size` places."""
    place = torch.arange(size, device=values.device) / 2
    lower = place.long()
    upper = (lower + 1).clamp(max=values.shape[dim] - 1)
    shape = [-1 if axis == dim else 1 for axis in range(values.ndim)]
    share = (place - lower).reshape(shape)
    return values.index_select(dim, lower) * (1 - share) + values.index_select(dim, upper) * share
