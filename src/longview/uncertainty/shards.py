"""The table of uncertainty beside a table of predictions, written by several processes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from longview import StudyKey
from longview.data.manifest import write_table
from longview.predictions import KEYS, PredictionShards
from longview.uncertainty.summary import MEASURES, METHOD, Uncertainty, companion, long_table


class UncertaintyShards(PredictionShards):
    """`<output stem>.uncertainty.parquet`, made of parts as a table of predictions is.

    A part has a column for each measure and label, all in [0, 1] as the values of predictions; the file has a row for
    each id and label (see :func:`longview.uncertainty.summary.long_table`).

    Args:
        output: The file of predictions.
        rank: This process, from 0.
        labels: L label names.
        about: What the samples are, for :data:`METHOD`.
        checkpoint: The model that predicts; None where it is not known.
        test_time: Which versions of each image each sample is the mean of; None where only the image is seen.
    """

    def __init__(
        self,
        output: Path,
        rank: int,
        labels: Sequence[str],
        about: Mapping[str, object],
        checkpoint: str | None = None,
        test_time: Mapping[str, object] | None = None,
    ) -> None:
        columns = [_column(measure, label) for measure in MEASURES for label in labels]
        super().__init__(companion(output), rank, columns, checkpoint, test_time)
        self.names = list(labels)
        self.about = dict(about)

    def add_samples(self, ids: Sequence[StudyKey], samples: npt.NDArray[Any]) -> None:
        """Append a batch.

        Args:
            ids: B keys.
            samples: (T, B, L) in [0, 1].

        Raises:
            InputError: For values that are not probabilities.
        """
        found = Uncertainty.of(samples)
        self.add(ids, np.concatenate([getattr(found, measure) for measure in MEASURES], axis=1))

    def merge_long(self, world_size: int, expected: int | None = None) -> Path:
        """Join the parts of all ranks, sort by id and write; see :meth:`PredictionShards.merge`."""
        return self.merge(world_size, expected, self._long)

    def _long(self, table: pd.DataFrame) -> pd.DataFrame:
        ids = pd.DataFrame(table[[key for key in KEYS if key in table.columns]])
        values = {
            measure: table[[_column(measure, label) for label in self.names]].to_numpy(np.float64)
            for measure in MEASURES
            if measure != "standard_deviation"  # follows from the variance
        }
        result = long_table(ids, self.names, Uncertainty(**values))
        result.attrs = {**table.attrs, METHOD: self.about}
        return result

    def write(self, table: pd.DataFrame, path: Path) -> None:
        """Write the table, in which an id stands once for each label."""
        write_table(table, path)


def _column(measure: str, label: str) -> str:
    return f"{measure} {label}"
