"""The model behind predictions, as its checkpoint describes it, and what is known of the data it was trained on."""

from __future__ import annotations

import inspect
import json
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from longview import InputError
from longview.calibration.file import attributes_of
from longview.outputs import sha256
from longview.predictions import MODEL

logger = logging.getLogger(__name__)

_CHECKPOINT = "checkpoint"  # attribute of predictions: where their checkpoint was
_PHANTOM = "phantom.json"  # in the raw folder of a phantom
_ROLE = re.compile(r":[a-z]+:`~?([^`]+)`")  # reStructuredText, :data:`CODES`
_SHEET = re.compile(r"^\* \*\*(?P<key>[^*]+)\*\*: (?P<text>.*?)(?=^\* \*\*|^\S|\Z)", re.MULTILINE | re.DOTALL)


def made_with(predictions: Path) -> dict[str, str] | None:
    """The checkpoint that a table of predictions says it was made with; None where it does not, as a CSV never does.

    Returns:
        `checkpoint`, its path ("" where only the hash is known), and `sha256` ("" the other way round).
    """
    found = attributes_of(predictions)
    if not found.get(MODEL) and not found.get(_CHECKPOINT):
        return None
    return {"checkpoint": str(found.get(_CHECKPOINT) or ""), "sha256": str(found.get(MODEL) or "")}


def model_of(checkpoint: Path | None, predictions: Path, labels: list[str]) -> dict[str, Any] | None:
    """What is known of the model that predicted (:func:`read_model`); without a checkpoint, says which one to give."""
    if checkpoint is not None:
        return read_model(checkpoint, predictions, labels)
    source = made_with(predictions)
    if source and source["checkpoint"]:
        logger.info("%s was made with %s; give --checkpoint %s for a model card",
                    predictions, source["checkpoint"], source["checkpoint"])  # fmt: skip
    return None


def read_model(checkpoint: Path, predictions: Path, labels: list[str]) -> dict[str, Any]:
    """Describe a checkpoint, as metrics.json has it.

    Args:
        checkpoint: A checkpoint of a run.
        predictions: The table that is evaluated; where it says which model made it, it must be this one.
        labels: Its labels, which the model must have.

    Raises:
        InputError: Where it is no checkpoint, or the predictions are of another.
    """
    from longview.checkpoints import described, labels_of, network_state, read_checkpoint  # imports torch

    content = read_checkpoint(checkpoint)
    digest = sha256(checkpoint)
    source = made_with(predictions)
    if source and source["sha256"] and source["sha256"] != digest:
        made = source["checkpoint"] or "another checkpoint"
        raise InputError(
            f"{predictions} was made with {made} (sha256 {source['sha256'][:12]}…), not with --checkpoint {checkpoint} "
            f"({digest[:12]}…); give that one, or predict again with this one"
        )
    if not source or not source["sha256"]:
        logger.warning(
            "%s does not say which model it is of: see to it yourself that it is %s", predictions, checkpoint
        )
    names = labels_of(content).names
    strange = [name for name in labels if name not in names]
    if strange:
        raise InputError(
            f"{predictions} holds labels that --checkpoint {checkpoint} does not predict: {', '.join(strange)}; it "
            f"predicts {', '.join(names)}"
        )
    about = described(content)
    config = about.get("config") or {}
    run = checkpoint.absolute().parent.parent
    fit = checkpoint.parent.parent / "fit.yaml"  # what `fit` notes beside its checkpoints
    return {
        "name": run.parent.name if run.name.startswith("version_") else checkpoint.stem,
        "checkpoint": str(checkpoint),
        "sha256": digest,
        "longview": about.get("version"),
        "lightning": content.get("pytorch-lightning_version"),
        "epochs": int(content.get("epoch", 0)) + 1,  # epochs are counted from 0
        "steps": int(content.get("global_step", 0)),
        "parameters": sum(value.numel() for value in network_state(content).values()),
        "image_size": about.get("image_size"),
        "preprocessing": about.get("preprocessing"),
        "network": _network(config),
        "labels": names,
        "command": f"uv run main.py fit --config {fit if fit.is_file() else fit.name}",
        "data": [_data_set(path) for path in _stores(config)],
        "config": _without_prompts(config),
    }


def _options(config: Mapping[str, Any], part: str) -> Mapping[str, Any]:
    found = config.get(part) or {}
    options: Mapping[str, Any] = found.get("init_args") or {}
    return options


def _network(config: Mapping[str, Any]) -> str:
    """Encoder, decoder and fusion in a few words."""
    network = _options(config, "model").get("network") or {}
    words = []
    for part in ("encoder", "fusion", "decoder"):
        chosen = (network.get("init_args") or {}).get(part)
        if isinstance(chosen, Mapping):
            name = (chosen.get("init_args") or {}).get("name") if part == "encoder" else None
            words.append(str(name or str(chosen.get("class_path", "")).rpartition(".")[2]))
    return ", ".join(words) or "not told"


def _stores(config: Mapping[str, Any]) -> list[str]:
    found = _options(config, "data").get("stores") or []
    return [found] if isinstance(found, str) else [str(store) for store in found]  # a mapping has weights beside them


def _without_prompts(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration with labels by name alone: their prompts and aliases are long, and in the checkpoint."""
    result = dict(config)
    labels = _options(config, "data").get("labels")
    if isinstance(labels, Mapping) and isinstance(labels.get("labels"), list):
        names = [label["name"] if isinstance(label, Mapping) else label for label in labels["labels"]]
        options = {**_options(config, "data"), "labels": {**labels, "labels": names}}
        result["data"] = {**config["data"], "init_args": options}
    return result


def _data_set(path: str) -> dict[str, Any]:
    """What a store on this machine holds; only its path where it is not there."""
    import pandas as pd

    from longview.data.store import MANIFEST_FILE, Store, StoreInfo  # imports OpenCV

    folder = Path(path)
    if not Store.is_store(folder):
        return {"path": path, "sources": [], "phantom": False, "splits": {}}
    info = StoreInfo.read(folder)
    table = pd.read_parquet(folder / MANIFEST_FILE, columns=["source", "patient_id", "study_id", "split"])
    splits = {
        str(split): {
            "images": len(rows),
            "studies": len(rows[["source", "study_id"]].drop_duplicates()),
            "patients": len(rows[["source", "patient_id"]].drop_duplicates()),
        }
        for split, rows in table.groupby("split", sort=False)
    }
    return {
        "path": path,
        "sources": sorted(table["source"].unique()),
        "phantom": is_phantom(folder),
        "size": info.size,
        "resize": info.resize,
        "content_hash": info.content_hash,
        "longview": info.longview_version,
        "splits": {split: splits[split] for split in ("train", "val", "test", "none") if split in splits},
    }


def is_phantom(store: Path) -> bool:
    """Whether a store's films are drawn, in the layout of the data set that its rows name: its raw folder says so."""
    root = json.loads((store / "store.json").read_text(encoding="utf-8")).get("root")
    return root is not None and (Path(root) / _PHANTOM).is_file()


def data_sheet(source: str) -> dict[str, str]:
    """What the parser of a data set says of it: `about`, `Licence`, `Labels`, `Cite` and more; empty if it has none."""
    from longview.data.sources import SOURCES, source_class

    if source not in SOURCES:
        return {}
    text = inspect.getdoc(source_class(source)) or ""
    sheet = {match["key"]: _plain(match["text"]) for match in _SHEET.finditer(text)}
    return {"about": _plain(text.partition("\n\n")[0])} | sheet


def _plain(text: str) -> str:
    words = _ROLE.sub(r"`\1`", text.partition("\n\n")[0].replace("``", "`"))
    return re.sub(r"\s+", " ", words).strip()
