"""A graph as PyTorch's exported program (.pt2), which runs without longview and without Python source."""

from __future__ import annotations

import io
from pathlib import Path

import torch

from longview.exported.metadata import Metadata
from longview.exporting.graph import Graph, drawn_batch, exported, traceable
from longview.exporting.onnx import Difference

EXTRA = "metadata.json"


def write_pt2(graph: Graph, metadata: Metadata, file: Path) -> Difference:
    """Write the program with its metadata in it, read it back, and compare it with the network.

    Raises:
        InputError: For a network that has no such graph.
    """
    program = exported(graph, metadata.image_size)
    buffer = io.BytesIO()  # torch warns of, and may refuse, file names that do not end in .pt2
    with traceable():
        torch.export.save(program, buffer, extra_files={EXTRA: metadata.text()})
    file.write_bytes(buffer.getvalue())
    module = torch.export.load(str(file)).module()
    batch = drawn_batch([2, 0, 1, 0, 2], metadata.image_size, seed=1)
    with torch.no_grad():
        ours = graph.network(*batch, 3)
        theirs = module(*batch)[0]
    gap = (ours - theirs).abs()
    relative = gap / ours.abs().clamp(min=1)
    away = (ours.sigmoid() - theirs.sigmoid()).abs()
    return Difference(float(gap.max()), float(relative.max()), float(away.max()))
