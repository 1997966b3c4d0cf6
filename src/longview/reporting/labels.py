"""The part of the page where a label is picked: charts of all labels, and each label's figures and worst errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from longview.reporting.charts import Kind, curve_chart, group_class, small_chart
from longview.reporting.numbers import Numbers
from longview.reporting.sections import legend, title_of
from longview.reporting.worst import KINDS
from longview.statistics.figures import FIXED

CHARTS: tuple[Kind, ...] = ("roc", "pr", "reliability")

_ERRORS = {
    "false_positives": "False positives: absent, yet scored highest",
    "false_negatives": "False negatives: present, yet scored lowest",
}


def explorer(numbers: Numbers, order: Sequence[str], films: Mapping[str, int]) -> str:
    """Charts and a part per label.

    Args:
        numbers: The figures.
        order: Labels with positives and negatives, most frequent first.
        films: Id of an image or study -> number of its film on the page.
    """
    options = "".join(f'<option value="{number}">{escape(name)}</option>' for number, name in enumerate(order))
    charts = "".join(curve_chart(kind, numbers.report, order) for kind in CHARTS)
    cards = "".join(_card(numbers, number, name, films) for number, name in enumerate(order))
    return (
        '<section id="labels"><h2>Curves, calibration and worst errors</h2><div class="bar">'
        '<label for="label-picker">Label</label>'
        '<button type="button" data-step="-1" aria-label="Previous label">&lsaquo;</button>'
        f'<select id="label-picker"><option value="">All labels</option>{options}</select>'
        '<button type="button" data-step="1" aria-label="Next label">&rsaquo;</button>'
        '<div id="picked" aria-live="polite">Pick a label here, in a chart or in the table above.</div></div>'
        f'{legend(numbers)}<div class="charts">{charts}</div>'
        '<p class="soft">Bins of the reliability diagram hold equally many rows; a label by itself is drawn on the '
        "square that holds it. ECE is summed over bins of equal width.</p>"
        f'<div class="cards">{cards}</div></section>'
    )


def _card(numbers: Numbers, number: int, name: str, films: Mapping[str, int]) -> str:
    index = next(place for place, row in enumerate(numbers.at("per_label")) if row["label"] == name)
    group = numbers.at("per_label", index, "group")
    badge = f'<span class="badge {group_class(group)}">{escape(group)}</span>' if group else ""
    found = ("label_figures", name)
    words = [
        f"<strong>{escape(name)}</strong>{badge}",
        f"<span>{numbers.show('per_label', index, 'positives', form='count')} present, "
        f"{numbers.show('per_label', index, 'negatives', form='count')} absent</span>",
        f"<span>AUROC {numbers.with_interval(*found, 'auroc')}</span>",
        f"<span>AP {numbers.with_interval(*found, 'ap')}</span>",
        f"<span>ECE {numbers.with_interval(*found, 'ece')}</span>",
    ]
    matrices = "".join(_matrix(numbers, rule, name) for rule in numbers.at("confusion"))
    smalls = "".join(small_chart(kind, number, name, group) for kind in CHARTS)
    return (
        f'<details class="card {group_class(group)}" id="label-{number}" data-label="{number}"'
        f'{" open" if number == 0 else ""}><summary>{"".join(words)}</summary><div class="parts">'
        f'<div class="smalls">{smalls}</div>{_figures(numbers, name)}<div class="beside"><div class="matrices">'
        f"{matrices}</div>{_errors(numbers, name, films)}</div></div></details>"
    )


def _figures(numbers: Numbers, name: str) -> str:
    cells = {
        title_of(figure): numbers.with_interval("label_figures", name, figure)
        for figure in numbers.at("label_figures", name)
        if figure not in {"auroc", "ap", "ece"}  # they stand in the heading
    }
    rows = "".join(f'<tr><th scope="row">{title}</th><td>{cell}</td></tr>' for title, cell in cells.items())
    return f"<div><h3>Figures</h3><table><tbody>{rows}</tbody></table></div>"


def _matrix(numbers: Numbers, rule: str, name: str) -> str:
    """Confusion matrix by a rule; a cell is the darker, the larger its share of the row."""
    place = ("confusion", rule, name)
    cells = numbers.at(*place)

    def cell(key: str, other: str) -> str:
        share = cells[key] / max(cells[key] + cells[other], 1)
        return f'<td style="--share:{share:.3f}">{numbers.show(*place, key, form="count")}</td>'

    threshold = numbers.show(*place, "threshold", form="plain" if rule == FIXED else "figure")
    words = "" if rule == FIXED else f"{escape(rule)} "
    return (
        f'<div><h3>Confusion at the {words}threshold {threshold}</h3><table class="matrix"><thead><tr><td></td>'
        '<th scope="col">called present</th><th scope="col">called absent</th></tr></thead><tbody>'
        f'<tr><th scope="row">present</th>{cell("tp", "fn")}{cell("fn", "tp")}</tr>'
        f'<tr><th scope="row">absent</th>{cell("fp", "tn")}{cell("tn", "fp")}</tr></tbody></table></div>'
    )


def _errors(numbers: Numbers, name: str, films: Mapping[str, int]) -> str:
    parts = []
    for kind in KINDS:
        items = numbers.at("worst", name, kind)
        if not items:
            parts.append(
                f'<div class="errors"><h3>{_ERRORS[kind]}</h3><p class="soft">None: all are ranked right.</p></div>'
            )
            continue
        shown = "".join(_error(numbers, ("worst", name, kind, place), item, films) for place, item in enumerate(items))
        parts.append(f'<div class="errors"><h3>{_ERRORS[kind]}</h3><ol class="films">{shown}</ol></div>')
    return "".join(parts)


def _error(numbers: Numbers, place: tuple[str | int, ...], item: Mapping[str, Any], films: Mapping[str, int]) -> str:
    words = escape(item["id"])
    film = ""
    if item["id"] in films:
        used = f'<use href="#film-{films[item["id"]]}"/>'
        film = f'<svg viewBox="0 0 120 120" role="img" aria-label="Film {words}">{used}</svg>'
    rank = f"{numbers.show(*place, 'higher', form='count')} scored higher"
    return (
        f'<li>{film}<code title="{words}">{words}</code>p = {numbers.show(*place, "probability")}'
        f'<br><span class="soft">{rank}</span></li>'
    )
