"""Where to cut a label's probability into yes and no, by a rule."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from longview import InputError

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Points:
    """Every way to cut n scores in two, from the strictest threshold (nothing is positive) to 0 (everything is).

    Args:
        thresholds: (T,) falling; a score of at least this is positive. Each lies between two scores, so that no
            rounding moves a row across.
        hits: (T,) positives at or over it.
        alarms: (T,) negatives at or over it.
    """

    thresholds: FloatArray
    hits: FloatArray
    alarms: FloatArray

    @classmethod
    def of(cls, scores: npt.NDArray[Any], targets: npt.NDArray[Any]) -> Points:
        """Count, for scores (n,) in [0, 1] and targets (n,) of which those that are not 0 or 1 are masked."""
        hard = (targets == 0) | (targets == 1)
        scores, targets = scores[hard].astype(np.float64), targets[hard]
        order = np.argsort(-scores, kind="stable")
        ranked = scores[order]
        last = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))[: len(ranked)]  # of each tie
        hits = np.append(0, np.cumsum(targets[order], dtype=np.float64)[last])
        distinct = ranked[last]
        above, below = np.append(1.0, distinct), np.append(distinct, 0.0)
        middle = (above + below) / 2
        thresholds = np.where(middle > below, middle, above)  # neighbouring floats have no middle
        thresholds[-1] = 0.0
        if len(distinct) and distinct[0] == 1:
            thresholds[0] = np.nextafter(1.0, 2.0)
        return cls(thresholds, hits, np.append(0, last + 1) - hits)

    @property
    def sensitivity(self) -> FloatArray:
        """(T,) share of the positives that are found."""
        share: FloatArray = self.hits / self.hits[-1]
        return share

    @property
    def specificity(self) -> FloatArray:
        """(T,) share of the negatives that are left alone."""
        share: FloatArray = 1 - self.alarms / self.alarms[-1]
        return share

    @property
    def f1(self) -> FloatArray:
        """(T,) harmonic mean of precision and sensitivity."""
        mean: FloatArray = 2 * self.hits / (self.hits + self.alarms + self.hits[-1])
        return mean


@dataclass(frozen=True)
class Rule:
    """How a threshold is chosen; of equally good ones the strictest.

    * `f1`: the highest F1
    * `youden`: the highest sensitivity + specificity - 1 (Youden, Cancer 3, 1950)
    * `sensitivity=S`: the highest specificity with a sensitivity of at least S
    * `specificity=S`: the highest sensitivity with a specificity of at least S
    * `cost=R`: the lowest cost, a missed finding costing R false alarms

    Args:
        name: One of these.
        value: S in (0, 1], or R over 0; None for the others.

    Raises:
        InputError: For another name, or a value that does not belong to it.
    """

    name: str
    value: float | None = None

    def __post_init__(self) -> None:
        if self.name not in _CHOICES:
            raise InputError(f"--threshold {self.name!r}: there are f1, youden, sensitivity=S, specificity=S, cost=R")
        if self.name in {"f1", "youden"}:
            if self.value is not None:
                raise InputError(f"--threshold {self}: {self.name} takes no value")
            return
        if self.value is None:
            example = "10" if self.name == "cost" else "0.9"
            raise InputError(f"--threshold {self.name} needs a value, such as {self.name}={example}")
        most = math.inf if self.name == "cost" else 1.0
        if not (0 < self.value <= most and math.isfinite(self.value)):
            raise InputError(f"--threshold {self}: give a value over 0" + ("" if most == math.inf else " and up to 1"))

    def __str__(self) -> str:
        return self.name if self.value is None else f"{self.name}={self.value:g}"

    @classmethod
    def parse(cls, text: str) -> Rule:
        """Read `f1` or `sensitivity=0.9`.

        Raises:
            InputError: Where it is none.
        """
        name, equals, value = text.strip().partition("=")
        try:
            number = float(value) if equals else None
        except ValueError as error:
            raise InputError(f"--threshold {text.strip()}: {value!r} is no number") from error
        return cls(name.strip(), number)

    def choose(self, scores: npt.NDArray[Any], targets: npt.NDArray[Any]) -> float:
        """The threshold for scores (n,) in [0, 1] and targets (n,), of which those that are not 0 or 1 are masked.

        Raises:
            InputError: Without positives or without negatives.
        """
        points = Points.of(scores, targets)
        if not (points.hits[-1] and points.alarms[-1]):
            raise InputError(f"no threshold by {self}: no row is 1, or none is 0; give --threshold none")
        return float(points.thresholds[_CHOICES[self.name](points, self.value or 0.0)])


def parse_rules(text: str) -> list[Rule]:
    """Read rules with commas between, such as `f1,youden,sensitivity=0.9`; `none` gives none.

    Raises:
        InputError: Where one is no rule, or stands twice.
    """
    if text.strip() == "none":
        return []
    rules = [Rule.parse(part) for part in text.split(",")]
    if len(set(rules)) < len(rules):
        raise InputError(f"--threshold {text}: a rule stands twice")
    return rules


def achieved(scores: npt.NDArray[Any], targets: npt.NDArray[Any], threshold: float) -> dict[str, float]:
    """What a threshold does to scores (n,) with targets (n,), of which those that are not 0 or 1 are masked.

    Returns:
        `sensitivity`, `specificity`, `precision` and `f1` in [0, 1], NaN where not defined.
    """
    positive, over = targets == 1, scores >= threshold
    negative = targets == 0
    hits, alarms = int((positive & over).sum()), int((negative & over).sum())
    return {
        "sensitivity": _share(hits, int(positive.sum())),
        "specificity": _share(int(negative.sum()) - alarms, int(negative.sum())),
        "precision": _share(hits, hits + alarms),
        "f1": _share(2 * hits, hits + alarms + int(positive.sum())),
    }


def _share(part: int, whole: int) -> float:
    return part / whole if whole else math.nan


_CHOICES: dict[str, Callable[[Points, float], int]] = {
    "f1": lambda points, _: int(np.argmax(points.f1)),
    "youden": lambda points, _: int(np.argmax(points.sensitivity + points.specificity)),
    # thresholds fall: the first that is sensitive enough is the most specific, the last that is specific enough the
    # most sensitive; counts, not shares, so that 9 of 10 is 0.9
    "sensitivity": lambda points, value: int(np.argmax(points.hits >= _count(value, points.hits[-1]))),
    "specificity": lambda points, value: _last(points.alarms <= points.alarms[-1] - _count(value, points.alarms[-1])),
    "cost": lambda points, value: int(np.argmin(points.alarms + value * (points.hits[-1] - points.hits))),
}


def _count(share: float, whole: float) -> float:
    """How many of `whole` are at least this share of it: 0.9 of 10 is 9, in spite of rounding."""
    return math.ceil(share * whole - 1e-9 * whole)


def _last(true: npt.NDArray[np.bool_]) -> int:
    return int(np.flatnonzero(true)[-1])
