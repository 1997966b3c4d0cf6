"""The class prior: what a network scores that has learned nothing but how frequent each label is."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from longview.labels import LabelSet
from longview.models.network import Network


class ClassPrior(Network):
    """The logit of each label's training prevalence, for every study alike: the floor of every comparison.

    Prevalence is `(positives + 1/2) / (observed + 1)` (Jeffreys' prior), so that a label without positives
    has a finite logit; one that no study knows has logit 0. A bias per label, zero at first, is trained, so
    that `fit` runs as for any network.
    """

    prior: Tensor

    def build(self, labels: LabelSet, image_size: int, weights: bool = True) -> None:  # noqa: ARG002
        """Create prior and bias for L labels; there are no images to be sized nor weights to be read."""
        self.register_buffer("prior", torch.zeros(len(labels.names)))
        self.bias = nn.Parameter(torch.zeros(len(labels.names)))

    def per_label(self) -> list[str]:
        """Prior and bias."""
        return ["prior", "bias"]

    def set_counts(self, positives: Tensor, observed: Tensor) -> None:
        """Set the prior from counts (L,)."""
        share = (positives.double() + 0.5) / (observed.double() + 1)
        self.prior.copy_(share.logit())

    def forward(
        self,
        images: Tensor,  # noqa: ARG002
        study: Tensor,  # noqa: ARG002
        view: Tensor,  # noqa: ARG002
        studies: int,
        features: Tensor | None = None,  # noqa: ARG002
    ) -> Tensor:
        """The same logits for each study: (B, L)."""
        return (self.prior + self.bias).float().expand(studies, -1)
