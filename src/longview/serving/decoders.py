"""Processes that decode films: one that a film crashes or hangs is replaced, and its request alone is refused.

Decoders of DICOM's packings are old libraries in C++: some abort, or never end, on a damaged file. A request that is
given up, since its client left or its time is over, ends its decoder as well.
"""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from pebble import ProcessExpired, ProcessPool

from longview.serving import decoding
from longview.serving.decoding import Look, Refused, Sent
from longview.serving.intake import Received
from longview.serving.problems import ProblemError
from longview.serving.settings import Settings

logger = logging.getLogger(__name__)

_END = 5.0  # seconds for decoders to end
_TRIES = 3  # of processes that somebody ended


class Decoders:
    """As many processes as `Settings.decoders`; they start with the first film.

    Args:
        settings: Limits.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = replace(settings, token=None)  # of which a decoder has no need
        self._pool: ProcessPool | None = None

    async def look(self, sent: Sequence[Sent]) -> list[Look]:
        """What films are and how large, by their headers.

        Raises:
            ProblemError: 413, 415 or 422, as :func:`longview.serving.decoding.look`.
        """
        return await self._each(decoding.look, sent)

    async def decode(self, sent: Sequence[Sent]) -> list[Received]:
        """The films' pixels.

        Raises:
            ProblemError: 413, 415 or 422, as :func:`longview.serving.decoding.decode`.
        """
        found = await self._each(decoding.decode, sent)
        return [Received(pixels, film.view, kind) for film, (kind, pixels) in zip(sent, found, strict=True)]

    def close(self) -> None:
        """End the processes, whatever they do."""
        if self._pool is not None:
            self._pool.stop()  # type: ignore[no-untyped-call]
            try:
                self._pool.join(_END)
            except TimeoutError:
                logger.warning("a process that decodes films did not end")
            self._pool = None

    async def _each(self, function: Callable[[Sent, Settings], Any], sent: Sequence[Sent]) -> list[Any]:
        tasks = [asyncio.ensure_future(self._one(function, film)) for film in sent]
        try:
            return list(await asyncio.gather(*tasks))
        finally:
            for task in tasks:  # the others of a study that is refused
                task.cancel()

    async def _one(self, function: Callable[[Sent, Settings], Any], sent: Sent) -> Any:
        for _ in range(_TRIES):
            try:
                found = await self._asked(function, sent)
            except BrokenProcessPool:  # somebody ended processes that had nothing to do
                continue
            except ProcessExpired as error:
                logger.warning("a film ended the process that decoded it; another was started")
                raise ProblemError(422, f"{sent} cannot be decoded: it is damaged.") from error
            except TimeoutError as error:
                raise ProblemError(504, f"{sent} took too long to decode.") from error
            if isinstance(found, Refused):
                raise ProblemError(found.status, found.detail)
            return found
        raise ProblemError(503, "The processes that decode films do not start.", retry_after=5)

    async def _asked(self, function: Callable[[Sent, Settings], Any], sent: Sent) -> Any:
        seconds = self._settings.timeout
        future = self._processes().schedule(decoding.answered, args=[function, sent, self._settings], timeout=seconds)
        return await asyncio.wrap_future(future)

    def _processes(self) -> ProcessPool:
        if self._pool is None or not self._pool.active:
            # forked from a process that has imported what they need and has no threads, where the system can
            ways = multiprocessing.get_all_start_methods()
            context: Any = multiprocessing.get_context("forkserver" if "forkserver" in ways else "spawn")
            if "forkserver" in ways:
                context.set_forkserver_preload([decoding.__name__])
            self._pool = ProcessPool(
                self._settings.decoders,
                initializer=decoding.start_decoder,
                initargs=[self._settings],
                context=context,
            )
        return self._pool


class Room:
    """Room for decoded films, in pixels; who comes first is let in first.

    Args:
        pixels: How many there is room for.
    """

    def __init__(self, pixels: int) -> None:
        self._pixels = self._free = pixels
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @asynccontextmanager
    async def taken(self, pixels: int) -> AsyncIterator[None]:
        """Wait for room, and give it back at the end.

        Raises:
            ProblemError: 413 for more than there is.
        """
        if pixels > self._pixels:
            raise ProblemError(
                413,
                f"The films have {pixels / 1e6:.0f} megapixels together; this server takes {self._pixels / 1e6:.0f}.",
            )
        await self._turn(pixels)
        try:
            yield
        finally:
            self._free += pixels
            self._admit()

    async def _turn(self, pixels: int) -> None:
        mine: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((pixels, mine))
        self._admit()
        try:
            await mine
        except asyncio.CancelledError:
            if mine.done() and not mine.cancelled():
                self._free += pixels
            elif (pixels, mine) in self._waiting:
                self._waiting.remove((pixels, mine))
            self._admit()
            raise

    def _admit(self) -> None:
        while self._waiting and self._waiting[0][0] <= self._free:
            pixels, first = self._waiting.popleft()
            if not first.cancelled():
                self._free -= pixels
                first.set_result(None)
