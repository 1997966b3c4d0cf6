"""The Open-I source on every real report and on hand-made ones."""

import tarfile
import time

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from real_roots import positives, read_all, real_root
from real_tables import needed_table

from longview import InputError
from longview.data.sources import open_source
from longview.data.sources.openi import HEADERS, PROJECTIONS, codes_of_terms, image_key
from longview.labels import LabelSet

REPORTS = {
    "CXR1": (["normal"], ["CXR1_1_IM-0001-3001", "CXR1_1_IM-0001-4001"]),
    "CXR10": (["Opacity/lung/base/left/mild", "Thickening/pleura/apex"], ["CXR10_IM-0002-1001", "CXR10_IM-0002-2001"]),
    "CXR11": (
        ["Opacity/ribs", "Pulmonary Edema", "Technical Quality of Image Unsatisfactory "],
        ["CXR11_IM-0067-1001"],
    ),
    "CXR12": (["No Indexing"], ["CXR12_IM-0133-1001"]),
    "CXR13": (["Cardiomegaly/mild"], []),
}


def report(study, terms, images):
    majors = "".join(f"<major>{term}</major>" for term in terms)
    parents = "".join(f'<parentImage id="{image}"><figureId>F1</figureId></parentImage>' for image in images)
    return (
        f'<?xml version="1.0" encoding="utf-8"?><eCitation><uId id="{study}"/>'
        f"<MeSH>{majors}<automatic>Pneumonia</automatic></MeSH>{parents}</eCitation>"
    )


def write(root, reports=REPORTS, folder="ecgen-radiology", names="NLMCXR_png/{}.png"):
    (root / folder).mkdir(parents=True, exist_ok=True)
    for study, (terms, images) in reports.items():
        (root / folder / f"{study[3:]}.xml").write_text(report(study, terms, images))
        for image in images:
            file = root / names.format(image)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
    return root


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """The source with every real report and the table of headers, its manifest, and the seconds that took."""
    folder = tmp_path_factory.mktemp("openi")
    with tarfile.open(needed_table("NLMCXR_reports.tgz")) as packed:
        packed.extractall(folder, filter="data")
    source = open_source("openi", real_root(folder, nlmcxr_dicom_metadata=HEADERS))
    start = time.process_time()
    return source, read_all(source), time.process_time() - start


def test_every_real_report_is_read_within_seconds(real):
    source, manifest, seconds = real
    table = manifest.table
    assert seconds < 10
    assert len(table) == 7470
    assert table["study_id"].nunique() == 3955 - 104
    assert len(source.report["reports without an image, left out"]) == 104
    assert len(source.report["reports without indexing, labels unknown"]) == 101
    assert table["view"].value_counts().to_dict() == {"PA": 3593, "unknown": 2587, "lateral": 867, "AP": 423}
    assert manifest.labels == LabelSet.load("openi").names
    assert len(table[["study_id", *manifest.labels]].drop_duplicates()) == table["study_id"].nunique()


def test_real_labels_are_counted_by_their_terms(real):
    source, manifest, _ = real
    counts = positives(manifest)
    expected = {"Normal": 2696, "Lung Opacity": 747, "Cardiomegaly": 655, "Pleural Effusion": 286, "Nodule": 211,
                "Fracture": 165, "Edema": 87, "Pneumonia": 77, "Pneumothorax": 44, "Mass": 32}  # fmt: skip
    assert {label: counts[label] for label in expected} == expected
    assert list(counts.values()) == sorted(counts.values(), reverse=True)  # the order of the label set
    texts = [file.read_text() for file in (source.root / "ecgen-radiology").iterdir()]
    assert counts["Nodule"] == sum(text.count("<parentImage") for text in texts if "<major>Nodule" in text)


def test_terms_give_their_heading_alone_and_with_each_qualifier():
    codes = codes_of_terms(["Opacity/lung/base", "Subcutaneous  Emphysema", "Hernia, Hiatal/large "])
    assert codes == {
        "Opacity", "Opacity/lung", "Opacity/base", "Subcutaneous Emphysema", "Hernia, Hiatal", "Hernia, Hiatal/large",
    }  # fmt: skip


def test_labels_are_those_of_the_report_and_a_qualifier_decides_where_the_set_asks_for_it(tmp_path):
    source = open_source("openi", write(tmp_path))
    manifest = source.read()
    table = manifest.table.set_index("image_id")
    assert table["Lung Opacity"].to_list()[:5] == [0, 0, 1, 1, 0]  # an opacity of a rib is none of the lung
    assert table["Pleural Thickening"].to_list()[:5] == [0, 0, 1, 1, 0]
    assert table["Edema"].to_list()[:5] == [0, 0, 0, 0, 1]
    assert table["Normal"].to_list()[:5] == [1, 1, 0, 0, 0]
    assert table["Pneumonia"].to_list()[:5] == [0] * 5  # from the automatic indexing, which is not read
    assert table.loc["CXR12_IM-0133-1001", manifest.labels].isna().all()
    assert source.report["reports without indexing, labels unknown"] == ["CXR12"]
    assert source.report["reports without an image, left out"] == ["CXR13"]
    assert table["study_id"].to_list() == ["CXR1", "CXR1", "CXR10", "CXR10", "CXR11", "CXR12"]


def test_a_qualifier_never_stands_for_a_label_of_its_name(tmp_path):
    labels = LabelSet.from_dict({"name": "mine", "labels": ["Emphysema", "Base", "Opacity"]})
    reports = {"CXR1": (["Opacity/base/emphysema"], ["CXR1_1_IM-0001-3001"]), "CXR2": (["Emphysema"], ["CXR2_IM-1"])}
    manifest = open_source("openi", write(tmp_path, reports), labels).read()
    assert manifest.labels == ["Emphysema", "Opacity"]
    assert manifest.table["Emphysema"].to_list() == [0, 1]


@pytest.mark.parametrize(
    ("name", "key"),
    [("CXR1_1_IM-0001-3001", "1_IM-0001-3001"), ("CXR1_IM-0001-3001", "1_IM-0001-3001"),
     ("1_IM-0001-3001.dcm", "1_IM-0001-3001"), ("CXR10_IM-0002-1001", "10_IM-0002-1001"),
     ("CXR11_1_IM-0067-1001", "CXR11_1_IM-0067-1001"), ("other", "other")],
)  # fmt: skip
def test_names_of_one_image_share_their_key(name, key):
    assert image_key(name) == key


def test_kaggles_names_and_projections_serve(tmp_path):
    root = write(tmp_path)
    images = [image for _, found in REPORTS.values() for image in found]
    (root / "images/images_normalized").mkdir(parents=True)
    for image in images:
        (root / "NLMCXR_png" / f"{image}.png").rename(root / "images/images_normalized" / f"{image_key(image)}.dcm.png")
    rows = [(image_key(image), "Frontal" if number % 2 == 0 else "Lateral") for number, image in enumerate(images)]
    text = "".join(f"{key.partition('_')[0]},{key}.dcm.png,{view}\n" for key, view in rows[:5])
    (root / PROJECTIONS).write_text("uid,filename,projection\n" + text)
    table = open_source("openi", root).read().table
    assert table["path"][0] == "images/images_normalized/1_IM-0001-3001.dcm.png"
    assert table["view"].to_list() == ["PA", "lateral", "PA", "lateral", "PA", "unknown"]
    (root / HEADERS).write_text(
        "imageid,View Position\nCXR1_IM-0001-3001,AP\nCXR1_IM-0001-4001,PA\nCXR10_IM-0002-1001,LL\n"
        "CXR12_IM-0133-1001,LARGE LATERAL\n"
    )
    # the projections go before the headers, but where both say frontal the headers know the direction
    assert open_source("openi", root).read().table["view"].to_list() == [
        "AP", "lateral", "PA", "lateral", "PA", "lateral",
    ]  # fmt: skip
    (root / PROJECTIONS).write_text("uid,filename,projection\n1,1_IM-0001-3001.dcm.png,Oblique\n")
    with pytest.raises(InputError, match="projection is Oblique; it is Frontal or Lateral"):
        open_source("openi", root).read()


def test_without_a_table_of_views_they_are_unknown(tmp_path):
    assert set(open_source("openi", write(tmp_path, folder="")).read().table["view"]) == {"unknown"}


def test_what_is_no_report_is_named(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"found no \*\.xml reports in .*unpack NLMCXR_reports\.tgz"):
        open_source("openi", tmp_path / "empty").read()
    for text, message in (("<eCitation>", "ParseError"), ("<eCitation/>", "has no uId"), ("<a><uId/></a>", "KeyError")):
        (write(tmp_path / "r") / "ecgen-radiology/2.xml").write_text(text)
        with pytest.raises(InputError, match=rf"2\.xml is no report of Open-I.*{message}"):
            open_source("openi", tmp_path / "r").read()
    (tmp_path / "r/ecgen-radiology/2.xml").write_text(report("CXR1", ["normal"], []))
    with pytest.raises(InputError, match=r"2\.xml: report CXR1 stands twice"):
        open_source("openi", tmp_path / "r").read()


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=5, deadline=None, derandomize=True)
def test_order_of_terms_and_files_never_changes_an_image(tmp_path_factory, seed):
    rng = np.random.default_rng(seed)
    root = tmp_path_factory.mktemp("permuted")
    expected = open_source("openi", write(root)).read().table.set_index("image_id")
    mixed = {
        name: ([str(term) for term in rng.permutation(terms)], images) for name, (terms, images) in REPORTS.items()
    }
    names = [str(name) for name in rng.permutation(list(mixed))]
    found = open_source("openi", write(root, {name: mixed[name] for name in names})).read().table.set_index("image_id")
    pd.testing.assert_frame_equal(found.loc[expected.index], expected)
