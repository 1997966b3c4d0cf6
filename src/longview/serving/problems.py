"""Errors as `application/problem+json` (RFC 9457): what is wrong and what helps, never a trace or a patient."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from http import HTTPStatus
from pathlib import Path

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

logger = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"


class ProblemError(Exception):
    """A request that is not answered as it was meant.

    Args:
        status: HTTP status.
        detail: What is wrong with it, and what helps; holds nothing of a film's file.
        retry_after: Seconds after which it may go better.
        close: Whether the rest of the request is not read.
    """

    def __init__(self, status: int, detail: str, *, retry_after: int | None = None, close: bool = False) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.headers: dict[str, str] = {}
        if retry_after is not None:
            self.headers["Retry-After"] = str(retry_after)
        if close:
            self.headers["Connection"] = "close"
        if status == HTTPStatus.UNAUTHORIZED:
            self.headers["WWW-Authenticate"] = 'Bearer realm="longview"'


def answer(status: int, detail: str, headers: Mapping[str, str] | None = None) -> Response:
    """A problem as a response."""
    content = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "detail": detail}
    return Response(json.dumps(content), status, dict(headers or {}), MEDIA_TYPE)


async def answer_problem(_request: Request, error: Exception) -> Response:
    """The handler of :class:`ProblemError`."""
    assert isinstance(error, ProblemError)
    return answer(error.status, error.detail, error.headers)


async def answer_http(_request: Request, error: Exception) -> Response:
    """The handler of what the router refuses: unknown paths and methods."""
    assert isinstance(error, HTTPException)
    details = {
        404: "There is nothing at this address; the API is described at /docs.",
        405: "This address does not take that method; the API is described at /docs.",
    }
    return answer(error.status_code, details.get(error.status_code, str(error.detail)), error.headers)


def detail_of(status: int, text: str) -> str:
    """What to say where a library refused a request in its own words."""
    if text.startswith("Disallowed CORS"):
        return "Pages of that origin may not use this server, or not in this way; its --allow-origin says whose may."
    if text == "Invalid host header":
        return "This server answers under localhost and 127.0.0.1 only; with a --token-file it does under any name."
    details = {
        400: "The header Range cannot be read; ask without it.",
        416: "The file has no such bytes; ask without the header Range.",
    }
    return details.get(status, f"{HTTPStatus(status).phrase}; the API is described at /docs.")


def report(error: BaseException) -> None:
    """Log an error that should not be, by its type and place: its message may hold what is in a film's file."""
    place, trace = "", error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        place, trace = f"{Path(code.co_filename).name}:{trace.tb_lineno} in {code.co_name}", trace.tb_next
    logger.error("internal error: %s at %s", type(error).__name__, place)
