"""Studies: as many trials as asked for, whatever is killed, whoever shares them."""

import math
import os
import shutil
import signal
import subprocess
import sys
import time

import optuna
import pytest
from optuna.trial import TrialState

from longview import InputError
from longview.tuning.study import TrialFailedError, counted, finished, open_storage, open_study, search

FINGERPRINT = {"monitor": "val/map", "trainer.max_epochs": 3}
FIRST = {"x": 0.5}


def opened(url, fingerprint=FINGERPRINT, **options):
    return open_study("s", open_storage(url), fingerprint, FIRST, **options)


def objective(trial):
    return -((trial.suggest_float("x", 0, 1) - 0.3) ** 2)


@pytest.fixture(scope="module")
def empty(tmp_path_factory):
    """A database with tables: making them takes longer than most tests."""
    optuna.logging.set_verbosity(optuna.logging.CRITICAL)
    file = tmp_path_factory.mktemp("storage") / "new/folder/tune.db"
    open_storage(f"sqlite:///{file}")
    return file


@pytest.fixture
def url(empty, tmp_path):
    return f"sqlite:///{shutil.copy(empty, tmp_path / 'tune.db')}"


def numbers(study, *states):
    return [trial.number for trial in study.get_trials(states=states or None)]


WORKER = """
import sys, time
import optuna
from longview.tuning.study import open_storage, open_study, search
url, wanted, pause, log = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), sys.argv[4]
optuna.logging.set_verbosity(optuna.logging.CRITICAL)
def objective(trial):
    x = trial.suggest_float("x", 0, 1)
    with open(log, "a") as file:
        file.write(f"{trial.number} {x!r}\\n")
    time.sleep(pause)
    return -(x - 0.3) ** 2
study = open_study("s", open_storage(url), {"monitor": "val/map", "trainer.max_epochs": 3}, {"x": 0.5})
search(study, objective, wanted)
"""


def worker(url, trials, pause, log):
    return subprocess.Popen([sys.executable, "-c", WORKER, url, str(trials), str(pause), str(log)])


def test_the_first_trial_is_the_default_and_a_restart_only_does_what_is_missing(url):
    study = opened(url)
    search(study, objective, 3)
    assert study.trials[0].params == FIRST
    assert study.trials[0].user_attrs["default"]
    again = opened(url)
    search(again, objective, 3)
    assert numbers(again) == [0, 1, 2]
    search(again, objective, 5)
    assert numbers(again, TrialState.COMPLETE) == [0, 1, 2, 3, 4]


def test_proposals_are_those_of_the_seed_with_or_without_a_restart(url, empty, tmp_path):
    whole = opened(url, startup=3)
    search(whole, objective, 8)
    other = f"sqlite:///{shutil.copy(empty, tmp_path / 'other.db')}"
    for trials in (2, 5, 8):
        parts = opened(other, startup=3)
        search(parts, objective, trials)
    assert [trial.params for trial in parts.trials] == [trial.params for trial in whole.trials]
    different = opened(f"sqlite:///{shutil.copy(empty, tmp_path / 'seed.db')}", startup=3, seed=1)
    search(different, objective, 2)
    assert different.trials[1].params != whole.trials[1].params


def test_a_killed_trial_is_tried_again_with_its_values_and_does_not_count(url, tmp_path):
    log = tmp_path / "log.txt"
    process = worker(url, 3, 60, log)
    for _ in range(300):
        if log.exists() and log.read_text():
            break
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    study = opened(url)
    assert numbers(study, TrialState.RUNNING) == [0]
    search(study, objective, 3)
    assert numbers(study, TrialState.FAIL) == [0]
    assert [trial.number for trial in finished(study)] == [1, 2, 3]
    assert len(counted(study)) == 3
    assert study.trials[1].params == study.trials[0].params == FIRST
    assert study.trials[1].user_attrs["default"]


def test_two_workers_share_a_study_and_its_number_of_trials(tmp_path):
    log = tmp_path / "log.txt"
    url = f"sqlite:///{tmp_path}/both/make/it.db"
    workers = [worker(url, 9, 0.1, log) for _ in range(2)]
    assert [process.wait(timeout=60) for process in workers] == [0, 0]
    study = opened(url)
    assert len(finished(study)) == len(counted(study)) == 9
    assert len(log.read_text().splitlines()) == 9  # nothing was trained for nothing
    assert len({trial.user_attrs["owner"]["pid"] for trial in finished(study)}) == 2
    assert len({trial.params["x"] for trial in finished(study)}) == 9
    assert sum(bool(trial.user_attrs.get("default")) for trial in study.trials) == 1


def test_a_running_trial_of_another_worker_counts_and_is_left_alone(url):
    study = opened(url)
    running = study.ask()
    running.suggest_float("x", 0, 1)
    search(study, objective, 3)
    assert numbers(study, TrialState.RUNNING) == [0]
    assert numbers(study, TrialState.COMPLETE) == [1, 2]


def test_an_interrupted_trial_is_tried_again(url):
    study = opened(url)

    def interrupted(trial):
        trial.suggest_float("x", 0, 1)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        search(study, interrupted, 3)
    search(study, objective, 3)
    assert study.trials[1].params == FIRST
    assert len(finished(study)) == 3


def test_a_mistake_in_the_first_trial_ends_the_search_and_a_later_one_only_its_trial(url):
    study = opened(url)

    def wrong(trial):
        trial.suggest_float("x", 0, 1)
        raise InputError("no such store")

    with pytest.raises(InputError, match="no such store"):
        search(study, wrong, 3)
    assert counted(study) == []
    search(study, objective, 1)
    assert finished(study)[0].params == FIRST
    search(study, wrong, 2)
    [failed] = [trial for trial in counted(study) if trial.state == TrialState.FAIL]
    assert failed.user_attrs["error"] == "no such store"
    search(study, objective, 3)
    assert len(finished(study)) == 2


def test_a_failed_trial_counts_and_the_search_goes_on(url):
    study = opened(url)

    def sometimes(trial):
        value = objective(trial)
        if trial.number == 0:
            raise TrialFailedError("out of memory")
        return math.nan if trial.number == 1 else value

    search(study, sometimes, 4)
    assert numbers(study, TrialState.FAIL) == [0, 1]
    assert numbers(study, TrialState.COMPLETE) == [2, 3]
    assert study.trials[0].user_attrs["error"] == "out of memory"


def test_a_programming_error_is_not_hidden(url):
    def broken(trial):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        search(opened(url), broken, 3)


def test_no_trial_is_begun_when_the_time_is_over(url):
    study = opened(url)

    def slow(trial):
        time.sleep(0.2)
        return objective(trial)

    search(study, slow, 50, minutes=0.3 / 60)
    assert 1 <= len(finished(study)) <= 2


def test_another_search_under_the_same_name_is_refused_by_what_differs(url):
    opened(url)
    with pytest.raises(InputError, match=r"trainer.max_epochs: 3 in the study, 4 now.*--study NAME"):
        opened(url, {**FINGERPRINT, "trainer.max_epochs": 4})
    with pytest.raises(InputError, match=r"space: lr: nothing in the study"):
        opened(url, {**FINGERPRINT, "space: lr": "{}"})
    with pytest.raises(InputError, match=r"monitor: val/map in the study, nothing now"):
        opened(url, {"trainer.max_epochs": 3})


def test_a_study_whose_creator_was_killed_before_it_began_is_taken_over(url, monkeypatch):
    optuna.create_study(study_name="s", storage=open_storage(url), direction="maximize")
    monkeypatch.setattr("longview.tuning.study._wait_for_fingerprint", lambda study: None)
    study = opened(url)
    search(study, objective, 2)
    assert study.trials[0].params == FIRST
    assert study.user_attrs["longview"] == FINGERPRINT


@pytest.mark.parametrize("url", ["tune.db", "postgresql://nobody@localhost:1/none", "nosuchdatabase://x"])
def test_a_storage_that_is_none_is_an_error_with_a_remedy(url):
    with pytest.raises(InputError, match=r"sqlite:///runs/tune\.db"):
        open_storage(url)


def test_trials_that_fall_behind_are_pruned_but_never_the_first_four(url):
    study = opened(url)

    def reporting(trial):
        for step in range(3):
            trial.report(-trial.number, step)
            if trial.should_prune():
                raise optuna.TrialPruned
        return -trial.number

    search(study, reporting, 8)
    assert numbers(study, TrialState.COMPLETE) == [0, 1, 2, 3]
    assert numbers(study, TrialState.PRUNED) == [4, 5, 6, 7]
    assert all(len(trial.intermediate_values) == 2 for trial in study.trials[4:])
    unpruned = open_study("u", study._storage, FINGERPRINT, FIRST, pruner="none")
    search(unpruned, reporting, 8)
    assert len(numbers(unpruned, TrialState.COMPLETE)) == 8
