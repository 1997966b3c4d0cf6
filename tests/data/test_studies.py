"""Packed batches: contract, label alignment, choice of views, and no table in the hot path."""

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from longview import VIEWS, InputError, StudyKey
from longview.data.manifest import ID_COLUMNS, Manifest
from longview.data.sampler import Draw
from longview.data.studies import StudyDataset
from longview.data.transforms import Augment
from longview.labels import Label, LabelSet

NAN = float("nan")
LABELS = LabelSet("three", [Label("Edema"), Label("Mass", aliases={"nih": ["Lump"]}), Label("Hernia")])


@dataclass
class MemoryStore:
    """Images of one grey: that of image `i` is `first + i`."""

    manifest: Manifest
    first: int = 0
    size: int = 16
    path: Path = Path("memory")
    asked: int = 0

    def image(self, row: int) -> np.ndarray:
        self.asked += 1
        return np.full((self.size, self.size), self.first + row, np.uint8)


def store(rows: list[tuple], first: int = 0, source: str = "nih", **labels: list[float]) -> MemoryStore:
    """Rows of (study, view[, split]); image ids are i0, i1…; a study's patient is p + study."""
    table = pd.DataFrame(
        {
            "source": source,
            "patient_id": [f"p{row[0]}" for row in rows],
            "study_id": [row[0] for row in rows],
            "image_id": [f"i{i}" for i in range(len(rows))],
            "view": [row[1] for row in rows],
            "path": [f"{i}.png" for i in range(len(rows))],
            "split": [row[2] if len(row) > 2 else "train" for row in rows],
        },
        dtype="str",
    )
    for name, values in labels.items():
        table[name] = np.asarray(values, np.float32)
    return MemoryStore(Manifest(table), first)


def full(rows: list[tuple], **kwargs: object) -> MemoryStore:
    zeros = [0.0] * len(rows)
    return store(rows, **{"Edema": zeros, "Mass": zeros, "Hernia": zeros, **kwargs})


def greys(batch: dict) -> list[int]:
    return batch["images"][:, 0, 0, 0].tolist()


STUDIES = [("b", "lateral"), ("a", "PA"), ("b", "PA"), ("c", "AP"), ("b", "PA")]


def test_a_batch_packs_the_real_views_of_its_studies():
    data = StudyDataset([full(STUDIES, Edema=[1, 0, 1, 0.5, 1])], LABELS, level="study", image_size=8)
    assert (len(data), data.images, data.sizes) == (3, 5, [3])
    batch = data.__getitems__([Draw(2, 0), Draw(0, 0)])
    assert {key: (value.dtype, tuple(value.shape)) for key, value in batch.items() if key != "ids"} == {
        "images": (torch.uint8, (4, 1, 8, 8)),
        "study": (torch.int64, (4,)),
        "view": (torch.int64, (4,)),
        "target": (torch.float32, (2, 3)),
    }
    assert batch["study"].tolist() == [0, 1, 1, 1]
    assert greys(batch) == [3, 2, 0, 4]  # one of each view type, then the second PA
    assert [VIEWS[code] for code in batch["view"]] == ["AP", "PA", "lateral", "PA"]
    assert batch["target"][:, 0].tolist() == [0.5, 1.0]
    assert batch["ids"] == [StudyKey("pc", "c", ""), StudyKey("pb", "b", "")]
    assert all(type(part) is str for key in batch["ids"] for part in key)  # plain text, not NumPy's


def test_at_image_level_each_image_is_a_study_with_its_own_id():
    data = StudyDataset([full(STUDIES)], LABELS, image_size=8)
    batch = data.__getitems__([Draw(4, 0), Draw(1, 0), Draw(0, 0)])
    assert len(data) == 5
    assert batch["images"].shape[0] == batch["target"].shape[0] == 3
    assert batch["study"].tolist() == [0, 1, 2]
    assert greys(batch) == [4, 1, 0]
    assert batch["ids"][0] == StudyKey("pb", "b", "i4")


def test_a_study_with_one_view_costs_one_image():
    memory = full([("a", "PA"), ("b", "PA"), ("b", "lateral")])
    data = StudyDataset([memory], LABELS, level="study", image_size=8)
    assert data.__getitems__([Draw(0, 0)])["images"].shape[0] == 1
    assert memory.asked == 1


def test_more_views_than_allowed_are_chosen_by_type_and_id_in_evaluation():
    rows = [("a", view) for view in ("PA", "PA", "PA", "lateral", "PA", "AP")]
    data = StudyDataset([full(rows)], LABELS, level="study", image_size=8, max_views=4)
    assert all(greys(data.__getitems__([Draw(0, seed)])) == [0, 5, 3, 1] for seed in range(5))


def test_more_views_than_allowed_are_chosen_at_random_in_training():
    rows = [("a", view) for view in ("PA", "PA", "PA", "lateral", "PA", "AP")]
    data = StudyDataset([full(rows)], LABELS, level="study", image_size=8, max_views=2, training=True)
    chosen = [tuple(greys(data.__getitems__([Draw(0, seed)]))) for seed in range(80)]
    assert all(len(set(pair)) == 2 for pair in chosen)
    assert {grey for pair in chosen for grey in pair} == set(range(6))
    assert chosen == [tuple(greys(data.__getitems__([Draw(0, seed)]))) for seed in range(80)]


def test_splits_are_kept_apart():
    rows = [("a", "PA", "train"), ("b", "PA", "val"), ("c", "PA", "train"), ("d", "PA", "test")]
    data = StudyDataset([full(rows)], LABELS, split=["train"], image_size=8)
    assert greys(data.__getitems__([0, 1])) == [0, 2]
    assert len(StudyDataset([full(rows)], LABELS, split=["val", "test"])) == 2
    assert len(StudyDataset([full(rows)], LABELS)) == 4
    with pytest.raises(InputError, match=r"no images of split 'val'; memory has .*train: 1"):
        StudyDataset([full([("a", "PA")])], LABELS, split=["val"])


@given(order=st.permutations(["Edema", "Mass", "Hernia"]))
@settings(deadline=None, max_examples=6)
def test_the_order_of_a_stores_label_columns_never_matters(order):
    values = {"Edema": [1, 0, 1], "Mass": [0, NAN, 0], "Hernia": [0.25, 0, 1]}
    rows = [("a", "PA"), ("b", "PA"), ("c", "PA")]
    data = StudyDataset([store(rows, **{name: values[name] for name in order})], LABELS)
    np.testing.assert_array_equal(data.targets, np.array(list(values.values()), np.float32).T)


@given(first=st.permutations(["Edema", "Hernia", "Other"]), second=st.permutations(["Lump", "Edema"]))
@settings(deadline=None, derandomize=True, max_examples=8)
def test_the_order_of_any_stores_label_columns_never_matters_in_a_mix(first, second):
    known = {"Edema": [0, NAN], "Hernia": [1, 0], "Other": [1, 1], "Lump": [0.0, 1.0]}
    rows = [("a", "PA"), ("b", "PA")]
    stores = [store(rows, **{name: known[name] for name in order}) for order in (first, second)]
    data = StudyDataset(stores, LABELS, image_size=8)
    expected = np.float32([[0, NAN, 1], [NAN, NAN, 0], [0, 0, NAN], [NAN, 1, NAN]])
    np.testing.assert_array_equal(data.targets, expected)
    np.testing.assert_array_equal(data.__getitems__([0, 1, 2, 3])["target"], expected)


def test_evaluation_on_several_stores_says_which_one_a_study_is_from():
    rows = [("a", "PA"), ("b", "PA", "val"), ("c", "PA", "val")]
    stores = [full(rows[:2]), full(rows[:1], source="mimic"), full(rows[1:], source="mimic")]
    data = StudyDataset(stores, LABELS, split=["val"], level="study", image_size=8)
    assert data.store_names == {0: "nih", 2: "mimic"}  # the one between has no such study
    assert data.__getitems__([2, 0, 1])["store"].tolist() == [2, 0, 2]
    for other in (
        StudyDataset(stores, LABELS, split=["train"], image_size=8, training=True),
        StudyDataset(stores[:1], LABELS, image_size=8),
        StudyDataset(stores[:2], LABELS, split=["val"], image_size=8),
    ):
        assert "store" not in other[0]


def test_several_stores_are_aligned_by_name_and_alias_and_unknown_is_nan():
    first = store([("a", "PA"), ("b", "PA")], Hernia=[1, 0], Edema=[0, 1])
    second = store([("c", "AP")], first=100, Lump=[1.0], Edema=[NAN])
    data = StudyDataset([first, second], LABELS, image_size=8)
    np.testing.assert_array_equal(data.targets, np.float32([[0, NAN, 1], [1, NAN, 0], [NAN, 1, NAN]]))
    assert greys(data.__getitems__([2, 0])) == [100, 0]
    assert data.sizes == [2, 1]
    np.testing.assert_array_equal(data.positives, [1, 1, 1])
    np.testing.assert_array_equal(data.observed, [2, 1, 2])


def test_a_store_of_single_films_mixes_with_one_of_studies_in_a_batch():
    single = store([("a", "PA"), ("b", "AP")], Hernia=[1, 0], Edema=[0, 1])
    several = store([("c", "PA"), ("c", "lateral"), ("c", "AP")], first=100, Mass=[1.0, 1.0, 1.0])
    data = StudyDataset([single, several], LABELS, level="study", image_size=8)
    batch = data.__getitems__([2, 0, 1])
    assert batch["study"].tolist() == [0, 0, 0, 1, 2]
    assert batch["images"].shape == (5, 1, 8, 8) and batch["target"].shape == (3, 3)
    assert [VIEWS[view] for view in batch["view"].tolist()] == ["PA", "AP", "lateral", "PA", "AP"]


def test_the_alias_of_a_stores_own_source_is_known_whoever_else_uses_the_word():
    labels = LabelSet(
        "two", [Label("Mass", aliases={"nih": ["Shadow"]}), Label("Edema", aliases={"padchest": ["Shadow"]})]
    )
    data = StudyDataset([store([("a", "PA")], Shadow=[1.0], Edema=[0.0])], labels)
    np.testing.assert_array_equal(data.targets, [[1, 0]])


def test_labels_that_no_store_has_are_an_error_that_lists_both_sides():
    stores = [store([("a", "PA")], Edema=[1.0]), store([("b", "PA")], Fracture=[1.0])]
    with pytest.raises(InputError, match=r"'three'.*Mass, Hernia; memory has Edema; memory has Fracture"):
        StudyDataset(stores, LABELS)


def test_testing_warns_about_missing_labels_and_prediction_needs_none(caplog):
    partly, none = store([("a", "PA")], Edema=[1.0]), store([("a", "PA")])
    with caplog.at_level(logging.WARNING):
        data = StudyDataset([partly], LABELS, missing_labels="warn")
    assert "Mass, Hernia" in caplog.text
    np.testing.assert_array_equal(data.targets, np.float32([[1, NAN, NAN]]))
    with pytest.raises(InputError, match="no labels"):
        StudyDataset([none], LABELS, missing_labels="warn")
    assert np.isnan(StudyDataset([none], LABELS, missing_labels="ignore").targets).all()


def test_where_images_of_a_study_disagree_the_largest_known_value_counts(caplog):
    rows = [("a", "PA"), ("a", "lateral"), ("b", "PA"), ("b", "lateral"), ("c", "PA")]
    memory = full(rows, Edema=[0, 1, NAN, 0, 1], Mass=[NAN, NAN, 0.5, 0.5, 0])
    with caplog.at_level(logging.WARNING):
        data = StudyDataset([memory], LABELS, level="study")
    np.testing.assert_array_equal(data.targets[:, :2], np.float32([[1, NAN], [0, 0.5], [1, 0]]))
    assert "1 of 3 studies disagree" in caplog.text
    caplog.clear()
    StudyDataset([full(rows)], LABELS, level="study")
    assert not caplog.text


def test_a_batch_is_a_function_of_its_draws_alone():
    memory = full([("a", "PA"), ("b", "PA")], first=100)
    memory.image = lambda row: np.random.default_rng(row).integers(0, 255, (16, 16), dtype=np.uint8)
    data = StudyDataset([memory], LABELS, image_size=12, training=True, augment=Augment())
    together = data.__getitems__([Draw(0, 5), Draw(1, 6)])["images"]
    assert torch.equal(together[1], data[Draw(1, 6)]["images"][0])
    assert not torch.equal(together[1], data[Draw(1, 7)]["images"][0])


def test_no_table_is_touched_while_reading(monkeypatch):
    data = StudyDataset(
        [full(STUDIES)], LABELS, level="study", image_size=8, training=True, augment=Augment(), view_dropout=0.1
    )

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("a table in the hot path")

    for owner in (pd.DataFrame, pd.Series):
        for name in ("__getitem__", "iloc", "loc", "iterrows", "to_numpy", "__getattr__"):
            if hasattr(owner, name):
                monkeypatch.setattr(owner, name, refuse)
    monkeypatch.setattr(Manifest, "targets", refuse)
    assert data.__getitems__([Draw(0, 1), Draw(1, 2)])["images"].shape[0] >= 2


@given(data=st.data(), max_views=st.integers(1, 4))
@settings(deadline=None, max_examples=30)
def test_every_image_of_a_batch_belongs_to_its_study(data, max_views):
    studies = data.draw(st.lists(st.sampled_from("abcdef"), min_size=1, max_size=20))
    rows = [(study, data.draw(st.sampled_from(VIEWS))) for study in studies]
    dataset = StudyDataset([full(rows)], LABELS, level="study", image_size=16, max_views=max_views)
    batch = dataset.__getitems__(list(range(len(dataset))))
    assert [key.study_id for key in batch["ids"]] == list(dict.fromkeys(studies))
    for grey, row, view in zip(greys(batch), batch["study"].tolist(), batch["view"].tolist(), strict=True):
        assert (batch["ids"][row].study_id, VIEWS[view]) == rows[grey]
    counts = torch.bincount(batch["study"]).tolist()
    assert counts == [min(studies.count(key.study_id), max_views) for key in batch["ids"]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image_size": 0}, "at least 1"),
        ({"max_views": 0}, "at least 1"),
        ({"view_dropout": 1.0}, "data.view_dropout is 1.0; it must be at least 0 and below 1"),
        ({"view_dropout": NAN}, "data.view_dropout is nan"),
        ({"views": ["PA", "frontal"]}, r"data\.views has 'frontal'; there are PA, AP, lateral, unknown"),
        ({"views": []}, r"data\.views is empty"),
    ],
)
def test_impossible_settings_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        StudyDataset([full(STUDIES)], LABELS, **options)


SIX = [("a", view) for view in ("PA", "PA", "PA", "lateral", "PA", "AP")]


def noise(memory: MemoryStore) -> MemoryStore:
    memory.image = lambda row: np.random.default_rng(row).integers(0, 255, (16, 16), dtype=np.uint8)
    return memory


def test_without_training_nothing_is_random_whatever_else_is_set():
    options = {"level": "study", "image_size": 12, "max_views": 3}
    plain = StudyDataset([noise(full(SIX))], LABELS, **options)
    given_all = StudyDataset([noise(full(SIX))], LABELS, **options, augment=Augment(), view_dropout=0.9)
    for seed in range(5):
        assert torch.equal(given_all[Draw(0, seed)]["images"], plain[Draw(0, 0)]["images"])


@given(
    seed=st.integers(0, 2**63), views=st.integers(1, 5), most=st.integers(1, 4), dropout=st.sampled_from([0.2, 0.99])
)
@settings(deadline=None, max_examples=40)
def test_view_dropout_leaves_at_least_one_view_and_only_own_ones(seed, views, most, dropout):
    rows = [("other", "PA"), *([("mine", "AP")] * views), ("last", "PA")]
    data = StudyDataset(
        [full(rows)], LABELS, level="study", image_size=8, max_views=most, training=True, view_dropout=dropout
    )
    batch = data[Draw(1, seed)]
    assert 1 <= len(greys(batch)) <= min(views, most)
    assert set(greys(batch)) <= set(range(1, views + 1))
    assert greys(batch) == sorted(greys(batch))
    assert batch["study"].tolist() == [0] * len(greys(batch))
    assert greys(data[Draw(1, seed)]) == greys(batch)


@pytest.mark.parametrize(("views", "dropout"), [(2, 0.3), (3, 0.3), (3, 0.8), (4, 0.1)])
def test_each_view_is_left_out_as_often_as_asked_for(views, dropout):
    data = StudyDataset(
        [full([("a", "PA")] * views)], LABELS, level="study", image_size=8, training=True, view_dropout=dropout
    )
    times = 3000
    stayed = np.zeros(views)
    for seed in range(times):
        stayed[greys(data[Draw(0, seed)])] += 1
    expected = dropout - dropout**views / views  # of all views at once, one stays, each as likely
    np.testing.assert_allclose(1 - stayed / times, expected, atol=4 * np.sqrt(0.25 / times))


def test_view_dropout_spares_studies_with_one_view_and_shifts_no_random_number_of_theirs():
    rows = [("a", "PA"), ("b", "PA")]
    options = {"image_size": 12, "level": "study", "training": True, "augment": Augment()}
    plain = StudyDataset([noise(full(rows))], LABELS, **options)
    dropped = StudyDataset([noise(full(rows))], LABELS, **options, view_dropout=0.9)
    draws = [Draw(0, 5), Draw(1, 6)]
    assert torch.equal(plain.__getitems__(draws)["images"], dropped.__getitems__(draws)["images"])


def test_augmentation_without_view_dropout_draws_the_numbers_it_always_drew():
    """The study's generator gives ten numbers per shown image, after those that choose among too many."""
    options = {"level": "study", "image_size": 12, "training": True, "augment": Augment()}
    memory = noise(full(SIX))
    for most in (6, 2):
        data = StudyDataset([memory], LABELS, **options, max_views=most)
        rng = np.random.Generator(np.random.PCG64(5))
        shown = np.array([0, 5, 3, 1, 2, 4])  # in viewing order
        if most < len(shown):
            shown = shown[np.sort(rng.choice(6, most, replace=False))]
        expected = [Augment()(memory.image(row), 12, rng) for row in shown]
        np.testing.assert_array_equal(data[Draw(0, 5)]["images"][:, 0], expected)


MIXED = [("a", "PA"), ("a", "lateral"), ("b", "lateral"), ("b", "unknown"), ("c", "AP"), ("a", "AP"), ("d", "lateral")]


@pytest.mark.parametrize("level", ["image", "study"])
def test_only_some_view_types_are_kept_but_a_study_without_them_keeps_all(level, caplog):
    memory = full(MIXED, Edema=[0, 1, 0, 0, 0, 0, 1])
    with caplog.at_level(logging.INFO):
        data = StudyDataset([memory], LABELS, level=level, image_size=8, views=["PA", "AP"])
    assert "memory: 2 of 4 studies have no view of PA or AP, and keep all of theirs" in caplog.text
    batch = data.__getitems__(range(len(data)))
    assert sorted(greys(batch)) == [0, 2, 3, 4, 5, 6]
    assert data.images == 6
    assert data.sizes == [len(data)] == [4 if level == "study" else 6]
    for grey, row, view in zip(greys(batch), batch["study"].tolist(), batch["view"].tolist(), strict=True):
        assert (batch["ids"][row].study_id, VIEWS[view]) == MIXED[grey]
    if level == "study":
        assert [key.study_id for key in batch["ids"]] == ["a", "b", "c", "d"]
        assert data.targets[:, 0].tolist() == [1, 0, 0, 1]  # those of the whole study, lateral included
    else:
        assert [key.image_id for key in batch["ids"]] == ["i0", "i2", "i3", "i4", "i5", "i6"]
        assert data.targets[:, 0].tolist() == [0, 0, 0, 0, 0, 1]


@given(data=st.data(), types=st.lists(st.sampled_from(VIEWS), min_size=1))
@settings(deadline=None, max_examples=30)
def test_both_levels_keep_the_same_images_of_the_types_asked_for(data, types):
    studies = data.draw(st.lists(st.sampled_from("abcd"), min_size=1, max_size=12))
    rows = [(study, data.draw(st.sampled_from(VIEWS))) for study in studies]
    kept = []
    for level in ("image", "study"):
        dataset = StudyDataset([full(rows)], LABELS, level=level, image_size=8, max_views=12, views=types)
        kept.append(sorted(greys(dataset.__getitems__(range(len(dataset))))))
    assert kept[0] == kept[1]
    for study in set(studies):
        own = {grey for grey, row in enumerate(rows) if row[0] == study}
        fitting = {grey for grey in own if rows[grey][1] in types}
        assert own & set(kept[0]) == (fitting or own)


def test_the_fingerprint_tells_images_and_their_order():
    def fingerprint(rows, **options):
        return StudyDataset([full(rows)], LABELS, **{"level": "study", **options}).fingerprint()

    assert fingerprint(MIXED) == fingerprint(MIXED, image_size=8, training=True, view_dropout=0.5)
    others = [fingerprint(MIXED[:-1]), fingerprint(MIXED, level="image"), fingerprint(MIXED, views=["PA"])]
    assert len({fingerprint(MIXED), *others}) == 4


def test_films_are_read_one_by_one_in_the_order_of_the_dataset():
    data = StudyDataset([full(STUDIES), full([("z", "PA")], first=100)], LABELS, level="study", image_size=8)
    assert data.films([0, 1, 3, 4, 5])[:, 0, 0, 0].tolist() == [2, 0, 1, 3, 100]
    assert data.films(range(6)).shape == (6, 1, 8, 8)


def test_ids_stay_text_with_leading_zeros():
    memory = full([("0001", "PA")])
    assert list(memory.manifest.table.columns[: len(ID_COLUMNS)]) == list(ID_COLUMNS)
    assert StudyDataset([memory], LABELS, level="study").key(0) == StudyKey("p0001", "0001", "")


HIERARCHY = LabelSet(
    "six",
    [
        Label("Edema"), Label("Mass"), Label("Hernia"), Label("Lung", derived="any"), Label("Any", derived="any"),
        Label("Nothing", derived="none"),
    ],
    hierarchy={"Any": ["Lung", "Hernia"], "Lung": ["Edema", "Mass"]},
)  # fmt: skip


def test_a_store_of_the_plain_labels_serves_a_set_with_derived_ones():
    rows = [("a", "PA"), ("a", "lateral"), ("b", "PA"), ("c", "PA")]
    memory = store(rows, Edema=[0, 1, 0, 0], Mass=[0, 0, 0, NAN], Hernia=[0, 0, 0, 1])
    images = StudyDataset([memory], HIERARCHY)
    np.testing.assert_array_equal(images.targets[:, 3:], [[0, 0, 1], [1, 1, 0], [0, 0, 1], [NAN, 1, 0]])
    assert images.positives[3:].tolist() == [1, 2, 2]
    assert images.observed[3:].tolist() == [3, 4, 4]
    studies = StudyDataset([memory], HIERARCHY, level="study")
    # an image without findings beside one that has one: nothing is found in the images, something in the study
    np.testing.assert_array_equal(studies.targets[:, 3:], [[1, 1, 0], [0, 0, 1], [NAN, 1, 0]])


def test_what_the_table_says_of_a_derived_label_counts_only_where_its_children_leave_it_open():
    rows = [("a", "PA"), ("a", "lateral"), ("b", "PA"), ("c", "PA")]
    carried = {"Lung": [1, 1, 1, 1], "Nothing": [0, 0, 1, 0]}
    memory = store(rows, Edema=[0, 1, 0, 0], Mass=[0, 0, 0, NAN], Hernia=[0, 0, 0, 1], **carried)
    images = StudyDataset([memory], HIERARCHY)
    np.testing.assert_array_equal(images.targets[:, 3:], [[0, 0, 1], [1, 1, 0], [0, 0, 1], [1, 1, 0]])


def test_labels_that_derived_ones_follow_from_must_be_there():
    memory = store([("a", "PA")], Edema=[1], Mass=[0], Any=[1])
    with pytest.raises(InputError, match=r"no store has: Hernia; "):
        StudyDataset([memory], HIERARCHY)
    np.testing.assert_array_equal(
        StudyDataset([memory], HIERARCHY, missing_labels="warn").targets[0, 2:], [NAN, 1, 1, 0]
    )
