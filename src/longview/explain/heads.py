"""The part of a network above its feature map, for one study: scores and their gradients, all labels in one pass.

What is exact and what is not, by head:

* linear on the mean (`LinearDecoder` with `pool: avg`, torchxrayvision's classifiers), one view or `MeanFusion`:
  gradients are the weights, in closed form, and the class activation map is the logit itself, place by place, but for
  the bias. Exact; where a classifier moves its operating points, it is the score before that which is explained
* any other head (`LabelDecoder`, maximum or log-sum-exp pooling, `TransformerFusion`, learned weights of views):
  gradients come from one backward pass of the head alone, for all labels at once (a batched vector-Jacobian product).
  They are exact; that gradient times activation explains the score is then a first-order approximation
* attention of a `LabelDecoder` is exactly what its label looked at, but looking is not yet believing: values, residual
  branches and feed-forward layers come after it. Under `TransformerFusion` tokens have seen each other before, so that
  a token stands for more than its place
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from longview import InputError
from longview.models.decoder import Decoder, LinearDecoder
from longview.models.fusion import Fusion, MeanFusion, ViewFusion
from longview.models.network import Network
from longview.models.xrv import OperatingPointDecoder

_VALUES = 2**25
"""Values of features that are scored or differentiated at once: 128 MiB of single precision."""


class Head:
    """A network above its feature map, for the V views of one study.

    Args:
        network: In evaluation mode.
        view: (V,) int64, positions in `longview.VIEWS`, on the network's device.
    """

    def __init__(self, network: Network, view: Tensor) -> None:
        self.network = network
        self.view = view

    @property
    def views(self) -> int:
        """V."""
        return len(self.view)

    def logits(self, features: Tensor) -> Tensor:
        """Logits (K, L) of K versions of the study.

        Args:
            features: (K V, C, h, w), the views of the first version, of the second, and so on.
        """
        versions = len(features) // self.views
        study = torch.arange(versions, device=features.device).repeat_interleave(self.views)
        images = torch.empty(len(features), 1, 0, 0, dtype=torch.uint8, device=features.device)
        logits: Tensor = self.network(images, study, self.view.repeat(versions), versions, features)
        return logits

    def at_once(self, features: Tensor) -> int:
        """How many versions of the study's features (V, C, h, w) to score in one pass."""
        return max(1, _VALUES // features.numel())

    def gradients(self, features: Tensor, labels: Sequence[int], *, closed: bool = True) -> Tensor:
        """Gradients (n, V, C, h, w) of n labels' logits with respect to the features.

        A linear head gives its weights, without any pass; they are one value per channel, seen at every place.
        Others are asked by one forward and one backward pass of the head, batched over labels.

        Args:
            features: (V, C, h, w).
            labels: Positions of n labels in the logits.
            closed: Whether a linear head may answer by its weights: not where it drops some of what it is given.
        """
        weights = self.weights() if closed else None
        if weights is not None:
            each = weights[list(labels)] / features[:, 0].numel()  # (n, C), over the positions of all views
            return each[:, None, :, None, None].expand(-1, *features.shape)
        # the mathematical form of attention is the one whose backward pass can be batched
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
            leaf = features.detach().clone().requires_grad_()
            logits = self.logits(leaf)[0]  # (L,)
            directions = torch.eye(len(logits), device=logits.device)[list(labels)]  # (n, L)
            parts = torch.split(directions, self.at_once(features))
            grads = [
                torch.autograd.grad(logits, leaf, part, retain_graph=part is not parts[-1], is_grads_batched=True)[0]
                for part in parts
            ]
        return torch.cat(grads)

    def weights(self) -> Tensor | None:
        """Weights (L, C) of a head that is linear on the mean of the study's features; None for another head."""
        weights = linear_weights(self.network)
        # a pool of one view is that view; the mean of several is linear, but not where operating points bend each
        if self.views == 1 or (
            type(fusion_of(self.network)) is MeanFusion and type(decoder_of(self.network)) is LinearDecoder
        ):
            return weights
        return None

    def view_weights(self, features: Tensor) -> Tensor:
        """Weights (L, V) of the views' logits in the study's; they sum to 1 over the views.

        They are the derivative of the one by the other: 1/V for a mean, 1 for the largest under `MaxFusion`, the
        learned weight under `AttentionFusion`. Where all views are decoded together, (L, 1): 1.
        """
        decoder = decoder_of(self.network)
        if decoder is None:
            return torch.full((1, self.views), 1 / self.views, device=features.device)
        with torch.enable_grad(), recorded(decoder) as outputs:
            logits = self.logits(features.detach().clone().requires_grad_())
            (share,) = torch.autograd.grad(logits.sum(), outputs[0])  # (V, L): no label depends on another's
        share = share.T.clamp(min=0)
        return share / share.sum(dim=1, keepdim=True)


@contextmanager
def recorded(module: nn.Module) -> Iterator[list[Tensor]]:
    """What a module returns while the context is open, one tensor per call."""
    outputs: list[Tensor] = []
    handle = module.register_forward_hook(lambda _module, _inputs, output: outputs.append(output))
    try:
        yield outputs
    finally:
        handle.remove()


def decoder_of(network: Network) -> Decoder | None:
    """The decoder of a network that has one."""
    decoder = getattr(network, "decoder", None)
    return decoder if isinstance(decoder, Decoder) else None


def fusion_of(network: Network) -> Fusion | None:
    """The view fusion of a network that has one."""
    fusion = getattr(network, "fusion", None)
    return fusion if isinstance(fusion, Fusion) else None


def linear_weights(network: Network) -> Tensor | None:
    """Weights (L, C) of a network that scores each view by a linear layer on the mean of its features; else None.

    What a classifier does to its scores after that, label by label and without changing their order, does not count.
    """
    decoder = decoder_of(network)
    if type(decoder) not in {LinearDecoder, OperatingPointDecoder} or not isinstance(fusion_of(network), ViewFusion):
        return None
    assert isinstance(decoder, LinearDecoder)
    return decoder.readout.weight.detach().float() if decoder.pool == "avg" else None


def features_of(network: Network, images: Tensor, model: str, known: Tensor | None = None) -> Tensor:
    """Feature maps (V, C, h, w) float32 of images (V, 1, S, S) uint8, without gradients.

    Args:
        network: In evaluation mode.
        images: The images.
        model: Name for messages.
        known: What `encode` makes of them, where that has been done.

    Raises:
        InputError: For a network without a feature map, or one whose features are not finite.
    """
    if known is None:
        with torch.no_grad():
            features = network.encode(images)
    else:
        features = known
    if features.ndim != 4 or features[0, 0].numel() < 2:
        raise InputError(
            f"{model}: its features are of shape {tuple(features.shape)}, which is no map of places; it has no heat-map"
        )
    if not features.isfinite().all():
        raise InputError(f"{model}: its features are not finite; its weights are broken, or its training diverged")
    return features.float()
