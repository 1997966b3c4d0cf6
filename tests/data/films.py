"""Raw films and manifests that the tests of packing and preparing share."""

from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image as PillowImage

from longview.data.manifest import Manifest


def write_films(root: Path, count: int, side: int = 40) -> None:
    """`count` noisy PNG films, each different, `film_000.png` and on."""
    root.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for number in range(count):
        film = rng.integers(0, 255, (side, side + number % 3)).astype(np.uint8)
        PillowImage.fromarray(film).save(root / f"film_{number:03d}.png")


def manifest_of(names: list[str], **columns: object) -> Manifest:
    """One patient per image; two labels, one of them unknown for every other image."""
    ids = [f"{number:03d}" for number in range(len(names))]
    table = pd.DataFrame(
        {
            "source": "test",
            "patient_id": ids,
            "study_id": ids,
            "image_id": ids,
            "view": "PA",
            "path": names,
            "split": "train",
            **columns,
            "Mass": np.arange(len(names)) % 2.0,
            "Edema": np.where(np.arange(len(names)) % 2, np.nan, 1.0),
        }
    )
    return Manifest(table)


def films(root: Path, count: int) -> Manifest:
    """Write films and make their manifest."""
    write_films(root, count)
    return manifest_of([f"film_{number:03d}.png" for number in range(count)])
