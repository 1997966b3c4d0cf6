"""Average precision of boxes over a ranked set of films, as COCO defines it, in any number of replicates.

pycocotools matches boxes, film by film; that does not depend on how often a film counts. So matching is done once,
and a replicate is a cumulative sum of weights along the ranking.

Source: Lin et al., Microsoft COCO, ECCV 2014 (arXiv 1405.0312), and https://cocodataset.org/#detection-eval: at each
IoU, boxes in falling order of their score take the true box of their film that they overlap most and that is not taken
yet; precision is made non-increasing and read off at 101 recalls; at most 100 boxes per film and label count. AP@0.5
is that at one IoU, mAP@[.5:.95] the mean over ten.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from longview.localization.boxes import Box

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]

COCO = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))
"""The ten IoU of mAP@[.5:.95]."""

LEVELS = (0.1, 0.3, *COCO)
"""IoU at which boxes are matched; the first two since boxes from heat-maps are coarse."""

FIGURES = ("ap_0.1", "ap_0.3", "ap_0.5", "map")
"""AP at three IoU, and mAP@[.5:.95]."""

_RECALLS = np.linspace(0.0, 1.0, 101)
_MOST = 100  # boxes per film and label
_CELLS = 1 << 21  # of a replicates x boxes table handled at once


@dataclass(frozen=True)
class Matched:
    """The boxes of one label over n films, ranked.

    Args:
        hit: (T, D) whether a box took a true one at each of :data:`LEVELS`, the highest score first.
        image: (D,) film of each.
        truths: (n,) true boxes of each film.
    """

    hit: npt.NDArray[np.bool_]
    image: IntArray
    truths: IntArray


def match(
    found: Mapping[tuple[int, str], Sequence[Box]],
    true: Mapping[tuple[int, str], npt.NDArray[np.float64]],
    images: int,
    labels: Sequence[str],
) -> dict[str, Matched]:
    """Match boxes to true ones with pycocotools.

    Args:
        found: (film, label) -> boxes, whose score ranks them over all films.
        true: (film, label) -> (n, 4) true boxes. A pair that is nowhere here takes no part.
        images: Number of films, n.
        labels: Labels.
    """
    from pycocotools import coco, cocoeval

    number = {label: index + 1 for index, label in enumerate(labels)}
    truths = [_entry(image, number[label], box[:4]) for (image, label), boxes in true.items() for box in boxes]
    boxes = [
        _entry(image, number[label], box[:4]) | {"score": box.score}
        for (image, label), several in found.items()
        for box in several
    ]
    everything: dict[str, Any] = {
        "images": [{"id": image} for image in range(images)],
        "categories": [{"id": index, "name": label} for label, index in number.items()],
    }
    sides = []
    with contextlib.redirect_stdout(io.StringIO()):  # it prints its progress
        for entries in (truths, boxes):
            side = coco.COCO()
            numbered = [entry | {"id": index + 1} for index, entry in enumerate(entries)]
            side.dataset = everything | {"annotations": numbered}
            side.createIndex()
            sides.append(side)
        judge = cocoeval.COCOeval(*sides, "bbox")
        judge.params.iouThrs = np.array(LEVELS)
        judge.params.areaRng, judge.params.areaRngLbl = [[0, 1e10]], ["all"]
        judge.params.maxDets = [_MOST]
        judge.evaluate()
    per_film = iter(judge.evalImgs)
    return {label: _ranked([next(per_film) for _ in range(images)], images) for label in labels}


def _entry(image: int, category: int, box: Sequence[float]) -> dict[str, Any]:
    x, y, width, height = (float(value) for value in box)
    return {
        "image_id": image, "category_id": category, "bbox": [x, y, width, height], "area": width * height, "iscrowd": 0
    }  # fmt: skip


def _ranked(films: Sequence[Mapping[str, Any] | None], images: int) -> Matched:
    """One label's boxes of all films (None: the film has neither boxes nor true ones), in falling order of score."""
    truths = np.zeros(images, np.int64)
    scores, hits, image = [np.zeros(0)], [np.zeros((len(LEVELS), 0), np.bool_)], [np.zeros(0, np.int64)]
    for index, film in enumerate(films):
        if film is not None:
            truths[index] = len(film["gtIds"])
            scores.append(np.asarray(film["dtScores"], np.float64))
            hits.append(np.asarray(film["dtMatches"]).reshape(len(LEVELS), -1) > 0)
            image.append(np.full(len(film["dtScores"]), index, np.int64))
    order = np.argsort(-np.concatenate(scores), kind="mergesort")  # as COCO does it: equal scores by film
    return Matched(np.concatenate(hits, axis=1)[:, order], np.concatenate(image)[order], truths)


def average_precision(matched: Matched, weights: npt.NDArray[Any]) -> dict[str, FloatArray]:
    """Figures of one label in K replicates.

    Args:
        matched: Its boxes.
        weights: (K, n) how often each film counts.

    Returns:
        :data:`FIGURES`, each (K,); NaN where a replicate has no true box.
    """
    replicates, size = len(weights), len(matched.image)
    values = np.zeros((replicates, len(LEVELS)))
    total = weights.astype(np.int64) @ matched.truths
    each = max(1, _CELLS // max(size, 1))
    for start in range(0, replicates if size else 0, each):
        rows = slice(start, start + each)
        counted = weights[rows][:, matched.image].astype(np.int64)  # (k, D)
        called = np.cumsum(counted, axis=1)
        for level, hit in enumerate(matched.hit):
            values[rows, level] = _interpolated(np.cumsum(counted * hit, axis=1), called, total[rows])
    values[total == 0] = np.nan
    of_level = dict(zip(LEVELS, values.T, strict=True))
    figures = {f"ap_{level}": of_level[level] for level in (0.1, 0.3, 0.5)}
    return figures | {"map": np.mean([of_level[level] for level in COCO], axis=0)}


def _interpolated(hits: IntArray, called: IntArray, total: IntArray) -> FloatArray:
    """Mean precision at 101 recalls (k,), from true positives and boxes so far (k, D) and true boxes in all (k,)."""
    replicates, size = hits.shape
    precision = hits / (called + np.spacing(1))
    precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    known, which = np.unique(total, return_inverse=True)
    # the smallest number of hits that reaches each recall, with COCO's own rounding
    needed = np.stack([np.searchsorted(np.arange(count + 1) / max(count, 1), _RECALLS) for count in known])[which]
    # one search for all replicates: each has its own range of whole numbers
    step = np.arange(replicates)[:, None] * (int(total.max(initial=0)) + 2)
    place = np.searchsorted((hits + step).ravel(), (needed + step).ravel()).reshape(replicates, -1)
    place -= np.arange(replicates)[:, None] * size
    reached = np.take_along_axis(precision, np.minimum(place, size - 1), axis=1)
    mean: FloatArray = np.where(place < size, reached, 0.0).mean(axis=1)
    return mean
