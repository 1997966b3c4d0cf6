"""Raw layouts of real data sets: names of files and ids, and tables with the real headers."""

from __future__ import annotations

import csv
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import ClassVar, Literal

from longview.data.phantom.population import StudyPlan
from longview.data.phantom.study import Box
from longview.labels import LabelSet

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

    @abstractmethod
    def write_tables(self, root: Path, images: Sequence[Drawn], size: int) -> None:
        """Write the data set's own tables for images `size` pixels square."""


class CxrLt2024(Layout):
    """MIMIC-CXR-JPG's tree with the CSV files of CXR-LT 2024.

    All three tasks' tables are written: 40 labels, 26 labels, 5 labels; those that a phantom never has are 0. Unlike
    the real ones, task 2's tables hold all images of their part, since a phantom's labels are true everywhere.
    """

    name: ClassVar[str] = "cxr-lt-2024"
    suffix: ClassVar[str] = ".jpg"

    def place(self, plan: StudyPlan, index: int, ordinal: int) -> Place:
        """Ids as in `p10/p10000032/s50414267/02aa804e-bde0afdd-112c0b34-7bc16630-4e384014.jpg`."""
        # primes spread the numbers without any of them coming twice
        patient = str(10_000_032 + plan.patient * 104_729 % 9_999_907)
        study = f"s{50_000_000 + (414_267 + ordinal * 7_919) % 10_000_000}"
        text = f"{plan.seed}/{plan.patient}/{plan.number}/{index}"
        digits = blake2b(text.encode(), digest_size=20).hexdigest()
        image = "-".join(digits[start : start + 8] for start in range(0, 40, 8))
        return Place(patient, study, image, f"files/p{patient[:2]}/p{patient}/{study}/{image}{self.suffix}")

    def write_tables(self, root: Path, images: Sequence[Drawn], size: int) -> None:  # noqa: ARG002 - NIH's needs it
        """Write `train_labeled.csv`, development and test tables of each task, and `labels.csv`."""
        task1 = LabelSet.load("cxr_lt_2024_task1").names
        task2 = LabelSet.load("cxr_lt_2024_task2").names
        unseen = LabelSet.load("cxr_lt_2024_task3").unseen_names
        self._write(root / "train_labeled.csv", images, task1, ("train",))
        for part in ("development", "test"):
            for task, labels in enumerate((task1, task2, unseen), start=1):
                self._write(root / f"{part}_labeled_task{task}.csv", images, labels, (part,))
        self._write(root / "labels.csv", images, sorted([*task1, *unseen]), ("train", "development", "test"))

    @staticmethod
    def _write(file: Path, images: Sequence[Drawn], labels: Sequence[str], parts: Sequence[str]) -> None:
        """One table; the one with several parts gets a column `split`."""
        ids = ["dicom_id", "subject_id", "study_id", "ViewPosition", "ViewCodeSequence_CodeMeaning", "fpath"]
        split = ["split"] if len(parts) > 1 else []
        rows = []
        for image in images:
            if (part := part_of(image.patient)) in parts:
                position, meaning = _view_codes(image)
                row = [image.place.image_id, image.place.patient_id, image.place.study_id, position, meaning]
                values = [int(label in image.labels) for label in labels]
                rows.append([*row, image.place.path, *values, *([part] if split else [])])
        _write_csv(file, [*ids, *labels, *split], rows)


def _view_codes(image: Drawn) -> tuple[str, str]:
    """ViewPosition and its meaning; a third of the lateral films is `LL`, one film in 32 has none (4 % in MIMIC)."""
    chance = int(image.place.image_id[:2], 16)  # 0 to 255, the same in every table
    if chance < 8:
        return "", ""
    if image.view == "lateral":
        return ("LL", "left lateral") if chance % 10 < 3 else ("LATERAL", "lateral")
    return image.view, "postero-anterior" if image.view == "PA" else "antero-posterior"


_NIH_HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]"
)
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
        """Write the table of findings, the official lists, and the boxes of the test part."""
        names = LabelSet.load("nih")
        header = _NIH_HEADER.split(",")
        rows, boxes = [], []
        for image in images:
            file = f"{image.place.image_id}{self.suffix}"
            found = sorted(name for label in image.labels if (name := names.canonical(label)) is not None)
            who = [image.number, image.patient + 1, image.age, "F" if image.female else "M", image.view]
            rows.append([file, "|".join(found) or "No Finding", *who, self._FILM, self._FILM, 0.143, 0.143])
            if part_of(image.patient) == "test":
                boxes += self._boxes(file, image.boxes, names, self._FRAME / size)
        _write_csv(root / "Data_Entry_2017_v2020.csv", header, rows)
        _write_csv(root / "BBox_List_2017.csv", _NIH_BOX_HEADER.split(","), boxes)
        lists: dict[str, list[str]] = {"train_val_list.txt": [], "test_list.txt": []}
        for image in images:
            name = "test_list.txt" if part_of(image.patient) == "test" else "train_val_list.txt"
            lists[name].append(f"{image.place.image_id}{self.suffix}\n")
        for name, lines in lists.items():
            (root / name).write_text("".join(lines), encoding="utf-8")

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


LAYOUTS: dict[str, Layout] = {layout.name: layout for layout in (NihLayout(), CxrLt2024())}


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
    _write_csv(file, [*header, "x", "y", "width", "height"], rows)


def _area(box: Box) -> int:
    return box.width * box.height


def _write_csv(file: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    with file.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
