"""The server's processes: how they start, and how they end."""

from __future__ import annotations

import logging
import signal
import socket
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

import uvicorn
from uvicorn.supervisors import Multiprocess

from longview.serving.ending import GRACE, MORE, end_at_last
from longview.serving.protocol import Protocol, descriptors, quieten

logger = logging.getLogger(__name__)

_BACKLOG = 512  # connections that wait to be accepted


def run(app: Callable[..., Any], workers: int, timeout: float, listener: socket.socket) -> None:
    """Serve until a signal says otherwise.

    Args:
        app: The application; of several workers, what makes it in each.
        workers: Processes.
        timeout: Seconds for a request.
        listener: Where they listen.
    """
    grace = int(timeout) + GRACE
    config = uvicorn.Config(
        app,
        factory=workers > 1,
        workers=workers,
        http=Protocol,
        ws="none",
        # as many are accepted before the first is looked at; all of them must find a descriptor
        backlog=max(1, min(_BACKLOG, descriptors() // 4)) if descriptors() > 0 else _BACKLOG,
        # names of films, patients or tokens could be in an address: uvicorn's own log of them is off
        access_log=False,
        log_config=None,
        log_level="warning",
        server_header=False,
        timeout_graceful_shutdown=grace,
        timeout_worker_healthcheck=60,  # importing torch takes longer than the 5 s after which a worker counts as dead
    )
    if workers > 1:
        _Workers(config, grace + MORE, [listener]).run()
        return
    quieten()
    # uvicorn raises the signal again when it has done what the signal asked for
    signal.signal(signal.SIGTERM, _ended)
    _Server(config, grace + MORE).run(sockets=[listener])


def _ended(_signal: int, _frame: FrameType | None) -> None:
    raise SystemExit(0)


class _Server(uvicorn.Server):
    """A server that ends."""

    def __init__(self, config: uvicorn.Config, last: float) -> None:
        super().__init__(config)
        self._last = last

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to end."""
        if not self.should_exit:
            end_at_last(self._last)
        super().handle_exit(sig, frame)


class _Workers(Multiprocess):
    """Workers that end."""

    def __init__(self, config: uvicorn.Config, last: float, sockets: list[socket.socket]) -> None:
        super().__init__(config, sockets)
        self._last = last

    def join_all(self) -> None:
        """Wait for them, and not for ever."""
        until = time.monotonic() + self._last
        for process in self.processes:
            process.process.join(max(0.0, until - time.monotonic()))
            if process.process.is_alive():
                logger.error("worker %s did not end within %d s; it is killed", process.pid, self._last)
                process.kill()
        super().join_all()
