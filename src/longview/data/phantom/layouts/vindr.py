"""VinDr-CXR's layout (PhysioNet)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar

from longview.data.phantom.layouts.base import Drawn, Place, part_of, write_csv
from longview.data.phantom.layouts.vinbig import NO_BOX, NO_FINDING, Marks, VinBigLayout, class_names
from longview.data.phantom.population import StudyPlan
from longview.data.phantom.study import Box
from longview.labels import LabelSet

_CORNERS = ("x_min", "y_min", "x_max", "y_max")
_GLOBAL = 6  # labels at the end of the list that are of the whole film, and have no box
_SPELLING = {"Other diseases": "Other disease"}  # in the test part's table


class VinDrLayout(VinBigLayout):
    """VinDr-CXR's tree: `train/` and `test/` of DICOM files, and the four tables in `annotations/`, all 28 labels.

    The films of the training part are those of :class:`VinBigLayout` under the same ids, each read by three of the same
    17 readers; those of the development patients are among them, as the data set has no such part. The films of the
    test part have one reading without an error, the consensus. A fracture of ribs is `Rib fracture`, one of a vertebra
    `Other lesion`; devices leave no trace, and the global labels but for `No finding` are never 1.
    """

    name: ClassVar[str] = "vindr"

    def place(self, plan: StudyPlan, index: int, ordinal: int) -> Place:
        """Ids as in `test/50a418190bc3fb1ef1633bf9678929b3.dicom`."""
        image = super().place(plan, index, ordinal).image_id
        return Place(image, image, image, f"{_folder(plan.patient)}/{image}{self.suffix}")

    def write_tables(self, root: Path, images: Sequence[Drawn], size: int) -> None:
        """Write labels and boxes of both parts."""
        names = LabelSet.load("vindr")
        class_of, local = class_names(names), names.names[:-_GLOBAL]

        def name_of(box: Box) -> str | None:
            return "Rib fracture" if box.finding.kind == "ribs" else class_of[box.label]

        train, test = ([image for image in images if _folder(image.patient) == part] for part in ("train", "test"))
        readings = [(image, self._readings(image, size, name_of, local)) for image in train]
        self._write(root, "train", readings, names.names)
        if test:  # a single patient is in the other part
            readings = [(image, [("", _consensus(image, name_of))]) for image in test]
            self._write(root, "test", readings, names.names)

    @staticmethod
    def _write(
        root: Path, part: str, readings: Sequence[tuple[Drawn, Sequence[tuple[str, Marks]]]], labels: Sequence[str]
    ) -> None:
        """The two tables of a part; those of the test part name no reader."""
        told = part == "train"
        values: list[list[object]] = []
        boxes: list[list[object]] = []
        for image, readers in readings:
            for reader, seen in readers:
                who: list[object] = [image.place.image_id, *([reader] if told else [])]
                present = {name for name, _ in seen}
                values.append([*who, *(int(label in present) for label in labels)])
                boxes += [[*who, name, *corners] for name, corners in seen]
        ids = ["image_id", *(["rad_id"] if told else [])]
        columns = labels if told else [_SPELLING.get(label, label) for label in labels]
        (root / "annotations").mkdir(exist_ok=True)
        write_csv(root / f"annotations/image_labels_{part}.csv", [*ids, *columns], values)
        write_csv(root / f"annotations/annotations_{part}.csv", [*ids, "class_name", *_CORNERS], boxes)


def _consensus(image: Drawn, name_of: Callable[[Box], str | None]) -> Marks:
    """What the film shows, with its true boxes."""
    named = [(name, box) for box in image.boxes if (name := name_of(box)) is not None]
    found: Marks = [(name, (box.x, box.y, box.x + box.width, box.y + box.height)) for name, box in named]
    return found or [(NO_FINDING, NO_BOX)]


def _folder(patient: int) -> str:
    return "test" if part_of(patient) == "test" else "train"
