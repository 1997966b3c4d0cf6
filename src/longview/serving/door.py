"""What every request passes: token, size and time of its body, headers of the answer, counting, and the last resort."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any

from longview.serving.batching import Gate
from longview.serving.metrics import Metrics
from longview.serving.problems import ProblemError, answer, report
from longview.serving.security import HEADERS, check_token
from longview.serving.settings import Settings

logger = logging.getLogger(__name__)

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

DEADLINE = "longview.deadline"
"""Key of a request's scope: when it must be answered, on the clock of `time.monotonic`."""

_BODIES = 4  # bodies of the largest size that are in memory at once
_METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}
_GONE = 499  # as web servers log a client that went away


class ClientGoneError(Exception):
    """Nobody waits for an answer."""


@dataclass
class _Reply:
    """What is known of the answer while it is sent."""

    status: int = 0


class Door:
    """ASGI middleware.

    Args:
        app: What is behind it.
        settings: Limits.
        gate: Whether there is room.
        metrics: What counts requests.
    """

    def __init__(self, app: App, settings: Settings, gate: Gate, metrics: Metrics) -> None:
        self._app = app
        self._settings = settings
        self._gate = gate
        self._metrics = metrics
        self._held = 0  # bytes of bodies in memory

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request in, or say why not."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.monotonic()
        scope[DEADLINE] = started + self._settings.timeout
        reply = _Reply()

        async def dressed(message: Message) -> None:
            if message["type"] == "http.response.start":
                reply.status = message["status"]
                present = {name.lower() for name, _ in message["headers"]}
                extra = [(name.lower().encode(), text.encode()) for name, text in HEADERS.items()]
                message["headers"] = [*message["headers"], *(pair for pair in extra if pair[0] not in present)]
            await send(message)

        try:
            await self._enter(scope, receive, dressed)
        except ClientGoneError:
            reply.status = reply.status or _GONE
        except ProblemError as problem:
            await answer(problem.status, problem.detail, problem.headers)(scope, receive, dressed)
        except Exception as error:  # the last resort: no trace to the client, and no message to the log
            report(error)
            if not reply.status:
                await answer(500, "Something failed here; it is in the server's log.")(scope, receive, dressed)
        finally:
            self._count(scope, reply.status or _GONE, time.monotonic() - started)

    async def _enter(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope["headers"])
        check_token(self._settings.token, scope["path"], headers.get(b"authorization", b""))
        if scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        self._gate.check()  # before the body: who is refused anyhow need not send it
        limit = self._settings.base64_bytes if scope["path"] == "/predict" else self._settings.body_bytes + 65_536
        held: list[int] = []
        try:
            body = await self._body(headers, receive, limit, scope[DEADLINE], held)
            await self._app(scope, _replayed(body, receive), send)
        finally:
            self._held -= sum(held)

    async def _body(
        self, headers: dict[bytes, bytes], receive: Receive, limit: int, deadline: float, held: list[int]
    ) -> bytes:
        """The body, in memory.

        Raises:
            ProblemError: 413 where it is, or claims to be, too large; 408 where it is too slow; 429 where too many
                come at once.
            ClientGoneError: Where the client left.
        """
        claimed = headers.get(b"content-length", b"0")
        if not claimed.isdigit() or int(claimed[:20]) > limit:
            raise self._too_large()
        parts: list[bytes] = []
        total, more = 0, True
        try:
            async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise ClientGoneError
                    parts.append(message.get("body", b""))
                    total += len(parts[-1])
                    held.append(len(parts[-1]))
                    self._held += len(parts[-1])
                    more = message.get("more_body", False)
                    if total > limit:
                        raise self._too_large()
                    if self._held > _BODIES * self._settings.base64_bytes:
                        raise ProblemError(
                            429, "Too many films are on their way; try again.", retry_after=2, close=True
                        )
        except TimeoutError as error:
            raise ProblemError(408, "The request did not arrive in time.", close=True) from error
        return b"".join(parts)

    def _too_large(self) -> ProblemError:
        return ProblemError(413, f"The request is over {self._settings.max_upload_mb:g} MB of films.", close=True)

    def _count(self, scope: Scope, status: int, seconds: float) -> None:
        # never the address itself, in which somebody may have put a name
        known = getattr(scope.get("route"), "path", None)
        route = known or ("/static" if scope["path"].startswith("/static/") else "unknown")
        method = scope["method"] if scope["method"] in _METHODS else "other"
        self._metrics.answered(route, method, status, seconds)
        logger.info("%s %s %d in %.0f ms", method, route, status, 1000 * seconds)


def _replayed(body: bytes, receive: Receive) -> Receive:
    """Give the body once, then what the server says of the client."""
    given = False

    async def replay() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay
