"""Evaluation joins by id and by label name, refuses what does not fit, and writes whole reports."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.metrics import average_precision_score, roc_auc_score

from longview import InputError, curves
from longview.curves import Curve
from longview.data.manifest import Manifest
from longview.evaluate import evaluate
from longview.outputs import staged
from longview.ranking import auroc_ap, per_label

LABELS = ["Mass", "Nodule", "Hernia"]
REPORT = {"report.html", "metrics.json", "per_label.csv", "intervals.csv", "confusion.csv", "roc.png", "pr.png",
          "reliability.png", "per_label.png"}  # fmt: skip


def manifest(patients=40, views=2):
    """Images of one study per patient; the last quarter of the patients is the test part."""
    rows = patients * views
    study = np.arange(rows) // views
    values = np.stack([study % 2 == 0, study % 3 == 0, study % 4 == 1], axis=1).astype(np.float32)
    table = pd.DataFrame(
        {
            "source": "x",
            "patient_id": [f"{i:08}" for i in study],
            "study_id": [f"s{i:03}" for i in study],
            "image_id": [f"i{i:04}" for i in range(rows)],
            "view": "PA",
            "path": "p.png",
            "split": np.where(study < patients * 3 // 4, "train", "test"),
        }
    ).astype("str")
    return table.assign(**dict(zip(LABELS, values.T, strict=True)))


def as_store(table, folder):
    """A store without films, which only evaluation takes for one."""
    Manifest(table).write(folder / "manifest.parquet")
    (folder / "store.json").write_text("{}")


def predicted(table, level="image", seed=1):
    """Random probabilities for a manifest's rows, labels and rows in another order than the truth's."""
    ids = ["patient_id", "study_id", "image_id"][: 3 if level == "image" else 2]
    frame = table[ids].drop_duplicates(ignore_index=True)
    rng = np.random.default_rng(seed)
    frame = frame.assign(**{label: rng.random(len(frame)).astype(np.float32) for label in reversed(LABELS)})
    return frame.sample(frac=1, random_state=2)


@pytest.fixture
def undrawn(monkeypatch):
    """Plots as empty files: half a second less per evaluation."""
    monkeypatch.setattr("longview.score_report.plot_curves", lambda *_, file, **__: file.touch())
    monkeypatch.setattr("longview.score_report.plot_bars", lambda *_: _[-1].touch())
    monkeypatch.setattr("longview.reporting.write.plot_diagrams", lambda *_, file, **__: file.touch())


@pytest.fixture
def run(tmp_path, undrawn):
    """Write both tables, evaluate, and return metrics.json."""

    def run(predictions, truth, **options):
        predictions.to_parquet(tmp_path / "p.parquet", index=False)
        if isinstance(truth, pd.DataFrame):
            truth.to_csv(tmp_path / "t.csv", index=False)
            truth = tmp_path / "t.csv"
        evaluate(tmp_path / "p.parquet", truth, tmp_path / "out", **options)
        return json.loads((tmp_path / "out" / "metrics.json").read_text())

    return run


def test_figures_are_scikit_learns_whatever_the_order_of_rows_and_labels(run, tmp_path):
    truth = manifest().query("split == 'test'")
    predictions = predicted(truth)
    report = run(predictions, truth)
    joined = truth.merge(predictions, on="image_id", suffixes=("_true", "_predicted"))
    for row in report["per_label"]:
        true, score = joined[f"{row['label']}_true"], joined[f"{row['label']}_predicted"]
        assert row["auroc"] == pytest.approx(roc_auc_score(true, score), abs=1e-9)
        assert row["ap"] == pytest.approx(average_precision_score(true, score), abs=1e-9)
        assert row["positives"] == true.sum()
    assert report["map"] == pytest.approx(np.mean([row["ap"] for row in report["per_label"]]))
    table = pd.read_csv(tmp_path / "out" / "per_label.csv")
    assert {"label", "positives", "auroc", "ap", "prevalence", "group"} <= set(table.columns)
    assert {file.name for file in (tmp_path / "out").iterdir()} == REPORT


def test_a_store_gives_the_predicted_part_and_the_groups(run, tmp_path, capsys):
    truth = manifest()
    as_store(truth, tmp_path / "store")
    report = run(predicted(truth.query("split == 'test'")), tmp_path / "store")
    assert (report["splits"], report["rows"]) == (["test"], 20)
    train = truth.query("split == 'train'")[LABELS].mean()
    assert sorted(report["groups"]["head"]["labels"]) == sorted(train.index[train > 0.1])
    tail = report["groups"]["tail"]
    assert (tail["labels"], tail["map"], tail["auroc"], tail["figures"]["map"]["low"]) == ([], None, None, None)
    assert "mean of 3" in capsys.readouterr().out


def test_labels_that_no_training_row_knows_have_a_mean_of_their_own(run, tmp_path, capsys):
    truth = manifest()
    truth.loc[truth["split"] == "train", LABELS[0]] = np.nan
    as_store(truth, tmp_path / "store")
    report = run(predicted(truth.query("split == 'test'")), tmp_path / "store")
    assert report["groups"]["unseen"]["labels"] == [LABELS[0]]
    (row,) = (row for row in report["per_label"] if row["label"] == LABELS[0])
    assert report["groups"]["unseen"]["map"] == row["ap"] and row["group"] == "unseen"
    assert "unseen" in capsys.readouterr().out


def test_a_folder_that_is_no_finished_store_is_refused(run, tmp_path):
    (tmp_path / "half").mkdir()
    with pytest.raises(InputError, match="not a finished store"):
        run(predicted(manifest()), tmp_path / "half")


def test_predictions_lacking_a_study_are_counted_and_named(run, tmp_path):
    truth = manifest()
    test = truth.query("split == 'test'")
    lacking = predicted(test, "study").query("study_id not in ['s031', 's037']")
    with pytest.raises(InputError, match=r"lack 2 study_ids of split test .*: s031, s037"):
        run(lacking, truth)
    assert not (tmp_path / "out").exists()
    with pytest.raises(InputError, match="lack 30 study_ids of split train"):
        run(predicted(test, "study"), truth, split="train")


def test_predicted_rows_beyond_the_truth_are_counted_and_left_out(run):
    truth = manifest()
    report = run(predicted(truth), truth, split="test")
    assert (report["rows"], report["extra_predictions"]) == (20, 60)


def test_study_predictions_are_scored_once_per_study(run):
    truth = manifest().query("split == 'test'")
    report = run(predicted(truth, "study"), truth)
    assert (report["level"], report["rows"]) == ("study", 10)


@pytest.mark.parametrize(("level", "group"), [("study", "medium"), ("image", "head")])
def test_groups_count_what_was_trained_on(run, level, group):
    """One of 30 training studies has the label and half of all their images: 3 % of the studies, 52 % of the images."""
    table = manifest(patients=40, views=1)
    many = pd.concat([table.iloc[[0]]] * 31, ignore_index=True)
    many["image_id"] = [f"m{i}" for i in range(31)]
    table["Mass"] = np.float32(0)
    table.loc[table["split"] == "test", "Mass"] = (np.arange(10) % 2).astype(np.float32)
    table = pd.concat([table.iloc[1:], many.assign(Mass=np.float32(1))], ignore_index=True)
    metrics = run(predicted(table[table["split"] == "test"], level), table)
    assert {row["label"]: row["group"] for row in metrics["per_label"]}["Mass"] == group


def test_images_of_a_study_that_disagree_are_named(run):
    truth = manifest().query("split == 'test'").reset_index(drop=True)
    truth.loc[4, "Nodule"] = 1 - truth.loc[4, "Nodule"]
    with pytest.raises(InputError, match="study_id 's032' disagree on label 'Nodule'"):
        run(predicted(truth, "study"), truth)
    truth.loc[4, "Nodule"] = np.nan  # one image says nothing: the other's value holds
    assert run(predicted(truth, "study"), truth)["per_label"][1]["unknown"] == 0


def test_truth_per_study_is_copied_to_its_images(run):
    truth = manifest().query("split == 'test'")
    per_study = truth.drop(columns=["image_id", "path", "view"]).drop_duplicates()
    assert run(predicted(truth), per_study)["map"] == run(predicted(truth), truth)["map"]


@pytest.mark.parametrize(("column", "write"), [("dicom_id", "{}"), ("ImageID", "{}.png"), ("Image Index", "{}.png")])
def test_challenge_tables_serve_as_truth(run, column, write):
    truth = manifest().query("split == 'test'")
    challenge = truth[LABELS].astype(int)
    challenge.insert(0, column, [write.format(name) for name in truth["image_id"]])
    challenge.insert(1, "ViewPosition", "PA")
    challenge.insert(2, "subject_id", 10000032)
    assert run(predicted(truth), challenge)["map"] == run(predicted(truth), truth)["map"]


def test_a_misspelt_label_column_is_an_error_that_lists_both_sides(run):
    truth = manifest().query("split == 'test'")
    with pytest.raises(InputError, match=r"not in the truth: Hernia; columns of the truth .*: Herniaa"):
        run(predicted(truth), truth.rename(columns={"Hernia": "Herniaa"}))


def test_labels_on_one_side_only_are_named_and_not_scored(run):
    truth = manifest().query("split == 'test'")
    report = run(predicted(truth), truth.drop(columns="Mass"))
    assert (report["labels"], report["not_in_truth"]) == (2, ["Mass"])
    report = run(predicted(truth).drop(columns="Mass"), truth)
    assert (report["labels"], report["not_predicted"]) == (2, ["Mass"])
    with pytest.raises(InputError, match="do not fit"):
        run(predicted(truth), truth.drop(columns=LABELS))


def test_a_label_set_matches_aliases_and_limits_what_is_scored(run, tmp_path):
    labels = tmp_path / "set.yaml"
    labels.write_text("name: set\nlabels: [{name: Mass, aliases: {x: [Tumour]}}, {name: Hernia}]\n")
    truth = manifest().query("split == 'test'")
    renamed = truth.rename(columns={"Mass": "tumour"}).drop(columns="Nodule")
    report = run(predicted(truth), renamed, labels=labels)
    assert [row["label"] for row in report["per_label"]] == ["Mass", "Hernia"]
    with pytest.raises(InputError, match="in the truth, but not predicted: Mass"):
        run(predicted(truth).drop(columns="Mass"), renamed, labels=labels)


def test_unknown_and_soft_truth_is_masked_and_one_sided_labels_are_skipped(run):
    truth = manifest().query("split == 'test'").reset_index(drop=True)
    truth.loc[0, "Mass"], truth.loc[1, "Mass"], truth["Hernia"] = np.nan, 0.7, 0.0
    report = run(predicted(truth), truth)
    rows = {row["label"]: row for row in report["per_label"]}
    mass, hernia = rows["Mass"], rows["Hernia"]
    assert (mass["unknown"], mass["soft"], mass["positives"] + mass["negatives"]) == (1, 1, 18)
    assert (hernia["auroc"], hernia["ap"], report["skipped"]) == (None, None, ["Hernia"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.assign(Mass=-1.0), r"label 'Mass' is -1\.0 for i0060 s030 test \(20 such rows\)"),
        (lambda t: t.assign(Mass="yes"), "label 'Mass' is yes for"),
        (lambda t: t.drop(columns=["image_id", "study_id"]), "no id column"),
        (lambda t: t.assign(image_id="other-" + t["image_id"]), "no image_id in common"),
        (lambda t: t.assign(**dict.fromkeys(LABELS, 0.0)), "none of the 3 labels has both"),
    ],
)
def test_truth_that_cannot_be_used_is_refused(run, change, message):
    truth = manifest().query("split == 'test'")
    with pytest.raises(InputError, match=message):
        run(predicted(truth), change(truth))


def test_an_unknown_split_and_training_tables_without_training_rows_are_refused(run, tmp_path):
    truth = manifest()
    test = truth.query("split == 'test'")
    with pytest.raises(InputError, match=r"--split dev: .* has only test, train"):
        run(predicted(truth), truth, split="dev")
    test.to_csv(tmp_path / "train.csv", index=False)
    with pytest.raises(InputError, match=r"no row of it is `train`"):
        run(predicted(test), test, train=tmp_path / "train.csv")


@pytest.mark.parametrize("without", [[], ["split"]])
def test_groups_never_come_from_the_rows_that_are_scored(run, caplog, without):
    test = manifest().query("split == 'test'").drop(columns=without)
    with caplog.at_level("INFO", "longview"):
        report = run(predicted(test), test)
    assert (report["groups"], {row["group"] for row in report["per_label"]}) == ({}, {""})
    assert [record.message.count("--train TABLE_OR_STORE") for record in caplog.records] == [1]


def test_all_rows_of_a_training_table_without_splits_count(run, tmp_path, caplog):
    """Mass is in half of the test rows, and in the last 3 % of the training table's."""
    test = manifest().query("split == 'test'")
    train = manifest(patients=100, views=1).drop(columns="split").assign(Mass=0.0)
    train.loc[97:, "Mass"] = 1.0
    train.to_csv(tmp_path / "train.csv", index=False)
    with caplog.at_level("INFO", "longview"):
        report = run(predicted(test), test.drop(columns="split"), train=tmp_path / "train.csv")
    assert {row["label"]: row["group"] for row in report["per_label"]}["Mass"] == "medium"
    assert not caplog.records


def test_a_report_replaces_an_earlier_one_and_leaves_other_files(run, tmp_path):
    truth = manifest().query("split == 'test'")
    run(predicted(truth), truth)
    (tmp_path / "out" / "notes.txt").write_text("mine")
    first = (tmp_path / "out" / "metrics.json").read_text()
    (tmp_path / ".out.partial").mkdir()
    (tmp_path / ".out.partial" / "half.png").touch()  # of a run that was killed
    run(predicted(truth, seed=5), truth)
    assert (tmp_path / "out" / "metrics.json").read_text() != first
    assert {file.name for file in (tmp_path / "out").iterdir()} == REPORT | {"notes.txt"}
    assert not list(tmp_path.glob(".*partial"))


def test_a_full_disk_leaves_the_earlier_report(run, tmp_path, monkeypatch):
    truth = manifest().query("split == 'test'")
    run(predicted(truth), truth)
    before = {file.name: file.read_bytes() for file in (tmp_path / "out").iterdir()}

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("longview.score_report.plot_bars", full)
    with pytest.raises(OSError, match="No space"):
        run(predicted(truth, seed=5), truth)
    assert {file.name: file.read_bytes() for file in (tmp_path / "out").iterdir()} == before
    assert not list(tmp_path.glob(".*partial"))


def test_a_file_in_the_way_is_refused(run, tmp_path):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(InputError, match="is a file"):
        run(predicted(manifest()), manifest())


@pytest.mark.parametrize("below", ["x", "x/y"])
def test_an_output_below_a_file_is_refused_by_name(tmp_path, below):
    (tmp_path / "README.md").write_text("mine")
    output = tmp_path / "README.md" / below
    with pytest.raises(InputError, match=r"README\.md.*--output"), staged(output):
        pass
    assert (tmp_path / "README.md").read_text() == "mine"


@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied"), FileNotFoundError(2, "No such file")])
def test_an_output_that_cannot_be_made_is_refused_with_the_reason(tmp_path, monkeypatch, error):
    def refuse(*args, **kwargs):
        raise error

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(InputError, match=rf"{error.strerror}.*--output"), staged(tmp_path / "out"):
        pass


@pytest.mark.parametrize("labels", [1, 14, 40])
def test_plots_have_a_panel_per_label(tmp_path, labels):
    rng = np.random.default_rng(0)
    names = [f"Label {number}" for number in range(labels)]
    ids = pd.DataFrame({"image_id": [f"i{row}" for row in range(60)]})
    truth = pd.concat([ids, pd.DataFrame(rng.random((60, labels)) < 0.3, columns=names).astype(int)], axis=1)
    pd.concat([ids, pd.DataFrame(rng.random((60, labels)), columns=names)], axis=1).to_csv(tmp_path / "p.csv")
    truth.to_csv(tmp_path / "t.csv", index=False)
    evaluate(tmp_path / "p.csv", tmp_path / "t.csv", tmp_path / "out", bootstrap=0)
    sizes = {}
    for name in ("roc", "pr", "per_label"):
        with Image.open(tmp_path / "out" / f"{name}.png") as image:
            sizes[name] = image.size
            assert len(image.convert("L").getcolors()) > 20  # more than an empty sheet
    panel = 247 * 247  # pixels of a panel at 1.9 inches and 130 dpi
    assert sizes["roc"] == sizes["pr"]
    assert labels * panel < sizes["roc"][0] * sizes["roc"][1] < 3 * labels * panel + 600_000


@pytest.mark.parametrize("labels", [14, 40])
def test_no_figure_of_the_bars_is_struck_through_by_the_mark_of_chance(tmp_path, monkeypatch, labels):
    rng = np.random.default_rng(0)
    targets = rng.random((400, labels)) < np.geomspace(0.5, 0.02, labels)
    names = [f"Label {number}" for number in range(labels)]
    drawn, blank = [], curves.empty_figure
    monkeypatch.setattr(curves, "empty_figure", lambda *inches: drawn.append(blank(*inches)) or drawn[0])
    curves.plot_bars(names, per_label(rng.random(targets.shape), targets), {}, tmp_path / "bars.png")
    for axis in drawn[0].axes:
        marks = [axis.transData.transform(line) for line in axis.collections[0].get_segments()]
        for text, mark in zip(axis.texts, marks, strict=True):
            box = text.get_window_extent()
            assert not box.x0 - 2 < mark[0, 0] < box.x1 + 2


def test_the_area_under_the_drawn_curves_is_the_metric():
    rng = np.random.default_rng(0)
    labels = (rng.random(300) < 0.3).astype(float)
    scores = (rng.normal(size=300) + labels).round(1)  # with ties
    curve = Curve.of(scores, labels)
    auroc, ap = auroc_ap(scores, labels)
    assert np.trapezoid(curve.roc()[1], curve.roc()[0]) == pytest.approx(auroc)
    recall, precision = curve.precision_recall()
    assert np.sum(np.diff(recall, prepend=0) * precision) == pytest.approx(ap)


def test_real_labels_of_nih(shared_data, run):
    table = pd.read_csv(shared_data / "nih-1000" / "Data_Entry_2017.csv")
    tests = set((shared_data / "nih-1000" / "test_list.txt").read_text().split())
    findings = table["Finding Labels"].str.get_dummies("|").drop(columns="No Finding")
    truth = pd.concat([table[["Image Index", "Patient Age", "View Position"]], findings], axis=1)
    truth = truth[truth["Image Index"].isin(tests)]
    rng = np.random.default_rng(0)
    scores = rng.random(findings.shape)[: len(truth)].round(2)
    predictions = pd.DataFrame(scores, columns=findings.columns)
    predictions.insert(0, "image_id", truth["Image Index"].str.removesuffix(".png").to_numpy())
    report = run(predictions, truth)
    assert report["rows"] == 310
    for row in report["per_label"]:
        true = truth[row["label"]].to_numpy()
        column = predictions[row["label"]]
        assert row["auroc"] == pytest.approx(roc_auc_score(true, column), abs=1e-9)
        assert row["ap"] == pytest.approx(average_precision_score(true, column), abs=1e-9)


def test_starts_without_torch_and_without_drawing_libraries():
    heavy = ("torch", "matplotlib", "sklearn", "cv2")
    code = f"import sys, longview.evaluate, longview.submission; sys.exit(any(m in sys.modules for m in {heavy}))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


HIERARCHY = """
name: set
labels: [{name: Mass}, {name: Nodule}, {name: Hernia}, {name: Lesion, derived: any}, {name: Abnormal, derived: any},
         {name: Nothing, derived: none}]
hierarchy: {Abnormal: [Lesion, Hernia], Lesion: [Mass, Nodule]}
"""


@pytest.fixture
def hierarchy(tmp_path):
    file = tmp_path / "set.yaml"
    file.write_text(HIERARCHY)
    return file


def with_parents(predictions, **columns):
    return predictions.assign(**{name: np.float32(value) for name, value in columns.items()})


def test_violations_are_counted_by_row_and_edge_before_and_after_consistency(run, hierarchy, tmp_path, capsys):
    truth = manifest().query("split == 'test'")
    predictions = with_parents(predicted(truth), Lesion=0.6, Abnormal=0.4, Nothing=0.1)
    report = run(predictions, truth, labels=hierarchy)
    edges = [("Abnormal", "Lesion"), ("Abnormal", "Hernia"), ("Lesion", "Mass"), ("Lesion", "Nodule")]
    above = [(predictions[child] > predictions[parent]).mean() for parent, child in edges]
    across = [((predictions[child] >= 0.5) & (predictions[parent] < 0.5)).mean() for parent, child in edges]
    found = report["hierarchy"]
    assert found["edges"] == 4
    assert found["child_above_parent"] == {"before": pytest.approx(np.mean(above)), "after": 0}
    assert found["child_without_parent"] == {"before": pytest.approx(np.mean(across)), "after": 0}
    assert found["map"]["before"] == report["map"]
    table = pd.read_csv(tmp_path / "out" / "violations.csv")
    assert list(zip(table["parent"], table["child"], strict=True)) == edges
    np.testing.assert_allclose(table["child_above_parent"], above)
    np.testing.assert_allclose(table["child_without_parent"], across)
    assert (table["child_above_parent_after"] == 0).all()
    assert "Hierarchy of 4 edges" in capsys.readouterr().out


def test_consistency_is_scored_like_predictions_with_raised_parents(run, hierarchy):
    truth = manifest().query("split == 'test'")
    rng = np.random.default_rng(3)
    parents = {name: rng.random(len(truth)) for name in ("Lesion", "Abnormal", "Nothing")}
    predictions = with_parents(predicted(truth), **parents)
    report = run(predictions, truth, labels=hierarchy)
    raised = predictions.assign(Lesion=predictions[["Lesion", "Mass", "Nodule"]].max(axis=1))
    raised["Abnormal"] = raised[["Abnormal", "Lesion", "Hernia"]].max(axis=1)
    again = run(raised, truth, labels=hierarchy)
    assert again["hierarchy"]["child_above_parent"]["before"] == 0
    assert again["map"] == again["hierarchy"]["map"]["after"] == report["hierarchy"]["map"]["after"] != report["map"]


def test_derived_truth_follows_from_the_tables_own_labels(run, hierarchy):
    truth = manifest()
    predictions = with_parents(predicted(truth.query("split == 'test'")), Lesion=0.6, Abnormal=0.4, Nothing=0.1)
    test = truth.query("split == 'test'")
    expected = {
        "Lesion": test[["Mass", "Nodule"]].max(axis=1).sum(),
        "Abnormal": test[LABELS].max(axis=1).sum(),
        "Nothing": (test[LABELS].max(axis=1) == 0).sum(),
    }
    for table in (truth, truth.assign(Lesion=0.0, Abnormal=np.nan)):  # what a table carries itself does not count
        report = run(predictions, table, labels=hierarchy)
        assert {row["label"]: row["positives"] for row in report["per_label"] if row["label"] in expected} == expected
        assert "Abnormal" in report["groups"]["head"]["labels"]
    per_study = with_parents(predicted(test, "study"), Lesion=0.6, Abnormal=0.4, Nothing=0.1)
    positives = {row["label"]: row["positives"] for row in run(per_study, test, labels=hierarchy)["per_label"]}
    assert {name: positives[name] * 2 for name in expected} == expected  # two images each


def test_a_model_without_the_derived_labels_is_scored_on_its_own(run, hierarchy, tmp_path):
    truth = manifest().query("split == 'test'")
    report = run(predicted(truth), truth.assign(Abnormal=1.0), labels=hierarchy)
    assert (report["labels"], report["hierarchy"]) == (3, None)
    assert not (tmp_path / "out" / "violations.csv").exists()
    partly = run(with_parents(predicted(truth), Abnormal=0.4), truth, labels=hierarchy)
    assert (partly["labels"], partly["hierarchy"]["edges"]) == (4, 3)  # Lesion is stepped over
    run(predicted(truth), truth, labels=hierarchy)
    assert not (tmp_path / "out" / "violations.csv").exists()  # none of an earlier report is left


def test_every_figure_has_an_interval_that_holds_it(run, tmp_path, capsys):
    truth = manifest(patients=200).query("split == 'test'")
    report = run(predicted(truth), truth)
    assert report["bootstrap"] | {"left_out": 0} == {
        "resamples": 1000, "seed": 0, "level": 0.95, "clusters": 50, "unit": "patient", "left_out": 0,
    }  # fmt: skip
    for name in ("map", "auroc", "ap_micro", "auroc_micro", "ap_weighted", "f1", "f1_micro", "mcc", "brier"):
        found = report["overall"][name]
        assert found["low"] <= found["value"] <= found["high"] and found["error"] > 0, name
    assert report["overall"]["map"]["value"] == pytest.approx(report["map"])
    assert report["label_figures"]["Mass"]["ap"]["value"] == report["per_label"][2]["ap"]
    assert "1,000 resamples of 50 patients" in " ".join(capsys.readouterr().out.split())
    table = pd.read_csv(tmp_path / "out" / "intervals.csv", keep_default_na=False)
    row = table.query("of == 'label' and name == 'Mass' and figure == 'auroc'").iloc[0]
    assert float(row["low"]) == pytest.approx(report["label_figures"]["Mass"]["auroc"]["low"])
    per_label_table = pd.read_csv(tmp_path / "out" / "per_label.csv")
    assert {"ap_low", "auroc_high", "f1", "mcc", "ece", "sensitivity_at_specificity_0.90"} <= set(per_label_table)


def test_without_resamples_there_are_figures_and_no_intervals(run, tmp_path):
    truth = manifest().query("split == 'test'")
    with_them = run(predicted(truth), truth)
    report = run(predicted(truth), truth, bootstrap=0)
    assert not (tmp_path / "out" / "intervals.csv").exists()  # of the earlier report
    assert report["bootstrap"] is None and report["overall"]["map"]["low"] is None
    assert report["overall"]["f1"]["value"] == with_them["overall"]["f1"]["value"]
    assert "ap_low" not in pd.read_csv(tmp_path / "out" / "per_label.csv")


def test_the_same_seed_gives_the_same_report_whatever_the_order_of_rows(run):
    truth = manifest().query("split == 'test'")
    table = predicted(truth)
    first = run(table, truth)
    assert run(table, truth) == first
    assert run(table, truth, seed=1)["overall"]["map"]["low"] != first["overall"]["map"]["low"]
    shuffled = run(table.sample(frac=1, random_state=7), truth)
    assert shuffled["overall"] == first["overall"]


def test_images_of_a_patient_are_drawn_together(run):
    """Eight equal images of each patient are no more to go by than one."""
    one = manifest(patients=160, views=1).query("split == 'test'")
    scores = predicted(one)
    copies = [one.assign(image_id=one["image_id"] + f"-{number}") for number in range(8)]
    copied = [scores.assign(image_id=scores["image_id"] + f"-{number}") for number in range(8)]
    single = run(scores, one)["overall"]["auroc"]
    eight = run(pd.concat(copied), pd.concat(copies))["overall"]["auroc"]
    assert (eight["low"], eight["high"]) == pytest.approx((single["low"], single["high"]), abs=1e-9)


def test_patients_of_the_truth_come_first_and_unknown_ones_are_said(run, capsys):
    truth = manifest().query("split == 'test'")
    scores = predicted(truth)
    assert run(scores.drop(columns="patient_id"), truth)["bootstrap"]["unit"] == "patient"
    bare = truth.drop(columns=["patient_id"])
    assert run(scores, bare)["bootstrap"]["unit"] == "patient"
    report = run(scores.drop(columns="patient_id"), bare)
    assert (report["bootstrap"]["unit"], report["bootstrap"]["clusters"]) == ("study", 10)
    words = "Patients are not known: intervals are over studies"
    assert words in " ".join(report["notes"]) and words in capsys.readouterr().out
    assert run(scores, truth)["notes"][0].startswith("Only 10 patients: intervals are too narrow")


def test_equal_ids_of_two_sources_are_two_patients_unless_they_share_films(run):
    truth = manifest(views=1).query("split == 'test'")
    scores = predicted(truth)
    for other, clusters in (("padchest", 20), ("rsna", 10)):
        twice = pd.concat([truth.assign(source="nih"), truth.assign(source=other, image_id="x" + truth["image_id"])])
        both = pd.concat([scores, scores.assign(image_id="x" + scores["image_id"])])
        assert run(both, twice)["bootstrap"]["clusters"] == clusters


def test_a_label_without_positives_in_a_resample_is_left_out_of_its_mean_and_counted(run):
    truth = manifest(views=1).query("split == 'test'").reset_index(drop=True).assign(Hernia=0.0)
    truth.loc[3, "Hernia"] = 1.0
    report = run(predicted(truth), truth)
    missing = report["bootstrap"]["left_out"]["Hernia"]
    assert 250 < missing < 450  # of 1,000: a patient of ten is not drawn in (9/10)^10 of them
    assert report["label_figures"]["Hernia"]["ap"]["undefined"] == missing
    assert report["overall"]["map"]["undefined"] == 0


def test_subgroups_are_scored_as_if_they_were_alone(run, tmp_path, capsys):
    truth = manifest(patients=200).query("split == 'test'").reset_index(drop=True)
    truth["view"] = np.where(np.arange(len(truth)) % 2, "PA", "lateral")
    truth["meta_age"] = np.repeat(np.arange(len(truth) // 2), 2)
    truth.loc[truth["view"] == "lateral", "Hernia"] = 0.0
    scores = predicted(truth)
    report = run(scores, truth, by="view,age")
    parts = {(part["column"], part["value"]): part for part in report["subgroups"]}
    assert list(parts) == [("view", "PA"), ("view", "lateral"), ("age", "0-17"), ("age", "18-39"), ("age", "40-59")]
    lateral = parts["view", "lateral"]
    assert (lateral["rows"], lateral["clusters"], lateral["labels"]) == (50, 50, 2)
    assert lateral["common"]["labels"] == parts["view", "PA"]["common"]["labels"] == ["Nodule", "Mass"]
    alone = run(scores, truth[truth["view"] == "lateral"])
    assert lateral["map"] == pytest.approx(alone["map"])
    assert lateral["figures"]["map"]["low"] == pytest.approx(alone["overall"]["map"]["low"])
    assert not (tmp_path / "out" / "subgroups.csv").exists()
    run(scores, truth, by="view")
    table = pd.read_csv(tmp_path / "out" / "subgroups.csv")
    assert table.query("value == 'PA' and label == 'Mass'")["positives"].item() == truth["Mass"].sum() / 2
    with pytest.raises(InputError, match="--by colour"):
        run(scores, truth, by="colour")


def test_studies_whose_images_differ_are_a_subgroup_of_their_own(run):
    truth = manifest().query("split == 'test'").reset_index(drop=True)
    truth.loc[0, "view"] = "AP"
    report = run(predicted(truth, "study"), truth, by="view")
    assert {part["value"]: part["rows"] for part in report["subgroups"]} == {"PA": 9, "several": 1}


def test_thresholds_of_a_calibration_cut_calibrated_probabilities(run, tmp_path):
    from sklearn.metrics import f1_score

    truth = manifest().query("split == 'test'")
    scores = predicted(truth)
    entry = {"temperature": {"temperature": 2.0}, "thresholds": {"f1": 0.6}}
    content = {"calibration": 1, "method": "temperature", "labels": dict.fromkeys(LABELS, entry)}
    (tmp_path / "c.json").write_text(json.dumps(content))
    report = run(scores, truth, calibration=tmp_path / "c.json")
    joined = truth.merge(scores, on="image_id", suffixes=("_true", ""))
    raw = joined["Mass"].to_numpy(np.float64)
    softened = 1 / (1 + np.exp(-np.log(raw / (1 - raw)) / 2))
    found = report["label_figures"]["Mass"]
    assert found["f1_tuned"]["value"] == pytest.approx(f1_score(joined["Mass_true"], softened >= 0.6))
    assert found["f1"]["value"] == pytest.approx(f1_score(joined["Mass_true"], softened >= 0.5))
    assert report["thresholds"]["tuned"]["Mass"] == 0.6 and "calibration" in report["files"]
    confusion = pd.read_csv(tmp_path / "out" / "confusion.csv").query("label == 'Mass'").set_index("rule")
    assert confusion.loc["tuned", ["tp", "fp", "fn", "tn"]].sum() == 20
    with pytest.raises(InputError, match="no thresholds by 'youden'"):
        run(scores, truth, calibration=tmp_path / "c.json", rule="youden")


def test_the_preset_of_the_challenge_has_map_first(run, capsys):
    truth = manifest().query("split == 'test'")
    report = run(predicted(truth), truth, preset="cxr-lt")
    assert list(report["preset"]["figures"]) == ["mAP", "mAUROC", "mF1", "mECE"]
    assert report["preset"]["figures"]["mAP"]["value"] == report["map"]
    assert "mECE" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [({"bootstrap": -1}, "--bootstrap -1"), ({"threshold": 1.5}, "--threshold 1.5"),
     ({"preset": "cxr-lt", "threshold": 0.3}, "has F1 at 0.5")],
)  # fmt: skip
def test_options_that_make_no_sense_are_refused(run, options, message):
    with pytest.raises(InputError, match=message):
        run(predicted(manifest()), manifest(), **options)
