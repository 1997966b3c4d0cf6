"""Pictures show what is found and what is true, in colours that every eye tells apart."""

import numpy as np
from folders import bump
from PIL import Image

from longview.localization.boxes import BoxOptions, find_boxes
from longview.localization.explained import Film
from longview.localization.localising import CENTRE, OnFilm, Shown, short_names
from longview.localization.pictures import draw
from longview.localization.scores import score

ORANGE, BLUE = (230, 159, 0), (86, 180, 233)


def pixels(file, colour):
    return int((np.asarray(Image.open(file).convert("RGB")) == colour).all(axis=2).sum())


def drawn(tmp_path, box, true, shape=(200, 150)):
    heat = bump(shape, box)
    found = find_boxes(heat, BoxOptions())
    shown = Shown(found, 0.7, score(heat, found, true["Mass"]) if true else {})
    film = Film("a film", *shape)
    draw(OnFilm(film, {"Mass": {"m/cam": shown, CENTRE: shown}}, true), tmp_path / "film.png")
    return tmp_path / "film.png"


def test_found_and_true_boxes_are_drawn_without_the_baseline(tmp_path):
    file = drawn(tmp_path, (30, 40, 60, 60), {"Mass": np.array([[60.0, 60, 60, 60]])})
    assert pixels(file, ORANGE) > 200
    assert pixels(file, BLUE) > 200
    assert Image.open(file).width < 600  # one panel


def test_without_true_boxes_there_is_no_orange(tmp_path):
    file = drawn(tmp_path, (30, 40, 60, 60), {})
    assert pixels(file, ORANGE) == 0
    assert pixels(file, BLUE) > 200


def test_what_all_members_share_is_left_out_of_their_names():
    assert short_names(["a/cam", "a/cam++", "mean"]) == {"a/cam": "cam", "a/cam++": "cam++", "mean": "mean"}
    assert short_names(["a/cam", "b/cam"]) == {"a/cam": "a", "b/cam": "b"}
    assert list(short_names(["a/cam", "b/cam++"]).values()) == ["a/cam", "b/cam++"]
    assert short_names(["a/cam"]) == {"a/cam": "cam"}
