"""Make probabilities mean what they say: fit a calibration and thresholds on validation predictions."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from rich.console import Console

from longview import InputError
from longview.calibration.file import CALIBRATION, attributes_of, is_calibration
from longview.calibration.fitting import Fit, Known, Method, fit
from longview.calibration.reliability import plot_reliability
from longview.calibration.report import per_label_rows, report_table
from longview.calibration.thresholds import Rule, parse_rules
from longview.data.manifest import read_table
from longview.evaluate import with_derived
from longview.joining import columns_of, join_keys
from longview.labels import LabelSet
from longview.outputs import keep_apart, make_folder, sha256
from longview.predictions import MODEL, TEST_TIME, labels_of, read_predictions, write_predictions
from longview.truth import PLURAL, Truth, match

logger = logging.getLogger(__name__)

FloatArray = npt.NDArray[np.float64]

_HEAD = b"label,positives,negatives,soft,unknown,pooled"  # of the table that stands beside the file


def calibrate(
    predictions: Path,
    truth: Path,
    output: Path = Path("calibration.json"),
    *,
    split: str = "val",
    method: Method = "temperature",
    threshold: str = "f1",
    labels: Path | None = None,
    checkpoint: Path | None = None,
    minimum: int = 10,
    folds: int = 5,
    apply: Path | None = None,
    calibrated: Path | None = None,
) -> None:
    """Calibrate predictions, and choose a threshold per label, on the validation part.

    temperature: one for all labels; keeps every ranking, even between labels. vector: one per label. platt: slope and
    intercept per label, on the log-odds; corrects a wrong prevalence too, as losses with weights leave it. beta: three
    numbers per label (Kull 2017). isotonic: any rising map; needs many positives, and makes ties, which may change
    AUROC and average precision. The others change neither.

    Only rows of --split are used, joined by id and by label name; unknown (empty) truth is masked, soft truth counts
    as it is. Labels with fewer than --minimum positives or negatives get the temperature of all labels (which every
    label has with --method temperature), and one threshold for all such labels; they have a star, and are named under
    `pooled` and `pooled_thresholds`. What a calibration is worth is told by held-out patients: each fold's rows are
    calibrated by a fit on the others. Patients are the truth's, else the predictions'; else studies take their place.

    Writes calibration.json (which `submit --calibration` applies), calibration.csv with a row per label, and
    calibration.png with reliability diagrams, and prints the figures before and after. Those of an earlier run are
    replaced; any other file of these names is refused, as is every file that is read.

        uv run main.py calibrate --predictions val.parquet --truth data/nih-1000 --method platt
        uv run main.py calibrate --predictions val.parquet --truth data/nih-1000 --threshold f1,sensitivity=0.9
            --apply test.parquet --calibrated test_calibrated.parquet

    Args:
        predictions: Table that `predict` wrote for the validation part.
        truth: A store, a manifest, or any .parquet or .csv with an id column and label columns.
        output: The .json file to write; the table and the plot stand beside it, under the same name.
        split: Part of the truth to fit on. Scores on that part say nothing afterwards: name `test` only knowingly.
        method: How probabilities are mapped.
        threshold: Rules, with commas between: f1, youden, sensitivity=S, specificity=S (at least S of the positives
            or negatives right), cost=R (a missed finding costs R false alarms); or none.
        labels: Label set (file, or name of one in configs/labels) whose aliases and derived labels count.
        checkpoint: The model's checkpoint, where the predictions do not say which they are of: its hash is noted,
            and predictions of another are refused.
        minimum: Positives and negatives that a label needs for parameters and a threshold of its own.
        folds: Parts of the patients for held-out figures, at least two; 0: none, and the figures after calibration are
            of the rows it was fitted on.
        apply: Other predictions of the same model to calibrate, such as those of the test part.
        calibrated: Where these are written, .parquet or .csv.
    """
    _check_options(output, minimum, folds, apply, calibrated)
    written = [("--output", file) for file in _files(output)] + ([("--calibrated", calibrated)] if calibrated else [])
    keep_apart(written, [("--predictions", predictions), ("--truth", truth), ("--apply", apply), ("--labels", labels),
                         ("--checkpoint", checkpoint)])  # fmt: skip
    _refuse_foreign(output)
    rules = parse_rules(threshold)
    other = read_predictions(apply) if apply else None
    if other is not None and calibrated:
        _refuse_other_predictions(calibrated, other)
    table, model = read_uncalibrated(predictions), _model(predictions, checkpoint)
    actual = Truth.read(truth)
    known = join(table, actual, LabelSet.load(labels) if labels else None, split, predictions)
    if folds and known.unit != "patient":
        logger.warning(
            "neither %s nor %s says which patient each row is of: folds are of %s, and where a patient has several, "
            "held-out figures flatter", predictions, actual.file, PLURAL[known.unit],
        )  # fmt: skip
    about: dict[str, Any] = {
        "predictions": {"path": str(predictions), "sha256": sha256(predictions)},
        "truth": {"path": str(truth), "sha256": sha256(actual.file)},
        "split": split,
        **_test_time(predictions),
    }
    result = fit(known, method, rules, minimum=minimum, folds=folds, model=model, about=about)
    if other is not None and apply and calibrated:
        other.attrs |= attributes_of(apply)
        other = result.calibration.apply(other, origin=str(apply))
    _write(result, rules, output)
    macro = result.calibration.about["macro"]
    if macro.get("held_out", macro["before"])["bce"] > macro["before"]["bce"]:
        logger.warning(
            "on held-out %s %s makes the cross-entropy worse: too few rows for so many parameters; take "
            "--method temperature", PLURAL[known.unit], method,
        )  # fmt: skip
    console = Console()
    console.print(report_table(result, rules))
    beside = f"{output.stem}.csv and {output.stem}.png"
    console.print(f"Calibration: {output}, with {beside} beside it", soft_wrap=True, markup=False)
    if other is not None and calibrated:
        write_predictions(other, calibrated)
        console.print(f"Calibrated predictions: {calibrated}", soft_wrap=True, markup=False)


def _check_options(output: Path, minimum: int, folds: int, apply: Path | None, calibrated: Path | None) -> None:
    if output.suffix != ".json":
        raise InputError(f"--output {output}: give the name of a .json file")
    if output.is_dir():
        raise InputError(f"--output {output} is a folder; give the name of a .json file")
    if minimum < 0 or folds < 0:
        raise InputError(f"--minimum {minimum} and --folds {folds} must not be negative")
    if folds == 1:
        raise InputError("--folds 1 leaves no rows to fit on; give 2 or more, or 0 for no held-out figures")
    if (apply is None) != (calibrated is None):
        raise InputError("--apply PREDICTIONS and --calibrated OUT belong together: what to calibrate, and where to")
    if calibrated and calibrated.suffix not in {".parquet", ".csv"}:
        raise InputError(f"--calibrated {calibrated}: give the name of a .parquet or .csv file")


def _files(output: Path) -> tuple[Path, Path, Path]:
    """The file, the table and the plot."""
    return output, output.with_name(f"{output.stem}.csv"), output.with_name(f"{output.stem}.png")


def _refuse_foreign(output: Path) -> None:
    """Refuse to replace files that no earlier run wrote.

    Raises:
        InputError: Naming the file.
    """
    file, table, plot = _files(output)
    earlier = is_calibration(file)
    for known, ours in ((file, earlier), (table, _is_ours(table)), (plot, earlier)):
        if known.exists() and not ours:
            raise InputError(
                f"--output {output} would replace {known}, which no earlier `calibrate` wrote; move it away, or give "
                f"another name"
            )


def _is_ours(table: Path) -> bool:
    """Whether a table has the columns of the one that stands beside a calibration."""
    if not table.is_file():
        return False
    with table.open("rb") as stream:
        return stream.read(len(_HEAD)) == _HEAD


def _refuse_other_predictions(calibrated: Path, predictions: pd.DataFrame) -> None:
    """Refuse to replace a table that is not calibrated, or, of a CSV, which cannot say so, one of other columns.

    Raises:
        InputError: Naming the file.
    """
    if not calibrated.exists():
        return
    try:
        found = read_table(calibrated)
    except InputError:
        found = pd.DataFrame()
    known = list(found.columns) == list(predictions.columns)
    if not (CALIBRATION in found.attrs if calibrated.suffix == ".parquet" else known):
        raise InputError(
            f"--calibrated {calibrated} exists, and is not what an earlier `calibrate` wrote there; move it away, or "
            f"give another name"
        )


def _test_time(predictions: Path) -> dict[str, Any]:
    """What the file notes of test-time averaging: nothing where the predictions, as a CSV, do not say."""
    noted = attributes_of(predictions)
    return {"test_time": noted.get(TEST_TIME)} if noted.keys() & {MODEL, TEST_TIME} else {}


def read_uncalibrated(file: Path) -> pd.DataFrame:
    """Read predictions to fit on.

    Raises:
        InputError: Where they are calibrated already, or were thresholded.
    """
    table = read_predictions(file)
    if CALIBRATION in attributes_of(file):
        raise InputError(f"{file} is calibrated already; give the predictions that `predict` wrote")
    values = table[labels_of(table)].to_numpy()
    if ((values == 0) | (values == 1)).all():
        raise InputError(f"all values of {file} are 0 or 1: they were thresholded; give the probabilities")
    return table


def join(table: pd.DataFrame, truth: Truth, labels: LabelSet | None, split: str, file: Path) -> Known:
    """Find what is true of the predictions of one split.

    Args:
        table: The predictions.
        truth: What is true.
        labels: Whose aliases and derived labels count; None: names must be equal but for case, spaces, hyphens.
        split: The split; all rows where the truth has no column `split`.
        file: The predictions' file, for messages.

    Raises:
        InputError: Where the predictions are of other splits, or rows or labels do not fit together.
    """
    given = labels_of(table)
    if labels is not None:
        truth = with_derived(truth, labels, given)
    has_splits = "split" in truth.ids.columns
    if not has_splits and split != "val":
        raise InputError(f"--split {split}: {truth.file} has no column `split`")
    if not has_splits:
        logger.warning("%s has no column `split`: all its rows are taken for the validation part", truth.file)
    table = table.loc[_rows(table, truth, split if has_splits else None, file)].reset_index(drop=True)
    matched = match(table, truth, labels, split if has_splits else None)
    column_of = columns_of(labels, given, str(file)) if labels else {name: name for name in matched.names}
    targets = np.full((len(table), len(given)), np.nan)
    targets[:, [given.index(column_of[name]) for name in matched.names]] = matched.targets
    scored = {column_of[name] for name in matched.names}
    _warn_of_absent(given, scored, set(column_of.values()), labels, truth)
    return Known(given, table[given].to_numpy(), targets, matched.clusters, matched.level, matched.unit)


def _warn_of_absent(
    given: Sequence[str], scored: set[str], held: set[str], labels: LabelSet | None, truth: Truth
) -> None:
    """Name the predicted labels of which no truth is known, and why: not in the label set, or not in the truth."""
    strange = [name for name in given if name not in held]
    absent = [name for name in given if name in held and name not in scored]
    if labels is None:
        strange, absent = [], [*strange, *absent]
    if strange and labels is not None:
        logger.warning(
            "label set %s does not hold %d predicted labels, which get the temperature of the others: %s",
            labels.name, len(strange), ", ".join(strange),
        )  # fmt: skip
    if absent:
        logger.warning("%s has no truth of %d predicted labels: %s", truth.file, len(absent), ", ".join(absent))


def _rows(table: pd.DataFrame, truth: Truth, split: str | None, file: Path) -> npt.NDArray[np.bool_]:
    """Predicted rows of a split (None: that the truth holds), (n,).

    Raises:
        InputError: Where there are none though the truth holds some; names the splits that were predicted.
    """
    by = next((name for name in ("image_id", "study_id") if name in table and name in truth.ids), None)
    if by is None:
        return np.ones(len(table), np.bool_)  # `match` says what is missing
    given, wanted = join_keys(table[by], truth.ids[by])
    if split is None:
        inside = given.isin(wanted).to_numpy()
        return inside if inside.any() else np.ones(len(table), np.bool_)
    split_of = pd.Series(truth.ids["split"].to_numpy(), index=pd.Index(wanted))
    parts = split_of[~split_of.index.duplicated()].reindex(given)
    keep = (parts == split).to_numpy()
    counts = parts[~keep].value_counts()
    listed = " and ".join(f"{rows:,} rows of split {name}" for name, rows in counts.items())
    if not keep.any() and len(counts):
        raise InputError(
            f"{file} holds {listed}, and none of split {split}; calibration is fitted on validation predictions: "
            f"predict them (--data.predict_split val), or say which part to fit on with --split"
        )
    if not keep.any():
        return np.ones(len(table), np.bool_)  # nothing in common: `match` says so
    if len(counts):
        logger.info("%s are left out: only split %s is fitted on", listed, split)
    if split in {"train", "test"}:
        logger.warning("fitted on split %s: scores on it say nothing about new patients any more", split)
    return keep


def _write(result: Fit, rules: Sequence[Rule], output: Path) -> None:
    """Write the file, the table and the plot, each whole; the file last, so that it never stands beside older ones."""
    aside = output.with_name(f".{output.stem}.partial")
    make_folder(aside, output)
    try:
        pd.DataFrame(per_label_rows(result, rules)).to_csv(aside / f"{output.stem}.csv", index=False)
        known, about = result.known, result.calibration.about
        shown = f"held-out {PLURAL[known.unit]}" if result.held is not None else "the rows it was fitted on"
        plot_reliability(
            known.names, known.scores, result.honest, known.targets,
            title=f"{result.calibration.method}, {about['rows']:,} rows; after: {shown}",
            file=aside / f"{output.stem}.png",
        )  # fmt: skip
        result.calibration.write(aside / output.name)
        for name in (f"{output.stem}.csv", f"{output.stem}.png", output.name):
            (aside / name).replace(output.with_name(name))
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _model(predictions: Path, checkpoint: Path | None) -> str | None:
    """SHA-256 of the model that predictions are of."""
    noted: str | None = attributes_of(predictions).get(MODEL)
    if checkpoint is None:
        return noted
    if not checkpoint.is_file():
        raise InputError(f"--checkpoint {checkpoint} does not exist")
    given = sha256(checkpoint)
    if noted and noted != given:
        raise InputError(f"{predictions} is of another model ({noted[:12]}…) than --checkpoint {checkpoint}")
    return given
