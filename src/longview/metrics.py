"""The epoch's scores: exact per-label AUROC and AP over every row of every process, computed once per epoch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from longview.calibration import calibration_error
from longview.ranking import LabelScores, per_label


class LongTailMetrics(Metric):
    """Collects probabilities and targets of an epoch and ranks them per label.

    Rows are kept as float32 on the device without their graph, gathered over all processes (which may hold
    different numbers of rows, also none) and ranked exactly, so that one process and several give the same
    figures. Labels without positives or without negatives are left out of every mean and can be named.

    Args:
        names: The L labels, for messages.
    """

    full_state_update = False
    is_differentiable = False
    higher_is_better = True

    probabilities: list[Tensor]
    targets: list[Tensor]

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__()
        self.names = list(names)
        self.add_state("probabilities", default=[], dist_reduce_fx="cat")
        self.add_state("targets", default=[], dist_reduce_fx="cat")

    def update(self, probabilities: Tensor, targets: Tensor) -> None:
        """Add a batch: probabilities (B, L) in [0, 1] and targets (B, L), NaN where unknown."""
        self.probabilities.append(probabilities.detach().float())
        self.targets.append(targets.detach().float())

    def _sync_dist(self, *args: Any, **kwargs: Any) -> None:
        # a process without rows joins the gather with (0, L), which has the others' number of dimensions
        for state in (self.probabilities, self.targets):
            if not state:
                state.append(torch.zeros(0, len(self.names), device=self.device))
        super()._sync_dist(*args, **kwargs)

    def compute(self) -> dict[str, Any]:
        """Fields of :class:`LabelScores`, and `ece`, over all rows so far, of all processes, as plain data."""
        if len(self.probabilities):
            probabilities, targets = dim_zero_cat(self.probabilities), dim_zero_cat(self.targets)
        else:
            probabilities = targets = torch.zeros(0, len(self.names))
        scores, truth = probabilities.cpu().numpy(), targets.cpu().numpy()
        return {**vars(per_label(scores, truth, self.names)), "ece": calibration_error(scores, truth)}

    def scores(self) -> LabelScores:
        """Per-label counts, AUROC and AP over all rows so far, of all processes."""
        return LabelScores(**{name: values for name, values in self.compute().items() if name != "ece"})

    def calibration_error(self) -> npt.NDArray[np.float64]:
        """Expected calibration error (L,) over all rows so far, of all processes; NaN where no row is known."""
        error: npt.NDArray[np.float64] = self.compute()["ece"]
        return error
