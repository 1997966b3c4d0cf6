"""What no parser can tell of a pipeline's data sets: sources, policies, label sets, patients that two of them share."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from longview import InputError
from longview.data.families import check_apart, check_once, family_of
from longview.data.sources import open_source, source_class
from longview.data.sources.policy import Policy
from longview.data.splits import check_division
from longview.data.store import CODES_FILE, Store, StoreInfo
from longview.filling import Rule
from longview.joining import columns_of, some
from longview.labels import Label, LabelSet
from longview.pipeline.config import Archive
from longview.pipeline.parsing import key_of, told
from longview.pipeline.plan import Plan

logger = logging.getLogger(__name__)

_OPTIONS = ("table", "columns", "uncertain", "blank", "unknown", "task", "development", "labeler", "votes", "findings")
"""Options of `prepare` that it hands on to the source."""


@dataclass(frozen=True)
class Known:
    """What is known of a data set before its store is read.

    Args:
        sources: Names of its sources.
        labels: Names of the labels that it may have; None: nobody can tell yet.
        codes: Whether it says which labels are uncertain or blank.
        resize: How its films become squares.
        where: The key that decides about its labels, and its value, for messages.
    """

    sources: tuple[str, ...]
    labels: list[str] | None
    codes: bool
    resize: str
    where: str


def check_archives(plan: Plan, parsed: Mapping[str, Any]) -> None:
    """Check the data sets' options, and that their labels fit the pipeline's.

    Args:
        plan: The plan.
        parsed: What :func:`~longview.pipeline.parsing.parse_tools` made of its steps.

    Raises:
        InputError: Naming file, key, value and remedy.
    """
    known: dict[str, Known] = {}
    for name, archive in plan.archives().items():
        found = _known(plan, name, archive, parsed)
        if found is not None:
            known[name] = found
    target = known.get("target")
    if target is not None:
        _check_covered(plan, target)
    for name in plan.config.externals:
        if name in known:
            _check_pseudo(plan, name, known[name], parsed)
            if target is not None:
                _check_beside(plan, name, known[name], target)
    check_tasks(plan)


def _known(plan: Plan, name: str, archive: Archive, parsed: Mapping[str, Any]) -> Known | None:
    """What a data set will be, or is; None where its store is neither there nor made."""
    where, path = key_of(name), Path(plan.store(name))
    if archive.prepare is not None:
        return _prepared(plan.file, f"{where}.prepare", parsed[f"prepare_{name}"])
    if not Store.is_store(path):
        return None
    with told(plan.file, f"{where}.store: "):
        info = StoreInfo.read(path)
    has_codes = (path / CODES_FILE).is_file()
    return Known(tuple(info.source.split("+")), list(info.labels), has_codes, info.resize, f"{where}.store {path}")


def _prepared(file: Path, where: str, given: Any) -> Known:
    with told(file, f"{where}.source: "):
        kind = source_class(given.source)
    with told(file, f"{where}.labels: "):
        labels = None if given.labels is None else LabelSet.load(given.labels)
    with told(file, f"{where}: "):
        check_division(given.val_fraction, given.test_fraction, given.seed)
        options = {name: _policy(name, getattr(given, name)) for name in _OPTIONS}
        opened = open_source(given.source, given.root, labels, **options)
    own = "" if given.labels is not None or kind.default_labels is None else f" ({kind.default_labels}, the source's)"
    if labels is None and kind.default_labels is not None:
        labels = LabelSet.load(kind.default_labels)
    policy = getattr(opened, "policy", None)
    if isinstance(policy, Policy) and labels is not None:
        with told(file, f"{where}: "):
            policy.values(labels.names)
    names = None if labels is None else [label.name for label in labels.labels]
    codes = policy is not None or given.source == "phantom"  # a phantom's are those of its layout
    told_labels = f"{where}.labels {given.labels or 'is not given'}{own}"
    return Known((given.source,), names, codes, given.resize, told_labels)


def _policy(name: str, value: Any) -> Any:
    """An option of `prepare`; a policy that names a YAML file is read."""
    if name not in {"uncertain", "blank"} or not str(value).endswith((".yaml", ".yml")):
        return value
    try:
        return yaml.safe_load(Path(value).read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise InputError(f"{name} {value} cannot be read: {error}; name a YAML file of labels and values") from error


def _check_covered(plan: Plan, target: Known) -> None:
    """The target teaches every label of the pipeline, and of each last stage."""
    config = plan.config
    sets = {"labels": config.labels}
    sets |= {f"models.{name}.labels": final.labels for name, final in config.models.items() if final.labels}
    for key, name in sets.items():
        absent = _absent(LabelSet.load(name).source_names, target, name)
        if absent:
            raise InputError(
                f"{plan.file}: {target.where}: the target then has no {some(absent)}, of {key} {name}; write "
                f"target.prepare.labels: {name} (or a set that has all of both), or another {key}"
            )


def _absent(names: Sequence[str], known: Known, labels: str) -> list[str]:
    """Labels of a set that a data set has under no name that the set knows."""
    if known.labels is None:
        return []
    wanted = LabelSet.load(labels)
    origins = [None, *known.sources]
    found = {wanted.canonical(column, origin) for column in known.labels for origin in origins}
    return [name for name in names if name not in found]


def _check_pseudo(plan: Plan, name: str, known: Known, parsed: Mapping[str, Any]) -> None:
    """The options of `pseudo`, against the labels that the external has and those that are filled."""
    given = next((parsed[step.name] for step in plan.steps if step.name.startswith(f"pseudo_{name}_")), None)
    if given is None:
        return
    where = f"externals.{name}.pseudo"
    with told(plan.file, f"{where}: "):
        Rule(given.temperature, given.lower, given.upper, given.hard)
    fill = [given.fill] if isinstance(given.fill, str) else given.fill
    marked = [kind for kind in fill if kind != "nan"]
    if marked and not known.codes:
        raise InputError(
            f"{plan.file}: {where}.fill {', '.join(marked)}: {'+'.join(known.sources)} does not say which cells are; "
            f"leave it out"
        )
    filled = LabelSet.load(plan.config.labels).source_names
    for joint, members in (given.joint or {}).items():
        if (
            known.labels is not None
            and LabelSet("own", [Label(label) for label in known.labels]).canonical(joint) is None
        ):
            raise _no_label(plan, f"{where}.joint", joint, known.labels, "+".join(known.sources))
        for member in members:
            if member not in filled:
                raise _no_label(plan, f"{where}.joint.{joint}", member, filled, f"label set {plan.config.labels}")
        if len(set(members)) < 2:
            raise InputError(f"{plan.file}: {where}.joint.{joint} is {members}; give it two members or more")


def _no_label(plan: Plan, where: str, name: str, labels: Sequence[str], owner: str) -> InputError:
    near = difflib.get_close_matches(name, labels, n=1)
    hint = f"; did you mean {near[0]}?" if near else f"; it has {', '.join(labels)}"
    return InputError(f"{plan.file}: {where}: {name!r} is no label of {owner}{hint}")


def _check_beside(plan: Plan, name: str, external: Known, target: Known) -> None:
    """Squares made in one way, as a student's stores must be; and a word where patients may be the same."""
    if external.resize != target.resize:
        raise InputError(
            f"{plan.file}: externals.{name}.prepare.resize is {external.resize}, the target's is {target.resize}; a "
            f"student takes no stores that differ: give both prepare.resize: {target.resize}"
        )
    families = {family_of(source): source for source in target.sources}
    for source in external.sources:
        if family_of(source) in families:
            logger.warning(
                "%s: externals.%s (%s) shows patients of the target (%s): a patient in two splits stops the pipeline "
                "before the teacher; safe is another data set, or --source table with the target's splits",
                plan.file, name, source, families[family_of(source)],
            )  # fmt: skip


def check_tasks(plan: Plan) -> None:
    """Check that each task's labels are among those that its model predicts.

    Raises:
        InputError: Naming those that are not.
    """
    config = plan.config
    for name, task in config.tasks.items():
        final = config.models.get(task.model)
        trained = (final.labels if final is not None else None) or config.labels
        with told(plan.file, f"tasks.{name}.labels: "):
            wanted = LabelSet.load(task.labels)
            predicted = [label.name for label in LabelSet.load(trained).labels]
        found = {wanted.canonical(name) for name in predicted}
        absent = [label.name for label in wanted.labels if not label.derived and label.name not in found]
        if absent:
            raise InputError(
                f"{plan.file}: tasks.{name}.labels {task.labels}: its model {task.model}, of label set {trained}, "
                f"does not predict {some(absent)}; give the task a set within the model's, or another model"
            )
        with told(plan.file, f"tasks.{name}.labels: "):  # two of the model's labels for one of the task's
            columns_of(wanted, predicted, f"label set {trained}")


def check_stores(plan: Plan) -> int:
    """Check that no patient or film stands in two splits of the stores that are there, and no film in two stores.

    A student is trained on them together, and would refuse them only after its teacher was trained.

    Returns:
        How many stores there are.

    Raises:
        InputError: Naming patients, stores and the remedy.
    """
    paths = {key_of(name): Path(plan.store(name)) for name in plan.archives()}
    with told(plan.file, ""):
        stores = {f"{key} ({path})": Store(path) for key, path in paths.items() if Store.is_store(path)}
        if len(stores) > 1:
            tables = {name: store.manifest.table for name, store in stores.items()}
            check_once(tables, {name: store.images_folder for name, store in stores.items()})
            check_apart(tables)
    return len(stores)
