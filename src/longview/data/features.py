"""Files of features: what a frozen encoder makes of each image of a dataset, bit for bit.

    KEY.npy     (M, C, h, w), or (M, h, w, C) where the encoder's own memory is laid out so; bfloat16, which
                NumPy does not know, as the uint16 of the same bits
    KEY.json    dtype, shape and layout, and what the features were made of, for people

The .npy file is moved into place when it is whole, after its .json.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from longview import InputError

_BITS = {torch.bfloat16: torch.uint16}  # dtypes that NumPy lacks -> one of the same size


@dataclass(frozen=True)
class FeatureLayout:
    """How the features of an image lie in memory and on disk.

    The order of dimensions in memory is kept: operations that follow may round differently, and are slower, on
    the same numbers in another order.

    Args:
        dtype: torch's name of it: `float32`, `bfloat16`.
        shape: C, h and w.
        channels_last: Whether the C values of a place lie side by side.
    """

    dtype: str
    shape: tuple[int, int, int]
    channels_last: bool

    @classmethod
    def of(cls, features: Tensor) -> FeatureLayout:
        """The layout of an encoder's output (N, C, h, w)."""
        channels, height, width = features.shape[1:]
        channels_last = features.stride(1) == 1 and height * width > 1
        return cls(str(features.dtype).removeprefix("torch."), (channels, height, width), channels_last)

    @property
    def torch_dtype(self) -> torch.dtype:
        """The dtype in torch."""
        found: torch.dtype = getattr(torch, self.dtype)
        return found

    @property
    def stored_shape(self) -> tuple[int, int, int]:
        """(C, h, w) or (h, w, C)."""
        channels, height, width = self.shape
        return (height, width, channels) if self.channels_last else self.shape

    @property
    def image_bytes(self) -> int:
        """Room that one image takes."""
        return int(np.prod(self.shape)) * self.torch_dtype.itemsize

    def as_array(self, stored: Tensor) -> npt.NDArray[Any]:
        """The memory of a tensor in stored order, as an array that NumPy can hold."""
        array: npt.NDArray[Any] = stored.view(_BITS.get(self.torch_dtype, self.torch_dtype)).numpy()
        return array

    def pack(self, features: Tensor) -> npt.NDArray[Any]:
        """Features (N, C, h, w) as the rows of the file."""
        stored = features.permute(0, 2, 3, 1) if self.channels_last else features
        return self.as_array(stored.detach().cpu().contiguous())

    def unpack(self, stored: Tensor) -> Tensor:
        """Rows of the file as features (N, C, h, w); no copy."""
        return stored.permute(0, 3, 1, 2) if self.channels_last else stored


class FeatureWriter:
    """Writes rows of a .npy file; several processes may write their own rows of one.

    It writes with plain calls, not through a memory map: a full disk is then an error instead of a crash.

    Args:
        path: The file.
        layout: How the features lie.
        images: M, rows of the whole file.
    """

    def __init__(self, path: Path, layout: FeatureLayout, images: int) -> None:
        self.path, self.layout, self.images = path, layout, images

    def begin(self) -> None:
        """Write the header of a new file and reserve its room; one process does it, before any writes rows."""
        layout = self.layout
        empty = layout.as_array(torch.empty(0, dtype=layout.torch_dtype))
        shape = (self.images, *layout.stored_shape)
        header = {"descr": np.lib.format.dtype_to_descr(empty.dtype), "fortran_order": False, "shape": shape}
        with self.path.open("wb") as file:
            np.lib.format.write_array_header_1_0(file, header)
            file.truncate(file.tell() + self.images * layout.image_bytes)

    def write(self, file: BinaryIO, first: int, features: Tensor) -> None:
        """Write features (N, C, h, w) as the rows from `first` on.

        Raises:
            InputError: Where they are not of the layout.
        """
        if (str(features.dtype), features.shape[1:]) != (f"torch.{self.layout.dtype}", self.layout.shape):
            raise InputError(
                f"the encoder gave {features.dtype} {tuple(features.shape[1:])} after {self.layout.dtype} "
                f"{self.layout.shape}; a feature cache needs features of one kind"
            )
        start = self.path.stat().st_size - (self.images - first) * self.layout.image_bytes
        file.seek(start)
        file.write(self.layout.pack(features).tobytes())


class FeatureFile:
    """Features of the M images of a dataset, read through a memory map.

    It may be handed to worker processes: what is pickled is the path, and each opens its own memory map of
    the same pages.

    Args:
        path: The .npy file.

    Raises:
        InputError: Where one of the two files is missing or damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            info = json.loads(_beside(path).read_text(encoding="utf-8"))
            self.layout = FeatureLayout(str(info["dtype"]), tuple(info["shape"]), bool(info["channels_last"]))
            self._rows: npt.NDArray[Any] = np.asarray(np.load(path, mmap_mode="r"))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{path} is no file of features, or is damaged ({error}); delete it, and it is made again"
            ) from error
        if self._rows.shape[1:] != self.layout.stored_shape:
            raise InputError(f"{path} does not fit {_beside(path).name}; delete both, and they are made again")

    def __len__(self) -> int:
        """Number of images."""
        return len(self._rows)

    def __reduce__(self) -> tuple[type[FeatureFile], tuple[Path]]:
        return type(self), (self.path,)

    def read(self, places: npt.NDArray[np.int64], out: Tensor) -> Tensor:
        """Read the features of images.

        Args:
            places: (N,) places of the images in the dataset.
            out: (N, *layout.stored_shape) of the layout's dtype, contiguous, to read into.

        Returns:
            Features (N, C, h, w), in the memory of `out`.
        """
        # mode: `raise` would read into an array of its own first; places come from the dataset itself
        np.take(self._rows, places, axis=0, out=self.layout.as_array(out), mode="clip")
        return self.layout.unpack(out)


def describe(path: Path, layout: FeatureLayout, made_of: Mapping[str, Any]) -> None:
    """Write the .json beside a file of features."""
    known = {"dtype": layout.dtype, "shape": layout.shape, "channels_last": layout.channels_last}
    file = _beside(path)
    partial = file.with_name(f".{file.name}.partial")
    partial.write_text(json.dumps(known | dict(made_of), indent=2) + "\n", encoding="utf-8")
    partial.replace(file)


def _beside(path: Path) -> Path:
    return path.with_suffix(".json")
