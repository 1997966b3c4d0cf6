"""From a film's bytes to its pixels, in a process of its own: what it is, how large it is, and only then decoding.

A file is known by its first bytes, never by a name or a content type. Its size is read from its header before
anything is decoded, since a few bytes may claim thousands of megapixels. TIFF and BMP, which `prepare` reads, are
refused here: TIFF can hide nearly anything, and no detector or browser sends either. What a decoder says of a broken
file is not passed on: it may quote the file.

Nothing here imports torch: a decoder that a film has killed is replaced within milliseconds.
"""

from __future__ import annotations

import os
import re
import signal
import struct
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from longview import InputError
from longview.data import dicom as _dicom  # noqa: F401 - so that no decoder begins by importing pydicom
from longview.data.film_bytes import FilmBytes
from longview.data.images import read_image
from longview.serving.dicom_guard import checked_dicom, silence
from longview.serving.problems import ProblemError
from longview.serving.settings import MAX_SIDE, MIN_SIDE, Settings

Kind = Literal["PNG", "JPEG", "DICOM"]
Pixels = npt.NDArray[np.uint8]

_PNG = b"\x89PNG\r\n\x1a\n"
_START_OF_FRAME = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_KNOWN = {b"II*\0": "TIFF", b"MM\0*": "TIFF", b"BM": "BMP", b"GIF8": "GIF", b"%PDF": "PDF", b"PK": "ZIP"}
_PARTS = 10_000  # chunks of a PNG, segments of a JPEG
_SCANNED = 600_000_000  # pixels of all scans of a progressive JPEG: each scan is a pass over the film
_SCAN = re.compile(rb"\xff\xda")
_SPARE = 1_000_000_000  # bytes that a decoder may have beside those of the film
_PER_PIXEL = 40  # bytes that a decoder may have for each pixel of the largest film: 16 bits, mapped as float64


@dataclass(frozen=True)
class Sent:
    """A film as it was sent.

    Args:
        content: Its file.
        number: Which film of the request it is, from 1; messages say no other name.
        view: Position in `longview.VIEWS`.
    """

    content: bytes
    number: int
    view: int

    def __str__(self) -> str:
        return f"Film {self.number}"


@dataclass(frozen=True)
class Refused:
    """What a decoder process answers instead of an error, which might not get through a pipe."""

    status: int
    detail: str


@dataclass(frozen=True)
class Look:
    """What the header of a film says.

    Args:
        kind: What its file is.
        height: Rows.
        width: Columns.
    """

    kind: Kind
    height: int
    width: int


def start_decoder(settings: Settings) -> None:
    """Make of this process a decoder: no word, no file, and no more memory than the largest film needs."""
    silence()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the server, which finishes what it took
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):  # libraries in C print what they like
        os.dup2(nowhere, stream)
    if sys.platform == "linux":
        import resource

        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + _SPARE + _PER_PIXEL * settings.max_pixels
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        for nothing in (resource.RLIMIT_CORE, resource.RLIMIT_FSIZE):  # a core dump would hold the film
            resource.setrlimit(nothing, (0, 0))


def answered(function: Callable[[Sent, Settings], Any], sent: Sent, settings: Settings) -> Any:
    """What `function` gives, or why it gives nothing."""
    try:
        return function(sent, settings)
    except ProblemError as error:
        return Refused(error.status, error.detail)
    except Exception:  # decoders raise whatever they like on a broken file
        return Refused(422, f"{sent} cannot be decoded: it is damaged or cut off.")


def look(sent: Sent, settings: Settings) -> Look:
    """What a film is and how large, by its first bytes and its header.

    Raises:
        ProblemError: 415 for what is no PNG, JPEG or DICOM, 413 for too large a film, 422 for one that is damaged.
    """
    return _looked(sent, settings)[0]


def decode(sent: Sent, settings: Settings) -> tuple[Kind, Pixels]:
    """A film's kind and its pixels, (H, W) uint8, air black and bone white.

    Raises:
        ProblemError: 415 for what is no PNG, JPEG or DICOM, 413 for too large a film, 422 for one that is damaged.
    """
    found, content = _looked(sent, settings)
    try:
        pixels = read_image(FilmBytes(content, str(sent)), settings.max_pixels).pixels
    except (InputError, MemoryError) as error:
        raise ProblemError(422, f"{sent} ({found.kind}) cannot be decoded: it is damaged or cut off.") from error
    check_size(pixels.shape[0], pixels.shape[1], str(sent), settings)
    return found.kind, pixels


def _looked(sent: Sent, settings: Settings) -> tuple[Look, bytes]:
    """What a film is, and as much of its file as is decoded."""
    called, content = str(sent), sent.content
    kind = sniff(content, called)
    if kind == "DICOM":
        content, (height, width) = checked_dicom(content, called, settings.max_pixels)
    else:
        height, width = _png_size(content, called) if kind == "PNG" else _jpeg_size(content, called)
    check_size(height, width, called, settings)
    return Look(kind, height, width), content


def sniff(content: bytes, called: str) -> Kind:
    """What a file is, by its first bytes.

    Raises:
        ProblemError: 422 for nothing at all, 415 for anything else than PNG, JPEG and DICOM.
    """
    if not content:
        raise ProblemError(422, f"{called} is empty.")
    if content[128:132] == b"DICM":
        return "DICOM"
    if content.startswith(_PNG):
        return "PNG"
    if content.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if content[:4] in {b"\x08\x00\x05\x00", b"\x08\x00\x08\x00", b"\x02\x00\x00\x00", b"\x08\x00\x00\x00"}:
        return "DICOM"  # without a preamble
    name = next((name for magic, name in _KNOWN.items() if content.startswith(magic)), "")
    found = f"is a {name} file" if name else "is no image file that is known here"
    raise ProblemError(415, f"{called} {found}; send PNG, JPEG or DICOM.")


def check_size(height: int, width: int, called: str, settings: Settings) -> None:
    """Refuse films that are too large, or too small to be one.

    Raises:
        ProblemError: 413 or 422.
    """
    if height * width > settings.max_pixels or max(height, width) > MAX_SIDE:
        raise ProblemError(
            413,
            f"{called} is {width} x {height} pixels; this server takes {settings.max_megapixels:g} megapixels, and "
            f"{MAX_SIDE} pixels along a side.",
        )
    if min(height, width) < MIN_SIDE:
        raise ProblemError(422, f"{called} is {width} x {height} pixels, which is no film.")


def _png_size(content: bytes, called: str) -> tuple[int, int]:
    if len(content) < 24 or content[12:16] != b"IHDR":
        raise ProblemError(422, f"{called} (PNG) has no header.")
    width, height = struct.unpack(">II", content[16:24])
    position = len(_PNG)
    for _ in range(_PARTS):
        if position + 8 > len(content):
            return height, width
        position += 12 + int(struct.unpack_from(">I", content, position)[0])
    raise ProblemError(422, f"{called} (PNG) has more than {_PARTS:,} chunks.")


def _jpeg_size(content: bytes, called: str) -> tuple[int, int]:
    """Rows and columns by the frame header (ITU-T T.81, B.2.2)."""
    position = 2
    for _ in range(_PARTS):
        if position + 4 > len(content) or content[position] != 0xFF:
            break
        marker = content[position + 1]
        if marker == 0xFF:  # a fill byte
            position += 1
            continue
        if marker in _START_OF_FRAME and position + 9 <= len(content):
            height, width = struct.unpack_from(">HH", content, position + 5)
            scans = sum(1 for _ in _SCAN.finditer(content, position))
            if scans * height * width > max(_SCANNED, height * width):
                raise ProblemError(422, f"{called} (JPEG) has {scans} scans, too many for its size.")
            return height, width
        position += 2 + int(struct.unpack_from(">H", content, position + 2)[0])
    raise ProblemError(422, f"{called} (JPEG) has no frame header.")
