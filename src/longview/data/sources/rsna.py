"""RSNA Pneumonia Detection Challenge (Kaggle, 2018)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd

from longview import InputError
from longview.data.sources.base import Source, check_filled, first, read_text, views_of
from longview.data.sources.boxes import box_table, read_boxes
from longview.data.sources.places import find_images
from longview.data.sources.readers import codes_of_labels, require_codes

TABLE = "stage_2_train_labels.csv"
CLASSES = "stage_2_detailed_class_info.csv"
MAPPING = "pneumonia-challenge-dataset-mappings_2018.json"
HEADERS = "kaggle_stage_2_train_images_dicom_headers.csv"

CODES = ("Target", "Lung Opacity")
"""The one label, under the name of its column and of its class; a label set may know either."""

_FRAME = 1024  # side of the official films, in whose pixels the boxes are
_CORNERS = ("x", "y", "width", "height")
_NIH_IMAGE = r"\d{8}_\d{3}(?:\.png)?"


class Rsna(Source):
    """RSNA Pneumonia Detection Challenge, stage 2: films of NIH ChestX-ray14, read anew for opacities.

    * **Size**: 26,684 training films, 30,227 rows; 6,012 films with 9,555 boxes. The 3,000 films of the test part have
      no labels here and are not read. DICOM, 1024x1024 px, 8 bits, JPEG.
    * **Licence**: the rules of the competition, to be accepted there; not verified here. The films are NIH's.
    * **Labels**: one, `Target`: an opacity of the lung that may be pneumonia, which is the label Lung Opacity. Read by
      18 radiologists. 20,672 films are 0; by the class in
      `stage_2_detailed_class_info.csv`, if that is there (`meta_class`), they are `Normal` or `No Lung Opacity / Not
      Normal`.
    * **Split**: none official but for the test part without labels.
    * **Ids**: `patientId` names a film, not a patient. With `pneumonia-challenge-dataset-mappings_2018.json` (from the
      challenge's page at RSNA) in the root the patients are NIH's (`00000001`) and `meta_nih_image` names the NIH film;
      without it each film counts as a patient of its own (reported), though many films are one person's.
    * **Views**: PA 14,511 and AP 12,173, in the DICOM headers only: read from a table of them,
      `kaggle_stage_2_train_images_dicom_headers.csv` (torchxrayvision brings one), if that is there, with age and sex;
      else unknown.
    * **Folders**: `stage_2_train_images/ID.dcm`; converted copies of any ending, up to two folders deep, serve where
      the DICOM file is not there (reported).
    * **Boxes**: of positive films, in pixels of the 1024 px film; labelled `Lung Opacity`.
    * **Quirks**: the films are NIH's, so a run on both must not test on the other's training films; the official NIH
      test list does not hold for this set. Patient ages in the headers go up to 155 (here: unknown above 140).
    * **Cite**: Shih et al., Augmenting the National Institutes of Health chest radiograph dataset with expert
      annotations of possible pneumonia, Radiology: Artificial Intelligence 1(1), 2019, doi:10.1148/ryai.2019180041.

    Args:
        root: Folder that holds the table and the images.
        labels: Label set; None: `rsna`.
    """

    name: ClassVar[str] = "rsna"
    default_labels: ClassVar[str | None] = "rsna"

    def rows(self) -> tuple[pd.DataFrame, str]:
        """Read the boxes, what the other tables know, and the listing of the image folders."""
        file = self.require_table((TABLE,))
        raw = read_text(file, required=("patientId", "Target", *_CORNERS))
        check_filled(raw["patientId"], file)
        targets = self._targets(raw, file)
        image_id = pd.Series(targets.index, dtype="str")
        table = pd.DataFrame(
            {
                "patient_id": image_id,
                "study_id": image_id,
                "image_id": image_id,
                "view": "unknown",
                "path": find_images(self, image_id, "stage_2_train_images/{}.dcm"),
                "split": "none",
            }
        )
        table = self._with_headers(self._with_class(self._with_patients(table)))
        labels = self.require_labels()
        found = codes_of_labels(labels, self.name, CODES)
        require_codes(found, labels, self.name, str(file))
        table = table.assign(**{label: targets.to_numpy(np.float32) for label in found})
        self.boxes = box_table(read_boxes(self, raw, _CORNERS, file), raw["patientId"], CODES[1], _FRAME)
        return table, str(file)

    @staticmethod
    def _targets(raw: pd.DataFrame, file: Path) -> pd.Series[str]:
        """`Target` by image, in the order of the table."""
        wrong = ~raw["Target"].isin(["0", "1"])
        if wrong.any():
            row = wrong.index[wrong][0]
            raise InputError(f"{file}: Target is {raw.loc[row, 'Target']!r} in line {row + 2}; it is 0 or 1")
        pairs = raw[["patientId", "Target"]].drop_duplicates()
        both = pairs.loc[pairs["patientId"].duplicated(), "patientId"].tolist()
        if both:
            raise InputError(f"{file}: films with Target 0 and 1: {first(both)}; take the original table")
        return pairs.set_index("patientId")["Target"]

    def _with_patients(self, table: pd.DataFrame) -> pd.DataFrame:
        """NIH's patients and films, where the mapping is there."""
        file = self.root / MAPPING
        if not file.is_file():
            self.note(f"{MAPPING} is not in the root, each film counts as a patient of its own", [self.root])
            return table
        images = table["image_id"].map(_mapping(file)).astype("str")
        absent = images.isna()
        self.note(f"films that {MAPPING} does not name, each counts as a patient of its own", table["path"][absent])
        patients = images.str.partition("_")[0]
        return table.assign(
            patient_id=patients.where(~absent, table["patient_id"]).astype("str"), meta_nih_image=images.fillna("")
        )

    def _with_class(self, table: pd.DataFrame) -> pd.DataFrame:
        """The detailed class, where its table is there."""
        file = self.find_table((CLASSES,))
        if file is None:
            return table
        raw = read_text(file, required=("patientId", "class")).drop_duplicates("patientId")
        classes = table["image_id"].map(raw.set_index("patientId")["class"])
        return table.assign(meta_class=classes.fillna("").astype("str"))

    def _with_headers(self, table: pd.DataFrame) -> pd.DataFrame:
        """View, age and sex from a table of DICOM headers, where that is there."""
        file = self.find_table((HEADERS,))
        if file is None:
            return table
        raw = read_text(file, required=("PatientID", "ViewPosition", "PatientAge", "PatientSex"))
        known = raw.drop_duplicates("PatientID").set_index("PatientID").reindex(table["image_id"]).fillna("")
        known = known.set_index(table.index)
        ages = pd.to_numeric(known["PatientAge"], errors="coerce").astype(np.float64)
        return table.assign(
            view=views_of(known["ViewPosition"]), meta_age=ages.where(ages <= 140), meta_sex=known["PatientSex"]
        )


def _mapping(file: Path) -> dict[str, str]:
    """Film of the challenge -> film of NIH (`00000001_000`).

    Raises:
        InputError: Where the file is not the challenge's mapping.
    """
    try:
        entries = json.loads(file.read_text(encoding="utf-8-sig"))
        pairs = {str(entry["subset_img_id"]): str(entry["img_id"]) for entry in entries}
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(
            f"{file} is not the challenge's mapping, a list of subset_img_id and img_id ({error!r}); download it again"
        ) from error
    images = pd.Series(pairs, dtype="str")
    odd = images[~images.str.fullmatch(_NIH_IMAGE)]
    if len(odd):
        raise InputError(f"{file}: img_id that are no NIH images: {first(odd.tolist())}; download it again")
    return dict(zip(images.index, images.str.removesuffix(".png"), strict=True))
