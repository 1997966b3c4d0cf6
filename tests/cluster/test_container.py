"""The Dockerfile, built without Docker on a plain Debian: the image trains and serves as a user without rights."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(3600)]

PROXY = ("PIP_INDEX_URL", "UV_INDEX_URL", "UV_DEFAULT_INDEX", "http_proxy", "https_proxy", "no_proxy")
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")


def run(*words, **options):
    done = subprocess.run(list(map(str, words)), check=False, capture_output=True, text=True, **options)
    assert done.returncode == 0, f"{' '.join(map(str, words[:6]))}: {(done.stdout + done.stderr)[-3000:]}"
    return done.stdout


# in the image: start the server, wait as compose.yaml's health check does, ask as the README does, stop it
SERVE = """
import base64, io, json, subprocess, sys, time, urllib.request as r
from PIL import Image
checkpoint, url, check = sys.argv[1], "http://127.0.0.1:8765", sys.argv[2].replace(":8000/", ":8765/")
words = [sys.executable, "/opt/longview/main.py", "serve", "--checkpoint", checkpoint, "--port", "8765"]
server = subprocess.Popen(words)
while subprocess.run([sys.executable, "-c", check], capture_output=True).returncode and server.poll() is None:
    time.sleep(1)
film = io.BytesIO()
Image.linear_gradient("L").save(film, "PNG")
body = json.dumps({"cxr_base64": base64.b64encode(film.getvalue()).decode(), "samples": 5}).encode()
answer = json.load(r.urlopen(r.Request(url + "/predict", body, {"Content-Type": "application/json"})))
assert "<html" in r.urlopen(url).read().decode()
server.terminate()
sizes = [Image.open(io.BytesIO(base64.b64decode(picture))).size for picture in answer["heatmap"].values()]
print(json.dumps([server.wait(30), answer["success"], answer["prediction_mean"], answer["prediction_variance"], sizes]))
"""


@pytest.fixture(scope="module")
def buildah(tmp_path_factory):
    """Buildah with a store of its own, by overlay or, where the kernel has none, by copies."""
    missing = [name for name in ("buildah", "debootstrap") if shutil.which(name) is None]
    if missing or os.geteuid() != 0:
        pytest.skip(f"needs root and Debian's buildah, crun, debootstrap; missing: {', '.join(missing) or 'root'}")
    folder = tmp_path_factory.mktemp("buildah")
    if shutil.disk_usage(folder).free < 25e9:
        pytest.skip(f"needs 25 GB on the disk of {folder}")
    for driver in ("overlay", "vfs"):
        words = [
            "buildah",
            "--root",
            folder / driver,
            "--runroot",
            folder / f"{driver}-run",
            "--storage-driver",
            driver,
        ]
        if subprocess.run([*words, "from", "scratch"], check=False, capture_output=True).returncode == 0:
            break
    yield words
    subprocess.run([*words, "rm", "--all"], check=False, capture_output=True)
    subprocess.run([*words, "rmi", "--all", "--force"], check=False, capture_output=True)


@pytest.fixture(scope="module")
def base(buildah, tmp_path_factory):
    """Debian 12 with its Python, as an image; what this machine needs to reach its package index goes along."""
    folder = tmp_path_factory.mktemp("base")
    sources = Path("/etc/apt/sources.list.d/debian.sources")
    found = re.search(r"^URIs:\s*(\S+)", sources.read_text(), re.MULTILINE) if sources.is_file() else None
    mirror = found.group(1) if found else "http://deb.debian.org/debian"
    run("debootstrap", "--variant=minbase", "--include=python3,python3-pip,ca-certificates", "bookworm",
        folder / "rootfs", mirror)  # fmt: skip
    shutil.copy(CERTIFICATES, folder / "rootfs" / CERTIFICATES.relative_to("/"))
    run("tar", "-C", folder / "rootfs", "-cf", folder / "rootfs.tar", ".")
    shutil.rmtree(folder / "rootfs")
    variables = {name: os.environ[name] for name in PROXY if name in os.environ}
    variables |= {"PIP_CERT": CERTIFICATES, "SSL_CERT_FILE": CERTIFICATES}
    (folder / "Dockerfile").write_text(
        "FROM scratch\nADD rootfs.tar /\nENV PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin\n"
        + "".join(f"ENV {name}={value}\n" for name, value in variables.items())
    )
    run(*buildah, "bud", "--isolation", "chroot", "-t", "localhost/base:bookworm", folder)
    (folder / "rootfs.tar").unlink()
    return "localhost/base:bookworm"


@pytest.fixture(scope="module")
def container(buildah, base):
    run(*buildah, "bud", "--isolation", "chroot", "--network", "host", "-f", ROOT / "containers/Dockerfile",
        "--build-arg", f"BASE={base}", "--build-arg", "EXTRAS=serve", "-t", "localhost/longview", ROOT)  # fmt: skip
    return run(*buildah, "from", "localhost/longview").strip()


def test_the_image_trains_as_a_user_without_rights(buildah, container):
    inside = [*buildah, "run", "--isolation", "chroot", container, "--"]
    longview = [*inside, "python3", "/opt/longview/main.py"]
    assert run(*inside, "id", "-u").strip() == "1000"
    assert "usage: main.py COMMAND" in run(*longview, "--help")
    small = ["--data.phantom.studies", 24, "--data.phantom.size", 64, "--data.image_size", 64, "--data.batch_size", 4,
             "--data.num_workers", 0, "--trainer.max_epochs", 1, "--trainer.enable_progress_bar", "false"]  # fmt: skip
    run(*longview, "fit", "--config", "configs/demo.yaml", *small)
    found = run(*inside, "find", "/opt/longview", "-name", "*.ckpt", "-user", "1000")
    assert {Path(line).name for line in found.split()} == {"best.ckpt", "last.ckpt"}


def test_the_image_serves_what_it_trained(buildah, container, project_root):
    inside = [*buildah, "run", "--isolation", "chroot", container, "--"]
    (checkpoint,) = run(*inside, "find", "/opt/longview/runs", "-name", "best.ckpt").split()
    compose = yaml.safe_load((project_root / "containers/compose.yaml").read_text())
    check = compose["services"]["serve"]["healthcheck"]["test"][-1]
    out = run(*inside, "python3", "-c", SERVE, checkpoint, check)
    code, success, mean, variance, sizes = json.loads(out.splitlines()[-1])
    assert code == 0 and success is True and mean.keys() == variance.keys() and len(mean) == len(sizes) > 10
    assert all(0 <= value <= 1 for value in mean.values()) and min(variance.values()) > 0
    assert set(map(tuple, sizes)) == {(256, 256)}


def test_the_image_holds_no_caches_and_no_installer(buildah, container):
    script = "ls -d ~root/.cache /tmp/* /opt/longview/src 2>/dev/null; python3 -m uv --version 2>/dev/null; true"
    left = run(*buildah, "run", "--isolation", "chroot", container, "--", "bash", "-c", script).split()
    assert [line for line in left if "torchinductor" not in line and "mpl" not in line] == []
