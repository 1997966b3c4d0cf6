"""From scores to answers: calibrated probabilities, decisions, doubt, heat-maps in the films' own frames, boxes."""

from __future__ import annotations

import base64
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from longview import VIEWS
from longview.data.frames import Frame
from longview.explain.maps import heat_map
from longview.explain.overlay import blend, heat_picture
from longview.localization.boxes import BoxOptions, Extent, find_boxes
from longview.serving.intake import Received, as_png
from longview.serving.problems import ProblemError, report
from longview.serving.scoring import Scores
from longview.serving.wishes import Wish
from longview.uncertainty.summary import Uncertainty

logger = logging.getLogger(__name__)

FloatArray = npt.NDArray[np.float64]

_MAPS = 500_000_000  # pixels of all heat-maps of an answer
_OVERLAYS = 120_000_000  # pixels of heat-maps that are drawn over the film: beyond it they are drawn alone
_BOXES = BoxOptions(min_area=Extent(0.1, relative=True), top_k=5)
_INTERVAL = (0.025, 0.975)


class AbandonedError(Exception):
    """Nobody waits for the answer any more."""


@dataclass(frozen=True)
class Drawing:
    """What answers of one request share.

    Args:
        films: The films.
        frames: Model by model, where the films are in its square.
        wanted: Whether somebody still waits; asked before each label is drawn.
    """

    films: Sequence[Received]
    frames: Sequence[Sequence[Frame]]
    wanted: Callable[[], bool]


def check_size(wishes: Sequence[Wish], films: Sequence[Received]) -> None:
    """Refuse answers that would be too large.

    Raises:
        ProblemError: 413.
    """
    pixels = sum(film.pixels.size for film in films)
    count = sum(len(wish.labels) for wish in wishes if wish.method and (wish.heatmaps or wish.boxes))
    if pixels * count > _MAPS:
        raise ProblemError(
            413, f"{count} heat-maps of films this large are too much for one answer; name fewer labels."
        )


def study_answer(wishes: Sequence[Wish], scores: Sequence[Scores], drawing: Drawing) -> dict[str, Any]:
    """The answer of `POST /v1/studies`; see `StudyAnswer`."""
    models = [
        {
            "model": wish.served.name,
            "sha256": wish.served.model.sha256,
            "calibrated": wish.served.calibration is not None,
            "duration_seconds": found.seconds,
            "labels": _labels(wish, found, drawing, frames),
        }
        for wish, found, frames in zip(wishes, scores, drawing.frames, strict=True)
    ]
    views = [
        {"index": index, "view": VIEWS[film.view], "width": film.pixels.shape[1], "height": film.pixels.shape[0]}
        for index, film in enumerate(drawing.films)
    ]
    return {"models": models, "views": views, "research_only": True}


def predict_answer(wish: Wish, scores: Scores, drawing: Drawing) -> dict[str, Any]:
    """The answer of `POST /predict` but for its duration; see `PredictAnswer`."""
    served, film = wish.served, drawing.films[0].pixels
    names = [served.model.names[place] for place in wish.labels]
    means, variances = served.calibrated(scores.probabilities), None
    if scores.samples is not None:
        doubt = Uncertainty.of(served.calibrated(scores.samples)[:, None])
        means, variances = doubt.mean[0], doubt.variance[0]
    pictures: dict[str, str] = {}
    over = film.size * len(names) <= _OVERLAYS
    for row, name in enumerate(names):
        if not wish.heatmaps or scores.maps is None:  # a model that draws nothing has not found nothing
            break
        _go_on(drawing)
        try:
            values = _map(scores, row, drawing.frames[0])[0][0]
            pictures[name] = _base64(as_png(blend(film, values) if over else heat_picture(values)))
        except (ValueError, ArithmeticError, AssertionError) as error:  # one label never costs the others
            report(error)
            pictures[name] = _base64(as_png(film))
    return {
        "success": True,
        "heatmap": pictures,
        "prediction_mean": {name: number(means[place]) for name, place in zip(names, wish.labels, strict=True)},
        "prediction_variance": {
            name: None if variances is None else number(variances[place])
            for name, place in zip(names, wish.labels, strict=True)
        },
    }


def number(value: float) -> float | None:
    """A number as JSON has it: None for what is not finite."""
    return float(value) if math.isfinite(value) else None


def _labels(wish: Wish, scores: Scores, drawing: Drawing, frames: Sequence[Frame]) -> list[dict[str, Any]]:
    served = wish.served
    probabilities = served.calibrated(scores.probabilities)
    doubt = _Doubt.of(served.calibrated(scores.samples)) if scores.samples is not None else None
    entries = []
    for row, place in enumerate(wish.labels):
        _go_on(drawing)
        name = served.model.names[place]
        value, threshold = number(probabilities[place]), served.thresholds[name]
        entries.append(
            {
                "label": name,
                "probability": value,
                "positive": value is not None and value >= threshold,
                "threshold": threshold,
                **(doubt.entry(place) if doubt else _NO_DOUBT),
                "views": _views(wish, scores, row, frames),
            }
        )
    return sorted(entries, key=lambda entry: -(entry["probability"] or 0.0))


_NO_DOUBT = dict.fromkeys(
    ("interval", "variance", "standard_deviation", "predictive_entropy", "mutual_information"), None
)


@dataclass(frozen=True)
class _Doubt:
    """What the samples (T, L) of a study say of each label."""

    measures: Uncertainty
    low: FloatArray
    high: FloatArray

    @classmethod
    def of(cls, samples: FloatArray) -> _Doubt:
        low, high = np.quantile(samples, _INTERVAL, axis=0)
        return cls(Uncertainty.of(samples[:, None]), low, high)

    def entry(self, place: int) -> dict[str, Any]:
        ends = number(self.low[place]), number(self.high[place])
        return {
            "interval": None if None in ends else list(ends),
            "variance": number(self.measures.variance[0, place]),
            "standard_deviation": number(self.measures.standard_deviation[0, place]),
            "predictive_entropy": number(self.measures.predictive_entropy[0, place]),
            "mutual_information": number(self.measures.mutual_information[0, place]),
        }


def _views(wish: Wish, scores: Scores, row: int, frames: Sequence[Frame]) -> list[dict[str, Any]]:
    """Share, heat-map and boxes of one label on each film; without them where they fail, for the rest stands."""
    nothing: list[dict[str, Any]] = [
        {"index": index, "share": None, "heatmap": None, "boxes": []} for index in range(len(frames))
    ]
    if scores.maps is None:
        return nothing
    try:
        if not (wish.heatmaps or wish.boxes):
            return [entry | {"share": share} for entry, share in zip(nothing, _shares(scores.maps[row]), strict=True)]
        maps, shares = _map(scores, row, frames)
        return [
            {
                "index": index,
                "share": share,
                "heatmap": f"data:image/png;base64,{_base64(as_png(grey(values)))}" if wish.heatmaps else None,
                "boxes": [box._asdict() for box in find_boxes(values, _BOXES).boxes] if wish.boxes else [],
            }
            for index, (values, share) in enumerate(zip(maps, shares, strict=True))
        ]
    except (ValueError, ArithmeticError, AssertionError) as error:
        report(error)
        return nothing


def grey(values: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """A map in [0, 1] as 8 bits."""
    return np.asarray(np.rint(values * 255), np.uint8)


def _map(scores: Scores, row: int, frames: Sequence[Frame]) -> tuple[list[npt.NDArray[np.float32]], list[float]]:
    assert scores.maps is not None
    found = heat_map(torch.from_numpy(scores.maps[row]), frames)
    return found.maps, [min(1.0, float(share)) for share in found.shares]


def _shares(maps: npt.NDArray[np.float32]) -> list[float]:
    """Shares of the views in the evidence of maps (V, h, w), as `heat_map` has them."""
    mass = np.nan_to_num(maps, nan=0.0, posinf=0.0, neginf=0.0).sum(axis=(1, 2), dtype=np.float64)
    total = float(mass.sum())
    return [float(share) for share in mass / total] if total > 0 else [1 / len(maps)] * len(maps)


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")


def _go_on(drawing: Drawing) -> None:
    if not drawing.wanted():
        raise AbandonedError
