"""All files of an evaluation: tables, plots, metrics.json, the page, and the model card."""

from __future__ import annotations

import json
import logging
import platform
import re
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from longview import InputError, __version__
from longview.calibration.reliability import diagrams, plot_diagrams
from longview.data.manifest import META_PREFIX
from longview.reporting.card import model_card
from longview.reporting.drawn import drawn
from longview.reporting.keeping import CARD, sealed
from longview.reporting.model import is_phantom
from longview.reporting.page import page
from longview.reporting.risk import RISK, Risk
from longview.reporting.worst import films, ids_of, worst
from longview.score_report import Evaluation, curves_of, without_nan, write_tables

logger = logging.getLogger(__name__)

RELIABILITY = "reliability.png"

_COUNTED = ("source", "view", f"{META_PREFIX}sex")  # columns whose values are counted
_MOST = 12  # values of one that are told
_PACKAGES = ("torch", "lightning", "timm", "numpy", "pandas")
_NUMBER = r"(?:-?\d[\d.eE+-]*|null)"
_NUMBERS = re.compile(rf"\[\s+{_NUMBER}(?:,\s+{_NUMBER})*\s+\]")


def write_report(
    result: Evaluation,
    files: Mapping[str, Path],
    folder: Path,
    *,
    options: Mapping[str, Any],
    preset: str | None = None,
    store: Path | None = None,
    thumbnails: bool = True,
    made_with: Mapping[str, str] | None = None,
    model: Mapping[str, Any] | None = None,
    risk: Risk | None = None,
    notes: Sequence[str] = (),
    calibrated: Mapping[str, Any] | None = None,
    card: str = CARD,
) -> None:
    """Write everything into a folder.

    Args:
        result: The evaluation.
        files: Role (`predictions`, `truth`, `train`, `calibration`) -> file; their hashes are noted.
        folder: Where to write.
        options: What `evaluate` was asked for; plain values.
        preset: A challenge whose figures stand by themselves.
        store: The store that the truth is of; None: another table.
        thumbnails: Whether the page shows the store's films of the worst errors.
        made_with: What predictions say of their checkpoint (see :func:`longview.reporting.model.made_with`).
        model: A checkpoint's description (:func:`longview.reporting.model.read_model`); None: no model card.
        risk: Risk and coverage, where the uncertainty is known.
        notes: What a reader has to know (:func:`longview.reporting.notes.notes_of`).
        calibrated: How the probabilities were calibrated (:func:`longview.reporting.notes.calibration_of`).
        card: Name of the model card's file.
    """
    curves = curves_of(result)
    found = diagrams(result.match.names, result.match.scores, result.match.targets)
    report = write_tables(result, files, folder, curves, preset)
    _plot(result, found, folder / RELIABILITY)
    if risk is not None:
        risk.plot(folder / RISK)
    errors = worst(result.match)
    report |= {
        "options": dict(options),
        "notes": list(notes),
        "calibrated": None if calibrated is None else dict(calibrated),
        "versions": _versions(),
        "made_with": None if made_with is None else dict(made_with),
        "model": None if model is None else dict(model),
        "unit": result.match.unit,
        "clusters": result.resamples.clusters,
        "data": _counts(result),
        "phantom": store is not None and is_phantom(store),
        "worst": errors,
        "risk": None if risk is None else risk.figures(),
        **drawn(result, curves, found),
    }
    text = as_json(report)
    (folder / "metrics.json").write_text(text, encoding="utf-8")
    whole = json.loads(text)  # what the page shows is what was written
    shown = _films(store, errors, result) if store and thumbnails else {}
    (folder / "report.html").write_text(page(whole, shown), encoding="utf-8")
    if model is not None:
        (folder / card).write_text(sealed(model_card(whole)), encoding="utf-8")


def _films(store: Path, errors: dict[str, dict[str, Any]], result: Evaluation) -> dict[str, str]:
    try:
        return films(store, ids_of(errors), result.match.level, len(result.match.names))
    except InputError as error:  # figures need no films, so a store that lost them can still be scored
        logger.warning("report.html shows no films: %s", error)
        return {}


def as_json(report: Mapping[str, Any]) -> str:
    """Readable JSON: null for NaN, and lists of numbers on one line."""
    text = json.dumps(without_nan(report), indent=2, allow_nan=False, ensure_ascii=False)
    return _NUMBERS.sub(lambda match: re.sub(r"\s+", " ", match[0]).replace("[ ", "[").replace(" ]", "]"), text) + "\n"


def _plot(result: Evaluation, found: Mapping[str, Any], file: Path) -> None:
    scores, names = result.scores, result.match.names
    errors = dict(zip(names, result.figures.labels["ece"][0].tolist(), strict=True))
    counts = {
        name: (int(scores.positives[index]), int(scores.positives[index] + scores.negatives[index]))
        for index, name in enumerate(names)
    }
    mean = np.nanmean([errors[name] for name in found])
    plot_diagrams(found, errors, counts, title=f"Reliability, mean ECE {mean:.3f} over {len(found)} labels", file=file)


def _versions() -> dict[str, str]:
    found = {"longview": __version__, "python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _counts(result: Evaluation) -> dict[str, dict[str, int]]:
    """Rows by source, view and sex, as far as the truth tells."""
    table, found = result.match.others, {}
    for column in _COUNTED:
        if column in table.columns:
            counts = table[column].astype("str").value_counts()
            name = column.removeprefix(META_PREFIX)
            found[name] = {str(value): int(count) for value, count in counts.iloc[:_MOST].items() if value}
    return found
