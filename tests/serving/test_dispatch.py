"""What every request and answer passes: token, name, body, headers, parts, counts."""

import asyncio
import logging
import time

import pytest
from tiny_server import Api, problem

from longview.serving import transfers
from longview.serving.app import create_app
from longview.serving.dispatch import ABORT, Dispatch
from longview.serving.metrics import Metrics
from longview.serving.plan import local_names
from longview.serving.settings import Settings
from longview.serving.transfers import Transfer, Transfers

TOKEN = "0123456789abcdef0123"


async def answering(scope, receive, send):
    """An application that answers as many bytes as its address says."""
    if scope["type"] == "lifespan":
        while (await receive())["type"] != "lifespan.shutdown":
            await send({"type": "lifespan.startup.complete"})
        await send({"type": "lifespan.shutdown.complete"})
        return
    length = int(scope["path"][1:])
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % length)]})
    await send({"type": "http.response.body", "body": bytes(length)})


def dispatched(**settings):
    return Dispatch(answering, Settings(**settings), Metrics())


def sent_by(app, path="/200000", **scope):
    """What an application sends to a client that takes it all."""
    messages = []

    async def receive():
        return {"type": "http.request"}

    async def send(message):
        messages.append(message)

    request = {"type": "http", "method": "GET", "path": path, "headers": [], **scope}
    asyncio.run(app(request, receive, send))
    return messages


def test_large_answers_are_sent_in_parts():
    messages = sent_by(dispatched())
    assert [len(each["body"]) for each in messages[1:]] == [65_536] * 3 + [200_000 - 3 * 65_536, 0]
    assert [each["more_body"] for each in messages[1:]] == [True] * 4 + [False]
    assert len(sent_by(dispatched(), path="/100")) == 2


def test_answers_that_nobody_reads_have_a_bound():
    app = dispatched(max_upload_mb=0.01)  # room for four answers of 79 kB
    statuses = []

    async def run():
        hold = asyncio.Event()

        async def one(slow):
            async def send(message):
                if message["type"] == "http.response.start":
                    statuses.append(message["status"])
                if slow:
                    await hold.wait()

            scope = {"type": "http", "method": "GET", "path": "/150000", "headers": []}
            await app(scope, None, send)

        tasks = [asyncio.create_task(one(slow=True)) for _ in range(2)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        await one(slow=False)
        hold.set()
        await asyncio.gather(*tasks)
        await one(slow=False)

    asyncio.run(run())
    assert statuses == [200, 200, 503, 200]


def test_an_answer_that_fails_in_its_middle_is_cut_off():
    async def fails(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})
        if scope["path"] == "/late":
            await send({"type": "http.response.body", "body": b"half", "more_body": True})
        raise RuntimeError

    aborted = []
    app = Dispatch(fails, Settings(), Metrics())
    messages = sent_by(app, "/late", **{ABORT: lambda: aborted.append(1)})
    assert [each.get("status") for each in messages] == [200, None]
    assert aborted
    assert sent_by(app, "/early")[0]["status"] == 500


def test_bytes_on_their_way_are_counted_and_the_slow_make_room(monkeypatch):
    monkeypatch.setattr(transfers, "_SLOW", 0.05)

    async def run():
        among = Transfers(100)
        first, second = Transfer(among), Transfer(among)
        told = []

        async def stalls():
            try:
                async with first.moving(time.monotonic() + 10):
                    assert first.take(80)
                    await asyncio.sleep(10)
            except TimeoutError:
                told.append(1)

        task = asyncio.create_task(stalls())
        await asyncio.sleep(0.01)
        assert not second.take(50)
        await asyncio.sleep(0.06)
        assert second.take(50)
        await task
        assert told
        assert among.held == 50
        second.give(20)
        second.give()
        assert among.held == 0

    asyncio.run(run())


def posted(app_api, path, body, method="POST", **headers):
    async def run():
        return await app_api.client([((method, path), {"content": body(), "headers": headers})])

    return asyncio.run(run())[0]


def test_a_body_that_stalls_is_408_long_before_the_deadline(served, monkeypatch):
    monkeypatch.setattr(transfers, "PATIENCE", 0.2)
    api = Api([served], timeout=60)

    async def body():
        yield b"-" * 100_000
        await asyncio.sleep(20)

    started = time.monotonic()
    assert problem(posted(api, "/v1/studies", body), 408)
    assert time.monotonic() - started < 5


def test_bodies_are_read_where_they_are_asked_for_and_of_whom_may_send_them(served):
    read = []

    async def body():
        read.append(1)
        yield b"-"

    api, open_ = Api([served], token=TOKEN), Api([served])
    right = {"Authorization": f"Bearer {TOKEN}"}
    cases = [(api, "/healthz", 401, {}), (api, "/static/app.js", 401, {}), (api, "/v1/studies", 401, {}),
             (api, "/nowhere", 404, right), (open_, "/healthz", 405, {}), (open_, "/nowhere", 404, {}),
             (open_, "/predict/", 404, {})]  # fmt: skip
    for asked, path, status, headers in cases:
        answer = posted(asked, path, body, **headers)
        assert problem(answer, status)
        assert answer.headers["connection"] == "close"
    assert posted(open_, "/predict", body, "PUT").status_code == 405
    assert not read
    assert posted(api, "/predict", body, **right, **{"content-type": "application/json"}).status_code == 400
    assert read


def test_head_is_get_without_the_body(served):
    api = Api([served], token=TOKEN)
    for path in ("/", "/healthz", "/readyz", "/static/app.js"):
        answer = api.ask("HEAD", path)
        assert (answer.status_code, answer.content) == (200, b"")
        assert answer.headers["content-length"] == api.ask("GET", path).headers["content-length"]
    assert api.ask("HEAD", "/v1/model").status_code == 401
    assert api.ask("HEAD", "/predict", headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 405


def test_one_authorization_is_enough(served):
    api = Api([served], token=TOKEN)
    right, wrong = ("Authorization", f"Bearer {TOKEN}"), ("Authorization", "Bearer x")
    for headers in ([right, wrong], [wrong, right]):
        assert problem(api.ask("GET", "/v1/model", headers=headers), 400)


def test_nothing_is_redirected(api):
    for path in ("/predict/", "/healthz/", "/static", "/v1/model/"):
        answer = api.ask("GET", path, headers={"Host": "evil.example"})
        assert problem(answer, 404)
        assert "location" not in answer.headers


@pytest.mark.parametrize(("value", "status"), [("bytes=9999999-", 416), ("x=y", 400), ("bytes=a-b", 400)])
def test_ranges_are_refused_as_problems(api, value, status):
    answer = api.ask("GET", "/static/app.js", headers={"Range": value})
    assert "Range" in problem(answer, status)
    assert "content-security-policy" in answer.headers
    assert len(answer.content) == int(answer.headers["content-length"])


def test_preflights_are_refused_as_problems(served):
    api = Api([served], allow_origin=("https://films.example",), token=TOKEN)
    asked = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
    answer = api.ask("OPTIONS", "/predict", headers=asked)
    assert "--allow-origin" in problem(answer, 400)
    assert "content-security-policy" in answer.headers
    assert "access-control-allow-origin" not in answer.headers
    asked["Origin"] = "https://films.example"
    assert api.ask("OPTIONS", "/predict", headers=asked).status_code == 200
    refused = api.ask("GET", "/v1/model", headers={"Origin": "https://films.example"})
    assert problem(refused, 401)
    assert refused.headers["access-control-allow-origin"] == "https://films.example"


def test_a_name_that_leads_here_is_not_ours(served):
    api = Api([served], hosts=local_names("127.0.0.1"))
    for name in ("evil.example", "localhost.evil.example", "127.0.0.1.evil.example:8000", "a b", ""):
        assert "--token-file" in problem(api.ask("GET", "/v1/model", headers={"Host": name}), 400)
    for name in ("localhost:8000", "127.0.0.1", "[::1]:8000", "LOCALHOST"):
        assert api.ask("GET", "/v1/model", headers={"Host": name}).status_code == 200
    assert local_names("0.0.0.0") == local_names("192.168.0.7") == ()
    assert "[::1]" in local_names("::1")
    assert "127.0.1.1" in local_names("127.0.1.1")


def test_a_probe_of_http_1_0_has_no_name(served):
    app = create_app([served], Settings(hosts=local_names("127.0.0.1")))
    assert sent_by(app, "/healthz", query_string=b"")[0]["status"] == 200


def test_probes_that_succeed_are_not_logged(api, caplog):
    caplog.set_level(logging.DEBUG, "longview")
    for path in ("/healthz", "/readyz", "/metrics", "/v1/model", "/nowhere"):
        api.ask("GET", path)
    lines = {record.getMessage().split()[1]: record.levelno for record in caplog.records if "GET" in record.message}
    assert {lines[path] for path in ("/healthz", "/readyz", "/metrics")} == {logging.DEBUG}
    assert lines["/v1/model"] == lines["unknown"] == logging.INFO


def test_a_request_that_is_cancelled_is_answered():
    async def hangs(scope, receive, send):
        await asyncio.sleep(10)

    messages = []

    async def run():
        async def send(message):
            messages.append(message)

        app = Dispatch(hangs, Settings(), Metrics())
        task = asyncio.create_task(app({"type": "http", "method": "GET", "path": "/", "headers": []}, None, send))
        await asyncio.sleep(0.01)
        task.cancel()
        await task

    asyncio.run(run())
    assert messages[0]["status"] == 503
