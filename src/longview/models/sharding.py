"""Fully sharded data parallel: each process keeps a part of every parameter, of its gradient and of its moments."""

from __future__ import annotations

import logging

from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard

from longview.models.network import Network

log = logging.getLogger(__name__)

_FEW = 4
"""Children of an encoder from which a list of them is worth sharding one by one: blocks, not the layers of a stem."""


def shard(network: Network, mesh: DeviceMesh) -> None:
    """Cut a network's parameters into one part per process (FSDP2, Zhao et al. 2023, arXiv 2304.11277).

    Parameters keep their shape and name (as distributed tensors), so weight decay, layer-wise rates and per-label rows
    go on knowing them by these. The blocks of the encoder are gathered one after the other, when they are needed, the
    rest of the network together.

    Args:
        network: After `build`, with its weights.
        mesh: The processes that share it, one dimension.
    """
    repeated = blocks(network)
    for block in repeated:
        fully_shard(block, mesh=mesh)
    fully_shard(network, mesh=mesh)
    if mesh.get_local_rank() == 0:
        log.info("weights sharded over %d processes, %d blocks of the encoder one by one", mesh.size(), len(repeated))


def blocks(network: nn.Module) -> list[nn.Module]:
    """The repeated blocks of a network's encoder: members of its longest lists of modules, none within another."""
    encoder = getattr(network, "encoder", None)
    if encoder is None:
        return []
    found: list[nn.Module] = []
    taken: set[int] = set()
    for module in encoder.modules():  # outer ones come first
        if id(module) in taken or not isinstance(module, (nn.ModuleList, nn.Sequential)):
            continue
        members = [child for child in module if sum(1 for _ in child.parameters()) >= _FEW]
        nested = any(isinstance(part, (nn.ModuleList, nn.Sequential)) for child in members for part in child.modules())
        if len(members) > 1 and not nested:
            found += members
            taken |= {id(part) for child in members for part in child.modules()}
    return found
