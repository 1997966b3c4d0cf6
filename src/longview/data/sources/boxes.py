"""Boxes of findings, as tables give them: corners or sizes, checked."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from longview import InputError
from longview.data.sources.base import BOX_COLUMNS, Source


def read_boxes(
    source: Source, raw: pd.DataFrame, columns: Sequence[str], file: Path, corners: bool = False
) -> pd.DataFrame:
    """The boxes of a table of text, one row each.

    Args:
        source: Where rows without an area are noted; they are no boxes.
        raw: The table as text; its rows with four blank cells have no box.
        columns: Left, top, and then width and height, or right and bottom.
        file: Its name for messages.
        corners: Whether the last two columns are right and bottom.

    Returns:
        Float columns x, y, width, height by the index of `raw`, for the rows that have a box.

    Raises:
        InputError: For a cell that is no number, or a row with some of the four blank; names the first line.
    """
    cells = raw[list(columns)]
    numbers = cells.apply(pd.to_numeric, errors="coerce").astype(np.float64)
    blank = cells.fillna("").apply(lambda column: column.str.strip() == "")
    bad = (numbers.isna() & ~blank).any(axis=1) | (blank.any(axis=1) & ~blank.all(axis=1))
    if bad.any():
        row = bad.index[bad][0]
        found = ", ".join(map(str, cells.loc[row]))
        raise InputError(
            f"{file}: {', '.join(columns)} are {found} in line {row + 2}, and {int(bad.sum())} rows are so; a box is "
            "four numbers, or four blank cells"
        )
    numbers = numbers[~blank.all(axis=1)].set_axis(["x", "y", "width", "height"], axis=1)
    if corners:
        numbers["width"] -= numbers["x"]
        numbers["height"] -= numbers["y"]
    flat = (numbers["width"] <= 0) | (numbers["height"] <= 0)
    source.note(f"boxes without an area in {file.name}, left out (lines)", numbers.index[flat] + 2)
    boxes: pd.DataFrame = numbers[~flat]
    return boxes


def box_table(
    boxes: pd.DataFrame,
    image_id: pd.Series[str],
    label: pd.Series[str] | str,
    frame: float | pd.DataFrame = np.nan,
    reader: pd.Series[str] | str = "",
) -> pd.DataFrame:
    """Boxes with what they belong to: the columns of :data:`~longview.data.sources.base.BOX_COLUMNS`.

    Args:
        boxes: As :func:`read_boxes` returns them.
        image_id: Image of each row of the source's table (its index, or more).
        label: Finding of each row, under the source's own name; or that of all.
        frame: Side of the square in whose pixels they are, or columns `frame_width` and `frame_height`; NaN: that of
            the image file.
        reader: Who drew each; "" where that is not told.
    """
    if isinstance(frame, pd.DataFrame):
        boxes = pd.concat([boxes, frame.loc[boxes.index, ["frame_width", "frame_height"]]], axis=1)
    else:
        boxes = boxes.assign(frame_width=float(frame), frame_height=float(frame))
    table = boxes.assign(
        image_id=image_id.loc[boxes.index],
        label=label if isinstance(label, str) else label.loc[boxes.index],
        reader=reader if isinstance(reader, str) else reader.loc[boxes.index],
    )
    return table[list(BOX_COLUMNS)].reset_index(drop=True)
