"""PadChest's layout."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path
from typing import ClassVar

import cv2
import numpy as np
import numpy.typing as npt

from longview.data.phantom.layouts.base import Drawn, Layout, Place, write_csv
from longview.data.phantom.population import StudyPlan

_HEADER = (
    ",ImageID,ImageDir,StudyDate_DICOM,StudyID,PatientID,PatientBirth,PatientSex_DICOM,ViewPosition_DICOM,Projection,"
    "MethodProjection,Pediatric,Modality_DICOM,Manufacturer_DICOM,PhotometricInterpretation_DICOM,"
    "PixelRepresentation_DICOM,PixelAspectRatio_DICOM,SpatialResolution_DICOM,BitsStored_DICOM,WindowCenter_DICOM,"
    "WindowWidth_DICOM,Rows_DICOM,Columns_DICOM,XRayTubeCurrent_DICOM,Exposure_DICOM,ExposureInuAs_DICOM,ExposureTime,"
    "RelativeXRayExposure_DICOM,ReportID,Report,MethodLabel,Labels,Localizations,LabelsLocalizationsBySentence,"
    "labelCUIS,LocalizationsCUIS"
)

_TERMS = {
    "Calcification of the Aorta": "aortic atheromatosis",
    "Edema": "pulmonary edema",
    "Fibrosis": "pulmonary fibrosis",
    "Fracture": "rib fracture",
    "Hernia": "hiatal hernia",
    "Lung Opacity": "infiltrates",
    "Pneumoperitoneum": "pneumoperitoneo",
    "Support Devices": "pacemaker",
}
"""What PadChest calls a finding, where it has another word."""

_PROJECTIONS = {"PA": "PA", "AP": "AP_horizontal", "lateral": "L"}
_YEAR = 2012


class PadChestLayout(Layout):
    """PadChest's tree: 16-bit PNG in numbered folders, and the table, whose ids are numbers of 38 digits.

    All columns of the real table are there; those that nothing is known for are empty. `Labels` is the text of a Python
    list, with a space before some of its terms, as in reality; one study in 40 says only `unchanged`.
    """

    name: ClassVar[str] = "padchest"
    suffix: ClassVar[str] = ".png"

    _FOLDERS = 4
    _WHITE = 4095  # 12 bits in use, of 16

    def place(self, plan: StudyPlan, index: int, ordinal: int) -> Place:
        """Ids as in `0/20536686640136348236148679891455886468_k6ga29.png`."""
        patient, study = _number(plan.seed, plan.patient), _number(plan.seed, plan.patient, plan.number)
        image = f"{study}_{blake2b(f'{study}/{index}'.encode(), digest_size=3).hexdigest()}"
        return Place(patient, study, image, f"{ordinal % self._FOLDERS}/{image}{self.suffix}")

    def encode(self, image: npt.NDArray[np.uint8]) -> bytes:
        """A grey PNG of 16 bits."""
        deep = np.rint(image.astype(np.float64) * (self._WHITE / 255)).astype(np.uint16)
        done, encoded = cv2.imencode(self.suffix, deep, [cv2.IMWRITE_PNG_COMPRESSION, 3])
        assert done
        return encoded.tobytes()

    def write_tables(self, root: Path, images: Sequence[Drawn], size: int) -> None:
        """Write the table."""
        header = _HEADER.split(",")
        rows = []
        for number, image in enumerate(images):
            place = image.place
            terms = sorted(_TERMS.get(label, label.lower()) for label in image.labels)
            cells = {
                "": number,
                "ImageID": f"{place.image_id}{self.suffix}",
                "ImageDir": place.path.partition("/")[0],
                "StudyDate_DICOM": study_date(image),
                "StudyID": place.study_id,
                "PatientID": place.patient_id,
                "PatientBirth": f"{_YEAR + image.number - image.age}.0",
                "PatientSex_DICOM": "F" if image.female else "M",
                "Projection": _PROJECTIONS[image.view],
                "BitsStored_DICOM": 12,
                "Rows_DICOM": size,
                "Columns_DICOM": size,
                "MethodLabel": "Physician" if int(place.study_id) % 4 == 0 else "RNN_model",
                "Labels": str(["unchanged"] if int(place.study_id) % 40 == 0 else _spaced(terms, place.study_id)),
            }
            rows.append([cells.get(column, "") for column in header])
        write_csv(root / "PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv", header, rows)


def study_date(image: Drawn) -> str:
    """Day of a study: the patient's are a year apart."""
    return f"{_YEAR + image.number}0915"


def _spaced(terms: Sequence[str], study: str) -> list[str]:
    """The terms, those of every third study with a space before all but the first."""
    return [f" {term}" if number and int(study) % 3 == 0 else term for number, term in enumerate(terms)]


def _number(*what: int) -> str:
    """A number of 38 digits."""
    digest = blake2b("/".join(map(str, what)).encode(), digest_size=16).digest()
    return str(10**37 + int.from_bytes(digest, "big") % (9 * 10**37))
