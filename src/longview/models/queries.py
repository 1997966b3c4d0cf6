"""Label queries: what a label decoder looks for, one vector per label, learned or made from label text."""

from __future__ import annotations

import hashlib
import json
import logging
import math
from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from longview import InputError
from longview.labels import LabelSet
from longview.models.label_text import LabelText

log = logging.getLogger(__name__)

PROBE = "chest radiograph"
"""A text whose embedding a checkpoint carries, to tell whether a text encoder is the one that it was trained with."""
PROBE_COSINE = 0.999
"""Two machines or releases differ by 1e-5 or so, two encoders or two poolings by far more."""


class LabelQueries(nn.Module, ABC):
    """Queries (Q, D) of a label decoder. Constructors store arguments; `build` makes the parameters."""

    share: int = 1
    """Labels per query."""

    @property
    def open_vocabulary(self) -> bool:
        """Whether a label that training never saw has a query."""
        return False

    @abstractmethod
    def build(self, labels: LabelSet, width: int, weights: bool = True) -> None:
        """Create the parameters.

        Args:
            labels: The label set; its seen labels are the L that are trained.
            width: D.
            weights: Make what label text gives; False where a checkpoint is loaded next, which carries it.
        """

    @abstractmethod
    def forward(self) -> Tensor:
        """Queries (Q, D): one per label, or one per `share` labels."""

    def set_labels(self, labels: LabelSet) -> None:  # noqa: ARG002
        """Make the queries of other labels from now on: `labels.names`, then `labels.unseen_names`.

        Raises:
            InputError: Where a label's text is not what its query is made from.
        """
        raise InputError(
            f"{type(self).__name__} has queries only for the labels that it was trained on: a model that should score "
            f"others is trained with queries: longview.models.queries.TextQueries"
        )

    def per_label(self) -> list[str]:
        """Names of the state's tensors with one row per label, in order: seen labels, then (maybe) unseen ones."""
        return []


class LearnedQueries(LabelQueries):
    """A free vector per label. Up to 100 labels each have their own; more share queries evenly.

    Sharing is ML-Decoder's group decoding (Ridnik et al. 2021, arXiv 2111.12933).

    Args:
        train: Train the queries; False keeps their random start, as the reference does.
    """

    MAX_QUERIES: ClassVar[int] = 100

    def __init__(self, train: bool = True) -> None:
        super().__init__()
        self.trained = train  # `train` is a method of every module

    def build(self, labels: LabelSet, width: int, weights: bool = True) -> None:  # noqa: ARG002
        """Draw the queries from a unit Gaussian; they need no label text."""
        size = len(labels.names)
        self.share = -(-size // self.MAX_QUERIES)
        self.vectors = nn.Parameter(torch.randn(-(-size // self.share), width), requires_grad=self.trained)

    def no_weight_decay(self) -> set[str]:
        """Parameters that the optimizer must not pull to zero (timm's convention)."""
        return {"vectors"}

    def forward(self) -> Tensor:
        """Queries (Q, D)."""
        return self.vectors

    def per_label(self) -> list[str]:
        """The queries, unless labels share them."""
        return ["vectors"] if self.share == 1 else []


class TextQueries(LabelQueries):
    """Queries from label text: frozen embeddings, centred, scaled and mapped to the decoder's width.

    With t a label's embedding (E), c the mean over the training set's seen labels,
    `q = W sqrt(D) (t - c) / |t - c| + b [+ r]`. The state holds t, c and a hash of each label's prompts, so that a
    checkpoint scores its labels (unseen ones included) without a text encoder.

    Args:
        text: Where embeddings come from.
        project: Train W (D, E), which starts as a random isometry, and b, which starts at 0. False: a fixed
            isometry (the identity where E = D, inner products kept where E < D) and no b.
        residual: Add a learned vector r per seen label, 0 at the start; an unseen label has none.
        center: Subtract c: embeddings of a domain's texts crowd in a narrow cone, and what they have in common tells
            no label from another. The same c serves every later label set.
    """

    embeddings: Tensor
    prompt_hashes: Tensor
    centre: Tensor
    probe: Tensor
    projection: Tensor

    def __init__(self, text: LabelText, project: bool = True, residual: bool = False, center: bool = True) -> None:
        super().__init__()
        self.text = text
        self.project = project
        self.learn_residual = residual
        self.center = center
        self._rows: list[int] | None = None  # of the embeddings, to be scored; None: those of the trained labels

    @property
    def open_vocabulary(self) -> bool:
        """Any text has a query."""
        return True

    def build(self, labels: LabelSet, width: int, weights: bool = True) -> None:
        """Embed the label set (from the cache, where it is there), unless a checkpoint is loaded next."""
        prompts = _ordered(labels)
        self.width, self.seen, self.names = width, len(labels.names), list(labels.names)
        if weights:
            _warn_alike(prompts)
            rows = self.text.embed({**prompts, "": [PROBE]})  # a label's name is never empty
            embeddings, probe = rows[:-1].clone(), rows[-1].clone()  # views of one storage cannot be stored apart
        else:  # E is the checkpoint's
            embeddings, probe = torch.zeros(len(prompts), 0), torch.zeros(0)
        self.register_buffer("embeddings", embeddings)
        self.register_buffer("prompt_hashes", _hashes(prompts))
        self.register_buffer("centre", self._mean(embeddings))
        self.register_buffer("probe", probe)
        start = _isometry(width, embeddings.shape[1], fixed=not self.project)
        if self.project:
            self.projection = nn.Parameter(start)
            self.offset = nn.Parameter(torch.zeros(width))
        else:
            self.register_buffer("projection", start)
        if self.learn_residual:
            self.residual = nn.Parameter(torch.zeros(self.seen, width))

    def _mean(self, embeddings: Tensor) -> Tensor:
        """The centre c (E): zero where none is asked for, or where subtracting it would leave nothing."""
        seen = embeddings[: self.seen]
        differ = bool((seen != seen[:1]).any())
        return seen.mean(dim=0) if self.center and differ else embeddings.new_zeros(embeddings.shape[1])

    def forward(self) -> Tensor:
        """Queries (L, D) of the trained labels; after `set_labels` of its labels, seen and unseen."""
        assert self.embeddings.shape[1], "TextQueries were built without weights: load a checkpoint first"
        rows = self.embeddings[: self.seen] if self._rows is None else self.embeddings[self._rows]  # (L, E)
        # half precision would blur labels whose texts are close; this product costs next to nothing
        with torch.autocast(rows.device.type, enabled=False):
            directions = functional.normalize(rows - self.centre, dim=1) * math.sqrt(self.width)
            queries = functional.linear(directions, self.projection, self.offset if self.project else None)  # (L, D)
            if self.learn_residual:
                unseen = len(self.embeddings) - self.seen
                residual = functional.pad(self.residual, (0, 0, 0, unseen))  # a row per embedding, 0 where untrained
                queries = queries + (residual[: self.seen] if self._rows is None else residual[self._rows])
        return queries

    def set_labels(self, labels: LabelSet) -> None:
        """Score `labels.names`, then `labels.unseen_names`.

        A label that was trained has its own row, by name, whatever its prompts say now; any other one the embedding of
        its prompts, reused where they are known.

        Raises:
            InputError: Where a label needs a text encoder that is absent, or is not the one of the training.
        """
        prompts = _ordered(labels)
        known = {tuple(row): place for place, row in reversed(list(enumerate(self.prompt_hashes.round().tolist())))}
        wanted = dict(zip(prompts, map(tuple, _hashes(prompts).tolist()), strict=True))
        trained = {name: place for place, name in enumerate(self.names)}
        new = {name: prompts[name] for name, key in wanted.items() if name not in trained and key not in known}
        if new:
            added = self._embed_more(new)
            for place, name in enumerate(new, start=len(self.embeddings)):
                known[wanted[name]] = place
            self.embeddings = torch.cat([self.embeddings, added.to(self.embeddings)])
            self.prompt_hashes = torch.cat([self.prompt_hashes, _hashes(new).to(self.prompt_hashes)])
        self._rows = [trained[name] if name in trained else known[key] for name, key in wanted.items()]
        untrained = [name for name in wanted if name not in trained]
        if untrained and self.text.encoder == "random":
            log.warning("scored at random, for their text is embedded at random (a control): %s", ", ".join(untrained))

    def _embed_more(self, prompts: dict[str, list[str]]) -> Tensor:
        """(n, E) of labels that the checkpoint has no embeddings of."""
        names = ", ".join(prompts)
        try:
            rows = self.text.embed({**prompts, "": [PROBE]})
        except InputError as error:
            raise InputError(
                f"no embeddings are known of {names}: their prompts are not among those that the model was trained "
                f"with, and cannot be embedded now: {error}"
            ) from error
        probe = self.probe.float().cpu()
        if rows.shape[1] != len(probe) or functional.cosine_similarity(rows[-1], probe, dim=0) < PROBE_COSINE:
            raise InputError(
                f"the text encoder {self.text.encoder!r} (pooling {self.text.pooling}) does not give the embeddings "
                f"that the model was trained with, so that {names} cannot be scored; use the one of the training"
            )
        return rows[:-1]

    def per_label(self) -> list[str]:
        """Embeddings and hashes, of seen labels and then of unseen ones, and the residual, of seen ones."""
        return ["embeddings", "prompt_hashes", *(["residual"] if self.learn_residual else [])]

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *others: Any) -> None:
        """Take the checkpoint's E and its unseen labels before its values are copied."""
        rows = state_dict.get(f"{prefix}embeddings")
        if rows is not None and rows.ndim == 2 and len(rows) >= self.seen:
            count, size = rows.shape
            shapes: dict[str, tuple[int, ...]] = {
                "embeddings": (count, size),
                "prompt_hashes": (count, self.prompt_hashes.shape[1]),
            }
            shapes |= {"centre": (size,), "probe": (size,), "projection": (self.width, size)}
            for name, shape in shapes.items():
                own: Tensor = getattr(self, name)
                if own.shape != shape:
                    own.data = own.data.new_zeros(shape)  # in place: an optimizer may hold the parameter
            self._rows = None
        super()._load_from_state_dict(state_dict, prefix, *others)


def _ordered(labels: LabelSet) -> dict[str, list[str]]:
    """Prompts of the seen labels, then of the unseen ones: the order of logits and of embeddings."""
    prompts = labels.prompts
    return {name: prompts[name] for name in [*labels.names, *labels.unseen_names]}


def _warn_alike(prompts: dict[str, list[str]]) -> None:
    owners: dict[str, str] = {}
    for name, texts in prompts.items():
        other = owners.setdefault(json.dumps(texts), name)
        if other != name:
            log.warning("labels %r and %r have the same prompts, and therefore the same query from text", other, name)


def _hashes(prompts: dict[str, list[str]]) -> Tensor:
    """A hash per label's prompts: (n, 8) float32, one byte per number.

    Bytes as floats survive what a network's buffers go through: half precision holds 0 to 255 exactly, and a moving
    average of equal ones rounds to them, while that of a large integer does not.
    """
    digests = [hashlib.blake2b(json.dumps(texts).encode(), digest_size=8).digest() for texts in prompts.values()]
    return torch.tensor([list(digest) for digest in digests], dtype=torch.float32)


def _isometry(width: int, size: int, fixed: bool) -> Tensor:
    """A (D, E) map that keeps lengths: exactly where E <= D, in the mean over directions where E > D."""
    if fixed and width == size:
        return torch.eye(width)
    matrix = torch.empty(width, size, device="cpu")  # where a seed gives the same numbers on every machine
    if size:
        generator = torch.Generator("cpu").manual_seed(0) if fixed else None
        nn.init.orthogonal_(matrix, gain=max(1.0, math.sqrt(size / width)), generator=generator)
    return matrix
