"""What `localize` writes and prints: boxes, figures per label and over labels, differences."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from rich.table import Table

from longview import __version__
from longview.localization.localising import CENTRE, OnFilm, short_names
from longview.localization.summary import MEAN, Summary
from longview.score_report import without_nan
from longview.statistics.intervals import LEVEL

BOXES, PAIRS, METRICS, DIFFERENCES = "boxes.csv", "per_film.csv", "metrics.csv", "differences.csv"
JSON = "metrics.json"
FILES = (BOXES, PAIRS, METRICS, DIFFERENCES, JSON)

_SHOWN = {"pointing": "pointing", "corloc_0.3": "CorLoc@.3", "iou": "IoU", "dice": "Dice", "ap_0.3": "AP@.3"}


def write_boxes(films: Sequence[OnFilm], folder: Path) -> None:
    """Write all boxes, in a form that `--boxes` reads: pixels of the film, whose size stands beside them."""
    rows = [
        {
            "image_id": film.film.image_id, "label": label, "name": name, "rank": place + 1, "x": box.x, "y": box.y,
            "width": box.width, "height": box.height, "score": box.score, "probability": item.probability,
            "frame_width": film.film.width, "frame_height": film.film.height,
        }
        for film in films
        for label, shown in film.shown.items()
        for name, item in shown.items()
        if name != CENTRE
        for place, box in enumerate(item.found.boxes)
    ]  # fmt: skip
    columns = (
        "image_id", "label", "name", "rank", "x", "y", "width", "height", "score", "probability", "frame_width",
        "frame_height",
    )  # fmt: skip
    pd.DataFrame(rows, columns=list(columns)).to_csv(folder / BOXES, index=False)


def write_figures(
    films: Sequence[OnFilm], summary: Summary, about: Mapping[str, Any], pairs: Sequence[tuple[str, str]], folder: Path
) -> None:
    """Write figures per film, per label and over labels, and differences between `pairs` of names."""
    per_film = [
        {"image_id": film.film.image_id, "label": label, "name": name, "true_boxes": len(film.true[label])}
        | {"boxes": len(item.found.boxes), **item.figures, "why_no_box": item.found.why}
        for film in films
        for label, shown in film.shown.items()
        if label in film.true
        for name, item in shown.items()
    ]
    pd.DataFrame(per_film).to_csv(folder / PAIRS, index=False)
    rows, differences = summary.rows(), summary.differences(pairs)
    pd.DataFrame(rows).to_csv(folder / METRICS, index=False)
    pd.DataFrame(differences).to_csv(folder / DIFFERENCES, index=False)
    bootstrap = None
    if summary.resamples.drawn:
        bootstrap = {
            "resamples": summary.resamples.drawn, "seed": summary.resamples.seed, "level": LEVEL,
            "clusters": summary.resamples.clusters, "unit": summary.unit,
        }  # fmt: skip
    report = {"longview": __version__, **about, "bootstrap": bootstrap, "figures": rows, "differences": differences}
    text = json.dumps(without_nan(report), indent=2, allow_nan=False, ensure_ascii=False)
    (folder / JSON).write_text(text + "\n", encoding="utf-8")


def overall_table(summary: Summary) -> Table:
    """A row per name: means over labels, or the figures of the only label."""
    label = MEAN if any(key == MEAN for _, key in summary.figures) else summary.labels[0]
    films = sum(summary.films.values())
    what = summary.labels[0] if len(summary.labels) == 1 else f"mean over {_means(summary)} labels"
    table = Table(title=f"{what}; {films:,} pair{'s' if films > 1 else ''} of a film and a label with true boxes")
    short = _short(summary)
    table.add_column("", overflow="fold")
    for text in _SHOWN.values():  # 80 columns hold the intervals in full
        table.add_column(text, justify="right", no_wrap=True, min_width=9 if summary.resamples.drawn else 5)
    for name in summary.names:
        if (name, label) not in summary.figures:
            continue
        cells = [_cell(summary, name, label, figure) for figure in _SHOWN]
        table.add_row(short[name], *cells, style="dim" if name == CENTRE else "")
    if summary.resamples.drawn:
        table.caption = (
            f"95 % intervals from {summary.resamples.drawn:,} resamples of {summary.resamples.clusters:,} "
            + ("patients" if summary.unit == "patient" else "images")
        )
    return table


def label_table(summary: Summary) -> Table:
    """A row per label: pointing game and CorLoc@0.3 of each name."""
    table = Table(title="pointing game / CorLoc@0.3")
    table.add_column("label", no_wrap=True)
    table.add_column("films", justify="right")
    short = _short(summary)
    for name in summary.names:
        table.add_column(short[name], justify="right")
    for label in summary.labels:
        cells = []
        for name in summary.names:
            found = summary.figures.get((name, label))
            cells.append(f"{found['pointing'][0]:.2f} / {found['corloc_0.3'][0]:.2f}" if found else "")
        table.add_row(label, str(summary.films[label]), *cells)
    return table


def _short(summary: Summary) -> dict[str, str]:
    """Names that may be broken between model and method."""
    return {name: text.replace("/", "/\n") for name, text in short_names(summary.names).items()}


def _means(summary: Summary) -> int:
    """Labels that every name knows."""
    return sum(all((name, label) in summary.figures for name in summary.names) for label in summary.labels)


def _cell(summary: Summary, name: str, label: str, figure: str) -> str:
    found = summary.interval(name, label, figure)
    interval = f"\n{found.low:.2f}-{found.high:.2f}" if summary.resamples.drawn and found.low == found.low else ""
    return f"{found.value:.3f}{interval}"
