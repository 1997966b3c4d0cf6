"""The phantom's raw folder, read with the parser of the data set whose layout it was drawn in."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import pandas as pd

from longview import InputError
from longview.data.manifest import read_csv
from longview.data.sources.base import Source
from longview.labels import LabelSet

_INFO = "phantom.json"  # marks a folder that `main.py phantom` has finished
_BOXES = "boxes.csv"
_WORDS = ("image_id", "study_id", "view", "label", "kind", "side", "size")
SIDES = ("left", "right")
"""Sides of the patient; the left one is at the right of a frontal film."""

SIZES = ("small", "medium", "large")

_LOBES = ("upper lobe", "middle lobe", "lower lobe")
KINDS: dict[str, tuple[str, ...]] = {
    "Support Devices": ("pacemaker", "endotracheal tube", "central line", "feeding tube", "chest drain"),
    "Lung Opacity": ("haze", *_LOBES),
    "Cardiomegaly": ("large heart",),
    "Pleural Effusion": ("meniscus", "posterior sulcus"),
    "Atelectasis": ("plates", "lower lobe"),
    "Edema": ("bat wing",),
    "Consolidation": _LOBES,
    "Pneumothorax": ("edge",),
    "Fracture": ("ribs", "vertebra"),
    "Nodule": ("ball",),
    "Mass": ("lobulated",),
    "Calcification of the Aorta": ("arcs",),
    "Hernia": ("hiatal",),
    "Emphysema": ("flat diaphragm",),
    "Fibrosis": ("net",),
    "Pneumoperitoneum": ("sickle",),
}
"""Finding -> its kinds: what `boxes.csv` may say, also where a small phantom has none."""


class Phantom(Source):
    """Drawn chests: synthetic, so free of any licence and of any patient.

    * **Counts**: as many studies as were asked for; views per study as in CXR-LT 2024.
    * **Labels**: 17 of CXR-LT 2024's (`configs/labels/phantom.yaml`), 35 % down to 0.7 %; a study is Normal where its
      films show none of the others.
    * **Derived labels**: a label with aliases for `phantom` is read off `boxes.csv` instead of the layout's tables.
      Each alias is a finding and any number of qualifiers, `Support Devices / chest drain / left`: a side of the
      patient (:data:`SIDES`; what lies on both sides counts for each), a size (:data:`SIZES`, thirds of the severity)
      or a kind (:data:`KINDS`). A study has the label where one of its films shows a box that fits one of the
      aliases; only a frontal film tells the side. Labels that the set marks unseen are NaN in train.
    * **Split**: by patient, 70 % train, 10 % development, 20 % test, written in the layout's own way.
    * **Quirks**: about 3 % of the views are blank, as in MIMIC-CXR-JPG; boxes of all findings are in `boxes.csv`. In
      the layout of NIH, validation is carved out of train, so that it knows no unseen label either.

    The layout stands in `phantom.json`; any other tool may read the folder as that data set.
    """

    name: ClassVar[str] = "phantom"
    default_labels: ClassVar[str | None] = "phantom"

    def rows(self) -> tuple[pd.DataFrame, str]:
        """Rows of the layout's own source, and the derived labels.

        Raises:
            InputError: Where the folder is no finished phantom, or a derived label is none of this phantom's.
        """
        from longview.data.sources import open_source  # the package's table holds this module

        layout, labels = self._layout(), self.require_labels()
        derived = {label.name: aliases for label in labels.labels if (aliases := label.aliases.get(self.name))}
        inner = open_source(layout, self.root, _without(labels, derived) if derived else labels)
        table, origin = inner.rows()
        self.codes = inner.codes
        boxes = self._boxes()
        self.boxes = _drawn(boxes)
        if not derived:
            return table, origin
        columns = {name: self._derive(name, aliases, boxes, table) for name, aliases in derived.items()}
        table = pd.concat([table, pd.DataFrame(columns, index=table.index)], axis=1)
        order = [name for name in (*labels.names, *labels.unseen_names) if name in table.columns]
        return table[[*(column for column in table.columns if column not in order), *order]], origin

    def _layout(self) -> str:
        from longview.data.sources import SOURCES  # the package's table holds this module

        info = self.root / _INFO
        if not info.is_file():
            raise InputError(f"{self.root} is no phantom: it lacks {_INFO}. Draw one with main.py phantom --output DIR")
        try:
            layout = json.loads(info.read_text(encoding="utf-8"))["settings"]["layout"]
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{info} is damaged ({error!r}); draw the phantom again") from error
        if layout not in SOURCES:
            raise InputError(f"{info}: layout is {layout!r}, which no source reads; draw the phantom again")
        return str(layout)

    def _boxes(self) -> pd.DataFrame:
        file = self.root / _BOXES
        if not file.is_file():
            raise InputError(f"{file} is not there, which every phantom has; draw the phantom again")
        return read_csv(file, dtype=dict.fromkeys(_WORDS, "str"), keep_default_na=False)

    def _derive(self, name: str, aliases: Sequence[str], boxes: pd.DataFrame, table: pd.DataFrame) -> pd.Series[float]:
        """Values of a derived label for each image: the same for all images of a study, NaN where not to be seen."""
        labels = self.require_labels()
        where = f"label set {labels.name!r}: label {name!r}"
        studies = {study for alias in aliases for study in boxes.loc[_fits(boxes, alias, where), "study_id"]}
        values = table["study_id"].isin(studies).astype(np.float32)
        return values.mask(table["split"] == "train") if name in labels.unseen_names else values


def _drawn(boxes: pd.DataFrame) -> pd.DataFrame:
    """The true boxes in the form of all sources: in pixels of the image file, drawn by nobody."""
    sides = {name: boxes[name].astype(np.float64) for name in ("x", "y", "width", "height")}
    frame = pd.DataFrame({"image_id": boxes["image_id"], "label": boxes["label"], **sides})
    return frame.assign(frame_width=np.nan, frame_height=np.nan, reader="")


def _without(labels: LabelSet, derived: dict[str, list[str]]) -> LabelSet:
    """The labels that the layout's own tables know.

    Raises:
        InputError: Where none of the seen labels is left.
    """
    plain = [label for label in labels.labels if label.name not in derived and not label.derived]
    if all(label.unseen for label in plain):
        raise InputError(
            f"label set {labels.name!r}: every seen label has aliases for 'phantom'; leave at least one without, for "
            f"which the phantom's tables have a column, such as Normal"
        )
    names = {label.name for label in plain} | set(labels.hierarchy)
    hierarchy = {parent: [child for child in down if child in names] for parent, down in labels.hierarchy.items()}
    return LabelSet(labels.name, plain, labels.description, hierarchy)


def _fits(boxes: pd.DataFrame, alias: str, where: str) -> pd.Series[bool]:
    """Which boxes an alias such as `Pleural Effusion / left` speaks of.

    Raises:
        InputError: For a finding or a qualifier that no phantom has.
    """
    finding, *qualifiers = (part.strip() for part in alias.split("/"))
    if finding not in KINDS:
        raise InputError(f"{where}: alias {alias!r} names no finding of a phantom; those are {', '.join(KINDS)}")
    fits = boxes["label"] == finding
    for qualifier in qualifiers:
        if qualifier in SIDES:
            fits &= boxes["side"].isin([qualifier, "both"]) & (boxes["view"] != "lateral")
        elif qualifier in SIZES:
            fits &= boxes["size"] == qualifier
        elif qualifier in KINDS[finding]:
            fits &= boxes["kind"] == qualifier
        else:
            known = (*SIDES, *SIZES, *KINDS[finding])
            raise InputError(
                f"{where}: alias {alias!r} has the qualifier {qualifier!r}; {finding} knows {', '.join(known)}"
            )
    return fits
