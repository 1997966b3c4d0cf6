"""The notebooks run from the first to the last on a small phantom, look without defining, and carry no outputs."""

import ast
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted((ROOT / "notebooks").glob("*.py"))

SMALL = {
    "01_explore_dataset": 'store, studies, size = "data/small", 24, 48',
    "02_prepare_and_train": "studies, size, epochs = 30, 48, 1",
    "03_evaluate_and_explain": "",
}


def cells(source):
    """Kind and text of each cell of a py:percent file; markdown without its hashes."""
    text = source.read_text(encoding="utf-8")
    parts = re.split(r"^# %%(.*)\n", text, flags=re.MULTILINE)
    for header, body in zip(parts[1::2], parts[2::2], strict=True):
        is_text = "[markdown]" in header
        shown = re.sub(r"^# ?", "", body, flags=re.MULTILINE) if is_text else body
        yield ("markdown" if is_text else "code"), "parameters" in header, shown.strip()


@pytest.fixture
def place(tmp_path_factory, monkeypatch):
    """A folder like the checkout, with configs, in which nothing is prepared yet; the same for all notebooks."""
    folder = tmp_path_factory.getbasetemp() / "notebooks-run"
    if not folder.exists():
        folder.mkdir()
        (folder / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("MPLBACKEND", "Agg")


def test_there_are_three_in_order():
    assert [source.stem for source in SOURCES] == list(SMALL)


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)
def test_it_looks_and_never_defines(source):
    tree = ast.parse(source.read_text(encoding="utf-8"))
    definitions = [node.name for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.ClassDef))]
    assert definitions == []


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)
def test_the_ipynb_is_its_source_and_has_no_outputs(source):
    notebook = json.loads(source.with_suffix(".ipynb").read_text(encoding="utf-8"))
    assert [("".join(cell["source"]).strip(), cell["cell_type"]) for cell in notebook["cells"]] == [
        (text, kind) for kind, _, text in cells(source)
    ]
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert [cell for cell in code if cell["outputs"] or cell["execution_count"]] == []


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)
def test_it_runs_headless_on_a_small_phantom(source, place):
    import matplotlib.pyplot as plt

    names = {"__name__": "__main__"}
    for kind, are_parameters, text in cells(source):
        if kind == "code":
            exec(compile(text, str(source), "exec"), names)
        if are_parameters:
            exec(SMALL[source.stem], names)
    assert plt.get_fignums(), "it draws nothing"
    plt.close("all")
