"""TensorBoard gets curves, reliability and every label's figures of the best validation."""

import io

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from sklearn.metrics import average_precision_score, precision_recall_curve
from tensorboard.backend.event_processing.event_accumulator import TENSORS, EventAccumulator
from tensorboard.util.tensor_util import make_ndarray

from longview.board import POINTS, BestBoard, LabelCurves, Validation, score_text
from longview.checkpoints import read_checkpoint
from longview.cli import main
from longview.metrics import LongTailMetrics
from runs import NAMES, fit


def draw(rows=5000, labels=3, seed=0):
    rng = np.random.default_rng(seed)
    targets = (rng.random((rows, labels)) < [0.5, 0.05, 0.01][:labels]).astype(np.float32)
    scores = (rng.random((rows, labels)) * 0.3 + targets * rng.random((rows, labels)) * 0.3).astype(np.float32)
    targets[:100, 0] = np.nan
    targets[100:200, 0] = 0.5
    return scores.round(3), targets


# ---- what is kept ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("label", [0, 1, 2])
def test_kept_points_lie_on_the_curve_of_all_rows_and_are_few(label):
    scores, targets = draw()
    curve = LabelCurves.of(scores[:, label], targets[:, label])
    hard = np.isin(targets[:, label], (0, 1))
    precision, recall, _ = precision_recall_curve(targets[hard, label], scores[hard, label])
    true = {(round(r, 9), round(p, 9)) for r, p in zip(recall, precision, strict=True)}
    hits, alarms = np.array(curve.hits), np.array(curve.false_alarms)
    kept = zip((hits / hits[-1]).round(9), (hits / (hits + alarms)).round(9), strict=True)
    assert 10 < len(hits) <= POINTS and hits[-1] == targets[hard, label].sum()
    assert set(kept) <= true
    staircase = (np.diff(hits / hits[-1], prepend=0) * hits / (hits + alarms)).sum()
    ap = average_precision_score(targets[hard, label], scores[hard, label])
    assert staircase == pytest.approx(ap, abs=1e-9 if label == 2 else 0.01)  # the frequent ones are thinned


def test_counts_at_thresholds_are_those_of_the_rows():
    scores, targets = draw()
    curve = LabelCurves.of(scores[:, 1], targets[:, 1])
    for place in (0, 20, 50, 126):
        above = scores[:, 1] >= place / 126
        assert curve.above[place] == (above & (targets[:, 1] == 1)).sum()
        assert curve.wrongly_above[place] == (above & (targets[:, 1] == 0)).sum()


def test_what_a_checkpoint_keeps_is_plain_small_and_the_same_again(tmp_path):
    scores, targets = draw()
    targets[:, 1] = 0  # cannot be ranked: no curve
    before = Validation.of(3, 77, ["a", "b", "c"], scores, targets)
    torch.save(before.plain(), tmp_path / "state.pt")
    again = Validation.from_plain(torch.load(tmp_path / "state.pt", weights_only=True))
    assert list(again.curves) == ["a", "c"] and (again.epoch, again.step) == (3, 77)
    assert score_text(again, ["a", "b", "c"], {}) == score_text(before, ["a", "b", "c"], {})
    assert again.curves == before.curves
    assert (tmp_path / "state.pt").stat().st_size < 20_000


def test_the_table_has_each_label_and_the_means_of_its_groups():
    scores, targets = draw()
    targets[:, 1] = 0
    best = Validation.of(3, 77, ["a|b", "rare", "c"], scores, targets)
    lines = score_text(best, ["a|b", "rare", "c"], {"head": ["a|b"], "tail": ["rare", "c"]}).splitlines()
    assert lines[0] == "Best validation: epoch 3, step 77"
    cells = [[cell.strip() for cell in line.replace(r"\|", "/").split("|")[1:-1]] for line in lines[4:]]
    assert [row[:2] for row in cells] == [["a/b", "head"], ["rare", "tail"], ["c", "tail"], ["**mean**", "all"],
                                          ["**mean**", "head"], ["**mean**", "tail"]]  # fmt: skip
    assert cells[1][2:7] == ["0", "5,000", "0.000", "-", "-"]
    assert cells[5][6] == cells[2][6] == f"{best.scores.ap[2]:.3f}"
    assert cells[0][3] == "4,800"


def _rank(rank, world, folder):
    from longview.board import _rows

    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)
    scores, targets = (torch.from_numpy(values) for values in draw(300))
    metrics = LongTailMetrics("abc")
    for start, stop in [[(0, 10), (10, 250)], [(250, 300)]][rank]:
        metrics.update(scores[start:stop], targets[start:stop])
    before = metrics.scores()
    found = _rows(metrics)
    after = metrics.scores()
    assert np.array_equal(before.ap, after.ap) and sum(map(len, metrics.probabilities)) == (250, 50)[rank]
    np.savez(f"{folder}/{rank}.npz", *found)
    torch.distributed.destroy_process_group()


def test_rows_of_all_processes_are_drawn_and_the_metric_goes_on_as_before(tmp_path):
    torch.multiprocessing.start_processes(_rank, args=(2, str(tmp_path)), nprocs=2, start_method="fork")
    whole = Validation.of(0, 0, "abc", *draw(300))
    for rank in (0, 1):
        found = Validation.of(0, 0, "abc", *np.load(tmp_path / f"{rank}.npz").values())
        assert found.curves == whole.curves


# ---- what a run writes -----------------------------------------------------------------------------------------


def events(folder):
    return EventAccumulator(str(folder), size_guidance={TENSORS: 0}).Reload()


@pytest.fixture(scope="module")
def run(make_store, tmp_path_factory):
    """Nothing is learnt and no batch statistics move: the first validation stays the best."""
    return fit(make_store(NAMES, patients=60), tmp_path_factory.mktemp("run"), *PLATEAU, "--trainer.max_epochs=3")


PLATEAU = ["--model.optimizer.lr=1e-12", "--model.network.encoder.name=test_vit"]


def best_step(folder):
    return read_checkpoint(folder / "checkpoints/best.ckpt")["global_step"]


def check_board(board, step):
    assert {"best/precision_recall", "best/reliability"} <= set(board.Tags()["images"])
    for tag in ("best/precision_recall", "best/reliability"):
        picture = board.Images(tag)[-1]
        pixels = np.asarray(Image.open(io.BytesIO(picture.encoded_image_string)))
        assert picture.step == step and pixels.std() > 10 and min(pixels.shape[:2]) > 300
    text = board.Tensors("best/labels/text_summary")[-1]
    table = text.tensor_proto.string_val[0].decode()
    assert text.step == step and all(f"| {name} |" in table for name in NAMES) and "| **mean** | all |" in table
    return table


def test_a_run_ends_with_the_best_validation_at_its_own_step(run):
    board = events(run)
    table = check_board(board, best_step(run))
    for tag, columns in (("val/labels", 900), ("val/images", 1200)):  # of every validation
        pictures = board.Images(tag)
        pixels = np.asarray(Image.open(io.BytesIO(pictures[-1].encoded_image_string)))
        assert len(pictures) == 3 and pixels.shape[1] == columns and pixels.std() > 10
    figures = pd.read_csv(run / "metrics.csv").dropna(subset=["val/map"]).iloc[0]
    mean = next(line for line in table.splitlines() if "| all |" in line).split("|")
    for place, name in ((6, "auroc"), (7, "map"), (8, "ece")):
        assert float(mean[place]) == pytest.approx(figures[f"val/{name}"], abs=6e-4)
    (curve,) = board.Tensors(f"best/curve/{NAMES[0]}")
    tp, fp, tn, fn, precision, recall = make_ndarray(curve.tensor_proto)
    assert curve.step == best_step(run) and tp.shape == (127,)
    assert ((tp + fp + tn + fn) == tp[0] + fp[0]).all() and recall[0] == 1
    assert precision[0] == pytest.approx(tp[0] / (tp[0] + fp[0]))


def test_a_run_that_goes_on_writes_what_was_best_before(run, tmp_path):
    main(["fit", f"--ckpt_path={run}/checkpoints/last.ckpt", "--trainer.max_epochs=4",
          f"--trainer.default_root_dir={tmp_path}"])  # fmt: skip
    first, resumed = events(run), events(tmp_path / "nih_1000/version_0")
    assert check_board(resumed, best_step(run)) == check_board(first, best_step(run))
    for tag in ("best/precision_recall", "best/reliability"):
        encoded = [found.Images(tag)[-1].encoded_image_string for found in (first, resumed)]
        assert encoded[0] == encoded[1]


def test_without_tensorboard_nothing_is_kept(make_store, tmp_path, monkeypatch):
    def never(*args):
        raise AssertionError("rows were gathered")

    monkeypatch.setattr("longview.board._rows", never)
    fit(make_store(NAMES), tmp_path, "--trainer.max_epochs=1", "--trainer.logger=false")
    assert BestBoard().state_dict() == {}
