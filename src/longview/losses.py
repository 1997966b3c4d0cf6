"""Losses for labels that may be unknown: each is given per study and label, masked and averaged here.

Every loss is the mean over known cells (target not NaN), so its size, and with it the learning rate that
suits it, depends on neither the batch, the number of labels nor how many of them a source knows.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from timm.loss.asymmetric_loss import AsymmetricLossMultiLabel
from timm.loss.binary_cross_entropy import BinaryCrossEntropy
from torch import Tensor, nn

from longview import InputError


class Loss(nn.Module, ABC):
    """Logits and targets to one number: the mean of `elementwise` over the cells whose target is known.

    Computed in float32 also where autocast is on: in half precision `1 - p` loses all small probabilities.
    Tensors that a subclass needs belong into buffers, so that they move with the module and into its
    checkpoint. Under DDP each process averages over its own known cells.
    """

    @abstractmethod
    def elementwise(self, logits: Tensor, target: Tensor) -> Tensor:
        """Loss of each cell.

        Args:
            logits: (B, L) float32.
            target: (B, L) float32 in [0, 1], soft values allowed; 0 where it was unknown.

        Returns:
            (B, L), finite for finite logits; cells of unknown target are left out by the caller.
        """

    def set_counts(self, positives: Tensor, observed: Tensor) -> None:
        """Learn the training split's counts.

        Args:
            positives: (L,) sums of positive (or soft) training labels.
            observed: (L,) numbers of training studies whose label is known.
        """

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Mean loss over known cells: a float32 scalar, 0 (with zero gradient) where none is known.

        Args:
            logits: (B, L).
            target: (B, L) in [0, 1], NaN where unknown.

        Raises:
            ValueError: Where the shapes differ: broadcasting would average something else.
        """
        if logits.shape != target.shape:
            raise ValueError(f"logits {tuple(logits.shape)} and target {tuple(target.shape)} differ in shape")
        known = ~target.isnan()
        with torch.autocast(logits.device.type, enabled=False):
            # NaN and its logit are replaced before the arithmetic: 0 * NaN is NaN, in the backward pass as
            # well
            cells = self.elementwise(
                torch.where(known, logits.float(), 0.0), torch.where(known, target.float(), 0.0)
            )  # (B, L)
            return torch.where(known, cells, 0.0).sum() / known.sum().clamp_min(1)


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


class ASL(Loss):
    """Asymmetric loss (Ridnik et al. 2021, arXiv 2009.14119): easy negatives count less.

    `-(1 - p_t)^g [y log p + (1 - y) log(1 - p_m)]`, p = sigmoid(logit), p_m = max(p - clip, 0),
    p_t = y p + (1 - y)(1 - p_m), g = gamma_pos y + gamma_neg (1 - y). Logarithms are cut at 1e-8. With
    gamma_neg = gamma_pos = clip = 0 it is the binary cross-entropy (where p is not cut).

    timm computes `1 - p` in float32. With a margin that is exact to 1e-5; with clip = 0 a negative's loss is off by
    0.01 at logit 12, and from logit 17 on it stays at 18.4 without a gradient. A positive's does below -18.4.

    Args:
        gamma_neg: Focusing of negatives: how fast their weight falls as they become easy. 0, or at least 1.
        gamma_pos: Focusing of positives. 0, or at least 1.
        clip: Probability below which a negative counts nothing, in [0, 1).

    Raises:
        InputError: For values outside these ranges; between 0 and 1 a focusing power has an infinite slope at
            p_t = 1.
    """

    def __init__(self, gamma_neg: float = 4.0, gamma_pos: float = 1.0, clip: float = 0.05) -> None:
        super().__init__()
        for name, gamma in (("gamma_neg", gamma_neg), ("gamma_pos", gamma_pos)):
            if not (gamma == 0 or gamma >= 1):
                raise InputError(f"ASL: {name} must be 0 or at least 1, found {gamma}")
        if not 0 <= clip < 1:
            raise InputError(f"ASL: clip must be in [0, 1), found {clip}")
        self.cells = AsymmetricLossMultiLabel(gamma_neg, gamma_pos, clip, eps=1e-8, reduction="none")

    def elementwise(self, logits: Tensor, target: Tensor) -> Tensor:
        """Asymmetric loss of each cell (B, L)."""
        cells: Tensor = self.cells(logits, target)
        return cells
