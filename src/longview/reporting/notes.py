"""What a reader of an evaluation's figures has to know, in plain sentences: for the terminal, metrics.json and page."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from longview.calibration.file import CALIBRATION, attributes_of
from longview.outputs import sha256
from longview.score_report import Evaluation
from longview.statistics.delong import MOST_ROWS
from longview.statistics.support import caveats
from longview.truth import PLURAL, unknown_patients

_SHORT_HASH = 12


def calibration_of(predictions: Path, file: Path | None, rule: str) -> dict[str, str | None] | None:
    """How the scored probabilities were calibrated, for metrics.json; None where they were not.

    Args:
        predictions: The table that was scored.
        file: The calibration that `evaluate` was given.
        rule: Of its thresholds.

    Returns:
        `path` (None where the predictions were calibrated before, and do not say by which file), `sha256`, and `rule`
        (None without tuned thresholds).
    """
    if file is not None:
        return {"path": str(file), "sha256": sha256(file), "rule": rule}
    before = attributes_of(predictions).get(CALIBRATION)
    return None if before is None else {"path": None, "sha256": str(before), "rule": None}


def calibration_note(calibrated: Mapping[str, Any]) -> str:
    """That figures are after calibration.

    Args:
        calibrated: As :func:`calibration_of` gives it.
    """
    by = calibrated["path"] or "a file that was applied before"
    words = f"All figures are after calibration by {by} (SHA-256 {calibrated['sha256'][:_SHORT_HASH]}…)"
    if calibrated["rule"] is None:
        return f"{words}."
    return f"{words}; those with tuned thresholds are at its thresholds by rule {calibrated['rule']}."


def notes_of(result: Evaluation, calibrated: Mapping[str, Any] | None = None) -> list[str]:
    """All notes on an evaluation.

    Args:
        result: The evaluation.
        calibrated: As :func:`calibration_of` gives it.
    """
    matched, scores = result.match, result.scores
    found = [calibration_note(calibrated)] if calibrated else []
    unit = PLURAL[matched.unit]
    if result.resamples.drawn and matched.unit != "patient":
        found.append(
            f"{unknown_patients(matched)}: intervals are over {unit}, and too narrow where a patient has several."
        )
    found += caveats(matched.targets, result.resamples, matched.names, unit)
    unknown, soft = int(scores.unknown.sum()), int(scores.soft.sum())
    if unknown or soft:
        found.append(
            f"Of {matched.targets.size:,} cells of the truth {unknown:,} are unknown and {soft:,} soft (between 0 and "
            f"1): they are masked; soft ones count in the Brier score alone."
        )
    if result.resamples.drawn and len(matched.targets) > MOST_ROWS:
        found.append(f"AUROC has no interval by DeLong beside the others: there are more than {MOST_ROWS:,} rows.")
    return found
