import numpy as np

from longview.explain import overlay

FILM = np.random.default_rng(0).integers(30, 220, (80, 60), np.uint8)


def spot(height=80, width=60):
    y, x = np.mgrid[:height, :width]
    return np.exp(-((y - 40.0) ** 2 + (x - 20.0) ** 2) / 150).astype(np.float32)


def test_where_there_is_no_evidence_the_film_stays_as_it_is():
    values = spot()
    picture = overlay.blend(FILM, values)
    clear = values < 0.1
    assert clear.any() and (picture[clear] == FILM[clear][:, None]).all()
    assert overlay.blend(FILM, np.zeros_like(values), 0.5).tolist() == np.repeat(FILM[..., None], 3, axis=2).tolist()


def test_more_evidence_covers_more_of_the_film():
    ramp = np.linspace(0, 1, 256, dtype=np.float32)[None]
    black, white = (overlay.blend(np.full((1, 256), grey, np.uint8), ramp).astype(int) for grey in (0, 255))
    left = (white - black).mean(axis=2)[0]  # how much of the film shines through
    assert (np.diff(left) <= 1).all() and left[0] == 255 and 50 < left[-1] < 130


def test_the_line_is_drawn_where_the_mask_begins_and_only_where_there_is_one():
    values = spot()
    marked, plain = overlay.blend(FILM, values, 0.5), overlay.blend(FILM, values)
    changed = (marked != plain).any(axis=2)
    assert changed.any() and abs(values[changed] - 0.5).max() < 0.2


def test_a_heat_picture_has_the_films_size_and_grows_brighter():
    picture = overlay.heat_picture(np.linspace(0, 1, 300, dtype=np.float32).reshape(1, 300))
    assert picture.shape == (1, 300, 3) and picture.dtype == np.uint8
    luma = picture[0].astype(float) @ (0.299, 0.587, 0.114)
    assert (np.diff(luma) >= -1).all() and luma[-1] - luma[0] > 200


def test_the_film_of_an_overlay_is_of_a_size_to_be_looked_at():
    values = spot()
    small = overlay.overlay(FILM, values, "Cardiomegaly", "gradcam", 0.5)
    assert small.shape[0] > 512 and small.shape[2] == 3
    large = overlay.overlay(np.zeros((3000, 2500), np.uint8), np.zeros((3000, 2500), np.float32), "a", "b", 0.5)
    assert 1024 < max(large.shape) < 1300


def test_a_heading_that_is_too_long_is_cut_and_does_not_leave_the_picture():
    picture = overlay.overlay(FILM, spot(), "A finding with a very long name " * 6, "m" * 300, 0.5)
    assert picture.shape == overlay.overlay(FILM, spot(), "a", "b", 0.5).shape


def test_a_comparison_has_a_tile_for_each_label_and_column_and_room_for_those_that_lack():
    small = np.asarray(overlay.fit(FILM, overlay.TILE, overlay.TILE), np.uint8)
    assert max(small.shape) == overlay.TILE
    tile = overlay.blend(small, np.asarray(overlay.fit(spot(), overlay.TILE, overlay.TILE)))
    sheet = overlay.comparison(small, ["gradcam\nmodel", "cam\nmodel"], ["Mass", "Lung Opacity"],
                               [[(tile, "p = 0.1"), None], [(tile, "p = 0.2"), (tile, "p = 0.2")]])  # fmt: skip
    assert sheet.shape[0] > 2 * small.shape[0] and sheet.shape[1] > 3 * small.shape[1]
