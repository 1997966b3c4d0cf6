"""Compare models on the same rows: differences with intervals, p-values, and the labels that each won."""

from __future__ import annotations

import json
import logging
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console
from rich.markup import escape
from rich.progress import track
from rich.table import Table

from longview import InputError, __version__
from longview.comparison import ALPHA, FIGURES, Aligned, Comparison, Difference, Pair, compare_models
from longview.evaluate import label_groups, with_derived
from longview.evaluation_checks import check_predictions, check_seed, check_training
from longview.forest import plot_forest
from longview.labels import LabelSet
from longview.outputs import sha256, staged
from longview.predictions import labels_of, read_predictions
from longview.score_report import shown, without_nan
from longview.statistics.support import caveats
from longview.truth import PLURAL, Match, Truth, match, unknown_patients

logger = logging.getLogger(__name__)


def compare(
    predictions: list[Path],
    truth: Path,
    output: Path,
    *,
    labels: Path | None = None,
    split: str | None = None,
    train: Path | None = None,
    bootstrap: int = 1000,
    seed: int = 0,
) -> None:
    """Compare models on the same rows: which is better, by how much, and how sure that is.

    Rows are joined by id and columns by label name, as in `evaluate`. All models must have predicted the same rows;
    labels that one of them lacks are named and left out. Patients are drawn with replacement --bootstrap times, the
    same for all models, and each difference of macro mAP, macro AUROC and each label's AP and AUROC gets a 95 %
    interval and a two-sided p-value. Of many comparisons some come out by chance: p-values are corrected by Holm's
    method over the labels of a pair, and over the pairs for the means.

    Prints models by macro mAP, each pair's differences and the labels won and lost, and writes compare.csv,
    compare.json and compare.png (a forest plot).

        uv run main.py compare --predictions a.parquet b.parquet --truth data/nih-1000 --output comparison

    Args:
        predictions: Two tables or more, as `evaluate` reads them.
        truth: A store, a manifest, or any .parquet or .csv with an id column and label columns.
        output: Folder to write to.
        labels: Label set (file, or name of one in configs/labels): compare only its labels, and know columns by its
            aliases.
        split: Part of the truth to score. Without it: the parts that the predicted rows are from, as a whole.
        train: Table or store to count training labels in, for head, medium and tail, as in `evaluate`.
        bootstrap: Resamples.
        seed: Of the resamples.
    """
    if len(predictions) < 2:
        raise InputError("compare needs two tables or more: --predictions A B")
    if bootstrap < 2:
        raise InputError(f"--bootstrap {bootstrap}: give a number of resamples, such as 1000")
    check_seed(seed)
    console = Console()
    actual, label_set = Truth.read(truth), LabelSet.load(labels) if labels else None
    counted = Truth.read(train) if train else None
    if counted:
        check_training(counted)
    for file in predictions:
        check_predictions(file, label_set)
    matches = {}
    for name, file in zip(short_names(predictions), predictions, strict=True):
        matches[name] = _match(file, actual, label_set, split)
    aligned = Aligned.of(matches)
    if aligned.left_out:
        logger.warning(
            "%d labels are not in every table, or not in the truth, and are not compared: %s",
            len(aligned.left_out), ", ".join(aligned.left_out),
        )  # fmt: skip
    if aligned.unit != "patient":
        logger.warning(
            "%s: intervals are over %s", unknown_patients(next(iter(matches.values()))), PLURAL[aligned.unit]
        )
    groups = label_groups(actual, counted, next(iter(matches.values())), label_set)
    result = compare_models(aligned, groups, bootstrap=bootstrap, seed=seed, track=_tracked)
    files = dict(zip(short_names(predictions), predictions, strict=True))
    with staged(output) as folder:
        write_comparison(result, files, actual.file, folder)
    console.print(model_table(result))
    for note in notes_of(result):
        console.print(note, soft_wrap=True, markup=False, highlight=False)
    console.print(pair_table(result))
    for pair in result.pairs:
        for line in outcome(pair, aligned.names):
            console.print(line, soft_wrap=True, markup=False, highlight=False)
    console.print(f"Comparison: {output}", soft_wrap=True, markup=False)


def _match(file: Path, truth: Truth, labels: LabelSet | None, split: str | None) -> Match:
    table = read_predictions(file)
    if labels is not None:
        truth = with_derived(truth, labels, labels_of(table))
    return match(table, truth, labels, split)


def _tracked(steps: Iterable[None], count: int) -> Iterable[None]:
    """A bar on a terminal."""
    silent = not sys.stderr.isatty()
    return track(steps, "Resamples", total=count, transient=True, disable=silent, console=Console(stderr=True))


def short_names(files: Sequence[Path]) -> list[str]:
    """Names of files that tell them apart: their stems, or as many folders before them as are needed.

    Raises:
        InputError: Where a file stands twice.
    """
    parts = [file.resolve().with_suffix("").parts for file in files]
    if len(set(parts)) < len(parts):
        raise InputError("--predictions: a table stands twice; a model differs from itself in nothing")
    for depth in range(1, max(len(part) for part in parts) + 1):
        names = ["/".join(part[-depth:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    raise AssertionError(parts)  # whole paths differ


def notes_of(result: Comparison) -> list[str]:
    """What a reader of the intervals has to know."""
    aligned = result.aligned
    return caveats(aligned.targets, result.resamples, aligned.names, PLURAL[aligned.unit])


def write_comparison(result: Comparison, files: Mapping[str, Path], truth: Path, folder: Path) -> None:
    """Write compare.csv, compare.json and compare.png.

    Args:
        result: The comparison.
        files: Model -> its table.
        truth: The truth's file.
        folder: Where to write.
    """
    rows = comparison_rows(result)
    pd.DataFrame(rows).to_csv(folder / "compare.csv", index=False)
    plot_forest(result, folder / "compare.png")
    report = {
        "longview": __version__,
        "files": {
            name: {"path": str(file), "sha256": sha256(file)} for name, file in {**files, "truth": truth}.items()
        },
        "rows": len(result.aligned.targets),
        "labels": result.aligned.names,
        "left_out": result.aligned.left_out,
        "resamples": result.resamples.drawn,
        "seed": result.resamples.seed,
        "clusters": result.resamples.clusters,
        "unit": result.aligned.unit,
        "notes": notes_of(result),
        "correction": "Holm, over the labels of a pair, and over the pairs for the means",
        "models": {
            model: {figure: found.entries() for figure, found in result.figures[model].over_all().items()}
            for model in result.aligned.models
        },
        "differences": rows,
    }
    text = json.dumps(without_nan(report), indent=2, allow_nan=False, ensure_ascii=False)
    (folder / "compare.json").write_text(text + "\n", encoding="utf-8")


def comparison_rows(result: Comparison) -> list[dict[str, Any]]:
    """One row per pair, figure, and label (empty: the mean over all, or over a group)."""
    rows = []
    group_of = {name: group for group, names in result.groups.items() for name in names}
    for pair in result.pairs:
        for figure in FIGURES:
            base = {"one": pair.one, "other": pair.other, "figure": figure}
            rows.append(base | {"group": "", "label": ""} | _entries(pair.means[figure]))
            for group, found in pair.groups.items():
                rows.append(base | {"group": group, "label": ""} | _entries(found[figure]))
            for index, name in enumerate(result.aligned.names):
                place = {"group": group_of.get(name, ""), "label": name}
                values = {
                    "positives": int(result.scores.positives[index]),
                    "one_value": float(result.figures[pair.one].labels[figure][0, index]),
                    "other_value": float(result.figures[pair.other].labels[figure][0, index]),
                }
                rows.append(base | place | values | _entries(pair.labels[figure][index]))
    return rows


def _entries(found: Difference) -> dict[str, Any]:
    entries = found.interval.entries()
    entries["difference"] = entries.pop("value")
    tests = {"p": found.p, "p_percentile": found.p_percentile, "p_holm": found.p_holm, "p_delong": found.p_delong}
    return entries | tests


def model_table(result: Comparison) -> Table:
    """Models from the highest macro mAP to the lowest."""
    aligned = result.aligned
    table = Table(title=f"{len(aligned.targets):,} rows, {len(aligned.names)} labels")
    table.add_column("model")
    for column in ("mean AP", "mean AUROC"):
        table.add_column(column, justify="right", no_wrap=True)
    for model in aligned.models:
        found = result.figures[model].over_all()
        table.add_row(escape(model), shown(found["map"]), shown(found["auroc"]))
    table.caption = (
        f"95 % intervals from {result.resamples.drawn:,} resamples of {result.resamples.clusters:,} "
        f"{PLURAL[aligned.unit]}; a pair may differ surely although these overlap"
    )
    return table


def pair_table(result: Comparison) -> Table:
    """Differences of the means of each pair."""
    table = Table(title="Differences")
    table.add_column("")
    for column in ("mean of", "difference", "p"):
        table.add_column(column, justify="right", no_wrap=True)
    for pair in result.pairs:
        for figure, title in (("ap", "AP"), ("auroc", "AUROC")):
            found = pair.means[figure]
            table.add_row(escape(f"{pair.one} - {pair.other}"), title, _signed(found), _p(found.p_holm))
    count, pairs = len(result.aligned.names), len(result.pairs)
    over = f"{pairs} pairs and" if pairs > 1 else "a pair's"
    table.caption = (
        f"p-values are corrected by Holm's method, over {over} {count} labels: without that, about "
        f"{max(1, round(ALPHA * count))} of {count} labels would differ by chance alone"
    )
    return table


def outcome(pair: Pair, names: Sequence[str]) -> list[str]:
    """Sentences on the labels that one of two models won, by AP and by AUROC."""
    lines = []
    for figure, title in (("ap", "AP"), ("auroc", "AUROC")):
        signs = [found.sign for found in pair.labels[figure]]
        for sign, winner, loser in ((1, pair.one, pair.other), (-1, pair.other, pair.one)):
            won = [
                f"{name} {pair.labels[figure][index].interval.value * sign:+.3f}"
                for index, name in enumerate(names)
                if signs[index] == sign
            ]
            if won:
                lines.append(f"{winner} beats {loser} by {title} on {len(won)} labels: {', '.join(won)}")
        if not any(signs):
            lines.append(f"{pair.one} and {pair.other} differ surely on no label by {title}")
    return lines


def _signed(found: Difference) -> str:
    interval = found.interval
    if math.isnan(interval.percentile_low):
        return "-" if math.isnan(interval.value) else f"{interval.value:+.4f}"
    return f"{interval.value:+.4f} ({interval.percentile_low:+.3f} to {interval.percentile_high:+.3f})"


def _p(value: float) -> str:
    if math.isnan(value):
        return "-"
    return f"{value:.3f}" if value >= 0.001 else "<0.001"
