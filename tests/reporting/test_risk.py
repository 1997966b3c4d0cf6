"""`evaluate --uncertainty`: the table belongs to what is scored, and its figures are those of the scored rows."""

import json
import logging

import numpy as np
import pandas as pd
import pytest

from longview import InputError
from longview.data.store import Store
from longview.evaluate import evaluate
from longview.predictions import MODEL, read_predictions
from longview.reporting.page import page
from longview.uncertainty.risk import risk_coverage
from longview.uncertainty.summary import companion, read_uncertainty, wide_table


@pytest.fixture(autouse=True)
def undrawn(monkeypatch):
    """Plots as empty files: half a second less per evaluation."""
    monkeypatch.setattr("longview.score_report.plot_curves", lambda *_, file, **__: file.touch())
    monkeypatch.setattr("longview.score_report.plot_bars", lambda *_: _[-1].touch())
    monkeypatch.setattr("longview.reporting.write.plot_diagrams", lambda *_, file, **__: file.touch())


def scored(evaluated, folder, predictions=None, **options):
    evaluate(
        predictions or evaluated.predictions, evaluated.store, folder, **{"bootstrap": 0, "thumbnails": False} | options
    )
    return json.loads((folder / "metrics.json").read_text())


def test_rows_are_joined_by_id_and_labels_by_name(evaluated, tmp_path):
    predictions = read_predictions(evaluated.predictions)
    truth = Store(evaluated.store).manifest.table.set_index("image_id").loc[predictions["image_id"], evaluated.names]
    file = companion(evaluated.predictions)  # its rows stand in another order
    for measure in ("variance", "mutual_information"):
        found = scored(evaluated, tmp_path / measure, uncertainty=file, measure=measure)["risk"]
        wide = wide_table(read_uncertainty(file), measure).set_index("image_id").loc[predictions["image_id"]]
        for row in found["per_label"]:
            name = row["label"]
            errors = (predictions[name].to_numpy(float) - truth[name].to_numpy(float)) ** 2
            wanted = risk_coverage(errors, wide[name].to_numpy())
            assert row["aurc"] == pytest.approx(wanted.aurc) and row["rows"] == len(predictions)
            assert row["interval"]["value"] == pytest.approx(wanted.aurc) and row["interval"]["low"] is None
        assert (found["measure"], found["method"]["samples"]) == (measure, 4)
        assert [row["label"] for row in found["per_label"]] == evaluated.names[:-1]  # one has no positives
    assert (tmp_path / "variance" / "risk.png").stat().st_size > 10_000


def test_the_risk_of_all_rows_is_the_brier_score_and_the_interval_is_one_of_patients(evaluated):
    risk, figures = evaluated.metrics["risk"], evaluated.metrics["label_figures"]
    for row in risk["per_label"]:
        assert row["aurc_random"] == pytest.approx(figures[row["label"]]["brier"]["value"])
        assert row["interval"]["percentile_low"] < row["aurc"] < row["interval"]["percentile_high"]
        assert row["aurc_best"] <= row["aurc"]
    macro = risk["macro"]
    assert macro["interval"]["value"] == pytest.approx(macro["aurc"])
    assert macro["interval"]["error"] < max(row["interval"]["error"] for row in risk["per_label"])
    assert evaluated.metrics["files"]["uncertainty"]["path"].endswith("test.uncertainty.parquet")
    assert evaluated.metrics["options"]["measure"] == "predictive_entropy"


def test_unknown_truth_counts_in_no_curve(evaluated, tmp_path):
    truth = Store(evaluated.store).manifest.table.query("split == 'test'").copy()
    truth.loc[truth.index[:5], "Hernia"] = np.nan
    truth.to_csv(tmp_path / "t.csv", index=False)
    evaluate(evaluated.predictions, tmp_path / "t.csv", tmp_path / "out", bootstrap=0,
             uncertainty=companion(evaluated.predictions))  # fmt: skip
    rows = json.loads((tmp_path / "out" / "metrics.json").read_text())["risk"]["per_label"]
    assert {row["label"]: row["rows"] for row in rows}["Hernia"] == len(truth) - 5
    assert {row["label"]: row["rows"] for row in rows}["Effusion"] == len(truth)


def test_the_page_tells_curves_baselines_and_areas(evaluated):
    assert '<section id="uncertainty">' in evaluated.page and 'href="#uncertainty"' in evaluated.page
    section = evaluated.page.partition('<section id="uncertainty">')[2].partition("</section>")[0]
    assert section.count('class="curve') == section.count("best one-label") == 4
    for words in ("best whole", 'class="chance"', 'class="mean"', "Monte-Carlo dropout",
                  "/risk/macro/gain", "/risk/per_label/1/excess_aurc", "/risk/per_label/1/interval/high",
                  "/risk/method/samples"):  # fmt: skip
        assert words in section, words
    report = json.loads(json.dumps(evaluated.metrics))
    report["risk"]["method"] = {"method": "ensemble", "members": 3}
    assert '(ensemble, <data value="3" data-at="/risk/method/members">3</data> members)' in page(report, {})
    report["risk"] = None
    assert "<h2>Uncertainty" not in page(report, {})


def test_without_the_option_an_earlier_chart_goes(evaluated, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "risk.png").touch()
    assert scored(evaluated, out)["risk"] is None
    assert not (out / "risk.png").exists()


def test_the_table_of_another_model_is_refused_and_an_unknown_one_named(evaluated, tmp_path, caplog):
    table = pd.read_parquet(evaluated.predictions)
    table.attrs = {MODEL: "ab" * 32, "checkpoint": "other.ckpt"}
    evaluated.doubt(table, tmp_path / "u.parquet")
    with pytest.raises(
        InputError, match=r"u\.parquet is of other\.ckpt \(sha256 abababababab…\), but .*test\.parquet of"
    ):
        scored(evaluated, tmp_path / "out", uncertainty=tmp_path / "u.parquet")
    assert not (tmp_path / "out").exists()
    table.attrs = {}
    evaluated.doubt(table, tmp_path / "u.parquet")
    with caplog.at_level(logging.WARNING):
        scored(evaluated, tmp_path / "out", uncertainty=tmp_path / "u.parquet")
    assert "u.parquet does not say which model it is of" in caplog.text


def test_what_does_not_fit_is_one_clear_line(evaluated, tmp_path):
    table = pd.read_parquet(evaluated.predictions)
    evaluated.doubt(table.iloc[2:], tmp_path / "short.parquet")
    with pytest.raises(InputError, match=rf"short.parquet lacks 2 image_ids of .*: {table['image_id'].iloc[0]}, "):
        scored(evaluated, tmp_path / "out", uncertainty=tmp_path / "short.parquet")
    long = pd.read_parquet(companion(evaluated.predictions))
    long[long["label"] != "Hernia"].to_parquet(tmp_path / "less.parquet")
    with pytest.raises(InputError, match=r"less.parquet has no label Hernia of"):
        scored(evaluated, tmp_path / "out", uncertainty=tmp_path / "less.parquet")
    studies = long.drop(columns="image_id").drop_duplicates(["study_id", "label"])
    studies.to_parquet(tmp_path / "studies.parquet")
    with pytest.raises(InputError, match=r"is per study, but .* per image"):
        scored(evaluated, tmp_path / "out", uncertainty=tmp_path / "studies.parquet")
    with pytest.raises(InputError, match=r"--uncertainty gone.parquet does not exist"):
        scored(evaluated, tmp_path / "out", uncertainty=tmp_path.joinpath("gone.parquet").relative_to(tmp_path))
    with pytest.raises(InputError, match="is no table of uncertainty"):
        scored(evaluated, tmp_path / "out", uncertainty=evaluated.predictions)
    assert not (tmp_path / "out").exists()
