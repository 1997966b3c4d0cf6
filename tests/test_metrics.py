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


def test_rows_of_each_store_are_ranked_by_themselves_too():
    probabilities, targets = draw(80)
    targets[::2, 3] = torch.nan  # the first store does not know this label
    store = torch.arange(80) % 2 * 2
    metric = LongTailMetrics("abcde")
    metric.split_by({0: "nih", 2: "mimic"})
    for start in range(0, 80, 9):
        rows = slice(start, start + 9)
        metric.update(probabilities[rows], targets[rows], store[rows])
    whole = LongTailMetrics("abcde")
    whole.update(probabilities, targets)
    np.testing.assert_array_equal(metric.scores().ap, whole.scores().ap)
    figures = metric.figures({"head": "a"})
    assert set(figures) == {"map", "auroc", "map_head", "ece", "map_nih", "auroc_nih", "map_mimic", "auroc_mimic"}
    assert {key: figures[key] for key in whole.figures({"head": "a"})} == whole.figures({"head": "a"})
    for number, name in ((0, "nih"), (2, "mimic")):
        alone = LongTailMetrics("abcde")
        alone.update(probabilities[store == number], targets[store == number])
        np.testing.assert_array_equal(metric.scores_by_store()[name].ap, alone.scores().ap)
        assert figures[f"map_{name}"] == alone.figures({})["map"]
    assert np.isnan(metric.scores_by_store()["nih"].ap[3])


def test_without_stores_nothing_more_is_kept():
    metric = LongTailMetrics("abcde")
    metric.split_by({})
    metric.update(*draw(9), torch.zeros(9, dtype=torch.int64))
    assert metric.scores_by_store() == {} and "stores" not in metric._defaults
    assert not any("_" in key and "head" not in key for key in metric.figures({}))


def test_a_store_without_a_label_that_can_be_ranked_has_no_figure():
    metric = LongTailMetrics("abcde")
    metric.split_by({0: "a", 1: "b"})
    probabilities, targets = draw(20)
    metric.update(probabilities, targets, torch.tensor([0] * 19 + [1]))
    assert "map_a" in metric.figures({}) and "map_b" not in metric.figures({})
    metric.reset()
    assert metric.figures({}) == {"map": 0.0, "auroc": 0.0}
    metric.split_by({0: "a", 1: "b"})
    with pytest.raises(ValueError, match="no `store`"):
        metric.update(probabilities, targets)


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
    metric.reset()
    metric.split_by({0: "a", 1: "b"})
    if rank == 1:  # again, one process has no rows
        metric.update(probabilities, targets, torch.arange(33) % 2)
    np.save(f"{folder}/split_empty{rank}.npy", metric.scores_by_store()["b"].ap)
    metric.reset()
    metric.update(probabilities[rows], targets[rows], torch.arange(33)[rows] % 2)
    np.save(f"{folder}/split{rank}.npy", metric.scores_by_store()["b"].ap)
    metric.reset()
    metric.split_by({})  # and a part that comes from one store
    metric.update(probabilities[rows], targets[rows])
    np.save(f"{folder}/again{rank}.npy", metric.scores().ap)
    torch.distributed.destroy_process_group()


def test_two_processes_with_different_numbers_of_rows_give_the_same_figures(tmp_path):
    torch.multiprocessing.start_processes(_rank, args=(2, str(tmp_path)), nprocs=2, start_method="fork")
    probabilities, targets = draw(33)
    alone = LongTailMetrics("abcde")
    alone.update(probabilities, targets)
    expected = alone.scores().ap
    for name in ("empty0", "empty1", "uneven0", "uneven1", "again0", "again1"):
        np.testing.assert_array_equal(np.load(tmp_path / f"{name}.npy"), expected)
    alone.reset()
    alone.update(probabilities[1::2], targets[1::2])
    for name in ("split_empty0", "split_empty1", "split0", "split1"):
        np.testing.assert_array_equal(np.load(tmp_path / f"{name}.npy"), alone.scores().ap)
