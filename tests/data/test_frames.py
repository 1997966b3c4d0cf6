import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longview import InputError
from longview.data.frames import Frame
from longview.data.images import resize_image

POLICIES = ("squash", "letterbox", "crop")
sides = st.integers(20, 300)


def box_of(mask):
    """x, y, width, height of a mask's one rectangle."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return columns[0], rows[0], columns[-1] + 1 - columns[0], rows[-1] + 1 - rows[0]


@pytest.mark.parametrize("policy", POLICIES)
@settings(deadline=None, derandomize=True, max_examples=30)
@given(height=sides, width=sides, size=st.integers(16, 200), seed=st.integers(0, 99))
def test_a_rectangle_comes_back_from_the_resized_film_within_a_pixel(policy, height, width, size, seed):
    frame = Frame(height, width, size, policy)
    rng = np.random.default_rng(seed)
    left, top, across, down = (round(value) for value in frame.visible)
    # at least four pixels of the square wide, so that its middle is undiluted
    least = [int(np.ceil(4 / scale)) for scale in frame.scale]
    if across <= least[0] + 4 or down <= least[1] + 4:
        return
    w, h = int(rng.integers(least[0], across - 3)), int(rng.integers(least[1], down - 3))
    x, y = left + int(rng.integers(2, across - w)), top + int(rng.integers(2, down - h))
    film = np.zeros((height, width), np.uint8)
    film[y : y + h, x : x + w] = 255
    seen = resize_image(film, size, policy).astype(np.float32) / 255
    back = frame.to_original(seen)
    assert back.shape == film.shape and back.dtype == np.float32
    found = box_of(back >= 0.5)
    # one pixel of the film, or what a pixel of the square cannot tell where it is larger
    room = max(1.0, 0.25 / min(frame.scale))
    np.testing.assert_allclose(found[:2], (x, y), atol=room)
    np.testing.assert_allclose(np.add(found[:2], found[2:]), (x + w, y + h), atol=room)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("shape", [(1024, 1024), (400, 640), (1000, 700), (299, 512)])
def test_a_rectangle_of_a_map_as_fine_as_the_network_sees_comes_back_within_a_pixel(policy, shape):
    frame = Frame(*shape, 224, policy)
    x, y, w, h = 60.0, 70.0, 80.0, 60.0
    drawn = np.zeros((224, 224), np.float32)
    drawn[70:130, 60:140] = 1
    found = box_of(frame.to_original(drawn) >= 0.5)
    wanted = frame.box_to_original(x, y, w, h)
    np.testing.assert_allclose(found[:2], wanted[:2], atol=1)
    np.testing.assert_allclose(np.add(found[:2], found[2:]), np.add(wanted[:2], wanted[2:]), atol=1)


@pytest.mark.parametrize("policy", POLICIES)
@settings(deadline=None, derandomize=True, max_examples=40)
@given(height=sides, width=sides, size=sides, stored=st.none() | sides, share=st.tuples(*[st.floats(0.05, 0.45)] * 4))
def test_boxes_go_to_the_square_and_back_unchanged(policy, height, width, size, stored, share):
    frame = Frame(height, width, size, policy, stored)
    left, top, across, down = frame.visible
    box = (left + share[0] * across, top + share[1] * down, share[2] * across, share[3] * down)
    np.testing.assert_allclose(frame.box_to_original(*frame.box_to_model(*box)), box, atol=1e-9 * max(height, width))


@pytest.mark.parametrize("policy", POLICIES)
def test_the_square_shows_what_the_frame_says(policy):
    """A ramp of the film's own coordinates, resized as `prepare` resizes: each pixel shows its place."""
    height, width, size = 210, 330, 96
    frame = Frame(height, width, size, policy)
    ramp = np.tile(np.linspace(20, 250, width), (height, 1)).round().astype(np.uint8)
    seen = resize_image(ramp, size, policy).astype(float)
    (scale_x, _), (left, _) = frame.scale, frame.offset
    place = (np.arange(size) + 0.5 - left) / scale_x - 0.5  # columns of the film
    wanted = np.interp(place, np.arange(width), np.linspace(20, 250, width))
    middle = seen[size // 2]
    inside = (place > 1) & (place < width - 2)
    np.testing.assert_allclose(middle[inside], wanted[inside], atol=1.5)


def test_to_model_is_the_resize_of_the_film():
    film = np.random.default_rng(0).integers(0, 256, (120, 200), np.uint8)
    for policy in POLICIES:
        wanted = resize_image(film, 40, policy)
        np.testing.assert_allclose(Frame(120, 200, 40, policy).to_model(film.astype(np.float32)), wanted, atol=0.51)


def test_a_square_that_was_resized_again_keeps_the_padding_of_the_first_resize():
    """299 x 512 on 100 px pads 21 and 21 px, but on 50 px 10 and 11: the second resize is not a policy of its own."""
    film = np.full((299, 512), 200, np.uint8)
    frame = Frame(299, 512, 50, "letterbox", stored=100)
    stored = resize_image(film, 100, "letterbox")
    rows = np.flatnonzero(stored.any(1))
    _, top, _, down = frame.box_to_model(0, 0, 512, 299)
    assert (top * 2, (top + down) * 2) == (rows[0], rows[-1] + 1)


def test_a_coarse_map_covers_the_whole_square():
    values = np.arange(49, dtype=np.float32).reshape(7, 7)
    film = Frame(700, 1400, 224, "squash").to_original(values)
    assert film.shape == (700, 1400)
    # bilinear: a cell's centre is the corner of four pixels, whose mean is its value (a ramp has no kinks inside)
    corners = (film[49::100, 99::200] + film[50::100, 99::200] + film[49::100, 100::200] + film[50::100, 100::200]) / 4
    np.testing.assert_allclose(corners[1:-1, 1:-1], values[1:-1, 1:-1], atol=1e-4)
    assert film[0, 0] == 0 and film[-1, -1] == 48


def test_padding_is_dropped_and_what_was_cropped_away_is_zero():
    ones = np.ones((3, 8, 8), np.float32)
    assert (Frame(100, 60, 64, "letterbox").to_original(ones) == 1).all()
    film = Frame(100, 60, 64, "crop").to_original(ones)
    assert film.shape == (3, 100, 60)
    assert (film[:, :20] == 0).all() and (film[:, 80:] == 0).all() and (film[:, 20:80] == 1).all()
    assert Frame(100, 60, 64, "crop").visible == (0, 20, 60, 60)


def test_a_box_beyond_the_square_is_cut_and_one_outside_has_no_area():
    frame = Frame(100, 60, 60, "crop")
    assert frame.box_to_model(10, 10, 20, 20) == (10, 0, 20, 10)
    assert frame.box_to_model(10, 2, 20, 10)[3] == 0
    assert Frame(50, 100, 100, "letterbox").box_to_original(0, 0, 100, 30) == (0, 0, 100, 5)


def test_the_hottest_cell_stays_the_hottest():
    values = np.random.default_rng(3).random((14, 14), np.float32)
    for policy in POLICIES:
        frame = Frame(300, 200, 224, policy)
        film = frame.to_original(values)
        assert film.max() <= values.max() and film.min() >= 0
        row, column = np.unravel_index(film.argmax(), film.shape)
        x, y, _, _ = frame.box_to_model(column, row, 1, 1)
        assert values[int(y / 16), int(x / 16)] >= film.max() > 0.9 * values.max()


def test_sides_and_policies_that_are_none_are_refused():
    with pytest.raises(InputError, match="height is 0"):
        Frame(0, 10, 10)
    with pytest.raises(InputError, match="squash, letterbox, crop"):
        Frame(10, 10, 10, "stretch")
    with pytest.raises(ValueError, match="the film has"):
        Frame(10, 10, 10).to_model(np.zeros((4, 4), np.float32))
