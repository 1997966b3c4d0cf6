import json
import logging
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from networks import LABELS, NAMES, linear, network_of, queries, transformer

from longview import VIEWS, InputError, cli
from longview.data.transforms import Preprocessing
from longview.explain import explain as verb
from longview.explain.results import MapEntry, folder_name, slug
from longview.inference import OpenModel
from longview.models.decoder import LinearDecoder
from longview.models.network import StudyNetwork
from longview.uncertainty.dropout import MonteCarlo
from longview.uncertainty.summary import MEASURES, Uncertainty

SIZE = 48


def opened(name="tiny", decoder=linear, fusion=None, seed=0, resize="squash", names=NAMES):
    return OpenModel(
        name=name,
        labels=LABELS,
        names=list(names),
        network=network_of(decoder(), fusion and fusion(), seed),
        image_size=SIZE,
        preprocessing=Preprocessing(96, resize),
        sha256=f"{seed:064d}",
        device=torch.device("cpu"),
    )


MODELS = {
    "linear": opened(),
    "crop": opened("crop", resize="crop"),
    "other": opened(seed=5),
    "decoder": opened("decoder", queries),
    "study": opened("study", queries, transformer),
    "dropping": opened("dropping", lambda: LinearDecoder(dropout=0.4)),
}


@pytest.fixture(autouse=True)
def models(monkeypatch):
    """Models by name; how often each was opened."""
    import longview.inference

    calls = []

    def open_model(name, weights=None, device="auto"):
        calls.append(name)
        return MODELS[name]

    monkeypatch.setattr(longview.inference, "open_model", open_model)
    return calls


def draw(path, height=130, width=90, seed=0):
    film = np.random.default_rng(seed).integers(0, 120, (height, width), np.uint8)
    film[height // 4 : height // 2, width // 3 : width // 2] += 120
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), film)
    return path


@pytest.fixture
def film(tmp_path):
    return draw(tmp_path / "films" / "film 1.png")


def metadata(folder):
    return json.loads((folder / "metadata.json").read_text())


def stamps(folder):
    return {file.name: file.stat().st_mtime_ns for file in folder.iterdir()}


def test_each_map_has_its_files_in_the_frame_of_the_film(film, tmp_path):
    output = tmp_path / "results"
    verb.explain(
        ["crop"], output, input=film, method=["gradcam", "cam"], labels=["Lung Opacity", "Mass"], threshold=0.4
    )
    folder = output / "film 1"
    data = metadata(folder)
    assert {key: data["image"][key] for key in ("path", "image_id", "height", "width")} == {
        "path": str(film), "image_id": "film 1", "height": 130, "width": 90,
    }  # fmt: skip
    assert data["threshold"] == 0.4
    assert [(entry["model"], entry["label"], entry["method"]) for entry in data["maps"]] == [
        ("crop", "Lung Opacity", "gradcam"), ("crop", "Mass", "gradcam"),
        ("crop", "Lung Opacity", "cam"), ("crop", "Mass", "cam"),
    ]  # fmt: skip
    assert np.array_equal(cv2.imread(str(folder / "input.png"), cv2.IMREAD_GRAYSCALE), cv2.imread(str(film), 0))
    for entry in data["maps"]:
        assert entry["view_share"] is None and entry["sha256"] == MODELS["crop"].sha256
        assert entry["layer"] == "encoder, last map (12 x 6 x 6)" and 0 <= entry["probability"] <= 1
        values = np.load(folder / entry["files"]["map"])
        assert values.dtype == np.float32 and values.shape == (130, 90)
        assert np.isfinite(values).all() and values.min() >= 0 and values.max() == 1
        assert (values[:20] == 0).all() and (values[110:] == 0).all()  # what the crop never saw
        mask = cv2.imread(str(folder / entry["files"]["mask"]), cv2.IMREAD_UNCHANGED)
        assert (
            mask.shape == (130, 90) and np.array_equal(mask == 255, values >= 0.4) and set(np.unique(mask)) <= {0, 255}
        )
        assert cv2.imread(str(folder / entry["files"]["heatmap"])).shape == (130, 90, 3)
        assert cv2.imread(str(folder / entry["files"]["overlay"])) is not None
    assert (folder / "comparison.png").is_file()
    assert data["maps"][0]["files"]["overlay"] == "crop_Lung_Opacity_gradcam_P0.png"


class Glass(torch.nn.Module):
    """An encoder whose features are the image itself."""

    channels = 1

    def build(self, image_size, weights=True):
        pass

    def forward(self, images):
        return images.float() / 255


@pytest.mark.parametrize("resize", ["squash", "letterbox", "crop"])
@pytest.mark.parametrize("shape", [(300, 200), (180, 260), (90, 90)])
def test_a_rectangle_is_found_where_it_is_in_the_film_within_a_pixel(resize, shape, tmp_path, monkeypatch):
    decoder = linear()
    network = StudyNetwork(Glass(), decoder)
    network.build(LABELS, 96)
    torch.nn.init.ones_(decoder.readout.weight)
    model = replace(opened(), network=network.eval(), image_size=96, preprocessing=Preprocessing(128, resize))
    monkeypatch.setitem(MODELS, "glass", model)
    rows, columns = slice(shape[0] // 2 - 30, shape[0] // 2 + 21), slice(shape[1] // 2 - 25, shape[1] // 2 + 36)
    film = np.zeros(shape, np.uint8)
    film[rows, columns] = 200
    cv2.imwrite(str(tmp_path / "film.png"), film)
    verb.explain(["glass"], tmp_path / "out", input=tmp_path / "film.png", method=["cam"], labels=["Mass"])
    mask = cv2.imread(str(tmp_path / "out" / "film" / "tiny_Mass_cam_P3.png"), cv2.IMREAD_UNCHANGED)
    down, across = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    found = (down[0], down[-1] + 1, across[0], across[-1] + 1)
    np.testing.assert_allclose(found, (rows.start, rows.stop, columns.start, columns.stop), atol=1)
    assert mask[tuple(np.argwhere(np.load(tmp_path / "out" / "film" / "tiny_Mass_cam_P1.npy") == 1)[0])] == 255


def test_a_film_alone_and_in_a_study_take_each_others_place(tmp_path):
    files = [draw(tmp_path / f"{name}.png", seed=place) for place, name in enumerate("ab")]
    asked = {"method": ["attention"], "labels": ["Mass"]}
    for _ in range(2):
        verb.explain(["study"], tmp_path / "out", input=files[0], **asked)
        assert metadata(tmp_path / "out" / "a")["maps"][0]["view_share"] is None
        verb.explain(["study"], tmp_path / "out", study=files, **asked)
        assert metadata(tmp_path / "out" / "a")["maps"][0]["view_share"] > 0


def test_the_most_probable_labels_are_explained_and_each_once(film, tmp_path):
    verb.explain(["linear"], tmp_path / "out", input=film, labels=["top-2", "Mass", "Mass"])
    found = metadata(tmp_path / "out" / "film 1")["maps"]
    verb.explain(["linear"], tmp_path / "all", input=film, labels=["all"])
    every = metadata(tmp_path / "all" / "film 1")["maps"]
    assert [entry["label"] for entry in every] == NAMES
    ranked = sorted(every, key=lambda entry: -entry["probability"])
    expected = list(dict.fromkeys([ranked[0]["label"], ranked[1]["label"], "Mass"]))
    assert [entry["label"] for entry in found] == expected
    model = MODELS["linear"]
    wanted = model.probabilities(model.read(film).pixels[None])[0]
    np.testing.assert_allclose([entry["probability"] for entry in every], wanted, rtol=1e-5)


def test_what_is_done_is_passed_over_until_something_changed(film, tmp_path, monkeypatch):
    output = tmp_path / "out"
    folder = output / "film 1"
    verb.explain(["linear"], output, input=film, labels=["Mass"])
    before = stamps(folder)
    verb.explain(["linear"], output, input=film, labels=["Mass"])
    assert stamps(folder) == before
    (folder / "tiny_Mass_gradcam++_P0.png").unlink()
    verb.explain(["linear"], output, input=film, labels=["Mass"])
    assert stamps(folder).keys() == before.keys()
    # another threshold: all masks are cut anew, also those that were not asked for again
    verb.explain(["linear"], output, input=film, labels=["Effusion"], threshold=0.9)
    data = metadata(folder)
    assert data["threshold"] == 0.9 and len(data["maps"]) == 2
    for entry in data["maps"]:
        mask = cv2.imread(str(folder / entry["files"]["mask"]), cv2.IMREAD_UNCHANGED)
        assert np.array_equal(mask == 255, np.load(folder / entry["files"]["map"]) >= 0.9)
    # other weights under the same name: what the old ones said goes
    verb.explain(["other"], output, input=film, labels=["Mass"], threshold=0.9)
    data = metadata(folder)
    assert [(entry["label"], entry["sha256"]) for entry in data["maps"]] == [("Mass", MODELS["other"].sha256)]
    assert not any("Effusion" in name for name in stamps(folder))
    # another film under the same name
    draw(film, 70, 80, seed=3)
    verb.explain(["other"], output, input=film, labels=["Mass"], threshold=0.9)
    assert (metadata(folder)["image"]["height"], len(metadata(folder)["maps"])) == (70, 1)


def test_runs_into_one_folder_add_to_each_other(film, tmp_path):
    output = tmp_path / "out"
    verb.explain(["linear"], output, input=film, method=["cam"], labels=["Mass"])
    first = np.load(output / "film 1" / "tiny_Mass_cam_P1.npy")
    verb.explain(["decoder"], output, input=film, method=["attention", "layercam"], labels=["Mass", "Effusion"])
    data = metadata(output / "film 1")
    keys = [(entry["model"], entry["label"], entry["method"]) for entry in data["maps"]]
    assert keys[0] == ("tiny", "Mass", "cam") and len(keys) == len(set(keys)) == 5
    assert np.array_equal(np.load(output / "film 1" / "tiny_Mass_cam_P1.npy"), first)
    assert all((output / "film 1" / name).is_file() for entry in data["maps"] for name in entry["files"].values())


def test_films_that_would_share_a_folder_are_refused_before_anything_is_made(film, tmp_path):
    folder = tmp_path / "films"
    (folder / "sub").mkdir(parents=True)
    for name in ("sub/a.png", "sub_a.png"):
        (folder / name).write_bytes(film.read_bytes())
    with pytest.raises(InputError, match="both be explained in the folder 'sub_a'"):
        verb.explain(["linear"], tmp_path / "out", input=folder, labels=["Mass"])
    assert not list((tmp_path / "out").iterdir())


def test_two_models_of_one_name_are_told_apart(film, tmp_path):
    verb.explain(["linear", "other"], tmp_path, input=film, labels=["Mass"])
    assert [entry["model"] for entry in metadata(tmp_path / "film 1")["maps"]] == ["tiny", "tiny-000000"]


def test_an_interrupted_run_leaves_no_half_results(film, tmp_path, monkeypatch):
    output = tmp_path / "out"
    verb.explain(["linear"], output, input=film, labels=["Mass"])
    before = stamps(output / "film 1")

    def broken(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr("longview.explain.running.heat_map", broken)
    with pytest.raises(KeyboardInterrupt):
        verb.explain(["linear"], output, input=film, labels=["all"])
    assert stamps(output / "film 1") == before
    assert [path.name for path in output.iterdir()] == ["film 1"]


def test_a_study_of_three_views_has_three_maps_per_label_whose_shares_sum_to_one(tmp_path):
    files = [draw(tmp_path / f"{name}.png", 60 + 20 * place, 80, place) for place, name in enumerate("abc")]
    verb.explain(["study"], tmp_path / "out", study=files, views=["PA", "AP", "lateral"],
                 method=["attention", "gradattention", "gradcam"], labels=["Mass", "Effusion"])  # fmt: skip
    found = [metadata(tmp_path / "out" / name)["maps"] for name in "abc"]
    assert [len(maps) for maps in found] == [6, 6, 6]
    for entries in zip(*found, strict=True):
        assert sum(entry["view_share"] for entry in entries) == pytest.approx(1)
        assert len({(entry["label"], entry["method"], entry["probability"]) for entry in entries}) == 1
        assert entries[0]["study"] == ["a", "b", "c"]
        maps = [np.load(tmp_path / "out" / name / entry["files"]["map"]) for name, entry in zip("abc", entries)]  # noqa: B905
        assert [values.shape for values in maps] == [(60, 80), (80, 80), (100, 80)]
        assert max(values.max() for values in maps) == (0 if entries[0]["empty"] else 1)
    model = MODELS["study"]
    images = torch.stack([model.read(file).pixels for file in files])
    wanted = model.probabilities(images, torch.zeros(3, dtype=torch.int64), torch.tensor([0, 1, 2]), 1)[0]
    assert found[0][0]["probability"] == pytest.approx(float(wanted[NAMES.index("Mass")]), rel=1e-4)


def test_the_views_of_a_study_are_seen_as_what_they_are(tmp_path):
    files = [draw(tmp_path / f"{name}.png", seed=place) for place, name in enumerate("ab")]
    shares = []
    for views in (["PA", "lateral"], ["lateral", "PA"]):
        verb.explain(["study"], tmp_path / views[0], study=files, views=views, method=["attention"], labels=["Mass"])
        shares.append(metadata(tmp_path / views[0] / "a")["maps"][0]["view_share"])
    assert shares[0] != shares[1]


@pytest.fixture(scope="module")
def store(make_store):
    return make_store(NAMES, patients=8, size=32)


def test_films_of_a_store_are_explained_by_their_ids_alone_or_as_studies(store, tmp_path):
    verb.explain(["linear"], tmp_path / "alone", input=store, split="test", labels=["Mass"])
    found = sorted(path.name for path in (tmp_path / "alone").iterdir())
    assert found == ["p001_PA", "p001_lateral", "p005_PA", "p005_lateral"]
    asked = {"studies": True, "split": "test", "labels": ["Mass"], "method": ["attention"]}
    verb.explain(["study"], tmp_path / "studies", input=store, **asked)
    shares = [metadata(tmp_path / "studies" / f"p001_{view}")["maps"][0]["view_share"] for view in ("PA", "lateral")]
    assert sum(shares) == pytest.approx(1)
    verb.explain(["linear"], tmp_path / "few", input=store, limit=3, labels=["Mass"])
    assert len(list((tmp_path / "few").iterdir())) == 3


def test_where_the_raw_films_are_gone_the_stores_own_stand_in(make_store, tmp_path, caplog):
    store = make_store(NAMES, patients=3, size=40)
    films = Path(json.loads((store / "store.json").read_text())["root"])
    verb.explain(["linear"], tmp_path / "raw", input=store, labels=["Mass"], limit=1)
    films.rename(films.with_name("away"))
    with caplog.at_level(logging.WARNING):
        verb.explain(["linear"], tmp_path / "stored", input=store, labels=["Mass"], limit=1)
    assert "raw files are not below" in caplog.text
    maps = [np.load(next((tmp_path / name).glob("*/*.npy"))) for name in ("raw", "stored")]
    assert maps[0].shape == maps[1].shape == (40, 40)
    np.testing.assert_allclose(maps[0], maps[1], atol=0.1)  # the film went through 96 px, the store's through 40


def test_a_map_without_evidence_stays_zero_and_is_named(film, tmp_path, caplog, monkeypatch):
    model = opened("dark")
    model.network.decoder.readout.weight[NAMES.index("Mass")] = -1  # all features are at least 0
    monkeypatch.setitem(MODELS, "dark", model)
    with caplog.at_level(logging.WARNING):
        verb.explain(["dark"], tmp_path, input=film, method=["gradcam"], labels=["Mass", "Effusion"])
    assert "no evidence anywhere, so that map and mask are 0: Mass by gradcam of dark (1 of 1)" in caplog.text
    assert "Effusion" not in caplog.text
    entry = metadata(tmp_path / "film 1")["maps"][0]
    assert entry["empty"] and (np.load(tmp_path / "film 1" / entry["files"]["map"]) == 0).all()
    assert not cv2.imread(str(tmp_path / "film 1" / entry["files"]["mask"]), cv2.IMREAD_UNCHANGED).any()


def test_a_folder_goes_on_where_a_film_cannot_be_read(film, tmp_path, caplog):
    (film.parent / "broken.png").write_bytes(b"\x89PNG nothing")
    with caplog.at_level(logging.WARNING):
        verb.explain(["linear"], tmp_path / "out", input=film.parent, labels=["Mass"])
    assert "left out" in caplog.text and "broken.png" in caplog.text
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["film 1"]
    film.unlink()
    with pytest.raises(InputError, match=r"broken.png"):
        verb.explain(["linear"], tmp_path / "none", input=film.parent, labels=["Mass"])


def test_a_label_that_one_model_lacks_is_told_and_explained_by_the_others(film, tmp_path, caplog, monkeypatch):
    monkeypatch.setitem(MODELS, "less", replace(opened("less"), names=["Atelectasis"]))
    with caplog.at_level(logging.WARNING):
        verb.explain(["less", "linear"], tmp_path, input=film, labels=["Mass"])
    assert "less does not score Mass" in caplog.text
    assert [entry["model"] for entry in metadata(tmp_path / "film 1")["maps"]] == ["tiny"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"labels": ["Massive"]}, "no label 'Massive' in tiny; there are Atelectasis, Cardiomegaly"),
        ({"labels": ["top-0"]}, "no label 'top-0'"),
        ({"input": Path("nowhere.png")}, "--input nowhere.png does not exist"),
        ({"input": None}, "give either --input"),
        ({"input": None, "study": [Path("nowhere.png")]}, "--study nowhere.png does not exist"),
        ({"views": ["PA"]}, "--views belongs to --study"),
        ({"threshold": 0.0}, "--threshold is 0"),
        ({"threshold": 1.5}, "--threshold is 1.5"),
        ({"limit": 0}, "--limit is 0"),
        ({"split": "test"}, "is no store"),
        ({"method": ["attention"]}, "no label decoder"),
    ],
)
def test_a_mistake_is_one_clear_line(options, message, film, tmp_path):
    with pytest.raises(InputError, match=message):
        verb.explain(["linear"], tmp_path / "out", **{"input": film} | options)


def test_other_mistakes_of_input_and_output(film, tmp_path):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(InputError, match="is a file"):
        verb.explain(["linear"], tmp_path / "file", input=film)
    with pytest.raises(InputError, match="neither an image, a folder, a table nor a store"):
        verb.explain(["linear"], tmp_path / "out", input=tmp_path / "file")
    with pytest.raises(InputError, match="given twice"):
        verb.explain(["linear"], tmp_path / "out", study=[film, film])
    with pytest.raises(InputError, match="1 entries for 2 files"):
        verb.explain(["linear"], tmp_path / "out", study=[film, draw(tmp_path / "b.png")], views=["PA"])
    verb.explain(["linear"], tmp_path / "out", input=film, labels=["Mass"])
    (tmp_path / "out" / "film 1" / "metadata.json").write_text("{")
    with pytest.raises(InputError, match=r"metadata.json is damaged"):
        verb.explain(["linear"], tmp_path / "out", input=film, labels=["Mass"])


def test_a_store_without_films_of_a_split_says_which_it_has(store, tmp_path):
    with pytest.raises(InputError, match="no image in it; its splits: test, train, val"):
        verb.explain(["linear"], tmp_path / "out", input=store, split="none")


def test_the_command_line_takes_lists(film, tmp_path):
    cli.main(["explain", "--model", "linear", "decoder", "--input", str(film), "--method", "gradcam++", "layercam",
              "--labels", "Lung Opacity", "top-1", "--output", str(tmp_path / "out"), "--threshold", ".3"])  # fmt: skip
    data = metadata(tmp_path / "out" / "film 1")
    assert {entry["method"] for entry in data["maps"]} == {"gradcam++", "layercam"} and data["threshold"] == 0.3
    assert {entry["model"] for entry in data["maps"]} == {"tiny", "decoder"}
    with pytest.raises(SystemExit):
        cli.main(["explain", "--model", "linear", "--input", str(film), "--method", "gradcamm", "--output", "x"])


def test_uncertainty_is_that_of_the_samples_and_stands_in_the_headings(film, tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr("longview.explain.overlay.overlay", lambda *given: told.append(given[2]) or given[0])
    asked = {"input": film, "labels": ["all"], "method": ["cam", "gradcam"], "uncertainty": "mc-dropout"}
    verb.explain(["dropping"], tmp_path / "out", samples=7, **asked)
    model, maps = MODELS["dropping"], metadata(tmp_path / "out" / "film 1")["maps"]
    samples = model.probabilities(model.read(film).pixels[None], sampler=MonteCarlo(7))
    wanted = Uncertainty.of(samples[1:].numpy())
    assert len(maps) == len(told) == 2 * len(NAMES)
    for entry, heading in zip(maps, told, strict=True):
        place = NAMES.index(entry["label"])
        assert entry["probability"] == pytest.approx(float(samples[0, 0, place]), rel=1e-5)
        assert entry["uncertainty"] == pytest.approx(
            {name: float(getattr(wanted, name)[0, place]) for name in MEASURES}, rel=1e-4, abs=1e-9
        )
        assert entry["uncertainty"]["variance"] > 0
        deviation = entry["uncertainty"]["standard_deviation"]
        assert heading == f"{entry['label']} · p = {entry['probability']:.2f} ± {deviation:.2f}"


@pytest.mark.parametrize("model", ["dropping", "study"])
def test_deviations_are_those_of_the_maps_of_the_sampled_networks(model, tmp_path):
    files = [draw(tmp_path / f"{name}.png", 60, 80, place) for place, name in enumerate("ab")]
    verb.explain([model], tmp_path / "out", study=files, method=["hirescam", "cam"][: 2 - (model == "study")],
                 labels=["Mass"], uncertainty="mc-dropout", samples=3, threshold=0.3)  # fmt: skip
    opened_, place = MODELS[model], NAMES.index("Mass")
    films = [opened_.read(file) for file in files]
    images, view = torch.stack([film.pixels for film in films]), torch.full((2,), VIEWS.index("unknown"))
    features = opened_.network.encode(images).requires_grad_()
    batch = {"images": images, "study": torch.zeros(2, dtype=torch.int64), "view": view, "ids": [None],
             "features": features}  # fmt: skip
    logits = MonteCarlo(3).logits(opened_.network, batch)[:, 0, place]  # the network itself, and three samples
    raw = [(features * torch.autograd.grad(one, features, retain_graph=True)[0]).sum(1).relu() for one in logits]
    maps = [[film.frame.to_original(values.detach().numpy()) for values in each]
            for film, each in zip(films, zip(*raw, strict=True), strict=True)]  # fmt: skip
    top = max(view[0].max() for view in maps)
    for name, wanted in zip("ab", maps, strict=True):
        folder = tmp_path / "out" / name
        entry, *others = metadata(folder)["maps"]
        found = np.load(folder / entry["files"]["deviation"])
        assert found.shape == (60, 80) and found.dtype == np.float32 and found.max() > 0
        np.testing.assert_allclose(found, np.std(np.stack(wanted[1:]) / top, axis=0), atol=2e-4)
        assert cv2.imread(str(folder / entry["files"]["deviation_picture"])).shape == (60, 80, 3)
        assert not any("deviation" in other["files"] for other in others)
    before = metadata(tmp_path / "out" / "a")["maps"][0]["files"]
    verb.explain([model], tmp_path / "out", input=files[0], labels=["Effusion"], threshold=0.6)
    kept = metadata(tmp_path / "out" / "a")["maps"][0]
    assert kept["files"] == before and all((tmp_path / "out" / "a" / file).is_file() for file in before.values())


def test_a_study_has_one_uncertainty_for_all_its_views(tmp_path):
    files = [draw(tmp_path / f"{name}.png", seed=place) for place, name in enumerate("ab")]
    verb.explain(["study"], tmp_path / "out", study=files, method=["attention"], labels=["Mass"],
                 uncertainty="mc-dropout", samples=3)  # fmt: skip
    first, second = (metadata(tmp_path / "out" / name)["maps"][0] for name in "ab")
    assert first["uncertainty"] == second["uncertainty"] and first["uncertainty"]["variance"] > 0


def test_another_setting_of_the_samples_is_another_question(film, tmp_path):
    folder, asked = tmp_path / "film 1", {"input": film, "labels": ["Mass"], "method": ["cam"]}
    sampled = {**asked, "uncertainty": "mc-dropout"}
    verb.explain(["dropping"], tmp_path, samples=4, **sampled)
    before = stamps(folder)
    verb.explain(["dropping"], tmp_path, samples=4, **sampled)
    assert stamps(folder) == before
    (first,) = metadata(folder)["maps"]
    verb.explain(["dropping"], tmp_path, samples=5, **sampled)
    (second,) = metadata(folder)["maps"]
    assert first["uncertainty"] != second["uncertainty"]
    for _ in range(2):
        verb.explain(["dropping"], tmp_path, **asked)
        assert metadata(folder)["maps"][0]["uncertainty"] is None
        verb.explain(["dropping"], tmp_path, samples=5, **sampled)
        assert metadata(folder)["maps"][0]["uncertainty"] == second["uncertainty"]


def test_a_model_that_drops_nothing_is_refused_before_anything_is_written(film, tmp_path):
    asked = {"input": film, "labels": ["Mass"], "uncertainty": "mc-dropout"}
    with pytest.raises(InputError, match=r"--uncertainty mc-dropout, tiny: StudyNetwork .* has no active dropout"):
        verb.explain(["dropping", "linear"], tmp_path / "out", **asked)
    with pytest.raises(InputError, match="--samples 1"):
        verb.explain(["dropping"], tmp_path / "out", samples=1, **asked)
    assert not (tmp_path / "out").exists()


def test_names_of_files_are_safe_and_differ():
    assert slug("Pleural Effusion/left: 1.5") == "Pleural_Effusionleft_15"
    assert folder_name("p10/s1/film") == "p10_s1_film" and folder_name("..") == "image"
    assert MapEntry("a", "b", "c", "", 0.1, "").key == ("a", "b", "c")


def test_two_labels_of_the_same_letters_have_files_of_their_own(film, tmp_path, monkeypatch):
    monkeypatch.setitem(MODELS, "twins", replace(opened("twins"), names=["A/B", "AB", *NAMES[2:]]))
    verb.explain(["twins"], tmp_path, input=film, labels=["all"], method=["cam"])
    files = [name for entry in metadata(tmp_path / "film 1")["maps"] for name in entry["files"].values()]
    assert len(files) == len(set(files)) == 20
