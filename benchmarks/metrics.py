"""Exact AUROC and AP of all labels in one pass, against a loop over scikit-learn's two functions.

    uv run benchmarks/metrics.py                     # 100,000 rows x 40 labels
    uv run benchmarks/metrics.py --rows 20000 --torchmetrics

Both are timed in the same process on the same arrays: 40 labels from 35 % to 0.05 % prevalence, scores as a
sigmoid model gives them. Also shown: 64-bit scores, logits of either sign, and scores with many ties (as
bfloat16 training gives them, and rounded to two digits). The last column is the largest difference of any AUROC or AP.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.metrics import average_precision_score, roc_auc_score

from longview.ranking import per_label

Array = npt.NDArray[Any]
Metrics = tuple[Array, Array]


def simulate(rows: int, labels: int) -> tuple[Array, Array]:
    """Logits (rows, labels) float64 and 0/1 targets with a long tail."""
    rng = np.random.default_rng(0)
    prevalence = np.geomspace(0.35, 0.0005, labels)
    targets = (rng.random((rows, labels)) < prevalence).astype(np.float32)
    logits = rng.normal(np.log(prevalence), 1.2, (rows, labels)) + 1.5 * targets
    return logits, targets


def as_bfloat16(values: Array) -> Array:
    """Float32 values with the 8 significant bits that mixed precision leaves: many ties."""
    return (values.astype(np.float32).view(np.uint32) & 0xFFFF0000).view(np.float32)


def race(one: Callable[[], Metrics], other: Callable[[], Metrics], repeats: int) -> list[tuple[float, Metrics]]:
    """Shortest wall time in seconds and the result of each, run in turn so that both meet the same load."""
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeats):
        results = []
        for function, taken in zip((one, other), times, strict=True):
            begin = time.perf_counter()
            results.append(function())
            taken.append(time.perf_counter() - begin)
    return [(min(taken), result) for taken, result in zip(times, results, strict=True)]


def ours(scores: Array, targets: Array) -> Metrics:
    """Longview's."""
    result = per_label(scores, targets)
    return result.auroc, result.ap


def loop(scores: Array, targets: Array) -> Metrics:
    """The usual recipe: two calls per label."""
    columns = range(scores.shape[1])
    auroc = [roc_auc_score(targets[:, column], scores[:, column]) for column in columns]
    ap = [average_precision_score(targets[:, column], scores[:, column]) for column in columns]
    return np.array(auroc), np.array(ap)


def torchmetrics_exact(scores: Array, targets: Array) -> Metrics:
    """Torchmetrics' exact (unbinned) functions, for information."""
    import torch  # several seconds, only for this row
    from torchmetrics.functional.classification import (
        multilabel_auroc,
        multilabel_average_precision,
    )

    predicted, target = torch.from_numpy(scores), torch.from_numpy(targets).long()
    labels = scores.shape[1]
    auroc = multilabel_auroc(predicted, target, labels, average="none")
    ap = multilabel_average_precision(predicted, target, labels, average="none")
    return auroc.double().numpy(), ap.double().numpy()


def main() -> None:
    """Print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--labels", type=int, default=40)
    parser.add_argument("--torchmetrics", action="store_true", help="also time torchmetrics' exact functions")
    options = parser.parse_args()
    logits, targets = simulate(options.rows, options.labels)
    probabilities = 1 / (1 + np.exp(-logits))
    print(f"{options.rows:,} rows x {options.labels} labels")
    for name, scores in (
        ("probabilities, float32", probabilities.astype(np.float32)),
        ("probabilities, float64", probabilities),
        ("logits, float64", logits),
        ("of bfloat16 logits, float32", 1 / (1 + np.exp(-as_bfloat16(logits)))),
        ("rounded to 2 digits, float32", probabilities.round(2).astype(np.float32)),
    ):
        (fast, mine), (slow, theirs) = race(
            lambda scores=scores: ours(scores, targets),  # type: ignore[misc]
            lambda scores=scores: loop(scores, targets),  # type: ignore[misc]
            repeats=3,
        )
        error = max(float(np.abs(a - b).max()) for a, b in zip(mine, theirs, strict=True))
        line = f"{name:30} longview {fast * 1e3:6.1f} ms   scikit-learn loop {slow * 1e3:7.1f} ms"
        print(f"{line}   ratio {slow / fast:5.1f}   largest difference {error:.1e}")
    if options.torchmetrics:
        begin = time.perf_counter()
        torchmetrics_exact(probabilities.astype(np.float32), targets)
        print(f"torchmetrics, exact, float32: {(time.perf_counter() - begin) * 1e3:.1f} ms")


if __name__ == "__main__":
    main()
