"""Rude clients: silent, slow, many, not reading; and what a server says to them."""

import contextlib
import json
import logging
import os
import socket
import subprocess
import sys
import threading
import time

import pytest
import uvicorn
from test_dispatch import dispatched

from longview.serving import protocol, transfers
from longview.serving.app import create_app
from longview.serving.protocol import Protocol, Seldom, most_connections
from longview.serving.settings import Settings


@contextlib.contextmanager
def live(app, **settings):
    """A server in a thread of this process, and its port."""
    listener = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(app, http=Protocol, log_config=None, log_level="warning", ws="none", **settings)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        server.port = listener.getsockname()[1]
        yield server
    finally:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive()


def connect(server, text=b"", buffer=None):
    client = socket.socket()
    if buffer:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
    client.settimeout(10)
    client.connect(("127.0.0.1", server.port))
    client.sendall(text)
    return client


def rest(client):
    """All that comes until the server closes."""
    parts = []
    while True:
        try:
            part = client.recv(1 << 20)
        except ConnectionResetError:
            break
        if not part:
            break
        parts.append(part)
    return b"".join(parts)


def get(server, path="/healthz", extra=b""):
    text = b"GET " + path.encode() + b" HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n" + extra + b"\r\n"
    with connect(server, text) as client:
        return rest(client)


def until(condition, seconds=10):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.fixture(scope="module")
def server(served):
    """The tiny model, on a socket."""
    with live(create_app([served], Settings(max_upload_mb=2))) as server:
        yield server


def test_who_says_nothing_or_never_ends_its_headers_is_left(server, monkeypatch):
    monkeypatch.setattr(protocol, "PATIENCE", 0.4)
    started = time.monotonic()
    until(lambda: not server.server_state.connections)
    silent, slow = connect(server), connect(server, b"GET /healthz HTTP/1.1\r\n")
    until(lambda: len(server.server_state.connections) == 2)
    with contextlib.suppress(OSError):
        while time.monotonic() - started < 5 and server.server_state.connections:
            slow.send(b"X")
            time.sleep(0.05)
    assert 0.2 < time.monotonic() - started < 4
    assert rest(silent) == rest(slow) == b""
    assert b" 200 " in get(server)


def test_an_answer_does_not_end_the_patience_for_the_next_headers(server, monkeypatch):
    monkeypatch.setattr(protocol, "PATIENCE", 0.4)
    with connect(server, b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\nGET /hea") as client:
        started = time.monotonic()
        assert rest(client).count(b" 200 ") == 1
        assert time.monotonic() - started < 3


def test_connections_are_counted_and_the_newest_is_closed(server, monkeypatch, caplog):
    monkeypatch.setattr(protocol, "most_connections", lambda: 3)
    clients = [connect(server) for _ in range(3)]
    until(lambda: len(server.server_state.connections) == 3)
    assert rest(connect(server)) == b""
    clients[0].sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    assert b" 200 " in rest(clients[0])
    until(lambda: len(server.server_state.connections) == 2)
    assert b" 200 " in get(server)
    assert "new ones are closed" in caplog.text
    for client in clients:
        client.close()
    assert 1 <= most_connections() <= 1000


def test_messages_that_anybody_can_provoke_are_logged_once_a_minute(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(protocol.time, "monotonic", lambda: now[0])
    seldom = Seldom("too many")

    def record(text):
        return logging.LogRecord("asyncio", logging.ERROR, "", 0, text, (), (OSError, OSError(), None))

    passed = []
    for after in (0, 1, 58, 2):
        now[0] += after
        each = record("too many: 7")
        passed.append(seldom.filter(each))
        assert not passed[-1] or each.exc_info is None
    assert passed == [True, False, False, True]
    assert seldom.filter(record("other")) is True


def test_what_is_no_http_is_refused_as_a_problem(server):
    for text in (
        b"\x16\x03\x01\x02\x00\r\n\r\n",
        b"GET / HTTP/9\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    ):
        with connect(server, text) as client:
            head, _, body = rest(client).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 400 ")
        assert b"application/problem+json" in head
        assert b"content-security-policy" in head
        assert set(json.loads(body)) == {"type", "title", "status", "detail"}
    broken = b"POST /predict HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"
    with connect(server, broken) as client:
        assert rest(client).startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize("path", [b"/v1/studies", b"/healthz", b"/nowhere"])
def test_who_sends_too_much_can_read_why_not(server, path):
    size = 20_000_000
    head = b"POST " + path + b" HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % size
    with connect(server, head) as client:
        client.sendall(bytes(size))
        answer = rest(client)
    assert answer.split(b" ")[1] == {b"/v1/studies": b"413", b"/healthz": b"405", b"/nowhere": b"404"}[path]
    assert b"connection: close" in answer


def test_who_does_not_read_is_left(monkeypatch, caplog):
    monkeypatch.setattr(transfers, "PATIENCE", 0.5)
    with live(dispatched()) as server:
        text = b"GET /30000000 HTTP/1.1\r\nHost: a\r\n\r\n"
        clients = [connect(server, text, buffer=4096) for _ in range(3)]
        until(lambda: server.server_state.tasks)
        until(lambda: not server.server_state.connections and not server.server_state.tasks, 5)
        for client in clients:
            assert len(rest(client)) < 30_000_000
        with connect(server, text.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")) as client:
            assert len(rest(client)) > 30_000_000
    assert "ASGI" not in caplog.text


def test_the_end_of_an_answer_that_is_not_read_is_not_waited_for_either(monkeypatch):
    monkeypatch.setattr(protocol, "PATIENCE", 0.3)
    monkeypatch.setattr(transfers, "PATIENCE", 0.3)
    with live(dispatched()) as server:
        client = connect(server, b"GET /60000 HTTP/1.1\r\nHost: a\r\n\r\n" * 200, buffer=4096)
        until(lambda: server.server_state.connections)
        until(lambda: not server.server_state.connections, 5)
        client.close()


def test_head_on_a_socket(server):
    with connect(server, b"HEAD /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n") as client:
        head, _, body = rest(client).partition(b"\r\n\r\n")
    assert b" 200 " in head
    assert body == b""


WORKER = """
import logging, multiprocessing, os, pathlib, sys, time
from longview.serving.ending import end_with_parent

def work(path):
    logging.basicConfig()
    end_with_parent(0)
    path.write_text(str(os.getpid()))
    time.sleep(60)

if __name__ == "__main__":
    multiprocessing.get_context("spawn").Process(target=work, args=(pathlib.Path(sys.argv[1]),)).start()
    time.sleep(60)
"""
HANGS = """
import logging, time
from longview.serving.ending import end_at_last
logging.basicConfig()
end_at_last(0.2)
time.sleep(60)
"""


def test_a_worker_does_not_outlive_its_parent(tmp_path):
    (tmp_path / "start.py").write_text(WORKER)
    told = tmp_path / "pid"
    process = subprocess.Popen([sys.executable, tmp_path / "start.py", told], stderr=subprocess.DEVNULL)
    until(lambda: told.exists() and told.read_text(), 60)
    process.kill()
    process.wait()
    until(lambda: not _runs(int(told.read_text())), 20)


def _runs(pid):
    try:
        os.kill(pid, 0)
        with open(f"/proc/{pid}/stat") as file:  # noqa: PTH123
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_server_that_hangs_is_ended():
    done = subprocess.run([sys.executable, "-c", HANGS], check=False, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "did not end" in done.stderr
