"""Who may ask, and what a browser may do with what it gets."""

from __future__ import annotations

import hmac
import logging
from pathlib import Path

from longview import InputError
from longview.serving.problems import ProblemError

logger = logging.getLogger(__name__)

_SHORTEST = 16  # characters of a token
_OPEN = {"/", "/healthz", "/readyz", "/docs", "/openapi.json"}
"""Addresses without a token: the page, which asks for it, and what holds nothing of a model or a film."""

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
"""Of every answer: nothing from elsewhere, no inline scripts, no frames, no copies in caches."""


def read_token(path: Path) -> str:
    """The token in a file: its one line.

    Raises:
        InputError: Where the file is missing, or holds no token of 16 characters at least.
    """
    try:
        token = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"--token-file {path} cannot be read: {getattr(error, 'strerror', 'it is no text')}"
        ) from error
    if len(token) < _SHORTEST or not token.isascii() or not token.isprintable() or " " in token:
        raise InputError(
            f"--token-file {path}: it must hold one line of {_SHORTEST} or more letters and digits; make one with: "
            f"openssl rand -hex 32 > {path}"
        )
    if path.stat().st_mode & 0o004:
        logger.warning("%s can be read by every user of this machine; chmod 600 it", path)
    return token


def check_token(expected: str | None, method: str, path: str, authorization: bytes) -> None:
    """Refuse a request without the token.

    Args:
        expected: The token; None: everybody may ask.
        method: How it is asked; what is open is so to GET and HEAD.
        path: The address asked for.
        authorization: The request's header of that name; empty: none.

    Raises:
        ProblemError: 401.
    """
    is_open = path in _OPEN or path.startswith("/static/")
    if expected is None or (is_open and method in {"GET", "HEAD"}):
        return
    kind, _, given = authorization.partition(b" ")
    # compared in constant time: how long it takes says nothing of how much is right
    right = hmac.compare_digest(given.strip(), expected.encode())
    if kind.lower() != b"bearer" or not right:
        raise ProblemError(401, "This server asks for an access token: Authorization: Bearer TOKEN.", close=True)
