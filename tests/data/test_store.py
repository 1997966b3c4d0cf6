"""Finished stores: reading, pickling, and what is refused."""

import json
import os
import pickle
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from films import films, manifest_of

from longview import InputError
from longview.data.images import read_image, resize_image
from longview.data.prepare import prepare_manifest
from longview.data.store import Store

SIZE = 16


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Folder with the stores `npy` and `jpeg` of the same seven films, the third of which is damaged."""
    folder = tmp_path_factory.mktemp("stores")
    manifest = films(folder / "raw", 7)
    (folder / "raw" / "film_002.png").write_bytes(b"damaged")
    for packing in ("npy", "jpeg"):
        prepare_manifest(manifest, folder / "raw", folder / packing, size=SIZE, packing=packing, jpeg_quality=95)
    return folder


@pytest.mark.parametrize("packing", ["npy", "jpeg"])
def test_each_row_of_the_manifest_has_its_own_film(made, packing):
    store = Store(made / packing)
    assert len(store) == 6
    assert store.manifest.table["image_id"].tolist() == ["000", "001", "003", "004", "005", "006"]
    for row, path in enumerate(store.manifest.table["path"]):
        film = resize_image(read_image(made / "raw" / path, min_size=SIZE).pixels, SIZE, "squash")
        image = store.image(row)
        assert image.shape == (SIZE, SIZE)
        assert image.dtype == np.uint8
        assert np.abs(image.astype(int) - film).mean() < (1e-9 if packing == "npy" else 6)


@pytest.mark.parametrize("packing", ["npy", "jpeg"])
def test_a_store_may_be_handed_to_workers(made, packing):
    store = Store(made / packing)
    sent = pickle.dumps(store)
    assert len(sent) < 1000
    np.testing.assert_array_equal(pickle.loads(sent).image(3), store.image(3))


def test_opening_reads_no_manifest(made, monkeypatch):
    monkeypatch.setattr("longview.data.store.Manifest.read", lambda path: pytest.fail("read"))
    assert Store(made / "npy").image(0).shape == (SIZE, SIZE)


def test_images_cannot_be_written_to(made):
    with pytest.raises(ValueError, match="read-only"):
        Store(made / "npy").image(0)[0, 0] = 1


def test_a_row_that_is_not_there_is_an_index_error(made):
    with pytest.raises(IndexError):
        Store(made / "npy").image(6)


def test_store_json_says_what_it_holds(made):
    info = Store(made / "npy").info
    assert (info.size, info.resize, info.packing, info.source) == (SIZE, "squash", "npy", "test")
    assert (info.images, info.rejected, info.labels) == (6, 1, ["Mass", "Edema"])


def test_what_is_no_store_is_refused(made, tmp_path):
    file = tmp_path / "file"
    file.touch()
    (tmp_path / "empty").mkdir()
    (tmp_path / ".half.partial").mkdir()
    shutil.copytree(made / "npy", tmp_path / ".whole.partial")
    for name, reason in {
        "absent": "does not exist",
        "half": "only half made.*again",
        ".half.partial": "only half made",
        ".whole.partial": "only half made",
        "file": "not a folder",
        "empty": "not a store",
    }.items():
        assert not Store.is_store(tmp_path / name)
        with pytest.raises(InputError, match=f"{name} .*{reason}"):
            Store(tmp_path / name)
    assert Store.is_store(made / "npy")


def cut(file, share=0.5):
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * share)])


def change(folder, **values):
    file = folder / "store.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


DAMAGE = {
    "images.npy cut": ("npy", lambda folder: cut(folder / "images.npy"), "images.npy"),
    "images.npy gone": ("npy", lambda folder: (folder / "images.npy").unlink(), "images.npy.*missing"),
    "images.bin cut": ("jpeg", lambda folder: cut(folder / "images.bin"), "images.bin.*end is missing"),
    "rows.npy of another store": ("npy", lambda folder: np.save(folder / "rows.npy", np.arange(3)), "rows.npy"),
    "offsets.npy gone": ("jpeg", lambda folder: (folder / "offsets.npy").unlink(), "offsets.npy"),
    "another size": ("npy", lambda folder: change(folder, size=32), "images.npy"),
    "a newer format": ("npy", lambda folder: change(folder, format_version=99), "format 99"),
    "an unknown key": ("npy", lambda folder: change(folder, colour="red"), "colour"),
    "store.json cut": ("npy", lambda folder: cut(folder / "store.json"), "store.json is damaged"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_store_is_refused_when_it_is_opened(made, tmp_path, damage):
    packing, spoil, words = DAMAGE[damage]
    shutil.copytree(made / packing, tmp_path / "store")
    spoil(tmp_path / "store")
    with pytest.raises(InputError, match=words):
        Store(tmp_path / "store")


def test_a_manifest_of_another_store_is_refused(made, tmp_path):
    shutil.copytree(made / "npy", tmp_path / "store")
    manifest_of(["a.png"]).write(tmp_path / "store" / "manifest.parquet")
    with pytest.raises(InputError, match=r"manifest\.parquet.*1 rows"):
        _ = Store(tmp_path / "store").manifest


# ---- images of another store -----------------------------------------------------------------------------------


def borrow(lender, folder, **changed):
    """A store with the lender's manifest that reads its images, as `pseudo` writes one."""
    folder.mkdir(parents=True)
    shutil.copy(lender / "manifest.parquet", folder)
    borrowed = {"path": os.path.relpath(lender, folder), "content_hash": Store(lender).info.content_hash}
    info = replace(Store(lender).info, content_hash="f0", borrowed=borrowed | changed)
    info.write(folder)
    return folder


@pytest.mark.parametrize("packing", ["npy", "jpeg"])
def test_a_store_may_borrow_its_images_and_both_may_be_moved_together(made, tmp_path, packing):
    shutil.copytree(made / packing, tmp_path / "data" / packing)
    borrow(tmp_path / "data" / packing, tmp_path / "data" / "labels")
    (tmp_path / "data").rename(tmp_path / "moved")
    store, lender = Store(tmp_path / "moved" / "labels"), Store(tmp_path / "moved" / packing)
    assert store.images_folder == lender.path and lender.images_folder == lender.path
    sent = pickle.loads(pickle.dumps(store))
    for row in range(len(lender)):
        np.testing.assert_array_equal(sent.image(row), lender.image(row))
    assert not list(store.path.glob("images*"))


def test_a_store_whose_lender_is_gone_or_another_one_says_so(made, tmp_path):
    shutil.copytree(made / "npy", tmp_path / "films")
    folder = borrow(tmp_path / "films", tmp_path / "labels")
    (tmp_path / "films").rename(tmp_path / "elsewhere")
    with pytest.raises(InputError, match=r"labels borrows its images from the store .*films, which is not there; put"):
        Store(folder)
    shutil.copytree(made / "jpeg", tmp_path / "films")
    with pytest.raises(InputError, match=r"labels borrows its images .*films, which was made anew since .*pseudo"):
        Store(folder)


def test_a_damaged_lender_is_named_and_not_the_store_that_borrows(made, tmp_path):
    shutil.copytree(made / "npy", tmp_path / "films")
    folder = borrow(tmp_path / "films", tmp_path / "labels")
    cut(tmp_path / "films" / "images.npy")
    with pytest.raises(InputError, match=r"films/images\.npy is damaged"):
        Store(folder)


def test_a_store_with_images_of_its_own_says_nothing_of_others(made):
    assert "borrowed" not in json.loads((made / "npy" / "store.json").read_text())


def test_codes_and_boxes_are_read_where_there_are_any(made, tmp_path):
    assert Store(made / "npy").codes() is None and Store(made / "npy").boxes() is None
    shutil.copytree(made / "npy", tmp_path / "store")
    codes = pd.DataFrame({"source": "test", "image_id": ["000", "001"], "Mass": np.array([1, -2], np.int8)})
    codes.to_parquet(tmp_path / "store" / "codes.parquet")
    (tmp_path / "store" / "boxes.parquet").write_bytes(b"none")
    pd.testing.assert_frame_equal(Store(tmp_path / "store").codes(), codes)
    with pytest.raises(InputError, match=r"boxes\.parquet is damaged"):
        Store(tmp_path / "store").boxes()
