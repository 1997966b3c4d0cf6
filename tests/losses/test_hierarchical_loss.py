"""The hierarchical loss: its formulas, which form has a gradient, what unknown targets do, weights from training."""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from longview import InputError
from longview.labels import Label, LabelSet
from longview.losses import ASL, BCE, Loss
from longview.losses.hierarchy import HierarchicalLoss

SET = LabelSet(
    "set", [Label("Child"), Label("Parent"), Label("Top")], hierarchy={"Top": ["Parent"], "Parent": ["Child"]}
)
EDGES = [(2, 1), (1, 0)]  # parent, child
LOGITS = arrays.arrays(np.float32, (4, 3), elements=st.floats(-12, 12, width=32))
TARGETS = arrays.arrays(np.float32, (4, 3), elements=st.sampled_from([0.0, 1.0, 0.25, float("nan")]))


def built(form="hinge", penalty=0.7, base=None, **options):
    loss = HierarchicalLoss(base or BCE(), penalty, form, **options)
    loss.set_labels(SET)
    return loss


def violation(form, parent, child):
    """Independent, in float64, of probabilities."""
    if form == "hinge":
        return max(child - parent, 0.0)
    return child * (1 - parent) if form == "product" else float(parent < 0.5 < child)


@pytest.mark.parametrize("form", ["hinge", "product", "step"])
@given(logits=LOGITS, target=TARGETS)
@settings(deadline=None, derandomize=True, max_examples=25)
def test_it_is_the_base_loss_and_the_mean_violation_of_rows_that_know_something(form, logits, target):
    p = 1 / (1 + np.exp(-logits.astype(np.float64)))
    counted = [row for row in range(4) if not np.isnan(target[row]).all()]
    costs = [violation(form, p[row, parent], p[row, child]) for row in counted for parent, child in EDGES]
    logits, target = torch.from_numpy(logits), torch.from_numpy(target)
    expected = BCE()(logits, target).item() + 0.7 * (np.mean(costs) if costs else 0)
    assert built(form)(logits, target).item() == pytest.approx(expected, rel=1e-5, abs=1e-6)


def step(form, weights="fixed"):
    """Probabilities (child, parent) of a violating pair after one SGD step on the penalty alone."""
    logits = torch.tensor([[2.0, -1.0, 3.0]], requires_grad=True)
    loss = built(form, base=BCE())
    target = torch.tensor([[0.5, 0.5, 0.5]])
    cost = loss(logits, target) - loss.base(logits, target)
    assert cost.item() > 0
    if cost.requires_grad:
        cost.backward()
    moved = logits - (0 if logits.grad is None else logits.grad)
    return logits.detach().sigmoid()[0, :2], moved.detach().sigmoid()[0, :2]


@pytest.mark.parametrize("form", ["hinge", "product"])
def test_one_step_moves_a_violating_pair_towards_consistency(form):
    before, after = step(form)
    assert after[0] < before[0]
    assert after[1] > before[1]


def test_the_step_form_moves_nothing():
    before, after = step("step")
    torch.testing.assert_close(after, before, rtol=0, atol=0)


def test_a_consistent_row_costs_nothing_under_hinge_and_step():
    logits, target = torch.tensor([[-1.0, 0.5, 0.5]]), torch.tensor([[0.0, 1.0, 1.0]])
    for form in ("hinge", "step"):
        torch.testing.assert_close(built(form)(logits, target), BCE()(logits, target), rtol=0, atol=0)


def test_an_edge_counts_where_the_row_knows_anything_and_a_row_without_a_target_costs_nothing():
    nan = torch.nan
    logits = torch.tensor([[3.0, -3.0, 0.0], [3.0, -3.0, 0.0]], requires_grad=True)
    target = torch.tensor([[nan, nan, 1.0], [nan, nan, nan]])
    built()(logits, target).backward()
    assert logits.grad[0, :2].ne(0).all()  # no label of the pair is known: consistency needs none
    assert logits.grad[1].eq(0).all()
    alone = built()(logits, torch.full((2, 3), nan))
    assert alone.item() == 0
    alone.backward()
    wild = torch.tensor([[3.0, -3.0, 0.0], [nan, torch.inf, 0.0]])
    torch.testing.assert_close(built()(wild, target), built()(logits[:1], target[:1]))


@pytest.mark.parametrize("form", ["hinge", "product", "step"])
@pytest.mark.parametrize("size", [50.0, -50.0, 500.0])
def test_extreme_logits_stay_finite(form, size):
    logits = torch.tensor([[size, -size, size]], requires_grad=True)
    loss = built(form)(logits, torch.tensor([[0.0, 1.0, torch.nan]]))
    loss.backward()
    assert loss.isfinite()
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("form", ["hinge", "product", "step"])
def test_it_is_computed_in_single_precision_under_autocast(form):
    logits = torch.tensor([[2.0, -1.5, 0.25]])
    target = torch.tensor([[1.0, 0.0, 1.0]])
    expected = built(form)(logits, target)
    with torch.autocast("cpu", torch.bfloat16):
        found = built(form)(logits.bfloat16(), target)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


@pytest.mark.parametrize("form", ["hinge", "product"])
def test_the_gradient_is_that_of_the_value(form):
    loss = built(form)
    logits = torch.tensor([[1.3, -0.4, 0.2], [-1.0, 0.6, 1.9]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: loss.violation(x).sum(), logits)


def test_batch_size_and_edges_do_not_change_its_size():
    logits, target = torch.tensor([[2.0, -1.0, 3.0], [0.3, 0.1, -2.0]]), torch.tensor([[0.0, 1.0, 1.0]] * 2)
    torch.testing.assert_close(built()(logits.repeat(3, 1), target.repeat(3, 1)), built()(logits, target))


NAN = float("nan")
TRAINING = torch.tensor([[0, 0, 1], [1, 0, 1], [1, 0, 1], [1, NAN, 0], [NAN, 0, 1], [0, 0.2, 1], [0.9, 0, NAN]])


def test_weights_from_training_follow_the_published_formula_over_rows_that_know_both():
    loss = built(weights="data")
    loss.set_targets(TRAINING)
    # of 5 rows without Parent that know Child, 3 have Child; where Parent is known, Top is never absent
    torch.testing.assert_close(loss.edge_weights, torch.tensor([0.5, 1 - 3 / 5]))
    logits, target = torch.tensor([[3.0, -3.0, 0.0]]), torch.tensor([[0.0, 1.0, 1.0]])
    gap = torch.sigmoid(torch.tensor(3.0)) - torch.sigmoid(torch.tensor(-3.0))
    expected = BCE()(logits, target) + 0.7 * 0.4 * gap / 2  # of two edges, one is violated
    torch.testing.assert_close(loss(logits, target), expected)


def test_fixed_weights_stay_one_and_a_derived_parent_weighs_one():
    loss = built()
    loss.set_targets(TRAINING)
    assert loss.edge_weights.tolist() == [1, 1]
    closed = built(weights="data")
    closed.set_targets(torch.tensor([[0, 0, 0], [0, 0, 1], [1, 1, 1], [0, 1, 1]]).float())
    torch.testing.assert_close(closed.edge_weights, torch.ones(2), atol=1e-5, rtol=0)


def test_weights_travel_in_the_state_into_a_loss_that_knows_its_labels():
    trained = built(weights="data")
    trained.set_targets(TRAINING)
    fresh = built(weights="data")
    fresh.load_state_dict(trained.state_dict())
    torch.testing.assert_close(fresh.edge_weights, trained.edge_weights)
    assert copy.deepcopy(trained).parent_columns == [2, 1]


class Recorder(Loss):
    """A loss that notes what it is told."""

    def __init__(self):
        super().__init__()
        self.told = []

    def elementwise(self, logits, target):
        return logits * 0

    def set_labels(self, labels):
        self.told.append("labels")

    def set_counts(self, positives, observed):
        self.told.append("counts")

    def set_targets(self, targets):
        self.told.append("targets")

    def set_progress(self, progress):
        self.told.append("progress")


def test_the_base_loss_is_told_everything():
    loss = built(base=Recorder())
    loss.set_counts(torch.zeros(3), torch.zeros(3))
    loss.set_targets(torch.zeros(2, 3))
    loss.set_progress(0.5)
    assert loss.base.told == ["labels", "counts", "targets", "progress"]
    assert list(loss.parameters()) == []


def test_without_penalty_it_is_its_base_loss():
    logits, target = torch.randn(5, 3, generator=torch.Generator().manual_seed(0)), torch.ones(5, 3)
    torch.testing.assert_close(built(penalty=0, base=ASL())(logits, target), ASL()(logits, target))


def test_labels_without_a_hierarchy_are_refused_with_the_remedy():
    with pytest.raises(InputError, match=r"'flat' has no hierarchy .* add `hierarchy:"):
        HierarchicalLoss(BCE()).set_labels(LabelSet("flat", [Label("A"), Label("B")]))


def test_a_negative_penalty_is_refused():
    for penalty in (-1.0, float("nan")):
        with pytest.raises(InputError, match="penalty must be at least 0"):
            HierarchicalLoss(BCE(), penalty)


def test_shapes_that_differ_are_refused():
    with pytest.raises(ValueError, match=r"\(5, 3\).*\(5, 1\)"):
        built()(torch.zeros(5, 3), torch.zeros(5, 1))
