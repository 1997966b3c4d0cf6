"""CheXpert's layout."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from longview.data.phantom.layouts.base import Drawn, Layout, Part, Place, part_of, write_csv
from longview.data.phantom.layouts.reports import NO_FINDING, Cell, exact_cells, findings, report_cells
from longview.data.phantom.population import StudyPlan
from longview.labels import LabelSet

_FOLDERS: dict[Part, str] = {"train": "train", "development": "valid", "test": "test"}
_ABOUT = ("Path", "Sex", "Age", "Frontal/Lateral", "AP/PA")
_OLDEST = 90  # years; the real table says 90 for everyone above

Label = Callable[[Drawn], Mapping[str, Cell]]


class ChexpertLayout(Layout):
    """CheXpert-v1.0-small as it is unpacked, with the training labels of all three labellers.

    `train.csv` and `train_cheXbert.csv` leave findings blank or uncertain, each in its own way; `valid.csv`, `test.csv`
    and `train_visualCheXbert.csv` say 0 or 1. As in the real release, the two later tables lie in the root, name the
    full release in their paths, and `train_cheXbert.csv` has No Finding last. Nodule and Mass are Lung Lesion; findings
    that CheXpert has no name for leave no trace, and labels that a phantom never has are never 1.
    """

    name: ClassVar[str] = "chexpert"
    suffix: ClassVar[str] = ".jpg"

    _SMALL = "CheXpert-v1.0-small"
    _FULL = "CheXpert-v1.0"

    def place(self, plan: StudyPlan, index: int, ordinal: int) -> Place:  # noqa: ARG002 - studies count per patient
        """Ids as in `train/patient00001/study1/view1_frontal.jpg`."""
        patient = f"patient{plan.patient + 1:05d}"
        study = f"{patient}/study{plan.number + 1}"
        side = "lateral" if plan.views[index] == "lateral" else "frontal"
        image = f"{study}/view{index + 1}_{side}"
        folder = _FOLDERS[part_of(plan.patient)]
        return Place(patient, study, image, f"{self._SMALL}/{folder}/{image}{self.suffix}")

    def write_tables(self, root: Path, images: Sequence[Drawn], size: int) -> None:  # noqa: ARG002 - NIH's needs it
        """Write train, validation and test, and the two other training tables."""
        labels = LabelSet.load("chexpert").names
        last = [label for label in labels if label != NO_FINDING] + [NO_FINDING]

        def seen(image: Drawn) -> Mapping[str, Cell]:
            return exact_cells(findings(image.labels, labels), labels)

        def told(labeler: str) -> Label:
            return lambda image: report_cells(image.place.study_id, findings(image.labels, labels), labels, labeler)

        small = root / self._SMALL
        self._write(small / "train.csv", images, "train", self._SMALL, labels, told("chexpert"))
        self._write(small / "valid.csv", images, "development", self._SMALL, labels, seen)
        self._write(small / "test.csv", images, "test", self._SMALL, labels, seen)
        self._write(root / "train_cheXbert.csv", images, "train", self._FULL, last, told("chexbert"))
        self._write(root / "train_visualCheXbert.csv", images, "train", self._FULL, labels, seen)

    def _write(
        self, file: Path, images: Sequence[Drawn], part: Part, prefix: str, labels: Sequence[str], label: Label
    ) -> None:
        """One table of a part, its paths below `prefix`."""
        rows = []
        for image in images:
            if part_of(image.patient) == part:
                lateral = image.view == "lateral"
                path = f"{prefix}/{_FOLDERS[part]}/{image.place.image_id}{self.suffix}"
                who = ["Female" if image.female else "Male", min(image.age, _OLDEST)]
                view = ["Lateral", ""] if lateral else ["Frontal", image.view]
                cells = label(image)
                rows.append([path, *who, *view, *(cells[name] for name in labels)])
        if rows:  # fewer than three patients are not in every part
            write_csv(file, [*_ABOUT, *labels], rows)
