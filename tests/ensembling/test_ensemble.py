"""Ensembles: rows by id, labels by name, weights given or fitted, and means over the views of a study."""

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longview import InputError
from longview.cli import main
from longview.ensembling.combining import combine, from_scale, to_scale
from longview.ensembling.ensemble import ensemble
from longview.ensembling.selection import Selected, select
from longview.ensembling.views import parse_weights
from longview.predictions import MODEL, TEST_TIME, read_predictions

LABELS = ["Mass", "Nodule", "Hernia"]


def table(seed=0, rows=30, labels=LABELS, model=None, images=True):
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame({"patient_id": [f"p{i // 2:03}" for i in range(rows)]})
    frame["study_id"] = [f"s{i // 2:03}" for i in range(rows)]
    if images:
        frame["image_id"] = [f"i{i:03}" for i in range(rows)]
    else:
        frame = frame.drop_duplicates("study_id", ignore_index=True)
    frame[list(labels)] = rng.random((len(frame), len(labels)))
    if model:
        frame.attrs[MODEL] = model * 64
    return frame


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Write tables as a.parquet, b.parquet, … and give their paths."""
    monkeypatch.chdir(tmp_path)

    def write(*tables, start="a"):
        paths = [tmp_path / f"{chr(ord(start) + place)}.parquet" for place in range(len(tables))]
        for frame, path in zip(tables, paths, strict=True):
            frame.to_parquet(path, index=False)
        return paths

    return write


def truth(tmp_path, frame, targets, **columns):
    ids = frame[[name for name in ("patient_id", "study_id", "image_id") if name in frame]]
    frame = pd.concat([ids, pd.DataFrame(targets, columns=LABELS)], axis=1).assign(**columns)
    frame.to_parquet(tmp_path / "truth.parquet", index=False)
    return tmp_path / "truth.parquet"


@given(st.lists(st.floats(0, 1), min_size=2, max_size=20), st.sampled_from(["probability", "logit", "rank"]))
@settings(deadline=None, derandomize=True, max_examples=40)
def test_a_scale_keeps_the_order_of_probabilities_and_one_member_comes_back(values, on):
    column = np.array(values)[:, None]
    scaled = to_scale(column, on)
    assert np.isfinite(scaled).all()
    above = np.subtract.outer(column[:, 0], column[:, 0]) > 1e-7
    assert (np.subtract.outer(scaled[:, 0], scaled[:, 0])[above] > 0).all()
    if on != "rank":
        np.testing.assert_allclose(from_scale(scaled, on), column, atol=1e-7)


def test_the_three_means_are_what_they_say():
    one, other = np.array([[0.2], [0.9], [0.9]]), np.array([[0.4], [0.1], [0.5]])
    weights = np.array([[3.0], [1.0]])
    np.testing.assert_allclose(combine([one, other], weights, "probability")[:, 0], [0.25, 0.7, 0.8])
    odds = (0.25**3 * (0.4 / 0.6)) ** 0.25
    assert combine([one, other], weights, "logit")[0, 0] == pytest.approx(odds / (1 + odds))
    ranks = np.array([[0.5, 2.0, 2.0], [1.5, 0.5, 2.5]]) / 3  # ties share their mean place
    np.testing.assert_allclose(combine([one, other], weights, "rank")[:, 0], (3 * ranks[0] + ranks[1]) / 4)


@given(st.permutations(range(30)), st.permutations(LABELS))
@settings(deadline=None, derandomize=True, max_examples=10)
def test_rows_go_by_id_and_labels_by_name(tmp_path_factory, order, labels):
    folder = tmp_path_factory.mktemp("members")
    one, other = table(0), table(1)
    one.to_parquet(folder / "a.parquet", index=False)
    shuffled = other.iloc[list(order)][["patient_id", "study_id", "image_id", *labels]]
    shuffled.rename(columns={"image_id": "dicom_id", "Mass": "mass"}).to_csv(folder / "b.csv", index=False)
    ensemble([folder / "a.parquet", folder / "b.csv"], folder / "out.parquet")
    result = read_predictions(folder / "out.parquet")
    assert result["image_id"].tolist() == one["image_id"].tolist()
    np.testing.assert_allclose(result[LABELS], (one[LABELS] + other[LABELS]) / 2)


def test_members_of_other_rows_are_refused_naming_what_each_lacks(files, tmp_path):
    with pytest.raises(
        InputError, match=r"b\.parquet lacks 1 image_ids: i000; .*a\.parquet lacks 2 image_ids: i030, i031"
    ):
        ensemble(files(table(0), table(1, rows=32).iloc[1:]), tmp_path / "out.parquet")
    with pytest.raises(InputError, match=r"a\.parquet has a row per image and .*b\.parquet has a row per study"):
        ensemble(files(table(0), table(1, images=False)), tmp_path / "out.parquet")
    assert not (tmp_path / "out.parquet").exists()


def test_members_of_other_labels_are_refused_naming_both_sides(files, tmp_path):
    paths = files(table(0), table(1, labels=["Mass", "Nodule", "Edema"]))
    with pytest.raises(InputError, match=r"b\.parquet lacks Hernia; .*a\.parquet lacks Edema"):
        ensemble(paths, tmp_path / "out.parquet")
    (tmp_path / "set.yaml").write_text("name: s\nlabels: [{name: Hernia, aliases: {x: [Edema]}}]\n")
    ensemble(paths, tmp_path / "out.parquet", labels=tmp_path / "set.yaml")
    result = read_predictions(tmp_path / "out.parquet")
    np.testing.assert_allclose(
        result["Hernia"], (table(0)["Hernia"] + table(1, labels=[*LABELS[:2], "Edema"])["Edema"]) / 2
    )


def test_nan_is_refused_by_file_label_and_row(files, tmp_path):
    broken = table(1)
    broken.loc[3, "Nodule"] = np.nan
    with pytest.raises(InputError, match=r"b\.parquet: 1 values are not probabilities.*'Nodule' of image_id 'i003'"):
        ensemble(files(table(0), broken), tmp_path / "out.parquet")


def test_weights_are_shares_and_are_kept_readable(files, tmp_path):
    paths = files(table(0, model="a"), table(1, model="b"))
    ensemble(paths, tmp_path / "out.parquet", weights="3,1")
    result = read_predictions(tmp_path / "out.parquet")
    np.testing.assert_allclose(result[LABELS], 0.75 * table(0)[LABELS] + 0.25 * table(1)[LABELS])
    kept = json.loads((tmp_path / "out.json").read_text())
    assert kept["weights"] == [0.75, 0.25]
    assert [member["model"] for member in kept["members"]] == ["a" * 64, "b" * 64]
    ensemble(paths, tmp_path / "again.parquet", weights=str(tmp_path / "out.json"))
    pd.testing.assert_frame_equal(read_predictions(tmp_path / "again.parquet"), result)
    with pytest.raises(InputError, match=r"fitted on another model \(checkpoint aaaa.* than .*b\.parquet"):
        ensemble(paths[::-1], tmp_path / "again.parquet", weights=str(tmp_path / "out.json"))


@pytest.mark.parametrize(
    ("weights", "message"),
    [("1", "1 weights for 2 members"), ("1,-1", "0 or more"), ("0,0", "not all 0"), ("a,b", "a number for each"),
     ("nan,1", "0 or more"), ("none.json", "does not exist")],
)  # fmt: skip
def test_weights_that_are_none_are_refused(files, tmp_path, weights, message):
    with pytest.raises(InputError, match=message):
        ensemble(files(table(0), table(1)), tmp_path / "out.parquet", weights=weights)


def noisy(targets, noise, seed):
    """Probabilities that know the truth up to some noise."""
    rng = np.random.default_rng(seed)
    return 1 / (1 + np.exp(-(2 * targets - 1 + noise * rng.standard_normal(targets.shape))))


def members(rows=600, seed=0):
    rng = np.random.default_rng(seed)
    targets = (rng.random((rows, 3)) < 0.3).astype(float)
    return targets, [noisy(targets, 1.0, 1), noisy(targets, 1.0, 2), rng.random((rows, 3))]


@pytest.mark.parametrize("on", ["probability", "logit", "rank"])
def test_fitted_weights_leave_out_noise_and_beat_every_member(on):
    targets, scores = members()
    patients = np.arange(600).astype(object) // 2
    found = select(scores, targets, LABELS, patients, on=on, minimum=None, folds=3)
    assert (found.weights >= 0).all()
    np.testing.assert_allclose(found.weights.sum(axis=0), 1)
    assert (found.weights[2] < 0.15).all()
    assert (found.weights[:2] > 0.25).all()
    assert found.figures["fitted"] > max(found.figures["members"])
    assert found.figures["fitted"] > found.figures["uniform"]
    assert found.figures["held_out"] > found.figures["uniform"]
    again = select(scores, targets, LABELS, patients, on=on, minimum=None, folds=3)
    assert np.array_equal(again.weights, found.weights)


def test_a_label_with_enough_positives_takes_weights_of_its_own_and_unknown_values_are_masked():
    targets, scores = members()
    scores[0][:, 1] = np.random.default_rng(5).random(600)  # the first member does not know Nodule
    targets[20:, 2] = np.nan
    found = select(scores, targets, LABELS, np.arange(600).astype(object), on="logit", minimum=25, folds=0)
    assert found.own == ["Mass", "Nodule"]
    assert found.weights[1, 1] > 0.8 > found.weights[1, 0]
    np.testing.assert_array_equal(found.weights[:, 2], found.shared)
    assert np.isnan(found.figures["held_out"])


def test_weights_are_fitted_on_the_validation_part_and_used_on_the_test_part(files, tmp_path):
    targets, scores = members(rows=200)
    base = table(rows=200)
    tables = [base.assign(**dict(zip(LABELS, values.T, strict=True))) for values in scores]
    validation = [frame.iloc[:120] for frame in tables]
    test = [frame.iloc[120:] for frame in tables]
    splits = ["val"] * 120 + ["test"] * 80
    known = truth(tmp_path, base, targets, split=splits)
    options = ["--truth", str(known), "--output", str(tmp_path / "out.parquet"), "--on", "logit"]
    main(
        [
            "ensemble",
            "--predictions",
            *map(str, files(*test)),
            "--fit",
            *map(str, files(*validation, start="v")),
            *options,
        ]
    )
    kept = json.loads((tmp_path / "out.json").read_text())
    assert kept["fitted"]["rows"] == 120
    assert kept["weights"][2] < 0.2
    result = read_predictions(tmp_path / "out.parquet")
    wanted = combine([score[120:] for score in scores], np.array(kept["weights"])[:, None].repeat(3, 1), "logit")
    np.testing.assert_allclose(result[LABELS], wanted)


def test_validation_predictions_of_another_model_or_number_are_refused(files, tmp_path):
    tables = [table(0, model="a"), table(1, model="b")]
    paths = files(*tables)
    known = truth(tmp_path, table(), np.zeros((30, 3)), split="val")
    with pytest.raises(InputError, match=r"\(--fit\) is of another model than .*a\.parquet"):
        ensemble(paths, tmp_path / "out.parquet", fit=files(*tables[::-1], start="v"), truth=known)
    with pytest.raises(InputError, match="1 tables for 2"):
        ensemble(paths, tmp_path / "out.parquet", fit=paths[:1], truth=known)
    with pytest.raises(InputError, match="belong together"):
        ensemble(paths, tmp_path / "out.parquet", fit=paths)


def test_validation_predictions_made_otherwise_are_warned_of(files, tmp_path, caplog):
    tables = [table(0, model="a"), table(1, model="b")]
    for frame in tables:
        frame.attrs[TEST_TIME] = {"flip": True}
    paths = files(*tables)
    for frame in tables[1:]:
        del frame.attrs[TEST_TIME]
    known = truth(tmp_path, table(), (table(7)[LABELS] > 0.5).astype(float), split="val")
    ensemble(paths, tmp_path / "out.parquet", fit=files(*tables, start="v"), truth=known, folds=0)
    told = [record.getMessage() for record in caplog.records if "in different ways" in record.getMessage()]
    assert len(told) == 1
    assert "b.parquet" in told[0]
    assert "w.parquet is not" not in caplog.text


def test_views_of_a_study_count_by_their_type_as_in_the_reference(files, tmp_path):
    frame = table(rows=5)
    frame["study_id"] = ["s1", "s1", "s1", "s2", "s2"]
    views = pd.DataFrame({"dicom_id": frame["image_id"], "ViewPosition": ["PA", "LL", None, "AP", "LATERAL"]})
    views.iloc[::-1].to_csv(tmp_path / "views.csv", index=False)
    text = "PA=7,AP=7,lateral=3,unknown=5"
    ensemble(files(frame), tmp_path / "out.parquet", study_weights=text, manifest=tmp_path / "views.csv")
    result = read_predictions(tmp_path / "out.parquet")
    assert "image_id" not in result
    assert result["study_id"].tolist() == ["s1", "s2"]
    weights = np.array([7, 3, 5, 7, 3])
    for rows, row in ((slice(0, 3), 0), (slice(3, 5), 1)):
        wanted = np.average(frame[LABELS].to_numpy()[rows], axis=0, weights=weights[rows])
        np.testing.assert_allclose(result.loc[row, LABELS].to_numpy(float), wanted)
    views.iloc[1:].to_csv(tmp_path / "views.csv", index=False)
    with pytest.raises(InputError, match=r"does not say the view of 1 images of .*i000"):
        ensemble(files(frame), tmp_path / "out.parquet", study_weights=text, manifest=tmp_path / "views.csv")


def test_a_study_whose_views_all_weigh_nothing_is_refused(files, tmp_path):
    frame = table(rows=4)
    pd.DataFrame({"image_id": frame["image_id"], "view": ["PA", "lateral", "lateral", "lateral"]}).to_csv(
        tmp_path / "v.csv", index=False
    )
    with pytest.raises(InputError, match=r"1 studies .* only views of weight 0: s001"):
        ensemble(files(frame), tmp_path / "out.parquet", study_weights="PA=1,AP=1,lateral=0,unknown=1",
                 manifest=tmp_path / "v.csv")  # fmt: skip


@pytest.mark.parametrize(
    ("text", "message"),
    [("PA=7,AP=7,lateral=3", "nothing about unknown"), ("PA=7,PA=7", "wrong"), ("front=1", "wrong"),
     ("PA=x,AP=1,lateral=1,unknown=1", "weight of PA"), ("PA=0,AP=0,lateral=0,unknown=0", "all weights are 0")],
)  # fmt: skip
def test_weights_of_views_are_checked(text, message):
    with pytest.raises(InputError, match=message):
        parse_weights(text)


def test_an_ensemble_counts_as_a_model_of_its_own(files, tmp_path):
    paths = files(table(0, model="a"), table(1, model="b"))
    digests = []
    for name, options in (("x", {}), ("y", {}), ("z", {"weights": "2,1"}), ("w", {"on": "rank"})):
        ensemble(paths, tmp_path / f"{name}.parquet", **options)
        digests.append(pd.read_parquet(tmp_path / f"{name}.parquet").attrs[MODEL])
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3
    ensemble(files(table(0, model="a"), table(1)), tmp_path / "x.parquet")
    assert MODEL not in pd.read_parquet(tmp_path / "x.parquet").attrs


def test_mistakes_on_the_command_line_are_named(files, tmp_path, capsys):
    one, other = files(table(0), table(1))
    for words, message in (
        ([str(one)], "two tables or more"),
        ([str(one), str(one)], "more than once"),
        ([str(one), str(other), "--config", "x"], "no option --config"),
        (
            [str(one), str(other), "--weights", "1,1", "--fit", str(one), str(other), "--truth", "x"],
            "exclude each other",
        ),
    ):
        with pytest.raises(SystemExit) as stop:
            main(["ensemble", "--predictions", *words, "--output", str(tmp_path / "o.parquet")])
        assert stop.value.code == 2
        assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("output", "options", "message"),
    [
        ("sub/../a.parquet", {}, r"--output would write .*a\.parquet, which --predictions reads"),
        ("v.parquet", {"fit": ["v.parquet", "w.parquet"], "truth": "truth.parquet"}, "which --fit reads"),
        ("truth.parquet", {"fit": ["v.parquet", "w.parquet"], "truth": "truth.parquet"}, "which --truth reads"),
        ("old.parquet", {"weights": "old.json"}, r"would write .*old\.json, which --weights reads"),
        ("c.parquet", {}, r"would replace .*c\.json, which no earlier `ensemble` wrote"),
    ],
)
def test_files_that_are_read_or_of_others_are_never_written(files, tmp_path, output, options, message):
    paths = files(table(0), table(1))
    files(table(0), table(1), start="v")
    truth(tmp_path, table(), (table(7)[LABELS] > 0.5).astype(float), split="val")
    ensemble(paths, tmp_path / "old.parquet")
    (tmp_path / "c.json").write_text('{"calibration": 1, "method": "platt", "labels": {}}')
    (tmp_path / "sub").mkdir()
    before = {file.name: file.read_bytes() for file in tmp_path.glob("*.*")}
    given = {
        key: [tmp_path / name for name in value] if key == "fit" else tmp_path / value for key, value in options.items()
    }
    if "weights" in given:
        given["weights"] = str(given["weights"])
    with pytest.raises(InputError, match=message):
        ensemble(paths, tmp_path / output, **given)
    assert {file.name: file.read_bytes() for file in tmp_path.glob("*.*")} == before
    ensemble(paths, tmp_path / "old.parquet", weights="1,2")  # one's own is replaced
    assert json.loads((tmp_path / "old.json").read_text())["weights"] == pytest.approx([1 / 3, 2 / 3])


def test_weights_that_are_worse_on_held_out_patients_say_what_to_do(files, tmp_path, caplog, capsys, monkeypatch):
    paths = files(table(0), table(1))
    known = truth(tmp_path, table(), (table(7)[LABELS] > 0.5).astype(float), split="val")
    worse = {"members": [0.5, 0.5], "uniform": 0.6, "fitted": 0.7, "held_out": 0.55}
    weights = np.full((2, 3), 0.5)
    monkeypatch.setattr(
        "longview.ensembling.ensemble.select", lambda *_, **__: Selected(LABELS, weights, weights[:, 0], [], worse, 30)
    )
    ensemble(paths, tmp_path / "[" / "b].parquet", fit=files(table(0), table(1), start="v"), truth=known)
    assert "worse than the plain mean (macro AP 0.5500 against 0.6000)" in caplog.text
    assert "run the same command without --fit" in caplog.text
    assert "[/b].parquet" in capsys.readouterr().out


def test_one_fold_is_refused_and_without_folds_no_held_out_figure_is_told(files, tmp_path, capsys):
    paths = files(table(0), table(1))
    known = truth(tmp_path, table(), (table(7)[LABELS] > 0.5).astype(float), split="val")
    options = {"fit": files(table(0), table(1), start="v"), "truth": known}
    with pytest.raises(InputError, match="--folds 1"):
        ensemble(paths, tmp_path / "out.parquet", folds=1, **options)
    ensemble(paths, tmp_path / "out.parquet", folds=0, **options)
    out = capsys.readouterr().out
    assert "macro AP on 30 validation rows" in out and "nan" not in out


def test_folds_that_are_no_patients_are_told_of(files, tmp_path, caplog):
    ids = ["patient_id", "study_id"]
    tables = [table(seed).drop(columns=ids) for seed in (0, 1)]
    known = truth(tmp_path, table().drop(columns=ids), (table(7)[LABELS] > 0.5).astype(float), split="val")
    ensemble(files(*tables), tmp_path / "out.parquet", fit=files(*tables, start="v"), truth=known, folds=2)
    assert "folds are of images" in caplog.text
