"""DICOM files as hospitals write them: 8 to 16 bits, white on black or black on white."""

from __future__ import annotations

from hashlib import blake2b
from io import BytesIO

import numpy as np
import numpy.typing as npt

_DIGITAL_X_RAY = "1.2.840.10008.5.1.4.1.1.1.1"  # storage class: digital X-ray for presentation
_IMPLEMENTATION = "2.25.1"  # without it pydicom writes its own version, and the bytes would change with it


def encode_dicom(image: npt.NDArray[np.uint8], bits: int, view: str = "", negative: int = 0) -> bytes:
    """A film as an uncompressed DICOM file; equal pixels give equal bytes.

    Args:
        image: (H, W) uint8, air black.
        bits: Bits in use, 8 to 16; the grey values are spread over all of them, and a window says so.
        view: ViewPosition; "" for none.
        negative: One film in so many is MONOCHROME1 (white is low), by its pixels; 0 for none.
    """
    # imported here: the other layouts need no pydicom
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import UID, ExplicitVRLittleEndian

    digest = blake2b(image.tobytes(), digest_size=15)
    inverted = negative > 0 and int.from_bytes(digest.digest(), "big") % negative == 0
    top = (1 << bits) - 1
    values = np.rint(image.astype(np.float64) * (top / 255)).astype(np.uint16 if bits > 8 else np.uint8)
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = UID(_DIGITAL_X_RAY)
    meta.MediaStorageSOPInstanceUID = UID(f"2.25.{int.from_bytes(digest.digest(), 'big')}")
    meta.ImplementationClassUID = UID(_IMPLEMENTATION)
    film = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    film.SOPClassUID, film.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    film.Modality = "DX"
    if view:
        film.ViewPosition = view
    film.Rows, film.Columns = image.shape
    film.SamplesPerPixel, film.PixelRepresentation = 1, 0
    film.PhotometricInterpretation = "MONOCHROME1" if inverted else "MONOCHROME2"
    film.BitsAllocated, film.BitsStored, film.HighBit = 8 * values.itemsize, bits, bits - 1
    film.WindowCenter, film.WindowWidth = str((top + 1) // 2), str(top + 1)
    film.add_new("PixelData", "OW" if bits > 8 else "OB", _even((top - values if inverted else values).tobytes()))
    stream = BytesIO()
    film.save_as(stream, enforce_file_format=False)
    return stream.getvalue()


def _even(pixels: bytes) -> bytes:
    """DICOM's values have an even number of bytes."""
    return pixels + b"\0" * (len(pixels) % 2)
