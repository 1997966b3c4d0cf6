"""Decoders: the tokens of an image (later, of a study) to one logit per label; and the 2-D position code."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional

from longview import InputError
from longview.labels import LabelSet
from longview.models.queries import LabelQueries, LearnedQueries

Pool = Literal["avg", "max", "avgmax", "lse"]
Readout = Literal["label", "shared"]


def position_code(height: int, width: int, channels: int, device: torch.device | None = None) -> Tensor:
    """2-D sine-cosine code of a feature map's positions, row by row.

    The first half of the channels encodes the row, the second the column, each as sines and cosines of
    `position / 10000^(k / K)`, k = 0..K-1, K = C/4 (Vaswani et al. 2017 for one axis; DETR, Carion et al.
    2020, for two).

    Args:
        height: Rows h.
        width: Columns w.
        channels: C, of any size; where 4 does not divide it, the code of the next multiple is cut.
        device: Where to make it.

    Returns:
        (h * w, C) float32 in [-1, 1].
    """
    quarter = -(-channels // 4)
    frequency = 10000 ** (-torch.arange(quarter, device=device, dtype=torch.float32) / quarter)  # (K,)
    rows = torch.arange(height, device=device, dtype=torch.float32)[:, None] * frequency  # (h, K)
    columns = torch.arange(width, device=device, dtype=torch.float32)[:, None] * frequency  # (w, K)
    code = torch.cat(
        [
            torch.cat([rows.sin(), rows.cos()], dim=1)[:, None].expand(-1, width, -1),
            torch.cat([columns.sin(), columns.cos()], dim=1)[None].expand(height, -1, -1),
        ],
        dim=2,
    )  # (h, w, 4K)
    return code.flatten(0, 1)[:, :channels]


class Decoder(nn.Module, ABC):
    """Tokens (B, T, C) to logits (B, L). Constructors store arguments; `build` makes the parameters."""

    uses_position: ClassVar[bool]
    """Whether tokens should carry the position code: a pooled mean would only gain a constant from it."""

    @abstractmethod
    def build(self, channels: int, labels: LabelSet, weights: bool = True) -> None:
        """Create the parameters for C channels and the L seen labels of a label set.

        Args:
            channels: C of the tokens.
            labels: The label set.
            weights: Make what label text gives; False where a checkpoint is loaded next, which carries it.
        """

    @abstractmethod
    def forward(self, tokens: Tensor, padding: Tensor | None = None) -> Tensor:
        """Logits (B, L) float32 of tokens (B, T, C).

        Args:
            tokens: (B, T, C).
            padding: (B, T) bool, True where a token stands for nothing and must not count; None: all count.
                Every row needs at least one token that counts.
        """

    @property
    def open_vocabulary(self) -> bool:
        """Whether a label that training never saw can be scored from its text."""
        return False

    def set_labels(self, labels: LabelSet) -> None:  # noqa: ARG002
        """Score other labels from now on: `labels.names`, then `labels.unseen_names`; for prediction only.

        Raises:
            InputError: Where there is no logit for a label that training never saw.
        """
        raise InputError(
            f"{type(self).__name__} scores only the labels that it was trained on. A model that should score others is "
            f"trained with a longview.models.decoder.LabelDecoder whose queries are "
            f"longview.models.queries.TextQueries and whose readout is shared"
        )

    def per_label(self) -> list[str]:
        """Names of the state's tensors with one row per label, in order: seen labels, then (maybe) unseen ones."""
        return []


class LinearDecoder(Decoder):
    """Pooled tokens, dropout and one linear layer.

    Args:
        pool: `avg`: mean. `max`: maximum per channel. `avgmax`: mean of the two. `lse`: log-sum-exp,
            `log(mean(exp(r x))) / r`, a soft maximum (Pinheiro and Collobert 2015; Wang et al. 2017,
            ChestX-ray8).
        dropout: Share of pooled channels dropped in training; a module of its own, so that Monte-Carlo
            dropout can switch it on alone, and there by default, so that a trained model can say how sure it is.
        sharpness: r of `lse`: towards 0 it is the mean, towards infinity the maximum.
    """

    uses_position = False

    def __init__(self, pool: Pool = "avg", dropout: float = 0.1, sharpness: float = 10.0) -> None:
        super().__init__()
        if sharpness <= 0:
            raise InputError(f"LinearDecoder: sharpness must be above 0, found {sharpness}")
        self.pool = pool
        self.sharpness = sharpness
        self.dropout = nn.Dropout(dropout)

    def build(self, channels: int, labels: LabelSet, weights: bool = True) -> None:  # noqa: ARG002
        """Create the linear layer, C to L."""
        self.readout = nn.Linear(channels, len(labels.names))

    def per_label(self) -> list[str]:
        """Weights and bias of the linear layer."""
        return ["readout.weight", "readout.bias"]

    def forward(self, tokens: Tensor, padding: Tensor | None = None) -> Tensor:
        """Logits (B, L) float32 of tokens (B, T, C)."""
        # half precision would tie scores that ranking metrics must tell apart; this layer costs next to
        # nothing
        with torch.autocast(tokens.device.type, enabled=False):
            pooled = self.dropout(self._pooled(tokens.float(), padding))  # (B, C)
            return functional.linear(pooled, self.readout.weight.float(), self.readout.bias.float())

    def _pooled(self, tokens: Tensor, padding: Tensor | None) -> Tensor:
        """(B, C) of tokens (B, T, C)."""
        if padding is None:
            padding = torch.zeros(tokens.shape[:2], dtype=torch.bool, device=tokens.device)
        absent = padding[:, :, None]  # (B, T, 1)
        count = (~absent).sum(dim=1)  # (B, 1)
        mean = tokens.masked_fill(absent, 0).sum(dim=1) / count
        if self.pool == "avg":
            return mean
        if self.pool == "lse":
            scaled = (tokens * self.sharpness).masked_fill(absent, -math.inf)
            return (scaled.logsumexp(dim=1) - count.log()) / self.sharpness
        maximum = tokens.masked_fill(absent, -math.inf).amax(dim=1)
        return maximum if self.pool == "max" else (mean + maximum) / 2


class LabelDecoder(Decoder):
    """One query per label looks at the tokens: ML-Decoder (Ridnik et al. 2021, arXiv 2111.12933).

    Memory `m = ReLU(W x)`; queries pass one transformer layer without self-attention,
    `q = LN(q + drop(q))`, `q = LN(q + drop(MHA(q, m, m)))`, `q = LN(q + drop(FFN(q)))`; `logit = w · q + b`, with w
    and b of the label, or the same for all labels, so that any query has a logit (the paper's zero-shot variant).

    Args:
        width: D of queries and memory.
        heads: Attention heads; must divide the width.
        feedforward: Hidden width of the FFN.
        dropout: Of attention weights, residual branches and the FFN's hidden layer.
        queries: Where the queries come from; None: `LearnedQueries()`. Where labels share queries, each has a
            read-out of its own (the paper's group decoding).
        readout: `label`: w and b per label. `shared`: one w and one b; with queries from text, labels that training
            never saw can be scored.

    Raises:
        InputError: For a width that the heads do not divide, or another read-out.
    """

    uses_position = True

    def __init__(
        self,
        width: int = 768,
        heads: int = 8,
        feedforward: int = 2048,
        dropout: float = 0.1,
        queries: LabelQueries | None = None,
        readout: Readout = "label",
    ) -> None:
        super().__init__()
        for name, number in (("width", width), ("heads", heads), ("feedforward", feedforward)):
            if number < 1:
                raise InputError(f"LabelDecoder: {name} must be at least 1, found {number}")
        if not 0 <= dropout < 1:
            raise InputError(f"LabelDecoder: dropout must be in [0, 1), found {dropout}")
        if width % heads:
            raise InputError(f"LabelDecoder: width {width} is not a multiple of heads {heads}")
        if readout not in get_args(Readout):
            raise InputError(f"LabelDecoder: readout must be one of {', '.join(get_args(Readout))}, found {readout!r}")
        self.width = width
        self.heads = heads
        self.feedforward = feedforward
        self.dropout = nn.Dropout(dropout)
        self.queries = LearnedQueries() if queries is None else queries
        self.shared = readout == "shared"

    def build(self, channels: int, labels: LabelSet, weights: bool = True) -> None:
        """Create memory projection, queries, decoder layer and read-out."""
        size, width = len(labels.names), self.width
        self.embed = nn.Linear(channels, width)
        self.queries.build(labels, width, weights)
        if self.shared and self.queries.share > 1:
            raise InputError(
                f"LabelDecoder: with readout: shared each label needs a query of its own, and {size} labels share "
                f"{type(self.queries).__name__}; use TextQueries, or readout: label"
            )
        self.query_norm = nn.LayerNorm(width)
        self.attend_query = nn.Linear(width, width)
        self.attend_memory = nn.Linear(width, 2 * width)  # keys and values
        self.attend_output = nn.Linear(width, width)
        self.attend_norm = nn.LayerNorm(width)
        self.expand = nn.Linear(width, self.feedforward)
        self.contract = nn.Linear(self.feedforward, width)
        self.feedforward_norm = nn.LayerNorm(width)
        shape = (width,) if self.shared else (-(-size // self.queries.share), self.queries.share, width)
        self.readout = nn.Parameter(torch.empty(shape))
        self.bias = nn.Parameter(torch.zeros(1 if self.shared else size))
        for weight in (self.attend_query.weight, *self.attend_memory.weight.chunk(2)):
            nn.init.xavier_uniform_(weight)
        nn.init.normal_(self.readout, std=width**-0.5)  # logits of order 1, since queries leave a layer norm

    @property
    def open_vocabulary(self) -> bool:
        """Whether any label's text gives it a query and the shared read-out a logit."""
        return self.shared and self.queries.open_vocabulary

    def set_labels(self, labels: LabelSet) -> None:
        """Score other labels from now on: `labels.names`, then `labels.unseen_names`; for prediction only.

        Raises:
            InputError: Where queries are not made from text or the read-out is not shared.
        """
        if not self.open_vocabulary:
            wrong = [] if self.shared else ["readout: label, which must be shared"]
            if not self.queries.open_vocabulary:
                wrong.append(
                    f"queries: {type(self.queries).__name__}, which must be longview.models.queries.TextQueries"
                )
            raise InputError(
                f"this model scores only the labels that it was trained on; it would score others at random. Its "
                f"LabelDecoder has {' and '.join(wrong)}; change that and train again"
            )
        self.queries.set_labels(labels)

    def per_label(self) -> list[str]:
        """Queries and read-out, as far as each label has its own."""
        own = [f"queries.{name}" for name in self.queries.per_label()]
        if not self.shared:
            own += ["bias"] if self.queries.share > 1 else ["readout", "bias"]
        return own

    def forward(self, tokens: Tensor, padding: Tensor | None = None) -> Tensor:
        """Logits (B, L) float32 of tokens (B, T, C)."""
        memory = functional.relu(self.embed(tokens))  # (B, T, D)
        start: Tensor = self.queries()  # (Q, D)
        queries = self.query_norm(start + self.dropout(start)).expand(tokens.shape[0], -1, -1)  # (B, Q, D)
        queries = self.attend_norm(queries + self.dropout(self._attend(queries, memory, padding)))
        hidden = self.dropout(functional.relu(self.expand(queries)))  # (B, Q, F)
        queries = self.feedforward_norm(queries + self.dropout(self.contract(hidden)))
        # half precision would tie scores that ranking metrics must tell apart; this product costs next to
        # nothing
        with torch.autocast(tokens.device.type, enabled=False):
            if self.shared:
                logits: Tensor = queries.float() @ self.readout.float() + self.bias.float()  # (B, L)
                return logits
            logits = torch.einsum("bqd,qsd->bqs", queries.float(), self.readout.float())  # (B, Q, labels per query)
            return logits.flatten(1)[:, : len(self.bias)] + self.bias.float()

    def _attend(self, queries: Tensor, memory: Tensor, padding: Tensor | None) -> Tensor:
        """Multi-head attention of queries (B, Q, D) on memory (B, T, D); padding (B, T) is not looked at."""
        query = self._split(self.attend_query(queries))
        key, value = (self._split(part) for part in self.attend_memory(memory).chunk(2, dim=-1))
        looked_at = None if padding is None else ~padding[:, None, None, :]  # (B, 1, 1, T)
        attended = functional.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=looked_at,
            dropout_p=self.dropout.p if self.training else 0.0,
        )  # (B, heads, Q, D / heads)
        output: Tensor = self.attend_output(attended.transpose(1, 2).flatten(2))
        return output

    def _split(self, values: Tensor) -> Tensor:
        """(B, n, D) to (B, heads, n, D / heads)."""
        return values.reshape(*values.shape[:2], self.heads, -1).transpose(1, 2)
