"""True boxes of findings, from a store or from the tables that data sets come with."""

from __future__ import annotations

import ast
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from longview import InputError
from longview.data.manifest import read_table
from longview.data.store import BOXES_FILE, Store
from longview.joining import identify, join_keys, some
from longview.labels import LabelSet
from longview.localization.explained import Film

logger = logging.getLogger(__name__)

_IMAGES = ("image_id", "Image Index", "dicom_id", "ImageID", "patientId", "fname")
_LABELS = ("label", "Finding Label", "class_name", "tb_type")
_GEOMETRY = (
    ("x", "y", "width", "height"),
    ("x", "y", "w", "h"),
    ("Bbox [x", "y", "w", "h]"),
    ("x_min", "y_min", "x_max", "y_max"),
    ("xmin", "ymin", "xmax", "ymax"),
)
_TBX = ("xmin", "ymin", "width", "height")
_FRAMES = (("frame_width", "frame_height"), ("image_width", "image_height"), ("width", "height"))
_NIH_SPELLINGS = {"Infiltrate": "Infiltration"}
_OFFICIAL = 1024.0  # side of the frame of NIH's list and of RSNA's table
_NOTHING = {"", "none", "No finding", "No Finding"}
_TOLERANCE = 1.0  # pixels of its frame that a box may overlap the edge by, as rounding makes it
_ASPECT = 0.02  # relative difference of two aspects that rounding of sides explains


@dataclass(frozen=True)
class Annotated:
    """True boxes.

    Args:
        file: Where they are from.
        boxes: `image_id`, `label`, `x`, `y`, `width`, `height`, `frame_width`, `frame_height` (NaN: the frame is the
            film's), and `row`, counted from 1 (a CSV's header is line 1).
        images: Images that the file speaks of, with and without boxes.
        known: By image id: what is known of each label (1, 0, NaN); None: a table without boxes of a label says that
            it is absent, where `complete`.
        complete: Whether an image of the file without a box of a label is known not to show it.
        patients: By image id; None: not known.
    """

    file: Path
    boxes: pd.DataFrame
    images: pd.Index[Any]
    known: pd.DataFrame | None = None
    complete: bool = True
    patients: pd.Series[Any] | None = field(default=None, repr=False)

    @classmethod
    def read(cls, path: Path) -> Annotated:
        """Read a store, or a table in one of the forms that data sets use.

        Known forms: `image_id, label, x, y, width, height`; corners as `x_min, y_min, x_max, y_max`; NIH's
        `BBox_List_2017.csv`, VinBigData's and RSNA's training table, TBX11K's `data.csv` with its `bbox`. A table may
        tell its frame: `frame_width, frame_height` or `image_width, image_height` (beside corners also `width,
        height`); that of NIH and RSNA is known to be 1024 x 1024.

        Raises:
            InputError: Where it has no boxes, or columns, numbers or ids are missing.
        """
        if path.is_dir():
            return _of_store(path)
        return _of_table(path)

    @classmethod
    def given(cls, rows: Sequence[tuple[str, str, Sequence[float]]], origin: str) -> Annotated:
        """From (image id, label, (x, y, width, height)), as they stand on a command line."""
        table = pd.DataFrame(
            [(image, label, *box, np.nan, np.nan, place + 1) for place, (image, label, box) in enumerate(rows)],
            columns=[*_IMAGES[:1], *_LABELS[:1], *_GEOMETRY[0], *_FRAMES[0], "row"],
        )
        return cls(Path(origin), table, pd.Index(table["image_id"].unique()), complete=False)

    def in_frame(self, width: int, height: int) -> Annotated:
        """The same boxes, said to be in pixels of this frame.

        Raises:
            InputError: Where the file itself tells another one.
        """
        sides = {"frame_width": float(width), "frame_height": float(height)}
        for key, side in sides.items():
            other = self.boxes[key].notna() & (self.boxes[key] != side)
            if other.any():
                bad = self.boxes[other].iloc[0]
                raise InputError(
                    f"{self.file}: row {bad['row']}: its boxes are in a frame of {bad['frame_width']:g} x "
                    f"{bad['frame_height']:g}, as the file (or its format) states, and --frame says {width}x{height}; "
                    f"leave --frame out"
                )
        return replace(self, boxes=self.boxes.assign(**{key: self.boxes[key].fillna(to) for key, to in sides.items()}))


@dataclass(frozen=True)
class Truth:
    """True boxes of films that were explained, in pixels of these films.

    Args:
        boxes: (image id, label) -> (n, 4) x, y, width, height.
        absent: Pairs that are known to be without the finding.
        patients: Image id -> patient; the image itself where that is not known.
        unit: What resamples are drawn of: `patient` or `image`.
    """

    boxes: dict[tuple[str, str], npt.NDArray[np.float64]]
    absent: set[tuple[str, str]]
    patients: dict[str, str]
    unit: str


def _of_store(path: Path) -> Annotated:
    store = Store(path)
    found = store.boxes()
    if found is None:
        raise InputError(
            f"store {path} has no {BOXES_FILE}: its source has no boxes, or it was made before stores kept them; "
            f"prepare it again, or give a table of boxes"
        )
    boxes = found.assign(row=np.arange(1, len(found) + 1))
    table = store.manifest.table.set_index("image_id")
    patients = table["source"].astype("str").str.cat(table["patient_id"].astype("str"), sep="/")
    values = table[store.manifest.labels]
    return Annotated(path / BOXES_FILE, boxes, table.index, values, patients=patients)


def _of_table(path: Path) -> Annotated:
    raw = read_table(path, text=[*_IMAGES, *_LABELS, "patient_id", "target"])
    first = 1 if path.suffix == ".parquet" else 2  # a CSV's header is line 1
    raw = raw.assign(row=np.arange(first, first + len(raw)))
    image = next((column for column in _IMAGES if column in raw.columns), None)
    if image is None:
        raise InputError(f"{path} has no column of image ids: name it image_id; it has {some(raw.columns)}")
    if raw[image].isna().any() or (raw[image].astype("str") == "").any():
        row = raw.loc[raw[image].isna() | (raw[image].astype("str") == ""), "row"].iloc[0]
        raise InputError(f"{path}: column {image!r} is empty in row {row}; fill it in, or remove the row")
    ids = raw[image].astype("str")
    numbers = _geometry(raw, path)
    labels = _labels(raw, path)
    boxes = numbers.assign(image_id=ids, label=labels, row=raw["row"])
    boxes = boxes[numbers["width"].notna() & ~labels.isin(_NOTHING)]
    flat = (boxes["width"] <= 0) | (boxes["height"] <= 0)
    if flat.any():
        bad = boxes[flat].iloc[0]
        raise InputError(
            f"{path}: row {bad['row']} has a box of {bad['width']:g} x {bad['height']:g} pixels (width x height), and "
            f"{int(flat.sum())} rows are so; correct or remove them"
        )
    found = identify(raw.drop(columns=[image]), str(path)).get("patient_id") if image != "patientId" else ids
    nih = "Bbox [x" in raw.columns  # lists one box per finding for some of its films
    if nih:
        found = ids.str.split("_").str[0]
    patients = None
    if found is not None:
        patients = pd.Series(found.to_numpy(), index=ids)
        patients = patients[~patients.index.duplicated()]
    return Annotated(path, boxes.reset_index(drop=True), pd.Index(ids.unique()), None, not nih, patients)


def _geometry(raw: pd.DataFrame, path: Path) -> pd.DataFrame:
    """x, y, width, height (NaN: no box) and the frame, by the rows of a table."""
    known = raw
    if "bbox" in raw.columns:
        known = pd.concat([raw.drop(columns="bbox"), _parsed(raw, path)], axis=1)
        columns: Sequence[str] | None = _TBX
    else:
        columns = next((names for names in reversed(_GEOMETRY) if set(names) <= set(raw.columns)), None)
    if columns is None:
        raise InputError(
            f"{path} has no boxes: name columns x, y, width, height, or x_min, y_min, x_max, y_max; it has "
            f"{some(raw.columns)}"
        )
    cells = known[list(columns)]
    numbers = cells.apply(pd.to_numeric, errors="coerce").astype(np.float64)
    blank = cells.isna() | (cells.astype("str").apply(lambda column: column.str.strip()) == "")
    bad = (
        (numbers.isna() & ~blank).any(axis=1) | (blank.any(axis=1) & ~blank.all(axis=1)) | np.isinf(numbers).any(axis=1)
    )
    if bad.any():
        row = bad.index[bad][0]
        raise InputError(
            f"{path}: {', '.join(columns)} are {', '.join(map(str, cells.loc[row]))} in row {raw.loc[row, 'row']}, and "
            f"{int(bad.sum())} rows are so; a box is four numbers, or four empty cells"
        )
    boxes: pd.DataFrame = numbers.set_axis(["x", "y", "width", "height"], axis=1)
    if columns[2] in {"x_max", "xmax"}:
        boxes["width"] -= boxes["x"]
        boxes["height"] -= boxes["y"]
    official = "Bbox [x" in raw.columns or {"patientId", "Target"} <= set(raw.columns)
    frame = next((names for names in _FRAMES if set(names) <= set(raw.columns) and not set(names) & set(columns)), None)
    for number, side in enumerate(("frame_width", "frame_height")):
        if frame is None:
            boxes[side] = _OFFICIAL if official else np.nan
        else:
            boxes[side] = pd.to_numeric(raw[frame[number]], errors="coerce").astype(np.float64)
    return boxes


def _parsed(raw: pd.DataFrame, path: Path) -> pd.DataFrame:
    """TBX11K's column `bbox`: `{'xmin': 1, 'ymin': 2, 'width': 3, 'height': 4}`, or `none`."""
    rows = []
    for row, text in zip(raw["row"], raw["bbox"].fillna("none").astype("str"), strict=True):
        try:
            found = {} if text.strip().lower() in {"", "none"} else dict(ast.literal_eval(text))
            rows.append({name: found[name] if found else None for name in _TBX})
        except (ValueError, SyntaxError, TypeError, KeyError) as error:
            raise InputError(
                f"{path}: bbox is {text!r} in row {row}; it is none, or "
                "{'xmin': 1, 'ymin': 2, 'width': 3, 'height': 4}"
            ) from error
    return pd.DataFrame(rows, index=raw.index, columns=list(_TBX))


def _labels(raw: pd.DataFrame, path: Path) -> pd.Series[Any]:
    column = next((name for name in _LABELS if name in raw.columns), None)
    if column is None and {"patientId", "Target"} <= set(raw.columns):
        return pd.Series("Lung Opacity", index=raw.index, dtype="str")  # what RSNA's Target says
    if column is None:
        raise InputError(f"{path} has no column of labels: name it label; it has {some(raw.columns)}")
    labels = raw[column].fillna("").astype("str").str.strip()
    return labels.replace(_NIH_SPELLINGS) if "Bbox [x" in raw.columns else labels


def in_films(annotated: Annotated, films: dict[str, Film], labels: LabelSet, *, stretched: bool = False) -> Truth:
    """Bring true boxes to the frames of films, and find which pairs are known to be without a finding.

    Args:
        annotated: The boxes.
        films: Image id -> film.
        labels: What labels are called; boxes of others are left out.
        stretched: Boxes of a frame with another aspect than the film's are scaled along each side by itself, as is
            right for films that were squashed to a square.

    Raises:
        InputError: Where no film is in the file; for a box outside of its frame, or in a frame of another aspect than
            the film: names file, row, both frames and the remedy.
    """
    mine, theirs = join_keys(pd.Series(list(films), dtype="str"), pd.Series(annotated.images.astype("str")))
    if not mine.isin(theirs).any():
        raise InputError(
            f"none of the {len(films)} explained films is in {annotated.file}: the films are {some(list(films))}, the "
            f"file has {some(annotated.images)}"
        )
    film_of = dict(zip(mine, films.values(), strict=True))
    key_of = dict(zip(annotated.images.astype("str"), theirs, strict=True))
    boxes = annotated.boxes.assign(
        key=annotated.boxes["image_id"].astype("str").map(key_of), name=annotated.boxes["label"].map(labels.canonical)
    )
    boxes = boxes[boxes["key"].isin(film_of)]
    if boxes["name"].isna().all():
        raise InputError(
            f"{annotated.file} has no true box of an explained label on an explained film; its boxes there are of "
            f"{some(sorted(boxes['label'].unique())) or 'nothing'}, the maps of {some(labels.names)}. --labels SET "
            f"knows other names of a label"
        )
    boxes = boxes[boxes["name"].notna()]
    scaled = _scaled(boxes, film_of, annotated.file, stretched)
    found: dict[tuple[str, str], npt.NDArray[np.float64]] = {}
    for (key, name), rows in scaled.groupby(["key", "name"], sort=True):
        found[film_of[str(key)].image_id, str(name)] = rows[["x", "y", "width", "height"]].to_numpy(np.float64)
    patients = {film.image_id: film.image_id for film in films.values()}
    if annotated.patients is not None:
        of_key = {key_of[str(image)]: str(patient) for image, patient in annotated.patients.items()}
        patients = {film.image_id: of_key.get(key, film.image_id) for key, film in film_of.items()}
    absent = _absent(annotated, film_of, key_of, labels) - set(found)
    return Truth(found, absent, patients, "image" if annotated.patients is None else "patient")


def _scaled(boxes: pd.DataFrame, films: dict[str, Film], file: Path, stretched: bool) -> pd.DataFrame:
    """Boxes in pixels of their films, cut at the edge."""
    table = boxes.assign(
        film_width=boxes["key"].map({key: float(film.width) for key, film in films.items()}),
        film_height=boxes["key"].map({key: float(film.height) for key, film in films.items()}),
        right=boxes["x"] + boxes["width"],
        bottom=boxes["y"] + boxes["height"],
        stated=boxes["frame_width"].notna() & boxes["frame_height"].notna(),
    )
    for side in ("width", "height"):
        table[f"frame_{side}"] = table[f"frame_{side}"].where(table["stated"], table[f"film_{side}"])
    _check_frames(table, file, stretched)
    across, down = table["film_width"] / table["frame_width"], table["film_height"] / table["frame_height"]
    left, top = table["x"].clip(lower=0), table["y"].clip(lower=0)
    return table.assign(
        x=left * across,
        y=top * down,
        width=(np.minimum(table["right"], table["frame_width"]) - left) * across,
        height=(np.minimum(table["bottom"], table["frame_height"]) - top) * down,
    )


def _check_frames(table: pd.DataFrame, file: Path, stretched: bool) -> None:
    """Refuse boxes outside of their frame, and frames of another aspect than the film."""
    over = np.maximum.reduce(
        [-table["x"], -table["y"], table["right"] - table["frame_width"], table["bottom"] - table["frame_height"]]
    )
    outside = over > _TOLERANCE
    if outside.any():
        bad = table[outside].iloc[0]
        told = "the frame that the file states" if bad["stated"] else "the film's, as the file states none"
        raise InputError(
            f"{file}: row {bad['row']}: the box {bad['x']:g},{bad['y']:g},{bad['width']:g},{bad['height']:g} of "
            f"{bad['label']} lies outside of the frame {bad['frame_width']:g} x {bad['frame_height']:g} ({told}); the "
            f"film {bad['image_id']} has {bad['film_width']:g} x {bad['film_height']:g} pixels (width x height), and "
            f"{int(outside.sum())} boxes are so. Say which frame the boxes are in: --frame WIDTHxHEIGHT, or columns "
            f"frame_width and frame_height"
        )
    ratio = table["frame_width"] * table["film_height"] / (table["frame_height"] * table["film_width"])
    other = (ratio - 1).abs() > _ASPECT
    if other.any() and not stretched:
        bad = table[other].iloc[0]
        raise InputError(
            f"{file}: row {bad['row']}: the boxes are in a frame of {bad['frame_width']:g} x {bad['frame_height']:g}, "
            f"but the film {bad['image_id']} has {bad['film_width']:g} x {bad['film_height']:g} pixels (width x "
            f"height), of another shape; {int(other.sum())} boxes are so. If the film was squashed, say --stretched "
            f"true; if it was cut or padded, explain the original film"
        )


def _absent(
    annotated: Annotated, films: dict[str, Film], key_of: dict[str, str], labels: LabelSet
) -> set[tuple[str, str]]:
    """Pairs of a film and a label that the file says not to be there, by table values or for want of a box."""
    pairs: set[tuple[str, str]] = set()
    if annotated.known is None:
        if annotated.complete:
            named = {labels.canonical(str(label)) for label in annotated.boxes["label"].unique()} - {None}
            there = set(key_of.values())
            pairs = {(film.image_id, str(name)) for key, film in films.items() if key in there for name in named}
        return pairs
    inside = annotated.known[[key_of[str(image)] in films for image in annotated.known.index]]
    for column in inside.columns:
        name = labels.canonical(str(column))
        if name is not None:
            images = inside.index[inside[column].to_numpy(np.float64) == 0]
            pairs |= {(films[key_of[str(image)]].image_id, name) for image in images}
    return pairs
