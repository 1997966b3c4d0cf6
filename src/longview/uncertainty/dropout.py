"""Monte-Carlo dropout at the cost of one pass: only what follows the first dropout is repeated, samples together."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from longview import Batch, InputError
from longview.models.network import Network
from longview.uncertainty.masks import Masks
from longview.uncertainty.sites import Sites, active

_NUMBERS = 2**25
"""Numbers in a tensor of several studies and samples that is worked on at once; bounds memory to some 100 MB each."""


class MonteCarlo:
    """Samples of a network whose dropout stays on while it predicts (Gal and Ghahramani 2016, arXiv 1506.02142).

    `nn.Dropout` and the attention weights of `nn.MultiheadAttention` and `LabelDecoder` drop; everything else, batch
    norms and timm's functional dropout among it, is in evaluation mode. `torch.vmap` over the samples repeats what
    depends on a mask and nothing else, so that encoder, pooling and projections before the first dropout run once. The
    same seed gives a study the same samples in any batch, on any number of devices (see :class:`Masks`).

    Args:
        samples: T.
        seed: Of the masks.

    Raises:
        InputError: For fewer than 2 samples, which have no variance.
    """

    def __init__(self, samples: int = 10, seed: int = 0) -> None:
        if samples < 2:
            raise InputError(f"--samples {samples}: the spread of samples needs 2 of them at least; 10 is usual")
        self.samples = samples
        self.seed = seed
        self._masks = Masks(samples, seed)
        self._largest: dict[int, int] = {}

    def describe(self) -> dict[str, object]:
        """The settings as plain data, for the file of results."""
        return {"method": "mc-dropout", "samples": self.samples, "seed": self.seed}

    def over(self, network: Network) -> Callable[[Batch], Tensor]:
        """A batch to logits (1 + T, B, L) of this network, for :meth:`longview.test_time.Averaging.predict`."""
        return functools.partial(self.logits, network)

    def logits(self, network: Network, batch: Batch) -> Tensor:
        """Logits (1 + T, B, L) float32: those of the network as it is, then one for each sample.

        Args:
            network: Built, in evaluation mode.
            batch: Packed images, or their features.

        Raises:
            InputError: Where the network drops nothing.
        """
        images, study, view, studies = batch["images"], batch["study"], batch["view"], len(batch["ids"])
        check(network)
        features = batch.get("features")
        if features is None:
            features = _encoded(network, images)
        plain: Tensor = network(images, study, view, studies, features)
        return torch.cat([plain[None], self.sample(network, images, study, view, studies, features)])

    def sample(
        self, network: Network, images: Tensor, study: Tensor, view: Tensor, studies: int, features: Tensor | None
    ) -> Tensor:
        """Logits (T, B, L) of the samples; `features` None: the images are encoded in each, where the encoder drops."""
        # convolutions under vmap do not hear of autocast: heads are sampled in the precision of their weights
        weights = next(network.parameters())
        source = images if features is None else features.to(weights.dtype)
        order: list[Tensor] = []
        parts: list[Tensor] = []
        for rows, members in _groups(study, studies):
            order.append(rows)
            parts.append(self._alike(network, source[members], view[members], features is not None))
        return torch.cat(parts, dim=1)[:, torch.cat(order).argsort()]

    def _alike(self, network: Network, source: Tensor, view: Tensor, encoded: bool) -> Tensor:
        """Logits (T, b, L) of b studies of k views each.

        Args:
            network: The network.
            source: (b, k, ...) features, or images.
            view: (b, k).
            encoded: Whether they are features.
        """
        studies, views = view.shape
        sites = Sites(self._masks)
        study = torch.zeros(views, dtype=torch.int64, device=view.device)
        unseen = torch.empty((views, 1, 0, 0), dtype=torch.uint8, device=view.device)

        def one(sample: Tensor, given: Tensor, types: Tensor) -> Tensor:
            sites.begin(sample)
            # not through __call__, behind which a compiled network is
            images, features = (unseen, given) if encoded else (given, None)
            return network.forward(images, study, types, 1, features)[0]

        over_studies = torch.vmap(one, in_dims=(None, 0, 0))
        repeat = torch.vmap(over_studies, in_dims=(0, None, None))
        largest = self._largest.get(views, source[0].numel())
        parts: list[Tensor] = []
        done = 0
        with sites.within(network), torch.autocast(source.device.type, enabled=False):
            while done < self.samples:
                count = max(1, min(self.samples - done, _NUMBERS // max(1, largest * studies)))
                parts.append(repeat(torch.arange(done, done + count, device=view.device), source, view))
                if not sites.reached:
                    raise InputError(_nothing_drops(network, "its forward pass goes through none of them"))
                largest = self._largest[views] = sites.largest
                done += count
        return torch.cat(parts)


def sample_logits(
    network: Network,
    images: Tensor,
    study: Tensor,
    view: Tensor,
    studies: int,
    samples: int = 10,
    seed: int = 0,
    features: Tensor | None = None,
) -> Tensor:
    """Monte-Carlo dropout's logits (T, B, L) float32.

    Args:
        network: Built, in evaluation mode.
        images: (N, 1, H, W) uint8, the views of all studies, in any order.
        study: (N,) int64, the row in 0..B-1 that an image belongs to.
        view: (N,) int64, position in `longview.VIEWS`.
        studies: B.
        samples: T.
        seed: Of the masks: the same seed gives the same samples.
        features: (N, C, h, w) what `encode` makes of the images, where that is known.

    Raises:
        InputError: Where the network drops nothing, or for fewer than 2 samples.
    """
    check(network)
    known = _encoded(network, images) if features is None else features
    return MonteCarlo(samples, seed).sample(network, images, study, view, studies, known)


def check(network: Network) -> None:
    """Find out, before anything is predicted, whether a network drops anything.

    Raises:
        InputError: Naming the network and what to set; or where its weights are sharded over processes.
    """
    if not active(network):
        raise InputError(_nothing_drops(network, "it has none with p above 0"))
    if any(isinstance(parameter, DTensor) for parameter in network.parameters()):
        raise InputError("Monte-Carlo dropout needs whole weights in each process: --trainer.strategy auto, or ddp")


def _nothing_drops(network: Network, reason: str) -> str:
    parts = [
        type(part).__name__ for name in ("fusion", "decoder") if (part := getattr(network, name, None)) is not None
    ]
    called = f"{type(network).__name__}{f' ({chr(44).join(parts)})' if parts else ''}".replace(",", ", ")
    return (
        f"{called} has no active dropout: nn.Dropout is what Monte-Carlo dropout switches on, and {reason} (timm's own "
        f"is functional and does not count). Train with one, --model.network.init_args.decoder.init_args.dropout 0.2 "
        f"(LinearDecoder, LabelDecoder; XrvNetwork: head new, dropout 0.2); or train several models and give their "
        f"predictions to: main.py ensemble --uncertainty"
    )


def _encoded(network: Network, images: Tensor) -> Tensor | None:
    """Features of the images; None where the encoder itself drops, or the network has none."""
    if type(network).encode is Network.encode:
        return None
    reached: list[str] = []
    handles = [module.register_forward_pre_hook(lambda *_: reached.append("")) for module in active(network).values()]
    try:
        features = network.encode(images)
    finally:
        for handle in handles:
            handle.remove()
    return None if reached else features


def _groups(study: Tensor, studies: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Studies of equally many views: rows (b,) of the batch, and positions (b, k) of their images, in order."""
    counts = study.bincount(minlength=studies)  # (B,)
    places = study.argsort(stable=True)  # images, study by study
    starts = counts.cumsum(0) - counts
    for count in sorted(set(counts.tolist())):
        if not count:
            raise ValueError("a study of the batch has no image; leave it out of the batch")
        rows = (counts == count).nonzero()[:, 0]
        yield rows, places[starts[rows][:, None] + torch.arange(count, device=study.device)]
