"""`main.py ensemble`: the predictions of several models as one table."""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from rich.console import Console
from rich.table import Table
from rich.text import Text

from longview import InputError
from longview.calibration.file import CALIBRATION
from longview.ensembling.combining import FloatArray, Scale, combine
from longview.ensembling.members import Members, read_members
from longview.ensembling.selection import Selected, select
from longview.ensembling.views import average_studies, parse_weights, read_views
from longview.ensembling.weights import Weights, identity
from longview.evaluate import with_derived
from longview.labels import LabelSet
from longview.outputs import keep_apart, make_folder, sha256
from longview.predictions import MODEL, TEST_TIME, write_predictions
from longview.truth import PLURAL, Truth, match
from longview.uncertainty.summary import METHOD, Uncertainty, companion, long_table, write_uncertainty

logger = logging.getLogger(__name__)

_Average = Callable[[pd.DataFrame, Path], pd.DataFrame]


def ensemble(
    predictions: list[Path],
    output: Path,
    *,
    on: Scale = "probability",
    weights: str | None = None,
    fit: list[Path] | None = None,
    truth: Path | None = None,
    split: str = "val",
    per_label: bool = False,
    minimum: int = 25,
    folds: int = 5,
    labels: Path | None = None,
    study_weights: str | None = None,
    manifest: Path | None = None,
    uncertainty: bool = False,
) -> None:
    """Average the predictions of several models, or of the views of a study, into one table.

    Rows are joined by id and columns by label name; members whose rows or labels differ are refused, naming what each
    lacks. The result is a table like any other: for `evaluate`, `calibrate`, `submit`. Beside ensemble.parquet stands
    ensemble.json, which says how it was made, and which --weights reads again.

        uv run main.py ensemble --predictions a.parquet b.parquet c.parquet --output ensemble.parquet
        uv run main.py ensemble --predictions a.parquet b.parquet --fit a_val.parquet b_val.parquet
            --truth data/nih-1000 --output ensemble.parquet

    With --fit, weights are fitted on predictions of the validation part, in the order of --predictions: greedy forward
    selection with replacement, which raises macro average precision (Caruana et al., ICML 2004). What they are worth is
    told by held-out patients: each fold's rows take weights fitted on the others. Fitted weights are used in any case:
    where they do worse there than the plain mean, a warning says so, and the same command without --fit gives that.

    With --study_weights, images are averaged to studies first, by view: PA=7,AP=7,lateral=3,unknown=5 is what the
    CheXFusion reference does. One table is enough then.

    With --uncertainty, the members are a deep ensemble (Lakshminarayanan et al., NeurIPS 2017): how far they agree on
    each row and label is written to ensemble.uncertainty.parquet, as `predict --uncertainty mc-dropout` does it of the
    samples of one model. Its mean is that of probabilities, whatever --on says.

    Args:
        predictions: Tables that `predict` wrote, all for the same rows.
        output: The .parquet or .csv file to write; no file that is read may be among those that are written.
        on: What is averaged. probability: calibrated models; logit: confident ones count for more; rank: models whose
            probabilities mean different things (the result only ranks, within these rows).
        weights: A weight for each table, as 1,2,1, or the .json file of an earlier ensemble. Default: all alike.
        fit: Tables of the same models for the validation part, to fit weights on.
        truth: A store, a manifest, or any .parquet or .csv with an id column and label columns, for --fit.
        split: Part of the truth to fit on.
        per_label: Fit weights for each label by itself, where it has --minimum positives and negatives.
        minimum: Positives and negatives that a label needs for weights of its own.
        folds: Parts of the patients for the held-out figure, at least two; 0: none.
        labels: Label set (file, or name of one in configs/labels) whose aliases and derived labels count.
        study_weights: TYPE=WEIGHT for each of PA, AP, lateral and unknown, with commas between.
        manifest: Store or table that says the view (view, or ViewPosition) and study of each image.
        uncertainty: Write the table of uncertainty too.
    """
    _check_options(predictions, output, weights, fit, truth, study_weights, manifest)
    if folds < 0 or folds == 1:
        raise InputError(f"--folds {folds}: give 2 or more, or 0 for no held-out figure")
    read = [("--truth", truth), ("--labels", labels), ("--manifest", manifest)]
    read += [("--weights", Path(weights))] if weights and weights.endswith(".json") else []
    read += [("--predictions", file) for file in predictions] + [("--fit", file) for file in fit or []]
    keep_apart([("--output", file) for file in _files(output, uncertainty)], read)
    _refuse_foreign(_note(output))
    if uncertainty and (len(predictions) < 2 or on == "rank"):
        raise InputError(
            "--uncertainty needs two tables of probabilities or more: --predictions A B, and not --on rank"
        )
    label_set = LabelSet.load(labels) if labels else None
    views = parse_weights(study_weights) if study_weights else {}
    average = _averaging(views, manifest)
    members = read_members(predictions, label_set, average)
    selected = None
    if fit and truth:
        validation = read_members(fit, label_set, average)
        _check_pairs(members, validation)
        selected = _select(validation, truth, split, label_set, on, minimum if per_label else None, folds)
        chosen = _as_weights(selected, validation, truth, split, on)
    elif weights and weights.endswith(".json"):
        chosen = Weights.read(Path(weights))
        _check_use(chosen, on, views)
    elif weights:
        chosen = Weights.parse(weights, len(predictions), on)
    else:
        chosen = Weights([1 / len(predictions)] * len(predictions), on=on)
    chosen.check(members)
    matrix = chosen.matrix(members.names)
    table = members.table(combine(members.scores, matrix, on))
    model = identity(members, matrix, on, views)
    if model is not None:
        table.attrs[MODEL] = model
    _write(table, chosen, members, views, output)
    if uncertainty:
        _write_spread(members, matrix, output, model)
    _report(members, matrix, selected, output)


def _check_options(
    predictions: list[Path],
    output: Path,
    weights: str | None,
    fit: list[Path] | None,
    truth: Path | None,
    study_weights: str | None,
    manifest: Path | None,
) -> None:
    if output.suffix not in {".parquet", ".csv"}:
        raise InputError(f"--output {output}: give the name of a .parquet or .csv file")
    if len(predictions) < 2 and study_weights is None:
        raise InputError(
            "ensemble needs two tables or more: --predictions A B (or --study_weights, for the views of one)"
        )
    options = [str(word) for word in fit or [] if str(word).startswith("-")]
    if options:
        raise InputError(f"ensemble has no option {options[0]}")
    if fit and weights:
        raise InputError("--fit and --weights exclude each other: weights are fitted, or given")
    if (fit is None) != (truth is None):
        raise InputError("--fit TABLES and --truth STORE belong together: what to fit on, and what is true of it")
    if fit and len(fit) != len(predictions):
        raise InputError(
            f"--fit has {len(fit)} tables for {len(predictions)} of --predictions; give the validation predictions of "
            f"each model, in the same order"
        )
    if (study_weights is None) != (manifest is None):
        raise InputError("--study_weights and --manifest belong together: how views count, and which view an image is")


def _note(output: Path) -> Path:
    """Where it stands how a table was made."""
    return output.with_suffix(".json")


def _files(output: Path, uncertainty: bool) -> list[Path]:
    """All that is written."""
    return [output, _note(output), *([companion(output)] if uncertainty else [])]


def _refuse_foreign(note: Path) -> None:
    """Refuse to replace a .json file that says something else, such as a calibration.

    Raises:
        InputError: Naming it.
    """
    if not note.exists():
        return
    try:
        Weights.read(note)
    except InputError as error:
        raise InputError(
            f"--output would replace {note}, which no earlier `ensemble` wrote; move it away, or give another name"
        ) from error


def _averaging(weights: Mapping[str, float], manifest: Path | None) -> _Average | None:
    if not weights or manifest is None:
        return None
    return functools.partial(average_studies, views=read_views(manifest), weights=weights)


def _check_pairs(members: Members, validation: Members) -> None:
    """Refuse validation predictions of other models or labels than those to average.

    Raises:
        InputError: Naming both files.
    """
    pairs = zip(members.files, validation.files, members.models, validation.models, strict=True)
    for file, other, model, known in pairs:
        if model and known and model != known:
            raise InputError(f"{other} (--fit) is of another model than {file}; give both in the same order")
    for file, other, mine, theirs in zip(
        members.files, validation.files, members.attributes, validation.attributes, strict=True
    ):
        if any(mine.get(key) != theirs.get(key) for key in (CALIBRATION, TEST_TIME)):
            logger.warning("%s and %s were calibrated, or averaged at test time, in different ways", file, other)
    if set(members.names) != set(validation.names):
        differ = sorted(set(members.names) ^ set(validation.names))
        raise InputError(f"the tables of --fit have other labels than those of --predictions: {', '.join(differ)}")


def _select(
    validation: Members,
    truth: Path,
    split: str,
    labels: LabelSet | None,
    on: Scale,
    minimum: int | None,
    folds: int,
) -> Selected:
    """Weights for the labels of the validation tables that the truth knows."""
    actual = Truth.read(truth)
    if labels is not None:
        actual = with_derived(actual, labels, validation.names)
    part = split if "split" in actual.ids.columns else None
    if part is None and split != "val":
        raise InputError(f"--split {split}: {truth} has no column `split`")
    if part in {"train", "test"}:
        logger.warning("fitted on split %s: scores on it say nothing about new patients any more", part)
    matches = [match(validation.table(scores), actual, labels, part) for scores in validation.scores]
    first = matches[0]
    logger.info("fitting weights on %s rows of %d labels", f"{len(first.targets):,}", len(first.names))
    if folds and first.unit != "patient":
        logger.warning(
            "neither the tables nor %s say which patient each row is of: folds are of %s, and where a patient has "
            "several, the held-out figure flatters", truth, PLURAL[first.unit],
        )  # fmt: skip
    result = select(
        [found.scores for found in matches], first.targets, first.predicted, first.clusters,
        on=on, minimum=minimum, folds=folds,
    )  # fmt: skip
    unknown = [name for name in validation.names if name not in first.predicted]
    if unknown:
        logger.warning("%s has no truth of %s: they take the weights of all labels", truth, ", ".join(unknown))
    return result


def _as_weights(selected: Selected, validation: Members, truth: Path, split: str, on: Scale) -> Weights:
    """Weights as they are kept."""
    own = {name: selected.weights[:, selected.names.index(name)].tolist() for name in selected.own}
    about = {
        "fitted": {
            "on": [{"path": str(file), "sha256": sha256(file)} for file in validation.files],
            "truth": str(truth),
            "split": split,
            "rows": selected.rows,
            "macro_ap": selected.figures,
        }
    }
    return Weights(selected.shared.tolist(), own, on, validation.models, about=about, origin="--fit")


def _check_use(chosen: Weights, on: Scale, views: Mapping[str, float]) -> None:
    """Refuse to use weights for something else than they were fitted for.

    Raises:
        InputError: Naming the option.
    """
    if chosen.on != on:
        raise InputError(f"{chosen.origin} is for --on {chosen.on}, not {on}")
    if dict(chosen.study_weights) != dict(views):
        given = ",".join(f"{view}={weight:g}" for view, weight in chosen.study_weights.items())
        raise InputError(
            f"{chosen.origin} was made with {f'--study_weights {given}' if given else 'no --study_weights'}"
        )


def _write(table: pd.DataFrame, weights: Weights, members: Members, views: Mapping[str, float], output: Path) -> None:
    make_folder(output.parent, output)
    note = _note(output)
    aside = note.with_name(f".{note.name}.partial")
    full = Weights(weights.shared, weights.own, weights.on, weights.models, views, weights.about)
    aside.write_text(full.text(members), encoding="utf-8")
    write_predictions(table, output)
    aside.replace(note)


def _write_spread(members: Members, weights: FloatArray, output: Path, model: str | None) -> None:
    found = Uncertainty.of(np.stack(members.scores), weights)
    about: dict[str, object] = {METHOD: {"method": "ensemble", "members": len(members.files)}}
    table = long_table(members.ids, members.names, found)
    path = companion(output)
    write_uncertainty(table, path, about if model is None else {**about, MODEL: model})
    Console().print(f"Uncertainty: {path}", soft_wrap=True, markup=False)


def _report(members: Members, weights: FloatArray, selected: Selected | None, output: Path) -> None:
    console = Console()
    table = Table(title="members")
    for column in ("predictions", "weight", *(("macro AP, validation",) if selected else ())):
        table.add_column(column, justify="left" if column == "predictions" else "right")
    alone = selected.figures["members"] if selected else []
    assert isinstance(alone, list)
    for number, file in enumerate(members.files):
        low, high = weights[number].min(), weights[number].max()
        share = f"{low:.3f}" if low == high else f"{low:.3f} to {high:.3f}"
        table.add_row(Text(str(file)), share, *([f"{alone[number]:.4f}"] if selected else []))
    console.print(table)
    if selected:
        named = {"uniform": "plain mean", "fitted": "fitted", "held_out": "fitted on other patients"}
        if math.isnan(float(selected.figures["held_out"])):  # type: ignore[arg-type]
            del named["held_out"]
        figures = [f"{text} {selected.figures[key]:.4f}" for key, text in named.items()]
        console.print(f"macro AP on {selected.rows:,} validation rows: {', '.join(figures)}", highlight=False)
        held, uniform = selected.figures["held_out"], selected.figures["uniform"]
        assert isinstance(held, float) and isinstance(uniform, float)
        if held < uniform:
            logger.warning(
                "on held-out patients fitted weights are worse than the plain mean (macro AP %.4f against %.4f), and "
                "%s was made with them: run the same command without --fit, which gives the plain mean", held,
                uniform, output,
            )  # fmt: skip
    rows, labels = len(members.ids), len(members.names)
    message = f"Ensemble of {len(members.files)}, {rows:,} rows x {labels} labels: {output}"
    console.print(message, soft_wrap=True, markup=False)
