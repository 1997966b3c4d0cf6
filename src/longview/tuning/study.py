"""A study in a database: shared by workers, continued after a kill, never more trials than asked for."""

from __future__ import annotations

import logging
import os
import socket
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.exceptions import DuplicatedStudyError, ExperimentalWarning
from optuna.samplers import BaseSampler, TPESampler
from optuna.storages import RDBStorage
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import ArgumentError, IntegrityError, OperationalError, SQLAlchemyError

from longview import InputError
from longview.outputs import make_folder

log = logging.getLogger(__name__)

HEARTBEAT = 30
"""Seconds between two signs of life of a running trial."""
SILENCE = 300
"""Seconds without one after which a trial of another machine counts as killed."""
_SQLITE = "sqlite:///"
_FINGERPRINT = "longview"


class TrialFailedError(Exception):
    """A trial that gives no value, for a reason of its own: it is noted, and the study goes on."""


class SeededTPE(BaseSampler):
    """Tree-structured Parzen estimator whose random numbers are a function of (seed, number of the trial).

    A restarted study proposes what an uninterrupted one would have, and no two workers propose the same.

    Source: Bergstra et al., NeurIPS 2011; Watanabe 2023, arXiv 2304.11127.

    Args:
        seed: The search's seed.
        startup: Trials at random before the estimator is used.
    """

    def __init__(self, seed: int, startup: int) -> None:
        self.seed = seed
        self.startup = startup
        self._sampler = TPESampler(n_startup_trials=startup, seed=seed)

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:  # noqa: ARG002 - Optuna's
        """Start the random numbers of this trial."""
        state = int(np.random.SeedSequence((self.seed, trial.number)).generate_state(1)[0])
        self._sampler = TPESampler(n_startup_trials=self.startup, seed=state)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """What is sampled jointly."""
        return self._sampler.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Values of what is sampled jointly."""
        return self._sampler.sample_relative(study, trial, search_space)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """The value of one setting."""
        return self._sampler.sample_independent(study, trial, param_name, param_distribution)

    def after_trial(self, study: Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        """Let the estimator know."""
        self._sampler.after_trial(study, trial, state, values)


# ---- opening ---------------------------------------------------------------------------------------------------------


def open_storage(url: str) -> RDBStorage:
    """Connect to a database, and make its tables where it is new.

    Raises:
        InputError: Where it is no database URL, or cannot be reached.
    """
    connect: dict[str, Any] = {}
    if url.startswith(_SQLITE):
        file = Path(url.removeprefix(_SQLITE))
        make_folder(file.parent, file)
        connect = {"connect_args": {"timeout": 60}}  # seconds to wait for another worker's write
    for attempt in range(10):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ExperimentalWarning)
                return RDBStorage(
                    url,
                    connect,
                    heartbeat_interval=HEARTBEAT,
                    grace_period=SILENCE,
                    heartbeat_stale_trial_callback=lambda study, trial: try_again(study, trial.number),
                )
        except (ArgumentError, ImportError, SQLAlchemyError) as error:
            making = isinstance(error, OperationalError) and "already exists" in str(error)
            if (making or isinstance(error, IntegrityError)) and attempt < 9:
                time.sleep(0.1 * (attempt + 1))  # another worker is making the tables, or their first row
                continue
            reason = str(error).splitlines()[0]
            raise InputError(
                f"--storage {url} cannot be used: {reason}; give a database's URL: sqlite:///runs/tune.db for workers "
                f"on one machine, postgresql://USER:PASSWORD@HOST/DATABASE for several"
            ) from error
    raise AssertionError


def open_study(
    name: str,
    storage: RDBStorage,
    fingerprint: Mapping[str, Any],
    first: Mapping[str, Any],
    *,
    maximise: bool = True,
    seed: int = 0,
    startup: int = 10,
    pruner: Literal["median", "none"] = "median",
) -> Study:
    """Create a study with its first trial, or go on with it.

    Args:
        name: Name of the study.
        storage: Where it is, or will be.
        fingerprint: What must be the same for all workers, as plain flat data.
        first: Values of the first trial: the experiment as it stands.
        maximise: Whether a high value is good.
        seed: Seed of the sampler.
        startup: Trials at random before the sampler learns.
        pruner: `median` ends trials that fall behind.

    Raises:
        InputError: Where a study of that name is another search.
    """
    # the first four trials, and the first validation of each trial, are never pruned
    rule = optuna.pruners.MedianPruner(4, 1) if pruner == "median" else optuna.pruners.NopPruner()
    sampler = SeededTPE(seed, startup)
    direction = StudyDirection.MAXIMIZE if maximise else StudyDirection.MINIMIZE
    try:
        study = optuna.create_study(
            study_name=name, storage=storage, sampler=sampler, pruner=rule, direction=direction
        )  # fmt: skip
    except DuplicatedStudyError:
        study = optuna.load_study(study_name=name, storage=storage, sampler=sampler, pruner=rule)
        known = _wait_for_fingerprint(study)
        if known is not None:
            _compare(name, known, fingerprint)
            return study
    study.enqueue_trial(dict(first), user_attrs={"default": True}, skip_if_exists=True)
    study.set_user_attr(_FINGERPRINT, dict(fingerprint))
    return study


def _wait_for_fingerprint(study: Study, seconds: float = 10) -> dict[str, Any] | None:
    """What another worker has written of the study; None where it was killed before it could."""
    end = time.monotonic() + seconds
    while True:
        known: dict[str, Any] | None = study.user_attrs.get(_FINGERPRINT)
        if known is not None or time.monotonic() > end:
            return known
        time.sleep(0.1)


def _compare(name: str, known: Mapping[str, Any], mine: Mapping[str, Any]) -> None:
    def text(table: Mapping[str, Any], key: str) -> str:
        shown = str(table[key]) if key in table else "nothing"
        return shown if len(shown) <= 60 else f"{shown[:57]}..."

    keys = [key for key in {**known, **mine} if known.get(key) != mine.get(key) or (key in known) != (key in mine)]
    if keys:
        listed = "; ".join(f"{key}: {text(known, key)} in the study, {text(mine, key)} now" for key in keys[:3])
        more = f" (and {len(keys) - 3} more)" if len(keys) > 3 else ""
        raise InputError(
            f"study {name!r} is another search: {listed}{more}; go on with what it was begun with, or start another "
            f"one with --study NAME"
        )


# ---- searching -------------------------------------------------------------------------------------------------------


def search(
    study: Study,
    objective: Callable[[optuna.Trial], float],
    trials: int,
    *,
    after: Callable[[Study], None] = lambda _: None,
    minutes: float | None = None,
) -> None:
    """Run trials until the study has as many as wanted, whoever ran them.

    A trial that was killed or interrupted does not count: its values are tried again.

    Args:
        study: From :func:`open_study`.
        objective: Gives a trial's value; raises TrialPruned, TrialFailedError, or what ends the search.
        trials: How many trials the study shall have in all.
        after: Called after each trial of this worker.
        minutes: No trial is begun later than this.

    Raises:
        InputError: From the objective, while no trial has finished yet.
    """
    end = None if minutes is None else time.monotonic() + 60 * minutes
    while end is None or time.monotonic() < end:
        give_back_killed(study)
        if len(counted(study)) >= trials:
            return
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)
            study.optimize(lambda trial: _attempt(trial, objective, trials), n_trials=1, catch=(TrialFailedError,))
        after(study)
    log.info("the time is over: no further trial is begun")


def counted(study: Study) -> list[FrozenTrial]:
    """Trials that ran or are running; not those that wait, or that were stopped and are tried again."""
    found = study.get_trials(deepcopy=False)
    again = {trial.user_attrs.get("again") for trial in found}
    return [trial for trial in found if trial.state != TrialState.WAITING and trial.number not in again]


def finished(study: Study) -> list[FrozenTrial]:
    """Trials with a value, pruned ones among them."""
    return study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))


def _attempt(trial: optuna.Trial, objective: Callable[[optuna.Trial], float], trials: int) -> float:
    trial.set_user_attr("owner", this_process())
    study = trial.study
    if sum(other.number < trial.number for other in counted(study)) >= trials:
        # two workers asked for the last one in the same moment
        try_again(study, trial.number)
        raise TrialFailedError("more than asked for")
    try:
        return objective(trial)
    except optuna.TrialPruned:
        raise
    except TrialFailedError as error:
        trial.set_user_attr("error", str(error))
        raise
    except BaseException as error:
        if isinstance(error, InputError) and finished(study):
            trial.set_user_attr("error", str(error))
            raise TrialFailedError(str(error)) from error
        try_again(study, trial.number)
        raise


def try_again(study: Study, number: int) -> None:
    """Let the values of a trial that was stopped from outside be tried again; it no longer counts."""
    found = study.get_trials(deepcopy=False)
    if any(other.user_attrs.get("again") == number for other in found):
        return
    trial = found[number]
    kept = {key: value for key, value in trial.user_attrs.items() if key == "default"}
    params = {**trial.system_attrs.get("fixed_params", {}), **trial.params}
    study.enqueue_trial(params, user_attrs={**kept, "again": number})


def give_back_killed(study: Study) -> None:
    """Mark running trials whose process is gone, and enqueue their values again."""
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        if not _is_gone(trial):
            continue
        log.info("trial %d was killed; its values are tried again", trial.number)
        try_again(study, trial.number)
        try:
            study.tell(trial.number, state=TrialState.FAIL)
        except ValueError:  # another worker was faster
            log.debug("trial %d is marked already", trial.number)


def _is_gone(trial: FrozenTrial) -> bool:
    """Whether the process of a running trial is known to be gone; of another machine's, its heartbeat tells."""
    owner = trial.user_attrs.get("owner")
    if owner is None:  # killed between two writes, or begun by another worker this very moment
        begun = trial.datetime_start
        return begun is not None and datetime.now() - begun > timedelta(seconds=SILENCE)
    return bool(owner["host"] == socket.gethostname() and _started(owner["pid"]) != owner["started"])


def this_process() -> dict[str, Any]:
    """What tells this process from any other: host, number and start."""
    return {"host": socket.gethostname(), "pid": os.getpid(), "started": _started(os.getpid())}


def _started(pid: int) -> str:
    """When a process was started, in ticks since the machine was; empty where it runs no more.

    A number of a process is given again after a while; the time tells two of them apart.
    """
    stat = Path(f"/proc/{pid}/stat")
    if not stat.parent.parent.joinpath("self").exists():  # no Linux: the number alone must do
        try:
            os.kill(pid, 0)
        except OSError:
            return ""
        return "running"
    try:
        fields = stat.read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    return "" if fields[0] in {"Z", "X"} else fields[19]
