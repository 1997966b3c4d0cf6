"""Films as they come and as models see them; all of it in memory. :mod:`longview.serving.decoding` decodes them."""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from longview.data.frames import Frame
from longview.data.images import resize_image
from longview.data.transforms import resize_only
from longview.inference import OpenModel
from longview.serving.decoding import Kind, Pixels
from longview.serving.problems import ProblemError


@dataclass(frozen=True)
class Received:
    """A film that was decoded.

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


def from_base64(text: str, called: str = "cxr_base64") -> bytes:
    """The bytes of base64, with or without `data:...;base64,`, line breaks, or the alphabet for addresses.

    Raises:
        ProblemError: 422 where it is none.
    """
    plain = text
    if text[:5].lower() == "data:":
        kind, _, plain = text.partition(",")
        if not kind.lower().endswith(";base64"):
            raise ProblemError(422, f"{called} is a data address without base64.")
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
