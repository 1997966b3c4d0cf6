"""Tables of an evaluation, as they are printed."""

from __future__ import annotations

from collections.abc import Mapping

from rich.markup import escape
from rich.table import Table

from longview.score_report import COMMON, PRESETS, Evaluation, shown
from longview.statistics.figures import FIXED
from longview.statistics.intervals import Interval
from longview.truth import PLURAL


def report_table(result: Evaluation) -> Table:
    """The table that is printed: labels from frequent to rare, then the means."""
    matched, scores, figures = result.match, result.scores, result.figures
    part = f" of {' and '.join(matched.splits)}" if matched.splits else ""
    table = Table(title=escape(f"{len(matched.targets):,} {PLURAL[matched.level]}{part}"))
    sure = bool(result.resamples.drawn)
    table.add_column("label", no_wrap=True, min_width=10)
    table.add_column("group", no_wrap=True, min_width=6 * bool(result.groups))
    # 80 columns hold both intervals in full
    table.add_column("pos." if sure else "positives", justify="right", no_wrap=True, min_width=4)
    if not sure:  # no room beside intervals
        table.add_column("share", justify="right", no_wrap=True)
    for column in ("AUROC", "AP"):
        table.add_column(column, justify="right", no_wrap=True, min_width=17 if sure else 6)

    def add(name: str, group: str, counts: tuple[str, str], found: Mapping[str, Interval], ap: str, style: str) -> None:
        table.add_row(
            escape(name),
            escape(group),
            *counts[: 1 if sure else 2],
            shown(found["auroc"]),
            shown(found[ap]),
            style=style,
        )

    for index in sorted(range(len(matched.names)), key=lambda index: -scores.positives[index]):
        name = matched.names[index]
        counts = (f"{scores.positives[index]:,}", f"{100 * scores.prevalence[index]:.2f} %")
        style = "" if scores.scored[index] else "dim"
        add(name, result.group_of.get(name, ""), counts, figures.of_label(name), "ap", style)
    table.add_section()
    add(f"mean of {int(scores.scored.sum())}", "all", ("", ""), figures.over_all(), "map", "bold")
    for group in result.groups:
        add("mean", group, ("", ""), figures.of_group(group), "map", "bold")
    notes = []
    if result.resamples.drawn:
        clusters = f"{result.resamples.clusters:,} {PLURAL[result.match.unit]}"
        notes.append(f"95 % intervals from {result.resamples.drawn:,} resamples of {clusters}")
    if result.summary["skipped"]:
        notes.append(f"Left out of the means (positives or negatives only): {', '.join(result.summary['skipped'])}")
    table.caption = escape("; ".join(notes)) or None
    return table


def summary_table(result: Evaluation, preset: str | None = None) -> Table:
    """The figures over all labels that are printed, those of a preset alone where one is named."""
    found = result.figures.over_all()
    if preset:
        table = Table(title=preset)
        table.add_column("")
        table.add_column("", justify="right", no_wrap=True)
        for title, figure in PRESETS[preset].items():
            table.add_row(title, shown(found[figure]))
        return table
    table = Table(title="Over all labels")
    table.add_column("")
    for column in ("macro", "micro", "weighted"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_row("AUROC", *(shown(found[name]) for name in ("auroc", "auroc_micro", "auroc_weighted")))
    table.add_row("AP", *(shown(found[name]) for name in ("map", "ap_micro", "ap_weighted")))
    for rule in result.thresholds:
        end = "" if rule == FIXED else f"_{rule}"
        title = f"F1 at {result.thresholds[rule][0]:g}" if rule == FIXED else f"F1, {rule} thresholds"
        table.add_row(title, shown(found[f"f1{end}"]), shown(found[f"f1_micro{end}"]), "")
    table.add_row("ECE", shown(found["ece"]), "", "")
    table.add_row("Brier", shown(found["brier"]), "", "")
    return table


def subgroup_table(result: Evaluation) -> Table:
    """Subgroups with counts and means, as they are printed."""
    table = Table(title="Subgroups")
    table.add_column("", no_wrap=True, min_width=11)  # 80 columns hold five digits of rows
    for column in ("rows", PLURAL[result.match.unit], "labels", "AUROC", "AP"):
        table.add_column(column, justify="right", no_wrap=True, min_width=15 if column in {"AUROC", "AP"} else 5)
    last = ""
    for part in result.parts:
        if part.subgroup.column != last and last:
            table.add_section()
        last = part.subgroup.column
        own, common = part.figures.over_all(), part.figures.of_group(COMMON)
        labels = int(part.scores.scored.sum())
        counts = (f"{part.subgroup.rows.sum():,}", f"{part.clusters:,}", str(labels))
        table.add_row(escape(f"{last} {part.subgroup.value}"), *counts, shown(own["auroc"]), shown(own["map"]))
        if 0 < len(part.common) < labels:
            means = (shown(common["auroc"]), shown(common["map"]))
            table.add_row("  in common", "", "", str(len(part.common)), *means, style="dim")
    table.caption = (
        "Means over the labels that a subgroup itself can score; in common: over those that every subgroup of its "
        "column can, and only these compare"
    )
    return table
