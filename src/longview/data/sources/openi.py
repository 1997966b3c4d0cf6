"""Open-I, the chest X-ray collection of Indiana University."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd

from longview import InputError
from longview.data.sources.base import Source, check_unique, first, read_text, views_of
from longview.data.sources.places import find_images
from longview.data.sources.readers import codes_of_labels, require_codes
from longview.labels import LabelSet

FOLDERS = ("ecgen-radiology", "NLMCXR_reports/ecgen-radiology", "")
"""Where the reports may lie below the root."""

PROJECTIONS = "indiana_projections.csv"
HEADERS = "nlmcxr_dicom_metadata.csv"

_HEADINGS = """
Abdomen; Adipose Tissue; Airspace Disease; Aorta; Aorta, Thoracic; Aortic Aneurysm; Arthritis; Atherosclerosis;
Blister; Blood Vessels; Bone and Bones; Bone Diseases, Metabolic; Breast Implants; Bronchiectasis; Bronchiolitis;
Bronchitis; Bullous Emphysema; Calcified Granuloma; Calcinosis; Cardiac Shadow; Cardiomegaly; Catheters, Indwelling;
Cavitation; Cervical Vertebrae; Cholelithiasis; Cicatrix; Colonic Interposition; Consolidation; Contrast Media;
Costophrenic Angle; Cystic Fibrosis; Cysts; Deformity; Density; Diaphragm; Diaphragmatic Eventration; Dislocations;
Emphysema; Epicardial Fat; Expansile Bone Lesions; Fibrosis; Foreign Bodies; Fractures, Bone; Funnel Chest;
Granuloma; Granulomatous Disease; Heart; Heart Atria; Heart Failure; Heart Ventricles; Hemopneumothorax; Hemothorax;
Hernia, Diaphragmatic; Hernia, Hiatal; Humerus; Hydropneumothorax; Hyperostosis, Diffuse Idiopathic Skeletal;
Hypertension, Pulmonary; Hypovolemia; Implanted Medical Device; Infiltrate; Kyphosis; Lucency; Lumbar Vertebrae;
Lung; Lung Diseases, Interstitial; Lung, Hyperlucent; Lymph Nodes; Markings; Mass; Mastectomy; Mediastinal
Emphysema; Mediastinum; Medical Device; Nipple Shadow; No Indexing; Nodule; normal; Opacity; Osteophyte;
Osteoporosis; Pectus Carinatum; Pericardial Effusion; Pleura; Pleural Effusion; Pneumonectomy; Pneumonia;
Pneumoperitoneum; Pneumothorax; Pulmonary Artery; Pulmonary Atelectasis; Pulmonary Congestion; Pulmonary Disease,
Chronic Obstructive; Pulmonary Edema; Pulmonary Emphysema; Pulmonary Fibrosis; Ribs; Sarcoidosis; Sclerosis;
Scoliosis; Shift; Shoulder; Spinal Fusion; Spine; Spondylosis; Stents; Subcutaneous Emphysema; Sulcus; Surgical
Instruments; Sutures; Technical Quality of Image Unsatisfactory; Thickening; Thoracic Vertebrae; Thorax; Trachea;
Trachea, Carina; Tube, Inserted; Tuberculosis; Volume Loss
"""
CODES = tuple(" ".join(heading.split()) for heading in _HEADINGS.split(";"))
"""The 119 headings of the reports, by alphabet (two are written in two ways)."""

SILENT = ("No Indexing", "Technical Quality of Image Unsatisfactory")
"""Headings that say nothing about the chest."""

# some lists of images write CXR1_IM-0001-3001, 1_IM-0001-3001 or 1_IM-0001-3001.dcm for CXR1_1_IM-0001-3001
_NAME = re.compile(r"(?:CXR)?(\d+)_(?:\1_)?(IM-[\d-]+?)(?:\.dcm)?", re.IGNORECASE)
_PROJECTIONS = {"FRONTAL": "PA", "LATERAL": "lateral"}


class OpenI(Source):
    """Open-I: reports of Indiana University's hospitals with their films, indexed by hand with MeSH terms.

    * **Size**: 3,955 reports, 7,470 images: 3,208 reports with 2 images, 446 with 1, 197 with 3 to 5; 104 have none
      and are left out (reported). The PNG files are 8-bit, about 512 px wide.
    * **Licence**: CC BY-NC-ND 4.0 (in each report).
    * **Labels**: the `major` MeSH terms, `Opacity/lung/base/left/mild`: a heading and its qualifiers. Codes are the
      heading, `Opacity`, and the heading with each qualifier, `Opacity/lung`; the label set names those that it takes.
      A label is 1 where a term stands for it, else 0; reports of nothing but :data:`SILENT` (101) say nothing:
      NaN (reported). Reports by heading: normal 1,391; Opacity 455; Cardiomegaly 375; Pulmonary Atelectasis 332;
      Calcified Granuloma 274; Pleural Effusion 161; Nodule 111; Fractures, Bone 84; Infiltrate 65; Emphysema and
      Pulmonary Emphysema 98; Hernia, Hiatal 48; Pulmonary Edema 46; Pneumonia 42; Consolidation 30; Pneumothorax 23;
      Mass 17. Terms of the `automatic` indexing are not read.
    * **Split**: none official.
    * **Ids**: a report (`CXR1`) is a study, and counts as a patient of its own: whose it is was taken out.
    * **Views**: the reports do not say which image is which. `indiana_projections.csv` (of the copy on Kaggle: uid,
      filename, projection), where it is there, tells frontal from lateral; a frontal film is PA unless the headers
      say AP. `nlmcxr_dicom_metadata.csv` (of torchxrayvision), where it is there, has the DICOM headers'
      `View Position`: PA 3,593, LL 717, AP 423, LATERAL 119, RL 29, LARGE LATERAL 2, blank 2,586; it is known to be
      wrong at times, so the first table goes before it. Else the view is unknown.
    * **Folders**: `ecgen-radiology/*.xml` of `NLMCXR_reports.tgz` and `NLMCXR_png/*.png`; images in the root or up to
      two folders deep, also under Kaggle's names (`1_IM-0001-4001.dcm.png`).
    * **Quirks**: names of images differ between the tables (`CXR1_1_IM-0001-3001`, `CXR1_IM-0001-3001`) and are
      compared without the report's; one of the 7,470 images is not in the table of headers.
    * **Cite**: Demner-Fushman et al., Preparing a collection of radiology examinations for distribution and retrieval,
      JAMIA 23(2), 2016, doi:10.1093/jamia/ocv080.

    Args:
        root: Folder that holds the reports and the images.
        labels: Label set; None: `openi`. Labels that no term stands for get no column.
    """

    name: ClassVar[str] = "openi"
    default_labels: ClassVar[str | None] = "openi"

    def rows(self) -> tuple[pd.DataFrame, str]:
        """Read the reports, the tables of views, and the listing of the image folders."""
        folder, reports = self._reports()
        images = pd.DataFrame(
            [(study, image) for study, (_, found) in reports.items() for image in found],
            columns=["study_id", "image_id"],
            dtype="str",
        )
        if images.empty:
            raise InputError(f"no report in {folder} names an image; are they Open-I's?")
        check_unique(images["image_id"], folder)
        self.note("reports without an image, left out", [study for study, (_, found) in reports.items() if not found])
        table = pd.DataFrame(
            {
                "patient_id": images["study_id"],
                "study_id": images["study_id"],
                "image_id": images["image_id"],
                "view": self._views(images["image_id"]),
                "path": find_images(self, images["image_id"], "NLMCXR_png/{}.png", key=image_key),
                "split": "none",
            }
        )
        values = self._values({study: terms for study, (terms, _) in reports.items()}, folder)
        return pd.concat([table, values.loc[images["study_id"]].reset_index(drop=True)], axis=1), str(folder)

    def _reports(self) -> tuple[Path, dict[str, tuple[list[str], list[str]]]]:
        """The folder of reports; of each its id -> its major terms and its images."""
        for folder in (self.root / name for name in FOLDERS):
            files = sorted(folder.glob("*.xml"), key=lambda file: (len(file.stem), file.stem))
            if files:
                break
        else:
            places = " or ".join(str(self.root / name) for name in FOLDERS)
            raise InputError(
                f"source {self.name!r} found no *.xml reports in {places}; unpack NLMCXR_reports.tgz there"
            )
        reports: dict[str, tuple[list[str], list[str]]] = {}
        for file in files:
            study, terms, images = _report(file)
            if study in reports:
                raise InputError(f"{file}: report {study} stands twice in {folder}; remove one of the files")
            reports[study] = terms, images
        return folder, reports

    def _values(self, terms: dict[str, list[str]], folder: Path) -> pd.DataFrame:
        """Columns of the label set by report."""
        labels = self.require_labels()
        codes = {study: codes_of_terms(found) for study, found in terms.items()}
        every = {code for found in codes.values() for code in found}
        found = codes_of_labels(labels, self.name, sorted(every | _own_codes(labels, self.name) | {*CODES}))
        require_codes(found, labels, self.name, str(folder))
        known = {code for own in found.values() for code in own}
        self.note(
            f"headings that are no label of set {labels.name!r}, left out",
            sorted({code.partition("/")[0] for code in every} - {code.partition("/")[0] for code in known} - {*SILENT}),
        )
        silent = [study for study, own in codes.items() if not own - set(SILENT)]
        self.note("reports without indexing, labels unknown", silent)
        values = {
            label: [float(not own.isdisjoint(wanted)) for own in codes.values()] for label, wanted in found.items()
        }
        table = pd.DataFrame(values, index=list(codes), dtype=np.float32)
        table.loc[silent] = np.nan
        return table

    def _views(self, image_id: pd.Series[str]) -> pd.Series[str]:
        """The view of each image by the tables that are there."""
        keys = image_id.map(image_key)
        view = pd.Series("unknown", index=image_id.index, dtype="str")
        headers = self.find_table((HEADERS,))
        if headers is not None:
            raw = read_text(headers, required=("imageid", "View Position")).drop_duplicates("imageid")
            codes = pd.Series(raw["View Position"].to_numpy(), index=raw["imageid"].map(image_key))
            codes = codes.str.replace("LARGE LATERAL", "LATERAL").groupby(level=0).first()
            view = views_of(keys.map(codes).fillna("").astype("str"))
        projections = self.find_table((PROJECTIONS,))
        if projections is not None:
            raw = read_text(projections, required=("filename", "projection"))
            told = raw["projection"].str.strip().str.upper().map(_PROJECTIONS)
            if told.isna().any():
                wrong = raw.loc[told.isna(), "projection"].unique().tolist()
                raise InputError(f"{projections}: projection is {first(wrong)}; it is Frontal or Lateral")
            names = raw["filename"].str.rsplit(".", n=1).str[0].map(image_key)
            found = keys.map(pd.Series(told.to_numpy(), index=names).groupby(level=0).first())
            agrees = found.isna() | ((found == "lateral") == (view == "lateral")) & (view != "unknown")
            view = view.where(agrees, found.fillna("unknown")).astype("str")
        return view


def image_key(name: str) -> str:
    """What all spellings of an image's name share: `1_IM-0001-3001`."""
    parts = _NAME.fullmatch(name)
    return f"{parts[1]}_{parts[2].upper()}" if parts else name


def codes_of_terms(terms: list[str]) -> set[str]:
    """Headings, and headings with each of their qualifiers: `Opacity`, `Opacity/lung`, `Opacity/base`."""
    codes: set[str] = set()
    for term in terms:
        heading, *qualifiers = (" ".join(part.split()) for part in term.split("/"))
        codes |= {heading, *(f"{heading}/{qualifier}" for qualifier in qualifiers)}
    return codes - {""}


def _own_codes(labels: LabelSet, source: str) -> set[str]:
    """The codes that a label set names for the source: a label that no report has gets its zeros by them."""
    return {
        alias
        for label in labels.labels
        for origin, names in label.aliases.items()
        if origin.replace("_", "-") == source
        for alias in names
    }


def _report(file: Path) -> tuple[str, list[str], list[str]]:
    """Id, major terms and images of a report.

    Raises:
        InputError: Where the file is not one of Open-I's reports.
    """
    try:
        root = ET.parse(file).getroot()  # noqa: S314 - expat itself stops expanding entities, and loads no others
        study = root.find("uId")
        images = [image.attrib["id"] for image in root.iter("parentImage")]
        if study is None:
            raise InputError(f"{file} is no report of Open-I: it has no uId")
        terms = [node.text.strip() for node in root.findall(".//MeSH/major") if node.text and node.text.strip()]
        return study.attrib["id"], terms, images
    except (ET.ParseError, KeyError) as error:
        raise InputError(f"{file} is no report of Open-I ({error!r}); unpack NLMCXR_reports.tgz again") from error
