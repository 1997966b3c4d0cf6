"""CXR-LT 2026's layout."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from longview.data.phantom.findings import NORMAL
from longview.data.phantom.layouts.base import Drawn, Part, part_of, write_csv
from longview.data.phantom.layouts.padchest import PadChestLayout, study_date
from longview.labels import LabelSet

_IDS = ("ImageID", "StudyDate_DICOM", "PatientID")
_NAMELESS = 30  # columns of the published test table of task 1


class CxrLt2026Layout(PadChestLayout):
    """PadChest's tree and table (:class:`PadChestLayout`, with the same ids) and the files of CXR-LT 2026 beside them.

    As published, `PatientID` was saved as a number there (`3.24E+37` is many patients), and both test tables name
    images only, so the truth of the test part is in `boxes.csv` alone. Evaluation images are the frontal films of
    development and test patients that show a finding. The training table also names the other films of test patients,
    which `Removal.csv` takes out with the test images; the other films of development patients are in no table.
    Development tables are labelled, unlike any that was published. Findings that the set has no name for leave no trace
    (Consolidation, Edema, Fibrosis, Lung Opacity); labels that a phantom never has, the unseen ones among them, are 0.
    """

    name: ClassVar[str] = "cxr-lt-2026"

    def write_tables(self, root: Path, images: Sequence[Drawn], size: int) -> None:
        """Write PadChest's table, the training table, those of the evaluation, and what training must leave out."""
        super().write_tables(root, images, size)
        labels = LabelSet.load("cxr_lt_2026")
        tests, development = _evaluated(images, "test"), _evaluated(images, "development")
        other = [image for image in images if part_of(image.patient) == "test" and image not in tests]
        train = [image for image in images if part_of(image.patient) == "train"]
        self._write(root / "CXRLT_2026_training.csv", [*train, *other], labels, labels.names)
        self._write(root / "CXRLT_2026_development_task1.csv", development, labels, labels.names)
        self._write(root / "CXRLT_2026_development_task2.csv", development, labels, labels.unseen_names)
        self._write(root / "CXRLT_2026_TEST_ALL_TASK1.csv", tests, labels, [""] * _NAMELESS)
        self._write(root / "CXRLT_2026_TEST_ALL_TASK2.csv", tests, labels, ())
        self._write(root / "Removal.csv", [*tests, *other], labels, ())

    def _write(self, file: Path, images: Sequence[Drawn], labels: LabelSet, columns: Sequence[str]) -> None:
        """One table; columns without a name are empty."""
        rows: list[list[object]] = []
        for image in images:
            place = image.place
            found = {labels.canonical(label, "cxr-lt-2024") for label in image.labels}  # a phantom has its names
            ids = [f"{place.image_id}{self.suffix}", study_date(image), f"{int(place.patient_id):.2E}"]
            rows.append([*ids, *(int(name in found) if name else "" for name in columns)])
        if rows:  # fewer than three patients are not in every part
            write_csv(file, [*_IDS, *columns], rows)


def _evaluated(images: Sequence[Drawn], part: Part) -> list[Drawn]:
    """The frontal films of a part whose studies have a finding."""
    return [
        image
        for image in images
        if part_of(image.patient) == part and image.view != "lateral" and NORMAL not in image.labels
    ]
