"""Samples per second of one loader process: longview's packed uint8 batches against the usual recipe.

    uv run benchmarks/data_pipeline.py
    uv run --with albumentations==2.0.8 benchmarks/data_pipeline.py --recipe albumentations

The usual recipe, as in CheXFusion and most published code: films resized once and cached as JPEG; per item a row of a
DataFrame, a decode to three channels, crop + flip + shift-scale-rotate + brightness/contrast (the last two with
probability 0.5, as there), normalisation to float32, and a collated (B, 3, H, W) batch. Ours does all of these kinds
of augmentation to every film. Both read the same films from a warm page cache through a DataLoader with one worker,
in turns; the middle one of several rounds counts. Targets: 8 times with augmentation, 25 times without.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import median
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # one process is measured, on one core
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # it looks for a newer release on the network

import cv2
import numpy as np
import pandas as pd
import torch
from torch.utils.data import DataLoader, Dataset

from longview.data.datamodule import StudyData
from longview.data.manifest import Manifest
from longview.data.prepare import prepare_manifest
from longview.data.store import Store
from longview.data.transforms import Augment
from longview.labels import Label, LabelSet

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
LABELS = LabelSet("forty", [Label(f"Finding {number:02d}") for number in range(40)])


class Recipe(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """One cached colour JPEG per item, looked up in a DataFrame."""

    def __init__(self, table: pd.DataFrame, transform: Callable[[np.ndarray], torch.Tensor]) -> None:
        self.table, self.transform = table, transform

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        row = self.table.iloc[index]
        image = cv2.cvtColor(cv2.imread(row["path"]), cv2.COLOR_BGR2RGB)
        return self.transform(image), torch.tensor(row[LABELS.names].to_numpy(np.float32))


def torchvision_recipe(size: int, augment: bool) -> Callable[[np.ndarray], torch.Tensor]:
    """The recipe with torchvision.transforms.v2, on uint8 tensors as its documentation advises."""
    from torchvision.transforms import v2

    changes = [
        v2.RandomResizedCrop(size, scale=(0.9, 1.0), antialias=True),
        v2.RandomHorizontalFlip(0.5),
        v2.RandomApply([v2.RandomAffine(10, translate=(0.05, 0.05), scale=(0.9, 1.1))], 0.5),
        v2.RandomApply([v2.ColorJitter(brightness=0.2, contrast=0.2)], 0.5),
    ]
    steps = [v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)]
    return v2.Compose([v2.ToImage(), *(changes if augment else [v2.Resize(size)]), *steps])


def albumentations_recipe(size: int, augment: bool) -> Callable[[np.ndarray], torch.Tensor]:
    """The recipe with albumentations 2.0.8, the last free release."""
    import albumentations as A  # noqa: N812  # as its documentation does
    from albumentations.pytorch import ToTensorV2

    changes = [
        A.RandomResizedCrop((size, size), scale=(0.9, 1.0), p=1.0),
        A.HorizontalFlip(p=0.5),
        A.Affine(
            rotate=(-10, 10), scale=(0.9, 1.1), translate_percent=(-0.05, 0.05), p=0.5
        ),  # what ShiftScaleRotate became
        A.RandomBrightnessContrast(0.2, 0.2, p=0.5),
    ]
    both = A.Compose([*(changes if augment else [A.Resize(size, size)]), A.Normalize(MEAN, STD), ToTensorV2()])
    return lambda image: both(image=image)["image"]


RECIPES = {"torchvision": torchvision_recipe, "albumentations": albumentations_recipe}


def draw_films(folder: Path, count: int, size: int) -> pd.DataFrame:
    """Write films with broad shades and film grain as cached JPEGs; a DataFrame with paths and labels."""
    rng = np.random.default_rng(0)
    (folder / "cache").mkdir()
    paths = []
    for number in range(count):
        shades = cv2.resize(rng.normal(128, 60, (9, 9)).astype(np.float32), (size, size), interpolation=cv2.INTER_CUBIC)
        film = np.clip(shades + rng.normal(0, 2, (size, size)), 0, 255).astype(np.uint8)
        paths.append(str(folder / "cache" / f"{number:05d}.jpg"))
        cv2.imwrite(paths[-1], cv2.cvtColor(film, cv2.COLOR_GRAY2BGR), [cv2.IMWRITE_JPEG_QUALITY, 95])
    labels = pd.DataFrame((rng.random((count, 40)) < 0.1).astype(np.float32), columns=LABELS.names)
    return pd.concat([pd.DataFrame({"path": paths}), labels], axis=1)


def make_store(table: pd.DataFrame, folder: Path, size: int) -> Store:
    """The same films as a store."""
    names = [Path(path).stem for path in table["path"]]
    ids = {"patient_id": names, "study_id": names, "image_id": names, "path": [f"cache/{name}.jpg" for name in names]}
    columns = pd.DataFrame({"source": "benchmark", **ids, "view": "PA", "split": "train"}, dtype="str")
    manifest = Manifest(pd.concat([columns, table[LABELS.names]], axis=1))
    return prepare_manifest(manifest, folder, folder.parent / "store", size=size)


def ours(store: Store, size: int, batch: int, augment: bool) -> DataLoader[Any]:
    """Our training loader, as `fit` builds it."""
    changes = Augment(flip=0.5) if augment else None
    data = StudyData(
        LABELS, str(store.path), image_size=size, batch_size=batch, num_workers=1, augment=changes, predict_split="all"
    )
    data.setup("predict")
    data._datasets["train"] = data._dataset(["train"], training=True)
    return data.train_dataloader()


def usual(table: pd.DataFrame, name: str, size: int, batch: int, augment: bool) -> DataLoader[Any]:
    """The recipe's loader."""
    dataset = Recipe(table, RECIPES[name](size, augment))
    return DataLoader(dataset, batch, shuffle=True, num_workers=1, drop_last=True, persistent_workers=True)


def rate(loader: Iterable[Any], seconds: float) -> float:
    """Samples per second, after one batch to start up."""
    done, start = 0, 0.0
    while True:
        for number, batch in enumerate(loader):
            images = batch["images"] if isinstance(batch, dict) else batch[0]
            if start == 0.0:
                start = time.perf_counter() if number >= 2 else 0.0  # the first ones wait for the process to start
                continue
            done += len(images)
            elapsed = time.perf_counter() - start
            if elapsed > seconds:
                return done / elapsed


def main() -> None:
    """Measure, and print both rates and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", choices=list(RECIPES), default="torchvision")
    parser.add_argument("--size", type=int, default=384, help="side of the images in a batch")
    parser.add_argument("--stored", type=int, default=None, help="side of the cached films; default: --size")
    parser.add_argument("--films", type=int, default=512)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="per measurement")
    options = parser.parse_args()
    cv2.setNumThreads(0)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder, "raw")
        root.mkdir()
        table = draw_films(root, options.films, options.stored or options.size)
        store = make_store(table, root, options.stored or options.size)
        for augment, target in ((True, 8), (False, 25)):
            loaders = (
                usual(table, options.recipe, options.size, options.batch, augment),
                ours(store, options.size, options.batch, augment),
            )
            rounds = [[rate(loader, options.seconds) for loader in loaders] for _ in range(options.rounds)]
            theirs, mine = (median(column) for column in zip(*rounds, strict=True))
            ratio = median(two / one for one, two in rounds)
            kind = "with augmentation" if augment else "without augmentation"
            print(
                f"{kind:21s} {options.recipe}: {theirs:7.0f}/s   longview: {mine:7.0f}/s   "
                f"ratio {ratio:5.1f}   (target {target})",
                flush=True,
            )


if __name__ == "__main__":
    main()
