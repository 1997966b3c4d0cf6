"""Films per second of `prepare` on one core, against the usual way to make a cache of small images.

    uv run python benchmarks/prepare.py [--films 24] [--size 384]

Both read the same JPEG films of 2500 x 3000 px (about 1.2 MB each, as MIMIC-CXR-JPG's) from a temporary folder,
in the same run, in turn, in this one process; CPU seconds are counted, so that other programs do not matter:

* the usual recipe: OpenCV decodes in colour, resizes with Lanczos and writes a JPEG of quality 95;
* the same in grey (kinder than what is found in practice);
* ours: decode of the luma plane, shrunk while decoding, area resize, written into the store's images file.

Measured with 12 films on one core of a two-core machine; films/s of ours, times the colour and the grey recipe:
384 px 72/s, 2.8 and 1.6; 512 px 73/s, 3.5 and 1.8; 1024 px 51/s, 4.1 and 1.9. The colour recipe, as used in
practice, is the one to be twice as fast as.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from longview.data.packing import PackSettings, pack_files


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


def ours(files: list[Path], folder: Path, size: int) -> None:
    """What a worker of `prepare` does."""
    target = folder / "images.npy"
    target.touch()
    settings = PackSettings(files[0].parent, target, size, "squash", "npy", 0, 0)
    jobs = [(row, file.name) for row, file in enumerate(files)]
    outcomes = [outcome for some in pack_files(jobs, settings, workers=0) for outcome in some]
    assert not any(outcome.reason for outcome in outcomes)


def main() -> None:
    """Time all three three times, in turn, and print films per second and ratios of the best."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--films", type=int, default=24)
    parser.add_argument("--size", type=int, default=384)
    options = parser.parse_args()
    cv2.setNumThreads(1)  # per core
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "raw").mkdir()
        files = [folder / "raw" / f"{seed:03d}.jpg" for seed in range(options.films)]
        for seed, file in enumerate(files):
            cv2.imwrite(str(file), draw_film(seed), [cv2.IMWRITE_JPEG_QUALITY, 95])
        megabytes = sum(file.stat().st_size for file in files) / 1e6 / len(files)
        ways: dict[str, Callable[[], None]] = {
            "usual recipe, colour": lambda: usual(files, folder, options.size, cv2.IMREAD_COLOR),
            "usual recipe, grey": lambda: usual(files, folder, options.size, cv2.IMREAD_GRAYSCALE),
            "longview prepare": lambda: ours(files, folder, options.size),
        }
        best = dict.fromkeys(ways, float("inf"))
        for _ in range(3):
            for way, work in ways.items():
                begun = time.process_time()
                work()
                best[way] = min(best[way], time.process_time() - begun)
    print(f"{options.films} JPEG films of 2500 x 3000 px, {megabytes:.2f} MB each, to {options.size} px, one core")
    mine = best["longview prepare"]
    for way, seconds in best.items():
        print(f"{way:<22}{options.films / seconds:8.1f} films/s{seconds / mine:8.2f} x the time of longview")
    ratio = best["usual recipe, colour"] / mine
    print(f"ratio to the usual recipe: {ratio:.2f} (must reach 2: {'yes' if ratio >= 2 else 'NO'})")


if __name__ == "__main__":
    main()
