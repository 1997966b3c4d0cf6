"""Preparing stores: content, resuming, refusing, and being killed."""

import errno
import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from films import films, manifest_of, write_films
from jsonargparse import auto_cli
from PIL import Image as PillowImage

from longview import InputError
from longview.data import partial as partial_module
from longview.data.prepare import prepare, prepare_manifest
from longview.data.sources import SOURCES
from longview.data.store import Store

SIZE = 16


def run(root, output, **options):
    """`prepare` as the command line calls it."""
    arguments = [f"--{name}={value}" for name, value in {"root": root, "output": output, **options}.items()]
    auto_cli(prepare, args=arguments, as_positional=False)


def partial_of(output):
    return output.with_name(f".{output.name}.partial")


def assert_same(one, two):
    """The same store, but for the folder that it lies in and, in a blob, the order of the images."""
    one, two = Store(one), Store(two)
    assert one.info.content_hash == two.info.content_hash
    assert one.info.settings == two.info.settings
    pd.testing.assert_frame_equal(one.manifest.table, two.manifest.table)
    for row in range(len(one)):
        np.testing.assert_array_equal(one.image(row), two.image(row))


def test_real_films_become_a_store(shared_data, tmp_path, capsys):
    output = tmp_path / "nih"
    run(shared_data / "nih-1000", output, source="nih", size=64)
    store = Store(output)
    assert len(store) == 1000
    assert store.info.size == 64
    assert store.manifest.table["split"].value_counts()["test"] == 310
    for row in (0, 500, 999):
        with PillowImage.open(shared_data / "nih-1000" / store.manifest.table["path"].iloc[row]) as film:
            np.testing.assert_array_equal(store.image(row), np.asarray(film.convert("L")))
    assert "Hernia" in capsys.readouterr().out
    assert not partial_of(output).exists()
    assert sorted(file.name for file in output.iterdir()) == [
        "boxes.parquet", "images.npy", "manifest.parquet", "rejected.csv", "rows.npy", "store.json",
    ]  # fmt: skip
    boxes = pd.read_parquet(output / "boxes.parquet")
    assert len(boxes) == 9
    assert set(boxes["image_id"]) <= set(store.manifest.table["image_id"])


def test_dry_run_says_what_it_would_do_and_writes_nothing(shared_data, tmp_path, capsys):
    run(shared_data / "covid-chestxray", tmp_path / "covid", source="covid-chestxray", size=224, dry_run=True)
    text = capsys.readouterr().out
    images = int(re.search(r"images\W+(\d+) of", text)[1])
    assert f"{images * (224 * 224 + 2000) / 1e6:.1f} MB;" in text
    assert "lateral" in text
    assert "all files" in text
    assert not list(tmp_path.iterdir())


def test_sizes_and_spacing_of_the_files_are_kept(tmp_path):
    write_films(tmp_path / "raw", 3, side=20)
    manifest = manifest_of(
        ["film_000.png", "film_001.png", "film_002.png"],
        meta_pixel_spacing_mm=[0.1, 0.1, np.nan],
        meta_width=[40, np.nan, np.nan],
    )
    table = prepare_manifest(manifest, tmp_path / "raw", tmp_path / "store", size=SIZE).manifest.table
    assert table["meta_height"].tolist() == [20, 20, 20]
    assert table["meta_width"].tolist() == [20, 21, 22]
    # the first film was 40 columns of 0.1 mm and is 20 now
    assert table["meta_pixel_spacing_mm"].fillna(-1).tolist() == [0.2, 0.1, -1]
    assert Store(tmp_path / "store").manifest.labels == ["Mass", "Edema"]


def test_the_spacing_of_pixels_that_are_no_squares_is_left_empty(tmp_path):
    write_films(tmp_path / "raw", 3, side=120)  # 120 rows of 120, 121 and 122 columns
    manifest = manifest_of(
        ["film_000.png", "film_001.png", "film_002.png"], meta_pixel_spacing_mm=0.1, meta_width=240, meta_height=240
    )
    table = prepare_manifest(manifest, tmp_path / "raw", tmp_path / "store", size=SIZE).manifest.table
    assert table["meta_pixel_spacing_mm"].round(4).fillna(-1).tolist() == [0.2, 0.1992, -1]


def test_bad_files_are_listed_and_left_out(tmp_path, caplog):
    manifest = films(tmp_path / "raw", 6)
    (tmp_path / "raw" / "film_001.png").write_bytes(b"")
    (tmp_path / "raw" / "film_004.png").unlink()
    with caplog.at_level(logging.INFO):
        store = prepare_manifest(manifest, tmp_path / "raw", tmp_path / "store", size=SIZE)
    listed = pd.read_csv(tmp_path / "store" / "rejected.csv")
    assert listed["path"].tolist() == ["film_001.png", "film_004.png"]
    assert "empty" in listed["reason"][0]
    assert "does not exist" in listed["reason"][1]
    assert (len(store), store.info.rejected) == (4, 2)
    assert "2 files could not be read" in caplog.text


def test_strict_stops_at_the_first_bad_file_and_goes_on_when_it_is_mended(tmp_path):
    manifest = films(tmp_path / "raw", 40)
    whole = (tmp_path / "raw" / "film_030.png").read_bytes()
    (tmp_path / "raw" / "film_030.png").write_bytes(whole[:100])
    output = tmp_path / "store"
    with pytest.raises(InputError, match=r"film_030\.png.*strict"):
        prepare_manifest(manifest, tmp_path / "raw", output, size=SIZE, strict=True)
    assert not output.exists()
    (tmp_path / "raw" / "film_030.png").write_bytes(whole)
    assert len(prepare_manifest(manifest, tmp_path / "raw", output, size=SIZE, strict=True)) == 40


def test_no_readable_file_at_all_is_an_error_and_leaves_nothing(tmp_path):
    (tmp_path / "raw").mkdir()
    with pytest.raises(InputError, match=r"none of the 2 files.*a\.png does not exist"):
        prepare_manifest(manifest_of(["a.png", "b.png"]), tmp_path / "raw", tmp_path / "store", size=SIZE)
    assert [path.name for path in tmp_path.iterdir()] == ["raw"]


def test_output_and_root_may_not_lie_in_each_other(tmp_path):
    manifest = films(tmp_path / "raw", 2)
    before = sorted(tmp_path.rglob("*"))
    for output in (tmp_path / "raw", tmp_path / "raw" / "store", tmp_path):
        for overwrite in (False, True):
            with pytest.raises(InputError, match="lie in each other"):
                prepare_manifest(manifest, tmp_path / "raw", output, size=SIZE, overwrite=overwrite)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_folder_that_is_no_store_is_never_replaced(tmp_path):
    manifest = films(tmp_path / "raw", 2)
    letters = tmp_path / "letters"
    letters.mkdir()
    (letters / "thesis.txt").write_text("years of work")
    for overwrite in (False, True):
        with pytest.raises(InputError, match="is not a store"):
            prepare_manifest(manifest, tmp_path / "raw", letters, size=SIZE, overwrite=overwrite)
    assert (letters / "thesis.txt").read_text() == "years of work"


def test_options_out_of_range_are_refused(tmp_path):
    manifest = films(tmp_path / "raw", 2)
    for options, words in (
        ({"size": 0}, "size.*not 0"),
        ({"jpeg_quality": 101}, "jpeg_quality.*101"),
        ({"workers": -1}, "workers.*-1"),
    ):
        with pytest.raises(InputError, match=words):
            prepare_manifest(manifest, tmp_path / "raw", tmp_path / "store", **options)
    with pytest.raises(InputError, match="absent is not a folder"):
        prepare_manifest(manifest, tmp_path / "absent", tmp_path / "store")


def test_the_same_again_does_nothing_and_other_settings_need_overwrite(tmp_path, caplog):
    manifest, root, output = films(tmp_path / "raw", 4), tmp_path / "raw", tmp_path / "store"
    prepare_manifest(manifest, root, output, size=SIZE)
    written = (output / "store.json").stat().st_mtime_ns
    with caplog.at_level(logging.INFO):
        prepare_manifest(manifest, root, output, size=SIZE)
    assert "there already" in caplog.text
    assert (output / "store.json").stat().st_mtime_ns == written
    with pytest.raises(InputError, match=r"size 16, now 8\).*--overwrite"):
        prepare_manifest(manifest, root, output, size=8)
    other = manifest_of(manifest.table["path"].tolist(), split="test")
    with pytest.raises(InputError, match=r"manifest .*, now .*--overwrite"):
        prepare_manifest(other, root, output, size=SIZE)
    assert Store(output).info.size == SIZE
    assert prepare_manifest(manifest, root, output, size=8, overwrite=True).info.size == 8
    assert sorted(path.name for path in tmp_path.iterdir()) == ["raw", "store"]


@pytest.mark.parametrize("packing", ["npy", "jpeg"])
def test_the_store_does_not_depend_on_the_number_of_workers(tmp_path, packing):
    manifest = films(tmp_path / "raw", 50)
    for workers in (0, 2):
        prepare_manifest(
            manifest, tmp_path / "raw", tmp_path / str(workers), size=SIZE, packing=packing, workers=workers
        )
    assert_same(tmp_path / "0", tmp_path / "2")


def test_the_content_hash_depends_on_pixels_and_on_labels(tmp_path):
    manifest, root = films(tmp_path / "raw", 4), tmp_path / "raw"
    hashes = {prepare_manifest(manifest, root, tmp_path / "a", size=SIZE).info.content_hash}
    relabelled = manifest.table.assign(Mass=manifest.table["Mass"].iloc[::-1].to_numpy())
    hashes.add(prepare_manifest(type(manifest)(relabelled), root, tmp_path / "b", size=SIZE).info.content_hash)
    shutil.copy(root / "film_003.png", root / "film_000.png")
    hashes.add(prepare_manifest(manifest, root, tmp_path / "c", size=SIZE).info.content_hash)
    assert len(hashes) == 3


def test_a_store_that_cannot_fit_is_refused_with_figures(tmp_path, monkeypatch):
    manifest = films(tmp_path / "raw", 4)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9, 1_000_000))
    with pytest.raises(InputError, match=r"needs 4\.0 MB more.*1\.0 MB free"):
        prepare_manifest(manifest, tmp_path / "raw", tmp_path / "store", size=1000)
    assert not (tmp_path / "store").exists()
    assert len(prepare_manifest(manifest, tmp_path / "raw", tmp_path / "store", size=SIZE)) == 4


@pytest.mark.parametrize("packing", ["npy", "jpeg"])
def test_a_disk_that_fills_up_is_one_message_and_can_go_on(tmp_path, monkeypatch, packing):
    manifest, root = films(tmp_path / "raw", 60), tmp_path / "raw"
    real, left = os.pwrite, [35]

    def full(file, data, position):
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(file, data, position)

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OSError, match=r"disk is full after 32 of 60 images.*goes on") as caught:
        prepare_manifest(manifest, root, tmp_path / "store", size=SIZE, packing=packing, workers=0)
    assert caught.value.errno == errno.ENOSPC
    assert not (tmp_path / "store").exists()
    left[0] = 28  # 60 less the 32 that are done: nothing is done twice
    prepare_manifest(manifest, root, tmp_path / "store", size=SIZE, packing=packing, workers=0)
    assert left[0] == 0
    monkeypatch.undo()
    prepare_manifest(manifest, root, tmp_path / "other", size=SIZE, packing=packing, workers=0)
    assert_same(tmp_path / "store", tmp_path / "other")


def interrupted(tmp_path, monkeypatch, manifest):
    """A half-made store of 16 of the manifest's images."""
    real = partial_module.PartialStore.record

    def record(self, outcomes):
        real(self, outcomes)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(partial_module.PartialStore, "record", record)
        prepare_manifest(manifest, tmp_path / "raw", tmp_path / "store", size=SIZE, workers=0)
    return partial_of(tmp_path / "store")


def test_ctrl_c_says_how_to_go_on(tmp_path, monkeypatch, caplog):
    folder = interrupted(tmp_path, monkeypatch, films(tmp_path / "raw", 40))
    assert "interrupted after 16 of 40 images" in caplog.text
    assert "same command goes on" in caplog.text
    assert len((folder / "journal.jsonl").read_text().splitlines()) == 16


def test_a_journal_line_cut_by_a_kill_is_done_again(tmp_path, monkeypatch):
    manifest = films(tmp_path / "raw", 40)
    journal = interrupted(tmp_path, monkeypatch, manifest) / "journal.jsonl"
    journal.write_bytes(journal.read_bytes()[:-7])
    prepare_manifest(manifest, tmp_path / "raw", tmp_path / "store", size=SIZE, workers=0)
    prepare_manifest(manifest, tmp_path / "raw", tmp_path / "other", size=SIZE, workers=0)
    assert_same(tmp_path / "store", tmp_path / "other")


def test_a_half_made_store_of_other_settings_is_not_mixed_in(tmp_path, monkeypatch):
    manifest = films(tmp_path / "raw", 40)
    folder = interrupted(tmp_path, monkeypatch, manifest)
    with pytest.raises(InputError, match=r"partial is half made.*size 16, now 8.*--overwrite"):
        prepare_manifest(manifest, tmp_path / "raw", tmp_path / "store", size=8)
    assert folder.exists()
    store = prepare_manifest(manifest, tmp_path / "raw", tmp_path / "store", size=8, overwrite=True)
    assert store.image(0).shape == (8, 8)
    assert not folder.exists()


def test_two_processes_do_not_build_one_store(tmp_path):
    manifest, output = films(tmp_path / "raw", 2), tmp_path / "store"
    settings = {"packing": "npy", "size": SIZE, "resize": "squash"}
    with (
        partial_module.PartialStore(output, manifest, settings, restart=False),
        pytest.raises(InputError, match="another process"),
    ):
        prepare_manifest(manifest, tmp_path / "raw", output, size=SIZE)


@pytest.mark.parametrize("step", ["rename", "before"])
def test_a_kill_while_moving_into_place_loses_neither_store(tmp_path, monkeypatch, step):
    manifest, root, output = films(tmp_path / "raw", 4), tmp_path / "raw", tmp_path / "store"
    prepare_manifest(manifest, root, output, size=8)
    real, calls = Path.replace, []

    def killed(self, target):
        if self.parent == tmp_path:  # moves of whole folders: the old store aside, the new one into place
            calls.append(target)
            if len(calls) == (2 if step == "rename" else 1):
                raise KeyboardInterrupt
        return real(self, target)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "replace", killed)
        prepare_manifest(manifest, root, output, size=SIZE, overwrite=True)
    assert Store(output).info.size == 8
    assert not (tmp_path / ".store.old").exists()
    assert prepare_manifest(manifest, root, output, size=SIZE, overwrite=True).info.size == SIZE
    assert sorted(path.name for path in tmp_path.iterdir()) == ["raw", "store"]


def test_what_a_kill_after_the_move_left_is_removed_by_the_next_call(tmp_path, monkeypatch):
    manifest, root, output = films(tmp_path / "raw", 4), tmp_path / "raw", tmp_path / "store"
    prepare_manifest(manifest, root, output, size=8)

    def killed(folder):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(partial_module, "clear_leftovers", killed)
        prepare_manifest(manifest, root, output, size=SIZE, overwrite=True)
    assert (output / "journal.jsonl").exists()
    assert (tmp_path / ".store.old").exists()
    assert prepare_manifest(manifest, root, output, size=SIZE).info.size == SIZE
    assert sorted(path.name for path in tmp_path.iterdir()) == ["raw", "store"]
    assert len(list(output.iterdir())) == 5


def test_a_store_is_not_put_back_under_the_hands_of_the_process_that_replaces_it(tmp_path):
    manifest, output = films(tmp_path / "raw", 4), tmp_path / "store"
    prepare_manifest(manifest, tmp_path / "raw", output, size=8)
    settings = {"packing": "npy", "size": SIZE, "resize": "squash"}
    with partial_module.PartialStore(output, manifest, settings, restart=True):
        output.rename(tmp_path / ".store.old")
        assert not Store.is_store(output)
    assert Store(output).info.size == 8


@pytest.fixture
def listed(tmp_path):
    """A folder with 40 films and a table of them; returns the options of source table."""
    write_films(tmp_path / "raw", 40)
    names = [f"film_{number:03d}.png" for number in range(40)]
    pd.DataFrame({"path": names, "patient_id": names, "[/red]": 1.0}).to_csv(tmp_path / "films.csv", index=False)
    return {"source": "table", "root": tmp_path / "raw", "table": tmp_path / "films.csv", "size": SIZE, "workers": 0}


def test_mistakes_in_options_are_told_before_the_table_is_read(listed, tmp_path):
    listed["table"].write_text("no table")
    for options, words in (
        ({"seed": -1}, "seed.*-1"),
        ({"size": 0}, "size.*0"),
        ({"workers": -2}, "workers.*-2"),
        ({"val_fraction": 2}, "val_fraction.*2"),
        ({"output": tmp_path / "raw" / "o"}, "lie in each other"),
        ({"output": tmp_path / "films.csv" / "x"}, r"output .*films\.csv.*cannot be used: Not a directory"),
        ({"output": tmp_path / ("x" * 300)}, "cannot be used: File name too long"),
        ({"output": tmp_path / ("x" * 250)}, "cannot be used: File name too long"),  # with .partial it is
        ({"output": Path("/")}, "lie in each other"),
        ({"root": tmp_path / ("x" * 300)}, "root .*cannot be used: File name too long"),
    ):
        for dry_run in (False, True):
            with pytest.raises(InputError, match=words):
                prepare(**{"output": tmp_path / "o", **listed, **options}, dry_run=dry_run)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["films.csv", "raw"]


def test_brackets_in_paths_and_labels_are_printed_as_they_are(listed, tmp_path, capsys):
    for dry_run in (True, False):
        prepare(**listed, output=tmp_path / "o" / "[" / "a]", dry_run=dry_run)
        assert "[/red]" in capsys.readouterr().out
    assert len(Store(tmp_path / "o" / "[" / "a]")) == 40


def test_a_repeated_run_names_the_rejected_files(listed, tmp_path, caplog):
    (tmp_path / "raw" / "film_003.png").write_bytes(b"")
    prepare(**listed, output=tmp_path / "o")
    for dry_run in (True, False):
        caplog.clear()
        with caplog.at_level(logging.INFO):
            prepare(**listed, output=tmp_path / "o", dry_run=dry_run)
        assert "is there already" in caplog.text
        assert re.search(r"1 files were rejected, see .*rejected\.csv; --overwrite true tries them again", caplog.text)


def test_dry_run_refuses_what_the_real_run_refuses(listed, tmp_path, monkeypatch):
    prepare(**listed, output=tmp_path / "o")
    with pytest.raises(InputError, match=r"size 16, now 8\).*--overwrite"):
        prepare(**listed | {"size": 8}, output=tmp_path / "o", dry_run=True)
    with pytest.raises(InputError, match="is not a store"):
        prepare(**listed, output=tmp_path / "films.csv", dry_run=True)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9, 1000))
    with pytest.raises(InputError, match=r"needs .* more"):
        prepare(**listed, output=tmp_path / "new" / "p", dry_run=True)
    assert not (tmp_path / "new").exists()


def test_options_that_change_nothing_make_no_other_store(listed, tmp_path, caplog):
    table = pd.read_csv(listed["table"])
    table.assign(split=["train", "val", "test", "train"] * 10).to_csv(listed["table"], index=False)
    prepare(**listed, output=tmp_path / "o")
    written = (tmp_path / "o" / "store.json").stat().st_mtime_ns
    assert "changes nothing" not in caplog.text
    for options in ({"test_fraction": 0.3}, {"val_fraction": 0.2}, {"seed": 5}, {"jpeg_quality": 50}):
        caplog.clear()
        prepare(**listed, output=tmp_path / "o", **options)
        ((name, value),) = options.items()
        assert f"--{name} {value} changes nothing" in caplog.text
    assert (tmp_path / "o" / "store.json").stat().st_mtime_ns == written


def test_what_names_the_same_labels_makes_the_same_store(shared_data, tmp_path):
    options = {"source": "nih", "root": shared_data / "nih-1000", "output": tmp_path / "o", "size": 4, "workers": 0}
    prepare(**options)
    written = (tmp_path / "o" / "store.json").stat().st_mtime_ns
    prepare(**options, labels=Path("nih"))
    assert (tmp_path / "o" / "store.json").stat().st_mtime_ns == written


def test_a_folder_has_no_division_and_says_so(listed, tmp_path, caplog):
    prepare("folder", tmp_path / "raw", tmp_path / "o", size=SIZE, val_fraction=0.3, workers=0)
    assert "--val_fraction 0.3 changes nothing: source folder" in caplog.text


@pytest.fixture
def reports(tmp_path):
    """CheXpert's layout with 20 films of 20 patients and two patterns of labels; the options of prepare."""
    root = tmp_path / "raw"
    labels = (
        "No Finding,Enlarged Cardiomediastinum,Cardiomegaly,Lung Opacity,Lung Lesion,Edema,Consolidation,Pneumonia,"
        "Atelectasis,Pneumothorax,Pleural Effusion,Pleural Other,Fracture,Support Devices"
    )
    lines = [f"Path,Sex,Age,Frontal/Lateral,AP/PA,{labels}"]
    cells = ["1.0,0.0,-1.0,,0.0,1.0,-1.0,,,,,,,0.0", ",,,,,-1.0,0.0,,,,,,,1.0"]
    for number in range(20):
        place = f"train/patient{number:05d}/study1"
        write_films(root / place, 1)
        (root / place / "film_000.png").rename(root / place / "view1_frontal.jpg")
        lines.append(f"CheXpert-v1.0/{place}/view1_frontal.jpg,Male,60,Frontal,AP,{cells[number % 2]}")
    (root / "train.csv").write_text("\n".join(lines) + "\n")
    return {"source": "chexpert", "root": root, "size": SIZE, "workers": 0}


def test_codes_are_kept_and_counted_and_policies_make_the_labels(reports, tmp_path, capsys):
    (reports["root"] / "train/patient00003/study1/view1_frontal.jpg").write_bytes(b"")
    run(output=tmp_path / "o", **{**reports, "uncertain": "soft", "blank": "ignore"})
    assert re.search(r"Edema\W+10\W+0\W+9\W+0\W+0", capsys.readouterr().out)
    store = Store(tmp_path / "o")
    codes = pd.read_parquet(tmp_path / "o" / "codes.parquet")
    assert codes["image_id"].tolist() == store.manifest.table["image_id"].tolist()
    assert codes["Edema"].value_counts().to_dict() == {1: 10, -1: 9}
    table = store.manifest.table
    assert table["Edema"].tolist() == codes["Edema"].map({1: 1.0, -1: 0.5}).tolist()
    assert table["Fracture"].isna().all()
    assert store.info.settings["options"]["uncertain"] == "soft"


def test_a_policy_may_be_given_per_label_or_as_a_file(reports, tmp_path, capsys):
    (tmp_path / "policy.yaml").write_text("{Edema: one, default: ignore}")
    run(output=tmp_path / "file", **{**reports, "uncertain": tmp_path / "policy.yaml"})
    run(output=tmp_path / "words", **{**reports, "uncertain.Edema": "one", "uncertain.default": "ignore"})
    run(output=tmp_path / "json", **{**reports, "uncertain": '{"Edema": "one", "default": "ignore"}'})
    assert_same(tmp_path / "file", tmp_path / "words")
    assert_same(tmp_path / "file", tmp_path / "json")
    table = Store(tmp_path / "file").manifest.table
    run(output=tmp_path / "case", **{**reports, "uncertain.edema": "one"})
    pd.testing.assert_frame_equal(Store(tmp_path / "case").manifest.table, table)
    assert table["Edema"].tolist() == [1.0] * 20
    assert table["Cardiomegaly"].isna().sum() == 10
    with pytest.raises(InputError, match=r"uncertain .*one.*now soft.*--overwrite"):
        prepare(output=tmp_path / "file", uncertain="soft", **reports)
    for text, words in (("[1]", "must hold a mapping"), ("{", "cannot be read")):
        (tmp_path / "policy.yaml").write_text(text)
        with pytest.raises(InputError, match=words):
            prepare(output=tmp_path / "o", blank=str(tmp_path / "policy.yaml"), **reports)


def test_a_table_without_codes_is_counted_too_with_all_labels_of_the_set(listed, tmp_path, capsys):
    (tmp_path / "set.yaml").write_text(
        "name: set\nlabels: [{name: Mass}, {name: Nodule}, {name: Hernia}, {name: Fibrosis}, \n"
        "  {name: Rare, unseen: true}, {name: Any, derived: any}]\nhierarchy: {Any: [Mass, Nodule]}\n"
    )
    table = pd.read_csv(listed["table"]).drop(columns="[/red]")
    table["Mass"], table["Nodule"] = [1.0] * 9 + [0.0] * 31, [1.0] * 4 + [0.25] * 3 + [0.0] * 20 + [np.nan] * 13
    table["Hernia"], table["Fibrosis"] = np.nan, [0.0] * 40
    table.to_csv(listed["table"], index=False)
    listed["labels"] = tmp_path / "set.yaml"
    for dry_run in (True, False):
        prepare(**listed, output=tmp_path / "o", dry_run=dry_run)
        out = capsys.readouterr().out
        assert re.search(r"present\W+absent\W+uncertain\W+blank\W+not in source\W+soft", out)
        lines = [re.findall(r"\w+", line) for line in out.partition("what source table says")[2].splitlines()]
        rows = {words[0]: words[1:] for words in lines if words}
        assert rows["Mass"] == ["9", "31", "0", "0", "0", "0"]
        assert rows["Nodule"] == ["4", "20", "0", "13", "0", "3"]
        assert rows["Hernia"] == rows["Rare"] == ["0", "0", "0", "0", "40", "0"]
        assert rows["Fibrosis"] == ["0", "40", "0", "0", "0", "0"]
        assert rows["Any"] == ["9", "18", "0", "13", "0", "0"]


def test_labels_that_the_source_lacks_are_counted_beside_its_codes(reports, tmp_path, capsys):
    (tmp_path / "set.yaml").write_text("name: set\nlabels: [{name: Hernia}, {name: Edema}]")
    (reports["root"] / "train/patient00003/study1/view1_frontal.jpg").write_bytes(b"")
    prepare(output=tmp_path / "o", labels=tmp_path / "set.yaml", **reports)
    out = capsys.readouterr().out
    assert re.search(r"Hernia\W+0\W+0\W+0\W+0\W+19\W+Edema\W+10\W+0\W+9\W+0\W+0\W", out)
    assert "soft" not in out and "derived" not in out
    prepare(output=tmp_path / "other", labels=Path("chexpert_hierarchical"), uncertain="soft", dry_run=True, **reports)
    out = capsys.readouterr().out
    assert re.search(r"Edema\W+10\W+0\W+10\W+0\W+0\W+0\W", out)
    assert re.search(r"│ Opacity\W+10\W+0\W+0\W+0\W+0\W+10\W", out)
    assert re.search(r"derived, so after the policy: .*Opacity", out.replace("\n", " "))


def test_a_dry_run_counts_codes(reports, tmp_path, capsys):
    run(output=tmp_path / "o", **{**reports, "dry_run": True})
    out = capsys.readouterr().out
    assert re.search(r"present\W+absent\W+uncertain\W+blank\W+not in source", out)
    assert re.search(r"Consolidation\W+0\W+10\W+10\W+0\W+0", out)


def test_an_option_of_another_source_is_refused_with_those_that_there_are(reports, tmp_path):
    with pytest.raises(InputError, match=r"takes no option 'votes'.*labeler"):
        prepare(output=tmp_path / "o", votes="any", **reports)
    with pytest.raises(InputError, match=r"labeler is 'mine'.*chexbert"):
        prepare(output=tmp_path / "o", labeler="mine", **reports)


def test_the_help_names_every_source():
    assert [name for name in SOURCES if name not in prepare.__doc__] == []


SCRIPT = """
import sys
from pathlib import Path
from longview.data import partial
from longview.data.manifest import Manifest
from longview.data.prepare import prepare_manifest
partial._SECONDS = 0.0
folder = Path(sys.argv[1])
prepare_manifest(Manifest.read(folder / "manifest.parquet"), folder / "raw", folder / "store", size=64, workers=2)
"""


def begin(folder):
    return subprocess.Popen([sys.executable, "-c", SCRIPT, folder], stderr=subprocess.PIPE, start_new_session=True)


def wait_for_lines(process, folder, lines):
    """Wait until the journal has that many lines; give the process's descendants."""
    journal, end = partial_of(folder / "store") / "journal.jsonl", time.monotonic() + 60
    while time.monotonic() < end:
        assert process.poll() is None, process.stderr.read().decode()
        if journal.is_file() and journal.read_bytes().count(b"\n") >= lines:
            return descendants(process.pid)
        time.sleep(0.01)
    pytest.fail("nothing was packed in a minute")


def descendants(pid):
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in children] + [pid for child in children for pid in descendants(child)]


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.fixture(scope="module")
def slow(tmp_path_factory):
    """A folder with 160 films, of 20 different files, that take about 10 ms each."""
    folder = tmp_path_factory.mktemp("slow")
    (folder / "raw").mkdir()
    rng = np.random.default_rng(0)
    for number in range(160):
        file = folder / "raw" / f"{number:03d}.jpg"
        if number < 20:
            PillowImage.fromarray(rng.integers(0, 255, (900, 900)).astype(np.uint8)).save(file)
        else:
            os.link(folder / "raw" / f"{number % 20:03d}.jpg", file)
    manifest_of([f"{number:03d}.jpg" for number in range(160)]).write(folder / "manifest.parquet")
    return folder


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="finds the worker processes in /proc")
def test_sigkill_at_any_moment_leaves_what_the_next_run_completes(slow):
    for lines in (1, 50):
        process = begin(slow)
        workers = wait_for_lines(process, slow, lines)
        assert len(workers) >= 2
        process.kill()
        process.wait()
        assert not (slow / "store").exists()
        end = time.monotonic() + 20
        while any(alive(pid) for pid in workers) and time.monotonic() < end:
            time.sleep(0.05)
        assert not any(alive(pid) for pid in workers)
    done = (partial_of(slow / "store") / "journal.jsonl").read_bytes().count(b"\n")
    assert 50 <= done < 160
    process = begin(slow)
    assert process.wait(60) == 0, process.stderr.read().decode()
    manifest = partial_module.Manifest.read(slow / "manifest.parquet")
    prepare_manifest(manifest, slow / "raw", slow / "other", size=64, workers=0)
    assert_same(slow / "store", slow / "other")
    assert (slow / "store" / "images.npy").read_bytes() == (slow / "other" / "images.npy").read_bytes()


def test_an_interrupt_of_the_whole_group_ends_cleanly(slow):
    shutil.rmtree(slow / "store", ignore_errors=True)
    process = begin(slow)
    wait_for_lines(process, slow, 1)
    os.killpg(process.pid, signal.SIGINT)
    text = process.stderr.read().decode()
    assert process.wait(30) == -signal.SIGINT  # 130 in a shell
    assert "images; they are kept" in text
    assert text.count("Traceback") == 1  # the interrupt itself; the workers are silent
    lines = (partial_of(slow / "store") / "journal.jsonl").read_text().splitlines()
    assert [json.loads(line)[1] for line in lines] == [""] * len(lines)
