import importlib
import inspect
import pkgutil
import typing

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from longview import losses
from longview.losses import ASL, BCE, Deferred, DistributionBalanced, LabelSmoothing, Loss

for module in pkgutil.iter_modules(losses.__path__):
    importlib.import_module(f"{losses.__name__}.{module.name}")


def subclasses(kind):
    return [kind, *(deeper for child in kind.__subclasses__() for deeper in subclasses(child))]


LOSSES = [
    kind
    for kind in subclasses(Loss)
    if kind.__module__.startswith(f"{losses.__name__}.") and not kind.__abstractmethods__
]
BUILD = {LabelSmoothing: lambda: LabelSmoothing(ASL(weighted=True)), Deferred: lambda: Deferred(BCE(), ASL(), 0.5)}
"""How a loss is built that needs arguments, other than a loss to hold: a plain BCE does for those."""
ROW_WEIGHTED = {DistributionBalanced}
"""Losses that weigh a cell by its study's other labels: to repeat labels is not the same task."""

LOGITS = arrays.arrays(np.float32, (4, 3), elements=st.floats(-12, 12, width=32))
TARGETS = arrays.arrays(np.float32, (4, 3), elements=st.sampled_from([0.0, 1.0, 0.25, 0.9, float("nan")]))

OBSERVED = torch.tensor([100.0, 100.0, 100.0, 0.0, 40.0, 1.0])
POSITIVES = torch.tensor([60.0, 2.5, 0.0, 0.0, 40.0, 1.0])
"""A common and a rare label (soft), one without positives, one never observed, two without negatives."""


def make(kind, counts=None):
    if kind in BUILD:
        loss = BUILD[kind]()
    else:
        hints = typing.get_type_hints(kind.__init__)
        needed = [p.name for p in list(inspect.signature(kind).parameters.values()) if p.default is p.empty]
        missing = [name for name in needed if hints[name] is not Loss]
        assert not missing, f"{kind.__name__} needs {missing}: say in BUILD how the tests build it"
        loss = kind(**{name: BCE() for name in needed})
    if counts is not None:
        loss.set_counts(*counts)
    return loss


def sample(seed=0, known=True):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(5, 4, generator=generator) * 3
    target = torch.randint(0, 2, (5, 4), generator=generator).float()
    if not known:
        target[torch.rand(5, 4, generator=generator) < 0.4] = torch.nan
    return logits.requires_grad_(), target


def test_all_losses_are_found_and_can_be_named_in_a_configuration():
    assert {"BCE", "ASL", "Focal", "LabelSmoothing"} <= {kind.__name__ for kind in LOSSES}
    assert [kind.__name__ for kind in LOSSES if getattr(losses, kind.__name__, None) is not kind] == []


@pytest.mark.parametrize("kind", LOSSES, ids=lambda kind: kind.__name__)
class TestEveryLoss:
    """What any loss must hold; a new one is tested by being written."""

    @given(logits=LOGITS, target=TARGETS)
    @settings(deadline=None, derandomize=True, max_examples=25)
    def test_is_the_mean_over_known_cells(self, kind, logits, target):
        logits, target = torch.from_numpy(logits), torch.from_numpy(target)
        known = ~target.isnan()
        cells = make(kind).elementwise(logits, target.nan_to_num(0))
        expected = cells[known].mean() if known.any() else torch.zeros(())
        torch.testing.assert_close(make(kind)(logits, target), expected)

    def test_unknown_targets_give_zero_gradient_and_no_nan(self, kind):
        logits, target = sample(known=False)
        make(kind)(logits, target).backward()
        assert logits.grad[target.isnan()].eq(0).all()
        assert logits.grad[~target.isnan()].ne(0).any()
        assert logits.grad.isfinite().all()

    def test_an_unknown_cell_does_not_count_whatever_its_logit(self, kind):
        logits, target = sample(known=False)
        other = torch.where(target.isnan(), 40.0, logits.detach())
        torch.testing.assert_close(make(kind)(logits, target), make(kind)(other, target))

    def test_nothing_known_is_zero_and_still_connected(self, kind):
        logits, target = sample()
        loss = make(kind)(logits, torch.full_like(target, torch.nan))
        assert loss.item() == 0
        loss.backward()
        assert logits.grad.eq(0).all()

    @pytest.mark.parametrize("size", [50.0, 500.0])
    def test_extreme_logits_stay_finite(self, kind, size):
        for value in (0.0, 1.0, 0.3):
            logits = torch.tensor([[size, -size, 0.0]], requires_grad=True)
            loss = make(kind)(logits, torch.full((1, 3), value))
            loss.backward()
            assert loss.isfinite()
            assert logits.grad.isfinite().all()

    def test_gradient_is_that_of_the_value(self, kind):
        logits, target = sample()
        target[0] = torch.tensor([0.2, 0.7, 1.0, 0.0])

        def value(x):
            return make(kind)(x.float(), target).double()

        # float32 inside: steps and tolerance are wide
        assert torch.autograd.gradcheck(value, logits.detach().double().requires_grad_(), eps=1e-2, atol=2e-3)

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_is_computed_in_single_precision_under_autocast(self, kind, dtype):
        logits, target = sample()
        logits = logits.detach().to(dtype).float()  # the same numbers in both precisions
        expected = make(kind)(logits, target)
        with torch.autocast("cpu", torch.bfloat16):
            found = make(kind)(logits.to(dtype), target)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, expected, rtol=0, atol=0)

    def test_the_size_of_a_batch_does_not_change_its_size(self, kind):
        logits, target = sample()
        loss = make(kind)(logits, target)
        torch.testing.assert_close(make(kind)(logits.repeat(3, 1), target.repeat(3, 1)), loss)

    def test_the_number_of_labels_does_not_change_its_size(self, kind):
        logits, target = sample()
        found, loss = make(kind)(logits.repeat(1, 3), target.repeat(1, 3)), make(kind)(logits, target)
        if kind in ROW_WEIGHTED:
            assert loss / 3 < found < loss * 3  # a sum would be 3 times as large, and weighted beside
        else:
            torch.testing.assert_close(found, loss)

    def test_better_scores_cost_less(self, kind):
        target = torch.tensor([[1.0, 0.0]])
        costs = [make(kind)(torch.tensor([[x, -x]]), target).item() for x in (-4.0, -1.0, 0.0, 1.0, 4.0)]
        assert costs == sorted(costs, reverse=True)
        assert costs[0] > costs[-1] >= 0

    def test_shapes_that_differ_are_refused(self, kind):
        with pytest.raises(ValueError, match=r"\(5, 4\).*\(5, 1\)"):
            make(kind)(torch.zeros(5, 4), torch.zeros(5, 1))

    def test_has_no_parameters_and_takes_counts(self, kind):
        loss = make(kind)
        loss.set_counts(torch.ones(4), torch.full((4,), 10.0))
        assert list(loss.parameters()) == []

    @pytest.mark.parametrize("size", [50.0, 500.0])
    def test_is_finite_whatever_the_counts(self, kind, size):
        for value in (0.0, 1.0, 0.3):
            for counts in ((POSITIVES, OBSERVED), (torch.zeros(6), torch.zeros(6)), (torch.zeros(6), OBSERVED)):
                logits = (torch.tensor([[size], [-size], [0.0]]) * torch.ones(6)).requires_grad_()
                target = torch.full((3, 6), value)
                target[2] = torch.nan
                loss = make(kind, counts)(logits, target)
                loss.backward()
                assert loss.isfinite()
                assert loss >= 0
                assert logits.grad.isfinite().all()
                assert logits.grad[2].eq(0).all()

    def test_counts_of_zero_are_as_no_counts(self, kind):
        logits, target = sample(known=False)
        found = make(kind, (torch.zeros(4), torch.zeros(4)))(logits, target)
        torch.testing.assert_close(found, make(kind)(logits, target))

    def test_its_constants_travel_in_the_state(self, kind):
        generator = torch.Generator().manual_seed(1)
        logits, target = torch.randn(4, 6, generator=generator), torch.rand(4, 6, generator=generator)
        trained = make(kind, (POSITIVES, OBSERVED))
        loaded = make(kind, (torch.zeros(6), torch.zeros(6)))
        loaded.load_state_dict(trained.state_dict())
        torch.testing.assert_close(loaded(logits, target), trained(logits, target), rtol=0, atol=0)
        assert all(value.dtype == torch.float32 for value in loaded.state_dict().values())

    def test_counts_are_not_rounded_by_autocast(self, kind):
        generator = torch.Generator().manual_seed(2)
        logits = torch.randn(4, 6, generator=generator).bfloat16().float()
        target = torch.rand(4, 6, generator=generator).bfloat16().float()
        loss = make(kind, (POSITIVES, OBSERVED))
        with torch.autocast("cpu", torch.bfloat16):
            found = loss(logits.bfloat16(), target.bfloat16())
        torch.testing.assert_close(found, loss(logits, target), rtol=0, atol=0)

    def test_its_constants_are_buffers_which_move_with_the_module(self, kind):
        modules = list(make(kind, (POSITIVES, OBSERVED)).modules())
        assert [k for module in modules for k, v in vars(module).items() if isinstance(v, torch.Tensor)] == []

    def test_what_it_holds_is_told_what_it_is_told(self, kind):
        loss, labels = make(kind), object()
        heard = []

        class Listener(BCE):
            def set_labels(self, given):
                heard.append(given)

            def set_counts(self, positives, observed):
                heard.append((positives, observed))

            def set_targets(self, targets):
                heard.append(targets)

            def set_progress(self, progress):
                heard.append(progress)

        held = [name for name, child in loss.named_children() if isinstance(child, Loss)]
        for name in held:
            setattr(loss, name, Listener())
        if not held or kind.__name__ == "HierarchicalLoss":  # which needs labels with edges: its own tests
            return
        loss.set_labels(labels)
        loss.set_counts(POSITIVES, OBSERVED)
        loss.set_targets(torch.zeros(2, 6))
        loss.set_progress(0.25)
        assert len(heard) == 4 * len(held)
        assert heard[0] is labels
        assert heard[-1] == 0.25


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
