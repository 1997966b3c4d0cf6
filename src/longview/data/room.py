"""Room on disk: how much there is, and how much is taken."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from longview import InputError

_JPEG_BYTES = 0.25  # bytes per pixel at most, of films of 256 to 1024 px at quality 92
_BESIDE = 2000  # bytes per image for manifest, index and journal


def check_room(output: Path, needed: int) -> None:
    """Check that so many bytes can be written beside `output`.

    Raises:
        InputError: Where there is too little room; the message has the figures.
    """
    existing = existing_folder(output.parent)
    free = shutil.disk_usage(existing).free
    if needed > free:
        raise InputError(
            f"the store needs {human_bytes(needed)} more, {existing} has {human_bytes(free)} "
            f"free; choose a smaller --size, --packing jpeg or another disk"
        )


def existing_folder(folder: Path) -> Path:
    """The innermost folder on the way to `folder` that is there."""
    return next(place for place in (folder, *folder.parents) if place.is_dir())


def bytes_needed(settings: Mapping[str, Any]) -> int:
    """Room that a store of these settings takes at most, in bytes."""
    share = 1 if settings["packing"] == "npy" else _JPEG_BYTES
    return int(settings["images"] * (settings["size"] ** 2 * share + _BESIDE))


def folder_bytes(folder: Path) -> int:
    """Room that the files of a folder take on disk, in bytes."""
    return sum(file.stat().st_blocks * 512 for file in folder.iterdir())  # POSIX: units of 512


def human_bytes(count: float) -> str:
    """`1.2 MB`, for messages."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "bytes" or count >= 100 else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
