"""Handing a plan to Snakemake: the shell line of each step, its resources, and one pipeline per folder."""

from __future__ import annotations

import fcntl
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from longview import InputError, launch
from longview.outputs import make_folder
from longview.pipeline.config import Resources
from longview.pipeline.plan import Plan, Step

SNAKEFILE = Path(__file__).with_name("Snakefile")
_SHOWN = 25  # last lines of a failed step's log
_JOBS = 20  # on a cluster, at a time

# `exec 9>` holds the lock for as long as the step or any process that it started is alive, whoever killed its parent
_BEGIN = """\
#!/usr/bin/env bash
# {title}
set -euo pipefail
mkdir -p {locks} {logs} {done}
log={log}
exec 9>{lock}
if command -v flock >/dev/null && ! flock -n 9; then
  echo {name}: waiting for the process of a killed pipeline that is still at work >&2
  flock 9
fi
# Lightning takes a SLURM job of this name for a shell: it starts one process for each device by itself
if [ -n "${{SLURM_JOB_ID:-}}" ]; then export SLURM_JOB_NAME=bash; fi
{threads}export COLUMNS=160  # of the tables in the log
run() {{
  printf '\\n$ %s\\n' "$*" >>"$log"
  local code=0
  "$@" >>"$log" 2>&1 || code=$?
  if [ "$code" != 0 ]; then
    tail -n {shown} "$log" >&2
    echo {name} failed, see "$log" >&2
    exit "$code"
  fi
}}
echo {shown_title} >&2
"""

_FIT = """\
runs={runs}
last() {{ find "$runs" -path '*/version_*/checkpoints/last.ckpt' -print 2>/dev/null | sort -V | tail -n 1; }}
settings="$(echo {settings}; cksum {inputs} </dev/null)"
if [ -n "$(last)" ] && [ "$settings" = "$(cat "$runs/settings.txt" 2>/dev/null)" ]; then
  echo {name}: going on from "$(last)" >&2
  run longview fit --ckpt_path "$(last)"
else
  # a run of other settings, or one that was stopped before its first checkpoint, is kept aside
  if [ -e "$runs" ]; then mv "$runs" "$runs.$(date +%Y%m%d-%H%M%S)"; fi
  mkdir -p "$runs"
  echo "$settings" >"$runs/settings.txt"
  run {command}
fi
best="$(dirname "$(last)")/best.ckpt"
ln -f "$best" {output} 2>/dev/null || cp "$best" {output}
"""


def script(plan: Plan, step: Step) -> str:
    """The bash script that runs a step, with its output in a log, and a `fit` from where it was stopped."""
    place = plan.steps.index(step) + 1
    line = f"[{place}/{len(plan.steps)}] {step.name}: {typed(step)}"
    quoted = {
        "locks": plan.place("locks"),
        "logs": plan.place("logs"),
        "done": str(Path(step.output).parent),
        "log": log_of(plan, step),
        "lock": plan.place("locks", step.name),
        "name": step.name,
        "shown_title": line,
        "output": step.output,
        "runs": step.run or "",
        "settings": f"{shlex.join(step.words)} {step.configuration}",
    }
    words = {key: shlex.quote(value) for key, value in quoted.items()}
    words |= {
        "command": shlex.join(["longview", *step.words]),
        "inputs": shlex.join(step.inputs),
        "shown": str(_SHOWN),
        "title": line,
        # on GPUs there may be a process for each, with little to compute itself; else it is what Snakemake sets
        "threads": "export OMP_NUM_THREADS=1\n" if plan.resources(step.kind).gpus else "",
    }
    text = _BEGIN.format(**words)
    text += _FIT.format(**words) if step.run else f"run {words['command']}\n"
    if step.described_by:
        # cksum says what a file holds, not when it was written
        first, every = shlex.quote(step.described_by[0]), shlex.join(step.described_by)
        text += f"{{ cat {first}; cksum {every}; }} >{words['output']}\n"
    return text


def script_of(plan: Plan, step: Step) -> str:
    """Where a step's script is."""
    return plan.place("steps", f"{step.name}.sh")


def write_scripts(plan: Plan) -> None:
    """Write the script of each step."""
    make_folder(Path(plan.place("steps")), Path(plan.config.output))
    for step in plan.steps:
        file = Path(script_of(plan, step))
        aside = file.with_name(f".{file.name}")
        aside.write_text(script(plan, step), encoding="utf-8")
        aside.replace(file)


def typed(step: Step) -> str:
    """A step's command as a person would type it."""
    return shlex.join(["main.py", *step.words])


def log_of(plan: Plan, step: Step) -> str:
    """Where the output of a step's command goes."""
    return plan.place("logs", f"{step.name}.log")


def slurm_resources(resources: Resources) -> dict[str, int | str]:
    """A step's resources under the names that Snakemake and its SLURM executor have for them."""
    named: dict[str, int | str] = {"mem_mb": round(resources.memory_gb * 1000), "runtime": resources.minutes}
    if resources.partition is not None:
        named["slurm_partition"] = resources.partition
    if resources.gpus:
        named |= {"gpu": resources.gpus, "machine": 1}
    return named


def arguments(
    plan: Plan,
    *,
    cores: int | None,
    until: str | None,
    executor: str | None,
    profile: str | None,
    extra: Sequence[str] = (),
) -> list[str]:
    """Snakemake's command line, but for what to do with the plan."""
    words = ["--snakefile", str(SNAKEFILE), "--config", f"pipeline={plan.file}"]
    # of a step that was killed its output is not believed; the folder's lock is ours, and goes with its process
    words += ["--rerun-incomplete", "--nolock", "--rerun-triggers", "mtime", "params", "input"]
    if executor is not None:
        words += ["--executor", executor]
    if profile is not None:
        words += ["--profile", profile]
    if executor is None and profile is None:
        # steps that use the machine's GPUs run one after another
        words += ["--cores", str(cores or os.cpu_count() or 1), "--resources", "machine=1"]
    elif cores is not None or profile is None:
        words += ["--jobs", str(cores or _JOBS)]  # --cores would cut down the cores of each job
    if plan.config.container is not None:
        words += ["--software-deployment-method", "apptainer"]
    if until is not None:
        words += ["--until", until]
    return [*words, *extra]


def states(words: Sequence[str]) -> dict[str, bool]:
    """Output file -> whether it is up to date, as Snakemake sees it.

    Raises:
        InputError: Where Snakemake cannot tell, with its own words.
    """
    command = [*_snakemake(), *words, "--summary"]
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=environment())  # noqa: S603
    rows = [line.split("\t") for line in result.stdout.splitlines()]
    if result.returncode or not rows or rows[0][0] != "output_file":
        raise InputError(f"snakemake: {' '.join(result.stderr.split())}")
    return {row[0]: row[-1] == "no update" for row in rows[1:]}


def execute(plan: Plan, words: Sequence[str]) -> None:
    """Run what is not done yet; Ctrl-C stops the running steps, SIGTERM lets them end and begins no other.

    Raises:
        InputError: Where another pipeline works in the same folder.
        SystemExit: With 1 where a step fails.
        KeyboardInterrupt: Where the user stopped it.
    """
    quiet = ["--quiet", "rules", "progress", "host", "reason"]
    with _alone(plan) as lock:
        write_scripts(plan)
        process = subprocess.Popen(  # noqa: S603
            [*_snakemake(), *words, *quiet], env=environment(), pass_fds=[lock.fileno()]
        )
        code = launch.wait_for(process)
    if code:
        sys.stderr.write("error: the pipeline stopped; the same command goes on where it was\n")
        raise SystemExit(1)


def environment() -> dict[str, str]:
    """Of Snakemake and its steps: `longview` is that of this Python."""
    return {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"}


def _snakemake() -> list[str]:
    return [sys.executable, "-m", "snakemake"]


@contextmanager
def _alone(plan: Plan) -> Iterator[IO[str]]:
    """One pipeline at a time in a folder; Snakemake inherits the lock, and so holds it as long as it lives."""
    folder = Path(plan.place("locks"))
    make_folder(folder, Path(plan.config.output))
    with (folder / "pipeline").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            lock.seek(0)
            raise InputError(
                f"another pipeline is at work in {plan.config.output} ({lock.read().strip() or 'starting'}); wait for "
                f"it, or stop it"
            ) from error
        lock.truncate(0)
        lock.write(f"process {os.getpid()} on {os.uname().nodename}\n")
        lock.flush()
        yield lock
