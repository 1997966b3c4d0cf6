"""The words of a command line, before any parser reads them: what a checkpoint adds to them."""

from __future__ import annotations

import json

import yaml

from longview import InputError
from longview.checkpoints import described, read_checkpoint
from longview.labels import LabelSet


def option(arguments: list[str], name: str) -> str | None:
    """Value of `--name value` or `--name=value`, the last one given; None where it is absent."""
    found = None
    for index, word in enumerate(arguments):
        if word == name and index + 1 < len(arguments):
            found = arguments[index + 1]
        elif word.startswith(f"{name}="):
            found = word.split("=", 1)[1]
    return found


def with_whole_labels(arguments: list[str]) -> list[str]:
    """Put a label set that is named on the command line there whole, with every field of every label.

    A parser merges a dataclass into the one that a configuration gave before, list by list and place by place: prompts
    and aliases of the old labels would stay with the new names.

    Raises:
        InputError: Where there is no such label set.
    """
    words = list(arguments)
    for index, word in enumerate(words):
        name, equals, value = word.partition("=")
        if name not in {"--data.labels", "--data.init_args.labels"}:
            continue
        place = index if equals else index + 1
        if not equals and place == len(words):
            continue
        value = value if equals else words[place]
        if value.lstrip().startswith("{"):
            continue
        whole = json.dumps(LabelSet.load(value).to_dict())
        words[place] = f"{name}={whole}" if equals else whole
    return words


def with_checkpoint(arguments: list[str]) -> list[str]:
    """Put the configuration that a checkpoint carries before the user's own options.

    `validate`, `test` and `predict` take model and data from it; `fit` without a `--config` takes the whole run.

    Raises:
        InputError: Where the checkpoint is missing or is none, or where `predict`, `test` or `validate` has none.
    """
    verb, path = arguments[0], option(arguments, "--ckpt_path")
    has_config = any(word in {"-c", "--config"} or word.startswith("--config=") for word in arguments)
    if any(word in {"-h", "--help"} or word.partition("=")[0].endswith(".help") for word in arguments):
        return arguments
    if path in {"last", "best", "hpc", "registry"}:
        raise InputError(f"--ckpt_path {path}: give the file, runs/NAME/version_K/checkpoints/{path}.ckpt")
    if path is None:
        if verb != "fit":
            raise InputError(f"{verb} needs --ckpt_path CHECKPOINT: the weights, which carry their own configuration")
        if not has_config:
            raise InputError("fit needs --config FILE (or --ckpt_path CHECKPOINT to go on with a run)")
        return arguments
    checkpoint = read_checkpoint(path)
    if verb == "fit" and "optimizer_states" not in checkpoint:
        raise InputError(
            f"{path} holds weights alone, from which no run goes on; begin one: --config FILE --model.pretrained {path}"
        )
    if verb == "fit" and has_config:
        return arguments
    part = described(checkpoint)
    config = dict(part["config"])
    if not config:
        if has_config:
            return arguments
        raise InputError(f"{path} carries no configuration (made outside the command line); give --config FILE")
    if verb != "fit":
        config = {key: config[key] for key in ("seed_everything", "name", "model", "data") if key in config}
        # what the images went through is fixed by training, whatever the new images come from
        config["data"].setdefault("init_args", {})["preprocessing"] = part["preprocessing"]
        if any(option(arguments, name) for name in ("--data.stores", "--data.init_args.stores")):
            config["data"]["init_args"]["phantom"] = None  # the training's own; nothing is drawn for other data
    return [verb, "--config", yaml.safe_dump(config, sort_keys=False), *arguments[1:]]
