"""A network as one graph: images, their studies and views to logits and probabilities, without a line of Python.

What a network asks of the host as it runs, which images belong together, is asked here of tensors, so that a graph
holds for any number of images, studies and views. Parameters are the network's own.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from longview import VIEWS, InputError
from longview.hierarchy import Edge, children_first
from longview.models.fusion import Arrangement, Fusion, StudyGroup, TransformerFusion
from longview.models.network import Network, StudyNetwork

_NOISY = ("torch", "torch.onnx", "torch.export", "torch._dynamo", "onnxscript", "onnx_ir")


class Graph(nn.Module):
    """Images (N, 1, S, S) uint8 of B studies, with `study` (N,) and `view` (N,) int64, to logits and probabilities.

    B is the largest number in `study`, plus one; each row has at least one image.

    Args:
        network: In evaluation mode, on the CPU.
        edges: (parent, child) positions among the L labels: no probability is above its parent's.

    Raises:
        InputError: For a network whose forward pass is not known to be encoder, fusion and decoder.
    """

    def __init__(self, network: Network, edges: Sequence[Edge] = ()) -> None:
        super().__init__()
        name = type(network).__name__
        if not isinstance(network, StudyNetwork):
            raise InputError(
                f"a {name} cannot be exported as a graph: only a longview.models.network.StudyNetwork can, whose parts "
                f"(encoder, fusion, decoder) are known"
            )
        if type(network).forward is not StudyNetwork.forward:
            raise InputError(
                f"{name} has a forward pass of its own, which cannot be exported as a graph; put what is new into its "
                f"fusion or its decoder, or export it with --to safetensors"
            )
        grouped = isinstance(network.fusion, TransformerFusion)
        if not grouped and type(network.fusion).arrange is not Fusion.arrange:
            raise InputError(
                f"{type(network.fusion).__name__} arranges images in a way of its own, which cannot be exported as a "
                f"graph; export it with --to safetensors"
            )
        self.network = network
        self.below = children_first(edges)

    def forward(self, images: Tensor, study: Tensor, view: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, L) and probabilities (B, L), both float32."""
        studies = int_of(study.max() + 1)
        network = self.network
        arrangement = arranged(study, studies) if isinstance(network.fusion, TransformerFusion) else None
        logits = network.fusion(network.encode(images), study, view, studies, network.decoder, arrangement)
        return logits, self.probabilities(logits)

    def probabilities(self, logits: Tensor) -> Tensor:
        """Probabilities (B, L) of logits (B, L); each parent is raised to its highest child, from the bottom up."""
        if not self.below:
            return logits.sigmoid()
        columns = list(logits.sigmoid().unbind(1))
        for parent, children in self.below.items():
            for child in children:
                columns[parent] = torch.maximum(columns[parent], columns[child])
        return torch.stack(columns, dim=1)


def int_of(number: Tensor) -> int:
    """A count, at least 1, as a size: in a graph it stays what the inputs make it."""
    size = int(number.item()) if not torch.compiler.is_compiling() else number.item()
    torch._check(size >= 1)
    return size  # type: ignore[return-value]  # a symbol in a graph


def arranged(study: Tensor, studies: int) -> Arrangement:
    """All studies in one group, padded to the largest number of views, from comparisons of tensors alone.

    Args:
        study: (N,) int64.
        studies: B.
    """
    image = torch.arange(study.shape[0], device=study.device)  # (N,)
    place = ((study[:, None] == study[None]) & (image[None] < image[:, None])).sum(dim=1)  # (N,) earlier ones
    row = torch.arange(studies, device=study.device)  # (B,)
    slot = torch.arange(int_of(place.max() + 1), device=study.device)  # (K,)
    found = (study[None, None] == row[:, None, None]) & (place[None, None] == slot[None, :, None])  # (B, K, N)
    images = (found * image).sum(dim=2)  # (B, K); image 0 where there is none, which is not looked at
    return Arrangement([StudyGroup(images, ~found.any(dim=2))], None, place)


def drawn_batch(studies: Sequence[int], size: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Images (N, 1, S, S) uint8 of soft shapes and noise, with the rows given and views of all types.

    Args:
        studies: N rows, in 0..B-1.
        size: S.
        seed: Of the drawing.
    """
    generator = torch.Generator().manual_seed(seed)
    count = len(studies)
    shapes = torch.rand(count, 1, 5, 5, generator=generator) * torch.linspace(0.3, 1, count)[:, None, None, None]
    soft = nn.functional.interpolate(shapes, size=(size, size), mode="bicubic")
    noise = torch.rand(count, 1, size, size, generator=generator)
    images = ((0.85 * soft + 0.15 * noise).clamp(0, 1) * 255).round().to(torch.uint8)
    return images, torch.tensor(studies), torch.arange(count) % len(VIEWS)


def exported(graph: Graph, image_size: int) -> ExportedProgram:
    """The graph as PyTorch's exported program; N, B and the number of views stay free.

    Raises:
        InputError: Where a part of the network cannot be followed.
    """
    dimension = {0: Dim.DYNAMIC}
    example = drawn_batch([0, 1, 2, 1], image_size)
    with torch.no_grad(), traceable():
        try:
            return torch.export.export(graph.eval(), example, dynamic_shapes=(dimension,) * 3, strict=False)
        except (RuntimeError, torch._dynamo.exc.TorchDynamoException) as error:
            raise not_exported(graph, error) from error


def not_exported(graph: Graph, error: Exception) -> InputError:
    """The message for a network that torch could not turn into a graph."""
    from longview.exported.metadata import summary

    reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    return InputError(
        f"this network ({summary(graph.network)}) cannot be exported as a graph: {reason[:300]}. Export it with --to "
        f"safetensors, which longview opens, or train another encoder"
    )


@contextmanager
def traceable() -> Iterator[None]:
    """Switch off a fused transformer layer that no graph has, and what torch says to its own developers."""
    fused = torch.backends.mha.get_fastpath_enabled()
    levels = {name: logging.getLogger(name).level for name in _NOISY}
    torch.backends.mha.set_fastpath_enabled(False)
    for name in _NOISY:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
