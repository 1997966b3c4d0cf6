"""How often predictions contradict the label hierarchy, and what making them consistent costs or brings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from rich.table import Table
from rich.text import Text

from longview.hierarchy import Edge, columns_of_edges, consistent
from longview.labels import LabelSet
from longview.ranking import Summary, per_label, summarise

FloatArray = npt.NDArray[np.floating[Any]]

THRESHOLD = 0.5
"""Probability from which a label counts as predicted."""


@dataclass(frozen=True)
class Rates:
    """Shares of rows in which an edge is violated.

    Args:
        above: (E,) share of rows whose child is more probable than its parent.
        across: (E,) share of rows that predict the child (from 0.5 on) without its parent (below 0.5).
    """

    above: npt.NDArray[np.float64]
    across: npt.NDArray[np.float64]

    @classmethod
    def of(cls, probabilities: FloatArray, edges: Sequence[Edge]) -> Rates:
        """Count in probabilities (n, L), n at least 1."""
        pairs = [(probabilities[:, parent], probabilities[:, child]) for parent, child in edges]
        above = [(child > parent).mean() for parent, child in pairs]
        across = [((child >= THRESHOLD) & (parent < THRESHOLD)).mean() for parent, child in pairs]
        return cls(np.array(above, np.float64), np.array(across, np.float64))


@dataclass(frozen=True)
class Violations:
    """What predictions say against a hierarchy, as they are and made consistent.

    Args:
        edges: E (parent, child) names.
        before: Rates of the predictions as they are.
        after: Rates once each parent is raised to its highest child; `above` is then 0.
        summary: Macro means of the predictions made consistent.
    """

    edges: list[tuple[str, str]]
    before: Rates
    after: Rates
    summary: Summary

    @classmethod
    def of(
        cls,
        labels: LabelSet,
        names: Sequence[str],
        probabilities: FloatArray,
        targets: npt.NDArray[np.float64],
        groups: Mapping[str, Sequence[str]],
    ) -> Violations | None:
        """Compare predictions with the hierarchy of a label set.

        Args:
            labels: Whose hierarchy; a label that was not scored is stepped over.
            names: L names of the columns.
            probabilities: (n, L).
            targets: (n, L) label values, NaN where unknown.
            groups: Group -> labels, for the means.

        Returns:
            None where the labels have no edge among them.
        """
        edges = labels.edges_among(names)
        if not edges:
            return None
        columns = columns_of_edges(edges, names)
        raised = consistent(probabilities, columns)
        summary = summarise(list(names), per_label(raised, targets, names), groups)
        return cls(edges, Rates.of(probabilities, columns), Rates.of(raised, columns), summary)

    def report(self, summary: Summary) -> dict[str, Any]:
        """Plain figures for metrics.json: means over all rows and edges.

        Args:
            summary: Macro means of the predictions as they are.
        """
        return {
            "edges": len(self.edges),
            "child_above_parent": {"before": float(self.before.above.mean()), "after": float(self.after.above.mean())},
            "child_without_parent": {
                "before": float(self.before.across.mean()),
                "after": float(self.after.across.mean()),
            },
            "map": {"before": summary["map"], "after": self.summary["map"]},
            "auroc": {"before": summary["auroc"], "after": self.summary["auroc"]},
        }

    def rows(self) -> list[dict[str, Any]]:
        """One row per edge, the columns of violations.csv."""
        return [
            {
                "parent": parent,
                "child": child,
                "child_above_parent": float(self.before.above[index]),
                "child_without_parent": float(self.before.across[index]),
                "child_above_parent_after": float(self.after.above[index]),
                "child_without_parent_after": float(self.after.across[index]),
            }
            for index, (parent, child) in enumerate(self.edges)
        ]

    def table(self, summary: Summary) -> Table:
        """The table that is printed: rates and means before and after, and the edge that is violated most.

        Args:
            summary: Macro means of the predictions as they are.
        """
        table = Table(title=f"Hierarchy of {len(self.edges)} edges")
        table.add_column("")
        for column in ("as predicted", "made consistent"):
            table.add_column(column, justify="right", no_wrap=True)
        rates = {
            "child above its parent": (self.before.above, self.after.above),
            "child (0.5 or more) without its parent": (self.before.across, self.after.across),
        }
        for name, pair in rates.items():
            table.add_row(name, *(f"{100 * rate.mean():.2f} %" for rate in pair))
        for name, before, after in (
            ("mean AUROC", summary["auroc"], self.summary["auroc"]),
            ("mean AP", summary["map"], self.summary["map"]),
        ):
            table.add_row(name, f"{before:.4f}", f"{after:.4f}")
        most = int(self.before.above.argmax())
        if self.before.above[most] > 0:
            parent, child = self.edges[most]
            table.caption = Text(
                f"Most often: {child} above {parent}, {100 * self.before.above[most]:.2f} % of the rows"
            )
        return table
