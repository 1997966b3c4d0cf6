"""Bodies on their way, in or out: how many bytes of them are in memory, and who is cut off because nothing moves."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

PATIENCE = 10.0
"""Seconds in which a client must send or take :data:`LEAST` bytes, or all that is left."""
LEAST = 80_000
"""Bytes; in ten seconds that is a line of 64 kbit/s."""

_SLOW = 2.0  # seconds without so many bytes, after which a client makes room for others


class Transfers:
    """The bytes that all transfers hold. Of the event loop's thread only.

    Args:
        capacity: Most bytes.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.held = 0
        self.moving: set[Transfer] = set()


class Transfer:
    """One body, which is sent or received, and held until :meth:`give` says otherwise.

    Args:
        among: All of its kind.
    """

    def __init__(self, among: Transfers) -> None:
        self.held = 0
        self._among = among
        self._timeout: asyncio.Timeout | None = None
        self._until = 0.0
        self._since = 0.0
        self._moved = 0
        self._cut = False

    @asynccontextmanager
    async def moving(self, deadline: float) -> AsyncIterator[None]:
        """Let it move: within a deadline (on the clock of `time.monotonic`), and never without progress.

        Raises:
            TimeoutError: Where it does not.
        """
        now = asyncio.get_running_loop().time()
        self._until, self._since = now + deadline - time.monotonic(), now
        async with asyncio.timeout_at(min(self._until, now + PATIENCE)) as self._timeout:
            self._among.moving.add(self)
            try:
                yield
            finally:
                self._among.moving.discard(self)

    def moved(self, count: int) -> None:
        """Bytes have gone, or come."""
        self._moved += count
        if self._moved >= LEAST and self._timeout is not None and not self._cut:
            self._moved, self._since = 0, asyncio.get_running_loop().time()
            self._timeout.reschedule(min(self._until, self._since + PATIENCE))

    def take(self, count: int) -> bool:
        """Hold bytes more; False where there is no room, even without those who are slow."""
        among = self._among
        while among.held and among.held + count > among.capacity:
            slow = max(among.moving - {self}, key=Transfer._idle, default=None)
            if slow is None or slow._idle() < _SLOW:
                return False
            slow._leave()
        among.held += count
        self.held += count
        return True

    def give(self, count: int | None = None) -> None:
        """Hold bytes no more; None: all."""
        count = self.held if count is None else min(count, self.held)
        self.held -= count
        self._among.held -= count

    def _idle(self) -> float:
        return asyncio.get_running_loop().time() - self._since

    def _leave(self) -> None:
        self._cut = True
        self._among.moving.discard(self)
        self.give()
        if self._timeout is not None:
            self._timeout.reschedule(asyncio.get_running_loop().time())
