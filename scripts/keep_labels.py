"""Forget the labels of most training patients of a store, to see what pseudo-labels bring back.

    uv run scripts/keep_labels.py --store data/phantom-cxr-lt --share 0.1 --seed 0 --output data/few

Writes two stores that borrow the images: OUTPUT-labelled, for the teacher, where patients without labels are in no
split, and OUTPUT-all, for `pseudo` and the student, where they are in the training part with every label unknown.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

from longview.data.borrowing import write_borrowing
from longview.data.store import Store


def main() -> None:
    """Write both stores."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--share", type=float, required=True, help="share of training patients that keep their labels")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    store = Store(options.store)
    table, labels = store.manifest.table, store.manifest.labels
    patients = np.unique(table.loc[table["split"] == "train", "patient_id"])
    order = np.random.default_rng(options.seed).permutation(len(patients))
    kept = set(patients[order[: round(options.share * len(patients))]])
    forgotten = (table["split"] == "train") & ~table["patient_id"].isin(kept)
    settings = {"keep_labels": {"share": options.share, "seed": options.seed}}
    for name, column in (("labelled", ["split"]), ("all", labels)):
        changed = table.copy()
        changed.loc[forgotten, column] = "none" if name == "labelled" else np.nan
        write_borrowing(store, changed, options.output.with_name(f"{options.output.name}-{name}"), settings, {})
    sys.stdout.write(f"{len(kept)} of {len(patients)} training patients keep their labels\n")


if __name__ == "__main__":
    main()
