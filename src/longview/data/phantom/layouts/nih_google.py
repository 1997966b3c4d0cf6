"""The layout of Google's labels for NIH ChestX-ray14."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from longview.data.phantom.layouts.base import Drawn, Part, part_of, write_csv
from longview.data.phantom.layouts.nih import HEADER, NihLayout
from longview.labels import LabelSet

_FOUR: dict[str, frozenset[str]] = {
    "Fracture": frozenset({"Fracture"}),
    "Pneumothorax": frozenset({"Pneumothorax"}),
    "Airspace opacity": frozenset({"Lung Opacity"}),  # goes with Consolidation too
    "Nodule or mass": frozenset({"Nodule", "Mass"}),
}
"""Finding of the data set -> those of the phantom."""

_PARTS: dict[Part, str] = {"development": "validation", "test": "test"}


class NihGoogleLayout(NihLayout):
    """The tree and tables of :class:`NihLayout`, with the same films and ids, and Google's tables beside them.

    The four findings are told of the films of development (`validation_labels.csv`) and test patients, all 14 of NIH's
    of the PA films of test patients; the others, 70 %, have no expert label, as most of NIH's. Experts make no mistake
    here. Findings beyond those leave no trace.
    """

    name: ClassVar[str] = "nih-google"

    def write_tables(self, root: Path, images: Sequence[Drawn], size: int) -> None:
        """Write NIH's tables, the two of the four findings, and that of all findings."""
        super().write_tables(root, images, size)
        nih = LabelSet.load("nih")
        for part, name in _PARTS.items():
            rows = [
                [*self._row(image, nih), *(_word(bool(wanted & image.labels)) for wanted in _FOUR.values())]
                for image in images
                if part_of(image.patient) == part
            ]
            _write(root / f"four_findings_expert_labels/{name}_labels.csv", [*HEADER, *_FOUR], rows)
        rows = [self._all(image, nih) for image in images if part_of(image.patient) == "test" and image.view == "PA"]
        header = ["Image ID", "Patient ID", "Abnormal", *(name.replace("_", " ") for name in nih.names), "Other"]
        _write(root / "all_findings_expert_labels/test_labels.csv", header, rows)

    def _all(self, image: Drawn, nih: LabelSet) -> list[object]:
        """A row of the table of all findings."""
        found = {name for label in image.labels if (name := nih.canonical(label)) is not None}
        cells = [_word(name in found) for name in nih.names]
        return [self._file(image), image.patient + 1, int(bool(found)), *cells, _word(False)]


def _word(present: bool) -> str:
    return "YES" if present else "NO"


def _write(file: Path, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    if rows:  # fewer than three patients are not in every part
        file.parent.mkdir(exist_ok=True)
        write_csv(file, header, rows)
