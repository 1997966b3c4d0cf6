"""Sampling by labels: shares, determinism, processes, resume, stores and a late start."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longview import InputError
from longview.data.sampler import StudySampler
from longview.data.sampling import ClassAware, EffectiveNumber, Sampling, SquareRoot, membership

KINDS = [ClassAware, SquareRoot, EffectiveNumber]
EACH = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
few = settings(deadline=None, derandomize=True, max_examples=30)


def long_tail(studies=1200, seed=0, exclusive=False):
    """Targets (n, 5): labels from 40 % down to 0.5 %, some unknown, the last without positives."""
    rng = np.random.default_rng(seed)
    if exclusive:
        label = rng.choice(5, studies, p=[0.6, 0.3, 0.07, 0.03, 0.0])
        return np.eye(5, dtype=np.float32)[label]
    targets = (rng.random((studies, 5)) < [0.4, 0.2, 0.05, 0.005, 0]).astype(np.float32)
    targets[rng.random(targets.shape) < 0.1] = np.nan
    targets[0, 3] = 1  # the rarest has one at least
    return targets


def generator(seed=0):
    return np.random.default_rng(seed)


def test_all_samplings_are_tried():
    def below(kind):
        return [deeper for child in kind.__subclasses__() for deeper in (child, *below(child))]

    assert set(KINDS) == {kind for kind in below(Sampling) if not kind.__abstractmethods__}


@EACH
@given(studies=st.integers(1, 60), labels=st.integers(1, 5), seed=st.integers(0, 99))
@few
def test_an_epoch_keeps_its_length_whatever_the_labels(kind, studies, labels, seed):
    values = generator(seed).choice([0, 1, 0.7, np.nan], (studies, labels)).astype(np.float32)
    order = kind().draw(values, generator(seed))
    assert len(order) == studies
    assert order.min() >= 0 and order.max() < studies
    np.testing.assert_array_equal(order, kind().draw(values, generator(seed)))


def test_every_label_with_positives_gets_its_turns_within_5_percent():
    targets = long_tail()
    order, turns = ClassAware().turns(membership(targets), generator())
    member = membership(targets)
    with_positives = [0, 1, 2, 3, 5]  # the last: studies without any positive label; label 4 has none
    counts = np.bincount(turns, minlength=6)
    assert counts[4] == 0
    np.testing.assert_allclose(counts[with_positives], len(targets) / 5, rtol=0.05)
    assert member[order, turns].all()


@given(studies=st.integers(20, 200), seed=st.integers(0, 99), start=st.integers(0, 5))
@few
def test_any_stretch_of_an_epoch_gives_labels_equally_many_turns(studies, seed, start):
    _, turns = ClassAware().turns(membership(long_tail(studies, seed)), generator(seed))
    labels = len(set(turns))
    whole = studies // labels
    first = min(start, whole - 1) * labels
    assert (np.unique_counts(turns[first : first + labels]).counts == 1).all()  # a round
    counts = np.unique_counts(turns).counts
    assert counts.max() - counts.min() <= 1


def test_a_label_shows_each_of_its_studies_before_any_comes_again():
    targets = long_tail()
    order, turns = ClassAware().turns(membership(targets), generator())
    for label in set(turns.tolist()):
        drawn = order[turns == label]
        mine = np.flatnonzero(membership(targets)[:, label])
        assert len(set(drawn[: len(mine)].tolist())) == min(len(mine), len(drawn))


def test_exclusive_labels_are_shown_equally_often():
    targets = long_tail(exclusive=True)
    shown = targets[ClassAware().draw(targets, generator())].sum(axis=0)
    np.testing.assert_allclose(shown[:4], 300, atol=1)


@pytest.mark.parametrize("power", [0, 0.5, 1])
def test_square_root_sampling_shows_exclusive_labels_in_proportion_to_that_power(power):
    targets = long_tail(6000, exclusive=True)
    counts = targets.sum(axis=0)[:4]
    shown = targets[SquareRoot(power).draw(targets, generator())].sum(axis=0)[:4]
    expected = counts ** (1 - power)
    np.testing.assert_allclose(shown, 6000 * expected / expected.sum(), rtol=0.03, atol=2)


@pytest.mark.parametrize("sampling", [SquareRoot(0), EffectiveNumber(0)])
def test_without_weights_each_study_is_shown_once(sampling):
    order = sampling.draw(long_tail(), generator())
    assert sorted(order.tolist()) == list(range(1200))
    assert (np.diff(order) != 1).any()


@pytest.mark.parametrize("beta", [0.9, 0.999])
def test_effective_number_weights_are_those_of_the_paper(beta):
    counts = np.array([1.0, 10, 1000])
    series = [sum(beta**power for power in range(int(count))) for count in counts]  # E_n = 1 + b E_(n-1)
    np.testing.assert_allclose(EffectiveNumber(beta).weights(counts), 1 / np.array(series), rtol=1e-9)


@pytest.mark.parametrize("kind", [SquareRoot, EffectiveNumber])
def test_studies_are_drawn_as_often_as_they_are_due_rounded_up_or_down(kind):
    targets = long_tail()
    member = membership(targets)
    weights = np.where(member, 1.0, 0.0)
    weights[:, member.any(axis=0)] *= kind().weights(member.sum(axis=0)[member.any(axis=0)].astype(float))
    due = weights.max(axis=1) / weights.max(axis=1).sum() * len(targets)
    drawn = np.bincount(kind().draw(targets, generator()), minlength=len(targets))
    assert (np.abs(drawn - due) < 1).all()


@EACH
def test_studies_of_which_nothing_is_known_are_not_drawn(kind):
    targets = long_tail()
    targets[[0, 7]] = np.nan
    assert not np.isin(kind().draw(targets, generator()), [0, 7]).any()
    order = kind().draw(np.full((9, 2), np.nan, np.float32), generator())  # unless there is nothing else
    assert sorted(order.tolist()) == list(range(9))


@EACH
def test_studies_positive_for_nothing_may_be_left_out(kind):
    targets = long_tail()
    none = np.flatnonzero(~(targets >= 0.5).any(axis=1))
    assert np.isin(kind().draw(targets, generator()), none).any()
    assert not np.isin(kind(negatives=False).draw(targets, generator()), none).any()


@pytest.mark.parametrize("epochs", [2, 3, 4, 10, 25])
@pytest.mark.parametrize("start", [0.0, 0.28, 0.8, 0.99])
def test_a_late_start_comes_and_together_with_a_deferred_loss(start, epochs):
    from longview.losses import BCE, Deferred, Focal
    from longview.optim import progress

    loss = Deferred(BCE(), Focal(), start)
    for epoch in range(epochs):
        loss.set_progress(progress(epoch, epochs))
        assert bool(loss.changed) == ClassAware(start).begun(epoch, epochs)
    assert loss.changed


@EACH
def test_rare_labels_are_shown_more_often_than_they_occur(kind):
    targets = long_tail()
    shown = np.nan_to_num(targets)[kind().draw(targets, generator())].sum(axis=0)
    occur = np.nan_to_num(targets).sum(axis=0)
    assert shown[3] > 2 * occur[3] and shown[2] > occur[2]


# ---- in the sampler --------------------------------------------------------------------------------------------


def sampler(targets, sizes=None, kind=ClassAware, **options):
    options = {"batch_size": 8, "epochs": 10, "sampling": kind(start=options.pop("start", 0.0)), **options}
    return StudySampler(sizes or [len(targets)], targets=targets, **options)


@EACH
def test_two_processes_share_the_global_batches_of_one(kind):
    targets = long_tail(203)
    one = list(sampler(targets, kind=kind, batch_size=8, seed=3))
    halves = [list(sampler(targets, kind=kind, batch_size=4, rank=rank, world=2, seed=3)) for rank in range(2)]
    for batch in range(len(halves[0]) // 4):
        together = halves[0][batch * 4 : batch * 4 + 4] + halves[1][batch * 4 : batch * 4 + 4]
        assert together == one[batch * 8 : batch * 8 + 8]
    places = {draw.seed for half in halves for draw in half}
    assert len(places) == 200  # a draw belongs to one process


@EACH
def test_an_epoch_is_the_same_again_another_one_is_not_and_a_resume_shows_the_rest(kind):
    targets = long_tail(100)
    whole = sampler(targets, kind=kind)
    first = list(whole)
    assert list(whole) == first
    whole.resume(0, 5)
    assert list(whole) == first[40:]
    whole.set_epoch(1)
    assert [draw.study for draw in whole] != [draw.study for draw in first]


@EACH
def test_before_its_start_each_study_is_shown_once(kind):
    targets = long_tail(160)
    late = sampler(targets, kind=kind, start=0.8)
    for epoch, balanced in ((0, False), (7, False), (8, True), (9, True)):
        late.set_epoch(epoch)
        assert (len({draw.study for draw in late}) < 160) == balanced


def test_the_weights_of_stores_hold_before_labels_do():
    """A store drawn twice gives twice as many studies of a label as one drawn once."""
    targets = np.tile(long_tail(600, exclusive=True), (2, 1))
    order = [draw.study for draw in sampler(targets, [600, 600], passes=[1.0, 2.0])]
    shown = targets[order]
    np.testing.assert_allclose(shown.sum(axis=0)[:4], len(order) / 4, rtol=0.02)
    second = np.array(order) >= 600
    for label in range(4):
        assert second[shown[:, label] > 0].mean() == pytest.approx(2 / 3, abs=0.08)


def test_the_state_tells_samplings_apart():
    targets = long_tail(50)
    states = {sampler(targets, kind=kind, start=start).state()["sampling"] for kind in KINDS for start in (0.0, 0.5)}
    assert len(states) == 6
    ends = {sampler(targets, start=0.5, epochs=epochs).state()["sampling"] for epochs in (4, 6)}
    assert len(ends) == 2
    assert StudySampler([50]).state()["sampling"] == ""


def test_a_late_start_in_a_run_without_end_is_refused():
    with pytest.raises(InputError, match=r"ClassAware starts after 0\.8 of the epochs.*trainer\.max_epochs"):
        sampler(long_tail(50), start=0.8, epochs=None)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ClassAware(start=1), r"ClassAware: start must be in \[0, 1\), found 1"),
        (lambda: SquareRoot(power=1.5), r"power must be in \[0, 1\], found 1\.5"),
        (lambda: EffectiveNumber(beta=1), r"beta must be in \[0, 1\), found 1"),
    ],
)
def test_values_out_of_range_are_named(make, message):
    with pytest.raises(InputError, match=message):
        make()
