"""Models are compared on the same rows only, in pairs, and differences are as sure as they are said to be."""

import json
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from longview import InputError, cli
from longview.compare import compare, short_names
from longview.evaluate import evaluate

LABELS = ["Mass", "Nodule", "Hernia"]


def tables(tmp_path, patients=120, gains=(2.0, 0.6), views=2, write=True, seed=0):
    """A truth, and a table for each model: the more gain, the better."""
    rng = np.random.default_rng(seed)
    rows = patients * views
    ids = pd.DataFrame(
        {
            "patient_id": [f"p{i // views:03}" for i in range(rows)],
            "study_id": [f"s{i // views:03}" for i in range(rows)],
            "image_id": [f"i{i:04}" for i in range(rows)],
        }
    )
    values = np.repeat(rng.random((patients, 3)) < (0.4, 0.3, 0.25), views, axis=0).astype(float)
    truth = pd.concat([ids, pd.DataFrame(values, columns=LABELS)], axis=1)
    truth.to_csv(tmp_path / "t.csv", index=False)
    models = []
    for number, gain in enumerate(gains):
        logits = gain * values + rng.normal(size=values.shape)
        table = pd.concat([ids, pd.DataFrame(1 / (1 + np.exp(-logits)), columns=LABELS)], axis=1)
        models.append(table.sample(frac=1, random_state=number))
        models[-1].to_parquet(tmp_path / f"{'abcdef'[number]}.parquet", index=False)
    return truth, models


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Compare files of the folder, and return compare.json."""
    monkeypatch.setattr("longview.compare.plot_forest", lambda _, file: file.touch())

    def run(names="ab", **options):
        files = [tmp_path / f"{name}.parquet" for name in names]
        compare(files, tmp_path / "t.csv", tmp_path / "out", **{"bootstrap": 200, **options})
        return json.loads((tmp_path / "out" / "compare.json").read_text())

    return run


def test_figures_are_those_of_evaluate_and_differences_are_theirs(run, tmp_path, monkeypatch):
    tables(tmp_path)
    report = run()
    monkeypatch.setattr("longview.score_report.plot_curves", lambda *_, file, **__: file.touch())
    monkeypatch.setattr("longview.score_report.plot_bars", lambda *_: _[-1].touch())
    values = {}
    for name in "ab":
        evaluate(tmp_path / f"{name}.parquet", tmp_path / "t.csv", tmp_path / f"report-{name}", bootstrap=200)
        found = json.loads((tmp_path / f"report-{name}" / "metrics.json").read_text())
        assert report["models"][name]["map"] == pytest.approx(found["overall"]["map"])
        values[name] = {row["label"]: row["ap"] for row in found["per_label"]} | {"": found["map"]}
    for row in report["differences"]:
        if row["figure"] == "ap":
            assert row["difference"] == pytest.approx(values["a"][row["label"]] - values["b"][row["label"]])


def test_the_better_model_comes_first_and_wins_its_labels(run, tmp_path, capsys):
    tables(tmp_path, gains=(0.6, 2.0))
    report = run()
    assert list(report["models"]) == ["b", "a"]
    (mean,) = [row for row in report["differences"] if row["label"] == "" and row["figure"] == "ap"]
    assert (mean["one"], mean["other"]) == ("b", "a") and mean["percentile_low"] > 0 and mean["p_holm"] < 0.001
    text = " ".join(capsys.readouterr().out.split())
    assert "b beats a by AP on 3 labels: Mass +0." in text
    table = pd.read_csv(tmp_path / "out" / "compare.csv", keep_default_na=False)
    assert set(table["label"]) == {"", *LABELS}


def test_equal_models_differ_on_nothing(run, tmp_path, capsys):
    _, (first, _) = tables(tmp_path)
    first.sample(frac=1, random_state=9).to_parquet(tmp_path / "b.parquet")
    report = run()
    assert all(row["difference"] == 0 and row["p"] == 1 for row in report["differences"])
    assert "differ surely on no label by AP" in capsys.readouterr().out


def test_resamples_are_paired(run, tmp_path):
    """Two models that differ by little noise: the difference is far surer than either figure."""
    _, (first, _) = tables(tmp_path, gains=(1.0, 1.0))
    near = first.copy()
    near[LABELS] = np.clip(near[LABELS] + np.random.default_rng(1).normal(0, 0.005, near[LABELS].shape), 0, 1)
    near.to_parquet(tmp_path / "b.parquet")
    report = run()
    (mean,) = [row for row in report["differences"] if row["label"] == "" and row["figure"] == "auroc"]
    assert mean["error"] < 0.2 * report["models"]["a"]["auroc"]["error"]


def test_every_pair_of_three_and_means_are_corrected_for_their_number(run, tmp_path):
    tables(tmp_path, gains=(1.0, 0.9, 0.8))
    report = run("abc")
    means = [row for row in report["differences"] if row["label"] == "" and row["figure"] == "ap"]
    assert len({(row["one"], row["other"]) for row in means}) == 3
    assert min(row["p"] for row in means) * 3 == pytest.approx(min(row["p_holm"] for row in means))


def test_delong_stands_beside_the_labels_aurocs(run, tmp_path):
    tables(tmp_path, gains=(1.2, 0.9))
    rows = [row for row in run(bootstrap=500)["differences"] if row["label"]]
    for row in rows:
        if row["figure"] == "auroc":
            assert row["p"] == pytest.approx(row["p_delong"], abs=0.08)
        else:
            assert row["p_delong"] is None


def test_other_rows_are_refused_with_counts(run, tmp_path):
    truth, (_, second) = tables(tmp_path)
    truth.assign(split=["val"] * 200 + ["test"] * 40).to_csv(tmp_path / "t.csv", index=False)
    second[second["image_id"] >= "i0200"].to_parquet(tmp_path / "b.parquet")
    with pytest.raises(InputError, match=r"a and b are of different rows.*only in a: 200 images, i0000.*--split"):
        run()
    assert run(split="test")["rows"] == 40


def test_rows_of_images_and_of_studies_are_not_compared(run, tmp_path):
    _, (_, second) = tables(tmp_path)
    second.drop(columns="image_id").drop_duplicates("study_id").to_parquet(tmp_path / "b.parquet")
    with pytest.raises(InputError, match="a is per image and b per study"):
        run()


def test_labels_that_a_model_lacks_are_named_and_left_out(run, tmp_path, caplog):
    _, (_, second) = tables(tmp_path)
    second.drop(columns="Nodule").to_parquet(tmp_path / "b.parquet")
    report = run()
    assert (report["labels"], report["left_out"]) == (["Mass", "Hernia"], ["Nodule"])
    assert "not compared: Nodule" in caplog.text


def test_what_cannot_be_compared_is_refused(run, tmp_path):
    tables(tmp_path)
    with pytest.raises(InputError, match="two tables or more"):
        run("a")
    with pytest.raises(InputError, match="stands twice"):
        run("aa")
    with pytest.raises(InputError, match="--bootstrap 0"):
        run(bootstrap=0)


def test_names_are_as_long_as_they_must_be(tmp_path):
    files = [tmp_path / "x" / "test.parquet", tmp_path / "y" / "test.parquet"]
    assert short_names(files) == ["x/test", "y/test"]
    assert short_names([tmp_path / "x.csv", tmp_path / "y.csv"]) == ["x", "y"]


@pytest.mark.parametrize("models", [2, 3])
def test_the_forest_plot_has_a_panel_per_figure_or_model(tmp_path, models):
    tables(tmp_path, gains=(1.0, 0.9, 0.8)[:models])
    files = [tmp_path / f"{name}.parquet" for name in "abc"[:models]]
    compare(files, tmp_path / "t.csv", tmp_path / "out", bootstrap=50)
    with Image.open(tmp_path / "out" / "compare.png") as image:
        assert image.width > 700 and image.convert("L").getextrema() == (0, 255)


def test_the_command_line_takes_tables_one_after_the_other(tmp_path, capsys, monkeypatch):
    tables(tmp_path)
    monkeypatch.setattr("longview.compare.plot_forest", lambda _, file: file.touch())
    monkeypatch.chdir(tmp_path)
    words = "compare --predictions a.parquet b.parquet --truth t.csv --output out --bootstrap=50"
    cli.dispatch(words.split())
    assert json.loads((tmp_path / "out" / "compare.json").read_text())["resamples"] == 50
    cli.dispatch(
        ["compare", "--truth=t.csv", "--output=out", "--bootstrap=50", "--predictions", '["a.parquet","b.parquet"]']
    )


def test_starts_without_torch():
    code = "import sys, longview.compare; sys.exit(any(m in sys.modules for m in ('torch', 'matplotlib', 'sklearn')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
