"""Losses for labels that may be unknown: each is given per study and label, masked and averaged here.

Every loss is the mean over known cells (target not NaN), so its size, and with it the learning rate that
suits it, depends on neither the batch, the number of labels nor how many of them a source knows.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from longview.labels import LabelSet


class Loss(nn.Module, ABC):
    """Logits and targets to one number: the mean of `elementwise` over the cells whose target is known.

    Computed in float32 also where autocast is on: in half precision `1 - p` loses all small probabilities.
    Tensors that a subclass needs belong into buffers, so that they move with the module and into its
    checkpoint. Under DDP each process averages over its own known cells.

    Losses that are attributes of a loss are told what it is told; a subclass that overrides one of the `set_`
    methods and holds losses calls `super()`'s.
    """

    def _held(self) -> Iterator[Loss]:
        return (child for child in self.children() if isinstance(child, Loss))

    @abstractmethod
    def elementwise(self, logits: Tensor, target: Tensor) -> Tensor:
        """Loss of each cell.

        Args:
            logits: (B, L) float32.
            target: (B, L) float32 in [0, 1], soft values allowed; 0 where it was unknown.

        Returns:
            (B, L), finite for finite logits; cells of unknown target are left out by the caller.
        """

    def set_labels(self, labels: LabelSet) -> None:
        """Learn which label each column is; called once, when the task is built, before the counts."""
        for loss in self._held():
            loss.set_labels(labels)

    def set_counts(self, positives: Tensor, observed: Tensor) -> None:
        """Learn the training split's counts: zeros where a checkpoint is loaded next, which brings the buffers.

        Args:
            positives: (L,) sums of positive (or soft) training labels.
            observed: (L,) numbers of training studies whose label is known.
        """
        for loss in self._held():
            loss.set_counts(positives, observed)

    def set_targets(self, targets: Tensor) -> None:
        """Learn from the training split's targets what counts do not tell; called after `set_counts`, in `fit` alone.

        Args:
            targets: (S, L) float32 of the S training studies, NaN where unknown.
        """
        for loss in self._held():
            loss.set_targets(targets)

    def set_progress(self, progress: float) -> None:
        """Learn how far training is; called when an epoch begins.

        Args:
            progress: 0 in the first epoch, 1 in the last; NaN where their number is not limited.
        """
        for loss in self._held():
            loss.set_progress(progress)

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
