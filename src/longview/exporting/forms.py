"""An open model written in each of the forms of `main.py export`, with what travels with it."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from longview import InputError
from longview.calibration.file import Calibration
from longview.exported import weights
from longview.exported.metadata import Metadata, summary
from longview.exported.runtime import OnnxNetwork
from longview.exporting.card import card
from longview.exporting.graph import Graph
from longview.exporting.hub import write_folder
from longview.exporting.onnx import Difference, difference, write_onnx
from longview.exporting.pt2 import write_pt2
from longview.exporting.quantize import films_of, quantize

if TYPE_CHECKING:
    from longview.inference import OpenModel

logger = logging.getLogger(__name__)


def write(
    to: str, model: OpenModel, metadata: Metadata, checkpoint: Path, aside: Path, *, opset: int, films: Path | None
) -> dict[str, Any]:
    """Write the model itself to the file or folder `aside`; returns what its metadata say besides."""
    if to == "onnx":
        return _write_onnx(model, metadata, aside, opset, films)
    if to == "pt2":
        found = write_pt2(Graph(model.network, model.edges), metadata, aside)
        found.require(aside)
        return _told("the exported program", found)
    if to == "encoder":
        return weights.write_encoder(model.network, aside)
    if not checkpoint.is_file():
        raise InputError(
            f"--to {to} is for checkpoints of longview; write a published model with: main.py classify --model "
            f"{checkpoint} --convert FOLDER"
        )
    whole = weights.with_task(metadata, checkpoint)
    if to == "safetensors":
        weights.write_weights(model.network, whole, aside)
    else:
        aside.mkdir()
        write_folder(model.network, whole, aside)
    return {}


def _write_onnx(model: OpenModel, metadata: Metadata, aside: Path, opset: int, films: Path | None) -> dict[str, Any]:
    write_onnx(Graph(model.network, model.edges), metadata, aside, opset)
    runtime = OnnxNetwork(aside)
    runtime.build(model.labels, model.image_size)
    found = difference(model.network, runtime, model.image_size)
    found.require(aside)
    told = _told("ONNX Runtime", found)
    if films is None:
        return told
    quantize(aside, metadata, films_of(films, model))
    runtime.build(model.labels, model.image_size)
    rounded = difference(model.network, runtime, model.image_size)
    return {"single_precision": told, **_told("ONNX Runtime, int8", rounded), "quantized": "int8"}


def _told(what: str, found: Difference) -> dict[str, Any]:
    """Say how far from PyTorch a graph is; returns it for `metadata.json`."""
    logger.info(
        "%s against PyTorch, largest difference: %.2g of logits, %.2g of probabilities",
        what,
        found.logits,
        found.probabilities,
    )
    return {"difference_from_pytorch": {"logits": found.logits, "probabilities": found.probabilities}}


def accompany(
    to: str,
    metadata: Metadata,
    aside: Path,
    output: Path,
    words: dict[str, Any],
    calibration: Calibration | None,
    evaluation: Path | None,
) -> None:
    """Write metadata, card and calibration into a folder, or beside a file."""
    folder = aside if to == "hub-folder" else aside.parent
    prefix = "" if to == "hub-folder" else f"{output.stem}."
    content = json.loads(metadata.text()) | words
    text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    (folder / f"{prefix}metadata.json").write_text(text, encoding="utf-8")
    named = {
        "timm": str(words.get("timm_model", "")),
        "options": ", ".join(f"{key}={value!r}" for key, value in words.get("timm_options", {}).items()),
    }
    shown = card(metadata, to, output.name, evaluation, **named)
    (folder / f"{prefix}README.md").write_text(shown, encoding="utf-8")
    if calibration is not None:
        calibration.write(folder / f"{prefix}calibration.json")


def metadata_of(model: OpenModel, calibration: Calibration | None = None) -> Metadata:
    """What is known of an open model."""
    return Metadata(
        name=model.name,
        labels=list(model.names),
        label_set=model.labels.to_dict(),
        image_size=model.image_size,
        preprocessing=dict(vars(model.preprocessing)),
        checkpoint_sha256=model.sha256,
        averaging=model.averaging.describe(),
        edges=[list(edge) for edge in model.edges],
        calibration=None if calibration is None else json.loads(calibration.text()),
        network=summary(model.network),
        parameters=sum(parameter.numel() for parameter in model.network.parameters()),
    )
