"""Stores made in shards: equal to those of one process, whatever is killed, missing or different."""

import json
import logging
import os
import shutil

import numpy as np
import pandas as pd
import pytest
from films import films, manifest_of, write_films
from hypothesis import given, settings
from hypothesis import strategies as st

from longview import InputError
from longview.data import building, merging
from longview.data import partial as partial_module
from longview.data.annotations import Annotations
from longview.data.building import plan_store
from longview.data.merging import check_merge, merge_shards
from longview.data.prepare import make_store, prepare, prepare_manifest
from longview.data.shards import Shard, check_shard, cuts, make_shard, shard_folder, shards_folder
from longview.data.store import Store

SIZE = 16


def plan_of(tmp_path, manifest, name="store", **options):
    return plan_store(manifest, tmp_path / "raw", tmp_path / name, **{"size": SIZE, "workers": 0, **options})


def make_all(plan, count, but=()):
    for number in range(1, count + 1):
        if number not in but:
            make_shard(plan, Shard(number, count))


def assert_equal(one, two):
    """The same store: manifest, pixels, and all that is said about them."""
    one, two = Store(one), Store(two)
    assert one.info.content_hash == two.info.content_hash
    assert one.info.settings == two.info.settings
    assert (one.info.images, one.info.rejected) == (two.info.images, two.info.rejected)
    assert (one.path / "rejected.csv").read_text() == (two.path / "rejected.csv").read_text()
    pd.testing.assert_frame_equal(one.manifest.table, two.manifest.table)
    for row in range(len(one)):
        np.testing.assert_array_equal(one.image(row), two.image(row))
    assert sorted(file.name for file in one.path.iterdir()) == sorted(file.name for file in two.path.iterdir())


@pytest.fixture
def manifest(tmp_path):
    """23 films, two to a study, two of which cannot be read."""
    found = films(tmp_path / "raw", 23)
    table = found.table.assign(study_id=[f"{number // 2:03d}" for number in range(23)])
    table = table.assign(patient_id=table["study_id"])
    (tmp_path / "raw" / "film_004.png").write_bytes(b"")
    (tmp_path / "raw" / "film_022.png").unlink()
    return type(found)(table)


@pytest.mark.parametrize("packing", ["npy", "jpeg"])
@pytest.mark.parametrize("count", [1, 3, 8])
def test_joined_shards_equal_the_store_of_one_process(tmp_path, manifest, packing, count, monkeypatch):
    monkeypatch.setattr(merging, "BLOCK_BYTES", 1000)  # several blocks to a shard
    plan = plan_of(tmp_path, manifest, packing=packing)
    make_all(plan, count)
    assert not (tmp_path / "store").exists()
    merge_shards(plan, count)
    make_store(plan_of(tmp_path, manifest, "one", packing=packing))
    assert_equal(tmp_path / "store", tmp_path / "one")
    if packing == "npy":
        assert (tmp_path / "store" / "images.npy").read_bytes() == (tmp_path / "one" / "images.npy").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "raw", "store"]


@settings(deadline=None, derandomize=True, max_examples=60)
@given(st.lists(st.integers(1, 5), min_size=1, max_size=20), st.data())
def test_shards_cover_every_row_once_and_keep_studies_whole_where_they_can(sizes, data):
    studies = pd.Series([f"s{number}" for number, size in enumerate(sizes) for _ in range(size)], dtype="str")
    count = data.draw(st.integers(1, len(studies)))
    places = cuts(studies, count)
    assert places[0] == 0 and places[-1] == len(studies) and len(places) == count + 1
    assert (np.diff(places) > 0).all()
    if count == 1 or (count == 2 and len(sizes) > 1 and sizes[-1] < len(studies) / 2):
        assert all(row in {0, len(studies)} or studies[row] != studies[row - 1] for row in places)


def test_cuts_fall_between_studies():
    assert cuts(pd.Series(list("aaabbbccc")), 2) == [0, 6, 9]
    assert cuts(pd.Series(list("aaaa")), 2) == [0, 2, 4]  # better a study in two shards than a shard of nothing
    with pytest.raises(InputError, match=r"5 shards of 4 images.*1 to 4"):
        cuts(pd.Series(list("abcd")), 5)


@pytest.mark.parametrize("text", ["3", "0/8", "9/8", "a/b", "1/0", "-1/3", "1/2/3", ""])
def test_a_shard_is_number_slash_count(text):
    with pytest.raises(InputError, match=r"shard is .*--shard 3/8"):
        Shard.parse(text)
    assert Shard.parse("8/8") == Shard(8, 8)


def test_joining_says_which_shards_are_missing_half_made_or_of_other_settings(tmp_path, manifest, monkeypatch):
    plan = plan_of(tmp_path, manifest)
    make_all(plan, 5, but=(2, 3, 5))
    make_shard(plan_of(tmp_path, manifest, size=8, overwrite=True), Shard(3, 5))
    monkeypatch.setattr(partial_module, "_SECONDS", 0.0)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(building.Meter, "update", interrupt)
        make_shard(plan_of(tmp_path, manifest, overwrite=True), Shard(5, 5))
    for look in (check_merge, merge_shards):
        with pytest.raises(InputError) as caught:
            look(plan, 5)
        text = str(caught.value)
        assert "2 of 5 shards" in text
        assert "not begun: 2" in text
        assert "finished, but with other settings (size 8, now 16): 3" in text
        assert "half made (4 of 5 images): 5" in text
        assert "--shard 2/5 instead of --merge 5 makes shard 2, or goes on with it" in text
        assert "--shard 3/5 --overwrite true instead of --merge 5 makes shard 3 anew" in text
    make_all(plan_of(tmp_path, manifest, overwrite=True), 5)
    assert len(merge_shards(plan, 5)) == 21


def test_a_shard_with_other_options_than_the_others_is_refused_before_it_is_packed(tmp_path, manifest, caplog):
    plan, other = plan_of(tmp_path, manifest), plan_of(tmp_path, manifest, size=8)
    make_all(plan, 4, but=(2, 4))
    for look in (check_shard, make_shard):
        with pytest.raises(InputError) as caught:
            look(other, Shard(2, 4))
        text = str(caught.value)
        assert "1/4, 3/4" in text and "(size 16, now 8)" in text
        assert "--shard 1/4 --overwrite true" in text
    assert not shard_folder(plan.output, Shard(2, 4)).exists()
    make_shard(plan_of(tmp_path, manifest, size=8, overwrite=True), Shard(1, 4))
    assert "3/4" in caplog.text and "(size 16, now 8)" in caplog.text
    with pytest.raises(InputError, match=r"shards 1/4 .*\(size 8, now 16\)"):
        make_shard(plan, Shard(2, 4))
    make_shard(plan_of(tmp_path, manifest, overwrite=True), Shard(1, 4))
    make_all(plan, 4)
    make_shard(other, Shard(1, 3))  # another division is another store: only said
    assert len(merge_shards(plan, 4)) == 21


def interrupt(*_):
    raise KeyboardInterrupt


def test_a_shard_that_is_being_made_is_not_joined_and_not_made_twice(tmp_path, manifest):
    plan = plan_of(tmp_path, manifest)
    make_all(plan, 2)
    lock = partial_module.lock(shard_folder(plan.output, Shard(2, 2)), plan.output)
    with pytest.raises(InputError, match="at work now: 2"):
        merge_shards(plan, 2)
    (shard_folder(plan.output, Shard(2, 2)) / "done.json").unlink()
    with pytest.raises(InputError, match="another process"):
        make_shard(plan, Shard(2, 2))
    os.close(lock)
    make_shard(plan, Shard(2, 2))
    merge_shards(plan, 2)


def test_a_finished_shard_is_left_alone_and_a_requeued_one_does_nothing_once_the_store_is_there(
    tmp_path, manifest, caplog
):
    plan = plan_of(tmp_path, manifest)
    make_all(plan, 2)
    journal = shard_folder(plan.output, Shard(1, 2)) / "journal.jsonl"
    before = journal.stat().st_mtime_ns
    caplog.set_level(logging.INFO)
    make_shard(plan, Shard(1, 2))
    assert "finished already" in caplog.text
    assert journal.stat().st_mtime_ns == before
    merge_shards(plan, 2)
    make_shard(plan, Shard(1, 2))
    assert "there already" in caplog.text
    assert not shards_folder(plan.output).exists()
    merge_shards(plan, 2)


def test_files_that_were_mended_are_tried_again_on_request(tmp_path, manifest):
    plan = plan_of(tmp_path, manifest)
    make_all(plan, 2)
    shutil.copy(tmp_path / "raw" / "film_000.png", tmp_path / "raw" / "film_004.png")
    shutil.copy(tmp_path / "raw" / "film_000.png", tmp_path / "raw" / "film_022.png")
    with pytest.raises(InputError, match=r"film_004\.png is empty.*strict.*lack 2"):
        merge_shards(plan_of(tmp_path, manifest, strict=True), 2)
    make_shard(plan_of(tmp_path, manifest, strict=True), Shard(1, 2))
    make_shard(plan_of(tmp_path, manifest, overwrite=True), Shard(2, 2))
    assert len(merge_shards(plan_of(tmp_path, manifest, strict=True), 2)) == 23


@pytest.mark.parametrize(("packing", "block", "stride"), [("npy", 600, 2), ("jpeg", 1500, 3)])
def test_joining_that_is_killed_at_any_step_goes_on_and_ends_equal(tmp_path, monkeypatch, packing, block, stride):
    """A system call that changes a file in joining is the last one before a kill; each, or every other, in turn."""
    monkeypatch.setattr(merging, "BLOCK_BYTES", block)
    manifest = films(tmp_path / "raw", 7)
    (tmp_path / "raw" / "film_002.png").unlink()
    make_store(plan_of(tmp_path, manifest, "one", packing=packing))
    plan = plan_of(tmp_path, manifest, packing=packing)
    make_all(plan, 2)
    shutil.copytree(shards_folder(plan.output), tmp_path / "kept")
    steps = count_steps(monkeypatch, lambda: merge_shards(plan, 2))
    assert steps > 20
    for step in range(1, steps + 1, stride):
        shutil.rmtree(plan.output)
        shutil.copytree(tmp_path / "kept", shards_folder(plan.output))
        killed_after(monkeypatch, step, lambda: merge_shards(plan, 2))
        merge_shards(plan, 2)
        assert_equal(plan.output, tmp_path / "one")
        assert sorted(path.name for path in tmp_path.iterdir()) == ["kept", "one", "raw", "store"]


CALLS = ("pwrite", "ftruncate", "write", "unlink", "rename", "replace", "rmdir", "truncate")


def count_steps(monkeypatch, work):
    return killed_after(monkeypatch, None, work)


def killed_after(monkeypatch, step, work):
    """Run until a number of system calls that change files; those after it do nothing any more but raise."""
    done = [0]

    def counted(real):
        def call(*args, **options):
            if step is not None and done[0] >= step:
                raise KeyboardInterrupt
            done[0] += 1
            return real(*args, **options)

        return call

    with monkeypatch.context() as patch:
        for name in CALLS:
            patch.setattr(os, name, counted(getattr(os, name)))
        try:
            work()
        except KeyboardInterrupt:
            assert step is not None
    return done[0]


def test_joining_takes_one_block_more_room_and_not_twice_the_store(tmp_path, monkeypatch):
    side, count = 64, 24
    manifest = films(tmp_path / "raw", count)
    plan = plan_of(tmp_path, manifest, size=side)
    make_all(plan, 3)
    block = 4 * side * side
    monkeypatch.setattr(merging, "BLOCK_BYTES", block)
    real, most = os.ftruncate, [0]

    def watched(file, length):
        folders = [*shards_folder(plan.output).glob("*-of-*"), tmp_path / ".store.partial"]
        images = [folder / "images.npy" for folder in folders]
        os.sync()
        most[0] = max(most[0], sum(image.stat().st_blocks * 512 for image in images))
        real(file, length)

    monkeypatch.setattr(os, "ftruncate", watched)
    merge_shards(plan, 3)
    assert count * side**2 <= most[0] <= count * side**2 + block + 8 * 4096  # and what a file's last block rounds up


def test_shards_that_are_being_joined_are_not_made_again(tmp_path, manifest, monkeypatch):
    plan = plan_of(tmp_path, manifest)
    make_all(plan, 2)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(partial_module.PartialStore, "finish", interrupt)
        merge_shards(plan, 2)
    with pytest.raises(InputError, match=r"are being joined.*--merge"):
        make_shard(plan_of(tmp_path, manifest, overwrite=True), Shard(1, 2))
    with pytest.raises(InputError, match=r"3 shards|not begun"):
        merge_shards(plan, 3)
    merge_shards(plan, 2)


def test_one_process_does_not_make_a_store_whose_shards_are_there(tmp_path, manifest):
    plan = plan_of(tmp_path, manifest)
    make_shard(plan, Shard(1, 4))
    for overwrite in (False, True):
        with pytest.raises(InputError, match=r"holds shards.*--merge 4"):
            make_store(plan_of(tmp_path, manifest, overwrite=overwrite))


def test_a_store_is_replaced_by_shards_with_overwrite_only_and_a_kill_after_the_exchange_is_seen(
    tmp_path, manifest, monkeypatch
):
    make_store(plan_of(tmp_path, manifest, size=8))
    plan = plan_of(tmp_path, manifest)
    with pytest.raises(InputError, match=r"size 8, now 16.*--overwrite"):
        make_shard(plan, Shard(1, 2))
    plan = plan_of(tmp_path, manifest, overwrite=True)
    make_all(plan, 2)
    assert Store(plan.output).info.size == 8
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(merging, "_clear", interrupt)
        merge_shards(plan, 2)
    assert merge_shards(plan, 2).info.size == SIZE
    assert sorted(path.name for path in tmp_path.iterdir()) == ["raw", "store"]


def test_spent_shards_without_their_store_are_an_error_that_says_so(tmp_path, manifest, monkeypatch):
    plan = plan_of(tmp_path, manifest)
    make_all(plan, 2)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(merging, "_clear", interrupt)
        merge_shards(plan, 2)
    shutil.rmtree(plan.output)
    with pytest.raises(InputError, match="were joined, but the store is not at"):
        merge_shards(plan, 2)


def test_no_readable_file_in_any_shard_is_an_error(tmp_path):
    (tmp_path / "raw").mkdir()
    plan = plan_of(tmp_path, manifest_of(["a.png", "b.png", "c.png"]))
    make_all(plan, 3)
    with pytest.raises(InputError, match=r"none of the 3 files.*a\.png does not exist"):
        merge_shards(plan, 3)


def test_a_shard_that_does_not_fit_beside_the_others_is_refused(tmp_path, manifest, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9, 1_000_000))
    with pytest.raises(InputError, match=r"needs 23\.0 MB more"):
        make_shard(plan_of(tmp_path, manifest, size=1000), Shard(1, 23))


def annotations_of(manifest):
    count = len(manifest)
    codes = pd.DataFrame({"Mass": np.arange(count) % 4 - 2, "Edema": -3}).astype(np.int8)
    ids = manifest.table["image_id"].iloc[[4, 4, 7]].tolist()
    boxes = pd.DataFrame({"image_id": ids, "label": "Mass", "x": [1.0, 2.0, 3.0], "y": 0.0, "width": 5.0, "height": 6.0,
                          "frame_width": np.nan, "frame_height": np.nan, "reader": ""})  # fmt: skip
    return Annotations(codes, boxes)


@pytest.mark.parametrize("count", [None, 3])
def test_codes_and_boxes_are_kept_and_rejected_images_are_cut_out_of_them(tmp_path, manifest, count):
    annotations = annotations_of(manifest)
    plan = plan_of(tmp_path, manifest, annotations=annotations)
    if count is None:
        make_store(plan)
    else:
        make_all(plan, count)
        merge_shards(plan, count)
    table = Store(plan.output).manifest.table
    codes = pd.read_parquet(plan.output / "codes.parquet")
    assert list(codes.columns) == ["source", "image_id", "Mass", "Edema"]
    assert (codes["Mass"].dtype, codes["Edema"].dtype) == (np.int8, np.int8)
    assert codes["image_id"].tolist() == table["image_id"].tolist()
    assert codes["Mass"].tolist() == [number % 4 - 2 for number in range(23) if number not in {4, 22}]
    boxes = pd.read_parquet(plan.output / "boxes.parquet")
    assert list(boxes.columns) == ["source", *annotations.boxes.columns]
    assert boxes[["source", "image_id", "x"]].to_numpy().tolist() == [["test", "007", 3.0]]


def test_other_codes_make_another_store(tmp_path, manifest):
    annotations = annotations_of(manifest)
    make_store(plan_of(tmp_path, manifest, annotations=annotations))
    make_store(plan_of(tmp_path, manifest, annotations=annotations))
    changed = Annotations(annotations.codes.assign(Mass=np.int8(-1)), annotations.boxes)
    with pytest.raises(InputError, match=r"codes .*, now .*--overwrite"):
        make_store(plan_of(tmp_path, manifest, annotations=changed))


@pytest.fixture
def listed(tmp_path):
    """A folder with 40 films and a table of them, without splits; the options of prepare."""
    write_films(tmp_path / "raw", 40)
    names = [f"film_{number:03d}.png" for number in range(40)]
    table = pd.DataFrame({"path": names, "patient_id": [name[5:7] for name in names], "Mass": np.arange(40) % 3 == 0})
    table.astype({"Mass": float}).to_csv(tmp_path / "films.csv", index=False)
    return {"source": "table", "root": tmp_path / "raw", "table": tmp_path / "films.csv", "size": SIZE, "workers": 0}


def test_the_command_makes_shards_and_joins_them_with_the_division_of_the_whole(listed, tmp_path, capsys):
    prepare(**listed, output=tmp_path / "one", seed=3)
    for number in (3, 1, 2):
        prepare(**listed, output=tmp_path / "o", seed=3, shard=f"{number}/3")
    capsys.readouterr()
    prepare(**listed, output=tmp_path / "o", seed=3, merge=3)
    assert "Mass" in capsys.readouterr().out
    assert_equal(tmp_path / "o", tmp_path / "one")


def test_a_dry_run_of_a_shard_or_of_joining_checks_and_writes_nothing(listed, tmp_path, capsys):
    prepare(**listed, output=tmp_path / "o", shard="2/4", dry_run=True)
    assert "2/4: 10 images, 10 to 19" in capsys.readouterr().out
    with pytest.raises(InputError, match="not begun: 1, 2, 3, 4"):
        prepare(**listed, output=tmp_path / "o", merge=4, dry_run=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["films.csv", "raw"]


def test_shard_and_merge_are_checked_before_anything_is_read(listed, tmp_path):
    listed["table"].write_text("no table")
    for options, words in (
        ({"shard": "1/2", "merge": 2}, "not both"),
        ({"shard": "3/2"}, "shard is '3/2'"),
        ({"merge": 0}, "merge must be.*not 0"),
    ):
        with pytest.raises(InputError, match=words):
            prepare(**listed, output=tmp_path / "o", **options)


def test_a_damaged_shard_is_named(tmp_path, manifest):
    plan = plan_of(tmp_path, manifest)
    make_all(plan, 2)
    journal = shard_folder(plan.output, Shard(2, 2)) / "journal.jsonl"
    journal.write_text("".join(journal.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(InputError, match=r"damaged.*: 2\. .*--shard 2/2"):
        merge_shards(plan, 2)
    assert json.loads((shard_folder(plan.output, Shard(1, 2)) / "done.json").read_text())["rejected"]


def test_prepare_manifest_takes_annotations(tmp_path, manifest):
    store = prepare_manifest(
        manifest, tmp_path / "raw", tmp_path / "o", size=SIZE, workers=0, annotations=annotations_of(manifest)
    )
    assert (store.path / "codes.parquet").is_file()
