"""The verb: maps in, boxes and figures out; members against their consolidation."""

import json

import cv2
import numpy as np
import pandas as pd
import pytest
from folders import bump, explained

from longview import InputError
from longview.cli import main
from longview.localization.boxes import BoxOptions, find_boxes
from longview.localization.consolidate import consolidate, mean_map
from longview.localization.fitting import parse_weights
from longview.localization.localize import localize

TRUE = {"a": (5, 5, 20, 16), "b": (30, 10, 24, 20), "c": (10, 20, 16, 16), "d": (2, 4, 30, 12)}
"""True box of each film's Mass, in 40 rows and 60 columns."""


def shifted(box, right, down=0):
    return box[0] + right, box[1] + down, *box[2:]


@pytest.fixture
def maps(tmp_path):
    """Two methods, of which one points 8 pixels left and the other 8 right of what is true; one film without it."""
    for image, box in TRUE.items():
        found = {("m", "left", "Mass"): (bump((40, 60), shifted(box, -8)), 0.9),
                 ("m", "right", "Mass"): (bump((40, 60), shifted(box, 8)), 0.9)}  # fmt: skip
        explained(tmp_path / "maps", image, found)
    explained(tmp_path / "maps", "none", {key: (bump((40, 60), (30, 20, 6, 6)), 0.1) for key in found})
    return tmp_path / "maps"


@pytest.fixture
def boxes(tmp_path):
    rows = [(image, "mass", *box) for image, box in TRUE.items()]
    table = pd.DataFrame(rows, columns=["image_id", "label", "x", "y", "width", "height"])
    table.loc[len(table)] = ["none", "mass", None, None, None, None]
    table.to_csv(tmp_path / "boxes.csv", index=False)
    return tmp_path / "boxes.csv"


def figures(output):
    return pd.read_csv(output / "metrics.csv").set_index(["name", "label"])


def test_an_ensemble_of_members_that_err_in_opposite_ways_localises_better_than_either(tmp_path, maps, boxes):
    localize(tmp_path / "out", maps=[maps], boxes=boxes, consolidate=["mean", "intersection", "union", "majority"],
             bootstrap=50)  # fmt: skip
    found = figures(tmp_path / "out")["iou"].xs("Mass", level="label")
    assert list(found.index) == ["m/left", "m/right", "mean", "intersection", "union", "majority", "centre"]
    assert found["mean"] > max(found["m/left"], found["m/right"]) + 0.1
    differences = pd.read_csv(tmp_path / "out/differences.csv").set_index(["name", "over", "label", "figure"])
    gap = differences.loc["mean", "m/left", "Mass", "iou"]
    assert gap["difference"] == pytest.approx(found["mean"] - found["m/left"])
    assert gap["low"] > 0
    counts = figures(tmp_path / "out").loc[("mean", "Mass")]
    assert (counts["films"], counts["films_without"]) == (4, 1)
    report = json.loads((tmp_path / "out/metrics.json").read_text())
    assert report["bootstrap"] == {"resamples": 50, "seed": 0, "level": 0.95, "clusters": 5, "unit": "image"}
    mask = cv2.imread(str(tmp_path / "out/masks/a/union_Mass.png"), cv2.IMREAD_UNCHANGED)
    assert mask.shape == (40, 60)
    assert set(np.unique(mask)) == {0, 255}


def test_the_baseline_is_the_same_box_wherever_maps_are_cut(tmp_path, maps, boxes):
    found = []
    for threshold in ("0.3", "p95", "otsu"):
        localize(tmp_path / threshold, maps=[maps], boxes=boxes, threshold=threshold, bootstrap=0, pictures=0)
        found.append(figures(tmp_path / threshold)["iou"].xs("Mass", level="label"))
    assert found[0]["centre"] == found[1]["centre"] == found[2]["centre"]
    assert len({row["m/left"] for row in found}) == 3


def test_boxes_are_those_of_the_maps_and_can_be_read_as_true_boxes(tmp_path, maps, boxes):
    localize(tmp_path / "out", maps=[maps], boxes=boxes, bootstrap=0, pictures=0)
    table = pd.read_csv(tmp_path / "out/boxes.csv").set_index(["image_id", "name"])
    heat = bump((40, 60), shifted(TRUE["a"], 8))
    (wanted,) = find_boxes(heat, BoxOptions()).boxes
    found = table.loc[("a", "m/right")]
    assert found[["x", "y", "width", "height", "score"]].tolist() == pytest.approx(list(wanted))
    assert found[["frame_width", "frame_height", "probability"]].tolist() == [60, 40, 0.9]
    table.loc[(slice(None), "m/right"), :].reset_index().to_csv(tmp_path / "right.csv", index=False)
    localize(tmp_path / "again", maps=[maps], boxes=tmp_path / "right.csv", bootstrap=0, pictures=0)
    again = figures(tmp_path / "again")
    assert again.loc[("m/right", "Mass"), "iou"] == 1
    assert not any(column.endswith("_low") for column in again.columns)


def test_weights_are_found_on_validation_films_and_refused_on_the_same_ones(tmp_path, maps, boxes):
    elsewhere = bump((40, 60), (55, 35, 4, 4))
    for image, box in TRUE.items():
        found = {("m", "left", "Mass"): bump((40, 60), box), ("m", "right", "Mass"): elsewhere}
        explained(tmp_path / "val", f"v{image}", found)
    rows = [(f"v{image}", "Mass", *box) for image, box in TRUE.items()]
    pd.DataFrame(rows, columns=["image_id", "label", "x", "y", "width", "height"]).to_csv(tmp_path / "v.csv")
    options = {
        "consolidate": ["mean"],
        "weights": "fit",
        "fit_boxes": tmp_path / "v.csv",
        "bootstrap": 0,
        "pictures": 0,
    }
    localize(tmp_path / "out", maps=[maps], boxes=boxes, fit_maps=[tmp_path / "val"], **options)
    weights = json.loads((tmp_path / "out/metrics.json").read_text())["weights"]
    assert weights["weights"]["m/left"] > 0.8
    assert weights["iou"] >= weights["uniform"]
    with pytest.raises(InputError, match="share 5 films"):
        localize(tmp_path / "out", maps=[maps], boxes=boxes, fit_maps=[maps], **options | {"fit_boxes": boxes})


def test_given_weights_decide_the_mean(tmp_path, maps, boxes):
    localize(tmp_path / "out", maps=[maps], boxes=boxes, consolidate=["mean"], weights="left=1,right=0", bootstrap=0,
             pictures=0)  # fmt: skip
    found = figures(tmp_path / "out")
    assert found.loc[("mean", "Mass"), "iou"] == found.loc[("m/left", "Mass"), "iou"]


@pytest.mark.parametrize("text", ["left=1", "left=1,up=2", "left=-1,right=2", "left=0,right=0", "left,right", "m=1"])
def test_weights_that_are_none_are_refused(text):
    with pytest.raises(InputError, match="--weights"):
        parse_weights(text, ["m/left", "m/right"])


def test_a_pair_on_the_command_line_is_scored_by_the_same_definitions(tmp_path, capsys):
    mask = np.zeros((40, 60), np.uint8)
    mask[10:20, 10:30] = 255
    cv2.imwrite(str(tmp_path / "mask.png"), mask)
    true = "Cardiomegaly,10,10,20,20; Cardiomegaly,50,30,4,4"
    options = ["--output", str(tmp_path / "out"), "--bootstrap", "0"]
    main(["localize", "--mask", str(tmp_path / "mask.png"), "--ground-truth", true, *options])
    row = figures(tmp_path / "out").loc[("map/given", "Cardiomegaly")]
    assert (row["iou"], row["iou_best"], row["iobb"], row["corloc_0.5"], row["corloc_0.6"]) == (0.5, 0.25, 1, 1, 0)
    assert "Cardiomegaly; 1 pair of a film and a label" in capsys.readouterr().out


def test_one_film_has_no_interval(tmp_path):
    np.save(tmp_path / "map.npy", bump((40, 60), (10, 10, 20, 20)))
    localize(tmp_path / "out", mask=tmp_path / "map.npy", ground_truth="Mass,10,10,20,20")
    row = figures(tmp_path / "out").loc[("map/given", "Mass")]
    assert row["pointing"] == 1 and np.isnan(row["pointing_low"]) and np.isnan(row["pointing_high"])


def test_films_and_labels_that_are_spelled_alike_keep_masks_and_pictures_of_their_own(tmp_path):
    heat = (bump((40, 60), (10, 10, 20, 20)), 0.9)
    images = ["1.23", "1.2/3", "胸一", "胸二"]
    for place, image in enumerate(images):
        explained(tmp_path / "maps", f"film{place}", {("m", how, label): heat for how in ("left", "right")
                                                     for label in ("A+B", "AB")})  # fmt: skip
        file = tmp_path / "maps" / f"film{place}" / "metadata.json"
        data = json.loads(file.read_text(encoding="utf-8"))
        data["image"]["image_id"] = image
        file.write_text(json.dumps(data), encoding="utf-8")
    localize(tmp_path / "out", maps=[tmp_path / "maps"], consolidate=["union"])
    assert len(list((tmp_path / "out" / "pictures").glob("*.png"))) == len(images)
    assert len(list((tmp_path / "out" / "masks").glob("*/*.png"))) == 2 * len(images)


def test_what_is_no_float_map_and_no_mask_is_refused_rather_than_thresholded(tmp_path):
    colour = np.zeros((40, 60, 3), np.uint8)
    cv2.imwrite(str(tmp_path / "heat.png"), colour)
    cv2.imwrite(str(tmp_path / "grey.png"), np.arange(2400, dtype=np.uint8).reshape(40, 60))
    np.save(tmp_path / "high.npy", np.full((4, 4), 7.0))
    for name, message in (("heat.png", "give its .npy"), ("grey.png", "is no mask"), ("high.npy", "lies in")):
        with pytest.raises(InputError, match=message):
            localize(tmp_path / "out", mask=tmp_path / name)
    assert not (tmp_path / "out").exists()


def test_an_all_zero_map_has_no_box_and_is_named_and_scores_nothing(tmp_path, caplog):
    maps = explained(tmp_path / "maps", "a", {("m", "cam", "Mass"): np.zeros((40, 60))})
    localize(tmp_path / "out", maps=[maps], ground_truth="Mass,1,1,9,9", bootstrap=0)
    assert "1 maps have no box: Mass of a by m/cam (the map is 0 everywhere)" in caplog.text
    assert pd.read_csv(tmp_path / "out/boxes.csv").empty
    row = pd.read_csv(tmp_path / "out/per_film.csv").set_index("name").loc["m/cam"]
    assert (row["iou"], row["pointing"], row["why_no_box"]) == (0, 0, "the map is 0 everywhere")
    assert (tmp_path / "out/pictures/a.png").is_file()


def test_without_true_boxes_there_are_boxes_only_and_an_earlier_report_goes(tmp_path, maps, boxes):
    localize(tmp_path / "out", maps=[maps], boxes=boxes, bootstrap=0)
    localize(tmp_path / "out", maps=[maps], pictures=1)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"boxes.csv", "pictures"}
    assert len(list((tmp_path / "out/pictures").iterdir())) == 1


def test_members_are_compared_on_the_films_that_all_of_them_explained(tmp_path, maps, boxes, caplog):
    explained(tmp_path / "more", "a", {("other", "cam", "Mass"): bump((40, 60), TRUE["a"])})
    localize(tmp_path / "out", maps=[maps, tmp_path / "more"], boxes=boxes, bootstrap=0, pictures=0)
    assert "left out: 4 films and labels that not every member has a map of" in caplog.text
    assert figures(tmp_path / "out")["films"].unique().tolist() == [1]


def test_films_under_other_names_in_two_models_labels_are_one_label(tmp_path):
    found = {("x", "cam", "Pleural_Thickening"): bump((40, 60), TRUE["a"]),
             ("y", "cam", "pleural thickening"): bump((40, 60), TRUE["a"])}  # fmt: skip
    maps = explained(tmp_path / "maps", "a", found)
    localize(tmp_path / "out", maps=[maps], ground_truth="Pleural Thickening,5,5,20,16", consolidate=["mean"],
             bootstrap=0, pictures=0)  # fmt: skip
    assert set(figures(tmp_path / "out").index.get_level_values("label")) == {"Pleural_Thickening", "mean over labels"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "give --maps FOLDER.*or --mask FILE"),
        ({"maps": True, "boxes": True, "ground_truth": "Mass,1,1,2,2"}, "--boxes and --ground_truth"),
        ({"maps": True, "ground_truth": "Mass,1,1,2,2"}, "for a single film, and --maps has 5"),
        ({"maps": True, "boxes": True, "weights": "left=1,right=2"}, "give --consolidate mean too"),
        ({"maps": True, "boxes": True, "consolidate": ["mean"], "weights": "fit"}, "--fit_maps belong together"),
        ({"maps": True, "boxes": True, "frame": "big"}, "such as 1024x1024"),
        ({"maps": True, "boxes": True, "top_k": 0}, "--top_k 0"),
        ({"maps": True, "boxes": True, "bootstrap": 1}, "--bootstrap 1"),
        ({"maps": True, "frame": "9x9"}, "--frame is that of true boxes"),
    ],
)
def test_options_that_do_not_go_together_are_named(tmp_path, maps, boxes, options, message):
    given = options | {key: value for key, value in (("maps", [maps]), ("boxes", boxes)) if key in options}
    with pytest.raises(InputError, match=message):
        localize(tmp_path / "out", **given)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("text", ["Mass,1,2,3", "Mass,1,2,3,x", ",1,2,3,4", "Mass,1,2,0,4", "Mass,1,2,nan,4"])
def test_a_ground_truth_that_is_none_is_refused(tmp_path, text):
    np.save(tmp_path / "m.npy", bump((40, 60), TRUE["a"]))
    with pytest.raises(InputError, match='write "LABEL,x,y,width,height"'):
        localize(tmp_path / "out", mask=tmp_path / "m.npy", ground_truth=text)


def test_damaged_explanations_are_named(tmp_path, maps, boxes):
    np.save(maps / "a/m_Mass_left_P1.npy", np.zeros((4, 4), np.float32))
    with pytest.raises(InputError, match=r"is 4 x 4 pixels.*the film a is 60 x 40"):
        localize(tmp_path / "out", maps=[maps], boxes=boxes)
    (maps / "a/m_Mass_left_P1.npy").unlink()
    with pytest.raises(InputError, match=r"left_P1\.npy does not exist"):
        localize(tmp_path / "out", maps=[maps], boxes=boxes)
    (maps / "b/metadata.json").write_text('{"image": {}}')
    with pytest.raises(InputError, match=r"b/metadata\.json is damaged"):
        localize(tmp_path / "out", maps=[maps], boxes=boxes)
    with pytest.raises(InputError, match=r"holds no \*/metadata\.json"):
        localize(tmp_path / "out", maps=[tmp_path])


def test_masks_are_joined_as_their_names_say_and_the_hottest_pixel_stays_inside():
    first, second, third = (bump((20, 30), box) for box in ((2, 2, 10, 10), (6, 2, 10, 10), (18, 8, 8, 8)))
    masks = [find_boxes(heat, BoxOptions()).mask for heat in (first, second, third)]
    for how, wanted in (
        ("union", masks[0] | masks[1] | masks[2]),
        ("intersection", masks[0] & masks[1] & masks[2]),
        ("majority", masks[0] & masks[1]),
    ):
        heat, found = consolidate(how, [first, second, third], masks, BoxOptions())
        assert (found.mask == wanted).all()
        assert not wanted.any() or wanted[np.unravel_index(heat.argmax(), heat.shape)]
    assert found.why == ""
    assert np.allclose(mean_map([first, second], [3, 1]), 0.75 * first + 0.25 * second, atol=1e-6)
