"""VinDr-CXR (PhysioNet)."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd

from longview import InputError
from longview.data.sources.base import Source, check_filled, check_unique, first, read_text
from longview.data.sources.boxes import box_table, read_boxes
from longview.data.sources.places import find_images
from longview.data.sources.readers import (
    Votes,
    check_votes,
    codes_of_labels,
    combine,
    count_votes,
    require_codes,
    strange_codes,
)
from longview.labels import LabelSet, OnMismatch

CODES = (
    "Aortic enlargement",
    "Atelectasis",
    "Calcification",
    "Cardiomegaly",
    "Clavicle fracture",
    "Consolidation",
    "Edema",
    "Emphysema",
    "Enlarged PA",
    "ILD",
    "Infiltration",
    "Lung Opacity",
    "Lung cavity",
    "Lung cyst",
    "Mediastinal shift",
    "Nodule/Mass",
    "Pleural effusion",
    "Pleural thickening",
    "Pneumothorax",
    "Pulmonary fibrosis",
    "Rib fracture",
    "Other lesion",
    "COPD",
    "Lung tumor",
    "Pneumonia",
    "Tuberculosis",
    "Other diseases",
    "No finding",
)
"""The data set's image-level labels: 22 local ones, then 6 global ones."""

FOLDERS = ("annotations", "")
"""Where the tables may lie below the root."""

_SPELLINGS = {"Other disease": "Other diseases"}  # that of the test part's table
_CORNERS = ("x_min", "y_min", "x_max", "y_max")
_IDS = ("image_id", "rad_id")
_CELLS = {"": np.nan, "0": 0.0, "0.0": 0.0, "1": 1.0, "1.0": 1.0}


class VinDr(Source):
    """VinDr-CXR 1.0.0: the whole of what VinBigData is a part of, with 28 labels and a test part read by consensus.

    * **Size**: 18,000 frontal films: 15,000 for training, each read by three of 17 radiologists (45,000 rows), 3,000
      for testing, labelled by the consensus of five.
    * **Licence**: PhysioNet's for credentialed users, after training and a data use agreement.
    * **Labels**: the 28 of :data:`CODES`, 1 or 0; a blank cell is unknown. `Nodule/Mass` is one label. `No finding` is
      a column like the others.
    * **Split**: `image_labels_train.csv` is `train`, `image_labels_test.csv` `test`; validation is carved from `train`
      when splits are assigned. Where only the first is there, all images are `none`.
    * **Ids**: patient and study are not told: each film counts as a patient of its own. The training films are those
      of the source `vinbig`, under the same ids.
    * **Views**: PA, by the data set's description; no table says so.
    * **Folders**: the tables in `annotations/` or in the root; images `train/ID.dicom`, `test/ID.dicom`; converted
      copies of any ending, up to two folders deep, serve where the DICOM file is not there (reported).
    * **Boxes**: `annotations_train.csv` (with reader) and `annotations_test.csv` (without), in pixels of the film, of
      the 22 local labels; a row without a box is `No finding`.
    * **Quirks**: the test part's table says `Other disease`.
    * **Cite**: Nguyen et al., VinDr-CXR: an open dataset of chest X-rays with radiologist's annotations, Scientific
      Data 9, 429, 2022, arXiv:2012.15029.

    Args:
        root: Folder that holds the tables (or `annotations/`), `train/` and `test/`.
        labels: Label set; None: `vindr`. Labels that the data set has no column for get none.
        votes: When a label of a training film is present: `any` reader says so, the `majority`, or `all`; or
            `fraction`, the share of the readers who say so, as a soft label. The test part is a consensus already.
        unknown: What to do about a column that is no label of the data set.
    """

    name: ClassVar[str] = "vindr"
    default_labels: ClassVar[str | None] = "vindr"

    def __init__(
        self,
        root: str | Path,
        labels: LabelSet | None = None,
        votes: Votes = "majority",
        unknown: OnMismatch = "error",
    ) -> None:
        super().__init__(root, labels)
        check_votes(votes)
        self.votes = votes
        self.unknown = unknown

    def rows(self) -> tuple[pd.DataFrame, str]:
        """Read the image-level labels and the boxes of both parts, and the listing of the image folders."""
        files = {part: self.find_table((f"image_labels_{part}.csv",), FOLDERS) for part in ("train", "test")}
        there = {part: file for part, file in files.items() if file is not None}
        if not there:
            self.require_table(("image_labels_train.csv", "image_labels_test.csv"), FOLDERS)
        parts = [self._part(part, file, alone="test" not in there) for part, file in there.items()]
        table = pd.concat(parts, ignore_index=True)
        check_unique(table["image_id"], next(iter(there.values())))
        boxes = [found for part in there if (found := self._boxes(part)) is not None]
        self.boxes = pd.concat(boxes, ignore_index=True) if boxes else None
        return table, " and ".join(map(str, there.values()))

    def _part(self, part: str, file: Path, alone: bool) -> pd.DataFrame:
        """The images of one part with what their readers say together."""
        raw = read_text(file, required=("image_id", "rad_id") if part == "train" else ("image_id",))
        raw = raw.rename(columns=_SPELLINGS)
        for column in set(_IDS) & set(raw.columns):
            check_filled(raw[column], file)
        if part == "train":
            check_unique((raw["image_id"] + " by " + raw["rad_id"]).rename("image_id by rad_id"), file)
        else:
            check_unique(raw["image_id"], file)
        values = count_votes(self._readings(raw, file), raw["image_id"], self.votes)
        image_id = pd.Series(values.index, dtype="str")
        self.note(f"images of {file.name} with an unknown label", image_id[values.isna().any(axis=1).to_numpy()])
        table = pd.DataFrame(
            {
                "patient_id": image_id,
                "study_id": image_id,
                "image_id": image_id,
                "view": "PA",
                "path": find_images(self, image_id, f"{part}/{{}}.dicom"),
                "split": "none" if alone else part,
            }
        )
        return pd.concat([table, values.reset_index(drop=True)], axis=1)

    def _readings(self, raw: pd.DataFrame, file: Path) -> pd.DataFrame:
        """0, 1 or NaN per row and label of the set."""
        columns = [column for column in raw.columns if column not in _IDS and not column.startswith("Unnamed")]
        strange = strange_codes(columns, CODES)
        if strange and self.unknown == "error":
            raise InputError(
                f"{file}: columns that are no label of source {self.name!r}: {first(strange)}; its labels are "
                f"{', '.join(CODES)}. Correct the table, or leave them out with --unknown ignore"
            )
        self.note(f"columns of {file.name} that are no label of the data set, left out", strange)
        labels = self.require_labels()
        found = codes_of_labels(labels, self.name, [code for code in CODES if code in columns])
        require_codes(found, labels, self.name, str(file))
        cells = raw[sorted({code for codes in found.values() for code in codes})]
        for name in cells.columns:
            wrong = ~cells[name].str.strip().isin(_CELLS)
            if wrong.any():
                row = wrong.index[wrong][0]
                raise InputError(
                    f"{file}: column {name!r} has {cells[name][row]!r} in line {row + 2}; a label is 0, 1 or blank"
                )
        return combine(cells.apply(lambda column: column.str.strip().map(_CELLS)), found)

    def _boxes(self, part: str) -> pd.DataFrame | None:
        """The boxes of one part; None without their table."""
        file = self.find_table((f"annotations_{part}.csv",), FOLDERS)
        if file is None:
            return None
        raw = read_text(file, required=("image_id", "class_name", *_CORNERS))
        boxes = read_boxes(self, raw, _CORNERS, file, corners=True)
        names = raw["class_name"].str.strip().replace(_SPELLINGS)
        return box_table(boxes, raw["image_id"], names, reader=raw["rad_id"] if "rad_id" in raw.columns else "")
