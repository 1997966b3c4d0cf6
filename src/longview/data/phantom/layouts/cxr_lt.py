"""CXR-LT 2024's and 2023's layouts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path
from typing import ClassVar, get_args

from longview.data.phantom.findings import NORMAL
from longview.data.phantom.layouts.base import Drawn, Layout, Part, Place, part_of, write_csv
from longview.data.phantom.layouts.reports import NO_FINDING
from longview.data.phantom.population import StudyPlan
from longview.labels import LabelSet


class CxrLt2024(Layout):
    """MIMIC-CXR-JPG's tree with the CSV files of CXR-LT 2024.

    All three tasks' tables are written: 40 labels, 26 labels, 5 labels; those that a phantom never has are 0. Unlike
    the real ones, task 2's tables hold all images of their part, since a phantom's labels are true everywhere.
    """

    name: ClassVar[str] = "cxr-lt-2024"
    suffix: ClassVar[str] = ".jpg"

    _PATH: ClassVar[str] = "fpath"  # column of the paths

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
        self._write(root / "labels.csv", images, sorted([*task1, *unseen]), get_args(Part))

    def _write(self, file: Path, images: Sequence[Drawn], labels: Sequence[str], parts: Sequence[Part]) -> None:
        """One table, if it has a row; the one with several parts gets a column `split`."""
        ids = ["dicom_id", "subject_id", "study_id", "ViewPosition", "ViewCodeSequence_CodeMeaning", self._PATH]
        split = ["split"] if len(parts) > 1 else []
        rows = []
        for image in images:
            if (part := part_of(image.patient)) in parts:
                position, meaning = view_codes(image)
                row = [image.place.image_id, image.place.patient_id, image.place.study_id, position, meaning]
                values = [int(label in image.labels) for label in labels]
                rows.append([*row, image.place.path, *values, *([part] if split else [])])
        if rows:  # fewer than three patients are not in every part
            write_csv(file, [*ids, *labels, *split], rows)


class CxrLt2023(CxrLt2024):
    """CXR-LT 2023: the tree of :class:`CxrLt2024`, with the same ids, and the first challenge's three tables.

    All 26 labels; `No Finding` is what the phantom calls Normal, for the set has a name for each of its findings.
    Labels that a phantom never has are 0. Unlike the real ones, the parts are those of 2024, and all have labels.
    """

    name: ClassVar[str] = "cxr-lt-2023"

    _PATH: ClassVar[str] = "path"

    def write_tables(self, root: Path, images: Sequence[Drawn], size: int) -> None:  # noqa: ARG002 - NIH's needs it
        """Write `train.csv`, `development.csv` and `test.csv`."""
        labels = LabelSet.load("cxr_lt_2023").names
        named = [replace(image, labels=_without_normal(image.labels)) for image in images]
        for part in get_args(Part):
            self._write(root / f"{part}.csv", named, labels, (part,))


def _without_normal(labels: frozenset[str]) -> frozenset[str]:
    return frozenset({NO_FINDING}) if NORMAL in labels else labels


def view_codes(image: Drawn) -> tuple[str, str]:
    """ViewPosition and its meaning; a third of the lateral films is `LL`, one film in 32 has none (4 % in MIMIC)."""
    chance = int(image.place.image_id[:2], 16)  # 0 to 255, the same in every table
    if chance < 8:
        return "", ""
    if image.view == "lateral":
        return ("LL", "left lateral") if chance % 10 < 3 else ("LATERAL", "lateral")
    return image.view, "postero-anterior" if image.view == "PA" else "antero-posterior"
