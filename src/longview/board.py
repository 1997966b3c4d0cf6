"""What TensorBoard gets of the best validation when a run ends: curves, reliability, and every label's figures."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import lightning.pytorch as pl
import numpy as np
import numpy.typing as npt
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.trainer.states import TrainerFn
from torchmetrics.utilities import dim_zero_cat

from longview.calibration.figures import calibration_error
from longview.calibration.reliability import Diagram, plot_diagrams, reliability
from longview.callbacks import ResultTable, as_plain, from_plain
from longview.curves import Curve, plot_curves
from longview.metrics import LongTailMetrics
from longview.ranking import LabelScores, group_means, per_label, summarise
from longview.tasks import ClassificationTask

FloatArray = npt.NDArray[np.float64]

POINTS = 200
"""Most vertices that are kept of a curve."""
_THRESHOLDS = np.linspace(0, 1, 127)  # TensorBoard's curves take no more, and number them evenly
_TAG = "best"


@dataclass(frozen=True)
class LabelCurves:
    """What is drawn of one label; counts are of rows whose truth is 0 or 1, of all processes.

    Args:
        hits: (t,) positives with at least the score of a threshold that gains one, from the highest on; t <= 200.
        false_alarms: (t,) negatives with at least these scores.
        above: (127,) positives at or above thresholds evenly from 0 to 1.
        wrongly_above: (127,) negatives there.
        probability: (b,) mean probability in bins of equally many rows; b <= 10.
        share: (b,) share of positives in them.
        rows: (b,) rows in them.
    """

    hits: list[float]
    false_alarms: list[float]
    above: list[int]
    wrongly_above: list[int]
    probability: list[float]
    share: list[float]
    rows: list[int]

    @classmethod
    def of(cls, scores: npt.NDArray[Any], targets: npt.NDArray[Any]) -> Self:
        """Count, for probabilities (n,) and truth (n,) that holds both kinds; others than 0 and 1 are masked."""
        curve = Curve.of(scores, targets)
        gains = np.flatnonzero(np.diff(curve.hits, prepend=0) > 0)
        if len(gains) > POINTS:
            hits = curve.hits[gains]
            gains = gains[np.unique(np.searchsorted(hits, np.linspace(hits[0], hits[-1], POINTS)))]
        counts = [_at_least(scores[targets == kind]) for kind in (1, 0)]
        probability, share, rows = reliability(scores, targets)
        return cls(
            curve.hits[gains].tolist(),
            curve.false_alarms[gains].tolist(),
            counts[0].tolist(),
            counts[1].tolist(),
            probability.tolist(),
            share.tolist(),
            rows.tolist(),
        )


def _at_least(scores: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """How many scores are at or above each of `_THRESHOLDS`."""
    return np.asarray(len(scores) - np.searchsorted(np.sort(scores.astype(np.float64)), _THRESHOLDS), np.int64)


@dataclass(frozen=True)
class Validation:
    """A validation, as small as it can be drawn from.

    Args:
        epoch: When it was.
        step: The trainer's global step then.
        scores: Counts, AUROC and AP of L labels.
        ece: (L,) expected calibration error; NaN where no row is known.
        curves: Label -> curves, of those that have both kinds.
    """

    epoch: int
    step: int
    scores: LabelScores
    ece: FloatArray
    curves: dict[str, LabelCurves]

    @classmethod
    def of(
        cls,
        epoch: int,
        step: int,
        names: Sequence[str],
        probabilities: npt.NDArray[Any],
        targets: npt.NDArray[Any],
    ) -> Self:
        """Keep what is needed of probabilities (n, L) and targets (n, L)."""
        scores = per_label(probabilities, targets, names)
        curves = {
            name: LabelCurves.of(probabilities[:, index], targets[:, index])
            for index, name in enumerate(names)
            if scores.scored[index]
        }
        return cls(epoch, step, scores, calibration_error(probabilities, targets), curves)

    def plain(self) -> dict[str, Any]:
        """Numbers, lists and texts."""
        return {
            "epoch": self.epoch,
            "step": self.step,
            "scores": as_plain(self.scores),
            "ece": self.ece.tolist(),
            "curves": {name: dict(vars(curve)) for name, curve in self.curves.items()},
        }

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Self:
        """What :meth:`plain` made plain."""
        curves = {name: LabelCurves(**values) for name, values in plain["curves"].items()}
        ece = np.asarray(plain["ece"], np.float64)
        return cls(plain["epoch"], plain["step"], from_plain(plain["scores"]), ece, curves)


class BestBoard(Callback):
    """Puts the best validation into TensorBoard when `fit` ends, at that validation's step.

    Best is what :class:`longview.callbacks.ResultTable` calls best: the highest mean AP. At each validation that is
    better than all before, the rows of all processes are gathered once more, and the first process keeps points of
    their curves, no rows; a checkpoint keeps them too, for a run that goes on. Without TensorBoard nothing is done.

    `best/labels` is a table; `best/precision_recall` and `best/reliability` are pictures with a panel for each label;
    `best/curve/LABEL` is TensorBoard's own precision-recall curve, with the counts at 127 thresholds.
    """

    def __init__(self) -> None:
        self._value = -math.inf  # on every process; what follows on the first one alone
        self._best: Validation | None = None

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Keep this validation where it is the best so far, before the task forgets its rows."""
        fitting = trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking
        if not fitting or not isinstance(pl_module, ClassificationTask) or not _boards(trainer):
            return
        metrics = pl_module.val_metrics
        # as the trainer logs it, in single precision, and so as the table compares it
        value = float(np.float32(metrics.figures(pl_module.label_groups())["map"]))
        if not value > max(self._value, *_of_tables(trainer)) or not metrics.scores().scored.any():
            return
        self._value = value
        probabilities, targets = _rows(metrics)
        if trainer.is_global_zero:
            names = pl_module.labels.names
            self._best = Validation.of(trainer.current_epoch, trainer.global_step, names, probabilities, targets)

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write it, on the first process."""
        boards = _boards(trainer)
        if self._best is None or not boards or not trainer.is_global_zero:
            return
        assert isinstance(pl_module, ClassificationTask)
        best, names, groups = self._best, pl_module.labels.names, pl_module.label_groups()
        with tempfile.TemporaryDirectory() as folder:
            curves = draw_precision_recall(best, names, groups, Path(folder) / "curves.png")
            diagrams = draw_reliability(best, names, Path(folder) / "reliability.png")
        for board in boards:
            writer = board.experiment
            writer.add_text(f"{_TAG}/labels", score_text(best, names, groups), best.step)
            writer.add_image(f"{_TAG}/precision_recall", curves, best.step, dataformats="HWC")
            writer.add_image(f"{_TAG}/reliability", diagrams, best.step, dataformats="HWC")
            for name, curve in best.curves.items():
                writer.add_pr_curve_raw(
                    f"{_TAG}/curve/{name}", *_curve_rows(curve), global_step=best.step, num_thresholds=len(_THRESHOLDS)
                )

    def state_dict(self) -> dict[str, Any]:
        """The best validation, as plain data."""
        return {} if self._best is None else {"value": self._value, "validation": self._best.plain()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Remember what was best before the run was stopped."""
        if state_dict:
            self._value, self._best = state_dict["value"], Validation.from_plain(state_dict["validation"])


def _boards(trainer: pl.Trainer) -> list[TensorBoardLogger]:
    return [logger for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]


def _of_tables(trainer: pl.Trainer) -> list[float]:
    """The best mean AP that tables know: a run may go on from a checkpoint that has no curves of it."""
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]  # Lightning sets it
    known = [callback.best for callback in callbacks if isinstance(callback, ResultTable)]
    return [-math.inf, *(value for value in known if not math.isnan(value))]


def _rows(metrics: LongTailMetrics) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Probabilities (n, L) and targets (n, L) of all processes, which all have to ask."""
    with metrics.sync_context():
        found = dim_zero_cat(metrics.probabilities), dim_zero_cat(metrics.targets)
        return found[0].cpu().numpy(), found[1].cpu().numpy()


def _curve_rows(curve: LabelCurves) -> list[FloatArray]:
    """What TensorBoard's own curve consists of: TP, FP, TN, FN, precision, recall at each threshold, (127,) each."""
    hits, alarms = np.asarray(curve.above, np.float64), np.asarray(curve.wrongly_above, np.float64)
    precision = hits / np.maximum(hits + alarms, 1)
    return [hits, alarms, alarms[0] - alarms, hits[0] - hits, precision, hits / hits[0]]


def draw_precision_recall(
    best: Validation, names: Sequence[str], groups: Mapping[str, Sequence[str]], file: Path
) -> npt.NDArray[np.uint8]:
    """Draw a panel per label, as `evaluate` does, into a PNG; returns its pixels (H, W, 3)."""
    curves = {
        name: Curve(np.asarray(curve.hits, np.float64), np.asarray(curve.false_alarms, np.float64))
        for name, curve in best.curves.items()
    }
    group_of = {name: group for group, members in groups.items() for name in members}
    plot_curves("pr", curves, list(names), best.scores, group_of=group_of, file=file)
    return _pixels(file)


def draw_reliability(best: Validation, names: Sequence[str], file: Path) -> npt.NDArray[np.uint8]:
    """Draw a reliability diagram per label, as `evaluate` does, into a PNG; returns its pixels (H, W, 3)."""
    found = {
        name: Diagram(np.asarray(curve.probability), np.asarray(curve.share), np.asarray(curve.rows, np.int64))
        for name, curve in best.curves.items()
    }
    places = {name: names.index(name) for name in found}
    errors = {name: float(best.ece[index]) for name, index in places.items()}
    positives = {name: int(best.scores.positives[index]) for name, index in places.items()}
    counts = {name: (positives[name], positives[name] + int(best.scores.negatives[places[name]])) for name in found}
    title = f"reliability, mean ECE {np.mean(list(errors.values())):.3f} over {len(found)} labels"
    plot_diagrams(found, errors, counts, title=title, file=file)
    return _pixels(file)


def _pixels(file: Path) -> npt.NDArray[np.uint8]:
    from matplotlib.image import imread  # with the plots

    return np.asarray(np.round(imread(file)[..., :3] * 255), np.uint8)


def score_text(best: Validation, names: Sequence[str], groups: Mapping[str, Sequence[str]]) -> str:
    """A Markdown table: each label's counts, prevalence, AUROC, AP and ECE, and their means, `-` where undefined."""
    scores, group_of = best.scores, {name: group for group, members in groups.items() for name in members}
    lines = [
        f"Best validation: epoch {best.epoch}, step {best.step}",
        "",
        "| label | group | positives | known | prevalence | AUROC | AP | ECE |",
        "|---|---|--:|--:|--:|--:|--:|--:|",
    ]

    def row(first: str, group: str, counts: tuple[str, str], figures: Sequence[float]) -> None:
        values = ("-" if math.isnan(value) else f"{value:.3f}" for value in figures)
        cells = (first.replace("|", r"\|"), group, *counts, *values)
        lines.append(f"| {' | '.join(cells)} |")

    for index, name in enumerate(names):
        positives, known = int(scores.positives[index]), int(scores.positives[index] + scores.negatives[index])
        figures = [float(kind[index]) for kind in (scores.prevalence, scores.auroc, scores.ap, best.ece)]
        row(name, group_of.get(name, "-"), (f"{positives:,}", f"{known:,}"), figures)
    summary = summarise(names, scores, groups)
    ece = math.nan if np.isnan(best.ece).all() else float(np.nanmean(best.ece))
    row("**mean**", "all", ("", ""), [math.nan, summary["auroc"], summary["map"], ece])
    means = [group_means(kind, names, groups) for kind in (scores.auroc, scores.ap, best.ece)]
    for group in means[0]:
        row("**mean**", group, ("", ""), [math.nan, *(kind[group] for kind in means)])
    return "\n".join(lines)
