"""Challenge submissions: the CSV and zip of CXR-LT 2023, 2024 and 2026, from predictions by id and name."""

from __future__ import annotations

import logging
import re
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console

from longview import InputError
from longview.calibration.file import Calibration, attributes_of
from longview.challenges.check import Wanted, check_submission
from longview.challenges.gating import gate as gate_by
from longview.challenges.tasks import Task, task_of, wanted_columns
from longview.data.manifest import Manifest, read_table
from longview.joining import columns_of, identify, join_keys, label_candidates, some, text_columns
from longview.labels import Label, LabelSet
from longview.outputs import keep_apart, staged
from longview.predictions import labels_of, read_predictions

logger = logging.getLogger(__name__)

IMAGE_COLUMNS = ("dicom_id", "ImageID", "image_id")
"""Names of the image column in the challenges' files: 2023 and 2024, 2026, ours."""

PATH_COLUMNS = ("path", "fpath")
"""Names of the path column: 2023, 2024. It holds the study: `files/p10/p10000032/s50414267/02aa….jpg`."""

_STUDY_IN_PATH = r"(?:^|/)(s\d+)/[^/]+$"
_ZIP_DATE = (1980, 1, 1, 0, 0, 0)  # the earliest a zip can hold: equal predictions give equal bytes


def submit(
    predictions: Path | None = None,
    template: Path | None = None,
    output: Path | None = None,
    *,
    task: str | None = None,
    check: Path | None = None,
    manifest: Path | None = None,
    labels: Path | None = None,
    code: Path | None = None,
    name: str = "submission",
    split: str = "test",
    calibration: Path | None = None,
    gate: str | None = None,
    gate_spare: list[str] | None = None,
    gate_power: float = 0.5,
) -> None:
    """Write a challenge submission: a CSV with the template's ids and labels, and the zip to upload. Or check one.

    The template is the challenge's sample submission, or its image list with label columns; its values are
    ignored. The CSV holds the template's image column (dicom_id, or ImageID) and its label columns, both in its own
    order, and no other column: that is what the challenges score.

    Labels are found by name. Scores of a study are copied to each of its images; which study an image is of is
    taken from --manifest, else from the template's study_id, else from its path or fpath. Probabilities are written
    in full, and predictions that were thresholded to 0 and 1 are refused: average precision ranks probabilities.

    Where there is no challenge, a store serves as template: the images of its --split and its labels. With --task the
    template may be a mere list of images: labels, their order and the image column are the task's.

        uv run main.py submit --predictions predictions.parquet --template sample.csv --output submissions/a
        uv run main.py submit --predictions predictions.parquet --task cxr-lt-2024-task1 --template test.csv --code src
            --output submissions/a
        uv run main.py submit --check submissions/a/submission.zip --template sample.csv

    --check looks for everything that a challenge would refuse or misread in a .zip (or .csv), made by whomever: columns
    and their order, images, duplicates, values, the layout of the zip. All faults are listed at once, with exit code 2.

    Args:
        predictions: Table that `predict` wrote, per image or per study; it may hold more images and labels.
        template: The challenge's .csv (image ids, then one column per label), or a store.
        output: Folder for NAME.csv and NAME.zip. Those of an earlier submission are replaced; other files are not.
        task: cxr-lt-2023, cxr-lt-2024-task1, -task2 or -task3, cxr-lt-2026-task1 or -task2.
        check: A .zip or .csv to check; nothing is written.
        manifest: Store, or table with image_id and study_id, that tells the study of each image.
        labels: Label set whose aliases match the template's label columns to the predicted ones.
        code: Folder (or file) to put into the zip as `code/`, which the CXR-LT challenges ask for.
        name: Name of the two files, without folder and ending.
        split: Part whose images are submitted where the template is a store; a .csv is taken whole.
        calibration: File that `calibrate` wrote for this model. A ranking metric gains nothing by it.
        gate: Label that draws down all others, such as Normal: each becomes p (1 - p_Normal)^0.5. It lowers the AP of
            many models; compare on validation predictions first.
        gate_spare: Labels that do not contradict it, such as Support Devices.
        gate_power: The exponent.
    """
    chosen = None if task is None else task_of(task)
    if template is None:
        raise InputError("submit needs --template: the challenge's sample file, its list of images, or a store")
    if check is not None:
        form = wanted(template, split, chosen)[0]
        if not form.labels:
            raise InputError(f"{template} has no label columns; give the challenge's sample, or name its --task")
        _check(check, form)
        return
    if predictions is None or output is None:
        raise InputError("submit needs --predictions TABLE and --output FOLDER (or --check FILE)")
    if not name or name != Path(name).name:
        raise InputError(f"--name {name!r} is no file name; give one without folders, and the folder with --output")
    keep_apart(
        [("--output", output / f"{name}.csv"), ("--output", output / f"{name}.zip")],
        [("--predictions", predictions), ("--template", template), ("--manifest", manifest), ("--labels", labels),
         ("--calibration", calibration), ("--code", code)],
    )  # fmt: skip
    _refuse_foreign(output, name)
    if labels is None and chosen is not None:
        labels = Path(chosen.label_set)
    table = read_predictions(predictions)
    _refuse_thresholded(table, predictions)
    if calibration is not None:
        table = calibrated(table, predictions, calibration)
    table = _gated(table, gate, gate_spare, gate_power, labels)
    form, sample = wanted(template, split, chosen)
    image_column, images = form.image, pd.Series(form.images, dtype="str")
    columns = match_labels(form.labels, labels_of(table), template, labels)
    rows = match_rows(table, images, sample, template, manifest)
    scores = table.iloc[rows][list(columns.values())].set_axis(list(columns), axis=1)
    result = pd.concat([images.rename(image_column), scores.set_index(images.index)], axis=1)
    with staged(output) as folder:
        file = folder / f"{name}.csv"
        result.to_csv(file, index=False)
        write_zip(file.with_suffix(".zip"), file, code)
    message = f"{len(result):,} images x {len(columns)} labels: {output / name}.csv and .zip"
    Console().print(message, soft_wrap=True, markup=False)


def _refuse_foreign(output: Path, name: str) -> None:
    """Refuse to replace files that no earlier run wrote: those beside which, or in which, no zip of ours is.

    Raises:
        InputError: Naming the file.
    """
    archive = output / f"{name}.zip"
    try:
        with zipfile.ZipFile(archive) as opened:
            dates = {item.filename: item.date_time for item in opened.infolist()}
    except (OSError, zipfile.BadZipFile):
        dates = {}
    if dates.get(f"{name}.csv") == _ZIP_DATE:
        return
    for file in (output / f"{name}.csv", archive):
        if file.exists():
            raise InputError(
                f"--output {output} would replace {file}, which no earlier `submit` wrote; move it away, or give "
                f"another --output or --name"
            )


def wanted(template: Path, split: str, task: Task | None = None) -> tuple[Wanted, pd.DataFrame]:
    """What a submission must hold, and the template.

    Args:
        template: The challenge's sample, its list of images, or a store.
        split: Part of a store.
        task: Whose labels and image column count; None: the template's.

    Raises:
        InputError: Where the template has no images, names one twice, or is of another task.
    """
    sample = read_template(template, split)
    image = next((column for column in IMAGE_COLUMNS if column in sample.columns), None)
    ids = identify(sample, str(template))
    if "image_id" not in ids or (image is None and task is None):
        raise InputError(f"{template} has no image column ({', '.join(IMAGE_COLUMNS)}); it has {some(sample.columns)}")
    images = ids["image_id"]
    if images.duplicated().any():
        twice = images[images.duplicated()].drop_duplicates()
        raise InputError(f"{template}: {len(twice)} image ids stand in more than one row: {some(twice)}")
    columns = label_candidates(sample.columns)
    if task is None:
        return Wanted(str(image), images.tolist(), columns), sample
    if template.is_dir():  # a store has the labels of its source, and its own name for the images
        columns = []
    return Wanted(task.image, images.tolist(), wanted_columns(task, columns, template)), sample


def _gated(
    table: pd.DataFrame, by: str | None, spared: Sequence[str] | None, power: float, labels: Path | None
) -> pd.DataFrame:
    if by is None:
        if spared:
            raise InputError("--gate_spare says which labels --gate leaves alone; give --gate, or leave it out")
        return table
    logger.warning(
        "gating by %s changes the ranking, and lowers the AP of many models: compare on validation first", by
    )
    return gate_by(table, by, spared or [], power, LabelSet.load(labels) if labels else None)


def _check(file: Path, form: Wanted) -> None:
    """Check a submission, and say what is wrong with it.

    Raises:
        InputError: With every fault.
    """
    found = check_submission(file, form)
    for warning in found.warnings:
        logger.warning("%s: %s", file, warning)
    if found.faults:
        listed = "".join(f"\n  {number}. {fault}" for number, fault in enumerate(found.faults, 1))
        raise InputError(f"{file} has {len(found.faults)} fault{'s' if len(found.faults) > 1 else ''}:{listed}")
    message = f"{file}: {len(form.images):,} images x {len(form.labels)} labels, no fault found"
    Console().print(message, soft_wrap=True, markup=False)


def read_template(template: Path, split: str) -> pd.DataFrame:
    """Read a challenge's sample, or make one from a store: the images of one split and the store's labels.

    Raises:
        InputError: Where it cannot be read, or where the store has no such split.
    """
    if not template.is_dir():
        return read_table(template, text=[*text_columns(), *PATH_COLUMNS])
    manifest = Manifest.read(template)
    table = manifest.table[manifest.table["split"] == split]
    if table.empty:
        parts = ", ".join(sorted(manifest.table["split"].unique()))
        raise InputError(f"{template} has no images of --split {split}; it has {parts}")
    sample = table[["image_id", "study_id", *manifest.labels]].rename(columns={"image_id": "dicom_id"})
    return sample.reset_index(drop=True)


def match_labels(
    wanted: Sequence[str], predicted: Sequence[str], template: Path, labels: Path | None = None
) -> dict[str, str]:
    """Find the predicted column of each label column of a template.

    Args:
        wanted: The template's label columns.
        predicted: The predictions' label columns, in any order.
        template: For messages.
        labels: Label set whose aliases count; None: names must be equal but for case, spaces and hyphens.

    Returns:
        Template column -> predicted column, in the template's order.

    Raises:
        InputError: For a label of the template that was not predicted; lists both sides.
    """
    if not wanted:
        raise InputError(f"{template} has no label columns; give the challenge's sample with its label columns")
    known = LabelSet.load(labels) if labels else LabelSet("predictions", [Label(name) for name in predicted])
    column_of = columns_of(known, predicted, "the predictions")
    column_of |= {column: column for column in predicted if known.canonical(column) is None}
    found = {column: column_of.get(known.canonical(column) or column) for column in wanted}
    absent = [column for column, match in found.items() if match is None]
    rest = [column for column in predicted if column not in found.values()]
    if absent:
        raise InputError(
            f"labels of {template} that were not predicted: {', '.join(absent)}; predicted labels that it "
            f"does not have: {', '.join(rest) or 'none'}. Rename columns, or give --labels with a label set that "
            f"holds aliases"
        )
    result = {column: match for column, match in found.items() if match is not None}
    if len(set(result.values())) < len(result):
        raise InputError(f"{template}: two label columns stand for one predicted label: {some(list(result))}")
    if rest:
        logger.info("%d predicted labels are not in %s: %s", len(rest), template, ", ".join(rest))
    return result


def match_rows(
    table: pd.DataFrame, images: pd.Series[Any], sample: pd.DataFrame, template: Path, manifest: Path | None
) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Find the row of the predictions for each image of a template.

    Args:
        table: Predictions, per image or per study.
        images: (n,) image ids of the template.
        sample: The template.
        template: For messages.
        manifest: Store or table that tells the study of each image.

    Returns:
        (n,) row numbers.

    Raises:
        InputError: Where images were not predicted, or their study is not known; counts them, names the first.
    """
    if "image_id" in table.columns:
        by, wanted = "image_id", images
    else:
        by, wanted = "study_id", _studies(images, sample, template, manifest)
    given, keys = join_keys(table[by], wanted)
    place = pd.Series(np.arange(len(given)), index=pd.Index(given))
    if not place.index.is_unique:
        raise InputError(f"predicted {by}s are not unique: {some(place.index[place.index.duplicated()])}")
    rows = place.reindex(keys)
    absent = rows.isna().to_numpy()
    if absent.any():
        raise InputError(
            f"predictions lack {int(absent.sum())} of the {len(images)} images of {template}: "
            f"{some(images[absent])}; predict on all of them, then submit again"
        )
    return rows.to_numpy(np.int64)


def _studies(images: pd.Series[Any], sample: pd.DataFrame, template: Path, manifest: Path | None) -> pd.Series[Any]:
    """Study of each image: from the manifest, else from the template's study_id, else from its path."""
    if manifest is not None:
        return _studies_of_manifest(images, manifest)
    ids = identify(sample, str(template))
    if "study_id" in ids:
        return ids["study_id"]
    for column in PATH_COLUMNS:
        if column not in sample.columns:
            continue
        studies = sample[column].str.extract(_STUDY_IN_PATH, expand=False)
        if studies.isna().any():
            row = int(studies.isna().to_numpy().argmax())
            raise InputError(f"{template}: {column} {sample[column].iloc[row]!r} in data row {row + 1} holds no study")
        return studies
    raise InputError(
        f"predictions are per study, and {template} does not say which study an image is of (no study_id, path or "
        f"fpath); give --manifest with the store, or a table with image_id and study_id"
    )


def _studies_of_manifest(images: pd.Series[Any], manifest: Path) -> pd.Series[Any]:
    table = read_table(manifest / "manifest.parquet" if manifest.is_dir() else manifest, text=text_columns())
    ids = identify(table, str(manifest))
    if not {"image_id", "study_id"} <= set(ids):
        raise InputError(f"--manifest {manifest} needs columns image_id and study_id; it has {some(table.columns)}")
    given, wanted = join_keys(ids["image_id"], images)
    study_of = pd.Series(ids["study_id"].to_numpy(), index=pd.Index(given))
    studies = study_of[~study_of.index.duplicated()].reindex(wanted)
    absent = studies.isna().to_numpy()
    if absent.any():
        raise InputError(f"{manifest} lacks {int(absent.sum())} images of the template: {some(images[absent])}")
    return pd.Series(studies.to_numpy(), index=images.index, dtype="str")


def _refuse_thresholded(table: pd.DataFrame, predictions: Path) -> None:
    values = table[labels_of(table)].to_numpy()
    if ((values == 0) | (values == 1)).all():
        raise InputError(
            f"all values of {predictions} are 0 or 1: they were thresholded. The challenges rank by average "
            f"precision, which needs the probabilities; give those"
        )


def calibrated(table: pd.DataFrame, predictions: Path, calibration: Path) -> pd.DataFrame:
    """Apply a calibration to a table of predictions.

    Args:
        table: The table as read.
        predictions: Its file, which may say the model.
        calibration: File that `calibrate` wrote.

    Raises:
        InputError: Where it belongs to other labels or another model, or the predictions are calibrated already.
    """
    found = Calibration.read(calibration)
    if found.method == "isotonic":
        logger.warning("%s is isotonic and makes ties: average precision may change", calibration)
    table.attrs |= attributes_of(predictions)
    return found.apply(table, origin=str(predictions))


def write_zip(file: Path, csv: Path, code: Path | None = None) -> None:
    """Write a zip that holds the CSV and, under `code/`, the given folder; equal content gives equal bytes.

    Args:
        file: Zip to write.
        csv: File that stands at its top.
        code: Folder or file; hidden files, caches and compiled files are left out.

    Raises:
        InputError: Where `code` does not exist.
    """
    members: dict[str, Path] = {csv.name: csv}
    if code is not None:
        if not code.exists():
            raise InputError(f"--code {code} does not exist")
        members |= _code_members(code)
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
        for member, source in members.items():
            entry = zipfile.ZipInfo(member, _ZIP_DATE)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, source.read_bytes())


def _code_members(code: Path) -> Mapping[str, Path]:
    if code.is_file():
        return {f"code/{code.name}": code}
    files = sorted(item for item in code.rglob("*") if item.is_file())
    names = {item.relative_to(code).as_posix(): item for item in files}
    skip = re.compile(r"(^|/)(\.|__pycache__/)|\.pyc$")
    return {f"code/{name}": item for name, item in names.items() if not skip.search(name)}
