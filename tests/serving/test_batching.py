"""Studies that wait are scored together; what is too much, too late or no longer wanted is not."""

import asyncio
import threading
import time

import httpx
import numpy as np
import pytest
import torch
from tiny_server import Api, encoded, film, problem

from longview.serving.batching import Batcher, Gate
from longview.serving.problems import ProblemError
from longview.serving.scoring import Scores, Study

PNG = encoded(film())


def study(films=1):
    return Study(torch.zeros(films, 1, 4, 4, dtype=torch.uint8), torch.zeros(films, dtype=torch.int64))


def scores():
    return Scores(np.zeros(1, np.float32), None, None, 0.0)


class Slow:
    """Scores when it is let to, and says what came together."""

    def __init__(self):
        self.batches, self.may, self.begun = [], threading.Event(), threading.Event()

    def __call__(self, studies):
        self.begun.set()
        assert self.may.wait(20)
        self.batches.append([len(each.images) for each in studies])
        return [scores() for _ in studies]


def test_what_waits_is_scored_together_up_to_the_batch():
    slow = Slow()
    batcher = Batcher(slow, batch=4, wait=0)
    first = batcher.submit(study())
    assert slow.begun.wait(10)
    rest = [batcher.submit(study(films)) for films in (1, 2, 2, 1, 6, 1)]
    slow.may.set()
    for future in [first, *rest]:
        assert future.result(10)
    assert slow.batches == [[1], [1, 2], [2, 1], [6], [1]]
    batcher.close()


def test_a_batch_waits_only_for_requests_that_are_on_their_way():
    slow = Slow()
    slow.may.set()
    batcher = Batcher(slow, batch=8, wait=5, on_the_way=lambda: 1)
    started = time.monotonic()
    assert batcher.submit(study()).result(10)
    assert time.monotonic() - started < 3
    batcher.close()


def test_what_is_cancelled_before_its_turn_is_dropped():
    slow = Slow()
    batcher = Batcher(slow, batch=1, wait=0)
    first = batcher.submit(study(1))
    assert slow.begun.wait(10)
    second, third = batcher.submit(study(2)), batcher.submit(study(3))
    assert second.cancel()
    slow.may.set()
    assert first.result(10)
    assert third.result(10)
    assert slow.batches == [[1], [3]]
    batcher.close()


def test_one_study_that_fails_does_not_fail_the_others():
    def score(studies):
        if any(len(each.images) == 2 for each in studies):
            raise ValueError("two")
        return [scores() for _ in studies]

    batcher = Batcher(score, batch=8, wait=0.05, on_the_way=lambda: 3)
    futures = [batcher.submit(study(films)) for films in (1, 2, 1)]
    assert futures[0].result(10)
    assert futures[2].result(10)
    with pytest.raises(ValueError, match="two"):
        futures[1].result(10)
    batcher.close()


def test_closing_finishes_what_was_taken_and_takes_no_more():
    slow = Slow()
    batcher = Batcher(slow, batch=1, wait=0)
    futures = [batcher.submit(study()) for _ in range(5)]
    threading.Timer(0.1, slow.may.set).start()
    batcher.close()
    assert all(future.done() for future in futures)
    with pytest.raises(ProblemError) as raised:
        batcher.submit(study())
    assert raised.value.status == 503


def test_the_gate_counts_who_is_inside():
    gate = Gate(2)
    with gate.entered(), gate.entered():
        with pytest.raises(ProblemError) as raised:
            gate.check()
        assert raised.value.status == 429
        assert int(raised.value.headers["Retry-After"]) >= 1
    gate.check()


@pytest.fixture
def blocked(served):
    """An application whose model works only when it is let to."""
    made = []

    def make(**settings):
        api = Api([served], **settings)
        batcher = api.house._batchers["tiny"]
        real, gate, begun = batcher._score, threading.Event(), threading.Event()

        def score(studies):
            begun.set()
            gate.wait(20)
            return real(studies)

        batcher._score = score
        made.append((api, gate))
        return api, gate, begun

    yield make
    for api, gate in made:
        gate.set()
        api.house.close()


def test_a_full_house_refuses_with_429_and_answers_who_is_inside(blocked):
    api, gate, _ = blocked(queue=2, batch=1)

    async def run():
        transport = httpx.ASGITransport(api.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://films") as client:
            tasks = [asyncio.create_task(client.post("/v1/studies", files={"files": PNG})) for _ in range(3)]
            while api.house.gate.inside < 3:
                await asyncio.sleep(0.01)
            refused = await client.post("/v1/studies", files={"files": PNG})
            well = await client.get("/healthz")
            gate.set()
            return refused, well, await asyncio.gather(*tasks)

    refused, well, answered = asyncio.run(run())
    assert problem(refused, 429)
    assert int(refused.headers["retry-after"]) >= 1
    assert well.status_code == 200
    assert [answer.status_code for answer in answered] == [200] * 3
    assert api.house.gate.inside == 0


def test_a_request_that_waits_too_long_is_503_and_one_that_takes_too_long_504(blocked):
    api, _, begun = blocked(batch=1, timeout=1)

    async def run():
        transport = httpx.ASGITransport(api.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://films") as client:
            first = asyncio.create_task(client.post("/v1/studies", files={"files": PNG}))
            while not begun.is_set():
                await asyncio.sleep(0.01)
            second = await client.post("/v1/studies", files={"files": PNG})
            return await first, second

    first, second = asyncio.run(run())
    assert problem(first, 504)
    assert problem(second, 503)
    assert second.headers["retry-after"]
    assert api.house.gate.inside == 0
    assert api.house._batchers["tiny"].waiting <= 1


def test_a_body_that_does_not_come_is_408(served):
    api = Api([served], timeout=0.5)

    async def run():
        async def body():
            yield b"--x"
            await asyncio.sleep(10)

        transport = httpx.ASGITransport(api.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://films") as client:
            headers = {"content-type": "multipart/form-data; boundary=x"}
            return await client.post("/v1/studies", content=body(), headers=headers)

    assert problem(asyncio.run(run()), 408)
