"""View fusion: the feature maps of a study's views, and a decoder, to one logit per label for the study.

`MeanFusion`, `MaxFusion`, `AttentionFusion` and `WeightedFusion` decode each view alone and pool what comes out;
in `TransformerFusion` the tokens of all views of a study attend to each other before they are decoded together.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from longview import VIEWS, InputError
from longview.models.decoder import Decoder, position_code

Embedding = Literal["view", "slot", "none"]

EMBEDDING_STD = 0.7
"""Standard deviation of a view embedding's start: as loud as the position code, whose values have root mean square
0.71. With the 0.02 of BERT and ViT, what depends on where it is seen is learned many times slower."""


class StudyGroup(NamedTuple):
    """Studies that are fused in one pass."""

    images: Tensor
    """(b, k) int64: positions in the batch of each study's images."""
    padding: Tensor | None
    """(b, k) bool, True where a study has no k-th image; None: all have k."""


class Arrangement(NamedTuple):
    """Which images of a batch belong together; all that fusion must know before it sees a feature."""

    groups: list[StudyGroup]
    order: Tensor | None
    """(B,) int64: where in the groups, one after the other, a study is; None: where it is in the batch."""
    place: Tensor
    """(N,) int64: the place of an image among its study's, in the batch's order."""


def tokens_of(features: Tensor, position: bool) -> Tensor:
    """Tokens (N, h * w, C) of feature maps (N, C, h, w), row by row, with the 2-D position code if asked for."""
    height, width = features.shape[-2:]
    tokens = features.flatten(2).transpose(1, 2)  # (N, T, C)
    if position:
        code = position_code(height, width, features.shape[1], features.device)  # (T, C)
        tokens = tokens + code.to(tokens.dtype)
    return tokens


class Fusion(nn.Module, ABC):
    """Features of the views of B studies, packed, to logits (B, L).

    Constructors store arguments; `build` makes the parameters.
    """

    def build(self, channels: int) -> int:
        """Create the parameters for features of C channels.

        Returns:
            Channels of the tokens that the decoder gets.
        """
        return channels

    def arrange(self, study: Tensor, studies: int) -> Arrangement | None:  # noqa: ARG002
        """What `forward` must know on the host, from the images' studies (N,) alone; None: nothing.

        A network asks for it before it starts its encoder: the host then waits for a small transfer, where
        afterwards it would wait for the whole encoder.
        """
        return None

    @abstractmethod
    def forward(
        self,
        features: Tensor,
        study: Tensor,
        view: Tensor,
        studies: int,
        decoder: Decoder,
        arrangement: Arrangement | None = None,
    ) -> Tensor:
        """Logits (B, L) float32.

        Args:
            features: (N, C, h, w), in any order of images.
            study: (N,) int64, the row in 0..B-1 that an image belongs to; every row has at least one image.
            view: (N,) int64, position in `longview.VIEWS`.
            studies: B.
            decoder: Tokens to logits.
            arrangement: What `arrange` made of `study`; None: made here.

        Raises:
            ValueError: Where a row has no image. Found where the images' rows are on the host: on the CPU always,
                on a GPU by `TransformerFusion` alone (the others give NaN there).
        """


class ViewFusion(Fusion):
    """Every view is decoded alone; `pool` makes a study's logits of those of its views."""

    def forward(
        self,
        features: Tensor,
        study: Tensor,
        view: Tensor,
        studies: int,
        decoder: Decoder,
        arrangement: Arrangement | None = None,  # noqa: ARG002
    ) -> Tensor:
        """Logits (B, L) float32."""
        if study.device.type == "cpu" and not torch.compiler.is_compiling():
            _require_images(study.bincount(minlength=studies).tolist())
        logits = decoder(tokens_of(features, decoder.uses_position)).float()  # (N, L)
        with torch.autocast(features.device.type, enabled=False):
            return self.pool(logits, features, study, view, studies)

    @abstractmethod
    def pool(self, logits: Tensor, features: Tensor, study: Tensor, view: Tensor, studies: int) -> Tensor:
        """Logits (B, L) of studies from those of their views, (N, L) float32; runs in single precision."""


class MeanFusion(ViewFusion):
    """A study's logits are the mean of its views'."""

    def pool(self, logits: Tensor, features: Tensor, study: Tensor, view: Tensor, studies: int) -> Tensor:  # noqa: ARG002
        """Logits (B, L), the mean over views."""
        return _mean(logits, study, studies)


class MaxFusion(ViewFusion):
    """A study's logit is the largest of its views', label by label: a finding is present if one view shows it."""

    def pool(self, logits: Tensor, features: Tensor, study: Tensor, view: Tensor, studies: int) -> Tensor:  # noqa: ARG002
        """Logits (B, L), the maximum over views."""
        return _maximum(logits, study, studies)


class WeightedFusion(ViewFusion):
    """The mean of the views' probabilities under fixed weights per view type, as CheXFusion's submissions take it.

    `p = sum_i w_i sigmoid(x_i) / sum_i w_i`, returned as its logit,
    `log sum_i w_i sigmoid(x_i) - log sum_i w_i sigmoid(-x_i)`: finite for logits of any size.

    Args:
        pa: Weight of a PA view; all weights are above 0, only their ratios count.
        ap: Of an AP view.
        lateral: Of a lateral view.
        unknown: Of a view of unknown type.
    """

    log_weights: Tensor

    def __init__(self, pa: float = 7, ap: float = 7, lateral: float = 3, unknown: float = 5) -> None:
        super().__init__()
        weights = {"PA": pa, "AP": ap, "lateral": lateral, "unknown": unknown}
        for name, weight in weights.items():
            if not 0 < weight < float("inf"):
                raise InputError(f"WeightedFusion: the weight of {name} must be above 0 and finite, found {weight}")
        # not persistent: whatever averages views can then be scored with a checkpoint of any other that does
        log_weights = torch.tensor([weights[name] for name in VIEWS]).log()
        self.register_buffer("log_weights", log_weights, persistent=False)

    def pool(self, logits: Tensor, features: Tensor, study: Tensor, view: Tensor, studies: int) -> Tensor:  # noqa: ARG002
        """Logits (B, L) of the weighted mean probability."""
        weights = self.log_weights.float()[view][:, None]  # (N, 1)
        present = _log_sum_exp(weights + functional.logsigmoid(logits), study, studies)  # (B, L)
        return present - _log_sum_exp(weights + functional.logsigmoid(-logits), study, studies)


class AttentionFusion(ViewFusion):
    """A study's logits are a mean of its views' under learned weights: gated attention (Ilse et al. 2018, 1802.04712).

    A view's score is `w · (tanh(V z) * sigmoid(U z))`, `z` its mean feature plus an embedding of its view type;
    a softmax over the study's views makes weights of the scores.

    Args:
        width: Rows of V and U.
    """

    def __init__(self, width: int = 128) -> None:
        super().__init__()
        if width < 1:
            raise InputError(f"AttentionFusion: width must be at least 1, found {width}")
        self.width = width

    def build(self, channels: int) -> int:
        """Create gate and view embedding."""
        self.view = nn.Embedding(len(VIEWS), channels)
        nn.init.normal_(self.view.weight, std=EMBEDDING_STD)
        self.gate = nn.Linear(channels, 2 * self.width)  # V and U
        self.score = nn.Linear(self.width, 1, bias=False)  # a bias would cancel in the softmax
        return channels

    def pool(self, logits: Tensor, features: Tensor, study: Tensor, view: Tensor, studies: int) -> Tensor:
        """Logits (B, L), the mean over views under `weights`."""
        weights = self.weights(features, study, view, studies)  # (N,)
        return _sum(logits * weights[:, None], study, studies)

    def weights(self, features: Tensor, study: Tensor, view: Tensor, studies: int) -> Tensor:
        """Weights (N,) of views, which sum to 1 over each study."""
        content = features.float().mean(dim=(2, 3)) + self.view(view).float()  # (N, C)
        gates = functional.linear(content, self.gate.weight.float(), self.gate.bias.float())
        signal, gate = gates.chunk(2, dim=1)  # (N, width) each
        score = functional.linear(signal.tanh() * gate.sigmoid(), self.score.weight.float())  # (N, 1)
        weights: Tensor = (score - _log_sum_exp(score, study, studies)[study]).exp()
        return weights[:, 0]


class TransformerFusion(Fusion):
    """The tokens of all views of a study attend to each other, then are decoded together (CheXFusion, Kim 2023).

    Features, projected from C to D channels where C differs, get the 2-D position code and an embedding of
    their view's type; a transformer encoder (layer norm first, without a last one) runs over all tokens of the
    study. With D = C nothing is projected, as in CheXFusion, and a decoder trained on single views fits on.

    Studies of equally many views are fused in one pass, without any padding; a single study needs nothing from
    the host, so that `torch.export` follows it.

    Args:
        width: D.
        layers: Layers of the transformer encoder.
        heads: Attention heads; must divide the width.
        feedforward: Hidden width of a layer's FFN.
        dropout: Of attention weights, residual branches and the FFN's hidden layer.
        reduce: Halve rows and columns of the map by a 3x3 convolution of stride 2 first, as CheXFusion does: a
            quarter of the tokens.
        embedding: `view`: learned, by view type. `slot`: by place within the study in the batch's order, as
            CheXFusion's; its tables list views in any order, longview's data by type. `none`: by content alone.
        slots: Embeddings of `slot`; further places share the last.
        pad: Fuse all studies of a batch in one pass, padded to its largest number of views and masked: the same
            logits in more time, but fewer shapes for `torch.compile`.
        across: Attend to all views. False: to a token's own view; logits are averaged, a control for capacity.
    """

    def __init__(
        self,
        width: int = 768,
        layers: int = 2,
        heads: int = 8,
        feedforward: int = 2048,
        dropout: float = 0.1,
        reduce: bool = False,
        embedding: Embedding = "view",
        slots: int = 4,
        pad: bool = False,
        across: bool = True,
    ) -> None:
        super().__init__()
        numbers = {"width": width, "layers": layers, "heads": heads, "feedforward": feedforward, "slots": slots}
        for name, number in numbers.items():
            if number < 1:
                raise InputError(f"TransformerFusion: {name} must be at least 1, found {number}")
        if width % heads:
            raise InputError(f"TransformerFusion: width {width} is not a multiple of heads {heads}")
        if not 0 <= dropout < 1:
            raise InputError(f"TransformerFusion: dropout must be in [0, 1), found {dropout}")
        self.width = width
        self.layers = layers
        self.heads = heads
        self.feedforward = feedforward
        self.dropout = dropout
        self.reduce = reduce
        self.embedding = embedding
        self.slots = slots
        self.pad = pad
        self.across = across

    def build(self, channels: int) -> int:
        """Create projection, embedding and transformer encoder; the decoder gets tokens of D channels."""
        width = self.width
        self.project = nn.Identity() if channels == width else nn.Conv2d(channels, width, 1)
        self.shrink = nn.Conv2d(width, width, 3, stride=2, padding=1) if self.reduce else nn.Identity()
        if self.embedding != "none":
            self.origin = nn.Embedding(self.slots if self.embedding == "slot" else len(VIEWS), width)
            nn.init.normal_(self.origin.weight, std=EMBEDDING_STD)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width, self.heads, self.feedforward, self.dropout, batch_first=True, norm_first=True
            )
            for _ in range(self.layers)
        )
        return width

    def arrange(self, study: Tensor, studies: int) -> Arrangement:
        """Group the images (N,) of B studies; the host waits for their transfer, unless there is one study."""
        if studies == 1:
            if not torch.compiler.is_compiling():
                _require_images([study.shape[0]])
            images = torch.arange(study.shape[0], device=study.device)  # len() would be a constant to `torch.export`
            return Arrangement([StudyGroup(images[None], None)], None, images)
        arrangement: Arrangement = self._group(study, studies)
        return arrangement

    @torch.compiler.disable  # type: ignore[untyped-decorator]  # lists of numbers: each batch would be compiled anew
    def _group(self, study: Tensor, studies: int) -> Arrangement:
        members: list[list[int]] = [[] for _ in range(studies)]  # positions of each study's images
        places: list[int] = []
        for image, row in enumerate(study.tolist()):
            places.append(len(members[row]))
            members[row].append(image)
        counts = [len(images) for images in members]
        _require_images(counts)
        place = torch.tensor(places, device=study.device)
        if self.pad:
            return Arrangement([_padded(members, study.device)], None, place)
        same = [[row for row in range(studies) if counts[row] == count] for count in sorted(set(counts))]
        groups = [torch.tensor([members[row] for row in rows], device=study.device) for rows in same]
        order = None if len(same) == 1 else torch.tensor([row for rows in same for row in rows]).argsort()
        return Arrangement(
            [StudyGroup(images, None) for images in groups],
            None if order is None else order.to(study.device),
            place,
        )

    def forward(
        self,
        features: Tensor,
        study: Tensor,
        view: Tensor,
        studies: int,
        decoder: Decoder,
        arrangement: Arrangement | None = None,
    ) -> Tensor:
        """Logits (B, L) float32."""
        groups, order, place = self.arrange(study, studies) if arrangement is None else arrangement
        tokens = self.tokens(features, view, place)  # (N, T, D)
        if not self.across:
            return _mean(decoder(self.attend(tokens, None)).float(), study, studies)  # (B, L)
        length = tokens.shape[1]
        parts = []
        for images, padding in groups:
            studies_here, views = images.shape
            joined = tokens.index_select(0, images.flatten()).reshape(studies_here, views * length, -1)  # (b, k T, D)
            absent = None if padding is None else padding.repeat_interleave(length, dim=1)  # (b, k T)
            parts.append(decoder(self.attend(joined, absent), absent).float())  # (b, L)
        logits = torch.cat(parts)  # (B, L)
        return logits if order is None else logits.index_select(0, order)

    def tokens(self, features: Tensor, view: Tensor, place: Tensor) -> Tensor:
        """Tokens (N, T, D) of features (N, C, h, w), with position code and embedding.

        T = h w, or with `reduce` half the rows times half the columns, each rounded up.
        """
        tokens = tokens_of(self.shrink(self.project(features)), position=True)
        if self.embedding == "none":
            return tokens
        origin = view if self.embedding == "view" else place.clamp(max=self.slots - 1)
        code: Tensor = self.origin(origin)  # (N, D)
        return tokens + code[:, None].to(tokens.dtype)

    def attend(self, tokens: Tensor, padding: Tensor | None) -> Tensor:
        """Tokens (b, T, D) after the transformer encoder.

        Tokens under padding (b, T) are looked at by none, and what they become stands for nothing.
        """
        for block in self.blocks:
            tokens = block(tokens, src_key_padding_mask=padding)
        return tokens


def _require_images(counts: list[int]) -> None:
    """Refuse a study without images, whose logits would be NaN."""
    if not all(counts):
        row = counts.index(0)
        raise ValueError(f"study {row} of the batch's {len(counts)} has no image; leave it out of the batch")


def _padded(members: list[list[int]], device: torch.device) -> StudyGroup:
    """All studies in one group; where a study has no further image its first one stands, unseen."""
    most = max(len(images) for images in members)
    images = torch.tensor([[*images, *images[:1] * (most - len(images))] for images in members], device=device)
    counts = torch.tensor([len(images) for images in members], device=device)
    return StudyGroup(images, torch.arange(most, device=device) >= counts[:, None])


def _sum(values: Tensor, study: Tensor, studies: int) -> Tensor:
    """Sums (B, n) over each study's rows of values (N, n)."""
    return values.new_zeros(studies, values.shape[1]).index_add(0, study, values)


def _mean(values: Tensor, study: Tensor, studies: int) -> Tensor:
    """Means (B, n) over each study's rows of values (N, n)."""
    return _sum(values, study, studies) / _sum(torch.ones_like(values[:, :1]), study, studies)


def _maximum(values: Tensor, study: Tensor, studies: int) -> Tensor:
    """Maxima (B, n) over each study's rows of values (N, n)."""
    lowest = values.new_full((studies, values.shape[1]), -torch.inf)
    return lowest.scatter_reduce(0, study[:, None].expand_as(values), values, "amax")


def _log_sum_exp(values: Tensor, study: Tensor, studies: int) -> Tensor:
    """`log sum exp` (B, n) over each study's rows of values (N, n), however large they are."""
    top = _maximum(values.detach(), study, studies)
    return _sum((values - top[study]).exp(), study, studies).log() + top
