"""MODEL_CARD.md: what a model is, what it was trained on and how good it is, in the form of Hugging Face's model cards.

Source: Mitchell et al., Model cards for model reporting (arXiv 1810.03993); the front matter is that of Hugging
Face's hub (`model-index`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from longview.reporting.model import data_sheet
from longview.reporting.notes import calibration_note
from longview.reporting.numbers import DASH, written
from longview.reporting.sections import title_of
from longview.truth import PLURAL

_OVERALL = ("map", "auroc", "ap_micro", "auroc_micro", "f1", "f1_tuned", "mcc", "sensitivity_at_specificity_0.90",
            "ece", "brier")  # fmt: skip
_TYPES = {"map": "mean_average_precision", "auroc": "roc_auc", "f1": "f1", "ece": "expected_calibration_error"}
_FEW = 30  # positives below which a label's figures are named as uncertain
_PHANTOM = "phantom"
_SHEET = {"Size": "Size of the whole data set", "Labels": "Labels", "Licence": "Licence", "Cite": "Cite"}


def model_card(report: Mapping[str, Any]) -> str:
    """The card of the model that an evaluation is of.

    Args:
        report: The content of metrics.json, with `model`.
    """
    model = report["model"]
    sources = _all_sources(report)
    parts = [
        f"---\n{yaml.safe_dump(_front(report, sources), sort_keys=False, allow_unicode=True)}---\n",
        f"# {model['name']}\n",
        f"Multi-label classification of chest X-rays, {len(model['labels'])} labels, trained with longview "
        f"{model['longview']}.\n\n**Not a medical device.** For research only: nothing here may be used to diagnose or "
        "treat anyone.\n",
        _details(model),
        _uses(),
        _limits(report),
        _training(model, sources),
        _evaluation(report),
        _reproduction(model, report),
    ]
    return "\n".join(parts)


def _sources(report: Mapping[str, Any]) -> list[str]:
    """Data sets that the evaluated rows are from."""
    found = list(report["data"].get("source", {}))
    return [_drawn(source) for source in found] if report["phantom"] else found


def _all_sources(report: Mapping[str, Any]) -> list[str]:
    """Data sets that were trained or evaluated on, drawn ones apart from those whose layout they have."""
    trained = {
        _drawn(source) if store["phantom"] else source
        for store in report["model"]["data"]
        for source in store["sources"]
    }
    return sorted(trained | set(_sources(report)))


def _drawn(source: str) -> str:
    return source if source == _PHANTOM else f"{_PHANTOM} ({source})"


def _front(report: Mapping[str, Any], sources: list[str]) -> dict[str, Any]:
    """Front matter; the licence of weights is for their owner to choose, within those of the data."""
    model = report["model"]
    metrics = [
        {"type": kind, "name": _name(figure), "value": round(report["overall"][figure]["value"], 4)}
        for figure, kind in _TYPES.items()
        if report["overall"][figure]["value"] is not None
    ]
    evaluated = ", ".join(_sources(report)) or str(report["files"]["truth"]["path"])
    data = {"name": evaluated, "type": evaluated}
    return {
        "library_name": "longview",
        "pipeline_tag": "image-classification",
        "license": "other",
        "license_name": "to-be-chosen-by-the-owner-of-the-weights",
        "tags": ["chest-x-ray", "radiology", "multi-label", "long-tailed", "pytorch-lightning", *_tags(sources)],
        "metrics": list(_TYPES.values()),
        "model-index": [
            {
                "name": model["name"],
                "results": [
                    {
                        "task": {"type": "image-classification", "name": "multi-label chest X-ray classification"},
                        "dataset": data | ({"split": "+".join(report["splits"])} if report["splits"] else {}),
                        "metrics": metrics,
                    }
                ],
            }
        ],
    }


def _tags(sources: list[str]) -> list[str]:
    return sorted({source.partition(" ")[0] for source in sources})


def _name(figure: str) -> str:
    return {"map": "Mean average precision (mAP)", "auroc": "Mean AUROC"}.get(figure, title_of(figure))


def _details(model: Mapping[str, Any]) -> str:
    steps = f"{model['epochs']:,} epochs, {model['steps']:,} optimizer steps"
    preprocessing = ", ".join(f"{key} {value}" for key, value in (model["preprocessing"] or {}).items()) or "not told"
    rows = [
        ("network", model["network"]),
        ("parameters", f"{model['parameters']:,}"),
        ("input", f"one grey channel, {model['image_size']} x {model['image_size']} px"),
        ("preprocessing", f"{preprocessing}; values as longview's `prepare` and its loader make them"),
        ("output", "one probability per label (sigmoid)"),
        ("trained for", steps),
        ("checkpoint", f"`{model['checkpoint']}`"),
        ("SHA-256", f"`{model['sha256']}`"),
    ]
    labels = ", ".join(model["labels"])
    return f"## Model details\n\n{_table(('', ''), rows)}\n**Labels**, in the order of the output: {labels}.\n"


def _uses() -> str:
    return (
        "## Intended use\n\nResearch on chest X-rays: comparing methods, pre-labelling, teaching. Whoever uses it "
        "validates it on data of their own first.\n\n**Out of scope**: diagnosis, triage or any use on patients; films "
        "of other body regions, of children or of devices that the training data do not hold; labels beyond those "
        "listed; probabilities taken for risks without calibration.\n"
    )


def _limits(report: Mapping[str, Any]) -> str:
    """What the evaluation itself says against trusting the model."""
    rows = f"{report['rows']:,} {PLURAL[report['level']]} of {report['clusters']:,} {PLURAL[report['unit']]}"
    items = [f"Evaluated on {rows}: figures hold for patients and devices like those."]
    few = [row["label"] for row in report["per_label"] if 0 < row["positives"] < _FEW and row["auroc"] is not None]
    if few:
        items.append(f"Fewer than {_FEW} positives, so little is known of: {', '.join(few)}.")
    if report["skipped"]:
        items.append(f"Not evaluated at all, for lack of positives or negatives: {', '.join(report['skipped'])}.")
    lowest = {name: found["auroc"]["low"] for name, found in report["label_figures"].items()}
    weak = [name for name, low in lowest.items() if low is not None and low <= 0.5]
    if weak:
        items.append(f"Not shown to be better than chance (interval of AUROC holds 0.5): {', '.join(weak)}.")
    items += [note for note in report.get("notes", []) if "intervals are" in note]
    items += _gaps(report)
    ece = report["overall"]["ece"]["value"]
    if ece is not None:
        items.append(f"Probabilities are off by {written(ece)} on average (ECE); see reliability.png.")
    items.append("Labels of most public data sets are mined from reports, not read from films, and are partly wrong.")
    return "## Limits\n\n" + "".join(f"* {item}\n" for item in items)


def _gaps(report: Mapping[str, Any]) -> list[str]:
    """Per column of subgroups, the lowest and highest mean AUROC over the labels that all can score."""
    columns: dict[str, list[tuple[float, str]]] = {}
    for part in report["subgroups"]:
        value = part["common"]["figures"]["auroc"]["value"]
        if value is not None:
            columns.setdefault(part["column"], []).append((value, part["value"]))
    return [
        f"Mean AUROC by {column}: from {written(min(found)[0])} ({min(found)[1]}) to {written(max(found)[0])} "
        f"({max(found)[1]})."
        for column, found in columns.items()
        if len(found) > 1
    ]


def _training(model: Mapping[str, Any], sources: list[str]) -> str:
    rows = []
    for store in model["data"]:
        if not store["splits"]:
            rows.append((f"`{store['path']}`", "not on the machine that wrote this", "", "", ""))
        for split, counts in store["splits"].items():
            rows.append(
                (f"`{store['path']}`", split, *(f"{counts[key]:,}" for key in ("images", "studies", "patients")))
            )
    table = _table(("store", "split", "images", "studies", "patients"), rows) if rows else "Not told.\n"
    hashes = "".join(
        f"* `{store['path']}`: content hash `{store['content_hash']}`, {store['size']} px, resize {store['resize']}\n"
        for store in model["data"]
        if store["splits"]
    )
    return f"## Training data\n\n{table}\n{hashes}\n{_sheets(sources)}"


def _sheets(sources: list[str]) -> str:
    """What is known of each data set, its licence among it."""
    parts = []
    for source in sources:
        drawn = source.startswith(_PHANTOM)
        sheet = data_sheet(_PHANTOM if drawn else source)
        lines = "".join(f"* **{words}**: {sheet[key]}\n" for key, words in _SHEET.items() if key in sheet)
        if "Licence" not in sheet and not drawn:
            lines += "* **Licence**: not told by the source; ask the data's owner.\n"
        parts.append(f"### {source}\n\n{sheet.get('about', 'A source that longview has no data sheet of.')}\n\n{lines}")
    return "\n".join(parts)


def _evaluation(report: Mapping[str, Any]) -> str:
    splits = f", split {' and '.join(report['splits'])}" if report["splits"] else ""
    boot = report["bootstrap"]
    how = (
        f"; {100 * boot['level']:.0f} % intervals (BCa) from {boot['resamples']:,} resamples of whole "
        f"{PLURAL[boot['unit']]}"
        if boot
        else ""
    )
    overall = [(_name(key), _cell(report["overall"][key])) for key in _OVERALL if key in report["overall"]]
    overall += [
        (f"mAP of {name} ({group['count']} labels)", _cell(group["figures"]["map"]))
        for name, group in report["groups"].items()
    ]
    labels = [
        (
            row["label"],
            f"{row['positives']:,}",
            *(_cell(report["label_figures"][row["label"]][figure]) for figure in ("auroc", "ap")),
            _number(row["f1"]),
            _number(row["ece"]),
        )
        for row in sorted(report["per_label"], key=lambda row: -row["positives"])
    ]
    head = ("label", "positives", "AUROC", "AP", f"F1 at {report['options']['threshold']:g}", "ECE")
    calibrated = report.get("calibrated")
    note = f"**{calibration_note(calibrated)}**\n\n" if calibrated else ""
    return (
        f"## Evaluation\n\nOn `{report['files']['truth']['path']}`{splits}: {report['rows']:,} "
        f"{PLURAL[report['level']]}{how}. All figures: metrics.json and report.html beside this file.\n\n{note}"
        f"{_table(('over all labels', ''), overall)}\n{_table(head, labels)}"
    )


def _number(value: float | None) -> str:
    return DASH if value is None else written(value)


def _cell(entry: Mapping[str, float | None]) -> str:
    value, low, high = entry["value"], entry["low"], entry["high"]
    if low is None or high is None:
        return _number(value)
    return f"{_number(value)} ({written(low)}{DASH}{written(high)})"


def _reproduction(model: Mapping[str, Any], report: Mapping[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in report["versions"].items())
    config = yaml.safe_dump(model["config"], sort_keys=False, allow_unicode=True, width=110)
    return (
        f"## Training and versions\n\n```bash\n{model['command']}\n```\n\nTrained with longview "
        f"{model['longview']} and Lightning {model['lightning']}; evaluated with {versions}. Predictions: "
        f"`{report['files']['predictions']['path']}` (SHA-256 `{report['files']['predictions']['sha256']}`).\n\n"
        f"<details><summary>The whole configuration (fit.yaml)</summary>\n\n```yaml\n{config}```\n\n</details>\n"
    )


def _table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    def line(cells: tuple[str, ...]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n"

    return line(head) + line(tuple("---" for _ in head)) + "".join(line(row) for row in rows)
