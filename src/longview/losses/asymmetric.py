"""Losses that treat positives and negatives unlike."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from longview import InputError
from longview.losses.base import Loss
from longview.losses.counts import exponential_weights


def _check(loss: str, gamma_neg: float, gamma_pos: float, clip: float) -> None:
    for name, gamma in (("gamma_neg", gamma_neg), ("gamma_pos", gamma_pos)):
        if not (gamma == 0 or 1 <= gamma < math.inf):
            raise InputError(f"{loss}: {name} must be 0 or at least 1, and finite, found {gamma}")
    if not 0 <= clip < 1:
        raise InputError(f"{loss}: clip must be in [0, 1), found {clip}")


def _log_absent(logits: Tensor, clip: float) -> Tensor:
    """log(1 - p_m), p_m = max(p - clip, 0); with 1 - p as sigmoid(-logit), for in float32 it is 0 from logit 17 on."""
    if clip == 0:
        return functional.logsigmoid(-logits)
    return (torch.sigmoid(-logits) + clip).clamp_max(1).log()


def _focus(logits: Tensor, target: Tensor, gamma_neg: float, gamma_pos: float, clip: float) -> Tensor:
    """(1 - p_t)^g: how little an easy cell counts."""
    missed = target * torch.sigmoid(-logits) + (1 - target) * (torch.sigmoid(logits) - clip).clamp_min(0)
    return missed ** (gamma_pos * target + gamma_neg * (1 - target))


class ASL(Loss):
    """Asymmetric loss (Ridnik et al. 2021, arXiv 2009.14119): easy negatives count less.

    `-(1 - p_t)^g [y log p + (1 - y) log(1 - p_m)]`, p = sigmoid(logit), p_m = max(p - clip, 0),
    p_t = y p + (1 - y)(1 - p_m), g = gamma_pos y + gamma_neg (1 - y); mixed so for soft y, as timm does. With
    gamma_neg = gamma_pos = clip = 0 it is the binary cross-entropy.

    timm's `AsymmetricLossMultiLabel` is not used, since it takes `1 - p` in float32 and cuts logarithms at 1e-8: with
    clip = 0, a negative has no gradient from logit 17 on.

    Args:
        gamma_neg: Focusing of negatives: how fast their weight falls as they become easy. 0, or at least 1.
        gamma_pos: Focusing of positives. 0, or at least 1.
        clip: Probability below which a negative counts nothing, in [0, 1).
        weighted: Weigh positives by e^{1 - q} and negatives by e^q, q the label's training prevalence, as CheXFusion
            (2023) does.

    Raises:
        InputError: For values outside these ranges; between 0 and 1 a focusing power has an infinite slope at
            p_t = 1.
    """

    present: Tensor
    absent: Tensor

    def __init__(
        self, gamma_neg: float = 4.0, gamma_pos: float = 1.0, clip: float = 0.05, weighted: bool = False
    ) -> None:
        super().__init__()
        _check("ASL", gamma_neg, gamma_pos, clip)
        self.gamma_neg = gamma_neg
        self.gamma_pos = gamma_pos
        self.clip = clip
        self.weighted = weighted
        if weighted:
            self.register_buffer("present", torch.ones(()))
            self.register_buffer("absent", torch.ones(()))

    def set_counts(self, positives: Tensor, observed: Tensor) -> None:
        """Take the weights (L,) of positives and negatives from the counts, where weights are asked for."""
        if self.weighted:
            self.present, self.absent = exponential_weights(positives, observed)

    def elementwise(self, logits: Tensor, target: Tensor) -> Tensor:
        """Asymmetric loss of each cell (B, L)."""
        likelihood = target * functional.logsigmoid(logits) + (1 - target) * _log_absent(logits, self.clip)
        cells = -_focus(logits, target, self.gamma_neg, self.gamma_pos, self.clip) * likelihood
        if self.weighted:
            cells = cells * (target * self.present + (1 - target) * self.absent)
        return cells


class RAL(Loss):
    """Robust asymmetric loss (Park et al. 2023, arXiv 2308.05542): ASL less sensitive to its focusing powers.

    `-(1 - p_t)^g [y P + (1 - y) N]`, p_t, p_m and g as in `ASL`, with the first polynomial terms of the logarithm
    re-weighted and a Hill factor that lets likely false negatives count less:
    P = log p + epsilon_pos (1 - p) + epsilon_pos2 (1 - p)^2 / 2,
    N = [log(1 - p_m) + epsilon_neg (1 - p_m)] (hill - p) p^2 (hill - (1 - p_m)).
    The published code sums over cells; here, as for every loss, it is the mean.

    Args:
        gamma_neg: Focusing of negatives. 0, or at least 1.
        gamma_pos: Focusing of positives. 0, or at least 1.
        clip: Probability below which a negative counts nothing, in [0, 1).
        hill: The Hill factor's bound (lambda), at least 1, below which negatives would be rewarded for a high p.
        epsilon_pos: What is taken off the first-order term of positives, at most 1, which leaves nothing of it.
        epsilon_pos2: What is taken off (below 0: added to) twice the second-order term of positives, at most 1.
        epsilon_neg: The same for negatives' first-order term, at most 0.

    Raises:
        InputError: For values outside these ranges.
    """

    def __init__(
        self,
        gamma_neg: float = 4.0,
        gamma_pos: float = 0.0,
        clip: float = 0.05,
        hill: float = 1.5,
        epsilon_pos: float = 1.0,
        epsilon_pos2: float = -2.5,
        epsilon_neg: float = 0.0,
    ) -> None:
        super().__init__()
        _check("RAL", gamma_neg, gamma_pos, clip)
        if not 1 <= hill < math.inf:
            raise InputError(f"RAL: hill must be at least 1, and finite, found {hill}")
        limits = (("epsilon_pos", epsilon_pos, 1), ("epsilon_pos2", epsilon_pos2, 1), ("epsilon_neg", epsilon_neg, 0))
        for name, epsilon, limit in limits:
            if not -math.inf < epsilon <= limit:
                raise InputError(
                    f"RAL: {name} must be at most {limit}, and finite, found {epsilon}; above, mistakes are rewarded"
                )
        self.gamma_neg = gamma_neg
        self.gamma_pos = gamma_pos
        self.clip = clip
        self.hill = hill
        self.epsilon_pos = epsilon_pos
        self.epsilon_pos2 = epsilon_pos2
        self.epsilon_neg = epsilon_neg

    def elementwise(self, logits: Tensor, target: Tensor) -> Tensor:
        """Robust asymmetric loss of each cell (B, L)."""
        p, missing = torch.sigmoid(logits), torch.sigmoid(-logits)
        absent = (missing + self.clip).clamp_max(1)  # 1 - p_m
        present = (
            functional.logsigmoid(logits) + self.epsilon_pos * missing + self.epsilon_pos2 / 2 * missing**2
        )  # (B, L)
        hill = (self.hill - p) * p**2 * (self.hill - absent)
        negative = (_log_absent(logits, self.clip) + self.epsilon_neg * absent) * hill
        focus = _focus(logits, target, self.gamma_neg, self.gamma_pos, self.clip)
        return -focus * (target * present + (1 - target) * negative)
