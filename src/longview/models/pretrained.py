"""Creating a timm model with its pretrained weights: from the hub, from the hub's cache or from a local file.

A file that does not fit is an error that says what fitted and what did not: timm loads a head of another size
by dropping strictness for the whole model, so here the model is first created with the file's own head
(strict), and the caller takes the head off afterwards.
"""

from __future__ import annotations

import difflib
import logging
import pickle
import re
from pathlib import Path
from typing import Any

import timm
from huggingface_hub import constants, hf_hub_url, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError
from safetensors import SafetensorError
from timm.models import PretrainedCfg, load_state_dict
from torch import Tensor, nn

from longview import InputError
from longview.models import hub

log = logging.getLogger(__name__)

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")
OPTION = "--model.network.encoder.pretrained"
MINIMUM_SHARE = 0.5
"""A family that timm loads without strictness must still take over this share of its matrices from a file."""


def create(name: str, cfg: PretrainedCfg, pretrained: bool | str, **options: Any) -> nn.Module:
    """Create a timm model, head and all, with the weights asked for.

    Args:
        name: timm's model name, with or without the tag of its weights.
        cfg: timm's configuration of these weights.
        pretrained: False: random weights. True: timm's, from the hub or its cache. Text: a local timm
            checkpoint.
        options: Arguments of `timm.create_model`.

    Raises:
        InputError: Where the weights cannot be had, or do not fit the model.
    """
    if pretrained is False:
        return model_of(timm.create_model(name, **options))
    if isinstance(pretrained, str):
        return _from_file(name, cfg, Path(pretrained).expanduser(), options)
    if not cfg.has_weights:
        near = ", ".join(difflib.get_close_matches(name, timm.list_pretrained(), n=5, cutoff=0.5))
        raise InputError(
            f"timm has no weights for {name!r}{f', but for {near}' if near else ''}; choose another model, "
            f"give a file ({OPTION}=/path/to/model.safetensors), or set it to false"
        )
    if cached := _cached(cfg):
        return _from_file(name, cfg, cached, options)
    return _download(name, cfg, options)


def model_of(created: Any) -> nn.Module:
    """Narrow what timm's untyped factory returns."""
    assert isinstance(created, nn.Module)
    return created


# ---- the hub -----------------------------------------------------------------------------------------------


def _hub_files(cfg: PretrainedCfg) -> tuple[str, str | None, list[str]]:
    """Repository, revision and candidate file names on the hub."""
    repository, _, revision = str(cfg.hf_hub_id).partition("@")
    names = [cfg.hf_hub_filename] if cfg.hf_hub_filename else ["model.safetensors", "pytorch_model.bin"]
    return repository, revision or None, names


def _cached(cfg: PretrainedCfg) -> Path | None:
    """The hub's file where an earlier run has left it: no network, no time-out."""
    if not cfg.hf_hub_id or cfg.custom_load:
        return None
    repository, revision, names = _hub_files(cfg)
    for name in names:
        file = try_to_load_from_cache(repository, name, revision=revision)
        if isinstance(file, str):
            return Path(file)
    return None


def _download(name: str, cfg: PretrainedCfg, options: dict[str, Any]) -> nn.Module:
    """Let timm download, once a short probe has shown that there is something to download from."""
    if cfg.hf_hub_id:
        repository, revision, names = _hub_files(cfg)
        url = hf_hub_url(repository, names[0], revision=revision)
    else:
        url = str(cfg.url)
    reason = hub.unreachable(url, offline=bool(cfg.hf_hub_id) and constants.HF_HUB_OFFLINE)
    if reason is None:
        try:
            return model_of(timm.create_model(name, pretrained=True, **options))
        except (OSError, EntryNotFoundError) as error:
            reason = str(error).splitlines()[0]
    raise InputError(
        f"the weights of {name!r} cannot be downloaded: {reason}. Fetch {url} on a machine with a network "
        f"and give the file, {OPTION}=/path/to/{Path(url).name}, or start from random weights, {OPTION}=false"
    )


# ---- a local file ------------------------------------------------------------------------------------------


def read_weights(file: Path) -> dict[str, Tensor]:
    """Read a timm checkpoint: plain weights, or those (averaged, where there are) of a training checkpoint.

    Raises:
        InputError: Where the file is missing, not readable (nothing in it is executed) or holds no weights.
    """
    if not file.is_file():
        raise InputError(f"pretrained weights {file} do not exist; correct {OPTION}, or set it to true or false")
    if file.suffix not in SUFFIXES:
        raise InputError(
            f"pretrained weights {file} must be a timm checkpoint ({', '.join(SUFFIXES)}); "
            f"a checkpoint of longview (.ckpt) is loaded by the task, not by the encoder"
        )
    try:
        state = load_state_dict(str(file))
    except (
        SafetensorError,
        RuntimeError,
        pickle.UnpicklingError,
        EOFError,
        AttributeError,
        ValueError,
    ) as error:
        raise InputError(f"pretrained weights {file} cannot be read: {str(error).partition('. ')[0]}") from error
    if not state or not all(isinstance(value, Tensor) for value in state.values()):
        raise InputError(f"pretrained weights {file} hold no table of weights by name (timm's or torch's state_dict)")
    return dict(state)


def _from_file(name: str, cfg: PretrainedCfg, file: Path, options: dict[str, Any]) -> nn.Module:
    """Create the model with the file's own head; timm folds an RGB stem and resamples position codes."""
    state = read_weights(file)
    failure = ""
    for classes in _class_counts(state, cfg):
        overlay = {"file": str(file), "num_classes": classes}
        try:
            model = model_of(
                timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay, num_classes=classes, **options)
            )
        except (RuntimeError, KeyError) as error:
            # keep the attempt with the head that the file seems to have: its message is the helpful one
            failure = failure or _mismatch(error, len(state))
        else:
            _check_taken(model, state, name, file)
            return model
    raise InputError(f"pretrained weights {file} do not fit {name!r}: {failure}")


def _class_counts(state: dict[str, Tensor], cfg: PretrainedCfg) -> list[int]:
    """Sizes of head to try: the file's; else none, then timm's (weights in the authors' own naming)."""
    heads = (cfg.classifier,) if isinstance(cfg.classifier, str) else tuple(cfg.classifier or ())
    found = [int(state[f"{head}.weight"].shape[0]) for head in heads if f"{head}.weight" in state]
    return found[:1] or [0, cfg.num_classes]


def _mismatch(error: Exception, keys: int) -> str:
    """Shorten torch's list of every key to counts and examples."""
    text = str(error)
    if isinstance(error, KeyError):  # raised where timm converts the layouts that it knows
        return f"timm does not recognise its layout (it lacks {text})"
    missing = re.search(r"Missing key\(s\) in state_dict: (.*)", text)
    unexpected = re.search(r"Unexpected key\(s\) in state_dict: (.*)", text)
    parts = {
        "the model's but not in the file": re.findall(r'"([^"]+)"', missing[1]) if missing else [],
        "in the file but not the model's": re.findall(r'"([^"]+)"', unexpected[1]) if unexpected else [],
        "of another shape": re.findall(r"size mismatch for (\S+):", text),
    }
    if not any(parts.values()):
        return text
    strange = len(parts["in the file but not the model's"]) + len(parts["of another shape"])
    listed = "; ".join(
        f"{len(names)} {what} ({', '.join(names[:4])}{', …' if len(names) > 4 else ''})"
        for what, names in parts.items()
        if names
    )
    return f"{keys - strange} of the file's {keys} tensors fit; {listed}"


def _check_taken(model: nn.Module, state: dict[str, Tensor], name: str, file: Path) -> None:
    """Refuse a load that left the model random: timm loads some weights (FCMAE, DLA) without strictness.

    Matrices are recognised by size and sum, since timm renames and reshapes the layouts of some authors.
    """
    given = {_fingerprint(value) for value in state.values() if value.ndim > 1}
    matrices = [value for value in model.parameters() if value.ndim > 1]
    taken = sum(_fingerprint(value) in given for value in matrices)
    if taken < MINIMUM_SHARE * len(matrices):
        raise InputError(
            f"pretrained weights {file} do not fit {name!r}: only {taken} of the model's {len(matrices)} "
            f"weight matrices were found in the file"
        )
    log.info("%s: %d of %d weight matrices are those of %s, the rest adapted", name, taken, len(matrices), file)


def _fingerprint(value: Tensor) -> tuple[int, float]:
    return value.numel(), float(value.detach().double().sum())
