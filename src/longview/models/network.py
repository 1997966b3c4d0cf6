"""Networks: the packed images of a batch of studies to one logit per study and label."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn

from longview import InputError
from longview.labels import LabelSet
from longview.models.decoder import Decoder
from longview.models.encoder import Encoder
from longview.models.fusion import Fusion, MeanFusion


class Network(nn.Module, ABC):
    """Images of B studies, packed, to logits (B, L).

    Constructors store arguments; `build` makes the parameters, once, before the optimizer is made or a
    checkpoint is loaded.
    """

    @abstractmethod
    def build(self, labels: LabelSet, image_size: int, weights: bool = True) -> None:
        """Create the parameters.

        Args:
            labels: The label set; its seen labels are the L logits, in order.
            image_size: Side of the square input in px.
            weights: Read pretrained weights; False where a checkpoint is loaded next, which then needs
                neither pretrained files nor a network connection.
        """

    @property
    def open_vocabulary(self) -> bool:
        """Whether a label that training never saw can be scored from its text."""
        return False

    def set_labels(self, labels: LabelSet) -> None:  # noqa: ARG002
        """Score other labels from now on: `labels.names`, then `labels.unseen_names`; for prediction only.

        Raises:
            InputError: Where the network has no logit for a label that it was not trained on.
        """
        raise InputError(
            f"{type(self).__name__} scores only the labels that it was trained on; unseen labels need queries from "
            f"label text and a shared read-out"
        )

    def per_label(self) -> list[str]:
        """Names of the state's tensors whose first dimension is the labels, in the label set's order."""
        return []

    def set_counts(self, positives: Tensor, observed: Tensor) -> None:
        """Learn the training split's counts.

        Args:
            positives: (L,) sums of positive (or soft) training labels.
            observed: (L,) numbers of training studies whose label is known.
        """

    def encode(self, images: Tensor) -> Tensor:  # noqa: ARG002
        """Features (N, C, h, w) of images (N, 1, H, W), for a feature cache."""
        raise InputError(f"{type(self).__name__} has no encoder whose features could be cached")

    @abstractmethod
    def forward(
        self, images: Tensor, study: Tensor, view: Tensor, studies: int, features: Tensor | None = None
    ) -> Tensor:
        """Logits (B, L) float32.

        Args:
            images: (N, 1, H, W) uint8, the views of all studies, in any order.
            study: (N,) int64, the row in 0..B-1 that an image belongs to; every row has at least one image.
            view: (N,) int64, position in `longview.VIEWS`.
            studies: B.
            features: (N, C, h, w) what `encode` makes of the images, which are not looked at then.
        """


class StudyNetwork(Network):
    """Encoder, view fusion, label decoder.

    Args:
        encoder: Images to a feature map.
        decoder: Tokens to logits; they carry a 2-D position code where it asks for one.
        fusion: Makes one row of logits of a study's views; None: `MeanFusion`, every view is scored alone and
            a study's logits are the mean.
    """

    def __init__(self, encoder: Encoder, decoder: Decoder, fusion: Fusion | None = None) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        self.fusion = MeanFusion() if fusion is None else fusion

    def build(self, labels: LabelSet, image_size: int, weights: bool = True) -> None:
        """Create encoder, fusion and decoder."""
        self.encoder.build(image_size, weights=weights)
        channels = self.fusion.build(self.encoder.channels)
        self.decoder.build(channels, labels, weights)

    @property
    def open_vocabulary(self) -> bool:
        """Whether the decoder scores a label from its text."""
        return self.decoder.open_vocabulary

    def set_labels(self, labels: LabelSet) -> None:
        """Let the decoder score other labels: `labels.names`, then `labels.unseen_names`."""
        self.decoder.set_labels(labels)

    def per_label(self) -> list[str]:
        """Names of the state's tensors whose first dimension is the labels: the decoder's."""
        return [f"decoder.{name}" for name in self.decoder.per_label()]

    def encode(self, images: Tensor) -> Tensor:
        """Features (N, C, h, w) of images (N, 1, H, W)."""
        features: Tensor = self.encoder(images)
        return features

    def forward(
        self, images: Tensor, study: Tensor, view: Tensor, studies: int, features: Tensor | None = None
    ) -> Tensor:
        """Logits (B, L) float32."""
        arrangement = self.fusion.arrange(study, studies)  # before the encoder, so that the host need not wait for it
        if features is None:
            features = self.encode(images)
        logits: Tensor = self.fusion(features, study, view, studies, self.decoder, arrangement)
        return logits
