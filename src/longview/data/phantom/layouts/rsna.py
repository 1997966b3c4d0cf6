"""The RSNA Pneumonia Detection Challenge's layout (Kaggle)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar
from uuid import NAMESPACE_URL, uuid5

import numpy as np
import numpy.typing as npt

from longview.data.phantom.layouts.base import Drawn, Layout, Place, write_csv
from longview.data.phantom.layouts.dicom import encode_dicom
from longview.data.phantom.population import StudyPlan

_OPACITIES = ("Lung Opacity",)  # goes with Consolidation too


class RsnaLayout(Layout):
    """The challenge's tree: `stage_2_train_images/<patientId>.dcm` and `stage_2_train_labels.csv` with boxes.

    Each study has one frontal film, and a `patientId` of its own, as in reality. Its boxes are those of Lung Opacity.
    """

    name: ClassVar[str] = "rsna"
    suffix: ClassVar[str] = ".dcm"
    frontal_only: ClassVar[bool] = True

    _FRAME = 1024  # side of the official films, in whose pixels the boxes are

    def place(self, plan: StudyPlan, index: int, ordinal: int) -> Place:  # noqa: ARG002 - one image per study
        """Ids as in `stage_2_train_images/00436515-870c-4b36-a041-de91049b9ab4.dcm`."""
        image = str(uuid5(NAMESPACE_URL, f"{plan.seed}/{plan.patient}/{plan.number}"))
        return Place(image, image, image, f"stage_2_train_images/{image}{self.suffix}")

    def encode(self, image: npt.NDArray[np.uint8]) -> bytes:
        """A DICOM file."""
        return encode_dicom(image, 8)

    def write_tables(self, root: Path, images: Sequence[Drawn], size: int) -> None:
        """Write the boxes: a row for each, and one without a box for a film that has none."""
        scale = self._FRAME / size
        rows: list[list[object]] = []
        for image in images:
            boxes = [box for box in image.boxes if box.label in _OPACITIES]
            sides = [[box.x, box.y, box.width, box.height] for box in boxes]
            rows += [[image.place.image_id, *(round(side * scale, 1) for side in box), 1] for box in sides]
            rows += [] if boxes else [[image.place.image_id, "", "", "", "", 0]]
        write_csv(root / "stage_2_train_labels.csv", ["patientId", "x", "y", "width", "height", "Target"], rows)
