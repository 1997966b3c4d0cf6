"""`longview pseudo`: what a source does not say about its films, filled in from a model's predictions."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table

from longview import InputError
from longview.data.borrowing import write_borrowing
from longview.data.derive import label_values
from longview.data.manifest import Manifest
from longview.data.store import CODES_FILE, Store, describe_difference, table_hash
from longview.filling import BoolArray, Filled, FloatArray, Rule, fill_cells
from longview.joining import columns_of, join_keys, some
from longview.labels import Label, LabelSet
from longview.predictions import checkpoint_of, labels_of, read_predictions

logger = logging.getLogger(__name__)

Fill = Literal["nan", "uncertain", "blank"]
"""Cells that take a prediction: unknown ones, those whose report is uncertain, those it does not mention."""

Part = Literal["train", "none"]
"""Splits whose rows may be filled: evaluation truth never is."""

FILLED_FILE, ORIGIN_FILE = "filled.csv", "pseudo.json"

_CODES: dict[Fill, int] = {"uncertain": -1, "blank": -2}  # as `codes.parquet` has them


def pseudo(
    manifest: Path,
    predictions: Path,
    output: Path,
    *,
    labels: Path | None = None,
    fill: Fill | list[Fill] = "nan",
    splits: Part | list[Part] = "train",
    joint: dict[str, list[str]] | None = None,
    lower: float | None = None,
    upper: float | None = None,
    temperature: float = 1.0,
    hard: float | None = None,
    overwrite: bool = False,
) -> None:
    """Fill what a store does not know about its films with a model's predictions, as a new store.

        uv run main.py predict --ckpt_path C.ckpt --data.stores data/nih --data.predict_split train --output P.parquet
        uv run main.py pseudo --manifest data/nih --predictions P.parquet --labels LABELS --output data/nih-pseudo

    Known values are kept. A cell of a training row that the source leaves open takes the predicted probability, which
    losses train on as a soft target. Rows of val and test are left as they are: nothing that a model predicted may
    become truth to score a model with.

    Predictions are found by id and by label name. Those of several images of a study are averaged, for the images
    of a study share its labels. The new store has no images: it reads those of the old one, which must stay where it
    is. Beside its manifest stand filled.csv (per label: known, filled, implied by a joint label, left) and
    pseudo.json (from which predictions, checkpoint and options). It serves wherever a store does.

    The same command does nothing where its result is there already.

    Args:
        manifest: Folder of the store to fill.
        predictions: Table of probabilities that `predict` wrote, per image or per study.
        output: Folder of the new store.
        labels: Label set, a YAML file or a name in configs/labels: only its labels are filled (not derived or unseen
            ones), and those that the store has no column for get one. Default: the labels of the predictions, all of
            which must be columns of the store.
        fill: nan: cells that say nothing; uncertain, blank: those that the source marks so, whatever they were made
            into (for stores with codes.parquet). Several: '[nan, uncertain]'.
        splits: Rows to fill: train, none (films without a split), or both.
        joint: Labels of the source that stand for at least one of several: '{"Nodule/Mass": ["Nodule", "Mass"]}'. Where
            it is absent, so are they; where it is present, the likeliest of them is, the others as predicted.
        lower: Fill only where the probability is at most this (or at least --upper); the rest stays open.
        upper: Fill only where the probability is at least this (or at most --lower).
        temperature: Divides the predicted logits first; above 1 draws probabilities towards 0.5.
        hard: Fill 1 from this probability on, else 0, instead of the probability.
        overwrite: Replace a store that was filled otherwise.
    """
    rule = Rule(temperature, lower, upper, hard)
    kinds, parts = _several("fill", fill, get_args(Fill)), _several("splits", splits, get_args(Part))
    store = Store(manifest)
    table = read_predictions(predictions)
    label_set = LabelSet("predictions", [Label(name) for name in labels_of(table)])
    if labels is None:
        _check_named(label_set, store)
    else:
        label_set = LabelSet.load(labels)
    predicted = _predicted(label_set, table, predictions, labels)
    settings = {
        "made_by": "pseudo",
        "manifest": store.info.content_hash,
        "predictions": table_hash(table),
        "labels": label_set.source_names,
        "fill": kinds,
        "splits": parts,
        "joint": joint or {},
        **asdict(rule),
    }
    if _is_done(output, manifest, settings, overwrite):
        return
    filled, counts = _fill(store, predicted, label_set, kinds, parts, rule, joint or {})
    origin = {
        "manifest": str(manifest),
        "predictions": str(predictions),
        "checkpoint": checkpoint_of(predictions),
        "options": {name: value for name, value in settings.items() if name not in {"manifest", "predictions"}},
    }
    notes = {FILLED_FILE: counts.to_csv(index=False), ORIGIN_FILE: json.dumps(origin, indent=2) + "\n"}
    write_borrowing(store, filled, output, settings, notes)
    _print(counts, output)


def _check_named(predicted: LabelSet, store: Store) -> None:
    """Make no column for a label that the store may have under another name.

    Raises:
        InputError: For labels of the predictions that the store has no column for, where no label set knows aliases.
    """
    columns = _columns(store.manifest, predicted)
    absent = [name for name in predicted.names if name not in columns]
    if absent:
        raise InputError(
            f"{store.path} has no column for {some(absent)}, which the predictions have; give --labels the label set "
            f"of the run (its aliases say what the store calls them), and those that it lacks get a column"
        )


def _predicted(labels: LabelSet, table: pd.DataFrame, file: Path, given: Path | None) -> pd.DataFrame:
    """The ids of predictions, and their columns of a set's labels under the set's names.

    Raises:
        InputError: For labels that were not predicted, or two columns of one label.
    """
    columns = labels_of(table)
    found = columns_of(labels, columns, str(file) if given is None else f"{file} by --labels {given}")
    absent = [name for name in labels.source_names if name not in found]
    if absent:
        raise InputError(
            f"--labels {given}: {file} has no predictions of {some(absent)} ({len(absent)} of its "
            f"{len(labels.source_names)} labels); it has {some(columns)}. Give a label set of nothing but what was "
            f"predicted, or predict with that one"
        )
    ids = table.drop(columns=columns)
    return pd.concat([ids, table[list(found.values())].set_axis(list(found), axis=1)], axis=1)


def _several(option: str, given: str | Sequence[str], known: Sequence[str]) -> list[str]:
    """One or several words, in a fixed order.

    Raises:
        InputError: For an unknown word, or none.
    """
    words = [given] if isinstance(given, str) else list(given)
    strange = [word for word in words if word not in known]
    if strange or not words:
        why = "; evaluation truth is never filled" if {"val", "test"} & set(strange) else ""
        raise InputError(f"--{option} is {', '.join(strange) or 'empty'}; give {' or '.join(known)}{why}")
    return [word for word in known if word in words]


def _is_done(output: Path, manifest: Path, settings: Mapping[str, Any], overwrite: bool) -> bool:
    """Whether the store that is asked for is there.

    Raises:
        InputError: Where another one is there, or something that pseudo did not make.
    """
    inner, outer = output.resolve(), manifest.resolve()
    if inner == outer or outer in inner.parents or inner in outer.parents:
        raise InputError(f"--output {output} and --manifest {manifest} lie in each other; give another --output")
    if not output.exists() and not Store.is_store(output):
        return False
    if not Store.is_store(output):
        if output.is_dir() and not any(output.iterdir()):
            return False
        raise InputError(f"{output} exists and is no store; give another --output, or remove it")
    info = Store(output).info if not overwrite else None
    if not (output / ORIGIN_FILE).is_file():
        raise InputError(f"{output} is a store that pseudo did not make; give another --output")
    if info is None:
        return False
    differing = describe_difference(info.settings, settings)
    if differing:
        raise InputError(f"{output} was filled otherwise ({differing}); --overwrite true replaces it")
    logger.info("%s is there already, filled in the same way", output)
    return True


def _fill(
    store: Store,
    predictions: pd.DataFrame,
    labels: LabelSet,
    kinds: Sequence[str],
    splits: Sequence[str],
    rule: Rule,
    joint: Mapping[str, Sequence[str]],
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The manifest's table with its open cells filled, and the counts per label."""
    names, table = labels.source_names, store.manifest.table
    rows = table["split"].isin(splits).to_numpy()
    if not rows.any():
        found = ", ".join(f"{name} {count}" for name, count in table["split"].value_counts().items())
        raise InputError(f"{store.path} has no rows of split {' or '.join(splits)}; it has {found}")
    columns = {name: column for name, column in _columns(store.manifest, labels).items() if name in names}
    places = [labels.names.index(name) for name in names]
    values: FloatArray = label_values(store.manifest, labels, columns).astype(np.float64)[:, places]
    probabilities = _of_rows(predictions, labels, table, rows, store.path)
    fillable = _open_cells(store, names, columns, values, kinds) & rows[:, None]
    members = _members(joint, names)
    joint_values = {number: _joint_column(name, store) for number, name in enumerate(joint)}
    filled = fill_cells(values, probabilities, fillable, rule, dict(enumerate(members)), joint_values)
    left = {name: int((table["split"] == name).sum()) for name in ("val", "test")}
    if any(left.values()):
        kept = " and ".join(f"{count} of {name}" for name, count in left.items() if count)
        logger.info("%s: %s are left as they are: evaluation truth is never filled", store.path, kept)
    return _with_values(table, names, columns, filled), filled.counts(names, rows)


def _columns(manifest: Manifest, labels: LabelSet) -> dict[str, str]:
    """Label -> column of the store; names and aliases of its own source come before those of others."""
    sources = manifest.table["source"].unique()
    own = str(sources[0]) if len(sources) == 1 else None
    where = f"{manifest.origin} by label set {labels.name!r}"
    return {
        **labels.align(manifest.labels, None, "ignore", "ignore", context=where),
        **labels.align(manifest.labels, own, "ignore", "ignore", context=where),
    }


def _of_rows(
    predictions: pd.DataFrame, labels: LabelSet, table: pd.DataFrame, rows: BoolArray, path: Path
) -> FloatArray:
    """(n, L) predictions of a manifest's rows, NaN where there is none; of a study, the mean over its images.

    Raises:
        InputError: Where no row was predicted, or the ids are those of other films.
    """
    key = "image_id" if "image_id" in predictions.columns else "study_id"
    given, wanted = join_keys(predictions[key], table[key])
    place = pd.Series(np.arange(len(given)), index=pd.Index(given))
    if place.index.has_duplicates:
        twice = place.index[place.index.duplicated()]
        raise InputError(f"the predictions name {key} {some(twice)} twice once file endings are dropped; keep one")
    at = place.reindex(wanted).to_numpy(np.float64)  # (n,) row of the predictions
    known = ~np.isnan(at)
    if not (known & rows).any():
        part = " or ".join(sorted(table.loc[rows, "split"].unique()))
        raise InputError(
            f"none of the rows of split {part} of {path} are predicted ({key} {some(wanted[rows].iloc[:2])} against "
            f"{some(given.iloc[:2])}); predict them: main.py predict --data.stores {path} --data.predict_split {part}"
        )
    rows_of = at[known].astype(np.int64)
    _check_ids(predictions.iloc[rows_of], table[known], key, path)
    values = np.full((len(table), len(labels.source_names)), np.nan)
    values[known] = predictions[labels.source_names].to_numpy(np.float64)[rows_of]
    values = pd.DataFrame(values).groupby(pd.factorize(table["study_id"])[0]).transform("mean").to_numpy(np.float64)
    missing = int((np.isnan(values[:, 0]) & rows).sum())
    if missing:
        logger.warning("%s: %d of %d rows to fill are not predicted; they stay open", path, missing, int(rows.sum()))
    return values


def _check_ids(predictions: pd.DataFrame, table: pd.DataFrame, key: str, path: Path) -> None:
    """Refuse predictions of films that only have the same name: their study or patient is another one.

    Args:
        predictions: One row for each row of `table`.
        table: The manifest's rows that were found by `key`.
        key: Column that both were joined by.
        path: The store.

    Raises:
        InputError: Naming the first such film.
    """
    for name in ("study_id", "patient_id"):
        if name == key or name not in predictions.columns:
            continue
        given, wanted = join_keys(predictions[name].reset_index(drop=True), table[name].reset_index(drop=True))
        other = ((given != "") & (given != wanted)).to_numpy()
        if other.any():
            row = int(other.argmax())
            raise InputError(
                f"the predictions are of another store: {key} {table[key].iloc[row]!r} is of {name} "
                f"{given.iloc[row]!r} there and of {wanted.iloc[row]!r} in {path}, and {int(other.sum())} rows are so; "
                f"predict this store: main.py predict --data.stores {path}"
            )


def _open_cells(
    store: Store, names: Sequence[str], columns: Mapping[str, str], values: FloatArray, kinds: Sequence[str]
) -> BoolArray:
    """(n, L) cells that may take a prediction.

    Raises:
        InputError: Where uncertain or blank cells are asked for, and the store does not say which they are.
    """
    cells = np.isnan(values) if "nan" in kinds else np.zeros(values.shape, np.bool_)
    marks = {_CODES[kind] for kind in get_args(Fill) if kind in kinds and kind in _CODES}
    if not marks:
        return cells
    codes = store.codes()
    if codes is None:
        asked = " and ".join(kind for kind in kinds if kind != "nan")
        raise InputError(
            f"--fill {asked}: {store.path} has no {CODES_FILE}, so nobody knows which cells are; its source says only "
            f"present and absent, or it was prepared before codes were kept (prepare it again)"
        )
    codes = codes.set_index("image_id").reindex(store.manifest.table["image_id"])
    for place, name in enumerate(names):
        column = next((known for known in (columns.get(name), name) if known in codes.columns), None)
        if column is not None:
            cells[:, place] |= codes[column].isin(marks).to_numpy()
    return cells


def _members(joint: Mapping[str, Sequence[str]], names: Sequence[str]) -> list[list[int]]:
    for name, members in joint.items():
        strange = [member for member in members if member not in names]
        if strange or len(set(members)) < 2:
            why = f"{some(strange)} is no label to fill" if strange else "it needs two members or more"
            raise InputError(f"--joint {name!r}: {why}; labels are {', '.join(names)}")
    return [[names.index(member) for member in dict.fromkeys(members)] for members in joint.values()]


def _joint_column(name: str, store: Store) -> FloatArray:
    column = LabelSet("joint", [Label(name)]).align(store.manifest.labels, None, "ignore", "ignore").get(name)
    if column is None:
        raise InputError(
            f"--joint {name!r}: {store.path} has no such label; it has {', '.join(store.manifest.labels) or 'none'}"
        )
    return store.manifest.targets([column])[:, 0].astype(np.float64)


def _with_values(table: pd.DataFrame, names: Sequence[str], columns: Mapping[str, str], filled: Filled) -> pd.DataFrame:
    """The table with the filled values under the store's own names of the labels, new labels last.

    Raises:
        InputError: Where a new label's name is that of another column.
    """
    new = [name for name in names if name not in columns]
    taken = [name for name in new if name in table.columns]
    if taken:
        raise InputError(f"{some(taken)} stands for another label in the store; add an alias to the label set")
    targets = [columns.get(name, name) for name in names]
    added = pd.DataFrame(filled.targets.astype(np.float32), columns=targets, index=table.index)
    own = {column: added[column] for column in targets if column in table.columns}
    return pd.concat([table.assign(**own), added[new]], axis=1)


def _print(counts: pd.DataFrame, output: Path) -> None:
    table = Table(title=f"{output}: labels of the rows that were filled")
    for column in counts.columns:
        table.add_column(column.replace("_", " "), justify="left" if column == "label" else "right")
    for row in counts.to_dict("records"):
        mean = "-" if np.isnan(row["mean_probability"]) else f"{row['mean_probability']:.3f}"
        numbers = (row[name] for name in ("known", "filled", "implied", "left"))
        table.add_row(str(row["label"]), *(f"{count:,}" for count in numbers), mean)
    Console().print(table)
