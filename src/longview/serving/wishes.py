"""What a client asks for, checked against what the loaded models can."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

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
    return [
        Wish(
            served,
            label_places(names, served, chosen),
            method_of(asked, served, chosen) if wanted else None,
            samples if served.samples else 0,
            heatmaps,
            boxes,
        )
        for served in chosen
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


def chosen_models(names: Sequence[str], models: Sequence[Served], field: str = "models") -> list[Served]:
    """The models of these names, each once; the first where none is named.

    Args:
        names: Those asked for.
        models: Those that there are.
        field: Of the request, for the message.

    Raises:
        ProblemError: 422 for a name that is none.
    """
    by_name = {served.name: served for served in models}
    for name in names:
        if name not in by_name:
            raise ProblemError(
                422, f"{field}: there is no model {clipped([name])}; there are {clipped(list(by_name))}."
            )
    return [by_name[name] for name in dict.fromkeys(names)] or [models[0]]


def label_places(names: Sequence[str], served: Served, asked: Sequence[Served]) -> list[int]:
    """Positions of labels in a model's scores, each once; all where none is named.

    Args:
        names: The labels.
        served: The model.
        asked: All models of the request: what this one lacks is left out if another has it.

    Raises:
        ProblemError: 422 for one that none of them scores.
    """
    if not names:
        return list(range(len(served.model.names)))
    places = []
    for name in dict.fromkeys(names):
        place = _place(name, served)
        if place is not None:
            places.append(place)
        elif all(_place(name, other) is None for other in asked):
            who = f"{served.name} does not score" if len(asked) == 1 else "no model asked scores"
            raise ProblemError(422, f"labels: {who} {clipped([name])}; see GET /v1/model.")
    return list(dict.fromkeys(places))


def _place(name: str, served: Served) -> int | None:
    names = served.model.names
    known = name if name in names else served.model.labels.canonical(name)
    return names.index(known) if known in names else None


def method_of(name: str, served: Served, asked: Sequence[Served]) -> Method | None:
    """A method by name; empty: gradcam++, where the model can.

    Args:
        name: The method.
        served: The model.
        asked: All models of the request: what this one cannot is left out if another can.

    Raises:
        ProblemError: 422 for what none of them can.
    """
    if name == "none":
        return None
    if not name:
        return _DEFAULT if _DEFAULT in served.methods else None
    for method in served.methods:
        if method == name:
            return method
    there = list(dict.fromkeys(method for other in asked for method in other.methods))
    if name in there:
        return None
    who = served.name if len(asked) == 1 else "the models asked"
    raise ProblemError(422, f"method: for {who} there is {clipped(['none', *there])}.")


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
