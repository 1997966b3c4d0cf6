"""The folder that `explain` fills for each image, and that `localize` and people read.

    OUTPUT/IMAGE_ID/
        input.png                              the film, 8-bit grey, in its own size
        {model}_{label}_{method}_P0.png        the film under the heat-map, with heading and colour bar
        {model}_{label}_{method}_P1.png        the heat-map alone, in the film's size
        {model}_{label}_{method}_P1.npy        the heat-map itself: float32 (height, width), in [0, 1], no NaN
        {model}_{label}_{method}_P3.png        0 and 255: where the heat-map is at or above the threshold
        {model}_{label}_{method}_SD.npy        standard deviation of the samples' heat-maps, on the scale of P1: float32
        {model}_{label}_{method}_SD.png        (height, width), at least 0; and its picture, in the colours of P1
        comparison.png                         labels below each other, methods and models side by side
        metadata.json                          what each of them is

Several runs into one folder add to it: a map is known by model, label and method, and the last one counts.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from longview import InputError
from longview.explain import overlay
from longview.outputs import staged

logger = logging.getLogger(__name__)

METADATA = "metadata.json"
_MOST = 8  # rows and columns of a comparison

FloatArray = npt.NDArray[np.float32]
Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Request:
    """What was asked for: equal requests on equal images are not answered twice.

    Args:
        model: Name of the model.
        sha256: Hash of its weights.
        method: How the maps are made.
        labels: Labels, as they were asked for: names, `top-3`, `all`.
        study: Image ids of the study's views; empty for an image alone.
        uncertainty: How the probabilities' spread is found (`method`, `samples`, `seed`); None: it is not.
    """

    model: str
    sha256: str
    method: str
    labels: list[str]
    study: list[str] = field(default_factory=list)
    uncertainty: dict[str, Any] | None = None


@dataclass(frozen=True)
class MapEntry:
    """A map as `metadata.json` lists it.

    Args:
        model: Name of the model.
        label: The label.
        method: How it was made.
        layer: Where in the network.
        probability: Of the label, in [0, 1]; of the study, where views were explained together.
        sha256: Hash of the model's weights.
        view_share: Share of this view in the study's evidence for the label; None for an image alone.
        study: Image ids of the study's views; empty for an image alone.
        empty: Whether the map is 0 everywhere.
        uncertainty: Of the probability, as :class:`longview.uncertainty.summary.Uncertainty` measures its samples:
            `mean`, `variance`, `standard_deviation`, `predictive_entropy`, `mutual_information`; None: not asked for.
        files: Names of the files `overlay`, `heatmap`, `map` and `mask` in the folder, and of `deviation` and
            `deviation_picture`, where samples have maps of their own.
    """

    model: str
    label: str
    method: str
    layer: str
    probability: float
    sha256: str
    view_share: float | None = None
    study: list[str] = field(default_factory=list)
    empty: bool = False
    uncertainty: dict[str, float] | None = None
    files: dict[str, str] = field(default_factory=dict)

    @property
    def key(self) -> tuple[str, str, str]:
        """What a map is known by."""
        return self.model, self.label, self.method


def slug(text: str) -> str:
    """A text as a part of a file's name: spaces become `_`, what is not a letter, digit, `_` or `-` goes."""
    return re.sub(r"[^A-Za-z0-9_-]", "", text.replace(" ", "_"))


def folder_name(image_id: str) -> str:
    """An image id as the name of a folder: what separates paths becomes `_`."""
    name = re.sub(r"[/\\:\0]+", "_", image_id).strip(". ")
    return name or "image"


class ImageResults:
    """Results of one image, as they stand on disk and with what is added to them.

    Args:
        folder: OUTPUT/IMAGE_ID.

    Raises:
        InputError: Where its `metadata.json` is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.image: dict[str, Any] = {}
        self.threshold = 0.5
        self.maps: dict[tuple[str, str, str], MapEntry] = {}
        self.requests: list[Request] = []
        file = folder / METADATA
        if not file.is_file():
            return
        try:
            data = json.loads(file.read_text(encoding="utf-8"))
            self.image, self.threshold = dict(data["image"]), float(data["threshold"])
            entries = [MapEntry(**entry) for entry in data["maps"]]
            self.requests = [Request(**request) for request in data["requests"]]
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{file} is damaged ({error}); remove {folder}, or choose another --output") from error
        self.maps = {entry.key: entry for entry in entries}

    def holds(self, image: dict[str, Any], requests: Sequence[Request], threshold: float) -> bool:
        """Whether all of this is there already, made of the same image with the same settings."""
        return (
            self.image == image | {side: self.image.get(side) for side in ("height", "width")}
            and self.threshold == threshold
            and all(request in self.requests for request in requests)
            and all((self.folder / name).is_file() for entry in self.maps.values() for name in entry.files.values())
        )

    @contextmanager
    def changing(
        self, image: dict[str, Any], film: Pixels, requests: Sequence[Request], threshold: float
    ) -> Iterator[_Writer]:
        """Add maps; on success all of it is written, after an error the folder is as it was.

        What other weights of the same name made, or the same models of another image, goes.
        """
        weights = {request.model: request.sha256 for request in requests}
        same = self.image == image

        def stays(made: MapEntry | Request) -> bool:
            return same and weights.get(made.model, made.sha256) == made.sha256

        listed = {name for entry in self.maps.values() for name in entry.files.values()}
        kept = {key: entry for key, entry in self.maps.items() if stays(entry)}
        settings = {(request.model, request.method): (request.study, request.uncertainty) for request in requests}
        earlier = [
            request
            for request in self.requests
            # maps of a film alone and within a study take each other's place, with and without uncertainty too
            if stays(request)
            and request not in requests
            and settings.get((request.model, request.method), own := (request.study, request.uncertainty)) == own
        ]
        with staged(self.folder) as aside:
            writer = _Writer(aside, film, threshold, kept)
            yield writer
            for key, entry in kept.items():
                if key not in writer.maps:
                    self._keep(writer, entry, again=self.threshold != threshold)
            writer.finish(image, [*earlier, *requests], [*kept, *writer.maps])
        now = {name for entry in writer.maps.values() for name in entry.files.values()}
        for name in listed - now:
            (self.folder / name).unlink(missing_ok=True)

    def _keep(self, writer: _Writer, entry: MapEntry, *, again: bool) -> None:
        """Take over a map of an earlier run; its pictures are drawn anew where the threshold is another one."""
        try:
            values = np.load(self.folder / entry.files["map"])
            deviation = np.load(self.folder / entry.files["deviation"]) if "deviation" in entry.files else None
        except (OSError, ValueError, KeyError):
            return  # removed by hand, and so no longer listed
        writer.add(entry, values, deviation) if again else writer.take(entry, values)


class _Writer:
    """Writes into the folder that is being made."""

    def __init__(
        self, folder: Path, film: Pixels, threshold: float, kept: dict[tuple[str, str, str], MapEntry]
    ) -> None:
        self.folder, self.film, self.threshold = folder, film, threshold
        self._kept = kept
        self.maps: dict[tuple[str, str, str], MapEntry] = {}
        self._small = np.asarray(overlay.fit(film, overlay.TILE, overlay.TILE), np.uint8)
        self._tiles: dict[tuple[str, str, str], Pixels] = {}

    def add(self, entry: MapEntry, values: FloatArray, deviation: FloatArray | None = None) -> None:
        """Write a map (height, width), the deviation of its samples (height, width), and their pictures."""
        stem = "_".join(slug(part) or "x" for part in (entry.model, entry.label))
        stem += "_" + entry.method
        taken = {
            name for key, other in (self._kept | self.maps).items() if key != entry.key for name in other.files.values()
        }
        while f"{stem}_P0.png" in taken:  # two labels of the same letters
            stem += "-2"
        files = {
            "overlay": f"{stem}_P0.png",
            "heatmap": f"{stem}_P1.png",
            "map": f"{stem}_P1.npy",
            "mask": f"{stem}_P3.png",
        }
        title, subtitle = f"{entry.label} · p = {_told(entry)}", f"{entry.method} · {entry.model}"
        self._png("overlay", files, overlay.overlay(self.film, values, title, subtitle, self.threshold))
        self._png("heatmap", files, overlay.heat_picture(values))
        self._png("mask", files, (values >= self.threshold).astype(np.uint8) * 255)
        np.save(self.folder / files["map"], values.astype(np.float32))
        if deviation is not None:
            files |= {"deviation": f"{stem}_SD.npy", "deviation_picture": f"{stem}_SD.png"}
            self._png("deviation_picture", files, overlay.heat_picture(deviation))
            np.save(self.folder / files["deviation"], deviation.astype(np.float32))
        self.take(MapEntry(**asdict(entry) | {"files": files}), values)

    def take(self, entry: MapEntry, values: FloatArray) -> None:
        """List a map whose files are there."""
        self.maps[entry.key] = entry
        small = np.asarray(overlay.fit(values, overlay.TILE, overlay.TILE), np.float32)
        self._tiles[entry.key] = overlay.blend(self._small, small, self.threshold)

    def finish(self, image: dict[str, Any], requests: Sequence[Request], order: Sequence[tuple[str, str, str]]) -> None:
        """Write what concerns the image as a whole."""
        entries = [self.maps[key] for key in dict.fromkeys(order) if key in self.maps]
        self._png("input", {"input": "input.png"}, self.film)
        self._png("comparison", {"comparison": "comparison.png"}, self._comparison(entries))
        data = {
            "image": image,
            "threshold": self.threshold,
            "maps": [asdict(entry) for entry in entries],
            "requests": [asdict(request) for request in requests],
        }
        (self.folder / METADATA).write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")

    def _comparison(self, entries: Sequence[MapEntry]) -> Pixels:
        every = list(dict.fromkeys((entry.method, entry.model) for entry in entries))
        columns = every[:_MOST]
        known = list(dict.fromkeys(entry.label for entry in entries if (entry.method, entry.model) in columns))
        labels = known[:_MOST]
        if len(every) > _MOST or len(known) > _MOST:
            logger.info(
                "%s: comparison.png shows %d of %d labels, %d of %d methods and models; all maps stand beside it",
                self.folder, len(labels), len(known), len(columns), len(every),
            )  # fmt: skip
        tiles = []
        for label in labels:
            line: list[tuple[Pixels, str] | None] = []
            for method, model in columns:
                entry = self.maps.get((model, label, method))
                line.append(None if entry is None else (self._tiles[entry.key], f"p = {_told(entry)}"))
            tiles.append(line)
        return overlay.comparison(self._small, [f"{method}\n{model}" for method, model in columns], labels, tiles)

    def _png(self, kind: str, files: dict[str, str], picture: Pixels) -> None:
        colour = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR) if picture.ndim == 3 else picture
        # level 1: films are noise, which more effort hardly makes smaller
        done, data = cv2.imencode(".png", colour, [cv2.IMWRITE_PNG_COMPRESSION, 1])
        assert done
        (self.folder / files[kind]).write_bytes(data.tobytes())


def _told(entry: MapEntry) -> str:
    """Probability with its standard deviation, share of the view, and whether there is nothing to see, for headings."""
    spread = f" ± {entry.uncertainty['standard_deviation']:.2f}" if entry.uncertainty else ""
    parts = [f"{entry.probability:.2f}{spread}"]
    if entry.view_share is not None:
        parts.append(f"view's share {entry.view_share:.0%}")
    if entry.empty:
        parts.append("no evidence")
    return " · ".join(parts)
