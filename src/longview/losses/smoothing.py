"""Label smoothing round any loss."""

from __future__ import annotations

from torch import Tensor

from longview import InputError
from longview.losses.balanced import DistributionBalanced
from longview.losses.base import Loss


class LabelSmoothing(Loss):
    """Another loss on targets moved towards 1/2 (Szegedy et al. 2016, arXiv 1512.00567, for two classes per label).

    `loss(logits, (1 - epsilon) y + epsilon / 2)` in training; in evaluation the targets as they are, so that
    `val/loss` compares with that of other runs. Unknown targets stay unknown.

    Args:
        loss: The loss of the smoothed targets.
        epsilon: In [0, 1); 0 smooths nothing.

    Raises:
        InputError: For an epsilon outside this range, or a loss that weighs cells by their targets.
    """

    def __init__(self, loss: Loss, epsilon: float = 0.1) -> None:
        super().__init__()
        if not 0 <= epsilon < 1:
            raise InputError(f"LabelSmoothing: epsilon must be in [0, 1), found {epsilon}")
        if epsilon and any(isinstance(held, DistributionBalanced) for held in loss.modules()):
            raise InputError(
                "LabelSmoothing: DistributionBalanced weighs a cell by its study's labels, which smoothing would make "
                "all alike; leave out one of them"
            )
        self.loss = loss
        self.epsilon = epsilon

    def _smooth(self, target: Tensor) -> Tensor:
        return target.float() * (1 - self.epsilon) + self.epsilon / 2 if self.training else target

    def elementwise(self, logits: Tensor, target: Tensor) -> Tensor:
        """The held loss of each cell (B, L)."""
        return self.loss.elementwise(logits, self._smooth(target))

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """The held loss as it averages itself: smoothed before the unknown are masked, so that those stay 0."""
        value: Tensor = self.loss(logits, self._smooth(target))
        return value
