"""Score films with one or several trained models: probabilities, and which findings are positive."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from longview import InputError
from longview.calibration.file import Calibration
from longview.findings import Layout, Scores, print_findings, write_findings

logger = logging.getLogger(__name__)


def classify(
    model: list[str],
    input: Path | None = None,  # noqa: A002 - the option's name
    *,
    threshold: float = 0.5,
    device: str = "auto",
    weights: Path | None = None,
    output: Path | None = None,
    layout: Layout = "auto",
    calibration: Path | None = None,
    rule: str | None = None,
    batch_size: int = 16,
    convert: Path | None = None,
) -> None:
    """Score films with one or several models: probabilities, and which findings are positive.

    A model is a checkpoint of longview or one of torchxrayvision's classifiers by name: densenet121-res224-all, -rsna,
    -nih, -pc, -chex, -mimic_nb, -mimic_ch, resnet50-res512-all, jfhealthcare-densenet121. Those are trained by others:
    their files are read from --weights or ~/.torchxrayvision/models_data, or downloaded there (extra `xrv`), and their
    probabilities are torchxrayvision's own, whose 0.5 is each label's operating point. Nothing in them is executed.

    Films are read and resized as in a model's training; for torchxrayvision's, the centre square is cut out and
    averaged down to the model's size. Prints a table per image (a summary of more than 8), sorted by probability, with
    the positive findings. Files that cannot be read are named and counted, the rest goes on; none readable: exit 1.

        uv run --extra xrv main.py classify --model densenet121-res224-all --input film.png
        uv run main.py classify --model runs/nih_1000/version_0/checkpoints/best.ckpt --input films --output films.csv
        uv run --extra xrv main.py classify --model densenet121-res224-all --weights DOWNLOADS --convert models

    Args:
        model: Checkpoints, and names of published models; several are compared side by side.
        input: A film (PNG, JPEG, TIFF, BMP, DICOM), a folder of them, or a table with a path column.
        threshold: Probability from which a finding is positive.
        device: auto (a GPU where there is one), cpu, cuda, cuda:1 or mps.
        weights: Folder (or file) of the published models' weights, as downloaded or converted.
        output: .csv or .json file to write.
        layout: Of the .csv: wide has a column per label, as `evaluate` reads it (of several models each in a file of
            its own, OUTPUT_MODEL.csv); long has a row per image, model and label. auto: wide for one model.
        calibration: File that `calibrate` wrote for this model: probabilities are calibrated, and each label has the
            threshold there (--threshold where there is none).
        rule: Which of that file's thresholds (f1, youden, ...); its first one by default.
        batch_size: Films per step.
        convert: Folder to write the published models to as NAME.safetensors, which --weights then reads without
            torchxrayvision (but for JF Healthcare's head); no --input is needed.
    """
    _check_options(model, input, threshold, output, calibration, batch_size)
    if convert is not None:
        _convert(model, weights, convert)
    if input is None:
        if convert is None:
            raise InputError("--input: give a film, a folder of films or a table of paths")
        return
    fitted = Calibration.read(calibration) if calibration else None
    paths = _films(input)
    failed: dict[str, str] = {}
    results = list(_score(model, weights, device, paths, failed, threshold, batch_size))
    if fitted is not None and results[0].probabilities:
        _calibrate(results[0], fitted, rule)
    good = {image: path for image, path in paths.items() if image not in failed}
    _report_failures(failed, len(paths))
    if not good:
        raise SystemExit(1)
    console = Console()
    print_findings(results, good, console)
    if output is not None:
        for file in write_findings(
            results, good, {str(paths[image]): text for image, text in failed.items()}, output, layout
        ):
            console.print(f"Written: {file}", soft_wrap=True)


def _check_options(
    model: Sequence[str], films: Path | None, threshold: float, output: Path | None, calibration: Path | None, size: int
) -> None:
    if not model:
        raise InputError("--model: give a checkpoint or the name of a published model")
    if len(set(model)) < len(model):
        raise InputError("--model: a model stands twice")
    if not 0 <= threshold <= 1:
        raise InputError(f"--threshold {threshold}: give a probability, 0 to 1")
    if size < 1:
        raise InputError(f"--batch_size {size}: give at least 1")
    if output is not None and (output.suffix not in {".csv", ".json"} or output.is_dir()):
        raise InputError(f"--output {output}: give the name of a .csv or .json file")
    if calibration is not None and len(model) > 1:
        raise InputError("--calibration belongs to one model; give one --model")
    if films is not None and (films / "store.json").is_file():
        raise InputError(f"--input {films} is a store: use `predict --data.stores {films}`, or give its raw films")
    if films is not None and not films.exists():
        raise InputError(f"--input {films} does not exist; give a film, a folder of films or a table of paths")


def _convert(models: Sequence[str], weights: Path | None, folder: Path) -> None:
    from longview.models.xrv_weights import XRV_NAMES, XrvWeights

    for name in models:
        if name not in XRV_NAMES:
            raise InputError(f"--convert is for published models, not for {name}; there are {', '.join(XRV_NAMES)}")
        logger.info("written: %s", XrvWeights.find(name, weights).convert(folder))


# ---- films ---------------------------------------------------------------------------------------------------


def _films(path: Path) -> dict[str, Path]:
    """Image id -> file, in the order of paths."""
    from longview.data.files import ImageFiles
    from longview.data.transforms import Preprocessing

    if path.is_file() and not ImageFiles.fits(path):  # read by what it holds, whatever it is called
        return {path.stem: path}
    table = ImageFiles(path, Preprocessing()).manifest.table
    root = path if path.is_dir() else path.parent
    return dict(zip(table["image_id"], (root / file for file in table["path"]), strict=True))


def _score(
    models: Sequence[str],
    weights: Path | None,
    device: str,
    paths: Mapping[str, Path],
    failed: dict[str, str],
    threshold: float,
    batch_size: int,
) -> Iterator[Scores]:
    """Score all films with each model; those that cannot be read are added to `failed`."""
    from longview.inference import open_models, score_files

    for checkpoint, model in open_models(models, weights, device):
        thresholds = dict.fromkeys(model.names, threshold)
        result = Scores(model.name, checkpoint, model.sha256, model.labels, model.names, thresholds)
        todo = {image: path for image, path in paths.items() if image not in failed}
        with _bar() as bar:
            task = bar.add_task(model.name, total=len(todo))
            for done, values in score_files(model, todo, failed, batch_size):
                result.probabilities |= values
                bar.advance(task, done)
        yield result


def _calibrate(scores: Scores, calibration: Calibration, rule: str | None) -> None:
    """Calibrate the probabilities, and take the thresholds that were chosen on them."""
    table = pd.DataFrame(np.stack(list(scores.probabilities.values())).astype(np.float64), columns=scores.names)
    table.insert(0, "image_id", list(scores.probabilities))
    values = calibration.apply(table, model=scores.sha256, origin=scores.model)[scores.names].to_numpy()
    scores.probabilities = dict(zip(table["image_id"], values, strict=True))
    rules = [name for label in calibration.labels.values() for name in label.thresholds]
    chosen = rule or (rules[0] if rules else None)
    if chosen is not None:
        scores.thresholds |= calibration.thresholds(chosen)


def _bar() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty())


def _report_failures(failed: Mapping[str, str], count: int) -> None:
    for text in failed.values():
        logger.warning("left out: %s", text)
    if failed:
        logger.warning("%d of %d files could not be read", len(failed), count)
