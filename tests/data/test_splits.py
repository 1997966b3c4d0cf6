"""Splits: whole patients, every label in its share, and the same patients whatever the order of rows."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longview import InputError
from longview.data.manifest import Manifest
from longview.data.splits import assign_splits, print_splits, split_patients, split_table

SHARES = {"train": 0.7, "val": 0.1, "test": 0.2}


def cohort(seed, patients=400, rows=1000, labels=12, rarest=0.008):
    """Rows of patients whose findings recur from image to image, with a long tail of labels."""
    rng = np.random.default_rng(seed)
    of_row = np.concatenate([np.arange(patients), rng.integers(0, patients, rows - patients)])
    carrier = rng.random((patients, labels)) < np.geomspace(0.4, rarest, labels)
    targets = (carrier[of_row] & (rng.random((rows, labels)) < 0.7)).astype(np.float32)
    return np.array([f"p{patient}" for patient in of_row], dtype=object), targets


def random_split(patients, shares, seed):
    unique, of_row = np.unique(patients.astype(str), return_inverse=True)
    place = np.random.default_rng(seed).permutation(len(unique)) / len(unique)
    return np.array(list(shares))[np.searchsorted(np.cumsum(list(shares.values())), place, side="right")][of_row]


def errors(targets, split, shares):
    """Relative error of each label's share in each split, (splits, L)."""
    total = np.nansum(targets, axis=0)
    return np.array(
        [np.abs(np.nansum(targets[split == name], axis=0) / total / share - 1) for name, share in shares.items()]
    )


def who(patients, split):
    return dict(zip(patients, split, strict=True))


@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 10_000), patients=st.integers(1, 60), labels=st.integers(0, 6), unknown=st.booleans())
def test_no_patient_is_in_two_splits_and_the_order_of_rows_does_not_matter(seed, patients, labels, unknown):
    ids, targets = cohort(seed, patients, rows=2 * patients, labels=labels, rarest=0.1)
    if unknown:
        targets[np.random.default_rng(seed).random(targets.shape) < 0.3] = np.nan
    split = split_patients(ids, targets, SHARES, seed)
    assert len(set(zip(ids, split, strict=True))) == len(set(ids))
    order = np.random.default_rng(seed + 1).permutation(len(ids))
    assert who(ids[order], split_patients(ids[order], targets[order], SHARES, seed)) == who(ids, split)


def test_the_seed_decides_and_nothing_else():
    ids, targets = cohort(0)
    first = split_patients(ids, targets, SHARES, 1)
    np.testing.assert_array_equal(split_patients(ids, targets, dict(reversed(SHARES.items())), 1), first)
    assert (split_patients(ids, targets, SHARES, 2) != first).any()


@pytest.mark.parametrize("seed", range(3))
def test_rows_and_labels_get_their_shares(seed):
    ids, targets = cohort(seed, patients=2000, rows=5000)
    split = split_patients(ids, targets, SHARES, seed)
    for name, share in SHARES.items():
        assert (split == name).mean() == pytest.approx(share, abs=0.002)
    assert errors(targets, split, SHARES).max() < 0.35  # the rarest label has about 25 positive images
    assert errors(targets, split, SHARES)[:, :6].max() < 0.03


@pytest.mark.parametrize("seed", range(3))
def test_labels_are_kept_better_than_by_chance(seed):
    ids, targets = cohort(seed)
    ours = errors(targets, split_patients(ids, targets, SHARES, seed), SHARES)
    chance = np.mean([errors(targets, random_split(ids, SHARES, k), SHARES).mean() for k in range(5)])
    assert ours.mean() < chance / 2


@pytest.mark.filterwarnings("ignore:The least populated class")
def test_labels_are_kept_better_than_by_folds_on_the_rarest_label():
    model_selection = pytest.importorskip("sklearn.model_selection")
    ids, targets = cohort(3)
    rarity = targets.sum(axis=0)
    rarest = np.where(targets.any(axis=1), np.where(targets > 0, rarity, np.inf).argmin(axis=1), -1)
    folds = model_selection.StratifiedGroupKFold(10, shuffle=True, random_state=0)
    parts = [held for _, held in folds.split(ids, rarest, ids)]
    theirs = np.full(len(ids), "train", dtype=object)
    theirs[parts[0]] = "val"
    theirs[np.concatenate(parts[1:3])] = "test"
    ours = split_patients(ids, targets, SHARES, 0)
    assert errors(targets, ours, SHARES).mean() < errors(targets, theirs, SHARES).mean()


@pytest.mark.parametrize("seed", range(5))
def test_a_rare_label_is_in_every_split_once_enough_patients_have_it(seed):
    ids, targets = cohort(seed, patients=300, rows=600, labels=20, rarest=0.004)
    split = split_patients(ids, targets, SHARES, seed)
    enough = [label for label in range(20) if len(set(ids[targets[:, label] > 0])) >= len(SHARES)]
    assert enough
    for name in SHARES:
        assert (targets[split == name][:, enough].sum(axis=0) > 0).all()


def test_a_label_of_one_patient_goes_to_the_largest_split_and_of_two_to_the_two_largest():
    ids, targets = cohort(0, labels=4)
    rare = np.zeros((len(ids), 2), np.float32)
    rare[ids == "p7", 0] = 1
    rare[(ids == "p8") | (ids == "p9"), 1] = 1
    split = who(ids, split_patients(ids, np.hstack([targets, rare]), SHARES, 0))
    assert split["p7"] == "train"
    assert {split["p8"], split["p9"]} == {"train", "test"}


def test_a_split_without_a_share_stays_empty():
    ids, targets = cohort(0)
    split = split_patients(ids, targets, {"train": 0.9, "val": 0.1, "test": 0.0}, 0)
    assert set(split) == {"train", "val"}


@pytest.mark.parametrize("labels", [0, 1, 3])
def test_few_patients_fill_the_largest_splits_first(labels):
    targets = np.eye(3, labels, dtype=np.float32)
    assert set(split_patients(np.array(["a", "a", "a"]), targets, SHARES, 0)) == {"train"}
    assert sorted(split_patients(np.array(["a", "b"]), targets[:2], SHARES, 0)) == ["test", "train"]
    assert sorted(split_patients(np.array(["a", "b", "c"]), targets, SHARES, 0)) == ["test", "train", "val"]


def test_unknown_targets_are_spread_too():
    ids, targets = cohort(0, patients=1000, rows=2000, labels=3)
    targets[np.isin(ids, [f"p{n}" for n in range(500)]), 1] = np.nan
    split = split_patients(ids, targets, SHARES, 0)
    for name, share in SHARES.items():
        known = ~np.isnan(targets[:, 1])
        assert (known & (split == name)).sum() / known.sum() == pytest.approx(share, abs=0.01)
    everything = np.full((len(ids), 2), np.nan, np.float32)
    assert (split_patients(ids, everything, SHARES, 0) == "val").mean() == pytest.approx(0.1, abs=0.002)


@pytest.mark.parametrize("shares", [{"train": 0.5, "val": 0.4}, {"train": 1.2, "val": -0.2}, {"train": float("nan")}])
def test_shares_that_are_none_are_refused(shares):
    with pytest.raises(InputError, match="sum to 1"):
        split_patients(np.array(["a"]), np.zeros((1, 1)), shares, 0)


def manifest(ids, targets, split):
    count = [str(row) for row in range(len(ids))]
    columns = {
        "source": "test",
        "patient_id": ids,
        "study_id": count,
        "image_id": count,
        "view": "PA",
        "path": count,
    }
    table = pd.DataFrame(columns | {"split": split}).astype("str")
    labels = pd.DataFrame(targets, columns=[f"label {n}" for n in range(targets.shape[1])])
    return Manifest(pd.concat([table, labels.astype(np.float32)], axis=1))


def test_images_without_a_split_are_divided_into_three():
    ids, targets = cohort(0)
    result = assign_splits(manifest(ids, targets, "none"), val_fraction=0.1, test_fraction=0.2, seed=3)
    shares = result.table["split"].value_counts(normalize=True)
    assert {name: round(share, 2) for name, share in shares.items()} == {
        "train": 0.7,
        "val": 0.1,
        "test": 0.2,
    }
    again = assign_splits(manifest(ids, targets, "none"), val_fraction=0.1, test_fraction=0.2, seed=3)
    pd.testing.assert_frame_equal(result.table, again.table)


def test_validation_is_carved_from_official_training_patients_only():
    ids, targets = cohort(0)
    official = np.array(["test" if patient.endswith(("7", "8")) else "train" for patient in ids])
    result = assign_splits(manifest(ids, targets, official), val_fraction=0.2)
    split = result.table["split"].to_numpy()
    np.testing.assert_array_equal(split == "test", official == "test")
    assert (split == "val").sum() / (official == "train").sum() == pytest.approx(0.2, abs=0.01)


def test_official_splits_with_validation_stay_as_they_are():
    ids, targets = cohort(0)
    official = np.array([["train", "val", "test"][int(patient[1:]) % 3] for patient in ids])
    given_ = manifest(ids, targets, official)
    pd.testing.assert_frame_equal(assign_splits(given_).table, given_.table)


def test_no_validation_share_leaves_training_whole():
    ids, targets = cohort(0)
    official = manifest(ids, targets, "train")
    assert set(assign_splits(official, val_fraction=0).table["split"]) == {"train"}


def test_an_image_without_a_split_follows_its_patient():
    ids = np.array(["a", "a", "b", "c", "d"], dtype=object)
    official = manifest(ids, np.zeros((5, 1)), ["test", "none", "train", "val", "none"])
    assert assign_splits(official).table["split"].tolist() == ["test", "test", "train", "val", "train"]


@pytest.mark.parametrize(("val", "test"), [(-0.1, 0.1), (0.5, 0.5), (0.1, 1.0)])
def test_fractions_that_leave_nothing_for_training_are_refused(val, test):
    with pytest.raises(InputError, match="fraction"):
        assign_splits(manifest(np.array(["a"]), np.zeros((1, 1)), "none"), val, test)


def test_the_table_counts_images_studies_patients_and_positives():
    ids = np.array(["a", "a", "b"], dtype=object)
    targets = np.array([[1, np.nan], [0, 0.6], [1, 0.4]])
    counts = split_table(manifest(ids, targets, ["test", "test", "train"]))
    assert list(counts.columns) == ["train", "test"]
    assert counts.loc["images"].tolist() == [1, 2]
    assert counts.loc["studies"].tolist() == [1, 2]
    assert counts.loc["patients"].tolist() == [1, 1]
    assert counts.loc["label 0"].tolist() == [1, 1]
    assert counts.loc["label 1"].tolist() == [0, 1]


def test_a_negative_seed_is_refused():
    with pytest.raises(InputError, match=r"seed.*-1"):
        assign_splits(manifest(np.array(["a"]), np.zeros((1, 1)), "none"), seed=-1)


def test_a_split_that_stays_empty_is_named(caplog):
    two = manifest(np.array(["a", "b"]), np.zeros((2, 1)), "none")
    assign_splits(two, val_fraction=0.2, test_fraction=0.1)
    assert [record.getMessage().partition(":")[0] for record in caplog.records if record.levelname == "WARNING"] == [
        "manifest has no image in split 'test'"
    ]
    caplog.clear()
    assign_splits(two, val_fraction=0.2, test_fraction=0)
    assert not [record for record in caplog.records if record.levelname == "WARNING"]


def test_brackets_in_labels_are_printed_as_they_are(capsys):
    given_ = manifest(np.array(["a"]), np.ones((1, 1)), "test")
    print_splits(Manifest(given_.table.rename(columns={"label 0": "[/red] x"})))
    assert "[/red] x" in capsys.readouterr().out
