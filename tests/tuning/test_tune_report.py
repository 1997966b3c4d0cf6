"""What a search leaves: a sorted table, two plots, and the best configuration."""

import math

import optuna
import pandas as pd
import pytest
from rich.console import Console

from longview.tuning.report import best_trial, importances, results, results_table, value_of, write_report


@pytest.fixture
def study():
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    made = optuna.create_study(study_name="demo", direction="maximize", sampler=optuna.samplers.RandomSampler(seed=0))
    made.enqueue_trial({"model.optimizer.lr": 0.5, "loss": "a.yaml"}, user_attrs={"default": True})

    def objective(trial):
        lr = trial.suggest_float("model.optimizer.lr", 0, 1)
        trial.suggest_categorical("loss", ["a.yaml", "b.yaml"])
        trial.report(lr, 0)
        if trial.number == 3:
            trial.report(2.0, 1)
            raise optuna.TrialPruned
        if trial.number == 4:
            trial.set_user_attr("error", "out of memory: 3 GiB")
            return math.nan
        return lr

    made.optimize(objective, n_trials=10)
    return made


def test_the_table_has_the_best_complete_trial_first(study):
    table = results(study)
    assert table["trial"][0] == study.best_trial.number
    complete = table[table["state"] == "complete"]["value"]
    assert complete.is_monotonic_decreasing and len(complete) == 8
    assert list(table["state"][8:]) == ["pruned", "fail"]
    assert list(table.columns[-2:]) == ["model.optimizer.lr", "loss"]
    assert table.set_index("trial")["default"].to_dict()[0]


def test_a_low_value_is_good_where_it_is_minimised():
    made = optuna.create_study(direction="minimize")
    made.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=4)
    assert results(made)["value"].is_monotonic_increasing
    assert best_trial(made).value == min(trial.value for trial in made.trials)


def test_a_pruned_trial_is_worth_its_best_validation(study):
    assert value_of(study.trials[3], True) == 2.0
    assert value_of(study.trials[3], False) == study.trials[3].params["model.optimizer.lr"]
    assert math.isnan(value_of(optuna.trial.create_trial(state=optuna.trial.TrialState.FAIL), True))


def test_the_setting_that_matters_has_the_higher_importance(study):
    shares = importances(study)
    assert shares["model.optimizer.lr"] > shares["loss"]
    assert sum(shares.values()) == pytest.approx(1)
    few = optuna.create_study()
    few.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=3)
    assert importances(few) == {}


def test_the_printed_table_names_settings_values_and_failures(study):
    console = Console(width=160)
    with console.capture() as caught:
        console.print(results_table(study, "val/map", top=20))
    text = caught.get()
    assert "0 (default)" in text
    assert "trial 4: out of memory: 3 GiB" in text
    assert f"{study.best_value:.4f}" in text


def test_the_report_is_written_whole_and_over_an_earlier_one(study, tmp_path):
    output = tmp_path / "deep/tune"
    for _ in range(2):
        write_report(study, "val/map", lambda trial: f"trial: {trial.number}\n", output)
    assert {file.name for file in output.iterdir()} == {"trials.csv", "best.yaml", "history.png", "importance.png"}
    assert (output / "best.yaml").read_text() == f"trial: {study.best_trial.number}\n"
    assert len(pd.read_csv(output / "trials.csv")) == 10
    assert all((output / name).stat().st_size > 5000 for name in ("history.png", "importance.png"))
    assert list(output.parent.iterdir()) == [output]


def test_a_trial_that_another_worker_finishes_meanwhile_is_in_the_report(study, tmp_path):
    calls = []

    def best(trial):
        if not calls:
            study.optimize(lambda trial: trial.suggest_float("model.optimizer.lr", 2, 3), n_trials=1)
        calls.append(trial.number)
        return ""

    write_report(study, "val/map", best, tmp_path / "tune")
    assert calls == [calls[0], 10]
    assert len(pd.read_csv(tmp_path / "tune/trials.csv")) == 11
