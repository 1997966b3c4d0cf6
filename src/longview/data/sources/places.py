"""Where the images of a data set lie below its root, whoever unpacked or converted it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd

from longview.data.images import IMAGE_SUFFIXES
from longview.data.sources.base import Source


def find_images(
    source: Source, ids: pd.Series[str], official: str, key: Callable[[str], str] = str, note: bool = True
) -> pd.Series[str]:
    """Where each image lies below the root, by its file's name without ending.

    The root, its folders and the folders in those are searched. A file with the data set's own ending goes before a
    converted copy, and the first folder in the order of names before later ones.

    Args:
        source: Whose root; copies with other endings are noted there.
        ids: Name of each image's file without ending.
        official: Where the data set itself has it, `train/{}.dicom`: the answer for an image that lies nowhere.
        key: What two spellings of a name share, applied to ids and files.
        note: Whether to note images of which only a converted copy is there.

    Returns:
        Paths relative to the root, with `/`, by the index of `ids`.
    """
    ending = f".{official.rpartition('.')[2]}"
    own: dict[str, str] = {}
    copies: dict[str, str] = {}
    for place in _films(source.root):
        stem, _, last = place.rpartition("/")[2].rpartition(".")
        (own if f".{last.lower()}" == ending else copies).setdefault(key(stem), place)
    keys = ids.map(key)
    direct, copied = (keys.map(places).astype("str") for places in (own, copies))
    if note:
        source.note("images with another ending than the data set's", copied[direct.isna() & copied.notna()])
    return direct.fillna(copied).fillna(ids.map(official.format)).astype("str")


def _films(root: Path) -> Iterator[str]:
    """Image files of the root, its folders and theirs, relative to it."""
    folders = [""]
    for depth in range(3):
        inner: list[str] = []
        for folder in folders:
            with os.scandir(root / folder) as entries:
                for entry in sorted(entries, key=lambda entry: entry.name):
                    place = f"{folder}/{entry.name}" if folder else entry.name
                    if entry.name.lower().endswith(IMAGE_SUFFIXES):
                        yield place
                    elif depth < 2 and not entry.name.startswith(".") and entry.is_dir():
                        inner.append(place)
        folders = inner
