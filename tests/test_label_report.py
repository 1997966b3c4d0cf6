"""`main.py labels`: what it shows of a label set, what it counts in a store, and the map of label texts."""

import csv
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from longview import InputError, cli, label_map
from longview.label_map import LabelMap, by_similarity, two_digits, write_map
from longview.label_report import compare, count, describe, labels, listing
from longview.labels import Label, LabelSet

SET = LabelSet(
    "small",
    [
        Label("Mass", ["a lump [of 3 cm]"], {"nih": ["Lump"], "xrv": ["Lump"], "padchest": ["masa"]}),
        Label("Nodule"),
        Label("Viral Pneumonia"),
        Label("Hilum", ["a large hilum"], unseen=True),
    ],
    description="For tests",
    hierarchy={"Opacity": ["Mass", "Nodule"], "Lesion": ["Nodule", "Small"], "Small": ["Mass"]},
)


def text_of(*parts, width=120):
    from rich.console import Console

    console = Console(width=width)
    with console.capture() as captured:
        for part in parts:
            console.print(part)
    return captured.get()


def write_set(folder, label_set=SET):
    import yaml

    file = folder / f"{label_set.name}.yaml"
    file.write_text(yaml.safe_dump(label_set.to_dict()))
    return file


@pytest.fixture(scope="module")
def store(make_store):
    """Labels Mass, Nodule, Hilum and Other; Hilum (unseen) is not known in train, Nodule of one image neither."""
    folder = make_store(["Mass", "Nodule", "Hilum", "Other"])
    file = folder / "manifest.parquet"
    table = pd.read_parquet(file)
    train = table["split"] == "train"
    table.loc[train, "Hilum"] = np.nan
    table.loc[table.index[train][0], "Nodule"] = np.nan
    table.to_parquet(file, index=False)
    return folder, table


def random_map(size, unseen=(), center=False):
    names = [f"label {index}" for index in range(size)]
    return LabelMap.of(names, list(unseen), np.random.default_rng(0).standard_normal((size, 16)), center)


# ---------------------------------------------------------------------------------------------------------- showing


def test_the_listing_has_every_set_with_its_counts_and_sources(project_root):
    lines = text_of(listing(), width=200).splitlines()
    for file in (project_root / "configs" / "labels").glob("*.yaml"):
        found = LabelSet.load(file)
        (line,) = [line for line in lines if line[2:].startswith(f"{file.stem} ")]
        counts = [str(len(found.names))] + [str(len(found.unseen_names))] * bool(found.unseen_names)
        assert line.split()[1 : 1 + len(counts)] == counts
    (line,) = [line for line in lines if line[2:].startswith("covid_chestxray ")]
    assert line.split()[-1] == "covid-chestxray"  # the only source that it has aliases of


def test_labels_are_shown_in_order_with_prompts_aliases_and_parents():
    text = text_of(*describe(SET))
    assert "3 seen and 1 unseen" in text and "For tests" in text
    table = text[: text.index("hierarchy")]
    assert [table.index(name) for name in ("Mass", "Nodule", "Viral", "Hilum")] == sorted(
        table.index(name) for name in ("Mass", "Nodule", "Viral", "Hilum")
    )
    assert "a lump [of 3 cm]" in table  # brackets are no markup
    assert "(nih, xrv: Lump; padchest: masa)" in table
    assert "Opacity, Lesion" in table
    assert [line for line in table.splitlines() if "unseen" in line and "Hilum" in line]


def test_columns_without_content_are_left_out():
    text = text_of(*describe(LabelSet("bare", [Label("Mass"), Label("Nodule")])))
    assert "Mass" in text and "prompts" not in text and "parents" not in text and "unseen" not in text


def test_the_tree_repeats_a_label_under_each_parent_and_tells_what_is_no_label():
    tree = text_of(describe(SET)[-1])
    lines = [line.strip("│├└─ \n") for line in tree.splitlines()]
    assert lines == [
        "hierarchy",
        "Opacity (no label)",
        "Mass",
        "Nodule",
        "Lesion (no label)",
        "Nodule",
        "Small (no label)",
        "Mass",
        "without parent or child: Hilum, Viral Pneumonia",
    ]


# --------------------------------------------------------------------------------------------------------- counting


def row_of(text, name):
    (line,) = [line for line in text.splitlines() if line.split()[:1] == [name]]
    return line.split()[1:]


def test_counts_are_pandas_own_by_image_and_by_study(store):
    folder, table = store
    text = text_of(*count(SET, folder))
    train = table[table["split"] == "train"]
    by_study = train.groupby("study_id")[["Mass", "Nodule"]].max()
    for name in ("Mass", "Nodule"):
        group, images, share, _, studies, study_share, _, val, test = row_of(text, name)
        assert int(images) == train[name].sum() and int(studies) == by_study[name].sum()
        assert float(share) == pytest.approx(100 * train[name].mean(), abs=0.006)  # of the images that know it
        assert float(study_share) == pytest.approx(100 * by_study[name].mean(), abs=0.006)
        assert group == "head"
        for part, found in (("val", val), ("test", test)):
            assert int(found) == table[table["split"] == part].groupby("study_id")[name].max().sum()


def test_derived_labels_are_shown_counted_per_level_and_contradictions_listed(store):
    folder, table = store
    labels_ = [Label("Mass"), Label("Nodule"), Label("Other"), Label("Lesion", ["a lesion"], derived="any"),
               Label("Nothing", derived="none")]  # fmt: skip
    found = LabelSet("derived", labels_, hierarchy={"Lesion": ["Mass", "Nodule"], "Other": ["Mass"]})
    shown = text_of(*describe(found))
    assert [line for line in shown.splitlines() if "Lesion" in line and "any child" in line]
    assert [line for line in shown.splitlines() if "Nothing" in line and "no other" in line]
    text = text_of(*count(found, folder))
    train = table[table["split"] == "train"].dropna(subset="Nodule")
    nothing = train[["Mass", "Nodule", "Other"]].max(axis=1) == 0
    lost = int(table.loc[table["split"] == "train", "Mass"].iloc[0])  # the row without Nodule, whose Mass decides
    assert int(row_of(text, "Lesion")[1]) == train[["Mass", "Nodule"]].max(axis=1).sum() + lost
    assert int(row_of(text, "Nothing")[1]) == nothing.sum()
    assert int(row_of(text, "Nothing")[4]) == nothing.groupby(train["study_id"]).all().sum()
    without = int(((table["Mass"] == 1) & (table["Other"] == 0)).sum())
    assert without > 0
    assert f"Against the hierarchy: Mass without Other in {without} rows" in text
    assert "Not in the store" not in text


def test_an_unseen_label_is_counted_in_evaluation_parts_only(store):
    folder, table = store
    cells = row_of(text_of(*count(SET, folder)), "Hilum")
    expected = [table[table["split"] == part].groupby("study_id")["Hilum"].max().sum() for part in ("val", "test")]
    assert cells[:5] == ["unseen", "-", "-", "-", "-"]
    assert [int(cell) for cell in cells[5:]] == expected and sum(expected) > 0


def test_labels_of_one_side_only_are_named(store):
    text = text_of(*count(SET, store[0]))
    assert "Not in the store: Viral Pneumonia" in text
    assert "In the store, but not in small: Other" in text


def test_a_store_of_single_images_is_counted_once(store, tmp_path):
    import shutil

    folder, table = store
    copy = shutil.copytree(folder, tmp_path / "single")
    table.assign(study_id=table["image_id"]).to_parquet(copy / "manifest.parquet", index=False)
    text = text_of(*count(SET, copy))
    assert "images" in text and "studies" not in text


def test_groups_that_differ_between_images_and_studies_are_both_given(store, tmp_path):
    import shutil

    folder, table = store
    train = table.index[table["split"] == "train"]
    studies = table.loc[train, "study_id"].nunique()
    table = table.assign(Mass=0.0)
    # one study of many images: few of the studies, many of the images
    table.loc[train, "study_id"] = ["many" if row < len(train) - 11 else f"s{row}" for row in range(len(train))]
    table.loc[train, "patient_id"] = table.loc[train, "study_id"]
    table.loc[train[: len(train) - 11], "Mass"] = 1.0
    copy = shutil.copytree(folder, tmp_path / "uneven")
    table.to_parquet(copy / "manifest.parquet", index=False)
    text = text_of(*count(SET, copy))
    assert studies and row_of(text, "Mass")[0] == "head/medium" and "by images, then by studies" in text


def test_a_store_without_any_of_the_labels_is_refused_with_both_sides(store):
    with pytest.raises(InputError, match=r"no label of set 'else'; it has Mass, Nodule"):
        count(LabelSet("else", [Label("Scoliosis")]), store[0])


# ---------------------------------------------------------------------------------------------------------- cosines


def test_cosines_are_those_of_the_vectors_whatever_their_length():
    vectors = np.array([[1.0, 0], [3, 3], [0, -2]])
    found = LabelMap.of(["a", "b", "c"], [], vectors, center=False)
    assert np.allclose(found.cosines, [[1, 0.5**0.5, 0], [0.5**0.5, 1, -(0.5**0.5)], [0, -(0.5**0.5), 1]])
    assert found.extreme(1) == ("a", "b", pytest.approx(0.5**0.5))
    assert found.extreme(-1)[:2] == ("b", "c")


def test_centring_takes_out_what_the_seen_labels_share():
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((12, 64)) + 10
    assert LabelMap.of(list("abcdefghijkl"), [], vectors, center=False).pairs().mean() > 0.9
    assert abs(LabelMap.of(list("abcdefghijkl"), [], vectors, center=True).pairs().mean()) < 0.15
    moved = vectors.copy()
    moved[-1] += 100  # an unseen label has no say in what is shared
    before, after = (LabelMap.of(list("abcdefghijkl"), ["l"], rows, center=True).cosines for rows in (vectors, moved))
    assert np.array_equal(before[:-1, :-1], after[:-1, :-1])


def test_a_single_seen_label_is_not_centred_away():
    found = LabelMap.of(["a", "b"], ["b"], np.array([[1.0, 0], [1, 1]]), center=True)
    assert found.cosines[0, 1] == pytest.approx(0.5**0.5)


def test_the_centred_map_is_that_of_the_text_queries_of_a_label_decoder(tmp_path):
    from longview.models.label_text import LabelText
    from longview.models.queries import TextQueries

    label_set = LabelSet.load("cxr_lt_2024_task3")
    queries = TextQueries(LabelText("random", cache=str(tmp_path)), project=False)
    queries.build(label_set, width=384)
    queries.set_labels(label_set)
    rows = queries().detach().double().numpy()  # seen labels, then unseen ones: the order of this file
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    found = compare(label_set, "random", "mean", center=True, order="set", cache=tmp_path)
    assert found.names == label_set.names + label_set.unseen_names
    assert np.allclose(found.cosines, rows @ rows.T, atol=1e-5)


def test_nearest_labels_are_seen_ones_from_near_to_far():
    found = random_map(9, unseen=["label 3", "label 7"])
    nearest = found.nearest_seen("label 3")
    row = dict(zip(found.names, found.cosines[3], strict=True))
    expected = sorted((name for name in row if name not in {"label 3", "label 7"}), key=lambda name: -row[name])[:3]
    assert [name for name, _ in nearest] == expected
    assert [value for _, value in nearest] == [row[name] for name in expected]


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 12), st.integers(0, 1000))
def test_an_order_by_similarity_holds_every_label_once(size, seed):
    vectors = np.random.default_rng(seed).standard_normal((size, 3))
    cosines = LabelMap.of([str(index) for index in range(size)], [], vectors, center=False).cosines
    assert sorted(by_similarity(cosines)) == list(range(size))


@settings(deadline=None, max_examples=20)
@given(st.permutations(range(9)))
def test_labels_of_one_kind_stand_together(shuffle):
    kinds = np.repeat(np.eye(3), 3, axis=0) + 0.2 * np.random.default_rng(0).standard_normal((9, 3))
    found = LabelMap.of([str(index // 3) for index in shuffle], [], kinds[list(shuffle)], center=False)
    names = found.ordered(by_similarity(found.cosines)).names
    assert [names[0], names[3], names[6]] == [names[2], names[5], names[8]]


def test_an_ordered_map_keeps_each_pairs_cosine():
    found = random_map(6)
    turned = found.ordered([5, 2, 0, 1, 4, 3])
    assert turned.names[:2] == ["label 5", "label 2"]
    assert turned.cosines[0, 1] == found.cosines[5, 2] and turned.cosines[3, 5] == found.cosines[1, 3]


@pytest.mark.parametrize(("value", "text"), [(-0.001, "0.00"), (-0.01, "-0.01"), (0.276, "0.28"), (1.0, "1.00")])
def test_two_digits_have_no_minus_before_nothing(value, text):
    assert two_digits(value) == text


# ---------------------------------------------------------------------------------------------------------- picture


def test_the_picture_marks_unseen_labels_and_holds_figures_where_they_can_be_read():
    found = random_map(6, unseen=["label 4"])
    (axis, *_) = label_map._draw(found, "T", "s").axes
    assert [tick.get_text() for tick in axis.get_yticklabels()][3:] == ["label 3", "label 4 *", "label 5"]
    assert len(axis.lines) == 4  # on both sides of the unseen row and column
    assert {text.get_text() for text in axis.texts} >= {"T", "s", "* unseen: no training data"}
    figures = [text for text in axis.texts if text.get_text().lstrip("\N{MINUS SIGN}")[:1] == "."]
    assert len(figures) == 30
    (axis, *_) = label_map._draw(random_map(45), "T", "s").axes
    assert [text.get_text() for text in axis.texts] == ["s", "T"]
    assert axis.images[0].get_clim() == (-1, 1)  # maps of different encoders can be compared


@pytest.mark.parametrize("size", [1, 2, 45])
def test_the_picture_is_whole_and_the_table_beside_it_is_the_map(size, tmp_path):
    found = random_map(size)
    table = write_map(found, "T", "s", tmp_path / "new" / "map.png")
    with Image.open(tmp_path / "new" / "map.png") as image:
        assert image.format == "PNG" and min(image.size) > 400
        assert np.asarray(image.convert("L")).std() > 1
    with table.open(newline="") as file:
        header, *rows = list(csv.reader(file))
    assert header == ["label", *found.names] and [row[0] for row in rows] == found.names
    assert np.allclose([[float(cell) for cell in row[1:]] for row in rows], found.cosines, atol=1e-6)
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["map.csv", "map.png"]


@pytest.mark.parametrize(("ending", "start"), [("pdf", b"%PDF"), ("SVG", b"<?xml")])
def test_a_picture_for_print_is_drawn_with_vectors(ending, start, tmp_path):
    write_map(random_map(3), "T", "s", tmp_path / f"map.{ending}")
    assert (tmp_path / f"map.{ending}").read_bytes().startswith(start)


def test_a_failure_leaves_the_earlier_picture_and_nothing_half_made(tmp_path, monkeypatch):
    write_map(random_map(3), "T", "s", tmp_path / "map.png")
    before = (tmp_path / "map.png").read_bytes(), (tmp_path / "map.csv").read_bytes()

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("longview.label_map.csv.writer", full)
    with pytest.raises(OSError, match="No space"):
        write_map(random_map(4), "T", "s", tmp_path / "map.png")
    assert ((tmp_path / "map.png").read_bytes(), (tmp_path / "map.csv").read_bytes()) == before
    assert len(list(tmp_path.iterdir())) == 2


# ----------------------------------------------------------------------------------------------------- command line


def test_the_command_writes_the_map_and_prints_the_unseen_labels_neighbours(tmp_path, monkeypatch, capsys):
    file = write_set(tmp_path)
    monkeypatch.chdir(tmp_path)
    cli.main(["labels", "--show", str(file), "--encoder", "random", "--order", "similarity", "--center"])
    out = capsys.readouterr().out
    assert "Nearest seen labels" in out and "Cosines of different labels: mean" in out
    assert (tmp_path / "results" / "labels_small.png").is_file()
    assert "results/labels_small.png" in out and "results/labels_small.csv" in out
    header = (tmp_path / "results" / "labels_small.csv").read_text().splitlines()[0]
    assert sorted(header.split(",")[1:]) == sorted(label.name for label in SET.labels)


def test_a_set_without_unseen_labels_has_no_table_of_neighbours(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    file = write_set(tmp_path, LabelSet("pair", [Label("Mass"), Label("Nodule")]))
    labels(str(file), encoder="random")
    out = capsys.readouterr().out
    assert "Nearest" not in out and "(Mass and Nodule)" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--encoder", "random"], "--encoder random needs a label set: add --show"),
        (["--store", "data/x"], "--store data/x needs a label set"),
        (["--show", "phantom", "--output", "x.png"], "add --encoder"),
        (["--show", "phantom", "--encoder", "random", "--output", "x.jpg"], "must end in .png, .pdf or .svg"),
        (["--show", "phantom", "--encoder", "random", "--output", "folder.png"], "is a folder"),
        (["--show", "fantom"], "no label set 'fantom': give a YAML file or one of chexpert"),
        (["--show", "phantom", "--store", "nowhere"], "nowhere"),
        (["--show", "phantom", "--encoder", "random", "--pooling", "max"], "mean"),
    ],
)
def test_a_mistake_is_named_before_anything_is_written(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(SystemExit) as stop:
        cli.main(["labels", *arguments])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error
    assert [path.name for path in tmp_path.iterdir()] == ["folder.png"]


def test_listing_and_showing_need_neither_torch_nor_tables_nor_plots():
    code = (
        "import sys; from longview.cli import main; main(['labels']); main(['labels', '--show', 'mimic']);"
        "sys.exit(any(name in sys.modules for name in ('torch', 'transformers', 'pandas', 'cv2', 'matplotlib')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, stdout=subprocess.DEVNULL).returncode == 0
