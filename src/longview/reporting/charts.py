"""Charts of the page as SVG, drawn from metrics.json: curves of all labels, groups, and a mark for an interval."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, Literal

from longview.curves import GROUPS

Kind = Literal["roc", "pr", "reliability"]

_SIZE = 240  # side of the square that curves are drawn in
_LEFT, _TOP, _RIGHT, _BOTTOM = 40, 10, 14, 40
_AXES: dict[Kind, tuple[str, str, str]] = {
    "roc": ("ROC", "false positive rate", "true positive rate"),
    "pr": ("Precision-recall", "recall", "precision"),
    "reliability": ("Reliability", "mean probability", "share of positives"),
}
_ENDS = (0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0)  # where an axis of rare labels may end

_RISKS = (1.2, 1.6, 2.0, 3.0)  # where an axis of relative risk may end
_SETTLED = 0.1  # coverage from which a curve is more than the accidents of a few rows

_ROW, _STRIP = 34, 300  # of the chart of groups: height of a row, width of a panel
_NAMES = 92
_LETTERS = 12  # of a group's name that fit before its row


def group_class(group: str) -> str:
    """CSS class that colours a label of a group."""
    return f"g-{group}" if group in GROUPS else "g-none"


def curve_chart(kind: Kind, report: Mapping[str, Any], order: Sequence[str]) -> str:
    """All labels' curves of a kind in one square; each can be shown by itself.

    Args:
        kind: ROC, precision-recall, or reliability.
        report: The content of metrics.json.
        order: Labels that have curves; their places are the numbers by which the page knows them.
    """
    title, across, up = _AXES[kind]
    body = [_frame()]
    groups = {row["label"]: row["group"] for row in report["per_label"]}
    if kind == "reliability":
        body += [_ticks(1.0, "all-ticks"), _line("M0 240L240 0", "chance")]
    else:
        body.append(_ticks(1.0))
    if kind == "roc":
        body.append(_line("M0 240L240 0", "chance"))
    for number, name in enumerate(order):
        style = f"curve {group_class(groups[name])}"
        words = f"<title>{escape(name)}</title>"
        if kind == "reliability":
            body.append(_diagram(report["reliability"][name], number, style, words))
            continue
        path = _path(kind, report["curves"][kind]["labels"][name])
        body.append(f'<path id="{kind}-{number}" data-label="{number}" class="{style}" d="{path}">{words}</path>')
        if kind == "pr":
            level = _SIZE * (1 - next(row["prevalence"] for row in report["per_label"] if row["label"] == name))
            body.append(f'<path data-label="{number}" class="level" d="M0 {level:.1f}H{_SIZE}"/>')
    if kind != "reliability" and len(order) > 1:
        body.append(f'<path class="mean" d="{_path(kind, report["curves"][kind]["mean"])}"/>')
    width, height = _LEFT + _SIZE + _RIGHT, _TOP + _SIZE + _BOTTOM
    return (
        f'<figure class="chart" data-kind="{kind}"><figcaption>{title}</figcaption>'
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{title} of {len(order)} labels">'
        f'<g transform="translate({_LEFT} {_TOP})">{"".join(body)}'
        f'<text class="axis" x="{_SIZE / 2}" y="{_SIZE + 33}" text-anchor="middle">{across}</text>'
        f'<text class="axis" transform="translate(-29 {_SIZE / 2}) rotate(-90)" text-anchor="middle">{up}</text>'
        f"</g></svg></figure>"
    )


def risk_chart(risk: Mapping[str, Any], order: Sequence[str], groups: Mapping[str, str]) -> str:
    """Risk and coverage of all labels in one chart, each relative to its own risk at full coverage.

    Args:
        risk: What metrics.json says of it.
        order: Labels that have parts of their own on the page.
        groups: Label -> group.
    """
    whole = {"": risk["macro"]["aurc_random"]} | {row["label"]: row["aurc_random"] for row in risk["per_label"]}
    lines: dict[str, list[tuple[float, float]]] = {}
    for name in ("", *order):
        if whole.get(name):  # where all rows are right, nothing can be gained
            lines[name] = _relative(risk["curves"][name], whole[name])
    highest = max((y for points in lines.values() for x, y in points if x >= _SETTLED), default=1.0)
    top = next((end for end in _RISKS if end >= highest), _RISKS[-1])

    def path(points: Sequence[tuple[float, float]]) -> str:
        return "M" + " ".join(f"{_SIZE * x:.0f} {_SIZE * (1 - y / top):.1f}" for x, y in points)

    random = f"M0 {_SIZE * (1 - 1 / top):.1f}H{_SIZE}"
    inside = [_line(random, "chance")]
    for name, points in lines.items():
        best = path(_relative(risk["best_curves"][name], whole[name], 16))  # smooth
        if not name:
            inside.append(_line(best, "best whole"))
            continue
        number, style = order.index(name), f"curve {group_class(groups[name])}"
        words = f"<title>{escape(name)}</title>"
        inside.append(f'<path data-label="{number}" class="{style}" d="{path(points)}">{words}</path>')
        inside.append(f'<path data-label="{number}" class="best one-label" d="{best}"/>')
    if "" in lines:
        inside.append(_line(path(lines[""]), "mean"))
    width, height = _LEFT + _SIZE + _RIGHT, _TOP + _SIZE + _BOTTOM
    return (
        '<figure class="chart" data-kind="risk"><figcaption>Risk and coverage</figcaption>'
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="Risk and coverage of {len(order)} labels">'
        f'<g transform="translate({_LEFT} {_TOP})">{_frame()}{_ticks(top, right=1.0)}'
        f'<svg width="{_SIZE}" height="{_SIZE}" overflow="hidden">{"".join(inside)}</svg>'
        f'<text class="axis" x="{_SIZE / 2}" y="{_SIZE + 33}" text-anchor="middle">coverage: share of rows kept</text>'
        f'<text class="axis" transform="translate(-29 {_SIZE / 2}) rotate(-90)" text-anchor="middle">error of the rows '
        "kept, relative to all</text></g></svg></figure>"
    )


def _relative(points: Mapping[str, Sequence[float]], whole: float, vertices: int = 40) -> list[tuple[float, float]]:
    """Coverage and risk as a share of the risk of all rows, thinned to what a chart can show."""
    pairs = [(x, y / whole) for x, y in zip(points["coverage"], points["risk"], strict=True)]
    step = max(1, len(pairs) // vertices)
    return pairs[(len(pairs) - 1) % step :: step]  # the last one is always there


def small_chart(kind: Kind, number: int, name: str, group: str) -> str:
    """A label's curve by itself, which stands in the page once."""
    title = _AXES[kind][0]
    chance = _line("M0 240L240 0", "chance") if kind != "pr" else ""
    used = f"zoom-{number}" if kind == "reliability" else f"{kind}-{number}"
    return (
        f'<figure class="small {group_class(group)}"><svg viewBox="-4 -4 248 248" role="img" '
        f'aria-label="{title} of {escape(name)}">{_frame()}{chance}<use href="#{used}"/></svg>'
        f"<figcaption>{title}</figcaption></figure>"
    )


def _frame() -> str:
    return f'<rect class="frame" width="{_SIZE}" height="{_SIZE}"/>'


def _line(path: str, style: str) -> str:
    return f'<path class="{style}" d="{path}"/>'


def _ticks(top: float, style: str = "", right: float | None = None) -> str:
    """Both axes from 0 to `top`, or that across from 0 to `right`, with grid lines."""
    parts = [f'<g class="ticks {style}">']
    for step in range(5):
        place, value = _SIZE * step / 4, f"{top * step / 4:.3g}"
        across = value if right is None else f"{right * step / 4:.3g}"
        parts.append(f'<path class="grid" d="M{place:g} 0V{_SIZE}M0 {_SIZE - place:g}H{_SIZE}"/>')
        if step % 2 == 0:
            parts.append(f'<text x="{place:g}" y="{_SIZE + 14}" text-anchor="middle">{across}</text>')
            parts.append(f'<text x="-6" y="{_SIZE - place + 4:g}" text-anchor="end">{value}</text>')
    return "".join(parts) + "</g>"


def _at(x: float, y: float) -> str:
    return f"{_SIZE * x:.1f} {_SIZE * (1 - y):.1f}"


def _path(kind: Kind, points: Mapping[str, Sequence[float]]) -> str:
    """A line through the vertices; the stairs of a precision-recall curve go up or down before they go right."""
    pairs = list(zip(points["x"], points["y"], strict=True))
    if kind == "roc":
        return "M" + "L".join(_at(x, y) for x, y in pairs)
    start = f"M0 {_SIZE * (1 - pairs[0][1]):.1f}"
    return start + "".join(f"V{_SIZE * (1 - y):.1f}H{_SIZE * x:.1f}" for x, y in pairs)


def _diagram(points: Mapping[str, Sequence[float]], number: int, style: str, words: str) -> str:
    """Reliability of one label twice: among all, and on the square that holds it, which a rare label needs."""
    pairs = list(zip(points["probability"], points["share"], strict=True))
    highest = max(max(pair) for pair in pairs)
    top = next((end for end in _ENDS if end >= highest - 1e-9), 1.0)
    every = "M" + "L".join(_at(*pair) for pair in pairs)
    zoomed = [(x / top, y / top) for x, y in pairs]
    dots = "".join(f'<circle cx="{_SIZE * x:.1f}" cy="{_SIZE * (1 - y):.1f}" r="3.5"/>' for x, y in zoomed)
    return (
        f'<path data-label="{number}" class="{style} whole" d="{every}">{words}</path>'
        f'<g data-label="{number}" class="zoom">{_ticks(top)}<g id="zoom-{number}" class="{style}">'
        f'<path d="M{"L".join(_at(*pair) for pair in zoomed)}"/>{dots}</g></g>'
    )


def interval_mark(entry: Mapping[str, float | None], chance: float | None) -> str:
    """A small bar from 0 to 1: the interval, the figure, and a tick where chance is."""
    value = entry["value"]
    if value is None:
        return ""
    low, high = (value if entry[end] is None else entry[end] for end in ("low", "high"))
    parts = ['<svg class="mark" viewBox="0 0 102 12" aria-hidden="true"><path class="rail" d="M1 6H101"/>']
    if chance is not None:
        parts.append(f'<path class="tick" d="M{1 + 100 * chance:.1f} 1V11"/>')
    parts.append(f'<path class="span" d="M{1 + 100 * (low or 0):.1f} 6H{1 + 100 * (high or 0):.1f}"/>')
    parts.append(f'<circle cx="{1 + 100 * value:.1f}" cy="6" r="3.2"/></svg>')
    return "".join(parts)


def group_chart(report: Mapping[str, Any]) -> str:
    """Mean AUROC and AP of each group with intervals, over dots for its labels."""
    rows: list[tuple[str, Mapping[str, Any], list[str] | None]] = [
        (name, report["groups"][name]["figures"], report["groups"][name]["labels"])
        for name in report["groups"]
        if report["groups"][name]["map"] is not None
    ]
    rows.append(("all", report["overall"], None))
    height = _ROW * len(rows)
    panels = []
    for figure, mean, title in (("auroc", "auroc", "Mean AUROC"), ("ap", "map", "Mean average precision")):
        names = "".join(
            f'<text class="{group_class(name)} name" x="{_NAMES - 14}" y="{24 + _ROW * (place + 0.5):g}" '
            f'text-anchor="end">{escape(name[:_LETTERS])}</text>'
            for place, (name, _, _) in enumerate(rows)
        )
        panels.append(
            f'<svg viewBox="0 0 {_NAMES + _STRIP + 12} {height + 42}" role="img" aria-label="{title} by group of '
            f'labels">{names}{_strip(rows, report["per_label"], figure, mean, title, height)}</svg>'
        )
    return f'<div class="groups">{"".join(panels)}</div>'


def _strip(
    rows: Sequence[tuple[str, Mapping[str, Any], list[str] | None]],
    labels: Sequence[Mapping[str, Any]],
    figure: str,
    mean: str,
    title: str,
    height: float,
) -> str:
    """One panel of the chart of groups: a row of dots, an interval and a mean per group."""
    parts = [f'<g transform="translate({_NAMES} 20)"><text class="axis" x="0" y="-8">{title}</text>']
    for step in range(5):
        x = _STRIP * step / 4
        parts.append(f'<path class="grid" d="M{x:g} 0V{height}"/>')
        parts.append(f'<text x="{x:g}" y="{height + 15}" text-anchor="middle">{step / 4:g}</text>')
    for place, (name, figures, members) in enumerate(rows):
        y = _ROW * (place + 0.5)
        parts.append(f'<g class="{group_class(name)}">')
        for row in labels:
            if row[figure] is not None and (members is None or row["label"] in members):
                words = f"<title>{escape(row['label'])}</title>"
                parts.append(f'<circle class="dot" cx="{_STRIP * row[figure]:.1f}" cy="{y:g}" r="4">{words}</circle>')
        found = figures[mean]
        if found["low"] is not None and not math.isnan(found["low"]):
            span = f"M{_STRIP * found['low']:.1f} {y:g}H{_STRIP * found['high']:.1f}"
            parts.append(f'<path class="span" d="{span}"/>')
        x = _STRIP * found["value"]
        parts.append(
            f'<path class="diamond" d="M{x - 6:.1f} {y:g}L{x:.1f} {y - 7:g}L{x + 6:.1f} {y:g}L{x:.1f} {y + 7:g}Z"/></g>'
        )
    return "".join(parts) + "</g>"
