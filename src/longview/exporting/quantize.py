"""An .onnx file in 8 bits: weights per output channel, activations by the ranges that films give them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from longview import VIEWS
from longview.data.files import ImageFiles
from longview.exported.metadata import INPUTS, Metadata
from longview.exported.runtime import extra
from longview.exporting.graph import traceable

if TYPE_CHECKING:
    from longview.inference import OpenModel

MOST = 256
"""Films that ranges are measured on, at most; spread evenly over those given."""
_OPERATORS = ["Conv", "MatMul", "Gemm"]


def quantize(file: Path, metadata: Metadata, films: Iterable[Tensor]) -> None:
    """Replace an .onnx file by one of 8 bits (QDQ form, which ONNX Runtime and OpenVINO both run).

    Args:
        file: In single precision.
        metadata: Its metadata.
        films: Images (1, 1, S, S) uint8 that show which ranges activations have.
    """
    tools: Any = extra("onnxruntime.quantization", "onnx", file)
    onnx: Any = extra("onnx", "onnx", file)
    plain = file.with_name(f".{file.name}.plain")
    with traceable():
        try:
            # constants are folded and shapes inferred first, as ONNX Runtime asks for
            tools.shape_inference.quant_pre_process(str(file), str(plain), skip_symbolic_shape=True)
            tools.quantize_static(
                str(plain),
                str(file),
                _Reader(films),
                quant_format=tools.QuantFormat.QDQ,
                op_types_to_quantize=_OPERATORS,
                per_channel=True,
                activation_type=tools.QuantType.QUInt8,
                weight_type=tools.QuantType.QInt8,
            )
        finally:
            plain.unlink(missing_ok=True)
    content = onnx.load(str(file))
    onnx.helper.set_model_props(content, replace(metadata, quantized="int8").texts())
    onnx.save(content, str(file))


class _Reader:
    """Hands films out one after the other, as ONNX Runtime's CalibrationDataReader."""

    def __init__(self, films: Iterable[Tensor]) -> None:
        self.films = iter(films)

    def get_next(self) -> dict[str, Any] | None:
        """The inputs of the next film; None after the last."""
        image = next(self.films, None)
        if image is None:
            return None
        tensors = (image, torch.zeros(1, dtype=torch.int64), torch.full((1,), VIEWS.index("unknown")))
        return {name: tensor.numpy() for name, tensor in zip(INPUTS, tensors, strict=True)}


def films_of(path: Path, model: OpenModel) -> Iterator[Tensor]:
    """Films (1, 1, S, S) uint8 of a folder or a table of paths, read as the model reads them; at most :data:`MOST`.

    Raises:
        InputError: Where there are none, or one cannot be read.
    """
    root = path if path.is_dir() else path.parent
    paths = [root / name for name in ImageFiles(path, model.preprocessing).manifest.table["path"]]
    step = max(1, -(-len(paths) // MOST))
    return (model.read(name).pixels[None] for name in paths[::step])
