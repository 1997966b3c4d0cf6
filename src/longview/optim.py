"""Optimizers and schedules: light objects that a configuration holds and the task builds from."""

from __future__ import annotations

import logging
import math
from abc import ABC, abstractmethod
from typing import Any

import lightning.pytorch as pl
import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from longview import InputError

log = logging.getLogger(__name__)


class Optimizer(ABC):
    """Builds a torch optimizer for a network."""

    @abstractmethod
    def build(self, module: nn.Module) -> torch.optim.Optimizer:
        """Make the optimizer of a network's trainable parameters, on the device where it will train.

        Raises:
            InputError: Where the network has no trainable parameter.
        """


class AdamW(Optimizer):
    """AdamW (Loshchilov and Hutter 2019, arXiv 1711.05101), without decay on biases, norms and embeddings.

    Args:
        lr: Peak learning rate.
        weight_decay: Decoupled weight decay of matrices and kernels.
        betas: Decay rates of the two moments.
        eps: Added to the denominator.
        fused: One kernel for all parameters; None: where all of them are on a GPU.
        layer_decay: Layer-wise decay of the learning rate (BEiT, Bao et al. 2022, arXiv 2106.08254): layer k = 0..n-1
            of the encoder, counted from its input, learns at `lr * layer_decay^(n - k)`, all above it at `lr`. In
            (0, 1]; None: one rate for all.

    Raises:
        InputError: For a `layer_decay` outside (0, 1].
    """

    def __init__(
        self,
        lr: float = 1e-4,
        weight_decay: float = 0.05,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        fused: bool | None = None,
        layer_decay: float | None = None,
    ) -> None:
        if layer_decay is not None and not 0 < layer_decay <= 1:
            raise InputError(f"AdamW: layer_decay must be above 0 and at most 1 (0.8), found {layer_decay}")
        self.lr = lr
        self.weight_decay = weight_decay
        self.betas = betas
        self.eps = eps
        self.fused = fused
        self.layer_decay = layer_decay

    def build(self, module: nn.Module) -> torch.optim.Optimizer:
        """AdamW with one group that decays and one that does not, for each learning rate; the highest comes first."""
        groups = [group for group in decay_groups(module, self.weight_decay) if group["params"]]
        if not groups:
            raise InputError(f"{type(module).__name__} has no trainable parameter; there is nothing to fit")
        if self.layer_decay is not None:
            groups = layer_groups(module, groups, self.lr, self.layer_decay)
        on_gpu = all(parameter.is_cuda for parameter in module.parameters() if parameter.requires_grad)
        optimizer = torch.optim.AdamW(
            groups,
            lr=self.lr,
            betas=self.betas,
            eps=self.eps,
            fused=on_gpu if self.fused is None else self.fused,
        )
        # A fused optimizer offers to unscale gradients in its step, and Lightning then refuses to clip them under any
        # mixed precision, bf16 (which scales nothing) included. Without the offer a scaler unscales them before that.
        optimizer._step_supports_amp_scaling = False
        return optimizer


def decay_groups(module: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Two groups of trainable parameters: those that decay, and those that do not.

    Decay pulls matrices and kernels to zero, which makes a function smoother; on biases, norms and the codes
    of positions, tokens or labels it only shifts what they stand for. Exempt are parameters of one dimension
    or none, embeddings, and what a module names in timm's `no_weight_decay()`.
    """
    exempt: set[int] = set()
    for child in module.modules():
        named: Any = getattr(child, "no_weight_decay", None)
        names = set(named()) if callable(named) else set()
        if isinstance(child, nn.Embedding):
            names.add("weight")
        exempt |= {id(parameter) for name, parameter in child.named_parameters() if name in names}
    decayed: list[nn.Parameter] = []
    spared: list[nn.Parameter] = []
    for parameter in module.parameters():
        if parameter.requires_grad:
            (spared if parameter.ndim <= 1 or id(parameter) in exempt else decayed).append(parameter)
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": spared, "weight_decay": 0.0}]


def layer_groups(
    module: nn.Module, groups: list[dict[str, Any]], lr: float, layer_decay: float
) -> list[dict[str, Any]]:
    """Divide groups of parameters by layer, each with its own learning rate, the highest first.

    A schedule then scales each group's rate (timm only notes an `lr_scale`, which its own schedulers alone heed).

    Args:
        module: The network; its encoder tells by `layers_above()` how many layers lie above a parameter.
        groups: Groups with `params`.
        lr: Learning rate of what stands on the encoder.
        layer_decay: Factor from each layer to the one below.

    Raises:
        InputError: Where no part of the network has layers.
    """
    above: dict[int, int] = {}
    for child in module.modules():
        count: Any = getattr(child, "layers_above", None)
        if callable(count):
            layers: dict[str, int] = count()
            above |= {id(value): layers[name] for name, value in child.named_parameters()}
    if not above:
        raise InputError(f"AdamW: layer_decay needs a network with an encoder; {type(module).__name__} has none")
    distances = sorted({above.get(id(value), 0) for group in groups for value in group["params"]})
    divided = []
    for distance in distances:
        for group in groups:
            members = [value for value in group["params"] if above.get(id(value), 0) == distance]
            if members:
                divided.append({**group, "params": members, "lr": lr * layer_decay**distance})
    return divided


class Schedule(ABC):
    """Builds a learning-rate schedule, stepped once after each optimizer step."""

    @abstractmethod
    def build(self, optimizer: torch.optim.Optimizer, total_steps: float) -> LRScheduler:
        """Make the schedule of a run of `total_steps` optimizer steps.

        Raises:
            InputError: Where the number of steps is not known.
        """


class WarmupCosine(Schedule):
    """Linear warm-up, then half a cosine down to a share of the peak (SGDR, arXiv 1608.03983).

    Step t = 1..T has the factor `t / W` while t <= W, and `f + (1 - f)(1 + cos(pi (t - W) / (T - W))) / 2`
    after.

    Args:
        warmup: W, as a number of steps (int) or as a share of all steps (float in [0, 1]).
        final: f, the last step's share of the peak, in [0, 1].

    Raises:
        InputError: For values outside these ranges.
    """

    def __init__(self, warmup: int | float = 0.05, final: float = 0.01) -> None:
        if warmup < 0 or (isinstance(warmup, float) and warmup > 1):
            raise InputError(f"WarmupCosine: warmup must be a number of steps (500) or a share (0.05), found {warmup}")
        if not 0 <= final <= 1:
            raise InputError(f"WarmupCosine: final must be a share of the peak in [0, 1], found {final}")
        self.warmup = warmup
        self.final = final

    def build(self, optimizer: torch.optim.Optimizer, total_steps: float) -> LRScheduler:
        """The schedule; a warm-up as long as the run or longer only rises."""
        if not math.isfinite(total_steps) or total_steps < 1:
            raise InputError(
                f"WarmupCosine needs to know the number of steps, found {total_steps}; "
                f"set trainer.max_epochs or trainer.max_steps"
            )
        warmup = self.warmup if isinstance(self.warmup, int) else round(self.warmup * total_steps)
        if warmup > total_steps:
            log.warning("a warm-up of %d steps does not end in a run of %d", warmup, total_steps)

        def factor(step: int) -> float:
            done = step + 1  # LambdaLR counts from 0; the first step must not have a learning rate of 0
            if done <= warmup:
                return done / warmup
            share = min((done - warmup) / max(total_steps - warmup, 1), 1.0)
            return self.final + (1 - self.final) * (1 + math.cos(math.pi * share)) / 2

        return LambdaLR(optimizer, factor)


def total_steps(trainer: pl.Trainer) -> float:
    """Optimizer steps of a whole run; infinite where neither epochs nor steps are limited."""
    data = getattr(trainer, "datamodule", None)
    if data is None or not hasattr(data, "train_batches"):
        return trainer.estimated_stepping_batches
    batches, limit = data.train_batches(), trainer.limit_train_batches
    batches = int(batches * limit) if isinstance(limit, float) else min(batches, limit)
    epochs = math.inf if trainer.max_epochs in {None, -1} else trainer.max_epochs
    steps = math.ceil(batches / trainer.accumulate_grad_batches) * epochs
    return min(steps, trainer.max_steps) if trainer.max_steps >= 0 else steps


def progress(epoch: int, epochs: int | None) -> float:
    """How far training is in this epoch: 0 in the first, 1 in the last one; NaN where their number is not limited."""
    return epoch / max(epochs - 1, 1) if epochs is not None and epochs > 0 else math.nan
