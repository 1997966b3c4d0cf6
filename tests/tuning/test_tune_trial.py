"""What a trial reports, and when it ends."""

import logging
import math
from types import SimpleNamespace

import optuna
import pytest

from longview import InputError
from longview.tuning.study import TrialFailedError
from longview.tuning.trial import Report, check_one_process, run_trial


class Trial:
    """Takes reports, and is behind from a given one on."""

    def __init__(self, behind=99):
        self.behind = behind
        self.reports = []

    def report(self, value, step):
        self.reports.append((value, step))

    def should_prune(self):
        return len(self.reports) >= self.behind


def trainer(value=0.5, **changes):
    made = {"sanity_checking": False, "callback_metrics": {"val/map": value}, "max_epochs": 10, "current_epoch": 0,
            "max_steps": -1, "global_step": 5, "is_last_batch": True}  # fmt: skip
    return SimpleNamespace(**{**made, **changes})


def report(trial, *, maximise=True, prune=True):
    return Report(trial, "val/map", maximise, prune, {})


def test_every_validation_but_the_sanity_check_is_reported_and_the_best_counts():
    trial = Trial()
    high, low = report(trial), report(Trial(), maximise=False)
    assert math.isnan(high.best)
    high.on_validation_end(trainer(9.0, sanity_checking=True), None)
    for value in (0.2, 0.4, math.nan, 0.3):
        high.on_validation_end(trainer(value), None)
        low.on_validation_end(trainer(value), None)
    assert [step for _, step in trial.reports] == [0, 1, 2, 3]
    assert (high.best, low.best) == (0.4, 0.2)


def test_a_trial_that_falls_behind_ends_unless_it_is_the_default_or_over_anyway():
    with pytest.raises(optuna.TrialPruned):
        report(Trial(behind=1)).on_validation_end(trainer(), None)
    with pytest.raises(optuna.TrialPruned):  # a validation within the last epoch
        report(Trial(behind=1)).on_validation_end(trainer(current_epoch=9, is_last_batch=False), None)
    report(Trial(behind=1), prune=False).on_validation_end(trainer(), None)
    report(Trial(behind=1)).on_validation_end(trainer(current_epoch=9), None)
    report(Trial(behind=1)).on_validation_end(trainer(max_epochs=-1, max_steps=5), None)


def test_a_figure_that_the_run_has_not_is_named_with_those_it_has():
    with pytest.raises(InputError, match=r"--monitor val/map: .* it has val/loss"):
        report(Trial()).on_validation_end(trainer(callback_metrics={"val/loss": 1.0}), None)


@pytest.mark.parametrize(
    ("devices", "nodes", "fine"),
    [(1, 1, True), ("1", 1, True), ([3], 1, True), ("2,", 1, True), ("auto", 1, True), (2, 1, False), (-1, 1, False),
     ("2", 1, False), ("0,1", 1, False), ([0, 1], 1, False), (1, 2, False)],
)  # fmt: skip
def test_a_trial_has_one_device(devices, nodes, fine):
    config = {"trainer": {"devices": devices, "num_nodes": nodes, "accelerator": "cpu"}}
    if fine:
        check_one_process(config)
    else:
        with pytest.raises(InputError, match="CUDA_VISIBLE_DEVICES"):
            check_one_process(config)


def test_out_of_memory_fails_the_trial_and_any_other_error_is_kept(tmp_path, monkeypatch):
    def fails(message, cause=None):
        def build(cli, words):
            logging.getLogger("longview").warning("said within the trial")
            print("printed within the trial")  # noqa: T201
            raise RuntimeError(message) from cause

        monkeypatch.setattr("longview.training._build", build)
        run_trial(["--config=none.yaml"], report(Trial()), tmp_path, "trial_000")

    with pytest.raises(TrialFailedError, match="out of memory: DefaultCPUAllocator"):
        fails("DefaultCPUAllocator: can't allocate memory: you tried\nmore lines")
    with pytest.raises(InputError, match="no such store"):
        fails("wrapped", InputError("no such store"))
    with pytest.raises(RuntimeError, match="shapes"):
        fails("shapes")
    text = (tmp_path / "trial_000/trial.log").read_text()
    assert text.count("said within the trial") == text.count("printed within the trial") == 3
