"""What happens around training: tables, pictures for TensorBoard, and seeded steps."""

from __future__ import annotations

import logging
import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.trainer.states import TrainerFn
from rich.console import Console
from rich.table import Table

from longview import Batch
from longview.ranking import LabelScores, group_means, summarise
from longview.tasks import ClassificationTask

log = logging.getLogger(__name__)


class SeededSteps(Callback):
    """Makes every random number of a training step a function of (seed, batches so far, rank).

    A run that resumes in the middle of an epoch then draws the same dropout masks as one that was never
    interrupted, on any number of processes, without saving the state of each process's generators. Batches are
    counted here, since Lightning's own counters lag behind in a checkpoint that is saved after a batch.

    Args:
        seed: The run's seed.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.batches = 0
        self.trained = 0  # by this process, since it started

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Seed torch, NumPy and Python for this step."""
        words = np.random.SeedSequence((self.seed, self.batches, trainer.global_rank))
        seed = int(words.generate_state(1)[0])
        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002 - the legacy generator is what third-party code draws from
        random.seed(seed)
        self.trained += 1
        self.batches += 1  # before any checkpoint of this step is saved

    def state_dict(self) -> dict[str, Any]:
        """How many batches were trained on."""
        return {"batches": self.batches}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on counting where the checkpoint stood."""
        self.batches = int(state_dict["batches"])


class ResultTable(Callback):
    """Prints the per-label table: of the best validation when `fit` ends, of `validate` and `test` when they end."""

    def __init__(self) -> None:
        self._best: _Best | None = None

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Remember the scores of the best validation so far, or print those of `validate`."""
        if trainer.sanity_checking or not isinstance(pl_module, ClassificationTask):
            return
        if trainer.state.fn == TrainerFn.VALIDATING:
            self._print("Validation", trainer, pl_module, pl_module.scores["val"], pl_module.store_scores["val"])
            return
        value = float(trainer.callback_metrics["val/map"])
        if self._best is None or value > self._best.value:
            scores = pl_module.scores["val"], pl_module.store_scores["val"]
            self._best = _Best(value, trainer.current_epoch, *scores)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Print the best validation and where its checkpoint is."""
        if self._best is None or not trainer.is_global_zero or not isinstance(pl_module, ClassificationTask):
            return
        title = f"Best validation (epoch {self._best.epoch})"
        self._print(title, trainer, pl_module, self._best.scores, self._best.by_store)
        best = getattr(trainer.checkpoint_callback, "best_model_path", "")
        if best:
            console = Console()
            console.print(f"Best checkpoint: {best}", soft_wrap=True, markup=False)
            for command in (f"test --ckpt_path {best}", f"predict --ckpt_path {best} --output predictions.parquet"):
                console.print(f"Next: uv run main.py {command}", soft_wrap=True, markup=False)

    @property
    def best(self) -> float:
        """The best validation's mean AP so far; NaN without any."""
        return float("nan") if self._best is None else self._best.value

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Print the test's scores."""
        if isinstance(pl_module, ClassificationTask):
            self._print("Test", trainer, pl_module, pl_module.scores["test"], pl_module.store_scores["test"])

    def state_dict(self) -> dict[str, Any]:
        """The best validation, as plain data."""
        if self._best is None:
            return {}
        return {
            "value": self._best.value,
            "epoch": self._best.epoch,
            "scores": as_plain(self._best.scores),
            "by_store": {name: as_plain(scores) for name, scores in self._best.by_store.items()},
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Remember what was best before the run was stopped."""
        if state_dict:
            by_store = {name: from_plain(values) for name, values in state_dict.get("by_store", {}).items()}
            self._best = _Best(state_dict["value"], state_dict["epoch"], from_plain(state_dict["scores"]), by_store)

    @staticmethod
    def _print(
        title: str, trainer: pl.Trainer, task: ClassificationTask, scores: LabelScores, by_store: dict[str, LabelScores]
    ) -> None:
        if trainer.is_global_zero:
            Console().print(score_table(title, task, scores, by_store))


@dataclass(frozen=True)
class _Best:
    """The best validation so far: its mean AP, its epoch, its scores, and those of each of several stores."""

    value: float
    epoch: int
    scores: LabelScores
    by_store: dict[str, LabelScores]


def as_plain(scores: LabelScores) -> dict[str, list[float]]:
    """Scores as a checkpoint keeps them."""
    return {key: array.tolist() for key, array in vars(scores).items()}


def from_plain(plain: dict[str, list[float]]) -> LabelScores:
    """What :func:`as_plain` made plain."""
    return LabelScores(**{key: np.array(values) for key, values in plain.items()})


def score_table(
    title: str, task: ClassificationTask, scores: LabelScores, by_store: Mapping[str, LabelScores] | None = None
) -> Table:
    """Per-label counts, prevalence, AUROC and AP, by store too where there are several, and the means.

    A store that knows a label of only one kind, or not at all, has a `-` there.
    """
    by_store = by_store or {}
    names, groups = task.labels.names, task.label_groups()
    group_of = {name: group for group, members in groups.items() for name in members}
    table = Table(title=title)
    table.add_column("label")
    table.add_column("group", min_width=6)
    for column in ("positives", "prevalence", "AUROC", "AP", *(f"AP {name}" for name in by_store)):
        table.add_column(column, justify="right", overflow="fold", min_width=5)  # a narrow terminal folds headings

    def number(value: float) -> str:
        return "-" if np.isnan(value) else f"{value:.3f}"

    for index, name in enumerate(names):
        table.add_row(
            name,
            group_of.get(name, "-"),
            str(int(scores.positives[index])),
            number(float(scores.prevalence[index])),
            number(float(scores.auroc[index])),
            number(float(scores.ap[index])),
            *(number(float(own.ap[index])) for own in by_store.values()),
        )
    summary = summarise(names, scores, groups)
    table.add_section()
    means = [number(summarise(names, own)["map"]) for own in by_store.values()]
    table.add_row("mean", "all", "", "", number(summary["auroc"]), number(summary["map"]), *means, style="bold")
    for group, value in group_means(scores.ap, names, groups).items():
        means = [number(group_means(own.ap, names, groups)[group]) for own in by_store.values()]
        table.add_row("mean", group, "", "", "", number(value), *means)
    if summary["skipped"]:
        table.caption = f"left out of the means (one kind only): {', '.join(summary['skipped'])}"
    return table


class TensorBoardReport(Callback):
    """Per-label bars and a few validation images with their top labels, at each validation.

    Args:
        images: How many images of the first validation batch are shown.
        top: How many labels are written under each.
    """

    def __init__(self, images: int = 8, top: int = 3) -> None:
        self.images = images
        self.top = top
        self._first: tuple[Batch, torch.Tensor] | None = None

    def on_validation_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep the first batch for its pictures."""
        if batch_idx == 0 and trainer.is_global_zero and not trainer.sanity_checking:
            self._first = (batch, outputs)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Draw the bars and the pictures, on rank 0 and only where TensorBoard listens."""
        if self._first is None or not isinstance(pl_module, ClassificationTask):
            return
        (batch, probabilities), self._first = self._first, None
        boards = [logger for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]
        if not boards or not trainer.is_global_zero:
            return
        bars = draw_bars(pl_module.labels.names, pl_module.scores["val"])
        for board in boards:
            board.experiment.add_figure("val/labels", bars, trainer.global_step)
        if not batch["images"].numel():  # features from a cache stand for the images
            return
        pictures = draw_images(batch, probabilities, pl_module.labels.names, self.images, self.top)
        for board in boards:
            board.experiment.add_figure("val/images", pictures, trainer.global_step)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Put the run's settings and its best validation among TensorBoard's HParams."""
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]  # Lightning sets it
        best = [callback.best for callback in callbacks if isinstance(callback, ResultTable)]
        if not trainer.is_global_zero or not isinstance(pl_module, ClassificationTask) or not best or np.isnan(best[0]):
            return
        for board in trainer.loggers:
            if isinstance(board, TensorBoardLogger):
                board.log_hyperparams(_flat(pl_module.run_config), {"best/map": best[0]})


def _flat(config: Any, prefix: str = "") -> dict[str, Any]:
    """The numbers, texts and switches of a configuration, by dotted key; lists (labels among them) are left out."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, dict):
            found |= _flat(value, f"{prefix}{key}.")
        elif isinstance(value, (bool, int, float, str)):
            found[prefix + key] = value
    return found


def draw_bars(names: list[str], scores: LabelScores) -> Any:
    """A figure with AP, prevalence and AUROC of each label."""
    from matplotlib.figure import Figure

    order = np.argsort(np.nan_to_num(scores.prevalence, nan=-1.0))
    figure = Figure(figsize=(9, 1 + 0.25 * len(names)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    rows = np.arange(len(names))
    left.barh(rows, np.nan_to_num(scores.ap[order]), color="#3b6ea5", label="AP")
    left.plot(np.nan_to_num(scores.prevalence[order]), rows, "k|", label="prevalence (chance)")
    left.set(xlim=(0, 1), xlabel="AP", yticks=rows, yticklabels=[names[i] for i in order])
    left.legend(loc="lower right")
    right.barh(rows, np.nan_to_num(scores.auroc[order]), color="#7aa57a")
    right.axvline(0.5, color="k", linewidth=0.8)
    right.set(xlim=(0, 1), xlabel="AUROC")
    return figure


def draw_images(batch: Batch, probabilities: torch.Tensor, names: list[str], images: int, top: int) -> Any:
    """A figure of the first images of a batch, each with the top labels of its study; true ones are marked."""
    from matplotlib.figure import Figure

    count = min(images, len(batch["images"]))
    columns = min(4, count)
    rows = -(-count // columns)
    figure = Figure(figsize=(3 * columns, (3 + 0.3 * top) * rows), layout="constrained")
    axes = np.atleast_1d(figure.subplots(rows, columns)).ravel()
    for axis in axes:
        axis.axis("off")
    for index in range(count):
        study = int(batch["study"][index])
        best = probabilities[study].topk(min(top, len(names)))
        lines = []
        for value, label in zip(best.values.tolist(), best.indices.tolist(), strict=True):
            truth = float(batch["target"][study, label])
            mark = {1.0: "[x]", 0.0: "[ ]"}.get(truth, "[?]")
            lines.append(f"{mark} {names[label]} {value:.2f}")
        axes[index].imshow(batch["images"][index, 0].cpu().numpy(), cmap="gray", vmin=0, vmax=255)
        missed = [
            names[label]
            for label in torch.nonzero(batch["target"][study] == 1).flatten().tolist()
            if label not in best.indices.tolist()
        ]
        lines.append(f"true too: {', '.join(missed)}" if missed else "")
        axes[index].set_title("\n".join(lines), fontsize=8, loc="left", wrap=True)
        axes[index].text(
            0.02, 0.02, batch["ids"][study].study_id, color="white", fontsize=7, transform=axes[index].transAxes
        )
    return figure


class LastCheckpoint(ModelCheckpoint):
    """Keeps `last.ckpt`: where a run that was stopped goes on."""

    def __init__(self, dirpath: str | None, **when: Any) -> None:
        super().__init__(dirpath, filename="last", monitor=None, save_top_k=1, enable_version_counter=False, **when)


@rank_zero_only
def keep_figures(folder: Path) -> None:
    """Move `metrics.csv` of the run so far aside, since the CSV logger begins its file anew."""
    file = folder / "metrics.csv"
    if file.is_file():
        number = 1
        while (aside := folder / f"metrics.{number}.csv").exists():
            number += 1
        file.rename(aside)
