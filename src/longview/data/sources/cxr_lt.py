"""CXR-LT 2024 and 2023: MIMIC-CXR-JPG with the challenges' label tables."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import pandas as pd

from longview import InputError
from longview.data.manifest import read_csv, read_header, read_table
from longview.data.sources.base import Source, check_unique, first, views_of
from longview.labels import LabelSet

Part = Literal["train", "val", "test"]

TABLES: dict[Part, tuple[str, ...]] = {
    "train": ("train_labeled.csv", "train.csv"),
    "val": (
        "development_labeled_task1.csv",
        "development_labeled_task2.csv",
        "development_labeled_task3.csv",
        "development.csv",
    ),
    "test": ("test_labeled_task1.csv", "test_labeled_task2.csv", "test_labeled_task3.csv", "test.csv"),
}
"""Tables of the challenge's parts; which of them is read follows from the labels asked for."""

TABLES_2023: dict[Part, tuple[str, ...]] = {"train": ("train.csv",), "val": ("development.csv",), "test": ("test.csv",)}
"""Those of CXR-LT 2023."""

FOLDERS = ("", "cxr-lt-2024", "cxr-lt-2023")
"""Where the tables may lie below the root."""

METADATA = ("mimic-cxr-2.0.0-metadata.csv",)
_IDS = ("dicom_id", "subject_id", "study_id")
_PATHS = ("fpath", "path")  # 2024, 2023
_NO_LABELS = {*_IDS, *_PATHS, "ViewPosition", "ViewCodeSequence_CodeMeaning", "split"}
_SPLITS = {
    "train": "train",
    "val": "val",
    "validate": "val",
    "dev": "val",
    "development": "val",
    "test": "test",
}
_STRICTEST = ("test", "val", "train")


class CxrLt2024(Source):
    """CXR-LT 2024: long-tailed multi-label classification of MIMIC-CXR-JPG studies.

    * **Size**: 377,110 JPEG images (8-bit grey, often about 2500x3000 px) of 227,835 studies and 65,379
      patients. 2024: train 258,871 images (45,480 patients, 155,823 studies), development 39,293, test
      78,946; the test labels of task 2 are 406 images read by hand. 2023: train 264,849.
    * **Licence**: PhysioNet credentialed health data licence; images and tables may not be passed on.
    * **Labels**: task 1: 40, task 2: 26, task 3: 5 that train does not have (zero-shot); 2023: 26 (also as
      source `cxr-lt-2023`). 1 or 0, from reports (task 2's by hand), the same for all images of a study. Label
      columns are all that are not metadata, found by name in any order: the 2024 files have `Normal, Nodule`
      where those of 2023 order otherwise.
    * **Which tables**: for each part the one that has all (seen) labels of the set and no other, else the
      first that has all: a task-2 set reads `*_task2.csv`, the sets of tasks 1 and 3 and any smaller set
      `*_task1.csv`; `task` overrides it. Labels that the set marks unseen come from `*_task3.csv`, where it
      is there, and are NaN in train. Without a labelled table the unlabelled `development.csv` or `test.csv`
      is read, its labels NaN. Without any of these, `labels.csv` (all images, with a column `split`).
      `train_labeled.csv` serves all tasks.
    * **Split**: train -> `train`, development -> `val` (see `development`), test -> `test`. The parts are
      patient-wise as far as their published counts show (69.6 % of the patients have 68.6 % of the images in
      train). Should tables share a patient all the same, the patient's rows stay in the strictest part (test,
      then val) and its other rows are left out and reported: evaluation stays whole and nothing leaks.
    * **Ids**: patient = `subject_id`, study = `s` + number, image = `dicom_id`. A study has 1 to 11 images.
    * **Quirks**: `fpath` (2024) or `path` (2023), `files/p10/p10000032/s50414267/<dicom_id>.jpg`; a part of
      the tree is normal, and images that are not there are left out and counted. `ViewPosition` is blank for
      about 4 % (unknown here) and wrong for about 0.1 %. Height and width (px) come from
      `mimic-cxr-2.0.0-metadata.csv[.gz]`, where the root has it.
    * **Cite**: Johnson et al., MIMIC-CXR-JPG, arXiv:1901.07042, 2019; Holste et al., Towards long-tailed,
      multi-label disease classification from chest X-ray: overview of the CXR-LT challenge, 2024; Lin et al.,
      CXR-LT 2024: a MICCAI challenge, arXiv:2506.07984, 2025.

    Args:
        root: Folder that holds `files/`, and the tables beside it or in `cxr-lt-2024/`.
        labels: Label set; None: `cxr_lt_2024_task1`.
        task: Read the tables of this task (1, 2 or 3); None: those that fit the labels best.
        development: What becomes of development rows. `val`; `test`; `ignore` to leave them out. Unlabelled
            development rows cannot validate anything and become `test`.
    """

    name: ClassVar[str] = "cxr-lt-2024"
    default_labels: ClassVar[str | None] = "cxr_lt_2024_task1"
    tables: ClassVar[dict[Part, tuple[str, ...]]] = TABLES
    folders: ClassVar[tuple[str, ...]] = FOLDERS

    def __init__(
        self,
        root: str | Path,
        labels: LabelSet | None = None,
        task: Literal[1, 2, 3] | None = None,
        development: Literal["val", "test", "ignore"] = "val",
    ) -> None:
        super().__init__(root, labels)
        if task not in (1, 2, 3, None):
            raise InputError(f"source {self.name!r}: task is {task!r}; give --task 1, 2 or 3, or leave it out")
        if development not in ("val", "test", "ignore"):
            raise InputError(
                f"source {self.name!r}: development is {development!r}; give --development val, test or ignore"
            )
        self.task = task
        self.development = development

    def rows(self) -> tuple[pd.DataFrame, str]:
        """Read one table for each part, and join height and width."""
        parts = [table for part in self.tables if (table := self._part(part)) is not None]
        if not parts:
            parts = [self._everything()]
        table = self._apart(pd.concat(parts, ignore_index=True))
        return self._with_size(table), str(self.root)

    def _part(self, part: Part) -> pd.DataFrame | None:
        """Rows of one part of the challenge; None where it has no table, or is to be ignored."""
        if part == "val" and self.development == "ignore":
            return None
        found = self._tables(part)
        if not found:
            return None
        best = self._best(found)
        file = best or found[-1]  # the unlabelled table, or one of unseen labels only
        raw = _read(file)
        # train must have every label, so a set that fits nothing is an error there and not a table of NaN
        values = self._values(raw, file) if best or part == "train" else pd.DataFrame(index=raw.index)
        extra = self._unseen(part, file, raw)
        table = pd.concat([_ids(raw, file), values, extra], axis=1)
        split: str = self.development if part == "val" else part
        if split == "val" and values.empty and extra.empty:
            self.note("development images without labels cannot validate, taken as test", table["image_id"])
            split = "test"
        return table.assign(split=pd.Series(split, index=table.index, dtype="str"))

    def _tables(self, part: Part) -> list[Path]:
        """The tables of a part that are there, those of another task than the one asked for left out."""
        names = self.tables[part]
        if self.task is not None:
            wanted = 1 if self.task == 3 else self.task  # task 3's seen labels are those of task 1
            names = tuple(name for name in names if "_task" not in name or f"_task{wanted}" in name)
        return [file for name in names if (file := self.find_table((name,), self.folders)) is not None]

    def _best(self, files: list[Path]) -> Path | None:
        """The table that has most of the set's seen labels and, if there is one, no other; None if none has any."""
        labels = self.require_labels()
        fits: dict[Path, tuple[int, bool]] = {}
        for file in files:
            columns = _label_columns(read_header(file))
            known = labels.align(columns, self.name, missing="ignore", unknown="ignore", context=str(file))
            if known:
                fits[file] = (-len(known), len(columns) > len(known))
        return min(fits, key=lambda file: fits[file]) if fits else None

    def _values(self, raw: pd.DataFrame, file: Path) -> pd.DataFrame:
        """Columns of the set's seen labels as float32."""
        columns = _label_columns(raw.columns)
        found = self.require_labels().align(columns, self.name, missing="error", unknown="ignore", context=str(file))
        return _numbers(raw, found, file)

    def _unseen(self, part: Part, file: Path, raw: pd.DataFrame) -> pd.DataFrame:
        """Columns of the set's unseen labels for an evaluation part, from task 3's table; none for train."""
        unseen = self.require_labels().unseen_names
        other = self.find_table([name for name in self.tables[part] if "task3" in name], self.folders)
        if not unseen or other is None:
            return pd.DataFrame(index=raw.index)
        table = raw if other == file else _read(other)
        found = self._unseen_columns(table)
        absent = [label for label in unseen if label not in found]
        if absent:
            raise InputError(
                f"{other} has no column for the unseen labels {', '.join(absent)} of set "
                f"{self.require_labels().name!r}; its label columns are "
                f"{', '.join(_label_columns(table.columns))}"
            )
        values = _numbers(table, found, other)
        return values.set_axis(table["dicom_id"]).reindex(raw["dicom_id"]).set_axis(raw.index)

    def _unseen_columns(self, table: pd.DataFrame) -> dict[str, str]:
        """Unseen label -> column."""
        labels = self.require_labels()
        columns = {labels.canonical(column, self.name): column for column in _label_columns(table.columns)}
        return {label: columns[label] for label in labels.unseen_names if label in columns}

    def _everything(self) -> pd.DataFrame:
        """Rows of `labels.csv`, which holds all parts and a column `split`."""
        wanted = [name for names in self.tables.values() for name in names]
        file = self.find_table(("labels.csv",), self.folders) or self.require_table(
            [*wanted, "labels.csv"], self.folders
        )
        raw = _read(file)
        if "split" not in raw.columns:
            raise InputError(f"{file} lacks the column split, and none of {', '.join(wanted)} is there")
        splits = raw["split"].astype("str").str.casefold()
        strange = sorted(set(splits) - set(_SPLITS))
        if strange:
            raise InputError(f"{file}: split has {first(strange)}; known are {', '.join(_SPLITS)}")
        unseen = self._unseen_columns(raw)
        table = pd.concat([_ids(raw, file), self._values(raw, file), _numbers(raw, unseen, file)], axis=1)
        table["split"] = splits.map(_SPLITS).astype("str")
        # what no training may see stays unseen there
        table.loc[table["split"] == "train", list(unseen)] = np.nan
        is_val = table["split"] == "val"
        if self.development == "ignore":
            return table[~is_val]
        return table.assign(split=table["split"].where(~is_val, self.development))

    def _apart(self, table: pd.DataFrame) -> pd.DataFrame:
        """Keep each patient in one split: the strictest that has it."""
        rank = table["split"].map({split: rank for rank, split in enumerate(_STRICTEST)})
        strictest = rank.groupby(table["patient_id"]).transform("min")
        moved = rank > strictest
        self.note("left out, the patient stands in a stricter split too", table.loc[moved, "image_id"])
        return table[~moved]

    def _with_size(self, table: pd.DataFrame) -> pd.DataFrame:
        """Add `meta_height` and `meta_width` (px) from MIMIC-CXR-JPG's metadata, where it is there."""
        file = self.find_table(METADATA)
        if file is None:
            return table
        wanted, header = ["dicom_id", "Rows", "Columns"], read_header(file)
        absent = [name for name in wanted if name not in header]
        if absent:
            raise InputError(f"{file} lacks the columns {', '.join(absent)}; it has {', '.join(header)}")
        sizes = read_csv(file, usecols=wanted, dtype="str").drop_duplicates("dicom_id").set_index("dicom_id")
        sizes = sizes.apply(pd.to_numeric, errors="coerce").astype(np.float64)
        return table.assign(
            meta_height=table["image_id"].map(sizes["Rows"]),
            meta_width=table["image_id"].map(sizes["Columns"]),
        )


class CxrLt2023(CxrLt2024):
    """CXR-LT 2023: the first challenge on MIMIC-CXR-JPG, with 26 labels.

    * **Size**: the same 377,110 images as MIMIC-CXR-JPG and CXR-LT 2024, in other parts: train 264,849.
    * **Licence**: PhysioNet credentialed health data licence; images and tables may not be passed on.
    * **Labels**: 26, 1 or 0, from reports, the same for all images of a study: the 13 findings of CheXpert's labeller,
      12 rarer ones, and `No Finding`. From 89,140 (Support Devices) to 543 (Pneumoperitoneum) in train. `No Finding`
      (41,869: none of the listed findings) is not CXR-LT 2024's `Normal` (34,292: the report says normal); no alias
      joins them.
    * **Tables**: `train.csv`, `development.csv`, `test.csv`, in the root or in `cxr-lt-2023/`; those of 2024 beside
      them are not read. Development and test tables without labels are read as such, every label NaN. Without any of
      these, `labels.csv` with a column `split`.
    * **Split**: train -> `train`, development -> `val` (see `development`), test -> `test`; these are other parts than
      those of 2024 and of MIMIC-CXR-JPG, so a model of one must not be tested on another's.
    * **Ids, quirks**: as CXR-LT 2024; paths stand in the column `path`.
    * **Cite**: Johnson et al., MIMIC-CXR-JPG, arXiv:1901.07042, 2019; Holste et al., Towards long-tailed, multi-label
      disease classification from chest X-ray: overview of the CXR-LT challenge, Medical Image Analysis 2024,
      arXiv:2310.16112.

    Args:
        root: Folder that holds `files/`, and the tables beside it or in `cxr-lt-2023/`.
        labels: Label set; None: `cxr_lt_2023`.
        development: What becomes of development rows. `val`; `test`; `ignore` to leave them out. Unlabelled
            development rows cannot validate anything and become `test`.
    """

    name: ClassVar[str] = "cxr-lt-2023"
    default_labels: ClassVar[str | None] = "cxr_lt_2023"
    tables: ClassVar[dict[Part, tuple[str, ...]]] = TABLES_2023
    folders: ClassVar[tuple[str, ...]] = ("", "cxr-lt-2023")

    def __init__(
        self,
        root: str | Path,
        labels: LabelSet | None = None,
        development: Literal["val", "test", "ignore"] = "val",
    ) -> None:
        super().__init__(root, labels, None, development)


def _read(file: Path) -> pd.DataFrame:
    raw = read_table(file)  # columns that end in _id stay text
    path = [name for name in _PATHS if name in raw.columns]
    absent = [name for name in (*_IDS, "ViewPosition") if name not in raw.columns]
    if absent or not path:
        absent += [] if path else ["fpath (or path)"]
        raise InputError(f"{file} lacks the columns {', '.join(absent)}; it has {', '.join(map(str, raw.columns))}")
    check_unique(raw["dicom_id"], file)
    return raw


def _ids(raw: pd.DataFrame, file: Path) -> pd.DataFrame:
    """Ids, view and path; study ids get the `s` that MIMIC's folders have."""
    path = next(name for name in _PATHS if name in raw.columns)
    blank = (raw[[*_IDS, path]].isna() | (raw[[*_IDS, path]] == "")).any(axis=1)
    if blank.any():
        raise InputError(
            f"{file}: {int(blank.sum())} rows have a blank id or path, first in line {np.argmax(blank) + 2}"
        )
    return pd.DataFrame(
        {
            "patient_id": raw["subject_id"].str.strip(),
            "study_id": "s" + raw["study_id"].str.strip().str.removeprefix("s"),
            "image_id": raw["dicom_id"],
            "view": views_of(raw["ViewPosition"].astype("str").fillna("")),
            "path": raw[path].astype("str"),
        }
    )


def _label_columns(columns: Iterable[str]) -> list[str]:
    return [name for name in columns if name not in _NO_LABELS and not name.startswith("Unnamed")]


def _numbers(raw: pd.DataFrame, found: dict[str, str], file: Path) -> pd.DataFrame:
    """Label -> column as float32 columns named by label."""
    try:
        return pd.DataFrame({label: raw[column].astype(np.float32) for label, column in found.items()}, index=raw.index)
    except (TypeError, ValueError) as error:
        text = [column for column in found.values() if not pd.api.types.is_numeric_dtype(raw[column])]
        raise InputError(f"{file}: label columns {', '.join(text)} hold text; a label is 0, 1 or blank") from error
