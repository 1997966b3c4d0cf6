"""Patients divided into folds, and for each fold stores in which they are held out."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from longview import InputError
from longview.data.borrowing import write_borrowing
from longview.data.derive import label_values
from longview.data.families import check_apart, family_of
from longview.data.manifest import META_PREFIX
from longview.data.splits import split_patients
from longview.data.store import Store
from longview.labels import LabelSet

logger = logging.getLogger(__name__)

FOLD = f"{META_PREFIX}fold"
"""Column of :attr:`Division.table` with the fold in which an image is held out, from 0."""

_IDS = ["source", "patient_id", "study_id", "image_id", "view"]


@dataclass(frozen=True)
class Division:
    """Who is held out when.

    Args:
        stores: The stores that are divided, by their path.
        table: One row per image of their train and val parts: ids, :data:`FOLD`, and a column for each label.
        inner: (folds, rows) what an image is in each fold: `train`, `val` (a checkpoint is chosen on it) or `test`
            (held out).
        seed: Seed of the division.
        held_for_choice: Share of the training images that each fold chooses its checkpoint on.
    """

    stores: Mapping[str, Store]
    table: pd.DataFrame
    inner: npt.NDArray[np.str_]
    seed: int
    held_for_choice: float

    @property
    def folds(self) -> int:
        """How many there are."""
        return len(self.inner)

    def write(self, fold: int, output: Path) -> dict[str, Path]:
        """Write the stores of a fold, which read the images where they are; those that are there are kept.

        Args:
            fold: Number, from 0.
            output: Folder for them.

        Returns:
            Path of a store -> that of its fold's.

        Raises:
            InputError: Where a store of another division stands there.
        """
        written = {}
        for place, (path, store) in enumerate(self.stores.items()):
            target = output / (f"{place}-{Path(path).name}" if len(self.stores) > 1 else Path(path).name)
            settings = {
                "made_by": "folds",
                "manifest": store.info.content_hash,
                "folds": self.folds,
                "fold": fold,
                "seed": self.seed,
                "validation": self.held_for_choice,
            }
            written[path] = target
            if Store.is_store(target):
                if Store(target).info.settings != settings:
                    raise InputError(f"{target} is a store of another division; give another --output, or remove it")
                continue
            table = store.manifest.table.copy()
            mine = (self.table["store"] == path).to_numpy()
            split_of = dict(zip(self.table.loc[mine, "image_id"], self.inner[fold][mine], strict=True))
            # the test part is nobody's here: it is predicted from the store itself
            table["split"] = pd.array([split_of.get(image, "none") for image in table["image_id"]], dtype="str")
            write_borrowing(store, table, target, settings, {})
        return written

    def has_test(self) -> list[str]:
        """Paths of the stores with a test part of their own."""
        return [path for path, store in self.stores.items() if (store.manifest.table["split"] == "test").any()]


def divide(stores: Mapping[str, Store], labels: LabelSet, folds: int, validation: float, seed: int) -> Division:
    """Divide the patients of the train and val parts into folds, with every label's share kept in each.

    Stores of one family share patients (:mod:`longview.data.families`): one is held out in all of them at once. The
    test part stays what it is.

    Args:
        stores: Path -> store.
        labels: Labels whose shares are kept, matched by name or alias.
        folds: How many.
        validation: Share of a fold's training images that its checkpoint is chosen on, by patient.
        seed: Seed of the division.

    Raises:
        InputError: For fewer than two folds, fewer patients than folds, or a share that leaves nothing.
    """
    if folds < 2:
        raise InputError(f"--folds {folds}: give at least 2")
    if not 0 < validation < 1:
        raise InputError(f"--validation {validation}: give a share above 0 and below 1")
    if len(stores) > 1:
        check_apart({path: store.manifest.table for path, store in stores.items()})
    parts = []
    for path, store in stores.items():
        manifest = store.manifest
        columns = {
            **labels.align(manifest.labels, None, "ignore", "ignore", context=manifest.origin),
            **labels.align(manifest.labels, _own_source(manifest.table), "ignore", "ignore", context=manifest.origin),
        }
        values = pd.DataFrame(label_values(manifest, labels, columns), columns=labels.names)
        ids = manifest.table[_IDS].reset_index(drop=True).assign(store=path)
        used = manifest.table["split"].isin(["train", "val"]).to_numpy()
        parts.append(pd.concat([ids, values], axis=1)[used])
    table = pd.concat(parts, ignore_index=True)
    patients = (table["source"].map(family_of) + "/" + table["patient_id"]).to_numpy(dtype=str)
    found = len(np.unique(patients))
    if found < 2 * folds:
        raise InputError(f"--folds {folds}: the train and val parts of {', '.join(stores)} have only {found} patients")
    targets = table[labels.names].to_numpy(np.float64)
    fold_of = split_patients(patients, targets, {str(fold): 1 / folds for fold in range(folds)}, seed).astype(int)
    inner = np.full((folds, len(table)), "test", dtype="<U5")
    for fold in range(folds):
        rest = fold_of != fold
        shares = {"train": 1 - validation, "val": validation}
        inner[fold][rest] = split_patients(patients[rest], targets[rest], shares, seed)
    table.insert(len(_IDS), FOLD, fold_of)
    return Division(stores, table, inner, seed, validation)


def _own_source(table: pd.DataFrame) -> str | None:
    sources = table["source"].unique()
    return str(sources[0]) if len(sources) == 1 else None
