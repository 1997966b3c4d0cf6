"""Test-time averaging: a study's prediction as the mean over several versions of its images."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from longview import Batch, InputError

log = logging.getLogger(__name__)

_SIDED = re.compile(r"\b(left|right|dextro\w*|situs)\b", re.IGNORECASE)


class Window(NamedTuple):
    """A square part of the image that is enlarged (or shrunk) to the whole, mirrored or not.

    * ``side``, ``top``, ``left`` as shares of the image's side; a side above 1 shows black around the image
    * ``mirrored``: left and right exchanged
    """

    side: float
    top: float
    left: float
    mirrored: bool


@dataclass(frozen=True)
class Averaging:
    """Which versions of each image prediction averages over; by itself the image alone.

    All images of a study are changed alike, so that views still fit together, and none is seen at random: the same
    images give the same prediction.

    Args:
        flip: Each version also mirrored. It exchanges left and right: findings of one side, the heart's side, the
            letters L and R.
        scales: Zooms about the centre; 1 is the image as it is, 1.1 shows everything 10 % larger, 0.9 smaller with
            black around, as in training's augmentation.
        crop: Side, as a share of the image's, of five further windows: the centre and the four corners; 1 for none.
        on: What is averaged: `probability` or `logit`.

    Raises:
        InputError: For a value out of its range.
    """

    flip: bool = False
    scales: tuple[float, ...] = (1.0,)
    crop: float = 1.0
    on: Literal["probability", "logit"] = "probability"

    def __post_init__(self) -> None:
        wrong = [scale for scale in self.scales if not 0.5 <= scale <= 2]
        if wrong or not self.scales or len(set(self.scales)) < len(self.scales):
            raise InputError(f"model.tta.scales is {list(self.scales)}; give zooms from 0.5 to 2, each once")
        if not 0.5 <= self.crop <= 1:
            raise InputError(f"model.tta.crop is {self.crop}; give a share of the side from 0.5 to 1, which is none")

    @property
    def windows(self) -> list[Window]:
        """The versions, each once, in a fixed order."""
        places = [(1 / scale, (1 - 1 / scale) / 2, (1 - 1 / scale) / 2) for scale in self.scales]
        if self.crop < 1:
            rest = 1 - self.crop
            corners = [(rest / 2, rest / 2), (0.0, 0.0), (0.0, rest), (rest, 0.0), (rest, rest)]
            places += [(self.crop, top, left) for top, left in corners]
        mirrors = (False, True) if self.flip else (False,)
        return list(dict.fromkeys(Window(*place, mirrored) for place in places for mirrored in mirrors))

    @property
    def is_off(self) -> bool:
        """Whether only the image as it is would be looked at."""
        return self.windows == [Window(1.0, 0.0, 0.0, False)]

    def describe(self) -> dict[str, object]:
        """The settings as plain data, for the file of predictions."""
        return asdict(self) | {"scales": list(self.scales)}

    def announce(self, names: Sequence[str]) -> None:
        """Say what prediction averages over, and warn of mirroring.

        Args:
            names: The labels that are predicted.
        """
        if self.is_off:
            return
        log.info("each image is seen in %d versions, averaged by %s", len(self.windows), self.on)
        if self.flip:
            sided = [name for name in names if _SIDED.search(name)]
            told = f", above all {', '.join(sided)}" if sided else ""
            log.warning("model.tta.flip mirrors the chest: whatever depends on the side suffers%s", told)

    def predict(self, forward: Callable[[Batch], Tensor], batch: Batch) -> Tensor:
        """Probabilities (B, L) float32, or (..., B, L) as `forward` gives logits: the mean over the versions.

        Args:
            forward: A batch to logits (B, L), or of several samples of a network, (..., B, L).
            batch: Packed images; version for version, so that memory does not grow.

        Raises:
            InputError: Where the batch has features of a cache in place of images.
        """
        if self.is_off:
            return forward(batch).float().sigmoid()
        if "features" in batch:
            raise InputError("model.tta: features of a cache cannot be averaged over versions of the images")
        windows = self.windows
        total: Tensor | None = None
        for images in self._versions(batch["images"], windows):
            changed: Batch = {**batch, "images": images}
            logits = forward(changed).float()
            scores = logits if self.on == "logit" else logits.sigmoid()
            total = scores if total is None else total + scores
        assert total is not None
        mean = total / len(windows)
        return mean.sigmoid() if self.on == "logit" else mean

    @staticmethod
    def _versions(images: Tensor, windows: Sequence[Window]) -> Iterator[Tensor]:
        """The images (N, 1, H, W) uint8 as each window shows them."""
        for window in windows:
            yield see(images, window)


def see(images: Tensor, window: Window) -> Tensor:
    """Images as a window shows them; the whole unmirrored window gives the images themselves, bit for bit.

    Args:
        images: (N, 1, H, W) uint8 (or float).
        window: The part to show.

    Returns:
        (N, 1, H, W), of the same type, interpolated bilinearly, black beyond the image.
    """
    if window.side == 1.0:
        return images.flip(-1) if window.mirrored else images
    # normalised places run from -1 to 1 over the whole image; pixels cover areas, as align_corners=False has it
    x = 2 * window.left + window.side - 1
    y = 2 * window.top + window.side - 1
    width = -window.side if window.mirrored else window.side
    matrix = torch.tensor([[width, 0.0, x], [0.0, window.side, y]], device=images.device)
    grid = functional.affine_grid(matrix.expand(len(images), 2, 3), list(images.shape), align_corners=False)
    seen = functional.grid_sample(images.float(), grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    return seen.to(images.dtype) if images.is_floating_point() else seen.round().to(images.dtype)
