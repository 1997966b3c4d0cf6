import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from longview.losses.counts import (
    effective_number_weights,
    exponential_weights,
    filled,
    frequency_weights,
    share,
)

COUNTS = st.lists(st.tuples(st.floats(0, 1e6), st.floats(0, 1)), min_size=1, max_size=8)


@given(counts=COUNTS, beta=st.sampled_from([0.0, 0.9, 0.9999, 1 - 1e-9]))
@settings(deadline=None, derandomize=True, max_examples=40)
def test_all_are_finite_and_weights_of_labels_have_a_mean_of_one(counts, beta):
    observed = torch.tensor([math.floor(seen) for seen, _ in counts]).float()
    positives = observed * torch.tensor([part for _, part in counts])
    for prior in (share(positives, observed), *frequency_weights(positives, observed)):
        assert ((prior >= 0) & (prior <= 1)).all()
    for weights in exponential_weights(positives, observed):
        assert ((weights >= 1 - 1e-6) & (weights <= math.e + 1e-6)).all()
    weights = effective_number_weights(positives, beta)
    assert weights.isfinite().all()
    assert weights.sum().item() == pytest.approx(len(counts), rel=1e-5)


def test_a_label_without_positives_weighs_as_the_rarest_that_has_some():
    torch.testing.assert_close(filled(torch.tensor([50.0, 0.0, 20.0])), torch.tensor([50.0, 20.0, 20.0]).double())
    assert filled(torch.tensor([0.3, 0.0])).tolist() == [1.0, 1.0]
    assert filled(torch.zeros(2)).tolist() == [1.0, 1.0]


def test_effective_numbers_reach_from_equal_weights_to_inverse_counts():
    counts = torch.tensor([1000.0, 10.0])
    torch.testing.assert_close(effective_number_weights(counts, 0.0), torch.ones(2))
    nearly = effective_number_weights(counts, 1 - 1e-9)
    assert (nearly[1] / nearly[0]).item() == pytest.approx(100, rel=1e-3)


def test_frequency_weights_give_both_sides_of_a_label_the_same_total():
    positives, observed = torch.tensor([5.0, 600.0]), torch.tensor([1000.0, 1000.0])
    present, absent = frequency_weights(positives, observed)
    torch.testing.assert_close(positives * present, (observed - positives) * absent)


def test_a_label_never_observed_weighs_one():
    for weights in (exponential_weights, frequency_weights):
        assert [side.tolist() for side in weights(torch.zeros(1), torch.zeros(1))] == [[1.0], [1.0]]
