"""`calibrate`: fitted on validation rows by id and name, a readable file, and refusals of what does not belong."""

import hashlib
import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from longview import InputError, cli
from longview.calibration.calibrate import calibrate
from longview.calibration.calibrators import Beta, Isotonic, Platt, Temperature
from longview.calibration.figures import Figures
from longview.calibration.file import CALIBRATION, CalibratedLabel, Calibration, attributes_of
from longview.calibration.reliability import plot_reliability, reliability
from longview.data.manifest import Manifest
from longview.predictions import MODEL, read_predictions
from longview.ranking import per_label

LABELS = ["Mass", "Nodule", "Hernia"]
IDS = ["patient_id", "study_id", "image_id"]
METHODS = ["temperature", "vector", "platt", "isotonic", "beta"]
PARTS = {"val": 300, "test": 200, "train": 100}


def drawn(seed=0, sharpness=3.0):
    """A manifest of all parts, and predictions of a model that is too sure of itself by `sharpness`."""
    rng = np.random.default_rng(seed)
    rows = sum(PARTS.values())
    number = np.arange(rows)
    table = pd.DataFrame(
        {
            "source": "x",
            "patient_id": [f"{i // 4:08}" for i in number],
            "study_id": [f"s{i // 2:04}" for i in number],
            "image_id": [f"i{i:04}" for i in number],
            "view": "PA",
            "path": "p.png",
            "split": np.repeat(list(PARTS), list(PARTS.values())),
        }
    ).astype("str")
    logits = rng.normal([0, -1.5, -6], 1.5, (rows, 3))
    truth = (rng.random((rows, 3)) < 1 / (1 + np.exp(-logits))).astype(np.float32)
    scores = (1 / (1 + np.exp(-sharpness * logits))).astype(np.float32)
    manifest = table.assign(**dict(zip(LABELS, truth.T, strict=True)))
    return manifest, table[IDS].assign(**dict(zip(LABELS, scores.T, strict=True)))


@pytest.fixture
def undrawn(monkeypatch):
    """Plots as empty files: half a second less each time."""
    monkeypatch.setattr("longview.calibration.calibrate.plot_reliability", lambda *_, file, **__: file.touch())


@pytest.fixture
def setting(tmp_path, undrawn):
    """A folder with a store and the predictions of each part, `val.parquet` in another order of rows and labels."""
    manifest, predictions = drawn()
    Manifest(manifest).write(tmp_path / "store" / "manifest.parquet")
    (tmp_path / "store" / "store.json").write_text("{}")
    for part in PARTS:
        table = predictions[(manifest["split"] == part).to_numpy()].sample(frac=1, random_state=1)
        table[[*IDS, *reversed(LABELS)]].to_parquet(tmp_path / f"{part}.parquet", index=False)
    return tmp_path


def run(folder, **options):
    options = {"predictions": folder / "val.parquet", "truth": folder / "store"} | options
    calibrate(output=folder / "out" / "calibration.json", **options)
    return json.loads((folder / "out" / "calibration.json").read_text())


def scored(folder, part, file):
    """Targets and scores of a part, joined by hand."""
    manifest = Manifest.read(folder / "store").table.set_index("image_id")
    table = pd.read_parquet(file).set_index("image_id")
    assert set(manifest.loc[table.index, "split"]) == {part}
    return manifest.loc[table.index, LABELS].to_numpy(), table[LABELS].to_numpy()


def test_a_temperature_lowers_the_calibration_error_of_a_model_that_is_too_sure(setting):
    report = run(setting, apply=setting / "test.parquet", calibrated=setting / "after.parquet")
    assert report["pooled_temperature"] == pytest.approx(3, rel=0.15)
    macro = report["macro"]
    for figure in ("ece", "brier", "bce"):
        assert macro["held_out"][figure] < macro["before"][figure]
    assert macro["after"]["ece"] < 0.6 * macro["before"]["ece"]
    targets, before = scored(setting, "test", setting / "test.parquet")
    _, after = scored(setting, "test", setting / "after.parquet")
    assert Figures.of(after, targets).macro()["ece"] < 0.6 * Figures.of(before, targets).macro()["ece"]


@pytest.mark.parametrize("method", METHODS)
def test_no_method_but_isotonic_changes_auroc_or_average_precision(setting, method):
    run(setting, method=method, apply=setting / "test.parquet", calibrated=setting / "after.parquet")
    targets, before = scored(setting, "test", setting / "test.parquet")
    _, after = scored(setting, "test", setting / "after.parquet")
    assert after.dtype == np.float64
    old, new = per_label(before, targets), per_label(after, targets)
    same = np.array_equal(old.auroc, new.auroc) and np.array_equal(old.ap, new.ap)
    assert same == (method != "isotonic")


@pytest.mark.parametrize("method", METHODS)
def test_the_file_gives_what_was_fitted_and_says_what_on(setting, method, capsys):
    report = run(setting, method=method, threshold="f1,sensitivity=0.9", minimum=8)
    found = Calibration.read(setting / "out" / "calibration.json")
    assert found.text() == (setting / "out" / "calibration.json").read_text()
    assert (report["split"], report["level"], report["rows"], report["patients"]) == ("val", "image", 300, 75)
    assert list(report["labels"]) == list(reversed(LABELS))  # the predictions' order
    assert len(report["predictions"]["sha256"]) == 64 and report["longview"]
    assert report["pooled"] == report["pooled_thresholds"] == ["Hernia"]
    label = report["labels"]["Hernia"]
    assert label["positives"] + label["negatives"] == 300 and label["positives"] < 8
    assert set(label["thresholds"]) == {"f1", "sensitivity=0.9"}
    table = pd.read_csv(setting / "out" / "calibration.csv").set_index("label")
    assert table.loc["Mass", "sensitivity_sensitivity=0.9"] >= 0.9
    assert table.loc["Mass", "ece_before"] == pytest.approx(report["labels"]["Mass"]["before"]["ece"])
    assert table.loc["Mass", "threshold_f1"] == pytest.approx(found.thresholds("f1")["Mass"])
    assert (setting / "out" / "calibration.png").is_file()
    assert {file.name for file in (setting / "out").iterdir()} == {
        f"calibration.{kind}" for kind in ("json", "csv", "png")
    }
    out = capsys.readouterr().out
    assert "mean" in out and ("isotonic makes ties" in out) == (method == "isotonic")
    assert "Hernia*" in out


def test_figures_after_are_those_of_the_applied_file(setting):
    report = run(setting, method="platt", apply=setting / "val.parquet", calibrated=setting / "after.parquet")
    targets, after = scored(setting, "val", setting / "after.parquet")
    assert Figures.of(after, targets).macro() == pytest.approx(report["macro"]["after"])


def test_unknown_truth_is_masked_and_soft_truth_counts(setting):
    manifest = Manifest.read(setting / "store").table.copy()
    manifest.loc[::3, "Mass"] = np.nan
    manifest.loc[1::3, "Nodule"] = 0.5
    Manifest(manifest).write(setting / "store" / "manifest.parquet")
    before = run(setting, method="platt")["labels"]
    assert before["Mass"]["unknown"] == 100 and before["Nodule"]["soft"] == 100
    manifest.loc[1::3, "Nodule"] = np.nan
    Manifest(manifest).write(setting / "store" / "manifest.parquet")
    after = run(setting, method="platt")["labels"]
    assert before["Mass"]["platt"] == after["Mass"]["platt"]
    assert before["Nodule"]["platt"]["slope"] < 0.8 * after["Nodule"]["platt"]["slope"]


@pytest.mark.parametrize("part", ["test", "train"])
def test_rows_of_another_split_are_refused_by_name_unless_asked_for(setting, part):
    with pytest.raises(
        InputError, match=rf"{part}.parquet holds {PARTS[part]} rows of split {part}, and none of .*val"
    ):
        run(setting, predictions=setting / f"{part}.parquet")
    report = run(setting, predictions=setting / f"{part}.parquet", split=part)
    assert (report["split"], report["rows"]) == (part, PARTS[part])


def test_rows_of_other_splits_beside_the_validation_rows_are_not_fitted_on(setting):
    alone = run(setting, method="beta")
    tables = [pd.read_parquet(setting / f"{part}.parquet") for part in ("test", "val")]
    pd.concat(tables).to_parquet(setting / "both.parquet", index=False)
    both = run(setting, method="beta", predictions=setting / "both.parquet")
    assert both["rows"] == 300
    for name in LABELS:
        found, wanted = (next(iter(report["labels"][name].values())) for report in (both, alone))
        assert found == pytest.approx(wanted)


def test_a_truth_without_splits_is_taken_whole(setting, caplog):
    manifest = Manifest.read(setting / "store").table.query("split == 'val'")
    manifest[["image_id", *LABELS]].to_csv(setting / "truth.csv", index=False)
    report = run(setting, truth=setting / "truth.csv")
    assert report["pooled_temperature"] == pytest.approx(run(setting)["pooled_temperature"])
    assert "no column `split`" in caplog.text
    with pytest.raises(InputError, match="no column `split`"):
        run(setting, truth=setting / "truth.csv", split="test")


def test_predictions_of_studies_are_fitted_on_studies(setting):
    manifest = Manifest.read(setting / "store").table.copy()
    first = manifest.groupby("study_id")[LABELS].transform("first")
    Manifest(manifest.assign(**first)).write(setting / "store" / "manifest.parquet")
    table = pd.read_parquet(setting / "val.parquet").drop(columns="image_id")
    table.drop_duplicates("study_id").to_parquet(setting / "study.parquet", index=False)
    report = run(setting, predictions=setting / "study.parquet")
    assert (report["level"], report["rows"]) == ("study", 150)


def test_labels_without_truth_are_named_and_get_the_temperature_of_all(setting, caplog):
    table = pd.read_parquet(setting / "val.parquet").assign(Fracture=np.float32(0.2))
    table.to_parquet(setting / "more.parquet", index=False)
    report = run(setting, predictions=setting / "more.parquet", method="platt")
    assert report["labels"]["Fracture"]["temperature"]["temperature"] == report["pooled_temperature"]
    assert report["labels"]["Fracture"]["before"]["ece"] is None
    assert "Fracture" in report["pooled"] and "no truth of 1 predicted labels: Fracture" in caplog.text


def test_a_label_set_gives_names_by_its_aliases(setting):
    (setting / "set.yaml").write_text(
        "name: s\nlabels: [{name: Tumour, aliases: {x: [Mass]}}, {name: Nodule}, {name: Hernia}]\n"
    )
    report = run(setting, labels=setting / "set.yaml", method="vector")
    assert set(report["labels"]) == set(LABELS)  # the predictions' own names: the file is applied to such
    assert not report["labels"]["Mass"]["pooled"]


def test_truth_that_falls_with_the_score_is_named(setting, caplog):
    table = pd.read_parquet(setting / "val.parquet")
    table["Mass"] = 1 - table["Mass"]
    table.to_parquet(setting / "wrong.parquet", index=False)
    run(setting, predictions=setting / "wrong.parquet", method="platt")
    assert "only the ranking is kept: Mass" in caplog.text


def test_parameters_that_are_worse_on_held_out_patients_are_said(setting, caplog):
    run(setting)
    assert "too few rows" not in caplog.text
    manifest, predictions = drawn(sharpness=1.0)  # as well calibrated as can be
    predictions[(manifest["split"] == "val").to_numpy()].to_parquet(setting / "val.parquet", index=False)
    macro = run(setting, method="isotonic", minimum=1)["macro"]
    assert macro["after"]["bce"] < macro["before"]["bce"] < macro["held_out"]["bce"]
    assert "isotonic makes the cross-entropy worse: too few rows" in caplog.text


def with_attributes(table, file, **attributes):
    table.attrs |= attributes
    table.to_parquet(file, index=False)


def test_a_file_of_another_model_is_refused_by_name(setting, caplog):
    with_attributes(pd.read_parquet(setting / "val.parquet"), setting / "a.parquet", **{MODEL: "a" * 64})
    with_attributes(pd.read_parquet(setting / "test.parquet"), setting / "b.parquet", **{MODEL: "b" * 64})
    assert attributes_of(setting / "a.parquet") == {MODEL: "a" * 64}
    report = run(setting, predictions=setting / "a.parquet")
    assert report["model"] == "a" * 64
    found = Calibration.read(setting / "out" / "calibration.json")
    other = read_predictions(setting / "b.parquet")
    message = r"calibration.json was fitted on another model \(checkpoint aaaaaaaaaaaa…\) than b\.parquet is of \(bbbb"
    with pytest.raises(InputError, match=message):
        found.apply(other, model="b" * 64, origin="b.parquet")
    with pytest.raises(InputError, match="another model"):
        run(setting, predictions=setting / "a.parquet", apply=setting / "b.parquet", calibrated=setting / "c.csv")
    assert not (setting / "c.csv").exists()
    assert "which model" not in caplog.text
    found.apply(other, model="a" * 64)
    assert "which model" not in caplog.text
    found.apply(other)
    assert "does not say which model" in caplog.text


def test_a_checkpoint_names_the_model_where_the_predictions_do_not(setting):
    (setting / "best.ckpt").write_bytes(b"weights")
    report = run(setting, checkpoint=setting / "best.ckpt")
    assert report["model"] == hashlib.sha256(b"weights").hexdigest()
    with_attributes(pd.read_parquet(setting / "val.parquet"), setting / "a.parquet", **{MODEL: "a" * 64})
    with pytest.raises(InputError, match="another model"):
        run(setting, predictions=setting / "a.parquet", checkpoint=setting / "best.ckpt")
    with pytest.raises(InputError, match="does not exist"):
        run(setting, checkpoint=setting / "absent.ckpt")


def test_a_file_of_other_labels_is_refused_with_both_sides(setting):
    run(setting)
    found = Calibration.read(setting / "out" / "calibration.json")
    table = read_predictions(setting / "test.parquet").rename(columns={"Mass": "Fracture"})
    message = "calibration.json was fitted on other labels .*not calibrated: Fracture; .*not predicted: Mass"
    with pytest.raises(InputError, match=message):
        found.apply(table)
    with pytest.raises(InputError, match="calibrated, but not predicted: Mass"):
        found.apply(table.drop(columns="Fracture"))


def test_calibrated_predictions_are_not_calibrated_again(setting):
    run(setting, apply=setting / "val.parquet", calibrated=setting / "after.parquet")
    assert set(attributes_of(setting / "after.parquet")) == {CALIBRATION}
    with pytest.raises(InputError, match="calibrated already"):
        run(setting, predictions=setting / "after.parquet")
    with pytest.raises(InputError, match="calibrated already"):
        run(setting, apply=setting / "after.parquet", calibrated=setting / "again.parquet")
    table = Calibration.read(setting / "out/calibration.json").apply(read_predictions(setting / "val.parquet"))
    written = read_predictions(setting / "after.parquet")
    pd.testing.assert_frame_equal(table, written, check_flags=False)


def test_thresholded_predictions_are_refused(setting):
    table = pd.read_parquet(setting / "val.parquet")
    table[LABELS] = (table[LABELS] > 0.5).astype(np.float32)
    table.to_parquet(setting / "hard.parquet", index=False)
    with pytest.raises(InputError, match="thresholded"):
        run(setting, predictions=setting / "hard.parquet")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": "best"}, "f1, youden"),
        ({"minimum": -1}, "--minimum"),
        ({"folds": -1}, "--folds"),
        ({"calibrated": "x.csv"}, "--apply"),
        ({"apply": "val.parquet"}, "--calibrated"),
        ({"apply": "val.parquet", "calibrated": "x.txt"}, r"\.parquet or \.csv"),
    ],
)
def test_options_that_make_no_sense_are_refused_before_anything_is_written(setting, options, message):
    options = {key: Path(value) if key in {"apply", "calibrated"} else value for key, value in options.items()}
    with pytest.raises(InputError, match=message):
        run(setting, **options)
    assert not (setting / "out").exists()


@pytest.mark.parametrize("name", ["calibration.yaml", "calibration", "store"])
def test_an_output_that_is_no_json_file_is_refused(setting, name):
    with pytest.raises(InputError, match=r"--output .*\.json"):
        calibrate(setting / "val.parquet", setting / "store", setting / name)


def test_a_failure_leaves_an_earlier_calibration_as_it_was(setting, monkeypatch):
    run(setting)
    before = {file.name: file.read_bytes() for file in (setting / "out").iterdir()}

    def broken(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("longview.calibration.calibrate.plot_reliability", broken)
    with pytest.raises(OSError, match="No space"):
        run(setting, method="platt")
    assert {file.name: file.read_bytes() for file in (setting / "out").iterdir()} == before


def test_the_command_line_writes_beside_the_file_and_applies(setting, capsys, monkeypatch):
    monkeypatch.chdir(setting)
    cli.main(["calibrate", "--predictions", "val.parquet", "--truth", "store", "--method", "beta", "--threshold",
              "youden,cost=10", "--folds", "0", "--apply", "test.parquet", "--calibrated", "c.csv"])  # fmt: skip
    assert Calibration.read("calibration.json").thresholds("cost=10").keys() == set(LABELS)
    assert len(pd.read_csv("c.csv")) == PARTS["test"]
    assert "held_out" not in json.loads((setting / "calibration.json").read_text())["macro"]
    assert "calibration.json" in capsys.readouterr().out


def example():
    label = CalibratedLabel(Platt(1.5, -0.25), thresholds={"f1": 0.3}, counts={"positives": 20})
    return Calibration("platt", {"Mass": label}, "a" * 64, {"split": "val"})


def test_a_file_is_read_as_it_was_written(tmp_path):
    for calibrator in (Temperature(1.5), Platt(0.5, -1.0), Beta(0.5, 0.0, 1.0), Isotonic((0.1, 0.4), (0.0, 1.0))):
        written = Calibration("x", {"Mass": CalibratedLabel(calibrator, pooled=True)})
        written.write(tmp_path / "c.json")
        found = Calibration.read(tmp_path / "c.json")
        values = np.linspace(0, 1, 50)
        assert np.array_equal(found.labels["Mass"].calibrator.apply(values), calibrator.apply(values))
        assert found.text() == written.text() and found.labels["Mass"].pooled
    example().write(tmp_path / "c.json")
    found = Calibration.read(tmp_path / "c.json")
    assert found.labels == example().labels and found.model == "a" * 64 and found.about["split"] == "val"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content.pop("method"), "is no calibration"),
        (lambda content: content.update(calibration=2), "format 2"),
        (lambda content: content["labels"]["Mass"].pop("platt"), "label 'Mass' needs one of temperature, platt"),
        (lambda content: content["labels"]["Mass"].update(temperature={"temperature": 1}), "needs one of"),
        (lambda content: content["labels"]["Mass"]["platt"].pop("slope"), "platt needs slope, intercept"),
        (lambda content: content["labels"]["Mass"]["platt"].update(slope=-1), "label 'Mass': slope must be a positive"),
        (lambda content: content["labels"]["Mass"]["platt"].update(slope="a"), "label 'Mass'"),
        (lambda content: content["labels"]["Mass"]["platt"].update(slope=None), "label 'Mass'"),
        (lambda content: content["labels"]["Mass"].update(thresholds={"f1": "a"}), "label 'Mass': thresholds"),
        (lambda content: content.update(labels=[1]), "is no calibration"),
    ],
)
def test_a_spoilt_file_is_refused_by_name_and_place(tmp_path, change, message):
    example().write(tmp_path / "c.json")
    content = json.loads((tmp_path / "c.json").read_text())
    change(content)
    (tmp_path / "c.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=rf"c\.json.*{message}"):
        Calibration.read(tmp_path / "c.json")


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b"\xff\xfe", b"3"])
def test_what_is_no_calibration_is_refused(tmp_path, content):
    (tmp_path / "c.json").write_bytes(content)
    with pytest.raises(InputError, match="is no calibration"):
        Calibration.read(tmp_path / "c.json")
    with pytest.raises(InputError, match=r"main\.py calibrate"):
        Calibration.read(tmp_path / "absent.json")


def test_thresholds_by_a_rule_that_was_not_asked_for_name_those_there_are():
    assert example().thresholds("f1") == {"Mass": 0.3}
    with pytest.raises(InputError, match="'youden'; it has f1"):
        example().thresholds("youden")


def test_bins_of_a_reliability_diagram_hold_all_known_rows_and_no_others():
    rng = np.random.default_rng(0)
    values = rng.random(1000) ** 3
    truth = np.where(rng.random(1000) < 0.1, np.nan, (rng.random(1000) < values).astype(float))
    mean, share, rows = reliability(values, truth, bins=8)
    known = ~np.isnan(truth)
    assert rows.sum() == known.sum() and len(rows) == 8 and rows.min() > 0.9 * known.sum() / 8
    assert (mean * rows).sum() == pytest.approx(values[known].sum())
    assert (share * rows).sum() == pytest.approx(truth[known].sum())
    assert (np.diff(mean) > 0).all()
    assert [len(item) for item in reliability(values, np.full(1000, np.nan))] == [0, 0, 0]
    assert len(reliability(np.full(50, 0.5), np.tile([0.0, 1.0], 25))[0]) == 1


@pytest.mark.parametrize("labels", [0, 1, 17])
def test_the_diagram_is_a_picture_whatever_the_number_of_labels(tmp_path, labels):
    rng = np.random.default_rng(0)
    scores = rng.random((200, max(labels, 1))).astype(np.float32)
    truth = (rng.random(scores.shape) < scores).astype(float) if labels else np.zeros((200, 1))
    names = [f"a label with a long name {number}" for number in range(scores.shape[1])]
    plot_reliability(names, scores, scores**2, truth, title="t", file=tmp_path / "r.png")
    with Image.open(tmp_path / "r.png") as picture:
        assert math.prod(picture.size) > 300_000
