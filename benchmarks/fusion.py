"""One training step of view fusion on packed views, against the same network with every study padded to four views.

    uv run benchmarks/fusion.py
    uv run benchmarks/fusion.py --encoder resnet18 --size 160 --studies 24 --rounds 5

Studies have as many views as in CXR-LT: 45 % one, 46 % two, 9 % three. The usual recipe, as in CheXFusion and what
followed it, fills every study up to four views with blank images, encodes these too, and lets their tokens take part
in attention. Both run the same network, in turns; the shortest of several rounds counts. A step is forward, loss and
backward, the encoder included; then fusion and decoder alone, on features made before. Memory is what autograd saves
for the backward pass, parameters left out: the same number on every device. Target: a step at least 2 times faster.

The second table has studies of 1, 2, 3 and 4 views each, packed: the cost per view should not grow with their number.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable

os.environ.setdefault("OMP_NUM_THREADS", "1")  # one core: threads that wait for each other would be measured too

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn import functional

from longview.labels import Label, LabelSet
from longview.models.decoder import LabelDecoder
from longview.models.encoder import Encoder
from longview.models.fusion import TransformerFusion
from longview.models.network import StudyNetwork

LABELS = LabelSet("forty", [Label(f"Finding {number:02d}") for number in range(40)])
SHARES = {1: 0.45, 2: 0.46, 3: 0.09}
MOST = 4
Step = Callable[[], Tensor]


def views_of(studies: int) -> list[int]:
    """Views per study in CXR-LT's shares."""
    edges = np.cumsum([0.0, *SHARES.values()])
    counts = np.diff((edges * studies).round()).astype(int)
    return [views for views, count in zip(SHARES, counts, strict=True) for _ in range(count)]


def batch_of(views: list[int], size: int, pad: bool = False) -> tuple[Tensor, Tensor, Tensor, int]:
    """Random images of studies, packed or filled up to four views with blank ones."""
    generator = torch.Generator().manual_seed(0)
    study = torch.repeat_interleave(torch.arange(len(views)), torch.tensor(views))
    images = torch.randint(0, 256, (len(study), 1, size, size), dtype=torch.uint8, generator=generator)
    if pad:
        missing = torch.tensor([MOST - count for count in views])
        study = torch.cat([study, torch.repeat_interleave(torch.arange(len(views)), missing)])
        images = torch.cat([images, torch.zeros(len(study) - len(images), 1, size, size, dtype=torch.uint8)])
    return images, study, torch.arange(len(study)) % 3, len(views)


def step_of(network: StudyNetwork, batch: tuple[Tensor, Tensor, Tensor, int], fusion_alone: bool = False) -> Step:
    """A function that does one forward and backward pass and returns the loss."""
    images, study, view, studies = batch
    target = (torch.arange(studies * len(LABELS.names)).view(studies, -1) % 7 == 0).float()
    features = None
    if fusion_alone:
        with torch.no_grad():
            features = network.encode(images)

    def step() -> Tensor:
        network.zero_grad(set_to_none=True)
        given = None if features is None else features.requires_grad_()  # as if an encoder were trained below
        loss = functional.binary_cross_entropy_with_logits(network(images, study, view, studies, given), target)
        loss.backward()
        return loss

    return step


def saved_bytes(network: StudyNetwork, step: Step) -> int:
    """Bytes that autograd keeps for the backward pass of a step, each storage once, without parameters."""
    own = {parameter.untyped_storage().data_ptr() for parameter in network.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        step()
    return sum(kept.values())


def race(steps: list[Step], rounds: int) -> list[float]:
    """Shortest wall time of each in seconds, run in turn so that all meet the same load."""
    for step in steps:
        step()
    times: list[list[float]] = [[] for _ in steps]
    for _ in range(rounds):
        for step, taken in zip(steps, times, strict=True):
            begin = time.perf_counter()
            step()
            taken.append(time.perf_counter() - begin)
    return [min(taken) for taken in times]


def line_through(views: np.ndarray, cost: np.ndarray) -> tuple[float, float, float]:
    """Slope, intercept and largest deviation (as a share of the largest cost) of the straight line."""
    slope, start = np.polyfit(views, cost, 1)
    return float(slope), float(start), float(np.abs(start + slope * views - cost).max() / cost.max())


def main() -> None:
    """Print both tables and the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", default="resnet18")
    parser.add_argument("--size", type=int, default=128, help="side of the images in px")
    parser.add_argument("--studies", type=int, default=22)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--width", type=int, default=256)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    small = {"width": options.width, "heads": 8, "feedforward": 4 * options.width}
    network = StudyNetwork(Encoder(options.encoder), LabelDecoder(**small), TransformerFusion(**small))
    network.build(LABELS, options.size, weights=False)
    console = Console()
    views = views_of(options.studies)
    console.print(
        f"{options.encoder}, {options.size} px, {options.studies} studies with {sum(views)} views "
        f"({sum(views) / len(views):.2f} each; padded: {MOST}), width {options.width}, shortest of {options.rounds}"
    )
    table = Table("", "packed", "padded to 4", "ratio")
    for name, fusion_alone in (("step", False), ("fusion and decoder alone", True)):
        steps = [step_of(network, batch_of(views, options.size, pad), fusion_alone) for pad in (False, True)]
        fast, slow = race(steps, options.rounds)
        table.add_row(f"{name}, ms", f"{fast * 1e3:.0f}", f"{slow * 1e3:.0f}", f"{slow / fast:.2f}")
        less, more = (saved_bytes(network, step) for step in steps)
        table.add_row(f"{name}, MB saved", f"{less / 1e6:.1f}", f"{more / 1e6:.1f}", f"{more / less:.2f}")
    console.print(table)

    table = Table("views per study", "step, ms", "ms per view", "MB saved", "MB per view")
    studies = max(options.studies // 3, 2)
    steps = [step_of(network, batch_of([count] * studies, options.size)) for count in range(1, MOST + 1)]
    times = np.array(race(steps, options.rounds)) * 1e3
    sizes = np.array([saved_bytes(network, step) for step in steps]) / 1e6
    counts = np.arange(1, MOST + 1)
    for count, taken, size in zip(counts, times, sizes, strict=True):
        images = count * studies
        table.add_row(str(count), f"{taken:.0f}", f"{taken / images:.2f}", f"{size:.1f}", f"{size / images:.2f}")
    console.print(table)
    for name, cost, unit in (("time", times, "ms"), ("memory", sizes, "MB")):
        slope, start, deviation = line_through(counts * studies, cost)
        console.print(
            f"{name}: {start:.1f} {unit} + {slope:.2f} {unit} per view; farthest from the line: {deviation:.1%}"
        )


if __name__ == "__main__":
    main()
