"""The card that travels with an exported model: that of its evaluation, or a short one of what is known without."""

from __future__ import annotations

import json
from pathlib import Path

import yaml

from longview import InputError
from longview.exported.metadata import Metadata
from longview.reporting.card import model_card

METRICS = "metrics.json"

_SHORT = """\
# {name}

Multi-label classification of chest X-rays, {count} labels, trained with longview {version}.

**Not a medical device.** For research only: nothing here may be used to diagnose or treat anyone. Nothing is said here
of how good it is: `main.py evaluate --checkpoint` measures that, and `main.py export --evaluation` puts it here.

## Model details

* **network**: {network}, {parameters:,} parameters
* **input**: one grey channel, {size} x {size} px, uint8, from films stored at {stored} px ({resize})
* **output**: one probability per label (sigmoid)
* **SHA-256 of the checkpoint**: `{sha256}`

**Labels**, in the order of the output: {labels}.
"""

_USE = {
    "onnx": """\
```python
import numpy, onnxruntime
session = onnxruntime.InferenceSession("{file}")
logits, probabilities = session.run(None, {{
    "images": images,                            # (N, 1, {size}, {size}) uint8, grey
    "study": numpy.array([0, 0]),                # (N,) int64: the row that an image belongs to
    "view": numpy.array([0, 2]),                 # (N,) int64: {views}
}})                                              # (B, {count}) each
```

or `uv run main.py classify --model {file} --input FILM`, which reads and resizes films as training did.
""",
    "pt2": """\
```python
import torch
program = torch.export.load("{file}").module()
logits, probabilities = program(images, study, view)  # (N, 1, {size}, {size}) uint8, (N,) int64, (N,) int64: {views}
```
""",
    "safetensors": "`uv run main.py classify --model {file} --input FILM`, or "
    '`longview.inference.open_model("{file}")`.\n',
    "encoder": """\
```python
import timm
encoder = timm.create_model("{timm}", pretrained=True, pretrained_cfg_overlay={{"file": "{file}", "num_classes": 0}},
                            {options})
```

or in longview `--model.network.encoder.pretrained={file}`. Images are grey, one channel: see the metadata for their
mean and standard deviation.
""",
}


def card(metadata: Metadata, kind: str, file: str, evaluation: Path | None = None, **words: str) -> str:
    """The text of the card.

    Args:
        metadata: Of the model.
        kind: What it is exported to; one of those of `main.py export`.
        file: Name of what was written.
        evaluation: Folder of `main.py evaluate --checkpoint` of this model; None: a short card.
        words: What the instructions name besides.

    Raises:
        InputError: Where the evaluation is of another model, or of none.
    """
    text = _short(metadata) if evaluation is None else _evaluated(metadata, evaluation)
    use = _USE.get(kind, _USE["safetensors"]).format(
        file=file,
        size=metadata.image_size,
        count=len(metadata.labels),
        views=", ".join(f"{place} {name}" for place, name in enumerate(metadata.views)),
        **words,
    )
    return f"{text}\n## How to use this file\n\n{use}"


def _short(metadata: Metadata) -> str:
    front = {
        "library_name": "longview",
        "pipeline_tag": "image-classification",
        "license": "other",
        "license_name": "to-be-chosen-by-the-owner-of-the-weights",
        "tags": ["chest-x-ray", "radiology", "multi-label", "long-tailed", "pytorch-lightning"],
    }
    text = _SHORT.format(
        name=metadata.name,
        count=len(metadata.labels),
        version=metadata.longview,
        network=metadata.network,
        parameters=metadata.parameters,
        size=metadata.image_size,
        stored=metadata.preprocessing["size"],
        resize=metadata.preprocessing["resize"],
        sha256=metadata.checkpoint_sha256,
        labels=", ".join(metadata.labels),
    )
    return f"---\n{yaml.safe_dump(front, sort_keys=False)}---\n\n{text}"


def _evaluated(metadata: Metadata, folder: Path) -> str:
    file = folder / METRICS
    if not file.is_file():
        raise InputError(f"--evaluation {folder} holds no {METRICS}: give the --output of main.py evaluate")
    try:
        report = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{file} cannot be read: {error}") from error
    model = report.get("model") if isinstance(report, dict) else None
    if not model:
        raise InputError(f"{file} says nothing of a model: evaluate with --checkpoint, then export again")
    if model["sha256"] != metadata.checkpoint_sha256:
        raise InputError(
            f"{file} is of another model (checkpoint {model['sha256'][:12]}…) than the one to be exported "
            f"({metadata.checkpoint_sha256[:12]}…); evaluate that one"
        )
    return model_card(report)
