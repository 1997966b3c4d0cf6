"""Search for better settings of an experiment: short runs of `fit`, proposed by Optuna."""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.console import Console

from longview import InputError
from longview.tuning.space import Space, Value

if TYPE_CHECKING:
    from optuna import Trial
    from optuna.study import Study
    from optuna.trial import FrozenTrial

log = logging.getLogger(__name__)

_ELSEWHERE = ("name", "trainer.default_root_dir", "trainer.devices", "data.init_args.num_workers")
"""Keys in which the workers of one study may differ."""


def tune(
    space: Path,
    *,
    fit: list[str] | None = None,
    trials: int = 20,
    storage: str = "sqlite:///runs/tune.db",
    study: str | None = None,
    output: Path = Path("results/tune"),
    monitor: str = "val/map",
    timeout: float | None = None,
    seed: int = 0,
    pruner: Literal["median", "none"] = "median",
) -> None:
    """Search for better settings of an experiment: short runs of `fit`, proposed by Optuna.

    Options of `fit` go between those of `tune`: --config FILE (also several), --data.batch_size 16, ... The first
    trial is the experiment as it stands, so that the best is never worse. A trial's value is its best validation; one
    that falls behind is ended early. Each trial is a run in <trainer.default_root_dir>/tune/STUDY/trial_NNN with its
    own trial.log; only the best one's checkpoints are kept.

    The study lives in the storage. The same command goes on with it after an interruption, and --trials counts all
    its trials: a second worker, started with the same command, shares them. Several GPUs: one worker on each.

    Prints a table and writes trials.csv, history.png, importance.png and best.yaml, which `fit` runs. Needs the extra
    `tune`.

        uv run main.py tune --config configs/demo.yaml --space configs/space/demo.yaml --trials 20
        uv run main.py fit --config results/tune/best.yaml

    Args:
        space: YAML file: key of the configuration -> {low, high, log, step} or {choices: [...]}, as in
            configs/space. A key `overlay` chooses files for --config. `default:` is where the first trial starts.
        fit: Options of `fit`; there is no need to write --fit before them.
        trials: How many trials the study shall have in all.
        storage: Database of studies: sqlite:///FILE on one machine, postgresql://... for workers on several.
        study: Name of the study. Without it: the experiment's.
        output: Folder for the report; files of an earlier report in it are replaced.
        monitor: Figure of the validation to search for: val/map, val/auroc, val/map_tail, ...; of val/loss and
            val/ece a low one is good.
        timeout: Minutes after which no further trial is begun.
        seed: Seed of the proposals; every run has the experiment's own seed.
        pruner: median: end a trial that is below the median of the others at the same validation. none: never.
    """
    if importlib.util.find_spec("optuna") is None:
        raise InputError("tune needs Optuna: uv sync --extra tune")
    if trials < 1:
        raise InputError(f"--trials {trials}: give at least 1")
    if timeout is not None and timeout <= 0:
        raise InputError(f"--timeout {timeout}: give minutes above 0")
    # idle OpenMP threads that spin slow down data loading and each other; must be set before torch is imported
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    plan = make_plan(Space.load(space), fit or [], monitor, study)
    Search(plan, trials, storage, output, timeout, seed, pruner).run()


@dataclass(frozen=True)
class Plan:
    """What is searched, checked before the first trial.

    Args:
        space: What may be tried.
        options: Options of `fit` that every trial has.
        config: The experiment's whole configuration, as plain data.
        monitor: The figure.
        name: Of the study.
    """

    space: Space
    options: list[str]
    config: dict[str, Any]
    monitor: str
    name: str

    @property
    def maximise(self) -> bool:
        """Whether a high figure is good."""
        return self.monitor not in {"val/loss", "val/ece"}

    @property
    def root(self) -> Path:
        """Folder of the study's runs."""
        return Path(self.config["trainer"]["default_root_dir"]) / "tune" / self.name

    def fingerprint(self) -> dict[str, Any]:
        """What all workers of the study share, flat: dotted key -> value."""
        config = _flat(self.config)
        kept = {key: value for key, value in config.items() if key not in _ELSEWHERE}
        space = {f"space: {key}": json.dumps(value) for key, value in self.space.to_dict().items()}
        return {"monitor": self.monitor, **space, **kept}

    def command(self, values: Mapping[str, Value]) -> list[str]:
        """Options of `fit` for a trial's values."""
        return self.space.command(self.options, values)


def make_plan(space: Space, options: Sequence[str], monitor: str = "val/map", study: str | None = None) -> Plan:
    """Parse the experiment, and try every end and choice of the space on it.

    Raises:
        InputError: For unknown keys and values, before anything is trained.
    """
    from longview.tuning.trial import check, check_one_process, describe

    if not any(word == "--config" or word.startswith("--config=") for word in options):
        raise InputError("tune needs --config EXPERIMENT, as fit does")
    if not monitor.startswith("val/"):
        raise InputError(f"--monitor {monitor}: give a figure of the validation, as val/map")
    plan = Plan(space, list(options), {}, monitor, "")
    mode = "max" if plan.maximise else "min"
    words = [*options, f"--checkpoint.monitor={monitor}", f"--checkpoint.mode={mode}"]
    config = describe(words)
    for key, value in (("ckpt_path", config["ckpt_path"]), ("checkpoint.dirpath", config["checkpoint"]["dirpath"])):
        if value is not None:
            raise InputError(f"tune: --{key} {value}: every trial is a run of its own; leave it out")
    check_one_process(config)
    plan = Plan(space, words, config, monitor, study or str(config["name"]))
    for values in space.examples():
        try:
            check(plan.command(values))
        except InputError as error:
            raise InputError(f"{space.file}: {_culprit(plan, values) or error}") from error
    return plan


def _culprit(plan: Plan, values: Mapping[str, Value]) -> str | None:
    """Key, value and reason of the first setting that cannot be had by itself."""
    from longview.tuning.trial import check

    for setting in plan.space.settings:
        value = values[setting.key]
        try:
            check(Space(plan.space.file, (setting,)).command(plan.options, {setting.key: value}))
        except InputError as error:
            return f"{setting.key} cannot be {value}: {error}"
    return None


@dataclass
class Search:
    """One worker's search.

    Args:
        plan: What is searched.
        trials: How many trials the study shall have.
        storage: URL of the database.
        output: Folder for the report.
        timeout: Minutes after which no trial is begun.
        seed: Seed of the proposals.
        pruner: When to end a trial early.
    """

    plan: Plan
    trials: int
    storage: str
    output: Path
    timeout: float | None
    seed: int
    pruner: Literal["median", "none"]
    # in a log file the table is not squeezed into 80 columns
    console: Console = field(default_factory=lambda: Console(width=None if sys.stdout.isatty() else 160))

    def run(self) -> None:
        """Search, and report.

        Raises:
            InputError: Where the study is another one, or no trial of it finished.
        """
        import optuna

        from longview.tuning.study import counted, finished, open_storage, open_study, search

        optuna.logging.set_verbosity(optuna.logging.CRITICAL)  # each trial is told below
        plan = self.plan
        first = plan.space.first(plan.config)
        startup = max(4, min(10, self.trials // 3))
        study = open_study(
            plan.name, open_storage(self.storage), plan.fingerprint(), first,
            maximise=plan.maximise, seed=self.seed, startup=startup, pruner=self.pruner,
        )  # fmt: skip
        if done := len(finished(study)):
            self._say(f"study {plan.name} has {done} finished trials of {self.trials}")
        search(study, self.objective, self.trials, after=self.after, minutes=self.timeout)
        if not counted(study):
            raise InputError(
                f"study {plan.name}: no trial was begun within --timeout {self.timeout}; give more minutes"
            )
        self.report(study)

    def objective(self, trial: Trial) -> float:
        """Train one trial; returns its best validation."""
        from longview.tuning.trial import Report, run_trial

        plan = self.plan
        values = plan.space.suggest(trial)
        name = f"trial_{trial.number:03d}"
        trial.set_user_attr("folder", str(plan.root / name))
        is_default = bool(trial.user_attrs.get("default"))
        self._say(f"trial {trial.number}{' (default)' if is_default else ''}: {_listed(values)}")
        report = Report(trial, plan.monitor, plan.maximise, not is_default, values)
        try:
            run_trial(plan.command(values), report, plan.root, name)
        finally:
            if report.checkpoints is not None:
                trial.set_user_attr("checkpoints", str(report.checkpoints))
        return report.best

    def after(self, study: Study) -> None:
        """Say what a trial came to, and keep no checkpoints but the best trial's."""
        from longview.tuning.report import best_trial, value_of
        from longview.tuning.study import counted, this_process

        mine = [trial for trial in counted(study) if trial.user_attrs.get("owner") == this_process()]
        best = best_trial(study)
        if mine:
            trial = mine[-1]
            seconds = trial.duration.total_seconds() if trial.duration is not None else 0.0
            error = f" ({trial.user_attrs['error']})" if "error" in trial.user_attrs else ""
            so_far = "" if best is None else f"; best {best.value:.4f}, trial {best.number}"
            self._say(
                f"trial {trial.number} {trial.state.name.lower()}{error}: {self.plan.monitor} "
                f"{value_of(trial, self.plan.maximise):.4f} in {seconds:.0f} s{so_far}"
            )
        for trial in study.get_trials(deepcopy=False):
            folder = Path(trial.user_attrs.get("checkpoints", ""))
            over = trial.state.is_finished() and (best is None or trial.number != best.number)
            if over and folder.absolute().is_relative_to(self.plan.root.absolute()):
                shutil.rmtree(folder, ignore_errors=True)

    def report(self, study: Study) -> None:
        """Print and write what was found.

        Raises:
            InputError: Where no trial finished, with the first one's reason.
        """
        from longview.tuning.report import best_trial, results_table, write_report
        from longview.tuning.study import counted

        write_report(study, self.plan.monitor, lambda trial: self.best_yaml(study, trial), self.output)
        best = best_trial(study)
        if best is None:
            errors = [trial.user_attrs["error"] for trial in counted(study) if "error" in trial.user_attrs]
            raise InputError(f"study {self.plan.name}: no trial finished; {errors[0] if errors else 'no value'}")
        self.console.print(results_table(study, self.plan.monitor))
        self._say(f"Report: {self.output}")
        checkpoint = Path(best.user_attrs.get("checkpoints", "")) / "best.ckpt"
        if checkpoint.is_file():
            self._say(f"Next: uv run main.py test --ckpt_path {checkpoint}")
        self._say(f"Next: uv run main.py fit --config {self.output / 'best.yaml'}")

    def best_yaml(self, study: Study, trial: FrozenTrial) -> str:
        """Text of best.yaml."""
        from longview.tuning.report import best_yaml
        from longview.tuning.trial import describe

        config = describe(self.plan.command(trial.params))
        config["name"] = f"{config['name']}_tuned"
        return best_yaml(config, study, trial, self.plan.monitor, self.output)

    def _say(self, text: str) -> None:
        self.console.print(text, soft_wrap=True, markup=False, highlight=False)


def _listed(values: Mapping[str, Value]) -> str:
    return ", ".join(f"{key} {f'{value:.4g}' if isinstance(value, float) else value}" for key, value in values.items())


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted key -> value; lists stay whole."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
