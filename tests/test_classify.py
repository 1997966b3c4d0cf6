"""The verb `classify`: tables on the terminal, CSV that `evaluate` reads, JSON, and files that cannot be read."""

import json
import shutil

import cv2
import numpy as np
import pandas as pd
import pytest

from longview.cli import main
from longview.models.xrv_weights import XRV
from longview.outputs import sha256
from longview.predictions import read_predictions
from published import save
from runs import NAMES, fit

ALL = "densenet121-res224-all"


@pytest.fixture(scope="module")
def checkpoint(make_store, tmp_path_factory):
    run = fit(make_store(NAMES), tmp_path_factory.mktemp("run"), "--trainer.max_epochs=1")
    return run / "checkpoints/best.ckpt"


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    save(folder, ALL)
    return folder


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    folder = tmp_path_factory.mktemp("films")
    rng = np.random.default_rng(0)
    for name in ("a", "b", "c"):
        smooth = cv2.resize(rng.integers(0, 255, (8, 8), dtype=np.uint8), (64, 64), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(folder / f"{name}.png"), smooth)
    (folder / "broken.png").write_bytes((folder / "a.png").read_bytes()[:200])
    return folder


def classify(*arguments):
    main(["classify", *map(str, arguments)])


def test_one_film_is_printed_from_the_most_probable_finding_down(weights, films, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    classify("--model", ALL, "--weights", weights, "--input", films / "a.png", "--device", "cpu")
    printed = capsys.readouterr().out
    rows = [line.split("│") for line in printed.splitlines() if line.count("│") == 4]
    values = [float(row[2]) for row in rows]
    assert len(values) == 18
    assert values == sorted(values, reverse=True)
    verdicts = [row[3].strip() for row in rows]
    assert verdicts == ["POSITIVE" if value >= 0.5 else "negative" for value in values]
    assert {"POSITIVE", "negative"} == set(verdicts)
    positive = next(line for line in printed.splitlines() if line.startswith("positive: "))
    assert positive == "positive: " + ", ".join(row[1].strip() for row in rows if row[3].strip() == "POSITIVE")


def test_a_folder_goes_on_past_a_broken_file_into_a_table_that_evaluate_reads(checkpoint, films, tmp_path, caplog):
    output = tmp_path / "out/films.csv"
    classify("--model", checkpoint, "--input", films, "--output", output)
    table = read_predictions(output)
    assert list(table["image_id"]) == ["a", "b", "c"]
    assert [name for name in table.columns if name in NAMES] == NAMES
    raw = pd.read_csv(output)
    assert list(raw.columns[:3]) == ["path", "image_id", "meta_model"]
    assert set(raw["meta_model"]) == {"nih_1000-version_0-best"}
    assert "broken.png" in caplog.text
    assert "1 of 4 files could not be read" in caplog.text
    truth = raw[["image_id"]].assign(**{name: [0, 1, i % 2] for i, name in enumerate(NAMES)})
    truth.to_csv(tmp_path / "truth.csv", index=False)
    main(["evaluate", "--predictions", str(output), "--truth", str(tmp_path / "truth.csv"), "--bootstrap", "0",
          "--output", str(tmp_path / "scores")])  # fmt: skip
    assert (tmp_path / "scores").is_dir()


def test_models_of_both_kinds_are_compared_and_written(checkpoint, weights, films, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    both = ["--model", checkpoint, ALL, "--weights", weights, "--input", films, "--threshold", "0.4"]
    classify(*both, "--output", tmp_path / "films.json")
    printed = capsys.readouterr().out
    assert printed.count(f"{ALL}: positive: ") == 3
    (row,) = [line for line in printed.splitlines() if "Cardiomegaly" in line and "a.png" not in line][:1]
    assert row.count("negative") + row.count("POSITIVE") == 2  # one row for what both models call so
    report = json.loads((tmp_path / "films.json").read_text())
    assert [model["sha256"] for model in report["models"]] == [sha256(checkpoint), sha256(weights / XRV[ALL].file)]
    image = report["images"][0]
    probabilities = image["probabilities"][ALL]
    assert len(probabilities) == 18
    expected = sorted((name for name, value in probabilities.items() if value >= 0.4), key=lambda n: -probabilities[n])
    assert image["positives"][ALL] == expected
    assert [entry["path"] for entry in report["failed"]] == [str(films / "broken.png")]
    classify(*both, "--output", tmp_path / "long.csv")
    long = pd.read_csv(tmp_path / "long.csv")
    assert len(long) == 3 * (14 + 18)
    assert list(long.columns) == ["path", "image_id", "model", "label", "probability", "threshold", "positive"]
    classify(*both, "--output", tmp_path / "wide.csv", "--layout", "wide")
    assert len(read_predictions(tmp_path / f"wide_{ALL}.csv")) == 3


def test_a_calibration_brings_its_thresholds(checkpoint, films, tmp_path, capsys):
    from longview.calibration.calibrators import Temperature
    from longview.calibration.file import CalibratedLabel, Calibration

    labels = {
        name: CalibratedLabel(Temperature(1.0), thresholds={"f1": 0.0 if name == "Mass" else 1.0}) for name in NAMES
    }
    Calibration("temperature", labels, sha256(checkpoint)).write(tmp_path / "c.json")
    options = ["--model", checkpoint, "--input", films / "a.png", "--calibration", tmp_path / "c.json"]
    classify(*options)
    assert "positive: Mass\n" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="2"):
        classify(*options, "--rule", "youden")
    Calibration("temperature", labels, "0" * 64).write(tmp_path / "c.json")
    with pytest.raises(SystemExit, match="2"):
        classify(*options)
    assert "another model" in capsys.readouterr().err


def test_many_films_are_summed_up(checkpoint, films, tmp_path, capsys):
    for number in range(9):
        shutil.copy(films / "a.png", tmp_path / f"{number}.png")
    classify("--model", checkpoint, "--input", tmp_path, "--batch_size", 4)
    printed = capsys.readouterr().out
    assert "9 images" in printed
    assert "mean probability" in " ".join(printed.split())


def test_nothing_readable_ends_with_1(checkpoint, films, tmp_path, caplog):
    shutil.copy(films / "broken.png", tmp_path / "x.png")
    (tmp_path / "y.png").write_text("no film")
    with pytest.raises(SystemExit, match="1"):
        classify("--model", checkpoint, "--input", tmp_path, "--output", tmp_path / "o.csv")
    assert "2 of 2 files" in caplog.text
    assert not (tmp_path / "o.csv").exists()


def test_a_converted_model_scores_the_same(weights, films, tmp_path):
    classify("--model", ALL, "--weights", weights, "--convert", tmp_path / "models")
    for name, folder in (("a", weights), ("b", tmp_path / "models")):
        classify("--model", ALL, "--weights", folder, "--input", films, "--output", tmp_path / f"{name}.csv")
    assert (tmp_path / "a.csv").read_text() == (tmp_path / "b.csv").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "x.ckpt"], "--input"),
        (["--model", "x.ckpt", "--input", "nowhere"], "does not exist"),
        (["--model", "x.ckpt", "--input", ".", "--threshold", "2"], "--threshold 2"),
        (["--model", "x.ckpt", "--input", ".", "--output", "x.parquet"], ".csv or .json"),
        (["--model", "x.ckpt", "x.ckpt", "--input", "."], "twice"),
        (["--model", "x.ckpt", "y.ckpt", "--input", ".", "--calibration", "c.json"], "one model"),
        (["--model", "x.ckpt", "--convert", "out"], "published models"),
    ],
)
def test_mistakes_are_one_line(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="2"):
        classify(*arguments)
    assert message in capsys.readouterr().err
