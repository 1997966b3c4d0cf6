"""From a study's images to heat-maps in the frames of their films, by any method; and how they are normalised."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from longview import InputError
from longview.data.frames import Frame
from longview.explain import Method
from longview.explain import attention as attentions
from longview.explain import cam as cams
from longview.explain.heads import Head, features_of
from longview.models.network import Network
from longview.uncertainty.dropout import MonteCarlo
from longview.uncertainty.masks import Masks
from longview.uncertainty.sites import Sites

logger = logging.getLogger(__name__)

FloatArray = npt.NDArray[np.float32]
_BY_GRADIENT = {
    "gradcam": cams.gradcam,
    "gradcam++": cams.gradcam_plus_plus,
    "hirescam": cams.hirescam,
    "xgradcam": cams.xgradcam,
    "layercam": cams.layercam,
}
_SMALLEST = float(np.finfo(np.float32).tiny)


@dataclass(frozen=True)
class HeatMap:
    """Where one label's score of a study comes from, on each of its films.

    Args:
        maps: V float32 arrays (height, width) of the films, in [0, 1]; the hottest place of the study is 1, unless all
            is 0.
        shares: (V,) share of each view in the evidence, at least 0; they sum to 1.
        empty: Whether there is no evidence anywhere: all maps are 0, and the shares are equal.
        top: What the maps were divided by.
    """

    maps: list[FloatArray]
    shares: FloatArray
    empty: bool
    top: float = 1.0


class Explainer:
    """Heat-maps of one study: its encoder runs once, whatever the methods and labels asked for.

    Args:
        network: In evaluation mode.
        images: (V, 1, S, S) uint8, the study's views, on the network's device.
        view: (V,) int64, positions in `longview.VIEWS`.
        model: Name for messages.
        features: (V, C, h, w) what `encode` makes of the images, where that is known.

    Raises:
        InputError: For a network without a feature map.
    """

    def __init__(
        self,
        network: Network,
        images: Tensor,
        view: Tensor,
        model: str = "the model",
        features: Tensor | None = None,
    ) -> None:
        self.network = network
        self.images = images
        self.features = features_of(network, images, model, features)
        self.head = Head(network, view.to(images.device))
        self.model = model
        self._gradients: tuple[tuple[int, ...], Tensor] | None = None

    def logits(self) -> Tensor:
        """Logits (L,) of the study.

        Raises:
            InputError: Where they are not finite.
        """
        with torch.no_grad():
            logits = self.head.logits(self.features)[0]
        if not logits.isfinite().all():
            raise InputError(
                f"{self.model}: its scores are not finite; its weights are broken, or its training diverged"
            )
        return logits

    def layer(self, method: Method) -> str:
        """Where in the network a method looks."""
        shape = " x ".join(str(side) for side in self.features.shape[1:])
        if method in {"attention", "gradattention"}:
            return f"decoder, cross-attention on the encoder's last map ({shape})"
        return f"encoder, last map ({shape})"

    def raw(self, method: Method, labels: Sequence[int]) -> Tensor:
        """Maps (n, V, h, w) of n labels, given by their positions, over the network's square; at least 0, any scale.

        Raises:
            InputError: For a method that the model's head does not have.
        """
        match method:
            case "eigencam":
                maps = cams.eigencam(self.features).expand(len(labels), -1, -1, -1)
            case "ablationcam":
                maps = cams.ablationcam(self.head, self.features, labels)
            case "scorecam":
                maps = cams.scorecam(self.head, self.features, labels, self.images, self.network.encode)
            case "cam":
                maps = cams.cam(self.head, self.features, labels)
            case "attention":
                maps = attentions.attention(self.head, self.features, labels)
            case "gradattention":
                maps = attentions.gradattention(self.head, self.features, labels)
            case _:
                maps = _BY_GRADIENT[method](self.features, self._gradient(labels))
        return maps

    def samples(self, method: Method, labels: Sequence[int], sampler: MonteCarlo) -> Tensor | None:
        """Maps (T, n, V, h, w) by the networks that Monte-Carlo dropout samples, of the features as they are.

        They are the networks whose probabilities `sampler` gives. Dropout within the encoder does not count.

        Returns:
            None for a method that does not go by the gradients of the head.
        """
        if method not in _BY_GRADIENT:
            return None
        sites = Sites(Masks(sampler.samples, sampler.seed))
        maps = []
        with sites.within(self.network):
            for number in range(sampler.samples):
                sites.begin(torch.tensor(number, device=self.features.device))
                gradients = self.head.gradients(self.features, labels, closed=False)
                maps.append(_BY_GRADIENT[method](self.features, gradients))
        return torch.stack(maps)

    def _gradient(self, labels: Sequence[int]) -> Tensor:
        """Gradients of the labels, kept for the next method."""
        if self._gradients is None or self._gradients[0] != tuple(labels):
            self._gradients = tuple(labels), self.head.gradients(self.features, labels)
        return self._gradients[1]


def heat_map(raw: Tensor, frames: Sequence[Frame]) -> HeatMap:
    """Bring one label's maps into the frames of the films, and to [0, 1].

    All views are divided by the one largest value that any film shows: what is pale in one view is weak beside the
    other. Shares are those of the sums over the networks' squares.

    Args:
        raw: (V, h, w), at least 0; what is not finite counts as 0.
        frames: V frames of the films.
    """
    values = np.nan_to_num(raw.detach().float().cpu().numpy(), nan=0.0, posinf=0.0, neginf=0.0)
    films = [frame.to_original(view) for frame, view in zip(frames, values, strict=True)]
    top = max(float(film.max()) for film in films)
    if top <= _SMALLEST:
        zeros = [np.zeros_like(film) for film in films]
        return HeatMap(zeros, np.full(len(films), 1 / len(films), np.float32), empty=True)
    mass = values.sum(axis=(1, 2), dtype=np.float64)
    maps = [np.clip(film / top, 0, 1) for film in films]
    return HeatMap(maps, (mass / mass.sum()).astype(np.float32), empty=False, top=top)


def deviation(raw: Tensor, frames: Sequence[Frame], top: float) -> list[FloatArray]:
    """How far a label's maps of several samples lie from each other, place by place.

    Args:
        raw: (T, V, h, w), of T samples; T of at least 2.
        frames: V frames of the films.
        top: What the label's heat-map was divided by (:class:`HeatMap`), so that both are on one scale.

    Returns:
        V float32 arrays (height, width): the standard deviation (divided by T), at least 0; above 1 where samples are
        far hotter than the network itself.
    """
    values = np.nan_to_num(raw.detach().float().cpu().numpy(), nan=0.0, posinf=0.0, neginf=0.0) / np.float32(top)
    found = []
    for view, frame in enumerate(frames):
        mean = frame.to_original(values[:, view].mean(axis=0))  # resizing is linear
        squares = np.zeros_like(mean)
        for sample in values[:, view]:  # films are large: one at a time
            squares += (frame.to_original(sample) - mean) ** 2
        found.append(np.sqrt(squares / len(values)))
    return found


def mask_of(values: FloatArray, threshold: float) -> npt.NDArray[np.bool_]:
    """The places of a heat-map at or above a threshold in (0, 1]; none where the map is all 0."""
    return values >= threshold
