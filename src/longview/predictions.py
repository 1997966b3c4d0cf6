"""Predictions: a table of ids and one probability per label, by name; and how several processes write one.

`predictions.parquet` (or CSV) has `patient_id`, `study_id` and, where a row is one image, `image_id`, all
text, then one column per label with probabilities in [0, 1]. Rows are sorted by id, whatever the number of
processes.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from longview import InputError, StudyKey
from longview.data.manifest import read_table, write_table
from longview.joining import identify, label_candidates, some, text_columns
from longview.outputs import make_folder, sha256

KEYS = ("patient_id", "study_id", "image_id")
"""Id columns of a prediction table, in order; `image_id` is left out where rows are studies."""

_STOPS_EARLY = "Predict again, without --trainer.limit_predict_batches or --trainer.fast_dev_run, which stop early"

MODEL = "longview_model"
"""Attribute of a table of predictions: SHA-256 of the checkpoint it was made with. A parquet file keeps attributes."""

TEST_TIME = "longview_test_time"
"""Another: which versions of each image were averaged, where that were several."""

_CHECKPOINT = "checkpoint"  # another: where that checkpoint was

_ROWS_PER_PART = 4096  # rows that a process holds before it writes a part: bounds its memory


def labels_of(table: pd.DataFrame) -> list[str]:
    """Names of the labels of a prediction table, in its order."""
    return label_candidates(table.columns)


def read_predictions(path: str | Path) -> pd.DataFrame:
    """Read and check a prediction table.

    Ids may go by the names that data sets give them (`dicom_id`, `ImageID`, `subject_id`…); an id other than
    the row's own may be absent and is then empty. Columns that are neither ids nor labels (`path`, `view`,
    `split`, `meta_…`) are dropped.

    Returns:
        `patient_id`, `study_id` and, where rows are images, `image_id` (text), then the labels (float32 or
        float64, as stored).

    Raises:
        InputError: Where the file is missing or no table, has no id or no label, an id stands twice, or a
            value is not a probability.
    """
    file = Path(path)
    table = read_table(file, text=text_columns())
    ids = identify(table, str(file))
    if not {"study_id", "image_id"} & set(ids):
        raise InputError(
            f"{file} is no prediction table: it needs a column study_id or image_id; it has {some(table.columns)}"
        )
    labels = label_candidates(table.columns)
    if not labels:
        raise InputError(f"{file} has no label column beside {some(table.columns)}")
    blank = pd.Series("", index=table.index, dtype="str")
    columns = {key: ids.get(key, blank) for key in KEYS}
    columns |= {label: _probabilities(table[label], file) for label in labels}
    result = pd.DataFrame(columns)
    if (result["image_id"] == "").all():
        result = result.drop(columns="image_id")
    validate(result, str(file))
    return result


def write_predictions(table: pd.DataFrame, path: str | Path) -> None:
    """Check a prediction table and write it as `.parquet` or `.csv`, under a temporary name first.

    Raises:
        InputError: Where the table breaks a rule (see :func:`read_predictions`) or for another ending.
    """
    validate(table, str(path))
    write_table(table, path)


def checkpoint_of(path: str | Path) -> str | None:
    """The checkpoint whose predictions a `.parquet` file holds; None where the file does not say, as a CSV never does.

    Raises:
        InputError: Where the file is missing or no table.
    """
    file = Path(path)
    found = read_table(file).attrs.get(_CHECKPOINT) if file.suffix == ".parquet" else None
    return None if found is None else str(found)


def _of_model(checkpoint: Path) -> dict[str, str]:
    """Attributes that say which model predicted: its path, and its hash where it is a file (not a sharded folder)."""
    found = {_CHECKPOINT: str(checkpoint)}
    if checkpoint.is_file():
        found[MODEL] = sha256(checkpoint)
    return found


def validate(table: pd.DataFrame, origin: str) -> None:
    """Check that ids are unique and values are probabilities.

    Raises:
        InputError: Naming the origin, the column, the count and the first ids.
    """
    own = "image_id" if "image_id" in table.columns else "study_id"
    empty = int((table[own] == "").sum())
    if empty:
        raise InputError(f"{origin}: {empty} rows have no {own}; either every row is an image or none is")
    twice = table[own].duplicated()
    if twice.any():
        first = some(table.loc[twice, own].drop_duplicates())
        raise InputError(f"{origin}: {own} stands in more than one row: {first}; keep one row for each")
    labels = labels_of(table)
    values = table[labels].to_numpy()
    bad = ~((values >= 0) & (values <= 1))  # also True for NaN
    if bad.any():
        row, column = np.argwhere(bad)[0]
        raise InputError(
            f"{origin}: {int(bad.sum())} values are not probabilities; first {values[row, column]} for label "
            f"{labels[column]!r} of {own} {table[own].iloc[row]!r}; give 0 to 1 (sigmoid of logits)"
        )


def _probabilities(column: pd.Series[Any], file: Path) -> pd.Series[Any]:
    if pd.api.types.is_float_dtype(column):
        return column
    numbers = pd.to_numeric(column, errors="coerce")
    strange = numbers.isna() & column.notna()
    if strange.any():
        raise InputError(
            f"{file}: column {str(column.name)!r} holds {column[strange].iloc[0]!r}, not a number; "
            f"name columns that are not labels meta_…, or remove them"
        )
    return numbers.astype(np.float64)


class PredictionShards:
    """One prediction table written by several processes.

    Each rank appends its batches as parts in `<output>.partial/` and notes how many there are when it closes;
    rank 0 then merges them. A part, a closing note and the output each appear whole, and every process clears
    what an earlier, killed run left under its own rank, so nothing half-made is ever taken for whole.

    Args:
        output: `.parquet` or `.csv` file to be written in the end.
        rank: This process, from 0.
        labels: Label names, in the order of the columns that :meth:`add` gets.
        checkpoint: The model that predicts, for :func:`checkpoint_of`; None where it is not known.
        test_time: Which versions of each image are averaged, for :data:`TEST_TIME`; None where only the image is seen.

    Raises:
        InputError: For another ending of `output`.
    """

    def __init__(
        self,
        output: Path,
        rank: int,
        labels: Sequence[str],
        checkpoint: str | None = None,
        test_time: Mapping[str, object] | None = None,
    ) -> None:
        if output.suffix not in {".parquet", ".csv"}:
            raise InputError(f"predictions go to a .parquet or .csv file, not {output}")
        if output.is_dir():
            raise InputError(f"{output} is a folder; give the name of a .parquet or .csv file")
        self.output = output
        self.rank = rank
        self.labels = list(labels)
        self.checkpoint = checkpoint
        self.test_time = test_time
        self.folder = output.with_name(f"{output.name}.partial")
        self._ids: list[StudyKey] = []
        self._probabilities: list[npt.NDArray[np.float32]] = []
        self._parts = 0
        self._rows = 0

    def clear(self) -> None:
        """Remove all that an earlier run left; only before any rank has started."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def start(self) -> None:
        """Make the folder and remove what an earlier run left under this rank.

        Raises:
            InputError: Where a file is in the way, or the place may not be written to.
        """
        make_folder(self.folder, self.output)
        for leftover in self.folder.glob(f"*{self._name(self.rank)}*"):
            leftover.unlink()
        self._ids, self._probabilities, self._parts, self._rows = [], [], 0, 0

    def add(self, ids: Sequence[StudyKey], probabilities: npt.NDArray[Any]) -> None:
        """Append a batch.

        Args:
            ids: B keys.
            probabilities: (B, L) in [0, 1].

        Raises:
            InputError: For another shape, or values that are not probabilities; names label and study.
        """
        values = np.asarray(probabilities, np.float32)
        if values.shape != (len(ids), len(self.labels)):
            raise InputError(f"probabilities are {values.shape} for {len(ids)} studies and {len(self.labels)} labels")
        bad = ~((values >= 0) & (values <= 1))
        if bad.any():
            row, column = np.argwhere(bad)[0]
            raise InputError(
                f"{int(bad.sum())} predicted values are not probabilities; first {values[row, column]} "
                f"for label {self.labels[column]!r} of study {ids[row].study_id!r}; did training diverge?"
            )
        self._ids += ids
        self._probabilities.append(values)
        if len(self._ids) >= _ROWS_PER_PART:
            self._flush()

    def close(self) -> None:
        """Write what is held and the note that this rank is complete."""
        self._flush()
        note = self.folder / f"{self._name(self.rank)}.json"
        aside = note.with_name(f".{note.name}")
        aside.write_text(json.dumps({"parts": self._parts, "rows": self._rows}), encoding="utf-8")
        aside.replace(note)

    def merge(
        self,
        world_size: int,
        expected: int | None = None,
        finish: Callable[[pd.DataFrame], pd.DataFrame] | None = None,
    ) -> Path:
        """Join the parts of all ranks, sort by id, check and write the output; then remove the parts.

        Call on one process, after all have closed (a barrier between). Parts go even where the merge fails: the
        next run starts afresh and would not use them.

        Args:
            world_size: Number of processes that predicted.
            expected: Rows that there must be, where known.
            finish: What the whole table goes through, attributes included, before it is written (a calibration).

        Raises:
            InputError: Where a rank did not finish, rows are missing, or an id stands twice.
        """
        try:
            table = self._joined(world_size, expected)
            if self.checkpoint is not None:
                table.attrs |= _of_model(Path(self.checkpoint))
            if self.test_time is not None:
                table.attrs[TEST_TIME] = dict(self.test_time)
            table = table if finish is None else finish(table)
            whole = self.folder / f"whole{self.output.suffix}"
            self.write(table, whole)
            whole.replace(self.output)
        finally:
            self.clear()
        return self.output

    def write(self, table: pd.DataFrame, path: Path) -> None:
        """Check and write the whole table."""
        write_predictions(table, path)

    def _joined(self, world_size: int, expected: int | None) -> pd.DataFrame:
        """The parts of all ranks as one table, sorted by id."""
        parts = [part for rank in range(world_size) for part in self._complete_parts(rank)]
        if not parts:
            raise InputError(f"{self.output} is not written: nothing was predicted. Is the split empty? {_STOPS_EARLY}")
        table = pd.concat([pd.read_parquet(part) for part in parts], ignore_index=True)
        if expected is not None and len(table) < expected:
            raise InputError(
                f"{self.output} is not written: only {len(table)} of {expected} rows were predicted. {_STOPS_EARLY}"
            )
        if expected is not None and len(table) > expected:
            raise InputError(
                f"{self.output} is not written: {len(table)} rows were predicted, more than the {expected} there are; "
                f"predict again on one device (--trainer.devices 1)"
            )
        table = table.sort_values(list(KEYS), kind="stable", ignore_index=True)
        return table.drop(columns="image_id") if (table["image_id"] == "").all() else table

    @staticmethod
    def _name(rank: int) -> str:
        return f"rank-{rank:05d}"

    def _flush(self) -> None:
        if not self._ids:
            return
        keys = {key: pd.array([str(getattr(item, key)) for item in self._ids], dtype="str") for key in KEYS}
        values = pd.DataFrame(np.concatenate(self._probabilities), columns=self.labels)
        table = pd.concat([pd.DataFrame(keys), values], axis=1)
        write_table(table, self.folder / f"{self._name(self.rank)}-{self._parts:05d}.parquet")
        self._parts += 1
        self._rows += len(self._ids)
        self._ids, self._probabilities = [], []

    def _complete_parts(self, rank: int) -> list[Path]:
        note = self.folder / f"{self._name(rank)}.json"
        if not note.is_file():
            raise InputError(f"process {rank} did not finish its part of {self.output}; run predict again")
        written = json.loads(note.read_text(encoding="utf-8"))
        parts = [self.folder / f"{self._name(rank)}-{index:05d}.parquet" for index in range(written["parts"])]
        absent = [part for part in parts if not part.is_file()]
        if absent:
            raise InputError(f"{absent[0]} is gone; is the folder shared by all nodes? Run predict again")
        return parts
