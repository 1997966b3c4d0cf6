"""From a film's bytes to its pixels: what it is, how large it is, and only then decoding; all of it in memory.

A file is known by its first bytes, never by a name or a content type. Its size is read from its header before
anything is decoded, since a few bytes may claim thousands of megapixels. TIFF and BMP, which `prepare` reads, are
refused here: TIFF can hide nearly anything, and no detector or browser sends either. What a decoder says of a broken
file is not passed on: it may quote the file.
"""

from __future__ import annotations

import base64
import binascii
import re
import struct
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from longview import InputError
from longview.data.film_bytes import FilmBytes
from longview.data.frames import Frame
from longview.data.images import read_image, resize_image
from longview.data.transforms import resize_only
from longview.inference import OpenModel
from longview.serving.dicom_guard import checked_dicom
from longview.serving.problems import ProblemError
from longview.serving.settings import MAX_SIDE, MIN_SIDE, Settings

Kind = Literal["PNG", "JPEG", "DICOM"]
Pixels = npt.NDArray[np.uint8]

_PNG = b"\x89PNG\r\n\x1a\n"
_START_OF_FRAME = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_SCANS = 100  # of a progressive JPEG: each costs a pass over the film
_KNOWN = {b"II*\0": "TIFF", b"MM\0*": "TIFF", b"BM": "BMP", b"GIF8": "GIF", b"%PDF": "PDF", b"PK": "ZIP"}


@dataclass(frozen=True)
class Received:
    """A film as it was sent.

    Args:
        pixels: (H, W) uint8, air black and bone white.
        view: Position in `longview.VIEWS`.
        kind: What its file is.
    """

    pixels: Pixels
    view: int
    kind: Kind

    def seen(self, model: OpenModel) -> tuple[Tensor, Frame]:
        """The film as a model sees it, (1, S, S) uint8, and where it is in that square."""
        size, policy = model.preprocessing.size, model.preprocessing.resize
        square = resize_only(resize_image(self.pixels, size, policy), model.image_size)
        height, width = self.pixels.shape
        return torch.from_numpy(square[None]), Frame(height, width, model.image_size, policy, size)


def receive(content: bytes, number: int, view: int, settings: Settings) -> Received:
    """Decode a film.

    Args:
        content: Its file.
        number: Which film of the request it is, from 1; messages say no other name.
        view: Position in `longview.VIEWS`.
        settings: Limits.

    Raises:
        ProblemError: 415 for what is no PNG, JPEG or DICOM, 413 for too large a film, 422 for one that is damaged.
    """
    called = f"Film {number}"
    kind = sniff(content, called)
    if kind == "DICOM":
        content, (height, width) = checked_dicom(content, called, settings.max_pixels)
    else:
        height, width = _png_size(content, called) if kind == "PNG" else _jpeg_size(content, called)
    check_size(height, width, called, settings)
    try:
        pixels = read_image(FilmBytes(content, called), settings.max_pixels).pixels
    except (InputError, MemoryError) as error:
        raise ProblemError(422, f"{called} ({kind}) cannot be decoded: it is damaged or cut off.") from error
    check_size(pixels.shape[0], pixels.shape[1], called, settings)
    return Received(pixels, view, kind)


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


def from_base64(text: str, called: str = "cxr_base64") -> bytes:
    """The bytes of base64, with or without `data:...;base64,`, line breaks, or the alphabet for addresses.

    Raises:
        ProblemError: 422 where it is none.
    """
    plain = text.partition(",")[2] if text[:5].lower() == "data:" else text
    plain = re.sub(r"\s+", "", plain)
    try:
        content = base64.b64decode(plain.encode("ascii").translate(bytes.maketrans(b"-_", b"+/")), validate=True)
    except (binascii.Error, UnicodeEncodeError) as error:
        raise ProblemError(422, f"{called} is no base64.") from error
    if not content:
        raise ProblemError(422, f"{called} is empty.")
    return content


def as_png(pixels: npt.NDArray[np.uint8]) -> bytes:
    """A picture (H, W) or RGB (H, W, 3) as PNG."""
    picture = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR) if pixels.ndim == 3 else pixels
    # level 1: films are noise, which more effort hardly makes smaller
    done, data = cv2.imencode(".png", picture, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    assert done
    return data.tobytes()


def _png_size(content: bytes, called: str) -> tuple[int, int]:
    if len(content) < 24 or content[12:16] != b"IHDR":
        raise ProblemError(422, f"{called} (PNG) has no header.")
    width, height = struct.unpack(">II", content[16:24])
    return height, width


def _jpeg_size(content: bytes, called: str) -> tuple[int, int]:
    """Rows and columns by the frame header (ITU-T T.81, B.2.2)."""
    position = 2
    while position + 4 <= len(content) and content[position] == 0xFF:
        marker = content[position + 1]
        if marker == 0xFF:  # a fill byte
            position += 1
            continue
        if marker in _START_OF_FRAME and position + 9 <= len(content):
            if content.count(b"\xff\xda") > _SCANS:
                raise ProblemError(422, f"{called} (JPEG) has more than {_SCANS} scans.")
            height, width = struct.unpack(">HH", content[position + 5 : position + 9])
            return height, width
        position += 2 + int(struct.unpack(">H", content[position + 2 : position + 4])[0])
    raise ProblemError(422, f"{called} (JPEG) has no frame header.")
