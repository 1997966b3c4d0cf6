"""How a request is worked on: decoded in a process, scored with others, drawn in a thread; the event loop waits."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from starlette.requests import Request

from longview import InputError
from longview.data.frames import Frame
from longview.serving.answers import AbandonedError, Drawing, check_size
from longview.serving.batching import Batcher, Gate
from longview.serving.decoders import Decoders, Room
from longview.serving.decoding import Sent
from longview.serving.door import DEADLINE, ClientGoneError
from longview.serving.intake import Received, as_png
from longview.serving.metrics import Metrics
from longview.serving.problems import ProblemError
from longview.serving.scoring import Scorer, Scores, Study
from longview.serving.served import Served
from longview.serving.settings import Settings
from longview.serving.wishes import Wish

Result = TypeVar("Result")
Asked = tuple[list[Wish], list[Sent]]
Draw = Callable[[Sequence[Wish], Sequence[Scores], Drawing], dict[str, Any]]


@dataclass
class _Stay:
    """A request's time in the house."""

    left: threading.Event = field(default_factory=threading.Event)
    begun: bool = False
    scoring: list[Future[Scores]] = field(default_factory=list)

    def waits(self) -> bool:
        """Whether its films or its studies still wait for their turn."""
        return not self.begun or any(not future.running() and not future.done() for future in self.scoring)


class House:
    """The models of a process, and who works for them.

    Args:
        models: The models; the first is asked by default.
        settings: Limits.
        metrics: What counts.
    """

    def __init__(self, models: Sequence[Served], settings: Settings, metrics: Metrics) -> None:
        self.models = models
        self.settings = settings
        self.metrics = metrics
        self.gate = Gate(settings.capacity)
        metrics.watch(lambda: self.gate.inside)
        self.open()

    @property
    def ready(self) -> bool:
        """Whether all models take studies."""
        return all(batcher.ready for batcher in self._batchers.values())

    def open(self) -> None:
        """Take requests; a house that was closed takes them again."""
        self._pool = ThreadPoolExecutor(self.settings.decoders, "longview-films")
        self._decoders = Decoders(self.settings)
        self._room = Room(self.settings.decoded_pixels)
        self._batchers = {
            served.name: Batcher(
                Scorer(served),
                self.settings.batch,
                self.settings.wait_ms / 1000,
                lambda: self.gate.inside,
                self.metrics.passed(served.name),
                served.name,
            )
            for served in self.models
        }

    def close(self) -> None:
        """Finish what was taken."""
        for batcher in self._batchers.values():
            batcher.close()
        self._pool.shutdown()
        self._decoders.close()

    async def answered(self, request: Request, read: Callable[[], Asked], draw: Draw) -> bytes:
        """Answer a request as JSON.

        Args:
            request: The request, whose body is read.
            read: What is wanted, and the films; runs in a thread.
            draw: Makes the answer of the scores; runs in a thread.

        Raises:
            ProblemError: 429 without room, 503 where it waited too long, 504 where it took too long, and what `read`
                says.
            ClientGoneError: Where the client left.
        """
        stay = _Stay()
        with self.gate.entered():
            task = asyncio.ensure_future(self._work(stay, read, draw))
            gone = asyncio.ensure_future(_disconnected(request))
            try:
                await asyncio.wait({task, gone}, timeout=_left(request), return_when=asyncio.FIRST_COMPLETED)
                if task.done():
                    return task.result()
                if gone.done():
                    raise ClientGoneError
                if stay.waits():
                    raise ProblemError(503, "The server is too busy to come to this request.", retry_after=5)
                raise ProblemError(504, "The request took too long; send fewer films, or ask for less.")
            finally:
                stay.left.set()
                for each in (task, gone):
                    each.cancel()
                await asyncio.gather(task, gone, return_exceptions=True)

    async def previewed(self, request: Request, read: Callable[[], Sent]) -> bytes:
        """A film as PNG of its own size, within the request's time.

        Raises:
            ProblemError: 429 without room, 504 where it took too long, and what `read` and the decoder say.
        """
        with self.gate.entered():
            try:
                async with asyncio.timeout(_left(request)):
                    sent = await self._in_thread(read)
                    async with self._decoded(_Stay(), [sent]) as films:
                        return await self._in_thread(lambda: as_png(films[0].pixels))
            except TimeoutError as error:
                raise ProblemError(504, "The request took too long.") from error

    @asynccontextmanager
    async def _decoded(self, stay: _Stay, sent: Sequence[Sent]) -> AsyncIterator[list[Received]]:
        """Films, for which there is room as long as they are used."""
        looks = await self._decoders.look(sent)
        async with self._room.taken(sum(look.height * look.width for look in looks)):
            stay.begun = True
            films = await self._decoders.decode(sent)
            for film in films:
                self.metrics.decoded(film.kind)
            yield films

    async def _work(self, stay: _Stay, read: Callable[[], Asked], draw: Draw) -> bytes:
        started = time.perf_counter()
        wishes, sent = await self._in_thread(read)
        async with self._decoded(stay, sent) as films:
            studies, frames = await self._in_thread(lambda: _seen(wishes, films))
            stay.scoring += [
                self._batchers[wish.served.name].submit(study) for wish, study in zip(wishes, studies, strict=True)
            ]
            try:
                scores = await asyncio.gather(*(asyncio.wrap_future(future) for future in stay.scoring))
            except InputError as error:
                raise ProblemError(422, f"The model cannot do that: {error}") from error
            drawing = Drawing(films, frames, lambda: not stay.left.is_set())

            def written() -> bytes:
                try:
                    content = draw(wishes, scores, drawing)
                except AbandonedError:
                    return b""
                if "success" in content:
                    content["inference_duration"] = time.perf_counter() - started
                return json.dumps(content, allow_nan=False).encode()

            return await self._in_thread(written)

    async def _in_thread(self, work: Callable[[], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)


def _seen(wishes: Sequence[Wish], films: Sequence[Received]) -> tuple[list[Study], list[list[Frame]]]:
    """A study for each model, of the films as it sees them, and where they are in its squares."""
    check_size(wishes, films)
    view = torch.tensor([film.view for film in films])
    studies, frames = [], []
    for wish in wishes:
        seen = [film.seen(wish.served.model) for film in films]
        images = torch.stack([image for image, _ in seen])
        studies.append(Study(images, view, wish.labels, wish.method, wish.samples))
        frames.append([frame for _, frame in seen])
    return studies, frames


def _left(request: Request) -> float:
    """Seconds that a request may still take."""
    deadline: float = request.scope[DEADLINE]
    return max(0.0, deadline - time.monotonic())


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
