"""Patients are drawn whole, as often as chance has it, and the same for the same seed."""

import numpy as np

from longview.statistics.resampling import JACKKNIFE, Resamples, concurrently


def test_replicates_are_the_data_then_draws_of_all_patients_then_the_jackknifes():
    resamples = Resamples.draw(["b", "a", "b", "c"], 50)
    assert (resamples.cluster.tolist(), resamples.replicates, resamples.drawn) == ([1, 0, 1, 2], 1 + 50 + 3, 50)
    assert (resamples.weights[0] == 1).all()
    assert (resamples.weights[1:51].sum(axis=1) == 3).all()
    assert (resamples.weights[51:].sum(axis=0) == 2).all() and (resamples.weights[51:].sum(axis=1) == 2).all()


def test_a_patient_counts_as_often_as_multinomial_draws_would():
    weights = Resamples.draw(np.arange(400), 2000).weights[1:2001].astype(float)
    assert abs(weights.mean() - 1) < 1e-9
    assert abs(weights.var() - (1 - 1 / 400)) < 0.02
    assert abs((weights == 0).mean() - np.exp(-1)) < 0.005


def test_the_same_seed_gives_the_same_draws_whatever_the_names_of_patients():
    one, other = Resamples.draw([1, 2, 2, 3], 20, 5), Resamples.draw(["a", "b", "b", "c"], 20, 5)
    assert np.array_equal(one.weights, other.weights)
    assert not np.array_equal(one.weights, Resamples.draw([1, 2, 2, 3], 20, 6).weights)


def test_many_patients_are_left_out_in_groups_of_even_size():
    left = Resamples.draw(np.arange(1010), 1).weights[2:]
    assert len(left) == JACKKNIFE
    assert set((left == 0).sum(axis=1)) == {5, 6} and ((left == 0).sum(axis=0) == 1).all()


def test_without_resamples_only_the_data_are_left():
    assert Resamples.draw(np.arange(5), 0).weights.tolist() == [[1] * 5]


def test_some_rows_have_the_same_replicates():
    resamples = Resamples.draw([0, 0, 1, 2], 3)
    part = resamples.of_rows(np.array([False, True, False, True]))
    assert part.cluster.tolist() == [0, 2] and part.weights is resamples.weights


def test_packed_lanes_hold_the_weights_of_their_replicates():
    resamples = Resamples.draw(np.arange(7), 20)
    for bits in (8, 16, 32):
        words = resamples.packed(slice(0, 16), bits)
        lanes = words.view(f"u{bits // 8}").reshape(len(words), 7, -1).transpose(0, 2, 1).reshape(-1, 7)
        assert np.array_equal(lanes[:16], resamples.weights[:16])


def test_an_error_in_a_thread_is_raised(monkeypatch):
    monkeypatch.setattr("longview.statistics.resampling.threads", lambda: 2)

    def fail(item):
        raise ValueError(item)

    try:
        list(concurrently(fail, [1, 2]))
    except ValueError:
        return
    raise AssertionError
