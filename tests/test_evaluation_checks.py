"""What would be taken for something else is refused, or named, before anything is scored."""

import json

import numpy as np
import pandas as pd
import pytest

from longview import InputError
from longview.compare import compare
from longview.cross_validation.folds import make_plan
from longview.evaluate import evaluate
from longview.outputs import sha256
from longview.predictions import MODEL

LABELS = ["Mass", "Nodule"]


def tables(folder, labels=LABELS, patients=40, seed=0):
    """Truth `t.csv` and predictions `p.csv`."""
    rng = np.random.default_rng(seed)
    ids = {"patient_id": [f"p{i:03}" for i in range(patients)], "image_id": [f"i{i:03}" for i in range(patients)]}
    truth = pd.DataFrame({**ids, **{name: (np.arange(patients) + place) % 2 for place, name in enumerate(labels)}})
    scores = pd.DataFrame({**ids, **{name: rng.uniform(0.01, 0.99, patients) for name in labels}})
    truth.to_csv(folder / "t.csv", index=False)
    scores.to_csv(folder / "p.csv", index=False)
    return truth, scores


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Evaluate the folder's tables, and return metrics.json."""
    monkeypatch.setattr("longview.score_report.plot_curves", lambda *_, file, **__: file.touch())
    monkeypatch.setattr("longview.score_report.plot_bars", lambda *_: _[-1].touch())
    monkeypatch.setattr("longview.reporting.write.plot_diagrams", lambda *_, file, **__: file.touch())

    def run(**options):
        evaluate(tmp_path / "p.csv", tmp_path / "t.csv", tmp_path / "out", **{"bootstrap": 20, **options})
        return json.loads((tmp_path / "out" / "metrics.json").read_text())

    return run


@pytest.mark.parametrize(
    ("options", "message"),
    [({"seed": -1}, "--seed -1"), ({"rule": "youden"}, "--rule youden .* give --calibration"),
     ({"by": ",,"}, "--by ',,' names no column")],
)  # fmt: skip
def test_options_that_cannot_be_are_refused_by_name(run, tmp_path, options, message):
    tables(tmp_path)
    with pytest.raises(InputError, match=message):
        run(**options)
    assert not (tmp_path / "out").exists()


def test_compare_and_folds_refuse_a_negative_seed(tmp_path):
    with pytest.raises(InputError, match="--seed -1"):
        compare([tmp_path / "a.csv", tmp_path / "b.csv"], tmp_path / "t.csv", tmp_path / "out", seed=-1)
    with pytest.raises(InputError, match="--seed -2"):
        make_plan(tmp_path, [], 5, 0.1, -2)


def test_a_folder_of_predictions_is_called_one(tmp_path):
    tables(tmp_path)
    with pytest.raises(InputError, match=r"--predictions .* is a folder; give the table in it"):
        evaluate(tmp_path, tmp_path / "t.csv", tmp_path / "out")


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_label_with_the_name_of_metadata_is_named(tmp_path, run, caplog, suffix):
    _, scores = tables(tmp_path, ["Mass", "view"])
    if suffix == "parquet":
        scores.to_parquet(tmp_path / "p.parquet")
        evaluate(tmp_path / "p.parquet", tmp_path / "t.csv", tmp_path / "out", bootstrap=0)
    else:
        run()
    assert "not scored, since tables call their metadata so: 'view'" in caplog.text
    (tmp_path / "set.yaml").write_text("name: set\nlabels: [{name: Mass}, {name: Source}]\n")
    tables(tmp_path)
    run(labels=tmp_path / "set.yaml")
    assert "so: 'Source'" in caplog.text


def test_metadata_itself_is_not_complained_of(tmp_path, run, caplog):
    _, scores = tables(tmp_path)
    scores.assign(view="PA", age=np.arange(40) + 0.5, rows=2048.0, meta_dose=0.3).to_csv(tmp_path / "p.csv")
    run()
    assert "not scored" not in caplog.text


def test_predictions_are_refused_as_training_labels(tmp_path, run):
    truth, scores = tables(tmp_path)
    with pytest.raises(InputError, match=r"--train .*p\.csv is a table of predictions \(every label is strictly"):
        run(train=tmp_path / "p.csv")
    binary = scores.assign(**dict.fromkeys(LABELS, 1.0))
    binary.attrs = {MODEL: "ab" * 32}
    binary.to_parquet(tmp_path / "p.parquet")
    with pytest.raises(InputError, match="its attributes name the model"):
        run(train=tmp_path / "p.parquet")
    for soft in (truth, truth.assign(Mass=0.5)):  # soft training labels are labels
        soft.to_csv(tmp_path / "train.csv", index=False)
        assert run(train=tmp_path / "train.csv")["groups"]


def test_any_column_of_the_truth_parts_the_rows(tmp_path, run):
    truth, _ = tables(tmp_path)
    truth.assign(hospital=np.where(np.arange(40) < 15, "[b]north", "south")).to_csv(tmp_path / "t.csv", index=False)
    report = run(by="hospital")
    assert {part["value"]: part["rows"] for part in report["subgroups"]} == {"south": 25, "[b]north": 15}


def test_one_tiny_band_leaves_the_means_of_the_others(tmp_path, run, capsys):
    truth, _ = tables(tmp_path)
    truth.assign(hospital=["tiny", *["north"] * 20, *["south"] * 19]).to_csv(tmp_path / "t.csv", index=False)
    report = run(by="hospital")
    parts = {part["value"]: part for part in report["subgroups"]}
    assert parts["tiny"]["labels"] == 0 and parts["tiny"]["auroc"] is None
    assert parts["north"]["labels"] == 2 and parts["north"]["figures"]["auroc"]["low"] is not None
    assert {part["common"]["count"] for part in report["subgroups"]} == {0}
    lines = [line for line in capsys.readouterr().out.splitlines() if "hospital north" in line]
    assert f"{parts['north']['auroc']:.3f} (" in lines[0]
    page = (tmp_path / "out" / "report.html").read_text()
    assert "/subgroups/0/figures/auroc/low" in page


def test_means_that_compare_stand_below_those_of_all_a_subgroup_can_score(tmp_path, run, capsys):
    truth, _ = tables(tmp_path)
    truth["hospital"] = ["north"] * 20 + ["south"] * 20
    truth.loc[20:, "Nodule"] = 0
    truth.to_csv(tmp_path / "t.csv", index=False)
    parts = {part["value"]: part for part in run(by="hospital")["subgroups"]}
    assert (parts["north"]["labels"], parts["north"]["common"]["labels"]) == (2, ["Mass"])
    lines = capsys.readouterr().out.splitlines()
    (place,) = (number for number, line in enumerate(lines) if "hospital north" in line)
    assert "in common" in lines[place + 1] and "in common" not in lines[place + 2]
    assert f"{parts['north']['common']['figures']['auroc']['value']:.3f} (" in lines[place + 1]
    assert max(map(len, lines[place - 3 : place + 4])) <= 80


def test_names_are_printed_as_they_are_and_are_no_markup(tmp_path, run, capsys):
    names = ["[/bold]", "Nodule [solid]", "[red]"]
    truth, scores = tables(tmp_path, names)
    truth.assign(view=np.where(np.arange(40) < 20, "[/bold] PA", "AP")).to_csv(tmp_path / "t.csv", index=False)
    run(by="view")
    text = capsys.readouterr().out
    assert all(words in text for words in [*names, "[/bold] PA"])
    scores.assign(**{name: scores[name] * 0.5 for name in names}).to_csv(tmp_path / "[x].csv", index=False)
    compare([tmp_path / "p.csv", tmp_path / "[x].csv"], tmp_path / "t.csv", tmp_path / "both", bootstrap=20)
    assert "[x]" in capsys.readouterr().out


def test_patients_that_some_rows_lack_are_counted(tmp_path, run, capsys):
    truth, scores = tables(tmp_path)
    truth.loc[3, "patient_id"] = ""
    truth.to_csv(tmp_path / "t.csv", index=False)
    scores.drop(columns="patient_id").to_csv(tmp_path / "p.csv", index=False)
    assert run()["bootstrap"]["unit"] == "image"
    assert "Patients are not known for 1 of 40 images: intervals are over images" in capsys.readouterr().out


def test_few_patients_and_few_positives_are_said_and_many_are_not(tmp_path, run, capsys):
    truth, _ = tables(tmp_path, patients=15)
    truth["Nodule"] = 1 * (np.arange(15) < 3)
    truth.to_csv(tmp_path / "t.csv", index=False)
    notes = run()["notes"]
    assert notes[0].startswith("Only 15 patients: intervals are too narrow")
    assert notes[1].startswith("2 of 2 labels have fewer than 10 patients with them")
    text = capsys.readouterr().out
    assert all(note in text for note in notes)
    assert run(bootstrap=0)["notes"] == []
    tables(tmp_path)
    assert run()["notes"] == []


def test_a_label_of_one_patient_has_no_interval_and_one_of_two_has(tmp_path, run, capsys):
    truth, scores = tables(tmp_path)
    for count, sure in ((1, False), (2, True)):
        truth["Nodule"] = 1 * (np.arange(40) < count)
        truth.to_csv(tmp_path / "t.csv", index=False)
        scores["Nodule"] = np.where(np.arange(40) < count, 0.9, 0.1)
        scores.to_csv(tmp_path / "p.csv", index=False)
        report = run()
        found = report["label_figures"]["Nodule"]
        assert (found["auroc"]["value"], found["auroc"]["low"] is not None) == (1, sure)
        assert report["label_figures"]["Mass"]["auroc"]["low"] is not None
        assert report["overall"]["map"]["low"] is not None
        assert ("1.000 (1.00-1.00)" in capsys.readouterr().out) == sure
    compare([tmp_path / "p.csv", tmp_path / "t.csv"], tmp_path / "t.csv", tmp_path / "both", bootstrap=20)


def test_one_patient_has_no_interval_at_all(tmp_path, run):
    truth, scores = tables(tmp_path)
    truth.assign(patient_id="one").to_csv(tmp_path / "t.csv", index=False)
    report = run()
    assert report["bootstrap"]["clusters"] == 1
    assert {entry["low"] for entry in report["overall"].values()} == {None}
    assert {entry["low"] for found in report["label_figures"].values() for entry in found.values()} == {None}
    other = scores.assign(Mass=1 - scores["Mass"])
    other.to_csv(tmp_path / "q.csv", index=False)
    compare([tmp_path / "p.csv", tmp_path / "q.csv"], tmp_path / "t.csv", tmp_path / "both", bootstrap=20)
    rows = json.loads((tmp_path / "both" / "compare.json").read_text())["differences"]
    assert {(row["low"], row["p"], row["p_holm"]) for row in rows} == {(None, None, None)}


def test_masked_cells_are_counted(tmp_path, run, capsys):
    truth, _ = tables(tmp_path)
    truth = truth.astype({"Mass": float})
    truth.loc[:2, "Mass"], truth.loc[3, "Mass"] = np.nan, 0.5
    truth.to_csv(tmp_path / "t.csv", index=False)
    (note,) = run()["notes"]
    assert note.startswith("Of 80 cells of the truth 3 are unknown and 1 soft") and note in capsys.readouterr().out


def test_auroc_has_an_interval_in_closed_form_beside_the_other(tmp_path, run, monkeypatch):
    tables(tmp_path, patients=300)
    report = run(bootstrap=1000)
    assert report["delong"] == {"method": "DeLong, for rows in clusters (Obuchowski)", "level": 0.95, "unit": "patient"}
    for row in report["per_label"]:
        found = report["label_figures"][row["label"]]["auroc"]
        assert (row["auroc_delong_low"], row["auroc_delong_high"]) == pytest.approx(
            (found["percentile_low"], found["percentile_high"]), abs=0.012
        )
    monkeypatch.setattr("longview.score_report.MOST_ROWS", 299)
    monkeypatch.setattr("longview.reporting.notes.MOST_ROWS", 299)
    report = run()
    assert report["delong"] is None and "auroc_delong_low" not in report["per_label"][0]
    assert "no interval by DeLong" in report["notes"][0]


def test_predictions_that_were_calibrated_before_say_so(tmp_path, run):
    _, scores = tables(tmp_path)
    scores.attrs = {"longview_calibration": "cd" * 32}
    scores.to_parquet(tmp_path / "p.parquet")
    evaluate(tmp_path / "p.parquet", tmp_path / "t.csv", tmp_path / "out", bootstrap=0)
    report = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert report["calibrated"] == {"path": None, "sha256": "cd" * 32, "rule": None}
    assert report["notes"][0].startswith("All figures are after calibration by a file that was applied before (SHA-256")
    assert sha256(tmp_path / "p.parquet") == report["files"]["predictions"]["sha256"]
