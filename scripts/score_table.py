"""A table of test scores over seeds: mean ± standard deviation of groups of runs, as Markdown.

    uv run scripts/score_table.py 'mean=runs/fusion_mean_*' 'transformer=runs/fusion_transformer_*'

Each argument is NAME=GLOB; the glob names run folders, of which the last version counts. With one run there is no
deviation.
"""

from __future__ import annotations

import argparse
import sys
from glob import glob
from pathlib import Path

import pandas as pd

SCORES = {"test/map": "mAP", "test/map_head": "head", "test/map_medium": "medium", "test/map_tail": "tail",
          "test/auroc": "AUROC", "test/ece": "ECE"}  # fmt: skip


def test_scores(run: Path) -> pd.Series:
    """The last test of a run's last version.

    Raises:
        SystemExit: Where the run was not tested.
    """
    versions = sorted(run.glob("version_*"), key=lambda folder: int(folder.name.rpartition("_")[2]))
    file = (versions[-1] if versions else run) / "metrics.csv"
    table = pd.read_csv(file) if file.is_file() else pd.DataFrame()
    if "test/map" not in table or table["test/map"].notna().sum() == 0:
        sys.exit(f"error: {run} has no test scores in {file}; run fit with --test_after_fit true")
    return table[table["test/map"].notna()].iloc[-1].reindex(list(SCORES))


def cell(values: pd.Series) -> str:
    """`0.531 ± 0.004` of the runs' values."""
    spread = f" ± {values.std():.3f}" if len(values) > 1 else ""
    return f"{values.mean():.3f}{spread}"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("groups", nargs="+", metavar="NAME=GLOB")
    rows = []
    for group in parser.parse_args().groups:
        name, equals, pattern = group.partition("=")
        runs = sorted(map(Path, glob(pattern))) if equals else []  # noqa: PTH207 - absolute patterns too
        if not runs:
            sys.exit(
                f"error: {group!r}: write NAME=GLOB with a glob that names run folders, such as 'mean=runs/mean_*'"
            )
        scores = pd.DataFrame([test_scores(run) for run in runs])
        rows.append([name, str(len(runs)), *(cell(scores[score]) for score in SCORES)])
    header = ["run", "seeds", *SCORES.values()]
    for row in (header, ["---"] * len(header), *rows):
        sys.stdout.write("| " + " | ".join(row) + " |\n")


if __name__ == "__main__":
    main()
