"""Fixtures that every test may use."""

import logging
import os
import shutil
import sys
from pathlib import Path

# before torch, tokenizers or OpenMP are imported: threads of several test processes spin against each other
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("MPLBACKEND", "Agg")

import pytest

ROOT = Path(__file__).resolve().parents[1]

# what takes longest, first: xdist gives whole files to its processes, and nothing long should be left for the end;
# and before it what forks: a process that a runtime or a server left threads in may hang in its child
FIRST = ("test_processes.py", "test_feature_cache.py", "test_predict.py", "test_board.py", "test_metrics.py",
         "test_training.py", "test_configs.py")  # fmt: skip


def pytest_collection_modifyitems(items):
    """Order files, long ones first; the tests of a file stay together and in order."""
    items.sort(key=lambda item: FIRST.index(item.path.name) if item.path.name in FIRST else len(FIRST))


@pytest.fixture(autouse=True)
def no_seed_of_another_test(monkeypatch):
    """Lightning keeps the last seed in the environment, and would seed forked processes with it."""
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)


@pytest.fixture(scope="module", autouse=True)
def small_pictures(request):
    """Dozens of tests fit; only test_board.py looks at their figures, which cost a second each."""
    fits = "longview.board" in sys.modules or hasattr(request.module, "main")
    with pytest.MonkeyPatch.context() as patch:
        if fits and request.path.name != "test_board.py":
            import numpy as np
            from matplotlib.figure import Figure

            for name in ("draw_precision_recall", "draw_reliability"):
                patch.setattr(f"longview.board.{name}", lambda *_: np.zeros((2, 2, 3), np.uint8))
            for name in ("draw_bars", "draw_images"):
                patch.setattr(f"longview.callbacks.{name}", lambda *_: Figure(figsize=(1, 1)))
        yield


@pytest.fixture
def quiet_lightning():
    """Keep Lightning's own messages out of the way of ours for one test."""
    log = logging.getLogger("lightning.pytorch")
    before = log.level
    log.setLevel(logging.ERROR)
    yield
    log.setLevel(before)


@pytest.fixture(scope="session")
def project_root() -> Path:
    """The checkout: where README.md and configs/ are."""
    return ROOT


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real X-rays beside the checkout; tests that need them are skipped where the folder is absent."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"real X-rays are not at {folder}")
    return folder


@pytest.fixture(scope="module")
def browser():
    """A headless Chromium; tests that open a page are skipped where none is installed."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: uv sync --group dev")
    found = [path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))]
    if not found:
        pytest.skip("no browser is here: install chromium or google-chrome")
    flags = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    with playwright.sync_playwright() as running:
        opened = running.chromium.launch(executable_path=found[0], args=flags)
        yield opened
        opened.close()


@pytest.fixture(scope="session")
def make_store(tmp_path_factory):
    """A function that makes a small real store of drawn films with labels that depend on the pixels."""
    import cv2
    import numpy as np
    import pandas as pd

    from longview.data.manifest import Manifest
    from longview.data.prepare import prepare_manifest

    def make(names, patients=24, size=32, seed=0, source="table"):
        folder = tmp_path_factory.mktemp("films")
        rng = np.random.default_rng(seed)
        rows, targets = [], []
        splits = {0: "val", 1: "test"}
        for patient in range(patients):
            for view in ("PA", "lateral")[: 1 + patient % 2]:
                target = (rng.random(len(names)) < 0.4).astype(np.float32)
                if view == "lateral":
                    target = targets[-1]  # the views of a study share its labels
                pixels = rng.integers(0, 60, (size, size), dtype=np.uint8)
                for label in np.flatnonzero(target):
                    row, column = divmod(int(label) % 16, 4)
                    pixels[row * size // 4 :, column * size // 4 :][: size // 5, : size // 5] += 150
                name = f"p{patient:03d}_{view}.png"
                cv2.imwrite(str(folder / name), pixels)
                rows.append((source, f"{patient:03d}", f"s{patient:03d}", name[:-4], view, name,
                             splits.get(patient % 4, "train")))  # fmt: skip
                targets.append(target)
        table = pd.DataFrame(rows, columns=["source", "patient_id", "study_id", "image_id", "view", "path", "split"])
        table = pd.concat([table, pd.DataFrame(np.array(targets, np.float32), columns=list(names))], axis=1)
        output = folder.parent / f"{folder.name}-store"
        prepare_manifest(Manifest(table), folder, output, size=size)
        return output

    return make
