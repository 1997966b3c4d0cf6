"""One prediction per study from those of its images, each view counting by its type.

CheXFusion's single-image model (Kim, arXiv:2308.03968) is scored so: probabilities of PA and AP films weigh 7, of
lateral ones 3, of all others 5.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from longview import VIEWS, InputError
from longview.data.manifest import read_table
from longview.data.sources.base import views_of
from longview.joining import identify, join_keys, some, text_columns
from longview.predictions import labels_of


def parse_weights(text: str) -> dict[str, float]:
    """Weights of view types from `PA=7,AP=7,lateral=3,unknown=5`.

    Raises:
        InputError: For a type that there is not, that is missing, or whose weight is negative or no number.
    """
    found: dict[str, float] = {}
    for part in text.split(","):
        name, equals, value = (item.strip() for item in part.partition("="))
        known = {view.casefold(): view for view in VIEWS}
        if not equals or name.casefold() not in known or known[name.casefold()] in found:
            raise InputError(
                f"--study_weights {text!r}: {part.strip()!r} is wrong; give TYPE=WEIGHT once "
                f"for each of {', '.join(VIEWS)}"
            )
        try:
            weight = float(value)
        except ValueError:
            weight = math.nan
        if not 0 <= weight < math.inf:
            raise InputError(f"--study_weights {text!r}: the weight of {name} is {value!r}; give a number, 0 or more")
        found[known[name.casefold()]] = weight
    absent = [view for view in VIEWS if view not in found]
    if absent:
        raise InputError(f"--study_weights {text!r} says nothing about {', '.join(absent)}")
    if not any(found.values()):
        raise InputError(f"--study_weights {text!r}: all weights are 0")
    return found


def read_views(manifest: Path) -> pd.DataFrame:
    """View and study of each image, from a store, a manifest, or a challenge's table with `ViewPosition`.

    Returns:
        `image_id`, `view` (one of :data:`longview.VIEWS`) and, where the table has it, `study_id`.

    Raises:
        InputError: Where the table does not say the views.
    """
    file = manifest / "manifest.parquet" if manifest.is_dir() else manifest
    table = read_table(file, text=[*text_columns(), "view", "ViewPosition"])
    ids = identify(table, str(file))
    column = next((name for name in ("view", "ViewPosition") if name in table.columns), None)
    if "image_id" not in ids or column is None:
        raise InputError(
            f"--manifest {manifest} needs the columns image_id and view (or ViewPosition); it has {some(table.columns)}"
        )
    codes = table[column].fillna("").astype("str")
    views = codes if codes.isin(VIEWS).all() else views_of(codes)
    found = {"image_id": ids["image_id"], "view": views}
    return pd.DataFrame(found | ({"study_id": ids["study_id"]} if "study_id" in ids else {}))


def average_studies(table: pd.DataFrame, file: Path, views: pd.DataFrame, weights: Mapping[str, float]) -> pd.DataFrame:
    """The weighted mean of the probabilities of each study's images.

    Args:
        table: Predictions per image.
        file: Its file, for messages.
        views: As :func:`read_views` gives them.
        weights: View type -> weight.

    Returns:
        Predictions per study (float64), sorted by patient and study.

    Raises:
        InputError: Where the view or study of an image is not known, or all views of a study weigh nothing.
    """
    images, known = join_keys(table["image_id"], views["image_id"])
    place: pd.Series[Any] = pd.Series(np.arange(len(known)), index=pd.Index(known))
    if place.index.has_duplicates:
        raise InputError(f"--manifest names images twice: {some(place.index[place.index.duplicated()])}")
    rows = place.reindex(images)
    if rows.isna().any():
        absent = images[rows.isna().to_numpy()]
        raise InputError(f"--manifest does not say the view of {len(absent)} images of {file}: {some(absent)}")
    at = rows.to_numpy(np.int64)
    studies = table["study_id"]
    if (studies == "").any():
        if "study_id" not in views:
            raise InputError(
                f"neither {file} nor --manifest says which study an image is of; give a --manifest that does"
            )
        studies = pd.Series(views["study_id"].to_numpy()[at], index=table.index, dtype="str")
    weight = views["view"].map(weights).to_numpy(np.float64)[at]
    codes, unique = pd.factorize(studies)
    total = np.bincount(codes, weights=weight)
    if (total == 0).any():
        raise InputError(
            f"{int((total == 0).sum())} studies of {file} have only views of weight 0: {some(unique[total == 0])}; "
            f"give these views a small weight, which counts only where there is no other"
        )
    names = labels_of(table)
    values = table[names].to_numpy(np.float64)
    means = {name: np.bincount(codes, weights=weight * values[:, i]) / total for i, name in enumerate(names)}
    patients = table["patient_id"].groupby(codes).first()
    result = pd.DataFrame({"patient_id": patients.to_numpy(), "study_id": unique, **means})
    result[names] = result[names].clip(0, 1)  # rounding may leave 1 by one bit
    return result.astype({"patient_id": "str", "study_id": "str"}).sort_values(
        ["patient_id", "study_id"], ignore_index=True
    )
