"""Does a pipeline that is killed again and again end as one that ran in one go? Compares their submissions by bytes.

    uv run --extra pipeline --extra text python benchmarks/pipeline_resume.py --kills 5

Runs the pipeline once, and once more in another folder, where it is killed with SIGKILL at random moments: in turn the
whole process group, and only Snakemake and `main.py`, so that the commands that they started live on.
"""

from __future__ import annotations

import argparse
import filecmp
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]


def start(folder: Path, config: Path, cores: int) -> subprocess.Popen[bytes]:
    """The pipeline in a folder that has the repository's configurations."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "configs").exists():
        (folder / "configs").symlink_to(ROOT / "configs")
    command = [sys.executable, str(ROOT / "main.py"), "pipeline", "--config", str(config), "--cores", str(cores)]
    log = (folder / "pipeline.log").open("ab")
    return subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, start_new_session=True)


def children(process: int) -> list[int]:
    """Ids of a process's children."""
    found = subprocess.run(["pgrep", "-P", str(process)], capture_output=True, text=True, check=False)
    return [int(line) for line in found.stdout.split()]


def kill(process: subprocess.Popen[bytes], alone: bool) -> None:
    """Kill a pipeline: with all that it started, or only itself and Snakemake."""
    if alone:
        for child in children(process.pid):
            os.kill(child, signal.SIGKILL)
        process.kill()
    else:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def main() -> None:
    """Run, kill, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=Path("configs/pipeline/phantom.yaml"))
    parser.add_argument("--folder", type=Path, default=Path("results/pipeline_resume"))
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    output = Path(yaml.safe_load((ROOT / options.config).read_text(encoding="utf-8"))["output"])
    whole, killed = options.folder.resolve() / "whole", options.folder.resolve() / "killed"

    begun = time.perf_counter()
    if start(whole, options.config, options.cores).wait():
        sys.exit(f"the pipeline failed; see {whole / 'pipeline.log'}")
    seconds = time.perf_counter() - begun
    print(f"in one go: {seconds:.0f} s")

    rng = random.Random(options.seed)
    for number in range(options.kills):
        process = start(killed, options.config, options.cores)
        alone, after = number % 2 == 1, rng.uniform(0.05, 1.5) * seconds / options.kills
        try:
            process.wait(after)
            break  # it was done before
        except subprocess.TimeoutExpired:
            kill(process, alone)
        what = "Snakemake and main.py" if alone else "all"
        steps = len(list((killed / output / "logs").glob("*.log")))
        print(f"killed {what} after {after:.0f} s, with {steps} steps begun")
    begun = time.perf_counter()
    if start(killed, options.config, options.cores).wait():
        sys.exit(f"the pipeline failed; see {killed / 'pipeline.log'}")
    print(f"the rest: {time.perf_counter() - begun:.0f} s")

    files = sorted((whole / output / "submissions").rglob("*.csv"))
    for file in files:
        other = killed / file.relative_to(whole)
        print(f"{file.relative_to(whole)}: {'equal' if filecmp.cmp(file, other, shallow=False) else 'DIFFERENT'}")
    if not all(filecmp.cmp(file, killed / file.relative_to(whole), shallow=False) for file in files):
        sys.exit(1)


if __name__ == "__main__":
    main()
