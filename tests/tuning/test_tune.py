"""`main.py tune` on a small store: trials, report, restart, and mistakes found before the first trial."""

import json
import re

import numpy as np
import pandas as pd
import pytest
import yaml
from jsonargparse import auto_cli, capture_parser

from longview import InputError, cli
from longview.cli import main
from longview.tuning.space import Space
from longview.tuning.tune import Plan, make_plan, tune
from runs import NAMES, ROOT, TINY

SPACE = """
model.optimizer.lr: {low: 1.0e-5, high: 1.0e-1, log: true}
overlay.loss: {choices: [null, %s/configs/overlay/loss_asl.yaml]}
"""


@pytest.fixture(scope="module")
def store(make_store):
    return make_store(NAMES)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("tune")
    (made / "space.yaml").write_text(SPACE % ROOT, encoding="utf-8")
    return made


@pytest.fixture(scope="module")
def command(store, folder):
    return ["tune", *TINY, f"--data.stores={store}", f"--trainer.default_root_dir={folder}/runs",
            "--trainer.max_epochs=2", "--test_after_fit=true", f"--space={folder}/space.yaml",
            f"--storage=sqlite:///{folder}/tune.db", f"--output={folder}/report"]  # fmt: skip


@pytest.fixture(scope="module")
def printed(command, folder):
    """What two trials print, as a user sees it."""
    import contextlib
    import io

    text = io.StringIO()
    with contextlib.redirect_stdout(text):
        main([*command, "--trials", "2"])
    return text.getvalue()


@pytest.fixture
def options(store):
    return [*TINY, f"--data.stores={store}"]


def table(folder):
    return pd.read_csv(folder / "report/trials.csv").set_index("trial")


def test_each_trial_is_a_run_and_the_first_one_is_the_experiment(printed, folder):
    trials = table(folder)
    assert sorted(trials.index) == [0, 1]
    assert trials["default"].to_dict() == {0: True, 1: False}
    base = yaml.safe_load((ROOT / "configs/model/tiny_linear.yaml").read_text())["init_args"]["optimizer"]["init_args"]
    assert trials["model.optimizer.lr"][0] == base["lr"]
    assert (trials["state"] == "complete").all()
    for number in (0, 1):
        run = folder / f"runs/tune/nih_1000/trial_{number:03d}/version_0"
        figures = pd.read_csv(run / "metrics.csv")["val/map"].dropna()
        assert trials["value"][number] == pytest.approx(figures.max(), abs=1e-6)
        assert len(figures) == trials["validations"][number] == 2


def test_only_the_best_trial_keeps_its_checkpoints(printed, folder):
    best = table(folder)["value"].idxmax()
    kept = [file.relative_to(folder).parts[3] for file in (folder / "runs").rglob("best.ckpt")]
    assert kept == [f"trial_{best:03d}"]


def test_the_terminal_is_quiet_and_the_trials_log_is_kept(printed, folder):
    assert "trial 0 (default): model.optimizer.lr 0.003, overlay.loss None" in printed
    assert re.search(r"trial 1 complete: val/map 0\.\d{4} in \d+ s; best 0\.\d{4}, trial [01]", printed)
    assert f"Next: uv run main.py fit --config {folder}/report/best.yaml" in printed
    assert re.search(r"Next: uv run main.py test --ckpt_path \S+/best.ckpt", printed)
    assert "Best validation" not in printed
    assert "Best validation" in (folder / "runs/tune/nih_1000/trial_000/trial.log").read_text()


def test_best_yaml_is_exactly_the_best_trials_configuration(printed, folder, options):
    from longview.tuning.trial import describe

    text = (folder / "report/best.yaml").read_text()
    assert text.startswith(f"# uv run main.py fit --config {folder}/report/best.yaml\n")
    best = int(table(folder)["value"].idxmax())
    run = folder / f"runs/tune/nih_1000/trial_{best:03d}/version_0/fit.yaml"
    wanted, found = yaml.safe_load(run.read_text()), describe(["--config", str(folder / "report/best.yaml")])
    assert found["name"] == "nih_1000_tuned"
    assert found["test_after_fit"] is True  # the user's, though no trial is tested
    for part in ("model", "data", "seed_everything", "checkpoint"):
        assert found[part] == wanted[part], part
    own = {"default_root_dir", "enable_progress_bar", "enable_model_summary"}
    assert {k: v for k, v in found["trainer"].items() if k not in own} == {
        k: v for k, v in wanted["trainer"].items() if k not in own
    }


def test_the_same_command_has_nothing_left_to_do(printed, command, folder, capsys):
    main([*command, "--trials", "2"])
    assert "study nih_1000 has 2 finished trials of 2" in capsys.readouterr().out
    assert sorted(table(folder).index) == [0, 1]


def test_the_fingerprint_tells_two_searches_apart_but_not_two_workers(folder, options):
    space = Space.load(folder / "space.yaml")
    config = {"name": "a", "trainer": {"max_epochs": 2, "devices": [0]}, "data": {"init_args": {"num_workers": 1}}}
    other = {"name": "b", "trainer": {"max_epochs": 2, "devices": [1]}, "data": {"init_args": {"num_workers": 4}}}
    longer = {**config, "trainer": {"max_epochs": 3, "devices": [0]}}
    one, two, three = (Plan(space, [], part, "val/map", "s").fingerprint() for part in (config, other, longer))
    assert one == two
    assert {key for key in one if one[key] != three[key]} == {"trainer.max_epochs"}
    assert {"monitor", "space: overlay.loss", "space: model.optimizer.lr"} <= set(one)


def test_tensorboard_shows_the_trials_settings_with_their_score(printed, folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / "runs/tune/nih_1000/trial_001/version_0"))
    events.Reload()
    data = events.summary_metadata
    assert "_hparams_/session_start_info" in data and "_hparams_/experiment" in data
    assert events.Scalars("best/map")[0].value == pytest.approx(table(folder)["value"][1], abs=1e-6)


def test_what_is_no_option_of_tune_is_one_of_fit():
    words = ["--config", "a.yaml", "--trials", "3", "--data.batch_size", "16", "--seed=1", "--config=b.yaml",
             "--space", "s.yaml", "--data.num-workers", "-1", "--", "--seed", "5"]  # fmt: skip
    made = cli.as_options(tune, words)
    assert made[:-2] == ["--trials", "3", "--seed=1", "--space", "s.yaml"]
    passed = ["--config", "a.yaml", "--data.batch_size", "16", "--config=b.yaml", "--data.num-workers", "-1",
              "--seed", "5"]  # fmt: skip
    assert made[-2:] == ["--fit", json.dumps(passed)]
    parser = capture_parser(lambda: auto_cli(tune, args=[], as_positional=False))
    assert parser.parse_args(made).fit == passed


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("model.optimizer.lrr: {low: 0.1, high: 1.0}", "model.optimizer.lrr cannot be 0.1: .*'lrr' is not accepted"),
        ("nothing: {choices: [1]}", "nothing cannot be 1: unrecognized arguments"),
        ("model.network.decoder.dropout: {low: 0.0, high: 0.5}\ndata.image_size: {choices: [32, x]}",
         "data.image_size cannot be x"),
    ],
)  # fmt: skip
def test_an_unknown_key_or_value_is_found_before_the_first_trial(tmp_path, options, text, said):
    (tmp_path / "space.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=said):
        make_plan(Space.load(tmp_path / "space.yaml"), options)


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        (["--ckpt_path=a.ckpt"], "every trial is a run of its own"),
        (["--checkpoint.dirpath=here"], "every trial is a run of its own"),
        (["--trainer.devices=2"], "one worker on each"),
    ],
)
def test_what_no_trial_can_have_is_refused(folder, options, extra, said):
    space = Space.load(folder / "space.yaml")
    with pytest.raises(InputError, match=said):
        make_plan(space, [*options, *extra])


def test_options_out_of_range_are_refused(folder):
    space = folder / "space.yaml"
    with pytest.raises(InputError, match="--trials 0"):
        tune(space, fit=[], trials=0)
    with pytest.raises(InputError, match="--timeout"):
        tune(space, fit=[], timeout=-1)
    with pytest.raises(InputError, match="needs --config EXPERIMENT"):
        tune(space, fit=["--trainer.max_epochs=1"])
    with pytest.raises(InputError, match="figure of the validation"):
        tune(space, fit=["--config", "a.yaml"], monitor="train/loss")


@pytest.mark.parametrize(
    ("name", "experiment"), [("demo", "demo.yaml"), ("cxr", "experiment/cxr_lt_2024_image.yaml")]
)  # fmt: skip
def test_a_space_of_the_package_fits_its_experiment(name, experiment):
    from longview.tuning.trial import check, describe

    file = ROOT / f"configs/space/{name}.yaml"
    first_line = file.read_text(encoding="utf-8").splitlines()[0]
    assert f"--config configs/{experiment}" in first_line and f"configs/space/{name}.yaml" in first_line
    found = Space.load(file)
    options = ["--config", str(ROOT / "configs" / experiment)]
    assert set(found.first(describe(options))) == {setting.key for setting in found.settings}
    check(found.command(options, {setting.key: setting.examples()[-1] for setting in found.settings}))


def test_mlflow_gets_figures_and_settings_in_a_local_store(store, tmp_path, monkeypatch):
    import sqlite3

    overlay = ROOT / "configs/overlay/mlflow.yaml"
    monkeypatch.chdir(tmp_path)
    main(["fit", *TINY, "--config", str(overlay), f"--data.stores={store}", "--trainer.max_epochs=1",
          "--trainer.limit_train_batches=2"])  # fmt: skip
    rows = sqlite3.connect(tmp_path / "runs/mlflow.db")
    figures = dict(rows.execute("select key, value from latest_metrics").fetchall())
    assert {"val/map", "val/auroc", "train/loss", "train/lr"} <= set(figures)
    assert all(np.isfinite(value) for value in figures.values())
    params = dict(rows.execute("select key, value from params").fetchall())
    assert params["optimizer/init_args/lr"] == "0.003"
    assert rows.execute("select name from experiments where name = 'longview'").fetchall()
    assert (tmp_path / "runs/nih_1000/version_0/checkpoints/best.ckpt").is_file()  # beside our own loggers
