"""A penalty on predictions that put a child above its parent in the label hierarchy."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from longview import InputError
from longview.hierarchy import columns_of_edges
from longview.labels import LabelSet
from longview.losses.base import Loss

Form = Literal["hinge", "product", "step"]
Weights = Literal["fixed", "data"]

_EPSILON = 1e-6  # of the published weights: an edge whose parent is never absent then weighs 0.5


class HierarchicalLoss(Loss):
    """Any loss, and a penalty wherever a child is more probable than its parent.

    `base + penalty * mean over rows and edges of w_pc * violation(p_p, p_c)`, p = sigmoid(logit), where the violation
    of parent p and child c is, by `form`,

    * `hinge`: `max(p_c - p_p, 0)`, which pulls the child down and the parent up until they meet;
    * `product`: `p_c (1 - p_p)`, the probability of a child without its parent if the two were independent; it has a
      gradient at consistent pairs, too;
    * `step`: `1[p_p < 0.5 and p_c > 0.5]`, the hierarchical binary cross-entropy of Asadi et al. 2025 (arXiv
      2502.03591; there summed over the edges, with w = 0.1 or 0.5). It has no gradient: training is that of the base
      loss, and only the reported value changes. For comparison.

    Weights of edges are 1, or from the training part, by the same paper's data-driven penalties,
    `w_pc = 1 - (N(p = 0, c = 1) + e) / (N(p = 0) + 2 e)`, e = 1e-6: small where the source's own labels often have the
    child without the parent. N counts the studies that know both; a soft value counts as what it is nearer to. Edges
    below a derived parent weigh 1: it is closed by construction, and the counts say nothing of it.

    Consistency needs no label, so an edge counts in each row with any known target, whether or not its own two are
    known. A row without any costs nothing, as in every loss.

    Args:
        base: The loss of each label by itself.
        penalty: How much the mean violation weighs beside the base loss, at least 0.
        form: What a violation is.
        weights: `fixed`: every edge weighs 1. `data`: by the training part, as above.

    Raises:
        InputError: For a penalty below 0; from `set_labels`, for labels without a hierarchy.
    """

    edge_weights: Tensor

    def __init__(self, base: Loss, penalty: float = 1.0, form: Form = "hinge", weights: Weights = "fixed") -> None:
        super().__init__()
        if not 0 <= penalty < math.inf:
            raise InputError(f"HierarchicalLoss: penalty must be at least 0, and finite, found {penalty}")
        self.base, self.penalty, self.form, self.weights = base, penalty, form, weights
        # lists, no buffers: a moving average of weights and buffers would average column numbers
        self.parent_columns: list[int] = []
        self.child_columns: list[int] = []
        self.derived_parents: list[bool] = []
        self.register_buffer("edge_weights", torch.empty(0))

    def set_labels(self, labels: LabelSet) -> None:
        """Learn the edges among the (seen) labels.

        Raises:
            InputError: Where there are none.
        """
        super().set_labels(labels)
        edges = columns_of_edges(labels.edges, labels.names)
        if not edges:
            raise InputError(
                f"HierarchicalLoss: label set {labels.name!r} has no hierarchy among its (seen) labels; add "
                f"`hierarchy: {{PARENT: [CHILD, ...]}}` to its file, or train on a set that has one, such as "
                f"chexpert_hierarchical, or with the base loss alone"
            )
        self.parent_columns, self.child_columns = [parent for parent, _ in edges], [child for _, child in edges]
        derived = {label.name for label in labels.labels if label.derived}
        self.derived_parents = [labels.names[parent] in derived for parent in self.parent_columns]
        self.edge_weights = torch.ones(len(edges), device=self.edge_weights.device)

    def set_targets(self, targets: Tensor) -> None:
        """Weigh the edges by the training part's targets (S, L), where `weights` is `data`."""
        super().set_targets(targets)
        if self.weights == "data":
            parent, child = targets[:, self.parent_columns], targets[:, self.child_columns]  # (S, E); NaN is neither
            without = (parent < 0.5) & ~child.isnan()
            broken = (without & (child > 0.5)).sum(0).double()
            weights = 1 - (broken + _EPSILON) / (without.sum(0).double() + 2 * _EPSILON)
            weights[self.derived_parents] = 1.0
            self.edge_weights.copy_(weights)

    def elementwise(self, logits: Tensor, target: Tensor) -> Tensor:
        """The base loss of each cell (B, L); the penalty is of pairs, not of cells."""
        return self.base.elementwise(logits, target)

    def violation(self, logits: Tensor) -> Tensor:
        """How much each edge is violated, (B, E) in [0, 1], of logits (B, L) float32."""
        parent, child = logits[:, self.parent_columns], logits[:, self.child_columns]
        if self.form == "hinge":
            return (child.sigmoid() - parent.sigmoid()).relu()
        if self.form == "product":
            return child.sigmoid() * (-parent).sigmoid()  # 1 - p would lose what is near 1
        return ((parent < 0) & (child > 0)).to(logits.dtype)

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Base loss and penalty: a float32 scalar, 0 (with zero gradient) where no target is known.

        Args:
            logits: (B, L).
            target: (B, L) in [0, 1], NaN where unknown.

        Raises:
            ValueError: Where the shapes differ.
        """
        base: Tensor = self.base(logits, target)
        rows = ~target.isnan().all(dim=1)  # (B,)
        with torch.autocast(logits.device.type, enabled=False):
            # logits of rows that do not count are replaced before the arithmetic, as in the base class
            cost = self.violation(torch.where(rows[:, None], logits.float(), 0.0)) * self.edge_weights  # (B, E)
            total = torch.where(rows[:, None], cost, 0.0).sum() / (rows.sum() * len(self.parent_columns)).clamp_min(1)
        return base + self.penalty * total
