"""A real server on this machine's loopback: the seed's request, the client, shutdown, workers, rude clients."""

import base64
import concurrent.futures
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest
from tiny_server import NAMES, PATIENT, dicom, encoded, film

from longview import InputError
from longview.cli import main
from longview.serving.security import read_token

pytestmark = pytest.mark.timeout(200)


START = """
import logging
from longview.serving.serve import _listening, _run
from longview.serving.settings import Settings
from tiny_server import TinyPlan

if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    settings = Settings({settings})
    _run(TinyPlan((), (), None, 0.5, None, "cpu", settings, {workers}), _listening("127.0.0.1", 0))
"""


class Server:
    """A server in a process of its own."""

    def __init__(self, project_root, folder, workers=1, **settings):
        self.log = folder / "server.log"
        words = ", ".join(f"{name}={value!r}" for name, value in settings.items())
        (folder / "start.py").write_text(START.format(settings=words, workers=workers))
        environment = os.environ | {
            "TMPDIR": str(folder),
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": str(project_root / "tests/serving"),
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, folder / "start.py"], stdout=log, stderr=log, cwd=folder, env=environment
            )
        found = self.until(lambda: re.search(r"http://127\.0\.0\.1:(\d+)", self.log.read_text()))
        self.port = int(found[1])
        self.until(lambda: self.ask("/readyz")[0] == 200)

    def until(self, condition, seconds=120):
        """Wait for a condition."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            assert self.process.poll() is None, self.log.read_text()
            try:
                if result := condition():
                    return result
            except OSError:
                pass
            time.sleep(0.05)
        raise AssertionError(self.log.read_text())

    def ask(self, path, body=None, kind="application/json", **headers):
        """Status and content."""
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", body, {"Content-Type": kind} | headers)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    def predict(self, **options):
        """The seed's request."""
        content = base64.b64encode(encoded(film(90, 70))).decode()
        return self.ask("/predict", json.dumps({"cxr_base64": content, **options}).encode())

    def stop(self):
        """End it as a supervisor would."""
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(60)


@pytest.fixture(scope="module")
def server(project_root, tmp_path_factory):
    """One worker."""
    server = Server(project_root, tmp_path_factory.mktemp("server"), timeout=20)
    yield server
    if server.process.poll() is None:
        server.stop()


def test_the_seeds_request_and_the_client_are_answered(server, project_root, tmp_path):
    status, content = server.predict()
    body = json.loads(content)
    assert status == 200
    assert list(body["heatmap"]) == list(body["prediction_mean"]) == NAMES
    assert min(body["prediction_variance"].values()) > 0
    (tmp_path / f"{PATIENT}.dcm").write_bytes(dicom(film()))
    (tmp_path / "lateral.png").write_bytes(encoded(film(70, 80)))
    done = subprocess.run(
        [sys.executable, project_root / "scripts/serve_client.py", f"{PATIENT}.dcm", "lateral.png",
         "--views=PA,lateral", f"--url=http://127.0.0.1:{server.port}", "--heatmaps", "--output=answer.json"],
        cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert len(done.stdout.splitlines()) == len(NAMES)
    assert len(json.loads((tmp_path / "answer.json").read_text())["views"]) == 2


def test_rude_clients_disturb_nobody(server):
    def raw(text, wait=0.0):
        with socket.create_connection(("127.0.0.1", server.port), 10) as client:
            client.sendall(text)
            time.sleep(wait)
            if not wait:
                return client.recv(65_536)
        return b""

    head = b"POST /v1/studies HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=x\r\n"
    assert b" 413 " in raw(head + b"Content-Length: 1000000000\r\n\r\n")
    assert b" 400 " in raw(head + b"Content-Length: -1\r\n\r\n")
    assert b" 400 " in raw(b"\x16\x03\x01\x02\x00")
    for _ in range(5):  # gone in the middle of a body, and while the models work
        raw(head + b"Content-Length: 100000\r\n\r\nabc", wait=0.05)
        body = json.dumps({"cxr_base64": base64.b64encode(encoded(film())).decode()}).encode()
        told = b"Host: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
        raw(b"POST /predict HTTP/1.1\r\n" + told + body, wait=0.001)
    slow = [socket.create_connection(("127.0.0.1", server.port), 10) for _ in range(20)]
    for client in slow:
        client.sendall(head + b"Content-Length: 1000\r\n\r\n-")
    assert server.predict(heatmaps=False)[0] == 200
    for client in slow:
        client.close()
    assert server.predict(heatmaps=False)[0] == 200


def test_a_server_that_is_stopped_answers_what_it_took_and_leaves_nothing(server):
    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        before = server.ask("/metrics")[1]
        futures = [pool.submit(server.predict, samples=100) for _ in range(12)]
        server.until(lambda: b"longview_requests_inside" in before and _inside(server) >= 4, 20)
        server.stop()
        statuses = [_status(future) for future in futures]
    assert statuses.count(200) >= 4
    assert set(statuses) <= {200, 0}, statuses  # 0: not taken any more
    assert server.process.returncode == 0
    log = server.log.read_text()
    assert "Traceback" not in log
    assert PATIENT not in log
    assert sorted(path.name for path in server.log.parent.iterdir()) == ["server.log", "start.py"]


def _file(path, text):
    path.write_text(text)
    return path


def _inside(server):
    return float(re.search(rb"longview_requests_inside\{[^}]*\} ([\d.]+)", server.ask("/metrics")[1])[1])


def _status(future):
    try:
        return future.result()[0]
    except OSError:
        return 0


def test_workers_share_the_port_and_a_token_guards_it(project_root, tmp_path):
    server = Server(project_root, tmp_path, workers=2, token="0123456789abcdef0123")
    try:
        right = {"Authorization": "Bearer 0123456789abcdef0123"}
        assert server.ask("/v1/model")[0] == 401

        def workers():
            with concurrent.futures.ThreadPoolExecutor(8) as pool:
                texts = list(pool.map(lambda _: server.ask("/metrics", **right)[1], range(16)))
            return {match for text in texts for match in re.findall(rb'worker="(\d+)"', text)}

        seen = set()
        server.until(lambda: seen.update(workers()) or len(seen) == 2, 60)
        assert all(int(pid) != server.process.pid for pid in seen)
    finally:
        server.stop()
    assert server.process.returncode == 0
    assert "0123456789abcdef" not in server.log.read_text()
    # a worker's lines have a time and a level, and probes have none
    assert re.search(r"^\[[\d/]+ [\d:]+\] INFO +GET unknown 401 in", server.log.read_text(), re.MULTILINE)
    assert "GET /metrics 200" not in server.log.read_text()
    assert read_token(_file(tmp_path / "token", "0123456789abcdef0123\n")) == "0123456789abcdef0123"
    assert all(not os.path.exists(f"/proc/{int(pid)}") for pid in seen)  # noqa: PTH110


def test_mistakes_are_told_before_anything_starts(tmp_path, capsys, monkeypatch):
    def told(*options):
        with pytest.raises(SystemExit) as stopped:
            main(["serve", "--port=0", *options])
        assert stopped.value.code == 2
        return capsys.readouterr().err

    assert "does not exist" in told("--checkpoint", "no.ckpt")
    assert "does not exist" in told("--checkpoint", "no.ckpt", "--calibration", "no.json")
    assert "--rule f1" in told("--checkpoint", "no.ckpt", "--rule=f1")
    assert "--batch 0" in told("--checkpoint", "no.ckpt", "--batch=0")
    assert "--workers 0" in told("--checkpoint", "no.ckpt", "--workers=0")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert "in use" in told("--checkpoint", "no.ckpt", f"--port={taken.getsockname()[1]}")
    (tmp_path / "short").write_text("abc")
    assert "openssl rand" in told("--checkpoint", "no.ckpt", f"--token-file={tmp_path / 'short'}")
    with pytest.raises(InputError, match="cannot be read"):
        read_token(tmp_path / "none")
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    assert "uv sync --extra serve" in told("--checkpoint", "no.ckpt")
