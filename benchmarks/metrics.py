"""Exact AUROC and AP, and their bootstrap, against loops over scikit-learn and against torchmetrics.

    uv run benchmarks/metrics.py                     # 100,000 rows x 40 labels, 1,000 resamples
    uv run benchmarks/metrics.py --rows 20000 --resamples 0 --no-torchmetrics

All are timed in the same process on the same arrays: 40 labels from 35 % to 0.05 % prevalence, scores as a sigmoid
model gives them.

First, one evaluation: probabilities in 32 and 64 bits, logits of either sign, and scores with many ties (as bfloat16
training gives them, and rounded to two digits). The last column is the largest difference of any AUROC or AP.

Then the bootstrap: patients with three rows on average are drawn with replacement. The plain loop copies the rows of
each resample and calls scikit-learn's two functions per label; 10 resamples of it are timed and extrapolated. Ours
includes the draws, the sort, and the 200 replicates of the jackknife that BCa intervals need.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.metrics import average_precision_score, roc_auc_score

from longview.ranking import per_label
from longview.statistics.figures import rankings
from longview.statistics.ranked import Ranked
from longview.statistics.resampling import Resamples, threads

Array = npt.NDArray[Any]
Metrics = tuple[Array, Array]

ROWS_PER_PATIENT = 3
TIMED = 10  # resamples of the plain loop


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
    """Torchmetrics' exact (unbinned) functions."""
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


def evaluation(logits: Array, targets: Array) -> None:
    """One evaluation, for scores of several kinds."""
    probabilities = 1 / (1 + np.exp(-logits))
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


def against_torchmetrics(scores: Array, targets: Array) -> None:
    """The same evaluation by torchmetrics; its figures are in single precision."""
    torchmetrics_exact(scores[:1000], targets[:1000])  # imports
    (fast, mine), (slow, theirs) = race(
        lambda: ours(scores, targets), lambda: torchmetrics_exact(scores, targets), repeats=2
    )
    error = max(float(np.abs(a - b).max()) for a, b in zip(mine, theirs, strict=True))
    line = f"{'probabilities, float32':30} longview {fast * 1e3:6.1f} ms   torchmetrics, exact {slow * 1e3:5.1f} ms"
    print(f"{line}   ratio {slow / fast:5.1f}   largest difference {error:.1e}")


def bootstrap(scores: Array, targets: Array, count: int) -> None:
    """All resamples at once against a loop that builds each."""
    rows = len(scores)
    patients = np.random.default_rng(1).integers(0, rows // ROWS_PER_PATIENT, rows)
    begin, work = time.perf_counter(), time.process_time()
    resamples = Resamples.draw(patients, count)
    figures = Ranked.of(rankings(scores, targets, resamples), resamples)
    fast, work = time.perf_counter() - begin, time.process_time() - work
    error, begin = 0.0, time.perf_counter()
    for replicate in range(1, 1 + TIMED):
        chosen = np.repeat(np.arange(rows), resamples.weights[replicate][resamples.cluster])
        auroc, ap = loop(scores[chosen], targets[chosen])
        for mine, theirs in ((figures.auroc, auroc), (figures.ap, ap)):
            error = max(error, float(np.abs(mine[replicate] - theirs).max()))
    slow = (time.perf_counter() - begin) / TIMED * count
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"bootstrap, {count:,} resamples of {resamples.clusters:,} patients: longview {fast:.1f} s ({work:.1f} s of "
        f"processor time, {threads()} threads)   scikit-learn loop {slow:,.0f} s (from {TIMED})   "
        f"ratio {slow / fast:,.0f}   largest difference {error:.1e}   peak memory of all this {memory:.1f} GB"
    )


def main() -> None:
    """Print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--labels", type=int, default=40)
    parser.add_argument("--resamples", type=int, default=1000, help="of the bootstrap; 0: none")
    parser.add_argument("--torchmetrics", action=argparse.BooleanOptionalAction, default=True)
    options = parser.parse_args()
    logits, targets = simulate(options.rows, options.labels)
    print(f"{options.rows:,} rows x {options.labels} labels")
    probabilities = (1 / (1 + np.exp(-logits))).astype(np.float32)
    if options.resamples:  # first, so that its peak memory is its own
        bootstrap(probabilities, targets, options.resamples)
    evaluation(logits, targets)
    if options.torchmetrics:
        against_torchmetrics(probabilities, targets)


if __name__ == "__main__":
    main()
