"""The words of a command line, before any parser reads them: what a checkpoint adds to them."""

from __future__ import annotations

from typing import Any

import yaml
from jsonargparse import set_parsing_settings
from jsonargparse.typing import register_type

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


def label_set(value: Any) -> LabelSet:
    """A label set of a configuration: its name or file (from the folder of the file that names it), or whole.

    Raises:
        InputError: Where it is none.
    """
    if isinstance(value, str):
        return LabelSet.load(value)
    if not isinstance(value, dict):
        raise InputError("give the name or the file of a label set, or {name: TEXT, labels: [{name: TEXT}, ...]} whole")
    return LabelSet.from_dict(value)


# As one value, not as a dataclass whose fields a parser merges, place by place, into those of the set that a
# configuration gave before: prompts and aliases of the old labels would stay with the new names. And a parser copies
# all labels for each of them, which took most of the time before a training.
register_type(LabelSet, LabelSet.to_dict, label_set)
set_parsing_settings(subclasses_enabled=[LabelSet])  # not as a dataclass, even where its type is registered


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
