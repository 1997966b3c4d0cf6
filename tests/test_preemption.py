"""A run that is stopped by a signal goes on exactly where it was, and a SLURM job is queued again."""

import os
import signal

import numpy as np
import pandas as pd
import pytest
import torch

from longview import launch
from longview.callbacks import SeededSteps
from longview.checkpoints import read_checkpoint
from runs import NAMES, fit

EPOCHS = 3  # of 3 batches each


@pytest.fixture(scope="module")
def store(make_store):
    return make_store(NAMES)


@pytest.fixture(scope="module")
def whole(store, tmp_path_factory):
    """The run that nothing interrupts, by gradients accumulated over so many batches."""
    made = {}

    def run(accumulate):
        if accumulate not in made:
            made[accumulate] = fit(store, tmp_path_factory.mktemp("whole"), *options(accumulate))
        return made[accumulate]

    return run


def options(accumulate=1):
    return [f"--trainer.max_epochs={EPOCHS}", f"--trainer.accumulate_grad_batches={accumulate}"]


@pytest.fixture
def in_job(monkeypatch, tmp_path):
    """This process is a SLURM job, and `scontrol` a script that notes how it was called."""
    before = {number: signal.getsignal(number) for number in (signal.SIGUSR1, signal.SIGTERM)}
    for name in [name for name in os.environ if name.startswith("SLURM_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    script, calls = tmp_path / "bin/scontrol", tmp_path / "calls"
    script.parent.mkdir()
    script.write_text(f'#!/bin/sh\necho "$@" >> {calls}\n')
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{script.parent}:{os.environ['PATH']}")
    yield calls
    launch.forget()
    for number, handler in before.items():
        signal.signal(number, handler)


def send(monkeypatch, sent, batch):
    """Let a signal come while a batch is trained on."""
    start = SeededSteps.on_train_batch_start

    def with_signal(self, *arguments):
        start(self, *arguments)
        if self.batches == batch:
            os.kill(os.getpid(), sent)

    monkeypatch.setattr(SeededSteps, "on_train_batch_start", with_signal)


def losses(folder):
    """Training loss by step, over all parts of a run; what was trained on twice, once."""
    files = [*sorted(folder.glob("metrics.*.csv")), folder / "metrics.csv"]
    rows = pd.concat([pd.read_csv(file) for file in files]).dropna(subset=["train/loss"])
    return rows.drop_duplicates("step", keep="last").set_index("step")["train/loss"]


def assert_same(folder, expected):
    mine, theirs = (read_checkpoint(place / "checkpoints/last.ckpt") for place in (folder, expected))
    for name, value in theirs["state_dict"].items():
        assert torch.equal(mine["state_dict"][name], value), name
    pd.testing.assert_series_equal(losses(folder), losses(expected))
    best = [read_checkpoint(place / "checkpoints/best.ckpt")["global_step"] for place in (folder, expected)]
    assert best[0] == best[1]


# within an epoch, at a validation, before any checkpoint, and between two steps of the optimizer
@pytest.mark.parametrize(("batch", "accumulate"), [(5, 1), (6, 1), (3, 1), (4, 2)])
def test_usr1_saves_queues_the_job_again_and_the_same_command_goes_on_exactly(
    batch, accumulate, store, whole, in_job, monkeypatch, tmp_path
):
    expected = whole(accumulate)
    with monkeypatch.context() as once:
        send(once, signal.SIGUSR1, batch)
        with pytest.raises(SystemExit) as stopped:
            fit(store, tmp_path, *options(accumulate))
    assert stopped.value.code == launch.INTERRUPTED == 75
    assert in_job.read_text() == "requeue 7\n"
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    folder = fit(store, tmp_path, *options(accumulate))
    assert [place.name for place in folder.parent.iterdir()] == ["version_0"]
    assert_same(folder, expected)


def test_what_was_trained_before_usr1_is_not_trained_again(store, in_job, monkeypatch, tmp_path):
    send(monkeypatch, signal.SIGUSR1, 5)
    with pytest.raises(SystemExit):
        fit(store, tmp_path, *options())
    last = read_checkpoint(tmp_path / "nih_1000/version_0/checkpoints/last.ckpt")
    assert last["global_step"] == 5
    assert len(losses(tmp_path / "nih_1000/version_0")) == 5


def test_a_job_that_usr1_reaches_without_scontrol_says_what_the_script_must_do(
    store, in_job, monkeypatch, tmp_path, caplog
):
    monkeypatch.setattr("shutil.which", lambda name: None)
    send(monkeypatch, signal.SIGUSR1, 2)
    with pytest.raises(SystemExit) as stopped:
        fit(store, tmp_path, *options())
    assert stopped.value.code == launch.INTERRUPTED
    assert "scontrol requeue 7" in caplog.text


def test_sigterm_saves_after_the_batch_and_does_not_queue_again(store, whole, in_job, monkeypatch, tmp_path):
    with monkeypatch.context() as once:
        send(once, signal.SIGTERM, 5)
        with pytest.raises(SystemExit) as stopped:
            fit(store, tmp_path, *options())
    assert stopped.value.code == 143 and not in_job.exists()
    last = tmp_path / "nih_1000/version_0/checkpoints/last.ckpt"
    assert read_checkpoint(last)["global_step"] == 5
    assert_same(fit(store, tmp_path, *options(), f"--ckpt_path={last}"), whole(1))


def test_a_job_queued_again_after_its_end_trains_nothing_more(store, in_job, monkeypatch, tmp_path, caplog):
    folder = fit(store, tmp_path, *options())
    before = losses(folder)
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    fit(store, tmp_path, *options())
    assert "nothing was left to train" in caplog.text
    np.testing.assert_array_equal(losses_so_far(folder), before)


def losses_so_far(folder):
    return pd.read_csv(folder / "metrics.1.csv").dropna(subset=["train/loss"])["train/loss"]
