"""Heat-maps of all labels of one film, against one forward and backward pass of the network per label.

    uv run benchmarks/explain.py
    uv run benchmarks/explain.py --encoder convnext_tiny --size 224 --labels 14 --rounds 3

The usual way to a Grad-CAM per label is a forward pass, a backward pass from the label's logit, and the gradient that
arrives at the last feature map. Here the encoder runs once, without gradients; what lies above it is asked for all
labels together: by its weights where it is linear on the mean, else by one batched vector-Jacobian product of the head.
All ways run on the same network and film, in turns; the shortest of several rounds counts. The last column is the
largest difference of the maps, each scaled to [0, 1], from those of the usual way. Target: at least 20 times faster.
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
from torch import Tensor

from longview.explain import Method
from longview.explain.heads import Head
from longview.explain.maps import Explainer
from longview.labels import Label, LabelSet
from longview.models.decoder import Decoder, LabelDecoder, LinearDecoder
from longview.models.encoder import Encoder
from longview.models.network import StudyNetwork

Way = Callable[[], Tensor]
ONE = torch.zeros(1, dtype=torch.int64)


class BackwardHead(Head):
    """A head that is asked by a backward pass, even where its weights would say it."""

    def weights(self) -> Tensor | None:
        """None."""
        return None


def one_pass_each(network: StudyNetwork, image: Tensor, labels: int) -> Tensor:
    """Grad-CAM (labels, 1, h, w) by a whole forward and backward pass per label."""
    maps = []
    for label in range(labels):
        network.zero_grad(set_to_none=True)
        features = network.encode(image)
        features.retain_grad()
        network(image, ONE, ONE, 1, features)[0, label].backward()
        gradient = features.grad
        assert gradient is not None
        maps.append((gradient.mean(dim=(2, 3), keepdim=True) * features).sum(dim=1).relu().detach())
    return torch.stack(maps)


def together(network: StudyNetwork, image: Tensor, labels: int, method: Method, backward: bool = False) -> Tensor:
    """Maps (labels, 1, h, w) by one forward pass of the encoder."""
    explainer = Explainer(network, image, ONE)
    if backward:
        explainer.head = BackwardHead(network, ONE)
    return explainer.raw(method, range(labels))


def scaled(maps: Tensor) -> Tensor:
    """Each map divided by its largest value."""
    return maps / maps.amax(dim=(1, 2, 3), keepdim=True).clamp(min=1e-30)


def network_of(encoder: str, decoder: Decoder, labels: int, size: int) -> StudyNetwork:
    """A network with random weights, in evaluation mode."""
    torch.manual_seed(0)
    network = StudyNetwork(Encoder(encoder), decoder)
    network.build(LabelSet("labels", [Label(f"Finding {number:02d}") for number in range(labels)]), size)
    return network.eval()


def plain(network: StudyNetwork, image: Tensor) -> Tensor:
    """One forward pass, without gradients."""
    with torch.no_grad():
        return network(image, ONE, ONE, 1)


def measure(ways: dict[str, Way], rounds: int) -> tuple[dict[str, float], dict[str, Tensor]]:
    """Shortest seconds of each way, run in turns, and what it gives."""
    results = {name: way() for name, way in ways.items()}  # and warm up
    seconds = dict.fromkeys(ways, float("inf"))
    for _ in range(rounds):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            seconds[name] = min(seconds[name], time.perf_counter() - start)
    return seconds, results


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--encoder", default="densenet121")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--labels", type=int, default=14)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    image = torch.randint(0, 256, (1, 1, args.size, args.size), dtype=torch.uint8)
    table = Table(
        title=f"{args.encoder}, {args.size} px, {args.labels} labels, one film, {torch.get_num_threads()} core"
    )
    for name in ("head", "way to the maps of all labels", "s", "times faster", "forward passes", "difference"):
        table.add_column(name, justify="left" if name.startswith(("head", "way")) else "right")
    heads: dict[str, tuple[Decoder, dict[str, tuple[Method, bool]]]] = {
        "linear": (LinearDecoder(), {
            "cam: closed form": ("cam", False),
            "gradcam: closed form": ("gradcam", False),
            "gradcam: batched backward pass of the head": ("gradcam", True),
            "gradcam++: batched backward pass of the head": ("gradcam++", True),
        }),
        "label decoder": (LabelDecoder(), {
            "gradcam: batched backward pass of the head": ("gradcam", False),
            "hirescam: batched backward pass of the head": ("hirescam", False),
            "gradattention: one backward pass to the attention": ("gradattention", False),
            "attention: no backward pass": ("attention", False),
        }),
    }  # fmt: skip
    for head, (decoder, ours) in heads.items():
        network = network_of(args.encoder, decoder, args.labels, args.size)
        usual = "a forward and a backward pass per label"
        ways: dict[str, Way] = {
            usual: lambda network=network: one_pass_each(network, image, args.labels),
            "(one plain forward pass)": lambda network=network: plain(network, image),
        }
        for name, (method, backward) in ours.items():
            ways[name] = lambda network=network, method=method, backward=backward: together(
                network, image, args.labels, method, backward
            )
        seconds, results = measure(ways, args.rounds)
        for name, spent in seconds.items():
            same = name in ours and ours[name][0] in {"cam", "gradcam"}
            difference = (scaled(results[name]) - scaled(results[usual])).abs().max() if same else None
            table.add_row(
                head, name, f"{spent:.3f}", f"{seconds[usual] / spent:.1f}",
                f"{spent / seconds['(one plain forward pass)']:.2f}", "" if difference is None else f"{difference:.0e}",
            )  # fmt: skip
        table.add_section()
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
