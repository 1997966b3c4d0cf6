"""Requests that arrive together are scored together: one thread per model takes what waits, as one batch.

A batch grows on the cheap: while the network works on one, the next gathers. Only when fewer studies wait than there
are requests in the house does a batch wait a few milliseconds for those that are still being decoded.
"""

from __future__ import annotations

import logging
import math
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field

from longview.serving.problems import ProblemError, report
from longview.serving.scoring import Scores, Study

logger = logging.getLogger(__name__)

Score = Callable[[Sequence[Study]], list[Scores]]


class Gate:
    """Counts the requests that are in the house, and refuses those that are too many. Of the event loop's thread only.

    Args:
        capacity: Most requests.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.inside = 0
        self._seconds = 1.0  # a request takes, a running mean

    def check(self) -> None:
        """Refuse a request that would be too many.

        Raises:
            ProblemError: 429, with the seconds after which there may be room.
        """
        if self.inside >= self.capacity:
            wait = min(60, max(1, math.ceil(self._seconds)))
            raise ProblemError(429, "The server is busy; try again in a moment.", retry_after=wait)

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Be in the house.

        Raises:
            ProblemError: 429 where it is full.
        """
        self.check()
        self.inside += 1
        started = time.monotonic()
        try:
            yield
            self._seconds += 0.1 * (time.monotonic() - started - self._seconds)
        finally:
            self.inside -= 1


@dataclass
class _Job:
    study: Study
    future: Future[Scores] = field(default_factory=Future)


class Batcher:
    """Scores studies in a thread of its own, several at once.

    Args:
        score: Scores several studies; called by the one thread only.
        batch: Most films in one call.
        wait: Seconds that a batch waits for requests that are on their way.
        on_the_way: How many requests are in the house, whether they wait here yet or not.
        observe: Told of each call: number of films, seconds.
        name: Of the thread.
    """

    def __init__(
        self,
        score: Score,
        batch: int,
        wait: float,
        on_the_way: Callable[[], int] = lambda: 0,
        observe: Callable[[int, float], None] = lambda _films, _seconds: None,
        name: str = "model",
    ) -> None:
        self._score = score
        self._batch = batch
        self._wait = wait
        self._on_the_way = on_the_way
        self._observe = observe
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._held: _Job | None = None
        self._closed = False
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._work, name=f"longview-{name}", daemon=True)

    @property
    def ready(self) -> bool:
        """Whether it takes studies."""
        return not self._closed

    @property
    def waiting(self) -> int:
        """Studies that wait."""
        return self._jobs.qsize()

    def submit(self, study: Study) -> Future[Scores]:
        """Have a study scored. A future that is cancelled before its turn is dropped.

        Raises:
            ProblemError: 503 after :meth:`close`.
        """
        job = _Job(study)
        with self._lock:
            if self._closed:
                raise ProblemError(503, "The server is stopping.", retry_after=5)
            if self._thread.ident is None:
                self._thread.start()
            self._jobs.put(job)
        return job.future

    def close(self) -> None:
        """Finish what was taken, then end."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._jobs.put(None)
        if self._thread.is_alive():
            self._thread.join()

    def _work(self) -> None:
        while (jobs := self._gather()) is not None:
            begun = [job for job in jobs if job.future.set_running_or_notify_cancel()]
            if begun:
                self._run(begun)

    def _gather(self) -> list[_Job] | None:
        """The next batch; None when all is done."""
        first = self._held or self._jobs.get()
        self._held = None
        if first is None:
            return None
        jobs, films = [first], len(first.study.images)
        until = time.monotonic() + self._wait
        while films < self._batch:
            left = until - time.monotonic() if self._on_the_way() > len(jobs) else 0.0
            try:
                job = self._jobs.get(timeout=left) if left > 0 else self._jobs.get_nowait()
            except queue.Empty:
                break
            if job is None:
                self._jobs.put(None)  # what waits is done first: nothing comes after it
                break
            if films + len(job.study.images) > self._batch:
                self._held = job
                break
            jobs.append(job)
            films += len(job.study.images)
        return jobs

    def _run(self, jobs: Sequence[_Job]) -> None:
        started = time.perf_counter()
        try:
            found = self._score([job.study for job in jobs])
        except Exception as error:  # whatever it is, the thread must go on, and nobody wait in vain
            if len(jobs) == 1:
                report(error)
                jobs[0].future.set_exception(error)
                return
            for job in jobs:  # one study that fails does not fail the others
                self._run([job])
            return
        for job, scores in zip(jobs, found, strict=True):
            job.future.set_result(scores)
        self._observe(sum(len(job.study.images) for job in jobs), time.perf_counter() - started)
