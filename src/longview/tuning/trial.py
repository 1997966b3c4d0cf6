"""One trial: a run of `fit` in its own folder, whose validations are reported to the study."""

from __future__ import annotations

import gc
import logging
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any, Protocol

import lightning.pytorch as pl
import optuna
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger

from longview import InputError, training
from longview.board import BestBoard
from longview.callbacks import TensorBoardReport
from longview.tuning.study import TrialFailedError

_QUIET = [
    "--test_after_fit=false",
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
]


class Reporting(Protocol):
    """What a trial of optuna offers."""

    def report(self, value: float, step: int) -> None:
        """Take the value of a validation."""

    def should_prune(self) -> bool:
        """Whether the trial has fallen behind."""


class Report(Callback):
    """Reports each validation to the study, and ends a trial that has fallen behind.

    Args:
        trial: Of the study.
        monitor: The figure that is reported.
        maximise: Whether a high one is good.
        prune: Whether the trial may be ended.
        values: What was tried, for TensorBoard's HParams.
    """

    def __init__(self, trial: Reporting, monitor: str, maximise: bool, prune: bool, values: Mapping[str, Any]) -> None:
        self.trial = trial
        self.monitor = monitor
        self.maximise = maximise
        self.prune = prune
        self.values = dict(values)
        self.reported: list[float] = []
        self.checkpoints: Path | None = None

    @property
    def best(self) -> float:
        """The best validation so far; NaN without any."""
        known = [value for value in self.reported if not math.isnan(value)]
        return math.nan if not known else max(known) if self.maximise else min(known)

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: ARG002 - Lightning's
        """Note where the checkpoints will be."""
        folder = getattr(trainer.checkpoint_callback, "dirpath", None)
        self.checkpoints = None if folder is None else Path(folder)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: ARG002
        """Report, and end the trial before anything of this validation is saved.

        Raises:
            InputError: Where the run has no such figure.
            TrialPruned: Where the trial has fallen behind.
        """
        if trainer.sanity_checking:
            return
        if self.monitor not in trainer.callback_metrics:
            known = sorted(name for name in trainer.callback_metrics if name.startswith("val/"))
            raise InputError(f"--monitor {self.monitor}: this run has no such figure; it has {', '.join(known)}")
        value = float(trainer.callback_metrics[self.monitor])
        self.trial.report(value, len(self.reported))
        self.reported.append(value)
        # at its last validation a trial costs nothing more, and its value tells the search more than its end
        if self.prune and not _is_over(trainer) and self.trial.should_prune():
            raise optuna.TrialPruned

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:  # noqa: ARG002
        """Show the trial among TensorBoard's HParams."""
        for board in trainer.loggers:
            if isinstance(board, TensorBoardLogger):
                board.log_hyperparams(self.values, {f"best/{self.monitor.removeprefix('val/')}": self.best})


def _is_over(trainer: pl.Trainer) -> bool:
    """Whether the run has no batch left to train."""
    epochs = trainer.max_epochs
    last_epoch = epochs is not None and 0 <= epochs <= trainer.current_epoch + 1
    return (last_epoch and trainer.is_last_batch) or 0 <= trainer.max_steps <= trainer.global_step


def check(options: Sequence[str]) -> None:
    """Find out whether `fit` knows these options, without building anything.

    Raises:
        InputError: Where an option is unknown or has no such value.
    """
    describe(options)


def describe(options: Sequence[str]) -> dict[str, Any]:
    """The whole configuration of `fit` with these options, as plain data, without building anything.

    Raises:
        InputError: Where an option is unknown or has no such value.
    """
    with _at_least(logging.WARNING):  # what a parser says on the way is left out
        return training.describe(["fit", *options])


def check_one_process(config: Mapping[str, Any]) -> None:
    """Refuse a trial that starts processes of its own, each of which would search for itself.

    Raises:
        InputError: Saying how to use several GPUs.
    """
    trainer = config["trainer"]
    devices = trainer["devices"]
    if devices == "auto":
        one = trainer["accelerator"] == "cpu" or torch.cuda.device_count() < 2
    elif isinstance(devices, list):
        one = len(devices) == 1
    else:
        one = str(devices) == "1" or re.fullmatch(r"\d+,", str(devices)) is not None  # "2," is the third
    if not one or trainer["num_nodes"] > 1:
        raise InputError(
            f"a trial runs in one process on one device; the experiment has trainer.devices {devices}, num_nodes "
            f"{trainer['num_nodes']}. Add --trainer configs/trainer/gpu.yaml; for several GPUs start one worker on "
            f"each with the same command: CUDA_VISIBLE_DEVICES=1 uv run main.py tune ..."
        )


def run_trial(options: Sequence[str], report: Report, root: Path, name: str) -> None:
    """Run `fit`; what it prints and logs is kept in the trial's folder.

    Args:
        options: Options of `fit`.
        report: Is given each validation.
        root: Folder of the study's runs.
        name: Name of the trial, its folder in `root`.

    Raises:
        InputError: For whatever the user can mend.
        TrialFailedError: Where memory does not suffice.
        TrialPruned: Where the trial has fallen behind.
    """

    class TrialCLI(training.LongviewCLI):
        def own_callbacks(self) -> list[Callback]:
            # figures of each validation cost more than a short trial
            drawing = (TensorBoardReport, BestBoard)
            return [*(callback for callback in super().own_callbacks() if not isinstance(callback, drawing)), report]

    words = ["fit", *options, *_QUIET, f"--trainer.default_root_dir={root}", f"--name={name}"]
    (root / name).mkdir(parents=True, exist_ok=True)
    try:
        with _into(root / name / "trial.log"):
            training.run(words, TrialCLI)
    except RuntimeError as error:
        if isinstance(error, torch.OutOfMemoryError) or "allocate memory" in str(error):
            raise TrialFailedError(f"out of memory: {str(error).splitlines()[0]}") from error
        raise
    finally:
        gc.collect()  # a trainer and its model refer to each other; the next trial needs their memory
        torch.cuda.empty_cache()


@contextmanager
def _at_least(level: int) -> Iterator[None]:
    """Let only this level through to the terminal."""
    handlers = [(handler, handler.level) for handler in logging.getLogger().handlers]
    for handler, _ in handlers:
        handler.setLevel(level)
    try:
        yield
    finally:
        for handler, before in handlers:
            handler.setLevel(before)


@contextmanager
def _into(file: Path) -> Iterator[None]:
    """Keep what is printed, logged or warned of in a file, and the terminal quiet."""
    with file.open("a", encoding="utf-8") as text, _at_least(logging.ERROR), redirect_stdout(text):
        handler = logging.StreamHandler(text)
        logging.getLogger().addHandler(handler)
        logging.captureWarnings(True)
        try:
            yield
        finally:
            logging.captureWarnings(False)
            logging.getLogger().removeHandler(handler)
