"""`calibrate` replaces what it wrote itself and nothing else, and says what its figures rest on."""

import json

import numpy as np
import pandas as pd
import pytest

from longview import InputError
from longview.calibration.calibrate import calibrate
from longview.calibration.calibrators import Temperature
from longview.calibration.file import CALIBRATION, CalibratedLabel, Calibration, attributes_of
from longview.predictions import MODEL, TEST_TIME

LABELS = ["Mass", "Nodule", "Hernia"]


def drawn(rows=240, seed=0):
    """Truth and predictions that are too sure, four images of each patient, two of each study."""
    rng = np.random.default_rng(seed)
    number = np.arange(rows)
    ids = pd.DataFrame(
        {
            "patient_id": [f"p{i // 4:03}" for i in number],
            "study_id": [f"s{i // 2:03}" for i in number],
            "image_id": [f"i{i:03}" for i in number],
        }
    )
    logits = rng.normal([0, -1.5, -6], 1.5, (rows, 3))
    truth = (rng.random((rows, 3)) < 1 / (1 + np.exp(-logits))).astype(float)
    truth[:3, 2] = 1
    scores = 1 / (1 + np.exp(-3 * logits))
    return ids.assign(split="val", **dict(zip(LABELS, truth.T, strict=True))), ids.assign(
        **dict(zip(LABELS, scores.T, strict=True))
    )


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with truth.csv, val.parquet, val.csv and test.csv, and plots that are quickly drawn."""
    monkeypatch.setattr("longview.calibration.calibrate.plot_reliability", lambda *_, file, **__: file.touch())
    truth, predictions = drawn()
    truth.to_csv(tmp_path / "truth.csv", index=False)
    predictions.to_parquet(tmp_path / "val.parquet", index=False)
    predictions.to_csv(tmp_path / "val.csv", index=False)
    predictions.to_csv(tmp_path / "test.csv", index=False)
    return tmp_path


def run(folder, output="out/c.json", predictions="val.parquet", **options):
    calibrate(folder / predictions, folder / "truth.csv", folder / output, **options)
    return json.loads((folder / output).read_text())


def contents(folder):
    return {str(file): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


@pytest.mark.parametrize(
    ("output", "options", "message"),
    [
        ("val.json", {"predictions": "val.csv"}, r"--output would write .*val\.csv, which --predictions reads"),
        ("truth.json", {}, r"--output would write .*truth\.csv, which --truth reads"),
        ("test.json", {"apply": "test.csv", "calibrated": "x.csv"}, r"--output .*test\.csv, which --apply reads"),
        ("c.json", {"apply": "test.csv", "calibrated": "test.csv"}, r"--calibrated .*test\.csv, which --apply reads"),
        ("c.json", {"apply": "test.csv", "calibrated": "sub/../val.parquet"}, r"--calibrated .*--predictions reads"),
        ("c.json", {"apply": "test.csv", "calibrated": "truth.csv"}, r"--calibrated .*--truth reads"),
        ("c.json", {"apply": "test.csv", "calibrated": "c.csv"}, r"--calibrated .*c\.csv, which --output writes"),
        ("c.json", {"apply": "test.csv", "calibrated": "link.csv"}, r"--calibrated .*link\.csv, which --apply reads"),
    ],
)  # fmt: skip
def test_a_file_that_is_read_is_never_written(folder, output, options, message):
    (folder / "link.csv").symlink_to(folder / "test.csv")
    (folder / "sub").mkdir()
    before = contents(folder)
    options = {key: folder / value if key != "predictions" else value for key, value in options.items()}
    with pytest.raises(InputError, match=message):
        run(folder, output, **options)
    assert contents(folder) == before


def test_a_stores_manifest_is_read_too(folder):
    (folder / "store").mkdir()
    (folder / "store" / "store.json").write_text("{}")
    pd.read_csv(folder / "truth.csv").to_parquet(folder / "store" / "manifest.parquet")
    with pytest.raises(InputError, match="--truth reads"):
        calibrate(folder / "val.parquet", folder / "store", folder / "c.json", apply=folder / "test.csv",
                  calibrated=folder / "store" / "manifest.parquet")  # fmt: skip


@pytest.mark.parametrize("ending", ["json", "csv", "png"])
def test_a_file_that_no_earlier_run_wrote_is_refused(folder, ending):
    (folder / f"c.{ending}").write_text('{"label": 1}' if ending == "json" else "image_id,Mass\na,1\n")
    before = contents(folder)
    with pytest.raises(InputError, match=rf"would replace .*c\.{ending}, which no earlier"):
        run(folder, "c.json")
    assert contents(folder) == before


@pytest.mark.parametrize("calibrated", ["after.parquet", "after.csv"])
def test_what_an_earlier_run_wrote_is_replaced(folder, calibrated):
    options = {"apply": folder / "test.csv", "calibrated": folder / calibrated}
    run(folder, "c.json", **options)
    before = contents(folder)
    assert run(folder, "c.json", method="platt", **options)["method"] == "platt"
    after = contents(folder)
    assert before.keys() == after.keys()
    changed = {name.rpartition("/")[2] for name in before if before[name] != after[name]}
    assert changed == {"c.json", "c.csv", calibrated}


@pytest.mark.parametrize("ending", ["parquet", "csv"])
def test_calibrated_predictions_replace_no_other_table(folder, ending):
    foreign = drawn()[1].rename(columns={"Mass": "Edema"})
    file = folder / f"foreign.{ending}"
    foreign.to_parquet(file) if ending == "parquet" else foreign.to_csv(file, index=False)
    before = contents(folder)
    with pytest.raises(InputError, match=rf"--calibrated .*foreign\.{ending} exists, and is not"):
        run(folder, apply=folder / "test.csv", calibrated=file)
    assert contents(folder) == before


def test_the_truths_patients_are_held_out_together_where_the_predictions_name_none(folder, caplog, capsys):
    whole = run(folder, method="isotonic", minimum=1)
    pd.read_csv(folder / "val.csv").drop(columns=["patient_id", "study_id"]).to_csv(folder / "bare.csv", index=False)
    bare = run(folder, method="isotonic", minimum=1, predictions="bare.csv")
    assert bare["macro"]["held_out"] == pytest.approx(whole["macro"]["held_out"], rel=1e-9)
    assert (bare["unit"], bare["units"], bare["patients"], bare["folds"]) == ("patient", 60, 60, 5)
    assert "which patient" not in caplog.text
    assert "5-fold over 60 patients" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(("dropped", "unit", "units"), [(1, "study", 120), (2, "image", 240)])
def test_the_unit_that_is_held_out_is_said_where_nobody_names_patients(folder, caplog, capsys, dropped, unit, units):
    names = ["patient_id", "study_id"][:dropped]
    for file in ("truth.csv", "val.csv"):
        pd.read_csv(folder / file).drop(columns=names).to_csv(folder / file, index=False)
    report = run(folder, predictions="val.csv")
    assert (report["unit"], report["units"], report["patients"]) == (unit, units, None)
    plural = {"study": "studies", "image": "images"}[unit]
    assert f"which patient each row is of: folds are of {plural}" in caplog.text
    out = " ".join(capsys.readouterr().out.split())
    assert f"5-fold over {units} {plural}" in out and "by patient" not in out


def test_labels_with_few_rows_are_named_with_every_method(folder, capsys):
    for method in ("temperature", "platt"):
        report = run(folder, method=method, minimum=8)
        assert report["pooled"] == report["pooled_thresholds"] == ["Hernia"]
        assert report["labels"]["Hernia"]["pooled"] is True
        out = " ".join(capsys.readouterr().out.split())
        assert "Hernia*" in out and "Mass*" not in out
        assert "temperature of all labels and one threshold for all such labels" in out
    table = pd.read_csv(folder / "out" / "c.csv").set_index("label")
    assert table["pooled_threshold"].to_dict() == {"Mass": False, "Nodule": False, "Hernia": True}
    assert run(folder, threshold="none", minimum=8)["pooled_thresholds"] == []


def test_one_fold_is_refused_and_figures_without_folds_are_said_to_flatter(folder, capsys):
    with pytest.raises(InputError, match="--folds 1 leaves no rows to fit on"):
        run(folder, folds=1)
    assert not (folder / "out").exists()
    run(folder, folds=0)
    assert "after: on the very rows it was fitted on, which flatters" in " ".join(capsys.readouterr().out.split())


FLIP = {"flip": True, "scales": [1.0]}


def noted(folder, name, **attributes):
    table = pd.read_parquet(folder / "val.parquet")
    table.attrs = attributes
    table.to_parquet(folder / name, index=False)
    return folder / name


def test_the_file_says_whether_its_predictions_were_averaged_at_test_time(folder):
    assert "test_time" not in run(folder)  # nobody knows
    noted(folder, "plain.parquet", **{MODEL: "a" * 64})
    assert run(folder, predictions="plain.parquet")["test_time"] is None
    noted(folder, "tta.parquet", **{MODEL: "a" * 64, TEST_TIME: FLIP})
    assert run(folder, predictions="tta.parquet")["test_time"] == FLIP
    assert Calibration.read(folder / "out" / "c.json").about["test_time"] == FLIP


@pytest.mark.parametrize(
    ("fitted", "applied", "warned"),
    [(FLIP, None, True), (None, FLIP, True), (FLIP, {**FLIP, "scales": [1.0, 1.2]}, True), (FLIP, FLIP, False),
     (None, None, False)],
)  # fmt: skip
def test_predictions_that_were_averaged_otherwise_are_warned_of_in_one_line(folder, caplog, fitted, applied, warned):
    kinds = [{MODEL: "a" * 64} | ({TEST_TIME: item} if item else {}) for item in (fitted, applied)]
    noted(folder, "fit.parquet", **kinds[0])
    other = noted(folder, "other.parquet", **kinds[1])
    run(folder, predictions="fit.parquet", apply=other, calibrated=folder / "after.parquet")
    told = [record.getMessage() for record in caplog.records if "was fitted on predictions" in record.getMessage()]
    assert len(told) == warned
    assert all("\n" not in line and "other.parquet is " in line and "flip True" in line for line in told)
    assert CALIBRATION in attributes_of(folder / "after.parquet")


def test_a_check_before_prediction_warns_once_and_an_old_file_or_a_csv_is_not_doubted(folder, caplog):
    label = {name: CalibratedLabel(Temperature(2.0)) for name in LABELS}
    found = Calibration("temperature", label, "a" * 64, {"test_time": None})
    found.check(LABELS, "a" * 64, "the prediction", FLIP)
    table = pd.read_parquet(noted(folder, "tta.parquet", **{MODEL: "a" * 64, TEST_TIME: FLIP}))
    found.apply(table, checked=True)
    assert caplog.text.count("was fitted on predictions without test-time averaging") == 1
    caplog.clear()
    Calibration("temperature", label, "a" * 64).apply(table)
    Calibration("temperature", label, None, {"test_time": FLIP}).apply(pd.read_csv(folder / "val.csv"))
    assert "was fitted on predictions" not in caplog.text


def test_names_are_no_markup(folder, capsys):
    for file in ("truth.csv", "val.csv"):
        table = pd.read_csv(folder / file).rename(columns={"Mass": "[/bold]", "Hernia": "[red]x"})
        table.to_csv(folder / file, index=False)
    truth = pd.read_csv(folder / "truth.csv").replace({"split": {"val": "[/b]"}})
    truth.to_csv(folder / "truth.csv", index=False)
    run(folder, "[/i]/c.json", predictions="val.csv", split="[/b]", minimum=8)
    out = capsys.readouterr().out
    assert "[/bold]" in out and "[red]x*" in out and "240 images of [/b]" in out and "[/i]/c.json" in out


def test_predicted_labels_that_a_label_set_lacks_are_named_as_such(folder, caplog):
    (folder / "set.yaml").write_text("name: few\nlabels: [{name: Mass}, {name: Edema}]\n")
    report = run(folder, labels=folder / "set.yaml", method="platt")
    assert "label set few does not hold 2 predicted labels" in caplog.text and "Nodule, Hernia" in caplog.text
    assert "has no truth" not in caplog.text
    assert report["pooled"] == ["Nodule", "Hernia"]
