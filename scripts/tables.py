"""What the scripts' tables share: groups of runs on the command line, mean ± deviation, Markdown."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from glob import glob
from pathlib import Path

import pandas as pd


def group(text: str) -> tuple[str, list[Path]]:
    """Name and paths of `NAME=GLOB`.

    Raises:
        SystemExit: For another form, or a glob that fits nothing.
    """
    name, equals, pattern = text.partition("=")
    paths = sorted(map(Path, glob(pattern))) if equals else []  # noqa: PTH207 - absolute patterns too
    if not paths:
        sys.exit(f"error: {text!r}: write NAME=GLOB with a glob that fits something, such as 'mean=runs/mean_*'")
    return name, paths


def last_test(run: Path) -> pd.Series:
    """The figures of the last test of a run's newest version.

    Raises:
        SystemExit: Where the run was not tested.
    """
    versions = sorted(run.glob("version_*"), key=lambda folder: int(folder.name.rpartition("_")[2]))
    file = (versions[-1] if versions else run) / "metrics.csv"
    table = pd.read_csv(file) if file.is_file() else pd.DataFrame()
    if "test/map" not in table or table["test/map"].notna().sum() == 0:
        sys.exit(f"error: {run} has no test scores in {file}; run fit with --test_after_fit true")
    return table[table["test/map"].notna()].iloc[-1]


def cell(values: pd.Series, digits: int = 3) -> str:
    """`0.531 ± 0.004` of the runs' values."""
    spread = f" ± {values.std():.{digits}f}" if len(values) > 1 else ""
    return f"{values.mean():.{digits}f}{spread}"


def write(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Write a Markdown table to standard output."""
    for row in (header, ["---"] * len(header), *rows):
        sys.stdout.write("| " + " | ".join(row) + " |\n")
