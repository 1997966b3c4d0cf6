"""What models found in films: tables for the terminal, and files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
from rich.console import Console
from rich.table import Table

from longview import __version__
from longview.data.manifest import write_table
from longview.labels import LabelSet
from longview.outputs import make_folder
from longview.predictions import write_predictions

Layout = Literal["auto", "wide", "long"]

_TABLES = 8  # images whose findings are printed one by one; of more, a summary per label is


@dataclass
class Scores:
    """What one model says of the films that could be read.

    Args:
        model: Its name.
        checkpoint: What was asked for: a path, or the name of a published model.
        sha256: Hash of its weights.
        labels: Its label set.
        names: L labels.
        thresholds: Label -> the probability from which it is positive.
        probabilities: Image -> (L,) in [0, 1].
    """

    model: str
    checkpoint: str
    sha256: str
    labels: LabelSet
    names: list[str]
    thresholds: dict[str, float]
    probabilities: dict[str, npt.NDArray[np.floating[Any]]] = field(default_factory=dict)

    def positives(self, image: str) -> list[str]:
        """Labels of an image that reach their threshold, the most probable first."""
        found = zip(self.names, self.probabilities[image].tolist(), strict=True)
        return [name for name, value in sorted(found, key=lambda pair: -pair[1]) if value >= self.thresholds[name]]


# ---- printing ------------------------------------------------------------------------------------------------


def print_findings(results: Sequence[Scores], paths: Mapping[str, Path], console: Console) -> None:
    """Print a table per image; of many images a summary per model."""
    if len(paths) > _TABLES:
        for scores in results:
            console.print(summary_table(scores))
        return
    for image, path in paths.items():
        console.print(findings_table(results, image, str(path)))
        for scores in results:
            found = ", ".join(scores.positives(image)) or "none"
            prefix = f"{scores.model}: " if len(results) > 1 else ""
            console.print(f"{prefix}positive: {found}", soft_wrap=True, highlight=False, markup=False)


def findings_table(results: Sequence[Scores], image: str, title: str) -> Table:
    """A row per finding, the most probable first (by the mean of the models that score it).

    Labels of several models stand in one row where the first model's label set knows them as the same.
    """
    first = results[0].labels
    rows: dict[str, dict[str, tuple[float, bool]]] = {}
    for scores in results:
        for name, value in zip(scores.names, scores.probabilities[image].tolist(), strict=True):
            shown = name if name in first.names else first.canonical(name) or name
            rows.setdefault(shown, {}).setdefault(scores.model, (value, value >= scores.thresholds[name]))
    table = Table(title=title, title_justify="left")
    table.add_column("finding", no_wrap=True)
    for scores in results:
        table.add_column(scores.model if len(results) > 1 else "probability", justify="right", overflow="fold")
        table.add_column("", no_wrap=True)
    ordered = sorted(rows.items(), key=lambda row: -float(np.mean([value for value, _ in row[1].values()])))
    for name, found in ordered:
        cells: list[str] = []
        for scores in results:
            value, positive = found.get(scores.model, (None, False))
            cells += ["", ""] if value is None else [f"{value:.4f}", "POSITIVE" if positive else "negative"]
        table.add_row(name, *cells, style="bold" if "POSITIVE" in cells else None)
    return table


def summary_table(scores: Scores) -> Table:
    """A row per finding over all images, the most frequent first."""
    values = np.stack(list(scores.probabilities.values()))  # (N, L)
    positive = (values >= np.array([scores.thresholds[name] for name in scores.names])).sum(axis=0)
    table = Table(title=f"{scores.model}: {len(values):,} images", title_justify="left")
    table.add_column("finding")
    for column in ("positive", "mean probability"):
        table.add_column(column, justify="right")
    for index in sorted(range(len(scores.names)), key=lambda place: (-positive[place], -values[:, place].mean())):
        table.add_row(scores.names[index], f"{positive[index]:,}", f"{values[:, index].mean():.4f}")
    return table


# ---- files ---------------------------------------------------------------------------------------------------


def write_findings(
    results: Sequence[Scores], paths: Mapping[str, Path], failed: Mapping[str, str], output: Path, layout: Layout
) -> list[Path]:
    """Write what was found as `.csv` or `.json`.

    Args:
        results: One per model.
        paths: Image -> its file.
        failed: File that could not be read -> why.
        output: Where to.
        layout: Of a `.csv`, see :func:`longview.classify.classify`.

    Returns:
        The files.
    """
    make_folder(output.parent, output)
    if output.suffix == ".json":
        aside = output.with_name(f".{output.name}.partial")
        text = json.dumps(_report(results, paths, failed), indent=2, ensure_ascii=False, allow_nan=False)
        aside.write_text(text + "\n", encoding="utf-8")
        aside.replace(output)
        return [output]
    if layout == "long" or (layout == "auto" and len(results) > 1):
        write_table(_long(results, paths), output)
        return [output]
    files = [output] if len(results) == 1 else [output.with_stem(f"{output.stem}_{each.model}") for each in results]
    for scores, file in zip(results, files, strict=True):
        write_predictions(_wide(scores, paths), file)
    return files


def _wide(scores: Scores, paths: Mapping[str, Path]) -> pd.DataFrame:
    """A row per image and a column per label, as `evaluate` reads it: `meta_` marks what is no label."""
    ids = pd.DataFrame({
        "path": pd.array([str(path) for path in paths.values()], dtype="str"),
        "image_id": pd.array(list(paths), dtype="str"),
        "meta_model": pd.array([scores.model] * len(paths), dtype="str"),
    })  # fmt: skip
    values = pd.DataFrame(np.stack([scores.probabilities[image] for image in paths]), columns=scores.names)
    return pd.concat([ids, values], axis=1)


def _long(results: Sequence[Scores], paths: Mapping[str, Path]) -> pd.DataFrame:
    """A row per image, model and label."""
    rows = [
        (str(path), image, scores.model, name, value, scores.thresholds[name], value >= scores.thresholds[name])
        for image, path in paths.items()
        for scores in results
        for name, value in zip(scores.names, scores.probabilities[image].tolist(), strict=True)
    ]
    return pd.DataFrame(rows, columns=["path", "image_id", "model", "label", "probability", "threshold", "positive"])


def _report(results: Sequence[Scores], paths: Mapping[str, Path], failed: Mapping[str, str]) -> dict[str, Any]:
    models = [
        {"model": scores.model, "checkpoint": scores.checkpoint, "sha256": scores.sha256,
         "thresholds": {name: scores.thresholds[name] for name in scores.names}}
        for scores in results
    ]  # fmt: skip
    images = [
        {
            "path": str(path),
            "image_id": image,
            "probabilities": {
                scores.model: dict(zip(scores.names, scores.probabilities[image].tolist(), strict=True))
                for scores in results
            },
            "positives": {scores.model: scores.positives(image) for scores in results},
        }
        for image, path in paths.items()
    ]
    unread = [{"path": path, "error": text} for path, text in failed.items()]
    return {"longview": __version__, "models": models, "images": images, "failed": unread}
