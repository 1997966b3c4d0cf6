"""Maps from a model's probability to a calibrated one, and how each is fitted.

All but isotonic regression rise strictly, so that they change no ranking: AUROC and average precision stay as they
were. Isotonic regression makes ties of whole ranges of scores and may change both.

Each is fitted on one label's known rows by minimising the binary cross-entropy, to which soft truth (between 0 and 1)
counts as it is; isotonic regression minimises the squared distance.
"""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from longview import InputError
from longview.calibration.figures import EDGE

FloatArray = npt.NDArray[np.float64]

SLOWEST = 0.01
"""Least slope on the log-odds: where truth falls with the score, a map that keeps the ranking can do no more."""
STEEPEST = 100.0
"""Greatest inverse temperature: where classes do not overlap, the best one would be infinite."""
_CUT = math.log(EDGE)
_DIGITS = 9  # of isotonic regression's knots in the file: float32 has no more, and the file stays readable


@dataclass(frozen=True)
class Calibrator(ABC):
    """A monotone map of [0, 1] to itself."""

    @abstractmethod
    def apply(self, probabilities: npt.NDArray[Any]) -> FloatArray:
        """Calibrated probabilities in [0, 1], of the shape of the given ones (any float type), float64."""


@dataclass(frozen=True)
class Temperature(Calibrator):
    """`sigmoid(logit(p) / T)` (Guo et al. 2017, arXiv 1706.04599, §4.2).

    Args:
        temperature: T > 0; over 1 where the model is too sure of itself.

    Raises:
        InputError: For another value.
    """

    temperature: float

    def __post_init__(self) -> None:
        _positive("temperature", self.temperature)

    def apply(self, probabilities: npt.NDArray[Any]) -> FloatArray:
        """See :meth:`Calibrator.apply`."""
        log_p, log_q = logarithms(probabilities)
        return sigmoid((log_p - log_q) / self.temperature)


@dataclass(frozen=True)
class Platt(Calibrator):
    """`sigmoid(slope logit(p) + intercept)` (Platt 1999, on log-odds in place of SVM outputs).

    Args:
        slope: Over 0.
        intercept: Shift of the log-odds: corrects a wrong prevalence, which a temperature cannot.

    Raises:
        InputError: For a slope that is not positive, or numbers that are not finite.
    """

    slope: float
    intercept: float

    def __post_init__(self) -> None:
        _positive("slope", self.slope)
        _finite("intercept", self.intercept)

    def apply(self, probabilities: npt.NDArray[Any]) -> FloatArray:
        """See :meth:`Calibrator.apply`."""
        log_p, log_q = logarithms(probabilities)
        return sigmoid(self.slope * (log_p - log_q) + self.intercept)


@dataclass(frozen=True)
class Beta(Calibrator):
    """`sigmoid(a log p - b log(1 - p) + c)` (Kull et al., AISTATS 2017, eq. 7); a = b is :class:`Platt`.

    Args:
        a: At least 0: bends the map near 0.
        b: At least 0: bends it near 1. One of the two is over 0.
        c: Shift of the log-odds.

    Raises:
        InputError: For other values.
    """

    a: float
    b: float
    c: float

    def __post_init__(self) -> None:
        _finite("c", self.c)
        if not (min(self.a, self.b) >= 0 and 0 < max(self.a, self.b) < math.inf):
            raise InputError(f"beta calibration needs a, b >= 0 and one of them over 0, not {self.a} and {self.b}")

    def apply(self, probabilities: npt.NDArray[Any]) -> FloatArray:
        """See :meth:`Calibrator.apply`."""
        log_p, log_q = logarithms(probabilities)
        return sigmoid(self.a * log_p - self.b * log_q + self.c)


@dataclass(frozen=True)
class Isotonic(Calibrator):
    """Isotonic regression (Zadrozny and Elkan, KDD 2002): linear between knots, constant beyond the outer ones.

    Args:
        scores: (k,) knots, not falling, in [0, 1].
        probabilities: (k,) calibrated probability at each, not falling, in [0, 1].

    Raises:
        InputError: For other values, or none.
    """

    scores: Sequence[float]
    probabilities: Sequence[float]

    def __post_init__(self) -> None:
        for name, values in (("scores", self.scores), ("probabilities", self.probabilities)):
            array = np.asarray(values, np.float64)
            if array.ndim != 1 or not array.size or not (np.all(array >= 0) and np.all(array <= 1)):
                raise InputError(f"isotonic {name} must be numbers from 0 to 1, at least one")
            if (np.diff(array) < 0).any():
                raise InputError(f"isotonic {name} must not fall")
        if len(self.scores) != len(self.probabilities):
            raise InputError(f"isotonic: {len(self.scores)} scores, but {len(self.probabilities)} probabilities")

    def apply(self, probabilities: npt.NDArray[Any]) -> FloatArray:
        """See :meth:`Calibrator.apply`."""
        return np.interp(probabilities.astype(np.float64), self.scores, self.probabilities)


def fit_temperature(probabilities: npt.NDArray[Any], targets: FloatArray) -> Temperature:
    """The temperature of least cross-entropy, between 1 / :data:`STEEPEST` and 1 / :data:`SLOWEST`.

    Args:
        probabilities: (n,) in [0, 1], of one label or of all.
        targets: (n,) in [0, 1], none NaN.
    """
    log_p, log_q = _cut(probabilities)
    (inverse,) = _logistic((log_p - log_q)[:, None], targets, np.ones(1))
    return Temperature(1 / float(np.clip(inverse, SLOWEST, STEEPEST)))  # convex: the nearest bound is the best


def fit_platt(probabilities: npt.NDArray[Any], targets: FloatArray) -> Platt:
    """Slope (at least :data:`SLOWEST`) and intercept of least cross-entropy, to Platt's softened targets.

    Args:
        probabilities: (n,) in [0, 1].
        targets: (n,) in [0, 1], none NaN.
    """
    log_p, log_q = _cut(probabilities)
    features = np.stack([log_p - log_q, np.ones(len(log_p))], axis=1)
    slope, intercept = _bounded(features, softened(targets), np.array([1.0, 0.0]), [SLOWEST])
    return Platt(float(slope), float(intercept))


def fit_beta(probabilities: npt.NDArray[Any], targets: FloatArray) -> Beta:
    """a, b >= 0 and c of least cross-entropy, to Platt's softened targets.

    The paper drops a feature whose coefficient is negative; where both would be, a = b = :data:`SLOWEST`.

    Args:
        probabilities: (n,) in [0, 1].
        targets: (n,) in [0, 1], none NaN.
    """
    log_p, log_q = _cut(probabilities)
    features = np.stack([log_p, -log_q, np.ones(len(log_p))], axis=1)
    soft = softened(targets)
    a, b, c = _bounded(features, soft, np.array([1.0, 1.0, 0.0]), [0.0, 0.0])
    if max(a, b) >= SLOWEST:
        return Beta(float(a), float(b), float(c))
    flat = SLOWEST * (log_p - log_q)
    (c,) = _logistic(features[:, 2:], soft, np.zeros(1), flat)
    return Beta(SLOWEST, SLOWEST, float(c))


def fit_isotonic(probabilities: npt.NDArray[Any], targets: FloatArray) -> Isotonic:
    """The rising map of least squared distance, by pooling adjacent violators.

    Any two neighbours that fall belong to one block of the solution, so all runs of falling blocks are pooled at once
    until none is left (Barlow et al. 1972, §1.2).

    Args:
        probabilities: (n,) in [0, 1].
        targets: (n,) in [0, 1], none NaN.
    """
    scores, place = np.unique(probabilities.astype(np.float64), return_inverse=True)
    weights = np.bincount(place).astype(np.float64)
    sums = np.bincount(place, targets)
    first = np.arange(len(scores))  # of each block
    falls = np.diff(sums / weights) <= 0  # equal ones too: fewer knots, the same map
    while falls.any():
        heads = np.flatnonzero(np.append(True, ~falls))
        weights, sums, first = np.add.reduceat(weights, heads), np.add.reduceat(sums, heads), first[heads]
        falls = np.diff(sums / weights) <= 0
    last = np.append(first[1:], len(scores)) - 1
    knots = np.stack([scores[first], scores[last]], axis=1).ravel()
    values = np.repeat(sums / weights, 2)
    keep = np.append(True, (np.diff(knots) > 0) | (np.diff(values) > 0))
    return Isotonic(_rounded(knots[keep]), _rounded(np.clip(values[keep], 0, 1)))


def softened(targets: FloatArray) -> FloatArray:
    """Truth pulled in by one imagined row of each kind (Platt 1999, eq. 5), so that no parameter runs to infinity.

    1 becomes (P + 1) / (P + 2) and 0 becomes 1 / (N + 2), for P positives and N negatives; soft values in between.

    Args:
        targets: (n,) in [0, 1].

    Returns:
        (n,) in (0, 1).
    """
    positives = targets.sum()
    high, low = (positives + 1) / (positives + 2), 1 / (len(targets) - positives + 2)
    result: FloatArray = low + targets * (high - low)
    return result


def logarithms(probabilities: npt.NDArray[Any]) -> tuple[FloatArray, FloatArray]:
    """`log p` and `log(1 - p)`, float64, finite, and different wherever p is.

    0 is taken for half the smallest number of p's type, and 1 for halfway from the number below it: that is where a
    sigmoid in that type rounds to them.
    """
    info = np.finfo(probabilities.dtype)
    wide = probabilities.astype(np.float64)
    log_p = np.full(wide.shape, math.log(float(info.smallest_subnormal)) - math.log(2))
    log_q = np.full(wide.shape, math.log(float(info.epsneg)) - math.log(2))
    np.log(wide, out=log_p, where=wide > 0)
    np.log1p(-wide, out=log_q, where=wide < 1)
    return log_p, log_q


def sigmoid(logits: FloatArray) -> FloatArray:
    """`1 / (1 + exp(-logits))` without overflow."""
    small = np.exp(-np.abs(logits))
    result: FloatArray = np.where(logits >= 0, 1, small) / (1 + small)
    return result


def _cut(probabilities: npt.NDArray[Any]) -> tuple[FloatArray, FloatArray]:
    """Logarithms for a fit, at least log(:data:`EDGE`): a 0.0 in a rounded table must not outweigh all other rows."""
    log_p, log_q = logarithms(probabilities)
    return np.maximum(log_p, _CUT), np.maximum(log_q, _CUT)


def _bounded(features: FloatArray, targets: FloatArray, start: FloatArray, least: Sequence[float]) -> FloatArray:
    """Coefficients of least cross-entropy whose first ones are at least `least`.

    The problem is convex, so the best point with bounds is the best among those with some coefficients at their
    bounds: for two bounds, four small problems at most, and one where the free solution is within them.
    """
    count, best, lowest = len(least), start, math.inf
    for size in range(count + 1):
        for held in itertools.combinations(range(count), size):
            free = [index for index in range(len(start)) if index not in held]
            found = start.copy()
            found[list(held)] = [least[index] for index in held]
            offset = features[:, list(held)] @ found[list(held)]
            found[free] = _logistic(features[:, free], targets, start[free], offset)
            loss = _loss(features @ found, targets)
            if np.all(found[:count] >= least) and loss < lowest:
                best, lowest = found, loss
        if lowest < math.inf and size == 0:
            break  # the free solution
    return best


def _logistic(
    features: FloatArray, targets: FloatArray, start: FloatArray, offset: FloatArray | float = 0.0
) -> FloatArray:
    """Coefficients (k,) of least mean cross-entropy of `sigmoid(features @ coefficients + offset)`, by Newton's method.

    Args:
        features: (n, k).
        targets: (n,) in [0, 1].
        start: (k,) where to begin.
        offset: (n,) or a number, added to the log-odds.
    """
    coefficients = start.astype(np.float64)
    logits = features @ coefficients + offset
    loss = _loss(logits, targets)
    for _ in range(100):
        probability = sigmoid(logits)
        slope = features.T @ (probability - targets) / len(targets)
        if np.abs(slope).max(initial=0) < 1e-11:
            break
        weighted = features * (probability * (1 - probability))[:, None]
        curvature = features.T @ weighted / len(targets)
        curvature += (1e-12 + 1e-12 * np.trace(curvature)) * np.eye(len(start))
        step = np.linalg.solve(curvature, slope)
        for _ in range(40):  # halved until it helps: far from the solution Newton's step may be too long
            logits = features @ (coefficients - step) + offset
            changed = _loss(logits, targets)
            if changed <= loss:
                break
            step = step / 2
        else:
            break  # at the limit of rounding
        coefficients, gain, loss = coefficients - step, loss - changed, changed
        if gain <= 1e-16 * loss:
            break
    return coefficients


def _loss(logits: FloatArray, targets: FloatArray) -> float:
    return float(np.mean(np.logaddexp(0, logits) - targets * logits))


def _rounded(values: FloatArray) -> tuple[float, ...]:
    return tuple(float(f"{value:.{_DIGITS}g}") for value in values)


def _positive(name: str, value: float) -> None:
    if not 0 < value < math.inf:
        raise InputError(f"{name} must be a positive number, not {value}: a map that does not rise changes the ranking")


def _finite(name: str, value: float) -> None:
    if not math.isfinite(value):
        raise InputError(f"{name} must be a finite number, not {value}")
