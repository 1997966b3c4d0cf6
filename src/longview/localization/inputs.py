"""What `localize` is given: maps, true boxes and weights, checked and brought together."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from longview import InputError
from longview.labels import LabelSet
from longview.localization.annotated import Annotated, Truth, in_films
from longview.localization.boxes import BoxOptions
from longview.localization.consolidate import How
from longview.localization.explained import Explained, Film, Heat, label_names, read_explained, read_map
from longview.localization.fitting import Fitted, check_apart, fit_weights, parse_weights

_GIVEN = "--ground_truth"


@dataclass(frozen=True)
class Given:
    """Where maps and true boxes are."""

    maps: list[Path] | None
    mask: Path | None
    boxes: Path | None
    ground_truth: list[str] | None
    fit_maps: list[Path] | None
    fit_boxes: Path | None
    frame: str | None
    stretched: bool

    @property
    def truth_name(self) -> str:
        """What the true boxes are from."""
        return str(self.boxes) if self.boxes else _GIVEN


def parts(ground_truth: str | None) -> list[str] | None:
    """The boxes of `A,1,2,3,4; B,5,6,7,8`."""
    return None if ground_truth is None else [part for part in ground_truth.split(";") if part.strip()]


def check(
    given: Given,
    top_k: int | None,
    consolidate: list[How] | None,
    weights: str | None,
    bootstrap: int,
    pictures: int,
) -> None:
    """Refuse options that do not go together.

    Raises:
        InputError: Naming them.
    """
    if (given.maps is None) == (given.mask is None):
        raise InputError("give --maps FOLDER, as explain wrote it, or --mask FILE, one of them")
    if given.boxes and given.ground_truth:
        raise InputError("--boxes and --ground_truth both give true boxes; leave one out")
    if given.frame and not (given.boxes or given.ground_truth):
        raise InputError("--frame is that of true boxes; give --boxes or --ground_truth too")
    if top_k is not None and top_k < 1:
        raise InputError(f"--top_k {top_k}: give a number of boxes from 1")
    if bootstrap < 0 or bootstrap == 1:
        raise InputError(f"--bootstrap {bootstrap}: give a number of resamples, such as 1000, or 0 for no intervals")
    if pictures < 0:
        raise InputError(f"--pictures {pictures}: give a number of films, or 0 for none")
    if weights and "mean" not in (consolidate or []):
        raise InputError("--weights are those of a mean: give --consolidate mean too")
    if (weights == "fit") != (given.fit_maps is not None):
        raise InputError("--weights fit and --fit_maps belong together: fit weights, and the films to fit them on")
    if weights == "fit" and not (given.fit_boxes or given.boxes):
        raise InputError("--weights fit needs true boxes: --fit_boxes, or --boxes with those of both")


def single_map(given: Given) -> Explained:
    """A single map as if it had been explained."""
    assert given.mask is not None
    heat = read_map(given.mask)
    film = Film(given.mask.stem, *heat.shape)
    named = [label for label, _ in map(_parsed, given.ground_truth or [])] or ["finding"]
    labels = label_names(named, None)
    heats = {
        (film.image_id, name): {"map/given": Heat(film, name, "map/given", float("nan"), given.mask)}
        for name in labels.names
    }
    return Explained({film.image_id: film}, heats, labels, ["map/given"])


def true_boxes(given: Given, explained: Explained) -> Truth | None:
    """True boxes of the explained films; None where none were given."""
    if given.boxes:
        return in_films(_read(given.boxes, given), explained.films, explained.labels, stretched=given.stretched)
    if not given.ground_truth:
        return None
    if len(explained.films) > 1:
        raise InputError(
            f"{_GIVEN} is for a single film, and --maps has {len(explained.films)}; give its folder below --maps, or "
            f"a table with --boxes"
        )
    film = next(iter(explained.films.values()))
    rows = [_parsed(text) for text in given.ground_truth]
    unknown = [label for label, _ in rows if explained.labels.canonical(label) is None]
    if unknown:
        raise InputError(
            f"{_GIVEN}: {unknown[0]!r} was not explained; the maps are of {', '.join(explained.labels.names)}"
        )
    annotated = Annotated.given([(film.image_id, label, box) for label, box in rows], _GIVEN)
    return in_films(_framed(annotated, given), explained.films, explained.labels, stretched=given.stretched)


def _parsed(text: str) -> tuple[str, list[float]]:
    """Label and box of `LABEL,x,y,width,height`."""
    label, *cells = [part.strip() for part in text.rsplit(",", 4)]
    try:
        box = [float(cell) for cell in cells]
    except ValueError:
        box = []
    if not label or len(box) != 4 or not np.isfinite(box).all() or min(box[2:]) <= 0:
        raise InputError(f'{_GIVEN} {text!r}: write "LABEL,x,y,width,height" in pixels, such as "Mass,27,45,54,30"')
    return label, box


def _read(path: Path, given: Given) -> Annotated:
    return _framed(Annotated.read(path), given)


def _framed(annotated: Annotated, given: Given) -> Annotated:
    if given.frame is None:
        return annotated
    sides = re.fullmatch(r"\s*(\d+)\s*[xX]\s*(\d+)\s*", given.frame)
    if sides is None or "0" in sides.groups():
        raise InputError(f"--frame {given.frame!r}: give width and height in pixels, such as 1024x1024")
    return annotated.in_frame(int(sides[1]), int(sides[2]))


def chosen_weights(
    weights: str | None,
    given: Given,
    explained: Explained,
    truth: Truth | None,
    labels: LabelSet | None,
    options: BoxOptions,
) -> Fitted | None:
    """Weights of the members, as given or as fitted; None: all alike."""
    if weights is None:
        return None
    if weights != "fit":
        nan = float("nan")
        return Fitted(parse_weights(weights, explained.members), 0, nan, nan)
    validation = read_explained(given.fit_maps or [], labels or explained.labels)
    source = given.fit_boxes or given.boxes
    assert source is not None
    actual = in_films(_read(source, given), validation.films, validation.labels, stretched=given.stretched)
    check_apart(validation, explained, (actual.patients, truth.patients if truth else {}))
    return fit_weights(validation, actual, options, explained.members)
