"""VinBigData's layout (Kaggle)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from longview.data.phantom.findings import LABELS
from longview.data.phantom.layouts.base import Drawn, Layout, Place, write_csv
from longview.data.phantom.layouts.dicom import encode_dicom
from longview.data.phantom.population import StudyPlan
from longview.data.phantom.study import Box
from longview.labels import LabelSet

_OTHER = "Other lesion"
_NAMES = {
    "Calcification of the Aorta": "Calcification",
    "Emphysema": _OTHER,
    "Fracture": _OTHER,
    "Hernia": _OTHER,
    "Mass": "Nodule/Mass",
    "Nodule": "Nodule/Mass",
    "Pneumoperitoneum": _OTHER,
}
"""What the data set calls a finding that has another name there; it says nothing of devices and edema."""

Corners = tuple[object, ...]
"""Left, top, right and bottom; "" where there is no box."""

Marks = list[tuple[str, Corners]]
"""What a reader marks on a film: classes and corners."""

NO_FINDING, NO_BOX = "No finding", ("", "", "", "")


class VinBigLayout(Layout):
    """VinBigData's tree: `train/<image_id>.dicom` of 12 bits, some MONOCHROME1, and the `train.csv` of three readers.

    Each study has one frontal film. The three of 17 readers mostly agree: one overlooks a finding in eight, sees one in
    fifty that is not there, and draws every box in a way of their own; all by the film's id.
    """

    name: ClassVar[str] = "vinbig"
    suffix: ClassVar[str] = ".dicom"
    frontal_only: ClassVar[bool] = True

    _HEADER = ("image_id", "class_name", "class_id", "rad_id", "x_min", "y_min", "x_max", "y_max")
    _READERS = 17
    _BITS = 12
    _NEGATIVE = 6  # one film in so many is MONOCHROME1
    _OVERLOOKED, _IMAGINED = 1 / 8, 1 / 50
    _SHIFT = 0.04  # of a box's side, at most

    def place(self, plan: StudyPlan, index: int, ordinal: int) -> Place:  # noqa: ARG002 - one image per study
        """Ids as in `train/50a418190bc3fb1ef1633bf9678929b3.dicom`; whose film it is, the data set does not tell."""
        text = f"{plan.seed}/{plan.patient}/{plan.number}"
        image = blake2b(text.encode(), digest_size=16).hexdigest()
        return Place(image, image, image, f"train/{image}{self.suffix}")

    def encode(self, image: npt.NDArray[np.uint8]) -> bytes:
        """A DICOM file."""
        return encode_dicom(image, self._BITS, negative=self._NEGATIVE)

    def write_tables(self, root: Path, images: Sequence[Drawn], size: int) -> None:
        """Write the annotations, those of an image not together, as in the real table."""
        names = LabelSet.load("vinbig")
        class_of = class_names(names)
        numbers = {name: number for number, name in enumerate((*names.names, NO_FINDING))}
        rows: list[list[object]] = []
        for image in images:
            for reader, seen in self._readings(image, size, lambda box: class_of[box.label], names.names):
                rows += [[image.place.image_id, name, numbers[name], reader, *corners] for name, corners in seen]
        rows.sort(key=lambda row: blake2b("/".join(map(str, row)).encode(), digest_size=8).digest())
        write_csv(root / "train.csv", self._HEADER, rows)

    def _readings(
        self, image: Drawn, size: int, name_of: Callable[[Box], str | None], classes: Sequence[str]
    ) -> list[tuple[str, Marks]]:
        """Three different readers, each with what it marks; `No finding` where that is nothing."""
        film = image.place.image_id
        ranked = sorted(range(1, self._READERS + 1), key=lambda reader: _chance(film, reader))
        readers = [f"R{reader}" for reader in sorted(ranked[:3])]
        return [(reader, self._seen(image, reader, size, name_of, classes)) for reader in readers]

    def _seen(
        self, image: Drawn, reader: str, size: int, name_of: Callable[[Box], str | None], classes: Sequence[str]
    ) -> Marks:
        film, seen = image.place.image_id, []
        for number, box in enumerate(image.boxes):
            name = name_of(box)
            if name is not None and _chance(film, reader, box.label, number) >= self._OVERLOOKED:
                seen.append((name, self._corners(box, size, film, reader, number)))
        if _chance(film, reader) < self._IMAGINED:
            name = classes[int(_chance(film, reader, "what") * len(classes))]
            seen.append((name, (float(size // 4), float(size // 4), float(size // 2), float(size // 2))))
        return seen or [(NO_FINDING, NO_BOX)]

    def _corners(self, box: Box, size: int, *who: object) -> Corners:
        """Left, top, right and bottom of a box as a reader draws it, inside of the film."""
        left, top = box.x, box.y
        right, bottom = left + box.width, top + box.height
        shifts = [self._SHIFT * (2 * _chance(*who, side) - 1) for side in range(4)]
        sides = (left + shifts[0] * box.width, top + shifts[1] * box.height)
        ends = (right + shifts[2] * box.width, bottom + shifts[3] * box.height)
        return tuple(round(min(max(value, 0.0), float(size)), 2) for value in (*sides, *ends))


def class_names(names: LabelSet) -> dict[str, str | None]:
    """Finding of a phantom -> the class of a label set that stands for it, or None."""
    return {label: names.canonical(label) or _NAMES.get(label) for label in LABELS}


def _chance(*what: object) -> float:
    """A number in [0, 1) that depends on nothing but this."""
    digest = blake2b("/".join(map(str, what)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64
