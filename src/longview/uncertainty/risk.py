"""Risk and coverage: how much fewer errors remain once the most uncertain rows are handed to someone else.

Risk-coverage curves are those of El-Yaniv and Wiener (2010, JMLR 11) and Geifman and El-Yaniv (2017, arXiv 1705.08500);
the area above the best possible one is of Geifman, Uziel and El-Yaniv (2019, arXiv 1805.08206).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from longview.curves import empty_figure, shorten

FloatArray = npt.NDArray[np.float64]

ErrorKind = Literal["squared", "wrong"]
"""`squared`: (p - y)², the Brier score of a row. `wrong`: 1 where p is on the other side of the threshold than y."""

COVERAGES = (0.5, 0.8, 0.9, 1.0)
"""Coverages whose risk is told."""

_GRID = 200  # points of the macro curve


class RiskCoverage(NamedTuple):
    """Risk as a function of coverage, and its areas; the smaller each area, the better.

    * ``coverage`` (n,): 1/n, 2/n, … 1: the share of rows that are kept, the most certain first
    * ``risk`` (n,): mean error of the rows kept
    * ``aurc``: mean of `risk` over the n coverages
    * ``best``: the same, had the rows been ordered by their errors
    * ``random``: the same in any order on average, the mean error
    """

    coverage: FloatArray
    risk: FloatArray
    aurc: float
    best: float
    random: float

    @property
    def excess(self) -> float:
        """Area above the best possible one, E-AURC, at least 0."""
        return max(0.0, self.aurc - self.best)

    @property
    def gain(self) -> float:
        """Share of the way from a random order to the best one: 1 best, 0 random, below 0 worse; NaN without a way."""
        way = self.random - self.best
        return (self.random - self.aurc) / way if way > 0 else float("nan")

    def at(self, coverage: float) -> float:
        """Risk once at least this share of the rows is kept."""
        place = int(np.searchsorted(self.coverage, coverage - 1e-12))
        return float(self.risk[min(place, len(self.risk) - 1)])


def risk_coverage(error: npt.NDArray[Any], uncertainty: npt.NDArray[Any]) -> RiskCoverage:
    """The curve of one label.

    Rows of equal uncertainty stand in no order: the curve is the mean over all of theirs.

    Args:
        error: (n,) of any kind, not negative, larger for worse: 0 or 1, or a squared error.
        uncertainty: (n,) larger for less certain.

    Returns:
        Rows where either is NaN are left out; without any row, empty curves and NaN.
    """
    known = np.isfinite(error) & np.isfinite(uncertainty)
    errors = np.asarray(error, np.float64)[known]
    count = len(errors)
    if not count:
        nothing = np.empty(0)
        return RiskCoverage(nothing, nothing, float("nan"), float("nan"), float("nan"))
    _, place, sizes = np.unique(uncertainty[known], return_inverse=True, return_counts=True)
    means = np.bincount(place, weights=errors) / sizes
    kept = np.arange(1, count + 1)
    risk = np.cumsum(np.repeat(means, sizes)) / kept
    best = np.cumsum(np.sort(errors)) / kept
    return RiskCoverage(kept / count, risk, float(risk.mean()), float(best.mean()), float(errors.mean()))


def errors_of(
    probabilities: npt.NDArray[Any], targets: npt.NDArray[Any], kind: ErrorKind, thresholds: float | FloatArray = 0.5
) -> FloatArray:
    """Errors (n, L) of probabilities (n, L); NaN where the target is not 0 or 1.

    Args:
        probabilities: (n, L) in [0, 1].
        targets: (n, L).
        kind: What an error is.
        thresholds: For `wrong`, one or (L,): a probability of at least this is positive.
    """
    values, truth = np.asarray(probabilities, np.float64), np.asarray(targets, np.float64)
    errors = (
        (values - truth) ** 2 if kind == "squared" else ((values >= thresholds) != (truth > 0.5)).astype(np.float64)
    )
    return np.where((truth == 0) | (truth == 1), errors, np.nan)


@dataclass(frozen=True)
class RiskReport:
    """Risk and coverage of L labels.

    Args:
        names: L labels.
        curves: Theirs; a label without a row that is known has an empty one.
        kind: What an error is.
        measure: Which uncertainty the rows are ordered by.
    """

    names: list[str]
    curves: list[RiskCoverage]
    kind: ErrorKind
    measure: str

    @classmethod
    def of(
        cls,
        names: Sequence[str],
        errors: FloatArray,
        uncertainty: FloatArray,
        kind: ErrorKind,
        measure: str = "predictive_entropy",
    ) -> RiskReport:
        """Curves of errors (n, L) by uncertainty (n, L)."""
        curves = [risk_coverage(errors[:, place], uncertainty[:, place]) for place in range(len(names))]
        return cls(list(names), curves, kind, measure)

    def macro(self) -> RiskCoverage:
        """Mean of the labels' curves and areas, each label counting alike; at 200 coverages."""
        known = [curve for curve in self.curves if len(curve.risk)]
        grid = np.arange(1, _GRID + 1) / _GRID
        if not known:
            return risk_coverage(np.empty(0), np.empty(0))
        risks = [curve.risk[np.searchsorted(curve.coverage, grid - 1e-12)] for curve in known]
        areas = [float(np.mean([getattr(curve, key) for curve in known])) for key in ("aurc", "best", "random")]
        return RiskCoverage(grid, np.mean(risks, axis=0), *areas)

    def figures(self) -> dict[str, object]:
        """All that the report tells, as plain data; None for what is not known.

        `macro` and `per_label` (a row per label, by name): `aurc`, `aurc_best`, `aurc_random`, `excess_aurc`, `gain`,
        `risk_at_50` and so on (:data:`COVERAGES`), and `rows` of each label. `curves`: label, or `""` for the macro
        curve, to at most 200 points of `coverage` and `risk`.
        """
        macro = self.macro()
        rows = [
            {"label": name, "rows": len(curve.risk), **_numbers(curve)}
            for name, curve in zip(self.names, self.curves, strict=True)
        ]
        named = {"": macro, **dict(zip(self.names, self.curves, strict=True))}
        return {
            "error": self.kind,
            "measure": self.measure,
            "macro": _numbers(macro),
            "per_label": rows,
            "curves": {name: _points(curve) for name, curve in named.items()},
        }


def _numbers(curve: RiskCoverage) -> dict[str, float | None]:
    values = {"aurc": curve.aurc, "aurc_best": curve.best, "aurc_random": curve.random, "excess_aurc": curve.excess,
              "gain": curve.gain}  # fmt: skip
    for coverage in COVERAGES:
        values[f"risk_at_{round(100 * coverage)}"] = curve.at(coverage) if len(curve.risk) else float("nan")
    return {key: float(value) if np.isfinite(value) else None for key, value in values.items()}


def _points(curve: RiskCoverage) -> dict[str, list[float]]:
    count = len(curve.risk)
    places = np.unique(np.linspace(0, count - 1, min(count, _GRID)).round().astype(int)) if count else np.empty(0, int)
    return {
        "coverage": [round(float(value), 6) for value in curve.coverage[places]],
        "risk": [round(float(value), 8) for value in curve.risk[places]],
    }


def plot_risk(report: RiskReport, file: Path, colours: Mapping[str, str] | None = None) -> None:
    """Draw the macro curve over those of all labels, each as a share of its own risk at full coverage.

    Args:
        report: The curves.
        file: PNG to write.
        colours: Label -> colour; None: all grey.
    """
    figure = empty_figure(6.4, 4.4)
    axis = figure.subplots()
    for name, curve in zip(report.names, report.curves, strict=True):
        if len(curve.risk) and curve.random > 0:
            colour = (colours or {}).get(name, "0.7")
            axis.plot(curve.coverage, curve.risk / curve.random, color=colour, linewidth=0.7, label=shorten(name))
    macro = report.macro()
    if len(macro.risk) and macro.random > 0:
        axis.plot(macro.coverage, macro.risk / macro.random, color="#1b6ca8", linewidth=2.2)
    axis.axhline(1, color="0.4", linewidth=0.8, linestyle="--")
    words = "squared error" if report.kind == "squared" else "share wrong"
    axis.set(xlim=(0, 1), xlabel="coverage: share of rows kept, the most certain first")
    axis.set_ylabel(f"{words}, relative to all rows")
    axis.set_title(
        f"Risk and coverage by {report.measure.replace('_', ' ')}: AURC {macro.aurc:.4f}, random {macro.random:.4f}, "
        f"best {macro.best:.4f}", fontsize=9,
    )  # fmt: skip
    axis.set_ylim(bottom=0)
    axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(file, dpi=130)
