"""VinBigData's chest X-rays (Kaggle)."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd

from longview import InputError
from longview.data.sources.base import Source, check_filled, first, read_text
from longview.data.sources.boxes import box_table, read_boxes
from longview.data.sources.places import find_images
from longview.data.sources.readers import (
    Votes,
    check_votes,
    codes_of_labels,
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
    "Consolidation",
    "ILD",
    "Infiltration",
    "Lung Opacity",
    "Nodule/Mass",
    "Other lesion",
    "Pleural effusion",
    "Pleural thickening",
    "Pneumothorax",
    "Pulmonary fibrosis",
    "No finding",
)
"""The data set's classes in the order of their `class_id`, 0 to 14."""

TABLE = "train.csv"
_SIZES = "train_meta.csv"
_CORNERS = ("x_min", "y_min", "x_max", "y_max")


class VinBig(Source):
    """VinBigData Chest X-ray Abnormalities Detection: frontal films of two hospitals of Hanoi, each read by three.

    * **Size**: 15,000 training films, 67,914 rows (36,096 boxes) of 17 radiologists, three to a film; 10,606 films
      without any finding. The 3,000 films of the test part have no labels here (VinDr-CXR has them) and are not read.
    * **Licence**: the rules of the competition, to be accepted there; not verified here.
    * **Labels**: 14 of :data:`CODES`, in the order of `class_id`; `No finding` is no label but where the label set
      has it. `Nodule/Mass` is one label, and says nothing about either alone. Films with a vote of any reader / of at
      least two / of all three: Aortic enlargement 3,067 / 2,346 / 1,744; Atelectasis 186 / 62 / 18; Calcification
      452 / 177 / 57; Cardiomegaly 2,300 / 1,817 / 1,297; Consolidation 353 / 121 / 31; ILD 386 / 152 / 71;
      Infiltration 613 / 245 / 91; Lung Opacity 1,322 / 547 / 167; Nodule/Mass 826 / 405 / 181; Other lesion
      1,134 / 362 / 127; Pleural effusion 1,032 / 634 / 439; Pleural thickening 1,981 / 882 / 365; Pneumothorax
      96 / 58 / 45; Pulmonary fibrosis 1,617 / 1,017 / 633.
    * **Split**: none official but for the test part without labels.
    * **Ids**: patient and study are not told: each film counts as a patient of its own. The films are those of
      VinDr-CXR's training part, under the same ids.
    * **Views**: PA, by the data set's description; no table says so.
    * **Folders**: `train/ID.dicom`; converted copies of any ending, in the root or up to two folders deep, serve where
      the DICOM file is not there (reported).
    * **Boxes**: every one of each reader, in pixels of the original film. Its size is in no table of the data set: it
      is taken from columns `width` and `height` or from `train_meta.csv` (`image_id, dim0, dim1`: rows, columns),
      which converted copies often bring, else left open. Boxes of images that were made smaller need it.
    * **Quirks**: one row per annotation; a reader who saw nothing has one row `No finding` without a box. Some films
      are MONOCHROME1. A reader may give a film several boxes of one class: that is one vote.
    * **Cite**: Nguyen et al., VinDr-CXR: an open dataset of chest X-rays with radiologist's annotations, Scientific
      Data 9, 429, 2022, arXiv:2012.15029.

    Args:
        root: Folder that holds `train.csv` and the images.
        labels: Label set; None: `vinbig`. Labels that the data set has no class for get no column.
        votes: When a label is present: `any` reader says so, the `majority`, or `all`; or `fraction`, the share of
            the readers who say so (0, 1/3, 2/3, 1), as a soft label.
        unknown: What to do about a class in the table that the data set does not have.
    """

    name: ClassVar[str] = "vinbig"
    default_labels: ClassVar[str | None] = "vinbig"

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
        """Read the annotations and the listing of the image folders."""
        file = self.require_table((TABLE,))
        raw = read_text(file, required=("image_id", "class_name", "rad_id", *_CORNERS))
        for column in ("image_id", "class_name", "rad_id"):
            check_filled(raw[column], file)
        raw["class_name"] = raw["class_name"].str.strip()
        self._check_classes(raw, file)
        values = self._values(raw, file)
        image_id = pd.Series(values.index, dtype="str")
        table = pd.DataFrame(
            {
                "patient_id": image_id,
                "study_id": image_id,
                "image_id": image_id,
                "view": "PA",
                "path": find_images(self, image_id, "train/{}.dicom"),
                "split": "none",
            }
        )
        self._read_boxes(raw, table, file)
        return pd.concat([table, values.reset_index(drop=True)], axis=1), str(file)

    def _check_classes(self, raw: pd.DataFrame, file: Path) -> None:
        """Refuse classes that the data set does not have, and numbers that say another class than the name."""
        strange = strange_codes(raw["class_name"], CODES)
        if strange and self.unknown == "error":
            raise InputError(
                f"{file}: class_name has {first(strange)}, no class of source {self.name!r}; its classes are "
                f"{', '.join(CODES)}. Correct the table, or leave them out with --unknown ignore"
            )
        self.note("classes that the data set does not have, left out", strange)
        if "class_id" not in raw.columns:
            return
        numbers = raw["class_name"].map({code: str(number) for number, code in enumerate(CODES)})
        wrong = numbers.notna() & (numbers != raw["class_id"].str.strip().str.removesuffix(".0"))
        if wrong.any():
            row = wrong.index[wrong][0]
            raise InputError(
                f"{file}: line {row + 2} names class {raw['class_name'][row]!r} with class_id "
                f"{raw['class_id'][row]}, which is another; {int(wrong.sum())} rows are so. Take the original table"
            )

    def _values(self, raw: pd.DataFrame, file: Path) -> pd.DataFrame:
        """What the readers of each image say together; one row per image, one column per label."""
        labels = self.require_labels()
        found = codes_of_labels(labels, self.name, CODES)
        require_codes(found, labels, self.name, str(file))
        marks = pd.DataFrame({label: raw["class_name"].isin(codes) for label, codes in found.items()})
        readings = marks.groupby([raw["image_id"], raw["rad_id"]], sort=False).any()
        images = readings.index.get_level_values("image_id").to_series()
        values = count_votes(readings, images, self.votes)
        return values.rename_axis(None)

    def _read_boxes(self, raw: pd.DataFrame, table: pd.DataFrame, file: Path) -> None:
        boxes = read_boxes(self, raw, _CORNERS, file, corners=True)
        frames = self._frames(raw)
        self.boxes = box_table(boxes, raw["image_id"], raw["class_name"], frames, raw["rad_id"])
        sized = raw["image_id"].loc[frames["frame_width"].notna()]
        converted = ~table["path"].str.lower().str.endswith((".dicom", ".dcm")) & ~table["image_id"].isin(sized)
        self.note(
            f"converted images whose original size is not told ({_SIZES} would), boxes are wrong if they were resized",
            table.loc[converted & table["image_id"].isin(self.boxes["image_id"]), "path"],
        )

    def _frames(self, raw: pd.DataFrame) -> pd.DataFrame:
        """Width and height of the original film of each row, in pixels, where a table tells them."""
        columns = pd.DataFrame({"frame_width": "", "frame_height": ""}, index=raw.index)
        sizes = self.find_table((_SIZES,))
        if {"width", "height"} <= set(raw.columns):
            columns = raw[["width", "height"]].set_axis(columns.columns, axis=1)
        elif sizes is not None:
            known = read_text(sizes, required=("image_id", "dim0", "dim1")).drop_duplicates("image_id")
            known = known.set_index("image_id")[["dim1", "dim0"]].set_axis(columns.columns, axis=1)
            columns = known.reindex(raw["image_id"]).set_index(raw.index)
        frames: pd.DataFrame = columns.apply(pd.to_numeric, errors="coerce").astype(np.float64)
        return frames
