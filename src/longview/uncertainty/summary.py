"""What several probabilities of one thing say together: their mean, their spread, and where the doubt comes from.

The several are Monte-Carlo samples of one network (Gal and Ghahramani 2016, arXiv 1506.02142) or the members of a deep
ensemble (Lakshminarayanan et al. 2017, arXiv 1612.01474).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from longview import InputError
from longview.data.manifest import read_table, write_table
from longview.joining import identify, some, text_columns
from longview.predictions import KEYS

FloatArray = npt.NDArray[np.float64]

MEASURES = ("mean", "variance", "standard_deviation", "predictive_entropy", "mutual_information")
"""Columns of a table of uncertainty."""

METHOD = "longview_uncertainty"
"""Attribute of such a table: what the samples were."""


@dataclass(frozen=True)
class Uncertainty:
    """Measures of T probabilities, each (B, L) float64; every label is a yes or no of its own.

    Args:
        mean: In [0, 1].
        variance: Mean squared distance from the mean (divided by T), in [0, 0.25].
        predictive_entropy: Entropy of the mean in nats, in [0, ln 2]: all doubt, that of the data included.
        mutual_information: Between label and sample, in nats, in [0, predictive_entropy]: entropy of the mean less the
            mean entropy, the doubt in which samples disagree (BALD; Houlsby et al. 2011, arXiv 1112.5745).
    """

    mean: FloatArray
    variance: FloatArray
    predictive_entropy: FloatArray
    mutual_information: FloatArray

    @property
    def standard_deviation(self) -> FloatArray:
        """Square root of the variance, in [0, 0.5]."""
        return np.sqrt(self.variance)

    @classmethod
    def of(cls, probabilities: npt.NDArray[Any], weights: FloatArray | None = None) -> Uncertainty:
        """Measure samples or members.

        Args:
            probabilities: (T, B, L) in [0, 1]; T of at least 2.
            weights: (T, L), not negative, with a positive sum for each label; None: all count alike.

        Raises:
            InputError: For fewer than two, which have no spread.
        """
        values = np.asarray(probabilities, np.float64)
        if len(values) < 2:
            raise InputError(f"uncertainty needs two samples or members at least, found {len(values)}")
        if weights is None:
            shares = np.full((len(values), 1, 1), 1 / len(values))
        else:
            shares = (weights / weights.sum(axis=0))[:, None]  # (T, 1, L)
        mean = (shares * values).sum(axis=0).clip(0, 1)  # rounding may leave 1 by one bit
        entropy = binary_entropy(mean)
        within = (shares * binary_entropy(values)).sum(axis=0)
        return cls(
            mean=mean,
            variance=(shares * (values - mean) ** 2).sum(axis=0),
            predictive_entropy=entropy,
            mutual_information=(entropy - within).clip(0, entropy),
        )


def binary_entropy(probabilities: npt.NDArray[Any]) -> FloatArray:
    """Entropy in nats of a yes or no, `-p log p - (1 - p) log(1 - p)`; 0 at 0 and 1; of the same shape."""
    values = np.asarray(probabilities, np.float64)
    result = np.zeros(values.shape)
    for part in (values, 1 - values):
        inside = part > 0
        result[inside] -= part[inside] * np.log(part[inside])
    return result


def companion(output: Path) -> Path:
    """Where the uncertainty of a table of predictions stands: `p.parquet` or `p.csv` -> `p.uncertainty.parquet`."""
    return output.with_name(f"{output.stem}.uncertainty.parquet")


def long_table(ids: pd.DataFrame, names: list[str], uncertainty: Uncertainty) -> pd.DataFrame:
    """One row per study (or image) and label: ids, `label`, and the measures as float32; row by row, label by label.

    Args:
        ids: (B,) id columns.
        names: L labels.
        uncertainty: Of (B, L).
    """
    rows, labels = len(ids), len(names)
    result = ids.iloc[np.repeat(np.arange(rows), labels)].reset_index(drop=True)
    result["label"] = pd.Categorical.from_codes(np.tile(np.arange(labels), rows), categories=pd.Index(names))
    for measure in MEASURES:
        result[measure] = np.asarray(getattr(uncertainty, measure), np.float32).reshape(-1)
    return result


def write_uncertainty(table: pd.DataFrame, path: Path, about: dict[str, Any]) -> None:
    """Write a table of uncertainty, under a temporary name first.

    Args:
        table: What :func:`long_table` made.
        path: The .parquet file.
        about: Attributes that it keeps: of what model, by what method (:data:`METHOD`).
    """
    table.attrs |= about
    write_table(table, path)


def read_uncertainty(path: str | Path) -> pd.DataFrame:
    """Read and check a table of uncertainty.

    Returns:
        `patient_id`, `study_id`, `image_id` as far as the file has them (text), `label` (text), and the measures.

    Raises:
        InputError: Where the file is missing or no such table, holds a value that is none, or a pair of id and label
            twice.
    """
    file = Path(path)
    table = read_table(file, text={*text_columns(), "label"})
    absent = [name for name in ("label", *MEASURES) if name not in table.columns]
    if absent:
        raise InputError(
            f"{file} is no table of uncertainty: it has no column {some(absent)}; give a file that predict "
            f"--uncertainty mc-dropout or ensemble --uncertainty wrote, such as predictions.uncertainty.parquet"
        )
    ids = identify(table, str(file))
    own = "image_id" if "image_id" in ids else "study_id"
    if own not in ids:
        raise InputError(f"{file} is no table of uncertainty: it needs a column study_id or image_id")
    result = pd.DataFrame({**ids, "label": table["label"].astype("str"), **{name: table[name] for name in MEASURES}})
    for name in MEASURES:
        bad = ~((result[name] >= 0) & (result[name] <= 1))  # also True for NaN
        if bad.any():
            row = int(np.argmax(bad.to_numpy()))
            raise InputError(
                f"{file}: {int(bad.sum())} values of {name} are out of range; first {result[name].iloc[row]} for label "
                f"{result['label'].iloc[row]!r} of {own} {result[own].iloc[row]!r}"
            )
    twice = result.duplicated([own, "label"])
    if twice.any():
        raise InputError(f"{file}: {own} and label stand twice: {some(result.loc[twice, own].drop_duplicates())}")
    return result


def wide_table(table: pd.DataFrame, name: str) -> pd.DataFrame:
    """One measure as ids and one column per label: shaped as predictions are, to be joined to truth as they are.

    Args:
        table: What :func:`read_uncertainty` returned.
        name: One of :data:`MEASURES`.

    Raises:
        InputError: Where a label is not there for every id.
    """
    ids = [key for key in KEYS if key in table.columns]
    own = "image_id" if "image_id" in ids else "study_id"
    labels = list(dict.fromkeys(table["label"]))
    result = table[ids].drop_duplicates(own, ignore_index=True)
    for label in labels:
        values = table[table["label"] == label].set_index(own)[name].reindex(result[own])
        if values.isna().any():
            raise InputError(f"the table of uncertainty has no {label} of {own} {some(values.index[values.isna()])}")
        result[label] = values.to_numpy()
    return result
