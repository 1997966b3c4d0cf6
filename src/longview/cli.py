"""The command line: LightningCLI's verbs (`fit`, `validate`, `test`, `predict`) and longview's tools.

    uv run main.py --help
    uv run main.py fit --config configs/demo.yaml
    uv run main.py prepare --help

A tool is a typed function; it is dispatched before torch is imported, so that its `--help` starts at once.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import json
import os
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from longview import InputError

if TYPE_CHECKING:
    from longview.training import LongviewCLI

TOOLS: dict[str, tuple[str, str]] = {
    "phantom": ("longview.data.phantom.phantom", "draw a synthetic data set in a real data set's own layout"),
    "download": (
        "longview.downloading.download.download",
        "what each data set demands; its owner's tool, shown or run; checksums",
    ),
    "prepare": (
        "longview.data.prepare.prepare",
        "read a raw data set once into a store: manifest and packed images",
    ),
    "labels": ("longview.label_report.labels", "list label sets; show one: prompts, hierarchy, counts, text heat-map"),
    "pseudo": ("longview.pseudo.pseudo", "fill what a store does not know with predictions, as a store without images"),
    "classify": (
        "longview.classify.classify",
        "score films with checkpoints or published models, and say what is positive",
    ),
    "explain": ("longview.explain.explain.explain", "heat-maps of films and studies, by several methods and models"),
    "evaluate": (
        "longview.evaluate.evaluate",
        "score predictions against truth: figures with intervals, plots, a page, a model card",
    ),
    "compare": ("longview.compare.compare", "compare models on the same rows: differences, p-values, labels won"),
    "calibrate": (
        "longview.calibration.calibrate.calibrate",
        "fit calibration and thresholds on validation predictions",
    ),
    "ensemble": (
        "longview.ensembling.ensemble.ensemble",
        "average predictions of several models, or of a study's views; weights given or fitted",
    ),
    "soup": ("longview.ensembling.soup.soup", "average the weights of several checkpoints into one"),
    "folds": (
        "longview.cross_validation.folds.folds",
        "train on k folds of the patients; out-of-fold predictions, and the folds' mean on the test part",
    ),
    "submit": (
        "longview.submission.submit",
        "write a challenge's CSV and zip from predictions and its sample file",
    ),
    "tune": ("longview.tuning.tune.tune", "search for better settings of an experiment: short runs of fit, by Optuna"),
    "serve": ("longview.serving.serve.serve", "an API and a page: studies to findings, heat-maps, boxes, doubt"),
    "export": ("longview.exporting.export.export", "a model as ONNX, .pt2, safetensors, hub folder or timm encoder"),
    "localize": (
        "longview.localization.localize.localize",
        "boxes from heat-maps, scored against true boxes; several models' maps as one",
    ),
    "pipeline": ("longview.pipeline.pipeline", "noisy student from raw archives to submissions, by Snakemake"),
}
"""Name -> (dotted function, one line for `--help`)."""

VERBS: dict[str, str] = {
    "fit": "train, and validate while training",
    "validate": "score a checkpoint on the validation part",
    "test": "score a checkpoint on the test part",
    "predict": "write probabilities by id, from a store or straight from image files",
}
"""LightningCLI's verbs."""

FIT_OPTIONS = {
    "c", "config", "trainer", "model", "data", "checkpoint", "name", "seed_everything", "test_after_fit",
    "save_minutes", "feature_cache", "ckpt_path", "weights_only",
}  # fmt: skip
"""Options of `fit` without a dot, which a tool that runs `fit` hands on."""


def main(args: Sequence[str] | None = None) -> None:
    """Run one command; `args` defaults to the command line's.

    Exits with 2 and one line on standard error for a mistake in what was given, with 1 where the machine failed
    (a full disk, a file that may not be written), with 130 where it was interrupted.
    """
    arguments = list(sys.argv[1:] if args is None else args)
    try:
        dispatch(arguments)
    except InputError as error:
        # one from a loader's worker process arrives with that process's traceback; its last line is the message
        _complain(str(error).rpartition("longview.InputError: ")[2].strip(), 2)
    except OSError as error:
        if error.errno is None:  # not the system's, but a library's way to say that something else is wrong
            raise
        _complain(f"{error.strerror}: {error.filename or 'while writing'}", 1)
    except KeyboardInterrupt:
        _complain("interrupted", 130)


def _complain(message: str, code: int) -> None:
    sys.stderr.write(f"error: {message}\n")
    raise SystemExit(code)


def dispatch(arguments: list[str]) -> None:
    """Send the arguments to the tool or the Lightning verb that their first word names.

    Raises:
        InputError: For a command that does not exist.
    """
    command = arguments[0] if arguments else "--help"
    if command in {"-h", "--help", "help"}:
        sys.stdout.write(overview())
    elif command in {"--version", "-V"}:
        from longview import __version__

        sys.stdout.write(f"longview {__version__}\n")
    elif command in TOOLS:
        _run_tool(command, arguments[1:])
    elif command in VERBS:
        _run_training(arguments)
    else:
        raise InputError(f"no command {command!r}; there are {', '.join([*VERBS, *TOOLS])} (see --help)")


def overview() -> str:
    """The text of `main.py --help`: every verb with one line."""
    width = max(len(name) for name in [*VERBS, *TOOLS]) + 2
    lines = [
        "usage: main.py COMMAND [--config FILE ...] [--key value ...]",
        "",
        "training (options: --config, --print_config):",
    ]
    lines += [f"  {name:<{width}}{text}" for name, text in VERBS.items()]
    lines += ["", "tools:"]
    lines += [f"  {name:<{width}}{text}" for name, (_, text) in TOOLS.items()]
    lines += [
        "",
        "`main.py COMMAND --help` explains each. Start with: main.py fit --config configs/demo.yaml",
        "",
    ]
    return "\n".join(lines)


def tool(name: str) -> Callable[..., None]:
    """The function behind a tool's name."""
    module, function = TOOLS[name][0].rsplit(".", 1)
    found: Callable[..., None] = getattr(importlib.import_module(module), function)
    return found


def _log_to_terminal() -> None:
    """Send what the package and Lightning log to standard error, in one form."""
    import logging

    from rich.console import Console
    from rich.logging import RichHandler

    # a log file is read and searched by line: paths and commands in it are not broken at 80 columns
    console = Console(stderr=True, width=None if sys.stderr.isatty() else 240)
    handler = RichHandler(console=console, show_path=False)
    # Lightning advertises a logger of its own in every run
    handler.addFilter(lambda record: "litlogger" not in record.getMessage())
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[handler])


def _run_tool(name: str, arguments: list[str]) -> None:
    from jsonargparse import auto_cli, capture_parser

    from longview.parsers import tool_options

    _log_to_terminal()
    function = tool(name)
    words = as_options(function, arguments)
    build = functools.partial(auto_cli, function, as_positional=False, prog=f"main.py {name}", **tool_options(function))
    if "config" not in inspect.signature(function).parameters:
        build(args=words)
        return
    # auto_cli keeps an option --config for itself, whatever the function's own one is
    parser = capture_parser(functools.partial(build, args=[]))
    function(**parser.instantiate(parser.parse_args(words)))


def as_options(function: Callable[..., None], arguments: list[str]) -> list[str]:
    """Arguments in the form that jsonargparse reads: `--dry-run` means `--dry_run true`.

    Hyphens in an option's name become underscores, a yes-or-no option that stands alone is switched on, and one that
    takes a list takes all words up to the next option. A tool with an argument `fit` takes options of `fit` too, which
    go there as they are; one with an argument `snakemake` takes what stands behind `--`.
    """
    if "fit" in inspect.signature(function).parameters:
        arguments, passed = _apart(function, arguments)
        arguments = [*arguments, "--fit", json.dumps(passed)] if passed else arguments
    if "snakemake" in inspect.signature(function).parameters and "--" in arguments:
        end = arguments.index("--")
        arguments = [*arguments[:end], "--snakemake", json.dumps(arguments[end + 1 :])]
    switches = {
        f"--{name}"
        for name, known in inspect.signature(function).parameters.items()
        if known.annotation in {bool, "bool"}
    }
    arguments = _lists(function, arguments)
    words: list[str] = []
    for index, word in enumerate(arguments):
        if not word.startswith("--"):
            words.append(word)
            continue
        name, equals, value = word.partition("=")
        option = name[:2] + name[2:].replace("-", "_")
        words.append(f"{option}{equals}{value}")
        follower = arguments[index + 1] if index + 1 < len(arguments) else "--"
        if option in switches and not equals and follower.startswith("-"):
            words.append("true")
    return words


def _lists(function: Callable[..., None], arguments: list[str]) -> list[str]:
    """The words behind an option that takes a list as one word, as JSON."""
    known = inspect.signature(function).parameters
    lists = {f"--{name}" for name, parameter in known.items() if str(parameter.annotation).startswith("list[")}
    words: list[str] = []
    values: list[str] | None = None
    for word in [*arguments, "--"]:
        if values is not None and not word.startswith("--"):
            values.append(word)
            continue
        if values:
            words.append(values[0] if len(values) == 1 and values[0].startswith("[") else json.dumps(values))
        name, equals, value = word.partition("=")
        values = ([value] if equals else []) if name.replace("-", "_").replace("__", "--", 1) in lists else None
        words.append(word if values is None else name)
    return words[:-1]


def _apart(function: Callable[..., None], arguments: list[str]) -> tuple[list[str], list[str]]:
    """A tool's own options with their values, and those of `fit`: whatever has a dot, or comes behind `--`."""
    own: list[str] = []
    passed: list[str] = []
    end = arguments.index("--") if "--" in arguments else len(arguments)
    words = own
    for word in arguments[:end]:
        name = word.lstrip("-").partition("=")[0]
        if word.startswith("--") or word in {"-c", "-h"}:
            is_fit = "." in name or name in FIT_OPTIONS
            words = passed if is_fit and name not in inspect.signature(function).parameters else own
        words.append(word)
    return own, passed + arguments[end + 1 :]


def _run_training(arguments: list[str]) -> LongviewCLI:
    # idle OpenMP threads that spin slow down data loading and each other; must be set before torch is imported
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from longview import launch

    launch.listen()  # a cluster's signal may come while torch is still being imported
    _log_to_terminal()
    from longview.training import run

    return run(arguments)
