"""Where a network drops values, and dropping them there by masks of one's own while all else stays in evaluation."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from longview.models.decoder import LabelDecoder
from longview.uncertainty.masks import Masks

_DROPS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)
_FEATURES = _DROPS[1:]  # drop whole channels
_FLAGGED = (nn.TransformerEncoderLayer, LabelDecoder)
"""Modules whose own flag decides whether they drop attention weights, or skip their dropout in a fused kernel. The
flag is theirs alone: modules within them, a batch norm say, keep theirs."""


def active(network: nn.Module) -> dict[str, nn.Module]:
    """Modules that drop values, by name.

    These are `nn.Dropout` (and those of whole channels) and `nn.MultiheadAttention` with p above 0. Functional dropout,
    as timm's models have it, and stochastic depth are not among them.
    """
    return {name: module for name, module in network.named_modules() if _rate(module) > 0}


def _rate(module: nn.Module) -> float:
    if isinstance(module, _DROPS):
        return module.p
    return module.dropout if isinstance(module, nn.MultiheadAttention) else 0.0


def _plain(module: nn.Module) -> bool:
    """Whether this is attention of batches first, with keys as wide as queries, and nothing added to them."""
    return (
        isinstance(module, nn.MultiheadAttention)
        and module.batch_first
        and module.in_proj_weight is not None
        and module.bias_k is None
        and not module.add_zero_attn
    )


class Sites(TorchFunctionMode):
    """Drops values by masks in the pass of one study, at every active module and in attention.

    Args:
        masks: What to keep.
    """

    def __init__(self, masks: Masks) -> None:
        super().__init__()
        self.masks = masks
        self.largest = 0
        """Numbers in the largest tensor of one study and sample that values were dropped from."""
        self._index: Tensor | None = None
        self._calls: Counter[str] = Counter()

    @property
    def reached(self) -> bool:
        """Whether the last pass dropped anything."""
        return bool(self._calls)

    def begin(self, index: Tensor) -> None:
        """Begin a pass as sample `index`, a whole number of no dimension (under `torch.vmap`: of several samples)."""
        self._index = index
        self._calls.clear()

    @contextmanager
    def within(self, network: nn.Module) -> Iterator[None]:
        """Drop in the network's passes from here to the end of the block.

        No other thread may use the network meanwhile.
        """
        modules = {name: module for name, module in network.named_modules() if _rate(module) > 0 or _plain(module)}
        flagged = [module for module in network.modules() if isinstance(module, _FLAGGED)]
        before = [module.training for module in flagged]
        try:
            for name, module in modules.items():
                drop = self._attend_all if isinstance(module, nn.MultiheadAttention) else self._drop_module
                vars(module)["forward"] = functools.partial(drop, name, module)
            for module in flagged:
                module.training = True
            with self:
                yield
        finally:
            for module in modules.values():
                vars(module).pop("forward", None)
            for module, training in zip(flagged, before, strict=True):
                module.training = training

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Call a function; attention that drops its weights does so by masks."""
        if func is functional.scaled_dot_product_attention:
            return self._attend(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))

    def _drop(self, place: str, values: Tensor, p: float, channels: bool = False) -> Tensor:
        """Values of any shape with a share p of them 0, the others 1 / (1 - p) as large."""
        assert self._index is not None
        shape = tuple(values.shape)
        if channels:
            shape = (*shape[:2], *(1 for _ in shape[2:]))
        keep = self.masks.keep(place, self._calls[place], shape, p, values.device)
        self._calls[place] += 1
        self.largest = max(self.largest, values.numel())
        own = keep.index_select(0, self._index[None])[0]
        return values * (own.to(values.dtype) * (0.0 if p == 1 else 1 / (1 - p)))

    def _drop_module(self, name: str, module: nn.Dropout, values: Tensor) -> Tensor:
        return self._drop(name, values, module.p, isinstance(module, _FEATURES))

    def _attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
        place: str = "attention",
    ) -> Tensor:
        """`scaled_dot_product_attention`, written out: fused kernels draw masks of their own and know no vmap."""
        if is_causal or enable_gqa:
            raise NotImplementedError("Monte-Carlo dropout of causal or grouped attention")
        factor = query.shape[-1] ** -0.5 if scale is None else scale
        scores = (query * factor) @ key.transpose(-2, -1)  # (..., queries, keys)
        if attn_mask is not None and attn_mask.dtype == torch.bool:
            scores = scores.masked_fill(~attn_mask, -torch.inf)
        elif attn_mask is not None:
            scores = scores + attn_mask
        weights = scores.softmax(-1)
        return (self._drop(place, weights, dropout_p) if dropout_p else weights) @ value

    def _attend_all(
        self,
        name: str,
        module: nn.MultiheadAttention,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        attn_mask: Tensor | None = None,
        **_: Any,
    ) -> tuple[Tensor, None]:
        """`nn.MultiheadAttention` (see :func:`_plain`); returns no weights."""
        if not _plain(module):
            raise NotImplementedError(f"Monte-Carlo dropout of {name}: nn.MultiheadAttention of this kind")
        weight, bias = module.in_proj_weight, module.in_proj_bias
        parts = (None,) * 3 if bias is None else bias.chunk(3)
        # (b, heads, tokens, D / heads) each
        queries, keys, values = (
            functional.linear(given, matrix, part).reshape(*given.shape[:2], module.num_heads, -1).transpose(1, 2)
            for given, matrix, part in zip((query, key, value), weight.chunk(3), parts, strict=True)
        )
        mask = attn_mask
        if key_padding_mask is not None:
            absent = key_padding_mask[:, None, None]  # (b, 1, 1, keys)
            mask = torch.zeros_like(absent, dtype=query.dtype).masked_fill(absent, -torch.inf) if (
                absent.dtype == torch.bool) else absent  # fmt: skip
            mask = mask if attn_mask is None else mask + attn_mask
        mixed = self._attend(queries, keys, values, mask, module.dropout, place=name)
        return module.out_proj(mixed.transpose(1, 2).flatten(2)), None
