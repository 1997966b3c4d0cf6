"""jsonargparse's parsers with one-line errors, and with a tool's whole docstring as its help."""

from __future__ import annotations

import argparse
import inspect
import re
from collections.abc import Callable
from typing import Any, NoReturn

from jsonargparse import ArgumentParser, DefaultHelpFormatter

from longview import InputError

_KEY = re.compile(r'Parser key "([^"]+)"')
_ABSENT = re.compile(
    r"^((?:[\w.]+: )*)(?:the following arguments are required: ([\w., ]+)|([\w., ]+): missing, and required)$",
    re.IGNORECASE,
)
_NOISE = re.compile(
    r"Does not validate against any|^Subtypes|^Errors$|Problem with given class_path|Expected a <class 'NoneType'>"
    r"|Given value(?: type|: NestedArg|: \{'class_path')|Expected a path but|^Unable to load config '|^$"
)


def one_line(message: str) -> str:
    """The key and the innermost reason of a parser's error, which by itself tells every type that was tried."""
    keys: list[str] = []
    reasons: list[str] = []
    for raw in message.splitlines():
        found = _KEY.search(raw)
        if found and found.group(1) not in keys:
            keys.append(found.group(1))
        rest = _KEY.sub("", raw).strip(" -:").removeprefix("Not of type LabelSet: ")
        if not _NOISE.search(rest) and rest not in reasons:
            reasons.append(rest)
    absent = next((found for reason in reasons if (found := _ABSENT.search(reason))), None)
    if absent:  # each parser tells the one around it, which adds its key, and shows the whole configuration
        above = ".".join([*keys, *absent.group(1).split(": ")[:-1], ""])
        names = (absent.group(2) or absent.group(3)).split(", ")
        return f"{', '.join(above + name.strip() for name in names)}: missing, and required"
    text = "; ".join(reasons) or message
    text = re.sub(r"Expected a typing\.Literal(\[.*?\])", r"expected one of \1", text)
    text = re.sub(r"Expected an? <class '([\w.]+)'>", r"expected \1", text)
    return f"{'.'.join(keys)}: {text}" if keys else text


class OneLineErrors(ArgumentParser):
    """A parser whose mistakes are :class:`InputError`, for `main` to print as it prints every other."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise instead of printing usage, tip and the types that were tried."""
        raise InputError(one_line(message)) from ex


class _Formatter(DefaultHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Keeps a docstring's lines."""


def tool_options(function: Callable[..., None]) -> dict[str, Any]:
    """Options of a tool's parser: its docstring, but for the arguments, is the help's description."""
    text = inspect.cleandoc(function.__doc__ or "")
    return {
        "parser_class": OneLineErrors,
        "description": text.split("\nArgs:")[0].strip(),
        "formatter_class": _Formatter,
        "allow_abbrev": False,
    }
