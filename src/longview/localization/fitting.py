"""Weights of a mean of maps, given or fitted on films that are not scored."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
import numpy.typing as npt

from longview import InputError
from longview.localization.annotated import Truth
from longview.localization.boxes import BoxOptions, Extent, find_boxes
from longview.localization.consolidate import mean_map
from longview.localization.explained import Explained
from longview.localization.localising import common_pairs
from longview.localization.scores import box_iou

logger = logging.getLogger(__name__)

_SIDE = 128  # pixels of the longer side to which maps are shrunk for fitting
_PAIRS = 1000  # films and labels that are fitted on, at most
_ROUNDS = 20


@dataclass(frozen=True)
class Fitted:
    """Weights, and what they are worth on the films that they were fitted on.

    Args:
        weights: Member -> weight, sum 1.
        pairs: Films and labels that they were fitted on.
        iou: Mean over labels of the mean IoU, there.
        uniform: That of the plain mean.
    """

    weights: dict[str, float]
    pairs: int
    iou: float
    uniform: float


@dataclass(frozen=True)
class _Pair:
    label: str
    maps: list[npt.NDArray[np.float32]]
    true: npt.NDArray[np.float64]
    options: BoxOptions


def parse_weights(text: str, members: Sequence[str]) -> dict[str, float]:
    """Weights from `NAME=WEIGHT,...`, a name being a member's, or a model or method that only one of them has.

    Raises:
        InputError: For another form, an unknown name, a member without a weight, or weights that are none.
    """
    weights: dict[str, float] = {}
    for part in text.split(","):
        name, equals, value = part.strip().rpartition("=")
        fits = [member for member in members if name in {member, *member.rsplit("/", 1)}]
        try:
            weight = float(value) if equals else -1.0
        except ValueError:
            weight = -1.0
        if len(fits) != 1 or not 0 <= weight < float("inf"):
            raise InputError(
                f"--weights: {part.strip()!r}: write NAME=WEIGHT with one of the members {', '.join(members)} (or its "
                f"model or method, where no other has it) and a number from 0, with commas between; or fit"
            )
        weights[fits[0]] = weight
    lacking = [member for member in members if member not in weights]
    if lacking or sum(weights.values()) == 0:
        what = f"no weight for {', '.join(lacking)}" if lacking else "all weights are 0"
        raise InputError(f"--weights {text}: {what}; give each member one, 0 to leave it out")
    return {member: weights[member] / sum(weights.values()) for member in members}


def fit_weights(explained: Explained, truth: Truth, options: BoxOptions, members: Sequence[str]) -> Fitted:
    """Fit weights by greedy forward selection with replacement (Caruana et al., ICML 2004).

    In each of 20 rounds the member is added that raises the IoU of the box with the highest score most (mean over
    films, then over labels); the round with the highest one counts. Maps are shrunk to 128 pixels, and of more than
    1,000 films and labels an even choice is taken.

    Raises:
        InputError: Where other members than those to weigh were explained, or none of the films has a true box.
    """
    if set(explained.members) != set(members):
        raise InputError(
            f"--fit_maps has maps of {', '.join(explained.members)}, --maps of {', '.join(members)}; explain the "
            f"validation films with the same models and methods"
        )
    pairs = _pairs(explained, truth, options, members)
    if not pairs:
        raise InputError("--weights fit: no film of --fit_maps has a true box of a label that all members explain")
    uniform = _mean_iou(pairs, np.ones(len(members)))
    counts = np.zeros(len(members))
    best, found = counts, -1.0
    for _ in range(_ROUNDS):
        gains = [_mean_iou(pairs, counts + step) for step in np.eye(len(members))]
        counts = counts + np.eye(len(members))[int(np.argmax(gains))]
        if max(gains) > found:
            best, found = counts, max(gains)
    weights = dict(zip(members, (best / best.sum()).tolist(), strict=True))
    told = ", ".join(f"{member} {weight:.2f}" for member, weight in weights.items())
    logger.info("weights fitted on %d maps: %s; IoU there %.3f, plain mean %.3f", len(pairs), told, found, uniform)
    return Fitted(weights, len(pairs), found, uniform)


def _pairs(explained: Explained, truth: Truth, options: BoxOptions, members: Sequence[str]) -> list[_Pair]:
    """Maps, true boxes and options, shrunk alike."""
    common, _ = common_pairs(explained)
    keys = [key for key, found in common.items() if key in truth.boxes and len(found) == len(members)]
    chosen = (
        keys if len(keys) <= _PAIRS else [keys[place] for place in np.linspace(0, len(keys) - 1, _PAIRS, dtype=int)]
    )
    pairs = []
    for image, label in chosen:
        film = explained.films[image]
        factor = min(1.0, _SIDE / max(film.height, film.width))
        size = max(1, round(film.width * factor)), max(1, round(film.height * factor))
        maps = [common[image, label][member].read() for member in members]
        if factor < 1:
            maps = [np.asarray(cv2.resize(heat, size, interpolation=cv2.INTER_AREA), np.float32) for heat in maps]
        scale = np.array([size[0] / film.width, size[1] / film.height] * 2)
        pairs.append(_Pair(label, maps, truth.boxes[image, label] * scale, _shrunk(options, factor)))
    return pairs


def _shrunk(options: BoxOptions, factor: float) -> BoxOptions:
    def of(extent: Extent, by: float) -> Extent:
        return extent if extent.relative else replace(extent, value=extent.value * by)

    return replace(options, min_area=of(options.min_area, factor**2), merge=of(options.merge, factor))


def _mean_iou(pairs: Sequence[_Pair], counts: npt.NDArray[np.float64]) -> float:
    """Mean over labels of the mean IoU of the best-scored box."""
    by_label: dict[str, list[float]] = {}
    for pair in pairs:
        boxes = find_boxes(mean_map(pair.maps, counts.tolist()), pair.options).boxes
        iou = float(box_iou([boxes[0][:4]], pair.true).max()) if boxes else 0.0
        by_label.setdefault(pair.label, []).append(iou)
    return float(np.mean([np.mean(values) for values in by_label.values()]))


def check_apart(fitted: Explained, scored: Explained, patients: tuple[Mapping[str, str], Mapping[str, str]]) -> None:
    """Refuse to score films that weights were fitted on; say where patients are shared.

    Args:
        fitted: Films for the fit.
        scored: Films to score.
        patients: Patients of each.

    Raises:
        InputError: For films in both.
    """
    both = sorted(set(fitted.films) & set(scored.films))
    if both:
        raise InputError(
            f"--fit_maps and --maps share {len(both)} films ({both[0]}): weights are fitted on other films than those "
            f"that are scored"
        )
    shared = set(patients[0].values()) & set(patients[1].values())
    if shared:
        logger.warning("%d patients are in --fit_maps and in --maps: figures of the weighted mean flatter", len(shared))
