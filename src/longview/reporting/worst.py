"""The worst errors of each label: absent and scored highest, present and scored lowest; and their films."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from longview.joining import join_keys
from longview.truth import Match

KINDS = ("false_positives", "false_negatives")

_MOST, _FEW = 5, 3  # errors of a kind that are shown, of up to _LABELS labels and of more
_LABELS = 20
_SIDES = (120, 88)  # pixels of a thumbnail, likewise: the page stays below 2 MB
_QUALITY = 72  # of JPEG: a film takes a third of what it takes as PNG


def worst(match: Match) -> dict[str, dict[str, Any]]:
    """The worst errors of each label that has positives and negatives.

    Only rows in the wrong order count: an absent label scored no lower than some present one, and the reverse. No
    threshold is needed, which would say nothing of labels that are never scored above it.

    Args:
        match: Probabilities and truth.

    Returns:
        Label -> `known`, the rows with a yes or no, and `false_positives` and `false_negatives`, worst first, each a
        list of `id`, `probability` and `higher`, the number of known rows that are scored higher.
    """
    count = _MOST if len(match.names) <= _LABELS else _FEW
    found = {}
    for index, name in enumerate(match.names):
        values, truth = np.ascontiguousarray(match.scores[:, index]), match.targets[:, index]
        absent, present = np.flatnonzero(truth == 0), np.flatnonzero(truth == 1)
        if not len(absent) or not len(present):
            continue
        alarms = absent[values[absent] >= values[present].min()]
        misses = present[values[present] <= values[absent].max()]
        known = np.concatenate([values[absent], values[present]])
        rows = (_lowest(alarms, -values[alarms], count), _lowest(misses, values[misses], count))
        entries = [[_entry(match, row, values, known) for row in chosen] for chosen in rows]
        found[name] = {"known": len(known)} | dict(zip(KINDS, entries, strict=True))
    return found


def _lowest(rows: npt.NDArray[np.intp], values: npt.NDArray[Any], count: int) -> npt.NDArray[np.intp]:
    """The `count` rows with the lowest values, lowest first."""
    if len(rows) > count:
        few = np.argpartition(values, count)[:count]
        rows, values = rows[few], values[few]
    order: npt.NDArray[np.intp] = rows[np.argsort(values, kind="stable")]
    return order


def _entry(match: Match, row: int, values: npt.NDArray[Any], known: npt.NDArray[Any]) -> dict[str, Any]:
    higher = int(np.count_nonzero(known > values[row]))
    return {"id": str(match.keys[row]), "probability": float(values[row]), "higher": higher}


def ids_of(found: dict[str, dict[str, Any]]) -> list[str]:
    """Ids of all errors, each once."""
    return list(dict.fromkeys(item["id"] for label in found.values() for kind in KINDS for item in label[kind]))


def films(store: Path, ids: Iterable[str], level: str, labels: int) -> dict[str, str]:
    """Thumbnails from a store.

    Args:
        store: Folder that `prepare` wrote.
        ids: Images or studies; those that the store does not hold are passed over.
        level: `image` or `study`; a study is shown by its first frontal film, or its first.
        labels: How many labels there are: with many, films are smaller.

    Returns:
        Id -> JPEG as `data:` address.
    """
    import cv2  # half a second, only for films

    from longview.data.store import Store

    opened = Store(store)
    table = opened.manifest.table
    if level == "study":  # frontal films first, otherwise in the manifest's order
        table = table.iloc[np.argsort(~table["view"].isin(["PA", "AP"]).to_numpy(), kind="stable")]
    wanted = pd.Series(list(ids), dtype="str")
    given, keys = join_keys(wanted, table[f"{level}_id"])
    place = pd.Series(table.index.to_numpy(), index=pd.Index(keys))
    place = place[~place.index.duplicated()]
    side = _SIDES[labels > _LABELS]
    found = {}
    for name, key in zip(wanted, given, strict=True):
        if key not in place.index:
            continue
        film: npt.NDArray[Any] = opened.image(int(place[key]))
        if film.shape[0] > side:
            film = cv2.resize(film, (side, side), interpolation=cv2.INTER_AREA)
        _, packed = cv2.imencode(".jpg", film, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
        found[name] = f"data:image/jpeg;base64,{base64.b64encode(packed.tobytes()).decode('ascii')}"
    return found
