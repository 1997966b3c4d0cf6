"""Reading radiographs from DICOM: decoding, modality and VOI LUT, photometric interpretation, pixel spacing.

The steps of PS3.3 C.11 in order: stored value → modality LUT or rescale → VOI LUT or window → 8 bits, and an
inversion for MONOCHROME1, which pydicom leaves to the caller. They are worked out once per grey value, on a
table of at most 65,536 entries, and not once per pixel.
"""

from __future__ import annotations

import logging
import math
import struct
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pydicom
from pydicom.errors import BytesLengthException, InvalidDicomError
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.processing import apply_color_lut, apply_modality_lut
from pydicom.uid import ImplicitVRLittleEndian

from longview import InputError
from longview.data.film_bytes import FilmBytes
from longview.data.intensity import robust_range, to_uint8

_log = logging.getLogger(__name__)

# what pydicom and its decoders raise on broken files: they have no exception of their own
_BROKEN = (
    InvalidDicomError, ValueError, TypeError, KeyError, IndexError, AttributeError, NotImplementedError,
    RuntimeError, EOFError, OSError, struct.error, OverflowError, BytesLengthException, cv2.error, AssertionError,
)  # fmt: skip

_DECODERS = ("pylibjpeg", "pillow")
"""Of pydicom's plug-ins, the best first; gdcm, which aborts on some damaged films, only where no other can."""

_SQUARE = 0.01  # difference of the sides of a pixel, relative to the longer one, that still makes a square
_TABLE = 1 << 16  # grey values that a table can hold; 32-bit films are mapped pixel by pixel


def read_dicom(path: Path | FilmBytes, max_pixels: int) -> tuple[npt.NDArray[np.uint8], float | None]:
    """Read a single-frame radiograph.

    A VOI LUT goes before a window, and the first of several windows counts. Without either, 8-bit pixels are
    taken as they are and deeper ones are stretched between the robust extremes of the film
    (:func:`longview.data.intensity.robust_range`); so are films that their window would make one even grey.
    MONOCHROME1 (white is low) is inverted, colour becomes grey, `PixelPaddingValue` becomes black.

    Args:
        path: The file, on disk or in memory.
        max_pixels: Larger films are refused before they are decoded.

    Returns:
        (H, W) uint8 with air black and bone white, and the side of a pixel in mm by `PixelSpacing`, else by
        `ImagerPixelSpacing` (at the detector); None where neither is there or pixels are no squares: one number
        could not tell their sides, which may differ by 1 %.

    Raises:
        InputError: For no DICOM, no pixels, several frames, too large a film, or one that does not decode.
    """
    try:
        with path.open("rb") as file:
            dataset = pydicom.dcmread(file, force=True)
    except _BROKEN as error:
        raise InputError(f"{path} cannot be read as DICOM: {_reason(error)}") from error
    _check(dataset, path, max_pixels)
    try:
        pixels = _pixels(dataset)
    except _BROKEN as error:
        syntax = dataset.file_meta.TransferSyntaxUID.name
        raise InputError(f"{path}: its DICOM pixels ({syntax}) do not decode: {_reason(error)}") from error
    try:
        colour = pixels.ndim == 3 or _palette(dataset)
        grey = _colour(dataset, pixels) if colour else _monochrome(dataset, pixels, path)
        return grey, _spacing(dataset)
    except _BROKEN as error:
        raise InputError(f"{path}: its DICOM grey-scale attributes fail: {_reason(error)}") from error


def _pixels(dataset: Any) -> npt.NDArray[Any]:
    """Stored values, (H, W) or (H, W, 3), by the decoder that fails with an error where another kills the process."""
    syntax = dataset.file_meta.TransferSyntaxUID
    if syntax.is_encapsulated:
        there = set(get_decoder(syntax).available_plugins)
        if dataset.get("BitsAllocated") != 8:
            there.discard("pillow")  # cuts off, or cannot read, what is deeper
        dataset.pixel_array_options(decoding_plugin=next((name for name in _DECODERS if name in there), ""))
    pixels = np.asarray(dataset.pixel_array)
    if pixels.shape not in {(dataset.Rows, dataset.Columns), (dataset.Rows, dataset.Columns, 3)}:
        raise ValueError(f"they are of shape {pixels.shape}")
    return pixels


def _reason(error: Exception) -> str:
    """The first line of a decoder's message, which may list every plug-in on lines of its own."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines[:2]) or type(error).__name__


def _check(dataset: Any, path: object, max_pixels: int) -> None:
    """Refuse what the header rules out; add the transfer syntax that files without a preamble lack."""
    rows, columns = dataset.get("Rows"), dataset.get("Columns")
    if not any(name in dataset for name in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")):
        # of a file that ends too early pydicom keeps nothing
        kind = (
            "has no DICOM pixels (a report, or no DICOM at all?)" if len(dataset) else "is no DICOM file, or is cut off"
        )
        raise InputError(f"{path} {kind}")
    if not rows or not columns:
        raise InputError(f"{path} is a DICOM file without Rows and Columns")
    frames = int(dataset.get("NumberOfFrames") or 1)
    if frames != 1:
        raise InputError(f"{path} has {frames} frames; a radiograph has one: export the frame you want")
    if rows * columns > max_pixels:
        raise InputError(f"{path} is {columns} x {rows} pixels, over the limit of {max_pixels:,}")
    if getattr(dataset, "file_meta", None) is None:
        dataset.file_meta = pydicom.dataset.FileMetaDataset()
    if "TransferSyntaxUID" not in dataset.file_meta:
        dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian  # PS3.5 10.1: the default


def _spacing(dataset: Any) -> float | None:
    for name in ("PixelSpacing", "ImagerPixelSpacing"):
        value = dataset.get(name)
        if value is not None and len(value) == 2 and all(float(side) > 0 for side in value):
            return square_spacing(float(value[0]), float(value[1]))
    return None


def square_spacing(down: float, across: float) -> float | None:
    """The one number for the two sides of a pixel: their mean, or None where they differ by more than 1 %."""
    return (down + across) / 2 if math.isclose(down, across, rel_tol=_SQUARE) else None


def _palette(dataset: Any) -> bool:
    return str(dataset.get("PhotometricInterpretation", "")) == "PALETTE COLOR"


def _colour(dataset: Any, pixels: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Colour screen shots and palettes; pydicom has turned YBR into RGB."""
    if _palette(dataset):
        pixels = apply_color_lut(pixels, dataset)
    if pixels.dtype != np.uint8:
        pixels = to_uint8(pixels, 0, float(np.iinfo(pixels.dtype).max))
    return np.asarray(cv2.cvtColor(np.ascontiguousarray(pixels), cv2.COLOR_RGB2GRAY), np.uint8)


def _monochrome(dataset: Any, pixels: npt.NDArray[Any], path: object) -> npt.NDArray[np.uint8]:
    """Stored values to 8 bits, with air black."""
    padding = _padding(dataset, pixels)
    if pixels.dtype.kind in "iu" and int(pixels.max()) - int(pixels.min()) < _TABLE:
        first = int(pixels.min())
        index = pixels if first == 0 else pixels.astype(np.int64) - first
        values = np.arange(first, int(pixels.max()) + 1, dtype=np.int64)
        grey = _display(dataset, values, pixels if padding is None else pixels[~padding], path)[index]
    else:
        grey = _display(dataset, pixels, pixels if padding is None else pixels[~padding], path)
    if str(dataset.PhotometricInterpretation) == "MONOCHROME1":
        grey = 255 - grey
    if padding is not None:
        grey[padding] = 0
    return np.ascontiguousarray(grey)


def _padding(dataset: Any, pixels: npt.NDArray[Any]) -> npt.NDArray[np.bool_] | None:
    """Where pixels are outside of the exposed field (PS3.3 C.7.5.1.1.2); None where nothing says so."""
    value = dataset.get("PixelPaddingValue")
    if not isinstance(value, int):
        return None
    limit = dataset.get("PixelPaddingRangeLimit")
    low, high = sorted((value, limit if isinstance(limit, int) else value))
    mask = (pixels >= low) & (pixels <= high)
    # a film that is all padding has a wrong header
    return mask if mask.any() and not mask.all() else None


def _display(dataset: Any, values: npt.NDArray[Any], film: npt.NDArray[Any], path: object) -> npt.NDArray[np.uint8]:
    """Map `values` (a table, or the pixels) to 8 bits by what the header says about the pixels `film`."""
    shares = _windowed(dataset, _modality(dataset, values))
    if shares is not None:
        grey = to_uint8(shares, 0.0, 1.0)
        low, high = (_at(values, grey, value) for value in (film.min(), film.max()))
        if low != high or film.min() == film.max():
            return grey
        _log.warning("%s: its window leaves one even grey; the film's own range is used", path)
    elif dataset.get("BitsStored") == 8 and values.min() >= 0 and _is_plain(dataset):
        return to_uint8(values, 0, 255)
    return to_uint8(_modality(dataset, values), *robust_range(_modality(dataset, film)))


def _is_plain(dataset: Any) -> bool:
    """Whether the modality step changes nothing."""
    rescale = (dataset.get("RescaleSlope") or 1, dataset.get("RescaleIntercept") or 0)
    return rescale == (1, 0) and not dataset.get("ModalityLUTSequence")


def _at(values: npt.NDArray[Any], grey: npt.NDArray[np.uint8], value: Any) -> int:
    """The grey that a stored value is mapped to."""
    return int(grey.reshape(-1)[int(np.argmax(values == value))])


def _modality(dataset: Any, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return np.asarray(apply_modality_lut(values, dataset))


def _first(value: Any) -> float:
    """The first of a multi-valued window."""
    return float(value[0]) if isinstance(value, pydicom.multival.MultiValue) else float(value)


def _windowed(dataset: Any, values: npt.NDArray[Any]) -> npt.NDArray[np.float64] | None:
    """Shares of white in [0, 1] by the VOI LUT, else the window (PS3.3 C.11.2.1.2); None for neither."""
    if dataset.get("VOILUTSequence"):
        table, first = _voi_table(dataset)
        index = np.rint(values).astype(np.int64) - first
        return np.asarray(table[np.clip(index, 0, len(table) - 1)])
    center, width = dataset.get("WindowCenter"), dataset.get("WindowWidth")
    if center in (None, "") or width in (None, ""):
        return None
    center, width = _first(center), _first(width)
    function = str(dataset.get("VOILUTFunction") or "LINEAR")
    x = values.astype(np.float64)
    if function == "SIGMOID" and width > 0:
        share: npt.NDArray[np.float64] = 1 / (1 + np.exp(np.clip(-4 * (x - center) / width, -60, 60)))
        return share
    if function == "LINEAR":
        center, width = center - 0.5, width - 1
    # PS3.3 wants at least 1, or more than 0 for the exact and sigmoid functions: anything else is no window
    if width < 0 or (width == 0 and function != "LINEAR"):
        return None
    if width == 0:
        return (x > center).astype(np.float64)
    return np.asarray(np.clip((x - center) / width + 0.5, 0, 1))


def _voi_table(dataset: Any) -> tuple[npt.NDArray[np.float64], int]:
    """Shares of white of the first VOI LUT and the grey value of its first entry.

    pydicom's own `apply_voi` wraps round for 8-bit tables of more than 256 entries.
    """
    item = dataset.VOILUTSequence[0]
    entries, first, bits = (int(number) for number in item.LUTDescriptor)
    data = item.LUTData
    if isinstance(data, bytes):
        order = "<" if dataset.file_meta.TransferSyntaxUID.is_little_endian else ">"
        data = np.frombuffer(data, f"{order}u2")
    table = np.asarray(data, np.float64)[: entries or _TABLE]
    if not len(table):
        raise ValueError("the VOI LUT is empty")
    # the range in use, not the nominal depth: tables of 12-bit values are often declared as 16 bits deep
    top = max(float(table.max()), 2.0**bits - 1 if bits <= 8 else 1.0)
    return table / top, first
