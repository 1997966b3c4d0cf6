"""Score predictions against truth: tables and plots, without a model, a GPU or torch."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table

from longview import InputError, __version__
from longview.curves import GROUPS, Curve, plot_bars, plot_curves
from longview.data.derive import derive
from longview.joining import columns_of, sha256
from longview.labels import LabelSet
from longview.outputs import staged
from longview.predictions import labels_of, read_predictions
from longview.ranking import LabelScores, Summary, group_means, per_label, summarise
from longview.truth import Match, Truth, match, training_groups
from longview.violations import Violations

logger = logging.getLogger(__name__)

VIOLATIONS = "violations.csv"


@dataclass(frozen=True)
class Evaluation:
    """What :func:`score` finds.

    Args:
        match: The rows and labels that were compared.
        scores: Counts and metrics per label.
        groups: `head`, `medium`, `tail` -> names, and `unseen` -> those that no training row knows; empty where
            training counts are not known.
        summary: Macro means.
        violations: How often the predictions contradict the label set's hierarchy; None without one.
    """

    match: Match
    scores: LabelScores
    groups: dict[str, list[str]]
    summary: Summary
    violations: Violations | None = None

    @property
    def group_of(self) -> dict[str, str]:
        """Label -> group."""
        return {name: group for group, names in self.groups.items() for name in names}


def evaluate(
    predictions: Path,
    truth: Path,
    output: Path,
    *,
    labels: Path | None = None,
    split: str | None = None,
    train: Path | None = None,
) -> None:
    """Score predictions: AUROC and average precision per label, macro means, ROC and PR plots.

    Rows are joined by id (image_id where both tables have it, else study_id) and columns by label name, never by
    position. Every row of the truth, or of its split, must have been predicted; predicted rows beyond it are
    counted and left out. Unknown (empty) and soft (between 0 and 1) truth is masked. A label without positives or
    without negatives counts in no mean and is named.

    Head (over 10 %), medium and tail (under 1 %) are told apart by the labels' prevalence in training: among the
    rows of --train, else among the truth's rows of split train, as a store has. Without either there are no groups.

    With --labels SET whose labels have a hierarchy, derived labels that were predicted are derived in the truth too,
    and the report says how often a child is above its parent, and the macro means once each parent is raised to its
    highest child. Each edge's rates are in violations.csv.

    Prints a table and writes metrics.json, per_label.csv, roc.png, pr.png and per_label.png.

        uv run main.py evaluate --predictions predictions.parquet --truth data/nih-1000 --output report
        uv run main.py evaluate --predictions predictions.csv --truth test.csv --train train.csv --output report

    Args:
        predictions: Table that `predict` wrote, or any .parquet or .csv with ids and a probability per label.
        truth: A store, a manifest, or any .parquet or .csv with an id column (image_id, study_id, dicom_id,
            ImageID or Image Index) and label columns.
        output: Folder for the report; files of an earlier report in it are replaced.
        labels: Label set (file, or name of one in configs/labels): score only its labels, know columns by its
            aliases, and use its hierarchy. Without it, every predicted label that the truth holds is scored.
        split: Part of the truth to score. Without it: the parts that the predicted rows are from, as a whole.
        train: Table or store to count training labels in: its rows of split train, or all its rows where it has
            no column `split`. Without it: the truth's rows of split train, where it has some.
    """
    console = Console()
    table, actual = read_predictions(predictions), Truth.read(truth)
    label_set = LabelSet.load(labels) if labels else None
    counted = Truth.read(train) if train else None
    result = score(table, actual, labels=label_set, split=split, train=counted)
    files = {"predictions": predictions, "truth": actual.file} | ({"train": counted.file} if counted else {})
    with staged(output) as folder:
        write_report(result, files, folder)
    if result.violations is None:
        (output / VIOLATIONS).unlink(missing_ok=True)  # of an earlier report
    console.print(report_table(result))
    if result.violations:
        console.print(result.violations.table(result.summary))
    console.print(f"Report: {output}", soft_wrap=True)


def score(
    predictions: pd.DataFrame,
    truth: Truth,
    *,
    labels: LabelSet | None = None,
    split: str | None = None,
    train: Truth | None = None,
) -> Evaluation:
    """Compare predictions with truth.

    Args:
        predictions: As :func:`longview.predictions.read_predictions` gives it.
        truth: What is true.
        labels: Score only these; None: all that were predicted.
        split: Split of the truth; None: those that the predicted rows are from.
        train: Table whose training rows (all, where it has no `split`) tell head, medium and tail apart; None:
            the truth's rows of split `train`, and no groups where it has none.

    Raises:
        InputError: Where rows or labels do not fit together, nothing can be scored, or `train` has no training
            rows.
    """
    if labels is not None:
        truth = with_derived(truth, labels, labels_of(predictions))
        train = with_derived(train, labels, labels_of(predictions)) if train else None
    matched = match(predictions, truth, labels, split)
    scores = per_label(matched.scores, matched.targets, matched.names)
    groups = _groups(truth, train, matched, labels)
    summary = summarise(matched.names, scores, groups)
    if len(summary["skipped"]) == len(matched.names):
        raise InputError(
            f"none of the {len(matched.names)} labels has both positives and negatives among the "
            f"{len(matched.targets)} rows of {truth.file}, so nothing can be scored"
        )
    for title, names in (("not in the truth", matched.unscored), ("not predicted", matched.unpredicted)):
        if names:
            logger.warning("%d labels are %s and not scored: %s", len(names), title, ", ".join(names))
    if matched.extra:
        logger.info("%d predicted rows are not in the truth and are left out", matched.extra)
    broken = None
    if labels is not None:
        broken = Violations.of(labels, matched.names, matched.scores, matched.targets, groups)
    return Evaluation(matched, scores, groups, summary, broken)


def with_derived(truth: Truth, labels: LabelSet, predicted: Sequence[str]) -> Truth:
    """A truth with columns of the derived labels that were predicted, and of no others.

    Args:
        truth: Any table; what it says of derived labels itself counts only where their causes are unknown.
        labels: Which labels are derived, and from what.
        predicted: The predictions' label columns.
    """
    derived = [label.name for label in labels.labels if label.derived]
    if not derived:
        return truth
    columns = columns_of(labels, list(truth.table.columns), str(truth.file))
    known = [name for name in labels.names if name in columns]
    values = np.full((len(truth.table), len(labels.names)), np.nan)
    values[:, [labels.names.index(name) for name in known]] = truth.targets([columns[name] for name in known])
    filled = dict(zip(labels.names, derive(values, labels).T, strict=True))
    wanted = [name for name in derived if name in columns_of(labels, predicted, "the predictions")]
    plain = truth.table.drop(columns=[columns[name] for name in derived if name in columns])
    return Truth(truth.file, truth.ids, plain.assign(**{name: filled[name] for name in wanted}))


def _groups(truth: Truth, train: Truth | None, matched: Match, labels: LabelSet | None) -> dict[str, list[str]]:
    """Head, medium and tail from training rows: those of `train` where it is given, else those in the truth."""
    table = train or truth
    columns = dict(zip(matched.names, matched.columns, strict=True))
    known = set(table.table.columns)
    if labels:
        columns = {name: column for column in known if (name := labels.canonical(column)) in columns}
    present = {name: columns[name] for name in matched.names if columns.get(name) in known}
    found = training_groups(table, list(present), list(present.values()), matched.level, whole=train is not None)
    if found is None and train:
        raise InputError(f"--train {train.file} has a column `split`, but no row of it is `train`")
    if found is None:
        logger.info(
            "no head, medium and tail means: %s has no rows of split train; give --train TABLE_OR_STORE", truth.file
        )
        return {}
    grouped = {name for members in found.values() for name in members}
    unseen = [name for name in present if name not in grouped]  # zero-shot: their means stand by themselves
    return found | ({"unseen": unseen} if unseen else {})


def write_report(result: Evaluation, files: dict[str, Path], folder: Path) -> None:
    """Write the tables and plots of an evaluation into a folder.

    Args:
        result: The evaluation.
        files: Role (`predictions`, `truth`, `train`) -> file; their hashes are noted.
        folder: Where to write.
    """
    matched, scores, names = result.match, result.scores, result.match.names
    rows = per_label_rows(result)
    pd.DataFrame(rows).to_csv(folder / "per_label.csv", index=False)
    if result.violations:
        pd.DataFrame(result.violations.rows()).to_csv(folder / VIOLATIONS, index=False)
    curves = {
        name: Curve.of(matched.scores[:, index], matched.targets[:, index])
        for index, name in enumerate(names)
        if scores.scored[index]
    }
    plot_curves("roc", curves, names, scores, group_of=result.group_of, file=folder / "roc.png")
    plot_curves("pr", curves, names, scores, group_of=result.group_of, file=folder / "pr.png")
    plot_bars(names, scores, result.group_of, folder / "per_label.png")
    auroc = group_means(scores.auroc, names, result.groups)
    ap = group_means(scores.ap, names, result.groups)
    report = {
        "longview": __version__,
        "files": {role: {"path": str(file), "sha256": sha256(file)} for role, file in files.items()},
        "level": matched.level,
        "splits": matched.splits,
        "rows": len(matched.targets),
        "extra_predictions": matched.extra,
        "labels": len(names),
        "map": result.summary["map"],
        "auroc": result.summary["auroc"],
        "groups": {
            group: {"labels": members, "map": ap[group], "auroc": auroc[group]}
            for group, members in result.groups.items()
        },
        "hierarchy": result.violations and result.violations.report(result.summary),
        "skipped": result.summary["skipped"],
        "not_in_truth": matched.unscored,
        "not_predicted": matched.unpredicted,
        "per_label": rows,
    }
    text = json.dumps(_without_nan(report), indent=2, allow_nan=False, ensure_ascii=False)
    (folder / "metrics.json").write_text(text + "\n", encoding="utf-8")


def per_label_rows(result: Evaluation) -> list[dict[str, Any]]:
    """One row per label: group, counts, prevalence and metrics (NaN where a label lacks one kind)."""
    scores = result.scores
    return [
        {
            "label": name,
            "group": result.group_of.get(name, ""),
            "positives": int(scores.positives[index]),
            "negatives": int(scores.negatives[index]),
            "unknown": int(scores.unknown[index]),
            "soft": int(scores.soft[index]),
            "prevalence": float(scores.prevalence[index]),
            "auroc": float(scores.auroc[index]),
            "ap": float(scores.ap[index]),
        }
        for index, name in enumerate(result.match.names)
    ]


def report_table(result: Evaluation) -> Table:
    """The table that is printed: labels from frequent to rare, then the means."""
    matched, scores = result.match, result.scores
    part = f" of {' and '.join(matched.splits)}" if matched.splits else ""
    unit = "studies" if matched.level == "study" else "images"
    table = Table(title=f"{len(matched.targets):,} {unit}{part}")
    table.add_column("label", no_wrap=True)
    table.add_column("group", no_wrap=True)
    for column in ("positives", "share", "AUROC", "AP"):
        table.add_column(column, justify="right", no_wrap=True)
    rows = sorted(per_label_rows(result), key=lambda row: -row["positives"])
    for row in rows:
        style = "dim" if math.isnan(row["ap"]) else ""
        cells = (f"{row['positives']:,}", f"{100 * row['prevalence']:.2f} %", _figures(row["auroc"]))
        table.add_row(row["label"], row["group"], *cells, _figures(row["ap"]), style=style)
    table.add_section()
    summary, auroc = result.summary, group_means(scores.auroc, matched.names, result.groups)
    scored = int(scores.scored.sum())
    table.add_row(
        f"mean of {scored}", "all", "", "", _figures(summary["auroc"]), _figures(summary["map"]), style="bold"
    )
    ap = group_means(scores.ap, matched.names, result.groups)
    for group in GROUPS:
        if group in ap:
            table.add_row("mean", group, "", "", _figures(auroc[group]), _figures(ap[group]), style="bold")
    if summary["skipped"]:
        table.caption = f"Left out of the means (positives or negatives only): {', '.join(summary['skipped'])}"
    return table


def _figures(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.4f}"


def _without_nan(value: Any) -> Any:
    """JSON has no NaN: null says that a figure is not defined."""
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value
