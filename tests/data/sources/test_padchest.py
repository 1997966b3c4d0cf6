"""The PadChest source on every row of the real table, on the phantom and on hand-made trees."""

import time

import cv2
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from real_roots import positives, read_all, real_root

from longview import InputError
from longview.data.images import read_image
from longview.data.phantom import phantom
from longview.data.sources import open_source
from longview.data.sources.padchest import CODES, DAMAGED, REMARKS, TABLE
from longview.labels import LabelSet

P1, P2 = "839860488694292331637988235681460987", "839860488694292331637988235681460988"
S1, S2 = "20536686640136348236148679891455886468", "20536686640136348236148679891455886469"
ROWS = [
    [f"{S1}_k6ga29.png", "0", "20140915", S1, P1, "1930.0", "F", "PA", "Physician", "['normal']"],
    [f"{S1}_fzis7d.png", "1", "20140915", S1, P1, "1930.0", "F", "L", "RNN_model", "['normal']"],
    [f"{S2}_a.png", "0", "20150914", S2, P2, "nan", "O", "AP_horizontal", "RNN_model", "['COPD signs', ' rib fracture', '']"],  # noqa: E501
    [f"{S2}_b.png", "0", "20150914", S2, P2, "1929.0", "M", "COSTAL", "RNN_model", "['unchanged', 'hydropneumothorax']"],  # noqa: E501
]  # fmt: skip
COLUMNS = ["ImageID", "ImageDir", "StudyDate_DICOM", "StudyID", "PatientID", "PatientBirth", "PatientSex_DICOM",
           "Projection", "MethodLabel", "Labels"]  # fmt: skip


def write(root, rows=ROWS, place="{}"):
    root.mkdir(exist_ok=True)
    raw = pd.DataFrame(rows, columns=COLUMNS)
    raw.reset_index(names="").to_csv(root / TABLE, index=False)
    for name, folder in zip(raw["ImageID"], raw["ImageDir"], strict=True):
        (root / place.format(folder)).mkdir(parents=True, exist_ok=True)
        (root / place.format(folder) / name).touch()
    return root


def changed(row, **cells):
    return [cells.get(column, cell) for column, cell in zip(COLUMNS, ROWS[row], strict=True)]


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """What the real table says, and the seconds that took."""
    root = real_root(tmp_path_factory.mktemp("padchest"), **{TABLE.removesuffix(".csv"): TABLE})
    start = time.process_time()
    source = open_source("padchest", root)
    return source, read_all(source), time.process_time() - start


def test_every_row_of_the_real_table_is_read_within_seconds(real):
    _, manifest, seconds = real
    table = manifest.table
    assert seconds < 15
    assert len(table) == 160861
    assert table["patient_id"].nunique() == 67625
    assert table["study_id"].nunique() == 109931 + 1
    assert table["view"].value_counts().to_dict() == {"PA": 91728, "lateral": 49579, "AP": 18905, "unknown": 649}
    assert table["meta_method"].value_counts()["Physician"] == 39053
    assert table["meta_age"].between(0, 120).mean() > 0.99


def test_every_real_term_is_known_and_what_says_nothing_is_unknown(real):
    source, manifest, _ = real
    assert len(CODES) == len(set(CODES)) == 190
    assert list(CODES) == sorted(CODES, key=str.lower)
    sizes = {what: len(names) for what, names in source.report.items()}
    assert [sizes[f"images with the remark {remark!r}"] for remark in REMARKS] == [1312, 1839, 14334]
    assert sizes["images without a finding or `normal`, labels unknown"] == 6302
    assert manifest.table[manifest.labels].isna().any(axis=1).sum() == 6302
    assert sizes["studies of two patients, made two"] == 1
    assert sizes["images whose files are known to be damaged or missing"] == len(DAMAGED) == 21
    assert not [what for what in source.report if "does not have" in what]


def test_real_labels_are_counted_with_their_narrower_terms(real):
    counts = positives(real[1])
    assert len(counts) == 35  # no image has an infarction
    raw = pd.read_csv(real[0].root / f"{TABLE}.gz", usecols=["Labels"])["Labels"].fillna("")
    for label in ("kyphosis", "goiter", "cardiomegaly", "azygos lobe"):
        assert counts[label] == raw.str.contains(rf"['\"] ?{label}['\"]", regex=True).sum()
    fractures = "|".join(
        (
            "fracture",
            "clavicle fracture",
            "humeral fracture",
            "rib fracture",
            "callus rib fracture",
            "vertebral fracture",
        )
    )
    assert counts["fracture"] == raw.str.contains(rf"' ?(?:{fractures})'", regex=True).sum()
    assert counts["pneumothorax"] == raw.str.contains(r"' ?(?:hydro)?pneumothorax'", regex=True).sum()


@pytest.mark.parametrize("place", ["{}", "", "images/{}", "images-224"])
def test_images_are_found_in_numbered_folders_or_flat(tmp_path, place):
    table = open_source("padchest", write(tmp_path, place=place)).read().table
    folders = [place.format(folder) for folder in "0100"]
    assert table["path"].to_list() == [f"{f}/{row[0]}".lstrip("/") for f, row in zip(folders, ROWS, strict=True)]


def test_ids_stay_text_of_38_digits_and_views_ages_and_sex_are_read(tmp_path):
    table = open_source("padchest", write(tmp_path)).read().table
    assert table["patient_id"].to_list() == [P1, P1, P2, P2]
    assert table["study_id"].to_list() == [S1, S1, S2, S2]
    assert table["image_id"][0] == f"{S1}_k6ga29"
    assert table["view"].to_list() == ["PA", "lateral", "AP", "unknown"]
    np.testing.assert_equal(table["meta_age"].to_list(), [84, 84, np.nan, 86])
    assert table["meta_sex"].to_list() == ["F", "F", "", "M"]


def test_terms_lose_their_spaces_and_stand_for_wider_labels(tmp_path):
    table = open_source("padchest", write(tmp_path)).read().table
    assert table["normal"].to_list() == [1, 1, 0, 0]
    assert table["fracture"].to_list() == [0, 0, 1, 0]
    for name in ("hydropneumothorax", "pneumothorax", "pleural effusion"):
        assert table[name].to_list() == [0, 0, 0, 1]


@pytest.mark.parametrize("cell", ["", "nan", "[]", "['']", "['unchanged']", "['exclude', ' suboptimal study']"])
def test_a_row_of_remarks_only_is_unknown_and_not_all_absent(tmp_path, cell):
    source = open_source("padchest", write(tmp_path, [changed(0, Labels=cell), *ROWS[1:]]))
    table = source.read()
    assert table.table.loc[0, table.labels].isna().all()
    assert not table.table.loc[1:, table.labels].isna().any(axis=None)
    assert source.report["images without a finding or `normal`, labels unknown"] == [f"{S1}_k6ga29"]


def test_a_term_padchest_lacks_is_an_error_or_left_out_on_demand_and_one_the_set_lacks_is_left_out(tmp_path):
    root = write(tmp_path, [changed(0, Labels="['cardiomegally']"), *ROWS[1:]])
    with pytest.raises(InputError, match="Labels has cardiomegally, no term of PadChest"):
        open_source("padchest", root).read()
    source = open_source("padchest", root, unknown="ignore")
    table = source.read()
    assert table.table.loc[0, table.labels].isna().all()  # nothing else is said
    assert source.report["findings that are no label of set 'padchest', left out"] == ["COPD signs"]


def test_a_cell_that_is_no_list_of_terms_is_named(tmp_path):
    for cell in ("normal", "['normal'", "('normal',)", "[1]", "__import__('os')"):
        with pytest.raises(InputError, match="which is no list of terms"):
            open_source("padchest", write(tmp_path, [changed(0, Labels=cell), *ROWS[1:]])).read()


def test_ids_that_a_spreadsheet_made_numbers_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"PatientID was saved as a number \(8\.39E\+35\)"):
        open_source("padchest", write(tmp_path, [changed(0, PatientID="8.39E+35"), *ROWS[1:]])).read()


def test_a_study_of_two_patients_becomes_two(tmp_path):
    source = open_source("padchest", write(tmp_path, [changed(0, PatientID=P2), *ROWS[1:]]))
    assert source.read().table["study_id"].to_list() == [f"{S1}_{P2}", f"{S1}_{P1}", S2, S2]
    assert source.report["studies of two patients, made two"] == [S1]


def test_damaged_files_and_odd_projections_are_reported_and_kept(tmp_path):
    broken = sorted(DAMAGED)[0]
    rows = [changed(0, ImageID=f"{broken}.png"), changed(1, Projection="EXCLUDE"), *ROWS[2:]]
    source = open_source("padchest", write(tmp_path, rows))
    assert len(source.read()) == 4
    assert source.report["images whose files are known to be damaged or missing"] == [broken]
    assert source.report["images whose Projection is EXCLUDE or UNK"] == [f"{S1}_fzis7d"]


def test_a_column_that_is_not_there_is_named(tmp_path):
    pd.DataFrame(ROWS, columns=COLUMNS).drop(columns="Labels").to_csv(tmp_path / TABLE, index=False)
    with pytest.raises(InputError, match="lacks the columns Labels; it has ImageID"):
        open_source("padchest", tmp_path).read()


def test_other_sets_get_padchests_words_by_alias(tmp_path):
    rows = [changed(0, Labels="['aortic elongation', 'pulmonary edema']"), *ROWS[1:]]
    manifest = open_source("padchest", write(tmp_path, rows), LabelSet.load("cxr_lt_2024_task1")).read()
    found = manifest.table.loc[0, manifest.labels]
    assert found[found == 1].index.to_list() == ["Edema", "Tortuous Aorta"]


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=6, deadline=None, derandomize=True)
def test_order_of_columns_and_rows_never_changes_an_image(tmp_path_factory, seed):
    root = write(tmp_path_factory.mktemp("permuted"))
    expected = open_source("padchest", root).read().table.set_index("image_id")
    raw = pd.read_csv(root / TABLE, dtype="str", keep_default_na=False)
    rng = np.random.default_rng(seed)
    raw.iloc[rng.permutation(len(raw)), rng.permutation(raw.shape[1])].to_csv(root / TABLE, index=False)
    found = open_source("padchest", root).read().table.set_index("image_id")
    pd.testing.assert_frame_equal(found.loc[expected.index], expected)


def test_the_phantom_in_its_layout_has_16_bit_films_and_labels_of_the_truth(tmp_path):
    root = tmp_path / "p"
    phantom("padchest", root, studies=40, size=32, seed=2, workers=0)
    manifest = open_source("padchest", root).read()
    table = manifest.table
    film = cv2.imread(str(root / table["path"][0]), cv2.IMREAD_UNCHANGED)
    assert (film.dtype, film.shape) == (np.uint16, (32, 32))
    assert film.max() > 255
    assert read_image(root / table["path"][0]).pixels.std() > 20
    assert {"PA", "AP", "lateral"} == set(table["view"])
    true = pd.read_csv(root / "boxes.csv", dtype={"study_id": "str"})
    large = set(true.loc[true["label"] == "Cardiomegaly", "study_id"])
    known = table[table["cardiomegaly"].notna()]
    assert set(known.loc[known["cardiomegaly"] == 1, "study_id"]) == large & set(known["study_id"])
