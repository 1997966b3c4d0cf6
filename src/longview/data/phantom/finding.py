"""One finding of one patient: what it is, where, how big, and on which projections it shows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from longview.data.phantom.body import LEFT, RIGHT
from longview.data.phantom.canvas import Plane

Shown = Literal["both", "frontal", "lateral"]

_SIDES = {RIGHT: "right", LEFT: "left", 0: "both"}


@dataclass(frozen=True)
class Finding:
    """A finding to draw.

    Args:
        label: Its name, as the label set has it.
        kind: Which of its looks ("pacemaker", "rib", …); the label in lower case where it has one look only.
        side: `RIGHT`, `LEFT`, or 0 for both sides or the middle.
        severity: 0 just visible to 1 extreme.
        shown: The projections that show it; the others have not a pixel changed.
        seed: Seed of its place and shape: the same in both projections and in all studies of the patient.
    """

    label: str
    kind: str
    side: int
    severity: float
    shown: Shown
    seed: tuple[int, ...]

    @property
    def side_name(self) -> str:
        """`left`, `right` (of the patient) or `both`."""
        return _SIDES[self.side]

    @property
    def size_name(self) -> str:
        """`small`, `medium` or `large`: thirds of the severity."""
        return ("small", "medium", "large")[min(2, int(self.severity * 3))]

    def shows_in(self, plane: Plane) -> bool:
        """Whether a projection in this plane shows it."""
        return self.shown in {"both", plane}

    def between(self, low: float, high: float) -> float:
        """A measure that grows with the severity from `low` to `high`."""
        return low + (high - low) * self.severity
