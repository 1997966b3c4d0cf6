"""Augmentation: one warp on uint8, seeded by the generator that is handed in."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longview import InputError
from longview.data.transforms import Augment, Preprocessing, resize_only

STILL = {
    "rotate": 0.0,
    "scale": (1.0, 1.0),
    "shift": 0.0,
    "crop": (1.0, 1.0),
    "brightness": 0.0,
    "contrast": 0.0,
}


def noise(size: int, blur: float = 0.0) -> np.ndarray:
    image = np.random.default_rng(3).integers(0, 256, (size, size), dtype=np.uint8)
    return cv2.GaussianBlur(image, (0, 0), blur) if blur else image


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def still(**changes: object) -> Augment:
    return Augment(**{**STILL, **changes})


def centroid(image: np.ndarray) -> np.ndarray:
    """Centre of mass as (x, y), in shares of the side from the middle."""
    ys, xs = np.nonzero(image > 100)
    return (np.array([xs.mean(), ys.mean()]) + 0.5) / len(image) - 0.5


def dot(size: int = 200, x: float = 0.2, y: float = -0.1) -> np.ndarray:
    image = np.zeros((size, size), np.uint8)
    return cv2.circle(image, (round((x + 0.5) * size), round((y + 0.5) * size)), size // 20, 255, -1)


def test_without_any_change_the_film_comes_out_as_it_went_in():
    image = noise(64)
    np.testing.assert_array_equal(still()(image, 64, rng()), image)
    np.testing.assert_array_equal(resize_only(image, 64), image)


@pytest.mark.parametrize("size", [48, 64, 90, 128, 200])
def test_training_and_evaluation_resize_alike(size):
    image = noise(128, blur=1.5)
    difference = still()(image, size, rng()).astype(int) - resize_only(image, size)
    inside = slice(2, -2)  # where enlarging, the warp fades into the black beyond the film
    assert np.abs(difference[inside, inside]).max() <= 2  # fixed-point weights of two OpenCV functions


def test_shrinking_by_more_than_two_averages_instead_of_skipping_pixels():
    stripes = np.tile(np.array([0, 255], np.uint8), (256, 128))  # finer than the result can show: must become grey
    for result in (still()(stripes, 64, rng()), resize_only(stripes, 64)):
        assert result.min() >= 120
        assert result.max() <= 135
    naive = cv2.resize(stripes, (96, 96), interpolation=cv2.INTER_NEAREST)
    assert naive.std() > 100


def test_the_film_is_not_changed_and_out_is_filled_in_place():
    image = noise(64)
    image.setflags(write=False)  # as a memory map is
    out = np.zeros((3, 48, 48), np.uint8)
    assert Augment()(image, 48, rng(), out[1]) is not None
    assert out[1].any()
    assert not out[0].any()
    assert not out[2].any()
    resize_only(image, 48, out[2])
    assert out[2].any()


def test_an_out_that_would_not_be_written_to_is_refused():
    for bad in (
        np.zeros((48, 48), np.float32),
        np.zeros((47, 48), np.uint8),
        np.zeros((48, 96), np.uint8)[:, ::2],
    ):
        with pytest.raises(ValueError, match="contiguous"):
            Augment()(noise(64), 48, rng(), bad)


def test_same_generator_state_same_pixels_and_another_seed_other_pixels():
    image = noise(64, blur=2)
    first, again, other = (Augment()(image, 48, rng(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert (first != other).mean() > 0.5


def test_every_call_uses_equally_many_random_numbers_whatever_the_settings():
    states = []
    for augment in (Augment(), still(), still(flip=1.0)):
        generator = rng()
        augment(noise(32), 32, generator)
        states.append(generator.random())
    assert len(set(states)) == 1


def test_flip_mirrors_left_and_right_only():
    image = noise(64)
    np.testing.assert_array_equal(still(flip=1.0)(image, 64, rng()), image[:, ::-1])


def test_the_heart_is_never_on_the_other_side_by_default():
    image = dot(x=0.25, y=0.0)
    assert Augment().flip == 0
    assert all(centroid(Augment()(image, 100, rng(seed)))[0] > 0.05 for seed in range(50))


def test_shift_moves_by_up_to_its_share():
    places = np.array([centroid(still(shift=0.1)(dot(), 200, rng(seed))) for seed in range(60)]) - [0.2, -0.1]
    assert np.abs(places).max() <= 0.105
    assert (places.max(axis=0) > 0.07).all()
    assert (places.min(axis=0) < -0.07).all()


def test_rotation_turns_about_the_middle_and_keeps_distances():
    places = np.array([centroid(still(rotate=30.0)(dot(), 200, rng(seed))) for seed in range(60)])
    radius = np.hypot(*places.T)
    np.testing.assert_allclose(radius, np.hypot(0.2, -0.1), atol=0.01)
    angles = np.degrees(np.arctan2(places[:, 1], places[:, 0]) - np.arctan2(-0.1, 0.2))
    assert 22 < angles.max() <= 31
    assert -31 <= angles.min() < -22


def test_zoom_enlarges_and_crop_fills_the_result():
    zoomed = still(scale=(1.5, 1.5))(dot(), 200, rng())
    np.testing.assert_allclose(centroid(zoomed), [0.3, -0.15], atol=0.01)
    areas = [(still(crop=(0.25, 0.25))(dot(x=0, y=0), 200, rng(seed)) > 100).sum() for seed in range(20)]
    np.testing.assert_allclose(max(areas) / (dot() > 100).sum(), 4, rtol=0.1)  # half the side: twice as large
    assert still(crop=(0.3, 1.0))(np.full((64, 64), 200, np.uint8), 64, rng(5)).min() == 200  # never beyond the film


def test_what_lies_beyond_the_film_is_black():
    result = still(scale=(0.5, 0.5))(np.full((64, 64), 200, np.uint8), 64, rng())
    assert result[0, 0] == 0
    assert result[32, 32] == 200


def test_brightness_and_contrast_move_greys_within_their_range():
    grey = np.full((8, 8), 128, np.uint8)
    brighter = np.array([still(brightness=0.2)(grey, 8, rng(seed))[0, 0] for seed in range(60)], int) - 128
    assert 20 < brighter.max() <= 26
    assert -26 <= brighter.min() < -20
    assert not still(brightness=0.9)(np.zeros((8, 8), np.uint8), 8, rng()).any()  # the border stays black
    ramp = np.tile(np.arange(256, dtype=np.uint8), (256, 1))
    for seed in range(20):
        row = still(contrast=0.5)(ramp, 256, rng(seed))[0].astype(int)
        assert (np.diff(row) >= 0).all()
        assert abs(row[127] + row[128] - 255) <= 2  # middle grey stays


@given(
    seed=st.integers(0, 2**63),
    stored=st.integers(1, 70),
    size=st.integers(1, 70),
    rotate=st.floats(0, 180),
    shift=st.floats(0, 1),
    crop=st.tuples(st.floats(0.01, 1), st.floats(0.01, 1)).map(lambda pair: tuple(sorted(pair))),
)
@settings(deadline=None, max_examples=60)
def test_any_size_and_setting_gives_an_image_of_the_right_shape(seed, stored, size, rotate, shift, crop):
    result = Augment(rotate=rotate, shift=shift, crop=crop, flip=0.5)(noise(stored), size, rng(seed))
    assert result.shape == (size, size)
    assert result.dtype == np.uint8


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("rotate", -1),
        ("scale", (1.2, 0.8)),
        ("scale", (0.0, 1.0)),
        ("crop", (0.5, 1.5)),
        ("flip", 2),
        ("contrast", 3),
    ],
)
def test_a_value_out_of_range_is_named(field, value):
    with pytest.raises(InputError, match=rf"augment\.{field} is .*allowed"):
        Augment(**{field: value})


def test_a_preprocessing_without_pixels_is_refused():
    with pytest.raises(InputError, match="size is 0"):
        Preprocessing(size=0)
