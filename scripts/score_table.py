"""A table of test scores over seeds: mean ± standard deviation of groups of runs, as Markdown.

    uv run scripts/score_table.py 'mean=runs/fusion_mean_*' 'transformer=runs/fusion_transformer_*'

Each argument is NAME=GLOB; the glob names run folders, of which the last version counts. With one run there is no
deviation.
"""

from __future__ import annotations

import argparse

import pandas as pd
from tables import cell, group, last_test, write

SCORES = {"test/map": "mAP", "test/map_head": "head", "test/map_medium": "medium", "test/map_tail": "tail",
          "test/auroc": "AUROC", "test/ece": "ECE"}  # fmt: skip


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("groups", nargs="+", metavar="NAME=GLOB")
    rows = []
    for name, runs in map(group, parser.parse_args().groups):
        scores = pd.DataFrame([last_test(run).reindex(list(SCORES)) for run in runs])
        rows.append([name, str(len(runs)), *(cell(scores[score]) for score in SCORES)])
    write(["run", "seeds", *SCORES.values()], rows)


if __name__ == "__main__":
    main()
