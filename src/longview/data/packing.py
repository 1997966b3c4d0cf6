"""Reading, resizing and packing images, in this process or in workers, straight into the images file.

No pixels travel between processes: a worker gets paths, writes each image at its place in the file and sends
back what it found (size, spacing, digest, or why the file is no good). Writing is `pwrite` and not a memory
map, so that a full disk is an error with a name and not a crash, and the memory of a worker stays flat.
"""

from __future__ import annotations

import errno
import os
import signal
import threading
import warnings
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from hashlib import blake2b
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import cv2
import numpy as np

from longview import InputError
from longview.data.images import Resize, read_image, resize_image

if TYPE_CHECKING:
    from longview.data.store import Packing  # not at run time: pandas takes workers a second to import

Job = tuple[int, str]
"""Row of the manifest and path of the file under the root."""

# spawn: the caller may have threads (a progress bar, torch), which fork does not survive
_CONTEXT = get_context("spawn")
_CHUNK = 16  # images per message to a worker: 0.1 to 1 s of work, so that an interrupt is quick


class Outcome(NamedTuple):
    """What became of one file; a line of the journal.

    * ``row`` of the manifest; ``reason`` why it was rejected, empty where it was packed
    * ``height``, ``width`` of the film in the file, ``spacing_mm`` of its pixels where known
    * ``start``, ``length``: bytes in `images.bin` (0 where the packing is npy)
    * ``digest`` of the bytes that were written, hexadecimal
    """

    row: int
    reason: str = ""
    height: int = 0
    width: int = 0
    spacing_mm: float | None = None
    start: int = 0
    length: int = 0
    digest: str = ""


@dataclass(frozen=True)
class PackSettings:
    """What a worker has to know.

    Args:
        root: Folder that the paths are relative to.
        file: `images.npy` or `images.bin` of the store that is being made.
        size: Side of the square images in pixels.
        resize: How a film becomes a square.
        packing: npy or jpeg.
        jpeg_quality: 1 to 100, for jpeg.
        offset: First byte of row 0 in `images.npy`; first free byte of `images.bin`.
    """

    root: Path
    file: Path
    size: int
    resize: Resize
    packing: Packing
    jpeg_quality: int
    offset: int


class _Counter(Protocol):
    """The next free byte of `images.bin`: a shared `multiprocessing.Value`, or its stand-in."""

    value: int

    def get_lock(self) -> Any: ...


@dataclass
class _OwnCounter:
    """The same for one process alone."""

    value: int

    def get_lock(self) -> Any:
        return nullcontext()


class Packer:
    """Reads files and writes their images; one per process.

    Args:
        settings: What to do.
        counter: Next free byte of `images.bin`, shared by all processes.
    """

    def __init__(self, settings: PackSettings, counter: _Counter) -> None:
        self.settings = settings
        self._counter = counter
        self._file = os.open(settings.file, os.O_WRONLY)

    def close(self) -> None:
        """Close the images file."""
        os.close(self._file)

    def pack(self, jobs: Sequence[Job]) -> list[Outcome]:
        """Pack some files.

        Raises:
            OSError: Where the disk is full or fails; a file that cannot be read is an outcome, not an error.
        """
        return [self._pack(row, path) for row, path in jobs]

    def _pack(self, row: int, path: str) -> Outcome:
        settings = self.settings
        try:
            film = read_image(settings.root / path, min_size=settings.size)
        except InputError as error:
            return Outcome(row, reason=str(error))
        pixels = resize_image(film.pixels, settings.size, settings.resize)
        if settings.packing == "npy":
            data: Any = pixels.reshape(-1)
            start, length = 0, 0
            write_all(self._file, data, settings.offset + row * data.nbytes)
        else:
            quality = [cv2.IMWRITE_JPEG_QUALITY, settings.jpeg_quality]
            data = np.asarray(cv2.imencode(".jpg", pixels, quality)[1]).reshape(-1)
            length = data.nbytes
            with self._counter.get_lock():
                start = self._counter.value
                self._counter.value += length
            write_all(self._file, data, start)
        digest = blake2b(data, digest_size=16).hexdigest()
        return Outcome(row, "", film.height, film.width, film.spacing_mm, start, length, digest)


def write_all(file: int, data: Any, position: int) -> None:
    """Write all bytes at a position; a full disk may take some of them before it says so."""
    view = memoryview(data)
    while view:
        written = os.pwrite(file, view, position)
        if written == 0:
            raise OSError(errno.EIO, "nothing could be written")
        view, position = view[written:], position + written


_packer: Packer | None = None  # of a worker process, set once when it starts


def _start_worker(settings: PackSettings, counter: _Counter) -> None:
    global _packer  # noqa: PLW0603  # the only way that a process pool offers to keep something per process
    threading.Thread(target=_die_with_parent, daemon=True).start()
    cv2.setNumThreads(1)  # the processes are the parallelism
    warnings.simplefilter("ignore")  # Pillow's and pydicom's, about files that are read all the same
    _packer = Packer(settings, counter)


def _die_with_parent() -> None:
    """End a worker whose parent was killed; it would wait for work for ever."""
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _work(jobs: Sequence[Job]) -> list[Outcome]:
    assert _packer is not None
    return _packer.pack(jobs)


def pack_files(jobs: Sequence[Job], settings: PackSettings, workers: int) -> Generator[list[Outcome]]:
    """Pack files and yield their outcomes, some at a time, in the order they get done.

    Closing the iterator lets the workers finish what they have begun and ends them: after that nothing writes
    to the images file.

    Args:
        jobs: What to pack.
        settings: How.
        workers: Processes; 0 packs in this one.

    Raises:
        OSError: Where the disk is full or fails.
    """
    chunks = [jobs[first : first + _CHUNK] for first in range(0, len(jobs), _CHUNK)]
    if workers == 0:
        packer = Packer(settings, _OwnCounter(settings.offset))
        try:
            for chunk in chunks:
                yield packer.pack(chunk)
        finally:
            packer.close()
        return
    counter: Any = _CONTEXT.Value("q", settings.offset)
    while chunks:
        pool = _pool(workers, settings, counter)
        pending: dict[Future[list[Outcome]], Sequence[Job]] = {}
        try:
            while chunks or pending:
                while chunks and len(pending) < 2 * workers:  # one in work and one waiting for each
                    future = _submit(pool, chunks[0])
                    pending[future] = chunks.pop(0)
                for future in wait(pending, return_when=FIRST_COMPLETED).done:
                    outcomes = future.result()
                    del pending[future]
                    yield outcomes
        except BrokenProcessPool:
            # a decoder crashed, or the kernel took a worker for its memory: find out over which file
            suspects = [job for chunk in pending.values() for job in chunk]
        else:
            suspects = []
        finally:
            pool.shutdown(cancel_futures=True)
        yield from _one_by_one(suspects, settings, counter)


def _one_by_one(jobs: Sequence[Job], settings: PackSettings, counter: _Counter) -> Generator[list[Outcome]]:
    """Pack files in one worker, which may crash: the file that it had then is rejected, and another starts.

    Raises:
        InputError: Where workers do not even start.
    """
    left = list(jobs)
    while left:
        with _pool(1, settings, counter) as pool:
            try:
                _submit(pool, []).result()
            except BrokenProcessPool as error:
                raise InputError(
                    "worker processes do not start: too little memory, or a script without "
                    "`if __name__ == '__main__':`? With --workers 0 none are needed"
                ) from error
            try:
                while left:
                    outcomes = _submit(pool, left[:1]).result()
                    left.pop(0)
                    yield outcomes
            except BrokenProcessPool:
                row, path = left.pop(0)
                reason = "crashed the process that read it (its decoder, or too little memory)"
                yield [Outcome(row, f"{settings.root / path} {reason}")]


def _pool(workers: int, settings: PackSettings, counter: _Counter) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(workers, _CONTEXT, _start_worker, (settings, counter))


def _submit(pool: ProcessPoolExecutor, jobs: Sequence[Job]) -> Future[list[Outcome]]:
    """Submit work; processes that this starts are born with SIGINT blocked: Ctrl-C is the parent's."""
    with _sigint_blocked():
        return pool.submit(_work, jobs)


@contextmanager
def _sigint_blocked() -> Iterator[None]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
