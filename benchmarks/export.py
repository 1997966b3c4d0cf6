"""One film through a DenseNet-121 at 224 px: PyTorch's eager mode against ONNX Runtime and OpenVINO, on the CPU.

    uv run --extra onnx benchmarks/export.py
    uv run --extra onnx --extra openvino benchmarks/export.py --threads 2 --rounds 5

All score the same films with the same weights, in turns; the shortest median of several rounds counts. PyTorch runs
twice: as timm makes the network, and with the channels of a place side by side, as longview keeps it, which is faster.
OpenVINO is left out where it is not installed. The last column is the largest difference of probabilities from
PyTorch's (random weights: of a trained model's int8 it tells nothing). Target: ONNX Runtime at least 2 times as fast
as eager PyTorch.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from copy import deepcopy
from importlib.util import find_spec
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # one core, unless --threads asks for more

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from longview.exported.metadata import Metadata, summary
from longview.exported.runtime import OnnxNetwork, OpenVinoNetwork
from longview.exporting.graph import Graph, drawn_batch
from longview.exporting.onnx import write_onnx
from longview.exporting.quantize import quantize
from longview.labels import Label, LabelSet
from longview.models.decoder import LinearDecoder
from longview.models.encoder import Encoder
from longview.models.network import Network, StudyNetwork

ONE = torch.zeros(1, dtype=torch.int64)
Way = Callable[[Tensor], Tensor]


def network_of(encoder: str, labels: LabelSet, size: int) -> StudyNetwork:
    """A network with random weights, whose batch norms know the drawn films, in evaluation mode."""
    torch.manual_seed(0)
    network = StudyNetwork(Encoder(encoder), LinearDecoder())
    network.build(labels, size)
    with torch.no_grad():
        network.train()(*drawn_batch(list(range(8)), size), 8)
    return network.eval().requires_grad_(requires_grad=False)


def films(count: int, size: int, seed: int) -> list[Tensor]:
    """Drawn films (1, 1, S, S) uint8."""
    return [image[None] for image in drawn_batch(list(range(count)), size, seed)[0]]


def files(network: Network, labels: LabelSet, size: int, folder: Path) -> tuple[Path, Path]:
    """The network as .onnx, in single precision and in 8 bits."""
    metadata = Metadata(
        name="benchmark",
        labels=labels.names,
        label_set=labels.to_dict(),
        image_size=size,
        preprocessing={"size": size, "resize": "squash"},
        checkpoint_sha256="",
        network=summary(network),
    )
    single, eight = folder / "single.onnx", folder / "int8.onnx"
    write_onnx(Graph(network), metadata, single)
    eight.write_bytes(single.read_bytes())
    quantize(eight, metadata, films(32, size, seed=3))
    return single, eight


def ways_of(network: StudyNetwork, labels: LabelSet, size: int, folder: Path) -> dict[str, Way]:
    """Every way to score a film, by name; PyTorch's first."""
    single, eight = files(network, labels, size, folder)
    plain = deepcopy(network)
    plain.encoder.model.to(memory_format=torch.contiguous_format)
    networks: dict[str, Network] = {
        "PyTorch, eager": plain,
        "PyTorch, eager, channels last": network,
        "ONNX Runtime": OnnxNetwork(single),
        "ONNX Runtime, int8": OnnxNetwork(eight),
    }
    if find_spec("openvino"):
        networks |= {
            "OpenVINO, f32": OpenVinoNetwork(single),
            "OpenVINO, bf16": OpenVinoNetwork(single, "bf16"),
            "OpenVINO, int8": OpenVinoNetwork(eight),
        }
    for other in list(networks.values())[2:]:
        other.build(labels, size)

    def way(chosen: Network) -> Way:
        return lambda image: chosen(image, ONE, ONE, 1)

    return {name: way(chosen) for name, chosen in networks.items()}


def milliseconds(way: Way, images: list[Tensor]) -> float:
    """Median time of a film."""
    times = []
    for image in images:
        start = time.perf_counter()
        way(image)
        times.append(time.perf_counter() - start)
    return 1000 * statistics.median(times)


@torch.inference_mode()
def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", default="densenet121", help="timm model")
    parser.add_argument("--size", type=int, default=224, help="side of the images in px")
    parser.add_argument("--labels", type=int, default=14, help="labels")
    parser.add_argument("--films", type=int, default=10, help="films per round")
    parser.add_argument("--rounds", type=int, default=5, help="rounds, of which the fastest counts")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of each runtime")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    labels = LabelSet("labels", [Label(f"Finding {number:02d}") for number in range(given.labels)])
    with torch.inference_mode(mode=False):
        network = network_of(given.encoder, labels, given.size)
        with tempfile.TemporaryDirectory() as folder:
            ways = ways_of(network, labels, given.size, Path(folder))
    images = films(given.films, given.size, seed=5)
    expected = torch.cat([ways["PyTorch, eager"](image) for image in images]).sigmoid()
    away = {
        name: float((torch.cat([way(image) for image in images]).sigmoid() - expected).abs().max())
        for name, way in ways.items()
    }
    best = dict.fromkeys(ways, float("inf"))
    for _ in range(given.rounds):
        for name, way in ways.items():
            best[name] = min(best[name], milliseconds(way, images))
    show(best, away, f"{given.encoder}, {given.size} px, one film, {given.threads} thread(s)")


def show(best: dict[str, float], away: dict[str, float], title: str) -> None:
    """Print a row per way."""
    table = Table(title=title, title_justify="left")
    for column in ("", "ms a film", "times as fast", "largest difference"):
        table.add_column(column, justify="right" if column else "left")
    eager = next(iter(best.values()))
    for name, value in best.items():
        table.add_row(name, f"{value:.1f}", f"{eager / value:.2f}", f"{away[name]:.1e}")
    Console().print(table)


if __name__ == "__main__":
    main()
