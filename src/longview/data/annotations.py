"""What a source says of its images beyond the manifest: label codes before any policy, and boxes of findings."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from longview.data.manifest import write_table
from longview.data.store import BOXES_FILE, CODES_FILE, table_hash

_IDS = ["source", "image_id"]


@dataclass(frozen=True)
class Annotations:
    """Codes and boxes of a manifest's images, as a source has them after `read()`.

    Args:
        codes: A row per row of the manifest, an int8 column per label
            (:data:`~longview.data.sources.base.CODES`); None: the source has none.
        boxes: :data:`~longview.data.sources.base.BOX_COLUMNS`, any number per image; None: the source has none.
    """

    codes: pd.DataFrame | None = None
    boxes: pd.DataFrame | None = None

    def hashes(self) -> dict[str, str]:
        """`codes` and `boxes`, as far as they are there: with other ones it is another store."""
        tables = {"codes": self.codes, "boxes": self.boxes}
        return {name: table_hash(table) for name, table in tables.items() if table is not None}

    def kept(self, rows: npt.NDArray[np.int64], images: Collection[str]) -> Annotations:
        """Those of some images.

        Args:
            rows: (k,) rows of the manifest.
            images: Their image ids.
        """
        codes = None if self.codes is None else self.codes.iloc[rows].reset_index(drop=True)
        boxes = None if self.boxes is None else self.boxes[self.boxes["image_id"].isin(images)].reset_index(drop=True)
        return Annotations(codes, boxes)

    def write(self, folder: Path, table: pd.DataFrame, rows: npt.NDArray[np.int64]) -> None:
        """Write `codes.parquet` and `boxes.parquet` of the images that are in a store.

        Args:
            folder: The store that is being made.
            table: Its manifest.
            rows: (k,) the rows, of the manifest that these annotations belong to, that the table holds.
        """
        kept = self.kept(rows, table["image_id"])
        if kept.codes is not None:
            codes = pd.concat([table[_IDS].reset_index(drop=True), kept.codes.astype(np.int8)], axis=1)
            write_table(codes, folder / CODES_FILE)
        if kept.boxes is not None:
            source = table.set_index("image_id")["source"].reindex(kept.boxes["image_id"]).to_numpy()
            boxes = kept.boxes.drop(columns="source", errors="ignore")
            boxes.insert(0, "source", pd.Series(source, dtype="str"))
            write_table(boxes, folder / BOXES_FILE)
