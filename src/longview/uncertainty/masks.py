"""The masks of Monte-Carlo dropout: which values each sample of a network keeps, drawn once."""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

_HELD = 2**28  # bytes of masks that are kept for the next batch


class Masks:
    """Masks of T samples, the same for every study.

    A sample is one network drawn from those that dropout makes (Gal and Ghahramani 2016, arXiv 1506.02142), and each
    study is shown to all T of them. So a study's samples depend on the seed and on itself alone: not on the batch it
    is in, the device, or how many processes share the work. Of T and T' > T samples the first T are the same.

    Args:
        samples: T.
        seed: What they are drawn from.
    """

    def __init__(self, samples: int, seed: int) -> None:
        self.samples = samples
        self.seed = seed
        self._held: dict[tuple[object, ...], Tensor] = {}
        self._bytes = 0

    def keep(self, place: str, call: int, shape: tuple[int, ...], p: float, device: torch.device) -> Tensor:
        """What is kept, (T, *shape) bool: True with probability 1 - p.

        Args:
            place: Name of the module that drops.
            call: How many times it dropped before in this pass.
            shape: Of one study's values.
            p: Share that is dropped.
            device: Where it is needed; drawn on the CPU, so that every device has the same.
        """
        key = (place, call, shape, p, device)
        if key not in self._held:
            if self._bytes > _HELD:
                self._held.clear()
                self._bytes = 0
            drawn = np.stack([self._draw(place, call, sample, shape, p) for sample in range(self.samples)])
            with torch.inference_mode(mode=False):  # what is kept may meet a pass with gradients later
                self._held[key] = torch.from_numpy(drawn).to(device)
            self._bytes += drawn.size
        return self._held[key]

    def _draw(self, place: str, call: int, sample: int, shape: tuple[int, ...], p: float) -> npt.NDArray[np.bool_]:
        text = f"{self.seed}/{sample}/{place}/{call}"
        number = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=16).digest(), "little")
        # numpy's, for torch refuses to draw within vmap, and draws other numbers on other devices
        return np.asarray(np.random.Generator(np.random.PCG64(number)).random(shape, np.float32) >= p)
