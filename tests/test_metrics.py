import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, roc_auc_score

from longview.metrics import LongTailMetrics


def draw(rows, seed=0, labels=5):
    generator = torch.Generator().manual_seed(seed)
    probabilities = torch.rand(rows, labels, generator=generator)
    targets = (torch.rand(rows, labels, generator=generator) < probabilities).float()
    return probabilities, targets


def test_batches_give_the_figures_of_the_whole():
    probabilities, targets = draw(101)
    metric = LongTailMetrics("abcde")
    for start in range(0, 101, 7):
        metric.update(probabilities[start : start + 7], targets[start : start + 7])
    scores = metric.scores()
    for label in range(5):
        truth, score = targets[:, label].numpy(), probabilities[:, label].numpy()
        assert scores.auroc[label] == pytest.approx(roc_auc_score(truth, score), abs=1e-9)
        assert scores.ap[label] == pytest.approx(average_precision_score(truth, score), abs=1e-9)


def test_rows_keep_no_graph():
    logits = torch.zeros(4, 5, requires_grad=True)
    metric = LongTailMetrics("abcde")
    metric.update(logits.sigmoid(), torch.zeros(4, 5))
    assert not metric.probabilities[0].requires_grad


def test_unknown_targets_and_labels_of_one_kind_do_not_count():
    probabilities, targets = draw(50)
    targets[:10, 0] = torch.nan
    targets[:, 1] = 0
    metric = LongTailMetrics("abcde")
    metric.update(probabilities, targets)
    scores = metric.scores()
    assert scores.unknown.tolist() == [10, 0, 0, 0, 0]
    assert np.isnan(scores.ap[1]) and np.isnan(scores.auroc[1])
    expected = roc_auc_score(targets[10:, 0].numpy(), probabilities[10:, 0].numpy())
    assert scores.auroc[0] == pytest.approx(expected, abs=1e-9)


def test_half_precision_probabilities_are_widened_before_they_are_kept():
    metric = LongTailMetrics("abcde")
    metric.update(torch.rand(3, 5).bfloat16(), torch.zeros(3, 5))
    assert metric.probabilities[0].dtype == torch.float32


def test_no_rows_at_all_score_nothing():
    scores = LongTailMetrics("abcde").scores()
    assert np.isnan(scores.ap).all()


def _rank(rank, world, folder):
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)
    probabilities, targets = draw(33)
    metric = LongTailMetrics("abcde")
    if rank == 0:  # the other process has no rows at all
        metric.update(probabilities, targets)
    scores = metric.scores()
    np.save(f"{folder}/empty{rank}.npy", scores.ap)
    metric.reset()
    rows = slice(0, 30) if rank == 0 else slice(30, 33)  # and now very few
    metric.update(probabilities[rows], targets[rows])
    np.save(f"{folder}/uneven{rank}.npy", metric.scores().ap)
    torch.distributed.destroy_process_group()


def test_two_processes_with_different_numbers_of_rows_give_the_same_figures(tmp_path):
    torch.multiprocessing.start_processes(_rank, args=(2, str(tmp_path)), nprocs=2, start_method="fork")
    probabilities, targets = draw(33)
    alone = LongTailMetrics("abcde")
    alone.update(probabilities, targets)
    expected = alone.scores().ap
    for name in ("empty0", "empty1", "uneven0", "uneven1"):
        np.testing.assert_array_equal(np.load(tmp_path / f"{name}.npy"), expected)
