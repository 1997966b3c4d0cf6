"""Small networks of every kind of head, on an encoder that costs nothing."""

import torch
from torch import nn

from longview.labels import Label, LabelSet
from longview.models.decoder import LabelDecoder, LinearDecoder
from longview.models.fusion import AttentionFusion, MaxFusion, MeanFusion, TransformerFusion, WeightedFusion
from longview.models.network import StudyNetwork

NAMES = ["Atelectasis", "Cardiomegaly", "Effusion", "Lung Opacity", "Mass"]
LABELS = LabelSet("five", [Label(name) for name in NAMES])
CHANNELS = 12


class TinyEncoder(nn.Module):
    """Images (N, 1, S, S) uint8 to features (N, C, S/8, S/8)."""

    channels = CHANNELS

    def build(self, image_size, weights=True):
        self.conv = nn.Conv2d(1, CHANNELS, 9, stride=8, padding=4)

    def forward(self, images):
        return self.conv(images.float() / 128 - 1).relu()


def linear(pool="avg"):
    return LinearDecoder(pool=pool, dropout=0)


def queries():
    return LabelDecoder(width=16, heads=4, feedforward=24)


def network_of(decoder, fusion=None, seed=0, labels=LABELS):
    torch.manual_seed(seed)
    network = StudyNetwork(TinyEncoder(), decoder, fusion)
    network.build(labels, 48)
    return network.eval().requires_grad_(requires_grad=False)


def transformer(**options):
    return TransformerFusion(width=CHANNELS, layers=2, heads=2, feedforward=20, **options)


HEADS = {
    "linear": (linear, MeanFusion),
    "lse": (lambda: linear("lse"), MeanFusion),
    "linear, learned weights": (linear, lambda: AttentionFusion(8)),
    "label decoder": (queries, MeanFusion),
    "label decoder, largest": (queries, MaxFusion),
    "label decoder, weights": (queries, WeightedFusion),
    "transformer": (queries, transformer),
    "transformer, reduced": (queries, lambda: transformer(reduce=True)),
    "transformer, linear": (linear, transformer),
}


def images_of(views=1, seed=1, size=48):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (views, 1, size, size), dtype=torch.uint8, generator=generator)
