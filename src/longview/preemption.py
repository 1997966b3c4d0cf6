"""Stopping a run where it can go on exactly: SIGTERM anywhere, and SLURM's SIGUSR1, which queues the job again."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import subprocess
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.trainer.states import TrainerFn

from longview import launch
from longview.callbacks import LastCheckpoint

log = logging.getLogger(__name__)


class Preemption(Callback):
    """Stops training after a batch, on all processes after the same one, with `last.ckpt` saved there.

    A signal is only noted. After each batch the processes agree whether one of them has got one; so none saves while
    another still waits for its gradients. (Lightning's own handlers talk to the other processes wherever the signal
    finds them, and save in the middle of a step.)

    Nothing is saved between two steps of the optimizer, nor where a validation is due, for it would be left out on
    resuming: then the run stops within the validation, and goes on from the `last.ckpt` before it.

    Args:
        last: The callback that keeps `last.ckpt`.
    """

    def __init__(self, last: LastCheckpoint) -> None:
        self.last = last
        self.requeue = False
        """Whether training was stopped for the job to be queued again."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Note SIGTERM instead of what Lightning does; it restores the handlers that were there when it ends."""
        signal.signal(signal.SIGTERM, launch.note)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save and stop, where a signal came and the run can go on from here."""
        loop: Any = trainer.fit_loop
        if not self._stop(trainer) or loop.epoch_loop._should_check_val_fx(loop._data_fetcher):
            return
        if trainer.is_last_batch:  # `last.ckpt` is saved when the epoch ends
            self._leave(trainer)
        elif (batch_idx + 1) % trainer.accumulate_grad_batches == 0:
            self.last._save_none_monitor_checkpoint(trainer, self.last._monitor_candidates(trainer))
            self._leave(trainer)

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Stop, where a signal came; `last.ckpt` is from before."""
        if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking and self._stop(trainer):
            self._leave(trainer)

    @staticmethod
    def _stop(trainer: pl.Trainer) -> bool:
        asked = launch.received(signal.SIGTERM) or launch.received(signal.SIGUSR1)
        return bool(trainer.strategy.reduce_boolean_decision(asked, all=False))

    def _leave(self, trainer: pl.Trainer) -> None:
        # whoever terminates a job does not want it again
        ended = bool(trainer.strategy.reduce_boolean_decision(launch.received(signal.SIGTERM), all=False))
        self.requeue = not ended
        if self.requeue and trainer.is_global_zero:
            queue_again()  # before any process ends, for srun may then end the others
        trainer.strategy.barrier("longview_queued_again")
        launch.forget()
        # Lightning's loops log this batch, stop at their next look at it, and close the loggers
        trainer._signal_connector.received_sigterm = True


def queue_again() -> None:
    """Put this SLURM job back into the queue; SLURM then ends its processes."""
    number = os.environ["SLURM_JOB_ID"]
    if shutil.which("scontrol") is None:  # in a container
        log.warning(
            "saved, but there is no scontrol here: the batch script must run `scontrol requeue %s` on exit code %d",
            number, launch.INTERRUPTED,
        )  # fmt: skip
        return
    done = subprocess.run(["scontrol", "requeue", number], check=False, capture_output=True, text=True)  # noqa: S603, S607
    if done.returncode == 0:
        log.info("saved, and SLURM job %s is queued again; it will go on in the same folder", number)
    else:
        log.warning("saved, but SLURM did not queue job %s again: %s", number, done.stderr.strip())
