"""A model card that somebody edited is never replaced, and none is ever removed."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from longview import InputError

CARD = "MODEL_CARD.md"
NEW_CARD = "MODEL_CARD.new.md"
"""Where a card goes whose place is taken by one that was edited."""

_SEAL = re.compile(r"\n<!-- Written by longview; SHA-256 of the text above: (?P<hash>[0-9a-f]{64}) -->\n\Z")


def sealed(text: str) -> str:
    """A card with a last line, unseen when rendered, by which an edit is known."""
    return f"{text}\n<!-- Written by longview; SHA-256 of the text above: {_hash(text)} -->\n"


def edited(text: str) -> bool:
    """Whether a card is not as :func:`sealed` made it."""
    seal = _SEAL.search(text)
    return seal is None or seal["hash"] != _hash(text[: seal.start()])


def card_to_write(output: Path) -> str:
    """The name under which a folder takes a new card.

    Raises:
        InputError: Where both were edited.
    """
    for name in (CARD, NEW_CARD):
        file = output / name
        if not file.exists() or not edited(file.read_text(encoding="utf-8", errors="replace")):
            return name
    raise InputError(
        f"{output / CARD} and {NEW_CARD} beside it were both edited, and are not replaced; move one away, or leave "
        f"--checkpoint out"
    )


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
