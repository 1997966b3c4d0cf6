"""The README's commands parse with the real parsers, and its tree is true."""

import re
import shlex
from pathlib import Path

import pytest
from jsonargparse import auto_cli, capture_parser

from longview import cli

ROOT = Path(__file__).resolve().parents[1]

TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(?:bash|sh)\n(.*?)```", TEXT, flags=re.DOTALL)
COMMANDS = [line.strip() for block in BLOCKS for line in block.replace("\\\n", " ").splitlines() if "main.py" in line]


def words(command):
    return shlex.split(command.split("main.py", 1)[1].split(" #")[0].split(" && ")[0])


def test_there_are_commands():
    verbs = {words(command)[0] for command in COMMANDS}
    assert {"fit", "prepare", "predict", "evaluate", "submit", "phantom"} <= verbs


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_parses(command, monkeypatch):
    verb, *arguments = words(command)
    if verb in cli.TOOLS:
        parser = capture_parser(lambda: auto_cli(cli.tool(verb), args=[], as_positional=False))
        parser.parse_args(cli.as_options(cli.tool(verb), arguments))
    elif verb in cli.VERBS:
        from longview.training import parse

        # a checkpoint does not exist before the run that makes it: what it carries is the experiment's file
        text = re.sub(
            r"--ckpt_path \S*runs/(\w+)/\S+", lambda hit: f"--config {config_of(hit.group(1))}", " ".join(arguments)
        )
        parse([verb, *shlex.split(text)])
    else:
        assert verb in {"--help", "COMMAND"}


def config_of(name):
    for file in [ROOT / "configs" / f"{name}.yaml", ROOT / "configs" / "experiment" / f"{name}.yaml"]:
        if file.is_file():
            return file
    raise AssertionError(f"no experiment is named {name}")


def test_the_two_set_up_commands_are_as_promised():
    assert "pip install uv && uv run main.py fit --config configs/demo.yaml" in TEXT
    assert "pip install uv && uv run pytest" in TEXT


def test_the_tree_is_true():
    tree = re.search(r"```text\n(longview/\n.*?)```", TEXT, flags=re.DOTALL)
    assert tree, "the README shows the tree in a text block that starts with longview/"
    stack, missing, seen = [], [], set()
    for line in tree.group(1).splitlines()[1:]:
        entry = re.match(r"^([│├└─ ]*)([\w.\-/]+(?:, [\w.\-/]+)*)", line)
        if not entry:
            continue
        depth = len(entry.group(1)) // 4
        for name in entry.group(2).split(", "):
            stack = [*stack[: depth - 1], name.rstrip("/")]
            path = ROOT.joinpath(*stack)
            seen.add(path)
            if not path.exists():
                missing.append(str(path.relative_to(ROOT)))
    assert missing == []
    modules = {
        path for path in (ROOT / "src" / "longview").iterdir() if path.name not in {"__pycache__", "__init__.py"}
    }
    assert modules - seen == set()


def test_links_and_pictures_exist():
    targets = re.findall(r"\]\(([^)#]+)\)", TEXT)
    local = [target for target in targets if "://" not in target]
    assert [target for target in local if not (ROOT / target).exists()] == []


def test_it_is_short_and_says_what_it_is_not():
    assert len(TEXT.splitlines()) <= 205
    assert "not a medical device" in TEXT.lower()
