"""The epoch's scores: exact per-label AUROC and AP over every row of every process, computed once per epoch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from longview.calibration.figures import calibration_error
from longview.ranking import LabelScores, per_label, summarise


class LongTailMetrics(Metric):
    """Collects probabilities and targets of an epoch and ranks them per label.

    Rows are kept as float32 on the device without their graph, gathered over all processes (which may hold
    different numbers of rows, also none) and ranked exactly, so that one process and several give the same
    figures. Labels without positives or without negatives are left out of every mean and can be named. The rows of
    each of several stores can be ranked by themselves, too.

    Args:
        names: The L labels, for messages.
    """

    full_state_update = False
    is_differentiable = False
    higher_is_better = True

    probabilities: list[Tensor]
    targets: list[Tensor]
    stores: list[Tensor]

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__()
        self.names = list(names)
        self.store_names: dict[int, str] = {}
        self.add_state("probabilities", default=[], dist_reduce_fx="cat")
        self.add_state("targets", default=[], dist_reduce_fx="cat")

    def split_by(self, stores: Mapping[int, str]) -> None:
        """Rank the rows of several stores by themselves, too; on every process alike, before the first row.

        Args:
            stores: Number of a store -> its name; empty: only all rows together, at no cost.
        """
        self.store_names = dict(stores)
        if stores and "stores" not in self._defaults:
            self.add_state("stores", default=[], dist_reduce_fx="cat")

    def update(self, probabilities: Tensor, targets: Tensor, stores: Tensor | None = None) -> None:
        """Add a batch: probabilities (B, L) in [0, 1], targets (B, L), NaN where unknown, and numbers of stores (B,).

        Raises:
            ValueError: Where rows are to be ranked by store, and these do not say theirs.
        """
        self.probabilities.append(probabilities.detach().float())
        self.targets.append(targets.detach().float())
        if self.store_names:
            if stores is None:
                raise ValueError("rows are ranked by store, but this batch has no `store`")
            self.stores.append(stores)

    def _sync_dist(self, *args: Any, **kwargs: Any) -> None:
        # a process without rows joins the gather with (0, L), which has the others' number of dimensions
        for state in (self.probabilities, self.targets):
            if not state:
                state.append(torch.zeros(0, len(self.names), device=self.device))
        if "stores" in self._defaults and not self.stores:
            self.stores.append(torch.zeros(0, dtype=torch.int64, device=self.device))
        super()._sync_dist(*args, **kwargs)

    def compute(self) -> dict[str, Any]:
        """Fields of :class:`LabelScores`, `ece`, and those fields by store, over all rows so far, of all processes."""
        if len(self.probabilities):
            probabilities, targets = dim_zero_cat(self.probabilities), dim_zero_cat(self.targets)
        else:
            probabilities = targets = torch.zeros(0, len(self.names))
        scores, truth = probabilities.cpu().numpy(), targets.cpu().numpy()
        by_store = {}
        if self.store_names:
            store = dim_zero_cat(self.stores).cpu().numpy() if len(self.stores) else np.zeros(0, np.int64)
            for number, name in self.store_names.items():
                rows = store == number
                by_store[name] = vars(per_label(scores[rows], truth[rows], self.names))
        whole = vars(per_label(scores, truth, self.names))
        return {**whole, "ece": calibration_error(scores, truth), "by_store": by_store}

    def scores(self) -> LabelScores:
        """Per-label counts, AUROC and AP over all rows so far, of all processes."""
        values = self.compute()
        return LabelScores(**{field.name: values[field.name] for field in fields(LabelScores)})

    def scores_by_store(self) -> dict[str, LabelScores]:
        """The same over the rows of each store: name -> scores; empty where they are not split."""
        return {name: LabelScores(**values) for name, values in self.compute()["by_store"].items()}

    def calibration_error(self) -> npt.NDArray[np.float64]:
        """Expected calibration error (L,) over all rows so far, of all processes; NaN where no row is known."""
        error: npt.NDArray[np.float64] = self.compute()["ece"]
        return error

    def figures(self, groups: Mapping[str, Sequence[str]]) -> dict[str, float]:
        """What is logged of an epoch: means over the labels that can be ranked, all together and by store.

        Args:
            groups: Head, medium and tail -> label names.

        Returns:
            `map`, `auroc`, `map_head`, `map_medium`, `map_tail`, `ece`, and `map_<store>` and `auroc_<store>` where
            rows are split; without those that are not defined. `map` and `auroc` are then 0, so that whatever
            monitors them goes on.
        """
        found = _means(summarise(self.names, self.scores(), groups))
        values = {"map": 0.0, "auroc": 0.0} | found
        errors = self.calibration_error()
        if not np.isnan(errors).all():
            values["ece"] = float(np.nanmean(errors))
        for store, scores in self.scores_by_store().items():
            means = _means(summarise(self.names, scores))
            values |= {f"{key}_{store}": mean for key, mean in means.items()}
        return values


def _means(summary: Mapping[str, Any]) -> dict[str, float]:
    return {key: value for key, value in summary.items() if isinstance(value, float) and not math.isnan(value)}
