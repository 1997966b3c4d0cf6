"""Films per second of `prepare`: on one core against the usual ways, and with more worker processes.

    uv run python benchmarks/prepare.py [--films 24] [--size 384]
    uv run python benchmarks/prepare.py --workers 1 2 [--films 600] [--size 512]

Without `--workers`: both sides read the same JPEG films of 2500 x 3000 px (about 1.2 MB each, as MIMIC-CXR-JPG's) from
a temporary folder, in the same run, in turn, in this one process; CPU seconds are counted, so that other programs do
not matter:

* the usual recipe: OpenCV decodes in colour, resizes with Lanczos and writes a JPEG of quality 95;
* the same in grey (kinder than what is found in practice);
* ours: decode of the luma plane, shrunk while decoding, area resize, written into the store's images file.

Measured with 12 films on one core of a two-core machine; films/s of ours, times the colour and the grey recipe:
384 px 72/s, 2.8 and 1.6; 512 px 73/s, 3.5 and 1.8; 1024 px 51/s, 4.1 and 1.9. The colour recipe, as used in
practice, is the one to be twice as fast as.

With `--workers`: phantom films of 1024 px in NIH's layout (PNG), plain serial loops of Pillow and of OpenCV that
decode, resize and fill an array, and `prepare`'s packing with each number of workers. Elapsed films/s count from the
first films done, when all workers have started, and depend on what else the machine does. CPU milliseconds per film,
of all processes and without their start, do not: where they stay the same, throughput is linear in the cores that are
free.

Measured with 300 films to 512 px on two cores that five other programs shared (load 10, so elapsed times say nothing),
ms of CPU per film: Pillow's loop 16.0, OpenCV's 9.0; packing 12.2 with one worker, 11.3 with two.
"""

from __future__ import annotations

import argparse
import os
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from longview.data.packing import PackSettings, pack_files
from longview.data.phantom import phantom

DRAWN = 12  # different phantom films; the rest are links to them


def draw_film(seed: int) -> np.ndarray:
    """A film-like picture, (3000, 2500) uint8: soft shapes, finer structure and grain."""
    height, width = 3000, 2500
    rng = np.random.default_rng(seed)
    soft, fine = (
        cv2.resize(rng.random(shape, dtype=np.float32), (width, height), interpolation=cv2.INTER_CUBIC)
        for shape in ((12, 10), (150, 125))
    )
    grain = cv2.GaussianBlur(rng.normal(0, 1, (height, width)).astype(np.float32), (0, 0), 1.2)
    return np.clip(40 + 150 * soft + 20 * fine + 8 * grain, 0, 255).astype(np.uint8)


def usual(files: list[Path], folder: Path, size: int, flag: int) -> None:
    """Decode, Lanczos, re-encode; one JPEG file per film."""
    for file in files:
        film = cv2.imread(str(file), flag)
        small = cv2.resize(film, (size, size), interpolation=cv2.INTER_LANCZOS4)
        cv2.imwrite(str(folder / file.name), small, [cv2.IMWRITE_JPEG_QUALITY, 95])


def pack(files: list[Path], folder: Path, size: int, workers: int) -> tuple[float, int]:
    """What `prepare` does with films; seconds from the first ones done, and the number of films done since."""
    target = folder / "images.npy"
    target.touch()
    settings = PackSettings(files[0].parent, target, size, "squash", "npy", 0, 0)
    jobs = [(row, file.name) for row, file in enumerate(files)]
    begun, done = 0.0, 0
    for outcomes in pack_files(jobs, settings, workers):
        assert not any(outcome.reason for outcome in outcomes)
        done = done + len(outcomes) if begun else 0
        begun = begun or time.perf_counter()
    return time.perf_counter() - begun, done


def one_core(films: int, size: int) -> None:
    """Time all three three times, in turn, and print films per second and ratios of the best."""
    cv2.setNumThreads(1)  # per core
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "raw").mkdir()
        files = [folder / "raw" / f"{seed:03d}.jpg" for seed in range(films)]
        for seed, file in enumerate(files):
            cv2.imwrite(str(file), draw_film(seed), [cv2.IMWRITE_JPEG_QUALITY, 95])
        megabytes = sum(file.stat().st_size for file in files) / 1e6 / len(files)
        ways: dict[str, Callable[[], object]] = {
            "usual recipe, colour": lambda: usual(files, folder, size, cv2.IMREAD_COLOR),
            "usual recipe, grey": lambda: usual(files, folder, size, cv2.IMREAD_GRAYSCALE),
            "longview prepare": lambda: pack(files, folder, size, workers=0),
        }
        best = dict.fromkeys(ways, float("inf"))
        for _ in range(3):
            for way, work in ways.items():
                begun = time.process_time()
                work()
                best[way] = min(best[way], time.process_time() - begun)
    print(f"{films} JPEG films of 2500 x 3000 px, {megabytes:.2f} MB each, to {size} px, one core")
    mine = best["longview prepare"]
    for way, seconds in best.items():
        print(f"{way:<22}{films / seconds:8.1f} films/s{seconds / mine:8.2f} x the time of longview")
    ratio = best["usual recipe, colour"] / mine
    print(f"ratio to the usual recipe: {ratio:.2f} (must reach 2: {'yes' if ratio >= 2 else 'NO'})")


def with_pillow(file: Path, size: int) -> np.ndarray:
    """(size, size) uint8."""
    with Image.open(file) as film:
        return np.asarray(film.convert("L").resize((size, size), Image.Resampling.LANCZOS))


def with_opencv(file: Path, size: int) -> np.ndarray:
    """(size, size) uint8."""
    return cv2.resize(cv2.imread(str(file), cv2.IMREAD_GRAYSCALE), (size, size), interpolation=cv2.INTER_AREA)


def serial(files: list[Path], size: int, read: Callable[[Path, int], np.ndarray]) -> tuple[float, int]:
    """A plain loop; seconds, and the number of films."""
    images, begun = np.empty((len(files), size, size), np.uint8), time.perf_counter()
    for image, file in zip(images, files, strict=True):
        image[:] = read(file, size)
    return time.perf_counter() - begun, len(files)


def cpu() -> float:
    """CPU seconds of this process and of those that it has waited for."""
    parts = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(part.ru_utime + part.ru_stime for part in parts)


def starting(files: list[Path], folder: Path, size: int, workers: int) -> float:
    """CPU seconds that the workers take to start: what a few films for each cost beyond their share of many more."""
    few, more = 32 * workers, 96 * workers
    seconds = []
    for count in (few, more):
        before = cpu()
        pack([files[number % len(files)] for number in range(count)], folder, size, workers)
        seconds.append(cpu() - before)
    return seconds[0] - (seconds[1] - seconds[0]) * few / (more - few)


def several(films: int, size: int, workers: list[int]) -> None:
    """Time loops and packing twice, in turn, and print the best of each."""
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        phantom("nih", folder / "drawn", studies=DRAWN, size=1024, workers=0)
        drawn = sorted((folder / "drawn").rglob("*_*.png"))[:DRAWN]
        drawn = [file for file in drawn if file.parent.name == "images"]
        (folder / "raw").mkdir()
        files = [folder / "raw" / f"{number:05d}.png" for number in range(films)]
        for number, file in enumerate(files):
            os.link(drawn[number % len(drawn)], file)
        ways: dict[str, Callable[[], tuple[float, int]]] = {
            "serial loop, Pillow": lambda: serial(files, size, with_pillow),
            "serial loop, OpenCV": lambda: serial(files, size, with_opencv),
        }
        for count in workers:
            ways[f"prepare, {count} workers"] = lambda count=count: pack(files, folder, size, count)  # type: ignore[misc]
        starts = {f"prepare, {count} workers": starting(files, folder, size, count) for count in workers}
        rates, costs = dict.fromkeys(ways, 0.0), dict.fromkeys(ways, float("inf"))
        for _ in range(2):
            for way, work in ways.items():
                before = cpu()
                seconds, done = work()
                rates[way] = max(rates[way], done / seconds)
                costs[way] = min(costs[way], (cpu() - before - starts.get(way, 0.0)) / films)
    load = os.getloadavg()[0]
    print(f"{films} phantom films of 1024 px to {size} px on {os.cpu_count()} cores, load {load:.1f}")
    first = rates[f"prepare, {workers[0]} workers"]
    for way, rate in rates.items():
        print(f"{way:<22}{rate:8.1f} films/s  x{rate / first:5.2f}{1000 * costs[way]:8.1f} ms of CPU per film")


def main() -> None:
    """Compare on one core, or over numbers of workers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--films", type=int)
    parser.add_argument("--size", type=int)
    parser.add_argument("--workers", type=int, nargs="+")
    options = parser.parse_args()
    if options.workers:
        several(options.films or 600, options.size or 512, options.workers)
    else:
        one_core(options.films or 24, options.size or 384)


if __name__ == "__main__":
    main()
