"""Every figure of the page is in metrics.json, and the page needs nothing but itself."""

import json
import re
from functools import reduce
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest

from longview.evaluate import evaluate
from longview.reporting.drawn import POINTS
from longview.reporting.page import page

QUIET = {"style", "script", "code", "svg", "caption", "h3", "th", "option"}
"""Elements whose text holds names, settings and axes; figures in them are `data` elements all the same."""


class Reader(HTMLParser):
    """Figures of a page, its links, and its text outside figures."""

    def __init__(self, text):
        super().__init__()
        self.open, self.figures, self.links, self.rest, self.notes = [], [], [], [], {}
        self.note = ""
        self.feed(text)

    def handle_startendtag(self, tag, attributes):
        self.collect(attributes)

    def handle_starttag(self, tag, attributes):
        self.collect(attributes)
        if tag == "data":
            given = dict(attributes)
            self.figures.append((given["data-at"], float(given["value"]), ""))
        elif tag == "p":
            self.note = dict(attributes).get("data-at", "")
        if tag not in {"meta", "link", "br"}:
            self.open.append(tag)

    def collect(self, attributes):
        self.links += [value for name, value in attributes if name in {"src", "href", "action", "data", "poster"}]

    def handle_endtag(self, tag):
        while self.open and self.open.pop() != tag:
            pass

    def handle_data(self, text):
        if self.open and self.open[-1] == "data":
            where, value, before = self.figures[-1]
            self.figures[-1] = (where, value, before + text)
        elif self.note and self.open[-1] == "p":
            self.notes[self.note] = self.notes.get(self.note, "") + text
        elif not QUIET & set(self.open):
            self.rest.append(text)


def resolve(report, pointer):
    keys = [key.replace("~1", "/").replace("~0", "~") for key in pointer.split("/")[1:]]
    return reduce(lambda found, key: found[int(key)] if isinstance(found, list) else found[key], keys, report)


def test_every_figure_of_the_page_is_in_metrics_json(evaluated):
    figures = Reader(evaluated.page).figures
    assert len(figures) > 300
    for where, value, text in figures:
        exact = resolve(evaluated.metrics, where)
        assert value == pytest.approx(exact, rel=1e-5), where
        shown = text.replace(",", "").removesuffix(" %")
        scale = 100 if text.endswith("%") else 1
        digits = len(shown.partition(".")[2])
        assert abs(float(shown) - scale * exact) <= 0.5001 * 10**-digits, where


def test_notes_are_those_of_metrics_json_and_tell_of_few_patients_and_of_calibration(evaluated):
    notes = Reader(evaluated.page).notes
    assert list(notes.values()) == [resolve(evaluated.metrics, where) for where in notes] == evaluated.metrics["notes"]
    given = evaluated.metrics["files"]["calibration"]
    assert f"after calibration by {given['path']} (SHA-256 {given['sha256'][:12]}…)" in notes["/notes/0"]
    assert "by rule f1" in notes["/notes/0"] and notes["/notes/0"] in evaluated.card
    assert evaluated.page.index("/notes/0") < evaluated.page.index('id="groups"')


def test_no_figure_stands_in_the_page_as_mere_text(evaluated):
    text = " ".join(Reader(evaluated.page).rest).replace(f"longview {evaluated.metrics['longview']}", "")
    assert re.findall(r"\d*\.\d+", text) == []
    assert set(re.findall(r"\d+", text)) <= {"10", "1", "256"}  # percentages that part head from tail, SHA-256


def test_the_figures_that_a_paper_needs_are_all_there(evaluated):
    shown = {where for where, _, _ in Reader(evaluated.page).figures}
    for figure in ("map", "auroc", "ap_micro", "auroc_micro", "ap_weighted", "auroc_weighted", "f1", "f1_tuned", "mcc",
                   "ppv", "npv", "brier", "ece", "sensitivity_at_specificity_0.80", "sensitivity_at_specificity_0.90",
                   "sensitivity_at_specificity_0.95", "specificity_at_sensitivity_0.80",
                   "specificity_at_sensitivity_0.90", "specificity_at_sensitivity_0.95"):  # fmt: skip
        assert f"/overall/{figure}/value" in shown
    assert {"/confusion/fixed/Effusion/tp", "/confusion/tuned/Effusion/tn", "/label_figures/Effusion/ece/low"} <= shown
    assert {"/label_figures/Nodule~1Mass/ap/high", "/subgroups/0/rows", "/groups/lung/figures/map/value"} <= shown
    assert "/preset/figures/mAP/value" in shown


def test_the_page_asks_for_nothing_from_elsewhere(evaluated):
    links = Reader(evaluated.page).links
    assert links and all(link.startswith(("#", "data:")) for link in links)
    assert "url(" not in evaluated.page and "@import" not in evaluated.page
    assert "default-src 'none'" in evaluated.page
    inside = {link[1:] for link in links if link.startswith("#")}
    assert inside <= set(re.findall(r'id="([^"]+)"', evaluated.page)) | {""}


def test_names_are_text_and_never_markup(evaluated):
    assert 'A <b>&"' not in evaluated.page
    assert "A &lt;b&gt;&amp;&quot;~&#x27; label" in evaluated.page
    report = json.loads(json.dumps(evaluated.metrics))
    report["options"]["by"] = "</code><script>alert(1)</script>"
    assert "<script>alert" not in page(report, {})


def test_each_film_is_in_the_page_once_and_no_more_than_the_errors_need(evaluated):
    films = re.findall(r'<image id="film-(\d+)"', evaluated.page)
    ids = {item["id"] for label in evaluated.metrics["worst"].values()
           for kind in ("false_positives", "false_negatives") for item in label[kind]}  # fmt: skip
    assert len(films) == len(set(films)) == len(ids)
    assert len(re.findall('href="#film-', evaluated.page)) > len(films)
    assert "licence" in evaluated.page


def test_a_label_without_positives_has_no_curve_and_is_named(evaluated):
    assert evaluated.metrics["skipped"] == ["Never"]
    assert "Left out of every mean" in evaluated.page and evaluated.page.count('<details class="card') == 4


def test_films_can_be_left_out(evaluated, tmp_path):
    evaluate(evaluated.predictions, evaluated.store, tmp_path / "out", bootstrap=0, thumbnails=False)
    text = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "<image" not in text and "licence" not in text and "no interval" in text
    assert not (tmp_path / "out" / "MODEL_CARD.md").exists()


def test_one_label_of_a_plain_table_makes_a_page(tmp_path):
    rng = np.random.default_rng(0)
    ids = pd.DataFrame({"image_id": [f"i{row}" for row in range(40)]})
    ids.assign(Mass=rng.random(40)).to_csv(tmp_path / "p.csv", index=False)
    ids.assign(Mass=np.arange(40) % 2).to_csv(tmp_path / "t.csv", index=False)
    evaluate(tmp_path / "p.csv", tmp_path / "t.csv", tmp_path / "out", bootstrap=20)
    text = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "No groups" in text and "Patients are not known" in text and 'class="card' in text


def test_many_labels_with_films_stay_below_two_megabytes(evaluated):
    report = json.loads(json.dumps(evaluated.metrics))
    rng = np.random.default_rng(0)
    (row,) = (row for row in report["per_label"] if row["label"] == "Effusion")
    steps, risk = (np.sort(rng.random((2, count)), axis=1).round(5).tolist() for count in (POINTS, 200))
    report["per_label"] = [{**row, "label": f"Calcification of something {number}"} for number in range(45)]
    for number in range(45):
        name = f"Calcification of something {number}"
        for part in (report["label_figures"], report["worst"], report["reliability"], *report["confusion"].values()):
            part[name] = part["Effusion"]
        for curves in (report["risk"]["curves"], report["risk"]["best_curves"]):
            curves[name] = dict(zip(("coverage", "risk"), risk, strict=True))
        report["risk"]["per_label"].append({**report["risk"]["per_label"][0], "label": name})
        for curves in report["curves"].values():
            curves["labels"][name] = {"x": steps[0], "y": steps[1]}
    films = {f"film {number}": "data:image/jpeg;base64," + "A" * 3000 for number in range(45 * 6)}  # as 88 px take
    assert len(page(report, films).encode()) < 1_950_000  # room below the 2 MB
