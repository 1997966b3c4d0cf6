"""Reading each step's command with the parser that will read it when the step runs, before any step does."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from longview import InputError
from longview.pipeline.plan import Plan, Step

_FOR_NETWORK = ("config", "model", "data")
"""Options of `fit` that a checkpoint carries on to `predict`, and the files that they may stand in."""


@contextmanager
def told(file: Path, where: str, remedy: str = "") -> Iterator[None]:
    """Put the pipeline's file and the key before what a mistake says, and a remedy behind it.

    Args:
        file: The pipeline's file.
        where: The key; the message follows at once, so it ends in `: ` or, before a parser's own key, in a dot.
        remedy: What the message does not say itself.
    """
    try:
        yield
    except InputError as error:
        raise InputError(f"{file}: {where}{error}{remedy}") from error


def parse_tools(plan: Plan) -> dict[str, Any]:
    """Parse the command of each step that is a tool's.

    Returns:
        Name of the step -> what the tool will be given, by argument.

    Raises:
        InputError: For a value that the tool does not take, naming file, key and value.
    """
    keys = keys_of(plan)
    parsed: dict[str, Any] = {}
    for step in plan.steps:
        if step.kind not in {"fit", "predict", "pipeline"}:
            key = keys.get(step.name, step.name)
            with told(plan.file, f"{key}.", f"; see main.py {step.kind} --help"):
                parsed[step.name] = _parse_tool(step)
    return parsed


def keys_of(plan: Plan) -> dict[str, str]:
    """Step -> the key of the file whose options it has, as far as it is a tool's step with options."""
    keys: dict[str, str] = {}
    for name in plan.archives():
        where = key_of(name)
        keys |= {f"phantom_{name}": f"{where}.phantom", f"prepare_{name}": f"{where}.prepare"}
        rounds = plan.config.student.rounds if plan.config.student else 0
        keys |= {f"pseudo_{name}_{number}": f"{where}.pseudo" for number in range(1, rounds + 1)}
    models = {task.model for task in plan.config.tasks.values()}
    return keys | {f"calibrate_{model}": "calibrate.options" for model in models}


def key_of(archive: str) -> str:
    """The key of a data set in the file."""
    return archive if archive == "target" else f"externals.{archive}"


def _parse_tool(step: Step) -> Any:
    from jsonargparse import auto_cli, capture_parser

    from longview.parsers import tool_options

    function = tool(step.kind)
    build = functools.partial(
        auto_cli, function, args=[], as_positional=False, prog=f"main.py {step.kind}", **tool_options(function)
    )
    # the plan writes pairs of option and value; a name may have hyphens, as on the command line
    words = list(step.words[1:])
    words[::2] = [f"--{name.removeprefix('--').replace('-', '_')}" for name in words[::2]]
    return capture_parser(build).parse_args(words)


def tool(verb: str) -> Callable[..., None]:
    """The command behind a verb; imported here, for none of them is needed to run a step."""
    if verb == "phantom":
        from longview.data.phantom import phantom

        return phantom
    if verb == "prepare":
        from longview.data.prepare import prepare

        return prepare
    if verb == "pseudo":
        from longview.pseudo import pseudo

        return pseudo
    if verb == "calibrate":
        from longview.calibration.calibrate import calibrate

        return calibrate
    if verb == "evaluate":
        from longview.evaluate import evaluate

        return evaluate
    from longview.submission import submit

    return submit


def check_trainings(plan: Plan) -> None:
    """Parse what `fit` and `predict` will be given, for each training that was never begun and what is not predicted.

    Raises:
        InputError: For a configuration or option that they refuse.
    """
    # students differ only in data
    fits = {step.name.rpartition("_")[0] if step.name.startswith("student_") else step.name: step
            for step in plan.steps if step.run is not None and not Path(step.run).exists()}  # fmt: skip
    commands = {f"{step.name}: ": list(step.words) for step in fits.values()}
    predictions = _predictions(plan)
    if not commands and not predictions:
        return  # nor is torch imported
    from longview.training import parse

    before = logging.root.manager.disable
    logging.disable(logging.INFO)  # what a parser says on the way
    try:
        for where, words in commands.items():
            with told(plan.file, where, "; see main.py fit --help"):
                parse(words)
        for words in predictions:
            with told(plan.file, "predict.options: ", "; see main.py predict --help"):
                parse(words)
    finally:
        logging.disable(before)


def _predictions(plan: Plan) -> list[list[str]]:
    """Commands of `predict` with the training's configuration in the place of the checkpoint that will carry it.

    One for each training whose network they depend on; options of the trainer alone are parsed once.
    """
    trained = {step.output: step for step in plan.steps if step.run is not None}
    how = plan.config.predict
    depends = bool(how.config) or any(option.startswith(("model", "data")) for option in how.options)
    found: dict[tuple[str, ...], list[str]] = {}
    for step in plan.steps:
        if step.kind == "predict" and not Path(step.output).exists():
            at = step.words.index("--ckpt_path")
            network = _network(trained[step.words[at + 1]])
            key = network if depends else ()
            found.setdefault(key, ["predict", *network, *step.words[1:at], *step.words[at + 2 :]])
    return list(found.values())


def _network(fit: Step) -> tuple[str, ...]:
    """The words of a `fit` that say which network it trains, on what data."""
    words = fit.words[1:]
    pairs = zip(words[::2], words[1::2], strict=True)  # as the plan writes them
    kept = [pair for pair in pairs if pair[0].removeprefix("--").partition(".")[0] in _FOR_NETWORK]
    return tuple(word for pair in kept if pair[0] not in {"--data.stores", "--model.pretrained"} for word in pair)
