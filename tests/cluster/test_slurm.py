"""The batch scripts on a real SLURM: processes by srun, GPUs by gres, pre-emption, job arrays, and its traps."""

import sys
import time

import numpy as np
import pandas as pd
import pytest
import torch

from longview.checkpoints import read_checkpoint
from longview.cli import main
from runs import NAMES, ROOT, TINY

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1800)]

SCRIPTS = ROOT / "scripts/slurm"
TWO = ["--ntasks-per-node=2", "--gpus-per-node=2", "--cpus-per-task=1", "--time=60"]
EPOCHS = 40


@pytest.fixture(scope="module")
def store(make_store):
    return make_store(NAMES, patients=64)


def command(store, root):
    return [*TINY, f"--data.stores={store}", "--data.batch_size=2", f"--trainer.default_root_dir={root}",
            f"--trainer.max_epochs={EPOCHS}", "--trainer.accelerator=cpu", "--trainer.strategy=ddp",
            "--trainer.precision=32-true", "--trainer.sync_batchnorm=false", "--test_after_fit=false"]  # fmt: skip


@pytest.fixture(scope="module")
def whole(slurm, store, python, tmp_path_factory):
    """A run of two processes that nothing interrupts."""
    root = tmp_path_factory.mktemp("whole")
    job = slurm.submit(*TWO, SCRIPTS / "fit.sbatch", *command(store, root), LONGVIEW=python)
    facts = slurm.wait(job, "COMPLETED")
    return root / "nih_1000/version_0", facts, slurm.log(job)


def losses(folder):
    files = [*sorted(folder.glob("metrics.*.csv")), folder / "metrics.csv"]
    rows = pd.concat([pd.read_csv(file) for file in files]).dropna(subset=["train/loss"])
    return rows.drop_duplicates("step", keep="last").set_index("step")["train/loss"]


def assert_same(folder, expected):
    mine, theirs = (read_checkpoint(place / "checkpoints/last.ckpt")["state_dict"] for place in (folder, expected))
    assert [name for name, value in theirs.items() if not torch.equal(mine[name], value)] == []
    np.testing.assert_array_equal(losses(folder).index, losses(expected).index)
    np.testing.assert_allclose(losses(folder), losses(expected), rtol=0, atol=0)


def test_srun_starts_two_processes_that_train_as_one_run(whole):
    folder, facts, log = whole
    assert "gres/gpu=2" in facts["TRES"] or "gpu:2" in str(facts)
    assert "All distributed processes registered. Starting with 2 processes" in log
    assert [place.name for place in folder.parent.iterdir()] == ["version_0"]
    assert not losses(folder).index.has_duplicates


def test_a_job_that_usr1_reaches_is_queued_again_and_goes_on_exactly(whole, slurm, store, python, tmp_path):
    job = slurm.submit(*TWO, SCRIPTS / "fit.sbatch", *command(store, tmp_path), LONGVIEW=python)
    folder = tmp_path / "nih_1000/version_0"
    deadline = time.monotonic() + 300
    while not (folder / "checkpoints/last.ckpt").exists():
        assert time.monotonic() < deadline, slurm.log(job)[-3000:]
        time.sleep(0.1)
    slurm.run("scancel", "--signal=USR1", job)
    facts = slurm.wait(job, "PENDING")
    assert facts["Restarts"] == "1"
    stopped = read_checkpoint(folder / "checkpoints/last.ckpt")
    assert stopped["epoch"] < EPOCHS - 1
    slurm.run("scontrol", "update", f"jobid={job}", "StartTime=now")  # SLURM would wait for two minutes
    slurm.wait(job, "COMPLETED")
    assert [place.name for place in folder.parent.iterdir()] == ["version_0"]
    assert "queued again" in slurm.log(job) and "the job goes on in" in slurm.log(job)
    assert_same(folder, whole[0])


def test_usr1_before_training_listens_does_not_end_the_job(whole, slurm, store, python, tmp_path):
    job = slurm.submit(*TWO, SCRIPTS / "fit.sbatch", *command(store, tmp_path), LONGVIEW=python)
    slurm.wait(job, "RUNNING")
    time.sleep(1.0)
    slurm.run("scancel", "--signal=USR1", job)
    time.sleep(2.0)
    facts = slurm.facts(job)
    assert facts["JobState"] == "RUNNING" and facts["Restarts"] == "0", slurm.log(job)
    slurm.run("scancel", job)
    slurm.wait(job, "CANCELLED")


@pytest.mark.parametrize(
    ("tasks", "said"),
    [("--ntasks=1", "--ntasks is 1: it would train on one process"), ("--ntasks-per-node=2", "without srun")],
)
def test_a_script_that_forgot_srun_fails_at_once_and_says_so(tasks, said, slurm, store, tmp_path):
    script = tmp_path / "train.sbatch"
    words = " ".join(f"'{word}'" for word in command(store, tmp_path))
    script.write_text(f"#!/bin/bash\n{sys.executable} main.py fit {words} --trainer.devices=2 || echo code $?\n")
    job = slurm.submit(tasks, script)
    slurm.wait(job, "COMPLETED")
    assert said in " ".join(slurm.log(job).split()) and "code 2" in slurm.log(job)
    assert not (tmp_path / "nih_1000").exists()


def test_an_array_prepares_the_store_that_one_process_makes(slurm, python, tmp_path):
    raw, script = tmp_path / "raw", SCRIPTS / "prepare_array.sbatch"
    main(["phantom", "--layout", "nih", "--studies", "12", "--size", "64", "--output", str(raw)])
    options = ["--source", "nih", "--root", raw, "--size", "32", "--output"]
    one, many = tmp_path / "one", tmp_path / "many"
    main(["prepare", *map(str, options), str(one)])
    job = slurm.submit("--array=1-3", "--cpus-per-task=1", script, *options, many, LONGVIEW=python)
    slurm.wait(job, "COMPLETED")
    joined = slurm.submit("--array=1", "--cpus-per-task=1", script, "--merge", "3", *options, many, LONGVIEW=python)
    slurm.wait(joined, "COMPLETED")
    pd.testing.assert_frame_equal(pd.read_parquet(many / "manifest.parquet"), pd.read_parquet(one / "manifest.parquet"))
    np.testing.assert_array_equal(np.load(many / "images.npy"), np.load(one / "images.npy"))
