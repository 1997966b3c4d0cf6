"""Film by film: boxes of each member, of what consolidates them and of the baseline, and what they are worth."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby

import numpy as np
import numpy.typing as npt

from longview import InputError
from longview.localization.annotated import Truth
from longview.localization.boxes import Box, BoxOptions, Found, find_boxes
from longview.localization.consolidate import How, consolidate
from longview.localization.explained import Explained, Film, Heat
from longview.localization.scores import centre_map, score

CENTRE = "centre"
"""Name of the baseline that looks at nothing: see :func:`~longview.localization.scores.centre_map`."""


@dataclass(frozen=True)
class Shown:
    """What one map shows.

    Args:
        found: Boxes and mask.
        probability: Of the label, by which boxes of several films are ranked; NaN: not known.
        figures: :data:`longview.localization.scores.FIGURES`; empty where there is no true box.
    """

    found: Found
    probability: float
    figures: Mapping[str, float] = field(default_factory=dict)

    @property
    def ranked(self) -> list[Box]:
        """Boxes scored over all films: by probability times activation, which alone is 1 somewhere on every film."""
        factor = 1.0 if math.isnan(self.probability) else self.probability
        return [box._replace(score=box.score * factor) for box in self.found.boxes]


@dataclass(frozen=True)
class OnFilm:
    """Everything about one film.

    Args:
        film: The film.
        shown: Label -> name -> what it shows; names are members, then consolidations, then :data:`CENTRE`.
        true: Label -> (n, 4) true boxes; labels without any are absent.
    """

    film: Film
    shown: dict[str, dict[str, Shown]]
    true: dict[str, npt.NDArray[np.float64]]


@dataclass(frozen=True)
class Plan:
    """What is done on each film.

    Args:
        options: How boxes are made.
        consolidations: Which.
        weights: Member -> weight in a mean; empty: all alike.
    """

    options: BoxOptions
    consolidations: Sequence[How] = ()
    weights: Mapping[str, float] = field(default_factory=dict)

    def names(self, members: Sequence[str], *, baseline: bool) -> list[str]:
        """Names in the order in which they are shown."""
        return [*members, *self.consolidations, *([CENTRE] if baseline else [])]


def short_names(names: Sequence[str]) -> dict[str, str]:
    """Name -> what tables and pictures call it: of `MODEL/METHOD`, what all members share is left out."""
    split = {name: name.rpartition("/") for name in names if "/" in name}
    models, methods = ({parts[place] for parts in split.values()} for place in (0, 2))
    short = dict(zip(names, names, strict=True))
    for name, (model, _, method) in split.items():
        if len(models) == 1:
            short[name] = method
        elif len(methods) == 1:
            short[name] = model
    return short


def common_pairs(explained: Explained) -> tuple[dict[tuple[str, str], dict[str, Heat]], int]:
    """The pairs of a film and a label for which every member that knows the label has a map; and how many lack one.

    All members are then scored on the same films, so that their figures can be compared.
    """
    knows: dict[str, set[str]] = {}
    for (_, label), found in explained.heats.items():
        knows.setdefault(label, set()).update(found)
    kept = {pair: found for pair, found in explained.heats.items() if len(found) == len(knows[pair[1]])}
    if not kept:
        raise InputError(
            f"no film has maps of the same label by all of {', '.join(explained.members)}; explain the same labels "
            f"with each (--labels NAME rather than top-3)"
        )
    return kept, len(explained.heats) - len(kept)


def localised(
    explained: Explained, pairs: Mapping[tuple[str, str], Mapping[str, Heat]], truth: Truth | None, plan: Plan
) -> Iterator[OnFilm]:
    """Read, cut, consolidate and score all maps, a film at a time."""
    for image, keys in groupby(pairs, key=lambda pair: pair[0]):
        shown: dict[str, dict[str, Shown]] = {}
        true: dict[str, npt.NDArray[np.float64]] = {}
        for key in keys:
            boxes = truth.boxes.get(key) if truth else None
            shown[key[1]] = _show(pairs[key], boxes, plan, baseline=truth is not None)
            if boxes is not None:
                true[key[1]] = boxes
        yield OnFilm(explained.films[image], shown, true)


def _show(
    heats: Mapping[str, Heat], true: npt.NDArray[np.float64] | None, plan: Plan, *, baseline: bool
) -> dict[str, Shown]:
    """What all maps of one film and label show, by name."""
    maps = {member: heat.read() for member, heat in heats.items()}
    found = {member: (values, find_boxes(values, plan.options)) for member, values in maps.items()}
    masks = [result.mask for _, result in found.values()]
    given = [plan.weights.get(member, 0.0) for member in maps] if plan.weights else None
    # of the members that know this label, none may have a weight
    weights = given if given and sum(given) > 0 else None
    for how in plan.consolidations:
        found[how] = consolidate(how, list(maps.values()), masks, plan.options, weights)
    if baseline:
        bump = centre_map(*masks[0].shape)
        found[CENTRE] = (bump, find_boxes(bump, BoxOptions()))  # the same box, wherever maps are cut
    chances = [heat.probability for heat in heats.values() if not math.isnan(heat.probability)]
    together = float(np.mean(chances)) if chances else math.nan
    return {
        name: Shown(
            result,
            heats[name].probability if name in heats else together,
            {} if true is None else score(values, result, true),
        )
        for name, (values, result) in found.items()
    }
