"""Finding mistakes of a pipeline before its first step: options, data sets, label sets, what is not there."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from longview import InputError
from longview.labels import LabelSet
from longview.pipeline.archives import check_archives, check_stores
from longview.pipeline.config import Options
from longview.pipeline.parsing import check_trainings, key_of, parse_tools, told, tool
from longview.pipeline.plan import Plan, wanted_parts

_OWN: Mapping[str, tuple[str, ...]] = {
    "phantom": ("output",),
    "prepare": ("output", "dry_run"),
    "pseudo": ("manifest", "predictions", "labels", "output", "overwrite"),
    "calibrate": ("predictions", "truth", "split", "output"),
    "fit": ("data.labels", "data.stores", "seed_everything", "name", "trainer.default_root_dir", "ckpt_path"),
    "predict": ("data.stores", "data.predict_split", "output", "ckpt_path"),
}
"""Options of a command that the pipeline gives it."""


def check(plan: Plan) -> list[str]:
    """Check what a plan's file says beyond its keys.

    Returns:
        Files and folders that no step makes and that are not there.

    Raises:
        InputError: For an option or a value that its command does not take, for data sets, label sets and tasks that
            do not fit together, and for stores that share patients.
    """
    config, file = plan.config, plan.file
    _check_labels(plan)
    for name, archive in plan.archives().items():
        where = key_of(name)
        _check_options(file, f"{where}.phantom", "phantom", archive.phantom)
        _check_options(file, f"{where}.prepare", "prepare", archive.prepare)
    for name, external in config.externals.items():
        _check_options(file, f"externals.{name}.pseudo", "pseudo", external.pseudo)
    if config.calibrate is not None:
        _check_options(file, "calibrate.options", "calibrate", config.calibrate.options)
    trainings = {"teacher": config.teacher, **{f"models.{name}": model for name, model in config.models.items()}}
    if config.student is not None:
        trainings["student"] = config.student
    for name, training in trainings.items():
        _refuse_own(file, f"{name}.options", "fit", training.options)
        if name != "teacher" and "model.pretrained" in training.options:
            remedy = "write student.weights" if name == "student" else "it begins with the last student; leave it out"
            raise InputError(f"{file}: {name}.options.model.pretrained: {remedy}")
    _refuse_own(file, "predict.options", "predict", config.predict.options)
    parsed = parse_tools(plan)
    _check_calibration(plan, parsed)
    check_archives(plan, parsed)
    check_stores(plan)
    check_trainings(plan)  # last, for it takes some seconds
    return _missing(plan)


def _check_labels(plan: Plan) -> None:
    """Every label set is one."""
    config = plan.config
    sets: dict[str, str | None] = {"labels": config.labels}
    sets |= {f"models.{name}.labels": final.labels for name, final in config.models.items()}
    sets |= {f"tasks.{name}.labels": task.labels for name, task in config.tasks.items()}
    for key, name in sets.items():
        if name is not None:
            with told(plan.file, f"{key}: "):
                LabelSet.load(name)


def _check_calibration(plan: Plan, parsed: Mapping[str, Any]) -> None:
    """What `calibrate` itself would refuse, after everything was trained."""
    from longview.calibration.thresholds import parse_rules

    for name, given in parsed.items():
        if name.startswith("calibrate_"):
            with told(plan.file, "calibrate.options: "):
                parse_rules(given.threshold)
            for option in ("minimum", "folds"):
                if getattr(given, option) < 0:
                    raise InputError(
                        f"{plan.file}: calibrate.options.{option} is {getattr(given, option)}; give 0 or more"
                    )
            if given.folds == 1:
                raise InputError(f"{plan.file}: calibrate.options.folds is 1; give 2 or more, or 0 for none")


def _check_options(file: Path, where: str, verb: str, options: Options | None) -> None:
    known = inspect.signature(tool(verb)).parameters
    for option in options or {}:
        name = option.partition(".")[0].replace("-", "_")
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean {near[0]}?" if near else f"; see main.py {verb} --help"
            raise InputError(f"{file}: {where}.{option} is no option of main.py {verb}{hint}")
    _refuse_own(file, where, verb, options or {})


def _refuse_own(file: Path, where: str, verb: str, options: Options) -> None:
    for option in options:
        if option.replace("-", "_").replace(".init_args.", ".") in _OWN[verb]:
            raise InputError(f"{file}: {where}.{option} is given by the pipeline; leave it out")


def _missing(plan: Plan) -> list[str]:
    """What no step makes and is not there."""
    config, missing = plan.config, []
    for name, archive in plan.archives().items():
        where = key_of(name)
        if archive.prepare is None and not Path(plan.store(name), "store.json").is_file():
            missing.append(f"{where}.store {plan.store(name)} is no store; give {where}.prepare, or another folder")
        if archive.prepare is not None and archive.phantom is None and not Path(str(archive.prepare["root"])).is_dir():
            missing.append(f"{where}.prepare.root {archive.prepare['root']} is no folder; give that of the raw data")
    made = [plan.raw(name) for name, archive in plan.archives().items() if archive.phantom is not None]
    made += [plan.store(name) for name, archive in plan.archives().items() if archive.prepare is not None]
    for name, task in config.tasks.items():
        for part_name, part in wanted_parts(task):
            for key, path in (("truth", part.truth), ("template", part.template)):
                is_made = path is not None and any(Path(path).is_relative_to(folder) for folder in made)
                if path is not None and not is_made and not Path(path).exists():
                    missing.append(f"tasks.{name}.{part_name}.{key} {path} does not exist; give the challenge's file")
    student = config.student
    if student is not None and student.weights not in {"scratch", "teacher"} and not Path(student.weights).is_file():
        missing.append(f"student.weights {student.weights} is no file; give scratch, teacher or a checkpoint")
    return missing
