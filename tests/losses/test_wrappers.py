import copy

import pytest
import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn, get_swa_multi_avg_fn

from longview import InputError
from longview.losses import ASL, BCE, ClassBalanced, Deferred, DistributionBalanced, Focal, LabelSmoothing, Loss

GENERATOR = torch.Generator().manual_seed(0)
LOGITS, TARGET = torch.randn(5, 3, generator=GENERATOR), torch.randint(0, 2, (5, 3), generator=GENERATOR).float()
UNKNOWN = torch.where(torch.rand(5, 3, generator=GENERATOR) < 0.3, torch.nan, TARGET)


class Rowwise(Loss):
    """Has a part that is not of cells, as the hierarchical loss does."""

    def elementwise(self, logits, target):
        return logits * 0

    def forward(self, logits, target):
        return super().forward(logits, target) + 7


class TestLabelSmoothing:
    def test_trains_on_targets_moved_towards_a_half(self):
        loss = LabelSmoothing(BCE(), 0.2)
        torch.testing.assert_close(loss(LOGITS, UNKNOWN), BCE()(LOGITS, UNKNOWN * 0.8 + 0.1))

    def test_evaluates_on_the_plain_targets(self):
        loss = LabelSmoothing(ASL(), 0.2).eval()
        assert loss(LOGITS, UNKNOWN) == ASL()(LOGITS, UNKNOWN)
        assert loss.train()(LOGITS, UNKNOWN) != ASL()(LOGITS, UNKNOWN)

    def test_without_epsilon_is_the_loss_that_it_holds(self):
        assert LabelSmoothing(Focal(), 0.0)(LOGITS, UNKNOWN) == Focal()(LOGITS, UNKNOWN)

    def test_unknown_labels_do_not_become_half_positives_of_their_study(self):
        loss = LabelSmoothing(BCE(), 0.2)
        known = torch.tensor([[1.0, 0.0, float("nan")]])
        torch.testing.assert_close(loss(LOGITS[:1], known), BCE()(LOGITS[:1], known * 0.8 + 0.1))

    @pytest.mark.parametrize("held", [DistributionBalanced(), Deferred(BCE(), DistributionBalanced())])
    def test_refuses_a_loss_that_weighs_cells_by_their_targets(self, held):
        with pytest.raises(InputError, match="leave out one of them"):
            LabelSmoothing(held)

    def test_keeps_what_the_held_loss_adds_to_its_mean(self):
        assert LabelSmoothing(Rowwise())(LOGITS, TARGET) == 7

    @pytest.mark.parametrize("epsilon", [-0.1, 1.0, float("nan")])
    def test_refuses_an_epsilon_without_meaning(self, epsilon):
        with pytest.raises(InputError, match="LabelSmoothing: epsilon must be in"):
            LabelSmoothing(BCE(), epsilon)


class TestDeferred:
    @pytest.mark.parametrize("training", [True, False])
    def test_changes_over_at_its_share_of_the_epochs(self, training):
        loss = Deferred(BCE(), Focal(), 0.8).train(training)
        for epoch in range(10):
            loss.set_progress(epoch / 10)
            expected = BCE() if epoch < 8 else Focal()
            assert loss(LOGITS, UNKNOWN) == expected(LOGITS, UNKNOWN)
            cells = expected.elementwise(LOGITS, TARGET)
            assert loss.elementwise(LOGITS, TARGET).equal(cells)

    def test_refuses_a_training_without_end(self):
        with pytest.raises(InputError, match=r"start is 0\.8 of the epochs.*trainer\.max_epochs"):
            Deferred(BCE(), Focal()).set_progress(float("nan"))
        Deferred(BCE(), Focal(), 0).set_progress(float("nan"))

    def test_starts_over_with_the_first_in_another_run(self):
        loss = Deferred(BCE(), Focal(), 0.5)
        loss.set_progress(0.9)
        loss.set_progress(0.0)
        assert loss(LOGITS, TARGET) == BCE()(LOGITS, TARGET)

    @pytest.mark.parametrize(("start", "expected"), [(0.0, Focal), (1.0, BCE)])
    def test_may_be_the_second_or_the_first_throughout(self, start, expected):
        loss = Deferred(BCE(), Focal(), start)
        assert loss(LOGITS, TARGET) == expected()(LOGITS, TARGET)
        loss.set_progress(0.99 if start else 0.0)
        assert loss(LOGITS, TARGET) == expected()(LOGITS, TARGET)

    def test_only_the_loss_that_is_on_has_a_gradient(self):
        loss, logits = Deferred(BCE(), Focal()), LOGITS.clone().requires_grad_()
        for progress, expected in ((0.0, BCE()), (0.8, Focal())):
            loss.set_progress(progress)
            found, wanted = (torch.autograd.grad(f(logits, UNKNOWN), logits)[0] for f in (loss, expected))
            torch.testing.assert_close(found, wanted, rtol=0, atol=0)

    def test_a_checkpoint_tells_which_loss_is_on(self):
        loss, resumed = Deferred(BCE(), Focal()), Deferred(BCE(), Focal())
        loss.set_progress(0.9)
        resumed.load_state_dict(loss.state_dict())
        assert resumed(LOGITS, TARGET) == Focal()(LOGITS, TARGET)

    @pytest.mark.parametrize("average", [get_ema_multi_avg_fn(0.999), get_swa_multi_avg_fn()])
    @pytest.mark.parametrize("buffers", [True, False])
    def test_averaged_weights_know_it_as_well(self, average, buffers):
        task = torch.nn.ModuleDict({"network": torch.nn.Linear(1, 1), "loss": Deferred(BCE(), Focal())})
        averaged = AveragedModel(task, multi_avg_fn=average, use_buffers=buffers)
        averaged.update_parameters(task)
        assert averaged.module["loss"](LOGITS, TARGET) == BCE()(LOGITS, TARGET)
        task["loss"].set_progress(0.9)
        averaged.update_parameters(task)
        assert averaged.module["loss"](LOGITS, TARGET) == Focal()(LOGITS, TARGET)

    def test_both_losses_learn_the_counts(self):
        counts = torch.tensor([100.0, 10.0, 1.0]), torch.full((3,), 200.0)
        loss, alone = Deferred(ClassBalanced(0.9), ClassBalanced(0.99)), ClassBalanced(0.99)
        for each in (loss, alone):
            each.set_counts(*counts)
        loss.set_progress(0.8)
        assert loss(LOGITS, TARGET) == alone(LOGITS, TARGET)

    def test_holds_wrappers_too(self):
        loss = Deferred(LabelSmoothing(BCE()), Deferred(Focal(), ASL(), 0.9), 0.5)
        for progress, expected in ((0.0, LabelSmoothing(BCE())), (0.5, Focal()), (0.9, ASL())):
            loss.set_progress(progress)
            assert copy.deepcopy(loss)(LOGITS, TARGET) == expected(LOGITS, TARGET)

    def test_keeps_what_the_held_loss_adds_to_its_mean(self):
        assert Deferred(Rowwise(), BCE())(LOGITS, TARGET) == 7

    @pytest.mark.parametrize("start", [-0.1, 1.1, float("nan")])
    def test_refuses_a_start_without_meaning(self, start):
        with pytest.raises(InputError, match="Deferred: start must be in"):
            Deferred(BCE(), ASL(), start)
