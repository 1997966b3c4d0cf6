"""The encoder: any timm model with a spatial feature map, for grey images of one channel."""

from __future__ import annotations

import difflib
import logging
import math
from itertools import chain
from types import SimpleNamespace
from typing import Any

import timm
import torch
from timm.models import PretrainedCfg, group_parameters, is_model
from torch import Tensor, nn
from torch.func import functional_call

from longview import InputError
from longview.models import pretrained as weights_of

log = logging.getLogger(__name__)

_HEAD = "what stands on the encoder"


class Encoder(nn.Module):
    """Images (N, 1, H, W) uint8 to features (N, C, h, w), by any timm model that has a feature map.

    The image stays one channel: a pretrained RGB stem is folded (its kernels summed over the three input
    channels), which gives exactly the map that three copies of the channel would. Values are scaled to [0, 1]
    and normalised on the device with the pretrained configuration's mean and standard deviation, averaged
    over its channels (ImageNet: mean 0.449, standard deviation 0.226).

    Vision transformers give their patch tokens as a map, without class and register tokens. Models of a fixed
    input size (ViT, Swin, MaxViT, ...) are made for the size asked for, pretrained position codes resampled
    by timm.

    Args:
        name: timm's model name, with or without the tag of its weights:
            `convnext_small.fb_in22k_ft_in1k_384`.
        pretrained: False: random weights. True: timm's own, downloaded once. Text: path of a timm checkpoint
            (.safetensors, .pth, .pt, .bin).
        drop_path: Share of residual branches dropped in training (stochastic depth), in [0, 1).
        checkpoint_gradients: Recompute activations in the backward pass: less memory, about a third more
            time.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        name: str,
        pretrained: bool | str = False,
        drop_path: float = 0.0,
        checkpoint_gradients: bool = False,
    ) -> None:
        super().__init__()
        self.name = name
        self.pretrained = pretrained
        self.drop_path = drop_path
        self.checkpoint_gradients = checkpoint_gradients
        self.channels = 0
        self.image_size = 0
        self.fixed_size = False
        self.register_buffer("mean", torch.tensor(0.0))
        self.register_buffer("std", torch.tensor(1.0))

    def build(self, image_size: int, weights: bool = True) -> None:
        """Create the timm model; the only place that reads the disk or the network.

        Sets `channels` (C) and `image_size`.

        Args:
            image_size: Side of the square input in px.
            weights: Read the pretrained weights; False where a checkpoint is loaded next, which then needs
                neither the pretrained file nor the network.

        Raises:
            InputError: For an unknown model or option of it, one without a feature map, weights that cannot
                be had or do not fit, and an image size that the model cannot take.
        """
        cfg = _configuration(self.name)
        options: dict[str, Any] = {"in_chans": 1}
        if cfg.fixed_input_size:
            options["img_size"] = image_size
        if not 0 <= self.drop_path < 1:
            raise InputError(f"encoder {self.name!r}: drop_path must be in [0, 1), found {self.drop_path}")
        if self.drop_path:
            options["drop_path_rate"] = self.drop_path
        model = self._create(cfg, options, self.pretrained if weights else False)
        _take_off_head(model, self.name)
        features = _trace(model, self.name, image_size)
        self.channels = features.shape[1]
        self._check_edge(cfg, image_size, features.shape[-1], _stride(model))
        if self.checkpoint_gradients:
            self._checkpoint_gradients(model)
        # convolutions run faster so; other layers ignore it
        self.model = model.to(memory_format=torch.channels_last)
        self.image_size = image_size
        self.fixed_size = bool(cfg.fixed_input_size)
        self.mean.fill_(sum(cfg.mean) / len(cfg.mean))
        self.std.fill_(sum(cfg.std) / len(cfg.std))

    def forward(self, images: Tensor) -> Tensor:
        """Features (N, C, h, w) of images (N, 1, H, W), uint8 (or float in 0..255).

        Raises:
            InputError: Where a model of a fixed size meets images of another.
        """
        if self.fixed_size and images.shape[-2:] != (self.image_size, self.image_size):
            raise InputError(
                f"encoder {self.name!r} was built for {self.image_size} px, the images have "
                f"{images.shape[-1]}x{images.shape[-2]} px; set data.image_size to {self.image_size}"
            )
        pixels = (images.to(self.mean.dtype) / 255 - self.mean) / self.std  # (N, 1, H, W)
        return _as_map(self.model(pixels), self.model)

    def layers_above(self) -> dict[str, int]:
        """How many layers lie above each parameter, that of the network's head included: 1 for the last layer.

        Layers are timm's (`group_matcher`): stem, blocks, each with the norms that belong to it; what timm counts
        among a model's head has 0.

        Raises:
            InputError: For a model whose layers timm does not tell.
        """
        matcher = getattr(self.model, "group_matcher", None)
        if matcher is None:
            raise InputError(f"encoder {self.name!r} has no layers that timm knows of; leave layer_decay out")
        # the head is taken off; a name that matches nothing stands for it, as the names of timm's own heads do
        names = [*(name for name, _ in self.model.named_parameters()), _HEAD]
        parameters: Any = SimpleNamespace(named_parameters=lambda: ((name, None) for name in names))
        layers: dict[str, int] = group_parameters(parameters, matcher(), reverse=True)
        return {f"model.{name}": layers[_HEAD] - layers[name] for name in names[:-1]}

    def _create(self, cfg: PretrainedCfg, options: dict[str, Any], pretrained: bool | str) -> Any:
        try:
            return weights_of.create(self.name, cfg, pretrained, **options)
        except TypeError as error:
            # CNNs without residual branches (densenet, vgg) have no such argument
            if "drop_path_rate" not in str(error):
                raise
            raise InputError(f"encoder {self.name!r} has no stochastic depth; leave drop_path at 0") from error

    def _checkpoint_gradients(self, model: Any) -> None:
        try:
            model.set_grad_checkpointing(True)
        except (AssertionError, AttributeError) as error:
            raise InputError(
                f"encoder {self.name!r} cannot recompute activations; set checkpoint_gradients to false"
            ) from error

    def _check_edge(self, cfg: PretrainedCfg, image_size: int, side: int, stride: int) -> None:
        """Tell of pixels that no feature sees, since strides or patches do not divide the image."""
        lost = image_size - side * stride
        if lost <= 0:
            return
        text = f"encoder {self.name!r} would not see the last {lost} px of rows and columns of {image_size} px"
        if cfg.fixed_input_size:
            raise InputError(f"{text}; nearest sizes: {_nearest(image_size, stride)} px")
        # a CNN also looks beyond its strides, so less is lost there than the message says
        log.warning("%s; nearest sizes without loss: %s px", text, _nearest(image_size, stride))


def _configuration(name: str) -> PretrainedCfg:
    """Look up timm's configuration of a model.

    Raises:
        InputError: For a name or tag that timm does not know; the message offers the nearest.
    """
    architecture, _, tag = name.partition(".")
    if not is_model(architecture):
        near = difflib.get_close_matches(architecture, timm.list_models(), n=5, cutoff=0.5)
        raise InputError(
            f"timm {timm.__version__} has no model {architecture!r}; "
            + (f"did you mean {', '.join(near)}?" if near else "timm.list_models() lists all names")
        )
    tags = sorted(key.partition(".")[2] for key in timm.models.get_arch_pretrained_cfgs(architecture))
    if tag and tag not in tags:
        raise InputError(f"timm's {architecture!r} has no weights {tag!r}; tags: {', '.join(filter(None, tags))}")
    return timm.get_pretrained_cfg(name) or PretrainedCfg()


def _take_off_head(model: Any, name: str) -> None:
    """Remove classifier and pooling; keep what a pretrained model has between its last block and its head.

    Unlike timm's `forward_features` and `features_only`, this leaves no trained norm or projection unused
    (unused parameters stop DistributedDataParallel) and skips none.
    """
    try:
        model.reset_classifier(0, "")
    except (AssertionError, AttributeError, TypeError) as error:
        raise InputError(f"encoder {name!r} has no feature map without pooling; choose another timm model") from error


def _trace(model: Any, name: str, size: int) -> Tensor:
    """Run the model on the meta device: shapes without arithmetic (about 0.1 s at any size).

    Returns:
        Features (1, C, h, w) without data.
    """
    tensors = chain(model.named_parameters(), model.named_buffers())
    state = {key: torch.empty_like(value, device="meta") for key, value in tensors}
    dtype = next(model.parameters()).dtype
    model.eval()
    try:
        with torch.no_grad():
            output = functional_call(model, state, (torch.empty(1, 1, size, size, device="meta", dtype=dtype),))
    except NotImplementedError:
        raise
    except (AssertionError, RuntimeError) as error:
        raise InputError(
            f"encoder {name!r} cannot take images of {size} px ({str(error).splitlines()[0]}); "
            f"nearest sizes: {_nearest(size, _stride(model))} px"
        ) from error
    finally:
        model.train()
    if not isinstance(output, Tensor) or output.ndim not in (3, 4):
        raise InputError(f"encoder {name!r} gives no feature map; choose another timm model")
    return _as_map(output, model)


def _stride(model: Any) -> int:
    """Pixels per feature, along a side."""
    info = getattr(model, "feature_info", None)
    return int(info[-1]["reduction"]) if info else 32


def _nearest(size: int, stride: int) -> str:
    lower, upper = size // stride * stride, -(-size // stride) * stride
    return " or ".join(str(value) for value in sorted({lower, upper} - {0}))


def _as_map(output: Tensor, model: Any) -> Tensor:
    """Bring timm's layouts to (N, C, h, w)."""
    if output.ndim == 4:
        channels_last = str(getattr(model, "output_fmt", "NCHW")) == "NHWC"
        return output.permute(0, 3, 1, 2) if channels_last else output
    patches = output[:, getattr(model, "num_prefix_tokens", 0) :]  # (N, T, C), without class and register tokens
    side = math.isqrt(patches.shape[1])  # images are square, and so is the grid
    return patches.transpose(1, 2).reshape(patches.shape[0], -1, side, side)
