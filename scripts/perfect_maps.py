"""What a perfect heat-map of so few places would score on a store's true boxes: the limit that a coarse map sets.

    uv run scripts/perfect_maps.py data/phantom-localization --grids 3 6 12 --labels Cardiomegaly Nodule

A map of GRID x GRID places holds the share of each place that true boxes cover, and is brought to the film's frame as
`explain` brings its maps; films of the test part count. `centre` is the baseline of `localize`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
from tables import write

from longview.data.frames import Frame
from longview.data.store import Store
from longview.localization.boxes import BoxOptions, Threshold, find_boxes
from longview.localization.scores import box_mask, centre_map, score

SHOWN = {"pointing": "pointing game", "corloc_0.3": "CorLoc@0.3", "iou": "IoU"}


def main() -> None:
    """Print a row per grid: means over labels."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("store", type=Path)
    parser.add_argument("--grids", type=int, nargs="+", default=[3, 6, 12])
    parser.add_argument("--threshold", default="0.5")
    parser.add_argument("--labels", nargs="+")
    asked = parser.parse_args()
    options = BoxOptions(Threshold.parse(asked.threshold))
    store = Store(asked.store)
    table = store.manifest.table.set_index("image_id")
    boxes = store.boxes()
    if boxes is None:
        parser.exit(1, f"error: {asked.store} has no boxes\n")
    boxes = boxes[boxes["image_id"].isin(table.index[table["split"] == "test"])]
    boxes = boxes if asked.labels is None else boxes[boxes["label"].isin(asked.labels)]
    rows = []
    for (image, label), found in boxes.groupby(["image_id", "label"]):
        height, width = (int(table.loc[image, f"meta_{side}"]) for side in ("height", "width"))
        true = found[["x", "y", "width", "height"]].to_numpy(np.float64)
        region = box_mask(true, (height, width)).astype(np.float32)
        for grid in asked.grids:
            cover = cv2.resize(region, (grid, grid), interpolation=cv2.INTER_AREA)
            heat = Frame(height, width, max(height, width)).to_original(cover)
            heat /= heat.max()
            rows.append(
                {"map": f"perfect, {grid} x {grid}", "label": label, **score(heat, find_boxes(heat, options), true)}
            )
        bump = centre_map(height, width)
        rows.append({"map": "centre", "label": label, **score(bump, find_boxes(bump, BoxOptions()), true)})
    means = (
        pd.DataFrame(rows).groupby(["map", "label"], sort=False)[list(SHOWN)].mean().groupby("map", sort=False).mean()
    )
    cells = [
        [str(name), *(f"{value:.3f}" for value in row)] for name, row in zip(means.index, means.to_numpy(), strict=True)
    ]
    write([f"cut at {asked.threshold}; mean over labels", *SHOWN.values()], cells)


if __name__ == "__main__":
    main()
