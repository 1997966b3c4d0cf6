"""What may be watched, and how a run that cannot begin or is stopped before it does ends: in one line."""

import os
import signal

import pandas as pd
import pytest
import yaml

from longview import InputError, launch
from longview.checkpoints import read_checkpoint
from longview.cli import main
from longview.data.datamodule import StudyData
from longview.labels import LabelSet
from longview.monitoring import logged_figures
from longview.parsers import one_line
from runs import NAMES, ROOT, TINY, fit


@pytest.fixture(scope="module")
def stores(make_store):
    """Two stores: `nih` and `mimic`, of other patients."""
    made = [make_store(NAMES, source="nih"), make_store(NAMES, source="mimic", seed=1)]
    file = made[1] / "manifest.parquet"
    table = pd.read_parquet(file)
    for column in ("patient_id", "study_id", "image_id"):
        table[column] = "m" + table[column]
    table.to_parquet(file)
    return made


def both(stores):
    return f"--data.stores=[{stores[0]},{stores[1]}]"


def refused(arguments, capsys):
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert stop.value.code == 2 and len(said) == 1
    return said[0]


# ---- what is watched -------------------------------------------------------------------------------------------


def test_the_best_checkpoint_may_be_that_of_one_store(stores, tmp_path):
    folder = fit(stores[0], tmp_path, both(stores), "--checkpoint.monitor=val/map_mimic", "--trainer.max_epochs=2",
                 "--config", str(ROOT / "configs/overlay/early_stopping.yaml"),
                 "--trainer.callbacks.monitor=val/auroc_nih")  # fmt: skip
    figures = pd.read_csv(folder / "metrics.csv").dropna(subset=["val/map_mimic"])
    best = read_checkpoint(folder / "checkpoints/best.ckpt")
    assert best["epoch"] == figures["epoch"][figures["val/map_mimic"].idxmax()]


def test_a_store_that_there_is_not_is_named_with_those_that_there_are(stores, tmp_path, capsys):
    words = ["fit", *TINY, f"--trainer.default_root_dir={tmp_path}/runs"]
    said = refused([*words, both(stores), "--checkpoint.monitor=val/map_mimi"], capsys)
    assert "checkpoint.monitor is 'val/map_mimi'; there are val/loss" in said and "val/map_nih" in said
    said = refused([*words, f"--data.stores={stores[0]}", "--checkpoint.monitor=val/map_nih"], capsys)
    assert "'val/map_nih'" in said and "val/map_tail" in said
    assert not (tmp_path / "runs").exists()


def test_a_store_whose_validation_cannot_be_ranked_cannot_be_watched(stores):
    data = StudyData(stores=[str(path) for path in stores], labels=LabelSet.load("nih"), image_size=32)
    assert "val/map_mimic" in logged_figures(data, ["val/map_nih"])
    assert "val/map_mimic" not in logged_figures(data, ["val/map", None])  # not opened
    dataset = data.datasets["val"]
    dataset.targets[dataset.sizes[0] :] = 0
    data.setup = lambda stage: None
    with pytest.raises(InputError, match="val/map_mimic cannot be watched: of the validation studies of mimic no"):
        logged_figures(data, ["val/map_mimic"])


# ---- one line --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("options", "message"), [
    (["--config", f"{ROOT}/configs/overlay/early_stopping.yaml", "--trainer.callbacks.mode=maxx"], "got maxx"),
    (["--trainer.callbacks=Timer", "--trainer.callbacks.duration=x"], "`Timer(duration='x')` is not a valid duration"),
    (["--trainer.strategy=nope"], "trainer: You selected an invalid strategy name: `strategy='nope'`"),
    (["--trainer.devices=x"], "trainer: `devices` selected with `CPUAccelerator` should be an int > 0"),
])  # fmt: skip
def test_wrong_values_of_lightnings_own_options_are_told_in_one_line(options, message, stores, tmp_path, capsys):
    words = ["fit", *TINY, f"--data.stores={stores[0]}", f"--trainer.default_root_dir={tmp_path}/runs"]
    said = refused([*words, *options], capsys)
    assert message in said and len(said) < 400
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(("path", "missing"), [
    ("loss", "model.loss"), ("network", "model.network"), ("network.init_args.encoder", "model.network.encoder"),
])  # fmt: skip
def test_a_required_part_that_is_missing_is_named_alone(path, missing, tmp_path, capsys):
    model = yaml.safe_load((ROOT / "configs/model/tiny_linear.yaml").read_text())
    *above, last = path.split(".")
    part = model["init_args"]
    for name in above:
        part = part[name]
    del part[last]
    (tmp_path / "model.yaml").write_text(yaml.safe_dump(model))
    config = yaml.safe_load((ROOT / "configs/experiment/nih_1000.yaml").read_text())
    config |= {"model": f"{tmp_path}/model.yaml", "trainer": f"{ROOT}/configs/trainer/cpu.yaml",
               "data": f"{ROOT}/configs/data/nih_1000.yaml"}  # fmt: skip
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    said = refused(["fit", "--config", str(tmp_path / "config.yaml")], capsys)
    assert said == f"error: {missing}: missing, and required"


def test_other_messages_of_the_parser_stay_as_they_are():
    assert one_line('Parser key "a":\n  the following arguments are required: --x') == (
        "a: the following arguments are required: --x"
    )


@pytest.mark.parametrize("name", ["SLURM_PROCID", "RANK", "NODE_RANK"])
def test_a_rank_that_is_no_number_is_named(name):
    with pytest.raises(InputError, match=f"the environment variable {name} is 'abc', not a number"):
        launch.is_first({name: "abc"})


@pytest.mark.parametrize("name", ["SLURM_NTASKS", "SLURM_NNODES", "SLURM_NTASKS_PER_NODE"])
def test_a_count_of_slurm_that_is_no_number_is_named(name):
    step = {"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0", "SLURM_NTASKS": "1", name: "x"}
    with pytest.raises(InputError, match=f"{name} is 'x'"):
        launch.check_start({"accelerator": "cpu", "num_nodes": 1, "devices": 1}, step)


# ---- stopped before training -----------------------------------------------------------------------------------


def at(monkeypatch, owner, name):
    """Let SIGTERM come when a function is called."""
    before = getattr(owner, name)

    def with_signal(*arguments, **options):
        os.kill(os.getpid(), signal.SIGTERM)
        return before(*arguments, **options)

    monkeypatch.setattr(owner, name, with_signal)


@pytest.mark.parametrize("place", ["check_paths", "val_dataloader"])
def test_sigterm_before_training_says_that_nothing_was_saved(place, stores, tmp_path, monkeypatch, caplog):
    handler = signal.getsignal(signal.SIGTERM)
    at(monkeypatch, StudyData, place)
    with pytest.raises(SystemExit) as stopped:
        fit(stores[0], tmp_path, "--trainer.num_sanity_val_steps=1")
    assert stopped.value.code == 143
    assert "stopped before anything was saved" in caplog.text and "to go on" not in caplog.text
    assert signal.getsignal(signal.SIGTERM) == handler
    assert not list(tmp_path.rglob("*.ckpt"))
    if place == "check_paths":  # nothing was made of the run
        assert list(tmp_path.iterdir()) == []


def test_sigterm_before_a_resumed_run_trains_names_what_it_came_from(stores, tmp_path, monkeypatch, caplog):
    folder = fit(stores[0], tmp_path, "--trainer.max_epochs=1")
    last = folder / "checkpoints/last.ckpt"
    at(monkeypatch, StudyData, "setup")
    with pytest.raises(SystemExit) as stopped:
        main(["fit", f"--ckpt_path={last}", "--trainer.max_epochs=2"])
    assert stopped.value.code == 143
    assert "stopped before anything new was saved" in caplog.text
    assert f"to go on: uv run main.py fit --ckpt_path {last}" in caplog.text


def test_sigterm_while_the_command_is_read_is_told_too(monkeypatch, caplog):
    at(monkeypatch, LabelSet, "load")
    with pytest.raises(SystemExit) as stopped:
        main(["fit", *TINY, "--data.labels=nih"])
    assert stopped.value.code == 143 and "stopped before anything was saved" in caplog.text
