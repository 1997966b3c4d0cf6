"""Fixtures that every test may use."""

import os
from pathlib import Path

# before torch, tokenizers or OpenMP are imported: threads of several test processes spin against each other
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("MPLBACKEND", "Agg")

import pytest

ROOT = Path(__file__).resolve().parents[1]


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
