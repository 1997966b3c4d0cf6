"""CXR-LT 2026: PadChest with the challenge's label tables."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd

from longview import InputError
from longview.data.manifest import read_csv, read_header, read_table
from longview.data.sources.base import Source, check_filled, check_unique, first, views_of

TRAINING = "CXRLT_2026_training.csv"
REMOVAL = "Removal.csv"
PADCHEST = "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv"

FOLDERS = ("", "cxr-lt-2026", "CXRLT-2026-TRAINING DATA")
"""Where the tables may lie below the root; the last is their folder in the challenge's repository."""

_EVALUATION = re.compile(r"CXRLT_2026_(?!training).*?(?P<part>dev|val|test).*\.csv(\.gz)?", re.IGNORECASE)
_IDS = ("ImageID", "StudyDate_DICOM", "PatientID")
_PADCHEST_COLUMNS = ("ImageID", "StudyID", "PatientID", "Projection")
_FLOAT = r"[\d.,]+E\+?\d+"  # what a spreadsheet makes of a number of 39 digits


class CxrLt2026(Source):
    """CXR-LT 2026: long-tailed multi-label and zero-shot classification of PadChest films.

    * **Size**: 142,928 training images; for evaluation 3,020 frontal films of PadChest-GR with a finding (1,620
      development, 1,400 test). 16-bit PNG. Not verified: where the NIH images of the challenge's overview are.
    * **Licence**: not verified; the images are PadChest's and come from its provider, the tables from the challenge.
    * **Labels**: 30 of task 1 (from reports), and 6 that training does not have, for task 2. 1 or 0, by column name
      in any order; an empty cell is unknown. `CXRLT_2026_TEST_ALL_TASK1.csv` and `..._TASK2.csv`, as published, name
      images only: all their labels are NaN, and such a part is for a submission.
    * **Split**: the files have none but for the evaluation tables, which are all `CXRLT_2026_*.csv` with `test`, `dev`
      or `val` in the name; an image in several of them gets the labels of each. Those of `dev` and `val` become `val`
      where a label is known, else `test`. Beside such tables the training images are `train`, from which `prepare`
      takes validation if there is none; without them all are `none`, and `prepare` divides the patients.
      Should training hold a patient of an evaluation table, that patient stays in the strictest part (test, then
      val); the other images are left out and reported. So are training images that `Removal.csv` names; what it is
      for is not verified (it names the test images and others of their patients).
    * **Ids**: image = `ImageID` without its ending; patient, study (`StudyID`) and view (`Projection`) from PadChest's
      own table, where that lies beside the others; else study = patient and `StudyDate_DICOM`, and the view is unknown.
    * **Folders**: the images in the root, in folders of it (PadChest's `ImageDir`), in `images/` or in folders of
      that. A part of the tree is normal; images that are not there are left out and counted.
    * **Quirks**: `PatientID` was saved by a spreadsheet as a number: `3.24E+38` is many patients. Such a table is
      refused without PadChest's own, from which the ids are then taken. Images that PadChest's table does not name are
      left out and reported. About 21 of PadChest's PNG files are damaged; `prepare` lists what it cannot read.
    * **Cite**: Dong et al., Overview of the CXR-LT 2026 challenge, arXiv:2602.22092, 2026; Bustos et al., PadChest,
      Medical Image Analysis 66, 2020, doi:10.1016/j.media.2020.101797.

    Args:
        root: Folder of the images, with the tables beside them or in one of :data:`FOLDERS`.
        labels: Label set; None: `cxr_lt_2026`.
    """

    name: ClassVar[str] = "cxr-lt-2026"
    default_labels: ClassVar[str | None] = "cxr_lt_2026"

    def rows(self) -> tuple[pd.DataFrame, str]:
        """Read the training table, the evaluation tables that are there, and PadChest's own."""
        file = self.require_table((TRAINING,), FOLDERS)
        train, evaluation = self._training(file), self._evaluation()
        parts = [train.assign(split="none")] if evaluation is None else [train, evaluation]
        table = self._identified(pd.concat(parts, ignore_index=True), file)
        table["path"] = self._paths(table["image_id"])
        table["image_id"] = table["image_id"].str.removesuffix(".png")
        return self._apart(table), str(file)

    def _training(self, file: Path) -> pd.DataFrame:
        """Training images with the set's seen labels, without those that are to be removed."""
        raw = _read(file)
        columns = _label_columns(raw)
        found = self.require_labels().align(columns, self.name, missing="error", unknown="ignore", context=str(file))
        table = pd.concat([_ids(raw), _numbers(raw, found, file)], axis=1).assign(split="train")
        removal = self.find_table((REMOVAL,), FOLDERS)
        if removal is None:
            return table
        removed = table["image_id"].isin(_read(removal)["ImageID"])
        self.note(f"left out, named in {REMOVAL}", table.loc[removed, "image_id"])
        return table[~removed]

    def _evaluation(self) -> pd.DataFrame | None:
        """Images of all evaluation tables, each once, with the labels that any of them knows; None without tables."""
        labels, parts = self.require_labels(), []
        folders = [folder for name in FOLDERS if (folder := self.root / name).is_dir()]
        for file in sorted(file for folder in folders for file in folder.iterdir()):
            name = _EVALUATION.fullmatch(file.name)
            if name is None:
                continue
            raw = _read(file)
            columns = {labels.canonical(column, self.name): column for column in _label_columns(raw)}
            wanted = [label for label in (*labels.names, *labels.unseen_names) if label in columns]
            values = _numbers(raw, {label: columns[label] for label in wanted}, file)
            split = "test" if name["part"].casefold() == "test" else "val"
            parts.append(pd.concat([_ids(raw), values], axis=1).assign(split=split))
        if not parts:
            return None
        table = pd.concat(parts).sort_values("split", kind="stable")  # test before val
        table = table.groupby("image_id", sort=False, as_index=False).first()  # of each label the first known value
        known = table.drop(columns=["image_id", "patient_id", "study_id", "split"]).notna().any(axis=1)
        blind = (table["split"] == "val") & ~known
        self.note("development images without labels cannot validate, taken as test", table.loc[blind, "image_id"])
        return table.assign(split=table["split"].mask(blind, "test").astype("str"))

    def _identified(self, table: pd.DataFrame, file: Path) -> pd.DataFrame:
        """Patient, study and view of each image, from PadChest's own table where it is there."""
        padchest = self.find_table((PADCHEST,), FOLDERS)
        if padchest is None:
            if lossy := _lossy(table["patient_id"]):
                raise InputError(
                    f"{file}: PatientID was saved as a number ({first(lossy)}), so that many patients have become one. "
                    f"Put PadChest's own table {PADCHEST} beside it, from which the ids are then taken"
                )
            return table.assign(view="unknown")
        known = _padchest(padchest)
        there = table["image_id"].isin(known.index)
        self.note(f"left out, not named in {padchest.name}", table.loc[~there, "image_id"])
        if not there.any():
            raise InputError(f"{padchest} names none of the {len(table)} images of {file}; is it PadChest's own table?")
        table = table[there].reset_index(drop=True)
        own = known.loc[table["image_id"]].reset_index(drop=True)
        return table.assign(patient_id=own["PatientID"], study_id=own["StudyID"], view=views_of(own["Projection"]))

    def _paths(self, names: pd.Series[str]) -> pd.Series[str]:
        """Where each image lies below the root; in the root itself for one that lies nowhere."""
        places: dict[str, str] = {}
        for above in (self.root, self.root / "images"):
            folders = [above, *sorted(path for path in above.iterdir() if path.is_dir())] if above.is_dir() else []
            for folder in folders:
                place = folder.relative_to(self.root).as_posix()
                with os.scandir(folder) as entries:
                    for entry in entries:
                        places.setdefault(entry.name, f"{place}/{entry.name}".removeprefix("./"))
        return names.map(places).fillna(names).astype("str")

    def _apart(self, table: pd.DataFrame) -> pd.DataFrame:
        """Keep each patient in one split, the strictest that has it; the manifest allows nothing else."""
        rank = table["split"].map({split: rank for rank, split in enumerate(("test", "val", "train", "none"))})
        moved = rank > rank.groupby(table["patient_id"]).transform("min")
        self.note("left out, the patient stands in a stricter split too", table.loc[moved, "image_id"])
        return table[~moved]


def _read(file: Path) -> pd.DataFrame:
    """A table of the challenge, its ids as text."""
    raw = read_table(file, text=_IDS)
    absent = [name for name in _IDS if name not in raw.columns]
    if absent:
        raise InputError(f"{file} lacks the columns {', '.join(absent)}; it has {', '.join(map(str, raw.columns))}")
    for name in _IDS:
        check_filled(raw[name], file)
    check_unique(raw["ImageID"], file)
    return raw


def _ids(raw: pd.DataFrame) -> pd.DataFrame:
    patient = raw["PatientID"].str.strip()
    study = patient + "_" + raw["StudyDate_DICOM"].str.strip()
    return pd.DataFrame({"image_id": raw["ImageID"], "patient_id": patient, "study_id": study})


def _lossy(ids: pd.Series[str]) -> list[str]:
    """The different ids that are numbers in a spreadsheet's notation."""
    return ids[ids.str.fullmatch(_FLOAT, case=False)].unique().tolist()


def _label_columns(raw: pd.DataFrame) -> list[str]:
    """Named columns that are no ids: the published test table of task 1 has 30 without a name."""
    return [name for name in raw.columns if name not in _IDS and not name.startswith("Unnamed")]


def _numbers(raw: pd.DataFrame, found: dict[str, str], file: Path) -> pd.DataFrame:
    """Label -> column as float32 columns named by label."""
    text = [column for column in found.values() if not pd.api.types.is_numeric_dtype(raw[column])]
    if text:
        raise InputError(f"{file}: label columns {', '.join(text)} hold text; a label is 0, 1 or blank")
    return pd.DataFrame({label: raw[column].astype(np.float32) for label, column in found.items()}, index=raw.index)


def _padchest(file: Path) -> pd.DataFrame:
    """PadChest's own table by image.

    Raises:
        InputError: Where it lacks columns, or its ids were saved as numbers too.
    """
    header = read_header(file)
    absent = [name for name in _PADCHEST_COLUMNS if name not in header]
    if absent:
        raise InputError(f"{file} lacks the columns {', '.join(absent)}; it has {', '.join(header)}")
    table = read_csv(file, usecols=_PADCHEST_COLUMNS, dtype="str", keep_default_na=False)
    if lossy := _lossy(table["PatientID"]):
        raise InputError(f"{file}: PatientID was saved as a number ({first(lossy)}); take the original file")
    named = (table[["ImageID", "StudyID", "PatientID"]] != "").all(axis=1)
    return table[named].drop_duplicates("ImageID").set_index("ImageID")
