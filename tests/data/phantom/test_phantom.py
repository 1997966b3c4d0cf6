"""The tool: layouts as real ones, the same bytes each time, nothing half-made taken for whole."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter

import cv2
import numpy as np
import pytest

from longview import InputError
from longview.data import phantom as phantom_module
from longview.data.phantom import phantom
from longview.data.phantom.layouts.base import part_of
from longview.data.sources import open_source
from longview.labels import LabelSet


def content(folder):
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


def rows(file):
    with file.open(newline="") as stream:
        return list(csv.reader(stream))


@pytest.fixture(scope="module")
def cxr_lt(tmp_path_factory):
    folder = tmp_path_factory.mktemp("phantom") / "cxr_lt"
    phantom("cxr-lt-2024", folder, studies=150, size=32, seed=2)
    return folder


@pytest.fixture(scope="module")
def nih(tmp_path_factory):
    folder = tmp_path_factory.mktemp("phantom") / "nih"
    phantom("nih", folder, studies=150, size=32, seed=2)
    return folder


def test_the_same_bytes_for_any_number_of_processes(tmp_path):
    for workers in (0, 1, 2):
        phantom("cxr-lt-2024", tmp_path / str(workers), studies=130, size=32, seed=5, workers=workers)
    first = content(tmp_path / "0")
    assert content(tmp_path / "1") == first
    assert content(tmp_path / "2") == first


def test_another_seed_draws_other_images(tmp_path):
    for seed in (0, 1):
        phantom("nih", tmp_path / str(seed), studies=3, size=32, seed=seed)
    one, two = ((tmp_path / str(seed) / "images/00000001_000.png").read_bytes() for seed in (0, 1))
    assert one != two


def test_a_mass_seen_from_the_side_alone_finds_room_above_a_high_diaphragm(tmp_path):
    phantom("cxr-lt-2024", tmp_path / "raw", studies=100, size=32, seed=18)  # one of its patients has both
    assert (tmp_path / "raw" / "contact_sheet.png").is_file()


def test_cxr_lt_tables_have_the_real_columns(cxr_lt):
    ids = ["dicom_id", "subject_id", "study_id", "ViewPosition", "ViewCodeSequence_CodeMeaning", "fpath"]
    forty = LabelSet.load("cxr_lt_2024_task1").names
    assert len(forty) == 40
    for name in ("train_labeled.csv", "development_labeled_task1.csv", "test_labeled_task1.csv"):
        table = rows(cxr_lt / name)
        assert table[0] == ids + forty
        assert {cell for row in table[1:] for cell in row[6:]} == {"0", "1"}
    task2 = rows(cxr_lt / "test_labeled_task2.csv")[0][6:]
    assert len(task2) == 26
    assert task2[task2.index("Mass") : task2.index("Nodule") + 1] == ["Mass", "Normal", "Nodule"]
    five = ["Bulla", "Cardiomyopathy", "Hilum", "Osteopenia", "Scoliosis"]
    assert rows(cxr_lt / "development_labeled_task3.csv")[0] == ids + five
    every = rows(cxr_lt / "labels.csv")
    assert every[0][6:] == [*sorted(forty + five), "split"]
    parts = Counter(row[-1] for row in every[1:])
    for part, name in (("train", "train_labeled.csv"), ("test", "test_labeled_task1.csv")):
        assert parts[part] == len(rows(cxr_lt / name)) - 1


def test_cxr_lt_ids_and_tree_are_like_mimics(cxr_lt):
    images = rows(cxr_lt / "labels.csv")[1:]
    for row in images:
        dicom, subject, study, _, _, path = row[:6]
        assert len(subject) == 8
        assert subject.startswith("1")
        assert len(study) == 9
        assert study.startswith("s5")
        assert [len(part) for part in dicom.split("-")] == [8] * 5
        assert path == f"files/p{subject[:2]}/p{subject}/{study}/{dicom}.jpg"
        assert (cxr_lt / path).is_file()
    assert len({row[0] for row in images}) == len(images) == len(list(cxr_lt.glob("files/*/*/*/*.jpg")))
    assert images[0][1:3] == ["10000032", "s50414267"]
    positions = Counter(row[3] for row in images)
    assert {"PA", "AP", "LATERAL", "LL"} <= set(positions) <= {"PA", "AP", "LATERAL", "LL", ""}


def test_labels_belong_to_studies_and_are_what_its_films_show(cxr_lt):
    names = rows(cxr_lt / "labels.csv")[0]
    boxes = {}
    for row in rows(cxr_lt / "boxes.csv")[1:]:
        boxes.setdefault(row[2], set()).add(row[4])
    for row in rows(cxr_lt / "labels.csv")[1:]:
        labels = {name for name, cell in zip(names[6:-1], row[6:-1], strict=True) if cell == "1"}
        assert labels == boxes.get(row[2], {"Normal"})


@pytest.mark.parametrize("labels", ["phantom", "cxr_lt_2024_task1", "cxr_lt_2024_task2"])
def test_the_real_parser_reads_the_cxr_lt_layout(cxr_lt, labels):
    found = LabelSet.load(labels)
    manifest = open_source("cxr-lt-2024", cxr_lt, found).read()
    table = manifest.table
    info = json.loads((cxr_lt / "phantom.json").read_text())
    assert manifest.labels == found.names
    assert len(table) == info["images"]
    assert table["study_id"].nunique() == 150
    assert Counter(table["split"]) == {
        "train": info["images_per_part"]["train"],
        "val": info["images_per_part"]["development"],
        "test": info["images_per_part"]["test"],
    }
    assert not np.isnan(manifest.targets(found.names)).any()
    for label, count in info["studies_per_label"].items():
        assert table.loc[table[label] == 1, "study_id"].nunique() == count


def test_nih_headers_are_the_real_ones_to_the_byte(nih, shared_data):
    real = shared_data / "nih-1000"
    pairs = (("Data_Entry_2017_v2020.csv", "Data_Entry_2017.csv"), ("BBox_List_2017.csv", "BBox_List_2017.csv"))
    for ours, theirs in pairs:
        header = (real / theirs).read_bytes().splitlines()[0]
        assert (nih / ours).read_bytes().splitlines()[0] == header


def test_nih_lists_part_the_patients(nih):
    lists = {name: set((nih / name).read_text().split()) for name in ("train_val_list.txt", "test_list.txt")}
    images = {file.name for file in (nih / "images").iterdir()}
    patients = {name: {image[:8] for image in listed} for name, listed in lists.items()}
    assert set.union(*lists.values()) == images
    assert not set.intersection(*patients.values())
    assert 0.08 < len(lists["test_list.txt"]) / len(images) < 0.32


def test_the_real_parser_reads_the_nih_layout(nih):
    manifest = open_source("nih", nih).read()
    assert len(manifest) == 150
    assert set(manifest.table["view"]) == {"PA", "AP"}
    assert manifest.table["patient_id"].str.len().eq(8).all()
    assert manifest.table["meta_age"].between(18, 95).all()
    assert manifest.table["Cardiomegaly"].mean() > 0.1
    assert manifest.table["Pleural_Thickening"].sum() == 0


def test_nih_boxes_are_of_test_films_and_in_the_frame_of_1024(nih):
    test = set((nih / "test_list.txt").read_text().split())
    true = {(row[0], row[4]): [float(cell) for cell in row[-4:]] for row in rows(nih / "boxes.csv")[1:]}
    listed = rows(nih / "BBox_List_2017.csv")[1:]
    assert listed
    for image, label, *box in listed:
        assert image in test
        values = [float(cell) for cell in box]
        assert max(values[0] + values[2], values[1] + values[3]) <= 1024
        if label == "Cardiomegaly":  # one per film, so it is the one
            assert values == [cell * 1024 / 32 for cell in true[image.removesuffix(".png"), label]]
    assert len({(row[0], row[1]) for row in listed}) == len(listed)


def test_boxes_lie_in_their_images_and_say_side_and_size(cxr_lt):
    table = rows(cxr_lt / "boxes.csv")
    assert table[0][-4:] == ["x", "y", "width", "height"]
    sides, sizes = set(), set()
    for row in table[1:]:
        cells = dict(zip(table[0], row, strict=True))
        x, y, width, height = (int(cells[name]) for name in ("x", "y", "width", "height"))
        assert 0 <= x < x + width <= 32
        assert 0 <= y < y + height <= 32
        sides.add(cells["side"])
        sizes.add(cells["size"])
        assert cells["shown"] in {"both", "lateral" if cells["view"] == "lateral" else "frontal"}
    assert sides == {"left", "right", "both"}
    assert sizes == {"small", "medium", "large"}


def test_images_are_grey_of_the_size_asked_for(nih, cxr_lt):
    for file in (next((nih / "images").iterdir()), next(cxr_lt.glob("files/*/*/*/*.jpg"))):
        image = cv2.imread(str(file), cv2.IMREAD_UNCHANGED)
        assert image.shape == (32, 32)
        assert image.dtype == np.uint8
        assert image.std() > 20


def test_parts_of_the_patients_are_70_10_and_20_percent():
    parts = Counter(part_of(patient) for patient in range(1000))
    assert parts == {"train": 700, "development": 100, "test": 200}
    assert {part_of(patient) for patient in range(3)} == {"train", "development", "test"}


def test_the_contact_sheet_is_small_and_not_empty(tmp_path):
    phantom("nih", tmp_path / "p", studies=1, size=64)
    file = tmp_path / "p/contact_sheet.png"
    assert file.stat().st_size < 500_000
    sheet = cv2.imread(str(file), cv2.IMREAD_GRAYSCALE)
    assert sheet.shape[1] == 6 * 192
    assert sheet.std() > 30


def test_an_existing_phantom_is_kept_and_one_of_other_settings_needs_overwrite(tmp_path):
    output = tmp_path / "p"
    phantom("nih", output, studies=3, size=32)
    marker = output / "images/00000001_000.png"
    before = marker.stat().st_mtime_ns
    phantom("nih", output, studies=3, size=32)
    assert marker.stat().st_mtime_ns == before
    with pytest.raises(InputError, match=r"studies 3, now 4.*--overwrite"):
        phantom("nih", output, studies=4, size=32)
    phantom("nih", output, studies=4, size=32, overwrite=True)
    assert json.loads((output / "phantom.json").read_text())["settings"]["studies"] == 4
    assert sorted(file.name for file in tmp_path.iterdir()) == ["p"]


def test_a_folder_that_is_no_phantom_is_never_replaced(tmp_path):
    output = tmp_path / "mine"
    output.mkdir()
    (output / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match=r"mine exists and is no phantom"):
        phantom("nih", output, studies=3, size=32, overwrite=True)
    assert (output / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize("text", ['{"settings": ', "[]", "{}", '{"settings": 3}'])
def test_a_damaged_mark_is_named_and_nothing_replaced(tmp_path, text):
    (tmp_path / "phantom.json").write_text(text)
    with pytest.raises(InputError, match=r"phantom\.json is damaged.*remove"):
        phantom("nih", tmp_path, studies=3, size=32, overwrite=True)
    assert (tmp_path / "phantom.json").read_text() == text


def test_an_output_below_a_file_is_refused(tmp_path):
    (tmp_path / "main.py").write_text("pass")
    for output in (tmp_path / "main.py/x", tmp_path / "main.py/x/y"):
        with pytest.raises(InputError, match=r"main\.py/x.* cannot be made: a part of its path is a file"):
            phantom("nih", output, studies=3, size=32)


@pytest.mark.parametrize(
    ("option", "value"), [("layout", "chexpert-v2"), ("studies", 0), ("size", 4), ("seed", -1), ("workers", -1)]
)
def test_impossible_settings_are_named(tmp_path, option, value):
    arguments = {"layout": "nih", "studies": 2, "size": 32} | {option: value}
    with pytest.raises(InputError, match=rf"{option} is {value!r}|{option} is {value}"):
        phantom(output=tmp_path / "p", **arguments)
    assert not list(tmp_path.iterdir())


def test_a_full_disk_leaves_nothing_behind(tmp_path, monkeypatch):
    from longview.data.phantom import drawing

    done = []

    def fail(file, image):
        done.append(file)
        if len(done) > 3:
            raise OSError(28, "No space left on device", str(file))

    monkeypatch.setattr(drawing, "_write", fail)
    with pytest.raises(OSError, match=r"No space left.*nothing of it was kept") as caught:
        phantom("nih", tmp_path / "p", studies=9, size=32)
    assert caught.value.filename == str(tmp_path / "p")
    assert not list(tmp_path.iterdir())


def test_a_killed_run_is_not_taken_for_whole_and_the_next_one_completes(tmp_path):
    output = tmp_path / "p"
    code = (
        f"from longview.data.phantom import phantom; phantom('nih', {str(output)!r}, studies=20000, size=32, workers=0)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], env=os.environ | {"OMP_NUM_THREADS": "1"})
    partial = tmp_path / ".p.partial"
    deadline = time.monotonic() + 60
    while not (partial / "images").is_dir() or len(list((partial / "images").iterdir())) < 20:
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.05)
    with pytest.raises(InputError, match="another process is drawing"):
        phantom("nih", output, studies=5, size=32)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert partial.is_dir()
    assert not output.exists()
    phantom("nih", output, studies=5, size=32)
    assert len(list((output / "images").iterdir())) == 5
    assert not partial.exists()


def test_importing_the_tool_loads_neither_opencv_nor_torch():
    code = "import sys, longview.data.phantom; print([n for n in ('torch', 'cv2', 'pandas') if n in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_the_package_exports_only_the_tool():
    assert phantom_module.__all__ == ["phantom"]
