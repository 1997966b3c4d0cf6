"""The covid-chestxray source on its real rows and on made-up ones."""

import csv
from collections import Counter, defaultdict

import numpy as np
import pandas as pd
import pytest

from longview import InputError
from longview.data.sources import open_source
from longview.labels import LabelSet

HEADER = "patientid,offset,sex,age,finding,view,modality,folder,filename"
# the leaves and named parents of the label set, as the shared metadata writes them
NAMED = {
    "Mycoplasma Bacterial Pneumonia": "Mycoplasma",
    "Lipoid": "Lipoid Pneumonia",
    "Bacterial": "Bacterial Pneumonia",
    "Influenza": "Viral Pneumonia",
}
PARENTS = {
    "COVID-19": ["Viral Pneumonia", "Pneumonia"],
    "Varicella": ["Viral Pneumonia", "Pneumonia"],
    "Viral Pneumonia": ["Pneumonia"],
    "Streptococcus": ["Bacterial Pneumonia", "Pneumonia"],
    "Klebsiella": ["Bacterial Pneumonia", "Pneumonia"],
    "Legionella": ["Bacterial Pneumonia", "Pneumonia"],
    "Mycoplasma": ["Bacterial Pneumonia", "Pneumonia"],
    "E.Coli": ["Bacterial Pneumonia", "Pneumonia"],
    "Bacterial Pneumonia": ["Pneumonia"],
    "Pneumocystis": ["Fungal Pneumonia", "Pneumonia"],
    "Lipoid Pneumonia": ["Pneumonia"],
}


def write(root, *rows, header=HEADER):
    root.mkdir(exist_ok=True)
    (root / "images").mkdir(exist_ok=True)
    (root / "metadata.csv").write_text("\n".join([header, *rows]) + "\n")
    for row in csv.DictReader([header, *rows]):
        (root / "images" / row["filename"]).touch()
    return root


@pytest.fixture(scope="module")
def real(shared_data):
    source = open_source("covid-chestxray", shared_data / "covid-chestxray")
    return source, source.read().table


@pytest.fixture(scope="module")
def rows(shared_data):
    with (shared_data / "covid-chestxray" / "metadata.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_real_rows_are_one_per_image_and_repeats_are_reported(real, rows):
    source, table = real
    files = Counter(row["filename"] for row in rows)
    assert (len(rows), len({row["patientid"] for row in rows}), len(files)) == (318, 160, 313)
    assert len({(row["patientid"], row["offset"]) for row in rows}) == 273
    assert sorted(table["image_id"]) == sorted(files)
    # patients 339 and 340 are 285 and 287 again: five files, four studies
    assert source.report["left out, file named again (its patients count as one)"] == [
        row["filename"] for row in rows if row["patientid"] in ("339", "340")
    ]
    assert (table["patient_id"].nunique(), table["study_id"].nunique()) == (158, 269)


def test_real_studies_hold_a_pa_and_a_lateral_view_where_the_table_says_so(real, rows):
    views = defaultdict(set)
    for row in rows:
        views[row["patientid"], row["offset"]].add(row["view"])
    both = sum({"PA", "L"} <= found for found in views.values())
    assert both == 29
    found = real[1].groupby("study_id")["view"].agg(set)
    assert sum({"PA", "lateral"} <= study for study in found) == both - 1  # 340's study is 287's again
    assert dict(real[1]["view"].value_counts()) == {"PA": 178, "AP": 104, "lateral": 31}


def test_real_labels_equal_those_counted_with_the_csv_module(real, rows):
    table = real[1].set_index("image_id")
    labels = [column for column in LabelSet.load("covid_chestxray").names if column in table.columns]
    assert labels == LabelSet.load("covid_chestxray").names
    for row in rows:
        found = {NAMED.get(finding.strip(), finding.strip()) for finding in row["finding"].split(",")}
        expected = found | {parent for finding in found for parent in PARENTS.get(finding, [])}
        assert {label for label in labels if table.loc[row["filename"], label] == 1} == expected
    assert set(np.unique(table[labels])) == {0.0, 1.0}


def test_ids_are_patient_and_day_and_blank_days_of_a_patient_are_one_study(tmp_path):
    root = write(
        tmp_path / "r",
        "5,,,,ARDS,PA,X-ray,images,a.jpg",
        "5,,,,ARDS,L,X-ray,images,b.jpg",
        "5,0,M,54,ARDS,PA,X-ray,images,c.jpg",
        "5,-5.0,M,54,ARDS,AP Supine,X-ray,images,d.jpg",
        "331a,7,F,70,ARDS,PA,X-ray,images,e.jpg",
    )
    table = open_source("covid-chestxray", root).read().table
    assert table["study_id"].to_list() == ["5_undated", "5_undated", "5_day0", "5_day-5", "331a_day7"]
    assert table["patient_id"].to_list() == ["5", "5", "5", "5", "331a"]
    assert table["view"].to_list() == ["PA", "lateral", "PA", "AP", "PA"]
    assert set(table["split"]) == {"none"}


def test_older_and_newer_spellings_of_findings_give_the_same_labels(tmp_path):
    def values(*findings):
        lines = [f'{n},0,,,"{finding}",PA,X-ray,images,{n}.jpg' for n, finding in enumerate(findings)]
        manifest = open_source("covid-chestxray", write(tmp_path / "r", *lines)).read()
        return manifest.table[manifest.labels]

    old = values("COVID-19", "Pneumocystis", "Mycoplasma Bacterial Pneumonia", "COVID-19, ARDS")
    new = values(
        "Pneumonia/Viral/COVID-19",
        "Pneumonia/Fungal/Pneumocystis",
        "Pneumonia/Bacterial/Mycoplasma",
        "Pneumonia/Viral/COVID-19, ARDS",
    )
    pd.testing.assert_frame_equal(old, new)
    assert old.loc[3, ["Pneumonia", "COVID-19", "ARDS", "Legionella"]].to_list() == [1, 1, 1, 0]


def test_findings_that_say_nothing_are_nan_and_reported(tmp_path):
    root = write(
        tmp_path / "r",
        "1,0,,,todo,PA,X-ray,images,a.jpg",
        "2,0,,,Unknown,PA,X-ray,images,b.jpg",
        "3,0,,,No Finding,PA,X-ray,images,c.jpg",
    )
    source = open_source("covid-chestxray", root)
    manifest = source.read()
    known = manifest.table[manifest.labels].notna().all(axis=1)
    assert known.to_list() == [False, False, True]
    assert manifest.table[manifest.labels][:2].isna().all(axis=None)
    assert manifest.table.loc[2, manifest.labels].to_list() == [1.0] + [0.0] * (len(manifest.labels) - 1)
    assert source.report["images without a finding, labels unknown"] == ["a.jpg", "b.jpg"]


def test_ct_is_left_out_and_reported(tmp_path):
    root = write(
        tmp_path / "r",
        "1,0,,,ARDS,PA,X-ray,images,a.jpg",
        "1,0,,,ARDS,Axial,CT,images,b.jpg",
        "1,0,,,ARDS,Coronal,,images,c.jpg",
    )
    source = open_source("covid-chestxray", root)
    assert source.read().table["image_id"].to_list() == ["a.jpg"]
    assert source.report["left out, not a radiograph"] == ["b.jpg", "c.jpg"]


def test_patients_who_share_a_file_are_one_and_contradictions_are_left_out(tmp_path):
    lines = [
        "12,0,,,ARDS,PA,X-ray,images,a.jpg",
        "9,3,,,ARDS,PA,X-ray,images,a.jpg",
        "12,1,,,ARDS,PA,X-ray,images,b.jpg",
        "7,0,,,ARDS,PA,X-ray,images,c.jpg",
        "7,0,,,Varicella,PA,X-ray,images,c.jpg",
        "7,0,,,ARDS,PA,X-ray,images,d.jpg",
    ]
    for order in (lines, lines[::-1]):
        source = open_source("covid-chestxray", write(tmp_path / "r", *order))
        table = source.read().table.set_index("image_id").sort_index()
        assert table["patient_id"].to_dict() == {"a.jpg": "9", "b.jpg": "9", "d.jpg": "7"}
        assert table["study_id"].to_dict() == {"a.jpg": "9_day3", "b.jpg": "12_day1", "d.jpg": "7_day0"}
        assert source.report["left out, rows of one file disagree"] == ["c.jpg"]


def test_an_unknown_finding_is_an_error_that_lists_both_sides(tmp_path):
    root = write(tmp_path / "r", "1,0,,,COVID-91,PA,X-ray,images,a.jpg")
    with pytest.raises(InputError, match="COVID-91; labels are No Finding, Pneumonia"):
        open_source("covid-chestxray", root).read()


def test_a_label_set_without_the_tree_still_knows_that_a_viral_pneumonia_is_one(tmp_path):
    root = write(tmp_path / "r", "1,0,,,COVID-19,PA,X-ray,images,a.jpg", "2,0,,,No Finding,PA,X-ray,images,b.jpg")
    manifest = open_source("covid-chestxray", root, LabelSet.load("nih")).read()
    assert manifest.labels == ["Pneumonia"]  # the source says nothing about NIH's other labels
    assert manifest.table["Pneumonia"].to_list() == [1, 0]


def test_a_blank_patient_is_refused_by_its_column_and_line(tmp_path):
    root = write(tmp_path, "1,0,,,ARDS,PA,X-ray,images,a.jpg", ",0,,,ARDS,PA,X-ray,images,b.jpg")
    with pytest.raises(InputError, match=r"metadata\.csv: column 'patientid' is empty in 1 rows, first line 3"):
        open_source("covid-chestxray", root).read()
