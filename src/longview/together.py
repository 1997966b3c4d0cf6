"""What callbacks, strategies and caches cannot do together, found before anything is made of a run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import lightning.pytorch as pl
from lightning.pytorch.callbacks import Callback, EarlyStopping
from lightning.pytorch.callbacks.weight_averaging import WeightAveraging
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, ModelParallelStrategy
from lightning.pytorch.strategies.launchers import _MultiProcessingLauncher

from longview import InputError, launch
from longview.mixing import Mixing

Kind = TypeVar("Kind", bound=Callback)


def check_callbacks(trainer: pl.Trainer, figures: Sequence[str], cached: bool) -> None:
    """Refuse what would fail, or do nothing good, only after an epoch.

    Args:
        trainer: With its callbacks and strategy.
        figures: What a run logs and may be monitored.
        cached: Whether it trains on cached features.

    Raises:
        InputError: For an unknown figure to stop by, forked training, or films mixed twice or not at all.
    """
    for stopping in _those(trainer, EarlyStopping):
        if stopping.monitor not in figures:
            raise InputError(f"EarlyStopping: monitor is {stopping.monitor!r}; there are {', '.join(figures)}")
    if isinstance(trainer.strategy.launcher, _MultiProcessingLauncher):
        raise InputError(
            "trainer.strategy: what forked or spawned processes train is lost to the run that started them; use ddp"
        )
    mixing = _those(trainer, Mixing)
    if len(mixing) > 1:
        raise InputError(
            "two Mixing callbacks would mix each batch twice; give mixup and cutmix to one, as "
            "configs/overlay/mixup_cutmix.yaml does"
        )
    if mixing and cached:
        raise InputError("Mixing changes films, and --feature_cache trains on features; leave out one of them")


def check_launch(trainer: pl.Trainer) -> None:
    """Refuse processes that are not those the trainer is for, and ways of sharing the work that do not work here.

    Raises:
        InputError: Saying what to change.
    """
    environment = trainer._accelerator_connector.cluster_environment
    if environment.creates_processes_externally:
        launch.check_world(environment.world_size(), trainer.num_devices, trainer.num_nodes)
    if isinstance(trainer.strategy, (FSDPStrategy, DeepSpeedStrategy)):
        raise InputError(
            f"trainer.strategy: {type(trainer.strategy).__name__} cuts parameters into pieces without shape, by which "
            f"weight decay and stages know them; use ddp, or ModelParallelStrategy (configs/trainer/fsdp.yaml)"
        )
    if isinstance(trainer.strategy, ModelParallelStrategy):
        _check_sharded(trainer.strategy)


def _check_sharded(strategy: ModelParallelStrategy) -> None:
    if strategy._tensor_parallel_size != 1:
        raise InputError(
            f"trainer.strategy: tensor_parallel_size is {strategy._tensor_parallel_size}; networks are sharded by data "
            f"alone, so set it to 1 and data_parallel_size to devices x num_nodes (configs/trainer/fsdp.yaml)"
        )
    if strategy._save_distributed_checkpoint:
        raise InputError(
            "trainer.strategy: save_distributed_checkpoint must be false: checkpoints are one file that describes "
            "itself (configs/trainer/fsdp.yaml)"
        )


def forget_averages(trainer: pl.Trainer) -> None:
    """After training: averages of weights are in the checkpoints.

    Lightning's callback would put the raw weights back whenever one is loaded for testing.
    """
    for averaging in _those(trainer, WeightAveraging):
        averaging._average_model = None


def _those(trainer: pl.Trainer, kind: type[Kind]) -> list[Kind]:
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]  # Lightning sets it
    return [callback for callback in callbacks if isinstance(callback, kind)]
