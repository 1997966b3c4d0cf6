"""A server under load: clients on this machine's loopback, scoring together against one at a time.

    uv run --extra serve benchmarks/serving.py
    uv run --extra serve benchmarks/serving.py --checkpoint best.ckpt --clients 32 --seconds 60 --requests 10000

Each client sends a film (PNG) to POST /predict, without heat-maps unless --heatmaps is given, waits for the answer and
sends the next. Clients are threads of this process, so that they take their share of the same cores. A server with
--batch 1 and one with --batch 16 run one after the other; printed are answers by status, the median and the 95th
percentile of the time of an answer, answers per second, and the server's memory (resident) after each tenth of the
load. Without --checkpoint the model is MobileNetV3 (224 px, 14 labels) with random weights. Targets: no status but 200
and 429, at least 1.5 times the throughput, memory that does not grow.
"""

from __future__ import annotations

import argparse
import base64
import http.client
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from rich.console import Console
from rich.table import Table

_START = """
import sys
import torch
from longview.data.transforms import Preprocessing
from longview.inference import OpenModel
from longview.labels import Label, LabelSet
from longview.models.decoder import LinearDecoder
from longview.models.encoder import Encoder
from longview.models.network import StudyNetwork
from longview.serving.memory import keep_memory
from longview.serving.plan import Plan
from longview.serving.serve import _listening, _run
from longview.serving.served import Served
from longview.serving.settings import Settings


class Random(Plan):
    def open(self):
        keep_memory()
        torch.set_num_threads(self.settings.cores)
        labels = LabelSet("random", tuple(Label(f"Finding {number}") for number in range(14)))
        network = StudyNetwork(Encoder("mobilenetv3_large_100"), LinearDecoder(dropout=0.2))
        network.build(labels, 224)
        network.eval().requires_grad_(requires_grad=False)
        policy, cpu = Preprocessing(224, "squash"), torch.device("cpu")
        return [Served.of(OpenModel("random", labels, labels.names, network, 224, policy, "0" * 64, cpu))]


if __name__ == "__main__":
    port, batch, cores = (int(word) for word in sys.argv[1:])
    _run(Random((), (), None, 0.5, None, "cpu", Settings(batch=batch, cores=cores)), _listening("127.0.0.1", port))
"""


@dataclass
class Load:
    """What the clients saw."""

    statuses: Counter[int] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    memory: list[float] = field(default_factory=list)
    wall: float = 0.0


def main() -> None:
    """Run both servers, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", help="a model of your own; default: a random MobileNetV3")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--requests", type=int, default=0, help="end after so many answers; 0: after --seconds")
    parser.add_argument("--size", type=int, default=224, help="side of the film in px")
    parser.add_argument("--heatmaps", action="store_true")
    parser.add_argument("--samples", type=int, default=0)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 16])
    parser.add_argument("--cores", type=int, default=os.cpu_count(), help="threads of the network")
    parser.add_argument("--port", type=int, default=8765)
    given = parser.parse_args()
    film = np.random.default_rng(0).integers(0, 256, (given.size, given.size), np.uint8)
    content = base64.b64encode(cv2.imencode(".png", film)[1].tobytes()).decode()
    asked = {"cxr_base64": content, "heatmaps": given.heatmaps, "samples": given.samples}
    body = json.dumps(asked).encode()
    table = Table("batch", "answers", "p50 ms", "p95 ms", "per second", "memory MB", title=f"{given.clients} clients")
    rates = []
    for batch in given.batches:
        with tempfile.TemporaryDirectory() as folder:
            process = _start(given, batch, Path(folder))
            try:
                load = _load(given, body, process.pid)
            finally:
                process.terminate()
                process.wait()
        times = np.array(load.seconds) * 1000
        rates.append(load.statuses[200] / load.wall)
        answers = ", ".join(f"{status}: {count}" for status, count in sorted(load.statuses.items()))
        memory = " ".join(f"{value:.0f}" for value in load.memory)
        p50, p95 = np.percentile(times, [50, 95])
        table.add_row(str(batch), answers, f"{p50:.0f}", f"{p95:.0f}", f"{rates[-1]:.1f}", memory)
    Console(width=140).print(table)
    Console().print(f"throughput of the last against the first: {rates[-1] / rates[0]:.2f} times")


def _start(given: argparse.Namespace, batch: int, folder: Path) -> subprocess.Popen[bytes]:
    if given.checkpoint:
        words = [str(Path(__file__).parents[1] / "main.py"), "serve", "--checkpoint", given.checkpoint]
        words += ["--port", str(given.port), "--batch", str(batch), "--cores", str(given.cores)]
    else:
        (folder / "start.py").write_text(_START)
        words = [str(folder / "start.py"), str(given.port), str(batch), str(given.cores)]
    process = subprocess.Popen([sys.executable, *words], env=os.environ | {"OMP_WAIT_POLICY": "PASSIVE"})
    for _ in range(600):
        try:
            connection = http.client.HTTPConnection("127.0.0.1", given.port, timeout=5)
            connection.request("GET", "/readyz")
            if connection.getresponse().status == 200:
                return process
        except OSError:
            time.sleep(0.2)
        if process.poll() is not None:
            break
    process.kill()
    raise SystemExit("the server did not start")


def _load(given: argparse.Namespace, body: bytes, pid: int) -> Load:
    load, lock = Load(), threading.Lock()
    started = time.perf_counter()
    end = threading.Event()

    def client() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", given.port, timeout=120)
        while not end.is_set():
            begun = time.perf_counter()
            connection.request("POST", "/predict", body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            answer.read()
            if answer.status == 429:
                time.sleep(float(answer.headers["Retry-After"]))
            with lock:
                load.statuses[answer.status] += 1
                load.seconds.append(time.perf_counter() - begun)

    threads = [threading.Thread(target=client, daemon=True) for _ in range(given.clients)]
    for thread in threads:
        thread.start()
    for part in range(1, 11):
        if given.requests:
            while len(load.seconds) < given.requests * part / 10:
                time.sleep(0.1)
        else:
            time.sleep(max(0.0, started + given.seconds * part / 10 - time.perf_counter()))
        load.memory.append(_resident(pid))
    load.wall = time.perf_counter() - started
    end.set()
    for thread in threads:
        thread.join()
    return load


def _resident(pid: int) -> float:
    """Resident memory in MB."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


if __name__ == "__main__":
    main()
