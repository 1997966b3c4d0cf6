"""Losses that change in the course of training."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from longview import InputError
from longview.losses.base import Loss

TOLERANCE = 1e-9  # shares of epochs are not exact


class Deferred(Loss):
    """One loss first, another for the last epochs: deferred re-weighting (DRW, Cao et al. 2019, arXiv 1906.07413).

    Features are learnt under the first, the decision under the second, re-balanced one. The change holds in
    validation, too, so `val/loss` jumps there: monitor `val/map`. Checkpoints carry which loss is on.

    Args:
        first: The loss of the epochs up to `start`.
        then: The loss from there on.
        start: Share of training after which `then` takes over, in [0, 1]; 0.8 is 160 of 200 epochs, as in the paper, 1
            the last epoch alone.

    Raises:
        InputError: For a start outside this range, and when training begins without a limited number of epochs.
    """

    changed: Tensor

    def __init__(self, first: Loss, then: Loss, start: float = 0.8) -> None:
        super().__init__()
        if not 0 <= start <= 1:
            raise InputError(f"Deferred: start must be in [0, 1], found {start}")
        self.first = first
        self.then = then
        self.start = start
        # a buffer, so that a run resumed within an epoch, or an evaluated checkpoint, knows it; a float above 0, which
        # a moving average of weights and buffers keeps true
        self.register_buffer("changed", torch.tensor(float(start == 0)))

    def set_progress(self, progress: float) -> None:
        """Change over once this share of the epochs is done."""
        super().set_progress(progress)
        if self.start and math.isnan(progress):
            raise InputError(
                f"Deferred: start is {self.start:g} of the epochs, and their number is not limited; set "
                f"trainer.max_epochs"
            )
        self.changed.fill_(float(not self.start or progress >= self.start - TOLERANCE))

    def elementwise(self, logits: Tensor, target: Tensor) -> Tensor:
        """The loss that is on, of each cell (B, L)."""
        return torch.where(self.changed > 0, self.then.elementwise(logits, target),
                           self.first.elementwise(logits, target))  # fmt: skip

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """The loss that is on, as it averages itself.

        Both are computed, which costs next to nothing: to ask the device which one is on would make it wait.
        """
        return torch.where(self.changed > 0, self.then(logits, target), self.first(logits, target))
