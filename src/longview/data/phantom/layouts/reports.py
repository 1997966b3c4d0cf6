"""What a labeller of reports makes of a study: findings present, absent, uncertain, or not mentioned."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from hashlib import blake2b
from typing import Literal

Cell = Literal["1.0", "0.0", "-1.0", ""]
"""A cell as the real tables write it; "" is not mentioned."""

NO_FINDING = "No Finding"
_WIDER = {"Nodule": "Lung Lesion", "Mass": "Lung Lesion"}
_NO_PATHOLOGY = {NO_FINDING, "Support Devices"}  # may stand beside No Finding

_UNSURE = {"Atelectasis": 0.3, "Consolidation": 0.3, "Edema": 0.2, "Support Devices": 0.02}
"""Share of a label's positive studies whose report leaves it open; CheXpert's lie between 1 and 65 %."""

_UNSURE_ELSE = 0.12
_UNSURE_ABSENT = 0.03  # uncertain, though it is not there
_DENIED = 0.2  # named as absent; all other absent findings are not mentioned


def findings(shown: Collection[str], labels: Sequence[str]) -> set[str]:
    """The labels of CheXpert's set that a study with these findings has, `No Finding` where nothing is wrong."""
    present = {_WIDER.get(label, label) for label in shown} & set(labels)
    return present if present - _NO_PATHOLOGY else {*present, NO_FINDING}


def report_cells(study_id: str, present: Collection[str], labels: Sequence[str], labeler: str) -> dict[str, Cell]:
    """What a labeller's table says about a study.

    The same study, label and labeller always get the same cell. A present finding is never blank, so blanks taken for
    0 are right; what is uncertain is mostly present. `No Finding` is 1 where no pathology is present or uncertain, else
    blank, as in CheXpert's training table.

    Args:
        study_id: Id that the draws depend on.
        present: Labels that the study has, as :func:`findings` gives them.
        labels: All labels of the table.
        labeler: Name that the draws depend on: another labeller is unsure of other studies.

    Returns:
        Label -> cell, in the order of `labels`.
    """
    cells: dict[str, Cell] = {}
    for label in labels:
        digest = blake2b(f"{labeler}/{study_id}/{label}".encode(), digest_size=4).digest()
        draw = int.from_bytes(digest, "big") / 2**32
        if label in present:
            cells[label] = "-1.0" if draw < _UNSURE.get(label, _UNSURE_ELSE) else "1.0"
        else:
            cells[label] = "-1.0" if draw < _UNSURE_ABSENT else "0.0" if draw < _UNSURE_ABSENT + _DENIED else ""
    if NO_FINDING in cells:
        named = any(cell in {"1.0", "-1.0"} for label, cell in cells.items() if label not in _NO_PATHOLOGY)
        cells[NO_FINDING] = "" if named else "1.0"
    return cells


def exact_cells(present: Collection[str], labels: Sequence[str]) -> dict[str, Cell]:
    """Label -> 1 or 0, as one who sees the images says it."""
    return {label: "1.0" if label in present else "0.0" for label in labels}
