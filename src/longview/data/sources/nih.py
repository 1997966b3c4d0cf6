"""NIH ChestX-ray14."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd

from longview import InputError
from longview.data.images import IMAGE_SUFFIXES
from longview.data.sources.base import Source, check_filled, check_unique, first, read_text, views_of
from longview.data.sources.boxes import box_table, read_boxes
from longview.labels import LabelSet, OnMismatch

CODES = (
    "Atelectasis",
    "Cardiomegaly",
    "Effusion",
    "Infiltration",
    "Mass",
    "Nodule",
    "Pneumonia",
    "Pneumothorax",
    "Consolidation",
    "Edema",
    "Emphysema",
    "Fibrosis",
    "Pleural_Thickening",
    "Hernia",
)
"""The data set's label codes, in the order of Wang et al. 2017."""

TABLES = ("Data_Entry_2017_v2020.csv", "Data_Entry_2017.csv", "sample_labels.csv")
"""Tables that are looked for, newest first; the last is that of Kaggle's sample of 5,606 images."""

BOXES = "BBox_List_2017.csv"

# the header `Bbox [x,y,w,h],,,` is not quoted, so a CSV reader cuts it in seven
_CORNERS = ("Bbox [x", "y", "w", "h]")
_FRAME = 1024  # side of the official PNG, in whose pixels the boxes are
_SPELLINGS = {"Infiltrate": "Infiltration"}  # that of the list of boxes
_LISTS = {"train_val_list.txt": "train", "test_list.txt": "test"}
_OLDEST = 140  # years; 16 rows of the first release say more (up to 414)
_YEARS = {"Y": 1.0, "M": 1 / 12, "D": 1 / 365.25, "": 1.0}


class Nih(Source):
    """NIH ChestX-ray14: frontal radiographs of the NIH Clinical Center with text-mined findings.

    * **Size**: 112,120 PNG images of 1024x1024 px (a few RGBA) of 30,805 patients; 67,310 PA and 44,810 AP.
    * **Licence**: no restrictions on use; credit the NIH Clinical Center and cite the paper.
    * **Labels**: the 14 of :data:`CODES`, 1 or 0, from reports by text mining. `No Finding` (60,361 images)
      is the absence of all 14 and a label only where the label set has it. A blank cell says nothing: every
      label of that row is NaN (reported).
    * **Split**: `train_val_list.txt` (86,524 images, 28,008 patients) becomes `train`, `test_list.txt`
      (25,596 images, 2,797 patients) `test`; they share no patient. There is no official validation list: it
      is carved from `train` by patient when splits are assigned. An image in neither list is left out and
      reported. Without both files every split is `none`.
    * **Ids**: patient `00000001`; a study is one film (follow-up numbers order films but do not group them),
      so its id is the image id `00000001_000`.
    * **Folders**: `images/` (official), `images_001..012/images/` or `images_001..012/` (Kaggle), any
      mixture, or the images in the root itself. A copy with another ending (`.jpg`) serves where the PNG is
      not there (reported).
    * **Boxes**: `BBox_List_2017.csv`, where it is there: 984 boxes of 880 images of the test part, at most one per
      image and finding, drawn by a radiologist, in pixels of the 1024 px PNG: Atelectasis 180, Effusion 153,
      Cardiomegaly 146, Infiltration 123 (`Infiltrate` there), Pneumonia 120, Pneumothorax 98, Mass 85, Nodule 79.
    * **Quirks**: the first release's table has a trailing empty column, 16 ages above 140 (here: unknown)
      and, in one copy, ages like `058Y`; two copies of it differ in the findings of 181 rows, so the
      corrected `v2020` table is taken where both are there. Spacing, height and width are those of the
      original film, not of the 1024 px PNG: spacing x size is the size in mm. The test part holds 56.6 % AP
      films, the rest 35.0 %.
    * **Cite**: Wang et al., ChestX-ray8: Hospital-scale chest X-ray database and benchmarks, CVPR 2017.

    Args:
        root: Folder that holds the table and the images.
        labels: Label set; None: `nih`. Labels that NIH has no finding for get no column.
        unknown: What to do about a finding in the table that stands for no label of the set.
    """

    name: ClassVar[str] = "nih"
    default_labels: ClassVar[str | None] = "nih"

    def __init__(self, root: str | Path, labels: LabelSet | None = None, unknown: OnMismatch = "error") -> None:
        super().__init__(root, labels)
        self.unknown = unknown

    def rows(self) -> tuple[pd.DataFrame, str]:
        """Read the newest table, the lists and the listing of the image folders."""
        file = self.require_table(TABLES)
        raw = read_text(file, required=("Image Index", "Finding Labels", "Patient ID", "View Position"))
        names = raw["Image Index"]
        check_unique(names, file)
        check_filled(raw["Patient ID"], file)
        image_id = names.str.rsplit(".", n=1).str[0]
        table = pd.DataFrame(
            {
                "patient_id": raw["Patient ID"].str.strip().str.zfill(8),
                "study_id": image_id,
                "image_id": image_id,
                "view": views_of(raw["View Position"]),
                "path": self._paths(names),
                "split": self._splits(names),
            }
        ).assign(**film_metadata(raw))
        self.note("images without a finding, labels unknown", names[raw["Finding Labels"].map(_findings).isna()])
        findings = self.finding_labels(raw["Finding Labels"], _findings, CODES, self.unknown, str(file))
        table = pd.concat([table, findings], axis=1)
        listed = table["split"] != ""
        if not listed.any():
            raise InputError(f"no image of {file} stands in {' or '.join(_LISTS)} in {self.root}")
        self.note(f"left out, in neither {' nor '.join(_LISTS)}", names[~listed])
        self._read_boxes(image_id)
        return table[listed], str(file)

    def _read_boxes(self, image_id: pd.Series[str]) -> None:
        """The list of boxes, where it is there."""
        file = self.find_table((BOXES,))
        if file is None:
            return
        raw = read_text(file, required=("Image Index", "Finding Label", *_CORNERS))
        boxes = read_boxes(self, raw, _CORNERS, file)
        images = raw["Image Index"].str.rsplit(".", n=1).str[0]
        self.note(f"images of {BOXES} that the table does not name", images[~images.isin(image_id)].unique())
        self.boxes = box_table(boxes, images, raw["Finding Label"].str.strip().replace(_SPELLINGS), _FRAME)

    def _paths(self, names: pd.Series[str]) -> pd.Series[str]:
        """Where each image lies below the root; `images/NAME` for one that lies nowhere."""
        places: dict[str, str] = {}
        copies: dict[str, str] = {}  # by name without ending
        for folder in ("", *_image_folders(self.root)):
            with os.scandir(self.root / folder) as entries:
                for entry in sorted(entries, key=lambda entry: entry.name):
                    stem, _, ending = entry.name.rpartition(".")
                    place = f"{folder}/{entry.name}" if folder else entry.name
                    if ending == "png":
                        places.setdefault(entry.name, place)
                    elif f".{ending.lower()}" in IMAGE_SUFFIXES:
                        copies.setdefault(stem, place)
        stems = names.str.rsplit(".", n=1).str[0]
        direct = names.map(places).astype("str")
        found = direct.fillna(stems.map(copies).astype("str"))
        known = set(names), set(stems)
        # only in image folders: a picture in the root may be anything
        extra = [name for name, place in places.items() if "/" in place and name not in known[0]]
        extra += [place.rpartition("/")[2] for stem, place in copies.items() if "/" in place and stem not in known[1]]
        self.note("image files that the table does not name", sorted(extra))
        self.note("images with another ending than the table's", found[direct.isna() & found.notna()])
        return found.fillna("images/" + names).astype("str")

    def _splits(self, names: pd.Series[str]) -> pd.Series[str]:
        """Official split of each image, "" for one in neither list; `none` where there are no lists."""
        found = {name: self.root / name for name in _LISTS if (self.root / name).is_file()}
        if not found:
            return pd.Series("none", index=names.index, dtype="str")
        if len(found) < len(_LISTS):
            absent = next(name for name in _LISTS if name not in found)
            raise InputError(f"{self.root} has {next(iter(found))} but not {absent}; give both official lists or none")
        images = {name: _listed(file) for name, file in found.items()}
        both = sorted(set.intersection(*images.values()))
        if both:
            raise InputError(f"{' and '.join(map(str, found.values()))} share {len(both)} images: {first(both)}")
        return names.map({image: _LISTS[name] for name, listed in images.items() for image in listed}).fillna("")


def _image_folders(root: Path) -> list[str]:
    """The folders `images*` of the root and those named `images` in them, in order."""
    found: list[str] = []
    for folder in sorted(path for path in root.glob("images*") if path.is_dir()):
        inner = folder / "images"
        found += [folder.name, f"{folder.name}/images"] if inner.is_dir() else [folder.name]
    return found


def _listed(file: Path) -> set[str]:
    """The names in an official list."""
    try:
        return set(file.read_text(encoding="utf-8-sig").split())
    except UnicodeDecodeError as error:
        raise InputError(f"{file} is not a list of image names in UTF-8 ({error}); download it again") from error


def _findings(cell: str) -> list[str] | None:
    """The findings of a cell; None for a blank one, which is not `No Finding`."""
    return [finding.strip() for finding in cell.split("|") if finding.strip()] or None


def film_metadata(raw: pd.DataFrame) -> dict[str, pd.Series[float] | pd.Series[str]]:
    """Age in years, sex, and the original film's pixel spacing (mm), height and width (px), where known."""
    # the header `OriginalImage[Width,Height]` is not quoted, so a CSV reader cuts it in two
    columns = {
        "meta_pixel_spacing_mm": ("OriginalImagePixelSpacing[x", "OriginalImagePixelSpacing_x"),
        "meta_height": ("Height]", "OriginalImageHeight"),
        "meta_width": ("OriginalImage[Width", "OriginalImageWidth"),
    }
    nothing = pd.Series("", index=raw.index, dtype="str")
    meta: dict[str, pd.Series[float] | pd.Series[str]] = {"meta_age": _ages(raw.get("Patient Age", nothing))}
    sex = raw.get("Patient Gender", nothing).str.strip().str.upper()
    meta["meta_sex"] = sex.where(sex.isin(["M", "F"]), "")
    for name, spellings in columns.items():
        cells = next((raw[column] for column in spellings if column in raw.columns), nothing)
        meta[name] = pd.to_numeric(cells, errors="coerce").astype(np.float64)
    return meta


def _ages(cells: pd.Series[str]) -> pd.Series[float]:
    """Years from `58`, `058Y`, `011M` (months) or `013D` (days); NaN for blanks and impossible ages."""
    ages = {cell: _age(cell) for cell in cells.unique()}
    return cells.map(ages).astype(np.float64)


def _age(cell: str) -> float:
    parts = re.fullmatch(r"(\d+(?:\.\d+)?)([YMD]?)", cell.strip().upper())
    years = float(parts[1]) * _YEARS[parts[2]] if parts else np.nan
    return years if years <= _OLDEST else np.nan
