"""MIMIC-CXR-JPG 2.x, with the labels of CheXpert's or NegBio's labeller."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import pandas as pd

from longview import InputError
from longview.data.manifest import read_csv, read_header
from longview.data.sources.base import CODES, Source, check_filled, check_unique, first, views_of
from longview.data.sources.policy import Policy, Rules, apply, read_codes
from longview.labels import LabelSet

Labeler = Literal["chexpert", "negbio"]

LABELS = (
    "Atelectasis",
    "Cardiomegaly",
    "Consolidation",
    "Edema",
    "Enlarged Cardiomediastinum",
    "Fracture",
    "Lung Lesion",
    "Lung Opacity",
    "No Finding",
    "Pleural Effusion",
    "Pleural Other",
    "Pneumonia",
    "Pneumothorax",
    "Support Devices",
)
"""The data set's labels, in the column order of its label tables."""

_LABELERS: tuple[Labeler, ...] = ("chexpert", "negbio")
_IDS = ("subject_id", "study_id")
_SPLITS = {"train": "train", "validate": "val", "test": "test"}


class Mimic(Source):
    """MIMIC-CXR-JPG: radiographs of Beth Israel Deaconess Medical Center, 2011 to 2016, labelled from their reports.

    * **Size**: 377,110 JPEG images (8-bit grey, full resolution, often about 2,500 x 3,000 px) of 227,835 studies and
      65,379 patients. AP 147,169, PA 96,155, LATERAL 82,852, LL 35,129, 22 others, about 15,800 blank.
    * **Licence**: PhysioNet credentialed health data licence; images and tables may not be passed on.
    * **Labels**: the 14 of :data:`LABELS`, per study: 1 (present), 0 (absent), -1 (uncertain) or blank (not mentioned),
      from `-chexpert.csv` or `-negbio.csv`, whichever `labeler` says. 227,827 studies have labels; the images of the 8
      others are kept with every label unknown. 2,414 studies are blank throughout in the CheXpert table. `No Finding`
      may stand beside Support Devices. Release 2.1.0's `test-set-labeled` (one radiologist, from the reports) is not
      read.
    * **Policy**: by default uncertain is left out and blank is 0, as for CheXpert: a report names what is there, and
      left out, the blanks would leave hardly any negatives. What each cell said is kept in :attr:`codes`.
    * **Split**: train -> `train`, validate -> `val`, test -> `test`, by patient. Without the split table every split is
      `none`; an image that the table does not name is left out and reported.
    * **Ids**: patient `10000032` (`subject_id`), study `s50414267`, image = `dicom_id`.
    * **Files**: `mimic-cxr-2.*-metadata.csv`, `-split.csv` and the labels, plain or gzipped, in the root (release 2.1.0
      keeps the names of 2.0.0; where there are several, the newest is read), and
      `files/p10/p10000032/s50414267/<dicom_id>.jpg`. A part of the tree is normal.
    * **Quirks**: `ViewPosition` is blank for about 4 % (unknown here) and wrong for about 0.1 %; obliques are unknown.
      Height and width are those of the image files.
    * **Cite**: Johnson et al., MIMIC-CXR-JPG, arXiv:1901.07042, 2019.

    Args:
        root: Folder that holds `files/` and the tables.
        labels: Label set; None: `mimic`. Labels that MIMIC-CXR-JPG does not have get no column.
        labeler: Which of the two label tables to read.
        uncertain: What -1 becomes; see :class:`~longview.data.sources.policy.Policy`.
        blank: What a blank cell becomes.
    """

    name: ClassVar[str] = "mimic"
    default_labels: ClassVar[str | None] = "mimic"

    def __init__(
        self,
        root: str | Path,
        labels: LabelSet | None = None,
        labeler: Labeler = "chexpert",
        uncertain: Rules = "ignore",
        blank: Rules = "zero",
    ) -> None:
        super().__init__(root, labels)
        if labeler not in _LABELERS:
            raise InputError(f"source {self.name!r}: labeler is {labeler!r}; give --labeler {', '.join(_LABELERS)}")
        self.labeler = labeler
        self.policy = Policy(uncertain, blank)

    def rows(self) -> tuple[pd.DataFrame, str]:
        """Read the metadata, and join split and labels."""
        file = self._require("metadata")
        raw = _read(file, ("dicom_id", *_IDS, "ViewPosition"), ("Rows", "Columns"))
        check_unique(raw["dicom_id"], file)
        for column in ("dicom_id", *_IDS):
            check_filled(raw[column], file)
        patient, image = raw["subject_id"].str.strip(), raw["dicom_id"].str.strip()
        study = _study(raw["study_id"])
        folder = "files/p" + patient.str[:2] + "/p" + patient + "/" + study + "/"
        table = pd.DataFrame(
            {
                "patient_id": patient,
                "study_id": study,
                "image_id": image,
                "view": views_of(raw["ViewPosition"]),
                "path": folder + image + ".jpg",
                "split": self._splits(image),
            }
        )
        for name, column in {"meta_height": "Rows", "meta_width": "Columns"}.items():
            if column in raw.columns:
                table[name] = pd.to_numeric(raw[column], errors="coerce").astype(np.float64)
        del raw
        self.codes = self._codes(study)
        table = pd.concat([table, apply(self.codes, self.policy)], axis=1)
        listed = table["split"] != ""
        if not listed.any():
            raise InputError(f"no image of {file} stands in the split table {self._find('split')}")
        self.note("left out, not in the split table", table.loc[~listed, "image_id"])
        self.codes = self.codes[listed]
        return table[listed], str(file)

    def _find(self, what: str) -> Path | None:
        """The newest release's table `mimic-cxr-2.x.x-{what}.csv`, plain or gzipped; None where there is none."""
        files = sorted(self.root.glob(f"mimic-cxr-2.*-{what}.csv*"), key=lambda file: file.name.removesuffix(".gz"))
        files = [file for file in files if file.name.endswith((".csv", ".csv.gz"))]
        return files[-1] if files else None

    def _require(self, what: str) -> Path:
        file = self._find(what)
        if file is None:
            raise InputError(
                f"source {self.name!r} found no table of {what} in {self.root}; looked for "
                f"mimic-cxr-2.*-{what}.csv and .csv.gz, which lie beside files/ in MIMIC-CXR-JPG"
            )
        return file

    def _splits(self, images: pd.Series[str]) -> pd.Series[str]:
        """Official split of each image, "" for one that the table does not name; `none` where there is no table."""
        file = self._find("split")
        if file is None:
            self.note("no table of the official split (mimic-cxr-2.*-split.csv) in", [self.root])
            return pd.Series("none", index=images.index, dtype="str")
        raw = _read(file, ("dicom_id", "split"))
        check_unique(raw["dicom_id"], file)
        strange = sorted(set(raw["split"].unique()) - set(_SPLITS))
        if strange:
            raise InputError(f"{file}: split has {first(strange)}; known are {', '.join(_SPLITS)}")
        splits = raw["split"].map(_SPLITS).set_axis(raw["dicom_id"].str.strip())
        return images.map(splits).fillna("").astype("str")

    def _codes(self, studies: pd.Series[str]) -> pd.DataFrame:
        """What the labeller said of each image's study: int8, a column for each of its labels that the set has."""
        file = self._require(self.labeler)
        raw = _read(file, ("study_id", *LABELS))
        raw["study_id"] = _study(raw["study_id"])
        check_unique(raw["study_id"], file)
        labels = self.require_labels()
        found = labels.align(LABELS, self.name, missing="ignore", unknown="ignore", context=str(file))
        if not found:
            raise InputError(f"{file}: no label of source {self.name!r} is a label of set {labels.name!r}")
        codes = read_codes(raw, found, file)
        rows = pd.Index(raw["study_id"]).get_indexer(pd.Index(studies))
        self.note(f"studies that {file.name} does not name, labels unknown", studies[rows < 0].unique())
        values = np.where((rows >= 0)[:, None], codes.to_numpy(np.int8)[rows], np.int8(CODES["not in source"]))
        return pd.DataFrame(values, columns=codes.columns, index=studies.index)


def _read(file: Path, required: tuple[str, ...], optional: tuple[str, ...] = ()) -> pd.DataFrame:
    """These columns of a table as text, blanks as ""; the others are not kept in memory.

    Raises:
        InputError: Where the file is unreadable, has no rows, or lacks a required column.
    """
    header = read_header(file)
    absent = [column for column in required if column not in header]
    if absent:
        raise InputError(f"{file} lacks the columns {', '.join(absent)}; it has {', '.join(header)}")
    wanted = [column for column in (*required, *optional) if column in header]
    table = read_csv(file, usecols=wanted, dtype="str", keep_default_na=False)
    if table.empty:
        raise InputError(f"{file} has no rows")
    return table


def _study(numbers: pd.Series[str]) -> pd.Series[str]:
    """Study ids with the `s` that MIMIC's folders have."""
    return "s" + numbers.str.strip().str.removeprefix("s")
