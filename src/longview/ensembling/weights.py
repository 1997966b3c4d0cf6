"""The weights of an ensemble's members, and the readable file that keeps them."""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import numpy as np

from longview import InputError, __version__
from longview.calibration.file import CALIBRATION, plain
from longview.ensembling.combining import FloatArray, Scale
from longview.ensembling.members import Members
from longview.joining import some
from longview.predictions import TEST_TIME

logger = logging.getLogger(__name__)

_FORMAT = 1


@dataclass(frozen=True)
class Weights:
    """Weights of M members.

    Args:
        shared: M weights, for each label that has none of its own; not negative, sum 1.
        own: Label -> M weights of its own.
        on: What is averaged with them.
        models: SHA-256 of each member's checkpoint; None where that is not known.
        study_weights: View type -> weight with which images were averaged to studies first; empty where they were not.
        about: Files, truth and figures that they rest on. Only kept.
        origin: File they were read from, for messages.
    """

    shared: list[float]
    own: Mapping[str, list[float]] = field(default_factory=dict)
    on: Scale = "probability"
    models: Sequence[str | None] = ()
    study_weights: Mapping[str, float] = field(default_factory=dict)
    about: Mapping[str, Any] = field(default_factory=dict)
    origin: str = "--weights"

    @classmethod
    def parse(cls, text: str, members: int, on: Scale) -> Weights:
        """Weights from `1,2,1`.

        Raises:
            InputError: For another number of them than there are members, or values that are no weights.
        """
        try:
            values = [float(part) for part in text.strip("[] ").split(",")]
        except ValueError as error:
            raise InputError(
                f"--weights {text!r}: give a number for each of --predictions, as 1,2,1, or a .json file"
            ) from error
        _check(values, members, f"--weights {text!r}")
        return cls([value / sum(values) for value in values], on=on)

    @classmethod
    def read(cls, path: Path) -> Weights:
        """Read what :meth:`text` says.

        Raises:
            InputError: Where the file is missing, or holds no weights.
        """
        if not path.is_file():
            raise InputError(
                f"--weights {path} does not exist; give the .json file that `ensemble` wrote, or numbers: 1,2,1"
            )
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:  # UnicodeDecodeError and JSONDecodeError are among these
            raise InputError(f"--weights {path} is no JSON: {error}") from error
        needed = {"ensemble", "on", "members", "weights", "label_weights"}
        if not isinstance(content, dict) or not needed <= set(content):
            raise InputError(
                f"--weights {path} holds no weights; give the .json file that `ensemble` wrote beside its output"
            )
        if content["ensemble"] != _FORMAT:
            raise InputError(f"{path} has format {content['ensemble']}; this longview reads {_FORMAT}")
        if content["on"] not in get_args(Scale):
            raise InputError(f"{path}: on is {content['on']!r}; give {' or '.join(get_args(Scale))}")
        members, own = content["members"], content["label_weights"]
        for values, place in [(content["weights"], "weights"), *((own[name], f"label {name!r}") for name in own)]:
            _check(values, len(members), f"{path}: {place}")
        models = [member.get("model") for member in members]
        about = {key: content[key] for key in ("fitted",) if key in content}
        return cls(content["weights"], own, content["on"], models, content.get("study_weights", {}), about, str(path))

    def text(self, members: Members) -> str:
        """The file's content: weights that were not used before name the models they were used with."""
        head = {"ensemble": _FORMAT, "longview": __version__, "on": self.on, "study_weights": self.study_weights}
        listed = [
            {"predictions": str(file), "model": model}
            for file, model in zip(members.files, members.models, strict=True)
        ]
        content = plain({**head, "members": listed, "weights": self.shared, "label_weights": self.own, **self.about})
        return json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False) + "\n"

    def matrix(self, names: Sequence[str]) -> FloatArray:
        """The weights (M, L) of some labels.

        Raises:
            InputError: Where a label with weights of its own is none of these.
        """
        strange = [name for name in self.own if name not in names]
        if strange:
            raise InputError(f"{self.origin} has weights for {some(strange)}, which the predictions lack")
        return np.array([self.own.get(name, self.shared) for name in names], np.float64).T

    def check(self, members: Members) -> None:
        """Refuse weights of other models.

        Raises:
            InputError: Where their number differs, or a member is another model than the weights are of.
        """
        if len(self.shared) != len(members.files):
            raise InputError(
                f"{self.origin} has {len(self.shared)} weights for {len(members.files)} members; give one for each of "
                f"--predictions, in their order"
            )
        for file, model, known in zip(members.files, members.models, self.models or members.models, strict=True):
            if model and known and model != known:
                raise InputError(
                    f"{self.origin} was fitted on another model (checkpoint {known[:12]}…) than {file} is of "
                    f"({model[:12]}…); give the predictions in the order of the fit"
                )


def _check(values: Any, members: int, place: str) -> None:
    """Refuse what is no list of weights.

    Raises:
        InputError: Naming the place.
    """
    numbers = isinstance(values, list) and all(isinstance(value, int | float) for value in values)
    if not numbers or not all(0 <= value < math.inf for value in values) or not sum(values):
        raise InputError(f"{place}: weights must be numbers of 0 or more, and not all 0")
    if len(values) != members:
        raise InputError(f"{place}: {len(values)} weights for {members} members; give one for each, in their order")


def identity(members: Members, weights: FloatArray, on: Scale, views: Mapping[str, float]) -> str | None:
    """What stands for a checkpoint's SHA-256: the same for the same models, averaged alike; None where one is unknown.

    A calibration that is fitted on an ensemble's validation predictions then fits its test predictions, and no others.
    """
    if not all(members.models):
        return None
    parts = [{key: item.get(key) for key in (CALIBRATION, TEST_TIME)} for item in members.attributes]
    content = [on, dict(views), members.models, parts, np.round(weights, 12).tolist()]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
