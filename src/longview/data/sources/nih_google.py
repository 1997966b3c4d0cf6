"""Google's expert labels for NIH ChestX-ray14 films."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal, get_args

import numpy as np
import pandas as pd

from longview import InputError
from longview.data.sources.base import Source, check_filled, check_unique, read_text, views_of
from longview.data.sources.nih import CODES as NIH_CODES
from longview.data.sources.nih import film_metadata
from longview.data.sources.places import find_images
from longview.data.sources.readers import codes_of_labels, combine, require_codes
from longview.labels import LabelSet

Findings = Literal["four", "all"]

CODES = ("Fracture", "Pneumothorax", "Airspace opacity", "Nodule or mass")
"""Columns of the four findings, in the order of the files."""

COMBINED = "google2019_nih-chest-xray-labels.csv"
"""Both parts of the four findings in one table, as torchxrayvision brings it."""

_BUCKET = "gcs-public-data--healthcare-nih-chest-xray-labels"
_PARTS = {"val": "validation_labels.csv", "test": "test_labels.csv"}
_CELLS = {"YES": 1.0, "NO": 0.0, "": np.nan}


class NihGoogle(Source):
    """NIH ChestX-ray14 films with labels that radiologists agreed on, by Google Health.

    * **Size**: four findings: 4,376 films of 1,695 patients (validation 2,414, test 1,962; Google's page counts 2,412
      for validation); all findings: 810 PA films of that test part.
    * **Licence**: as NIH's; the labels are given out after a form, with the wish to cite the papers.
    * **Labels**: with `findings` four, the columns of :data:`CODES`, YES or NO by adjudication of three radiologists;
      films that are YES in validation / test: Fracture 114 / 72, Pneumothorax 43 / 195, Airspace opacity
      1,031 / 1,135, Nodule or mass 310 / 295. With `findings` all, the 14 of NIH by majority of three; `Abnormal` and
      `Other` there are no labels. Blank is unknown. What NIH's own reports said (`Finding Labels`) is not read.
    * **Split**: `Set Id`, or the file: `val` and `test`; there is nothing to train on. All findings are all `test`.
    * **Ids**: as in the source `nih`: patient `00000001`, a study is one film, `00000001_000`.
    * **Folders**: tables in the root or in `four_findings_expert_labels/` and `all_findings_expert_labels/`, named as
      there or with that as prefix; or both parts in one, `google2019_nih-chest-xray-labels.csv`. Images as in `nih`.
    * **Quirks**: the films of all findings stand in the four findings' test part too. Files of the single readers
      (`individual_readers.csv`) are not read.
    * **Cite**: Majkowska et al., Chest radiograph interpretation with deep learning models, Radiology 294(2), 2020,
      doi:10.1148/radiol.2019191293 (four findings); Nabulsi et al., Deep learning for distinguishing normal versus
      abnormal chest radiographs, Scientific Reports 11, 15523, 2021, arXiv:2010.11375 (all findings).

    Args:
        root: Folder that holds the tables and NIH's images.
        labels: Label set; None: `nih_google` for the four findings, `nih` for all.
        findings: Which of the two studies, `four` or `all`.
    """

    name: ClassVar[str] = "nih-google"
    default_labels: ClassVar[str | None] = "nih_google"
    assign: ClassVar[bool] = False

    def __init__(self, root: str | Path, labels: LabelSet | None = None, findings: Findings = "four") -> None:
        super().__init__(root, labels)
        if findings not in get_args(Findings):
            raise InputError(f"findings is {findings!r}; give {', '.join(get_args(Findings))}")
        self.findings = findings

    @property
    def labels(self) -> LabelSet | None:
        """The label set that was given, else that of the study."""
        if self._labels is None and self.findings == "all":
            self._labels = LabelSet.load("nih")
        return super().labels

    def rows(self) -> tuple[pd.DataFrame, str]:
        """Read the tables of the study and the listing of the image folders."""
        codes = CODES if self.findings == "four" else NIH_CODES
        parts = [self._part(part, file, codes) for part, file in self._files().items()]
        table = pd.concat(parts, ignore_index=True)
        file = next(iter(self._files().values()))
        check_unique(table["image_id"], file)
        table["path"] = find_images(self, table["image_id"], "images/{}.png")
        return table, str(file)

    def _files(self) -> dict[str, Path]:
        """Part -> its table; the part is "" where the table has both.

        Raises:
            InputError: Where there is none.
        """
        study = f"{self.findings}_findings_expert_labels"
        folders = (study, f"{_BUCKET}/{study}", "")
        wanted = _PARTS if self.findings == "four" else {"test": _PARTS["test"]}
        names = {part: (f"{study}_{name}", name) for part, name in wanted.items()}
        found = {part: self.find_table(name, folders) for part, name in names.items()}
        there = {part: file for part, file in found.items() if file is not None}
        combined = self.find_table((COMBINED,), folders) if self.findings == "four" else None
        if not there and combined is not None:
            return {"": combined}
        if not there:
            more = (COMBINED,) if self.findings == "four" else ()
            self.require_table([*(name for both in names.values() for name in both), *more], folders)
        self.note(f"{study}: no table of these parts", [part for part in wanted if part not in there])
        return there

    def _part(self, part: str, file: Path, codes: tuple[str, ...]) -> pd.DataFrame:
        """The films of one table."""
        raw = read_text(file, required=("Patient ID",))
        raw = raw.rename(columns={"Image ID": "Image Index"} | _renamed(raw, codes))
        absent = [column for column in ("Image Index", *codes) if column not in raw.columns]
        if absent:
            raise InputError(
                f"{file} lacks the columns {', '.join(absent)}; it has {', '.join(raw.columns)}. Is it that of the "
                f"{self.findings} findings?"
            )
        for column in ("Image Index", "Patient ID"):
            check_filled(raw[column], file)
        check_unique(raw["Image Index"], file)
        image_id = raw["Image Index"].str.strip().str.rsplit(".", n=1).str[0]
        nothing = pd.Series("", index=raw.index, dtype="str")
        view = raw.get("View Position", nothing) if self.findings == "four" else nothing.mask(nothing == "", "PA")
        table = pd.DataFrame(
            {
                "patient_id": raw["Patient ID"].str.strip().str.zfill(8),
                "study_id": image_id,
                "image_id": image_id,
                "view": views_of(view),
                "split": self._splits(raw, part, file),
            }
        ).assign(**film_metadata(raw))
        return pd.concat([table, self._values(raw, codes, file)], axis=1)

    @staticmethod
    def _splits(raw: pd.DataFrame, part: str, file: Path) -> pd.Series[str]:
        """`val` or `test`: the table's own column where it has one, else what the file is."""
        if "Set Id" not in raw.columns:
            if not part:
                raise InputError(f"{file} lacks the column Set Id, which says what is val and what test")
            return pd.Series(part, index=raw.index, dtype="str")
        sets = raw["Set Id"].str.strip().str.lower().replace({"validation": "val"})
        wrong = ~sets.isin([part] if part else list(_PARTS))
        if wrong.any():
            row = wrong.index[wrong][0]
            raise InputError(
                f"{file}: Set Id is {raw.loc[row, 'Set Id']!r} in line {row + 2}; it is {part or 'val or test'}"
            )
        return sets

    def _values(self, raw: pd.DataFrame, codes: tuple[str, ...], file: Path) -> pd.DataFrame:
        """YES and NO as columns of the label set."""
        labels = self.require_labels()
        found = codes_of_labels(labels, self.name, codes)
        require_codes(found, labels, self.name, str(file))
        cells = raw[list(codes)].apply(lambda column: column.str.strip().str.upper())
        for code in codes:
            wrong = ~cells[code].isin(_CELLS)
            if wrong.any():
                row = wrong.index[wrong][0]
                raise InputError(f"{file}: {code} is {raw.loc[row, code]!r} in line {row + 2}; it is YES, NO or blank")
        return combine(cells.apply(lambda column: column.map(_CELLS)), found)


def _renamed(raw: pd.DataFrame, codes: tuple[str, ...]) -> dict[str, str]:
    """Columns that write a code with spaces for its underscores."""
    return {code.replace("_", " "): code for code in codes if code.replace("_", " ") in raw.columns}
