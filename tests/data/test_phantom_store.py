"""A phantom on first use: made once, and never taken for another one."""

import shutil
from dataclasses import replace

import pandas as pd
import pytest

from longview import InputError
from longview.data.phantom_store import PhantomSpec, make_phantom
from longview.data.store import Store
from longview.evaluate import score
from longview.labels import LabelSet
from longview.predictions import read_predictions
from longview.truth import Truth

SPEC = PhantomSpec(studies=24, size=32, seed=3, layout="nih")
OTHERS = {"studies": 25, "size": 48, "seed": 4, "layout": "cxr-lt-2024"}


@pytest.fixture(scope="module")
def labels():
    return LabelSet.load("phantom")


@pytest.fixture(scope="module")
def made(tmp_path_factory, labels):
    folder = tmp_path_factory.mktemp("phantom")
    make_phantom(SPEC, folder / "p", labels)
    return folder


def test_the_store_has_the_true_boxes_of_its_films_whoever_reads_the_layout(made):
    store = Store(made / "p")
    boxes, table = store.boxes(), store.manifest.table
    drawn = pd.read_csv(made / "raw/p/boxes.csv", dtype={"image_id": "str"})
    kept = drawn[drawn["image_id"].isin(table["image_id"])]
    assert len(boxes) == len(kept) > 0
    assert boxes["image_id"].tolist() == kept["image_id"].tolist()
    assert (boxes[["x", "y", "width", "height"]].to_numpy() == kept[["x", "y", "width", "height"]].to_numpy()).all()
    assert {"Cardiomegaly", "Pleural Effusion"} <= set(boxes["label"])


@pytest.mark.parametrize("setting", OTHERS)
def test_a_store_of_another_specification_is_refused_by_the_setting(made, labels, setting):
    make_phantom(SPEC, made / "p", labels)
    other = replace(SPEC, **{setting: OTHERS[setting]})
    message = rf"p holds a phantom of other settings \({setting} {getattr(SPEC, setting)}, now {OTHERS[setting]}\)"
    with pytest.raises(InputError, match=message):
        make_phantom(other, made / "p", labels)


def test_without_its_raw_files_a_store_is_compared_by_all_but_the_seed(made, labels, tmp_path):
    shutil.copytree(made / "p", tmp_path / "p")
    make_phantom(replace(SPEC, seed=4), tmp_path / "p", labels)
    for setting in ("studies", "size", "layout"):
        with pytest.raises(InputError, match=rf"\({setting} {getattr(SPEC, setting)}, now"):
            make_phantom(replace(SPEC, **{setting: OTHERS[setting]}), tmp_path / "p", labels)


def test_raw_files_of_another_specification_are_not_prepared(made, labels, tmp_path):
    shutil.copytree(made / "raw/p", tmp_path / "raw/p")
    with pytest.raises(InputError, match=r"\(seed 3, now 4\).*remove"):
        make_phantom(replace(SPEC, seed=4), tmp_path / "p", labels)
    assert not (tmp_path / "p").exists()


def test_the_phantoms_own_reader_gives_labels_that_evaluate_can_score_though_training_never_sees_them(tmp_path):
    spec, zero_shot = PhantomSpec(studies=150, size=32, reader="phantom"), LabelSet.load("phantom_zero_shot")
    make_phantom(spec, tmp_path / "p", zero_shot)
    make_phantom(spec, tmp_path / "p", zero_shot)
    table, unseen = Store(tmp_path / "p").manifest.table, zero_shot.unseen_names
    assert list(table.columns[-49:]) == [*zero_shot.names, *unseen]
    assert table.loc[table["split"] == "train", unseen].isna().all(axis=None)
    test = table[table["split"] == "test"].drop_duplicates("study_id")
    assert test[unseen].notna().all(axis=None)
    test[["study_id", *zero_shot.names, *unseen]].to_csv(tmp_path / "predictions.csv", index=False)
    result = score(read_predictions(tmp_path / "predictions.csv"), Truth.read(tmp_path / "p"))
    assert result.match.names == [*zero_shot.names, *unseen]
    ap = dict(zip(result.match.names, result.scores.ap, strict=True))
    scored = [name for name in unseen if test[name].any()]
    assert len(scored) >= 4
    assert {ap[name] for name in scored} == {1.0}


def test_a_store_of_the_layouts_reader_is_not_taken_for_one_of_the_phantoms(made, labels):
    with pytest.raises(InputError, match=r"\(reader layout, now phantom\)"):
        make_phantom(replace(SPEC, reader="phantom"), made / "p", labels)


def test_damaged_raw_files_and_a_file_in_the_way_are_named(labels, tmp_path):
    (tmp_path / "raw/p").mkdir(parents=True)
    (tmp_path / "raw/p/phantom.json").write_text("{")
    with pytest.raises(InputError, match=r"phantom\.json is damaged"):
        make_phantom(SPEC, tmp_path / "p", labels)
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"file/p cannot be made: a part of its path is a file"):
        make_phantom(SPEC, tmp_path / "file/p", labels)


def test_a_folder_of_other_files_is_never_drawn_beside(tmp_path):
    """Films of a user lie there: nothing is drawn, and nobody is told to remove them."""
    films = tmp_path / "films"
    films.mkdir()
    (films / "a.png").write_bytes(b"x")
    with pytest.raises(InputError, match=r"films is there and is no store.*--data.phantom null"):
        make_phantom(PhantomSpec(studies=4, size=32), films, LabelSet.load("phantom"))
    assert sorted(file.name for file in tmp_path.rglob("*")) == ["a.png", "films"]
