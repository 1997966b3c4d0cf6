"""Worst errors are those that a plain sort finds; curves and bins hold what they stand for."""

import base64

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longview import InputError
from longview.data.store import Store
from longview.reporting.groups import named_groups, read_groups
from longview.reporting.worst import films, worst
from longview.truth import Match


def matched(scores, targets):
    rows, labels = scores.shape
    return Match("image", [f"L{index}" for index in range(labels)], [], [], scores, targets, [], 0, [], [],
                 np.array([f"i{row:03}" for row in range(rows)], object), np.arange(rows), "image", None)  # fmt: skip


@settings(deadline=None, derandomize=True, max_examples=60)
@given(st.integers(1, 60), st.integers(0, 2**32 - 1))
def test_worst_errors_are_those_of_a_plain_sort_and_masked_rows_are_none(rows, seed):
    rng = np.random.default_rng(seed)
    scores = rng.permutation(rows)[:, None] / rows
    targets = rng.choice([0.0, 1.0, 0.5, np.nan], (rows, 1), p=[0.5, 0.3, 0.1, 0.1])
    found = worst(matched(scores, targets))
    values = {kind: scores[targets == truth] for kind, truth in (("absent", 0), ("present", 1))}
    if not len(values["absent"]) or not len(values["present"]):
        assert found == {}
        return
    alarms = sorted((value for value in values["absent"] if value >= values["present"].min()), reverse=True)[:5]
    misses = sorted(value for value in values["present"] if value <= values["absent"].max())[:5]
    label = found["L0"]
    assert [item["probability"] for item in label["false_positives"]] == alarms
    assert [item["probability"] for item in label["false_negatives"]] == misses
    known = np.concatenate(list(values.values()))
    for item in label["false_positives"] + label["false_negatives"]:
        row = int(item["id"][1:])
        assert scores[row, 0] == item["probability"] and item["higher"] == (known > item["probability"]).sum()


def test_a_perfect_ranking_has_no_errors():
    label = worst(matched(np.array([[0.1], [0.2], [0.3]]), np.array([[0.0], [0.0], [1.0]])))["L0"]
    assert (label["known"], label["false_positives"], label["false_negatives"]) == (3, [], [])


@pytest.mark.parametrize("level", ["image", "study"])
def test_thumbnails_are_the_films_of_their_ids(make_store, level):
    store = make_store(["Mass"], patients=8, size=160)
    table = Store(store).manifest.table
    frontal = table[table["view"] == "PA"]
    ids = frontal[f"{level}_id"].tolist()[::-1]
    found = films(store, [*ids, "strange"], level, 1)
    assert list(found) == ids
    for key, row in zip(frontal[f"{level}_id"], frontal.index, strict=True):
        packed = base64.b64decode(found[key].partition(",")[2])
        film = cv2.imdecode(np.frombuffer(packed, np.uint8), cv2.IMREAD_GRAYSCALE)
        expected = cv2.resize(Store(store).image(int(row)), (120, 120), interpolation=cv2.INTER_AREA)
        assert np.abs(film.astype(float) - expected).mean() < 6


def test_curves_and_bins_hold_what_they_stand_for(evaluated):
    metrics = evaluated.metrics
    rows = {row["label"]: row for row in metrics["per_label"]}
    for name, points in metrics["curves"]["roc"]["labels"].items():
        assert np.trapezoid(points["y"], points["x"]) == pytest.approx(rows[name]["auroc"], abs=1e-4)
    for name, points in metrics["curves"]["pr"]["labels"].items():
        area = np.sum(np.diff(points["x"], prepend=0) * points["y"])
        assert area == pytest.approx(rows[name]["ap"], abs=1e-4)
    for name, bins in metrics["reliability"].items():
        assert sum(bins["rows"]) == rows[name]["positives"] + rows[name]["negatives"]
        positives = np.dot(bins["share"], bins["rows"])
        assert positives == pytest.approx(rows[name]["positives"], abs=1e-2)
    roc, pr = (metrics["curves"][kind]["mean"] for kind in ("roc", "pr"))
    assert np.trapezoid(roc["y"], roc["x"]) == pytest.approx(metrics["auroc"], abs=0.02)
    assert np.trapezoid(pr["y"], pr["x"]) == pytest.approx(metrics["map"], abs=0.02)
    for rule in ("fixed", "tuned"):
        for name, cells in metrics["confusion"][rule].items():
            assert cells["tp"] + cells["fn"] == rows[name]["positives"]
            assert cells["fp"] + cells["tn"] == rows[name]["negatives"]


def test_ece_of_each_label_and_its_diagram_are_in_the_report(evaluated):
    assert all("ece" in found for found in evaluated.metrics["label_figures"].values())
    assert (evaluated.folder / "reliability.png").stat().st_size > 5000
    scored = {row["label"] for row in evaluated.metrics["per_label"] if row["auroc"] is not None}
    assert set(evaluated.metrics["reliability"]) == scored


def test_a_named_group_is_the_mean_of_its_labels(evaluated):
    group = evaluated.metrics["groups"]["lung"]
    rows = {row["label"]: row for row in evaluated.metrics["per_label"]}
    assert group["map"] == pytest.approx(np.mean([rows[name]["ap"] for name in group["labels"]]))
    assert group["labels"] == ["Nodule/Mass", "Effusion"]
    assert {row["group"] for row in rows.values()} <= {"head", "medium", "tail"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lung: Mass", "give a list of labels"),
        ("", "give a list of labels"),
        ("head: [Mass]", "head are groups by counts"),
        ("a: [", "is no YAML"),
    ],
)
def test_groups_that_cannot_be_read_are_refused(tmp_path, text, message):
    (tmp_path / "g.yaml").write_text(text)
    with pytest.raises(InputError, match=message):
        read_groups(tmp_path / "g.yaml")


def test_groups_of_unknown_labels_and_missing_files_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"gone\.yaml does not exist"):
        read_groups(tmp_path / "gone.yaml")
    with pytest.raises(InputError, match="group 'lung' has labels that are not scored: Mas; there are Mass"):
        named_groups({"lung": ["Mass", "Mas"]}, ["Mass"])
