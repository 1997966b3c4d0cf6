"""Score predictions against truth: tables and plots, without a model, a GPU or torch."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
from rich.console import Console
from rich.progress import track

from longview import InputError
from longview.calibration.file import CALIBRATION, Calibration, attributes_of
from longview.data.derive import derive
from longview.evaluation_checks import check_options, check_predictions, check_training, columns_to_part_by
from longview.joining import columns_of, some
from longview.labels import LabelSet
from longview.outputs import sha256, staged
from longview.predictions import labels_of, read_predictions
from longview.ranking import per_label, summarise
from longview.reporting.groups import named_groups, read_groups
from longview.reporting.keeping import CARD, NEW_CARD, card_to_write
from longview.reporting.model import made_with, model_of
from longview.reporting.notes import calibration_of, notes_of
from longview.reporting.risk import RISK, Doubt, Measure, Risk
from longview.reporting.terminal import report_table, subgroup_table, summary_table
from longview.reporting.write import write_report
from longview.score_report import COMMON, INTERVALS, SUBGROUPS, VIOLATIONS, Evaluation, Part
from longview.statistics.figures import FIXED, Track, all_figures, ranking_figures
from longview.statistics.resampling import Resamples
from longview.subgroups import subgroups
from longview.truth import Match, Truth, match, training_groups
from longview.violations import Violations

logger = logging.getLogger(__name__)

FloatArray = npt.NDArray[np.float64]

TUNED = "tuned"
"""Rule of the thresholds that a calibration file holds."""

_SLOW = 20_000_000  # cells times replicates from which a progress bar is worth its lines


def evaluate(
    predictions: Path,
    truth: Path,
    output: Path,
    *,
    labels: Path | None = None,
    split: str | None = None,
    train: Path | None = None,
    groups: Path | None = None,
    bootstrap: int = 1000,
    seed: int = 0,
    by: str = "",
    threshold: float = 0.5,
    calibration: Path | None = None,
    rule: str | None = None,
    preset: Literal["cxr-lt"] | None = None,
    checkpoint: Path | None = None,
    thumbnails: bool = True,
    uncertainty: Path | None = None,
    measure: Measure = "predictive_entropy",
) -> None:
    """Score predictions: AUROC, average precision and more, with confidence intervals; plots, a page, a model card.

    Rows are joined by id (image_id where both tables have it, else study_id) and columns by label name, never by
    position. Every row of the truth, or of its split, must have been predicted; predicted rows beyond it are
    counted and left out. Unknown (empty) and soft (between 0 and 1) truth is masked. A label without positives or
    without negatives counts in no mean and is named.

    Head (over 10 %), medium and tail (under 1 %) are told apart by the labels' prevalence in training: among the
    rows of --train, else among the truth's rows of split train, as a store has. Without either there are no groups.

    Every figure has a 95 % interval: patients are drawn with replacement --bootstrap times, each with all its rows,
    since rows of a patient resemble each other. In a resample, a label without positives or without negatives is left
    out of the means. Intervals are corrected for bias and skewness (BCa); plain percentiles stand beside them, and for
    AUROC of up to 100,000 rows a closed form (DeLong's, for rows in clusters). A label that fewer than two patients
    have, or lack, has no interval.

    With --labels SET whose labels have a hierarchy, derived labels that were predicted are derived in the truth too,
    and the report says how often a child is above its parent, and the macro means once each parent is raised to its
    highest child. Each edge's rates are in violations.csv.

    With --uncertainty FILE, the page, metrics.json and risk.png also say how much smaller the error is among the rows
    that are certain: risk against coverage, and the area below (AURC) between those of the best and a random order.

    Prints tables and writes report.html (one file that a browser opens without a network), metrics.json (all figures
    with intervals), per_label.csv, intervals.csv, confusion.csv, roc.png, pr.png, reliability.png and per_label.png;
    with --by also subgroups.csv; with --checkpoint also MODEL_CARD.md, or MODEL_CARD.new.md beside one that was edited.

        uv run main.py evaluate --predictions predictions.parquet --truth data/nih-1000 --output report
        uv run main.py evaluate --predictions predictions.csv --truth test.csv --train train.csv --output report
        uv run main.py evaluate --predictions test.parquet --truth data/nih --output report --by view,sex,age
            --calibration calibration.json --preset cxr-lt
        uv run main.py evaluate --predictions test.parquet --truth data/nih --output report
            --checkpoint runs/nih/version_0/checkpoints/best.ckpt

    Args:
        predictions: Table that `predict` wrote, or any .parquet or .csv with ids and a probability per label.
        truth: A store, a manifest, or any .parquet or .csv with an id column (image_id, study_id, dicom_id,
            ImageID or Image Index) and label columns.
        output: Folder for the report; files of an earlier report in it are replaced.
        labels: Label set (file, or name of one in configs/labels): score only its labels, know columns by its
            aliases, and use its hierarchy. Without it, every predicted label that the truth holds is scored.
        split: Part of the truth to score. Without it: the parts that the predicted rows are from, as a whole.
        train: Table or store to count training labels in: its rows of split train, or all its rows where it has
            no column `split`. Without it: the truth's rows of split train, where it has some.
        groups: YAML file of further groups to average over, `name: [label, label]`; a label may be in several.
        bootstrap: Resamples for intervals; 0: none.
        seed: Of the resamples.
        by: Columns of the truth, with commas between, whose values part the rows into subgroups: view, sex, age,
            source, or any other; numbers are banded.
        threshold: A probability of at least this is positive (F1, MCC, sensitivity, specificity, PPV, NPV).
        calibration: File that `calibrate` wrote: predictions that are not calibrated yet are calibrated by it, and
            scored at its thresholds too, one per label (figures that end in _tuned).
        rule: Which of its thresholds: f1, youden, sensitivity=0.9, as `calibrate` was asked for. Without it: f1.
        preset: Print a challenge's own figures, the one that ranks first (they stand in metrics.json too).
        checkpoint: The model that predicted: report.html tells its configuration, and MODEL_CARD.md is written.
        thumbnails: Where the truth is a store, show the films of the worst errors in report.html. Switch it off before
            the page goes to people who may not see the data.
        uncertainty: What `predict --uncertainty` or `ensemble --uncertainty` wrote beside the predictions.
        measure: Which of its measures says how certain a row is.
    """
    check_options(
        bootstrap=bootstrap, seed=seed, threshold=threshold, preset=preset, rule=rule, calibration=calibration
    )
    columns, label_set = columns_to_part_by(by), LabelSet.load(labels) if labels else None
    check_predictions(predictions, label_set)
    card = card_to_write(output) if checkpoint else CARD
    console, chosen = Console(), rule or "f1"
    table, actual = read_predictions(predictions), Truth.read(truth)
    known = Calibration.read(calibration) if calibration else None
    model = model_of(checkpoint, predictions, labels_of(table))
    if known:
        table = _calibrated(table, predictions, known)
    doubt = Doubt.read(uncertainty, measure, table, predictions) if uncertainty else None
    counted = Truth.read(train) if train else None
    if counted:
        check_training(counted)
    result = score(
        table,
        actual,
        labels=label_set,
        split=split,
        train=counted,
        groups=read_groups(groups) if groups else None,
        bootstrap=bootstrap,
        seed=seed,
        by=columns,
        threshold=threshold,
        tuned=known.thresholds(chosen) if known else None,
        doubt=doubt.table if doubt else None,
    )
    risk = Risk.of(result, doubt) if doubt else None
    calibrated = calibration_of(predictions, calibration, chosen)
    notes = notes_of(result, calibrated)
    files = {"predictions": predictions, "truth": actual.file}
    files |= {"train": counted.file} if counted else {}
    files |= {"calibration": calibration} if calibration else {}
    files |= {"groups": groups} if groups else {}
    files |= {"uncertainty": uncertainty} if uncertainty else {}
    with staged(output) as folder:
        write_report(
            result,
            files,
            folder,
            options={
                "labels": str(labels) if labels else None, "split": split, "bootstrap": bootstrap, "seed": seed,
                "by": by, "threshold": threshold, "rule": chosen if known else None, "preset": preset,
                "measure": measure if doubt else None,
            },
            preset=preset,
            store=truth if truth.is_dir() else None,
            thumbnails=thumbnails,
            made_with=made_with(predictions),
            model=model,
            risk=risk,
            notes=notes,
            calibrated=calibrated,
            card=card,
        )  # fmt: skip
        written = {file.name for file in folder.iterdir()}
    for stale in {VIOLATIONS, INTERVALS, SUBGROUPS, RISK} - written:  # of an earlier report
        (output / stale).unlink(missing_ok=True)
    _tell_card(output, written)
    console.print(report_table(result))
    console.print(summary_table(result, preset))
    if result.parts:
        console.print(subgroup_table(result))
    if result.violations:
        console.print(result.violations.table(result.summary))
    if risk:
        console.print(risk.told(), soft_wrap=True)
    for note in notes:
        console.print(note, soft_wrap=True, markup=False, highlight=False)
    console.print(f"Report: {output / 'report.html'}", soft_wrap=True, markup=False)


def _tell_card(output: Path, written: set[str]) -> None:
    """Say where a model card stands beside the report that is not of it."""
    if NEW_CARD in written:
        logger.info("%s was edited, and stays; the new card is %s", output / CARD, output / NEW_CARD)
    elif CARD not in written and (output / CARD).exists():
        logger.info("%s is of an earlier report, and stays; --checkpoint writes a new one", output / CARD)


def _calibrated(table: pd.DataFrame, file: Path, known: Calibration) -> pd.DataFrame:
    """Predictions as a calibration makes them, unless it has made them so already."""
    table.attrs |= attributes_of(file)
    fitted = known.about.get("predictions")
    if isinstance(fitted, Mapping) and fitted.get("sha256") == sha256(file):
        logger.warning("%s was fitted on these very predictions: figures after calibration flatter", known.origin)
    if CALIBRATION not in table.attrs:
        return known.apply(table, origin=str(file))
    if table.attrs[CALIBRATION] != hashlib.sha256(known.text().encode()).hexdigest():
        raise InputError(f"{file} is calibrated already, but not by {known.origin}; give the file that was applied")
    return table


def score(
    predictions: pd.DataFrame,
    truth: Truth,
    *,
    labels: LabelSet | None = None,
    split: str | None = None,
    train: Truth | None = None,
    groups: Mapping[str, Sequence[str]] | None = None,
    bootstrap: int = 0,
    seed: int = 0,
    by: Sequence[str] = (),
    threshold: float = 0.5,
    tuned: Mapping[str, float] | None = None,
    doubt: pd.DataFrame | None = None,
) -> Evaluation:
    """Compare predictions with truth.

    Args:
        predictions: As :func:`longview.predictions.read_predictions` gives it.
        truth: What is true.
        labels: Score only these; None: all that were predicted.
        split: Split of the truth; None: those that the predicted rows are from.
        train: Table whose training rows (all, where it has no `split`) tell head, medium and tail apart; None:
            the truth's rows of split `train`, and no groups where it has none.
        groups: Further groups -> labels.
        bootstrap: Resamples; 0: no intervals.
        seed: Of these.
        by: Columns that part the rows into subgroups.
        threshold: For all labels.
        tuned: The predictions' labels -> their own threshold.
        doubt: Rows and columns of the predictions, with their uncertainty in place of probabilities.

    Raises:
        InputError: Where rows or labels do not fit together, nothing can be scored, or `train` has no training
            rows.
    """
    if labels is not None:
        truth = with_derived(truth, labels, labels_of(predictions))
        train = with_derived(train, labels, labels_of(predictions)) if train else None
    matched = match(predictions, truth, labels, split)
    scores = per_label(matched.scores, matched.targets, matched.names)
    every = label_groups(truth, train, matched, labels) | named_groups(groups or {}, matched.names)
    summary = summarise(matched.names, scores, every)
    if len(summary["skipped"]) == len(matched.names):
        raise InputError(
            f"none of the {len(matched.names)} labels has both positives and negatives among the "
            f"{len(matched.targets)} rows of {truth.file}, so nothing can be scored"
        )
    _tell(matched)
    broken = None
    if labels is not None:
        broken = Violations.of(labels, matched.names, matched.scores, matched.targets, every)
    resamples = Resamples.draw(matched.clusters, bootstrap, seed)
    thresholds = _thresholds(matched, threshold, tuned)
    figures = all_figures(
        matched.names,
        matched.scores,
        matched.targets,
        resamples,
        every,
        thresholds,
        track=_tracked(matched, resamples),
    )
    uncertain = None if doubt is None else match(doubt, truth, labels, split).scores  # the same rows and labels
    found = Evaluation(matched, scores, every, summary, broken, figures, resamples, thresholds, doubt=uncertain)
    return dataclasses.replace(found, parts=_parts(found, by, str(truth.file)))


def _tell(matched: Match) -> None:
    """Say which rows and labels are left out."""
    for title, names in (("not in the truth", matched.unscored), ("not predicted", matched.unpredicted)):
        if names:
            logger.warning("%d labels are %s and not scored: %s", len(names), title, ", ".join(names))
    if matched.extra:
        logger.info("%d predicted rows are not in the truth and are left out", matched.extra)


def _tracked(matched: Match, resamples: Resamples) -> Track:
    """Shows a bar on a terminal where counting takes more than moments."""
    slow = matched.scores.size * resamples.replicates > _SLOW and sys.stderr.isatty()

    def tracked(steps: Iterable[None], count: int) -> Iterable[None]:
        return track(
            steps, "Resamples", total=count, transient=True, disable=not slow, console=Console(stderr=True)
        )  # fmt: skip

    return tracked


def _thresholds(matched: Match, threshold: float, tuned: Mapping[str, float] | None) -> dict[str, FloatArray]:
    """Rule -> threshold of each label; one that has none of its own is cut at the fixed one."""
    found = {FIXED: np.full(len(matched.names), threshold)}
    if tuned is not None:
        lacking = [name for name in matched.predicted if name not in tuned]
        if lacking:
            logger.warning("no threshold by this rule, so %g is taken: %s", threshold, some(lacking))
        found[TUNED] = np.array([tuned.get(name, threshold) for name in matched.predicted])
    return found


def _parts(found: Evaluation, by: Sequence[str], origin: str) -> list[Part]:
    """Subgroups by each column, scored on the same resamples."""
    matched, parts = found.match, []
    table = matched.others.assign(**dict(zip(matched.names, matched.targets.T, strict=True)))
    for column in by:
        groups = subgroups(table, column, origin)
        scores = [per_label(matched.scores[group.rows], matched.targets[group.rows], matched.names) for group in groups]
        every = np.all([part.scored for part in scores], axis=0)
        common = [name for name, scored in zip(matched.names, every, strict=True) if scored]
        for group, counted in zip(groups, scores, strict=True):
            inside = found.resamples.of_rows(group.rows)
            figures = ranking_figures(
                matched.names,
                matched.scores[group.rows],
                matched.targets[group.rows],
                inside,
                {COMMON: common},
                track=_tracked(matched, inside),
            )
            parts.append(Part(group, len(np.unique(inside.cluster)), counted, figures, common))
    return parts


def with_derived(truth: Truth, labels: LabelSet, predicted: Sequence[str]) -> Truth:
    """A truth with columns of the derived labels that were predicted, and of no others.

    Args:
        truth: Any table; what it says of derived labels itself counts only where their causes are unknown.
        labels: Which labels are derived, and from what.
        predicted: The predictions' label columns.
    """
    derived = [label.name for label in labels.labels if label.derived]
    if not derived:
        return truth
    columns = columns_of(labels, list(truth.table.columns), str(truth.file))
    known = [name for name in labels.names if name in columns]
    values = np.full((len(truth.table), len(labels.names)), np.nan)
    values[:, [labels.names.index(name) for name in known]] = truth.targets([columns[name] for name in known])
    filled = dict(zip(labels.names, derive(values, labels).T, strict=True))
    wanted = [name for name in derived if name in columns_of(labels, predicted, "the predictions")]
    plain = truth.table.drop(columns=[columns[name] for name in derived if name in columns])
    return Truth(truth.file, truth.ids, plain.assign(**{name: filled[name] for name in wanted}), truth.others)


def label_groups(truth: Truth, train: Truth | None, matched: Match, labels: LabelSet | None) -> dict[str, list[str]]:
    """Head, medium and tail from training rows: those of `train` where it is given, else those in the truth.

    Raises:
        InputError: Where `train` has no training rows.
    """
    table = train or truth
    columns = dict(zip(matched.names, matched.columns, strict=True))
    known = set(table.table.columns)
    if labels:
        columns = {name: column for column in known if (name := labels.canonical(column)) in columns}
    present = {name: columns[name] for name in matched.names if columns.get(name) in known}
    found = training_groups(table, list(present), list(present.values()), matched.level, whole=train is not None)
    if found is None and train:
        raise InputError(f"--train {train.file} has a column `split`, but no row of it is `train`")
    if found is None:
        logger.info(
            "no head, medium and tail means: %s has no rows of split train; give --train TABLE_OR_STORE", truth.file
        )
        return {}
    grouped = {name for members in found.values() for name in members}
    unseen = [name for name in present if name not in grouped]  # zero-shot: their means stand by themselves
    return found | ({"unseen": unseen} if unseen else {})
