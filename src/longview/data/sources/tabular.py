"""Sources for a user's own data: a table of images, and a folder of images."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from longview import InputError
from longview.data.images import IMAGE_SUFFIXES
from longview.data.manifest import BLANKS, ID_PATTERN, META_PREFIX, is_csv, read_header, read_table
from longview.data.sources.base import CODES, Source, first, views_of
from longview.data.sources.policy import Policy, Rules
from longview.labels import LabelSet

ROLES: dict[str, tuple[str, ...]] = {
    "path": ("path", "fpath", "filepath", "imagepath", "file", "filename", "image", "imagefile"),
    "patient_id": ("patientid", "patient", "subjectid", "subject"),
    "study_id": ("studyid", "study", "accession", "accessionnumber", "examid", "exam"),
    "image_id": ("imageid", "dicomid", "sopinstanceuid", "imageindex"),
    "view": ("view", "viewposition", "projection"),
    "split": ("split",),
}
"""What a column can be -> the names it is known by; case, spaces and underscores do not matter."""

_SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validate", "validation", "dev", "development"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
    **dict.fromkeys(("none", ""), "none"),
}
_TRUTH = {"true": "1", "false": "0"}
_WHOLE = 2.0**53  # from here on, floating-point numbers that differ may be written alike
_UNCERTAIN = -1.0


class Table(Source):
    """Any table with one row per image: a hospital's own data.

    * **Files**: `.csv`, `.csv.gz`, `.tsv` or `.parquet`. Paths are relative to the root (or absolute).
    * **Columns**: `path`, `patient_id`, `study_id`, `image_id`, `view`, `split` are found under usual names
      (:data:`ROLES`) or named in `columns`. Without a study, each image is its own study; without an image
      id, it is the path without its ending; without a view, it is unknown; without a split, it is `none`.
      Columns that start with `meta_` are kept.
    * **Labels**: with a label set, its labels, found by name or alias, each of which must be there. Without
      one, every remaining column of numbers (also as text, or true/false) whose values are all in [0, 1] or
      empty and whose name is not that of an id; other columns are left out and reported. Empty is NaN: unknown.
    * **Uncertain**: -1 is an error until `uncertain` says what it means; the codes then keep where it stood.
    * **Split**: the table's, in the usual spellings (`validate`, `dev`, …).

    Args:
        root: Folder that the paths are relative to.
        labels: Label set; None: the table's own columns.
        table: The table; a relative path is looked for in the working directory, then in the root.
        columns: Role -> column name, for names that cannot be guessed.
        uncertain: What -1 in a label becomes: `zero`, `one`, `soft` (0.5), `ignore` (NaN), a number from 0 to 1, or a
            mapping from labels to these, with `default` for the rest.
    """

    name: ClassVar[str] = "table"

    def __init__(
        self,
        root: str | Path,
        labels: LabelSet | None = None,
        table: str | Path | None = None,
        columns: Mapping[str, str] | None = None,
        uncertain: Rules = "error",
    ) -> None:
        super().__init__(root, labels)
        if table is None:
            raise InputError("source 'table' needs --table FILE: a .csv, .tsv or .parquet file, a row per image")
        policy = None if uncertain == "error" else Policy(uncertain)
        strange = [role for role in columns or {} if role not in ROLES]
        if strange:
            raise InputError(f"source 'table': columns maps {', '.join(strange)}; it may map {', '.join(ROLES)}")
        self.table = Path(table)
        self.columns = dict(columns or {})
        self.policy = policy

    def rows(self) -> tuple[pd.DataFrame, str]:
        """Read the table: roles, then labels from what remains."""
        file = self.table if self.table.is_file() else self.root / self.table
        header = read_header(file) if file.is_file() and is_csv(file) else []
        # whatever may be an id is read letter by letter: 007 stays 007, and NA is somebody's name
        raw = read_table(file, text=[*self.columns.values(), *filter(_role_of, header)])
        raw.columns = raw.columns.astype("str")
        roles = self._roles(raw, file)
        used = list(roles.values())
        table = self._ids(raw, roles, file)
        kept = [name for name in raw.columns if name.startswith(META_PREFIX) and name not in used]
        rest = [name for name in raw.columns if name not in used and name not in kept]
        return pd.concat([table, raw[kept], self._targets(raw[rest], file)], axis=1), str(file)

    def _roles(self, raw: pd.DataFrame, file: Path) -> dict[str, str]:
        """Role -> column, as named or by the usual names."""
        have = f"{file} has the columns {', '.join(raw.columns)}"
        absent = [column for column in self.columns.values() if column not in raw.columns]
        if absent:
            raise InputError(f"columns names {', '.join(absent)}, but {have}")
        roles = dict(self.columns)
        for role in ROLES:
            if role in roles:
                continue
            found = [column for column in raw.columns if _role_of(column) == role]
            exact = [column for column in found if column == role]
            if len(found) > 1 and not exact:
                raise InputError(
                    f"{have}: {', '.join(found)} may each be the {role}; say which with --columns.{role} COLUMN"
                )
            if found:
                roles[role] = (exact or found)[0]
        if "path" not in roles:
            raise InputError(
                f"{have}, none of which is known as the path of the image ({', '.join(ROLES['path'])}); "
                f"name it: --columns.path COLUMN"
            )
        if "patient_id" not in roles:
            raise InputError(
                f"{have}, none of which is known as the patient ({', '.join(ROLES['patient_id'])}). Splits "
                f"are made by patient, or images of one patient would be trained and tested on. Name the "
                f"column: --columns.patient_id COLUMN; if each image is known to be another patient's, say so "
                f"with --columns.patient_id {shlex.quote(roles['path'])}"
            )
        return roles

    def _ids(self, raw: pd.DataFrame, roles: Mapping[str, str], file: Path) -> pd.DataFrame:
        cells = {role: _text(raw[column], file) for role, column in roles.items()}
        for role in ("path", "patient_id", "study_id", "image_id"):
            blank = cells.get(role, cells["path"]) == ""
            if blank.any():
                raise InputError(
                    f"{file}: column {roles[role]!r} is empty in {int(blank.sum())} rows, first line "
                    f"{int(np.argmax(blank)) + 2}"
                )
        path = cells["path"].map(self._relative).astype("str")
        image_id = cells.get("image_id", path.str.replace(r"\.[^./]+$", "", regex=True))
        if "image_id" not in cells and image_id.duplicated().any():
            image_id = path  # a.png and a.jpg
        nothing = pd.Series("", index=raw.index, dtype="str")
        split = cells.get("split", nothing).str.casefold()
        strange = sorted(set(split) - set(_SPLITS))
        if strange:
            raise InputError(
                f"{file}: column {roles['split']!r} has {first(strange)}; a split is "
                f"{', '.join(filter(None, _SPLITS))} or empty"
            )
        return pd.DataFrame(
            {
                "patient_id": cells["patient_id"],
                "study_id": cells.get("study_id", image_id),
                "image_id": image_id,
                "view": views_of(cells.get("view", nothing)),
                "path": path,
                "split": split.map(_SPLITS).astype("str"),
            }
        )

    def _relative(self, path: str) -> str:
        """The path below the root; an absolute one elsewhere stays as it is."""
        given = Path(path)
        if given.is_absolute() and given.is_relative_to(self.root.absolute()):
            given = given.relative_to(self.root.absolute())
        return given.as_posix()

    def _targets(self, rest: pd.DataFrame, file: Path) -> pd.DataFrame:
        """Label columns as float32."""
        if self.labels is not None:
            found = self.labels.align(rest.columns, missing="error", unknown="ignore", context=str(file))
        else:
            found = {name: name for name in rest.columns if _is_label(rest[name])}
            if not found:
                self.note("no label columns; the table can be predicted on, not trained on", [file])
        self.note("columns that are no label, left out", [name for name in rest if name not in found.values()])
        targets = pd.DataFrame(index=rest.index)
        for label, column in found.items():
            values, strange = _numbers(rest[column])
            if strange:
                raise InputError(
                    f"{file}: label column {column!r} holds text ({first(strange)}); a label is 0, 1 (or false, true), "
                    f"a value between, or empty"
                )
            uncertain = values == _UNCERTAIN
            if uncertain.any() and self.policy is None:
                raise InputError(
                    f"{file}: label column {column!r} has -1 in {int(uncertain.sum())} rows. longview has no "
                    f"uncertain labels: say what they become with --uncertain zero, one, soft or ignore (empty), or "
                    f"change the table"
                )
            targets[label] = values.astype(np.float32)
        return targets if self.policy is None else self._certain(targets, self.policy)

    def _certain(self, targets: pd.DataFrame, policy: Policy) -> pd.DataFrame:
        """Label values (N, L) without -1, after keeping the codes of tables that hold nothing between 0 and 1."""
        values = policy.values(map(str, targets.columns))
        if ((targets == targets.round()) | targets.isna()).all(axis=None):
            self.codes = targets.fillna(CODES["blank"]).astype(np.int8)
        columns = {
            name: targets[name].mask(targets[name] == _UNCERTAIN, meaning[CODES["uncertain"]]).astype(np.float32)
            for name, meaning in values.items()
        }
        return pd.DataFrame(columns, index=targets.index)


class Folder(Source):
    """A folder of images without labels, to predict on.

    * **Files**: all images (:data:`longview.data.images.IMAGE_SUFFIXES`) and DICOM files of any name
      (`IM0001`, as archives export them) in the folder and its sub-folders, in the order of their paths.
      Hidden files and folders and `DICOMDIR` are left out; so are links to folders, folders that cannot be
      read, and other files, which are reported.
    * **Ids**: image, study and patient are the path below the root without its ending (with it, where two
      files differ in nothing else). Whose image it is is not known, so each counts as its own study and
      patient.
    * **Labels**: none. Every view is `unknown`.
    * **Split**: `none`, and none is ever assigned.

    Args:
        root: The folder.
        labels: Ignored, for a folder has no labels; taken so that every source is opened alike.
    """

    name: ClassVar[str] = "folder"
    assign: ClassVar[bool] = False

    def rows(self) -> tuple[pd.DataFrame, str]:
        """List the images."""
        files: list[str] = []
        others: list[str] = []
        links: list[str] = []
        locked: list[str] = []
        for folder, folders, names in os.walk(self.root, onerror=lambda error: locked.append(str(error.filename))):
            folders[:] = sorted(name for name in folders if not name.startswith((".", "__MACOSX")))
            links += [str(Path(folder, name)) for name in folders if Path(folder, name).is_symlink()]
            for name in names:
                if not name.startswith(".") and name != "DICOMDIR":
                    file = Path(folder, name)
                    (files if is_image(file) else others).append(file.relative_to(self.root).as_posix())
        self.note("left out, link to a folder (give the folder itself)", sorted(links))
        self.note("left out, folder cannot be read", sorted(locked))
        self.note("left out, neither an image's ending nor DICOM", sorted(others))
        if not files:
            raise InputError(
                f"no images in {self.root}; looked for {', '.join(sorted(IMAGE_SUFFIXES))} and for DICOM files of any "
                f"name; there are {len(others)} other files, {len(links)} links to folders and {len(locked)} folders "
                f"that cannot be read"
            )
        path = pd.Series(sorted(files), dtype="str")
        endings = "|".join(map(re.escape, IMAGE_SUFFIXES))  # the last number of a DICOM name 1.2.840 is none
        ids = path.str.replace(rf"({endings})$", "", case=False, regex=True)
        ids = ids.where(~ids.duplicated(keep=False), path)
        constant = {"view": "unknown", "split": "none"}
        table = pd.DataFrame({"patient_id": ids, "study_id": ids, "image_id": ids, "path": path, **constant})
        return table, str(self.root)


def is_image(file: Path) -> bool:
    """Whether a file has an image's ending or says, whatever its name, that it is DICOM."""
    if file.suffix.lower() in IMAGE_SUFFIXES:
        return True
    try:
        if not file.is_file():  # a pipe would never end
            return False
        with file.open("rb") as stream:
            return stream.read(132)[128:] == b"DICM"
    except OSError:
        return False


def _role_of(column: str) -> str | None:
    """The role whose usual names a column's name is among; case, spaces and underscores do not matter."""
    name = re.sub(r"[\W_]+", "", column).casefold()
    return next((role for role, names in ROLES.items() if name in names), None)


def _is_label(values: pd.Series[float]) -> bool:
    """Whether a column that is no id holds numbers, all of which are 0 to 1, empty, or -1 (not all empty)."""
    name = str(values.name)
    known, strange = _numbers(values)
    known = known.dropna()
    inside = known.between(0, 1) | (known == _UNCERTAIN)
    return len(known) > 0 and not strange and bool(inside.all()) and not (ID_PATTERN.search(name) or _role_of(name))


def _numbers(values: pd.Series[Any]) -> tuple[pd.Series[float], list[object]]:
    """A label column as float64, with true as 1, false as 0 and blanks as NaN; and its values that are neither."""
    if pd.api.types.is_numeric_dtype(values) or pd.api.types.is_bool_dtype(values):
        return values.astype(np.float64), []
    text = values.astype("str").str.strip()
    text = text.mask(text.isin(BLANKS))
    numbers = pd.to_numeric(text.str.casefold().replace(_TRUTH), errors="coerce").astype(np.float64)
    return numbers, values[numbers.isna() & text.notna()].unique().tolist()


def _text(cells: pd.Series[Any], file: Path) -> pd.Series[str]:
    """Cells as text; whole numbers without `.0`, blanks as "".

    Raises:
        InputError: For floating-point numbers so large that two ids may have become one.
    """
    if pd.api.types.is_float_dtype(cells):
        large = cells[cells.abs() >= _WHOLE]
        if len(large):
            raise InputError(
                f"{file}: column {cells.name!r} holds floating-point numbers ({large.iloc[0]}), which ids do not "
                f"survive (3.24E+38 may be two patients); save it as text"
            )
    if pd.api.types.is_float_dtype(cells) and (cells.dropna() % 1 == 0).all():
        cells = cells.astype("Int64").astype("str").where(cells.notna(), "")
    return cells.astype("str").fillna("").str.strip()
