"""What the page draws, as numbers for metrics.json: curves, reliability, confusion matrices."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from longview.calibration.reliability import Diagram
from longview.curves import Curve
from longview.score_report import Evaluation, confusion_rows

FloatArray = npt.NDArray[np.float64]

POINTS = 120
"""Vertices of a curve at most: one for every three pixels or fewer of a chart of the page."""

_GRID = np.linspace(0, 1, 101)
_DIGITS = 5


def drawn(result: Evaluation, curves: Mapping[str, Curve], diagrams: Mapping[str, Diagram]) -> dict[str, Any]:
    """Everything that is drawn of an evaluation.

    Args:
        result: The evaluation.
        curves: Label -> curve, for labels that have positives and negatives.
        diagrams: Label -> reliability, for the same.

    Returns:
        `confusion`: rule -> label -> threshold and cells. `reliability`: label -> mean `probability`, `share` of
        positives and `rows` of each bin. `curves`: `roc` and `pr` -> `labels`: label -> `x` and `y`, and `mean`, the
        vertical mean over labels.
    """
    return {
        "confusion": confusion(result),
        "reliability": {
            name: {
                "probability": _rounded(found.probability),
                "share": _rounded(found.share),
                "rows": found.rows.tolist(),
            }
            for name, found in diagrams.items()
        },
        "curves": {
            "roc": _of_labels({name: curve.roc(POINTS) for name, curve in curves.items()}, "roc"),
            "pr": _of_labels({name: curve.precision_recall(POINTS) for name, curve in curves.items()}, "pr"),
        },
    }


def confusion(result: Evaluation) -> dict[str, dict[str, dict[str, float | int]]]:
    """Rule -> label -> `threshold` and the cells `tp`, `fp`, `fn`, `tn`, in rows."""
    found: dict[str, dict[str, dict[str, float | int]]] = {}
    for row in confusion_rows(result):
        found.setdefault(row.pop("rule"), {})[row.pop("label")] = row
    return found


def _of_labels(found: Mapping[str, tuple[FloatArray, FloatArray]], kind: str) -> dict[str, Any]:
    heights = [_on_grid(*points, kind) for points in found.values()]
    mean = np.mean(heights, axis=0)
    x, y = (np.append(0, _GRID), np.append(0, mean)) if kind == "roc" else (_GRID, mean)
    labels = {name: {"x": _rounded(points[0]), "y": _rounded(points[1])} for name, points in found.items()}
    return {"labels": labels, "mean": {"x": _rounded(x), "y": _rounded(y)}}


def _on_grid(x: FloatArray, y: FloatArray, kind: str) -> FloatArray:
    """Height of a curve on the grid: between the vertices of a ROC, on the stairs of a precision-recall curve."""
    if kind == "roc":
        return np.interp(_GRID, x, y)
    return y[np.minimum(np.searchsorted(x, _GRID - 1e-12), len(y) - 1)]


def _rounded(values: FloatArray) -> list[float]:
    found: list[float] = np.round(values, _DIGITS).tolist()
    return found
