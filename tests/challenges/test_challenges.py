"""Submissions by task, gating by label name, and the check that finds every fault of a file at once."""

import zipfile

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longview import InputError
from longview.challenges.check import Wanted, check_submission
from longview.challenges.gating import gate
from longview.challenges.tasks import TASKS, task_of, wanted_columns
from longview.cli import main
from longview.labels import LabelSet
from longview.submission import submit

LABELS = ["Mass", "Normal", "Nodule"]
IMAGES = [f"d{number}" for number in range(6)]


def predictions(labels, images=IMAGES, seed=0):
    table = pd.DataFrame({"patient_id": images, "study_id": images, "image_id": images})
    values = np.random.default_rng(seed).random((len(images), len(labels)))
    return pd.concat([table, pd.DataFrame(values, columns=list(labels))], axis=1)


@pytest.mark.parametrize(("name", "count"), [*zip(sorted(TASKS), [26, 40, 26, 5, 30, 6], strict=True)])
def test_a_task_knows_its_columns_and_a_list_of_images_is_template_enough(name, count, tmp_path):
    task = task_of(name)
    columns = task.columns()
    assert len(columns) == len(set(columns)) == count
    table = predictions(sorted(columns, key=str.casefold))
    table.to_parquet(tmp_path / "p.parquet", index=False)
    pd.DataFrame({task.image: IMAGES[::-1], "fpath": "files/x.jpg"}).to_csv(tmp_path / "test.csv", index=False)
    submit(tmp_path / "p.parquet", tmp_path / "test.csv", tmp_path / "out", task=name)
    result = pd.read_csv(tmp_path / "out" / "submission.csv")
    assert list(result.columns) == [task.image, *columns]
    assert result[task.image].tolist() == IMAGES[::-1]
    np.testing.assert_array_equal(result[columns], table[columns].iloc[::-1])
    submit(check=tmp_path / "out" / "submission.zip", template=tmp_path / "test.csv", task=name)


def test_normal_stands_before_nodule_in_task_2_and_only_unseen_labels_in_task_3(project_root):
    columns = task_of("cxr-lt-2024-task2").columns()
    assert columns[columns.index("Mass") :][:3] == ["Mass", "Normal", "Nodule"]
    assert task_of("cxr-lt-2024-task3").columns() == ["Bulla", "Cardiomyopathy", "Hilum", "Osteopenia", "Scoliosis"]
    for task in TASKS.values():
        assert (project_root / "configs/labels" / f"{task.label_set}.yaml").is_file()


def test_the_templates_own_order_wins_and_labels_of_another_task_are_named(tmp_path, caplog):
    task = task_of("cxr-lt-2024-task3")
    assert wanted_columns(task, task.columns()[::-1], tmp_path) == task.columns()[::-1]
    assert "in another order" in caplog.text
    with pytest.raises(InputError, match=r"it lacks: Bulla; columns that are none of the task's: Goiter"):
        wanted_columns(task, ["Goiter", *task.columns()[1:]], tmp_path)
    with pytest.raises(InputError, match="there are cxr-lt-2023, "):
        task_of("cxr-lt-2025")


def test_gating_goes_by_name_spares_what_it_is_told_and_is_the_formula():
    table = predictions(["Support Devices", "Mass", "Normal"])
    result = gate(table, "normal", ["support devices"])
    factor = np.sqrt(1 - table["Normal"])
    np.testing.assert_allclose(result["Mass"], table["Mass"] * factor)
    pd.testing.assert_frame_equal(result[["Normal", "Support Devices"]], table[["Normal", "Support Devices"]])
    moved = gate(table[["image_id", "Normal", "Mass", "Support Devices"]], "Normal", ["Support Devices"])
    np.testing.assert_array_equal(moved["Mass"], result["Mass"])
    pd.testing.assert_frame_equal(gate(table, "Normal", power=0.0), table)
    with pytest.raises(InputError, match="'No Finding' was not predicted"):
        gate(table, "No Finding")
    labels = LabelSet.from_dict({"name": "s", "labels": [{"name": "Normal", "aliases": {"x": ["No Finding"]}}]})
    pd.testing.assert_frame_equal(gate(table, "No Finding", labels=labels), gate(table, "Normal"))


def test_nothing_is_gated_unless_asked_for(tmp_path, caplog):
    predictions(LABELS).to_parquet(tmp_path / "p.parquet", index=False)
    predictions(LABELS, seed=1).to_csv(tmp_path / "s.csv", index=False)
    submit(tmp_path / "p.parquet", tmp_path / "s.csv", tmp_path / "out")
    plain = pd.read_csv(tmp_path / "out/submission.csv")
    np.testing.assert_array_equal(plain[LABELS], predictions(LABELS)[LABELS])
    assert "gating" not in caplog.text
    submit(tmp_path / "p.parquet", tmp_path / "s.csv", tmp_path / "out", gate="Normal", gate_power=1.0)
    gated = pd.read_csv(tmp_path / "out/submission.csv")
    np.testing.assert_allclose(gated["Mass"], plain["Mass"] * (1 - plain["Normal"]))
    assert "compare on validation first" in caplog.text


# ---- the check ---------------------------------------------------------------------------------------------------

WANTED = Wanted("dicom_id", IMAGES, LABELS)


def sound():
    return predictions(LABELS)[["image_id", *LABELS]].rename(columns={"image_id": "dicom_id"})


def faults(tmp_path, table, **options):
    file = tmp_path / "s.csv"
    table.to_csv(file, index=False, **options)
    return check_submission(file, WANTED)


def test_a_sound_file_has_no_fault(tmp_path):
    found = faults(tmp_path, sound())
    assert (found.faults, found.warnings) == ([], [])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.drop(columns="Normal"), "columns are missing: Normal"),
        (lambda t: t.assign(Hernia=0.5), "columns that the template does not have: Hernia"),
        (lambda t: t[["dicom_id", "Normal", "Mass", "Nodule"]], "column 2 is 'Normal', not 'Mass'"),
        (lambda t: t.rename(columns={"dicom_id": "image_id"}), "columns are missing: dicom_id"),
        (lambda t: t.iloc[:-1], "1 of the template's 6 images are missing: d5"),
        (lambda t: pd.concat([t, t.iloc[[2]]]), "1 images stand in more than one row: d2"),
        (lambda t: t.replace("d3", "d9"), "1 images are not the template's: d9"),
        (lambda t: t.iloc[::-1], "row 1 is d5, not d0"),
        (lambda t: t.assign(Mass=[0.1, np.nan, 0.2, 0.3, 0.4, 0.5]),
         "1 values are empty or NaN, in Mass; first '' for 'Mass' of image d1"),
        (lambda t: t.assign(Nodule=["0.1", "x", "0.2", "0.3", "0.4", "0.5"]), "1 values are no numbers"),
        (lambda t: t.assign(Nodule=[0.1, 1.5, -0.2, 0.3, 0.4, np.inf]), "3 values lie outside 0 to 1, in Nodule"),
    ],
)  # fmt: skip
def test_each_fault_is_found_alone_and_named(tmp_path, change, message):
    found = faults(tmp_path, change(sound()))
    assert any(message in fault for fault in found.faults), found.faults


@given(st.sets(st.sampled_from(["column", "image", "nan", "range"]), min_size=1))
@settings(deadline=None, derandomize=True, max_examples=10)
def test_all_faults_are_told_at_once(tmp_path_factory, kinds):
    table = sound()
    if "nan" in kinds:
        table.loc[1, "Mass"] = np.nan
    if "range" in kinds:
        table.loc[2, "Nodule"] = 7
    if "column" in kinds:
        table = table.rename(columns={"Normal": "normal "})
    if "image" in kinds:
        table = table.iloc[1:]
    found = faults(tmp_path_factory.mktemp("many"), table)
    assert len(found.faults) == len(kinds) + ("column" in kinds)  # one is missing, one is too many


def test_thresholded_and_constant_columns_are_warned_of(tmp_path):
    table = sound()
    table["Mass"] = (table["Mass"] > 0.5).astype(int)
    table["Nodule"] = 0.5
    found = faults(tmp_path, table)
    assert found.faults == []
    assert any("1 labels have only 0 and 1 (Mass)" in text for text in found.warnings)
    assert any("same value in every row: Nodule" in text for text in found.warnings)


def test_a_table_of_another_encoding_or_ragged_is_a_fault_and_no_crash(tmp_path):
    file = tmp_path / "s.csv"
    sound().to_csv(file, index=False)
    text = file.read_bytes()
    for content, message in (
        (b"\xef\xbb\xbf" + text, "byte-order mark"),
        (text.decode().encode("utf-16"), "not UTF-8"),
        (text + b"d9,0.1\n", "another number of cells than the header (4): lines 8"),
        (b"dicom_id,Mass\n", "no rows"),
        (b"", "no rows"),
    ):
        file.write_bytes(content)
        assert any(message in fault for fault in check_submission(file, WANTED).faults)


def zipped(tmp_path, members):
    with zipfile.ZipFile(tmp_path / "s.zip", "w") as archive:
        for name, content in members:
            archive.writestr(name, content)
    return check_submission(tmp_path / "s.zip", WANTED)


def test_the_layout_of_the_zip_is_checked(tmp_path):
    text = sound().to_csv(index=False)
    found = zipped(tmp_path, [("submission.csv", text), ("code/main.py", "x")])
    assert (found.faults, found.warnings) == ([], [])
    assert "code/" in zipped(tmp_path, [("submission.csv", text)]).warnings[0]
    assert "move out/submission.csv" in zipped(tmp_path, [("out/submission.csv", text)]).faults[0]
    assert "2 .csv files" in zipped(tmp_path, [("a.csv", text), ("b.csv", text)]).faults[0]
    assert "a desktop" in zipped(tmp_path, [("a.csv", text), ("__MACOSX/._a.csv", "x")]).faults[0]
    assert "columns are missing: Mass" in zipped(tmp_path, [("a.csv", text.replace("Mass", "mass"))]).faults[0]
    (tmp_path / "s.zip").write_bytes(b"PK no zip")
    assert "no zip file" in check_submission(tmp_path / "s.zip", WANTED).faults[0]


def test_a_damaged_zip_is_a_fault(tmp_path):
    zipped(tmp_path, [("a.csv", sound().to_csv(index=False))])
    content = bytearray((tmp_path / "s.zip").read_bytes())
    content[60] ^= 255
    (tmp_path / "s.zip").write_bytes(content)
    assert "damaged" in check_submission(tmp_path / "s.zip", WANTED).faults[0]


def test_the_command_lists_every_fault_and_exits_with_2(tmp_path, capsys):
    sound().to_csv(tmp_path / "sample.csv", index=False)
    sound().drop(columns="Mass").iloc[1:].to_csv(tmp_path / "mine.csv", index=False)
    words = ["submit", "--template", str(tmp_path / "sample.csv"), "--check"]
    with pytest.raises(SystemExit) as stop:
        main([*words, str(tmp_path / "mine.csv")])
    assert stop.value.code == 2
    err = capsys.readouterr().err
    assert "has 2 faults" in err
    assert "1. columns are missing: Mass" in err
    assert "2. 1 of the template's 6 images are missing: d0" in err
    main([*words, str(tmp_path / "sample.csv")])
    assert "6 images x 3 labels, no fault found" in capsys.readouterr().out


def test_what_submit_writes_passes_the_check(tmp_path, capsys):
    predictions(LABELS, images=IMAGES[::-1]).to_parquet(tmp_path / "p.parquet", index=False)
    sound().to_csv(tmp_path / "sample.csv", index=False)
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "main.py").write_text("x")
    submit(tmp_path / "p.parquet", tmp_path / "sample.csv", tmp_path / "out", code=tmp_path / "code")
    found = check_submission(tmp_path / "out" / "submission.zip", WANTED)
    assert (found.faults, found.warnings) == ([], [])


def test_what_submit_needs_is_named(tmp_path):
    with pytest.raises(InputError, match="needs --template"):
        submit(tmp_path / "p.parquet", output=tmp_path / "out")
    sound().to_csv(tmp_path / "sample.csv", index=False)
    with pytest.raises(InputError, match="needs --predictions"):
        submit(template=tmp_path / "sample.csv")
    with pytest.raises(InputError, match="does not exist"):
        submit(template=tmp_path / "sample.csv", check=tmp_path / "absent.zip")
    sound()[["dicom_id"]].to_csv(tmp_path / "images.csv", index=False)
    with pytest.raises(InputError, match="no label columns"):
        submit(template=tmp_path / "images.csv", check=tmp_path / "sample.csv")
