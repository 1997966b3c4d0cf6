"""Losses that let easy cells count less, or re-weight the leading term of the cross-entropy."""

from __future__ import annotations

import math

from timm.loss.poly_loss import PolyBinaryCrossEntropy
from torch import Tensor
from torch.nn import functional

from longview import InputError
from longview.losses.base import Loss


def focal_cells(logits: Tensor, target: Tensor, gamma: float) -> Tensor:
    """Focal loss of each cell (B, L): a soft target mixes the loss of a positive and that of a negative.

    Powers are taken of log-probabilities: a power of p itself has no finite slope at 0 for gamma below 1.
    """
    log_present, log_absent = functional.logsigmoid(logits), functional.logsigmoid(-logits)
    if gamma == 0:
        return -target * log_present - (1 - target) * log_absent
    positive = (gamma * log_absent).exp() * log_present
    negative = (gamma * log_present).exp() * log_absent
    return -target * positive - (1 - target) * negative


class Focal(Loss):
    """Focal loss (Lin et al. 2017, arXiv 1708.02002): what is classified well counts less.

    `-alpha y (1 - p)^gamma log p - (1 - alpha)(1 - y) p^gamma log(1 - p)`, p = sigmoid(logit). With gamma = 0 and
    no alpha it is the binary cross-entropy.

    Args:
        gamma: Focusing power, at least 0.
        alpha: Weight of positives, 1 - alpha that of negatives, in [0, 1]; none weighs both by 1. The paper's 0.25
            goes with its many easy negatives at gamma = 2; for rare labels 0.5 to 0.75 is more usual.

    Raises:
        InputError: For values outside these ranges.
    """

    def __init__(self, gamma: float = 2.0, alpha: float | None = None) -> None:
        super().__init__()
        if not 0 <= gamma < math.inf:
            raise InputError(f"Focal: gamma must be at least 0, and finite, found {gamma}")
        if alpha is not None and not 0 <= alpha <= 1:
            raise InputError(f"Focal: alpha must be in [0, 1] or null, found {alpha}")
        self.gamma = gamma
        self.alpha = alpha

    def elementwise(self, logits: Tensor, target: Tensor) -> Tensor:
        """Focal loss of each cell (B, L)."""
        if self.alpha is None:
            return focal_cells(logits, target, self.gamma)
        one, other = target.new_ones(()), target.new_zeros(())
        positive = self.alpha * target * focal_cells(logits, one, self.gamma)
        return positive + (1 - self.alpha) * (1 - target) * focal_cells(logits, other, self.gamma)


class Poly(Loss):
    """Poly-1 loss (Leng et al. 2022, arXiv 2204.12511), on sigmoids: the cross-entropy's leading term re-weighted.

    `(1 - p_t)^gamma BCE + epsilon (1 - p_t)^(gamma + 1)`, p_t = y p + (1 - y)(1 - p), p = sigmoid(logit). With
    epsilon = gamma = 0 it is the binary cross-entropy.

    Args:
        epsilon: What is added to the weight of 1 - p_t, at least -1; the paper's 2 suits balanced classes, its -1
            goes with gamma = 2.
        gamma: Focusing power: 0, or at least 1.

    Raises:
        InputError: For values outside these ranges; below -1, a perfect score would not be the best one.
    """

    def __init__(self, epsilon: float = 1.0, gamma: float = 0.0) -> None:
        super().__init__()
        if not -1 <= epsilon < math.inf:
            raise InputError(f"Poly: epsilon must be at least -1, and finite, found {epsilon}")
        if not (gamma == 0 or 1 <= gamma < math.inf):
            raise InputError(f"Poly: gamma must be 0 or at least 1, and finite, found {gamma}")
        self.cells = PolyBinaryCrossEntropy(epsilon, gamma, reduction="none")

    def elementwise(self, logits: Tensor, target: Tensor) -> Tensor:
        """Poly-1 loss of each cell (B, L)."""
        cells: Tensor = self.cells(logits, target)
        return cells
