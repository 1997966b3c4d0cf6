"""CheXpert v1.0, in full or small, with the labels of any of its three labellers."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import pandas as pd

from longview import InputError
from longview.data.sources.base import CODES, Source, check_unique, first, read_text, views_of
from longview.data.sources.policy import Policy, Rules, apply, read_codes
from longview.labels import LabelSet

logger = logging.getLogger(__name__)

Labeler = Literal["chexpert", "chexbert", "visualchexbert"]

LABELS = (
    "No Finding",
    "Enlarged Cardiomediastinum",
    "Cardiomegaly",
    "Lung Opacity",
    "Lung Lesion",
    "Edema",
    "Consolidation",
    "Pneumonia",
    "Atelectasis",
    "Pneumothorax",
    "Pleural Effusion",
    "Pleural Other",
    "Fracture",
    "Support Devices",
)
"""The data set's labels, in the column order of `train.csv`."""

TRAIN: dict[Labeler, tuple[str, ...]] = {
    "chexpert": ("train.csv",),
    "chexbert": ("train_cheXbert.csv", "train_CheXbert.csv"),
    "visualchexbert": ("train_visualCheXbert.csv", "train_VisualCheXbert.csv"),
}
"""Labeller -> names of its table of the training part."""

EVALUATION = {"val": ("valid.csv",), "test": ("test.csv", "test_labels.csv")}
"""Split -> names of its table, whatever the labeller: radiologists read these."""

_ABOUT = ("Path", "Sex", "Age", "Frontal/Lateral", "AP/PA")
_PLACE = r"(?:^|/)(?P<part>train|valid|test)/(?P<patient>patient\d+)/(?P<study>study\d+)/(?P<name>[^/]+)$"
_SEXES = {"Male": "M", "Female": "F"}


class Chexpert(Source):
    """CheXpert: frontal and lateral radiographs of Stanford Hospital, 2002 to 2017, labelled from their reports.

    * **Size**: train 223,414 JPEG images (8-bit grey) of 187,641 studies and 64,540 patients: 153,647 studies of one
      image, 32,215 of two, 1,779 of three. 191,027 frontal (161,590 AP, 29,420 PA, 17 marked LL or RL) and 32,387
      lateral. Validation 234 images of 200 patients; test, published later, 668 of 500. The full release has about
      2,300 x 2,800 px (440 GB), `-small` 390 x 320 px (11 GB).
    * **Licence**: Stanford University Dataset Research Use Agreement, accepted per person; no redistribution.
    * **Labels**: the 14 of :data:`LABELS`, per report, so the same for all images of a study. A cell is 1 (present), 0
      (absent), -1 (uncertain) or blank (not mentioned). Counts of train.csv, 1 / 0 / -1 / blank:

      ==========================  =======  ======  ======  =======
      label                             1       0      -1    blank
      ==========================  =======  ======  ======  =======
      No Finding                   22,381       0       0  201,033
      Enlarged Cardiomediastinum   10,798  21,638  12,403  178,575
      Cardiomegaly                 27,000  11,116   8,087  177,211
      Lung Opacity                105,581   6,599   5,598  105,636
      Lung Lesion                   9,186   1,270   1,488  211,470
      Edema                        52,246  20,726  12,984  137,458
      Consolidation                14,783  28,097  27,742  152,792
      Pneumonia                     6,039   2,799  18,770  195,806
      Atelectasis                  33,376   1,328  33,739  154,971
      Pneumothorax                 19,448  56,341   3,145  144,480
      Pleural Effusion             86,187  35,396  11,628   90,203
      Pleural Other                 3,523     316   2,653  216,922
      Fracture                      9,040   2,512     642  211,220
      Support Devices             116,001   6,137   1,079  100,197
      ==========================  =======  ======  ======  =======

    * **Policy**: by default uncertain is left out and blank is 0. The labeller's authors train with blanks as
      negatives, and left out they would leave hardly any: 6 % of all cells are 0, and none of `No Finding`. What each
      cell said is kept in :attr:`codes`.
    * **Labellers**: `chexbert` (`train_cheXbert.csv`, the same four values, `No Finding` last) and `visualchexbert`
      (`train_visualCheXbert.csv`, 0 or 1, taught by radiologists who saw the images) label the same training images
      anew. Validation and test are read by radiologists, 0 or 1 throughout, whichever is chosen.
    * **Split**: train -> `train`, valid -> `val`, test -> `test`; they share no patient.
    * **Ids**: patient `patient00001`; study `patient00001/study1`, for every patient has a study1; image
      `patient00001/study1/view1_frontal`.
    * **Folders**: tables and `train/`, `valid/`, `test/` in the root or in a folder `CheXpert-v1.0*` of it, and the
      full release's batches as they are unpacked (`CheXpert-v1.0 batch 2 (train 1)/patient00001`). The prefix in `Path`
      (`CheXpert-v1.0/`, `CheXpert-v1.0-small/`) does not matter. Where a patient lies in two of these folders, the
      first by name is read. A part of the tree is normal.
    * **Quirks**: 17 frontal images have LL or RL in `AP/PA`: their view is unknown. Ages above 90 are given as 90; 3
      are 0 and unknown here, since everyone else is 18 or older. One sex is `Unknown`. The test table has the labels
      and `Path` only, so its frontal images have no known view.
    * **Cite**: Irvin et al., CheXpert, AAAI 2019, arXiv:1901.07031; Smit et al., CheXbert, EMNLP 2020,
      arXiv:2004.09167; Jain et al., VisualCheXbert, CHIL 2021, arXiv:2102.11467.

    Args:
        root: Folder that holds the tables and images, or the release's folders.
        labels: Label set; None: `chexpert`. Labels that CheXpert does not have get no column.
        labeler: Whose labels the training part gets.
        uncertain: What -1 becomes; see :class:`~longview.data.sources.policy.Policy`.
        blank: What a blank cell becomes.
    """

    name: ClassVar[str] = "chexpert"
    default_labels: ClassVar[str | None] = "chexpert"

    def __init__(
        self,
        root: str | Path,
        labels: LabelSet | None = None,
        labeler: Labeler = "chexpert",
        uncertain: Rules = "ignore",
        blank: Rules = "zero",
    ) -> None:
        super().__init__(root, labels)
        if labeler not in TRAIN:
            raise InputError(f"source {self.name!r}: labeler is {labeler!r}; give --labeler {', '.join(TRAIN)}")
        self.labeler = labeler
        self.policy = Policy(uncertain, blank)

    def rows(self) -> tuple[pd.DataFrame, str]:
        """Read the tables that are there, and find out in which folder each patient lies."""
        folders = ["", *sorted(path.name for path in self.root.glob("CheXpert*") if path.is_dir())]
        files = self._files(folders)
        parts = [self._part(split, file) for split, file in files.items()]
        table = pd.concat([part for part, _ in parts], ignore_index=True)
        # a label that one of the tables lacks is not in the source there
        codes = pd.concat([codes for _, codes in parts], ignore_index=True).fillna(CODES["not in source"])
        names = [name for name in self.require_labels().names if name in codes.columns]
        self.codes = codes[names].astype(np.int8)
        self.note("frontal images that AP/PA calls lateral, view unknown", table.loc[table.pop("odd"), "image_id"])
        home = next(iter(files.values())).parent.relative_to(self.root).as_posix()
        table["path"] = self._paths(table.pop("patient"), table.pop("rest"), folders, home)
        return pd.concat([table, apply(self.codes, self.policy)], axis=1), str(self.root)

    def _files(self, folders: list[str]) -> dict[str, Path]:
        """Split -> table, for those that are there.

        Raises:
            InputError: Where there is none, or not the one that the labeller needs.
        """
        train = self.find_table(TRAIN[self.labeler], folders)
        others = {name: file for name in TRAIN if (file := self.find_table(TRAIN[name], folders)) is not None}
        if train is None and others:
            listed = ", ".join(f"{file} (--labeler {name})" for name, file in others.items())
            raise InputError(
                f"source {self.name!r}: labeler {self.labeler} needs {TRAIN[self.labeler][0]}, which is not in "
                f"{self.root}; there is {listed}"
            )
        found = {} if train is None else {"train": train}
        for split, names in EVALUATION.items():
            if (file := self.find_table(names, folders)) is not None:
                found[split] = file
        if train is None and self.labeler != "chexpert":
            self.require_table(TRAIN[self.labeler], folders)
        if not found:
            self.require_table([*TRAIN[self.labeler], *EVALUATION["val"], *EVALUATION["test"]], folders)
        absent = [
            names[0] for split, names in {"train": TRAIN[self.labeler], **EVALUATION}.items() if split not in found
        ]
        self.note(f"tables that are not in {self.root}, their part left out", absent)
        return found

    def _part(self, split: str, file: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Ids, view, age and sex of one table's images, and the codes of their labels."""
        raw = read_text(file, required=("Path",))
        check_unique(raw["Path"], file)
        place = raw["Path"].str.extract(_PLACE)
        strange = place["patient"].isna()
        if strange.any():
            line = int(np.argmax(strange)) + 2
            raise InputError(
                f"{file}: Path is {raw['Path'][line - 2]!r} in line {line}; it should end like "
                f"train/patient00001/study1/view1_frontal.jpg"
            )
        study = place["patient"] + "/" + place["study"]
        views, odd = _views(raw, place["name"])
        table = pd.DataFrame(
            {
                "patient_id": place["patient"],
                "study_id": study,
                "image_id": study + "/" + place["name"].str.replace(r"\.[^.]+$", "", regex=True),
                "view": views,
                "split": pd.Series(split, index=raw.index, dtype="str"),
                "meta_age": _ages(raw),
                "meta_sex": raw.get("Sex", _blank(raw)).map(_SEXES).fillna("").astype("str"),
                "patient": place["part"] + "/" + place["patient"],
                "rest": place["study"] + "/" + place["name"],
                "odd": odd,
            }
        )
        return table, self._codes(raw, file)

    def _codes(self, raw: pd.DataFrame, file: Path) -> pd.DataFrame:
        """Codes of those of the source's labels that the label set has."""
        columns = [column for column in raw.columns if column not in _ABOUT and not column.startswith("Unnamed")]
        absent = [label for label in LABELS if label not in columns]
        strange = [column for column in columns if column not in LABELS]
        if absent and strange:  # one of them may be a label that is spelt otherwise
            raise InputError(
                f"{file} lacks the label columns {', '.join(absent)} and has {first(strange)}, which are none; "
                f"correct the names, or remove the columns"
            )
        self.note(f"labels that {file.name} has no column for, unknown there", absent)
        labels, known = self.require_labels(), [label for label in LABELS if label in columns]
        found = labels.align(known, self.name, missing="ignore", unknown="ignore", context=str(file))
        if not found:
            raise InputError(f"{file}: no label of source {self.name!r} is a label of set {labels.name!r}")
        return read_codes(raw, found, file)

    def _paths(self, patients: pd.Series[str], rest: pd.Series[str], folders: list[str], home: str) -> pd.Series[str]:
        """Where each image lies below the root; beside the table, where a patient (`train/patient00001`) is not."""
        places: dict[str, str] = {}
        single: dict[str, str] = {}  # `patient00001` of a batch that is no part
        for folder in folders:
            for part in ("train", "valid", "test"):
                inner = f"{folder}/{part}" if folder else part
                for name in _patients(self.root / inner):
                    places.setdefault(f"{part}/{name}", f"{inner}/{name}")
            for name in _patients(self.root / folder):
                single.setdefault(name, f"{folder}/{name}" if folder else name)
        wanted = patients.unique().tolist()
        found = {key: place for key in wanted if (place := places.get(key, single.get(key.partition("/")[2])))}
        for part in dict.fromkeys(key.partition("/")[0] for key in wanted):
            absent = [key for key in wanted if key.startswith(f"{part}/") and key not in found]
            shown = ", ".join(f"{folder}/" if folder else str(self.root) for folder in folders)
            self.note(f"patients of {part}/ without a folder in {shown}", absent)
        prefix = "" if home == "." else f"{home}/"
        return (patients.map({key: found.get(key, f"{prefix}{key}") for key in wanted}) + "/" + rest).astype("str")


def _patients(folder: Path) -> list[str]:
    """Names of the patients' folders in a folder, [] where it is not there."""
    try:
        with os.scandir(folder) as entries:
            return [entry.name for entry in entries if entry.name.startswith("patient")]
    except (FileNotFoundError, NotADirectoryError):
        return []


def _views(raw: pd.DataFrame, names: pd.Series[str]) -> tuple[pd.Series[str], pd.Series[bool]]:
    """PA or AP for frontal images where that is told, lateral, else unknown; and where two columns disagree."""
    lateral = names.str.contains("lateral", case=False, regex=False)
    if "Frontal/Lateral" in raw.columns:
        lateral = raw["Frontal/Lateral"].str.strip().str.casefold() == "lateral"
    views = views_of(raw.get("AP/PA", _blank(raw)))
    odd = ~lateral & (views == "lateral")
    return views.mask(odd, "unknown").mask(lateral, "lateral").astype("str"), odd


def _ages(raw: pd.DataFrame) -> pd.Series[float]:
    """Years; NaN for blanks and 0, which three rows of a data set of adults say."""
    ages = pd.to_numeric(raw.get("Age", _blank(raw)), errors="coerce").astype(np.float64)
    return ages.where(ages > 0)


def _blank(raw: pd.DataFrame) -> pd.Series[str]:
    return pd.Series("", index=raw.index, dtype="str")
