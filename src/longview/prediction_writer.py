"""The callback that writes what `predict` predicts, calibrated where that is asked."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pandas as pd
from lightning.pytorch.callbacks import Callback
from rich.console import Console

from longview.calibration.file import Calibration
from longview.hierarchy import columns_of_edges, consistent
from longview.outputs import sha256
from longview.predictions import PredictionShards
from longview.tasks import ClassificationTask
from longview.uncertainty.dropout import MonteCarlo, check
from longview.uncertainty.shards import UncertaintyShards

log = logging.getLogger(__name__)


class PredictionWriter(Callback):
    """Writes `predict`'s probabilities by id: each process its own shard, merged once all are complete.

    A calibration is applied to the whole table when it is merged, so that it is the same for any number of processes.

    Args:
        output: The `.parquet` or `.csv` file to write.
        calibration: What the probabilities go through; None: they are written as they are.
        sampler: Samples of the network, whose spread is written to a table of its own; None: none.
    """

    def __init__(self, output: Path, calibration: Calibration | None = None, sampler: MonteCarlo | None = None) -> None:
        self.output = output
        self.calibration = calibration
        self.sampler = sampler
        self._shards: PredictionShards | None = None
        self._spread: UncertaintyShards | None = None

    def check(self, task: ClassificationTask, checkpoint: Path) -> None:
        """Find out, before anything is read or predicted, whether the calibration is one of this model.

        Args:
            task: What predicts, with the labels that it is asked for.
            checkpoint: Its weights.

        Raises:
            InputError: Where the calibration was fitted on other labels or another model.
        """
        if self.calibration is None:
            return
        model = sha256(checkpoint) if checkpoint.is_file() else None
        test_time = None if task.tta.is_off else task.tta.describe()
        self.calibration.check(task.predicted_names, model, f"the prediction by {checkpoint}", test_time)
        if self.calibration.method == "isotonic":
            log.warning("%s is isotonic and makes ties: average precision may change", self.calibration.origin)
        if self.output.suffix == ".csv":
            log.warning("%s will be calibrated, which a CSV cannot say: see to it that nothing calibrates it again; "
                        "a .parquet file says so", self.output)  # fmt: skip

    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Clear what a killed run left and open this process's shard."""
        assert isinstance(pl_module, ClassificationTask)
        checkpoint = None if trainer.ckpt_path is None else str(trainer.ckpt_path)
        test_time = None if pl_module.tta.is_off else pl_module.tta.describe()
        names = pl_module.predicted_names
        self._shards = PredictionShards(self.output, trainer.global_rank, names, checkpoint, test_time)
        shards: list[PredictionShards] = [self._shards]
        pl_module.sampler = self.sampler
        if self.sampler is not None:
            check(pl_module.network)
            about = self.sampler.describe()
            self._spread = UncertaintyShards(self.output, trainer.global_rank, names, about, checkpoint, test_time)
            shards.append(self._spread)
        if trainer.is_global_zero:
            for one in shards:
                one.clear()
        trainer.strategy.barrier("longview_predictions_cleared")
        for one in shards:
            one.start()

    def on_predict_batch_end(
        self,
        trainer: pl.Trainer,
        pl_module: pl.LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Append one batch to the shard."""
        assert self._shards is not None
        values = outputs["probabilities"].numpy()
        if self._spread is not None:
            self._spread.add_samples(outputs["ids"], values[1:])
            values = values[0]
        self._shards.add(outputs["ids"], values)

    @staticmethod
    def _expected(trainer: pl.Trainer) -> int | None:
        """How many rows there must be; None where the user limited the batches."""
        limit = trainer.limit_predict_batches  # 1 is one batch, 1.0 all of them
        return None if isinstance(limit, int) or limit < 1 else len(trainer.predict_dataloaders.dataset)  # type: ignore[union-attr]

    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Merge the shards on rank 0, after every process has closed its own."""
        assert self._shards is not None
        assert trainer.predict_dataloaders is not None
        assert isinstance(pl_module, ClassificationTask)
        self._shards.close()
        if self._spread is not None:
            self._spread.close()
        pl_module.sampler = None
        trainer.strategy.barrier("longview_predictions_written")
        if trainer.is_global_zero:
            calibration = self.calibration
            finish = None if calibration is None else lambda table: calibrated(table, calibration, pl_module)
            path = self._shards.merge(trainer.world_size, self._expected(trainer), finish)
            Console().print(f"Predictions: {path}", soft_wrap=True)
            if self._spread is not None:
                spread = self._spread.merge_long(trainer.world_size, self._expected(trainer))
                Console().print(f"Uncertainty: {spread}", soft_wrap=True)
        trainer.strategy.barrier("longview_predictions_merged")


def calibrated(table: pd.DataFrame, calibration: Calibration, task: ClassificationTask) -> pd.DataFrame:
    """Calibrate a table of predictions.

    Each label has its own map, so that a child may come to stand above its parent: a task that predicts consistently
    (`model.consistent`) raises the parent once more.

    Args:
        table: Ids and probabilities, float32.
        calibration: The maps.
        task: What predicted.

    Returns:
        Float64 probabilities; the table's attributes name model and calibration.
    """
    result = calibration.apply(table, checked=True)
    names = task.predicted_names
    edges = task.asked.edges_among(names) if task.asked.hierarchy else task.labels.edges_among(names)
    if task.consistent and edges:
        result[names] = consistent(result[names].to_numpy(), columns_of_edges(edges, names))
    return result
