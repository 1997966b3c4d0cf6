"""What `evaluate` and `compare` refuse, or name, before anything is scored: options, and tables that are others."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from longview import InputError
from longview.calibration.file import attributes_of
from longview.data.manifest import META_PREFIX, is_csv, read_csv, read_header
from longview.joining import label_candidates, text_columns
from longview.labels import LabelSet
from longview.predictions import MODEL
from longview.truth import Truth

logger = logging.getLogger(__name__)


def check_options(
    *, bootstrap: int, seed: int, threshold: float, preset: str | None, rule: str | None, calibration: Path | None
) -> None:
    """Refuse what makes no sense.

    Raises:
        InputError: Naming the option.
    """
    if bootstrap < 0 or bootstrap == 1:
        raise InputError(f"--bootstrap {bootstrap}: give a number of resamples, such as 1000, or 0 for no intervals")
    check_seed(seed)
    if not 0 < threshold < 1:
        raise InputError(f"--threshold {threshold}: give a probability between 0 and 1")
    if preset and threshold != 0.5:
        raise InputError(f"--preset {preset} has F1 at 0.5; leave --threshold {threshold} out")
    if rule is not None and calibration is None:
        raise InputError(f"--rule {rule} chooses among the thresholds of a calibration: give --calibration FILE too")


def check_seed(seed: int) -> None:
    """Refuse a seed that no generator takes.

    Raises:
        InputError: Where it is negative.
    """
    if seed < 0:
        raise InputError(f"--seed {seed}: give 0 or a positive whole number")


def columns_to_part_by(by: str) -> list[str]:
    """The columns that `--by` names.

    Raises:
        InputError: Where it names none.
    """
    columns = [part.strip() for part in by.split(",") if part.strip()]
    if by and not columns:
        raise InputError(f"--by {by!r} names no column; give some with commas between, such as view,sex,age")
    return list(dict.fromkeys(columns))


def check_predictions(file: Path, labels: LabelSet | None = None) -> None:
    """Refuse a folder, and name what looks like a label but has the name of metadata, which no table is searched for.

    Args:
        file: A table of predictions.
        labels: The labels to score, where they are named.

    Raises:
        InputError: For a folder.
    """
    if file.is_dir():
        raise InputError(f"--predictions {file} is a folder; give the table in it, a .parquet or .csv file")
    named = [name for name in labels.names if not label_candidates([name])] if labels else []
    lost = [*named, *(name for name in _hidden_labels(file) if name not in named)]
    if lost:
        logger.warning(
            "not scored, since tables call their metadata so: %s; rename it in predictions and truth",
            ", ".join(map(repr, lost)),
        )


def _hidden_labels(file: Path) -> list[str]:
    """Columns with the name of metadata that hold probabilities."""
    if not file.is_file() or not (is_csv(file) or file.suffix == ".parquet"):
        return []  # reading it says why
    try:
        names = read_header(file) if is_csv(file) else pq.read_schema(file).names
    except (OSError, ValueError):  # pyarrow's errors are among these: as above
        return []
    kept = {*label_candidates(names), *text_columns()}
    hidden = [name for name in names if name and name not in kept and not name.startswith((META_PREFIX, "Unnamed:"))]
    if not hidden or len(set(names)) < len(names):
        return []
    table = read_csv(file, usecols=hidden) if is_csv(file) else pd.read_parquet(file, columns=hidden)
    return [name for name in hidden if _probabilities(table[name])]


def _probabilities(column: pd.Series[float]) -> bool:
    if not pd.api.types.is_float_dtype(column):
        return False
    values = column.dropna().to_numpy(np.float64)
    return bool(len(values) and values.min() >= 0 and values.max() <= 1 and (values % 1 != 0).any())


def check_training(train: Truth) -> None:
    """Refuse a table of predictions where one of training labels belongs.

    Raises:
        InputError: Where it says that it is one, or has nothing but probabilities.
    """
    made = MODEL in attributes_of(train.file)
    if made or _all_probabilities([train.table[name] for name in train.table.columns]):
        why = "its attributes name the model" if made else "every label is strictly between 0 and 1 in every row"
        raise InputError(
            f"--train {train.file} is a table of predictions ({why}); give the table of training labels, or the store"
        )


def _all_probabilities(columns: Sequence[pd.Series[float]]) -> bool:
    known = [column.dropna().to_numpy(np.float64) for column in columns if pd.api.types.is_numeric_dtype(column)]
    known = [values for values in known if len(values)]
    return bool(known) and all(values.min() > 0 and values.max() < 1 for values in known)
