"""Open-I's layout."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path
from typing import ClassVar

from longview.data.phantom.findings import NORMAL
from longview.data.phantom.layouts.base import Drawn, Layout, Place, write_csv
from longview.data.phantom.population import StudyPlan
from longview.data.phantom.study import Box

_HEADINGS = {
    "Atelectasis": "Pulmonary Atelectasis",
    "Calcification of the Aorta": "Calcinosis/aorta",
    "Edema": "Pulmonary Edema",
    "Emphysema": "Pulmonary Emphysema",
    "Fibrosis": "Pulmonary Fibrosis",
    "Fracture": "Fractures, Bone",
    "Hernia": "Hernia, Hiatal",
    "Lung Opacity": "Opacity/lung",
}
"""How the data set indexes a finding, where it has another word."""

_DEVICES = {"central line": "Catheters, Indwelling", "pacemaker": "Implanted Medical Device"}
_TUBE = "Tube, Inserted"  # every other device
_SIDES = {"both": "bilateral"}
_SIZES = {"small": "mild", "medium": "moderate", "large": "severe"}
_POSITIONS = {"PA": "PA", "AP": "AP", "lateral": "LL"}
_UNINDEXED = 40  # one report in so many has no indexing; 1 in 39 of the real ones


class OpenILayout(Layout):
    """Open-I's tree: a report in XML per study in `ecgen-radiology/`, `NLMCXR_png/`, and both tables of views.

    A report is indexed with the MeSH terms of all that its films show, `Opacity/lung/upper lobe/left/mild`; one in 40
    is `No Indexing`. Whose report it is, the data set does not tell. `indiana_projections.csv`, under Kaggle's names,
    tells frontal from lateral; `nlmcxr_dicom_metadata.csv` has the view of all AP films and, as in reality, of two
    thirds of all. Each of the phantom's findings has a heading.
    """

    name: ClassVar[str] = "openi"
    suffix: ClassVar[str] = ".png"

    def place(self, plan: StudyPlan, index: int, ordinal: int) -> Place:  # noqa: ARG002 - reports are numbered
        """Ids as in `NLMCXR_png/CXR10_IM-0010-1001.png`; the first report's have its number twice, as in reality."""
        number = ordinal + 1
        image = f"CXR{number}_{'1_' if number == 1 else ''}IM-{number:04d}-{index + 1}001"
        return Place(f"CXR{number}", f"CXR{number}", image, f"NLMCXR_png/{image}{self.suffix}")

    def write_tables(self, root: Path, images: Sequence[Drawn], size: int) -> None:
        """Write the reports and the tables of views."""
        reports: dict[str, list[Drawn]] = {}
        for image in images:
            reports.setdefault(image.place.study_id, []).append(image)
        folder = root / "ecgen-radiology"
        folder.mkdir(exist_ok=True)
        for number, (study, films) in enumerate(reports.items(), start=1):
            terms = ["No Indexing"] if number % _UNINDEXED == 0 else _terms(films)
            _write_report(folder / f"{study.removeprefix('CXR')}.xml", study, terms, films)
        projections, headers = [], []
        for image in images:
            uid, name = image.place.study_id.removeprefix("CXR"), image.place.image_id
            plane = "Lateral" if image.view == "lateral" else "Frontal"
            projections.append([uid, f"{uid}_{name[name.index('IM-') :]}.dcm.png", plane])
            silent = image.view != "AP" and blake2b(name.encode(), digest_size=1).digest()[0] % 2 == 0
            headers.append([name, size, size, "DX", "" if silent else _POSITIONS[image.view]])
        write_csv(root / "indiana_projections.csv", ["uid", "filename", "projection"], projections)
        columns = ["imageid", "Rows", "Columns", "Modality", "View Position"]
        write_csv(root / "nlmcxr_dicom_metadata.csv", columns, headers)


def _terms(films: Sequence[Drawn]) -> list[str]:
    """The major terms of a report."""
    if any(NORMAL in film.labels for film in films):
        return ["normal"]
    return sorted({_term(box) for film in films for box in film.boxes})


def _term(box: Box) -> str:
    """A heading with its qualifiers: lobe, side and severity."""
    finding = box.finding
    heading = _HEADINGS.get(box.label, box.label)
    if box.label == "Support Devices":
        return f"{_DEVICES.get(finding.kind, _TUBE)}/{_SIDES.get(finding.side_name, finding.side_name)}"
    lobe = f"/{finding.kind}" if finding.kind.endswith(" lobe") else ""
    return f"{heading}{lobe}/{_SIDES.get(finding.side_name, finding.side_name)}/{_SIZES[finding.size_name]}"


def _write_report(file: Path, study: str, terms: Sequence[str], films: Sequence[Drawn]) -> None:
    """A report with the elements of the real ones, but for what is the same in all."""
    root = ET.Element("eCitation")
    ET.SubElement(root, "meta", type="rr")
    ET.SubElement(root, "uId", id=study)
    ET.SubElement(root, "IUXRId", id=study.removeprefix("CXR"))
    abstract = ET.SubElement(ET.SubElement(ET.SubElement(root, "MedlineCitation"), "Article"), "Abstract")
    ET.SubElement(abstract, "AbstractText", Label="FINDINGS").text = f"{'; '.join(terms)}."
    mesh = ET.SubElement(root, "MeSH")
    for term in terms:
        ET.SubElement(mesh, "major").text = term
    ET.SubElement(mesh, "automatic").text = "pneumonia"  # a machine's, which nobody should believe
    for number, film in enumerate(films, start=1):
        parent = ET.SubElement(root, "parentImage", id=film.place.image_id)
        ET.SubElement(parent, "figureId").text = f"F{number}"
    ET.indent(root)
    file.write_bytes(b'<?xml version="1.0" encoding="utf-8"?>\n' + ET.tostring(root, "utf-8") + b"\n")
