"""Roots that hold a real table at full size and no image."""

import zipfile
from pathlib import Path

import pandas as pd
import pytest
from real_tables import needed_table

from longview.data.manifest import Manifest
from longview.data.sources import base
from longview.data.sources.base import Source


def real_root(folder: Path, **tables: str) -> Path:
    """A folder with real tables: the name to give it without its ending -> its name in the wheel."""
    for name, real in tables.items():
        file = needed_table(real)
        if file.suffix == ".zip":
            with zipfile.ZipFile(file) as packed:
                (folder / f"{name}.csv").write_bytes(packed.read(packed.namelist()[0]))
        else:
            (folder / f"{name}.csv.gz").symlink_to(file)
    return folder


def read_all(source: Source) -> Manifest:
    """Read a source as if every image that it names were there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(base, "files_present", lambda root, paths: pd.Series(True, index=paths.index))
        return source.read()


def positives(manifest: Manifest) -> dict[str, int]:
    """Images with each label, those that are not 0 or 1 apart."""
    return {label: int((manifest.table[label] == 1).sum()) for label in manifest.labels}
