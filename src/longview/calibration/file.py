"""The file that `calibrate` writes: how each label's probability is corrected and cut, and what that rests on.

Predictions say which model they are of in the attributes of their table (`MODEL`), which a parquet file keeps,
and whether they are calibrated already (:data:`CALIBRATION`).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from longview import InputError, __version__
from longview.calibration.calibrators import Beta, Calibrator, Isotonic, Platt, Temperature
from longview.joining import some
from longview.predictions import MODEL, TEST_TIME, labels_of

logger = logging.getLogger(__name__)

CALIBRATION = "longview_calibration"
"""Attribute of a prediction table: SHA-256 of the calibration that was applied to it."""

_FORMAT = 1
_MAPS: tuple[type[Calibrator], ...] = (Temperature, Platt, Beta, Isotonic)
_PANDAS_ATTRIBUTES = b"PANDAS_ATTRS"  # where pandas keeps a table's attributes in a parquet file's schema


@dataclass(frozen=True)
class CalibratedLabel:
    """What is known of one label.

    Args:
        calibrator: Its map.
        pooled: Whether that is all labels' temperature, since too few rows were known of this one (with method
            `temperature` all labels have it; these would have it with any other).
        thresholds: Rule -> threshold on the calibrated probability; empty where none was chosen.
        counts: `positives`, `negatives`, `soft`, `unknown` rows that it was fitted on.
        figures: `before`, `after` (on the rows it was fitted on) and `held_out` -> `ece`, `brier`, `bce`.
    """

    calibrator: Calibrator
    pooled: bool = False
    thresholds: Mapping[str, float] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)
    figures: Mapping[str, Mapping[str, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class Calibration:
    """Calibrators of all labels of one model.

    Args:
        method: `temperature`, `vector`, `platt`, `isotonic` or `beta`.
        labels: Label -> what is known of it, in the predictions' order.
        model: SHA-256 of the checkpoint that the predictions are of; None where that is not known.
        about: What it rests on: files and their hashes, split, rows, macro figures; `test_time`, as the predictions'
            attribute says it, null where each image was seen once, and absent where that is not known.
        origin: File it was read from, for messages.
    """

    method: str
    labels: Mapping[str, CalibratedLabel]
    model: str | None = None
    about: Mapping[str, Any] = field(default_factory=dict)
    origin: str = "the calibration"

    @classmethod
    def read(cls, path: str | Path) -> Calibration:
        """Read what :meth:`write` wrote.

        Raises:
            InputError: Where the file is missing, is no calibration, or a value in it is impossible.
        """
        file = Path(path)
        if not file.is_file():
            raise InputError(f"calibration {file} does not exist; write one with: main.py calibrate --output {file}")
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:  # UnicodeDecodeError and JSONDecodeError are among these
            raise InputError(f"{file} is no calibration: {error}") from error
        named = isinstance(content, dict) and {"calibration", "method", "labels"} <= set(content)
        if not named or not isinstance(content["labels"], dict):
            raise InputError(f"{file} is no calibration; give the .json file that `calibrate` wrote")
        if content["calibration"] != _FORMAT:
            raise InputError(f"{file} has format {content['calibration']}; this longview reads {_FORMAT}")
        labels = {name: _label(entry, f"{file}: label {name!r}") for name, entry in content["labels"].items()}
        about = {key: value for key, value in content.items() if key not in {"calibration", "method", "labels"}}
        return cls(content["method"], labels, about.pop("model", None), about, str(file))

    def write(self, path: Path) -> None:
        """Write readable JSON. The caller sees to it that no half file is seen."""
        path.write_text(self.text(), encoding="utf-8")

    def text(self) -> str:
        """The file's content."""
        head = {"calibration": _FORMAT, "longview": __version__, "method": self.method, "model": self.model}
        labels = {name: _entry(label) for name, label in self.labels.items()}
        content = plain({**head, **self.about, "labels": labels})
        return json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False) + "\n"

    def thresholds(self, rule: str) -> dict[str, float]:
        """Label -> threshold on the calibrated probability by a rule, such as `f1`; at least this is positive.

        Raises:
            InputError: Where the file holds none by this rule.
        """
        known = {name for label in self.labels.values() for name in label.thresholds}
        if rule not in known:
            raise InputError(
                f"{self.origin} has no thresholds by {rule!r}; it has {', '.join(sorted(known)) or 'none'}"
            )
        return {name: label.thresholds[rule] for name, label in self.labels.items() if rule in label.thresholds}

    def apply(
        self,
        table: pd.DataFrame,
        *,
        model: str | None = None,
        origin: str = "the predictions",
        checked: bool = False,
    ) -> pd.DataFrame:
        """Calibrate a table of predictions.

        Args:
            table: Ids and probabilities, as :func:`longview.predictions.read_predictions` gives it.
            model: SHA-256 of the checkpoint that it was made with; None: what the table's attributes say.
            origin: What the table is, for messages.
            checked: Whether :meth:`check` has been called, and has warned.

        Returns:
            The same ids, and float64 probabilities (float32 would make ties) in the same columns; its attributes
            name the model and this calibration.

        Raises:
            InputError: Where the table has other labels, is of another model, or is calibrated already.
        """
        model = model or table.attrs.get(MODEL)
        self._check_labels(labels_of(table), origin)
        self._check_model(model, origin)
        if not checked and (model or TEST_TIME in table.attrs):  # else nobody knows how it was predicted
            self._warn_of_test_time(table.attrs.get(TEST_TIME), origin)
        if CALIBRATION in table.attrs:
            raise InputError(f"{origin} is calibrated already; give the predictions that `predict` wrote")
        if not (self.model and model):
            unsure = self.origin if not self.model else origin
            logger.warning("%s does not say which model it is of: see to it yourself that they belong together", unsure)
        result = table.copy()
        for name in labels_of(table):
            result[name] = self.labels[name].calibrator.apply(table[name].to_numpy())
        digest = hashlib.sha256(self.text().encode()).hexdigest()
        result.attrs = {**table.attrs, **({MODEL: model} if model else {}), CALIBRATION: digest}
        return result

    def check(
        self, labels: Sequence[str], model: str | None, origin: str, test_time: Mapping[str, Any] | None = None
    ) -> None:
        """Refuse what the calibration was not fitted for, and warn where each image is seen otherwise.

        Args:
            labels: What is predicted.
            model: SHA-256 of the checkpoint that predicts; None where that is not known.
            origin: What predicts, or what was predicted, for messages.
            test_time: Which versions of each image are averaged; None: each is seen once.

        Raises:
            InputError: Naming the labels, or both models.
        """
        self._check_labels(labels, origin)
        self._check_model(model, origin)
        self._warn_of_test_time(test_time, origin)

    def _warn_of_test_time(self, given: Mapping[str, Any] | None, origin: str) -> None:
        if "test_time" not in self.about:  # written before it was noted, or fitted on a CSV
            return
        mine, theirs = (_averaged(item) for item in (self.about["test_time"], given))
        if mine != theirs:
            logger.warning(
                "%s was fitted on predictions %s, and %s is %s: its probabilities are off; predict both alike, or "
                "fit a calibration of its own", self.origin, mine, origin, theirs,
            )  # fmt: skip

    def _check_model(self, model: str | None, origin: str) -> None:
        if self.model and model and self.model != model:
            raise InputError(
                f"{self.origin} was fitted on another model (checkpoint {self.model[:12]}…) than {origin} is of "
                f"({model[:12]}…); fit a calibration on validation predictions of that checkpoint"
            )

    def _check_labels(self, given: Sequence[str], origin: str) -> None:
        strange = [name for name in given if name not in self.labels]
        absent = [name for name in self.labels if name not in given]
        if strange or absent:
            sides = (("predicted, but not calibrated", strange), ("calibrated, but not predicted", absent))
            listed = "; ".join(f"{title}: {some(names)}" for title, names in sides if names)
            raise InputError(
                f"{self.origin} was fitted on other labels than {origin} has; {listed}. Fit a calibration on "
                f"validation predictions of the same model"
            )


def attributes_of(file: Path) -> dict[str, Any]:
    """Attributes of a table of predictions in a file (`MODEL`, `CALIBRATION`); a CSV has none."""
    if file.suffix != ".parquet":
        return {}
    import pyarrow.parquet as pq

    stored = (pq.read_schema(file).metadata or {}).get(_PANDAS_ATTRIBUTES)
    found: dict[str, Any] = json.loads(stored) if stored else {}
    return found


def is_calibration(file: Path) -> bool:
    """Whether a file is one that :meth:`Calibration.write` wrote, of whatever format."""
    try:
        content = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None
    except ValueError:  # UnicodeDecodeError and JSONDecodeError are among these
        return False
    return isinstance(content, dict) and {"calibration", "method", "labels"} <= set(content)


def _averaged(test_time: Mapping[str, Any] | None) -> str:
    """Which versions of each image were averaged, in words; equal settings give equal words."""
    if not test_time:
        return "without test-time averaging"
    return f"averaged at test time ({', '.join(f'{key} {test_time[key]}' for key in sorted(test_time))})"


def plain(value: Any) -> Any:
    """A value as JSON holds it: numbers of Python, lists, and null where a figure is not defined."""
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and math.isnan(value) else value


def parameters(calibrator: Calibrator) -> dict[str, Any]:
    """The numbers that a calibrator consists of, by name."""
    return {item.name: getattr(calibrator, item.name) for item in dataclasses.fields(calibrator)}


def _entry(label: CalibratedLabel) -> dict[str, Any]:
    return {
        type(label.calibrator).__name__.lower(): parameters(label.calibrator),
        "pooled": label.pooled,
        "thresholds": label.thresholds,
        **label.counts,
        **label.figures,
    }


def _label(entry: Any, place: str) -> CalibratedLabel:
    """Read one label's part of the file.

    Raises:
        InputError: Naming the place.
    """
    maps = {kind.__name__.lower(): kind for kind in _MAPS}
    found = [name for name in entry if name in maps] if isinstance(entry, dict) else []
    if len(found) != 1:
        raise InputError(f"{place} needs one of {', '.join(maps)}; it has {', '.join(found) or 'none'}")
    kind, numbers = maps[found[0]], entry[found[0]]
    names = [item.name for item in dataclasses.fields(kind)]
    if not isinstance(numbers, dict) or set(numbers) != set(names):
        raise InputError(f"{place}: {found[0]} needs {', '.join(names)}, and no more")
    try:
        calibrator = kind(**numbers)
    except (InputError, TypeError, ValueError) as error:  # TypeError: text or a list where a number belongs
        raise InputError(f"{place}: {error}") from error
    thresholds = entry.get("thresholds", {})
    if not isinstance(thresholds, dict) or not all(isinstance(value, int | float) for value in thresholds.values()):
        raise InputError(f"{place}: thresholds must be numbers, one per rule")
    return CalibratedLabel(
        calibrator,
        bool(entry.get("pooled", False)),
        thresholds,
        {name: value for name, value in entry.items() if isinstance(value, int) and name != "pooled"},
        {name: value for name, value in entry.items() if name in {"before", "after", "held_out"}},
    )
