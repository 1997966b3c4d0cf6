"""Views of a study: which of them count, in which order they stand, and which of them a batch shows."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from longview import VIEWS, InputError

logger = logging.getLogger(__name__)

View = Literal["PA", "AP", "lateral", "unknown"]
"""One of :data:`longview.VIEWS`."""


def check_views(views: Sequence[str] | None) -> None:
    """Refuse view types that there are not.

    Raises:
        InputError: Naming them and those that there are; also for an empty list, which would leave nothing.
    """
    unknown = [view for view in views or [] if view not in VIEWS]
    if unknown:
        raise InputError(f"data.views has {', '.join(map(repr, unknown))}; there are {', '.join(VIEWS)}")
    if views is not None and not views:
        raise InputError(f"data.views is empty; give some of {', '.join(VIEWS)}, or null for all")


def check_dropout(share: float) -> None:
    """Refuse a share of views to leave out that is none.

    Raises:
        InputError: Outside of [0, 1).
    """
    if not 0 <= share < 1:
        raise InputError(f"data.view_dropout is {share}; it must be at least 0 and below 1")


def of_types(
    study: npt.NDArray[np.int64], views: npt.NDArray[np.int64], types: Sequence[str], store: Path
) -> npt.NDArray[np.bool_]:
    """Which images stay where only some view types count: those of the types, and all where a study has none.

    The log says how many studies have none.

    Args:
        study: (M,) number of the study of each image, from 0 without gaps.
        views: (M,) positions in :data:`longview.VIEWS`.
        types: The view types that count.
        store: Where the images are, for the log.

    Returns:
        (M,) true where an image stays; each study keeps at least one.
    """
    fits = np.isin(views, [VIEWS.index(name) for name in types])
    without = np.bincount(study, weights=fits) == 0
    if without.any():
        logger.info(
            "%s: %d of %d studies have no view of %s, and keep all of theirs.",
            store,
            without.sum(),
            len(without),
            " or ".join(types),
        )
    stays: npt.NDArray[np.bool_] = fits | without[study]
    return stays


def viewing_order(
    study: npt.NDArray[np.int64], views: npt.NDArray[np.int64], image_ids: npt.NDArray[np.str_]
) -> npt.NDArray[np.intp]:
    """Sort images by study, then the first of each view type, then the second of each, and so on, by id."""
    order = np.lexsort((image_ids, views, study))
    group = study[order] * len(VIEWS) + views[order]
    starts = np.flatnonzero(np.concatenate([[True], group[1:] != group[:-1]]))
    turn = np.arange(len(order)) - np.repeat(starts, np.diff(np.append(starts, len(order))))
    return order[np.lexsort((views[order], turn, study[order]))]


def choose(views: int, most: int, dropout: float, rng: np.random.Generator | None) -> npt.NDArray[np.int64]:
    """Which views of a study a batch shows.

    At most `most` are chosen first, then each of them is left out with probability `dropout`; where that would
    leave none, one of them stays, each as likely. So a view is left out with probability
    `dropout - dropout**n / n`, where n of them were chosen. A study with one view needs no random number, nor
    does dropout of 0: augmentation, which draws from the same generator afterwards, is the same as without it.

    Args:
        views: How many the study has, at least 1.
        most: How many a batch shows, at least 1.
        dropout: In [0, 1).
        rng: The study's own generator in training; None in evaluation, which shows the first ones.

    Returns:
        Places in 0..views-1, ascending; at least one.
    """
    if rng is None or views == 1:
        return np.arange(min(views, most))
    chosen = np.arange(views) if views <= most else np.sort(rng.choice(views, most, replace=False))
    if not dropout or len(chosen) == 1:
        return chosen
    stays = rng.random(len(chosen)) >= dropout
    if not stays.any():
        stays[rng.integers(len(chosen))] = True
    return chosen[stays]
