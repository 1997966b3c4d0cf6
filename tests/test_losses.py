import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from longview import InputError, losses
from longview.losses import ASL, BCE, Loss


def subclasses(kind):
    return [kind, *(deeper for child in kind.__subclasses__() for deeper in subclasses(child))]


LOSSES = [kind for kind in subclasses(Loss) if kind.__module__ == losses.__name__ and not kind.__abstractmethods__]
LOGITS = arrays.arrays(np.float32, (4, 3), elements=st.floats(-12, 12, width=32))
TARGETS = arrays.arrays(np.float32, (4, 3), elements=st.sampled_from([0.0, 1.0, 0.25, 0.9, float("nan")]))

SHAPES = [(4, 1, 0.05), (4, 0, 0.05), (2, 2, 0), (0, 0, 0.2)]  # gamma_neg, gamma_pos, clip


def sample(seed=0, known=True):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(5, 4, generator=generator) * 3
    target = torch.randint(0, 2, (5, 4), generator=generator).float()
    if not known:
        target[torch.rand(5, 4, generator=generator) < 0.4] = torch.nan
    return logits.requires_grad_(), target


def test_all_losses_are_found():
    assert {BCE, ASL} <= set(LOSSES)


@pytest.mark.parametrize("kind", LOSSES, ids=lambda kind: kind.__name__)
class TestEveryLoss:
    """What any loss must hold; a new one is tested by being written."""

    @given(logits=LOGITS, target=TARGETS)
    @settings(deadline=None, derandomize=True, max_examples=25)
    def test_is_the_mean_over_known_cells(self, kind, logits, target):
        logits, target = torch.from_numpy(logits), torch.from_numpy(target)
        known = ~target.isnan()
        cells = kind().elementwise(logits, target.nan_to_num(0.5))
        expected = cells[known].mean() if known.any() else torch.zeros(())
        torch.testing.assert_close(kind()(logits, target), expected)

    def test_unknown_targets_give_zero_gradient_and_no_nan(self, kind):
        logits, target = sample(known=False)
        kind()(logits, target).backward()
        assert logits.grad[target.isnan()].eq(0).all()
        assert logits.grad[~target.isnan()].ne(0).any()
        assert logits.grad.isfinite().all()

    def test_an_unknown_cell_does_not_count_whatever_its_logit(self, kind):
        logits, target = sample(known=False)
        other = torch.where(target.isnan(), 40.0, logits.detach())
        torch.testing.assert_close(kind()(logits, target), kind()(other, target))

    def test_nothing_known_is_zero_and_still_connected(self, kind):
        logits, target = sample()
        loss = kind()(logits, torch.full_like(target, torch.nan))
        assert loss.item() == 0
        loss.backward()
        assert logits.grad.eq(0).all()

    @pytest.mark.parametrize("size", [50.0, 500.0])
    def test_extreme_logits_stay_finite(self, kind, size):
        for value in (0.0, 1.0, 0.3):
            logits = torch.tensor([[size, -size, 0.0]], requires_grad=True)
            loss = kind()(logits, torch.full((1, 3), value))
            loss.backward()
            assert loss.isfinite()
            assert logits.grad.isfinite().all()

    def test_gradient_is_that_of_the_value(self, kind):
        logits, target = sample()
        target[0] = torch.tensor([0.2, 0.7, 1.0, 0.0])

        def value(x):
            return kind()(x.float(), target).double()

        # float32 inside: steps and tolerance are wide
        assert torch.autograd.gradcheck(value, logits.detach().double().requires_grad_(), eps=1e-2, atol=2e-3)

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_is_computed_in_single_precision_under_autocast(self, kind, dtype):
        logits, target = sample()
        logits = logits.detach().to(dtype).float()  # the same numbers in both precisions
        expected = kind()(logits, target)
        with torch.autocast("cpu", torch.bfloat16):
            found = kind()(logits.to(dtype), target)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, expected, rtol=0, atol=0)

    def test_batch_and_labels_do_not_change_its_size(self, kind):
        logits, target = sample()
        loss = kind()(logits, target)
        torch.testing.assert_close(kind()(logits.repeat(3, 1), target.repeat(3, 1)), loss)
        torch.testing.assert_close(kind()(logits.repeat(1, 3), target.repeat(1, 3)), loss)

    def test_better_scores_cost_less(self, kind):
        target = torch.tensor([[1.0, 0.0]])
        costs = [kind()(torch.tensor([[x, -x]]), target).item() for x in (-4.0, -1.0, 0.0, 1.0, 4.0)]
        assert costs == sorted(costs, reverse=True)
        assert costs[0] > costs[-1] >= 0

    def test_shapes_that_differ_are_refused(self, kind):
        with pytest.raises(ValueError, match=r"\(5, 4\).*\(5, 1\)"):
            kind()(torch.zeros(5, 4), torch.zeros(5, 1))

    def test_has_no_parameters_and_takes_counts(self, kind):
        loss = kind()
        loss.set_counts(torch.ones(4), torch.full((4,), 10.0))
        assert list(loss.parameters()) == []


def cross_entropy(logits, target):
    """Independent, in float64."""
    return np.logaddexp(0, logits) - logits * target


def asymmetric(logits, target, gamma_neg, gamma_pos, clip):
    """Independent, in float64: equations 2, 4 and 5 of arXiv 2009.14119, mixed for soft targets as timm does."""
    p = 1 / (1 + np.exp(-logits))
    shifted = np.maximum(p - clip, 0)
    p_t = target * p + (1 - target) * (1 - shifted)
    focus = (1 - p_t) ** (gamma_pos * target + gamma_neg * (1 - target))
    return -focus * (target * np.log(np.maximum(p, 1e-8)) + (1 - target) * np.log(np.maximum(1 - shifted, 1e-8)))


@given(logits=LOGITS, target=TARGETS)
@settings(deadline=None, derandomize=True, max_examples=25)
def test_bce_is_its_formula(logits, target):
    expected = np.nanmean(cross_entropy(logits.astype(float), target)) if np.isfinite(target).any() else 0
    found = BCE()(torch.from_numpy(logits), torch.from_numpy(target))
    # torch adds the logit and log p, which cancel for an easy negative: rounded at the size of the logit, 12 at most
    assert found.item() == pytest.approx(expected, rel=1e-5, abs=2.0**-23 * 12)


@given(
    logits=LOGITS,
    target=TARGETS,
    shape=st.sampled_from(SHAPES),
)
@settings(deadline=None, derandomize=True, max_examples=40)
def test_asl_is_its_formula(logits, target, shape):
    expected = np.nanmean(asymmetric(logits.astype(float), target, *shape)) if np.isfinite(target).any() else 0
    found = ASL(*shape)(torch.from_numpy(logits), torch.from_numpy(target))
    # without a margin, 1 - p of a confidently wrong negative cancels in float32: an error of 2^-24 in exp(-logit)
    cancelled = 2.0**-23 * math.exp(logits.max()) if shape[2] == 0 else 0
    assert found.item() == pytest.approx(expected, rel=1e-4, abs=1e-6 + cancelled)


def test_asl_without_focus_and_margin_is_bce():
    logits, target = sample(known=False)
    one, other = ASL(0, 0, 0)(logits, target), BCE()(logits, target)
    torch.testing.assert_close(one, other)
    first, second = (torch.autograd.grad(loss, logits, retain_graph=True)[0] for loss in (one, other))
    torch.testing.assert_close(first, second)


def test_asl_counts_an_easy_negative_for_nothing():
    logits = torch.tensor([[-4.0]], requires_grad=True)  # p = 0.018 < clip
    loss = ASL()(logits, torch.zeros(1, 1))
    loss.backward()
    assert loss.item() == 0
    assert logits.grad.item() == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"gamma_neg": 0.5}, "gamma_neg must be 0 or at least 1, found 0.5"),
        ({"gamma_pos": -1}, "gamma_pos must be 0 or at least 1, found -1"),
        ({"clip": 1.0}, "clip must be in"),
        ({"clip": -0.1}, "clip must be in"),
    ],
)
def test_asl_refuses_settings_without_meaning(arguments, message):
    with pytest.raises(InputError, match=message):
        ASL(**arguments)


def test_unknown_targets_do_not_reach_what_a_loss_learns():
    class Weighted(BCE):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(4))

        def elementwise(self, logits, target):
            return self.weight * super().elementwise(logits, target)

    loss = Weighted()
    loss(*sample(known=False)).backward()
    assert loss.weight.grad.isfinite().all()


def test_products_inside_a_loss_are_not_rounded_by_autocast():
    class Mixed(BCE):
        def elementwise(self, logits, target):
            return super().elementwise(logits @ torch.eye(4), target)

    logits, target = sample()
    with torch.autocast("cpu", torch.bfloat16):
        found = Mixed()(logits, target)
    torch.testing.assert_close(found, BCE()(logits, target), rtol=0, atol=0)
