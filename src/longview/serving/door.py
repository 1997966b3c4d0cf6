"""What every request passes: its token, and the size and time of its body."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, MutableMapping
from typing import Any

from longview.serving.batching import Gate
from longview.serving.problems import ProblemError, answer, report
from longview.serving.security import check_token
from longview.serving.settings import Settings
from longview.serving.transfers import Transfer, Transfers

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

DEADLINE = "longview.deadline"
"""Key of a request's scope: when it must be answered, on the clock of `time.monotonic`."""

_BODIES = 4  # bodies of the largest size that are in memory at once


class ClientGoneError(Exception):
    """Nobody waits for an answer."""


class Door:
    """ASGI middleware.

    Args:
        app: What is behind it.
        settings: Limits.
        gate: Whether there is room.
        takes: Addresses that take a body; of others none is read.
    """

    def __init__(self, app: App, settings: Settings, gate: Gate, takes: Collection[str]) -> None:
        self._app = app
        self._settings = settings
        self._gate = gate
        self._takes = frozenset(takes)
        self._bodies = Transfers(_BODIES * settings.base64_bytes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request in, or say why not."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            await self._enter(scope, receive, send)
        except ClientGoneError:
            raise
        except ProblemError as problem:
            await answer(problem.status, problem.detail, problem.headers)(scope, receive, send)
        except Exception as error:  # no trace to the client, and no message to the log
            report(error)
            await answer(500, "Something failed here; it is in the server's log.")(scope, receive, send)

    async def _enter(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope["headers"])
        if [name for name, _ in scope["headers"]].count(b"authorization") > 1:
            raise ProblemError(400, "Send one Authorization header, not several.", close=True)
        check_token(self._settings.token, scope["method"], scope["path"], headers.get(b"authorization", b""))
        if scope["method"] != "POST" or scope["path"] not in self._takes:
            await self._app(scope, receive, send)
            return
        self._gate.check()  # before the body: who is refused anyhow need not send it
        transfer = Transfer(self._bodies)
        try:
            body = await self._body(scope, headers, receive, transfer)
            await self._app(scope, _replayed(body, receive), send)
        finally:
            transfer.give()

    async def _body(self, scope: Scope, headers: dict[bytes, bytes], receive: Receive, transfer: Transfer) -> bytes:
        """The body, in memory.

        Raises:
            ProblemError: 413 where it is, or claims to be, too large; 408 where it is too slow; 429 where too many
                come at once.
            ClientGoneError: Where the client left.
        """
        limit = self._settings.base64_bytes if scope["path"] == "/predict" else self._settings.body_bytes + 65_536
        claimed = headers.get(b"content-length", b"0")
        if not claimed.isdigit() or int(claimed[:20]) > limit:
            raise self._too_large()
        parts: list[bytes] = []
        total, more = 0, True
        try:
            async with transfer.moving(scope[DEADLINE]):
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise ClientGoneError
                    parts.append(message.get("body", b""))
                    total += len(parts[-1])
                    more = message.get("more_body", False)
                    if total > limit:
                        raise self._too_large()
                    if not transfer.take(len(parts[-1])):
                        raise ProblemError(
                            429, "Too many films are on their way; try again.", retry_after=2, close=True
                        )
                    transfer.moved(len(parts[-1]))
        except TimeoutError as error:
            raise ProblemError(408, "The request did not arrive in time.", close=True) from error
        return b"".join(parts)

    def _too_large(self) -> ProblemError:
        return ProblemError(413, f"The request is over {self._settings.max_upload_mb:g} MB of films.", close=True)


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
