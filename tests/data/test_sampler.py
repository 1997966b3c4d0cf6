"""The order of samples: a function of (seed, epoch), shared out among processes."""

from itertools import chain

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from longview import InputError
from longview.data.sampler import Draw, StudySampler, even_batch


def batches(sampler: StudySampler) -> list[list[Draw]]:
    draws = list(sampler)
    size = min(sampler.batch_size, len(sampler))
    return [draws[at : at + size] for at in range(0, len(draws), size)]


def train(sizes, world=1, rank=0, batch=4, epoch=0, seed=0, passes=None) -> StudySampler:
    sampler = StudySampler(sizes, passes=passes, batch_size=batch, rank=rank, world=world, seed=seed)
    sampler.set_epoch(epoch)
    return sampler


@given(
    sizes=st.lists(st.integers(0, 30), min_size=1, max_size=3).filter(lambda sizes: sum(sizes) >= 12),
    world=st.sampled_from([2, 3, 4]),
    epoch=st.integers(0, 5),
)
@settings(deadline=None, max_examples=40)
def test_processes_together_see_the_global_batches_of_one_process(sizes, world, epoch):
    alone = batches(train(sizes, batch=12, epoch=epoch))
    parts = [batches(train(sizes, world, rank, batch=12 // world, epoch=epoch)) for rank in range(world)]
    assert len({len(part) for part in parts}) == 1
    together = [list(chain.from_iterable(slices)) for slices in zip(*parts, strict=True)]
    assert together == alone  # studies and augmentation seeds


def test_an_epoch_draws_each_study_once_and_drops_only_what_fills_no_global_batch():
    draws = list(train([23], batch=5))
    assert len(draws) == len(train([23], batch=5)) == 20
    assert len({draw.study for draw in draws}) == 20
    assert len({draw.seed for draw in draws}) == 20


def test_epochs_and_seeds_differ_in_order_and_augmentation_and_can_be_repeated():
    first = list(train([50]))
    assert first == list(train([50]))
    for other in (list(train([50], epoch=1)), list(train([50], seed=1))):
        assert [draw.study for draw in other] != [draw.study for draw in first]
        assert not {draw.seed for draw in other} & {draw.seed for draw in first}


def test_what_one_epoch_drops_another_shows():
    seen = {draw.study for epoch in range(12) for draw in train([7], batch=4, epoch=epoch)}
    assert seen == set(range(7))


def test_fewer_studies_than_a_global_batch_make_one_smaller_batch():
    assert [len(batch) for batch in batches(train([5], batch=32))] == [5]
    parts = [list(train([5], world=2, rank=rank, batch=32)) for rank in range(2)]
    assert [len(part) for part in parts] == [2, 2]
    assert not {draw.study for draw in parts[0]} & {draw.study for draw in parts[1]}
    with pytest.raises(InputError, match="too small for 8 processes"):
        train([5], world=8)


def test_passes_say_how_often_a_store_is_drawn_per_epoch():
    sampler = train([40, 20, 8], passes=[0.5, 1, 2.5], batch=1)
    studies = np.array([draw.study for draw in sampler])
    counts = np.bincount(studies, minlength=68)
    assert (counts[:40].sum(), counts[40:60].sum(), counts[60:].sum()) == (20, 20, 20)
    assert set(counts[:40]) == {0, 1}
    assert set(counts[40:60]) == {1}
    assert set(counts[60:]) == {2, 3}  # as evenly as can be
    assert (np.sort(studies) != studies).any()  # mixed, not one store after the other
    other_half = {draw.study for draw in train([40, 20, 8], passes=[0.5, 1, 2.5], batch=1, epoch=1)}
    assert other_half != set(studies.tolist())


def test_a_store_without_studies_in_this_part_is_no_error():
    assert {draw.study for draw in train([0, 8], passes=[3, 1], batch=8)} == set(range(8))


@pytest.mark.parametrize("batch", [1, 3, 4])
@pytest.mark.parametrize("world", [1, 2])
def test_a_resume_yields_exactly_the_rest_and_later_epochs_are_whole(batch, world):
    whole = batches(train([30], world, world - 1, batch, epoch=3))
    sampler = train([30], world, world - 1, batch)
    sampler.resume(3, 2)
    assert len(sampler) == sum(map(len, whole))  # the trainer counts the whole epoch
    assert batches(sampler) == whole[2:]
    sampler.set_epoch(4)
    assert batches(sampler) == batches(train([30], world, world - 1, batch, epoch=4))


def test_a_place_is_asked_for_when_the_first_draw_is():
    places = []
    sampler = StudySampler([30], batch_size=4, place=places.pop)
    draws = iter(sampler)
    places.append((3, 2))
    assert list(draws) == list(train([30], epoch=3))[8:]
    places.append((3, 7))  # the whole epoch is done
    assert list(sampler) == []


@given(studies=st.integers(0, 60), world=st.integers(1, 5))
@settings(deadline=None, max_examples=60)
def test_evaluation_divides_all_studies_exactly_in_order(studies, world):
    parts = [list(StudySampler([studies], rank=rank, world=world, shuffle=False)) for rank in range(world)]
    assert [draw.study for part in parts for draw in part] == list(range(studies))
    sizes = [len(part) for part in parts]
    assert max(sizes) - min(sizes) <= 1
    assert sizes == [len(StudySampler([studies], rank=r, world=world, shuffle=False)) for r in range(world)]


@given(studies=st.integers(1, 3000), batch=st.integers(8, 70), world=st.integers(1, 9))
@settings(deadline=None, max_examples=200)
def test_all_processes_evaluate_equally_many_batches(studies, batch, world):
    size = even_batch(studies, batch, world)
    assert 1 <= size <= batch
    parts = [len(StudySampler([studies], rank=rank, world=world, shuffle=False)) for rank in range(world)]
    assert studies < world or len({-(-part // size) for part in parts}) == 1


def test_a_division_that_cannot_be_even_is_announced(caplog):
    assert even_batch(13, 3, 2) == 3  # 7 and 6: 3 and 2 batches, and so with 2
    assert "validation hangs" in caplog.text
    assert even_batch(9, 4, 2) == 3  # 5 and 4: two batches each


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch_size": 0}, "batch_size is 0"),
        ({"seed": -1}, "seed is -1"),
        ({"passes": [0.0]}, "weights"),
        ({"passes": [float("nan")]}, "weights"),
        ({"passes": [1.0, 1.0]}, "each of the 1 stores"),
    ],
)
def test_impossible_settings_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        StudySampler([10], **options)
