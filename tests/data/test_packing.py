"""Packing files in this process and in workers."""

import multiprocessing
import os
import signal

import cv2
import numpy as np
import pytest
from films import write_films

from longview.data import packing
from longview.data.images import read_image, resize_image
from longview.data.packing import PackSettings, pack_files

SIZE = 16


def settings(root, file, kind="npy"):
    file.touch()
    return PackSettings(root, file, SIZE, "squash", kind, 95, 0)


def images_in(file, count):
    return np.fromfile(file, np.uint8).reshape(-1, SIZE, SIZE)[:count]


@pytest.fixture
def root(tmp_path):
    write_films(tmp_path / "raw", 40)
    return tmp_path / "raw"


@pytest.fixture
def jobs():
    return [(row, f"film_{row:03d}.png") for row in range(40)]


def expected(root, jobs):
    return np.stack([resize_image(read_image(root / path).pixels, SIZE, "squash") for _, path in jobs])


@pytest.mark.parametrize("workers", [0, 2])
def test_each_image_lies_at_its_row(tmp_path, root, jobs, workers):
    given = settings(root, tmp_path / "images")
    outcomes = [outcome for some in pack_files(jobs[::-1], given, workers) for outcome in some]
    assert sorted(outcome.row for outcome in outcomes) == list(range(40))
    np.testing.assert_array_equal(images_in(given.file, 40), expected(root, jobs))
    assert {(outcome.height, outcome.width) for outcome in outcomes} == {(40, 40), (40, 41), (40, 42)}


@pytest.mark.parametrize("workers", [0, 2])
def test_jpegs_do_not_overlap_and_decode(tmp_path, root, jobs, workers):
    given = settings(root, tmp_path / "images", "jpeg")
    outcomes = [outcome for some in pack_files(jobs, given, workers) for outcome in some]
    content = given.file.read_bytes()
    spans = sorted((outcome.start, outcome.start + outcome.length) for outcome in outcomes)
    assert [start for start, _ in spans] == [0, *(end for _, end in spans[:-1])]
    assert spans[-1][1] == len(content)
    for outcome, film in zip(sorted(outcomes), expected(root, jobs), strict=True):
        data = np.frombuffer(content[outcome.start : outcome.start + outcome.length], np.uint8)
        assert np.abs(cv2.imdecode(data, cv2.IMREAD_GRAYSCALE).astype(int) - film).mean() < 6


def test_a_bad_file_is_an_outcome_and_the_others_go_on(tmp_path, root, jobs):
    (root / "film_007.png").write_bytes(b"no image")
    (root / "film_009.png").unlink()
    outcomes = [outcome for some in pack_files(jobs, settings(root, tmp_path / "images"), 0) for outcome in some]
    bad = {outcome.row: outcome.reason for outcome in outcomes if outcome.reason}
    assert list(bad) == [7, 9]
    assert "film_007.png" in bad[7]
    assert "does not exist" in bad[9]


def test_a_worker_that_is_killed_costs_nothing(tmp_path, root, jobs):
    given = settings(root, tmp_path / "images")
    done = []
    for some in pack_files(jobs, given, 1):
        if not done:
            (child,) = multiprocessing.active_children()
            os.kill(child.pid, signal.SIGKILL)
        done += some
    assert sorted(outcome.row for outcome in done) == list(range(40))
    assert not any(outcome.reason for outcome in done)
    np.testing.assert_array_equal(images_in(given.file, 40), expected(root, jobs))


def test_a_file_whose_decoder_crashes_is_rejected_alone(tmp_path, root, jobs, monkeypatch):
    submit = packing._submit

    def crash(pool, some):
        return pool.submit(os._exit, 1) if any(row == 5 for row, _ in some) else submit(pool, some)

    monkeypatch.setattr(packing, "_submit", crash)
    given = settings(root, tmp_path / "images")
    outcomes = [outcome for some in pack_files(jobs, given, 1) for outcome in some]
    assert sorted(outcome.row for outcome in outcomes) == list(range(40))
    (bad,) = [outcome for outcome in outcomes if outcome.reason]
    assert bad.row == 5
    assert "film_005.png crashed the process" in bad.reason


def test_closing_early_leaves_no_process(tmp_path, root, jobs):
    outcomes = pack_files(jobs, settings(root, tmp_path / "images"), 2)
    next(outcomes)
    outcomes.close()
    assert not multiprocessing.active_children()
