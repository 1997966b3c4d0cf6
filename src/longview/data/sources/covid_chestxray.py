"""The covid-chestxray-dataset (COVID-19 image data collection)."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd

from longview.data.sources.base import Source, check_filled, read_text, views_of
from longview.labels import LabelSet, OnMismatch

CODES = (
    "No Finding",
    "Pneumonia",
    "Pneumonia/Viral",
    "Pneumonia/Viral/COVID-19",
    "Pneumonia/Viral/SARS",
    "Pneumonia/Viral/MERS-CoV",
    "Pneumonia/Viral/Influenza",
    "Pneumonia/Viral/Influenza/H1N1",
    "Pneumonia/Viral/Varicella",
    "Pneumonia/Viral/Herpes",
    "Pneumonia/Bacterial",
    "Pneumonia/Bacterial/Streptococcus",
    "Pneumonia/Bacterial/Klebsiella",
    "Pneumonia/Bacterial/Legionella",
    "Pneumonia/Bacterial/Mycoplasma",
    "Pneumonia/Bacterial/E.Coli",
    "Pneumonia/Bacterial/Chlamydophila",
    "Pneumonia/Bacterial/Nocardia",
    "Pneumonia/Bacterial/Staphylococcus/MRSA",
    "Pneumonia/Fungal",
    "Pneumonia/Fungal/Pneumocystis",
    "Pneumonia/Fungal/Aspergillosis",
    "Pneumonia/Lipoid",
    "Pneumonia/Aspiration",
    "Tuberculosis",
    "ARDS",
)
"""The data set's findings, as the newer metadata writes them: paths through its tree of pneumonias."""

# the older metadata writes the last part alone
_PATHS = {code.rpartition("/")[2]: code for code in CODES} | {
    "Mycoplasma Bacterial Pneumonia": "Pneumonia/Bacterial/Mycoplasma"
}
_SAYS_NOTHING = {"", "todo", "unknown"}
_CT_VIEWS = ("AXIAL", "CORONAL", "CT")  # tables before the column `modality` say so in `view`


class CovidChestXray(Source):
    """covid-chestxray-dataset: radiographs of COVID-19 and other pneumonias, collected from publications.

    * **Size**: it grew in public, so releases differ; some images are CT. The freely licensed part that
      longview is tried on has 318 rows, 313 images, 158 patients, 269 studies.
    * **Licence**: per image, in the column `license` (CC BY, CC BY-SA, CC BY-NC-SA, Apache 2.0, or unknown).
    * **Labels**: the comma-separated `finding`, older as `COVID-19, ARDS`, newer as a path
      `Pneumonia/Viral/COVID-19` (:data:`CODES`); both give the same labels. A label is 1 where a finding or
      one of its descendants is listed and 0 in other rows. `todo`, `Unknown` and blank say nothing: every
      label of that row is NaN (reported).
    * **Split**: none official.
    * **Ids**: a study is (`patientid`, `offset`), the offset in days since the first symptoms: `17_day3`. A
      blank offset means an unknown day; such rows of one patient are one study `20_undated` (most are a PA
      and a lateral view of one examination). An image's id is its file name with its ending.
    * **Views**: PA, AP (also `AP Supine`, `AP Erect`) and L; CT rows (`modality`, and axial or coronal views)
      are left out and reported.
    * **Quirks**: a few files stand twice, under two patients (in the free part 5 files of the patients 285
      and 339, 287 and 340): one row is kept, and the two patients count as one, so that no split can separate
      them. Rows of one file that disagree about its findings are all left out. Images differ in size, aspect
      and origin, often cut from figures; COVID-19 is confounded with the hospital, so scores flatter.
    * **Cite**: Cohen et al., COVID-19 image data collection: prospective predictions are the future,
      arXiv:2006.11988, 2020.

    Args:
        root: Folder that holds `metadata.csv` and `images/`.
        labels: Label set; None: `covid_chestxray`. Labels that no finding stands for get no column.
        unknown: What to do about a finding in the table that stands for no label of the set.
    """

    name: ClassVar[str] = "covid-chestxray"
    default_labels: ClassVar[str | None] = "covid_chestxray"

    def __init__(self, root: str | Path, labels: LabelSet | None = None, unknown: OnMismatch = "error") -> None:
        super().__init__(root, labels)
        self.unknown = unknown

    def rows(self) -> tuple[pd.DataFrame, str]:
        """Read `metadata.csv`, leave out CT and merge rows of one file."""
        file = self.require_table(("metadata.csv",))
        raw = read_text(file, required=("patientid", "offset", "finding", "view", "filename"))
        raw = raw.apply(lambda column: column.str.strip())
        raw = self._radiographs(raw)
        for column in ("patientid", "filename"):
            check_filled(raw[column], file)
        raw["person"] = _persons(raw["patientid"], raw["filename"])
        raw = self._once(raw)
        folder = raw["folder"] if "folder" in raw.columns else "images"
        nothing = pd.Series("", index=raw.index, dtype="str")
        table = pd.DataFrame(
            {
                "patient_id": raw["person"],
                "study_id": raw["patientid"] + raw["offset"].map(_day),
                "image_id": raw["filename"],
                "view": views_of(raw["view"]),
                "path": folder + "/" + raw["filename"],
                "split": "none",
                "meta_age": pd.to_numeric(raw.get("age", nothing), errors="coerce").astype(np.float64),
                "meta_sex": raw.get("sex", nothing).str.upper().where(lambda sex: sex.isin(["M", "F"]), ""),
            },
            index=raw.index,
        )
        silent = raw["finding"].str.casefold().isin(_SAYS_NOTHING)
        self.note("images without a finding, labels unknown", raw.loc[silent, "filename"])
        findings = self.finding_labels(raw["finding"], _findings, CODES, self.unknown, str(file))
        return pd.concat([table, findings], axis=1), str(file)

    def _radiographs(self, raw: pd.DataFrame) -> pd.DataFrame:
        other = raw["view"].str.upper().str.startswith(_CT_VIEWS)
        if "modality" in raw.columns:
            other |= ~raw["modality"].str.casefold().isin(["x-ray", ""])
        self.note("left out, not a radiograph", raw.loc[other, "filename"])
        return raw[~other].copy()

    def _once(self, raw: pd.DataFrame) -> pd.DataFrame:
        """One row per file: the first, or none where the rows disagree about the findings."""
        findings = raw["finding"].groupby(raw["filename"]).transform("nunique")
        self.note("left out, rows of one file disagree", raw.loc[findings > 1, "filename"].unique())
        raw = raw[findings == 1]
        # a row under the id that the patient keeps goes first, so that the order of the table does not matter
        raw = raw.loc[(raw["patientid"] != raw["person"]).sort_values(kind="stable").index]
        again = raw["filename"].duplicated()
        self.note("left out, file named again (its patients count as one)", raw.loc[again, "filename"])
        return raw[~again].sort_index()


def _findings(cell: str) -> list[str] | None:
    if cell.casefold() in _SAYS_NOTHING:
        return None
    findings = [finding.strip() for finding in cell.split(",") if finding.strip()]
    return [_PATHS.get(finding, finding) for finding in findings]


def _day(offset: str) -> str:
    """Ending of a study id: `_day3` for 3 or 3.0, `_undated` for a blank."""
    if not offset:
        return "_undated"
    days = pd.to_numeric(offset, errors="coerce")
    return f"_day{days:g}" if np.isfinite(days) else f"_day{offset}"


def _persons(patients: pd.Series[str], files: pd.Series[str]) -> pd.Series[str]:
    """The patient of each row, with patients who share a file taken as one, under the lowest id."""
    person = {patient: patient for patient in patients}
    for _, group in patients.groupby(files):
        names = {person[patient] for patient in group}
        if len(names) > 1:
            lowest = min(names, key=lambda name: (len(name), name))
            person = {patient: lowest if name in names else name for patient, name in person.items()}
    return patients.map(person).astype("str")
