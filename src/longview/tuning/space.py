"""A search space in YAML: what `tune` may try for which key of a configuration."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from longview import InputError

if TYPE_CHECKING:
    from optuna import Trial

Value = bool | int | float | str | None
"""What a study stores of a setting: a scalar as it is, a mapping or a list as JSON."""

UNSET: Any = object()
"""No `default:` in the file."""

_FORMS = "{low: 1.0e-5, high: 1.0e-2, log: true}, {low: 0.0, high: 0.5, step: 0.1} or {choices: [a, b]}"


@dataclass(frozen=True)
class Range:
    """Numbers between two ends, both included.

    Args:
        key: Dotted key of the configuration, as on the command line.
        low: Smallest number; an int, like `high`, makes all of them whole.
        high: Largest number.
        log: Evenly on a logarithmic scale.
        step: Distance of the numbers; None: any of them (whole numbers: 1).
        default: Number of the first trial; UNSET: the experiment's.
    """

    key: str
    low: float
    high: float
    log: bool = False
    step: float | None = None
    default: Any = UNSET

    @property
    def whole(self) -> bool:
        """Whether all numbers are whole."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    def suggest(self, trial: Trial) -> Value:
        """A number for this trial."""
        if self.whole:
            return trial.suggest_int(self.key, int(self.low), int(self.high), step=int(self.step or 1), log=self.log)
        return trial.suggest_float(self.key, self.low, self.high, step=self.step, log=self.log)

    def examples(self) -> list[Value]:
        """Both ends."""
        return [self.low, self.high]

    def words(self, value: Value) -> list[str]:
        """The command line's words for a number."""
        return [_option(self.key, value)]

    def holds(self, value: Any) -> bool:
        """Whether a number may be tried."""
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not self.low <= value <= self.high:
            return False
        places = (value - self.low) / (self.step or 1)
        return math.isclose(places, round(places), abs_tol=1e-8) if self.step or self.whole else True

    def matching(self, config: Mapping[str, Any]) -> Any:
        """The number that a configuration has, or UNSET where it is not in the range."""
        found = look_up(config, self.key)
        if not self.holds(found):
            return UNSET
        return int(found) if self.whole else float(found)

    def to_dict(self) -> dict[str, Any]:
        """As plain data, without the default."""
        return {"low": self.low, "high": self.high, "log": self.log, "step": self.step}


@dataclass(frozen=True)
class Choice:
    """One of several values.

    Args:
        key: Dotted key of the configuration, or `overlay` (`overlay.NAME`), whose choices are files for `--config`.
        choices: Scalars, mappings and lists; for an overlay files, or None for no overlay.
        default: Choice of the first trial; UNSET: the experiment's.
    """

    key: str
    choices: tuple[Any, ...]
    default: Any = UNSET

    @property
    def overlay(self) -> bool:
        """Whether the choices are files for `--config`."""
        return is_overlay(self.key)

    def suggest(self, trial: Trial) -> Value:
        """A choice for this trial."""
        return trial.suggest_categorical(self.key, self.examples())

    def examples(self) -> list[Value]:
        """Every choice, as a study stores it."""
        return [_stored(choice) for choice in self.choices]

    def words(self, value: Value) -> list[str]:
        """The command line's words for a choice."""
        if self.overlay:
            return [] if value is None else ["--config", str(value)]
        return [_option(self.key, value)]

    def holds(self, value: Any) -> bool:
        """Whether it is one of the choices."""
        return any(type(value) is type(choice) and value == choice for choice in self.choices)

    def matching(self, config: Mapping[str, Any]) -> Any:
        """The choice that leaves a configuration as it is, or UNSET where each changes it."""
        for choice in self.choices:
            if self.overlay:
                same = choice is None or _part_of(_read(Path(choice)), config)
            else:
                found = look_up(config, self.key)
                same = found is not UNSET and _part_of(choice, found)
            if same:
                return _stored(choice)
        return UNSET

    def to_dict(self) -> dict[str, Any]:
        """As plain data, without the default."""
        return {"choices": list(self.choices)}


@dataclass(frozen=True)
class Space:
    """What may be tried.

    Args:
        file: Where it is from, for messages.
        settings: Ranges and choices in the file's order, which is that of the command line.
    """

    file: Path
    settings: tuple[Range | Choice, ...]

    @classmethod
    def load(cls, file: Path) -> Space:
        """Read a YAML file: key -> range or choices.

        Raises:
            InputError: Naming file, key, value and remedy.
        """
        table = _read(file)
        if not isinstance(table, dict) or not table:
            raise InputError(f"{file} must map keys of the configuration to what may be tried, as model.optimizer.lr: "
                             f"{_FORMS}")  # fmt: skip
        return cls(file, tuple(_setting(file, str(key), text) for key, text in table.items()))

    def suggest(self, trial: Trial) -> dict[str, Value]:
        """Key -> value for this trial."""
        return {setting.key: setting.suggest(trial) for setting in self.settings}

    def command(self, options: Sequence[str], values: Mapping[str, Value]) -> list[str]:
        """The user's options of `fit` with the values of a trial.

        An overlay comes behind the user's own `--config` files and before their `--key value` options; every other
        value comes last.
        """
        words = list(options)
        overlays = [word for setting in self.settings if isinstance(setting, Choice) and setting.overlay
                    for word in setting.words(values[setting.key])]  # fmt: skip
        last = max((index for index, word in enumerate(words) if _is_config(word)), default=-1)
        place = last + 1 if last < 0 or "=" in words[last] else last + 2
        words[place:place] = overlays
        return words + [
            word for setting in self.settings if not is_overlay(setting.key)
            for word in setting.words(values[setting.key])
        ]  # fmt: skip

    def examples(self) -> Iterator[dict[str, Value]]:
        """Sets of values in which each end and each choice occurs, as few as possible."""
        tried = {setting.key: setting.examples() for setting in self.settings}
        for index in range(max(map(len, tried.values()))):
            yield {key: values[index % len(values)] for key, values in tried.items()}

    def first(self, config: Mapping[str, Any]) -> dict[str, Value]:
        """Values of the first trial: each `default:` of the file, else what the experiment has.

        Args:
            config: The experiment's configuration of `fit`, as plain data.

        Raises:
            InputError: Where the experiment's own value may not be tried.
        """
        values: dict[str, Value] = {}
        for setting in self.settings:
            value = _stored(setting.default) if setting.default is not UNSET else setting.matching(config)
            if value is UNSET:
                found = None if is_overlay(setting.key) else look_up(config, setting.key)
                now = "none of the choices leaves it as it is" if is_overlay(setting.key) else f"it has {_short(found)}"
                remedy = "add null to the choices" if is_overlay(setting.key) else "let the space hold that value"
                raise InputError(
                    f"{self.file}: {setting.key}: the first trial is the experiment as it stands, and {now}; "
                    f"{remedy}, or say where to start with `default:`"
                )
            values[setting.key] = value
        return values

    def to_dict(self) -> dict[str, Any]:
        """As plain data, for comparing two spaces."""
        return {setting.key: setting.to_dict() for setting in self.settings}


def is_overlay(key: str) -> bool:
    """Whether a key of a space stands for `--config` files."""
    return key.partition(".")[0] == "overlay"


def look_up(config: Mapping[str, Any], key: str) -> Any:
    """The value at a dotted key, with or without `init_args` in it; UNSET where there is none."""
    node: Any = config
    for name in key.split("."):
        if not isinstance(node, Mapping):
            return UNSET
        inner = node.get("init_args")
        if name not in node and isinstance(inner, Mapping):
            node = inner
        if name not in node:
            return UNSET
        node = node[name]
    return node


def _part_of(wanted: Any, found: Any) -> bool:
    """Whether merging `wanted` into `found` changes nothing."""
    if isinstance(wanted, Mapping):
        return isinstance(found, Mapping) and all(
            _part_of(value, look_up(found, str(key))) for key, value in wanted.items()
        )
    if isinstance(wanted, str) and isinstance(found, Mapping):
        return wanted == found.get("class_path")
    return bool(type(wanted) is type(found) and wanted == found)


def _stored(value: Any) -> Value:
    if isinstance(value, (Mapping, list)):
        return json.dumps(value)
    return value  # type: ignore[no-any-return]


def _option(key: str, value: Value) -> str:
    parent, _, name = key.rpartition(".")
    if value is None and key.startswith("model.") and key.count(".") > 1:
        # jsonargparse 4.53 refuses a plain null as an argument of a class within a class
        return f"--{parent.removesuffix('.init_args')}={json.dumps({'init_args': {name: None}})}"
    return f"--{key}={value if isinstance(value, str) else json.dumps(value)}"


def _is_config(word: str) -> bool:
    return word in {"-c", "--config"} or word.startswith("--config=")


def _short(value: Any) -> str:
    text = "no such key" if value is UNSET else json.dumps(value, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _read(file: Path) -> Any:
    try:
        return yaml.safe_load(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"there is no file {file}") from error
    except (IsADirectoryError, UnicodeDecodeError) as error:
        raise InputError(f"{file} is not a YAML file") from error
    except yaml.YAMLError as error:
        raise InputError(f"{file} is not valid YAML: {' '.join(str(error).split())}") from error


def _setting(file: Path, key: str, text: Any) -> Range | Choice:
    where = f"{file}: {key}"
    if not isinstance(text, dict) or ("choices" in text) == ("low" in text or "high" in text):
        raise InputError(f"{where} is {_short(text)}; write {_FORMS}")
    known = {"choices", "default"} if "choices" in text else {"low", "high", "log", "step", "default"}
    if strange := set(map(str, text)) - known:
        raise InputError(f"{where} has {', '.join(sorted(strange))}; it may have {', '.join(sorted(known))}")
    return _choice(where, key, text) if "choices" in text else _range(where, key, text)


def _choice(where: str, key: str, text: Mapping[str, Any]) -> Choice:
    choices = text["choices"]
    if not isinstance(choices, list) or not choices:
        raise InputError(f"{where}: choices is {_short(choices)}; give a list, as [a, b]")
    stored = [(type(_stored(choice)), _stored(choice)) for choice in choices]
    if len(set(stored)) < len(stored):
        raise InputError(f"{where}: choices has a value twice in {_short(choices)}; leave one out")
    made = Choice(key, tuple(choices), text.get("default", UNSET))
    if made.overlay:
        for choice in choices:
            if choice is not None and not (isinstance(choice, str) and Path(choice).is_file()):
                raise InputError(
                    f"{where}: there is no file {_short(choice)}; give paths from where you run the command (a file "
                    f"for --config), or null for no overlay"
                )
    if made.default is not UNSET and not made.holds(made.default):
        raise InputError(f"{where}: default {_short(made.default)} is not among the choices; add it to them")
    return made


def _range(where: str, key: str, text: Mapping[str, Any]) -> Range:
    if is_overlay(key):
        raise InputError(f"{where} stands for --config files; write {{choices: [FILE, null]}}")
    low, high = (_number(where, name, text.get(name)) for name in ("low", "high"))
    step = None if text.get("step") is None else _number(where, "step", text["step"])
    log, default = text.get("log", False), text.get("default", UNSET)
    if default is not UNSET:
        default = _number(where, "default", default)
    if not isinstance(log, bool):
        raise InputError(f"{where}: log is {_short(log)}; it must be true or false")
    if not low < high:
        raise InputError(f"{where}: low is {low} and high {high}; low must be below high")
    if log and low <= 0:
        raise InputError(f"{where}: low is {low}; on a logarithmic scale it must be above 0")
    if log and step is not None:
        raise InputError(f"{where} has log and step; leave one out")
    made = Range(key, low, high, log, step, default)
    if step is not None and (step <= 0 or not made.holds(high) or (made.whole and not isinstance(step, int))):
        raise InputError(f"{where}: step is {step}; whole steps must lead from low {low} to high {high}")
    if default is not UNSET and not made.holds(default):
        raise InputError(f"{where}: default {default} is not in the range from {low} to {high}; widen it")
    return made


def _number(where: str, name: str, value: Any) -> float:
    """A finite number; YAML 1.1 takes 1e-5 for text."""
    if isinstance(value, str):
        with suppress(ValueError):
            value = float(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise InputError(f"{where}: {name} is {_short(value)}; it must be a number")
    return value
