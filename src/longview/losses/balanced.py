"""Losses that weigh labels, or cells, against the long tail of the training counts."""

from __future__ import annotations

import math

import torch
from timm.loss.distribution_balanced_loss import DistributionBalancedLoss
from torch import Tensor

from longview import InputError
from longview.losses.base import Loss
from longview.losses.counts import effective_number_weights, filled
from longview.losses.focal import focal_cells


class ClassBalanced(Loss):
    """Class-balanced loss (Cui et al. 2019, arXiv 1901.05555): labels weigh by their effective number of positives.

    `w_l FL(p, y)`, w_l proportional to (1 - beta) / (1 - beta^n_l), scaled to sum to L; n_l the label's positives, FL
    the focal loss, the binary cross-entropy where gamma = 0. The paper weighs a sample by its one class; for many
    labels per study each label's column is weighted, positives and negatives alike (`by_class` in the code of Wu et
    al. 2020, arXiv 2007.09654). A label without positives weighs as the rarest that has some. beta = 0, equal counts
    or no counts leave FL.

    Args:
        beta: In [0, 1): 0 weighs all alike, towards 1 by 1 / n. Labels above 1 / (1 - beta) positives weigh about
            the same: 0.9999 tells up to ten thousand apart.
        gamma: Focusing power, at least 0.

    Raises:
        InputError: For values outside these ranges.
    """

    weight: Tensor

    def __init__(self, beta: float = 0.9999, gamma: float = 0.0) -> None:
        super().__init__()
        if not 0 <= beta < 1:
            raise InputError(f"ClassBalanced: beta must be in [0, 1), found {beta}")
        if not 0 <= gamma < math.inf:
            raise InputError(f"ClassBalanced: gamma must be at least 0, and finite, found {gamma}")
        self.beta = beta
        self.gamma = gamma
        self.register_buffer("weight", torch.ones(()))

    def set_counts(self, positives: Tensor, observed: Tensor) -> None:  # noqa: ARG002 - the base's signature
        """Take the weights (L,) from the counts."""
        self.weight = effective_number_weights(positives, self.beta)

    def elementwise(self, logits: Tensor, target: Tensor) -> Tensor:
        """Weighted focal loss of each cell (B, L)."""
        return self.weight * focal_cells(logits, target, self.gamma)


class DistributionBalanced(Loss):
    """Distribution-balanced loss (Wu et al. 2020, arXiv 2007.09654), by timm.

    `w [y f(-z) + (1 - y) f(scale z) / scale]`, with f(x) = softplus(x) sigmoid(x)^gamma focal_scale (softplus alone
    where gamma = 0), and
    - rebalanced weighting: w = alpha + sigmoid(beta (r - mu)), r = (1/n_l) / sum_j y_j/n_j: how much likelier the
      study would be drawn for label l alone than for any of its labels. A study without known positives weighs most;
    - negative-tolerant regularisation: z = logit + bias/scale log(q / (1 - q)), and negatives' logits times `scale`,
      so that the many negatives of a rare label are not pushed ever further down.
    n_l are the label's training positives, q its prevalence among the studies that know it (timm takes one number of
    studies for all). r is of known labels alone; it ties a cell's weight, though not its slope, to the study's other
    labels. alpha = 0.5, beta = 0, scale = 1, bias = 0 and gamma = 0 leave the binary cross-entropy.

    Args:
        alpha: Least weight, at least 0.
        beta: Steepness of the weight in r, at least 0.
        mu: The r whose weight is alpha + 1/2.
        scale: The paper's lambda, above 0; 1 does without.
        bias: The paper's kappa: how much of the prior's logit is added, at least 0.
        gamma: Focusing power: 0, or at least 1.
        focal_scale: Factor of the focal loss, above 0.

    Raises:
        InputError: For values outside these ranges.
    """

    def __init__(
        self,
        alpha: float = 0.1,
        beta: float = 10.0,
        mu: float = 0.2,
        scale: float = 2.0,
        bias: float = 0.05,
        gamma: float = 2.0,
        focal_scale: float = 2.0,
    ) -> None:
        super().__init__()
        for name, value in (("alpha", alpha), ("beta", beta), ("bias", bias)):
            if not 0 <= value < math.inf:
                raise InputError(f"DistributionBalanced: {name} must be at least 0, and finite, found {value}")
        for name, value in (("scale", scale), ("focal_scale", focal_scale)):
            if not 0 < value < math.inf:
                raise InputError(f"DistributionBalanced: {name} must be above 0, and finite, found {value}")
        if not (gamma == 0 or 1 <= gamma < math.inf):
            raise InputError(f"DistributionBalanced: gamma must be 0 or at least 1, and finite, found {gamma}")
        if not math.isfinite(mu):
            raise InputError(f"DistributionBalanced: mu must be finite, found {mu}")
        self.scale = scale
        self.bias = bias
        # one label, of two studies one positive: weights and biases that broadcast, until the counts are known
        self.cells = DistributionBalancedLoss([1.0], 2, alpha, beta, mu, scale, bias, gamma, focal_scale,
                                              reduction="none")  # fmt: skip

    def set_counts(self, positives: Tensor, observed: Tensor) -> None:
        """Take 1 / n and the bias of each label (L,) from the counts: a label has at least one of either side."""
        known = observed.double().clamp_min(2)
        inside = torch.minimum(positives.double().clamp_min(1), known - 1)
        self.cells.freq_inv = (1 / filled(positives)).float()
        self.cells.logit_bias = (self.bias / self.scale * torch.log(inside / (known - inside))).float()

    def elementwise(self, logits: Tensor, target: Tensor) -> Tensor:
        """Distribution-balanced loss of each cell (B, L)."""
        cells: Tensor = self.cells(logits, target)
        return cells
