"""A model as it is served: its network, calibration, thresholds, and what it can be asked for."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import numpy as np
import numpy.typing as npt
import torch

from longview import InputError
from longview.calibration.file import Calibration
from longview.explain import Method
from longview.explain.heads import decoder_of, linear_weights
from longview.exported.runtime import RuntimeNetwork
from longview.inference import OpenModel
from longview.models.decoder import LabelDecoder
from longview.models.network import Network
from longview.uncertainty.dropout import check

logger = logging.getLogger(__name__)

FloatArray = npt.NDArray[np.float64]

_TOO_SLOW = {"scorecam", "ablationcam"}  # up to a thousand passes, while everybody else waits
_CARDS = ("model_card.md", "README.md")


@dataclass(frozen=True)
class Served:
    """A model, ready to answer.

    Args:
        model: The model.
        calibration: Corrects its probabilities; None: they are the network's.
        thresholds: Label -> the probability from which it is positive.
        rule: How those were chosen; None: one number for all.
        methods: Heat-maps that it can draw, in the order of `Method`.
        samples: Whether it has a dropout to sample.
        card: Its model card, Markdown; None: there is none.
    """

    model: OpenModel
    calibration: Calibration | None
    thresholds: Mapping[str, float]
    rule: str | None = None
    methods: Sequence[Method] = ()
    samples: bool = False
    card: str | None = field(default=None, repr=False)

    @property
    def name(self) -> str:
        """Name of the model."""
        return self.model.name

    @classmethod
    def of(
        cls,
        model: OpenModel,
        calibration: Calibration | None = None,
        rule: str | None = None,
        threshold: float = 0.5,
        card: str | None = None,
    ) -> Served:
        """Find out what a model can do, by one pass of a black film.

        Raises:
            InputError: Where the calibration is of another model or has no such rule, or the scores are not finite.
        """
        thresholds = dict.fromkeys(model.names, threshold)
        if calibration is not None:
            calibration.check(model.names, model.sha256, model.name)
            rules = list(dict.fromkeys(name for label in calibration.labels.values() for name in label.thresholds))
            rule = rule or (rules[0] if rules else None)
            if rule is not None:
                thresholds |= calibration.thresholds(rule)
        elif rule is not None:
            raise InputError(f"--rule {rule} is one of a calibration's; give --calibration")
        black = torch.zeros(1, 1, model.image_size, model.image_size, dtype=torch.uint8)
        if not model.probabilities(black).isfinite().all():
            raise InputError(
                f"{model.name}: its scores are not finite; its weights are broken, or its training diverged"
            )
        return cls(model, calibration, thresholds, rule, _methods(model, black), _samples(model.network), card)

    def calibrated(self, probabilities: npt.NDArray[Any]) -> FloatArray:
        """Probabilities (..., L) after calibration; the same where there is none."""
        values = probabilities.astype(np.float64)
        if self.calibration is not None:
            for column, name in enumerate(self.model.names):
                flat = self.calibration.labels[name].calibrator.apply(values[..., column].ravel())
                values[..., column] = np.asarray(flat).reshape(values.shape[:-1])
        return values

    def described(self) -> dict[str, Any] | None:
        """The calibration in a few words."""
        if self.calibration is None:
            return None
        text = self.calibration.text()
        return {
            "method": self.calibration.method,
            "rule": self.rule,
            "sha256": hashlib.sha256(text.encode()).hexdigest(),
        }


def card_of(checkpoint: str) -> str | None:
    """The model card that lies beside a checkpoint or an exported model, or in its run's folder; None without one."""
    path = Path(checkpoint)
    if not path.exists():
        return None
    folders = [path] if path.is_dir() else [path.parent]
    if path.parent.name == "checkpoints":
        folders += [path.parent.parent, path.parent.parent / "report"]
    for folder in folders:
        for name in _CARDS:
            if (folder / name).is_file():
                return (folder / name).read_text(encoding="utf-8", errors="replace")
    return None


def encodes(network: Network) -> bool:
    """Whether a network gives features, which scores, samples and heat-maps then share."""
    return type(network).encode is not Network.encode and not isinstance(network, RuntimeNetwork)


def _methods(model: OpenModel, black: torch.Tensor) -> list[Method]:
    if not encodes(model.network):
        return []
    with torch.no_grad():
        features = model.network.encode(black.to(model.device))
    if features.ndim != 4 or features[0, 0].numel() < 2:
        return []
    missing = set(_TOO_SLOW)
    if linear_weights(model.network) is None:
        missing |= {"cam"}
    if not isinstance(decoder_of(model.network), LabelDecoder):
        missing |= {"attention", "gradattention"}
    return [method for method in get_args(Method) if method not in missing]


def _samples(network: Network) -> bool:
    if isinstance(network, RuntimeNetwork):
        return False
    try:
        check(network)
    except InputError:
        return False
    return True
