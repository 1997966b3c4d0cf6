"""torchxrayvision's pretrained classifiers as networks like any other (Cohen et al. 2022, arXiv 2111.00595).

Seven DenseNet-121 at 224 px, a ResNet-50 at 512 px, and the DenseNet-121 of JF Healthcare (Ye et al. 2020,
arXiv 2005.14480) at 512 px. Their encoders are timm's, built in the published order of sums.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from longview import InputError
from longview.labels import LabelSet
from longview.models.decoder import Decoder, LinearDecoder
from longview.models.encoder import Encoder
from longview.models.network import StudyNetwork
from longview.models.xrv_weights import JF, XRV, XRV_NAMES, XrvWeights, jf_module

__all__ = ["XRV_NAMES", "OperatingPointDecoder", "XrvNetwork", "calibrated"]

log = logging.getLogger(__name__)

Head = Literal["published", "new"]

SOURCE = "xrv"
"""The label set of torchxrayvision's names, and the source under which other sets name their aliases."""


def calibrated(logits: Tensor, thresholds: Tensor) -> Tensor:
    """Logits of torchxrayvision's probabilities, which are scaled so that 0.5 is a label's operating point t.

    With p the sigmoid: q = p / 2t below t, 1 - (1 - p) / 2(1 - t) from t on; log(q / (1 - q)) is computed from the
    smaller of q and 1 - q, finite for logits of any size.

    Args:
        logits: (..., L) before their sigmoid.
        thresholds: (L,) operating points, in (0, 1).

    Returns:
        (..., L); increasing in `logits`, 0 at the operating point.
    """
    below = functional.logsigmoid(logits) - (2 * thresholds).log()  # log q
    above = functional.logsigmoid(-logits) - (2 * (1 - thresholds)).log()  # log (1 - q)
    half = -math.log(2)
    low = below - torch.log1p(-below.clamp(max=half).exp())
    high = torch.log1p(-above.clamp(max=half).exp()) - above
    return torch.where(below < half, low, high)


class OperatingPointDecoder(LinearDecoder):
    """Mean of the tokens, one linear layer, and each label's operating point moved to a probability of 0.5."""

    thresholds: Tensor

    def build(self, channels: int, labels: LabelSet, weights: bool = True) -> None:
        """Create the linear layer, C to L, and the operating points, 0.5 until weights are read."""
        super().build(channels, labels, weights)
        self.register_buffer("thresholds", torch.full((len(labels.names),), 0.5))

    def per_label(self) -> list[str]:
        """Weights and bias of the linear layer, and the operating points."""
        return [*super().per_label(), "thresholds"]

    def forward(self, tokens: Tensor, padding: Tensor | None = None) -> Tensor:
        """Logits (B, L) float32 of tokens (B, T, C)."""
        with torch.autocast(tokens.device.type, enabled=False):
            return calibrated(super().forward(tokens, padding), self.thresholds.float())

    def _pooled(self, tokens: Tensor, padding: Tensor | None) -> Tensor:
        """(B, C) of tokens (B, T, C); summed as torch's pooling does, so that outputs are the published ones."""
        return tokens.mean(1) if padding is None else super()._pooled(tokens, padding)


class JfDecoder(Decoder):
    """JF Healthcare's own head: feature pyramid attention, mean and maximum, a norm and a linear layer per label.

    Its attention is applied once more for each label after the first, as its authors do. Tokens are those of one
    square map; its code is torchxrayvision's (extra `xrv`).
    """

    uses_position = False
    columns: Tensor

    def build(self, channels: int, labels: LabelSet, weights: bool = True) -> None:  # noqa: ARG002
        """Create the head's parameters.

        Raises:
            InputError: Where the extra `xrv` is not installed.
        """
        module = jf_module()
        text = resources.files(module).joinpath("config/example.json").read_text(encoding="utf-8")
        # `pretrained` would download ImageNet's weights, which the published ones replace
        options = SimpleNamespace(**json.loads(text) | {"pretrained": False})
        self.head: nn.Module = module.classifier.Classifier(options)
        self.head.backbone = nn.Identity()
        self.register_buffer("columns", torch.zeros(len(labels.names), dtype=torch.int64))

    def per_label(self) -> list[str]:
        """Which of the head's outputs a label is."""
        return ["columns"]

    def forward(self, tokens: Tensor, padding: Tensor | None = None) -> Tensor:  # noqa: ARG002 - views are alone
        """Logits (B, L) float32 of the tokens (B, T, C) of square maps."""
        side = math.isqrt(tokens.shape[1])
        maps = tokens.transpose(1, 2).reshape(tokens.shape[0], -1, side, side)
        logits, _ = self.head(maps)
        return torch.cat(logits, dim=1)[:, self.columns].float()


class _CopiedStem(nn.Conv2d):
    """A stem of three channels on films of one, as JF Healthcare's model was trained.

    Kernels summed over the channels would change the order of its sums, and so its outputs.
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name
        """Features of films (N, 1, H, W)."""
        return super().forward(input.expand(-1, self.in_channels, -1, -1))


class XrvNetwork(StudyNetwork):
    """A classifier of torchxrayvision: films (N, 1, S, S) uint8 to logits (B, L), the mean over a study's views.

    Films of any size are brought to the model's own (224 or 512 px) and to its range, [-1024, 1024]. The sigmoid of
    a film's logits is torchxrayvision's own probability, whose 0.5 is a label's operating point: nothing is left to
    calibrate but what validation data tell. Outputs that were never trained are left out.

    Labels are found by name or alias (`configs/labels/xrv.yaml`; `xrv` among the aliases of the label set). With the
    published head a label that the model does not score is an error. A new head, for fine-tuning, is a linear layer
    on the mean of the features: labels that the model knows begin with its weights (but for JF Healthcare's model,
    whose head is none), all others at random, and probabilities are no longer torchxrayvision's.

    Args:
        name: One of :data:`XRV_NAMES`, such as `densenet121-res224-all`.
        weights: Folder of the weights (as published, or NAME.safetensors, see `main.py classify --convert`), or
            their file; None: torchxrayvision's folder, `~/.torchxrayvision/models_data`, to which they are downloaded.
        head: `published`, or `new`.
        dropout: Share of pooled channels that a new head drops in training.

    Raises:
        InputError: For another name.
    """

    def __init__(
        self,
        name: str = "densenet121-res224-all",
        weights: str | None = None,
        head: Head = "published",
        dropout: float = 0.1,
    ) -> None:
        if name not in XRV:
            raise InputError(f"torchxrayvision has no model {name!r}; there are {', '.join(XRV_NAMES)}")
        published: Decoder = JfDecoder() if name == JF else OperatingPointDecoder(dropout=0)
        decoder = published if head == "published" else LinearDecoder(dropout=dropout)
        super().__init__(Encoder(XRV[name].architecture), decoder)
        self.name, self.weights, self.head = name, weights, head
        self.own_size = XRV[name].size
        self._source: XrvWeights | None = None

    def build(self, labels: LabelSet, image_size: int, weights: bool = True) -> None:  # noqa: ARG002
        """Create the parameters, and read the published ones.

        Raises:
            InputError: Where the weights cannot be had or do not fit, or where the published head lacks a label.
        """
        self.encoder.build(self.own_size, weights=False)
        if self.name == JF:
            self.encoder.model.features.conv0 = _CopiedStem(3, 64, 7, stride=2, padding=3, bias=False)
        # (x / 255 - mean) / std, of bytes, in [-1024, 1024]; JF Healthcare divides that by 512
        self.encoder.mean.fill_(0.5)
        self.encoder.std.fill_(1 / 4 if self.name == JF else 1 / 2048)
        # in the published models' own order of sums: channels last, outputs differ by up to 3e-6
        self.encoder.model.to(memory_format=torch.contiguous_format)
        self.decoder.build(self.encoder.channels, labels, weights)
        if weights:
            self._load(labels)

    def encode(self, images: Tensor) -> Tensor:
        """Features (N, C, h, w) of images (N, 1, H, W), resized to the model's own size as torchxrayvision does."""
        size = (self.own_size, self.own_size)
        if images.shape[-2:] != size:
            images = functional.interpolate(images.float(), size=size, mode="bilinear", antialias=True)
        return super().encode(images)

    def own_labels(self) -> LabelSet:
        """The labels that the published head scores, in the order of `configs/labels/xrv.yaml`.

        Raises:
            InputError: Where the weights cannot be had.
        """
        known = LabelSet.load(SOURCE)
        targets = set(self.source().targets)
        return LabelSet(SOURCE, [label for label in known.labels if label.name in targets], known.description)

    def source(self) -> XrvWeights:
        """The file of the weights; found, or downloaded, once.

        Raises:
            InputError: Where it cannot be had.
        """
        if self._source is None:
            self._source = XrvWeights.find(self.name, self.weights)
        return self._source

    def weights_file(self) -> Path:
        """Path of the weights."""
        return self.source().file

    def _load(self, labels: LabelSet) -> None:
        """Put the published weights in place, rows of the head by label name."""
        source = self.source()
        places = _places(labels, source.targets)
        if self.head == "published":
            self._require(labels, places, source.targets)
        state = source.state()
        prefix, head = ("backbone.", "backbone.classifier.") if self.name == JF else ("", f"{XRV[self.name].head}.")
        encoder = {
            key.removeprefix(prefix): value
            for key, value in state.items()
            if key.startswith(prefix) and not key.startswith(head)
        }
        self._put(self.encoder.model, encoder)
        if isinstance(self.decoder, JfDecoder):
            self._put(self.decoder.head, {key: value for key, value in state.items() if not key.startswith(prefix)})
            self.decoder.columns.copy_(torch.tensor(places))
        elif isinstance(self.decoder, LinearDecoder) and self.name != JF:
            self._put_rows(self.decoder, places, state, source.thresholds)
        fresh = [name for name, place in zip(labels.names, places, strict=True) if place is None or self.name == JF]
        if self.head == "new" and fresh:
            log.info("%s, new head: begin at random: %s", self.name, ", ".join(fresh))

    def _put(self, module: Any, state: dict[str, Tensor]) -> None:
        try:
            module.load_state_dict(state)
        except RuntimeError as error:
            reasons = str(error).splitlines()
            raise InputError(
                f"{self.weights_file()} does not fit {self.name}: {reasons[min(1, len(reasons) - 1)].strip()[:200]}; "
                f"fetch {XRV[self.name].url}"
            ) from error

    def _put_rows(
        self, decoder: LinearDecoder, places: Sequence[int | None], state: dict[str, Tensor], points: list[float]
    ) -> None:
        head = XRV[self.name].head
        matrix, bias = state.get(f"{head}.weight"), state.get(f"{head}.bias")
        if matrix is None or bias is None or matrix.shape != (len(points), self.encoder.channels):
            raise InputError(
                f"{self.weights_file()} does not fit {self.name}: its head {head!r} is not {len(points)} rows"
            )
        with torch.no_grad():
            for row, place in enumerate(places):
                if place is None:
                    continue
                decoder.readout.weight[row] = matrix[place]
                decoder.readout.bias[row] = bias[place]
                if isinstance(decoder, OperatingPointDecoder):
                    decoder.thresholds[row] = points[place]

    def _require(self, labels: LabelSet, places: Sequence[int | None], targets: Sequence[str]) -> None:
        absent = [name for name, place in zip(labels.names, places, strict=True) if place is None]
        if absent:
            raise InputError(
                f"{self.name} does not score {', '.join(absent)} of label set {labels.name!r}; it scores "
                f"{', '.join(filter(None, targets))}. Take a label set of those, or train a head of your own: "
                f"--model.network.init_args.head new"
            )


def _places(labels: LabelSet, targets: Sequence[str]) -> list[int | None]:
    """Where each label is among a model's outputs, by name or alias of either label set; None: nowhere."""
    known = LabelSet.load(SOURCE)
    found = {target: place for place, target in enumerate(targets) if target}
    theirs = {labels.canonical(target, SOURCE): target for target in found}
    wanted = [theirs.get(name) or known.canonical(name) for name in labels.names]
    return [found.get(name) if name else None for name in wanted]
