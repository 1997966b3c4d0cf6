"""What every answer passes: its headers, problem+json, parts that a client must take in time; counted and logged."""

from __future__ import annotations

import asyncio
import logging
import time

from longview.serving.door import DEADLINE, App, ClientGoneError, Message, Receive, Scope, Send
from longview.serving.metrics import Metrics
from longview.serving.problems import MEDIA_TYPE, answer, detail_of, report
from longview.serving.security import HEADERS
from longview.serving.settings import Settings
from longview.serving.transfers import Transfer, Transfers

logger = logging.getLogger(__name__)

ABORT = "longview.abort"
"""Key of a request's scope: what closes its connection at once, where there is one."""
PART = 65_536
"""Bytes of an answer that are given to the connection at once; the next follow when these have gone."""

_ANSWERS = 4  # answers of the size of the largest body that are in memory at once
_METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}
_PROBES = {"/healthz", "/readyz", "/metrics"}  # asked every few seconds by machines
_GONE = 499  # as web servers log a client that went away


class Dispatch:
    """ASGI middleware, the outermost.

    Args:
        app: What is behind it.
        settings: Limits.
        metrics: What counts requests.
    """

    def __init__(self, app: App, settings: Settings, metrics: Metrics) -> None:
        self._app = app
        self._settings = settings
        self._metrics = metrics
        self._answers = Transfers(_ANSWERS * settings.base64_bytes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Have a request answered."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.monotonic()
        # HEAD is GET without the body, which is not sent
        inner = {**scope, "method": "GET"} if scope["method"] == "HEAD" else scope
        inner[DEADLINE] = started + self._settings.timeout
        reply = _Reply(scope, receive, send, Transfer(self._answers), self._settings.timeout)
        try:
            await self._answered(inner, reply)
        except ClientGoneError:
            reply.status = reply.status or _GONE
        finally:
            reply.transfer.give()
            self._count(inner, scope["method"], reply.status or _GONE, time.monotonic() - started)

    async def _answered(self, scope: Scope, reply: _Reply) -> None:
        try:
            await self._app(scope, reply.receive, reply.send)
        except ClientGoneError:
            raise
        except asyncio.CancelledError:  # the server has been told to end, and waits no longer
            if (task := asyncio.current_task()) is not None:
                task.uncancel()
            await answer(503, "The server is stopping.", {"Retry-After": "5", "Connection": "close"})(
                scope, reply.receive, reply.send
            )
        except Exception as error:  # the last resort: no trace to the client, and no message to the log
            report(error)
            await answer(500, "Something failed here; it is in the server's log.")(scope, reply.receive, reply.send)

    def _count(self, scope: Scope, method: str, status: int, seconds: float) -> None:
        # never the address itself, in which somebody may have put a name
        known = getattr(scope.get("route"), "path", None)
        route = known or ("/static" if scope["path"].startswith("/static/") else "unknown")
        method = method if method in _METHODS else "other"
        self._metrics.answered(route, method, status, seconds)
        level = logging.DEBUG if route in _PROBES and status < 400 else logging.INFO
        logger.log(level, "%s %s %d in %.0f ms", method, route, status, 1000 * seconds)


class _Reply:
    """One answer on its way."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, transfer: Transfer, timeout: float) -> None:
        self.status = 0
        self.transfer = transfer
        self._scope = scope
        self._receive = receive
        self._send = send
        self._timeout = timeout
        self._deadline = 0.0
        self._start: Message | None = None
        self._done = False
        headers = dict(scope["headers"])
        self._arrived = headers.get(b"content-length", b"0") == b"0" and b"transfer-encoding" not in headers

    async def receive(self) -> Message:
        """What the client sends, noting when it has sent all."""
        message = await self._receive()
        if message["type"] == "http.request" and not message.get("more_body", False):
            self._arrived = True
        return message

    async def send(self, message: Message) -> None:
        """Send a part of the answer.

        Raises:
            ClientGoneError: Where the client does not take it in time.
        """
        if self._done:
            return
        if message["type"] == "http.response.start":
            if self.status:  # something failed in the middle of an answer: it must not look like a whole one
                await self._abort()
            self._start = message  # goes with the first part, until which it may become another
            return
        body, more = message.get("body", b""), message.get("more_body", False)
        first = None
        if self._start is not None:
            first, body, more = self._begun(self._start, body, more)
            self._start, self.status = None, first["status"]
            self._deadline = time.monotonic() + self._timeout
        self._done = not more
        try:
            async with self.transfer.moving(self._deadline):
                if first is not None:
                    await self._send(first)
                await self._parts(body if self._scope["method"] != "HEAD" else b"", more)
        except TimeoutError:
            await self._abort()

    async def _parts(self, body: bytes, more: bool) -> None:
        if len(body) > PART:
            for at in range(0, len(body), PART):
                await self._send({"type": "http.response.body", "body": body[at : at + PART], "more_body": True})
                self.transfer.give(PART)
                self.transfer.moved(PART)
            body = b""  # an end of its own, which waits until the last part has gone
        await self._send({"type": "http.response.body", "body": body, "more_body": more})

    def _begun(self, start: Message, body: bytes, more: bool) -> tuple[Message, bytes, bool]:
        """The begin of an answer: with all headers, or a problem in its stead."""
        headers: list[tuple[bytes, bytes]] = [(name.lower(), text) for name, text in start["headers"]]
        status = start["status"]
        kind = dict(headers).get(b"content-type", b"")
        other = None
        if status >= 400 and kind != MEDIA_TYPE.encode():
            other = answer(status, detail_of(status, body.decode(errors="replace")))
        elif len(body) > PART and not self.transfer.take(len(body)):
            status, headers = 503, []
            other = answer(503, "Too many answers wait to be read; try again.", {"Retry-After": "5"})
        if other is not None:
            kept = [pair for pair in headers if pair[0] not in {b"content-type", b"content-length"}]
            headers, body, more = [*kept, *other.raw_headers], bytes(other.body), False
        present = {name for name, _ in headers}
        extra = [(name.lower().encode(), text.encode()) for name, text in HEADERS.items()]
        headers += [pair for pair in extra if pair[0] not in present]
        if not self._arrived and b"connection" not in present:
            headers.append((b"connection", b"close"))  # the rest of the request is not read
        return {**start, "status": status, "headers": headers}, body, more

    async def _abort(self) -> None:
        """Close the connection, whatever is in its buffers.

        Raises:
            ClientGoneError: Always.
        """
        self.status = _GONE
        if ABORT in self._scope:
            self._scope[ABORT]()
            await asyncio.sleep(0)  # in which the server hears of it
        raise ClientGoneError
