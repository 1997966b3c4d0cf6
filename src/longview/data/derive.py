"""Labels that follow from others: filling them in, and finding where a source contradicts its own hierarchy.

A value is 1, 0, NaN (unknown) or soft, between 0 and 1. What follows from unknown values is unknown, unless the known
ones decide it (Kleene's logic). What a source says of its own labels is never changed: contradictions are listed.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from longview.data.manifest import Manifest, label_columns
from longview.hierarchy import children_first, columns_of_edges
from longview.labels import LabelSet

logger = logging.getLogger(__name__)

FloatArray = npt.NDArray[np.float32]

NOTHING_FOUND = frozenset({"no finding", "normal"})
"""Labels, in lower case, that exclude the derived labels at the top of a hierarchy (`Abnormal`)."""

_SHOWN = 3  # ids named per contradiction


@dataclass(frozen=True)
class Contradiction:
    """What a table says of two labels, or twice of one, and cannot be.

    Args:
        text: What contradicts what, for a message.
        count: Number of rows.
        ids: The first rows' ids.
    """

    text: str
    count: int
    ids: list[str]

    def __str__(self) -> str:
        return f"{self.text} in {self.count:,} row{'s' * (self.count > 1)}, first {', '.join(self.ids)}"


def derive(values: npt.NDArray[np.floating[Any]], labels: LabelSet) -> FloatArray:
    """Fill the columns of derived labels.

    `any`: 1 where a child is 1, else NaN where a child is NaN, else the highest child. `none`: 0 where one of the
    set's labels that are not derived is 1, else NaN where one is NaN, else 1 less the highest. The derived value wins
    over one that the table carries; where it is unknown, the table's stands, unless it is below a known child's.

    Args:
        values: (n, L) values of `labels.names`, NaN where unknown or without a column.
        labels: Which labels are derived, and from what.

    Returns:
        (n, L) float32, with every `any` label closed: never below one of its children.
    """
    result = np.array(values, np.float32)
    below = children_first(columns_of_edges(labels.edges, labels.names))
    kinds = {labels.names.index(label.name): label.derived for label in labels.labels if label.derived}
    sources = [labels.names.index(name) for name in labels.source_names]
    for column in [column for column, kind in kinds.items() if kind == "none"]:  # nothing stands below these: first
        result[:, column] = _follow(result[:, column], 1 - _any(result[:, sources]))
    for column, children in below.items():
        if kinds.get(column) == "any":
            known = np.fmax.reduce(result[:, children], axis=1)  # NaN where all are
            carried = np.where(result[:, column] < known, np.float32("nan"), result[:, column])
            result[:, column] = _follow(carried, _any(result[:, children]))
    return result


def _any(values: FloatArray) -> FloatArray:
    """(n,) of (n, k): 1 where one is 1, else NaN where one is NaN, else the largest."""
    result: FloatArray = np.where((values == 1).any(axis=1), np.float32(1), values.max(axis=1))
    return result


def _follow(carried: FloatArray, derived: FloatArray) -> FloatArray:
    """(n,): the derived value, but the carried one where it is unknown."""
    return np.where(np.isnan(derived), carried, derived)


def contradictions(values: npt.NDArray[np.floating[Any]], labels: LabelSet, ids: npt.ArrayLike) -> list[Contradiction]:
    """List where a table contradicts the hierarchy; nothing is changed.

    Three kinds: a child present (above 0.5) without its parent (below 0.5), which a derived parent never shows;
    `No Finding` or `Normal` beside a derived label at the top; and a derived label that the table carries with the
    other value than the one that follows.

    Args:
        values: (n, L) values of `labels.names` as the table has them, NaN where unknown or without a column.
        labels: The label set.
        ids: (n,) ids of the rows.

    Returns:
        Those that occur: by edge in the hierarchy's order, then the others.
    """
    names, filled = labels.names, derive(values, labels)
    place = {name: column for column, name in enumerate(names)}
    derived = [label.name for label in labels.labels if label.derived]
    below = {child for _, child in labels.edges}
    tops = [name for name in derived if name in place and name not in below and _is_parent(name, labels)]
    nothing = [name for name in names if name.casefold() in NOTHING_FOUND]
    present, absent = filled > 0.5, filled < 0.5
    found = [
        (f"{child} without {parent}", present[:, place[child]] & absent[:, place[parent]])
        for parent, child in labels.edges
    ]
    found += [(f"{name} beside {top}", present[:, place[name]] & present[:, place[top]])
              for top in tops for name in nothing]  # fmt: skip
    for name in derived:
        carried, own = np.asarray(values)[:, place[name]], place[name]
        other = ((carried > 0.5) & absent[:, own]) | ((carried < 0.5) & present[:, own])
        found.append((f"{name} in the table against what follows from the others", other))
    texts = np.asarray(ids).astype(str)
    return [Contradiction(text, int(rows.sum()), texts[rows][:_SHOWN].tolist()) for text, rows in found if rows.any()]


def _is_parent(name: str, labels: LabelSet) -> bool:
    return any(parent == name for parent, _ in labels.edges)


def label_values(manifest: Manifest, labels: LabelSet, columns: dict[str, str] | None = None) -> FloatArray:
    """(rows, L) values of `labels.names` in a manifest, as it has them; NaN for those without a column.

    Args:
        manifest: The table.
        labels: The label set.
        columns: Label -> column; None: columns are named like the labels.
    """
    known = {name: name for name in manifest.labels} if columns is None else columns
    values = np.full((len(manifest), len(labels.names)), np.nan, np.float32)
    found = [name for name in labels.names if name in known]
    values[:, [labels.names.index(name) for name in found]] = manifest.targets([known[name] for name in found])
    return values


def complete(manifest: Manifest, labels: LabelSet | None) -> Manifest:
    """Add the derived labels of a set to a source's manifest, and warn of what contradicts the hierarchy.

    Args:
        manifest: As a source read it, with columns named like the labels.
        labels: The label set; None: the source's own, which derives nothing.

    Returns:
        The manifest, its labels in the set's order; the same one where the set has no derived label.
    """
    if labels is None or not labels.hierarchy:
        return manifest
    values = label_values(manifest, labels)
    for found in contradictions(values, labels, manifest.table["image_id"]):
        logger.warning("%s: %s; it is left as it is", manifest.origin, found)
    derived = [label.name for label in labels.labels if label.derived]
    if not derived:
        return manifest
    filled = dict(zip(labels.names, derive(values, labels).T, strict=True))
    columns = {name: filled[name] for name in derived}
    table = manifest.table.drop(columns=derived, errors="ignore").assign(**columns)
    known = label_columns(table.columns)
    order = [label.name for label in labels.labels if label.name in known]
    rest = [column for column in table.columns if column not in order]
    return Manifest(table[[*rest, *order]], manifest.origin)
