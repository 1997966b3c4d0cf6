"""What travels with an exported model: labels, preprocessing, calibration, and which checkpoint it is of."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from longview import VIEWS, InputError, __version__
from longview.data.transforms import Preprocessing
from longview.labels import LabelSet
from longview.test_time import Averaging

FORMAT = 1
MARK = "longview_format"
"""The key that tells a file of longview; its value is the format's number."""
INPUTS = ("images", "study", "view")
"""Names of a graph's inputs."""
OUTPUTS = ("logits", "probabilities")
"""Names of a graph's outputs."""


@dataclass(frozen=True)
class Metadata:
    """All that scoring needs beside weights.

    In a file each field stands under its own name, as JSON text; `metadata.json` holds all of them as one object.

    Args:
        name: The model's short name.
        labels: L labels that it scores, in the order of its logits.
        label_set: The label set that it was trained on, as plain data.
        image_size: S, side of its square input in px.
        preprocessing: How a film became a stored square before that: `size`, `resize`.
        checkpoint_sha256: Hash of the checkpoint (or published weights) that it was made of.
        averaging: Versions of each image that prediction averages over; they are not part of a graph.
        edges: (parent, child) positions in `labels`: no label is scored above its parent.
        calibration: Content of the calibration that belongs to it; None: none was given.
        quantized: `int8`, where weights and activations were rounded; empty: single precision.
        task: The configuration that the network is made from; only beside weights that are no graph.
        network: Encoder, fusion and decoder in a few words.
        parameters: Numbers in the network that are trained.
        views: What the numbers of the input `view` stand for.
        longview: The version that wrote the file.
    """

    name: str
    labels: list[str]
    label_set: Mapping[str, Any]
    image_size: int
    preprocessing: Mapping[str, Any]
    checkpoint_sha256: str
    averaging: Mapping[str, Any] = field(default_factory=lambda: Averaging().describe())
    edges: list[list[int]] = field(default_factory=list)
    calibration: Mapping[str, Any] | None = None
    quantized: str = ""
    task: Mapping[str, Any] | None = None
    network: str = ""
    parameters: int = 0
    views: list[str] = field(default_factory=lambda: list(VIEWS))
    longview: str = __version__

    def texts(self) -> dict[str, str]:
        """Field -> JSON text, for formats whose metadata are texts by name."""
        return {MARK: str(FORMAT)} | {
            item.name: json.dumps(_plain(getattr(self, item.name)), ensure_ascii=False, allow_nan=False)
            for item in fields(self)
        }

    def text(self) -> str:
        """The content of `metadata.json`."""
        content = {name: json.loads(text) for name, text in self.texts().items()}
        return json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"

    @classmethod
    def from_texts(cls, texts: Mapping[str, str], origin: Path) -> Metadata:
        """Read what :meth:`texts` gave.

        Raises:
            InputError: Where longview did not write it, or in another format.
        """
        if MARK not in texts:
            raise InputError(f"{origin} was not written by `main.py export`: it says nothing of labels and films")
        if texts[MARK] != str(FORMAT):
            raise InputError(f"{origin} has format {texts[MARK]} of longview's exports; this longview reads {FORMAT}")
        known = {item.name for item in fields(cls)}
        try:
            found = cls(**{name: json.loads(text) for name, text in texts.items() if name in known})
        except (TypeError, ValueError) as error:  # TypeError: a field is not there
            raise InputError(f"{origin} is damaged: its metadata cannot be read ({error}); export it again") from error
        LabelSet.from_dict(found.label_set, str(origin))
        return found

    def opened(self) -> dict[str, Any]:
        """Arguments of `OpenModel` that the metadata tell: all but network, hash and device."""
        averaging = {**self.averaging, "scales": tuple(self.averaging["scales"])}
        return {
            "name": self.name,
            "labels": LabelSet.from_dict(self.label_set),
            "names": list(self.labels),
            "image_size": self.image_size,
            "preprocessing": Preprocessing(**self.preprocessing),
            "averaging": Averaging(**averaging),
            "edges": [(parent, child) for parent, child in self.edges],
        }


def summary(network: Any) -> str:
    """A network's parts in a few words: `densenet121, MeanFusion, LinearDecoder`."""
    parts = [getattr(network, part, None) for part in ("encoder", "fusion", "decoder")]
    words = [str(getattr(part, "name", None) or type(part).__name__) for part in parts if part is not None]
    return ", ".join(words) or type(network).__name__


def _plain(value: Any) -> Any:
    """Plain data as JSON has it: lists for tuples, texts for paths."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value
