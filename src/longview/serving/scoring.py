"""What a network is asked, for several requests at once: one pass of the encoder serves scores, samples and maps."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from longview.explain import Method
from longview.explain.maps import Explainer
from longview.hierarchy import consistent
from longview.serving.served import Served, encodes
from longview.uncertainty.dropout import MonteCarlo

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Study:
    """A study to score, and what is wanted of it.

    Args:
        images: (V, 1, S, S) uint8.
        view: (V,) int64, positions in `longview.VIEWS`.
        labels: Positions of the n labels that maps are wanted of.
        method: How maps are made; None: none.
        samples: T of Monte-Carlo dropout; 0: none.
    """

    images: Tensor
    view: Tensor
    labels: Sequence[int] = ()
    method: Method | None = None
    samples: int = 0


@dataclass(frozen=True)
class Scores:
    """What a network says of a study, before calibration.

    Args:
        probabilities: (L,) in [0, 1].
        samples: (T, L) in [0, 1]; None: none were asked for.
        maps: (n, V, h, w) over the network's square, at least 0, of any scale; None: none were asked for.
        seconds: How long the pass took that the study was in.
    """

    probabilities: FloatArray
    samples: FloatArray | None
    maps: FloatArray | None
    seconds: float


class Scorer:
    """Scores studies together; to be called by one thread only, since sampling changes the network meanwhile.

    Args:
        served: The model.
        seed: Of Monte-Carlo dropout: the same study has the same samples every time.
    """

    def __init__(self, served: Served, seed: int = 0) -> None:
        self.served = served
        self._model = served.model
        self._shared = encodes(served.model.network) and served.model.averaging.is_off
        self._seed = seed
        self._samplers: dict[int, MonteCarlo] = {}  # they keep their masks

    def __call__(self, studies: Sequence[Study]) -> list[Scores]:
        """Scores of the studies, in their order."""
        started = time.perf_counter()
        with torch.no_grad():
            images = torch.cat([study.images for study in studies]).to(self._model.device)
            counts = [len(study.images) for study in studies]
            row = torch.arange(len(studies)).repeat_interleave(torch.tensor(counts)).to(images.device)
            view = torch.cat([study.view for study in studies]).to(images.device)
            features = self._model.network.encode(images) if self._shared else None
            probabilities = self._probabilities(images, row, view, len(studies), features)
            starts = np.cumsum([0, *counts]).tolist()
            found = []
            for place, study in enumerate(studies):
                part = slice(starts[place], starts[place + 1])
                own = None if features is None else features[part]
                samples = self._samples(study, images[part], view[part], own) if study.samples else None
                maps = self._maps(study, images[part], view[part], own) if study.method and study.labels else None
                found.append((samples, maps))
        seconds = time.perf_counter() - started
        return [Scores(probabilities[place], *each, seconds) for place, each in enumerate(found)]

    def _probabilities(
        self, images: Tensor, row: Tensor, view: Tensor, studies: int, features: Tensor | None
    ) -> FloatArray:
        """(B, L)."""
        if features is None:
            return self._model.probabilities(images, row, view, studies).numpy()
        logits = self._model.network(images, row, view, studies, features)
        return self._consistent(logits.float().sigmoid()).cpu().numpy()

    def _samples(self, study: Study, images: Tensor, view: Tensor, features: Tensor | None) -> FloatArray:
        """(T, L)."""
        row = torch.zeros(len(images), dtype=torch.int64, device=images.device)
        if study.samples not in self._samplers:
            self._samplers[study.samples] = MonteCarlo(study.samples, self._seed)
        sampler = self._samplers[study.samples]
        logits = sampler.sample(self._model.network, images, row, view, 1, features)  # (T, 1, L)
        return self._consistent(logits[:, 0].float().sigmoid()).cpu().numpy()

    def _maps(self, study: Study, images: Tensor, view: Tensor, features: Tensor | None) -> FloatArray:
        """(n, V, h, w)."""
        assert study.method is not None
        explainer = Explainer(self._model.network, images, view, self._model.name, features)
        return explainer.raw(study.method, list(study.labels)).detach().float().cpu().numpy()

    def _consistent(self, probabilities: Tensor) -> Tensor:
        return consistent(probabilities, self._model.edges) if self._model.edges else probabilities
