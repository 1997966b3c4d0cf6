"""What `evaluate` writes and prints: tables, plots and the figures of an evaluation."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from longview import __version__
from longview.curves import GROUPS, Curve, plot_bars, plot_curves
from longview.outputs import sha256
from longview.ranking import LabelScores, Summary, group_means
from longview.statistics.delong import MOST_ROWS, AreaTest
from longview.statistics.figures import Figures
from longview.statistics.intervals import LEVEL, Interval
from longview.statistics.resampling import Resamples
from longview.subgroups import Subgroup
from longview.truth import Match
from longview.violations import Violations

VIOLATIONS = "violations.csv"
INTERVALS = "intervals.csv"
SUBGROUPS = "subgroups.csv"

COMMON = "common"
"""Group of the labels that every subgroup of a column can score: only their means can be compared."""

PRESETS: dict[str, dict[str, str]] = {
    "cxr-lt": {"mAP": "map", "mAUROC": "auroc", "mF1": "f1", "mECE": "ece"},
}
"""Preset -> its figures, the one that ranks first -> ours.

CXR-LT ranks by mAP over labels and reports mAUROC and mF1 at 0.5 beside it (Holste et al., arXiv 2310.16112 and
2506.07984); ECE is averaged over labels.
"""

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Part:
    """A subgroup's figures.

    Args:
        subgroup: Which rows.
        clusters: Patients among them.
        scores: Counts and metrics per label.
        figures: AUROC and AP in all replicates; :data:`COMMON` is a group in it.
        common: The labels that all subgroups of this column can score.
    """

    subgroup: Subgroup
    clusters: int
    scores: LabelScores
    figures: Figures
    common: list[str]


@dataclass(frozen=True)
class Evaluation:
    """What :func:`longview.evaluate.score` finds.

    Args:
        match: The rows and labels that were compared.
        scores: Counts and metrics per label.
        groups: `head`, `medium`, `tail`, `unseen` (by training counts, where these are known), and named ones -> names.
        summary: Macro means.
        violations: How often the predictions contradict the label set's hierarchy; None without one.
        figures: Every figure in every replicate.
        resamples: The replicates.
        thresholds: Rule -> (L,).
        parts: Subgroups.
        doubt: (n, L) uncertainty of the probabilities, where it is known.
    """

    match: Match
    scores: LabelScores
    groups: dict[str, list[str]]
    summary: Summary
    violations: Violations | None
    figures: Figures
    resamples: Resamples
    thresholds: Mapping[str, FloatArray]
    parts: list[Part] = field(default_factory=list)
    doubt: FloatArray | None = None

    @property
    def group_of(self) -> dict[str, str]:
        """Label -> head, medium, tail or unseen."""
        return {name: group for group, names in self.groups.items() if group in GROUPS for name in names}


def curves_of(result: Evaluation) -> dict[str, Curve]:
    """Label -> curve, for the labels that have positives and negatives."""
    matched = result.match
    return {
        name: Curve.of(matched.scores[:, index], matched.targets[:, index])
        for index, name in enumerate(matched.names)
        if result.scores.scored[index]
    }


def write_tables(
    result: Evaluation, files: Mapping[str, Path], folder: Path, curves: Mapping[str, Curve], preset: str | None = None
) -> dict[str, Any]:
    """Write the tables and plots of an evaluation into a folder, and give all its figures, for metrics.json.

    Args:
        result: The evaluation.
        files: Role (`predictions`, `truth`, `train`, `calibration`, `groups`) -> file; their hashes are noted.
        folder: Where to write.
        curves: What :func:`curves_of` finds.
        preset: One of :data:`PRESETS`, whose figures stand by themselves.
    """
    scores, names = result.scores, result.match.names
    labels = {name: result.figures.of_label(name) for name in names}
    rows = per_label_rows(result, labels)
    pd.DataFrame(rows).to_csv(folder / "per_label.csv", index=False)
    pd.DataFrame(confusion_rows(result)).to_csv(folder / "confusion.csv", index=False)
    if result.violations:
        pd.DataFrame(result.violations.rows()).to_csv(folder / VIOLATIONS, index=False)
    if result.parts:
        pd.DataFrame(subgroup_rows(result)).to_csv(folder / SUBGROUPS, index=False)
    plot_curves("roc", curves, names, scores, group_of=result.group_of, file=folder / "roc.png")
    plot_curves("pr", curves, names, scores, group_of=result.group_of, file=folder / "pr.png")
    plot_bars(names, scores, result.group_of, folder / "per_label.png")
    report = _metrics(result, files, rows, labels)
    if preset:
        overall = report["overall"]
        report["preset"] = {"name": preset, "figures": {key: overall[name] for key, name in PRESETS[preset].items()}}
    if result.resamples.drawn:
        pd.DataFrame(_interval_rows(report)).to_csv(folder / INTERVALS, index=False)
    return report


def _metrics(
    result: Evaluation,
    files: Mapping[str, Path],
    rows: list[dict[str, Any]],
    labels: Mapping[str, Mapping[str, Interval]],
) -> dict[str, Any]:
    """The content of metrics.json."""
    matched, names = result.match, result.match.names
    auroc = group_means(result.scores.auroc, names, result.groups)
    ap = group_means(result.scores.ap, names, result.groups)
    return {
        "longview": __version__,
        "files": {role: {"path": str(file), "sha256": sha256(file)} for role, file in files.items()},
        "level": matched.level,
        "splits": matched.splits,
        "rows": len(matched.targets),
        "extra_predictions": matched.extra,
        "labels": len(names),
        "map": result.summary["map"],
        "auroc": result.summary["auroc"],
        "bootstrap": _bootstrap(result),
        "delong": _delong_told(result),
        "thresholds": {
            rule: dict(zip(names, values.tolist(), strict=True)) for rule, values in result.thresholds.items()
        },
        "overall": _entries(result.figures.over_all()),
        "groups": {
            group: {
                "labels": members,
                "count": len(members),
                "map": ap[group],
                "auroc": auroc[group],
                "figures": _entries(result.figures.of_group(group)),
            }
            for group, members in result.groups.items()
        },
        "subgroups": [_part_entry(part, names) for part in result.parts],
        "hierarchy": result.violations and result.violations.report(result.summary),
        "skipped": result.summary["skipped"],
        "not_in_truth": matched.unscored,
        "not_predicted": matched.unpredicted,
        "per_label": rows,
        "label_figures": {name: _entries(found) for name, found in labels.items()},
    }


def _bootstrap(result: Evaluation) -> dict[str, Any] | None:
    """How the intervals were made; None without."""
    resamples, names = result.resamples, result.match.names
    if not resamples.drawn:
        return None
    missing = np.isnan(result.figures.labels["ap"][1 : 1 + resamples.drawn]).sum(axis=0)
    return {
        "resamples": resamples.drawn,
        "seed": resamples.seed,
        "level": LEVEL,
        "clusters": resamples.clusters,
        "unit": result.match.unit,
        "left_out": {name: int(count) for name, count in zip(names, missing, strict=True) if count},
    }


def _delong_told(result: Evaluation) -> dict[str, Any] | None:
    """What the closed-form intervals of AUROC in `per_label` are; None without."""
    if not _has_delong(result):
        return None
    method = "DeLong" if result.match.unit == result.match.level else "DeLong, for rows in clusters (Obuchowski)"
    return {"method": method, "level": LEVEL, "unit": result.match.unit}


def _has_delong(result: Evaluation) -> bool:
    return bool(result.resamples.drawn) and len(result.match.targets) <= MOST_ROWS


def delong_entries(result: Evaluation, index: int) -> dict[str, float]:
    """The interval of a label's AUROC in closed form, a check of that of the resamples; empty where it is left out.

    Patients are its clusters, as they are of the resamples; without patients it is DeLong's own, over rows.
    """
    if not _has_delong(result):
        return {}
    matched = result.match
    area = AreaTest.of(matched.scores[:, [index]], matched.targets[:, index], result.resamples.cluster)
    low, high = area.interval(0, LEVEL) if result.figures.supported[index] else (math.nan, math.nan)
    return {"auroc_delong_low": low, "auroc_delong_high": high}


def _part_entry(part: Part, names: Sequence[str]) -> dict[str, Any]:
    """A subgroup in metrics.json."""
    found = part.figures.over_all()
    return {
        "column": part.subgroup.column,
        "value": part.subgroup.value,
        "rows": int(part.subgroup.rows.sum()),
        "clusters": part.clusters,
        "labels": int(part.scores.scored.sum()),
        "map": found["map"].value,
        "auroc": found["auroc"].value,
        "figures": _entries(found),
        "common": {
            "labels": part.common,
            "count": len(part.common),
            "figures": _entries(part.figures.of_group(COMMON)),
        },
        "per_label": {name: _entries(part.figures.of_label(name)) for name in names},
    }


def _entries(found: Mapping[str, Interval]) -> dict[str, dict[str, float | int]]:
    return {figure: interval.entries() for figure, interval in found.items()}


def _interval_rows(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row per figure: what it is of, and its interval."""
    sources: list[tuple[str, str, Mapping[str, Any]]] = [("all", "", report["overall"])]
    sources += [("group", name, group["figures"]) for name, group in report["groups"].items()]
    sources += [("label", name, found) for name, found in report["label_figures"].items()]
    return [
        {"of": kind, "name": name, "figure": figure, **entry}
        for kind, name, found in sources
        for figure, entry in found.items()
    ]


def per_label_rows(result: Evaluation, labels: Mapping[str, Mapping[str, Interval]]) -> list[dict[str, Any]]:
    """One row per label: group, counts, prevalence and figures (NaN where a label lacks one kind).

    Args:
        result: The evaluation.
        labels: Label -> figure -> interval.
    """
    scores = result.scores
    rows = []
    for index, name in enumerate(result.match.names):
        found = labels[name]
        row: dict[str, Any] = {
            "label": name,
            "group": result.group_of.get(name, ""),
            "positives": int(scores.positives[index]),
            "negatives": int(scores.negatives[index]),
            "unknown": int(scores.unknown[index]),
            "soft": int(scores.soft[index]),
            "prevalence": float(scores.prevalence[index]),
            "auroc": float(scores.auroc[index]),
            "ap": float(scores.ap[index]),
        }
        if result.resamples.drawn:
            for figure in ("auroc", "ap"):
                row |= {f"{figure}_low": found[figure].low, f"{figure}_high": found[figure].high}
            row |= delong_entries(result, index)
        rows.append(row | {figure: item.value for figure, item in found.items() if figure not in {"auroc", "ap"}})
    return rows


def confusion_rows(result: Evaluation) -> list[dict[str, Any]]:
    """One row per rule and label: threshold, and the four cells of its confusion matrix."""
    return [
        {
            "label": name,
            "rule": rule,
            "threshold": float(result.thresholds[rule][index]),
            **{cell: int(values[0, index]) for cell, values in cells.items()},
        }
        for rule, cells in result.figures.cells.items()
        for index, name in enumerate(result.match.names)
    ]


def subgroup_rows(result: Evaluation) -> list[dict[str, Any]]:
    """One row per subgroup and label, and one for its mean, with counts and intervals."""
    rows = []
    for part in result.parts:
        base = {"column": part.subgroup.column, "value": part.subgroup.value}
        count = int(part.subgroup.rows.sum())
        for index, name in enumerate(result.match.names):
            found, scores = part.figures.of_label(name), part.scores
            counts = {"rows": count, "positives": scores.positives[index], "negatives": scores.negatives[index]}
            rows.append(base | {"label": name} | counts | _flat(found, "auroc") | _flat(found, "ap"))
        found = part.figures.over_all()
        rows.append(base | {"label": "", "rows": count} | _flat(found, "auroc") | _flat(found, "map", "ap"))
    return rows


def _flat(found: Mapping[str, Interval], figure: str, name: str | None = None) -> dict[str, float]:
    name = name or figure
    return {name: found[figure].value, f"{name}_low": found[figure].low, f"{name}_high": found[figure].high}


def shown(figure: Interval) -> str:
    """A figure with its interval, where there is one."""
    if math.isnan(figure.value):
        return "-"
    if math.isnan(figure.low):
        return f"{figure.value:.4f}"
    digits = 2 if figure.value >= 0.1 else 3
    low, high = (f"{end:.{digits}f}".removeprefix("0") for end in (figure.low, figure.high))
    return f"{figure.value:.3f} ({low}-{high})"


def without_nan(value: Any) -> Any:
    """JSON has no NaN: null says that a figure is not defined."""
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value
