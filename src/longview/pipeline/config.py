"""What a pipeline's YAML file may say, and reading it with errors that name file, key and remedy."""

from __future__ import annotations

import dataclasses
import difflib
import re
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml

from longview import InputError

Options = dict[str, object]
"""Options of a command, as `{size: 512, strict: true}` for `--size 512 --strict true`."""

Kind = Literal["phantom", "prepare", "fit", "predict", "pseudo", "calibrate", "evaluate", "submit", "pipeline"]
"""The commands that a pipeline is made of."""

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_T = TypeVar("_T")


@dataclass(frozen=True)
class Archive:
    """A raw data set and the store that is made of it.

    Args:
        store: Folder of the store; without it: OUTPUT/stores/NAME.
        prepare: Options of `main.py prepare`, all but `output`; null: the store is there already.
        phantom: Options of `main.py phantom`, all but `output`: the raw data set is drawn, in OUTPUT/raw/NAME.
    """

    store: str | None = None
    prepare: Options | None = None
    phantom: Options | None = None


@dataclass(frozen=True)
class External(Archive):
    """A data set beside the target, on which the labels that it lacks are filled in.

    Args:
        weight: How often each of its studies is shown in an epoch of the student.
        pseudo: Options of `main.py pseudo`.
    """

    weight: float = 1.0
    pseudo: Options = field(default_factory=dict)


@dataclass(frozen=True)
class Training:
    """How a network is trained: `main.py fit`.

    Args:
        config: Files for --config, in order.
        options: Further options of `fit`: `{trainer.max_epochs: 5}`.
    """

    config: list[str]
    options: Options = field(default_factory=dict)


@dataclass(frozen=True)
class Student(Training):
    """The student, trained anew in each round on the target and on the pseudo-labelled externals.

    Args:
        rounds: How many students follow on one another.
        weights: What a student begins with, always with a fresh optimizer: `scratch` (what its configuration says),
            `teacher` (the weights that labelled its data), or a checkpoint.
    """

    rounds: int = 1
    weights: str = "teacher"


@dataclass(frozen=True)
class Final(Training):
    """A last stage on the last student's weights, trained on the target: fusion over the views of a study.

    Args:
        labels: Its label set; without it: the pipeline's.
    """

    labels: str | None = None


@dataclass(frozen=True)
class Prediction:
    """Options of every `main.py predict`.

    Args:
        config: Files for --config.
        options: Further options: `{trainer.accelerator: cpu, data.batch_size: 64}`.
    """

    config: list[str] = field(default_factory=list)
    options: Options = field(default_factory=dict)


@dataclass(frozen=True)
class Calibration:
    """Calibration of each final model on the development part.

    Args:
        options: Options of `main.py calibrate`.
        submit: Submit calibrated probabilities; false: calibration changes nothing of what is submitted.
    """

    options: Options = field(default_factory=dict)
    submit: bool = False


@dataclass(frozen=True)
class Part:
    """One part of a task that is scored or submitted.

    Args:
        truth: Table or store to score against; null: not scored.
        template: The challenge's sample file, or a store; null: not submitted.
        split: The store's split that holds these images; without it: val for development, test for test.
    """

    truth: str | None = None
    template: str | None = None
    split: Literal["val", "test"] | None = None


@dataclass(frozen=True)
class Task:
    """One task of a challenge.

    Args:
        model: Which of `models` answers it.
        labels: Its label set.
        development: What is done with the development part; null: nothing.
        test: The same for the test part.
    """

    model: str
    labels: str
    development: Part | None = None
    test: Part | None = None


@dataclass(frozen=True)
class Resources:
    """What a step gets on a cluster, and how many cores on one machine.

    Args:
        threads: CPU cores.
        gpus: GPUs; on one machine the steps that have any run one after another.
        memory_gb: Main memory.
        minutes: Time limit.
        partition: SLURM partition; null: the cluster's default.
        retries: How often a step that fails is started again; a `fit` goes on where it was.
    """

    threads: int = 1
    gpus: int = 0
    memory_gb: float = 8.0
    minutes: int = 60
    partition: str | None = None
    retries: int = 0


@dataclass(frozen=True)
class PipelineConfig:
    """A noisy-student pipeline, from raw archives to submissions.

    Args:
        output: Folder for all that it makes.
        labels: Label set of teacher, pseudo-labels and students.
        target: The data set of the challenge.
        teacher: Trained on the target alone.
        tasks: Name -> task.
        models: Name -> last stage; a task may also name `student`, the last one.
        student: How students are trained; null: no rounds, the teacher is the last student.
        externals: Name -> data set beside the target.
        seed: Seed of every training.
        predict: Options of every prediction.
        calibrate: Calibration of the models; null: none.
        resources: Command -> what a step of it gets; `default` for the others.
        container: Image that the steps run in, with Apptainer: a .sif file, or docker://...
    """

    output: str
    labels: str
    target: Archive
    teacher: Training
    tasks: dict[str, Task]
    models: dict[str, Final] = field(default_factory=dict)
    student: Student | None = None
    externals: dict[str, External] = field(default_factory=dict)
    seed: int = 0
    predict: Prediction = field(default_factory=Prediction)
    calibrate: Calibration | None = None
    resources: dict[str, Resources] = field(default_factory=dict)
    container: str | None = None


def load(file: Path) -> PipelineConfig:
    """Read a pipeline's YAML file.

    Raises:
        InputError: Naming file, key and remedy.
    """
    try:
        value = yaml.safe_load(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"--config {file} does not exist; there are some in configs/pipeline{here(file)}") from error
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"--config {file} is not readable as YAML: {' '.join(str(error).split())}") from error
    config = _dataclass(PipelineConfig, value, "", file)
    _check(config, file)
    return config


def here(path: str | Path) -> str:
    """What a message says of a relative path that is not there."""
    if Path(path).is_absolute():
        return ""
    return f" (relative paths begin at the working directory, {Path.cwd()}: start where they lead somewhere)"


def _read(wanted: Any, value: Any, key: str, file: Path) -> Any:
    """A value of the type that is wanted, out of plain YAML."""
    origin, inner = typing.get_origin(wanted), typing.get_args(wanted)
    if origin in {typing.Union, types.UnionType}:  # of one type and None
        return None if value is None else _read(inner[0], value, key, file)
    if dataclasses.is_dataclass(wanted):
        return _dataclass(typing.cast("type[Any]", wanted), value, key, file)
    if origin in {dict, list}:
        return _collection(origin, inner[-1], value, key, file)
    return value if wanted is object else _scalar(wanted, value, key, file)


def _collection(kind: type, inner: Any, value: Any, key: str, file: Path) -> Any:
    if kind is dict:
        if not isinstance(value, Mapping):
            raise _wrong(file, key, value, "a mapping, `name: ...`")
        return {str(name): _read(inner, entry, f"{key}.{name}", file) for name, entry in value.items()}
    if not isinstance(value, list):
        raise _wrong(file, key, value, "a list, `[a, b]`")
    return [_read(inner, entry, f"{key}[{place}]", file) for place, entry in enumerate(value)]


def _scalar(wanted: Any, value: Any, key: str, file: Path) -> Any:
    if typing.get_origin(wanted) is Literal:
        if value not in typing.get_args(wanted):
            raise _wrong(file, key, value, " or ".join(map(str, typing.get_args(wanted))))
        return value
    if wanted is float and type(value) is int:
        return float(value)
    if type(value) is not wanted:
        words = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}
        raise _wrong(file, key, value, words[wanted])
    return value


def _dataclass(wanted: type[_T], value: Any, key: str, file: Path) -> _T:
    fields = {item.name: item for item in dataclasses.fields(wanted)}  # type: ignore[arg-type]
    if not isinstance(value, Mapping):
        raise _wrong(file, key or "the file", value, f"a mapping with {', '.join(fields)}")
    at = f"{key}." if key else ""
    for name in value:
        if name not in fields:
            near = difflib.get_close_matches(str(name), fields, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise InputError(f"{file}: {at}{name} is no key; there are {', '.join(fields)}{hint}")
    absent = [
        name
        for name, item in fields.items()
        if name not in value and item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING
    ]
    if absent:
        raise InputError(f"{file}: {at}{absent[0]} is missing; add it")
    hints = typing.get_type_hints(wanted)
    return wanted(**{name: _read(hints[name], entry, f"{at}{name}", file) for name, entry in value.items()})


def _wrong(file: Path, key: str, value: Any, wanted: str) -> InputError:
    return InputError(f"{file}: {key} is {value!r}; give {wanted}")


def _check(config: PipelineConfig, file: Path) -> None:
    """What types cannot say."""
    for name in [*config.externals, *config.models, *config.tasks]:
        if not _NAME.fullmatch(name):
            raise InputError(f"{file}: {name!r} is no name; begin with a letter, then letters, digits and _")
        if name in {"target", "teacher", "student", "check_stores"}:
            raise InputError(f"{file}: {name!r} is taken; give another name")
    _check_student(config, file)
    for name, archive in {"target": config.target, **config.externals}.items():
        where = name if name == "target" else f"externals.{name}"
        _check_archive(archive, where, file)
        if isinstance(archive, External) and archive.weight <= 0:
            raise InputError(f"{file}: {where}.weight is {archive.weight}; give a number above 0, or take {name} out")
    _check_tasks(config, file)
    commands = [*typing.get_args(Kind), "default"]
    for name, resources in config.resources.items():
        if name not in commands:
            raise InputError(f"{file}: resources.{name} is no command; give {', '.join(commands)}")
        _check_resources(resources, f"resources.{name}", file)


def _check_student(config: PipelineConfig, file: Path) -> None:
    student = config.student
    if student is not None and student.rounds < 1:
        raise InputError(f"{file}: student.rounds is {student.rounds}; give at least 1, or `student: null`")
    if student is not None and not config.externals:
        raise InputError(f"{file}: a student needs externals to learn from; add one, or write `student: null`")
    if student is None and config.externals:
        raise InputError(f"{file}: externals without a student are not read; add `student:`, or take them out")


def _check_tasks(config: PipelineConfig, file: Path) -> None:
    if not config.tasks:
        raise InputError(f"{file}: tasks is empty; add one, with its model and labels")
    for name, task in config.tasks.items():
        if task.model not in {"student", *config.models}:
            models = ", ".join([*config.models, "student"])
            raise InputError(f"{file}: tasks.{name}.model is {task.model!r}; give one of {models}")
        if not any(part and (part.truth or part.template) for part in (task.development, task.test)):
            raise InputError(f"{file}: tasks.{name} has nothing to do; give development or test a truth or a template")
    for name in config.models:
        if all(task.model != name for task in config.tasks.values()):
            raise InputError(f"{file}: models.{name} answers no task; name it in a task, or take it out")


def _check_archive(archive: Archive, where: str, file: Path) -> None:
    if archive.prepare is None and archive.store is None:
        raise InputError(f"{file}: {where} needs `prepare:` with the options of main.py prepare, or the `store:` that "
                         f"is there already")  # fmt: skip
    if archive.prepare is None and archive.phantom is not None:
        raise InputError(f"{file}: {where}.phantom is drawn for nothing; add {where}.prepare")
    if archive.prepare is not None:
        if "source" not in archive.prepare:
            raise InputError(f"{file}: {where}.prepare.source is missing; give one of main.py prepare")
        if ("root" in archive.prepare) == (archive.phantom is not None):
            remedy = "leave it out: the phantom is in OUTPUT/raw" if archive.phantom else "give the raw data's folder"
            raise InputError(f"{file}: {where}.prepare.root: {remedy}")


def _check_resources(resources: Resources, where: str, file: Path) -> None:
    for name, least in (("threads", 1), ("gpus", 0), ("memory_gb", 0.001), ("minutes", 1), ("retries", 0)):
        if getattr(resources, name) < least:
            raise InputError(f"{file}: {where}.{name} is {getattr(resources, name)}; give at least {least}")
