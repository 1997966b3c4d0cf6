"""MIMIC-CXR-JPG's layout."""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import ClassVar

from longview.data.phantom.layouts.base import Drawn, Part, part_of
from longview.data.phantom.layouts.cxr_lt import CxrLt2024, view_codes
from longview.data.phantom.layouts.reports import findings, report_cells
from longview.labels import LabelSet

_SPLITS: dict[Part, str] = {"train": "train", "development": "validate", "test": "test"}
_METADATA = (
    "dicom_id", "subject_id", "study_id", "PerformedProcedureStepDescription", "ViewPosition", "Rows", "Columns",
    "StudyDate", "StudyTime", "ProcedureCodeSequence_CodeMeaning", "ViewCodeSequence_CodeMeaning",
    "PatientOrientationCodeSequence_CodeMeaning",
)  # fmt: skip


class MimicLayout(CxrLt2024):
    """MIMIC-CXR-JPG 2.0.0: the tree of :class:`CxrLt2024`, with the same ids, and the data set's own gzipped tables.

    Labels are those of a report's labeller, blank or uncertain in every part, test among them. Nodule and Mass are Lung
    Lesion; findings that the data set has no name for leave no trace, and labels that a phantom never has are never 1.
    """

    name: ClassVar[str] = "mimic"

    def write_tables(self, root: Path, images: Sequence[Drawn], size: int) -> None:
        """Write metadata, split, and the labels of both labellers."""
        metadata, splits, studies = [], [], {}
        for image in images:
            place, study = image.place, image.place.study_id.removeprefix("s")
            position, meaning = view_codes(image)
            portable = image.view == "AP"
            what = "CHEST (PORTABLE AP)" if portable else "CHEST (PA AND LAT)"
            when = [f"{2110 + image.patient % 90}{1 + image.number % 12:02d}01", f"{80000 + image.number}.0"]
            how = [what, meaning, "Recumbent" if portable else "Erect"]
            metadata.append([place.image_id, place.patient_id, study, what, position, size, size, *when, *how])
            splits.append([place.image_id, study, place.patient_id, _SPLITS[part_of(image.patient)]])
            studies[study] = image
        _write(root / "mimic-cxr-2.0.0-metadata.csv.gz", _METADATA, metadata)
        _write(root / "mimic-cxr-2.0.0-split.csv.gz", ("dicom_id", "study_id", "subject_id", "split"), splits)
        labels = LabelSet.load("mimic").names
        for labeler in ("chexpert", "negbio"):
            rows = []
            for study, image in studies.items():
                cells = report_cells(study, findings(image.labels, labels), labels, labeler)
                rows.append([image.place.patient_id, study, *cells.values()])
            _write(root / f"mimic-cxr-2.0.0-{labeler}.csv.gz", ("subject_id", "study_id", *labels), rows)


def _write(file: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a gzipped table; no time and no name in it, so that equal tables are equal bytes."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    file.write_bytes(gzip.compress(text.getvalue().encode(), mtime=0))
