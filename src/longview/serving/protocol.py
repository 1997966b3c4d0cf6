"""HTTP/1.1 as uvicorn speaks it, with limits: how many connections, how long one may be silent, how one is closed."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from functools import cache
from typing import Any, cast

import h11
from uvicorn.config import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from longview.serving.dispatch import ABORT
from longview.serving.door import Receive, Scope, Send
from longview.serving.problems import MEDIA_TYPE, answer
from longview.serving.security import HEADERS

logger = logging.getLogger(__name__)

PATIENCE = 10.0
"""Seconds for the headers of a request, from the connection or the last answer; and for the last bytes of an answer."""
LINGER = 2.0
"""Seconds for which a request that is refused is still read, so that its client comes to read the answer."""

_MOST = 1000  # connections of a process
_LINGERED = 256_000_000  # bytes read then, and dropped
_MINUTE = 60.0
_FULL = "connections are at their most"


def descriptors() -> int:
    """Files and connections that this process may have open."""
    try:
        import resource
    except ImportError:  # no such limit
        return 4 * _MOST
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


@cache
def most_connections() -> int:
    """Connections of a process: half of its descriptors, a thousand at most."""
    limit = descriptors()
    return _MOST if limit < 0 else max(1, min(_MOST, limit // 2))


class Seldom(logging.Filter):
    """Lets pass what anybody can provoke once a minute only, and without its trace.

    Args:
        starts: How these messages start.
    """

    def __init__(self, *starts: str) -> None:
        super().__init__()
        self._starts = starts
        self._last: dict[str, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether to log it."""
        message = record.getMessage()
        start = next((start for start in self._starts if message.startswith(start)), None)
        if start is None:
            return True
        now = time.monotonic()
        if now - self._last.get(start, -_MINUTE) < _MINUTE:
            return False
        self._last[start] = now
        record.exc_info = record.exc_text = None
        return True


def quieten() -> None:
    """Keep clients from filling the log."""
    for name, start in {
        "asyncio": "socket.accept() out of system resource",
        "uvicorn.error": "Invalid HTTP request received.",
        __name__: _FULL,
    }.items():
        log = logging.getLogger(name)
        if not any(isinstance(each, Seldom) for each in log.filters):
            log.addFilter(Seldom(start))


class _Transport:
    """A transport of which the protocol decides how it is closed."""

    def __init__(self, transport: asyncio.Transport, protocol: Protocol) -> None:
        self._transport = transport
        self._protocol = protocol

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def is_closing(self) -> bool:
        """Whether it is closed, or about to be."""
        return self._protocol.lingering or self._transport.is_closing()

    def close(self) -> None:
        """Close it when the client has had its answer."""
        self._protocol.leave(self._transport)


class Protocol(H11Protocol):
    """One connection."""

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.lingering = False
        self._dropped = 0
        self._timer: asyncio.TimerHandle | None = None
        inner = self.app

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            scope[ABORT] = self.transport.abort
            await inner(cast("Any", scope), cast("Any", receive), cast("Any", send))

        self.app = cast("Any", app)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take a connection, unless there are too many."""
        # an answer counts as sent when the kernel has all of it, not when the last of it waits here
        transport.set_write_buffer_limits(high=0)
        super().connection_made(cast("asyncio.Transport", _Transport(transport, self)))
        if len(self.connections) > most_connections():
            logger.warning("%s (%d): new ones are closed", _FULL, most_connections())
            transport.abort()
            return
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget it."""
        self._set_timer(None)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read on."""
        if self.lingering:
            self._dropped += len(data)
            if self._dropped > _LINGERED:
                self.transport.abort()
        elif not self.transport.is_closing():
            super().data_received(data)
            self._watch()

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        super().on_response_complete()
        self._watch()

    def shutdown(self) -> None:
        """Take no further request."""
        if not self.transport.is_closing():
            super().shutdown()

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - uvicorn's word for it is not a problem's
        """Refuse what is no HTTP."""
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.disconnected = True  # who reads the body is not to wait for the rest
            self.cycle.message_event.set()
        if self.conn.our_state in {h11.IDLE, h11.SEND_RESPONSE}:
            problem = answer(400, "The request is no HTTP/1.1, or its headers are too long.", HEADERS)
            assert problem.media_type == MEDIA_TYPE
            headers = [*problem.raw_headers, (b"connection", b"close")]
            for event in (
                h11.Response(status_code=400, headers=headers, reason=b"Bad Request"),
                h11.Data(data=bytes(problem.body)),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()

    def leave(self, transport: asyncio.Transport) -> None:
        """Close the connection; where the client still sends, say so and read on for a moment.

        A connection that is closed before all was read is reset, and what its client has not read is lost with it.
        """
        if self.lingering or transport.is_closing():
            return
        if self.conn.their_state not in {h11.SEND_BODY, h11.ERROR}:
            transport.close()
            self._set_timer(PATIENCE)  # what waits to be sent may never go
            return
        self.lingering = True
        self.flow.resume_reading()
        with contextlib.suppress(OSError):
            transport.write_eof()
        self._set_timer(LINGER)

    def _unsupported_upgrade_warning(self) -> None:
        """Say nothing: the request is answered as if it had not asked."""

    def _watch(self) -> None:
        """Wait for headers, and not for ever."""
        if self.transport.is_closing():
            return
        if self.conn.their_state is not h11.IDLE:
            self._set_timer(None)
        elif self._timer is None:
            self._set_timer(PATIENCE)

    def _set_timer(self, seconds: float | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None if seconds is None else self.loop.call_later(seconds, self.transport.abort)
