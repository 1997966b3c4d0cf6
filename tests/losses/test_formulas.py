"""Values against plain formulas in float64 that share no code with the losses, slopes, and neutral settings."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from timm.loss import AsymmetricLossMultiLabel

from longview import InputError
from longview.losses import (
    ASL,
    BCE,
    LDAM,
    RAL,
    ClassBalanced,
    DistributionBalanced,
    Focal,
    HierarchicalLoss,
    Poly,
    WeightedBCE,
)

INF = float("inf")

LOGITS = arrays.arrays(np.float32, (4, 3), elements=st.floats(-30, 30, width=32))
TARGETS = arrays.arrays(np.float32, (4, 3), elements=st.sampled_from([0.0, 1.0, 0.25, 0.9, float("nan")]))

POSITIVES, OBSERVED = np.array([300.0, 20.0, 4.5]), np.array([1000.0, 1000.0, 400.0])
SHARE = POSITIVES / OBSERVED
BALANCED = (1 - 0.99) / (1 - 0.99**POSITIVES) / np.mean((1 - 0.99) / (1 - 0.99**POSITIVES))


def log_p(x):
    return -np.logaddexp(0, -x)


def p_of(x):
    return np.exp(log_p(x))


def cross_entropy(x, y):
    return np.logaddexp(0, x) - x * y


def exponential(x, y):
    return (y * np.exp(1 - SHARE) + (1 - y) * np.exp(SHARE)) * cross_entropy(x, y)


def frequency(x, y):
    return (y * (1 - SHARE) + (1 - y) * SHARE) * cross_entropy(x, y)


def focal(x, y, gamma, alpha=None):
    """arXiv 1708.02002, a soft target as a mixture."""
    present, absent = (1, 1) if alpha is None else (alpha, 1 - alpha)
    p, q = p_of(x), p_of(-x)
    return -present * y * q**gamma * log_p(x) - absent * (1 - y) * p**gamma * log_p(-x)


def poly(x, y, epsilon, gamma):
    """arXiv 2204.12511 on p_t = y p + (1 - y)(1 - p)."""
    missed = y * p_of(-x) + (1 - y) * p_of(x)
    return missed**gamma * (cross_entropy(x, y) + epsilon * missed)


def asymmetric(x, y, gamma_neg, gamma_pos, clip):
    """Equations 2, 4 and 5 of arXiv 2009.14119, mixed for soft targets as timm does."""
    absent = np.minimum(p_of(-x) + clip, 1)
    missed = y * p_of(-x) + (1 - y) * np.maximum(p_of(x) - clip, 0)
    focus = missed ** (gamma_pos * y + gamma_neg * (1 - y))
    return -focus * (y * log_p(x) + (1 - y) * (log_p(-x) if clip == 0 else np.log(absent)))


def robust(x, y, gamma_neg=4, gamma_pos=0, clip=0.05, hill=1.5, first=1.0, second=-2.5, negative=0.0):
    """arXiv 2308.05542 with its code's constants."""
    p, q = p_of(x), p_of(-x)
    absent = np.minimum(q + clip, 1)
    log_absent = log_p(-x) if clip == 0 else np.log(absent)
    present = y * (log_p(x) + first * q + second / 2 * q**2)
    missing = (1 - y) * (log_absent + negative * absent) * (hill - p) * p**2 * (hill - absent)
    focus = (y * q + (1 - y) * np.maximum(p - clip, 0)) ** (gamma_pos * y + gamma_neg * (1 - y))
    return -focus * (present + missing)


def distribution(x, y, alpha=0.1, beta=10, mu=0.2, scale=2, bias=0.05, gamma=2, factor=2):
    """arXiv 2007.09654, with the focal form of its code."""
    y_known = np.nan_to_num(y)
    with np.errstate(divide="ignore"):
        ratio = (1 / POSITIVES) / (y_known / POSITIVES).sum(axis=1, keepdims=True)
    weight = alpha + p_of(beta * (ratio - mu))
    z = x - bias / scale * np.log(1 / SHARE - 1)
    positive, negative = -log_p(z), -log_p(-scale * z) / scale
    if gamma:
        positive = factor * p_of(-z) ** gamma * positive
        negative = factor * p_of(scale * z) ** gamma * negative
    return weight * (y * positive + (1 - y) * negative)


def margin(x, y, max_margin, scale, balanced=1.0):
    """arXiv 1906.07413, one two-class problem per label."""
    delta = max_margin * (POSITIVES.min() / POSITIVES) ** 0.25
    return balanced * -(y * log_p(scale * (x - delta)) + (1 - y) * log_p(-scale * x))


VALUES = {
    "BCE": (BCE, cross_entropy),
    "WeightedBCE": (WeightedBCE, exponential),
    "WeightedBCE frequency": (lambda: WeightedBCE("frequency"), frequency),
    "Focal": (Focal, lambda x, y: focal(x, y, 2)),
    "Focal 0.5": (lambda: Focal(0.5, 0.75), lambda x, y: focal(x, y, 0.5, 0.75)),
    "Poly": (Poly, lambda x, y: poly(x, y, 1, 0)),
    "Poly focal": (lambda: Poly(-1, 2), lambda x, y: poly(x, y, -1, 2)),
    "ClassBalanced": (lambda: ClassBalanced(0.99), lambda x, y: BALANCED * cross_entropy(x, y)),
    "ClassBalanced focal": (lambda: ClassBalanced(0.99, 1.5), lambda x, y: BALANCED * focal(x, y, 1.5)),
    "ASL": (ASL, lambda x, y: asymmetric(x, y, 4, 1, 0.05)),
    "ASL symmetric": (lambda: ASL(2, 2, 0), lambda x, y: asymmetric(x, y, 2, 2, 0)),
    "ASL shifted": (lambda: ASL(0, 0, 0.2), lambda x, y: asymmetric(x, y, 0, 0, 0.2)),
    "ASL unfocused positives": (lambda: ASL(4, 0, 0.05), lambda x, y: asymmetric(x, y, 4, 0, 0.05)),
    "ASL weighted": (
        lambda: ASL(weighted=True),
        lambda x, y: (y * np.exp(1 - SHARE) + (1 - y) * np.exp(SHARE)) * asymmetric(x, y, 4, 1, 0.05),
    ),
    "RAL": (RAL, robust),
    "RAL other": (
        lambda: RAL(2, 1, 0, 1.2, 0.5, 0.5, -0.5),
        lambda x, y: robust(x, y, 2, 1, 0, 1.2, 0.5, 0.5, -0.5),
    ),
    "DistributionBalanced": (DistributionBalanced, distribution),
    "DistributionBalanced plain": (
        lambda: DistributionBalanced(0.3, 5, 0.5, 3, 0.1, 0),
        lambda x, y: distribution(x, y, 0.3, 5, 0.5, 3, 0.1, 0),
    ),
    "LDAM": (LDAM, lambda x, y: margin(x, y, 0.5, 1)),
    "LDAM scaled": (lambda: LDAM(1.0, 3.0, 0.99), lambda x, y: margin(x, y, 1.0, 3.0, BALANCED)),
}
NEUTRAL = {
    "WeightedBCE without counts": WeightedBCE,
    "Focal": lambda: Focal(0),
    "Poly": lambda: Poly(0),
    "ClassBalanced": lambda: ClassBalanced(0),
    "ASL": lambda: ASL(0, 0, 0),
    "DistributionBalanced": lambda: DistributionBalanced(alpha=0.5, beta=0, scale=1, bias=0, gamma=0),
    "LDAM": lambda: LDAM(0),
}
FLOAT32_INSIDE = (Poly, DistributionBalanced)  # timm casts


def counted(build):
    loss = build()
    loss.set_counts(torch.from_numpy(POSITIVES).float(), torch.from_numpy(OBSERVED).float())
    return loss


@pytest.mark.parametrize("name", VALUES)
@given(logits=LOGITS, target=TARGETS)
@settings(deadline=None, derandomize=True, max_examples=25)
def test_value_is_that_of_its_formula(name, logits, target):
    build, formula = VALUES[name]
    cells = formula(logits.astype(float), target.astype(float))
    expected = np.nanmean(cells) if np.isfinite(target).any() else 0
    found = counted(build)(torch.from_numpy(logits), torch.from_numpy(target))
    # torch adds the logit and log p, which cancel for an easy cell: rounded at the size of the logit, times weights
    assert found.item() == pytest.approx(expected, rel=2e-5, abs=2.0**-23 * 100)


@pytest.mark.parametrize("name", [name for name in VALUES if not isinstance(VALUES[name][0](), FLOAT32_INSIDE)])
@pytest.mark.parametrize("size", [1.0, 50.0])
def test_slope_is_that_of_the_value_in_double_precision(name, size):
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(6, 3, generator=generator, dtype=torch.float64).clamp(-1, 1) * size
    target = torch.tensor([[0.0, 1.0, 0.3], [1.0, 0.0, 0.9]], dtype=torch.float64).repeat(3, 1)
    loss = counted(VALUES[name][0])
    assert torch.autograd.gradcheck(lambda x: loss.elementwise(x, target), logits.requires_grad_())


@pytest.mark.parametrize("name", NEUTRAL)
def test_neutral_settings_leave_the_cross_entropy(name):
    generator = torch.Generator().manual_seed(4)
    logits = (torch.randn(6, 3, generator=generator) * 10).requires_grad_()
    target = torch.rand(6, 3, generator=generator).round(decimals=1)
    target[2, 1] = torch.nan
    loss = NEUTRAL[name]() if "without" in name else counted(NEUTRAL[name])
    one, other = loss(logits, target), BCE()(logits, target)
    torch.testing.assert_close(one, other)
    first, second = (torch.autograd.grad(value, logits)[0] for value in (one, other))
    torch.testing.assert_close(first, second)


@pytest.mark.parametrize("build", [lambda: ASL(0, 0, 0), lambda: Focal(0), lambda: LDAM(0)])
def test_a_confidently_wrong_cell_keeps_its_gradient(build):
    logits = torch.tensor([[40.0, -40.0]], requires_grad=True)
    loss = build()(logits, torch.tensor([[0.0, 1.0]]))
    loss.backward()
    assert loss.item() == pytest.approx(40)
    torch.testing.assert_close(logits.grad, torch.tensor([[0.5, -0.5]]))


def test_asl_counts_an_easy_negative_for_nothing():
    logits = torch.tensor([[-4.0]], requires_grad=True)  # p = 0.018 < clip
    loss = ASL()(logits, torch.zeros(1, 1))
    loss.backward()
    assert loss.item() == 0
    assert logits.grad.item() == 0


def test_asl_and_its_weights_are_timms_where_targets_are_hard():
    generator = torch.Generator().manual_seed(5)
    logits = torch.randn(8, 3, generator=generator) * 3
    target = torch.randint(0, 2, (8, 3), generator=generator).float()
    share = torch.from_numpy(SHARE).float()
    timm = AsymmetricLossMultiLabel(4, 1, 0.05, reduction="mean", weight=share.exp(), pos_weight=(1 - 2 * share).exp())
    torch.testing.assert_close(counted(lambda: ASL(4, 1, 0.05, weighted=True))(logits, target), timm(logits, target))


def test_asl_without_weights_ignores_counts_and_adds_nothing_to_a_checkpoint():
    logits, target = torch.randn(4, 3), torch.ones(4, 3)
    assert counted(ASL)(logits, target) == ASL()(logits, target)
    assert counted(ASL).state_dict() == {}


def test_a_soft_target_is_best_met_by_its_own_probability_whatever_the_class_weights():
    target = torch.full((1, 3), 0.3)
    logits = target.logit().requires_grad_()
    for weights in ("exp", "frequency"):
        (slope,) = torch.autograd.grad(counted(lambda weights=weights: WeightedBCE(weights))(logits, target), logits)
        torch.testing.assert_close(slope, torch.zeros(1, 3), rtol=0, atol=1e-6)


def test_rare_labels_weigh_more_and_get_wider_margins():
    logits, target = torch.zeros(1, 3), torch.ones(1, 3)
    for build in (WeightedBCE, lambda: WeightedBCE("frequency"), ClassBalanced, lambda: ASL(weighted=True), LDAM):
        common, rare, rarest = counted(build).elementwise(logits, target)[0].tolist()
        assert common < rare < rarest


def test_a_study_weighs_by_its_rarest_known_positive():
    loss, logits = counted(DistributionBalanced), torch.zeros(3, 3)
    nothing = torch.zeros(3, 3)
    both = torch.tensor([[1.0, 0.0, 1.0]]).expand(3, 3)
    unknown = torch.tensor([[1.0, 0.0, float("nan")]]).expand(3, 3)
    alone = torch.tensor([[1.0, 0.0, 0.0]]).expand(3, 3)
    cell = [loss.elementwise(logits, target.nan_to_num(0))[0, 1].item() for target in (both, unknown, alone, nothing)]
    assert cell[0] < cell[1]  # beside a rarer label, the cell is what the sampler would have drawn too often
    assert cell[1] == cell[2]
    assert cell[3] >= cell[2]


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: WeightedBCE("inverse"), "WeightedBCE: weights must be one of exp, frequency, found 'inverse'"),
        (lambda: Focal(-1), "Focal: gamma must be at least 0, and finite, found -1"),
        (lambda: Focal(float("nan")), "Focal: gamma"),
        (lambda: Focal(alpha=1.5), "Focal: alpha must be in"),
        (lambda: Poly(-2), "Poly: epsilon must be at least -1, and finite, found -2"),
        (lambda: Poly(1, 0.5), "Poly: gamma must be 0 or at least 1, and finite, found 0.5"),
        (lambda: ClassBalanced(1.0), "ClassBalanced: beta must be in"),
        (lambda: ClassBalanced(0.9, -1), "ClassBalanced: gamma must be at least 0"),
        (lambda: ASL(gamma_neg=0.5), "ASL: gamma_neg must be 0 or at least 1, and finite, found 0.5"),
        (lambda: ASL(gamma_pos=-1), "ASL: gamma_pos must be 0 or at least 1, and finite, found -1"),
        (lambda: ASL(clip=1.0), "ASL: clip must be in"),
        (lambda: ASL(clip=-0.1), "ASL: clip must be in"),
        (lambda: RAL(gamma_neg=0.5), "RAL: gamma_neg must be 0"),
        (lambda: RAL(hill=0.5), "RAL: hill must be at least 1, and finite, found 0.5"),
        (lambda: RAL(epsilon_pos=2), "RAL: epsilon_pos must be at most 1, and finite, found 2"),
        (lambda: RAL(epsilon_neg=0.1), "RAL: epsilon_neg must be at most 0, and finite, found 0.1"),
        (lambda: DistributionBalanced(alpha=-0.1), "DistributionBalanced: alpha must be at least 0"),
        (lambda: DistributionBalanced(scale=0), "DistributionBalanced: scale must be above 0"),
        (lambda: DistributionBalanced(gamma=0.5), "DistributionBalanced: gamma must be 0 or at least 1"),
        (lambda: LDAM(-0.1), "LDAM: max_margin must be at least 0"),
        (lambda: LDAM(0.5, 0), "LDAM: scale must be above 0"),
        (lambda: Focal(INF), "Focal: gamma must be at least 0, and finite, found inf"),
        (lambda: ClassBalanced(0.9, INF), "ClassBalanced: gamma must be .* finite"),
        (lambda: Poly(INF), "Poly: epsilon must be .* finite"),
        (lambda: Poly(1, INF), "Poly: gamma must be .* finite"),
        (lambda: ASL(gamma_neg=INF), "ASL: gamma_neg must be .* finite"),
        (lambda: RAL(hill=INF), "RAL: hill must be .* finite"),
        (lambda: RAL(epsilon_pos2=-INF), "RAL: epsilon_pos2 must be .* finite"),
        (lambda: DistributionBalanced(beta=INF), "DistributionBalanced: beta must be .* finite"),
        (lambda: DistributionBalanced(mu=float("nan")), "DistributionBalanced: mu must be finite, found nan"),
        (lambda: LDAM(INF), "LDAM: max_margin must be .* finite"),
        (lambda: LDAM(0.5, INF), "LDAM: scale must be .* finite"),
        (lambda: HierarchicalLoss(BCE(), INF), "HierarchicalLoss: penalty must be .* finite"),
        (lambda: LDAM(beta=1), "LDAM: beta must be in"),
    ],
)
def test_settings_without_meaning_are_refused(build, message):
    with pytest.raises(InputError, match=message):
        build()
