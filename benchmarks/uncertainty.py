"""Monte-Carlo dropout against one deterministic pass, and against passes repeated one by one.

    uv run benchmarks/uncertainty.py
    uv run benchmarks/uncertainty.py --encoders mobilenetv3_large_100 --images 1 --samples 30

Naive repetition is the whole network with its dropout in training mode, once per sample. Here the encoder runs once,
and of the head only what follows its first dropout is repeated, samples together. All ways run on the same network and
films, two views per study, in turns; the shortest of several rounds counts. Target: 10 samples for at most 1.15 passes
where the dropout sits before the read-out (LinearDecoder).
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable

os.environ.setdefault("OMP_NUM_THREADS", "1")  # one core: threads that wait for each other would be measured too

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from longview import StudyKey
from longview.labels import Label, LabelSet
from longview.models.decoder import Decoder, LabelDecoder, LinearDecoder
from longview.models.encoder import Encoder
from longview.models.fusion import Fusion, MeanFusion, TransformerFusion
from longview.models.network import StudyNetwork
from longview.uncertainty.dropout import MonteCarlo

HEADS: dict[str, Callable[[], tuple[Decoder, Fusion]]] = {
    "LinearDecoder": lambda: (LinearDecoder(dropout=0.2), MeanFusion()),
    "LabelDecoder": lambda: (LabelDecoder(), MeanFusion()),
    "TransformerFusion, LabelDecoder": lambda: (LabelDecoder(), TransformerFusion()),
}


def network_of(encoder: str, head: str, labels: int, size: int) -> StudyNetwork:
    """A network with random weights, in evaluation mode."""
    torch.manual_seed(0)
    network = StudyNetwork(Encoder(encoder), *HEADS[head]())
    network.build(LabelSet("labels", [Label(f"Finding {number:02d}") for number in range(labels)]), size)
    return network.eval()


def naive(network: StudyNetwork, images: Tensor, study: Tensor, view: Tensor, studies: int, samples: int) -> Tensor:
    """Logits (T, B, L), a whole pass for each sample."""
    dropping = (nn.Dropout, nn.MultiheadAttention, nn.TransformerEncoderLayer, LabelDecoder)
    for part in network.modules():
        part.training = isinstance(part, dropping)
    logits = torch.stack([network(images, study, view, studies) for _ in range(samples)])
    network.eval()
    return logits


def shortest(ways: dict[str, Callable[[], Tensor]], rounds: int, device: str) -> dict[str, float]:
    """Seconds of each way, the shortest of several rounds in turns."""
    best = dict.fromkeys(ways, float("inf"))
    for _ in range(rounds + 1):  # the first one warms up
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            if device == "cuda":
                torch.cuda.synchronize()
            best[name] = min(best[name], time.perf_counter() - start)
    return best


def main() -> None:
    """Time, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoders", nargs="+", default=["densenet121", "mobilenetv3_large_100"])
    parser.add_argument("--heads", nargs="+", default=list(HEADS), choices=list(HEADS))
    parser.add_argument("--images", type=int, nargs="+", default=[2, 16], help="views in a batch, two per study")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--labels", type=int, default=26)
    parser.add_argument("--samples", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    asked = parser.parse_args()
    table = Table(title=f"{asked.samples} samples, {asked.size} px, {asked.device}")
    for column in ("encoder", "head", "views", "one pass, ms", "samples, passes", "pass and samples", "naive, passes"):
        table.add_column(column, justify="left" if column in {"encoder", "head"} else "right")
    for encoder in asked.encoders:
        for head in asked.heads:
            network = network_of(encoder, head, asked.labels, asked.size).to(asked.device)
            for count in asked.images:
                table.add_row(encoder, head, str(count), *figures(network, count, asked))
    Console(width=120).print(table)


@torch.inference_mode()
def figures(network: StudyNetwork, count: int, asked: argparse.Namespace) -> list[str]:
    """Cells of one row of the table."""
    device, studies = asked.device, max(1, count // 2)
    images = torch.randint(0, 256, (count, 1, asked.size, asked.size), dtype=torch.uint8, device=device)
    study = torch.arange(count, device=device) % studies
    view = torch.arange(count, device=device) // studies % 4
    ids = [StudyKey("", str(row), "") for row in range(studies)]
    target = torch.empty(studies, asked.labels)
    sampler = MonteCarlo(asked.samples)
    ways: dict[str, Callable[[], Tensor]] = {
        "pass": lambda: network(images, study, view, studies),
        "samples": lambda: sampler.sample(network, images, study, view, studies, network.encode(images)),
        "both": lambda: sampler.logits(
            network, {"images": images, "study": study, "view": view, "ids": ids, "target": target}
        ),
        "naive": lambda: naive(network, images, study, view, studies, asked.samples),
    }
    found = shortest(ways, asked.rounds, device)
    one = found["pass"]
    return [f"{one * 1e3:.1f}", *(f"{found[name] / one:.2f}" for name in ("samples", "both", "naive"))]


if __name__ == "__main__":
    main()
