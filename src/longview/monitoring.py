"""Which figures a run logs: what checkpoints and callbacks may watch, found before anything is made of the run."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from longview import InputError
from longview.data.datamodule import StudyData

_FIGURES = ("loss", "map", "auroc", "ece", "map_head", "map_medium", "map_tail")
_OF_STORES = ("val/map_", "val/auroc_")


def logged_figures(data: StudyData, monitored: Iterable[str | None]) -> list[str]:
    """Names of the figures that a run logs.

    Stores are named by what is in them: only where a name asks for one of them is the validation part opened for it.

    Args:
        data: The run's data, not set up.
        monitored: What is to be watched; None watches nothing.

    Raises:
        InputError: Where a figure of a store is asked for whose validation studies cannot be ranked, or data of the
            validation part are missing.
    """
    known = [f"val/{name}" for name in _FIGURES] + ["train/loss"]
    asked = {name for name in monitored if name is not None and name not in known and name.startswith(_OF_STORES)}
    if not asked or data.phantom is not None:  # a phantom is a single store, which may not be drawn yet
        return known
    data.setup("validate")
    names, dataset = data.store_names("val"), data.datasets["val"]
    stores = np.repeat(np.arange(len(dataset.sizes)), dataset.sizes)
    for number, store in names.items():
        own = [f"{figure}{store}" for figure in _OF_STORES]
        truth = dataset.targets[stores == number]
        if not ((truth == 1).any(axis=0) & (truth == 0).any(axis=0)).any() and asked & set(own):
            raise InputError(
                f"{' and '.join(sorted(asked & set(own)))} cannot be watched: of the validation studies of {store} no "
                f"label has both positives and negatives"
            )
        known += own
    return known
