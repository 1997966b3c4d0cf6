"""Parts of the page: headline figures, groups, the table of labels, uncertainty, subgroups, hierarchy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from longview.curves import GROUPS
from longview.reporting.charts import group_chart, group_class, interval_mark, risk_chart
from longview.reporting.numbers import Form, Numbers, pointer
from longview.score_report import PRESETS
from longview.statistics.figures import FIXED
from longview.truth import PLURAL

TITLES = {
    "auroc": "AUROC",
    "ap": "Average precision",
    "f1": "F1",
    "mcc": "MCC",
    "sensitivity": "Sensitivity",
    "specificity": "Specificity",
    "ppv": "PPV",
    "npv": "NPV",
    "brier": "Brier score",
    "ece": "ECE",
}
"""Figure of a label -> its name on the page."""

_COLUMNS = ("f1", "mcc", "sensitivity", "specificity", "ppv", "npv", "brier", "ece")
_SHORT = {"sensitivity": "Sens.", "specificity": "Spec.", "brier": "Brier"}


def title_of(figure: str) -> str:
    """A figure's name on the page."""
    for ending, words in (("_tuned", ", tuned thresholds"), ("_micro", ", micro"), ("_weighted", ", weighted")):
        if figure.endswith(ending):
            return title_of(figure.removesuffix(ending)) + words
    first, at, rest = figure.partition("_at_")
    if at:
        other, _, level = rest.rpartition("_")
        return f"{TITLES[first]} at {other} {level}"
    return TITLES.get(figure, figure)


def counts(numbers: Numbers) -> str:
    """What was scored, in one sentence."""
    rows = f"{numbers.show('rows', form='count')} {PLURAL[numbers.at('level')]}"
    unit = numbers.at("unit")
    of = f" of {numbers.show('clusters', form='count')} {PLURAL[unit]}" if unit != numbers.at("level") else ""
    splits = numbers.at("splits")
    part = f", split {escape(' and '.join(splits))}" if splits else ""
    return f"{rows}{of}{part}; {numbers.show('labels', form='count')} labels"


def headline(numbers: Numbers) -> str:
    """Tiles of the main figures, and the table of all that is averaged over labels."""
    threshold = numbers.show("options", "threshold", form="plain")
    wanted = [("map", "Mean average precision (mAP)"), ("auroc", "Mean AUROC"), ("f1", f"Mean F1 at {threshold}")]
    wanted += [("ece", "Mean calibration error (ECE)"), ("brier", "Mean Brier score")]
    tiles = [_tile(numbers, title, "overall", name) for name, title in wanted]
    if numbers.has("groups", "tail", "figures", "map", "value"):
        tiles.insert(2, _tile(numbers, "mAP of the tail", "groups", "tail", "figures", "map"))
    tiles[0] = tiles[0].replace('class="tile"', 'class="tile first"')
    return f'<dl class="tiles">{"".join(tiles)}</dl>{_preset(numbers)}{_notes(numbers)}{_overall(numbers)}'


def _tile(numbers: Numbers, title: str, *keys: str) -> str:
    value, _, interval = numbers.with_interval(*keys).partition(' <span class="interval">')
    below = interval.removesuffix("</span>").strip("()") or "no interval"
    return (
        f'<div class="tile"><dt>{title}</dt><dd><span class="big">{value}</span>'
        f'<span class="interval">{below}</span></dd></div>'
    )


def _preset(numbers: Numbers) -> str:
    if not numbers.has("preset", "name"):
        return ""
    name = numbers.at("preset", "name")
    items = "; ".join(
        f"<strong>{title}</strong> {numbers.with_interval('preset', 'figures', title)}" for title in PRESETS[name]
    )
    return f"<p>Figures of {escape(name)}, the one that ranks first: {items}.</p>"


def _notes(numbers: Numbers) -> str:
    """How intervals were made, and what is left out."""
    notes = [
        f'<p class="note" data-at="{pointer("notes", place)}">{escape(note)}</p>'
        for place, note in enumerate(numbers.at("notes"))
    ]
    if numbers.has("bootstrap", "resamples"):
        unit = PLURAL[numbers.at("bootstrap", "unit")]
        notes.append(
            f"<p>In parentheses: {numbers.show('bootstrap', 'level', form='percent')} intervals (BCa) from "
            f"{numbers.show('bootstrap', 'resamples', form='count')} resamples of whole {unit}.{_beside(numbers)}</p>"
        )
    for key, words in (
        ("skipped", "Left out of every mean, for lack of positives or of negatives"),
        ("not_in_truth", "Predicted, but not in the truth"),
        ("not_predicted", "In the truth, but not predicted"),
    ):
        if numbers.at(key):
            notes.append(f'<p class="note">{words}: {escape(", ".join(numbers.at(key)))}.</p>')
    return "".join(notes)


def _beside(numbers: Numbers) -> str:
    """Why an interval may lie beside its figure, where one does."""
    found = [entry for entry in numbers.at("overall").values() if entry["low"] is not None]
    if all(entry["low"] <= entry["value"] <= entry["high"] for entry in found):
        return ""
    return (
        " They are corrected for bias: of figures that are too high on small samples, such as ECE, they may lie below."
    )


def _overall(numbers: Numbers) -> str:
    found = numbers.at("overall")
    rows: list[str] = []
    for figure in ("auroc", "ap", *(key for key in found if "_micro" not in key and "_weighted" not in key)):
        if figure in {"map"} or (figure == "auroc" and rows):
            continue
        macro = "map" if figure == "ap" else figure
        base, tuned, _ = figure.partition("_tuned")
        names = (macro, f"{base}_micro{tuned}", f"{figure}_weighted")
        cells = "".join(f"<td>{numbers.with_interval('overall', name) if name in found else ''}</td>" for name in names)
        rows.append(f'<tr><th scope="row">{title_of(figure)}</th>{cells}</tr>')
    caption = "Means over labels (macro), over all cells (micro), and weighted by positives"
    table = _table("Figures over all labels", caption, _head("", "macro", "micro", "weighted by positives"), rows)
    return f"<details><summary>All figures over all labels</summary>{table}</details>"


def _head(*words: str) -> str:
    return "".join(f'<th scope="col">{word}</th>' for word in words)


def _table(name: str, caption: str, head: str, rows: Sequence[str], style: str = "") -> str:
    """A table that scrolls by itself where the window is narrower, by keyboard too."""
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{name}"><table class="{style}"><caption>'
        f'<span class="told">{caption}</span></caption><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody>'
        "</table></div>"
    )


def groups(numbers: Numbers) -> str:
    """Head, medium and tail: chart and table."""
    if not numbers.at("groups"):
        return (
            '<p class="lead">No groups: the truth has no training rows. Give <code>--train TABLE_OR_STORE</code> to '
            "tell head (over 10 %), medium and tail (under 1 %) apart.</p>" + group_chart(numbers.report)
        )
    rows = []
    for name, group in numbers.at("groups").items():
        place = ("groups", name)
        cells = [numbers.show(*place, "count", form="count")]
        cells += [numbers.with_interval(*place, "figures", figure) for figure in ("auroc", "map", "f1", "ece")]
        members = f'<td class="text members">{escape(", ".join(group["labels"]))}</td>'
        badge = f'<span class="badge {group_class(name)}">{escape(name)}</span>'
        rows.append(f'<tr><th scope="row">{badge}</th>{"".join(f"<td>{cell}</td>" for cell in cells)}{members}</tr>')
    head = _head("group", "labels", "AUROC", "AP", "F1", "ECE") + '<th scope="col" class="text">its labels</th>'
    return (
        '<p class="lead">Groups by prevalence in training: head over 10 %, tail under 1 %. Diamonds: means with '
        f"intervals; dots: labels.</p>{group_chart(numbers.report)}"
        + _table("Figures of each group", "Means of each group", head, rows, "wide")
    )


def label_table(numbers: Numbers, order: Mapping[str, int]) -> str:
    """One row per label, most frequent first.

    Args:
        numbers: The figures.
        order: Label that has a part of its own on the page -> its number there.
    """
    rows = numbers.at("per_label")
    tuned = [f"f1_{rule}" for rule in numbers.at("thresholds") if rule != FIXED]
    columns = [*_COLUMNS[:1], *tuned, *_COLUMNS[1:]]
    titles = ["label", *["group"] * bool(numbers.at("groups")), "positives", "share", "AUROC", "AP"]
    titles += ["F1, tuned" if name in tuned else _SHORT.get(name, TITLES.get(name, name)) for name in columns]
    marks = {"positives": " aria-sort=descending", "group": ' class="text"'}
    head = "".join(f'<th scope="col"{marks.get(title, "")}>{title}</th>' for title in titles)
    body = [_label_row(numbers, index, columns, order) for index in _by_frequency(rows)]
    threshold = numbers.show("options", "threshold", form="plain")
    caption = (
        f"Figures of each label, with intervals; F1 to NPV at a threshold of {threshold}. Bars run from 0 to 1; ticks: "
        'chance.<span class="hint"> Headings sort.</span>'
    )
    return _table("Figures of each label", caption, head, body, "wide sortable")


def _by_frequency(rows: list[dict[str, Any]]) -> list[int]:
    return sorted(range(len(rows)), key=lambda index: -rows[index]["positives"])


def _label_row(numbers: Numbers, index: int, columns: list[str], order: Mapping[str, int]) -> str:
    row = numbers.at("per_label", index)
    name, style = row["label"], group_class(row["group"])
    shown = escape(name)
    if name in order:
        shown = f'<a href="#label-{order[name]}">{shown}</a>'
    badge = f'<span class="badge {style}">{escape(row["group"])}</span>' if row["group"] else ""
    cells = [
        *[f'<td class="text">{badge}</td>'] * bool(numbers.at("groups")),
        f"<td>{numbers.show('per_label', index, 'positives', form='count')}</td>",
        f"<td>{numbers.show('per_label', index, 'prevalence', form='percent')}</td>",
    ]
    for figure, chance in (("auroc", 0.5), ("ap", row["prevalence"])):
        entry = numbers.at("label_figures", name, figure)
        value, _, interval = numbers.with_interval("label_figures", name, figure).partition(" <span")
        below = f"<br><span{interval}" if interval else ""
        cells.append(f"<td>{value}{interval_mark(entry, chance)}{below}</td>")
    cells += [f"<td>{numbers.show('per_label', index, figure)}</td>" for figure in columns]
    return f'<tr class="{style}"><th scope="row">{shown}</th>{"".join(cells)}</tr>'


def uncertainty(numbers: Numbers, order: Sequence[str]) -> str:
    """Risk and coverage: chart and table.

    Args:
        numbers: The figures.
        order: Labels that have a part of their own on the page.
    """
    if not numbers.has("risk", "macro"):
        return ""
    found, groups = numbers.at("risk"), {row["label"]: row["group"] for row in numbers.at("per_label")}
    places = {row["label"]: place for place, row in enumerate(found["per_label"])}
    rows = [_risk_row(numbers, "mean over labels", "macro")]
    for number, name in enumerate(order):
        if name in places:
            link = f'<a href="#label-{number}">{escape(name)}</a>'
            row = _risk_row(numbers, link, "per_label", places[name])
            rows.append(row.replace("<tr>", f'<tr data-label="{number}">', 1))
    head = _head("label", "AURC", "random order", "excess AURC", "gain")
    caption = (
        "Squared error, averaged over all coverages (AURC), with intervals. Excess: above the best order, that of the "
        "errors themselves. Gain: share of the way from random to best; 1 is best, 0 is random"
    )
    table = _table("Risk and coverage of each label", caption, head, rows, "wide")
    items = [("var(--ink)", "", "mean over labels, or a label, the most certain rows first")]
    items += [("var(--soft)", "dashes", "in a random order"), ("var(--soft)", "dots", "in the best order")]
    words = "".join(f'<li style="--c:{colour}"><i class="{line}"></i>{text}</li>' for colour, line, text in items)
    measure = escape(found["measure"].replace("_", " "))
    chart = risk_chart(found, order, groups)
    return (
        '<section id="uncertainty"><h2>Uncertainty</h2><p class="lead">How much smaller the error is among the rows '
        f"that are certain by their {measure}{_sampled(numbers)}, when others are left to somebody else. A click on a "
        f'curve picks its label.</p><ul class="legend">{words}</ul><div class="doubt">{chart}'
        f"<div>{table}</div></div></section>"
    )


def _risk_row(numbers: Numbers, name: str, *place: str | int) -> str:
    keys = ("aurc_random", "excess_aurc")
    cells = [numbers.with_interval("risk", *place, "interval", form="small")]
    cells += [numbers.show("risk", *place, key, form="small") for key in keys]
    cells.append(numbers.show("risk", *place, "gain"))
    return f'<tr><th scope="row">{name}</th>{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>'


def _sampled(numbers: Numbers) -> str:
    """What the uncertainty was made of, in parentheses; empty where it is not known."""
    method = numbers.at("risk", "method")
    title = {"mc-dropout": "Monte-Carlo dropout", "ensemble": "ensemble"}.get(method.get("method"), "")
    parts = [title] if title else []
    parts += [
        f"{numbers.show('risk', 'method', key, form='count')} {key}" for key in ("samples", "members") if key in method
    ]
    return f" ({', '.join(parts)})" if parts else ""


def subgroups(numbers: Numbers) -> str:
    """Subgroups with counts and means."""
    parts = numbers.at("subgroups")
    if not parts:
        return ""
    rows = []
    for index, part in enumerate(parts):
        place = ("subgroups", index)
        cells = [numbers.show(*place, key, form="count") for key in ("rows", "clusters")]
        for of, count in (((), "labels"), (("common",), "count")):
            cells.append(numbers.show(*place, *of, count, form="count"))
            for figure in ("auroc", "map"):
                entry = numbers.at(*place, *of, "figures", figure)
                mark = "" if of else interval_mark(entry, 0.5 if figure == "auroc" else None)
                cells.append(numbers.with_interval(*place, *of, "figures", figure) + mark)
        name = f'<span class="soft">{escape(part["column"])}</span> {escape(part["value"])}'
        rows.append(
            f'<tr class="g-head"><th scope="row">{name}</th>{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>'
        )
    head = _head("subgroup", PLURAL[numbers.at("level")], PLURAL[numbers.at("unit")], "labels", "AUROC", "AP",
                 "common labels", "AUROC", "AP")  # fmt: skip
    caption = (
        "First, means over the labels that a subgroup itself can score; then, over those that every subgroup of a "
        "column can score: only these compare. AP also depends on how frequent labels are in a subgroup"
    )
    table = _table("Figures of each subgroup", caption, head, rows, "wide tight")
    return f'<section id="subgroups"><h2>Subgroups</h2>{table}</section>'


def hierarchy(numbers: Numbers) -> str:
    """How often predictions contradict the label set's hierarchy."""
    if not numbers.at("hierarchy"):
        return ""
    names = {
        "child_above_parent": "Child scored above its parent",
        "child_without_parent": "Child at one half or more, its parent below",
        "map": "Mean AP",
        "auroc": "Mean AUROC",
    }
    rows = []
    for key, title in names.items():
        form: Form = "percent" if key.startswith("child") else "figure"
        cells = "".join(f"<td>{numbers.show('hierarchy', key, time, form=form)}</td>" for time in ("before", "after"))
        rows.append(f'<tr><th scope="row">{title}</th>{cells}</tr>')
    edges = numbers.show("hierarchy", "edges", form="count")
    caption = f"{edges} edges from parents to children; consistent: each parent raised to its highest child"
    table = _table("Hierarchy", caption, _head("", "as predicted", "made consistent"), rows)
    return f'<section id="hierarchy"><h2>Hierarchy</h2>{table}</section>'


def legend(numbers: Numbers) -> str:
    """Colours of the groups that occur, and the mean."""
    present = [group for group in GROUPS if group in {row["group"] for row in numbers.at("per_label")}]
    items = [f'<li class="{group_class(group)}"><i></i>{group}</li>' for group in present]
    items.append('<li style="--c:var(--ink)"><i></i>mean over labels</li>')
    return f'<ul class="legend">{"".join(items)}</ul>'
