"""Scores of labels that training never saw, over seeds: mean ± sd of groups of predictions, as Markdown.

    uv run scripts/zero_shot_table.py --store data/phantom_zero_shot --labels phantom_zero_shot \
        'text=results/zero_shot_text_*.parquet' 'random=results/zero_shot_random_*.parquet'

Besides AUROC and AP over all studies it shows AUROC among the studies that have the finding at all, on whichever side
and of whichever size: a model that knows "pleural effusion" but not "right" scores well over all, and 0.5 there.
`finding alone` scores each unseen label with the model's own score of the plain finding.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
from tables import cell, group, write

from longview.labels import LabelSet
from longview.ranking import per_label

Array = npt.NDArray[np.float64]


def plain_of(labels: LabelSet) -> dict[str, str]:
    """Unseen label -> the nearest seen label without its side or size.

    `Support Devices / chest drain / left` -> `Chest Drain`, `Pleural Effusion / right` -> `Pleural Effusion`.
    """
    trained = [label for label in labels.labels if not label.unseen]
    seen = {alias: label.name for label in trained for alias in [label.name, *label.aliases.get("phantom", [])]}
    found = {}
    for label in labels.labels:
        words = label.aliases.get("phantom", [""])[0].split(" / ") if label.unseen else []
        shorter = [" / ".join(words[:length]) for length in range(len(words) - 1, 0, -1)]
        nearest = [seen[alias] for alias in shorter if alias in seen]
        if nearest:
            found[label.name] = nearest[0]
    return found


def scores(table: pd.DataFrame, truth: pd.DataFrame, names: list[str], plain: dict[str, str]) -> dict[str, float]:
    """Means over the unseen labels of one run."""
    table = table.set_index("study_id").loc[truth.index]
    targets = truth[names].to_numpy(np.float64)
    own = per_label(table[names].to_numpy(np.float64), targets)
    alone = per_label(table[[plain[name] for name in names]].to_numpy(np.float64), targets)
    inside, inside_alone = [], []
    for index, name in enumerate(names):
        rows = (truth[plain[name]] == 1).to_numpy()
        for column, into in ((name, inside), (plain[name], inside_alone)):
            values = table.loc[rows, [column]].to_numpy(np.float64)
            into.append(float(per_label(values, targets[rows][:, [index]]).auroc[0]))
    return {
        "AUROC": float(np.nanmean(own.auroc)),
        "mAP": float(np.nanmean(own.ap)),
        "prevalence": float(np.nanmean(own.prevalence)),
        "AUROC, finding alone": float(np.nanmean(alone.auroc)),
        "AUROC within finding": float(np.nanmean(inside)),
        "within, finding alone": float(np.nanmean(inside_alone)),
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--labels", required=True)
    parser.add_argument("groups", nargs="+", metavar="NAME=GLOB")
    options = parser.parse_args()
    labels = LabelSet.load(options.labels)
    plain = plain_of(labels)
    names = [name for name in labels.unseen_names if name in plain]
    manifest = pd.read_parquet(options.store / "manifest.parquet")
    truth = manifest[manifest["split"] == "test"].drop_duplicates("study_id").set_index("study_id")
    lines = []
    for title, files in map(group, options.groups):
        rows = pd.DataFrame([scores(pd.read_parquet(file), truth, names, plain) for file in files])
        lines.append([title, str(len(files)), *(cell(rows[column]) for column in rows)])
    write(["queries", "seeds", *rows.columns], lines)


if __name__ == "__main__":
    main()
