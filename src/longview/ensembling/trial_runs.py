"""Runs of a checkpoint that `soup` needs: its validation, and the statistics of its batch norms."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from longview import InputError, training
from longview.checkpoints import read_checkpoint
from longview.ensembling.averaging import Checkpoint, write_checkpoint
from longview.test_time import Averaging

_QUIET = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false", "--trainer.devices=1"]


class Statistics(Callback):
    """Measures the running statistics of batch norms anew: the mean over all images, in one pass.

    The rest of the network stays in evaluation mode: no dropout. As in stochastic weight averaging (Izmailov et al.,
    arXiv:1803.05407, section 3.2).
    """

    def __init__(self) -> None:
        self.norms: list[_BatchNorm] = []
        self.seen = 0

    def on_predict_batch_start(
        self,
        trainer: pl.Trainer,  # noqa: ARG002 - Lightning's
        pl_module: pl.LightningModule,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,  # noqa: ARG002
    ) -> None:
        """Begin anew with the first batch; weigh each batch by its images."""
        if batch_idx == 0:
            self.norms = [module for module in pl_module.modules() if isinstance(module, _BatchNorm)]
            for norm in self.norms:
                norm.reset_running_stats()
                norm.train()
        images = len(batch["images"])
        self.seen += images
        for norm in self.norms:
            norm.momentum = images / self.seen


def measure_statistics(checkpoint: Checkpoint, aside: Path, options: Sequence[str]) -> None:
    """Measure the statistics of a mean's batch norms on the training images, unchanged by augmentation.

    Args:
        checkpoint: Whose `state_dict` takes the statistics.
        aside: Temporary file for the checkpoint.
        options: Options of `predict`, such as `--data.stores`.

    Raises:
        InputError: Where the training's stores are gone, or the statistics are not finite.
    """
    statistics = Statistics()

    class MeasuringCLI(training.LongviewCLI):
        def own_callbacks(self) -> list[Callback]:
            return [statistics]

        def after_instantiate_classes(self) -> None:
            super().after_instantiate_classes()
            self.model.tta = Averaging()  # each image once, as it is

    write_checkpoint(checkpoint, aside)
    words = ["predict", f"--ckpt_path={aside}", "--data.predict_split=train", *_QUIET, *options]
    model: nn.Module = training.run(words, MeasuringCLI).model
    if not statistics.seen:
        raise InputError("there are no training images to measure batch norms on; give --data.stores a store with some")
    for name, value in model.state_dict().items():
        if name.endswith(("running_mean", "running_var", "num_batches_tracked")):
            if not torch.isfinite(value).all():
                raise InputError(f"{name} is not finite: weights so far apart have no mean")
            checkpoint["state_dict"][name] = value.detach().cpu().clone()


def validate(checkpoint: Checkpoint, aside: Path, options: Sequence[str], monitor: str) -> float:
    """Score a checkpoint on the validation part.

    Args:
        checkpoint: What to score.
        aside: Temporary file for it.
        options: Options of `validate`.
        monitor: The figure, as `val/map`.

    Raises:
        InputError: Where the run has no such figure.
    """

    class ScoringCLI(training.LongviewCLI):
        def own_callbacks(self) -> list[Callback]:
            return []

    write_checkpoint(checkpoint, aside)
    metrics = training.run(["validate", f"--ckpt_path={aside}", *_QUIET, *options], ScoringCLI).trainer.callback_metrics
    if monitor not in metrics:
        known = sorted(name for name in metrics if name.startswith("val/"))
        raise InputError(f"--monitor {monitor}: validation has no such figure; it has {', '.join(known)}")
    return float(metrics[monitor])


def whole(file: Path) -> Checkpoint:
    """A checkpoint without its optimizer: what is needed to score it."""
    found = read_checkpoint(file)
    return {key: value for key, value in found.items() if key not in {"optimizer_states", "lr_schedulers", "callbacks"}}
