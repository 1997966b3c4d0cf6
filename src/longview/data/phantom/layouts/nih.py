"""NIH ChestX-ray14's layout."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import ClassVar

from longview.data.phantom.layouts.base import Drawn, Layout, Place, part_of, write_csv
from longview.data.phantom.population import StudyPlan
from longview.data.phantom.study import Box
from longview.labels import LabelSet

HEADER = (
    "Image Index", "Finding Labels", "Follow-up #", "Patient ID", "Patient Age", "Patient Gender", "View Position",
    "OriginalImage[Width", "Height]", "OriginalImagePixelSpacing[x", "y]",
)  # fmt: skip
"""Columns of the table; two of the real names have a comma in them, which no quotes protect."""

_NIH_BOX_HEADER = "Image Index,Finding Label,Bbox [x,y,w,h],,,"


class NihLayout(Layout):
    """NIH ChestX-ray14's official tree: `images/`, `Data_Entry_2017_v2020.csv`, the two lists, `BBox_List_2017.csv`.

    Each study has one frontal film. Findings that the data set has no name for leave no trace in its table, as in
    reality: a film of a pacemaker is `No Finding`.
    """

    name: ClassVar[str] = "nih"
    suffix: ClassVar[str] = ".png"
    frontal_only: ClassVar[bool] = True

    _FILM = 2500  # side of the original film in pixels: with 0.143 mm each, 36 cm
    _FRAME = 1024  # side of the images in the official release, in which its boxes are given
    _BOXED = ("Atelectasis", "Cardiomegaly", "Effusion", "Mass", "Nodule", "Pneumothorax")

    def place(self, plan: StudyPlan, index: int, ordinal: int) -> Place:  # noqa: ARG002 - one image per study
        """Ids as in `images/00000001_000.png`."""
        image = f"{plan.patient + 1:08d}_{plan.number:03d}"
        return Place(f"{plan.patient + 1:08d}", image, image, f"images/{image}{self.suffix}")

    def write_tables(self, root: Path, images: Sequence[Drawn], size: int) -> None:
        """Write the table of findings, the official lists, and the boxes of the test part, if it has any."""
        names = LabelSet.load("nih")
        boxes = []
        for image in images:
            if part_of(image.patient) == "test":
                boxes += self._boxes(self._file(image), image.boxes, names, self._FRAME / size)
        write_csv(root / "Data_Entry_2017_v2020.csv", HEADER, [self._row(image, names) for image in images])
        if boxes:
            write_csv(root / "BBox_List_2017.csv", _NIH_BOX_HEADER.split(","), boxes)
        lists: dict[str, list[str]] = {"train_val_list.txt": [], "test_list.txt": []}
        for image in images:
            name = "test_list.txt" if part_of(image.patient) == "test" else "train_val_list.txt"
            lists[name].append(f"{self._file(image)}\n")
        for name, lines in lists.items():
            (root / name).write_text("".join(lines), encoding="utf-8")

    def _file(self, image: Drawn) -> str:
        return f"{image.place.image_id}{self.suffix}"

    def _row(self, image: Drawn, names: LabelSet) -> list[object]:
        """The cells of :data:`HEADER`."""
        found = sorted(name for label in image.labels if (name := names.canonical(label)) is not None)
        who = [image.number, image.patient + 1, image.age, "F" if image.female else "M", image.view]
        return [
            self._file(image), "|".join(found) or "No Finding", *who, self._FILM, self._FILM, 0.143, 0.143,
        ]  # fmt: skip

    def _boxes(self, file: str, boxes: Iterable[Box], names: LabelSet, scale: float) -> list[list[object]]:
        """Rows of the box list: the largest box of each label that the real list has."""
        best: dict[str, Box] = {}
        for box in boxes:
            name = names.canonical(box.label)
            if name in self._BOXED and (name not in best or _area(best[name]) < _area(box)):
                best[name] = box
        # three empty cells: the real header ends in three commas, its rows do not
        return [
            [file, name, *(round(side * scale, 12) for side in (box.x, box.y, box.width, box.height))]
            for name, box in sorted(best.items())
        ]


def _area(box: Box) -> int:
    return box.width * box.height
