"""Heat-maps: where in the film a label's score comes from, in the film's own frame."""

from __future__ import annotations

from typing import Literal

Method = Literal[
    "gradcam", "gradcam++", "scorecam", "hirescam", "ablationcam", "xgradcam", "eigencam", "layercam", "cam",
    "attention", "gradattention",
]  # fmt: skip
"""How a heat-map is made; :mod:`longview.explain.cam` and :mod:`longview.explain.attention` say what each is."""
