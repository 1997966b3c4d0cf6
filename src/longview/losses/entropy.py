"""Binary cross-entropy, plain and weighted by how common a label is."""

from __future__ import annotations

from typing import Literal

import torch
from timm.loss.binary_cross_entropy import BinaryCrossEntropy
from torch import Tensor
from torch.nn import functional

from longview import InputError
from longview.losses.base import Loss
from longview.losses.counts import exponential_weights, frequency_weights

WEIGHTS = {"exp": exponential_weights, "frequency": frequency_weights}


class BCE(Loss):
    """Binary cross-entropy of each label, by itself.

    `-y log p - (1 - y) log(1 - p)`, p = sigmoid(logit).
    """

    def __init__(self) -> None:
        super().__init__()
        self.cells = BinaryCrossEntropy(smoothing=0.0, reduction="none")

    def elementwise(self, logits: Tensor, target: Tensor) -> Tensor:
        """Cross-entropy of each cell (B, L)."""
        cells: Tensor = self.cells(logits, target)
        return cells


class WeightedBCE(Loss):
    """Binary cross-entropy whose positives and negatives weigh by the label's training prevalence q.

    `w (-y log p - (1 - y) log(1 - p))`, w = y w_pos + (1 - y) w_neg; a soft target's weight lies between both, and
    its best p stays y. The mean is over cells, not over weights. Without counts all weights are 1.

    Args:
        weights: `exp` (CheXFusion 2023, for CXR-LT): w_pos = e^{1 - q}, w_neg = e^q, gentle.
            `frequency`: w_pos = 1 - q, w_neg = q; both sides of a label weigh the same in total, the loss is small
            (2 q (1 - q) times the BCE at p = 1/2), and a label without positives is not trained.

    Raises:
        InputError: For another name.
    """

    present: Tensor
    absent: Tensor

    def __init__(self, weights: Literal["exp", "frequency"] = "exp") -> None:
        super().__init__()
        if weights not in WEIGHTS:
            raise InputError(f"WeightedBCE: weights must be one of {', '.join(WEIGHTS)}, found {weights!r}")
        self.weights = weights
        self.register_buffer("present", torch.ones(()))
        self.register_buffer("absent", torch.ones(()))

    def set_counts(self, positives: Tensor, observed: Tensor) -> None:
        """Take the weights (L,) of positives and negatives from the counts."""
        self.present, self.absent = WEIGHTS[self.weights](positives, observed)

    def elementwise(self, logits: Tensor, target: Tensor) -> Tensor:
        """Weighted cross-entropy of each cell (B, L)."""
        weight = target * self.present + (1 - target) * self.absent
        return weight * functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
