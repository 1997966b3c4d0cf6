"""report.html: one file that needs no network, no JavaScript to be read, and no other file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from typing import Any

import yaml

from longview.reporting.labels import explorer
from longview.reporting.numbers import Numbers
from longview.reporting.sections import counts, groups, headline, hierarchy, label_table, subgroups, uncertainty

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
"""Content security policy: even a mistake here could load nothing from anywhere."""

_SHORT_HASH = 12


def page(report: Mapping[str, Any], films: Mapping[str, str]) -> str:
    """The page of an evaluation.

    Args:
        report: The content of metrics.json, null for what is not defined; every figure of the page is from there.
        films: Id of an image or study -> its thumbnail as `data:` address.
    """
    numbers = Numbers(report)
    order = _order(report)
    places = {name: number for number, name in enumerate(order)}
    title = f"Evaluation of {_subject(report)}"
    parts = [
        f'<header><h1>{escape(title)}</h1><p class="lead">{counts(numbers)}.</p>{_contents(report)}</header>',
        f'<main id="main"><section id="headline" aria-label="Headline figures">{headline(numbers)}</section>',
        f'<section id="groups"><h2>Head, medium, tail</h2>{groups(numbers)}</section>',
        f'<section id="table"><h2>Labels</h2>{label_table(numbers, places)}</section>',
        explorer(numbers, order, {name: number for number, name in enumerate(films)}),
        uncertainty(numbers, order),
        subgroups(numbers),
        hierarchy(numbers),
        _configuration(numbers),
        "</main>",
        _footer(report, bool(films)),
        _films(films),
    ]
    style, script = (files("longview.reporting").joinpath(name).read_text(encoding="utf-8") for name in _INLINE)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">'
        f"<title>{escape(title)}</title>\n<style>\n{style}</style></head>\n<body>"
        f'<a class="skip" href="#main">To the figures</a>\n{chr(10).join(part for part in parts if part)}\n'
        f"<script>\n{script}</script></body></html>\n"
    )


_INLINE = ("page.css", "page.js")


def _order(report: Mapping[str, Any]) -> Sequence[str]:
    """Labels that have curves, most frequent first."""
    drawn = report["curves"]["roc"]["labels"]
    rows = [row for row in report["per_label"] if row["label"] in drawn]
    return [row["label"] for row in sorted(rows, key=lambda row: -row["positives"])]


def _subject(report: Mapping[str, Any]) -> str:
    """What was evaluated: the model where it is known, else the file of predictions."""
    if report["model"]:
        return str(report["model"]["name"])
    return str(report["files"]["predictions"]["path"]).rpartition("/")[2]


def _contents(report: Mapping[str, Any]) -> str:
    items = [("groups", "Head, medium, tail"), ("table", "Labels"), ("labels", "Curves and worst errors")]
    items += [("uncertainty", "Uncertainty")] * bool(report.get("risk"))
    items += [("subgroups", "Subgroups")] * bool(report["subgroups"])
    items += [("hierarchy", "Hierarchy")] * bool(report["hierarchy"])
    items.append(("configuration", "Configuration"))
    links = "".join(f'<a href="#{place}">{title}</a>' for place, title in items)
    return f'<nav aria-label="Parts of this page">{links}</nav>'


def _facts(items: Sequence[tuple[str, str]]) -> str:
    return f'<dl class="facts">{"".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in items)}</dl>'


def _configuration(numbers: Numbers) -> str:
    """Files, options and, where it is known, the model with its data and its whole configuration."""
    report = numbers.report
    items = [(role, _file(entry)) for role, entry in report["files"].items()]
    if report["made_with"] and not report["model"]:
        items.append(("made with", _file({"path": report["made_with"]["checkpoint"], **report["made_with"]})))
    for name, shares in report["data"].items():
        shown = ", ".join(f"{escape(key)} {numbers.show('data', name, key, form='count')}" for key in shares)
        items.append((name, shown))
    options = " ".join(f"--{name} {value}" for name, value in report["options"].items() if value not in (None, ""))
    items.append(("options", f"<code>{escape(options)}</code>"))
    versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    items.append(("versions", f"<code>{escape(versions)}</code>"))
    return f'<section id="configuration"><h2>Configuration</h2>{_facts(items)}{_model(numbers)}</section>'


def _file(entry: Mapping[str, Any]) -> str:
    hashed = (
        f' <span class="soft">SHA-256 <code>{entry["sha256"][:_SHORT_HASH]}</code></span>' if entry["sha256"] else ""
    )
    return f"<code>{escape(str(entry['path']))}</code>{hashed}"


def _model(numbers: Numbers) -> str:
    model = numbers.at("model")
    if not model:
        made = numbers.at("made_with") or {}
        option = f"--checkpoint {made.get('checkpoint') or 'FILE'}"
        return (
            f'<p class="lead">Give <code>{escape(option)}</code> to <code>evaluate</code> for the model\'s '
            "configuration here and a model card.</p>"
        )
    epochs = numbers.show("model", "epochs", form="count")
    items = [
        ("checkpoint", _file({"path": model["checkpoint"], "sha256": model["sha256"]})),
        ("network", f"<code>{escape(model['network'])}</code>"),
        ("parameters", numbers.show("model", "parameters", form="count")),
        ("image size", f"{numbers.show('model', 'image_size', form='plain')} px"),
        ("trained for", f"{epochs} epochs, {numbers.show('model', 'steps', form='count')} steps"),
        ("command", f"<code>{escape(model['command'])}</code>"),
    ]
    for index, store in enumerate(model["data"]):
        shown = [f"<code>{escape(store['path'])}</code>"]
        for split in store["splits"]:
            place = ("model", "data", index, "splits", split)
            shown.append(
                f"{escape(split)} {numbers.show(*place, 'images', form='count')} images of "
                f"{numbers.show(*place, 'patients', form='count')} patients"
            )
        items.append(("data", ", ".join(shown) if store["splits"] else f"{shown[0]}, not on this machine"))
    config = escape(yaml.safe_dump(model["config"], sort_keys=False, allow_unicode=True, width=110))
    return (
        f"<h3>Model {escape(model['name'])}</h3>{_facts(items)}"
        f"<details><summary>Its whole configuration</summary><pre><code>{config}</code></pre></details>"
    )


def _footer(report: Mapping[str, Any], films: bool) -> str:
    words = [
        f"Written by longview {escape(report['longview'])} from its own <code>metrics.json</code>, which holds every "
        "figure of this page in full precision. For research only; not a medical device."
    ]
    if films:
        words.append("This file holds films: before you pass it on, see what their data set's licence allows.")
    return f"<footer>{''.join(f'<p>{word}</p>' for word in words)}</footer>"


def _films(films: Mapping[str, str]) -> str:
    """Each film once, however many labels show it."""
    if not films:
        return ""
    images = "".join(
        f'<image id="film-{number}" width="120" height="120" href="{address}"/>'
        for number, address in enumerate(films.values())
    )
    return f'<svg class="defs" aria-hidden="true"><defs>{images}</defs></svg>'
