"""What every layout must hold: drawn, prepared by its own source, and compared with the phantom's own truth by name."""

import gzip
import io
import json
import logging
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import pytest

from longview.data.phantom import LayoutName, phantom
from longview.data.phantom.findings import LABELS, NORMAL
from longview.data.phantom.layouts import LAYOUTS
from longview.data.prepare import prepare
from longview.data.sources import SOURCES, open_source
from longview.data.store import Store
from longview.labels import LabelSet

SIZE, STUDIES = 32, 120
SEEDS = {False: 6, True: 10}  # frontal films only or not: a phantom that shows each finding, or all but one
LESION = ["Mass", "Nodule"]
OTHER_LESION = ["Hernia", "Pneumoperitoneum", "Fracture / vertebra"]  # of VinDr; VinBig's has more


@dataclass(frozen=True)
class Expected:
    """What a layout carries.

    Args:
        labels: Label of the data set -> the phantom's labels (with `/` a kind) that it stands for; labels of the same
            name need no mention, and those that are not named and not the phantom's are never 1.
        wrong: Films of which a label may differ, where readers err.
        skip: Labels that follow no truth.
        views: `told` where the table says which view a film is, else the view that all have.
        splits: Splits that are the phantom's own parts.
        parts: Parts whose films are in the tables.
        boxes: Label of a box -> the phantom's labels; None where the data set has no boxes.
        exact: Whether every box is a true one.
        table: Name of a table that must be there.
    """

    table: str
    labels: dict[str, list[str]] = field(default_factory=dict)
    wrong: int = 0
    skip: tuple[str, ...] = ()
    views: str = "told"
    splits: tuple[str, ...] = ()
    boxes: dict[str, list[str]] | None = None
    exact: bool = True


VIN = {"Calcification": ["Calcification of the Aorta"], "Nodule/Mass": LESION, "Pulmonary fibrosis": ["Fibrosis"],
       "Pleural effusion": ["Pleural Effusion"]}  # fmt: skip
NIH_BOXES = {name: [name] for name in ("Atelectasis", "Cardiomegaly", "Mass", "Nodule", "Pneumothorax")}
NIH_BOXES["Effusion"] = ["Pleural Effusion"]
VINBIG = VIN | {"Other lesion": [*OTHER_LESION, "Emphysema", "Fracture"]}
VINDR = VIN | {"Other lesion": OTHER_LESION, "Rib fracture": ["Fracture / ribs"]}
EXPECTED = {
    "nih": Expected("Data_Entry_2017_v2020.csv", {"Effusion": ["Pleural Effusion"]}, splits=("test",),
                    boxes=NIH_BOXES),
    "nih-google": Expected("four_findings_expert_labels/test_labels.csv",
                           {"Airspace opacity": ["Lung Opacity"], "Nodule or mass": LESION}, splits=("val", "test")),
    "cxr-lt-2023": Expected("train.csv", {"No Finding": [NORMAL]}, splits=("train", "val", "test")),
    "cxr-lt-2024": Expected("train_labeled.csv", splits=("train", "val", "test")),
    "cxr-lt-2026": Expected("CXRLT_2026_training.csv", {
        "aortic atheromatosis": ["Calcification of the Aorta"], "pneumoperitoneo": ["Pneumoperitoneum"]}),
    "chexpert": Expected("CheXpert-v1.0-small/train.csv", {"Lung Lesion": LESION}, skip=("No Finding",),
                         splits=("train", "val", "test")),
    "mimic": Expected("mimic-cxr-2.0.0-split.csv.gz", {"Lung Lesion": LESION}, skip=("No Finding",),
                      splits=("train", "val", "test")),
    "vinbig": Expected("train.csv", VINBIG, 3, views="PA", boxes=VINBIG, exact=False),
    "vindr": Expected("annotations/image_labels_train.csv", VINDR, 3, ("No finding",), "PA", ("test",), VINDR,
                      exact=False),
    "padchest": Expected("PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv", {
        "pulmonary edema": ["Edema"], "infiltrates": ["Lung Opacity"], "rib fracture": ["Fracture"],
        "hiatal hernia": ["Hernia"], "pulmonary fibrosis": ["Fibrosis"], "pacemaker": ["Support Devices"],
        "aortic atheromatosis": ["Calcification of the Aorta"], "pneumoperitoneo": ["Pneumoperitoneum"]}),
    "rsna": Expected("stage_2_train_labels.csv", views="unknown", boxes={"Lung Opacity": ["Lung Opacity"]}),
    "openi": Expected("ecgen-radiology/1.xml"),
}  # fmt: skip


@dataclass(frozen=True)
class Made:
    """A phantom in one layout and its store."""

    layout: str
    root: object
    store: object
    expected: Expected

    @property
    def table(self):
        return Store(self.store).manifest.table

    @property
    def true(self):
        return pd.read_csv(self.root / "boxes.csv", dtype={"image_id": "str", "study_id": "str", "patient_id": "str"})


@pytest.fixture(scope="module", params=list(LAYOUTS))
def made(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    phantom(
        request.param,
        folder / "raw",
        studies=STUDIES,
        size=SIZE,
        seed=SEEDS[LAYOUTS[request.param].frontal_only],
        workers=0,
    )
    prepare(request.param, folder / "raw", folder / "store", size=SIZE, workers=0)
    return Made(request.param, folder / "raw", folder / "store", EXPECTED[request.param])


def present(true, names):
    """Studies that show one of these labels, or one of these kinds of a label."""
    found = [
        true["label"].eq(label) & (true["kind"].eq(kind) if kind else True)
        for label, _, kind in (name.partition(" / ") for name in names)
    ]
    return set(true.loc[np.any(found, axis=0), "study_id"])


def test_every_layout_is_a_source_and_on_the_command_line():
    assert set(LAYOUTS) == set(LayoutName.__args__) == set(EXPECTED)
    # these have none: a user's own files, the phantom itself, and a set that is not of one hospital
    assert set(SOURCES) - set(LAYOUTS) == {"table", "folder", "phantom", "covid-chestxray"}
    assert [layout.name for layout in LAYOUTS.values()] == list(LAYOUTS)


def test_labels_of_the_store_are_the_phantoms_own_by_name(made):
    store, true = Store(made.store), made.true
    table, names = store.manifest.table, {name.casefold(): name for name in (*LABELS, NORMAL)}
    normal = set(table["study_id"]) - set(true["study_id"])
    known = positive = 0
    for label in store.manifest.labels:
        if label in made.expected.skip:
            continue
        own = made.expected.labels.get(label, [names[label.casefold()]] if label.casefold() in names else [])
        studies = normal if own == [NORMAL] else present(true, own) if own else set()
        values = table[label].dropna()
        expected = table["study_id"].isin(studies)[values.index]
        wrong = int(((values == 1) != expected).sum())
        assert wrong <= made.expected.wrong, f"{label}: {wrong} of {len(values)}"
        known += len(values)
        positive += int(expected.sum())
    assert known > 0.5 * len(table) * len(store.manifest.labels)
    assert positive > 10


def test_every_finding_with_a_name_in_the_data_set_is_there(made):
    table, true = made.table, made.true
    labels = LabelSet.load(open_source(made.layout, made.root).default_labels)
    for label in labels.names:
        own = made.expected.labels.get(label, [label] if label in LABELS else [])
        if own and label in table.columns:
            told = set(table.loc[table[label].notna(), "study_id"])
            assert (table[label] > 0).any() or not present(true, own) & told, label


def test_views_are_the_films_own_where_the_tables_tell(made):
    table = made.table.set_index("image_id")["view"]
    if made.expected.views != "told":
        assert set(table) == {made.expected.views}
        return
    true = made.true.drop_duplicates("image_id").set_index("image_id")["view"]
    both = pd.concat([table, true.rename("true")], axis=1, join="inner")
    told = both[both["view"] != "unknown"]
    assert len(told) > 0.9 * len(both) > 0
    assert (told["view"] == told["true"]).all()


def test_official_splits_are_the_phantoms_parts_and_no_patient_is_in_two(made):
    parts = json.loads((made.root / "phantom.json").read_text())["images_per_part"]
    counts = made.table["split"].value_counts()
    wanted = {"train": "train", "val": "development", "test": "test"}
    assert {split: counts[split] for split in made.expected.splits} == {
        split: parts[wanted[split]] for split in made.expected.splits
    }
    assert made.table.groupby("patient_id")["split"].nunique().max() == 1


def test_boxes_of_the_store_are_true_ones_of_their_film(made):
    boxes = Store(made.store).boxes()
    if made.expected.boxes is None:
        assert boxes is None
        return
    true = made.true
    scale = SIZE / boxes["frame_width"].fillna(SIZE).to_numpy()[:, None]
    sides = boxes[["x", "y", "width", "height"]].to_numpy() * scale
    best = []
    for (image, label), box in zip(boxes[["image_id", "label"]].to_numpy(), sides, strict=True):
        own = made.expected.boxes.get(label, [label])
        film = true[(true["image_id"] == image) & true["label"].isin({name.partition(" / ")[0] for name in own})]
        best.append(max((overlap(box, other) for other in film[["x", "y", "width", "height"]].to_numpy()), default=0))
    assert len(best) > 5
    if made.expected.exact:
        assert min(best) > 0.999
    else:  # readers draw in ways of their own, and mark one thing in fifty that is not there
        assert np.mean(np.array(best) > 0.7) > 0.93


def overlap(one, two):
    """Intersection over union of two boxes."""
    low, high = np.maximum(one[:2], two[:2]), np.minimum(one[:2] + one[2:], two[:2] + two[2:])
    shared = np.prod(np.clip(high - low, 0, None))
    return shared / (np.prod(one[2:]) + np.prod(two[2:]) - shared)


def linked(made, folder):
    """A copy of the raw folder whose images are links."""
    for file in made.root.rglob("*"):
        if file.is_file():
            place = folder / file.relative_to(made.root)
            place.parent.mkdir(parents=True, exist_ok=True)
            if file.suffix in {".csv", ".gz", ".xml", ".txt", ".json"}:
                place.write_bytes(file.read_bytes())
            else:
                place.hardlink_to(file)
    return folder


def test_order_of_columns_and_rows_never_changes_an_image(made, tmp_path):
    root = linked(made, tmp_path / "raw")
    rng = np.random.default_rng(5)
    tables = [file for file in root.rglob("*.csv*") if file.name != "boxes.csv"]
    for file in tables:
        text = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
        raw = pd.read_csv(io.BytesIO(text), dtype="str", keep_default_na=False)
        mixed = raw.iloc[rng.permutation(len(raw)), rng.permutation(raw.shape[1])]
        mixed.to_csv(file, index=False)  # pandas packs those that end in .gz
    assert tables
    one, two = open_source(made.layout, made.root), open_source(made.layout, root)
    expected = one.read().table.set_index("image_id")
    pd.testing.assert_frame_equal(two.read().table.set_index("image_id").loc[expected.index], expected)
    assert (one.boxes is None) == (two.boxes is None)
    if one.boxes is not None:
        order = ["image_id", "label", "reader", "x", "y", "width", "height"]
        pd.testing.assert_frame_equal(*(s.boxes.sort_values(order, ignore_index=True) for s in (one, two)))


def test_a_part_of_the_tree_is_read_and_what_is_missing_counted(made, tmp_path, caplog):
    root = linked(made, tmp_path / "raw")
    paths = open_source(made.layout, made.root).read().table["path"]
    gone = set(paths[::3])
    for path in gone:
        (root / path).unlink()
    source = open_source(made.layout, root)
    with caplog.at_level(logging.WARNING):
        found = source.read().table
    assert set(found["path"]) == set(paths) - gone
    assert len(source.report["left out, image file not there"]) == len(gone)
    assert f"image file not there: {len(gone)} (" in caplog.text


def test_the_phantoms_own_source_reads_what_the_layouts_reads(made):
    # the tables of these two challenges must have every label of a set
    labels = made.layout.replace("-", "_") if made.layout in {"cxr-lt-2023", "cxr-lt-2026"} else "phantom"
    found = open_source("phantom", made.root, LabelSet.load(labels)).read().table
    same = open_source(made.layout, made.root, LabelSet.load(labels)).read().table
    pd.testing.assert_frame_equal(found.drop(columns="source"), same.drop(columns="source"))


def test_its_tables_are_there_and_one_study_is_enough(made, tmp_path):
    assert (made.root / made.expected.table).is_file()
    phantom(made.layout, tmp_path / "p", studies=1, size=SIZE, workers=0)
    if made.layout != "nih-google":  # has nothing to say of the only patient, who is in training
        assert open_source(made.layout, tmp_path / "p").read().table["split"].isin(["train", "none"]).all()


@pytest.fixture(scope="module")
def chexpert(tmp_path_factory):
    root = tmp_path_factory.mktemp("chexpert") / "raw"
    phantom("chexpert", root, studies=STUDIES, size=SIZE, seed=6, workers=0)
    return root


@pytest.mark.parametrize("labeler", ["chexpert", "chexbert", "visualchexbert"])
def test_what_each_labeller_of_chexpert_is_sure_of_is_true(chexpert, labeler):
    source = open_source("chexpert", chexpert, labeler=labeler)
    table, true = source.read().table, pd.read_csv(chexpert / "boxes.csv")
    train = table["split"] == "train"
    unsure = source.codes.isin([-1, -2]).loc[train].to_numpy().mean()
    assert (unsure > 0.5) == (labeler != "visualchexbert")
    for label in set(table.columns) & set(LABELS):
        sure = table[label].notna()
        assert (table.loc[sure, label] == table.loc[sure, "study_id"].isin(present(true, [label]))).all(), label


def test_the_small_and_the_full_release_of_chexpert_are_the_same_under_their_names(chexpert, tmp_path):
    raw = linked(Made("chexpert", chexpert, None, EXPECTED["chexpert"]), tmp_path / "raw")
    (raw / "CheXpert-v1.0-small").rename(raw / "CheXpert-v1.0")
    for file in (raw / "CheXpert-v1.0").glob("*.csv"):
        file.write_text(file.read_text().replace("-small/", "/"))
    for labeler in ("chexpert", "chexbert"):
        small = open_source("chexpert", chexpert, labeler=labeler).read().table
        full = open_source("chexpert", raw, labeler=labeler).read().table
        assert (full["path"] == small["path"].str.replace("-small/", "/")).all()
        pd.testing.assert_frame_equal(full.drop(columns="path"), small.drop(columns="path"))


@pytest.mark.parametrize("task", [1, 2, 3])
def test_every_task_of_cxr_lt_2024_is_read_from_its_own_tables(tmp_path, task):
    phantom("cxr-lt-2024", tmp_path / "raw", studies=STUDIES, size=SIZE, seed=6, workers=0)
    labels = LabelSet.load(f"cxr_lt_2024_task{task}")
    for other in {1, 2, 3} - {task, 1 if task == 3 else task}:
        for file in (tmp_path / "raw").glob(f"*_task{other}.csv"):
            file.unlink()
    (tmp_path / "raw/labels.csv").unlink()
    manifest = open_source("cxr-lt-2024", tmp_path / "raw", labels, task=task).read()
    table, true = manifest.table, pd.read_csv(tmp_path / "raw/boxes.csv")
    assert manifest.labels == [*labels.names, *labels.unseen_names]
    for label in labels.names:
        assert (table[label] == table["study_id"].isin(shown(true, table, label))).all()
    assert table.loc[table["split"] == "train", labels.unseen_names].isna().all(axis=None)
    assert (table.loc[table["split"] != "train", labels.unseen_names] == 0).all(axis=None)


def shown(true, table, label):
    """Studies that show a label."""
    return set(table["study_id"]) - set(true["study_id"]) if label == NORMAL else present(true, [label])


def test_google_tells_all_findings_of_the_pa_films_of_test_patients(tmp_path):
    phantom("nih-google", tmp_path / "raw", studies=STUDIES, size=SIZE, seed=10, workers=0)
    nih = open_source("nih", tmp_path / "raw").read().table.set_index("image_id")
    table = open_source("nih-google", tmp_path / "raw", findings="all").read().table.set_index("image_id")
    wanted = nih[(nih["split"] == "test") & (nih["view"] == "PA")]
    assert set(table.index) == set(wanted.index)
    names = LabelSet.load("nih").names
    pd.testing.assert_frame_equal(table.loc[wanted.index, names], wanted[names])


def test_vindr_shares_its_training_films_with_vinbig_and_open_i_leaves_reports_without_indexing(tmp_path):
    for layout in ("vindr", "vinbig", "openi"):
        phantom(layout, tmp_path / layout, studies=45, size=SIZE, seed=10, workers=0)
    vindr, vinbig = (open_source(name, tmp_path / name).read().table for name in ("vindr", "vinbig"))
    train = vindr[vindr["split"] == "train"]
    assert set(train["image_id"]) < set(vinbig["image_id"])
    for path, image in train[["path", "image_id"]].to_numpy():
        assert (tmp_path / "vindr" / path).read_bytes() == (tmp_path / "vinbig/train" / f"{image}.dicom").read_bytes()
    source = open_source("openi", tmp_path / "openi")
    source.read()
    assert source.report["reports without indexing, labels unknown"] == ["CXR40"]


def test_cxr_lt_2026_keeps_test_patients_out_of_training_and_its_truth_to_itself(tmp_path):
    phantom("cxr-lt-2026", tmp_path / "raw", studies=STUDIES, size=SIZE, seed=6, workers=0)
    source = open_source("cxr-lt-2026", tmp_path / "raw")
    table, labels = source.read().table, LabelSet.load("cxr_lt_2026")
    assert source.report["left out, named in Removal.csv"]
    assert set(table["split"]) == {"train", "val", "test"}
    assert table.loc[table["split"] == "test", labels.names].isna().all(axis=None)
    evaluated = table[table["split"] != "train"]
    assert set(evaluated["view"]) <= {"PA", "AP"}
    true = pd.read_csv(tmp_path / "raw/boxes.csv", dtype={"study_id": "str"})
    assert set(evaluated["study_id"]) <= set(true["study_id"])  # normal films are not in the evaluation
    assert table["patient_id"].str.len().eq(38).all()  # from PadChest's table: in the challenge's they are 3.24E+37
    assert pd.read_csv(tmp_path / "raw/CXRLT_2026_training.csv", dtype="str")["PatientID"].str.contains(r"E\+").all()


def test_the_consensus_of_vindrs_test_part_is_the_truth_with_its_boxes(tmp_path):
    phantom("vindr", tmp_path / "raw", studies=STUDIES, size=SIZE, seed=10, workers=0)
    source = open_source("vindr", tmp_path / "raw")
    table, true = source.read().table, pd.read_csv(tmp_path / "raw/boxes.csv")
    test = table[table["split"] == "test"].set_index("image_id")
    for label in (*VINDR, "Edema", "Lung Opacity", "Cardiomegaly"):
        studies = present(true, VINDR.get(label, [label]))
        assert (test[label] == test.index.isin(studies)).all(), label
    findings = source.labels.names[:-1]
    assert (test["No finding"] == (test[findings] == 0).all(axis=1)).all()
    sides = ["x", "y", "width", "height"]
    for label in ("Edema", "Pneumothorax", "Rib fracture", "Lung Opacity"):
        boxes = source.boxes[source.boxes["image_id"].isin(test.index) & (source.boxes["label"] == label)]
        own, _, kind = VINDR.get(label, [label])[0].partition(" / ")
        wanted = true[true["image_id"].isin(test.index) & (true["label"] == own)]
        wanted = wanted[wanted["kind"] == kind] if kind else wanted
        drawn, known = (sorted(part[["image_id", *sides]].to_numpy().tolist()) for part in (boxes, wanted))
        assert drawn == known
        assert set(boxes["reader"]) <= {""}
