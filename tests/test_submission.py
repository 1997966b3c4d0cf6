"""Submissions hold the template's ids and labels in the template's order, with the scores of the right ones."""

import zipfile

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longview import InputError
from longview.calibration.calibrators import Beta, Isotonic, Platt, Temperature
from longview.calibration.file import CalibratedLabel, Calibration
from longview.labels import LabelSet
from longview.predictions import MODEL
from longview.submission import submit

LABELS = ["Mass", "Nodule", "Normal", "Hernia"]


def predictions(studies=6, views=0, labels=LABELS):
    """Probabilities that tell which row and label they belong to; with views, one row per image."""
    rows = [(study, view) for study in range(studies) for view in range(max(views, 1))]
    table = pd.DataFrame(
        {
            "patient_id": [f"100000{study:02}" for study, _ in rows],
            "study_id": [f"s5000000{study}" for study, _ in rows],
            "image_id": [f"d{study}-{view}" if views else "" for study, view in rows],
        }
    )
    for number, label in enumerate(labels):
        table[label] = np.array([score(study, view, number) for study, view in rows], np.float32)
    return table if views else table.drop(columns="image_id")


def score(study, view, label):
    return 0.01 + study / 10 + view / 100 + label / 1000


def template(form, studies=6, views=2, labels=LABELS):
    """A sample file of a challenge, rows from the last to the first, with placeholder values."""
    rows = [(study, view) for study in reversed(range(studies)) for view in range(views)]
    images = [f"d{study}-{view}" for study, view in rows]
    paths = [f"files/p10/p100000{study:02}/s5000000{study}/d{study}-{view}.jpg" for study, view in rows]
    columns = {
        "2023": {"dicom_id": images, "subject_id": 1, "path": paths},
        "2024": {
            "dicom_id": images,
            "subject_id": 1,
            "study_id": [f"s5000000{study}" for study, _ in rows],
            "fpath": paths,
        },
        "2026": {"ImageID": [f"{image}.png" for image in images], "StudyDate_DICOM": 2010, "PatientID": "3.24E+38"},
    }[form]
    placeholder = {label: np.nan if number else 0 for number, label in enumerate(labels)}
    return pd.DataFrame(columns | placeholder, index=range(len(rows)))


@pytest.fixture
def run(tmp_path):
    """Write both tables, submit, and read the CSV back."""

    def run(table, sample, **options):
        table.to_parquet(tmp_path / "p.parquet", index=False)
        sample.to_csv(tmp_path / "sample.csv", index=False)
        submit(tmp_path / "p.parquet", tmp_path / "sample.csv", tmp_path / "out", **options)
        return pd.read_csv(tmp_path / "out" / "submission.csv")

    return run


@pytest.mark.parametrize(
    ("form", "views", "column"), [("2023", 0, "dicom_id"), ("2024", 0, "dicom_id"), ("2026", 2, "ImageID")]
)
def test_each_challenges_form(run, form, views, column):
    sample = template(form)
    result = run(predictions(views=views), sample)
    assert list(result.columns) == [column, *LABELS]
    assert result[column].tolist() == sample[column].tolist()
    for row, image in enumerate(result[column]):
        study, view = int(image[1]), int(image[3]) if views else 0
        assert result.loc[row, LABELS].tolist() == pytest.approx([score(study, view, k) for k in range(4)])


def test_normal_and_nodule_go_by_name_not_by_place(run, project_root):
    task1 = LabelSet.load(project_root / "configs/labels/cxr_lt_2024_task1.yaml").names
    task2 = LabelSet.load(project_root / "configs/labels/cxr_lt_2024_task2.yaml").names
    assert task2.index("Normal") + 1 == task2.index("Nodule")  # the order of the challenge's files
    model = [name for name in sorted(task1) if name in task2]
    model.sort(key=lambda name: {"Nodule": "N1", "Normal": "N2"}.get(name, name))  # Nodule first, as models list them
    assert model.index("Nodule") < model.index("Normal")
    result = run(predictions(labels=model), template("2024", labels=task2))
    assert list(result.columns[1:]) == task2
    first = result.iloc[0]  # study 5
    assert first["Nodule"] == pytest.approx(score(5, 0, model.index("Nodule")))
    assert first["Normal"] == pytest.approx(score(5, 0, model.index("Normal")))


@given(st.permutations(LABELS), st.permutations(LABELS), st.permutations(range(6)))
@settings(deadline=None, max_examples=15)
def test_any_order_of_rows_and_columns_gives_each_image_its_scores(tmp_path_factory, model, sample, order):
    folder = tmp_path_factory.mktemp("permuted")
    predictions().iloc[list(order)][["patient_id", "study_id", *model]].to_csv(folder / "p.csv", index=False)
    template("2023", labels=sample).to_csv(folder / "sample.csv", index=False)
    submit(folder / "p.csv", folder / "sample.csv", folder / "out")
    result = pd.read_csv(folder / "out" / "submission.csv")
    assert list(result.columns) == ["dicom_id", *sample]
    wanted = [[score(int(image[1]), 0, LABELS.index(name)) for name in sample] for image in result["dicom_id"]]
    assert np.allclose(result[list(sample)], wanted)


def test_the_study_of_an_image_may_come_from_a_manifest(run, tmp_path):
    sample = template("2023").drop(columns="path")
    with pytest.raises(InputError, match="give --manifest"):
        run(predictions(), sample)
    images = template("2024")[["dicom_id", "study_id"]]
    images.iloc[::-1].to_csv(tmp_path / "m.csv", index=False)
    result = run(predictions(), sample, manifest=tmp_path / "m.csv")
    assert result["Mass"].tolist() == pytest.approx([score(int(name[1]), 0, 0) for name in sample["dicom_id"]])
    images.iloc[3:].to_csv(tmp_path / "m.csv", index=False)
    with pytest.raises(InputError, match="lacks 3 images of the template: d5-0, d5-1, d4-0"):
        run(predictions(), sample, manifest=tmp_path / "m.csv")


@pytest.mark.parametrize(
    ("views", "message"), [(0, r"lack 4 of the 12 images .*d5-0, d5-1, d4-0, d4-1"), (2, "lack 4 of the 12 images")]
)
def test_images_that_were_not_predicted_are_counted_and_named(run, tmp_path, views, message):
    with pytest.raises(InputError, match=message):
        run(predictions(studies=4, views=views), template("2024"))
    assert not (tmp_path / "out").exists()


def test_more_images_and_labels_than_asked_for_are_fine(run):
    result = run(predictions(studies=9), template("2024", labels=["Hernia", "Mass"]))
    assert result.shape == (12, 3)


def test_an_image_that_stands_twice_in_the_template_is_refused(run):
    sample = template("2024")
    with pytest.raises(InputError, match="1 image ids stand in more than one row: d5-0"):
        run(predictions(), pd.concat([sample, sample.iloc[[0]]]))


def test_labels_that_were_not_predicted_list_both_sides(run, tmp_path):
    with pytest.raises(InputError, match=r"not predicted: Cardiomegaly; .* does not have: Mass"):
        run(predictions(), template("2024", labels=["Cardiomegaly", *LABELS[1:]]))
    labels = tmp_path / "set.yaml"
    labels.write_text("name: s\nlabels: [{name: Mass, aliases: {x: [tumour]}}]\n")
    result = run(predictions(), template("2024", labels=["tumour", "Hernia"]), labels=labels)
    assert result.iloc[0, 1:].tolist() == pytest.approx([score(5, 0, 0), score(5, 0, 3)])


@pytest.mark.parametrize("drop", [["dicom_id"], LABELS])
def test_templates_without_images_or_labels_are_refused(run, drop):
    with pytest.raises(InputError, match=r"no image column|no label columns"):
        run(predictions(), template("2024").drop(columns=drop))


def test_thresholded_predictions_are_refused(run):
    table = predictions()
    table[LABELS] = (table[LABELS] > 0.3).astype(np.float32)
    with pytest.raises(InputError, match="thresholded"):
        run(table, template("2024"))


def test_scores_keep_every_digit_of_float32(run):
    table = predictions()
    table[LABELS] = np.random.default_rng(0).random((6, 4)).astype(np.float32) ** 8
    result = run(table, template("2023"))
    wanted = table.set_index("study_id").loc[[f"s5000000{name[1]}" for name in result["dicom_id"]], LABELS]
    assert np.array_equal(result[LABELS].to_numpy(np.float32), wanted.to_numpy())


def test_the_zip_holds_the_csv_and_the_code_and_is_the_same_each_time(run, tmp_path):
    code = tmp_path / "project"
    (code / "sub" / "__pycache__").mkdir(parents=True)
    for name in ("main.py", "sub/a.py", "sub/__pycache__/a.pyc", ".secret"):
        (code / name).write_text("x")
    run(predictions(), template("2024"), code=code)
    archive = tmp_path / "out" / "submission.zip"
    with zipfile.ZipFile(archive) as opened:
        assert opened.namelist() == ["submission.csv", "code/main.py", "code/sub/a.py"]
        assert opened.read("submission.csv") == (tmp_path / "out" / "submission.csv").read_bytes()
    first = archive.read_bytes()
    run(predictions(), template("2024"), code=code)
    assert archive.read_bytes() == first
    with pytest.raises(InputError, match="does not exist"):
        run(predictions(), template("2024"), code=tmp_path / "absent")
    assert archive.read_bytes() == first


def store_of(tmp_path, views=2):
    table = predictions(views=views)
    manifest = table[["patient_id", "study_id", "image_id"]].assign(
        source="cxr-lt-2024", view="PA", path=table["image_id"] + ".jpg", Hernia=1.0, Mass=np.nan
    )
    manifest["split"] = np.where(manifest["patient_id"].isin(manifest["patient_id"].unique()[:2]), "test", "train")
    folder = tmp_path / "store"
    folder.mkdir()
    manifest.to_parquet(folder / "manifest.parquet")
    return folder, manifest


def test_a_store_is_a_template_of_its_test_images(tmp_path):
    folder, manifest = store_of(tmp_path)
    predictions().to_csv(tmp_path / "p.csv", index=False)
    submit(tmp_path / "p.csv", folder, tmp_path / "out")
    result = pd.read_csv(tmp_path / "out/submission.csv")
    assert list(result.columns) == ["dicom_id", "Hernia", "Mass"]
    assert result["dicom_id"].tolist() == manifest.query("split == 'test'")["image_id"].tolist()
    np.testing.assert_allclose(result["Hernia"], [score(0, 0, 3)] * 2 + [score(1, 0, 3)] * 2, rtol=1e-6)


def test_a_store_without_the_split_is_refused_with_those_it_has(tmp_path):
    folder, _ = store_of(tmp_path)
    predictions().to_csv(tmp_path / "p.csv", index=False)
    with pytest.raises(InputError, match=r"no images of --split val; it has test, train"):
        submit(tmp_path / "p.csv", folder, tmp_path / "out", split="val")


@pytest.mark.parametrize("name", ["a/b", "", ".", "/tmp/x"])
def test_a_name_that_is_no_file_name_is_refused(run, tmp_path, name):
    with pytest.raises(InputError, match=r"--name .*--output"):
        run(predictions(), template("2024"), name=name)
    assert not (tmp_path / "out").exists()


def test_a_calibration_is_applied_by_name_and_changes_no_ranking(run, tmp_path):
    calibrators = {"Hernia": Platt(0.5, -2.0), "Mass": Temperature(2.0), "Nodule": Beta(1.0, 0.5, 1.0)}
    labels = {name: CalibratedLabel(item) for name, item in {**calibrators, "Normal": Temperature(1.0)}.items()}
    Calibration("platt", labels).write(tmp_path / "c.json")
    table, sample = predictions(), template("2024")
    plain, result = run(table, sample), run(table, sample, calibration=tmp_path / "c.json")
    for name, calibrator in calibrators.items():
        wanted = calibrator.apply(plain[name].to_numpy(np.float32))
        np.testing.assert_allclose(result[name], wanted, rtol=1e-12)
        assert result[name].rank().tolist() == plain[name].rank().tolist()


def test_a_calibration_of_other_labels_or_another_model_is_refused(run, tmp_path):
    labels = {name: CalibratedLabel(Temperature(2.0)) for name in LABELS}
    Calibration("temperature", labels, model="a" * 64).write(tmp_path / "c.json")
    with pytest.raises(InputError, match=r"c\.json was fitted on other labels than .*p\.parquet has; .*Fracture"):
        run(predictions(labels=[*LABELS[:3], "Fracture"]), template("2024"), calibration=tmp_path / "c.json")
    table = predictions()
    table.attrs[MODEL] = "b" * 64
    with pytest.raises(InputError, match=r"c\.json was fitted on another model .*than .*p\.parquet"):
        run(table, template("2024"), calibration=tmp_path / "c.json")
    assert not (tmp_path / "out").exists()


def test_an_isotonic_calibration_is_said_to_make_ties(run, tmp_path, caplog):
    labels = {name: CalibratedLabel(Isotonic((0.0, 1.0), (0.1, 0.9))) for name in LABELS}
    Calibration("isotonic", labels).write(tmp_path / "c.json")
    run(predictions(), template("2024"), calibration=tmp_path / "c.json")
    assert "makes ties" in caplog.text


@pytest.mark.parametrize("option", ["predictions", "template", "manifest", "labels", "calibration", "code"])
@pytest.mark.parametrize("ending", ["csv", "zip"])
def test_a_file_that_is_read_is_never_written(tmp_path, option, ending):
    predictions().to_csv(tmp_path / "p.csv", index=False)
    template("2024").to_csv(tmp_path / "sample.csv", index=False)
    (tmp_path / f"mine.{ending}").write_text("image_id,study_id\n")
    files = {"predictions": tmp_path / "p.csv", "template": tmp_path / "sample.csv"}
    files[option] = tmp_path / "sub" / ".." / f"mine.{ending}"
    (tmp_path / "sub").mkdir()
    before = {file.name: file.read_bytes() for file in tmp_path.glob("*.*")}
    with pytest.raises(InputError, match=rf"--output would write .*mine\.{ending}, which --{option} reads"):
        submit(output=tmp_path, name="mine", **files)
    assert {file.name: file.read_bytes() for file in tmp_path.glob("*.*")} == before


@pytest.mark.parametrize("ending", ["csv", "zip"])
def test_a_file_that_no_earlier_run_wrote_is_refused(run, tmp_path, ending):
    (tmp_path / "out").mkdir()
    mine = tmp_path / "out" / f"submission.{ending}"
    mine.write_text("dicom_id,Mass\n")
    with pytest.raises(InputError, match=rf"would replace .*submission\.{ending}, which no earlier `submit` wrote"):
        run(predictions(), template("2024"))
    assert mine.read_text() == "dicom_id,Mass\n"
    with zipfile.ZipFile(tmp_path / "out" / "submission.zip", "w") as archive:  # of someone else
        archive.writestr("submission.csv", "dicom_id,Mass\n")
    with pytest.raises(InputError, match="which no earlier"):
        run(predictions(), template("2024"))


def test_a_folder_with_brackets_is_no_markup(tmp_path, capsys):
    predictions().to_csv(tmp_path / "p.csv", index=False)
    template("2024").to_csv(tmp_path / "sample.csv", index=False)
    submit(tmp_path / "p.csv", tmp_path / "sample.csv", tmp_path / "[" / "b]")
    submit(template=tmp_path / "sample.csv", check=tmp_path / "[" / "b]" / "submission.zip")
    assert capsys.readouterr().out.count("[/b]/submission") == 2
