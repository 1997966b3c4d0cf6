"""`main.py pseudo` on small stores: what is filled, what never is, and that the result is a store."""

import json
import logging
import shutil

import numpy as np
import pandas as pd
import pytest

from longview import InputError
from longview.cli import main
from longview.data.manifest import Manifest
from longview.data.store import Store
from longview.labels import Label, LabelSet
from longview.predictions import write_predictions
from longview.pseudo import pseudo

SOURCE = ["Effusion", "Nodule/Mass", "Edema"]  # columns of the store, as its source calls them
LABELS = """
name: wanted
labels:
  - {name: Edema}
  - {name: Mass}
  - {name: Nodule}
  - {name: Pleural Effusion, aliases: {nih: [Effusion]}}
"""
NAMES = ["Edema", "Mass", "Nodule", "Pleural Effusion"]


@pytest.fixture(scope="module")
def whole(make_store):
    return make_store(SOURCE, source="nih")


@pytest.fixture
def store(whole, tmp_path):
    """A copy whose Edema is unknown on every other study, with codes: uncertain and blank on some of the known."""
    folder = tmp_path / "films"
    shutil.copytree(whole, folder)
    table = Manifest.read(folder).table
    number = table["study_id"].str[1:].astype(int)
    table.loc[number % 2 == 1, "Edema"] = np.nan
    Manifest(table).write(folder / "manifest.parquet")
    codes = table[["source", "image_id"]].assign(Edema=np.select([number % 8 == 2, number % 8 == 6], [-1, -2], 0))
    codes.astype({"Edema": "int8"}).sample(frac=1, random_state=0).to_parquet(folder / "codes.parquet")
    return folder


@pytest.fixture
def labels(tmp_path):
    file = tmp_path / "wanted.yaml"
    file.write_text(LABELS)
    return file


def predict(store, file, level="image", names=NAMES, seed=0):
    """Random probabilities of every row of a store."""
    keys = ["patient_id", "study_id", *(["image_id"] if level == "image" else [])]
    table = Store(store).manifest.table[keys].drop_duplicates(ignore_index=True)
    table = table.sample(frac=1, random_state=1, ignore_index=True)
    values = np.random.default_rng(seed).random((len(table), len(names))).astype(np.float32)
    write_predictions(pd.concat([table, pd.DataFrame(values, columns=list(names))], axis=1), file)
    return file


def mean_of(predictions, table, name):
    """Predictions of a label for a manifest's rows: the mean over each study."""
    given = pd.read_parquet(predictions).groupby("study_id")[name].mean()
    return table["study_id"].map(given).to_numpy()


def make(store, predictions, output, labels, *options):
    main(["pseudo", "--manifest", str(store), "--predictions", str(predictions), "--output", str(output),
          "--labels", str(labels), *options])  # fmt: skip
    return Store(output)


@pytest.mark.parametrize("level", ["image", "study"])
def test_open_cells_of_training_rows_take_the_mean_of_their_study_and_nothing_else_changes(
    level, store, labels, tmp_path
):
    predictions = predict(store, tmp_path / "p.parquet", level)
    before = Store(store)
    after = make(store, predictions, tmp_path / "filled", labels)
    old, new = before.manifest.table, after.manifest.table
    assert list(new.columns) == [*old.columns, "Mass", "Nodule"]
    pd.testing.assert_frame_equal(new[old.columns.drop("Edema")], old[old.columns.drop("Edema")])
    train = (old["split"] == "train").to_numpy()
    asked = train & old["Edema"].isna().to_numpy()
    expected = np.where(asked, mean_of(predictions, old, "Edema"), old["Edema"])
    np.testing.assert_allclose(new["Edema"], expected, rtol=1e-6)
    for name in ("Mass", "Nodule"):
        np.testing.assert_allclose(new[name], np.where(train, mean_of(predictions, old, name), np.nan), rtol=1e-6)
    assert new.loc[~train, ["Mass", "Nodule"]].isna().all(axis=None)
    for row in (0, len(after) - 1):
        np.testing.assert_array_equal(after.image(row), before.image(row))
    assert {file.name for file in (tmp_path / "filled").iterdir()} == {
        "manifest.parquet", "store.json", "codes.parquet", "rejected.csv", "filled.csv", "pseudo.json",
    }  # fmt: skip


def test_filled_csv_counts_every_cell_of_the_rows_that_were_filled(store, labels, tmp_path, capsys):
    after = make(store, predict(store, tmp_path / "p.parquet"), tmp_path / "filled", labels, "--upper", "0.6")
    counts = pd.read_csv(after.path / "filled.csv").set_index("label")
    train = after.manifest.table["split"] == "train"
    assert (counts[["known", "filled", "implied", "left"]].sum(axis=1) == train.sum()).all()
    assert counts.loc["Pleural Effusion", "known"] == train.sum()
    assert counts.loc["Mass", "filled"] == after.manifest.table.loc[train, "Mass"].notna().sum() > 0
    assert counts.loc["Mass", "left"] > 0 and counts.loc["Mass", "mean_probability"] > 0.6
    out = capsys.readouterr().out
    assert all(word in out for word in ("Mass", "known", "filled", "implied", "left"))


@pytest.mark.parametrize(
    ("fill", "marks", "nan"),
    [
        ("uncertain", {-1}, False),
        ("blank", {-2}, False),
        ("[uncertain, nan]", {-1}, True),
        ("[nan, uncertain, blank]", {-1, -2}, True),
    ],
)
def test_uncertain_and_blank_cells_are_filled_where_they_are_asked_for(fill, marks, nan, store, labels, tmp_path):
    predictions = predict(store, tmp_path / "p.parquet")
    after = make(store, predictions, tmp_path / "filled", labels, "--fill", fill).manifest.table
    old = Store(store).manifest.table
    codes = pd.read_parquet(store / "codes.parquet").set_index("image_id")["Edema"].reindex(old["image_id"]).to_numpy()
    changed = (old["split"] == "train").to_numpy() & (np.isin(codes, list(marks)) | (nan & old["Edema"].isna()))
    assert changed.any()
    expected = np.where(changed, mean_of(predictions, old, "Edema"), old["Edema"])
    np.testing.assert_allclose(after["Edema"], expected, rtol=1e-6)
    assert after["Mass"].notna().any() == nan


def test_a_joint_label_is_named_and_never_numbered(store, labels, tmp_path):
    predictions = predict(store, tmp_path / "p.parquet", names=NAMES[::-1])
    rule = ["--joint", json.dumps({"nodule/mass": ["Nodule", "Mass"]})]
    table = make(store, predictions, tmp_path / "filled", labels, *rule).manifest.table
    table = table[table["split"] == "train"]
    nodule, mass = (mean_of(predictions, table, name) for name in ("Nodule", "Mass"))
    present, first = (table["Nodule/Mass"] == 1).to_numpy(), nodule > mass
    assert present.any() and (~present).any() and first.any()
    np.testing.assert_allclose(table["Nodule"], np.where(present, np.where(first, 1, nodule), 0), rtol=1e-6)
    np.testing.assert_allclose(table["Mass"], np.where(present, np.where(first, mass, 1), 0), rtol=1e-6)


def test_the_order_of_labels_and_columns_changes_nothing(store, labels, tmp_path):
    predictions = predict(store, tmp_path / "p.parquet")
    first = make(store, predictions, tmp_path / "a", labels).manifest.table
    table = pd.read_parquet(predictions)
    write_predictions(table[[*table.columns[:3], *NAMES[::-1]]], tmp_path / "q.parquet")
    lines = labels.read_text().splitlines()
    labels.write_text("\n".join([*lines[:3], *lines[:2:-1]]))
    manifest = Store(store).manifest.table
    Manifest(manifest[[*manifest.columns[:-3], "Edema", "Effusion", "Nodule/Mass"]]).write(store / "manifest.parquet")
    second = make(store, tmp_path / "q.parquet", tmp_path / "b", labels).manifest.table
    pd.testing.assert_frame_equal(second[first.columns], first)


def test_the_same_command_does_nothing_and_another_needs_overwrite(store, labels, tmp_path, caplog):
    arguments = store, predict(store, tmp_path / "p.parquet"), tmp_path / "filled"
    pseudo(*arguments, labels=labels)
    before = {file.name: (file.stat().st_mtime_ns, file.stat().st_ino) for file in arguments[2].iterdir()}
    with caplog.at_level(logging.INFO):
        pseudo(*arguments, labels=labels, overwrite=False)
    assert "there already" in caplog.text
    assert {file.name: (file.stat().st_mtime_ns, file.stat().st_ino) for file in arguments[2].iterdir()} == before
    with pytest.raises(InputError, match=r"filled otherwise \(temperature 1.0, now 2.0\); --overwrite"):
        pseudo(*arguments, labels=labels, temperature=2.0)
    first = Store(arguments[2]).info.content_hash
    pseudo(*arguments, labels=labels, temperature=2.0, overwrite=True)
    assert Store(arguments[2]).info.content_hash != first
    assert not list(tmp_path.glob(".filled.*"))
    predict(store, tmp_path / "p.parquet", seed=5)  # other predictions under the same name
    with pytest.raises(InputError, match="predictions"):
        pseudo(*arguments, labels=labels, temperature=2.0)


def test_a_round_on_a_filled_store_borrows_from_the_one_that_has_the_images(store, labels, tmp_path):
    predictions = predict(store, tmp_path / "p.parquet")
    pseudo(store, predictions, tmp_path / "one", labels=labels, upper=0.7)
    pseudo(tmp_path / "one", predictions, tmp_path / "two", labels=labels)
    shutil.rmtree(tmp_path / "one")
    assert Store(tmp_path / "two").images_folder == store
    assert Store(tmp_path / "two").manifest.table.query("split == 'train'")["Mass"].notna().all()


def test_pseudo_json_names_predictions_checkpoint_and_options(store, labels, tmp_path):
    predictions = predict(store, tmp_path / "p.parquet")
    table = pd.read_parquet(predictions)
    table.attrs["checkpoint"] = "runs/teacher/best.ckpt"
    table.to_parquet(predictions)
    pseudo(store, predictions, tmp_path / "filled", labels=labels, lower=0.1, upper=0.9)
    told = json.loads((tmp_path / "filled" / "pseudo.json").read_text())
    assert told["predictions"] == str(predictions) and told["checkpoint"] == "runs/teacher/best.ckpt"
    assert (told["options"]["lower"], told["options"]["upper"], told["options"]["labels"]) == (0.1, 0.9, NAMES)


def test_rows_that_are_not_predicted_stay_open_with_a_warning(store, labels, tmp_path, caplog):
    predictions = predict(store, tmp_path / "p.parquet", "study")
    table = pd.read_parquet(predictions)
    gone = Store(store).manifest.table.query("split == 'train'")["study_id"].iloc[0]
    write_predictions(table[table["study_id"] != gone], predictions)
    with caplog.at_level(logging.INFO):
        pseudo(store, predictions, tmp_path / "filled", labels=labels)
    assert "are not predicted; they stay open" in caplog.text and "evaluation truth is never filled" in caplog.text
    after = Store(tmp_path / "filled").manifest.table
    assert (after.loc[after["study_id"] == gone, "Mass"].isna()).all()


def test_films_without_a_split_are_filled_when_asked(store, labels, tmp_path):
    table = Manifest.read(store).table
    table.loc[table["split"] == "val", "split"] = "none"
    Manifest(table).write(store / "manifest.parquet")
    pseudo(store, predict(store, tmp_path / "p.parquet"), tmp_path / "filled", labels=labels, splits=["none", "train"])
    filled = Store(tmp_path / "filled").manifest.table.groupby("split")["Mass"].count()
    assert filled["none"] > 0 and filled["train"] > 0 and filled["test"] == 0


MISTAKES = {
    "evaluation truth": ({"splits": "val"}, r"--splits is val; give train or none; evaluation truth is never filled"),
    "an unknown kind": ({"fill": ["nan", "empty"]}, "--fill is empty; give nan or uncertain or blank"),
    "a joint label that is none": ({"joint": {"Lump": ["Nodule", "Mass"]}}, r"'Lump'.*no such label; it has Effusion"),
    "a joint label of numbers": ({"joint": {"Nodule/Mass": ["13", "14"]}}, "13, 14 is no label to fill"),
    "a joint label of one": ({"joint": {"Nodule/Mass": ["Mass"]}}, "two members or more"),
    "a label that is not predicted": (
        {"labels": "nih"},
        r"--labels nih: \S*p\.parquet has no predictions of Atelectasis, .* \(\d+ of its 14 labels\); it has Edema",
    ),
    "aliases that nobody knows": ({"labels": None}, r"no column for Mass, Nodule, Pleural Effusion.*give --labels"),
    "bounds": ({"lower": 0.9, "upper": 0.1}, "above --upper"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_told_and_leaves_nothing(mistake, store, labels, tmp_path):
    options, message = MISTAKES[mistake]
    with pytest.raises(InputError, match=message):
        pseudo(store, predict(store, tmp_path / "p.parquet"), tmp_path / "filled", **{"labels": labels, **options})
    assert not list(tmp_path.glob("*filled*"))


def test_uncertain_cells_need_codes(store, labels, tmp_path):
    (store / "codes.parquet").unlink()
    with pytest.raises(InputError, match=r"--fill uncertain: .* has no codes\.parquet"):
        pseudo(store, predict(store, tmp_path / "p.parquet"), tmp_path / "x", labels=labels, fill="uncertain")


def test_predictions_of_other_films_are_refused(store, labels, tmp_path):
    table = pd.read_parquet(predict(store, tmp_path / "p.parquet"))
    write_predictions(table.assign(image_id="x" + table["image_id"]), tmp_path / "p.parquet")
    with pytest.raises(InputError, match=r"none of the rows of split train .* are predicted .*predict_split train"):
        pseudo(store, tmp_path / "p.parquet", tmp_path / "filled", labels=labels)


@pytest.mark.parametrize("level", ["image", "study"])
def test_predictions_of_another_store_whose_films_have_the_same_names_are_refused(level, store, labels, tmp_path):
    table = pd.read_parquet(predict(store, tmp_path / "p.parquet", level))
    strange = table["patient_id"].mask(table["study_id"] == table["study_id"][3], "somebody else")
    write_predictions(table.assign(patient_id=strange), tmp_path / "p.parquet")
    with pytest.raises(InputError, match=r"of another store: .* is of patient_id 'somebody else' there and of"):
        pseudo(store, tmp_path / "p.parquet", tmp_path / "filled", labels=labels)
    assert not (tmp_path / "filled").exists()
    # what does not say whose films they are is taken by its name
    table.drop(columns="patient_id").to_csv(tmp_path / "p.csv", index=False)
    pseudo(store, tmp_path / "p.csv", tmp_path / "filled", labels=labels)


def test_two_columns_of_one_label_are_named_with_the_file_and_the_label_set(store, tmp_path):
    own = tmp_path / "own.yaml"
    own.write_text("name: own\nlabels: [{name: Lump, aliases: {x: [Mass, Nodule]}}]\n")
    message = r"p\.parquet by --labels \S*own\.yaml: columns 'Mass' and 'Nodule' both stand for label 'Lump'"
    with pytest.raises(InputError, match=message):
        pseudo(store, predict(store, tmp_path / "p.parquet"), tmp_path / "filled", labels=own)


def test_nothing_but_a_filled_store_is_ever_replaced(store, labels, tmp_path):
    predictions = predict(store, tmp_path / "p.parquet")
    shutil.copytree(store, tmp_path / "other")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").touch()
    for output, message in (
        (store, "lie in each other"),
        (store / "filled", "lie in each other"),
        (tmp_path / "other", "pseudo did not make"),
        (tmp_path / "notes", "is no store"),
    ):
        with pytest.raises(InputError, match=message):
            pseudo(store, predictions, output, labels=labels, overwrite=True)
    assert Store(tmp_path / "other").image(0).any() and (tmp_path / "notes" / "a.txt").exists()


def test_a_kill_while_replacing_leaves_the_old_store(store, labels, tmp_path, monkeypatch):
    predictions = predict(store, tmp_path / "p.parquet")
    pseudo(store, predictions, tmp_path / "filled", labels=labels)
    before = Store(tmp_path / "filled").info.content_hash
    rename = type(tmp_path).rename

    def killed(self, target):
        if self.name == ".filled.partial":
            raise KeyboardInterrupt
        return rename(self, target)

    monkeypatch.setattr(type(tmp_path), "rename", killed)
    with pytest.raises(KeyboardInterrupt):
        pseudo(store, predictions, tmp_path / "filled", labels=labels, hard=0.5, overwrite=True)
    monkeypatch.undo()
    assert Store.is_store(tmp_path / "filled") and Store(tmp_path / "filled").info.content_hash == before


def test_derived_and_unseen_labels_are_not_filled(store, tmp_path):
    file = tmp_path / "set.yaml"
    file.write_text(LABELS + "  - {name: Lesion, derived: any}\n  - {name: Hernia, unseen: true}\n"
                    "hierarchy: {Lesion: [Mass, Nodule]}\n")  # fmt: skip
    predictions = predict(store, tmp_path / "p.parquet", names=[*NAMES, "Lesion", "Hernia"])
    pseudo(store, predictions, tmp_path / "filled", labels=file)
    assert not {"Lesion", "Hernia"} & set(Store(tmp_path / "filled").manifest.labels)


def test_a_filled_store_aligns_by_alias_as_the_old_one_does(store, labels, tmp_path):
    from longview.data.studies import StudyDataset

    pseudo(store, predict(store, tmp_path / "p.parquet"), tmp_path / "filled", labels=labels)
    known = LabelSet("known", [Label("Edema"), Label("Pleural Effusion", aliases={"nih": ["Effusion"]})])
    old, new = (StudyDataset([Store(path)], known, split=["val"]) for path in (store, tmp_path / "filled"))
    np.testing.assert_array_equal(new.targets, old.targets)
    assert not np.isnan(
        StudyDataset([Store(tmp_path / "filled")], LabelSet.load(labels), split=["train"]).targets
    ).any()
