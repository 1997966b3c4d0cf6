"""Figures of one film, and AP over films against pycocotools itself."""

import contextlib
import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from longview.localization import ranked
from longview.localization.boxes import Box, BoxOptions, find_boxes
from longview.localization.scores import CORLOC, FIGURES, box_iou, centre_map, pointing, score


def rectangle(shape, *boxes):
    heat = np.zeros(shape, np.float32)
    for (x, y, width, height), value in boxes:
        heat[y : y + height, x : x + width] = value
    return heat


def test_figures_of_a_box_that_is_half_right():
    heat = rectangle((20, 20), ((4, 4, 8, 4), 1.0))
    true = np.array([[8.0, 4, 8, 4]])
    figures = score(heat, find_boxes(heat, BoxOptions()), true)
    assert set(figures) == set(FIGURES)
    assert figures["iou"] == figures["iou_best"] == figures["mask_iou"] == pytest.approx(1 / 3)
    assert (figures["iobb"], figures["dice"], figures["pointing"]) == (0.5, 0.5, 0.5)
    assert [figures[f"corloc_{level}"] for level in CORLOC] == [1, 1, 1, 0, 0, 0, 0]


def test_the_box_with_the_highest_score_counts_alone_but_each_true_box_has_its_best():
    heat = rectangle((20, 40), ((2, 2, 4, 4), 1.0), ((30, 10, 6, 6), 0.8))
    true = np.array([[30.0, 10, 6, 6], [2, 12, 4, 4]])
    figures = score(heat, find_boxes(heat, BoxOptions()), true)
    assert (figures["iou"], figures["iobb"], figures["pointing"], figures["iou_best"]) == (0, 0, 0, 0.5)


def test_a_map_without_boxes_scores_nothing():
    heat = np.full((8, 8), 0.5, np.float32)
    figures = score(heat, find_boxes(heat, BoxOptions()), np.array([[0.0, 0, 8, 8]]))
    assert set(figures.values()) == {0.0}


def test_pointing_counts_the_pixels_centre_and_shares_ties():
    heat = rectangle((10, 10), ((3, 3, 1, 1), 1.0))
    assert pointing(heat, np.array([[3.0, 3, 1, 1]])) == 1
    assert pointing(heat, np.array([[3.6, 3, 2, 2]])) == 0
    heat[9, 9] = 1
    assert pointing(heat, np.array([[3.0, 3, 1, 1]])) == 0.5
    assert pointing(np.ones((4, 4), np.float32), np.array([[0.0, 0, 4, 4]])) == 0


def test_the_baseline_is_a_centred_box_of_half_the_sides_at_the_usual_threshold():
    (box,) = find_boxes(centre_map(40, 80), BoxOptions()).boxes
    assert box[:4] == (20, 10, 40, 20)


def test_iou_of_boxes_that_touch_or_are_far_apart_is_0():
    assert box_iou([[0, 0, 2, 2]], [[2, 0, 2, 2], [9, 9, 1, 1], [0, 0, 2, 2]]).tolist() == [[0, 0, 1]]
    assert box_iou(np.zeros((0, 4)), [[0, 0, 1, 1]]).shape == (0, 1)


def drawn(seed, images=12, labels=("a", "b"), digits=1):
    """Random boxes, near random true ones or anywhere, with tied scores (of few digits); some pairs have neither."""
    generator = np.random.default_rng(seed)
    found, true = {}, {}
    for image in range(images):
        for label in labels:
            if generator.random() < 0.3:
                continue
            truths = np.column_stack([generator.uniform(0, 60, (3, 2)), generator.uniform(5, 40, (3, 2))])
            truths = truths[: generator.integers(0, 4)]
            near = [
                row + generator.normal(0, generator.choice([0.5, 4]), 4) for row in truths if generator.random() < 0.8
            ]
            far = np.column_stack([generator.uniform(0, 60, (2, 2)), generator.uniform(5, 40, (2, 2))])
            boxes = [Box(*np.abs(row), round(float(generator.random()), digits)) for row in (*near, *far)]
            if len(truths):
                true[image, label] = truths
            found[image, label] = boxes[: generator.integers(0, 5)]
    return found, true


def coco_says(found, true, images, labels):
    """AP at each IoU by pycocotools alone."""
    sides = []
    for boxes in (true, found):
        side, rows = COCO(), []
        for (image, label), several in boxes.items():
            rows += [
                {"id": len(rows) + 1 + index, "image_id": image, "category_id": labels.index(label) + 1, "iscrowd": 0,
                 "bbox": list(map(float, box[:4])), "area": float(box[2] * box[3]), "score": float(box[-1])}
                for index, box in enumerate(several)
            ]  # fmt: skip
        side.dataset = {"images": [{"id": i} for i in range(images)], "annotations": rows,
                        "categories": [{"id": i + 1} for i in range(len(labels))]}  # fmt: skip
        side.createIndex()
        sides.append(side)
    judge = COCOeval(*sides, "bbox")
    judge.evaluate()
    judge.accumulate()
    return judge.eval["precision"][:, :, :, 0, 2].mean(axis=1)  # (10, labels), all areas, 100 boxes


@pytest.mark.parametrize("seed", range(6))
def test_average_precision_is_that_of_coco(seed):
    labels = ["a", "b"]
    found, true = drawn(seed)
    with contextlib.redirect_stdout(io.StringIO()):
        wanted = coco_says(found, true, 12, labels)
    matched = ranked.match(found, true, 12, labels)
    for column, label in enumerate(labels):
        figures = ranked.average_precision(matched[label], np.ones((1, 12)))
        assert figures["ap_0.5"][0] == pytest.approx(wanted[0, column], abs=1e-12)
        assert figures["map"][0] == pytest.approx(wanted[:, column].mean(), abs=1e-12)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(seed=st.integers(0, 99), weights=st.lists(st.integers(0, 3), min_size=12, max_size=12))
def test_a_film_that_counts_twice_is_two_equal_films(seed, weights):
    found, true = drawn(seed, labels=("a",), digits=9)  # COCO ranks equal scores as they come
    matched = ranked.match(found, true, 12, ["a"])["a"]
    ours = ranked.average_precision(matched, np.array([[1] * 12, weights]))
    copies = [image for image, weight in enumerate(weights) for _ in range(weight)]
    again = [
        {(place, "a"): boxes[image, "a"] for place, image in enumerate(copies) if (image, "a") in boxes}
        for boxes in (found, true)
    ]
    if not any(len(boxes) for boxes in again[1].values()):
        assert np.isnan(ours["map"][1])
        return
    theirs = ranked.average_precision(ranked.match(*again, len(copies), ["a"])["a"], np.ones((1, len(copies))))
    for figure in ranked.FIGURES:
        assert ours[figure][1] == pytest.approx(theirs[figure][0], abs=1e-9)


def test_films_without_the_finding_cost_precision_only_where_their_boxes_rank_higher():
    box, true = np.array([[0.0, 0, 10, 10]]), {(0, "a"): np.array([[0.0, 0, 10, 10]])}
    for score_of_other, wanted in ((0.9, 0.5), (0.1, 1.0)):
        found = {(0, "a"): [Box(*box[0], 0.5)], (1, "a"): [Box(*box[0], score_of_other)]}
        matched = ranked.match(found, true, 2, ["a"])["a"]
        assert ranked.average_precision(matched, np.ones((1, 2)))["map"][0] == pytest.approx(wanted)


def test_a_label_without_any_box_found_has_ap_0(capsys):
    matched = ranked.match({(0, "a"): []}, {(0, "a"): np.array([[0.0, 0, 5, 5]])}, 1, ["a"])["a"]
    assert ranked.average_precision(matched, np.ones((2, 1)))["ap_0.1"].tolist() == [0, 0]
    assert capsys.readouterr().out == ""  # pycocotools prints otherwise
