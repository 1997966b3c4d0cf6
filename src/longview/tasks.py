"""The task: what a network is trained for, how it is scored, and what its checkpoint holds."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Self

import lightning.pytorch as pl
import torch
from lightning.pytorch.core.mixins.hparams_mixin import _given_hyperparameters
from torch import Tensor
from torchmetrics import MeanMetric

from longview import Batch, InputError, __version__
from longview.checkpoints import CHECKPOINT_KEY, check_stage, labels_of, network_state, read_checkpoint, read_stage
from longview.hierarchy import columns_of_edges, consistent
from longview.labels import LabelSet, groups
from longview.losses import Loss
from longview.metrics import LongTailMetrics
from longview.models.network import Network
from longview.models.sharding import shard
from longview.models.transfer import build_from, check_frozen, freeze, warn_of_random
from longview.optim import Optimizer, Schedule, progress, total_steps
from longview.ranking import LabelScores
from longview.test_time import Averaging
from longview.uncertainty.dropout import MonteCarlo

log = logging.getLogger(__name__)

Stage = Literal["train", "val", "test"]


class ClassificationTask(pl.LightningModule):
    """Multi-label classification of studies (or of single images, each its own study).

    Logs `train/loss`, `train/lr` and, for val and test, `loss`, `map`, `auroc`, `ece` (expected calibration error) and
    the mean AP of head, medium and tail labels; where the studies come from several stores also `map_<store>` and
    `auroc_<store>`. Labels without positives or without negatives are left out of the means and named in the log.

    Args:
        labels: The label set; its order is the order of the network's L logits.
        network: Images to logits.
        loss: Logits and targets to a scalar.
        optimizer: Builds the optimizer from the network's trainable parameters.
        schedule: Learning rate by step; None keeps it constant.
        image_size: Side of the square input in px; the data module's, by link.
        tta: Versions of the images that prediction averages over; by default the images alone.
        consistent: Predict no label above its parent, which is raised to it (hierarchy of the labels asked, or trained)
        compile: Compile the network with `torch.compile`.
        pretrained: Checkpoint of another run (stage 1) whose weights the network starts from, as far as they match
            by name and shape, per-label ones by label name; optimizer, epoch and callbacks start afresh.
        freeze: Parts of the network that stay as they are, by name (`encoder`, `encoder.model.stem`): always in
            evaluation mode, without gradients, absent from the optimizer.
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
        tta: Averaging = Averaging(),  # noqa: B008  # frozen
        consistent: bool = False,
        compile: bool = False,  # noqa: A002 - the name that users of Lightning and timm look for
        pretrained: str | None = None,
        freeze: str | list[str] | None = None,
    ) -> None:
        super().__init__()
        if _given_hyperparameters.get() is not None:  # the command line's configuration: plain data, as YAML
            self.save_hyperparameters()
        self.network = network
        self.loss = loss
        self.optimizer, self.schedule = optimizer, schedule
        self.image_size = image_size
        self.tta, self.consistent = tta, consistent
        self.sampler: MonteCarlo | None = None
        self.compile_network, self.pretrained = compile, pretrained
        self.frozen = [freeze] if isinstance(freeze, str) else list(freeze or [])
        self.run_config: dict[str, Any] = {}
        self.checkpoint_follows = False
        """Whether a checkpoint is loaded once the network is built: Lightning's trainer does not tell a model."""
        self.scores: dict[str, LabelScores] = {}
        self.store_scores: dict[str, dict[str, LabelScores]] = {}
        self._skipped: dict[str, list[str]] = {}
        self._built = False
        self._train_on(labels)

    # ---- labels ------------------------------------------------------------------------------------------------

    def _train_on(self, labels: LabelSet) -> None:
        self.labels = self.asked = labels
        self.configure_metrics()
        self.register_buffer("positives", torch.zeros(len(labels.names)))
        self.register_buffer("observed", torch.zeros(len(labels.names)))

    def trained_on(self, labels: LabelSet) -> None:
        """Take the labels of the checkpoint that is loaded next, before the network is built."""
        assert not self._built
        self._train_on(labels)

    def ask(self, labels: LabelSet) -> None:
        """Predict these labels from now on: `labels.names`, then `labels.unseen_names`.

        What was trained is found by name, whatever its prompts. The rest is scored from its text, by a network that
        can; another one leaves its own unseen labels out, with a warning.

        Raises:
            InputError: Where the network cannot score labels of another label set, or not from their text.
        """
        strange = self._untrained(labels)
        if strange and not self.network.open_vocabulary and labels != self.labels:
            raise InputError(
                f"label set {labels.name!r}: the model cannot score {', '.join(strange)}; it was trained on "
                f"{', '.join(self.labels.names)}. Unseen labels need a network with queries from label text and a "
                f"shared read-out (longview.models.queries.TextQueries, readout: shared)"
            )
        self.asked = labels
        if self._built:
            self._set_labels()

    def _trained_name(self, name: str) -> str | None:
        """What a label is called among the trained ones, by name or alias: `Pleural effusion` is `Pleural Effusion`."""
        if name in self.labels.names:
            return name
        found = self.labels.canonical(name)
        return found if found in self.labels.names else None

    def _untrained(self, labels: LabelSet) -> list[str]:
        return [name for name in [*labels.names, *labels.unseen_names] if self._trained_name(name) is None]

    @property
    def predicted_names(self) -> list[str]:
        """Names of the labels that prediction scores, in the order of its columns."""
        wanted = [*self.asked.names, *self.asked.unseen_names]
        return wanted if self.network.open_vocabulary else [name for name in wanted if self._trained_name(name)]

    def _set_labels(self) -> None:
        """Let the network make what it needs for labels that training never saw."""
        strange = self._untrained(self.asked)
        if strange and self.network.open_vocabulary:
            # a trained label is the same one whatever another file calls it or says of it
            names = [self._trained_name(label.name) or label.name for label in self.asked.labels]
            known = [
                replace(label, name=name, derived="") for label, name in zip(self.asked.labels, names, strict=True)
            ]
            self.network.set_labels(LabelSet(self.asked.name, known))
            if self.global_rank == 0:
                log.info("scored from their text, never trained: %s", ", ".join(strange))
        elif strange and self.global_rank == 0:
            log.warning("not predicted, for the network scores only what it was trained on: %s", ", ".join(strange))

    def on_predict_start(self) -> None:
        """Once the weights are there, make the network score what is asked."""
        self._set_labels()
        if self.global_rank == 0:
            self.tta.announce(self.predicted_names)

    def on_predict_end(self) -> None:
        """Score the trained labels again, as training and validation need it."""
        if self._untrained(self.asked) and self.network.open_vocabulary:
            seen = [replace(label, derived="") for label in self.labels.labels if not label.unseen]
            self.network.set_labels(LabelSet(self.labels.name, seen))

    # ---- building ----------------------------------------------------------------------------------------------

    def configure_metrics(self) -> None:
        """One accumulator per split, so that a validation inside a training epoch never mixes with another."""
        names = self.labels.names
        self.val_metrics, self.test_metrics = LongTailMetrics(names), LongTailMetrics(names)
        self.val_loss, self.test_loss = MeanMetric(), MeanMetric()

    def configure_model(self) -> None:
        """Build the network; pretrained weights are read only where no checkpoint will overwrite them."""
        self.build(weights=not self.checkpoint_follows)

    def build(self, weights: bool = True) -> None:
        """Create the network's modules, and hand the training counts to whoever asks for them.

        Args:
            weights: Read pretrained weights, `pretrained` among them; False where a checkpoint is loaded next.

        Raises:
            InputError: Where `pretrained` or `freeze` cannot be had.
        """
        if self._built:
            return
        self._built = True
        data: Any = getattr(self._trainer, "datamodule", None)
        counted = hasattr(data, "positives")  # after its setup for training
        if counted:
            self.positives.copy_(torch.as_tensor(data.positives))
            self.observed.copy_(torch.as_tensor(data.observed))
        taken = self._build_network(weights)
        freeze(self.network, self.frozen)
        if self.frozen and weights:
            warn_of_random(self.network, self.frozen, taken)
        self.train(self.training)
        self.network.set_counts(self.positives, self.observed)
        self.loss.set_labels(self.labels)
        self.loss.set_counts(self.positives, self.observed)
        if counted and hasattr(data, "targets"):
            self.loss.set_targets(torch.as_tensor(data.targets))
        if self._device_mesh is not None:  # ModelParallelStrategy's
            shard(self.network, self._device_mesh["data_parallel"])
        if self.compile_network:
            self.network.compile()

    def _build_network(self, weights: bool) -> set[str]:
        """Create the network's parameters; returns the names of those that are another run's."""
        if not weights or self.pretrained is None:
            self.network.build(self.labels, self.image_size, weights=weights)
            return set()
        checkpoint = read_stage(self.pretrained)
        state, theirs = network_state(checkpoint), labels_of(checkpoint)
        origin = f"model.pretrained: {self.pretrained}"
        result = build_from(self.network, self.labels, self.image_size, state, theirs, origin)
        if self.global_rank == 0:
            result.report(origin)
        return result.whole

    def check_pretrained(self) -> None:
        """Find out, before anything is made of the run, whether the weights that it starts from are there.

        Raises:
            InputError: Where the checkpoint is not, or where there is none for what is to be frozen.
        """
        if self.pretrained is not None:
            check_stage(self.pretrained)
        else:
            check_frozen(self.network, self.frozen)

    def train(self, mode: bool = True) -> Self:
        """Switch to training, or to evaluation; what is frozen is always in evaluation mode."""
        super().train(mode)
        for name in self.frozen if self._built else []:
            self.network.get_submodule(name).eval()
        return self

    def configure_optimizers(self) -> Any:
        """The injected optimizer, with its schedule stepped once per optimizer step."""
        optimizer = self.optimizer.build(self.network)
        if self.schedule is None:
            return optimizer
        scheduler = self.schedule.build(optimizer, total_steps(self.trainer))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_train_epoch_start(self) -> None:
        """Tell the loss how far training is."""
        self.loss.set_progress(progress(self.current_epoch, self.trainer.max_epochs))

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
            metrics, mean = self._accumulators(stage)
            mean.update(loss, batch["target"].isfinite().sum())
            metrics.update(probabilities, batch["target"], batch.get("store"))
        return loss, probabilities

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Loss of one training batch."""
        loss, _ = self.model_step(batch, "train")
        self.log("train/loss", loss, prog_bar=True, batch_size=len(batch["ids"]))
        self.log("train/lr", self._rate(), batch_size=1)
        return loss

    def _rate(self) -> float:
        """The learning rate; the highest, where layers of the encoder have lower ones."""
        return max(float(group["lr"]) for group in self.trainer.optimizers[0].param_groups)

    def validation_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Add one batch to the validation's scores; its probabilities (B, L) are for callbacks."""
        return self.model_step(batch, "val")[1]

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Add one batch to the test's scores."""
        self.model_step(batch, "test")

    def predict_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """Ids and probabilities (B, L) float32 of a batch, by `predicted_names`; with a sampler (1 + T, B, L)."""
        forward = self if self.sampler is None else self.sampler.over(self.network)
        scores, names = self.tta.predict(forward, batch), self.predicted_names
        if not self._untrained(self.asked) or not self.network.open_vocabulary:
            scores = scores[..., [self.labels.names.index(self._trained_name(name) or name) for name in names]]
        if self.consistent:
            edges = (self.asked if self.asked.hierarchy else self.labels).edges_among(names)
            scores = consistent(scores, columns_of_edges(edges, names))
        return {"ids": batch["ids"], "probabilities": scores.cpu()}

    # ---- scores ------------------------------------------------------------------------------------------------

    def _accumulators(self, stage: Stage) -> tuple[LongTailMetrics, MeanMetric]:
        return (self.val_metrics, self.val_loss) if stage == "val" else (self.test_metrics, self.test_loss)

    def label_groups(self) -> dict[str, list[str]]:
        """Head, medium and tail labels by the training counts that the checkpoint carries."""
        return groups(self.labels.names, self.positives.tolist(), self.observed.tolist())

    def _begin_scores(self, stage: Stage) -> None:
        """Rank the studies of each store by themselves too, where the data of this stage come from several."""
        data: Any = getattr(self._trainer, "datamodule", None)
        self._accumulators(stage)[0].split_by(data.store_names(stage) if hasattr(data, "store_names") else {})

    def _log_scores(self, stage: Stage) -> None:
        metrics, mean = self._accumulators(stage)
        self.scores[stage], self.store_scores[stage] = metrics.scores(), metrics.scores_by_store()
        skipped = [name for name, known in zip(metrics.names, self.scores[stage].scored, strict=True) if not known]
        if skipped and not self.trainer.sanity_checking and self._skipped.get(stage) != skipped:
            self._skipped[stage] = skipped  # said once, not at every validation
            log.info("%s: without positives or without negatives, left out: %s", stage, ", ".join(skipped))
        values = {f"{stage}/{key}": value for key, value in metrics.figures(self.label_groups()).items()}
        self.log_dict({**values, f"{stage}/loss": float(mean.compute())})
        metrics.reset()
        mean.reset()

    def on_validation_epoch_start(self) -> None:
        """Find out whether to rank by store."""
        self._begin_scores("val")

    def on_test_epoch_start(self) -> None:
        """Find out whether to rank by store."""
        self._begin_scores("test")

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
        self.check_labels(labels_of(checkpoint))

    def check_labels(self, theirs: LabelSet) -> None:
        """Refuse to go on with weights that were trained on other labels, or in another order.

        Raises:
            InputError: Naming both.
        """
        if theirs.names != self.labels.names:
            raise InputError(
                f"the checkpoint was trained on other labels, or in another order; "
                f"checkpoint: {', '.join(theirs.names)}; this run: {', '.join(self.labels.names)}"
            )


def load(path: str | Path) -> ClassificationTask:
    """Load a trained task from its checkpoint alone, in evaluation mode on the CPU.

    Raises:
        InputError: Where the file is not a checkpoint of longview.
    """
    from lightning.pytorch.cli import instantiate_module

    checkpoint = read_checkpoint(path)
    if "_instantiator" not in checkpoint.get("hyper_parameters", {}):
        raise InputError(
            f"{path} carries no configuration, since its task was built in Python; build the task in the same way and "
            f"give the checkpoint to the trainer, trainer.predict(task, data, ckpt_path={str(path)!r}), which compares "
            f"labels by name"
        )
    hparams = {key: value for key, value in checkpoint["hyper_parameters"].items() if key != "_instantiator"}
    task: ClassificationTask = instantiate_module(ClassificationTask, hparams)
    task.build(weights=False)
    task.load_state_dict(checkpoint["state_dict"])
    return task.eval()
