"""Prediction tables: ids stay text, values are probabilities, and several processes write one file."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from longview import InputError, StudyKey
from longview.predictions import PredictionShards, labels_of, read_predictions, write_predictions

IDS = ["00000001", "NA", "3.24E+38", "1e5", "nan"]


def table(ids=IDS, labels=("Mass", "Nodule")):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"patient_id": ids, "study_id": ids, "image_id": ids}, dtype="str")
    return frame.assign(**{label: rng.random(len(ids)).astype(np.float32) for label in labels})


@pytest.mark.parametrize("ending", ["parquet", "csv"])
def test_ids_that_look_like_numbers_or_blanks_stay_text(tmp_path, ending):
    write_predictions(table(), tmp_path / f"p.{ending}")
    back = read_predictions(tmp_path / f"p.{ending}")
    assert back[["patient_id", "study_id", "image_id"]].to_numpy().tolist() == [[name] * 3 for name in IDS]
    assert labels_of(back) == ["Mass", "Nodule"]
    assert np.array_equal(back["Mass"].to_numpy(np.float32), table()["Mass"])


def test_ids_may_go_by_the_challenges_names_and_metadata_is_no_label(tmp_path):
    frame = table(["a", "b"]).rename(columns={"image_id": "dicom_id", "patient_id": "subject_id"})
    frame.assign(ViewPosition="PA", fpath="x", meta_age=3.0).drop(columns="study_id").to_csv(
        tmp_path / "p.csv", index=False
    )
    back = read_predictions(tmp_path / "p.csv")
    assert list(back.columns) == ["patient_id", "study_id", "image_id", "Mass", "Nodule"]
    assert back["patient_id"].tolist() == ["a", "b"]
    assert back["study_id"].tolist() == ["", ""]


def test_image_id_is_left_out_where_rows_are_studies(tmp_path):
    write_predictions(table().drop(columns="image_id"), tmp_path / "p.csv")
    assert "image_id" not in read_predictions(tmp_path / "p.csv").columns


@pytest.mark.parametrize("value", [-0.1, 1.5, np.nan, np.inf])
def test_values_that_are_no_probabilities_are_refused_by_label_and_row(tmp_path, value):
    frame = table()
    frame.loc[2, "Nodule"] = value
    frame.to_parquet(tmp_path / "p.parquet")
    with pytest.raises(InputError, match=r"p\.parquet: 1 values .*'Nodule' of image_id '3\.24E\+38'"):
        read_predictions(tmp_path / "p.parquet")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: pd.concat([t, t.iloc[[0]]]), "image_id stands in more than one row: 00000001"),
        (lambda t: t.assign(image_id=["", *IDS[1:]]), "1 rows have no image_id"),
        (lambda t: t.drop(columns=["Mass", "Nodule"]), "no label column"),
        (lambda t: t.drop(columns=["image_id", "study_id"]), "needs a column study_id or image_id"),
        (lambda t: t.assign(comment="good"), "column 'comment' holds 'good'"),
    ],
)
def test_tables_that_break_a_rule_are_refused(tmp_path, change, message):
    change(table()).to_csv(tmp_path / "p.csv", index=False)
    with pytest.raises(InputError, match=message):
        read_predictions(tmp_path / "p.csv")


def test_ids_stored_as_floats_are_refused(tmp_path):
    table().assign(patient_id=3.24e38).to_parquet(tmp_path / "p.parquet")
    with pytest.raises(InputError, match="floating-point"):
        read_predictions(tmp_path / "p.parquet")


def keys(start, stop, image=True):
    return [StudyKey(f"p{i // 3:03}", f"s{i:03}", f"i{i:03}" if image else "") for i in range(start, stop)]


def value(key):
    number = int(key.study_id[1:])
    return [number / 1000, 1 - number / 1000]


def predict(output, world, rows=50, image=True, batch=7, close=True):
    """What `world` processes do, each with every world-th study."""
    ranks = [PredictionShards(output, rank, ["b", "a"]) for rank in range(world)]
    for shards in ranks:
        shards.start()
        mine = keys(0, rows, image)[shards.rank :: world]
        for start in range(0, len(mine), batch):
            part = mine[start : start + batch]
            shards.add(part, np.array([value(key) for key in part], np.float32))
        if close:
            shards.close()
    return ranks


@pytest.mark.parametrize("ending", ["parquet", "csv"])
def test_the_file_is_the_same_for_any_number_of_processes(tmp_path, ending, monkeypatch):
    monkeypatch.setattr("longview.predictions._ROWS_PER_PART", 10)  # several parts per process
    one, three = tmp_path / f"one.{ending}", tmp_path / f"three.{ending}"
    assert predict(one, 1)[0].merge(1, expected=50) == one
    predict(three, 3)[0].merge(3)
    assert one.read_bytes() == three.read_bytes()
    back = read_predictions(one)
    assert back["study_id"].tolist() == [key.study_id for key in keys(0, 50)]
    assert back["b"].to_numpy() == pytest.approx(np.arange(50) / 1000)
    assert sorted(item.name for item in tmp_path.iterdir()) == [one.name, three.name]


def test_study_rows_have_no_image_column(tmp_path):
    predict(tmp_path / "p.parquet", 2, image=False)[0].merge(2)
    assert list(pd.read_parquet(tmp_path / "p.parquet").columns) == ["patient_id", "study_id", "b", "a"]


def test_a_process_with_nothing_to_predict_is_complete(tmp_path):
    predict(tmp_path / "p.parquet", 3, rows=2)[0].merge(3, expected=2)
    assert len(read_predictions(tmp_path / "p.parquet")) == 2


def test_what_a_killed_run_left_never_enters_the_next(tmp_path):
    output = tmp_path / "p.parquet"
    output.write_bytes(b"earlier")
    predict(output, 4, rows=80, close=True)  # killed before the merge: closed shards of four processes
    assert output.read_bytes() == b"earlier"
    predict(output, 2, rows=50)[0].merge(2)
    assert read_predictions(output)["study_id"].tolist() == [key.study_id for key in keys(0, 50)]
    assert not (tmp_path / "p.parquet.partial").exists()


def test_a_process_that_did_not_finish_is_named_and_nothing_is_written(tmp_path):
    output = tmp_path / "p.parquet"
    predict(output, 2)  # an earlier run, killed before the merge, whose process 1 had closed
    ranks = predict(output, 2, close=False)
    ranks[0].close()
    with pytest.raises(InputError, match="process 1 did not finish"):
        ranks[0].merge(2)
    assert list(tmp_path.iterdir()) == []


def test_missing_rows_lost_parts_and_double_rows_are_refused(tmp_path):
    output = tmp_path / "p.parquet"
    with pytest.raises(InputError, match=r"50 of 51 rows .*--trainer\.limit_predict_batches"):
        predict(output, 2)[0].merge(2, expected=51)
    with pytest.raises(InputError, match="50 rows were predicted, more than the 49"):
        predict(output, 2)[0].merge(2, expected=49)
    with pytest.raises(InputError, match=r"nothing was predicted.*--trainer\.limit_predict_batches"):
        predict(output, 2, rows=0)[0].merge(2)
    ranks = predict(output, 2)
    next((tmp_path / "p.parquet.partial").glob("*rank-00001*.parquet")).unlink()
    with pytest.raises(InputError, match="is gone"):
        ranks[0].merge(2)
    double = PredictionShards(output, 0, ["b", "a"])
    double.start()
    double.add(keys(0, 2), np.zeros((2, 2)))
    double.add(keys(1, 3), np.zeros((2, 2)))
    double.close()
    with pytest.raises(InputError, match="more than one row: i001"):
        double.merge(1)
    assert list(tmp_path.iterdir()) == []  # no output, and no parts: the next run would not use them


def test_batches_are_checked_when_they_are_added(tmp_path):
    shards = PredictionShards(tmp_path / "p.csv", 0, ["b", "a"])
    shards.start()
    with pytest.raises(InputError, match=r"label 'a' of study 's000'"):
        shards.add(keys(0, 1), np.array([[0.5, np.nan]]))
    with pytest.raises(InputError, match=r"\(1, 3\)"):
        shards.add(keys(0, 1), np.zeros((1, 3)))


def test_outputs_of_another_kind_are_refused_at_once(tmp_path):
    with pytest.raises(InputError, match=r"\.parquet or \.csv"):
        PredictionShards(tmp_path / "p.txt", 0, ["a"])
    (tmp_path / "d.csv").mkdir()
    with pytest.raises(InputError, match="is a folder"):
        PredictionShards(tmp_path / "d.csv", 0, ["a"])


def test_an_output_below_a_file_is_refused_by_name(tmp_path):
    (tmp_path / "README.md").write_text("mine")
    for output in (tmp_path / "README.md" / "x.csv", tmp_path / "README.md" / "y" / "x.csv"):
        with pytest.raises(InputError, match=r"README\.md.*--output"):
            PredictionShards(output, 0, ["a"]).start()


@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied"), FileNotFoundError(2, "No such file")])
def test_an_output_whose_folder_cannot_be_made_is_refused_with_the_reason(tmp_path, monkeypatch, error):
    def refuse(*args, **kwargs):
        raise error

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(InputError, match=rf"p\.csv.*{error.strerror}.*--output"):
        PredictionShards(tmp_path / "p.csv", 0, ["a"]).start()


def test_a_full_disk_leaves_the_earlier_file(tmp_path, monkeypatch):
    output = tmp_path / "p.parquet"
    predict(output, 1)[0].merge(1)
    before = output.read_bytes()
    shards = predict(output, 1, rows=20)[0]

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pd.DataFrame, "to_parquet", full)
    with pytest.raises(OSError, match="No space"):
        shards.merge(1)
    assert output.read_bytes() == before


def test_what_changes_the_whole_table_sees_all_rows_sorted_and_what_they_are_of(tmp_path):
    seen = []

    def finish(table):
        seen.append((table["study_id"].tolist(), dict(table.attrs)))
        changed = table.assign(a=table["a"] / 2)
        changed.attrs = {**table.attrs, "mine": 1}
        return changed

    output = tmp_path / "p.parquet"
    ranks = predict(output, 3)
    ranks[0].test_time = {"flip": True}
    ranks[0].merge(3, 50, finish)
    assert seen == [([key.study_id for key in keys(0, 50)], {"longview_test_time": {"flip": True}})]
    back = pd.read_parquet(output)
    assert back["a"].to_numpy() == pytest.approx((1 - np.arange(50) / 1000) / 2) and back.attrs["mine"] == 1
