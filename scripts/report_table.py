"""A table of figures of `evaluate`'s metrics.json over seeds: mean ± standard deviation, as Markdown.

    uv run scripts/report_table.py --figure mAP=map --figure 'child above parent=hierarchy.child_above_parent.before' \
        'none=results/hierarchy_0_*' 'hinge=results/hierarchy_1_*'

Each argument is NAME=GLOB; the glob names folders that `evaluate` wrote.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import pandas as pd
from tables import cell, group, write


def figure(folder: Path, path: str) -> float:
    """A figure of a report by its keys, joined by dots.

    Raises:
        SystemExit: Where the folder holds no report, or the report no such figure.
    """
    file = folder / "metrics.json"
    if not file.is_file():
        sys.exit(f"error: {folder} holds no metrics.json; make it with main.py evaluate --output {folder}")
    value: Any = json.loads(file.read_text(encoding="utf-8"))
    for key in path.split("."):
        if not isinstance(value, dict) or key not in value:
            sys.exit(f"error: {file} has no {path}")
        value = value[key]
    return float(value)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--figure", action="append", default=[], metavar="TITLE=KEYS", required=True)
    parser.add_argument("--digits", type=int, default=3)
    parser.add_argument("groups", nargs="+", metavar="NAME=GLOB")
    options = parser.parse_args()
    figures = dict(text.split("=", 1) for text in options.figure)
    rows = []
    for name, folders in map(group, options.groups):
        values = pd.DataFrame([[figure(folder, path) for path in figures.values()] for folder in folders])
        rows.append([name, str(len(folders)), *(cell(values[column], options.digits) for column in values)])
    write(["run", "seeds", *figures], rows)


if __name__ == "__main__":
    main()
