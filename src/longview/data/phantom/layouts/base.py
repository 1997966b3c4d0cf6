"""What every raw layout is made of: who is in which part, ids and places of images, tables."""

from __future__ import annotations

import csv
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import cv2
import numpy as np
import numpy.typing as npt

from longview.data.phantom.population import StudyPlan
from longview.data.phantom.study import Box

_JPEG_QUALITY = 95  # MIMIC-CXR-JPG's

Part = Literal["train", "development", "test"]

_PARTS: tuple[Part, ...] = (
    "train", "test", "development", "train", "train", "test", "train", "train", "train", "train",
)  # fmt: skip
"""Part of every tenth patient: 70, 10 and 20 %, and each part has someone as soon as there are three patients."""


def part_of(patient: int) -> Part:
    """Which part of the data all films of a patient belong to."""
    return _PARTS[patient % len(_PARTS)]


@dataclass(frozen=True)
class Place:
    """Ids of one image, and where it lies below the root."""

    patient_id: str
    study_id: str
    image_id: str
    path: str


@dataclass(frozen=True)
class Drawn:
    """All that the tables say about one image; `patient` is the number of the patient, from 0."""

    place: Place
    patient: int
    number: int
    view: str
    age: int
    female: bool
    labels: frozenset[str]
    boxes: tuple[Box, ...]


class Layout(ABC):
    """How a data set names its files and writes its tables."""

    name: ClassVar[str]
    suffix: ClassVar[str]
    """Ending of image files, with its dot."""

    frontal_only: ClassVar[bool] = False
    """Whether the data set has one frontal film per study and nothing else."""

    @abstractmethod
    def place(self, plan: StudyPlan, index: int, ordinal: int) -> Place:
        """Ids and path of image `index` of a study that is number `ordinal` of the whole phantom."""

    def encode(self, image: npt.NDArray[np.uint8]) -> bytes:
        """The bytes of an image file: a film (S, S) as grey PNG or JPEG, by :attr:`suffix`."""
        jpeg = self.suffix == ".jpg"
        options = [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY] if jpeg else [cv2.IMWRITE_PNG_COMPRESSION, 3]
        done, encoded = cv2.imencode(self.suffix, image, options)
        assert done
        return encoded.tobytes()

    @abstractmethod
    def write_tables(self, root: Path, images: Sequence[Drawn], size: int) -> None:
        """Write the data set's own tables for images `size` pixels square."""


def write_boxes(file: Path, images: Iterable[Drawn]) -> None:
    """Write the true box of every finding that an image shows, in pixels of that image.

    `side` is the patient's (`left`, `right`, `both`), `size` a third of the severity (0 to 1), and `shown` says which
    projections can show this case at all (`both`, `frontal`, `lateral`).
    """
    header = ["image_id", "patient_id", "study_id", "view", "label", "kind", "side", "size", "severity", "shown"]
    rows = []
    for image in images:
        place = image.place
        for box in image.boxes:
            what = box.finding
            ids = [place.image_id, place.patient_id, place.study_id, image.view, box.label]
            look = [what.kind, what.side_name, what.size_name, f"{what.severity:.3f}", what.shown]
            rows.append([*ids, *look, box.x, box.y, box.width, box.height])
    write_csv(file, [*header, "x", "y", "width", "height"], rows)


def write_csv(file: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a table in UTF-8 with Unix line ends."""
    with file.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
