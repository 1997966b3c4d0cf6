"""Deep pixels to 8 bits."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from longview.data.intensity import robust_range, stretch, to_uint8


def test_a_twelve_bit_film_in_a_sixteen_bit_file_uses_all_grey_values():
    ramp = np.linspace(0, 4095, 100_000).astype(np.uint16).reshape(100, 1000)
    grey = stretch(ramp)
    assert grey.min() == 0
    assert grey.max() == 255
    assert len(np.unique(grey)) == 256


def test_hot_pixels_do_not_set_the_contrast():
    film = np.random.default_rng(0).integers(1000, 2000, (200, 200)).astype(np.uint16)
    spoilt = film.copy()
    spoilt.flat[:10] = 65535
    assert np.abs(stretch(film).astype(int) - stretch(spoilt)).reshape(-1)[10:].max() <= 2


@pytest.mark.parametrize("dtype", [np.uint16, np.int16, np.int32, np.float32])
def test_a_constant_film_is_black(dtype):
    assert not stretch(np.full((4, 5), 7, dtype)).any()


def test_nan_and_infinity_are_left_out_of_the_range():
    film = np.linspace(0, 1, 10_000, dtype=np.float32)
    film[:3] = [np.nan, np.inf, -np.inf]
    low, high = robust_range(film)
    assert 0 <= low < 0.01
    assert 0.99 < high <= 1
    assert list(stretch(film)[:3]) == [0, 255, 0]


def test_no_finite_value_gives_black():
    assert not stretch(np.full((3, 3), np.nan, np.float32)).any()


@settings(deadline=None, max_examples=30)
@given(
    arrays.arrays(np.int32, (300, 300), elements=st.integers(-3000, 40_000), fill=st.integers(-3000, 40_000)),
    st.integers(-3000, 10_000),
    st.integers(1, 40_000),
)
def test_look_up_equals_the_formula_and_keeps_order(film, low, width):
    grey = to_uint8(film, low, low + width)
    exact = np.rint(np.clip((film - float(low)) * (255.0 / width), 0, 255))
    np.testing.assert_array_equal(grey, exact)
