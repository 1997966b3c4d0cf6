"""How a command is started on a cluster: SLURM's traps, signals that come early, and one writer per folder.

Imports no torch, so that :func:`listen` can run before it is imported.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from longview import InputError

log = logging.getLogger(__name__)

INTERRUPTED = 75
"""Exit code (EX_TEMPFAIL) of a `fit` that SLURM's USR1 stopped: all is saved, the job may be queued again."""

WRITER = "writer.json"
"""In a run's folder: who writes to it; locked while it does."""

_LEASE = 120.0  # s; a file server keeps the locks of a node that failed for about 90 s
_received: set[int] = set()


# ---- signals ---------------------------------------------------------------------------------------------------


def in_slurm(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether this process is part of a SLURM job."""
    return "SLURM_JOB_ID" in environ


def listen() -> None:
    """In a SLURM job: remember SIGUSR1 from now on, whose default is to kill the process.

    SLURM sends it some time before a job ends (`#SBATCH --signal=USR1@90`), perhaps while torch is being imported.
    Training looks at :func:`received` after each batch. Lightning's own handler, which would save wherever training
    happens to be, stays out: it gives way to one that is there.
    """
    if in_slurm() and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGUSR1, note)


def wait_for(process: subprocess.Popen[Any]) -> int:
    """Wait for a command and give its exit code; a SIGTERM meanwhile is passed on to it.

    Raises:
        KeyboardInterrupt: After the command has ended too, to which the terminal sent the same.
    """

    def pass_on(signum: int, frame: FrameType | None) -> None:  # noqa: ARG001 - a handler's signature
        process.send_signal(signum)

    before = signal.signal(signal.SIGTERM, pass_on)
    try:
        return process.wait()
    except KeyboardInterrupt:
        process.wait()
        raise
    finally:
        signal.signal(signal.SIGTERM, before)


class Terminated(SystemExit):
    """SIGTERM came before training, which saves at its next batch: there is nothing to save."""


@contextmanager
def leaving_at_sigterm() -> Iterator[None]:
    """Let SIGTERM end this process as an exit does, so that folders are cleared and the user is told what was kept.

    Not in the second process of a run and those after it, which end with the first.
    """
    if threading.current_thread() is not threading.main_thread() or not is_first():
        yield
        return

    def leave(signum: int, frame: FrameType | None) -> NoReturn:  # noqa: ARG001 - a handler's signature
        raise Terminated(128 + signum)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def end_at_sigterm() -> None:
    """Let SIGTERM end this process at once again.

    One that waits for others (to meet, or for their gradients) waits outside Python, where no handler of Python's runs.
    """
    if threading.current_thread() is threading.main_thread() and is_first():
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def note(signum: int, frame: FrameType | None) -> None:  # noqa: ARG001 - a handler's signature
    """Remember a signal; the handler of those that training heeds."""
    _received.add(signum)


def received(signum: int) -> bool:
    """Whether a signal came since the process began to listen for it."""
    return signum in _received


def forget() -> None:
    """Signals that came are dealt with."""
    _received.clear()


# ---- who is started how ----------------------------------------------------------------------------------------


def is_first(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether this process is rank 0, as far as can be known before any trainer."""
    rank = next((_number(environ, name) for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID") if name in environ), 0)
    return rank == 0 and _number(environ, "NODE_RANK") == 0


def _number(environ: Mapping[str, str], name: str, default: int = 0) -> int:
    """A variable of the environment that holds a count or a rank.

    Raises:
        InputError: Where it holds something else.
    """
    value = environ.get(name, str(default))
    if not value.isdecimal():
        raise InputError(
            f"the environment variable {name} is {value!r}, not a number: a launcher (SLURM, torchrun) sets it; unset "
            f"it where none started this command"
        )
    return int(value)


def _count(devices: Any) -> int | None:
    """Number of devices of a node that `trainer.devices` asks for; None where the machine decides."""
    if isinstance(devices, list):
        return len(devices)
    text = str(devices)
    if "," in text:
        return len([part for part in text.split(",") if part.strip()])
    return int(text) if text.isdigit() else None


def check_start(trainer: Mapping[str, Any], environ: Mapping[str, str] = os.environ) -> None:
    """Refuse a start that would train on fewer processes than asked, or wait for ever for others.

    Args:
        trainer: The configured `devices`, `num_nodes` and `accelerator`.
        environ: The process's environment.

    Raises:
        InputError: Naming the option of the trainer and that of SLURM, and what to write.
    """
    devices, nodes = _count(trainer["devices"]), int(trainer["num_nodes"])
    # Lightning takes a job of these names for a shell, and starts the processes itself
    slurm = in_slurm(environ) and environ.get("SLURM_JOB_NAME") not in {"bash", "interactive"}
    if not slurm:
        if nodes > 1 and not {"NODE_RANK", "GROUP_RANK", "WORLD_SIZE"} & set(environ):
            raise InputError(
                f"trainer.num_nodes is {nodes}, but nothing started this command on {nodes} machines: use srun "
                f"(scripts/slurm/fit.sbatch) or torchrun on each, or leave num_nodes at 1"
            )
        return
    per_node = devices if devices is not None else "as many as a node has GPUs"
    remedy = (
        f"write `#SBATCH --nodes={nodes}`, `#SBATCH --ntasks-per-node={per_node}` and `srun` before the command "
        f"(scripts/slurm/fit.sbatch)"
    )
    if "SLURM_STEP_ID" in environ:
        _check_step(environ, devices, nodes, str(trainer["accelerator"]), remedy)
        return
    tasks = _number(environ, "SLURM_NTASKS") if "SLURM_NTASKS" in environ else None
    if tasks is not None and tasks > 1:
        raise InputError(
            f"SLURM gives this job {tasks} tasks, but the command was started once, without srun: it would wait for "
            f"ever for the others; {remedy}"
        )
    if tasks is not None and (devices or 1) * nodes > 1:
        raise InputError(
            f"trainer.devices x num_nodes is {(devices or 1) * nodes}, but SLURM's --ntasks is {tasks}: it would train "
            f"on one process, silently; {remedy}"
        )
    if nodes > 1:
        raise InputError(f"trainer.num_nodes is {nodes}, but the command was started without srun; {remedy}")


def _check_step(environ: Mapping[str, str], devices: int | None, nodes: int, accelerator: str, remedy: str) -> None:
    """The same for a process that srun started."""
    tasks, given = _number(environ, "SLURM_NTASKS", 1), _number(environ, "SLURM_NNODES", 1)
    if given != nodes:
        raise InputError(f"trainer.num_nodes is {nodes}, but SLURM's --nodes is {given}; they must agree: {remedy}")
    if tasks > 1 and "SLURM_NTASKS_PER_NODE" not in environ:
        raise InputError(f"SLURM's --ntasks={tasks} does not say how many tasks a node gets; instead of it {remedy}")
    each = _number(environ, "SLURM_NTASKS_PER_NODE", tasks)
    if devices is not None and (devices != each or devices * nodes != tasks):
        raise InputError(
            f"trainer.devices x num_nodes is {devices} x {nodes}, but srun started {tasks} processes, {each} on each "
            f"node: one process for each device; {remedy}"
        )
    if tasks > 1 and "SLURM_GPUS_PER_TASK" in environ and accelerator != "cpu":
        raise InputError(
            "SLURM's --gpus-per-task lets each process see its own GPU only, and a process takes the one that has its "
            "number; write `#SBATCH --gpus-per-node` (or --gres=gpu:N) instead"
        )


def check_world(world: int, devices: int, nodes: int) -> None:
    """Compare the number of processes that a launcher has started with what the trainer is for.

    Raises:
        InputError: Where they differ.
    """
    if world != devices * nodes:
        raise InputError(
            f"{world} processes were started, but trainer.devices x num_nodes is {devices} x {nodes}: start one for "
            f"each device (SLURM: `#SBATCH --ntasks-per-node={devices}` and srun; see docs/cluster.md)"
        )


# ---- one writer ------------------------------------------------------------------------------------------------


def job() -> str:
    """What a queued-again SLURM job has in common with its first start: cluster, job, command; empty outside SLURM."""
    if not in_slurm():
        return ""
    command = hashlib.sha256("\0".join(sys.argv[1:]).encode()).hexdigest()[:16]
    return f"{os.environ.get('SLURM_CLUSTER_NAME', '')}/{os.environ['SLURM_JOB_ID']}/{command}"


def folder_of_job(home: Path) -> Path | None:
    """The run's folder among `home/version_*` where a SLURM job that was queued again goes on."""
    if not in_slurm() or _number(os.environ, "SLURM_RESTART_COUNT") == 0:
        return None
    mine = [file.parent for file in home.glob(f"version_*/{WRITER}") if _read(file).get("job") == job()]
    return max(mine, key=lambda folder: int(folder.name.removeprefix("version_")), default=None)


def new_folder(home: Path) -> Path:
    """Make the next `home/version_K`; of several runs that start at once each gets its own.

    Raises:
        InputError: Where it may not be made.
    """
    taken = [folder.name.removeprefix("version_") for folder in home.glob("version_*")]
    number = max((int(name) for name in taken if name.isdigit()), default=-1) + 1
    while True:
        folder = home / f"version_{number}"
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            if not folder.exists():  # a file is in the way, further up
                raise
            number += 1
        else:
            return folder


def _read(file: Path) -> dict[str, Any]:
    """What a writer says of itself; nothing where it was killed before it did."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


class Claim:
    """A folder that is this process's to write to, until it ends, however it ends.

    The lock is POSIX's (`lockf`): other nodes see it on NFS, forked workers do not inherit it, and the system drops it
    with the process. Where a file system has no locks, a warning says so.

    Args:
        folder: It is made where it does not exist.
        made: Folders that were made for it, the innermost first; None: those that do not exist yet.

    Raises:
        InputError: Where another process has it.
    """

    def __init__(self, folder: Path, made: Sequence[Path] | None = None) -> None:
        self.folder = folder
        self._made = _missing(folder) if made is None else made
        folder.mkdir(parents=True, exist_ok=True)
        self._file = os.open(folder / WRITER, os.O_RDWR | os.O_CREAT, 0o644)
        if not self._lock():
            holder = _read(folder / WRITER)
            os.close(self._file)
            who = f" (process {holder['process']} on {holder['host']}, since {holder['since']})" if holder else ""
            raise InputError(
                f"another run is writing to {folder}{who}: wait until it has ended, or stop it; a run under another "
                f"--name has a folder of its own"
            )
        facts = {
            "process": os.getpid(),
            "host": socket.gethostname(),
            "since": datetime.now().astimezone().isoformat(timespec="seconds"),
            "job": job(),
        }
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, json.dumps(facts).encode(), 0)

    def _lock(self) -> bool:
        again = _number(os.environ, "SLURM_RESTART_COUNT") > 0 and in_slurm()
        deadline = time.monotonic() + (_LEASE if again else 0.0)
        while True:
            try:
                fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except (BlockingIOError, PermissionError):
                if time.monotonic() >= deadline:
                    return False
                time.sleep(1.0)
            except OSError as error:
                log.warning("%s: the file system has no locks (%s); see that no other run writes to it", self.folder,
                            error.strerror)  # fmt: skip
                return True
            else:
                return True

    def release(self) -> None:
        """Let others write; what was made for the run, and nothing was written to, is removed."""
        if self.folder.is_dir() and [entry.name for entry in self.folder.iterdir()] == [WRITER]:
            (self.folder / WRITER).unlink()
            with suppress(OSError):  # not empty: others write there too
                for folder in self._made:
                    folder.rmdir()
        os.close(self._file)


def _missing(folder: Path) -> list[Path]:
    """The folders that must be made for this one, itself first."""
    return [place for place in (folder, *folder.parents) if not place.exists()]


class Claims:
    """The folders that a run writes to. Of its processes the first has them; the others take nothing."""

    def __init__(self) -> None:
        self._claims: list[Claim] = []

    def take(self, folder: Path) -> None:
        """Keep other runs from writing to a folder.

        Raises:
            InputError: Where one does.
        """
        if is_first():
            self._claims.append(Claim(folder))

    def new(self, home: Path) -> Path | None:
        """Make the next `home/version_K` and take it; None in other processes than the first."""
        if not is_first():
            return None
        above = _missing(home)
        folder = new_folder(home)
        self._claims.append(Claim(folder, [folder, *above]))
        return folder

    def release(self) -> None:
        """Let others write."""
        while self._claims:
            self._claims.pop().release()
