"""The notebooks as a user runs them: converted by jupytext, executed by a Jupyter kernel."""

import pytest

from test_notebooks import ROOT, SMALL

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1800)]


def test_the_notebooks_run_in_a_kernel(tmp_path, monkeypatch):
    monkeypatch.delenv("MPLBACKEND", raising=False)  # the kernel's own puts pictures into the notebook
    jupytext, nbclient = pytest.importorskip("jupytext"), pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    for name, small in SMALL.items():
        notebook = jupytext.read(ROOT / "notebooks" / f"{name}.py")
        place = next(i for i, cell in enumerate(notebook.cells) if "parameters" in cell.metadata.get("tags", []))
        notebook.cells[place].source += f"\n{small}"
        done = nbclient.NotebookClient(notebook, timeout=900, resources={"metadata": {"path": str(tmp_path)}}).execute()
        outputs = [output for cell in done.cells if cell.cell_type == "code" for output in cell.outputs]
        assert any("image/png" in output.get("data", {}) for output in outputs), name
