"""Reading checkpoints: plain data and tensors, nothing in them is executed."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from longview import InputError
from longview.labels import LabelSet

CHECKPOINT_KEY = "longview"
"""Where a checkpoint keeps what Lightning does not: version, labels, preprocessing and the run's configuration."""

_NETWORK = "network."
"""What the names of the network's tensors begin with in a task's state."""


def described(checkpoint: dict[str, Any], path: str | Path = "the checkpoint") -> dict[str, Any]:
    """What longview wrote into a checkpoint.

    Raises:
        InputError: Where it was not made by longview.
    """
    part = checkpoint.get(CHECKPOINT_KEY)
    if not isinstance(part, dict):
        raise InputError(f"{path} was not written by longview: it lacks the key {CHECKPOINT_KEY!r}")
    return part


def labels_of(checkpoint: dict[str, Any]) -> LabelSet:
    """The label set that a checkpoint was trained on."""
    return LabelSet.from_dict(described(checkpoint)["labels"])


def network_state(checkpoint: dict[str, Any]) -> dict[str, Tensor]:
    """The network's tensors, by the names that they have within it; counts and buffers of the loss stay out."""
    state: dict[str, Tensor] = checkpoint["state_dict"]
    return {name.removeprefix(_NETWORK): value for name, value in state.items() if name.startswith(_NETWORK)}


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint's tensors and plain data onto the CPU (`weights_only`, nothing is executed).

    The tensors are mapped: one that is not used is not read.

    Raises:
        InputError: Where the file is missing, is no checkpoint, or is one of another program.
    """
    file = Path(path)
    if not file.is_file():
        raise InputError(f"checkpoint {file} does not exist")
    if not zipfile.is_zipfile(file):  # what torch.save writes; a cut file lacks the index at its end
        raise InputError(f"{file} is not a checkpoint, or is damaged: give a .ckpt file of a longview run")
    try:
        checkpoint = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except (pickle.UnpicklingError, RuntimeError) as error:
        raise InputError(f"{file} is not a checkpoint, or is damaged: {str(error).splitlines()[0]}") from error
    if not isinstance(checkpoint, dict) or "state_dict" not in checkpoint:
        raise InputError(f"{file} is not a checkpoint of a longview run: it lacks `state_dict`")
    described(checkpoint, file)
    _with_present_names(checkpoint)
    return checkpoint


def _with_present_names(checkpoint: dict[str, Any]) -> None:
    """Give options of the task that were renamed since a checkpoint was written their names of today."""
    config = checkpoint[CHECKPOINT_KEY].get("config") or {}
    hparams = checkpoint.get("hyper_parameters") or {}
    for options in (config.get("model", {}).get("init_args", {}), hparams, hparams.get("init_args", {})):
        if options.pop("flip_tta", False):
            options["tta"] = {"flip": True}


def check_stage(path: str | Path) -> None:
    """Find out whether the checkpoint that `model.pretrained` names is there.

    Raises:
        InputError: Where it is not; the message says how to make it.
    """
    file = Path(path)
    if file.is_file():
        return
    if file.is_dir():
        raise InputError(f"model.pretrained: {file} is a folder; give the file, such as checkpoints/best.ckpt in it")
    raise InputError(
        f"model.pretrained: checkpoint {file} does not exist; run stage 1 first: "
        f"uv run main.py fit --config {_config_of(file)}"
    )


def read_stage(path: str | Path) -> dict[str, Any]:
    """Read the checkpoint that another stage begins with.

    Raises:
        InputError: Where it is missing (the message says how to make it) or is no checkpoint of longview.
    """
    check_stage(path)
    try:
        return read_checkpoint(path)
    except InputError as error:
        raise InputError(f"model.pretrained: {error}; give stage 1's checkpoints/best.ckpt") from error


def _config_of(file: Path) -> str:
    """The configuration of the run that a missing checkpoint is of, as far as runs/NAME/version_K/checkpoints tells."""
    run = file.parent.parent
    if not run.name.startswith("version_"):
        return "FILE"
    name = run.parent.name
    places = [Path(f"configs/experiment/{name}.yaml"), Path(f"configs/{name}.yaml")]
    return next((str(place) for place in places if place.is_file()), f"FILE (the one with `name: {name}`)")
