"""Seconds per epoch with a frozen encoder: its features from disk against the films encoded in every epoch.

    uv run benchmarks/feature_cache.py
    uv run benchmarks/feature_cache.py --encoder convnext_small --size 384 --accelerator gpu --precision bf16-mixed

Both train the same attention fusion and label decoder, with view dropout and without augmentation, on the same
studies of two views, in turns; the fastest of several epochs counts, since whatever else the machine does only slows
them. What filling the cache costs is printed, too, in epochs of training on films. Target: 5 times on one core.
"""

from __future__ import annotations

import argparse
import logging
import os
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # threads that wait for each other would be measured instead

import lightning.pytorch as pl
import numpy as np
import pandas as pd
import torch
from lightning.pytorch.callbacks import Callback

from longview.data.datamodule import StudyData
from longview.data.manifest import Manifest
from longview.data.store import FORMAT_VERSION, StoreInfo
from longview.feature_cache import FeatureCache
from longview.labels import Label, LabelSet
from longview.losses import BCE
from longview.models.decoder import LabelDecoder
from longview.models.encoder import Encoder
from longview.models.fusion import AttentionFusion
from longview.models.network import StudyNetwork
from longview.optim import AdamW
from longview.tasks import ClassificationTask

LABELS = LabelSet("forty", [Label(f"Finding {number:02d}") for number in range(40)])


def make_store(folder: Path, studies: int, size: int) -> Path:
    """Write a store of studies of noise, PA and lateral, without `prepare`."""
    folder.mkdir()
    rng, rows = np.random.default_rng(0), np.arange(2 * studies)
    study, image = [f"s{row // 2:05d}" for row in rows], [f"i{row:05d}" for row in rows]
    views = ["PA", "lateral"] * studies
    ids = {"source": "benchmark", "patient_id": study, "study_id": study, "image_id": image, "view": views}
    table = pd.DataFrame({**ids, "path": image, "split": "train"}, dtype="str")
    targets = pd.DataFrame((rng.random((len(rows), len(LABELS.names))) < 0.1).astype(np.float32), columns=LABELS.names)
    targets = targets.iloc[rows // 2].reset_index(drop=True)  # the views of a study share its labels
    Manifest(pd.concat([table, targets], axis=1)).write(folder / "manifest.parquet")
    np.save(folder / "images.npy", rng.integers(0, 256, (len(rows), size, size), dtype=np.uint8))
    np.save(folder / "rows.npy", rows.astype(np.int64))
    known: dict[str, Any] = {"format_version": FORMAT_VERSION, "size": size, "resize": "squash", "packing": "npy"}
    known |= {"source": "benchmark", "root": "none", "labels": LABELS.names, "images": len(rows), "rejected": 0}
    StoreInfo(**known, settings={}, content_hash=f"{studies}", longview_version="0").write(folder)
    return folder


class Clock(Callback):
    """Seconds of each epoch."""

    def __init__(self) -> None:
        self.epochs: list[float] = []
        self._since = 0.0

    def on_train_epoch_start(self, *_: Any) -> None:
        """Note when an epoch starts."""
        self._since = time.perf_counter()

    def on_train_epoch_end(self, *_: Any) -> None:
        """Note how long it took."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.epochs.append(time.perf_counter() - self._since)


class TimedCache(FeatureCache):
    """Notes what the cache costs before the first epoch."""

    seconds = 0.0

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Fill the cache, or open it."""
        start = time.perf_counter()
        super().on_fit_start(trainer, pl_module)
        self.seconds = time.perf_counter() - start


def train(store: Path, options: argparse.Namespace, cache: Path | None) -> tuple[list[float], float]:
    """Seconds of each epoch, and of the cache."""
    torch.manual_seed(0)
    network = StudyNetwork(
        Encoder(options.encoder), LabelDecoder(width=256, heads=8, feedforward=512), AttentionFusion()
    )
    task = ClassificationTask(LABELS, network, BCE(), AdamW(), image_size=options.size, freeze="encoder")
    data = StudyData(
        LABELS,
        str(store),
        level="study",
        image_size=options.size,
        batch_size=options.batch,
        num_workers=options.workers,
        augment=None,
        view_dropout=0.2,
    )
    clock, features = Clock(), TimedCache(cache) if cache else None
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    trainer = pl.Trainer(
        max_epochs=options.epochs,
        accelerator=options.accelerator,
        devices=1,
        precision=options.precision,
        limit_val_batches=0,
        enable_checkpointing=False,
        callbacks=[clock, *([features] if features else [])],
        **quiet,
    )
    trainer.fit(task, datamodule=data)
    return clock.epochs, features.seconds if features else 0.0


def main() -> None:
    """Measure, and print seconds per epoch, their ratio and what the cache costs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", default="resnet18")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--studies", type=int, default=100)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=2, help="per round")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--accelerator", default="cpu")
    parser.add_argument("--precision", default="32-true")
    options = parser.parse_args()
    for name in ("lightning.pytorch", "longview"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    films, features, fills = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        store = make_store(Path(folder, "store"), options.studies, options.size)
        for number in range(options.rounds):
            films += train(store, options, None)[0]
            cache = Path(folder, f"cache{number}")  # filled anew in each round
            seconds, fill = train(store, options, cache)
            features += seconds
            fills.append(fill)
        size = sum(file.stat().st_size for file in cache.iterdir())
    slow, fast, fill = min(films), min(features), min(fills)
    print(
        f"{options.encoder}, {options.size} px, {2 * options.studies} films: {slow:.2f} s per epoch on films, "
        f"{fast:.2f} s on features   ratio {slow / fast:.1f}   (target 5)\n"
        f"filling the cache: {fill:.2f} s, {fill / slow:.1f} epochs on films; {size / 1e6:.1f} MB",
        flush=True,
    )


if __name__ == "__main__":
    main()
