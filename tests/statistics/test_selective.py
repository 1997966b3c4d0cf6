"""AURC of a replicate is that of its rows, each as often as its patient was drawn."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longview.statistics import selective
from longview.statistics.resampling import Resamples
from longview.uncertainty.risk import risk_coverage


@settings(deadline=None, derandomize=True, max_examples=40)
@given(st.integers(0, 2**32 - 1), st.integers(1, 30), st.integers(1, 40), st.booleans())
def test_a_replicate_has_the_area_of_its_rows_written_out(seed, rows, levels, masked):
    rng = np.random.default_rng(seed)
    errors, doubts = rng.random((rows, 2)), rng.integers(0, levels, (rows, 2)) / levels
    if masked:
        errors[rng.random((rows, 2)) < 0.4] = np.nan
    resamples = Resamples.draw(rng.integers(0, max(1, rows // 2), rows), 6, seed)
    found = selective.aurc_replicates(errors, doubts, resamples)
    assert found.shape == (resamples.replicates, 2)
    for replicate, weights in enumerate(resamples.weights):
        drawn = np.repeat(np.arange(rows), weights[resamples.cluster])
        for label in range(2):
            wanted = risk_coverage(errors[drawn, label], doubts[drawn, label]).aurc
            assert found[replicate, label] == pytest.approx(wanted, nan_ok=True, rel=1e-9)


def test_replicates_are_the_same_however_many_are_worked_on_at_once(monkeypatch):
    rng = np.random.default_rng(0)
    errors, doubts = rng.random((50, 1)), rng.random((50, 1))
    resamples = Resamples.draw(np.arange(50) // 2, 20, 1)
    whole = selective.aurc_replicates(errors, doubts, resamples)
    monkeypatch.setattr(selective, "_CELLS", 150)
    np.testing.assert_allclose(selective.aurc_replicates(errors, doubts, resamples), whole, rtol=1e-12)
