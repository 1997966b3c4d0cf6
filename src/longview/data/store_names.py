"""What the stores of a run are called in its figures and tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from longview.data.manifest import Manifest

_GROUPS = frozenset({"head", "medium", "tail"})
"""Words that the figures of a run have already: `val/map_head`."""


class NamedStore(Protocol):
    """What a name is made of."""

    @property
    def path(self) -> Path:
        """Where the store is."""

    @property
    def manifest(self) -> Manifest:
        """One row per image, each with its source."""


def store_names(stores: Sequence[NamedStore], sizes: Sequence[int]) -> dict[int, str]:
    """Name the stores that have studies, where there are several.

    A store is called by its source (`nih`; `a+b` where it has two), or by its folder where another one has the same
    source; by as many folders above it as tell the two apart where those too have the same name (`old-nih`).

    Args:
        stores: All stores of the run.
        sizes: Number of studies of each.

    Returns:
        Number of the store -> name; empty where fewer than two have studies.
    """
    filled = [number for number, size in enumerate(sizes) if size]
    if len(filled) < 2:
        return {}
    names = {number: "+".join(sorted(stores[number].manifest.table["source"].unique())) for number in filled}
    depth = 0
    while True:
        counts = Counter(names.values())
        alike = [number for number, name in names.items() if counts[name] > 1 or name in _GROUPS]
        paths = {number: stores[number].path.resolve().parts[1:] for number in alike}
        if not alike or depth >= max(map(len, paths.values())):
            break
        depth += 1
        names |= {number: "-".join(parts[-depth:]) for number, parts in paths.items()}
    # the same folder under two names, or a disk's root: tell them apart by their number
    return {number: name if number not in alike else f"{name}-{number}" for number, name in names.items()}
