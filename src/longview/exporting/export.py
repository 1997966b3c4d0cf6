"""Export a trained model to forms that others read."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from longview import InputError
from longview.calibration.file import Calibration
from longview.outputs import make_folder

logger = logging.getLogger(__name__)

Form = Literal["encoder", "onnx", "pt2", "safetensors", "hub-folder"]
Quantized = Literal["none", "int8"]

_SUFFIXES: dict[str, tuple[str, ...]] = {
    "encoder": (".safetensors", ".pth"),
    "onnx": (".onnx",),
    "pt2": (".pt2",),
    "safetensors": (".safetensors",),
}


def export(
    checkpoint: str,
    to: Form,
    output: Path,
    *,
    calibration: Path | None = None,
    evaluation: Path | None = None,
    weights: Path | None = None,
    opset: int = 20,
    quantize: Quantized = "none",
    films: Path | None = None,
) -> None:
    """Export a trained model to a form that others read.

    encoder: the encoder's weights under timm's names (.safetensors or .pth), for `encoder.pretrained` of another run
    or for `timm.create_model`. onnx: a graph of any number of images, studies and views, for ONNX Runtime or OpenVINO
    (extras `onnx`, `openvino`); inputs `images` (N, 1, S, S) uint8, `study` (N,) and `view` (N,) int64, outputs
    `logits` and `probabilities` (B, L), B being the largest number in `study` plus one. pt2: the same graph as
    PyTorch's exported program. safetensors: weights, and what the network is made from. hub-folder: these in the form
    of Hugging Face's hub. Graphs are compared with PyTorch on drawn films: the largest difference is printed, and one
    above 0.0001 is an error.

    Labels, preprocessing and calibration are in the file, and beside it in NAME.metadata.json (in a folder:
    metadata.json) with a card, NAME.README.md. `classify`, `serve` and others open .onnx, .safetensors and folders in
    place of a checkpoint.

        uv run --extra onnx main.py export --checkpoint runs/demo/version_0/checkpoints/best.ckpt --to onnx \
--output demo.onnx
        uv run main.py classify --model demo.onnx --input film.png

    Args:
        checkpoint: A checkpoint of longview, or the name of a published model (see `classify`).
        to: What to write.
        output: File (or, of hub-folder, folder) to write; it must not exist yet.
        calibration: File that `calibrate` wrote for this model, to go with it.
        evaluation: Folder that `evaluate --checkpoint` wrote for this model, whose card goes with it.
        weights: Folder of a published model's weights.
        opset: Version of ONNX's operators.
        quantize: int8: weights and activations of an .onnx file in 8 bits, whose ranges are measured on --films.
        films: Folder (or table of paths) of a hundred or so films of the kind that will be scored, for int8.
    """
    _check_options(to, output, quantize, films)
    if quantize == "int8" and calibration is not None:
        raise InputError(
            "--calibration is of the model in single precision, and int8 moves its probabilities: export without it, "
            "then fit one on what `classify --model FILE.onnx --output FILE.csv` gives for validation films"
        )
    from longview.exporting.forms import accompany, metadata_of, write
    from longview.inference import open_model

    model = open_model(checkpoint, weights, device="cpu")
    fitted = Calibration.read(calibration) if calibration else None
    if fitted is not None:
        fitted.check(model.names, model.sha256, checkpoint)
    metadata = metadata_of(model, fitted)
    with _aside(output) as aside:
        words = write(to, model, metadata, Path(checkpoint), aside, opset=opset, films=films)
        accompany(to, metadata, aside, output, words, fitted, evaluation)
    logger.info("written: %s", output)


def _check_options(to: Form, output: Path, quantize: Quantized, films: Path | None) -> None:
    if output.exists():
        raise InputError(f"--output {output} exists already; remove it, or choose another name")
    suffixes = _SUFFIXES.get(to)
    if suffixes and output.suffix not in suffixes:
        raise InputError(f"--output {output}: give a name that ends in {' or '.join(suffixes)}")
    if to == "hub-folder" and output.suffix in {".onnx", ".pt2", ".safetensors", ".pth"}:
        raise InputError(f"--output {output}: --to hub-folder writes a folder; give a name without {output.suffix}")
    if quantize == "int8" and to != "onnx":
        raise InputError(f"--quantize int8 is for --to onnx, not for --to {to}")
    if (quantize == "int8") != (films is not None):
        raise InputError("--quantize int8 and --films belong together: activations' ranges are measured on films")
    if films is not None and not films.exists():
        raise InputError(f"--films {films} does not exist; give a folder of films, or a table of paths")


@contextmanager
def _aside(output: Path) -> Iterator[Path]:
    """Give the name of `output` within a temporary folder; all that was written there is moved beside `output`.

    The model itself comes last, so that where it is, the rest is too. After an error nothing is left.
    """
    place = output.absolute()
    folder = place.with_name(f".{place.name}.partial")
    shutil.rmtree(folder, ignore_errors=True)
    make_folder(folder, output)
    try:
        yield folder / place.name
        for path in sorted(folder.iterdir(), key=lambda path: path.name == place.name):
            os.replace(path, place.with_name(path.name))  # noqa: PTH105 - atomic, and says that it replaces
    finally:
        shutil.rmtree(folder, ignore_errors=True)
