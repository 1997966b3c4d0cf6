"""The check of a submission before it is uploaded: every fault at once, since uploads are counted."""

from __future__ import annotations

import csv
import io
import zipfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from longview import InputError
from longview.joining import some

_TEXT = (".csv", ".zip")
_RUBBISH = ("__MACOSX/", ".DS_Store", "Thumbs.db")


@dataclass
class Findings:
    """What is wrong with a submission.

    Args:
        faults: What the challenge would refuse or misread.
        warnings: What costs points, or may be meant.
    """

    faults: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Wanted:
    """What a submission must hold.

    Args:
        image: Name of the image column.
        images: Image ids, in the template's order.
        labels: Label columns, in order.
    """

    image: str
    images: Sequence[str]
    labels: Sequence[str]


def check_submission(file: Path, wanted: Wanted) -> Findings:
    """Look for all that is wrong with a CSV, or with a zip that holds one.

    Args:
        file: The .csv or .zip file.
        wanted: What it must hold.

    Raises:
        InputError: Where there is no such file, or it is of another kind.
    """
    if file.suffix.lower() not in _TEXT:
        raise InputError(f"--check {file}: give the .zip file to upload, or its .csv")
    if not file.is_file():
        raise InputError(f"--check {file} does not exist")
    found = Findings()
    content = _from_zip(file, found) if file.suffix.lower() == ".zip" else file.read_bytes()
    if content is not None:
        _check_csv(content, wanted, found)
    return found


def _from_zip(file: Path, found: Findings) -> bytes | None:
    """The CSV of a zip; None where there is not just one, or it cannot be read."""
    try:
        with zipfile.ZipFile(file) as archive:
            members = [item for item in archive.infolist() if not item.is_dir()]
            _check_layout([item.filename for item in members], found)
            tables = [item for item in members if item.filename.lower().endswith(".csv") and "/" not in item.filename]
            if any(item.flag_bits & 1 for item in members):
                found.faults.append("the zip is encrypted")
                return None
            if len(tables) != 1:
                return None
            damaged = archive.testzip()
            if damaged is not None:
                found.faults.append(f"the zip is damaged: {damaged} does not read back")
                return None
            return archive.read(tables[0])
    except (zipfile.BadZipFile, OSError, EOFError) as error:
        found.faults.append(f"it is no zip file, or a damaged one: {error}")
        return None


def _check_layout(names: Sequence[str], found: Findings) -> None:
    top = [name for name in names if name.lower().endswith(".csv") and "/" not in name]
    nested = [name for name in names if name.lower().endswith(".csv") and "/" in name and not name.startswith("code/")]
    if not top:
        where = f"; move {some(nested)} there" if nested else ""
        found.faults.append(f"the zip has no .csv file at its top{where}")
    if len(top) > 1:
        found.faults.append(f"the zip has {len(top)} .csv files at its top, where one is scored: {some(top)}")
    rubbish = [name for name in names if any(part in name for part in _RUBBISH)]
    if rubbish:
        found.faults.append(f"the zip holds files of a desktop: {some(rubbish)}; make it with `submit`, or zip -X")
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        found.faults.append(f"the zip holds {some(twice)} twice")
    if not any(name.startswith("code/") for name in names):
        found.warnings.append("the zip has no folder code/, which the CXR-LT challenges ask for (submit --code FOLDER)")


def _check_csv(content: bytes, wanted: Wanted, found: Findings) -> None:
    text = _decoded(content, found)
    if text is None:
        return
    rows = [row for row in csv.reader(io.StringIO(text, newline="")) if row]
    if len(rows) < 2:
        found.faults.append("the CSV has no rows")
        return
    header, cells = rows[0], rows[1:]
    ragged = [number for number, row in enumerate(cells, 2) if len(row) != len(header)]
    if ragged:
        found.faults.append(
            f"{len(ragged)} rows have another number of cells than the header ({len(header)}): lines {some(ragged)}"
        )
        return
    _check_header(header, wanted, found)
    table = pd.DataFrame(cells, columns=pd.RangeIndex(len(header)), dtype="str")
    if wanted.image in header:
        _check_images(table[header.index(wanted.image)], wanted, found)
    known = [name for name in wanted.labels if name in header]
    if known:
        ids = table[header.index(wanted.image)] if wanted.image in header else table.index.astype("str").to_series()
        values = {name: table[header.index(name)] for name in known}
        _check_values(pd.DataFrame(values), ids.to_numpy(object), found)


def _decoded(content: bytes, found: Findings) -> str | None:
    if content.startswith(b"\xef\xbb\xbf"):
        found.faults.append("the CSV begins with a byte-order mark, which becomes a part of the first column's name")
        content = content[3:]
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        found.faults.append(f"the CSV is not UTF-8: {error}")
        return None


def _check_header(header: Sequence[str], wanted: Wanted, found: Findings) -> None:
    needed = [wanted.image, *wanted.labels]
    twice = [name for name, count in Counter(header).items() if count > 1]
    absent = [name for name in needed if name not in header]
    extra = [name or "(without a name)" for name in header if name not in needed]
    if twice:
        found.faults.append(f"columns stand twice: {', '.join(twice)}")
    if absent:
        found.faults.append(f"columns are missing: {', '.join(absent)}")
    if extra:
        found.faults.append(f"columns that the template does not have: {', '.join(extra)}")
    if not twice and not absent and not extra and list(header) != needed:
        place = next(index for index, (one, other) in enumerate(zip(header, needed, strict=True)) if one != other)
        found.faults.append(
            f"columns are in another order than the template's: column {place + 1} is {header[place]!r}, not "
            f"{needed[place]!r}"
        )


def _check_images(ids: pd.Series, wanted: Wanted, found: Findings) -> None:
    given, needed = pd.Index(ids), pd.Index(list(wanted.images))
    twice = given[given.duplicated()].unique()
    absent, strange = needed[~needed.isin(given)], given[~given.isin(needed)].unique()
    if len(twice):
        found.faults.append(f"{len(twice)} images stand in more than one row: {some(twice)}")
    if len(absent):
        found.faults.append(f"{len(absent)} of the template's {len(needed)} images are missing: {some(absent)}")
    if len(strange):
        found.faults.append(f"{len(strange)} images are not the template's: {some(strange)}")
    if not len(twice) and not len(absent) and not len(strange) and list(given) != list(needed):
        row = int(np.argmax(given.to_numpy() != needed.to_numpy()))
        found.faults.append(
            f"images are in another order than the template's: row {row + 1} is {given[row]}, not {needed[row]}"
        )


def _check_values(cells: pd.DataFrame, ids: npt.NDArray[np.object_], found: Findings) -> None:
    blank = cells.apply(lambda column: column.str.strip().str.casefold().isin(["", "nan", "na", "none", "null"]))
    numbers = cells.apply(pd.to_numeric, errors="coerce").to_numpy(np.float64)
    empty = blank.to_numpy(bool)
    kinds = (
        (empty, "values are empty or NaN"),
        (np.isnan(numbers) & ~empty, "values are no numbers"),
        (~np.isnan(numbers) & ~((numbers >= 0) & (numbers <= 1)), "values lie outside 0 to 1"),
    )
    for bad, what in kinds:
        if bad.any():
            row, column = np.argwhere(bad)[0]
            names = [name for name, hit in zip(cells.columns, bad.any(axis=0), strict=True) if hit]
            value, label = cells.iloc[row, column], cells.columns[column]
            found.faults.append(
                f"{int(bad.sum())} {what}, in {some(names)}; first {value!r} for {label!r} of image {ids[row]}"
            )
    _warn_of_ranking(cells.columns.tolist(), numbers, found)


def _warn_of_ranking(names: Sequence[str], numbers: npt.NDArray[np.float64], found: Findings) -> None:
    """Name columns that rank little or nothing, which average precision pays for."""
    binary, constant = [], []
    for name, column in zip(names, numbers.T, strict=True):
        distinct = np.unique(column[np.isfinite(column)])
        if len(distinct) == 1 and len(column) > 1:
            constant.append(name)
        elif len(distinct) == 2 and set(distinct.tolist()) == {0.0, 1.0}:
            binary.append(name)
    if binary:
        found.warnings.append(
            f"{len(binary)} labels have only 0 and 1 ({some(binary)}): average precision ranks probabilities, and "
            f"thresholded ones lose most of it"
        )
    if constant:
        found.warnings.append(f"{len(constant)} labels have the same value in every row: {some(constant)}")
