"""Reading any chest film as one (H, W) uint8 picture, and resizing it to the square that a store keeps.

What becomes of each kind of file:

* 8-bit grey is taken as it is; 1-bit becomes 0 and 255; palettes and colour become grey by ITU-R 601 luma
* alpha is composited on black, the background of a film
* 16- and 32-bit integers and floating point are stretched between their own 0.1 and 99.9 percentiles
  (:mod:`longview.data.intensity` says why not divided by 257)
* DICOM: :mod:`longview.data.dicom`
* EXIF orientation is applied

Damage that is noticed, and damage that is not:

* PNG: every byte is under a checksum, and all of them are checked
* JPEG has no checksum. A file without its end marker, with scans missing, or with fewer coded pixels than its
  header promises is refused, whether something was appended to it or not. Not noticed: wrong bytes in the middle
  that decode to something, and a loss of less than the last four blocks of 8 x 8 pixels
* TIFF, BMP and uncompressed DICOM: missing bytes are noticed, wrong ones are not
"""

from __future__ import annotations

import re
import stat
import struct
import zlib
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image as PillowImage
from PIL import ImageChops, ImageFile, ImageOps, UnidentifiedImageError

from longview import InputError
from longview.data.film_bytes import FilmBytes
from longview.data.intensity import stretch

Resize = Literal["squash", "letterbox", "crop"]
"""How a film becomes a square: stretched to it, padded with black to it, or its centre square cut out."""

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".dcm", ".dicom")
"""Endings that count as films when a folder is searched (compare in lower case)."""

MAX_PIXELS = 178_956_970
"""Pillow's own limit for a decompression bomb; the largest detectors have about a tenth of it."""

_JPEG_MARKER = re.compile(rb"\xff([\x02-\xcf\xd8-\xfe])")  # but for stuffed bytes, fill bytes and restarts
_PROGRESSIVE = {0xC2, 0xC6, 0xCA, 0xCE}

_FORMATS = ("PNG", "JPEG", "TIFF", "BMP")
_JPEG = {"JPEG", "MPO"}  # MPO: what Pillow calls a camera's JPEG with a preview behind it
_MAGIC = (b"\x89PNG", b"\xff\xd8", b"II", b"MM", b"BM")  # how files of those formats begin
_PREAMBLE = slice(128, 132)  # where a DICOM file says DICM
# a DICOM file without a preamble begins with an element of group 2 or 8, of a small number; no picture does
_DICOM_GROUPS = (b"\x02\x00", b"\x08\x00", b"\x00\x02", b"\x00\x08")
_WHITE_IS_ZERO, _PHOTOMETRIC = 0, 262  # TIFF tag; Pillow inverts for it up to 8 bits only
_ORIENTATION = 274  # EXIF tag; 5 to 8 are quarter turns


@dataclass(frozen=True)
class Image:
    """A film as it was read.

    Args:
        pixels: (H, W) uint8, air black and bone white; smaller than the file's where `min_size` allowed it.
        height: Rows of the film in the file, after EXIF orientation, before any shrinking.
        width: Columns likewise.
        spacing_mm: Side of one of the file's pixels in millimetres; None where the file does not say.
    """

    pixels: npt.NDArray[np.uint8]
    height: int
    width: int
    spacing_mm: float | None = None


def read_image(path: Path | FilmBytes, max_pixels: int = MAX_PIXELS, min_size: int | None = None) -> Image:
    """Read a PNG, JPEG, TIFF, BMP or DICOM film.

    Args:
        path: The file, on disk or in memory; what it is is told by its first bytes, not by its ending (`.dcm` and
            `.dicom` count only for a file that begins like nothing known).
        max_pixels: Larger films are refused from their header, before anything is decoded (values above
            `MAX_PIXELS` count as that).
        min_size: A JPEG may be decoded at 1/2, 1/4 or 1/8 of its size as long as its shorter side does not
            fall below this many pixels: faster by a third, and the resize after it by ten times.

    Returns:
        The film, with its original size and pixel spacing.

    Raises:
        InputError: Where the file is missing, no regular file, empty, no image, truncated, too large or has several
            frames.
    """
    try:
        mode = path.stat().st_mode if isinstance(path, Path) else stat.S_IFREG
        if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):  # reading a pipe or a device may never end
            raise InputError(f"{path} is a pipe, socket or device, not a file")
        with path.open("rb") as file:
            head = file.read(_PREAMBLE.stop)
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist") from error
    except OSError as error:
        raise InputError(f"{path} cannot be opened: {error.strerror}") from error
    if not head:
        raise InputError(f"{path} is empty (0 bytes)")
    if _is_dicom(head, path.suffix.lower()):
        from longview.data.dicom import read_dicom  # pydicom takes half a second to import

        pixels, spacing = read_dicom(path, max_pixels)
        return Image(pixels, pixels.shape[0], pixels.shape[1], spacing)
    return _read_picture(path, max_pixels, min_size)


def _is_dicom(head: bytes, suffix: str) -> bool:
    if head[_PREAMBLE] == b"DICM":
        return True
    if head.startswith(_MAGIC):
        return False
    return head.startswith(_DICOM_GROUPS) or suffix in {".dcm", ".dicom"}


def _read_picture(path: Path | FilmBytes, max_pixels: int, min_size: int | None) -> Image:
    try:
        # a stream and not a path: Pillow 13.0 maps uncompressed TIFFs into memory, and scrambles those whose
        # orientation is a quarter turn
        with path.open("rb") as file, PillowImage.open(file, formats=_FORMATS) as picture:
            width, height = picture.size
            _check_size(path, picture, max_pixels)
            if picture.format == "PNG":
                _verify_png(path)
            if picture.format in _JPEG:
                # luma alone is decoded, at the largest reduction that keeps both sides at least this long
                side = min(min_size or max(width, height), width, height)
                picture.draft("L", (side, side) if min_size else (width, height))
            picture.load()
            if picture.format in _JPEG:
                _verify_jpeg(path.read_bytes(), np.asarray(picture))
            if picture.format not in _JPEG:
                ImageOps.exif_transpose(picture, in_place=True)
                width, height = picture.size
            elif picture.getexif():
                sideways = picture.getexif().get(_ORIENTATION, 1) in {5, 6, 7, 8}
                ImageOps.exif_transpose(picture, in_place=True)
                width, height = (height, width) if sideways else (width, height)
            return Image(_to_grey(picture), height, width)
    except InputError:
        raise
    except (PillowImage.DecompressionBombError, PillowImage.DecompressionBombWarning) as error:
        raise InputError(f"{path} is too large to be a film: {error}") from error
    except UnidentifiedImageError as error:
        raise InputError(f"{path} is not an image that can be read (PNG, JPEG, TIFF, BMP, DICOM)") from error
    # what Pillow's decoders raise on broken files; it has no exception of its own for them
    except (OSError, ValueError, SyntaxError, EOFError, IndexError, TypeError, KeyError, struct.error,
            zlib.error, NotImplementedError, OverflowError, AssertionError) as error:  # fmt: skip
        raise InputError(f"{path} cannot be decoded: {error or type(error).__name__}") from error


def _check_size(path: Path | FilmBytes, picture: ImageFile.ImageFile, max_pixels: int) -> None:
    width, height = picture.size
    if width * height > max_pixels:
        raise InputError(f"{path} is {width} x {height} pixels, over the limit of {max_pixels:,}")
    frames = getattr(picture, "n_frames", 1)
    if frames != 1 and picture.format not in _JPEG:
        raise InputError(f"{path} has {frames} frames or pages; a film has one: save the one you want")


def _verify_png(path: Path | FilmBytes) -> None:
    """Check all checksums; decoding does not, and gives half a black film for one wrong byte."""
    with path.open("rb") as file, PillowImage.open(file, formats=("PNG",)) as picture:
        picture.verify()  # after that the picture is of no more use


def _verify_jpeg(content: bytes, pixels: npt.NDArray[np.uint8]) -> None:
    """Check that nothing is missing at the end of a JPEG; libjpeg fills that with grey, and only warns.

    Args:
        content: The file.
        pixels: (H, W) or (H, W, channels), as they were decoded at whatever scale.

    Raises:
        ValueError: Where something is missing.
    """
    scans, end = _jpeg_scans(content)
    if end < 0:
        raise ValueError("its end is missing")
    if not scans or not all(any(low <= k <= high for low, high in scans) for k in range(64)):
        raise ValueError("its last scans are missing")
    # blocks that are missing become middle grey, unless earlier scans brought some of their bits. Where that may
    # be, some bytes are put behind the data: a decoder that has all blocks ignores them
    if len(scans) > 1 or np.isin(pixels[-1, -4:], (127, 128)).all():
        some = np.random.default_rng(0).integers(0, 255, 4096).astype(np.uint8).tobytes()  # no 255, no marker
        filler = some + b"".join(bytes((0xFF, 0xD0 + number)) + some for number in range(8))
        if not np.array_equal(_luma(content), _luma(content[:end] + filler + content[end:])):
            raise ValueError("its last rows are missing")


def _luma(content: bytes) -> npt.NDArray[np.uint8]:
    with PillowImage.open(BytesIO(content), formats=("JPEG", "MPO")) as picture:
        picture.draft("L", picture.size)
        return np.array(picture, np.uint8)


def _jpeg_scans(content: bytes) -> tuple[list[tuple[int, int]], int]:
    """What a JPEG brings of its first component (luma, grey), by its markers (ITU-T T.81, annex B).

    Returns:
        First and last coefficient of each scan that brings the last bit of them (the only scan, unless the JPEG
        is progressive), and where the end marker stands, -1 without one.
    """
    scans: list[tuple[int, int]] = []
    progressive, first, position = False, -1, 0
    while match := _JPEG_MARKER.search(content, position):
        marker, position = match[1][0], match.end()
        if marker == 0xD9:
            return scans, match.start()
        if marker == 0xD8:
            continue
        segment = content[position : position + struct.unpack_from(">H", content, position)[0]]
        position += len(segment)
        if 0xC0 <= marker <= 0xCF and marker not in {0xC4, 0xC8, 0xCC}:  # a frame
            progressive, first = marker in _PROGRESSIVE, segment[8]
        elif marker == 0xDA:
            components = segment[3 : 3 + 2 * segment[2] : 2]
            low, high, bits = segment[-3:]
            if first in components and (not progressive or bits & 15 == 0):
                scans.append((low, high) if progressive else (0, 63))
    return scans, -1


def _to_grey(picture: PillowImage.Image) -> npt.NDArray[np.uint8]:
    """Any Pillow mode to (H, W) uint8."""
    if picture.mode.startswith("I") or picture.mode == "F":
        values = np.asarray(picture)
        grey = stretch(values.astype(values.dtype.newbyteorder("=")))
        tags = getattr(picture, "tag_v2", {})
        return 255 - grey if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO else grey
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        picture = ImageChops.multiply(picture.convert("L"), picture.getchannel("A"))
    # a copy where nothing was converted: the array must not hang on Pillow's buffer
    return np.array(picture if picture.mode == "L" else picture.convert("L"), np.uint8)


def resize_image(pixels: npt.NDArray[np.uint8], size: int, policy: Resize) -> npt.NDArray[np.uint8]:
    """Make a film a square of `size` pixels.

    Args:
        pixels: (H, W) uint8.
        size: Side of the square.
        policy: `squash` stretches both sides to it (nothing is lost, the aspect is), `letterbox` keeps the
            aspect and pads with black on both sides alike, `crop` keeps the aspect and cuts the centre square
            out (what lies beyond it is lost).

    Returns:
        (size, size) uint8. Sides that shrink are averaged over their area, sides that grow are interpolated
        linearly (no overshoot at edges of metal).
    """
    height, width = pixels.shape
    if policy == "crop":
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        return _scale(pixels[top : top + side, left : left + side], size, size)
    if policy == "letterbox":
        factor = size / max(height, width)
        inner = _scale(pixels, max(1, round(height * factor)), max(1, round(width * factor)))
        square = np.zeros((size, size), np.uint8)
        top, left = (size - inner.shape[0]) // 2, (size - inner.shape[1]) // 2
        square[top : top + inner.shape[0], left : left + inner.shape[1]] = inner
        return square
    return _scale(pixels, size, size)


def _scale(pixels: npt.NDArray[np.uint8], height: int, width: int) -> npt.NDArray[np.uint8]:
    """Shrink by area first, then grow linearly; OpenCV would alias where one side does each."""
    smaller = min(height, pixels.shape[0]), min(width, pixels.shape[1])
    if smaller != pixels.shape:
        pixels = np.asarray(cv2.resize(pixels, smaller[::-1], interpolation=cv2.INTER_AREA), np.uint8)
    if smaller != (height, width):
        pixels = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_LINEAR).astype(np.uint8, copy=False)
    return np.ascontiguousarray(pixels)
