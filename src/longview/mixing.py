"""Mixup and CutMix for studies of several labels and views."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor
from torch.distributions import Beta

from longview import Batch, InputError


class Mixing(Callback):
    """Shows each study of a training batch mixed with another one, and asks for its labels in the same proportion.

    Mixup (Zhang et al. 2018, arXiv 1710.09412): `x = a x_1 + (1 - a) x_2`, a drawn from Beta(alpha, alpha). CutMix (Yun
    et al. 2019, arXiv 1905.04899): a rectangle with `1 - a` of the area of `x_1` is that of `x_2`. In both
    `y = a y_1 + (1 - a) y_2`, a soft target; unknown where either study's is. `a` is a study's own, the same for all
    of its views; chance may make a study its own partner. A view is mixed with the partner's view of its own type,
    else with that at the same place. Films stay uint8, rounded.

    Only training is mixed. The training loss is then one of mixed targets, and no longer comparable with the
    validation's.

    Args:
        mixup: Alpha of mixup; 0 for none.
        cutmix: Alpha of CutMix; 0 for none.
        probability: Share of batches that are mixed.
        switch: Where both are given, the share of mixed batches with CutMix.

    Raises:
        InputError: For values out of range, for neither of both, or when training starts on cached features.
    """

    def __init__(self, mixup: float = 0.2, cutmix: float = 0.0, probability: float = 1.0, switch: float = 0.5) -> None:
        for name, value in (("mixup", mixup), ("cutmix", cutmix)):
            if not 0 <= value < float("inf"):
                raise InputError(f"Mixing: {name} must be at least 0, found {value}")
        for name, value in (("probability", probability), ("switch", switch)):
            if not 0 <= value <= 1:
                raise InputError(f"Mixing: {name} must be in [0, 1], found {value}")
        if not mixup and not cutmix:
            raise InputError("Mixing: mixup and cutmix are both 0; give one of them, or leave the callback out")
        self.mixup, self.cutmix, self.probability = mixup, cutmix, probability
        self.switch = switch if mixup and cutmix else float(cutmix > 0)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Mix the batch in place."""
        if "features" in batch:
            raise InputError("Mixing changes films, and --feature_cache trains on features; leave out one of them")
        if torch.rand(()) < self.probability:
            cut = bool(torch.rand(()) < self.switch)
            batch.update(mix(batch, self.cutmix if cut else self.mixup, cut))


def mix(batch: Batch, alpha: float, cut: bool) -> dict[str, Tensor]:
    """Mixed films and targets of a batch; random numbers are torch's own.

    Args:
        batch: B studies of N images.
        alpha: Of the Beta distribution of a study's own share.
        cut: CutMix, else mixup.

    Returns:
        `images` (N, 1, H, W) uint8 and `target` (B, L).
    """
    images, study, target = batch["images"], batch["study"], batch["target"]
    partner = torch.randperm(len(target)).to(study.device)  # (B,)
    own = Beta(alpha, alpha).sample((len(target),)).to(target)  # (B,), the share of a study itself
    other = images[partners(study, batch["view"], partner)]  # (N, 1, H, W)
    if cut:
        inside, own = boxes(own, images.shape[-2], images.shape[-1])  # (B, H, W)
        mixed = torch.where(inside[study][:, None], other, images)
    else:
        share = own[study][:, None, None, None]
        mixed = (share * images + (1 - share) * other).round().to(torch.uint8)
    share = own[:, None]
    labels = share * target + (1 - share) * target[partner]  # NaN where either is
    return {"images": mixed, "target": labels}


def partners(study: Tensor, view: Tensor, partner: Tensor) -> Tensor:
    """The image that each image is mixed with.

    Args:
        study: (N,) study of an image, 0..B-1; each has at least one.
        view: (N,) view type.
        partner: (B,) the study that a study is mixed with.

    Returns:
        (N,) images of the partner: the first of the same view type, else that at the same place in its study, counted
        round.
    """
    theirs = study[None] == partner[study][:, None]  # (N, N)
    same = theirs & (view[None] == view[:, None])
    place = (torch.tril(study[None] == study[:, None]).sum(dim=1) - 1) % theirs.sum(dim=1)  # (N,)
    at_place = (theirs & (theirs.cumsum(dim=1) == place[:, None] + 1)).int().argmax(dim=1)
    return torch.where(same.any(dim=1), same.int().argmax(dim=1), at_place)


def boxes(own: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Rectangles of `1 - own` of the area around a random centre, cut at the border.

    Args:
        own: (B,) in [0, 1].
        height: H in px.
        width: W in px.

    Returns:
        Whether a pixel lies inside, (B, H, W), and the share outside, (B,).
    """
    side = (1 - own).sqrt()[:, None]  # (B, 1)
    centre = torch.rand(len(own), 2).to(own)

    def within(length: int, middle: Tensor) -> Tensor:
        first = ((middle[:, None] - side / 2) * length).round().clamp(0, length)
        last = ((middle[:, None] + side / 2) * length).round().clamp(0, length)
        pixel = torch.arange(length, device=own.device)[None]
        return (pixel >= first) & (pixel < last)  # (B, length)

    inside = within(height, centre[:, 0])[:, :, None] & within(width, centre[:, 1])[:, None, :]
    return inside, 1 - inside.flatten(1).to(own).mean(dim=1)
