"""PadChest (Hospital San Juan, Alicante)."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd

from longview import InputError
from longview.data.manifest import read_csv, read_header
from longview.data.sources.base import Source, check_filled, check_unique, first, views_of
from longview.data.sources.places import find_images
from longview.data.sources.readers import strange_codes
from longview.labels import LabelSet, OnMismatch

TABLE = "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv"

_VOCABULARY = """
abnormal foreign body, abscess, adenopathy, air bronchogram, air fluid level, air trapping, alveolar pattern,
aortic aneurysm, aortic atheromatosis, aortic button enlargement, aortic elongation, aortic endoprosthesis,
apical pleural thickening, artificial aortic heart valve, artificial heart valve, artificial mitral heart valve,
asbestosis signs, ascendent aortic elongation, atelectasis, atelectasis basal, atypical pneumonia, axial
hyperostosis, azygoesophageal recess shift, azygos lobe, blastic bone lesion, bone cement, bone metastasis,
breast mass, bronchiectasis, bronchovascular markings, bullas, calcified adenopathy, calcified densities,
calcified fibroadenoma, calcified granuloma, calcified mediastinal adenopathy, calcified pleural plaques,
calcified pleural thickening, callus rib fracture, cardiomegaly, catheter, cavitation, central vascular
redistribution, central venous catheter, central venous catheter via jugular vein, central venous catheter via
subclavian vein, central venous catheter via umbilical vein, cervical rib, chest drain tube, Chilaiditi sign,
chronic changes, clavicle fracture, consolidation, COPD signs, costochondral junction hypertrophy, costophrenic
angle blunting, cyst, dai, descendent aortic elongation, dextrocardia, diaphragmatic eventration, double J
stent, dual chamber device, electrical device, emphysema, empyema, end on vessel, endoprosthesis, endotracheal
tube, esophagic dilatation, external foreign body, fibrotic band, fissure thickening, flattened diaphragm,
fracture, gastrostomy tube, goiter, granuloma, ground glass pattern, gynecomastia, heart insufficiency, heart
valve calcified, hemidiaphragm elevation, hiatal hernia, hilar congestion, hilar enlargement, humeral fracture,
humeral prosthesis, hydropneumothorax, hyperinflated lung, hypoexpansion, hypoexpansion basal, increased
density, infiltrates, interstitial pattern, kerley lines, kyphosis, laminar atelectasis, lepidic adenocarcinoma,
lipomatosis, lobar atelectasis, loculated fissural effusion, loculated pleural effusion, lung metastasis, lung
vascular paucity, lymphangitis carcinomatosa, lytic bone lesion, major fissure thickening, mammary prosthesis,
mass, mastectomy, mediastinal enlargement, mediastinal mass, mediastinal shift, mediastinic lipomatosis, metal,
miliary opacities, minor fissure thickening, multiple nodules, nephrostomy tube, nipple shadow, nodule, non
axial articular degenerative changes, normal, NSG tube, obesity, osteopenia, osteoporosis, osteosynthesis
material, pacemaker, pectum carinatum, pectum excavatum, pericardial effusion, pleural effusion, pleural mass,
pleural plaques, pleural thickening, pneumomediastinum, pneumonia, pneumoperitoneo, pneumothorax, post
radiotherapy changes, prosthesis, pseudonodule, pulmonary artery enlargement, pulmonary artery hypertension,
pulmonary edema, pulmonary fibrosis, pulmonary hypertension, pulmonary mass, pulmonary venous hypertension,
reservoir central venous catheter, respiratory distress, reticular interstitial pattern, reticulonodular
interstitial pattern, rib fracture, right sided aortic arch, round atelectasis, sclerotic bone lesion,
scoliosis, segmental atelectasis, single chamber device, soft tissue mass, sternoclavicular junction
hypertrophy, sternotomy, subacromial space narrowing, subcutaneous emphysema, superior mediastinal enlargement,
supra aortic elongation, surgery, surgery breast, surgery heart, surgery humeral, surgery lung, surgery neck,
suture material, thoracic cage deformation, total atelectasis, tracheal shift, tracheostomy tube, tuberculosis,
tuberculosis sequelae, vascular hilar enlargement, vascular redistribution, ventriculoperitoneal drain tube,
vertebral anterior compression, vertebral compression, vertebral degenerative changes, vertebral fracture,
volume loss
"""
CODES = tuple(" ".join(term.split()) for term in _VOCABULARY.split(","))
"""The data set's 190 findings, by alphabet: every term of its column `Labels` but for :data:`REMARKS`."""

REMARKS = ("exclude", "suboptimal study", "unchanged")
"""Terms of that column that are no findings: they speak of the study."""

_DAMAGED = """
216840111366964012819207061112010307142602253_04-014-084
216840111366964012989926673512011074122523403_00-163-058
216840111366964012959786098432011033083840143_00-176-115
216840111366964012558082906712009327122220177_00-102-064
216840111366964012339356563862009072111404053_00-043-192
216840111366964013076187734852011291090445391_00-196-188
216840111366964012373310883942009117084022290_00-064-025
216840111366964012283393834152009033102258826_00-059-087
216840111366964012373310883942009170084120009_00-097-074
216840111366964012819207061112010315104455352_04-024-184
216840111366964012819207061112010306085429121_04-020-102
216840111366964012989926673512011083134050913_00-168-009
216840111366964012373310883942009152114636712_00-102-045
216840111366964012819207061112010281134410801_00-129-131
216840111366964012487858717522009280135853083_00-075-001
216840111366964012989926673512011151082430686_00-157-045
216840111366964013686042548532013208193054515_02-026-007
216840111366964013590140476722013058110301622_02-056-111
216840111366964013590140476722013043111952381_02-065-198
216840111366964013829543166512013353113303615_02-092-190
216840111366964013962490064942014134093945580_01-178-104
"""
DAMAGED = frozenset(_DAMAGED.split())
"""Images whose PNG files are known to be cut off, broken or missing: those that torchxrayvision leaves out."""

_TEXT = ("ImageID", "StudyID", "PatientID", "Projection", "Labels")
_MORE = ("StudyDate_DICOM", "PatientBirth", "PatientSex_DICOM", "MethodLabel")
_FLOAT = re.compile(r"[\d.,]+E\+?\d+", re.IGNORECASE)  # what a spreadsheet makes of a number of 39 digits
_NOTHING = {"", "nan"}
_OLDEST = 120  # years


class PadChest(Source):
    """PadChest: radiographs of one Spanish hospital, 2009 to 2017, with findings from its reports.

    * **Size**: 160,861 PNG images of 16 bits (10 or 12 in use) in full resolution, of 109,931 studies and 67,625
      patients: PA 91,728, L 49,579, AP_horizontal 14,346, AP 4,559, COSTAL 630, EXCLUDE 11, UNK 8. About 1 TB.
    * **Licence**: PadChest Dataset Research Use Agreement (BIMCV): research only, no redistribution.
    * **Labels**: `Labels` is a Python list of terms: 190 findings (:data:`CODES`) and three :data:`REMARKS`. A label is
      1 where one of the row's findings, or a descendant in the label set's hierarchy, stands for it, else 0. 27 % of
      the images (39,053) were labelled by physicians, the others by a network that read the report: `meta_method`.
      No image of the table has an infarction, so that label of the set stays unknown.
      Rows without a list (103), or with nothing but remarks or empty terms, say nothing: every label is NaN
      (reported). `unchanged` alone means: as in a report that is not here.
    * **Split**: none official.
    * **Ids**: all as text: patients and studies have 38 or 39 digits, which no number holds. One study id stands for
      two patients: it becomes two studies (reported).
    * **Views**: `Projection`: PA, L (lateral), AP and AP_horizontal (AP); COSTAL (of ribs), EXCLUDE and UNK are
      unknown.
    * **Folders**: `0/` to `54/` as in the column `ImageDir`, or flat, in the root or in a folder of it; the table in
      the root, plain or gzipped. A converted copy of another ending serves where the PNG is not there (reported).
    * **Quirks**: terms have spaces around them, or are empty. 21 files are known to be damaged or missing
      (:data:`DAMAGED`, reported): `prepare` leaves out those that do not decode. Early torrents held padded copies.
      CXR-LT 2026 takes its training images from here (source `cxr-lt-2026`).
    * **Cite**: Bustos et al., PadChest: a large chest x-ray image dataset with multi-label annotated reports, Medical
      Image Analysis 66, 2020, doi:10.1016/j.media.2020.101797, arXiv:1901.07441.

    Args:
        root: Folder that holds the table and the images.
        labels: Label set; None: `padchest`. Labels that no finding stands for get no column; findings that stand for
            none are left out (reported).
        unknown: What to do about a term in the table that PadChest does not have.
    """

    name: ClassVar[str] = "padchest"
    default_labels: ClassVar[str | None] = "padchest"

    def __init__(self, root: str | Path, labels: LabelSet | None = None, unknown: OnMismatch = "error") -> None:
        super().__init__(root, labels)
        self.unknown = unknown

    def rows(self) -> tuple[pd.DataFrame, str]:
        """Read the table and the listing of the image folders."""
        file = self.require_table((TABLE,))
        raw = _read(file)
        image_id = raw["ImageID"].str.strip().str.rsplit(".", n=1).str[0].rename("ImageID")
        check_unique(image_id, file)
        self.note("images whose files are known to be damaged or missing", image_id[image_id.isin(DAMAGED)])
        odd = raw["Projection"].isin(["EXCLUDE", "UNK"])
        self.note("images whose Projection is EXCLUDE or UNK", image_id[odd])
        table = pd.DataFrame(
            {
                "patient_id": raw["PatientID"].str.strip(),
                "study_id": self._studies(raw),
                "image_id": image_id,
                "view": views_of(raw["Projection"]),
                "path": find_images(self, image_id, "{}.png"),
                "split": "none",
                **_meta(raw),
            }
        )
        return pd.concat([table, self._values(raw["Labels"], image_id, file)], axis=1), str(file)

    def _studies(self, raw: pd.DataFrame) -> pd.Series[str]:
        """`StudyID`, with the patient's id behind it where two patients have the same."""
        study, patient = raw["StudyID"].str.strip(), raw["PatientID"].str.strip()
        pairs = pd.DataFrame({"study": study, "patient": patient}).drop_duplicates()
        shared = pairs.loc[pairs["study"].duplicated(), "study"].unique()
        self.note("studies of two patients, made two", shared)
        return study.mask(study.isin(shared), study + "_" + patient).astype("str")

    def _values(self, cells: pd.Series[str], image_id: pd.Series[str], file: Path) -> pd.DataFrame:
        """Columns of the label set from the lists of terms."""
        lists = {text: _terms(text, file) for text in cells.unique()}
        strange = strange_codes({term for terms in lists.values() for term in terms}, (*CODES, *REMARKS))
        if strange and self.unknown == "error":
            raise InputError(
                f"{file}: Labels has {first(strange)}, no term of PadChest; correct the table, or leave them out with "
                f"--unknown ignore"
            )
        self.note("terms that PadChest does not have, left out", strange)
        for remark in REMARKS:
            self.note(f"images with the remark {remark!r}", image_id[cells.map({t: remark in lists[t] for t in lists})])
        findings = {text: [term for term in terms if term in _FINDINGS] for text, terms in lists.items()}
        silent = cells.map({text: not found for text, found in findings.items()})
        self.note("images without a finding or `normal`, labels unknown", image_id[silent])
        return self.finding_labels(cells, lambda text: findings[text] or None, CODES, "ignore", str(file))


_FINDINGS = frozenset(CODES)


def _read(file: Path) -> pd.DataFrame:
    """The columns that are used, as text.

    Raises:
        InputError: Where a column is missing, an id blank, or ids were saved as numbers.
    """
    header = read_header(file)
    absent = [name for name in _TEXT if name not in header]
    if absent:
        raise InputError(f"{file} lacks the columns {', '.join(absent)}; it has {', '.join(header)}")
    columns = [name for name in (*_TEXT, *_MORE) if name in header]
    raw = read_csv(file, usecols=columns, dtype="str", keep_default_na=False)
    if raw.empty:
        raise InputError(f"{file} has no rows")
    for name in ("ImageID", "StudyID", "PatientID"):
        check_filled(raw[name], file)
        lossy = raw.loc[raw[name].str.fullmatch(_FLOAT), name].unique().tolist()
        if lossy:
            raise InputError(f"{file}: {name} was saved as a number ({first(lossy)}); take the original file")
    return raw


def _terms(text: str, file: Path) -> list[str]:
    """The terms of a cell, each once; none where it is blank."""
    if text.strip() in _NOTHING:
        return []
    try:
        terms = ast.literal_eval(text)
    except (ValueError, SyntaxError) as error:
        raise InputError(f"{file}: Labels has {text!r}, which is no list of terms as in ['normal']") from error
    if not isinstance(terms, list) or not all(isinstance(term, str) for term in terms):
        raise InputError(f"{file}: Labels has {text!r}, which is no list of terms as in ['normal']")
    return list(dict.fromkeys(term.strip() for term in terms if term.strip()))


def _meta(raw: pd.DataFrame) -> dict[str, pd.Series[float] | pd.Series[str]]:
    """Age in years at the study, sex, and who labelled it, where known."""
    nothing = pd.Series("", index=raw.index, dtype="str")
    study = pd.to_numeric(raw.get("StudyDate_DICOM", nothing).str[:4], errors="coerce")
    ages = (study - pd.to_numeric(raw.get("PatientBirth", nothing), errors="coerce")).astype(np.float64)
    sex = raw.get("PatientSex_DICOM", nothing).str.strip().str.upper()
    return {
        "meta_age": ages.where((ages >= 0) & (ages <= _OLDEST)),
        "meta_sex": sex.where(sex.isin(["M", "F"]), ""),
        "meta_method": raw.get("MethodLabel", nothing),
    }
