"""What a calibration does, as tables: printed, and a row per label."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from longview.calibration.calibrators import Isotonic
from longview.calibration.file import parameters
from longview.calibration.fitting import Fit
from longview.calibration.thresholds import Rule, achieved
from longview.truth import PLURAL


def per_label_rows(result: Fit, rules: Sequence[Rule]) -> list[dict[str, Any]]:
    """One row per label: counts, parameters, figures before and after, thresholds and what they do."""
    rows = []
    for index, (name, label) in enumerate(result.calibration.labels.items()):
        row: dict[str, Any] = {"label": name, **label.counts, "pooled": label.pooled}
        row |= {"pooled_threshold": name in result.calibration.about["pooled_thresholds"]} if rules else {}
        for stage, figures in label.figures.items():
            row |= {f"{figure}_{stage}": value for figure, value in figures.items()}
        for rule in map(str, rules):
            cut = label.thresholds[rule]
            done = achieved(result.after[:, index], result.known.targets[:, index], cut)
            row |= {f"threshold_{rule}": cut} | {f"{figure}_{rule}": value for figure, value in done.items()}
        map_ = label.calibrator
        row |= {"knots": len(map_.scores)} if isinstance(map_, Isotonic) else parameters(map_)
        rows.append(row)
    return rows


def report_table(result: Fit, rules: Sequence[Rule] = ()) -> Table:
    """The table that is printed: figures before and after, labels from frequent to rare, then the means.

    Of several thresholds the first is shown; all are in the file and the table beside it.
    """
    about, labels = result.calibration.about, result.calibration.labels
    last = "after" if result.held is None else "held_out"
    of = f" of {about['split']}" if "split" in about else ""
    # narrow enough for 80 columns, which is what a log file gets
    # names and splits are the user's: as plain text, for rich would take `[...]` in them for markup
    title = Text(f"{result.calibration.method} on {about['rows']:,} {PLURAL[result.known.level]}{of}")
    table = Table(title=title, box=SIMPLE_HEAD, padding=0)
    table.add_column("label", min_width=10)
    for column in ("positives", "ECE", "after", "Brier", "after", "BCE", "after", *rules[:1]):
        table.add_column(str(column), justify="right", no_wrap=True, min_width=6)
    for name, label in sorted(labels.items(), key=lambda item: -item[1].counts["positives"]):
        cells = _pairs(label.figures["before"], label.figures[last])
        cuts = [f"{label.thresholds[str(rule)]:.4f}" for rule in rules[:1]]
        starred = label.pooled or name in about["pooled_thresholds"]
        shown = Text(f"{name}*" if starred else name)
        table.add_row(shown, f"{label.counts['positives']:,}", *cells, *cuts, style="dim" * starred)
    table.add_section()
    macro = about["macro"]
    table.add_row("mean", "", *_pairs(macro["before"], macro[last]), style="bold")
    notes = [_of_after(result)]
    shared = ["temperature of all labels"] * bool(about["pooled"])
    shared += ["one threshold for all such labels"] * bool(about["pooled_thresholds"])
    if shared:
        notes.append(f"* under {about['minimum']} positives or negatives: {' and '.join(shared)}")
    if result.calibration.method == "isotonic":
        notes.append("isotonic makes ties: AUROC and average precision may change")
    table.caption = Text("\n".join(notes))
    return table


def _of_after(result: Fit) -> str:
    """Which rows the figures `after` are of."""
    if result.held is None:
        return "after: on the very rows it was fitted on, which flatters; --folds 5 judges on others"
    about = result.calibration.about
    drawn = f"{about['units']:,} {PLURAL[result.known.unit]}"
    return f"after: {about['folds']}-fold over {drawn}, each calibrated by a fit on the others"


def _pairs(before: Mapping[str, float | None], after: Mapping[str, float | None]) -> list[str]:
    found = [figures[name] for name in ("ece", "brier", "bce") for figures in (before, after)]
    return ["-" if value is None or math.isnan(value) else f"{value:.4f}" for value in found]
