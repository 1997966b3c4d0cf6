"""The task: what a network is trained for, how it is scored, and what its checkpoint holds."""

from __future__ import annotations

import logging
import math
import pickle
import zipfile
from pathlib import Path
from typing import Any, Literal

import lightning.pytorch as pl
import torch
from lightning.pytorch.core.mixins.hparams_mixin import _given_hyperparameters
from torch import Tensor
from torchmetrics import MeanMetric

from longview import Batch, InputError, __version__
from longview.labels import LabelSet, groups
from longview.losses import Loss
from longview.metrics import LongTailMetrics
from longview.models.network import Network
from longview.optim import Optimizer, Schedule
from longview.ranking import LabelScores, summarise

log = logging.getLogger(__name__)

Stage = Literal["train", "val", "test"]

CHECKPOINT_KEY = "longview"
"""Where a checkpoint keeps what Lightning does not: version, labels, preprocessing and the run's configuration."""


class ClassificationTask(pl.LightningModule):
    """Multi-label classification of studies (or of single images, each its own study).

    Logs `train/loss`, `train/lr` and, for val and test, `loss`, `map`, `auroc` and the mean AP of head, medium
    and tail labels. Labels without positives or without negatives are left out of the means and named in the log.

    Args:
        labels: The label set; its order is the order of the network's L logits.
        network: Images to logits.
        loss: Logits and targets to a scalar.
        optimizer: Builds the optimizer from the network's trainable parameters.
        schedule: Learning rate by step; None keeps it constant.
        image_size: Side of the square input in px; the data module's, by link.
        flip_tta: Predict with the mean of the probabilities of the image and its mirror image.
        compile: Compile the network with `torch.compile`.
    """

    positives: Tensor
    observed: Tensor

    def __init__(
        self,
        labels: LabelSet,
        network: Network,
        loss: Loss,
        optimizer: Optimizer,
        schedule: Schedule | None = None,
        image_size: int = 384,
        flip_tta: bool = False,
        compile: bool = False,  # noqa: A002 - the name that users of Lightning and timm look for
    ) -> None:
        super().__init__()
        if _given_hyperparameters.get() is not None:  # the command line's configuration: plain data, as YAML
            self.save_hyperparameters()
        self.labels = labels
        self.network = network
        self.loss = loss
        self.optimizer = optimizer
        self.schedule = schedule
        self.image_size = image_size
        self.flip_tta = flip_tta
        self.compile_network = compile
        self.run_config: dict[str, Any] = {}
        self.scores: dict[str, LabelScores] = {}
        self._skipped: dict[str, list[str]] = {}
        self.configure_metrics()
        size = len(labels.names)
        self.register_buffer("positives", torch.zeros(size))
        self.register_buffer("observed", torch.zeros(size))
        self._built = False

    # ---- building ----------------------------------------------------------------------------------------------

    def configure_metrics(self) -> None:
        """One accumulator per split, so that a validation inside a training epoch never mixes with another."""
        names = self.labels.names
        self.val_metrics, self.test_metrics = LongTailMetrics(names), LongTailMetrics(names)
        self.val_loss, self.test_loss = MeanMetric(), MeanMetric()

    def configure_model(self) -> None:
        """Build the network; pretrained weights are read only where no checkpoint will overwrite them."""
        trainer = self._trainer
        self.build(weights=trainer is None or trainer.ckpt_path is None)

    def build(self, weights: bool = True) -> None:
        """Create the network's modules, and hand the training counts to whoever asks for them.

        Args:
            weights: Read the encoder's pretrained weights; False where a checkpoint is loaded next.
        """
        if self._built:
            return
        self._built = True
        data = getattr(self._trainer, "datamodule", None)
        if data is not None and hasattr(data, "positives"):  # after its setup for training
            self.positives.copy_(torch.as_tensor(data.positives))
            self.observed.copy_(torch.as_tensor(data.observed))
        self.network.build(self.labels, self.image_size, weights=weights)
        self.network.set_counts(self.positives, self.observed)
        self.loss.set_counts(self.positives, self.observed)
        if self.compile_network:
            self.network.compile()

    def configure_optimizers(self) -> Any:
        """The injected optimizer, with its schedule stepped once per optimizer step."""
        optimizer = self.optimizer.build(self.network)
        if self.schedule is None:
            return optimizer
        scheduler = self.schedule.build(optimizer, self.total_steps())
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def total_steps(self) -> float:
        """Optimizer steps of the whole run; infinite where neither epochs nor steps are limited."""
        trainer = self.trainer
        data = getattr(trainer, "datamodule", None)
        if data is None or not hasattr(data, "train_batches"):
            return trainer.estimated_stepping_batches
        batches, limit = data.train_batches(), trainer.limit_train_batches
        batches = int(batches * limit) if isinstance(limit, float) else min(batches, limit)
        epochs = math.inf if trainer.max_epochs in {None, -1} else trainer.max_epochs
        steps = math.ceil(batches / trainer.accumulate_grad_batches) * epochs
        return min(steps, trainer.max_steps) if trainer.max_steps >= 0 else steps

    # ---- steps -------------------------------------------------------------------------------------------------

    def forward(self, batch: Batch) -> Tensor:
        """Logits (B, L) of a batch."""
        logits: Tensor = self.network(
            batch["images"], batch["study"], batch["view"], len(batch["ids"]), batch.get("features")
        )
        return logits

    def model_step(self, batch: Batch, stage: Stage) -> tuple[Tensor, Tensor]:
        """Loss and probabilities (B, L) of a batch; val and test add both to their accumulators."""
        logits = self(batch)
        loss: Tensor = self.loss(logits, batch["target"])
        probabilities = logits.detach().float().sigmoid()
        if stage != "train":
            known = batch["target"].isfinite().sum()
            self._loss_of(stage).update(loss, known)
            self._metrics_of(stage).update(probabilities, batch["target"])
        return loss, probabilities

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Loss of one training batch."""
        loss, _ = self.model_step(batch, "train")
        self.log("train/loss", loss, prog_bar=True, batch_size=len(batch["ids"]))
        self.log("train/lr", self.trainer.optimizers[0].param_groups[0]["lr"], batch_size=1)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Add one batch to the validation's scores; its probabilities (B, L) are for callbacks."""
        return self.model_step(batch, "val")[1]

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Add one batch to the test's scores."""
        self.model_step(batch, "test")

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """Ids and probabilities (B, L) float32 of one batch."""
        probabilities = self(batch).float().sigmoid()
        if self.flip_tta:
            mirrored: Batch = {**batch, "images": batch["images"].flip(-1)}
            probabilities = (probabilities + self(mirrored).float().sigmoid()) / 2
        return {"ids": batch["ids"], "probabilities": probabilities.cpu()}

    # ---- scores ------------------------------------------------------------------------------------------------

    def _metrics_of(self, stage: Stage) -> LongTailMetrics:
        return self.val_metrics if stage == "val" else self.test_metrics

    def _loss_of(self, stage: Stage) -> MeanMetric:
        return self.val_loss if stage == "val" else self.test_loss

    def label_groups(self) -> dict[str, list[str]]:
        """Head, medium and tail labels by the training counts that the checkpoint carries."""
        return groups(self.labels.names, self.positives.tolist(), self.observed.tolist())

    def _log_scores(self, stage: Stage) -> None:
        scores = self._metrics_of(stage).scores()
        self.scores[stage] = scores
        summary = summarise(self.labels.names, scores, self.label_groups())
        skipped = summary["skipped"]
        if skipped and not self.trainer.sanity_checking and self._skipped.get(stage) != skipped:
            self._skipped[stage] = skipped  # said once, not at every validation
            log.info("%s: without positives or without negatives, left out: %s", stage, ", ".join(skipped))
        means = {key: value for key, value in summary.items() if isinstance(value, float) and not math.isnan(value)}
        values = {f"{stage}/{key}": value for key, value in means.items()}
        # a split in which no label can be ranked scores 0, so that whatever monitors the figure goes on
        values.setdefault(f"{stage}/map", 0.0)
        values.setdefault(f"{stage}/auroc", 0.0)
        values[f"{stage}/loss"] = float(self._loss_of(stage).compute())
        self.log_dict(values, prog_bar=False, rank_zero_only=False)
        self._metrics_of(stage).reset()
        self._loss_of(stage).reset()

    def on_validation_epoch_end(self) -> None:
        """Rank and log the validation split."""
        self._log_scores("val")

    def on_test_epoch_end(self) -> None:
        """Rank and log the test split."""
        self._log_scores("test")

    # ---- checkpoints -------------------------------------------------------------------------------------------

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Make the checkpoint self-describing."""
        data = getattr(self._trainer, "datamodule", None)
        preprocessing = getattr(data, "preprocessing", None)
        checkpoint[CHECKPOINT_KEY] = {
            "version": __version__,
            "labels": self.labels.to_dict(),
            "image_size": self.image_size,
            "preprocessing": None if preprocessing is None else dict(vars(preprocessing)),
            "config": self.run_config,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse a checkpoint of other labels, by name."""
        theirs = LabelSet.from_dict(described(checkpoint)["labels"]).names
        if theirs != self.labels.names:
            raise InputError(
                f"the checkpoint was trained on other labels, or in another order; "
                f"checkpoint: {', '.join(theirs)}; this run: {', '.join(self.labels.names)}"
            )


def described(checkpoint: dict[str, Any], path: str | Path = "the checkpoint") -> dict[str, Any]:
    """What longview wrote into a checkpoint.

    Raises:
        InputError: Where it was not made by longview.
    """
    part = checkpoint.get(CHECKPOINT_KEY)
    if not isinstance(part, dict):
        raise InputError(f"{path} was not written by longview: it lacks the key {CHECKPOINT_KEY!r}")
    return part


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint's tensors and plain data onto the CPU (`weights_only`, nothing is executed).

    Raises:
        InputError: Where the file is missing, is no checkpoint, or is one of another program.
    """
    file = Path(path)
    if not file.is_file():
        raise InputError(f"checkpoint {file} does not exist")
    if not zipfile.is_zipfile(file):  # what torch.save writes; a cut file lacks the index at its end
        raise InputError(f"{file} is not a checkpoint, or is damaged: give a .ckpt file of a longview run")
    try:
        checkpoint = torch.load(file, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError) as error:
        raise InputError(f"{file} is not a checkpoint, or is damaged: {str(error).splitlines()[0]}") from error
    if not isinstance(checkpoint, dict) or "state_dict" not in checkpoint:
        raise InputError(f"{file} is not a checkpoint of a longview run: it lacks `state_dict`")
    described(checkpoint, file)
    return checkpoint


def load(path: str | Path) -> ClassificationTask:
    """Load a trained task from its checkpoint alone, in evaluation mode on the CPU.

    Raises:
        InputError: Where the file is not a checkpoint of longview.
    """
    from lightning.pytorch.cli import instantiate_module

    checkpoint = read_checkpoint(path)
    if "_instantiator" not in checkpoint.get("hyper_parameters", {}):
        raise InputError(
            f"{path} carries no configuration, since its task was built in Python; build the task in the same way "
            f"and use task.load_state_dict(read_checkpoint(path)['state_dict'])"
        )
    hparams = {key: value for key, value in checkpoint["hyper_parameters"].items() if key != "_instantiator"}
    task: ClassificationTask = instantiate_module(ClassificationTask, hparams)
    task.build(weights=False)
    task.load_state_dict(checkpoint["state_dict"])
    return task.eval()
