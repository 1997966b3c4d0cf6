"""What is looked at in a DICOM file before it is decoded: only its size, how it is packed, and where its pixels end.

No attribute that says anything of a person is read by name, and nothing of a file is put into a message or the log.
Refused are ways to make much of little: deflated files (unpacked whole, without a limit), RLE (64 times), compressed
pixels whose own header claims another size than the file's, endless headers, and whatever follows the pixels.
"""

from __future__ import annotations

import logging
import re
import warnings
from io import BytesIO
from typing import Any

import pydicom
from pydicom.encaps import generate_fragments
from pydicom.filereader import read_partial

from longview.serving.problems import ProblemError

_HEADER = 4_000_000  # bytes before the pixels
_NOT_TAKEN = {
    "1.2.840.10008.1.2.8.1": "deflated",
    "1.2.840.10008.1.2.4.94": "referenced",
    "1.2.840.10008.1.2.5": "RLE",
}
_PIXELS = {0x7FE00008, 0x7FE00009, 0x7FE00010}
_TAGS = [0x00280002, 0x00280008, 0x00280010, 0x00280011, 0x00280100]
_UNDEFINED = 0xFFFFFFFF
_END = b"\xfe\xff\xdd\xe0\x00\x00\x00\x00"  # delimits the sequence of compressed fragments
_FRAMES = re.compile(rb"\xff[\xc0-\xc3\xc5-\xc7\xc9-\xcb\xcd-\xcf\xf7]..[\x01-\x10](..)(..)", re.DOTALL)
_CODESTREAM = re.compile(rb"\xff\x4f\xff\x51(..)..(....)(....)(....)(....).{16}(..)", re.DOTALL)
"""The start of a JPEG 2000 codestream, and right after it its size: length, X, Y, their offsets, samples."""
_JPEG = re.compile(rb"\xff\xd8\xff")
_STARTS = 100  # of JPEGs in one film
_FRAGMENTS = 1000  # of one film
_ITEM = b"\xfe\xff\x00\xe0"
_DEFLATED = (b"1.2.840.10008.1.2.1.99", b"1.2.840.10008.1.2.4.95")


def silence() -> None:
    """Keep pydicom quiet for good: its warnings quote values, which may be names."""
    warnings.filterwarnings("ignore", module=r"pydicom(\..*)?")
    warnings.filterwarnings("ignore", category=UserWarning, module=r"longview\.(data|serving)\..*")
    pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
    log = logging.getLogger("pydicom")
    log.handlers = [logging.NullHandler()]
    log.propagate = False


def checked_dicom(content: bytes, called: str, max_pixels: int) -> tuple[bytes, tuple[int, int]]:
    """Check a DICOM file without decoding it.

    Args:
        content: The file.
        called: What messages call it.
        max_pixels: Most pixels of a film.

    Returns:
        The file up to the end of its pixels, and its rows and columns.

    Raises:
        ProblemError: 422 where it has no pixels or several frames, or is damaged; 415 for a packing that is not taken;
            413 where its pixels claim to be more than `max_pixels`.
    """
    if any(uid in content[:_HEADER] for uid in _DEFLATED):  # pydicom would unpack it right away
        raise ProblemError(415, f"{called} (DICOM) is deflated; send it uncompressed, as JPEG or JPEG 2000.")
    found: dict[str, int] = {}
    file = BytesIO(content[:_HEADER])

    def at_pixels(tag: Any, _vr: str | None, length: int) -> bool:
        if int(tag) in _PIXELS:
            found["start"], found["length"] = file.tell(), length
        return int(tag) in _PIXELS

    try:
        header = read_partial(file, stop_when=at_pixels, force=True, specific_tags=list(_TAGS))
        syntax = str(getattr(header, "file_meta", {}).get("TransferSyntaxUID", "") or "")
        samples, frames = _number(header, "SamplesPerPixel", 1), _number(header, "NumberOfFrames", 1)
        rows, columns, bits = (_number(header, name, 0) for name in ("Rows", "Columns", "BitsAllocated"))
    except Exception as error:  # pydicom has no exception of its own for what is broken
        raise ProblemError(422, f"{called} (DICOM) is damaged or cut off.") from error
    if syntax in _NOT_TAKEN:
        raise ProblemError(
            415, f"{called} (DICOM) is {_NOT_TAKEN[syntax]}; send it uncompressed, as JPEG or JPEG 2000."
        )
    if "start" not in found:
        large = len(content) > _HEADER
        why = "more in its header than a film" if large else "no pixels: a report, or cut off"
        raise ProblemError(422, f"{called} (DICOM) has {why}.")
    if frames != 1:
        raise ProblemError(422, f"{called} (DICOM) has several frames; a radiograph has one.")
    if samples not in {1, 3} or not 1 <= bits <= 64 or rows < 1 or columns < 1:
        raise ProblemError(422, f"{called} (DICOM) is damaged: its header describes no film.")
    content = _to_the_end_of_pixels(content, found["start"], found["length"])
    if found["length"] == _UNDEFINED:
        _check_compressed(content[found["start"] :], called, max_pixels, (rows, columns, samples))
    return content, (rows, columns)


def _number(header: Any, name: str, default: int) -> int:
    value = header.get(name)
    return default if value in (None, "") else int(value)


def _to_the_end_of_pixels(content: bytes, start: int, length: int) -> bytes:
    if length != _UNDEFINED:
        # explicit lengths of 4 bytes have 2 reserved ones before them, so that the element starts at most 12 earlier
        return content[: start + 12 + length + 1]
    end = content.find(_END, start)
    return content if end < 0 else content[: end + len(_END)]


def _check_compressed(data: bytes, called: str, max_pixels: int, header: tuple[int, int, int]) -> None:
    """Compare what a compressed frame says of its own size with the limit; it is what decoders allocate by."""
    if data.count(_ITEM) > _FRAGMENTS:
        raise ProblemError(422, f"{called} (DICOM) is damaged: its pixels are in more than {_FRAGMENTS:,} pieces.")
    try:
        _offsets, *fragments = generate_fragments(data[data.index(_ITEM) :])
    except Exception as error:  # pydicom has no exception of its own for what is broken
        raise ProblemError(422, f"{called} (DICOM) is damaged or cut off.") from error
    frame = b"".join(fragments)
    if not frame.startswith(b"\xff\xd8"):
        _check_codestream(frame, called, max_pixels, header)
        return
    claims = []
    for count, start in enumerate(_JPEG.finditer(frame)):
        match = _FRAMES.search(frame, start.start(), start.start() + 100_000)
        claims += [(int.from_bytes(match[1], "big"), int.from_bytes(match[2], "big"))] if match else []
        if count > _STARTS:
            raise ProblemError(422, f"{called} (DICOM) is damaged: it has many films in one.")
    if any(one * other > max_pixels for one, other in claims):
        raise ProblemError(413, f"{called} (DICOM): its compressed pixels claim to be over the limit of this server.")


def _check_codestream(frame: bytes, called: str, max_pixels: int, header: tuple[int, int, int]) -> None:
    """JPEG 2000 (ISO/IEC 15444-1, A.5.1): its own size must be the header's.

    Raises:
        ProblemError: 415 within a JP2 file (PS3.5 8.2.4 wants none), 413 where it is too large, 422 for what is none.
    """
    if frame[4:8] == b"jP  ":
        raise ProblemError(415, f"{called} (DICOM) has a JP2 file in it; a JPEG 2000 codestream stands alone.")
    match = _CODESTREAM.match(frame)
    if match is None:
        raise ProblemError(422, f"{called} (DICOM) is damaged: its pixels do not begin as their packing does.")
    length, right, bottom, left, top, samples = (int.from_bytes(part, "big") for part in match.groups())
    if right * bottom > max_pixels:
        raise ProblemError(413, f"{called} (DICOM): its compressed pixels claim to be over the limit of this server.")
    if length != 38 + 3 * samples or (bottom - top, right - left, samples) != header:
        raise ProblemError(422, f"{called} (DICOM) is damaged: its pixels are of another size than its header's.")
