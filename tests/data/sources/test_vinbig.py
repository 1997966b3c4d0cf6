"""The VinBigData source on every row of the real table, on the phantom and on hand-made trees."""

import time
from collections import Counter

import numpy as np
import pandas as pd
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from real_roots import positives, read_all, real_root

from longview import InputError
from longview.data.images import read_image
from longview.data.phantom import phantom
from longview.data.sources import open_source
from longview.data.sources.base import BOX_COLUMNS
from longview.data.sources.vinbig import CODES
from longview.labels import LabelSet

HEADER = "image_id,class_name,class_id,rad_id,x_min,y_min,x_max,y_max"
ROWS = [
    "aa,Cardiomegaly,3,R1,10,20,110,80",
    "bb,No finding,14,R4,,,,",
    "aa,Cardiomegaly,3,R2,12,20,111,80",
    "aa,Nodule/Mass,8,R1,1,2,3,4",
    "aa,Nodule/Mass,8,R1,5,6,7,8",
    "bb,No finding,14,R5,,,,",
    "bb,Pleural effusion,10,R6,0.5,1,2.5,4",
    "aa,No finding,14,R3,,,,",
]

# rows, and images with a vote of any, of two and of all three readers; counted with other tools
REAL = {
    "Aortic enlargement": (7162, 3067, 2346, 1744),
    "Atelectasis": (279, 186, 62, 18),
    "Calcification": (960, 452, 177, 57),
    "Cardiomegaly": (5427, 2300, 1817, 1297),
    "Consolidation": (556, 353, 121, 31),
    "ILD": (1000, 386, 152, 71),
    "Infiltration": (1247, 613, 245, 91),
    "Lung Opacity": (2483, 1322, 547, 167),
    "Nodule/Mass": (2580, 826, 405, 181),
    "Other lesion": (2203, 1134, 362, 127),
    "Pleural effusion": (2476, 1032, 634, 439),
    "Pleural thickening": (4842, 1981, 882, 365),
    "Pneumothorax": (226, 96, 58, 45),
    "Pulmonary fibrosis": (4655, 1617, 1017, 633),
}


def write(root, rows=ROWS, header=HEADER, images=("train/aa.dicom", "train/bb.dicom")):
    root.mkdir(exist_ok=True)
    (root / "train.csv").write_text("\n".join([header, *rows]) + "\n")
    for image in images:
        (root / image).parent.mkdir(parents=True, exist_ok=True)
        (root / image).touch()
    return root


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    return real_root(tmp_path_factory.mktemp("vinbig"), train="vinbigdata-train.csv")


@pytest.mark.parametrize(("votes", "column"), [("any", 1), ("majority", 2), ("all", 3)])
def test_every_row_of_the_real_table_is_counted_by_votes(real, votes, column):
    manifest = read_all(open_source("vinbig", real, votes=votes))
    assert positives(manifest) == {label: counts[column] for label, counts in REAL.items()}
    assert len(manifest) == manifest.table["patient_id"].nunique() == 15000
    assert not manifest.table[manifest.labels].isna().any(axis=None)


def test_shares_of_the_real_readers_are_thirds_and_add_up_to_their_votes(real):
    table = read_all(open_source("vinbig", real, votes="fraction")).table
    assert set((table[list(REAL)] * 3).to_numpy().round(5).ravel()) == {0, 1, 2, 3}
    raw = pd.read_csv(real / "train.csv.gz")
    votes = raw.drop_duplicates(["image_id", "rad_id", "class_name"])["class_name"].value_counts()
    np.testing.assert_allclose(table[list(REAL)].sum() * 3, votes[list(REAL)], rtol=1e-4)


def test_every_real_box_is_kept_with_its_reader_within_seconds(real):
    start = time.process_time()
    source = open_source("vinbig", real)
    read_all(source)
    assert time.process_time() - start < 5
    assert list(source.boxes.columns) == list(BOX_COLUMNS)
    assert source.boxes["label"].value_counts().to_dict() == {label: counts[0] for label, counts in REAL.items()}
    assert len(source.boxes) == 67914 - 31818
    assert source.boxes["image_id"].nunique() == 15000 - 10606
    assert source.boxes["reader"].nunique() == 11  # the other six of the 17 found nothing


def test_no_finding_of_the_real_readers_is_a_label_where_the_set_has_it(real):
    labels = LabelSet.load("vindr")
    manifest = read_all(open_source("vinbig", real, labels))
    assert positives(manifest)["No finding"] == 10606
    assert manifest.labels == [name for name in labels.names if name in {*CODES, "No finding"}]


@pytest.mark.parametrize(
    ("votes", "cardiomegaly", "nodule", "effusion"),
    [("any", [1, 0], [1, 0], [0, 1]), ("majority", [1, 0], [0, 0], [0, 0]), ("all", [0, 0], [0, 0], [0, 0]),
     ("fraction", [2 / 3, 0], [1 / 3, 0], [0, 1 / 3])],
)  # fmt: skip
def test_each_reader_has_one_vote_however_many_boxes(tmp_path, votes, cardiomegaly, nodule, effusion):
    table = open_source("vinbig", write(tmp_path / "r"), votes=votes).read().table
    assert table["image_id"].to_list() == ["aa", "bb"]
    np.testing.assert_allclose(table["Cardiomegaly"], cardiomegaly)
    np.testing.assert_allclose(table["Nodule/Mass"], nodule)
    np.testing.assert_allclose(table["Pleural effusion"], effusion)


def test_an_unknown_way_to_count_is_refused(tmp_path):
    with pytest.raises(InputError, match="votes is 'most'; give any, majority, all, fraction"):
        open_source("vinbig", tmp_path, votes="most")


def test_other_label_sets_get_what_is_the_same_and_nothing_of_nodule_or_mass(tmp_path):
    table = open_source("vinbig", write(tmp_path / "r"), LabelSet.load("nih"), votes="any").read()
    assert not {"Nodule", "Mass"} & set(table.labels)
    assert table.table["Effusion"].to_list() == [0, 1]
    assert {"Cardiomegaly", "Fibrosis", "Pleural_Thickening"} <= set(table.labels)
    with pytest.raises(InputError, match="no finding of source 'vinbig' is a label of set 'other'"):
        open_source("vinbig", tmp_path / "r", LabelSet.from_dict({"name": "other", "labels": ["Goiter"]})).read()


def test_a_narrower_class_makes_its_parent_present_by_the_same_vote(tmp_path):
    labels = LabelSet.from_dict(
        {"name": "mine", "labels": ["Pleura", "Pleural effusion"], "hierarchy": {"Pleura": ["Pleural effusion"]}}
    )
    table = open_source("vinbig", write(tmp_path / "r"), labels, votes="fraction").read().table
    np.testing.assert_allclose(table["Pleura"], [0, 1 / 3])


def test_a_class_the_data_set_lacks_is_an_error_or_left_out_on_demand(tmp_path):
    root = write(tmp_path / "r", [*ROWS, "aa,Cardiomegally,3,R1,1,1,2,2"])
    with pytest.raises(InputError, match=r"train\.csv: class_name has Cardiomegally, no class of source 'vinbig'"):
        open_source("vinbig", root).read()
    source = open_source("vinbig", root, unknown="ignore")
    assert source.read().table["Cardiomegaly"].to_list() == [1, 0]
    assert source.report["classes that the data set does not have, left out"] == ["Cardiomegally"]


def test_a_name_and_a_number_that_disagree_are_refused(tmp_path):
    root = write(tmp_path / "r", [ROWS[0], ROWS[2].replace(",3,", ",4,"), *ROWS[1:2]])
    with pytest.raises(InputError, match="line 3 names class 'Cardiomegaly' with class_id 4, which is another"):
        open_source("vinbig", root).read()


def test_corners_become_sizes_in_pixels_of_the_film(tmp_path):
    source = open_source("vinbig", write(tmp_path / "r"))
    source.read()
    box = source.boxes.iloc[-1]
    assert box[list(BOX_COLUMNS[:6])].to_list() == ["bb", "Pleural effusion", 0.5, 1, 2, 3]
    assert (np.isnan(box["frame_width"]), box["reader"]) == (True, "R6")
    assert len(source.boxes) == 5


def test_the_size_of_the_original_film_is_taken_from_where_a_copy_tells_it(tmp_path, caplog):
    root = write(tmp_path / "r", images=("train/aa.png", "train/bb.dicom"))
    source = open_source("vinbig", root)
    source.read()
    assert "original size is not told" in caplog.text
    (root / "train_meta.csv").write_text("image_id,dim0,dim1\nbb,2500,2048\naa,3000,2400\n")
    source = open_source("vinbig", root)
    source.read()
    assert source.boxes.loc[0, ["frame_width", "frame_height"]].to_list() == [2400, 3000]
    assert not [what for what in source.report if "original size" in what]
    source = open_source("vinbig", write(root, [f"{row},2400,3000" for row in ROWS], f"{HEADER},width,height"))
    source.read()
    assert set(source.boxes["frame_height"]) == {3000}


def test_half_a_box_is_an_error_and_a_flat_one_is_left_out(tmp_path):
    with pytest.raises(InputError, match="x_min, y_min, x_max, y_max are 10, , 110, 80 in line 2"):
        open_source("vinbig", write(tmp_path / "r", [ROWS[0].replace("10,20", "10,"), *ROWS[1:]])).read()
    source = open_source("vinbig", write(tmp_path / "r", [ROWS[0].replace("110,80", "10,80"), *ROWS[1:]]))
    assert source.read().table["Cardiomegaly"].to_list() == [1, 0]
    assert source.report["boxes without an area in train.csv, left out (lines)"] == ["2"]
    assert len(source.boxes) == 4


def test_the_dicom_file_goes_before_converted_copies_and_missing_images_take_their_boxes_along(tmp_path):
    root = write(tmp_path / "r", images=("png/train/aa.png", "train/aa.dicom", "train/cc.dicom"))
    source = open_source("vinbig", root)
    assert source.read().table["path"].to_list() == ["train/aa.dicom"]
    assert source.report["left out, image file not there"] == ["train/bb.dicom"]
    assert set(source.boxes["image_id"]) == {"aa"}
    (root / "train/aa.dicom").unlink()
    assert open_source("vinbig", root).read().table["path"].to_list() == ["png/train/aa.png"]


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=8, deadline=None, derandomize=True)
def test_order_of_columns_and_rows_never_changes_an_image(tmp_path_factory, seed):
    root = tmp_path_factory.mktemp("permuted")
    expected = open_source("vinbig", write(root), votes="fraction").read().table.set_index("image_id")
    raw = pd.read_csv(root / "train.csv", dtype="str", keep_default_na=False)
    rng = np.random.default_rng(seed)
    raw.iloc[rng.permutation(len(raw)), rng.permutation(raw.shape[1])].to_csv(root / "train.csv", index=False)
    source = open_source("vinbig", root, votes="fraction")
    found = source.read().table.set_index("image_id")
    pd.testing.assert_frame_equal(found.loc[expected.index], expected)
    assert Counter(source.boxes["width"]) == {2: 3, 99: 1, 100: 1}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    folder = tmp_path_factory.mktemp("phantom") / "vinbig"
    phantom("vinbig", folder, studies=60, size=32, seed=2, workers=0)
    return folder


def test_the_phantoms_header_and_its_three_readers_are_the_real_ones(drawn):
    assert (drawn / "train.csv").read_text().startswith(f"{HEADER}\n")
    raw = pd.read_csv(drawn / "train.csv")
    assert (raw.groupby("image_id")["rad_id"].nunique() == 3).all()
    assert (raw["x_min"].isna() == (raw["class_name"] == "No finding")).all()


def test_the_phantoms_readers_mostly_agree_and_the_majority_is_near_the_truth(drawn):
    tables = {votes: open_source("vinbig", drawn, votes=votes).read().table for votes in ("any", "majority", "all")}
    true = pd.read_csv(drawn / "boxes.csv")
    large = set(true.loc[true["label"] == "Cardiomegaly", "image_id"])
    table = tables["majority"]
    assert abs(int(table["Cardiomegaly"].sum()) - len(large)) <= 2
    sums = {votes: float(table[list(REAL)].sum().sum()) for votes, table in tables.items()}
    assert sums["any"] > sums["majority"] > sums["all"] > 0.6 * sums["any"]


def test_the_phantoms_films_have_12_bits_and_read_the_same_whichever_way_they_are_stored(drawn, tmp_path):
    phantom("nih", tmp_path / "nih", studies=60, size=32, seed=2, workers=0)
    plain = {read_image(file).pixels.tobytes() for file in (tmp_path / "nih/images").iterdir()}
    kinds = Counter()
    for file in (drawn / "train").iterdir():
        film = pydicom.dcmread(file)
        kinds[film.PhotometricInterpretation] += 1
        assert (film.BitsStored, film.pixel_array.dtype) == (12, np.uint16)
        assert read_image(file).pixels.tobytes() in plain
    assert sum(kinds.values()) == 60
    assert 2 <= kinds["MONOCHROME1"] <= 30
