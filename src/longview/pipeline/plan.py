"""The steps of a pipeline: which command reads and writes what. No step is more than a command that a person types."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import yaml

from longview import InputError
from longview.pipeline.config import (
    Archive,
    External,
    Kind,
    Options,
    Part,
    PipelineConfig,
    Resources,
    Task,
    Training,
    here,
)

PartName = Literal["development", "test"]
PARTS: tuple[PartName, ...] = ("development", "test")
_SPLITS: dict[PartName, Literal["val", "test"]] = {"development": "val", "test": "test"}


@dataclass(frozen=True)
class Step:
    """One command.

    Args:
        name: Its name, for --until and for its log.
        words: The command, from the verb on.
        inputs: Files of other steps that it reads.
        output: The file that says that it is done.
        after: Files of earlier steps that must be there, but which it does not read: were they made anew, it does not
            run again.
        described_by: Files that describe the folder it makes, a copy of which is `output`: where they are as before,
            no later step runs again.
        run: Folder of its runs, where it is a `fit`.
        configuration: Digest of the YAML files that it names: a step runs again where they say something else.
    """

    name: str
    words: tuple[str, ...]
    inputs: tuple[str, ...]
    output: str
    described_by: tuple[str, ...] = ()
    run: str | None = None
    configuration: str = ""
    after: tuple[str, ...] = ()

    @property
    def kind(self) -> Kind:
        """The command's verb."""
        return self.words[0]  # type: ignore[return-value]


@dataclass
class Plan:
    """All steps, each behind those that it needs.

    Args:
        config: What they follow from.
        file: Where that was read, for messages.
    """

    config: PipelineConfig
    file: Path
    steps: list[Step] = field(default_factory=list)

    def __post_init__(self) -> None:
        config = self.config
        for name, archive in self.archives().items():
            self._archive(name, archive)
        apart = self._apart()
        self._fit("teacher", config.teacher, stores=self.store("target"), needs=["target"], after=apart)
        last = "teacher"
        for number in range(1, config.student.rounds + 1 if config.student else 1):
            last = self._round(number, last)
        for name, final in config.models.items():
            self._fit(name, final, stores=self.store("target"), needs=["target"], stage=last, labels=final.labels)
        for model in dict.fromkeys(task.model for task in config.tasks.values()):
            self._model(model, last if model == "student" else model)
        for name in config.tasks:
            self._task(name)

    # ---- places -----------------------------------------------------------------------------------------------

    def place(self, *parts: str) -> str:
        """A path below the pipeline's folder."""
        return str(Path(self.config.output, *parts))

    def archives(self) -> dict[str, Archive]:
        """Target and externals."""
        return {"target": self.config.target, **self.config.externals}

    def store(self, name: str) -> str:
        """Folder of a data set's store."""
        return self.archives()[name].store or self.place("stores", name)

    def raw(self, name: str) -> str:
        """Folder of a drawn data set."""
        return self.place("raw", name)

    def done(self, name: str) -> str:
        """The file that says that a step with a folder is done."""
        return self.place("done", f"{name}.txt")

    def checkpoint(self, name: str) -> str:
        """The best checkpoint of a training."""
        return self.place("checkpoints", f"{name}.ckpt")

    def resources(self, kind: Kind) -> Resources:
        """What a step of a command gets."""
        given = self.config.resources
        return given.get(kind) or given.get("default") or Resources()

    # ---- steps ------------------------------------------------------------------------------------------------

    def _add(self, step: Step) -> None:
        self.steps.append(step)

    def _archive(self, name: str, archive: Archive) -> None:
        if archive.prepare is None:
            return
        options, needs = dict(archive.prepare), []
        if archive.phantom is not None:
            raw = self.raw(name)
            step = f"phantom_{name}"
            words = ("phantom", *as_words(archive.phantom), "--output", raw)
            self._add(Step(step, words, (), self.done(step), (f"{raw}/phantom.json",)))
            options["root"] = raw
            needs = [self.done(step)]
        store, step = self.store(name), f"prepare_{name}"
        described = (f"{store}/store.json", f"{store}/manifest.parquet")
        words = ("prepare", *as_words(options), "--output", store)
        self._add(Step(step, words, tuple(needs), self.done(step), described))

    def _apart(self) -> tuple[str, ...]:
        """Check prepared stores together before anything is trained; returns the file that says that they were."""
        prepared = [path for name in self.archives() for path in self._prepared(name)]
        if not prepared or not self.config.externals:
            return ()
        words = ("pipeline", "--config", str(self.file), "--check_stores", "true")
        described = tuple(f"{self.store(name)}/store.json" for name in self.archives())
        self._add(Step("check_stores", words, tuple(prepared), self.done("check_stores"), described))
        return (self.done("check_stores"),)

    def _prepared(self, name: str) -> list[str]:
        """What says that a store is there; nothing where no step makes it."""
        return [] if self.archives()[name].prepare is None else [self.done(f"prepare_{name}")]

    def _fit(
        self,
        name: str,
        training: Training,
        *,
        stores: str,
        needs: Sequence[str],
        files: Sequence[str] = (),
        stage: str | None = None,
        labels: str | None = None,
        after: tuple[str, ...] = (),
    ) -> None:
        """A training.

        Args:
            name: Of the step, and of its run.
            training: How.
            stores: Value of --data.stores.
            needs: Data sets whose stores it reads.
            files: Further files that it needs.
            stage: The training whose checkpoint it begins with.
            labels: Label set; None: the pipeline's.
            after: What must have been checked before.
        """
        config = self.config
        words = ["fit", *_configs(training.config), *as_words(training.options)]
        words += ["--data.labels", labels or config.labels, "--data.stores", stores]
        inputs = [path for need in needs for path in self._prepared(need)] + list(files)
        if stage is not None:
            words += ["--model.pretrained", self.checkpoint(stage)]
            inputs.append(self.checkpoint(stage))
        runs = self.place("runs")
        words += ["--seed_everything", str(config.seed), "--name", name, "--trainer.default_root_dir", runs]
        digest = self._digest(name, training.config)
        self._add(Step(name, tuple(words), tuple(inputs), self.checkpoint(name), run=f"{runs}/{name}",
                       configuration=digest, after=after))  # fmt: skip

    def _predict(self, name: str, model: str, store: str, split: str, output: str, needs: Sequence[str]) -> None:
        how = self.config.predict
        words = ["predict", "--ckpt_path", self.checkpoint(model), *_configs(how.config), *as_words(how.options)]
        words += ["--data.stores", store, "--data.predict_split", split, "--output", output]
        inputs = (self.checkpoint(model), *needs)
        self._add(Step(name, tuple(words), inputs, output, configuration=self._digest("predict", how.config)))

    def _digest(self, key: str, files: Sequence[str]) -> str:
        try:
            return configuration(files)
        except InputError as error:
            raise InputError(f"{self.file}: config of {key}: {error}") from error

    def _round(self, number: int, teacher: str) -> str:
        """Label each external with the teacher, and train a student on everything; returns the student's name."""
        config, student = self.config, self.config.student
        assert student is not None
        stores, made = {self.store("target"): 1.0}, []
        for name, external in config.externals.items():
            store, made_of = self._pseudo(name, external, number, teacher)
            stores[store] = external.weight
            made.append(made_of)
        step = f"student_{number}"
        stage = teacher if student.weights == "teacher" else None
        own = {} if student.weights in {"scratch", "teacher"} else {"model.pretrained": student.weights}
        training = Training(student.config, {**student.options, **own})
        self._fit(step, training, stores=json.dumps(stores), needs=["target"], files=made, stage=stage)
        return step

    def _pseudo(self, name: str, external: External, number: int, teacher: str) -> tuple[str, str]:
        """Predict on an external and fill in what it does not know; returns the store and the file that says so."""
        predictions = self.place("predictions", f"round_{number}", f"{name}.parquet")
        self._predict(f"predict_{name}_{number}", teacher, self.store(name), "train", predictions, self._prepared(name))
        store = self.place("pseudo", f"round_{number}", name)
        step = f"pseudo_{name}_{number}"
        words = ["pseudo", "--manifest", self.store(name), "--predictions", predictions]
        words += ["--labels", self.config.labels, *as_words(external.pseudo), "--output", store, "--overwrite", "true"]
        described = (f"{store}/store.json", f"{store}/manifest.parquet")
        inputs = (predictions, *self._prepared(name))
        self._add(Step(step, tuple(words), inputs, self.done(step), described))
        return store, self.done(step)

    def predictions(self, model: str, split: str) -> str:
        """Predictions of a model on a split of the target."""
        return self.place("predictions", f"{model}_{split}.parquet")

    def calibration(self, model: str) -> str:
        """A model's calibration."""
        return self.place("calibration", model, "calibration.json")

    def _model(self, model: str, checkpoint: str) -> None:
        """Predict the parts of the target that a model's tasks want, and calibrate it."""
        config = self.config
        parts = [pair for task in config.tasks.values() if task.model == model for pair in wanted_parts(task)]
        splits = [split_of(name, part) for name, part in parts]
        calibrate = config.calibrate
        if calibrate is not None:
            splits.append("val")
        for split in dict.fromkeys(sorted(splits, reverse=True)):
            self._predict(
                f"predict_{model}_{split}", checkpoint, self.store("target"), split,
                self.predictions(model, split), self._prepared("target"),
            )  # fmt: skip
        if calibrate is not None:
            words = ["calibrate", "--predictions", self.predictions(model, "val"), "--truth", self.store("target")]
            words += ["--split", "val", *as_words(calibrate.options), "--output", self.calibration(model)]
            inputs = (self.predictions(model, "val"), *self._prepared("target"))
            self._add(Step(f"calibrate_{model}", tuple(words), inputs, self.calibration(model)))

    def _task(self, name: str) -> None:
        """Score and submit a task."""
        task = self.config.tasks[name]
        for part_name, part in wanted_parts(task):
            split = split_of(part_name, part)
            predictions = self.predictions(task.model, split)
            if part.truth:
                output = self.place("evaluation", f"{name}_{part_name}")
                words = ["evaluate", "--predictions", predictions, "--truth", part.truth, "--labels", task.labels]
                if Path(part.truth) == Path(self.store("target")):
                    words += ["--split", split]
                else:
                    words += ["--train", self.store("target")]
                words += ["--output", output]
                inputs = (predictions, *self._prepared("target"), *self._drawn(part.truth))
                self._add(Step(f"evaluate_{name}_{part_name}", tuple(words), inputs, f"{output}/metrics.json"))
            if part.template:
                self._submit(name, part_name, part, predictions)

    def _submit(self, name: str, part_name: PartName, part: Part, predictions: str) -> None:
        task, calibrate = self.config.tasks[name], self.config.calibrate
        assert part.template is not None
        output = self.place("submissions", f"{name}_{part_name}")
        words = ["submit", "--predictions", predictions, "--template", part.template, "--labels", task.labels]
        words += ["--manifest", self.store("target")]
        if Path(part.template) == Path(self.store("target")):
            words += ["--split", split_of(part_name, part)]
        inputs = [predictions, *self._prepared("target"), *self._drawn(part.template)]
        if calibrate is not None and calibrate.submit:
            words += ["--calibration", self.calibration(task.model)]
            inputs.append(self.calibration(task.model))
        words += ["--output", output]
        self._add(Step(f"submit_{name}_{part_name}", tuple(words), tuple(inputs), f"{output}/submission.csv"))

    def _drawn(self, path: str) -> list[str]:
        """What says that a drawn data set is there, where the path lies in it."""
        return [
            self.done(f"phantom_{name}")
            for name, archive in self.archives().items()
            if archive.phantom is not None and Path(path).is_relative_to(self.raw(name))
        ]

    # ---- questions --------------------------------------------------------------------------------------------

    def step(self, name: str) -> Step:
        """A step by its name.

        Raises:
            InputError: Where there is none.
        """
        for step in self.steps:
            if step.name == name:
                return step
        raise InputError(f"{self.file} makes no step {name!r}; there are {', '.join(step.name for step in self.steps)}")

    def upto(self, name: str) -> list[Step]:
        """A step and all that it needs, in order."""
        wanted = {self.step(name).output}
        for step in reversed(self.steps):
            if step.output in wanted:
                wanted |= {*step.inputs, *step.after}
        return [step for step in self.steps if step.output in wanted]


def wanted_parts(task: Task) -> list[tuple[PartName, Part]]:
    """The parts of a task that something is to be done with."""
    given: dict[PartName, Part | None] = {"development": task.development, "test": task.test}
    return [(name, part) for name in PARTS if (part := given[name]) is not None and (part.truth or part.template)]


def split_of(name: PartName, part: Part) -> str:
    """The split of the store that holds a part."""
    return part.split or _SPLITS[name]


def as_words(options: Mapping[str, object] | Options) -> list[str]:
    """Options as they stand on a command line."""
    words: list[str] = []
    for name, value in options.items():
        words += [f"--{name}", _word(value)]
    return words


def _word(value: object) -> str:
    if isinstance(value, str):
        return value
    if value is None or isinstance(value, bool | int | float):
        return "null" if value is None else str(value).lower()
    return json.dumps(value, ensure_ascii=False)


def _configs(files: Iterable[str]) -> list[str]:
    return [word for file in files for word in ("--config", file)]


def configuration(files: Iterable[str]) -> str:
    """Digest of YAML files and of all YAML files that they name, by what they say and not by when they were written."""
    digest = hashlib.blake2b(digest_size=16)
    for file in files:
        for value in _contents(Path(file), set()):
            digest.update(json.dumps(value, sort_keys=True, default=str).encode())
    return digest.hexdigest()


def _contents(file: Path, seen: set[Path]) -> Iterator[object]:
    if file.resolve() in seen:
        return
    seen.add(file.resolve())
    try:
        value = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{file}: {error.strerror}; name a configuration that is there{here(file)}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{file} is not readable as YAML: {' '.join(str(error).split())}") from error
    yield value
    for named in _texts(value):
        other = file.parent / named
        if named.endswith((".yaml", ".yml")) and other.is_file():
            yield from _contents(other, seen)


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)
