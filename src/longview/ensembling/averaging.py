"""The mean of the weights of several checkpoints, as a checkpoint of its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from longview import InputError
from longview.checkpoints import CHECKPOINT_KEY, described, labels_of, network_state, read_checkpoint
from longview.joining import some
from longview.outputs import sha256

Checkpoint = dict[str, Any]

_NETWORK = "network."
_KEPT = ("epoch", "global_step", "pytorch-lightning_version", "hparams_name", "hyper_parameters", CHECKPOINT_KEY)
"""Keys of a checkpoint that a mean has too: none of optimizers, schedules and callbacks, of which there is no mean."""

_TRAINING_ONLY = {"pretrained", "drop_path", "checkpoint_gradients", "dropout"}
"""Options of a network that change nothing once it is trained."""

_RUNNING = ("running_mean", "running_var", "num_batches_tracked")


def read_ingredients(files: Sequence[Path]) -> list[Checkpoint]:
    """Read checkpoints whose weights have a mean.

    Raises:
        InputError: Where a file stands twice or is no checkpoint, or where labels, preprocessing or architecture
            differ; names the files and what differs.
    """
    if len(files) < 2:
        raise InputError("soup needs two checkpoints or more: --checkpoints A.ckpt B.ckpt")
    checkpoints = [read_checkpoint(file) for file in files]
    hashes = [sha256(file) for file in files]
    for place, digest in enumerate(hashes):
        if digest in hashes[:place]:
            raise InputError(f"{files[place]} is the same checkpoint as {files[hashes.index(digest)]}; name it once")
    for file, checkpoint in zip(files[1:], checkpoints[1:], strict=True):
        _check_alike(checkpoints[0], checkpoint, files[0], file)
    return checkpoints


def _check_alike(first: Checkpoint, other: Checkpoint, origin: Path, file: Path) -> None:
    names = [labels_of(checkpoint).names for checkpoint in (first, other)]
    if names[0] != names[1]:
        only = [f"{path} alone has {', '.join(absent)}" for path, absent in (
            (origin, [name for name in names[0] if name not in names[1]]),
            (file, [name for name in names[1] if name not in names[0]]),
        ) if absent]  # fmt: skip
        raise InputError(f"{origin} and {file} were trained on other labels, or in another order; {'; '.join(only)}")
    about = [described(checkpoint) for checkpoint in (first, other)]
    for key in ("image_size", "preprocessing"):
        if about[0][key] != about[1][key]:
            raise InputError(f"{origin} has {key} {about[0][key]}, {file} {about[1][key]}: their weights have no mean")
    networks = [dict(_flat(_network_of(part["config"]))) for part in about]
    differing = sorted(
        key for key in networks[0].keys() | networks[1].keys() if networks[0].get(key) != networks[1].get(key)
    )
    if differing:
        told = [f"{key} is {networks[0].get(key)} and {networks[1].get(key)}" for key in differing[:3]]
        raise InputError(f"{origin} and {file} are of other architectures: {'; '.join(told)}")
    states = [network_state(checkpoint) for checkpoint in (first, other)]
    shapes = [{name: tuple(value.shape) for name, value in state.items()} for state in states]
    if shapes[0] != shapes[1]:
        strange = sorted(
            name for name in shapes[0].keys() | shapes[1].keys() if shapes[0].get(name) != shapes[1].get(name)
        )
        raise InputError(f"{origin} and {file} are of other architectures: {some(strange)} differ")


def _network_of(config: Mapping[str, Any]) -> Any:
    return config.get("model", {}).get("init_args", {}).get("network", {})


def _flat(config: Any, prefix: str = "network") -> Iterator[tuple[str, Any]]:
    """Dotted key and value of what decides what a network computes."""
    if not isinstance(config, Mapping):
        yield prefix, config
        return
    for key, value in config.items():
        if key not in _TRAINING_ONLY:
            yield from _flat(value, prefix if key == "init_args" else f"{prefix}.{key}")


def starts_alike(checkpoints: Sequence[Checkpoint]) -> bool:
    """Whether the runs, as far as their configurations say, began with the same weights.

    Weights of runs that began with different random ones lie in different valleys, and a mean of theirs is worth
    nothing (Wortsman et al., arXiv:2203.05482); one seed, one stage-1 checkpoint or pretrained weights are well.
    """
    starts = []
    for checkpoint in checkpoints:
        config = described(checkpoint)["config"]
        model = config.get("model", {}).get("init_args", {})
        known = [value for key, value in _leaves(model.get("network", {})) if key == "pretrained" and value]
        starts.append(
            (
                model.get("pretrained"),
                str(known),
                None if known or model.get("pretrained") else config.get("seed_everything"),
            )
        )
    return len(set(starts)) == 1


def _leaves(config: Any) -> Iterator[tuple[str, Any]]:
    for key, value in config.items() if isinstance(config, Mapping) else []:
        if isinstance(value, Mapping):
            yield from _leaves(value)
        else:
            yield key, value


def average(checkpoints: Sequence[Checkpoint], files: Sequence[Path]) -> Checkpoint:
    """The mean of the networks' weights; all else is the first one's.

    Means are taken in float64. Whole numbers (positions, counts) have no mean: they must agree, but for the number of
    batches that a batch norm has seen, of which the first is kept.

    Raises:
        InputError: Where whole numbers differ; names the tensor.
    """
    first = checkpoints[0]
    state: dict[str, Tensor] = dict(first["state_dict"])
    for name in state:
        if not name.startswith(_NETWORK):
            continue  # counts of training labels, buffers of the loss
        values = [checkpoint["state_dict"][name] for checkpoint in checkpoints]
        same = all(torch.equal(values[0], value) for value in values[1:])
        if same or name.endswith("num_batches_tracked"):
            state[name] = values[0].clone()
        elif values[0].is_floating_point():
            total = torch.zeros_like(values[0], dtype=torch.float64)
            for value in values:
                total += value
            state[name] = (total / len(values)).to(values[0].dtype)
        else:
            raise InputError(f"{some(files)}: {name} holds whole numbers that differ, which have no mean")
    result = {key: first[key] for key in _KEPT if key in first}
    members = [{"checkpoint": str(file), "sha256": sha256(file)} for file in files]
    result[CHECKPOINT_KEY] = {**first[CHECKPOINT_KEY], "soup": members}
    return {**result, "state_dict": state}


def stale_statistics(checkpoints: Sequence[Checkpoint]) -> list[str]:
    """Batch norms whose running statistics differ, and so are wrong for the mean: names of the layers."""
    names = [name for name in checkpoints[0]["state_dict"] if name.endswith(_RUNNING[:2])]
    first = checkpoints[0]["state_dict"]
    differing = [
        name
        for name in names
        if any(not torch.equal(first[name], other["state_dict"][name]) for other in checkpoints[1:])
    ]
    return sorted({name.rpartition(".")[0] for name in differing})


def write_checkpoint(checkpoint: Checkpoint, path: Path) -> None:
    """Write a checkpoint under a temporary name, and move it into place."""
    aside = path.with_name(f".{path.name}.partial")
    try:
        torch.save(checkpoint, aside)
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
