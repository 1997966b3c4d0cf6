import subprocess
import sys
import time

import pytest

from longview import InputError, cli


def run(*args):
    """Exit code of the real command line."""
    try:
        cli.main(list(args))
    except SystemExit as stop:
        return stop.code or 0
    return 0


def test_help_lists_every_command_with_one_line(capsys):
    assert run("--help") == 0
    out = capsys.readouterr().out
    for name, text in {**cli.VERBS, **{tool: line for tool, (_, line) in cli.TOOLS.items()}}.items():
        assert any(line.split()[:1] == [name] and text in line for line in out.splitlines())


def test_no_command_shows_the_overview(capsys):
    assert run() == 0
    assert "usage: main.py COMMAND" in capsys.readouterr().out


def test_an_unknown_command_is_named_with_those_that_exist(capsys):
    assert run("fti") == 2
    err = capsys.readouterr().err
    assert "'fti'" in err and "fit" in err and "prepare" in err


@pytest.mark.parametrize("name", sorted(cli.TOOLS))
def test_every_tool_teaches(name, capsys):
    assert run(name, "--help") == 0
    out = capsys.readouterr().out
    assert f"main.py {name}" in out
    assert "--" in out
    options = [line for line in out.splitlines() if line.lstrip().startswith("--") and "--help" not in line]
    assert len(options) >= 3


@pytest.mark.parametrize("name", sorted(cli.TOOLS))
def test_a_mistyped_option_is_an_error_that_names_it(name, capsys):
    assert run(name, "--ouptut", "x") == 2
    assert "ouptut" in capsys.readouterr().err


def test_help_of_a_tool_starts_quickly():
    start = time.perf_counter()
    code = "import sys; from longview.cli import main; main(['prepare', '--help'])"
    result = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", code], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0
    # what is imported decides; seconds on a busy machine do not
    assert not any(line.rstrip().endswith(("| torch", "| lightning")) for line in result.stderr.splitlines())
    assert time.perf_counter() - start < 30


def test_an_input_error_is_one_line_and_exit_code_2(monkeypatch, capsys):
    def broken(arguments):
        raise InputError("data.csv: row 3 has no patient; fill patient_id")

    monkeypatch.setattr(cli, "dispatch", broken)
    assert run("prepare") == 2
    assert capsys.readouterr().err == "error: data.csv: row 3 has no patient; fill patient_id\n"


def test_a_full_disk_is_one_line_and_exit_code_1(monkeypatch, capsys):
    def full(arguments):
        raise OSError(28, "No space left on device", "data/store/images.npy")

    monkeypatch.setattr(cli, "dispatch", full)
    assert run("prepare") == 1
    err = capsys.readouterr().err
    assert "No space left on device" in err and "images.npy" in err and "Traceback" not in err


def test_an_interrupt_exits_with_130(monkeypatch, capsys):
    def interrupted(arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "dispatch", interrupted)
    assert run("prepare") == 130
    assert "interrupted" in capsys.readouterr().err


def test_an_option_that_takes_a_list_is_known_with_hyphens_and_with_an_equals_sign():
    from longview.localization.localize import localize

    for words in (["--fit-maps", "a", "b"], ["--fit_maps", "a", "b"], ["--fit-maps=a", "b"], ['--fit-maps=["a", "b"]']):
        assert cli._lists(localize, words)[1:] == ['["a", "b"]'], words
    assert cli._lists(localize, ["--maps=a", "--top-k", "2"]) == ["--maps", '["a"]', "--top-k", "2"]
