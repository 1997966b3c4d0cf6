"""Weights as .safetensors: of the encoder for timm, or of the whole network with what it is made from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from longview import InputError
from longview.checkpoints import read_checkpoint
from longview.exported.metadata import Metadata
from longview.models.network import Network

if TYPE_CHECKING:
    from longview.tasks import ClassificationTask

WEIGHTS = "model.safetensors"
"""The weights in a hub's folder."""
ENCODER_SUFFIXES = (".safetensors", ".pth")


def write_encoder(network: Network, file: Path) -> dict[str, Any]:
    """Write the weights of the encoder alone, under timm's names.

    Returns:
        What `timm.create_model` must be called with, beside the file, and the normalisation, for `metadata.json`.

    Raises:
        InputError: For a network without a timm encoder.
    """
    from longview.models.encoder import Encoder

    encoder = getattr(network, "encoder", None)
    if not isinstance(encoder, Encoder):
        raise InputError(f"a {type(network).__name__} has no encoder of timm's that could be exported")
    state = _own(encoder.model.state_dict())
    if file.suffix == ".pth":
        torch.save(state, file)
    else:
        save_file(state, file, {"format": "pt"})
    size = {"img_size": encoder.image_size} if encoder.fixed_size else {}
    return {
        "timm_model": encoder.name,
        "timm_options": {"in_chans": 1, "num_classes": 0, "global_pool": "", **size},
        "input": f"(N, 1, {encoder.image_size}, {encoder.image_size}), grey in 0..1, then (x - mean) / std",
        "mean": float(encoder.mean),
        "std": float(encoder.std),
        "channels": encoder.channels,
    }


def with_task(metadata: Metadata, checkpoint: Path) -> Metadata:
    """Metadata that carry what the network is made from.

    Raises:
        InputError: Where the checkpoint holds values that no text file can.
    """
    options = {key: value for key, value in read_checkpoint(checkpoint)["hyper_parameters"].items() if key[0] != "_"}
    result = replace(metadata, task=options)
    try:
        result.texts()
    except (TypeError, ValueError) as error:
        raise InputError(f"the configuration in {checkpoint} cannot be written as JSON: {error}") from error
    return result


def write_weights(network: Network, metadata: Metadata, file: Path) -> None:
    """Write the network's weights, with the metadata in the file's head."""
    save_file(_own(network.state_dict()), file, metadata.texts() | {"format": "pt"})


def read_weights(path: Path) -> tuple[ClassificationTask, Metadata]:
    """Make the task anew from a .safetensors file, or from a hub's folder; nothing in it is executed.

    Raises:
        InputError: Where it is missing, damaged or was not written by `main.py export`.
    """
    from lightning.pytorch.cli import instantiate_module

    from longview.tasks import ClassificationTask

    file = path / WEIGHTS if path.is_dir() else path
    if not file.is_file():
        raise InputError(f"model {file} does not exist; write one with: main.py export --to safetensors")
    try:
        with safe_open(file, "pt") as content:
            texts: Mapping[str, str] = content.metadata() or {}
            state = {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118 - no mapping
    except SafetensorError as error:
        raise InputError(f"{file} is no .safetensors file, or is damaged: {error}") from error
    metadata = Metadata.from_texts(texts, file)
    if metadata.task is None:
        raise InputError(f"{file} does not say what its network is made from; export it again with --to safetensors")
    task: ClassificationTask = instantiate_module(ClassificationTask, json.loads(json.dumps(metadata.task)))
    task.build(weights=False)
    try:
        task.network.load_state_dict(state)
    except RuntimeError as error:
        raise InputError(f"{file} does not fit its own configuration: {str(error).splitlines()[0]}") from error
    return task.eval(), metadata


def _own(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors with memory of their own, row by row, as a file of them must have it."""
    return {name: value.detach().cpu().contiguous().clone() for name, value in state.items()}
