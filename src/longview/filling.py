"""Which unknown label values take a prediction, and which value they get: what `pseudo` computes, without its files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from longview import InputError

FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Rule:
    """What becomes of a predicted probability.

    Args:
        temperature: Divides the logit before anything else; above 1 it draws probabilities towards 0.5.
        lower: Fill where the probability is at most this; None: no such bound.
        upper: Fill where it is at least this. With neither bound every open cell is filled; with both, those between
            stay as they are.
        hard: Fill 1 where the probability is at least this and 0 elsewhere; None: the probability itself.

    Raises:
        InputError: For a temperature, bound or threshold out of range.
    """

    temperature: float = 1.0
    lower: float | None = None
    upper: float | None = None
    hard: float | None = None

    def __post_init__(self) -> None:
        if not 0 < self.temperature < float("inf"):
            raise InputError(f"--temperature is {self.temperature}; give a number above 0")
        for name in ("lower", "upper", "hard"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise InputError(f"--{name} is {value}; give a probability, 0 to 1")
        if self.lower is not None and self.upper is not None and self.lower > self.upper:
            raise InputError(f"--lower {self.lower} is above --upper {self.upper}; swap them")

    def temper(self, probabilities: FloatArray) -> FloatArray:
        """Probabilities with their logits divided by the temperature; 0 and 1 stay."""
        if self.temperature == 1:
            return probabilities
        with np.errstate(divide="ignore"):
            logits = np.log(probabilities) - np.log1p(-probabilities)
            tempered: FloatArray = 1 / (1 + np.exp(-logits / self.temperature))
        return tempered

    def accepts(self, probabilities: FloatArray) -> BoolArray:
        """Where a probability is sure enough to fill; False where there is none (NaN)."""
        if self.lower is None and self.upper is None:
            return ~np.isnan(probabilities)
        low, high = self.lower, self.upper
        sure = np.zeros(probabilities.shape, np.bool_)
        if low is not None:
            sure |= probabilities <= low
        if high is not None:
            sure |= probabilities >= high
        return sure

    def values(self, probabilities: FloatArray) -> FloatArray:
        """What is written for probabilities: themselves, or 0 and 1."""
        if self.hard is None:
            return probabilities
        values: FloatArray = np.where(np.isnan(probabilities), np.nan, probabilities >= self.hard)
        return values


@dataclass(frozen=True)
class Filled:
    """The values of a table after filling.

    Args:
        targets: (n, L) label values, NaN where still unknown.
        predicted: (n, L) cells that took their prediction.
        implied: (n, L) cells that follow from a joint label.
        probabilities: (n, L) tempered predictions, NaN where there is none.
        open: (n, L) cells that could take one.
    """

    targets: FloatArray
    predicted: BoolArray
    implied: BoolArray
    probabilities: FloatArray
    open: BoolArray

    def counts(self, names: Sequence[str], rows: BoolArray) -> pd.DataFrame:
        """Per label, of the rows (n,) that were to be filled: how many cells were known, filled, implied or left.

        `mean_probability` is that of the cells that took their prediction, before any threshold.
        """
        own = {
            "known": ~self.open,
            "filled": self.predicted,
            "implied": self.implied,
            "left": self.open & ~self.predicted & ~self.implied,
        }
        table = pd.DataFrame({"label": list(names), **{name: cells[rows].sum(axis=0) for name, cells in own.items()}})
        total = np.where(self.predicted, self.probabilities, 0.0)[rows].sum(axis=0)
        mean = np.full(len(names), np.nan)
        np.divide(total, table["filled"], out=mean, where=table["filled"].to_numpy() > 0)
        return table.assign(mean_probability=mean)


def fill_cells(
    values: FloatArray,
    probabilities: FloatArray,
    fillable: BoolArray,
    rule: Rule,
    joint: Mapping[int, Sequence[int]],
    joint_values: Mapping[int, FloatArray],
) -> Filled:
    """Fill open cells with predictions, then those that joint labels decide.

    A joint label (VinBigData's `Nodule/Mass`) is present where at least one of its members is. Where it is absent, its
    open members are 0. Where it is present and no member is known to be, the likeliest of the open ones is 1, and the
    others keep what their predictions say.

    Args:
        values: (n, L) label values, NaN where unknown.
        probabilities: (n, L) predictions, NaN where there is none.
        fillable: (n, L) cells that may change.
        rule: What becomes of a prediction.
        joint: Number of a joint label -> columns of its members.
        joint_values: Number of a joint label -> its (n,) values in the table: 1, 0, or anything else for unknown.
    """
    tempered = rule.temper(probabilities)
    predicted = fillable & rule.accepts(tempered)
    result = np.where(predicted, rule.values(tempered), values)
    implied = np.zeros(values.shape, np.bool_)
    for number, members in joint.items():
        columns = np.asarray(members)
        free = fillable[:, columns]  # (n, M)
        absent = free & (joint_values[number] == 0)[:, None]
        likely = np.where(free, tempered[:, columns], -1.0)
        likely = np.where(np.isnan(likely), -1.0, likely)
        settled = ((values[:, columns] == 1) & ~free).any(axis=1)
        asked = (joint_values[number] == 1) & ~settled & (likely.max(axis=1) >= 0)  # (n,)
        chosen = asked[:, None] & (np.arange(len(columns)) == likely.argmax(axis=1)[:, None])
        result[:, columns] = np.where(absent, 0.0, np.where(chosen, 1.0, result[:, columns]))
        implied[:, columns] |= absent | chosen
    return Filled(result, predicted & ~implied, implied, tempered, fillable)
