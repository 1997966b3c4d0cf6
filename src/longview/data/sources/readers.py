"""Several readers of one image: what each says becomes one value per label."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal, get_args

import numpy as np
import pandas as pd

from longview import InputError
from longview.labels import LabelSet

Votes = Literal["any", "majority", "all", "fraction"]
"""When a label is present: where one reader says so, more than half of them, all of them; or the share of them."""


def check_votes(votes: str) -> None:
    """Refuse an unknown way to count.

    Raises:
        InputError: Naming the option and its values.
    """
    if votes not in get_args(Votes):
        raise InputError(f"votes is {votes!r}; give {', '.join(get_args(Votes))}")


def count_votes(readings: pd.DataFrame, images: pd.Series[str], votes: Votes) -> pd.DataFrame:
    """What the readers of each image say together.

    Args:
        readings: One row per image and reader, 0 or 1 per label, NaN where a reader says nothing.
        images: Image of each row.
        votes: How to count.

    Returns:
        One row per image (the index), in the order of their first rows; float32, a share only for `fraction`. NaN
        where no reader says anything.
    """
    shares = readings.astype(np.float32).groupby(images.to_numpy(), sort=False).mean().astype(np.float32)
    if votes == "fraction":
        return shares
    present = {"any": shares > 0, "majority": shares > 0.5, "all": shares == 1}[votes]
    return present.astype(np.float32).where(shares.notna())


def codes_of_labels(labels: LabelSet, source: str, codes: Iterable[str]) -> dict[str, list[str]]:
    """Which of a source's codes stand for each label of a set, or for a descendant of it in the set's hierarchy.

    A code is a whole name: `Nodule/Mass` is one, and stands for neither a nodule nor a mass.

    Returns:
        Label -> its codes, in the set's order; labels without any are not there.
    """
    meanings: dict[str, set[str]] = {}
    for code in codes:
        name = labels.canonical(code, source)
        meanings[code] = set() if name is None else {name, *labels.ancestors(name)}
    found = {label: [code for code, names in meanings.items() if label in names] for label in labels.names}
    return {label: own for label, own in found.items() if own}


def require_codes(found: dict[str, list[str]], labels: LabelSet, source: str, origin: str) -> None:
    """Refuse a label set that a source can say nothing about.

    Raises:
        InputError: Naming the file, the source and the set.
    """
    if not found:
        raise InputError(f"{origin}: no finding of source {source!r} is a label of set {labels.name!r}")


def combine(values: pd.DataFrame, found: dict[str, list[str]]) -> pd.DataFrame:
    """Columns by code as columns by label: present where any of its codes is, unknown where that may yet be.

    Args:
        values: 0, 1 or NaN per code.
        found: As :func:`codes_of_labels` gives it.
    """
    columns = {label: _any(values[codes]) for label, codes in found.items()}
    return pd.DataFrame(columns, index=values.index)


def _any(values: pd.DataFrame) -> pd.Series[float]:
    highest = values.max(axis=1)
    return highest.where((highest == 1) | values.notna().all(axis=1)).astype(np.float32)


def strange_codes(codes: Iterable[str], known: Sequence[str]) -> list[str]:
    """Codes that a data set does not have, sorted."""
    return sorted(set(codes) - set(known))
