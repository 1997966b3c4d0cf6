"""Reading what `explain` wrote: float maps per image, model, method and label."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from longview import InputError
from longview.joining import some
from longview.labels import Label, LabelSet

logger = logging.getLogger(__name__)

METADATA = "metadata.json"


@dataclass(frozen=True)
class Film:
    """A film that was explained.

    Args:
        image_id: Its id.
        height: Rows of the original film.
        width: Columns.
        picture: A picture of the whole film, to draw boxes on; None: there is none.
    """

    image_id: str
    height: int
    width: int
    picture: Path | None = None


@dataclass(frozen=True)
class Heat:
    """One map of a film.

    Args:
        film: The film.
        label: What it shows, as the label set names it.
        member: Whose it is: `MODEL/METHOD`.
        probability: Of the label, as the model has it; NaN where it is not told.
        file: The map, .npy or a mask as .png.
    """

    film: Film
    label: str
    member: str
    probability: float
    file: Path

    def read(self) -> npt.NDArray[np.float32]:
        """The map, (height, width) in [0, 1].

        Raises:
            InputError: Where it is missing, damaged, of another size than the film, or no map.
        """
        heat = read_map(self.file)
        if heat.shape != (self.film.height, self.film.width):
            raise InputError(
                f"{self.file} is {heat.shape[1]} x {heat.shape[0]} pixels (width x height), but the film "
                f"{self.film.image_id} is {self.film.width} x {self.film.height}; a map must be in the film's frame: "
                f"run explain again"
            )
        return heat


@dataclass(frozen=True)
class Explained:
    """All maps of some folders.

    Args:
        films: Image id -> film.
        heats: (image id, label) -> member -> map; films, labels and members in order.
        labels: The labels that occur, as they are named here.
        members: The members that occur.
    """

    films: dict[str, Film]
    heats: dict[tuple[str, str], dict[str, Heat]]
    labels: LabelSet
    members: list[str]


def read_map(file: Path) -> npt.NDArray[np.float32]:
    """A map from .npy (float in [0, 1], or a mask of bool or 0/1/255), or a mask from a grey .png of 0 and 255.

    Raises:
        InputError: Where the file is none of these.
    """
    if not file.is_file():
        raise InputError(f"{file} does not exist; run explain again, or correct its {METADATA}")
    if file.suffix.lower() == ".npy":
        try:
            values = np.load(file, allow_pickle=False)
        except (ValueError, EOFError, OSError) as error:
            raise InputError(f"{file} is no .npy array ({error})") from error
    else:
        read = cv2.imread(str(file), cv2.IMREAD_UNCHANGED)
        if read is None:
            raise InputError(f"{file} is no .npy array and no picture that can be read")
        values = np.asarray(read)
        if values.ndim != 2 or not np.isin(values, (0, 255)).all():
            raise InputError(
                f"{file} is no mask: a mask is grey, 0 outside and 255 inside. The brightness of a coloured heat-map "
                f"is not the activation: give its .npy"
            )
    if values.ndim != 2 or values.size == 0:
        raise InputError(f"{file} has the shape {values.shape}; a map is (height, width)")
    if values.dtype.kind in "biu":
        if not (np.isin(values, (0, 1)).all() or np.isin(values, (0, 255)).all()):
            raise InputError(f"{file} is no mask of 0 and 1 (or 255), and no map of floating-point numbers in [0, 1]")
        return np.asarray(values != 0, np.float32)
    low, high = float(values.min()), float(values.max())
    if values.dtype.kind != "f" or not (low >= 0 and high <= 1):
        raise InputError(f"{file} goes from {low:g} to {high:g}; a map lies in [0, 1] and has no NaN")
    return np.asarray(values, np.float32)


def read_explained(folders: Sequence[Path], labels: LabelSet | None = None) -> Explained:
    """Read the maps that `explain` wrote.

    Args:
        folders: Its outputs, or single films of them; maps of several are put together.
        labels: Label set whose aliases count, and whose labels alone are taken; None: every label that occurs.

    Raises:
        InputError: Where there are none, a metadata.json is damaged, two say different things of one film, or one map
            stands twice.
    """
    entries: list[tuple[Film, str, Mapping[str, Any], Path]] = []
    films: dict[str, Film] = {}
    for file in (file for folder in folders for file in _metadata(folder)):
        film, maps = _read(file)
        known = films.setdefault(film.image_id, film)
        if (known.height, known.width) != (film.height, film.width):
            raise InputError(
                f"{file}: the film {film.image_id} is {film.width} x {film.height}, elsewhere in "
                f"{', '.join(map(str, folders))} it is {known.width} x {known.height}; these are maps of two films"
            )
        entries += [(known, str(found["label"]), found, file) for found in maps]
    named = label_names((label for _, label, _, _ in entries), labels)
    heats: dict[tuple[str, str], dict[str, Heat]] = {}
    for film, label, found, file in entries:
        name = named.canonical(label)
        if name is None:
            continue
        heat = _heat(film, name, found, file)
        of_pair = heats.setdefault((film.image_id, name), {})
        if heat.member in of_pair:
            raise InputError(
                f"{of_pair[heat.member].file} and {heat.file} are both {heat.member}'s map of {name} for the film "
                f"{film.image_id}; give each folder once"
            )
        of_pair[heat.member] = heat
    left_out = sorted({label for _, label, _, _ in entries if named.canonical(label) is None})
    if left_out:
        logger.warning("maps of labels outside the label set %s are left out: %s", named.name, some(left_out))
    if not heats:
        raise InputError(f"{', '.join(map(str, folders))}: no map of a label of set {named.name!r}")
    members = sorted({member for found in heats.values() for member in found})
    ordered = {key: dict(sorted(heats[key].items())) for key in sorted(heats)}
    kept = {image for image, _ in heats}
    return Explained({key: films[key] for key in sorted(kept)}, ordered, named, members)


def label_names(found: Iterable[str], labels: LabelSet | None) -> LabelSet:
    """The label set that names are looked up in: the given one, or one of all names, spellings of one taken as one."""
    if labels is not None:
        return labels
    known: LabelSet | None = None
    for name in dict.fromkeys(found):
        if known is None or known.canonical(name) is None:
            known = LabelSet("maps", [*(known.labels if known else []), Label(name)])
    if known is None:
        raise InputError("there are no maps")
    return known


def _metadata(folder: Path) -> list[Path]:
    if not folder.is_dir():
        raise InputError(f"--maps {folder} is not a folder; give the --output of explain")
    files = [folder / METADATA] if (folder / METADATA).is_file() else sorted(folder.glob(f"*/{METADATA}"))
    if not files:
        raise InputError(f"--maps {folder} holds no */{METADATA}; give the --output of explain")
    return files


def _read(file: Path) -> tuple[Film, list[Mapping[str, Any]]]:
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
        image = data["image"]
        height, width = int(image["height"]), int(image["width"])
        maps = list(data["maps"])
        for found in maps:
            str(found["label"]), str(found["model"]), str(found["method"]), str(found["files"]["map"])
        film = Film(str(image["image_id"]), height, width)
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{file} is damaged ({error!r}); run explain again") from error
    if height < 1 or width < 1:
        raise InputError(f"{file} is damaged (a film of {width} x {height} pixels); run explain again")
    picture = file.parent / "input.png"
    return Film(film.image_id, height, width, picture if picture.is_file() else None), maps


def _heat(film: Film, label: str, found: Mapping[str, Any], file: Path) -> Heat:
    value = found.get("probability")
    probability = float(value) if isinstance(value, int | float) else math.nan
    return Heat(film, label, f"{found['model']}/{found['method']}", probability, file.parent / found["files"]["map"])
