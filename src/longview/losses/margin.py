"""Losses that ask rare labels for a wider margin."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from longview import InputError
from longview.losses.base import Loss
from longview.losses.counts import effective_number_weights, filled


class LDAM(Loss):
    """Label-distribution-aware margins (Cao et al. 2019, arXiv 1906.07413), on sigmoids.

    `w_l [y softplus(-s (x - m_l)) + (1 - y) softplus(s x)]`, x the logit, m_l = C / n_l^(1/4), C such that the rarest
    label's margin is `max_margin`; n_l the label's positives. The paper subtracts the margin from the true class's
    logit before a softmax; here each label is its own two-class problem, and its positives have to clear the margin.
    A label without positives counts as the rarest that has some; without counts every margin is `max_margin`.
    max_margin = 0 and s = 1 is the binary cross-entropy.

    With `Deferred`, a first loss without `beta` and a second with it are the paper's LDAM-DRW.

    Args:
        max_margin: Margin of the rarest label, in logits, at least 0.
        scale: s, above 0. The paper's 30 is for logits that are cosines; these are not.
        beta: Re-weighting by effective numbers, as in `ClassBalanced`, in [0, 1); 0 weighs all labels alike.

    Raises:
        InputError: For values outside these ranges.
    """

    margin: Tensor
    weight: Tensor

    def __init__(self, max_margin: float = 0.5, scale: float = 1.0, beta: float = 0.0) -> None:
        super().__init__()
        if not 0 <= max_margin < math.inf:
            raise InputError(f"LDAM: max_margin must be at least 0, and finite, found {max_margin}")
        if not 0 < scale < math.inf:
            raise InputError(f"LDAM: scale must be above 0, and finite, found {scale}")
        if not 0 <= beta < 1:
            raise InputError(f"LDAM: beta must be in [0, 1), found {beta}")
        self.max_margin = max_margin
        self.scale = scale
        self.beta = beta
        self.register_buffer("margin", torch.tensor(float(max_margin)))
        self.register_buffer("weight", torch.ones(()))

    def set_counts(self, positives: Tensor, observed: Tensor) -> None:  # noqa: ARG002 - the base's signature
        """Take margins and weights (L,) from the counts."""
        margin = filled(positives) ** -0.25
        self.margin = (margin * (self.max_margin / margin.max())).float()
        self.weight = effective_number_weights(positives, self.beta)

    def elementwise(self, logits: Tensor, target: Tensor) -> Tensor:
        """Cross-entropy behind the margin, of each cell (B, L)."""
        positive = functional.softplus(-self.scale * (logits - self.margin))
        return self.weight * (target * positive + (1 - target) * functional.softplus(self.scale * logits))
