"""A table of what a further source does to the labels of the first: means over seeds, and the difference seed by seed.

    uv run scripts/source_table.py nih 'alone=runs/sources_alone_*' 'both=runs/sources_both_*'

The first argument is the first source's name; then NAME=GLOB of runs on it alone, and of runs on several stores, whose
figures of that store are taken (`test/map_<name>`). Runs are paired in the order of their names.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd
from tables import cell, group, last_test, write


def scores(run: Path, source: str) -> pd.Series:
    """Mean AP and AUROC of a run's last test on a source: its own figures where it had several, else the pooled ones.

    Raises:
        SystemExit: Where the run was not tested.
    """
    last = last_test(run)
    own = f"_{source}" if f"test/map_{source}" in last else ""
    return pd.Series({"mAP": last[f"test/map{own}"], "AUROC": last[f"test/auroc{own}"]})


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", help="name of the first source, as in the runs' figures")
    parser.add_argument("alone", metavar="NAME=GLOB")
    parser.add_argument("both", metavar="NAME=GLOB")
    given = parser.parse_args()
    groups = [group(given.alone), group(given.both)]
    found = [pd.DataFrame([scores(run, given.source) for run in runs]) for _, runs in groups]
    rows = [
        [name, str(len(runs)), cell(table["mAP"]), cell(table["AUROC"])]
        for (name, runs), table in zip(groups, found, strict=True)
    ]
    if len(found[0]) == len(found[1]):
        gain = found[1] - found[0]
        rows.append(["difference", str(len(gain)), cell(gain["mAP"]), cell(gain["AUROC"])])
    write([f"on {given.source}", "seeds", "mAP", "AUROC"], rows)


if __name__ == "__main__":
    main()
