"""Parents and children among labels: where a child is present so is its parent, and a prediction may say otherwise."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, overload

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from torch import Tensor  # tables are scored without torch

    FloatArray = npt.NDArray[np.floating[Any]]

Edge = tuple[int, int]
"""Column of a parent, column of its child."""

Node = TypeVar("Node", bound=Hashable)


def columns_of_edges(edges: Iterable[tuple[str, str]], names: Sequence[str]) -> list[Edge]:
    """The columns of (parent, child) names, as :attr:`longview.labels.LabelSet.edges` gives them.

    Args:
        edges: E pairs of names.
        names: L names of columns; each name of an edge is among them.
    """
    place = {name: column for column, name in enumerate(names)}
    return [(place[parent], place[child]) for parent, child in edges]


def children_first(edges: Iterable[tuple[Node, Node]]) -> dict[Node, list[Node]]:
    """Parent -> its children, in an order in which a parent comes after all of its children that are parents.

    Args:
        edges: Pairs of parent and child, without a circle (which a label set refuses).
    """
    below: dict[Node, list[Node]] = {}
    for parent, child in edges:
        below.setdefault(parent, []).append(child)
    ordered: dict[Node, list[Node]] = {}

    def visit(node: Node) -> None:
        if node in below and node not in ordered:
            for child in below[node]:
                visit(child)
            ordered[node] = below[node]

    for parent in below:
        visit(parent)
    return ordered


@overload
def consistent(probabilities: FloatArray, edges: Iterable[Edge]) -> FloatArray: ...


@overload
def consistent(probabilities: Tensor, edges: Iterable[Edge]) -> Tensor: ...


def consistent(probabilities: Any, edges: Iterable[Edge]) -> Any:
    """Raise each parent to its highest child, from the bottom up, so that no child is above its parent.

    Children stay as they are. NaN stays, and counts as no child.

    Args:
        probabilities: (..., L) probabilities, or scores of any kind.
        edges: E columns of parent and child, without a circle.

    Returns:
        (..., L) of the same type; the input is not changed.
    """
    result = probabilities.copy() if isinstance(probabilities, np.ndarray) else probabilities.clone()
    for parent, children in children_first(edges).items():
        for child in children:
            higher = result[..., child] > result[..., parent]
            result[higher, parent] = result[higher, child]
    return result
