"""A film's file in memory: what was sent to a server is read without ever being written to disk."""

from __future__ import annotations

from dataclasses import dataclass, field
from io import BytesIO
from typing import ClassVar


@dataclass(frozen=True)
class FilmBytes:
    """A film's file in memory, which is read as one on disk is.

    Args:
        content: The file's bytes.
        name: What messages call it.
    """

    content: bytes = field(repr=False)
    name: str = "the film"
    suffix: ClassVar[str] = ""

    def __str__(self) -> str:
        return self.name

    def open(self, mode: str = "rb") -> BytesIO:  # noqa: ARG002 - a path's
        """The bytes, from the first."""
        return BytesIO(self.content)

    def read_bytes(self) -> bytes:
        """All of them."""
        return self.content
