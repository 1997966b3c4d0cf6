"""What losses derive from the training split's counts. Each result is finite for any counts, zeros included."""

from __future__ import annotations

import torch
from torch import Tensor


def share(positives: Tensor, observed: Tensor) -> Tensor:
    """Prevalence of each label: positives over studies whose label is known, 0 where none is.

    Args:
        positives: (L,) sums of positive (or soft) training labels.
        observed: (L,) numbers of training studies whose label is known.

    Returns:
        (L,) float64 in [0, 1].
    """
    return (positives.double() / observed.double().clamp_min(1)).clamp(0, 1)


def exponential_weights(positives: Tensor, observed: Tensor) -> tuple[Tensor, Tensor]:
    """Weights e^{1 - share} of positives and e^{share} of negatives, as CheXFusion (2023) weights BCE and ASL.

    Between 1 and e = 2.7, so rare positives gain a little and nothing vanishes. 1 for labels never observed.

    Returns:
        (L,) float32 each.
    """
    prior = share(positives, observed)
    return _where_observed(observed, (1 - prior).exp(), prior.exp())


def frequency_weights(positives: Tensor, observed: Tensor) -> tuple[Tensor, Tensor]:
    """Weights: the share of negatives for positives, that of positives for negatives.

    Both sides of a label then weigh the same in total. 1 for labels never observed.

    Returns:
        (L,) float32 each.
    """
    prior = share(positives, observed)
    return _where_observed(observed, 1 - prior, prior)


def _where_observed(observed: Tensor, present: Tensor, absent: Tensor) -> tuple[Tensor, Tensor]:
    seen = observed > 0
    return torch.where(seen, present, 1.0).float(), torch.where(seen, absent, 1.0).float()


def filled(positives: Tensor) -> Tensor:
    """Counts of positives that can be divided by: a label without any counts as the rarest that has some.

    It has no positives to learn from; taken for a single positive it would get the largest weight, at the cost of
    all others wherever weights are normalised. No count is below 1; all are 1 where no label has positives.

    Returns:
        (L,) float64, at least 1.
    """
    counts = positives.double()
    some = counts[counts > 0]
    rarest = some.min() if len(some) else counts.new_ones(())
    return torch.where(counts > 0, counts, rarest).clamp_min(1)


def effective_number_weights(positives: Tensor, beta: float) -> Tensor:
    """Class-balanced weights (Cui et al. 2019, arXiv 1901.05555).

    `(1 - beta) / (1 - beta^n)`, scaled to a mean of 1 over labels. With beta = 0 all are 1; towards beta = 1 they
    become 1 / n.

    Args:
        positives: (L,) sums of positive (or soft) training labels.
        beta: In [0, 1).

    Returns:
        (L,) float32.
    """
    weights = (1 - beta) / (1 - beta ** filled(positives))
    return (weights / weights.mean()).float()
