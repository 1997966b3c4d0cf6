"""Losses for labels that are rare, soft or unknown.

timm's two-way and ZLPR losses are left out: a log-sum-exp ties all labels of a study, so they have no loss of a cell
that could be masked where a label is unknown, and their logits are not those of probabilities. None optimises AUC or AP
directly: LibAUC, the kept library for that, brings 30 packages and a second OpenCV.
"""

from longview.losses.asymmetric import ASL, RAL
from longview.losses.balanced import ClassBalanced, DistributionBalanced
from longview.losses.base import Loss
from longview.losses.entropy import BCE, WeightedBCE
from longview.losses.focal import Focal, Poly
from longview.losses.hierarchy import HierarchicalLoss
from longview.losses.margin import LDAM
from longview.losses.schedule import Deferred
from longview.losses.smoothing import LabelSmoothing

__all__ = [
    "ASL",
    "BCE",
    "LDAM",
    "RAL",
    "ClassBalanced",
    "Deferred",
    "DistributionBalanced",
    "Focal",
    "HierarchicalLoss",
    "LabelSmoothing",
    "Loss",
    "Poly",
    "WeightedBCE",
]
