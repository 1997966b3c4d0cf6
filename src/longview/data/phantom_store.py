"""A phantom drawn and prepared on first use, so that an example runs without any data."""

from __future__ import annotations

import fcntl
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from longview import InputError
from longview.data.manifest import read_csv
from longview.data.store import Store
from longview.labels import LabelSet

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PhantomSpec:
    """A phantom to draw and prepare where the store does not exist yet.

    Args:
        studies: Number of studies.
        size: Side of the images in pixels, as drawn and as stored.
        seed: Seed of the drawing and of the split.
        layout: Whose raw layout is drawn.
        reader: `layout` reads it with that data set's own parser; `phantom` with the phantom's, which knows the side,
            size and kind of each finding too (label sets with aliases for `phantom`).
    """

    studies: int = 2000
    size: int = 128
    seed: int = 0
    layout: Literal["nih", "cxr-lt-2024"] = "cxr-lt-2024"
    reader: Literal["layout", "phantom"] = "layout"


def make_phantom(spec: PhantomSpec, output: Path, labels: LabelSet) -> None:
    """Make the store `output` where it does not exist; its raw files go to `raw/NAME` beside it.

    Whatever stops it, what is there under its final name is whole, and the next call goes on. Of several
    processes that call it, one works and the others wait.

    Raises:
        InputError: Where the store holds a phantom of other settings.
    """
    raw = output.parent / "raw" / output.name
    if output.exists() and not Store.is_store(output):
        raise InputError(
            f"data.stores: {output} is there and is no store, so no phantom is drawn for it; give the phantom another "
            f"path, or --data.phantom null to read what is there"
        )
    if Store.is_store(output):
        _check_same(spec, output, raw)
        return
    from longview.data.annotations import Annotations  # only an example without its store needs these
    from longview.data.phantom import phantom
    from longview.data.prepare import prepare_manifest
    from longview.data.sources import open_source
    from longview.data.splits import assign_splits

    with _locked(output):
        if Store.is_store(output):  # another process was faster
            _check_same(spec, output, raw)
            return
        _check_same(spec, output, raw)
        logger.info("drawing %d phantom studies into %s and preparing %s", spec.studies, raw, output)
        if not (raw / "phantom.json").is_file():
            phantom(spec.layout, raw, studies=spec.studies, size=spec.size, seed=spec.seed)
        source = open_source("phantom" if spec.reader == "phantom" else spec.layout, raw, labels)
        manifest = assign_splits(source.read(), 0.1, 0.1, spec.seed)
        # no layout's own tables hold the true boxes, which every phantom has
        annotations = Annotations(boxes=_true_boxes(raw))
        prepare_manifest(manifest, raw, output, size=spec.size, annotations=annotations)


def _true_boxes(raw: Path) -> pd.DataFrame:
    """Boxes of all that was drawn, in pixels of the image files."""
    from longview.data.sources.base import BOX_COLUMNS

    drawn = read_csv(raw / "boxes.csv", dtype={"image_id": "str", "label": "str"}, keep_default_na=False)
    sides = {name: drawn[name].astype(np.float64) for name in ("x", "y", "width", "height")}
    table = drawn.assign(**sides, frame_width=np.nan, frame_height=np.nan, reader="")
    return table[list(BOX_COLUMNS)]


def _check_same(spec: PhantomSpec, output: Path, raw: Path) -> None:
    """Refuse a store or raw files made to another specification, rather than take them for the ones asked for.

    The raw files, which may be gone, know all of it; the store, which may not be there yet, all but the seed.
    """
    from longview.data.phantom import read_settings

    known: dict[str, object] = {}
    if (raw / "phantom.json").is_file():
        known |= read_settings(raw)
    if Store.is_store(output):
        store = Store(output)
        studies = store.manifest.table["study_id"].nunique()
        known |= {"size": store.info.size, "studies": studies}
        # the name of the phantom's own source says no layout, and such a store serves either reader
        if store.info.source != "phantom":
            known |= {"layout": store.info.source, "reader": "layout"}
    differing = [f"{key} {known[key]}, now {now}" for key, now in vars(spec).items() if known.get(key, now) != now]
    if differing:
        raise InputError(
            f"{output} holds a phantom of other settings ({'; '.join(differing)}): give another data.stores, or remove "
            f"{output} and {raw}"
        )


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Let one process at a time make `path`; the lock goes with a process that dies."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except (NotADirectoryError, FileExistsError) as error:
        raise InputError(f"{path} cannot be made: a part of its path is a file, not a folder") from error
    with path.with_name(f".{path.name}.lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
