"""A graph as an .onnx file, and how far it is from PyTorch."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from longview import InputError
from longview.exported.metadata import INPUTS, OUTPUTS, Metadata
from longview.exported.runtime import RuntimeNetwork, extra
from longview.exporting.graph import Graph, drawn_batch, exported, not_exported, traceable
from longview.models.network import Network

OPSET = 20
OPSETS = range(18, 24)
TOLERANCE = 1e-4
"""Largest difference from PyTorch's logits; of logits beyond 1 a share of them, as far as single precision goes."""

_ONE_FILE = 1_900_000_000  # bytes of weights; protobuf holds 2 GB, more goes to a second file
_ROWS = ([0], [2, 0, 1, 0, 2], [0, 0, 1, 1])  # one film; unequal studies, mixed; equal ones


def write_onnx(graph: Graph, metadata: Metadata, file: Path, opset: int = OPSET) -> None:
    """Write an .onnx file whose N, B and number of views are free, with the metadata in it.

    Args:
        graph: In evaluation mode, on the CPU.
        metadata: What it says of itself.
        file: Where to write.
        opset: Version of ONNX's operators.

    Raises:
        InputError: For a network that has no such graph, another opset, or want of the extra `onnx`.
    """
    if opset not in OPSETS:
        raise InputError(f"--opset {opset}: give one from {OPSETS[0]} to {OPSETS[-1]}")
    extra("onnx", "onnx", file)
    extra("onnxscript", "onnx", file)
    program = exported(graph, metadata.image_size)
    with torch.no_grad(), traceable():
        try:
            written: Any = torch.onnx.export(
                program,
                dynamo=True,
                opset_version=opset,
                verbose=False,
                input_names=list(INPUTS),
                output_names=list(OUTPUTS),
                custom_translation_table={torch.ops.aten.log_sigmoid.default: _log_sigmoid},
            )
        except RuntimeError as error:  # OnnxExporterError
            raise not_exported(graph, error) from error
    name_dimensions(written.model)
    written.model.metadata_props.update(metadata.texts())
    written.model.producer_name, written.model.producer_version = "longview", metadata.longview
    state = itertools.chain(graph.parameters(), graph.buffers())
    size = sum(value.numel() * value.element_size() for value in state)
    written.save(str(file), external_data=size > _ONE_FILE)


def _log_sigmoid(self: Any) -> Any:
    """Finite for logits of any size; the exporter's own, log(sigmoid(x)), is minus infinity below -88."""
    from onnxscript import opset18

    return opset18.Neg(opset18.Softplus(opset18.Neg(self)))


def name_dimensions(model: Any) -> None:
    """Call the free dimensions N and B, which torch calls s34 and u0 + 1."""
    for values, letter in ((model.graph.inputs, "N"), (model.graph.outputs, "B")):
        for value in values:
            value.shape[0] = letter


@dataclass(frozen=True)
class Difference:
    """How far a runtime's numbers are from PyTorch's, at most."""

    logits: float
    relative: float
    """Of logits; of those beyond 1 as a share."""
    probabilities: float

    def require(self, file: Path) -> None:
        """Refuse a file that is further off than :data:`TOLERANCE`, or that gave no numbers.

        Raises:
            InputError: With the difference.
        """
        if not self.relative <= TOLERANCE:
            raise InputError(
                f"{file.name} would differ from PyTorch by {self.logits:.2g} in its logits, more than {TOLERANCE:g}; "
                f"it was not kept. Try another --opset, or --to safetensors"
            )


def difference(network: Network, runtime: RuntimeNetwork, image_size: int) -> Difference:
    """Compare a runtime with PyTorch on drawn batches of several shapes."""
    found = [_differences(network, runtime, batch) for batch in _batches(image_size)]
    return Difference(*(float(torch.tensor(values).max()) for values in zip(*found, strict=True)))


def _batches(size: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    return (drawn_batch(rows, size, seed) for seed, rows in enumerate(_ROWS, start=1))


@torch.inference_mode()
def _differences(
    network: Network, runtime: RuntimeNetwork, batch: tuple[Tensor, Tensor, Tensor]
) -> tuple[float, float, float]:
    studies = int(batch[1].max()) + 1
    ours, theirs = network(*batch, studies), runtime(*batch, studies)
    gap = (ours - theirs).abs()
    relative = gap / ours.abs().clamp(min=1)
    return float(gap.max()), float(relative.max()), float((ours.sigmoid() - theirs.sigmoid()).abs().max())
