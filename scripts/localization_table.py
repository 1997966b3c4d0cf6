"""Markdown of `localize`: pointing game and CorLoc@0.3 per label, for each method, what consolidates them, the centre.

    uv run scripts/localization_table.py data/localization/boxes

The argument is an output of `localize`. A second table holds the means over labels with their intervals, and how often
each name is better than the baseline `centre`, a box in the middle of the film.

    uv run scripts/localization_table.py --best data/localization/val_*

With --best, the threshold of the output whose methods have the highest IoU is printed instead.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from tables import write

CENTRE, MEAN = "centre", "mean over labels"
SHOWN = {"pointing": "pointing game", "corloc_0.3": "CorLoc@0.3", "iou": "IoU", "dice": "Dice", "ap_0.3": "AP@0.3"}


def rows_of(output: Path) -> list[dict[str, Any]]:
    """Rows of metrics.json.

    Raises:
        SystemExit: Where there is none.
    """
    file = output / "metrics.json"
    if not file.is_file():
        sys.exit(f"error: {output} has no metrics.json; give an output of localize that had true boxes")
    rows: list[dict[str, Any]] = json.loads(file.read_text(encoding="utf-8"))["figures"]
    return rows


def best_threshold(outputs: list[Path]) -> str:
    """The threshold of the output whose methods, but for the centre, have the highest mean IoU over labels."""

    def iou(output: Path) -> float:
        found = [float(row["iou"]) for row in rows_of(output) if row["label"] == MEAN and row["name"] != CENTRE]
        return sum(found) / len(found)

    chosen = max(outputs, key=iou)
    options = json.loads((chosen / "metrics.json").read_text(encoding="utf-8"))["boxes"]
    return str(options["threshold"])


def per_label(rows: list[dict[str, Any]]) -> None:
    """A row per label, a column per name: pointing game / CorLoc@0.3."""
    names = list(dict.fromkeys(row["name"] for row in rows))
    found = {(row["name"], row["label"]): row for row in rows}
    labels = [label for label in dict.fromkeys(row["label"] for row in rows) if label != MEAN]
    films = {label: next(row["films"] for row in rows if row["label"] == label) for label in labels}
    table = []
    for label in sorted(labels, key=lambda label: -films[label]):
        cells = [found.get((name, label)) for name in names]
        best = [max(cell[figure] for cell in cells if cell) for figure in ("pointing", "corloc_0.3")]
        table.append([label, str(films[label]), *("" if cell is None else _pair(cell, best) for cell in cells)])
    write(["label", "films", *(name.rpartition("/")[2] for name in names)], table)


def _pair(row: dict[str, Any], best: list[float]) -> str:
    """`0.53 / **0.40**`, the best of a row in bold."""
    shown = []
    for figure, most in zip(("pointing", "corloc_0.3"), best, strict=True):
        text = f"{row[figure]:.2f}"
        shown.append(f"**{text}**" if row[figure] == most > 0 else text)
    return " / ".join(shown)


def overall(rows: list[dict[str, Any]]) -> None:
    """A row per name: means over labels with intervals, and labels on which it beats the centre."""
    found = {(row["name"], row["label"]): row for row in rows}
    table = []
    for row in rows:
        if row["label"] != MEAN:
            continue
        name = row["name"]
        pairs = [(found[name, label], found[CENTRE, label]) for who, label in found if who == name and label != MEAN]
        wins = [f"{sum(ours[f] > base[f] for ours, base in pairs)} of {len(pairs)}" for f in ("pointing", "corloc_0.3")]
        cells = [_interval(row, figure) for figure in SHOWN]
        table.append([name.rpartition("/")[2], *cells, *(["", ""] if name == CENTRE else wins)])
    write(["mean over labels", *SHOWN.values(), "labels over centre: pointing", "CorLoc@0.3"], table)


def _interval(row: dict[str, Any], figure: str) -> str:
    low, high = row.get(f"{figure}_low"), row.get(f"{figure}_high")
    return f"{row[figure]:.3f}" + ("" if low is None or high is None else f" [{low:.2f}, {high:.2f}]")


def main() -> None:
    """Print both tables, or the best threshold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("outputs", type=Path, nargs="+")
    parser.add_argument("--best", action="store_true")
    arguments = parser.parse_args()
    if arguments.best:
        sys.stdout.write(best_threshold(arguments.outputs) + "\n")
        return
    rows = rows_of(arguments.outputs[0])
    per_label(rows)
    sys.stdout.write("\n")
    overall(rows)


if __name__ == "__main__":
    main()
