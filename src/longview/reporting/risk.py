"""Whether the uncertainty of predictions is worth something: what remains of the errors of the rows one is sure of."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from longview import InputError
from longview.calibration.file import attributes_of
from longview.joining import some
from longview.predictions import labels_of
from longview.reporting.model import made_with
from longview.score_report import Evaluation, shown
from longview.statistics.figures import mean
from longview.statistics.intervals import Interval
from longview.statistics.selective import aurc_replicates
from longview.uncertainty.risk import RiskReport, errors_of, plot_risk
from longview.uncertainty.summary import METHOD, read_uncertainty, wide_table

logger = logging.getLogger(__name__)

RISK = "risk.png"

Measure = Literal["predictive_entropy", "variance", "standard_deviation", "mutual_information"]
"""What rows can be ordered by (:class:`longview.uncertainty.summary.Uncertainty`)."""


@dataclass(frozen=True)
class Doubt:
    """The uncertainty of a table of predictions.

    Args:
        table: Its rows and columns, with a measure of uncertainty in place of each probability.
        measure: Which.
        method: What the samples were (`method`, `samples` or `members`); empty where the file does not say.
    """

    table: pd.DataFrame
    measure: Measure
    method: Mapping[str, Any]

    @classmethod
    def read(cls, file: Path, measure: Measure, predictions: pd.DataFrame, origin: Path) -> Doubt:
        """Read a table of uncertainty, and bring it into the order of the predictions.

        Args:
            file: What `predict --uncertainty` or `ensemble --uncertainty` wrote.
            measure: The measure.
            predictions: As :func:`longview.predictions.read_predictions` gives them.
            origin: Their file.

        Raises:
            InputError: Where it is of another model, or lacks a row or a label of the predictions.
        """
        if not file.is_file():
            raise InputError(f"--uncertainty {file} does not exist")
        _check_model(file, origin)
        wide = wide_table(read_uncertainty(file), measure)
        level, other = ("image" if "image_id" in table.columns else "study" for table in (predictions, wide))
        if level != other:
            raise InputError(f"--uncertainty {file} is per {other}, but {origin} per {level}; give the table beside it")
        names, key = labels_of(predictions), f"{level}_id"
        lacking = [name for name in names if name not in wide.columns]
        if lacking:
            raise InputError(f"--uncertainty {file} has no label {some(lacking)} of {origin}; predict both together")
        place = pd.Index(wide[key]).get_indexer(predictions[key])
        if (place < 0).any():
            raise InputError(
                f"--uncertainty {file} lacks {int((place < 0).sum())} {key}s of {origin}: "
                f"{some(predictions.loc[place < 0, key])}; predict both together"
            )
        values = dict(zip(names, wide[names].to_numpy()[place].T, strict=True))
        return cls(predictions.assign(**values), measure, dict(attributes_of(file).get(METHOD) or {}))


def _check_model(file: Path, predictions: Path) -> None:
    of, made = made_with(file), made_with(predictions)
    ours, theirs = (source["sha256"] if source else "" for source in (of, made))
    if not ours or not theirs:
        one = file if not ours else predictions
        logger.warning("%s does not say which model it is of: see to it that %s is of the same", one, {
            file: predictions, predictions: file}[one])  # fmt: skip
    elif ours != theirs:
        assert of is not None and made is not None
        raise InputError(
            f"--uncertainty {file} is of {of['checkpoint'] or 'another model'} (sha256 {ours[:12]}…), but "
            f"{predictions} of {made['checkpoint'] or 'a model'} ({theirs[:12]}…); give the table written beside them"
        )


@dataclass(frozen=True)
class Risk:
    """Risk and coverage of an evaluation's labels, as far as they have positives and negatives.

    The error is the squared one, so that the risk of all rows is the Brier score.

    Args:
        report: Ordered by uncertainty.
        best: Ordered by the errors themselves.
        aurc: Area of each label, with intervals.
        macro: Mean over labels, with its interval.
        method: What the samples were.
    """

    report: RiskReport
    best: RiskReport
    aurc: Mapping[str, Interval]
    macro: Interval
    method: Mapping[str, Any]

    @classmethod
    def of(cls, result: Evaluation, doubt: Doubt) -> Risk:
        """Order the rows of an evaluation, and those of its replicates."""
        assert result.doubt is not None
        scored = np.flatnonzero(result.scores.scored)
        names = [result.match.names[index] for index in scored]
        errors = errors_of(result.match.scores[:, scored], result.match.targets[:, scored], "squared")
        doubts = np.asarray(result.doubt, np.float64)[:, scored]
        areas = aurc_replicates(errors, doubts, result.resamples)
        drawn, sure = result.resamples.drawn, result.figures.supported[scored]
        return cls(
            report=RiskReport.of(names, errors, doubts, "squared", doubt.measure),
            best=RiskReport.of(names, errors, errors, "squared", "error"),
            aurc={
                name: Interval.of(areas[:, place], drawn, sure=bool(sure[place])) for place, name in enumerate(names)
            },
            macro=Interval.of(mean(areas), drawn, sure=bool(sure.any())),
            method=doubt.method,
        )

    def figures(self) -> dict[str, Any]:
        """For metrics.json: :meth:`RiskReport.figures` each with `interval` of its AURC; `best_curves`, `method`."""
        found: dict[str, Any] = self.report.figures()
        for row, interval in [(found["macro"], self.macro), *zip(found["per_label"], self.aurc.values(), strict=True)]:
            row["interval"] = interval.entries()
        return found | {"best_curves": self.best.figures()["curves"], "method": dict(self.method)}

    def plot(self, file: Path) -> None:
        """Draw it; see :func:`longview.uncertainty.risk.plot_risk`."""
        plot_risk(self.report, file)

    def told(self) -> str:
        """One line, as it is printed."""
        found = self.report.macro()
        return (
            f"Squared error of the rows kept, by {self.report.measure.replace('_', ' ')}: AURC {shown(self.macro)}, "
            f"best order {found.best:.4f}, random {found.random:.4f}; gain {found.gain:.0%} of the way"
        )
