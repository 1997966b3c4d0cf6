"""A table of test scores over seeds: mean ± standard deviation of groups of runs, as Markdown.

    uv run scripts/score_table.py 'mean=runs/fusion_mean_*' 'transformer=runs/fusion_transformer_*'

Each argument is NAME=GLOB; the glob names run folders, of which the last version counts. With one run there is no
deviation.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import pandas as pd
from tables import cell, group, write

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


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("groups", nargs="+", metavar="NAME=GLOB")
    rows = []
    for name, runs in map(group, parser.parse_args().groups):
        scores = pd.DataFrame([test_scores(run) for run in runs])
        rows.append([name, str(len(runs)), *(cell(scores[score]) for score in SCORES)])
    write(["run", "seeds", *SCORES.values()], rows)


if __name__ == "__main__":
    main()
