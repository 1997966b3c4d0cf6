"""What a client asks for, checked against what the loaded models can."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import get_args

from longview import VIEWS
from longview.explain import Method
from longview.serving.problems import ProblemError
from longview.serving.schemas import MAX_SAMPLES
from longview.serving.served import Served

_DEFAULT: Method = "gradcam++"
_YES, _NO = {"true", "1", "yes", "on"}, {"false", "0", "no", "off", ""}
_SHOWN = 40  # names in a message


@dataclass(frozen=True)
class Wish:
    """What is wanted of one model.

    Args:
        served: The model.
        labels: Positions of the n labels.
        method: How maps are made; None: no maps.
        samples: Of dropout; 0: none.
        heatmaps: Whether maps are sent.
        boxes: Whether their boxes are sent.
    """

    served: Served
    labels: Sequence[int]
    method: Method | None = None
    samples: int = 0
    heatmaps: bool = False
    boxes: bool = False


def study_wishes(fields: Mapping[str, str], models: Sequence[Served], films: int) -> list[Wish]:
    """What the fields of `POST /v1/studies` ask for, model by model.

    Raises:
        ProblemError: 422 for a value that is none, a model or label that is not there, or what no model can.
    """
    chosen = chosen_models(words(fields.get("models")), models)
    heatmaps, boxes = _flag(fields, "heatmaps"), _flag(fields, "boxes")
    samples = _samples(fields.get("samples") or "0")
    if samples and not any(served.samples for served in chosen):
        raise ProblemError(422, "samples: no model asked has a dropout to sample; leave it at 0.")
    asked = (fields.get("method") or "").strip()
    # shares tell views apart: without heat-maps they are only of use for several
    wanted = heatmaps or boxes or films > 1 or asked not in {"", "none"}
    names = words(fields.get("labels"))
    known = [label_places(names, served, strict=len(chosen) == 1) for served in chosen]
    if names and not any(known):
        raise ProblemError(422, f"labels: no model asked scores {clipped(names)}.")
    return [
        Wish(
            served,
            places,
            method_of(asked, served, strict=len(chosen) == 1) if wanted else None,
            samples if served.samples else 0,
            heatmaps,
            boxes,
        )
        for served, places in zip(chosen, known, strict=True)
    ]


def words(text: str | None) -> list[str]:
    """The parts of a comma-separated list."""
    return [word.strip() for word in (text or "").split(",") if word.strip()]


def views_of(text: str | None, films: int) -> list[int]:
    """Positions in `longview.VIEWS`, one per film.

    Raises:
        ProblemError: 422 for another number of views, or one that is none.
    """
    given = [word.strip() for word in text.split(",")] if text and text.strip() else ["unknown"] * films
    if len(given) != films:
        raise ProblemError(422, f"views names {len(given)} views for {films} films; give one per film.")
    by_name = {view.lower(): place for place, view in enumerate(VIEWS)}
    for view in given:
        if view.lower() not in by_name:
            raise ProblemError(422, f"views: there are {', '.join(VIEWS)}, separated by commas.")
    return [by_name[view.lower()] for view in given]


def chosen_models(names: Sequence[str], models: Sequence[Served]) -> list[Served]:
    """The models of these names, each once; the first where none is named.

    Raises:
        ProblemError: 422 for a name that is none.
    """
    by_name = {served.name: served for served in models}
    for name in names:
        if name not in by_name:
            raise ProblemError(422, f"models: there is no model {clipped([name])}; there are {clipped(list(by_name))}.")
    return [by_name[name] for name in dict.fromkeys(names)] or [models[0]]


def label_places(names: Sequence[str], served: Served, *, strict: bool) -> list[int]:
    """Positions of labels in a model's scores, each once; all where none is named.

    Raises:
        ProblemError: 422 for one that it does not score, if strict; else that is left out.
    """
    model = served.model
    if not names:
        return list(range(len(model.names)))
    places: list[int] = []
    for name in names:
        known = name if name in model.names else model.labels.canonical(name)
        if known in model.names:
            places.append(model.names.index(str(known)))
        elif strict:
            raise ProblemError(422, f"labels: {served.name} does not score {clipped([name])}; see GET /v1/model.")
    return list(dict.fromkeys(places))


def method_of(name: str, served: Served, *, strict: bool) -> Method | None:
    """A method by name; empty: gradcam++, where the model can.

    Raises:
        ProblemError: 422 for what is no method, or, if strict, what this model cannot.
    """
    if name == "none":
        return None
    if not name:
        return _DEFAULT if _DEFAULT in served.methods else None
    for method in served.methods:
        if method == name:
            return method
    if name in get_args(Method) and not strict:
        return None
    there = clipped(["none", *served.methods])
    raise ProblemError(422, f"method: {served.name} has {there}.")


def clipped(names: Sequence[str]) -> str:
    """Names for a message, which does not grow with what was sent."""
    shown = [name if len(name) <= _SHOWN else f"{name[:_SHOWN]}…" for name in names[:_SHOWN]]
    return ", ".join(shown) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")


def _flag(fields: Mapping[str, str], name: str) -> bool:
    word = fields.get(name, "").strip().lower()
    if word not in _YES | _NO:
        raise ProblemError(422, f"{name} is true or false.")
    return word in _YES


def _samples(text: str) -> int:
    plain = text.strip()
    value = int(plain) if plain.isascii() and plain.isdigit() and len(plain) < 9 else -1
    if not 0 <= value <= MAX_SAMPLES or value == 1:
        raise ProblemError(422, f"samples is 0, or a whole number from 2 to {MAX_SAMPLES}: one sample has no spread.")
    return value
