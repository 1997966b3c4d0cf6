"""A folder as Hugging Face's hub has it: weights, configuration, label set, preprocessing, card."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from longview.exported.metadata import Metadata
from longview.exported.weights import WEIGHTS, write_weights
from longview.models.network import Network


def write_folder(network: Network, metadata: Metadata, folder: Path) -> None:
    """Write all but the card and `metadata.json`.

    Args:
        network: The network.
        metadata: With the task that it is made from.
        folder: An empty one.
    """
    write_weights(network, metadata, folder / WEIGHTS)
    _write(folder / "config.json", _config(network, metadata))
    _write(folder / "preprocessor_config.json", _preprocessing(network, metadata))
    labels = yaml.safe_dump(json.loads(json.dumps(metadata.label_set)), sort_keys=False, allow_unicode=True)
    (folder / "labels.yaml").write_text(labels, encoding="utf-8")


def _config(network: Network, metadata: Metadata) -> dict[str, Any]:
    return {
        "model_type": "longview",
        "architectures": [type(network).__name__],
        "problem_type": "multi_label_classification",
        "num_labels": len(metadata.labels),
        "id2label": {str(place): name for place, name in enumerate(metadata.labels)},
        "label2id": {name: place for place, name in enumerate(metadata.labels)},
        "image_size": metadata.image_size,
        "num_channels": 1,
        "torch_dtype": "float32",
        "longview_version": metadata.longview,
        "task": json.loads(metadata.texts()["task"]),
    }


def _preprocessing(network: Network, metadata: Metadata) -> dict[str, Any]:
    """Keys as transformers' image processors have them, and longview's own for what those do not know."""
    encoder: Any = getattr(network, "encoder", None)
    side = {"height": metadata.image_size, "width": metadata.image_size}
    values = {} if encoder is None else {"image_mean": [float(encoder.mean)], "image_std": [float(encoder.std)]}
    return {
        "do_resize": True,
        "size": side,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        **values,
        "channels": 1,
        "stored_size": metadata.preprocessing["size"],
        "stored_resize": metadata.preprocessing["resize"],
        "views": metadata.views,
    }


def _write(file: Path, content: dict[str, Any]) -> None:
    file.write_text(json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")
