"""`predict --calibration`: what is written is calibrated, says so, and is of the right labels and model."""

import shutil
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from longview.calibration.calibrators import Platt
from longview.calibration.file import CALIBRATION, CalibratedLabel, Calibration, attributes_of
from longview.cli import main
from longview.labels import Label, LabelSet
from longview.outputs import sha256
from longview.prediction_writer import PredictionWriter, calibrated
from longview.predictions import MODEL, TEST_TIME, read_predictions
from runs import NAMES, fit, predict


@pytest.fixture(scope="module")
def store(make_store):
    return make_store(NAMES)


@pytest.fixture(scope="module")
def run_folder(store, tmp_path_factory):
    return fit(store, tmp_path_factory.mktemp("run"), "--trainer.max_epochs=1")


def maps(names=NAMES):
    """A map of its own for each label, which changes every value."""
    return {
        name: CalibratedLabel(Platt(0.5 + place / 10, 0.3), thresholds={"f1": 0.4}) for place, name in enumerate(names)
    }


@pytest.fixture
def file(run_folder, tmp_path):
    """A calibration of the run's best checkpoint."""
    path = tmp_path / "calibration.json"
    Calibration("platt", maps(), sha256(run_folder / "checkpoints/best.ckpt")).write(path)
    return path


@pytest.fixture(scope="module")
def plain(run_folder, tmp_path_factory):
    output = tmp_path_factory.mktemp("plain") / "plain.parquet"
    predict(run_folder, output)
    return output


def refused(arguments, capsys):
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    return capsys.readouterr().err


@pytest.mark.parametrize("ending", ["parquet", "csv"])
def test_the_file_is_what_the_calibration_makes_of_plain_predictions(ending, run_folder, file, plain, tmp_path, caplog):
    output = tmp_path / f"p.{ending}"
    predict(run_folder, output, f"--calibration={file}")
    expected = Calibration.read(file).apply(read_predictions(plain))
    found = read_predictions(output)
    pd.testing.assert_frame_equal(found[list(expected.columns)], expected, rtol=1e-12)
    assert not np.allclose(found[NAMES], read_predictions(plain)[NAMES], atol=1e-3)
    assert ("which a CSV cannot say" in caplog.text) == (ending == "csv")


def test_calibrated_predictions_say_so_and_nothing_calibrates_them_again(
    run_folder, store, file, plain, tmp_path, capsys
):
    output = tmp_path / "p.parquet"
    predict(run_folder, output, f"--calibration={file}", "--model.tta.flip=true")
    said = attributes_of(output)
    assert said[MODEL] == attributes_of(plain)[MODEL] and said[TEST_TIME]["flip"] is True
    applied = Calibration.read(file).apply(read_predictions(plain)).attrs[CALIBRATION]
    assert said[CALIBRATION] == applied and CALIBRATION not in attributes_of(plain)
    template = read_predictions(output).drop(columns="patient_id")
    template.to_csv(tmp_path / "sample.csv", index=False)
    err = refused(["submit", "--predictions", str(output), "--template", str(tmp_path / "sample.csv"), "--calibration",
                   str(file), "--output", str(tmp_path / "s.csv")], capsys)  # fmt: skip
    assert f"{output} is calibrated already" in err
    words = ["evaluate", "--predictions", str(output), "--truth", str(store), "--bootstrap", "0"]
    main([*words, "--output", str(tmp_path / "a")])
    main([*words, "--output", str(tmp_path / "b"), "--calibration", str(file)])
    tables = [pd.read_csv(tmp_path / folder / "per_label.csv") for folder in ("a", "b")]
    common = [name for name in tables[0].columns if name in tables[1].columns]
    pd.testing.assert_frame_equal(tables[0][common], tables[1][common])


def test_image_files_are_calibrated_like_a_store(run_folder, store, file, tmp_path):
    import cv2

    from longview.data.store import Store

    films = tmp_path / "films"
    films.mkdir()
    whole = Store(store)
    for row in range(3):
        cv2.imwrite(str(films / f"{whole.manifest.table['image_id'][row]}.png"), whole.image(row))
    options = [f"--data.stores={films}"]
    expected = Calibration.read(file).apply(predict(run_folder, tmp_path / "a.parquet", *options))
    found = predict(run_folder, tmp_path / "b.parquet", *options, f"--calibration={file}")
    assert len(found) == 3
    pd.testing.assert_frame_equal(found, expected, rtol=1e-12)


def test_a_calibration_of_another_model_or_other_labels_is_refused_before_anything_is_read(
    run_folder, file, tmp_path, capsys
):
    best, output = run_folder / "checkpoints/best.ckpt", tmp_path / "p.parquet"
    words = ["predict", f"--output={output}", f"--calibration={file}", "--data.stores=gone"]  # is not looked for
    shutil.copy(file, tmp_path / "others.json")
    Calibration("platt", maps([*NAMES[1:], "Gallstones"]), None).write(tmp_path / "others.json")
    err = refused([*words, f"--ckpt_path={run_folder}/checkpoints/last.ckpt"], capsys)
    assert f"{file} was fitted on another model (checkpoint {sha256(best)[:12]}…)" in err
    err = refused([*words, f"--ckpt_path={best}", f"--calibration={tmp_path}/others.json"], capsys)
    assert f"others.json was fitted on other labels than the prediction by {best} has" in err
    assert f"predicted, but not calibrated: {NAMES[0]}" in err and "calibrated, but not predicted: Gallstones" in err
    err = refused([*words, f"--ckpt_path={best}", f"--calibration={tmp_path}/none.json"], capsys)
    assert "none.json does not exist" in err
    assert not output.exists() and not (tmp_path / "p.parquet.partial").exists()


def test_a_task_that_predicts_consistently_does_so_after_calibration_too():
    labels = LabelSet("two", [Label("Opacity"), Label("Mass")], hierarchy={"Opacity": ["Mass"]})
    table = pd.DataFrame({"study_id": ["a", "b"], "Opacity": [0.5, 0.9], "Mass": [0.5, 0.1]})
    calibration = Calibration("platt", {"Opacity": CalibratedLabel(Platt(1, -2)), "Mass": CalibratedLabel(Platt(1, 0))})
    task = SimpleNamespace(predicted_names=["Opacity", "Mass"], asked=labels, labels=labels, consistent=False)
    raw = calibrated(table, calibration, task)
    assert raw["Opacity"][0] < raw["Mass"][0]
    task.consistent = True
    result = calibrated(table, calibration, task)
    assert result["Opacity"].tolist() == pytest.approx([0.5, raw["Opacity"][1]])
    assert result["Mass"].tolist() == raw["Mass"].tolist()
    assert result.attrs[CALIBRATION] == raw.attrs[CALIBRATION]


@pytest.mark.parametrize("fitted", [None, {"flip": True}])
@pytest.mark.parametrize("flip", [False, True])
def test_prediction_that_averages_otherwise_than_the_calibrations_is_warned_of_before_it_begins(
    tmp_path, caplog, fitted, flip
):
    calibration = Calibration("platt", maps(), None, {"test_time": fitted}, "c.json")
    tta = SimpleNamespace(is_off=not flip, describe=lambda: {"flip": True})
    flat = LabelSet("flat", [Label(name) for name in NAMES])
    task = SimpleNamespace(predicted_names=NAMES, tta=tta, asked=flat, labels=flat, consistent=False)
    PredictionWriter(tmp_path / "p.parquet", calibration).check(task, tmp_path / "best.ckpt")
    table = pd.DataFrame({"study_id": ["a"], **dict.fromkeys(NAMES, 0.5)})
    table.attrs = {MODEL: "a" * 64} | ({TEST_TIME: {"flip": True}} if flip else {})
    calibrated(table, calibration, task)
    assert caplog.text.count("c.json was fitted on predictions") == (bool(fitted) != flip)
