"""Building a store or a shard of one: the checks before, the packing with its progress, what is said at the end."""

from __future__ import annotations

import errno
import logging
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from longview import InputError
from longview.data.annotations import Annotations
from longview.data.images import Resize
from longview.data.manifest import Manifest
from longview.data.packing import Job, Outcome, pack_files
from longview.data.partial import PartialStore
from longview.data.room import folder_bytes, human_bytes
from longview.data.store import (
    REJECTED_FILE,
    Packing,
    Store,
    build_settings,
    describe_difference,
    partial_folder,
    recover,
)

logger = logging.getLogger(__name__)

_WORTH_BYTES, _WORTH_FILES = 50e6, 2000  # to read, for each second that a worker takes to start
_HOPELESS = 500  # files rejected in a row from the first on: the root or the disk is at fault, not the files
_LOG_SECONDS = 10.0  # between lines of progress where there is no terminal


@dataclass(frozen=True)
class Plan:
    """A store that is to be made, and how; :func:`plan_store` checks the options and makes one.

    Args:
        manifest: All images with their splits and labels; paths are relative to the root.
        root: Folder of the raw files.
        output: Folder of the store, links resolved.
        settings: What decides the content.
        annotations: Codes and boxes of the images.
        jpeg_quality: 1 to 100, for packing jpeg.
        workers: Processes; 0: this one; None: one per CPU, fewer for few images.
        strict: Stop at the first file that cannot be read.
        overwrite: Replace a finished store, and drop a half-made one of other settings.
    """

    manifest: Manifest
    root: Path
    output: Path
    settings: Mapping[str, Any]
    annotations: Annotations
    jpeg_quality: int
    workers: int | None
    strict: bool
    overwrite: bool

    @property
    def resize(self) -> Resize:
        """How a film becomes a square."""
        resize: Resize = self.settings["resize"]
        return resize


def plan_store(
    manifest: Manifest,
    root: Path,
    output: Path,
    *,
    size: int = 512,
    resize: Resize = "squash",
    packing: Packing = "npy",
    jpeg_quality: int = 92,
    workers: int | None = None,
    strict: bool = False,
    overwrite: bool = False,
    options: Mapping[str, Any] | None = None,
    annotations: Annotations | None = None,
) -> Plan:
    """Check the options of a store and put them together; nothing is written.

    Args:
        manifest: Images with their splits and labels; paths are relative to the root.
        root: Folder of the raw files.
        output: Folder of the store, outside of the root.
        size: Side of the square images in pixels.
        resize: squash, letterbox or crop; see :func:`longview.data.images.resize_image`.
        packing: npy or jpeg.
        jpeg_quality: 1 to 100.
        workers: Processes; 0: this one; None: one per CPU, fewer for few images.
        strict: Stop at the first file that cannot be read.
        overwrite: Replace a finished store, and drop a half-made one of other settings.
        options: What the manifest was made with, kept in the store's settings.
        annotations: Codes and boxes of the images; None: neither.

    Raises:
        InputError: For an option out of range, or a root or output that cannot be.
    """
    check_arguments(root, output, size, jpeg_quality, workers)
    annotations = annotations or Annotations()
    settings = build_settings(
        manifest, root, size=size, resize=resize, packing=packing, jpeg_quality=jpeg_quality, options=options or {}
    )
    return Plan(
        manifest,
        root,
        output.resolve(),  # a link to another disk: the store is built there
        settings | annotations.hashes(),
        annotations,
        jpeg_quality,
        workers,
        strict,
        overwrite,
    )


def check_arguments(root: Path, output: Path, size: int, jpeg_quality: int, workers: int | None) -> None:
    """Check what can be checked before any table is read.

    Raises:
        InputError: For an option out of range, or a root or output that cannot be.
    """
    if size < 1:
        raise InputError(f"size must be at least 1, not {size}")
    if not 1 <= jpeg_quality <= 100:
        raise InputError(f"jpeg_quality must be 1 to 100, not {jpeg_quality}")
    if workers is not None and workers < 0:
        raise InputError(f"workers must be 0 or more, not {workers}")
    _check_place("root", root)
    _check_place("output", output)
    if not root.is_dir():
        raise InputError(f"root {root} is not a folder; give the folder of the raw data")
    inner, outer = output.resolve(), root.resolve()
    if inner == outer or outer in inner.parents or inner in outer.parents:
        raise InputError(f"output {output} and root {root} lie in each other; raw data are never written to")
    _check_place("output", partial_folder(inner))


def _check_place(name: str, place: Path) -> None:
    try:
        place.lstat()
    except FileNotFoundError:
        pass
    except OSError as error:  # too long a name, a file where a folder should be, a folder that may not be read
        raise InputError(f"{name} {place} cannot be used: {error.strerror}; give another path") from error


def standing(plan: Plan) -> Store | None:
    """The store that is wanted, where it is there already; else None.

    Raises:
        InputError: Where another store, or a folder that is none, is in the way.
    """
    recover(plan.output)
    if plan.overwrite or not _is_done(plan):
        _check_output(plan.output, plan.overwrite)
        return None
    logger.info("%s is there already, made with the same settings", plan.output)
    store = Store(plan.output)
    if store.info.rejected:
        text = "%d files were rejected, see %s; --overwrite true tries them again"
        logger.warning(text, store.info.rejected, plan.output / REJECTED_FILE)
    return store


def _is_done(plan: Plan) -> bool:
    """Whether the store that is wanted is there.

    Raises:
        InputError: Where another one is there.
    """
    output = plan.output
    if not Store.is_store(output):
        return False
    store = Store(output)
    differing = describe_difference(store.info.settings, plan.settings)
    if differing:
        raise InputError(f"{output} is a store already, made otherwise ({differing}); --overwrite replaces it")
    if plan.strict and store.info.rejected:
        raise InputError(f"{output} was made without {store.info.rejected} files; see {output / REJECTED_FILE}")
    return True


def _check_output(output: Path, overwrite: bool) -> None:
    """Never replace a folder that is not a store."""
    if output.exists() and not Store.is_store(output) and (output.is_file() or any(output.iterdir())):
        extra = "; --overwrite replaces stores only" if overwrite else ""
        raise InputError(f"{output} exists and is not a store{extra}; give another output, or remove it")


def make_place(folder: Path, output: Path) -> None:
    """Make the folder in which a store or a shard is built.

    Raises:
        InputError: Where it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"output {output} cannot be made: {error.strerror}; give another path") from error


def pack(partial: PartialStore, plan: Plan) -> None:
    """Read and pack what a store or a shard lacks.

    Raises:
        InputError: Where a file cannot be read and that may not be, or none of the first many can.
        OSError: Where the disk fills up or fails on the way.
    """
    jobs = partial.jobs()
    count = _workers(plan.workers, jobs, plan.root)
    outcomes = pack_files(jobs, partial.pack_settings(plan.root, plan.resize, plan.jpeg_quality), count)
    with closing(outcomes):
        _record(partial, outcomes, plan.strict)


@contextmanager
def told(partial: PartialStore) -> Iterator[None]:
    """Say, where the work is interrupted or the disk fails, how far it was and how to go on.

    Raises:
        OSError: The disk's, with another text.
    """
    try:
        yield
    except KeyboardInterrupt:
        logger.warning(_stopped(partial, "interrupted"))
        raise
    except OSError as error:
        full = error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
        reason = "the disk is full" if full else f"writing failed ({error.strerror})"
        raise OSError(error.errno, _stopped(partial, reason), str(partial.folder)) from error


def _stopped(partial: PartialStore, reason: str) -> str:
    return (
        f"{reason} after {partial.rescue()} of {len(partial.manifest)} images; they are kept: "
        f"the same command goes on from there"
    )


def _record(partial: PartialStore, outcomes: Iterable[list[Outcome]], strict: bool) -> None:
    """Record outcomes and show how far it is."""
    with Meter(len(partial.manifest), len(partial.done)) as meter:
        for some in outcomes:
            partial.record(some)
            bad = [outcome.reason for outcome in some if outcome.reason]
            if bad and strict:
                raise InputError(f"{bad[0]}; stopped, because of --strict, at the first file that cannot be read")
            if not partial.done and len(partial.rejected) >= _HOPELESS:
                raise InputError(f"the first {len(partial.rejected)} files cannot be read: {bad[0]}")
            meter.update(len(partial.done), len(partial.rejected))


def _workers(asked: int | None, jobs: Sequence[Job], root: Path) -> int:
    """Number of processes; 0 for so little work that starting one costs more than it brings."""
    if asked is not None:
        return min(asked, len(jobs))
    if not jobs:
        return 0
    sizes = file_sizes(root, [path for _, path in jobs[:: len(jobs) // 50 + 1]])
    share = sum(sizes) / max(len(sizes), 1) / _WORTH_BYTES + 1 / _WORTH_FILES
    # the CPUs that a job scheduler or container grants; macOS does not know of such
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    count = min(cpus, int(len(jobs) * share))
    return count if count > 1 else 0


def file_sizes(root: Path, paths: Iterable[str]) -> list[int]:
    """Bytes of those files that are there."""
    return [(root / path).stat().st_size for path in paths if (root / path).is_file()]


def announce(store: Store) -> None:
    """Log what was made, and what was left out."""
    if store.info.rejected:
        text = "%d files could not be read and were left out; see %s"
        logger.warning(text, store.info.rejected, store.path / REJECTED_FILE)
    size = human_bytes(folder_bytes(store.path))
    logger.info("%s: %d images of %d px, %s", store.path, len(store), store.info.size, size)


class Meter:
    """A progress bar on a terminal, a log line now and then elsewhere; both with images/s and time left."""

    def __init__(self, total: int, done: int) -> None:
        self._total, self._before, self._begun = total, done, time.monotonic()
        self._logged = self._begun
        console = Console(stderr=True)
        columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), TimeRemainingColumn())
        self._bar = Progress(*columns, console=console) if console.is_terminal else None
        self._task = self._bar.add_task("", total=total, completed=done) if self._bar else None

    def __enter__(self) -> Meter:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar:
            self._bar.stop()

    def update(self, done: int, rejected: int) -> None:
        """Show how many images are packed and how many files were rejected."""
        now = time.monotonic()
        rate = (done + rejected - self._before) / max(now - self._begun, 1e-9)
        speed = f"{rate:.0f} images/s" + (f", {rejected} rejected" if rejected else "")
        if self._bar and self._task is not None:
            self._bar.update(self._task, completed=done + rejected, description=speed)
        elif now - self._logged >= _LOG_SECONDS:
            left = (self._total - done - rejected) / max(rate, 1e-9)
            logger.info("%d of %d, %s, %.0f s left", done + rejected, self._total, speed, left)
            self._logged = now
