"""Map -> mask -> boxes: what is always inside, what comes back, and what is no box."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from longview import InputError
from longview.data.frames import Frame
from longview.data.images import resize_image
from longview.localization.boxes import BoxOptions, Extent, Threshold, find_boxes

THRESHOLDS = ["0.2", "0.5", "1", "otsu", "p10", "p90", "p99.9"]
ALL = settings(max_examples=60, deadline=None, derandomize=True)


def options(threshold="0.5", min_area="0", merge="0", top_k=None):
    return BoxOptions(Threshold.parse(threshold), Extent.parse(min_area, "--min_area"), top_k,
                      Extent.parse(merge, "--merge"))  # fmt: skip


def rectangle(shape, x, y, width, height, inside=1.0, outside=0.0):
    heat = np.full(shape, outside, np.float32)
    heat[y : y + height, x : x + width] = inside
    return heat


maps = hnp.arrays(
    np.float32,
    hnp.array_shapes(min_dims=2, max_dims=2, max_side=12),
    elements=st.one_of(st.sampled_from([0, 0.25, 1]), st.floats(0, 1, width=32)),
)


@ALL
@given(heat=maps, threshold=st.sampled_from(THRESHOLDS))
def test_the_hottest_pixels_are_always_in_the_mask_and_in_a_box_and_the_coldest_never(heat, threshold):
    found = find_boxes(heat, options(threshold))
    if heat.min() == heat.max():
        assert (found.boxes, found.mask.any()) == ([], False)
        return
    assert found.mask[heat == heat.max()].all()
    assert not found.mask[heat == heat.min()].any()
    held = np.zeros(heat.shape, bool)
    for box in found.boxes:
        held[int(box.y) : int(box.y + box.height), int(box.x) : int(box.x + box.width)] = True
    assert held[found.mask].all()


@ALL
@given(data=st.data(), threshold=st.sampled_from(THRESHOLDS))
def test_a_rectangle_comes_back_as_it_was(data, threshold):
    height, width = (data.draw(st.integers(2, 40)) for _ in range(2))
    x, y = data.draw(st.integers(0, width - 1)), data.draw(st.integers(0, height - 1))
    across, down = data.draw(st.integers(1, width - x)), data.draw(st.integers(1, height - y))
    if (across, down) == (width, height):
        return
    (box,) = find_boxes(rectangle((height, width), x, y, across, down, 0.75, 0.125), options(threshold)).boxes
    assert box == (x, y, across, down, 0.75)


@pytest.mark.parametrize("policy", ["squash", "letterbox", "crop"])
@pytest.mark.parametrize("shape", [(300, 300), (240, 400), (410, 250)])
@pytest.mark.parametrize("size", [256, 512])
def test_a_rectangle_on_a_film_comes_back_through_every_resize_policy_within_a_pixel(policy, shape, size):
    x, y, across, down = 110, 90, 41, 63
    film = rectangle(shape, x, y, across, down, 255).astype(np.uint8)
    seen = resize_image(film, size, policy).astype(np.float32) / 255  # what a perfect model points at
    heat = Frame(*shape, size, policy).to_original(seen)
    (box,) = find_boxes(np.clip(heat, 0, 1), options()).boxes
    assert np.abs(np.array(box[:4]) - (x, y, across, down)).max() <= 1
    assert abs(box.x + box.width - x - across) <= 1
    assert abs(box.y + box.height - y - down) <= 1


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("threshold", THRESHOLDS)
def test_a_constant_map_has_no_box_and_says_so(value, threshold):
    found = find_boxes(np.full((5, 7), value, np.float32), options(threshold))
    assert (found.boxes, found.mask.sum(), found.why) == ([], 0, f"the map is {value:g} everywhere")


def test_components_are_boxes_of_their_own_that_with_the_hottest_mean_first():
    heat = rectangle((20, 30), 2, 2, 4, 5, 0.8) + rectangle((20, 30), 20, 10, 6, 3, 1.0)
    found = find_boxes(heat, options())
    assert [tuple(box) for box in found.boxes] == [(20, 10, 6, 3, 1.0), (2, 2, 4, 5, pytest.approx(0.8))]
    assert found.level == pytest.approx(0.8)
    assert find_boxes(heat, options(top_k=1)).boxes == found.boxes[:1]


def test_diagonal_neighbours_are_one_component():
    heat = np.eye(6, dtype=np.float32)
    assert [tuple(box) for box in find_boxes(heat, options()).boxes] == [(0, 0, 6, 6, 1.0)]


def test_min_area_counts_mask_pixels_or_a_share_of_the_film():
    heat = rectangle((20, 20), 0, 0, 2, 2) + rectangle((20, 20), 10, 10, 4, 4)
    assert len(find_boxes(heat, options(min_area="4")).boxes) == 2
    assert [box.x for box in find_boxes(heat, options(min_area="5")).boxes] == [10]
    assert [box.x for box in find_boxes(heat, options(min_area="1.5%")).boxes] == [10]
    assert find_boxes(heat, options(min_area="17")).why == "no component has 17 pixels"


@pytest.mark.parametrize("gap", [1, 2, 3, 4])
@pytest.mark.parametrize(("right", "down"), [(1, 0), (0, 1), (1, 1)])
def test_components_with_as_many_pixels_between_them_as_the_merge_distance_are_one(gap, right, down):
    heat = rectangle((40, 40), 5, 6, 3, 4)
    heat += rectangle((40, 40), 5 + right * (3 + gap), 6 + down * (4 + gap), 3, 4)
    assert len(find_boxes(heat, options(merge=str(gap - 1))).boxes) == 2
    (box,) = find_boxes(heat, options(merge=str(gap))).boxes
    assert box == (5, 6, 3 + right * (3 + gap), 4 + down * (4 + gap), 1.0)  # the score is that of the mask's pixels


def test_small_parts_of_a_whole_are_merged_before_their_area_counts():
    heat = rectangle((20, 20), 2, 2, 2, 2) + rectangle((20, 20), 5, 2, 2, 2)
    assert len(find_boxes(heat, options(min_area="8", merge="1")).boxes) == 1


def test_otsu_cuts_between_two_levels():
    heat = rectangle((30, 30), 3, 4, 9, 8, 0.9, 0.2)
    heat += np.random.default_rng(0).uniform(0, 0.05, heat.shape).astype(np.float32)
    assert [box[:4] for box in find_boxes(heat, options("otsu")).boxes] == [(3, 4, 9, 8)]


@pytest.mark.parametrize("text", ["0", "1.5", "p0", "p100", "-1", "nan", "half", "", "pot"])
def test_a_threshold_that_is_none_is_refused(text):
    with pytest.raises(InputError, match=r"--threshold .*p90, or otsu"):
        Threshold.parse(text)


@pytest.mark.parametrize("text", ["-1", "100%", "many", "nan", "inf"])
def test_an_extent_that_is_none_is_refused(text):
    with pytest.raises(InputError, match=r"--merge .*0\.5%"):
        Extent.parse(text, "--merge")


@pytest.mark.parametrize("heat", [np.full((3, 3), np.nan), np.array([[0, 2.0]]), np.array([[-1, 0.5]]), np.ones(4)])
def test_what_is_no_map_is_refused(heat):
    with pytest.raises(InputError, match="a map must"):
        find_boxes(heat, options())
