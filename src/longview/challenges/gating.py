"""Gating: a label that contradicts others draws them down, such as `Normal` against findings.

The winner of CXR-LT 2026 scored a finding as p_c (1 - p_0)^0.5, p_0 being `Normal`'s probability (arXiv:2602.13430). It
helped a model trained with distribution-balanced loss and balanced sampling; on one trained with ASL it took 0.010 to
0.046 of mAP. So nothing is gated unless asked for, and labels are named, never counted.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from longview import InputError
from longview.labels import Label, LabelSet
from longview.predictions import labels_of


def gate(
    table: pd.DataFrame, by: str, spared: Sequence[str] = (), power: float = 0.5, labels: LabelSet | None = None
) -> pd.DataFrame:
    """Multiply each label's probability by (1 - p_0)^power.

    Args:
        table: Predictions.
        by: The label whose probability is p_0; it stays as it is.
        spared: Labels that do not contradict it, and stay too.
        power: 0 changes nothing, 1 is the probability that both are so, were they independent.
        labels: Label set whose aliases count; None: names must be equal but for case, spaces and hyphens.

    Returns:
        The same table with other probabilities (float64).

    Raises:
        InputError: For labels that were not predicted, or a negative power.
    """
    if not 0 <= power <= 10:
        raise InputError(f"--gate_power {power}: give a number from 0 to 10, such as 0.5")
    names = labels_of(table)
    own, *others = [_column(name, names, labels) for name in (by, *spared)]
    factor = (1 - table[own].to_numpy(np.float64)) ** power
    result = table.copy()
    for name in names:
        if name != own and name not in others:
            result[name] = table[name].to_numpy(np.float64) * factor
    return result


def _column(name: str, predicted: Sequence[str], labels: LabelSet | None) -> str:
    known = LabelSet("predictions", [Label(column) for column in predicted])
    found = known.canonical(name)
    if found is None and labels is not None:
        canonical = labels.canonical(name)
        found = next((column for column in predicted if canonical and labels.canonical(column) == canonical), None)
    if found is None:
        raise InputError(f"--gate: label {name!r} was not predicted; there are {', '.join(predicted)}")
    return found
