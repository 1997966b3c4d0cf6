"""Label sets: ordered names, prompts, aliases per source and hierarchy, read from `configs/labels/*.yaml`.

A label set is the only place where labels are named. Tables are aligned to it by name or alias, never by
position, and a column that cannot be placed is an error that lists both sides.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from longview import InputError

OnMismatch = Literal["error", "ignore"]


def _normalise(text: str) -> str:
    """Fold case, underscores, hyphens and runs of spaces: `Pleural_Thickening` == `pleural thickening`."""
    return re.sub(r"[\s_\-]+", " ", text).strip().casefold()


@dataclass(frozen=True)
class Label:
    """One label of a label set.

    Args:
        name: The canonical name, as it stands in manifests, predictions and metrics.
        prompts: Texts that describe the label to a text encoder; the name where none is given.
        aliases: What other sources call it: source name -> names there.
        unseen: True for a label without training data, scored only by a zero-shot model.
    """

    name: str
    prompts: list[str] = field(default_factory=list)
    aliases: dict[str, list[str]] = field(default_factory=dict)
    unseen: bool = False


@dataclass(frozen=True)
class LabelSet:
    """An ordered set of labels.

    Args:
        name: Short name; that of the file without its ending.
        labels: The labels, in the order of the challenge's or data set's own files.
        description: Where the labels come from.
        hierarchy: Parent name -> names of its children, where the source defines one. Names that are not
            labels of the set may stand as parents (derived labels).

    Raises:
        InputError: For no labels, a name or alias that stands for two labels, or an edge to an unknown child.
    """

    name: str
    labels: list[Label]
    description: str = ""
    hierarchy: dict[str, list[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.labels:
            raise InputError(f"label set {self.name!r} has no labels; give `labels:` at least one entry")
        owners: dict[str, str] = {}
        for label in self.labels:
            if not label.name.strip():
                raise InputError(f"label set {self.name!r} has a label without a name")
            key = _normalise(label.name)
            if key in owners:
                raise InputError(f"label set {self.name!r}: {owners[key]!r} and {label.name!r} are the same name")
            owners[key] = label.name
        for source in sorted({source for label in self.labels for source in label.aliases}):
            self._lookup(source)
        self._check_hierarchy()

    def _check_hierarchy(self) -> None:
        known = {label.name for label in self.labels} | set(self.hierarchy)
        for parent, children in self.hierarchy.items():
            for child in children:
                if child not in known:
                    raise InputError(
                        f"label set {self.name!r}: hierarchy names {child!r} under {parent!r}, which is neither "
                        f"a label nor a parent; labels are {', '.join(sorted(known))}"
                    )
        state: dict[str, int] = {}

        def visit(parent: str) -> None:
            if state.get(parent) == 1:
                raise InputError(f"label set {self.name!r}: the hierarchy has a circle through {parent!r}")
            if parent not in state:
                state[parent] = 1
                for child in self.hierarchy.get(parent, []):
                    visit(child)
            state[parent] = 2

        for parent in self.hierarchy:
            visit(parent)

    @property
    def names(self) -> list[str]:
        """Names of the labels that have training data, in order: the L columns of a target."""
        return [label.name for label in self.labels if not label.unseen]

    @property
    def unseen_names(self) -> list[str]:
        """Names of the labels without training data, in order."""
        return [label.name for label in self.labels if label.unseen]

    @property
    def prompts(self) -> dict[str, list[str]]:
        """Prompts of every label, seen and unseen; the name itself where the file gives none."""
        return {label.name: label.prompts or [label.name] for label in self.labels}

    @classmethod
    def load(cls, path: str | Path) -> LabelSet:
        """Read a label set from a YAML file, or by the name of one in `configs/labels`.

        Raises:
            InputError: Where the file is missing or is not a label set.
        """
        file = find(path)
        try:
            data = yaml.safe_load(file.read_text(encoding="utf-8"))
        except yaml.YAMLError as error:
            raise InputError(f"{file} is not readable as YAML: {error}") from error
        return cls.from_dict(data, origin=str(file))

    @classmethod
    def from_dict(cls, data: Any, origin: str = "label set") -> LabelSet:
        """Build a label set from plain data (the inverse of :meth:`to_dict`).

        Raises:
            InputError: Where keys are missing, unknown or of the wrong type.
        """
        if not isinstance(data, Mapping) or not isinstance(data.get("labels"), list):
            raise InputError(f"{origin} is not a label set: it needs `name:` and a list `labels:`")
        unknown = set(data) - {"name", "labels", "description", "hierarchy"}
        if unknown:
            raise InputError(f"{origin}: unknown keys {sorted(unknown)}; known: name, labels, description, hierarchy")
        labels = []
        for entry in data["labels"]:
            fields = {"name": entry} if isinstance(entry, str) else entry
            if not isinstance(fields, Mapping) or not isinstance(fields.get("name"), str):
                raise InputError(f"{origin}: a label needs at least a `name:` that is text, found {entry!r}")
            extra = set(fields) - {"name", "prompts", "aliases", "unseen"}
            if extra:
                raise InputError(f"{origin}: label {fields['name']!r} has unknown keys {sorted(extra)}")
            labels.append(Label(**{str(key): value for key, value in fields.items()}))
        return cls(
            name=str(data.get("name", "")),
            labels=labels,
            description=str(data.get("description", "")),
            hierarchy=dict(data.get("hierarchy") or {}),
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain data that a checkpoint or a YAML file can hold."""
        return asdict(self)

    def _lookup(self, source: str | None) -> dict[str, str]:
        """Normalised name or alias -> label name; aliases of one source, or of all where `source` is None."""
        table = {_normalise(label.name): label.name for label in self.labels}
        aliases: dict[str, str] = {}
        ambiguous: set[str] = set()
        for label in self.labels:
            for origin, names in label.aliases.items():
                if source is not None and origin != source:
                    continue
                for alias in names:
                    key = _normalise(alias)
                    other = aliases.setdefault(key, label.name)
                    if other != label.name:
                        if source is not None:
                            raise InputError(
                                f"label set {self.name!r}: alias {alias!r} of source {source!r} stands for both "
                                f"{other!r} and {label.name!r}"
                            )
                        ambiguous.add(key)
        return {key: name for key, name in aliases.items() if key not in ambiguous} | table

    def canonical(self, column: str, source: str | None = None) -> str | None:
        """The label that a column or finding of `source` stands for, or None."""
        return self._lookup(source).get(_normalise(column))

    def align(
        self,
        columns: Iterable[str],
        source: str | None = None,
        missing: OnMismatch = "error",
        unknown: OnMismatch = "error",
        context: str = "the table",
    ) -> dict[str, str]:
        """Match a table's label columns to this set's (seen) labels by name or alias.

        Args:
            columns: Candidate label columns, in any order (leave id columns out).
            source: Whose aliases count; None: everyone's, where they are not ambiguous.
            missing: What to do about labels that no column stands for.
            unknown: What to do about columns that stand for no label.
            context: What the table is (a file name), for the message.

        Returns:
            Label name -> column, in the label set's order; labels that are missing are left out.

        Raises:
            InputError: For two columns of one label and, unless ignored, for missing or unknown columns; the
                message lists both sides.
        """
        columns = list(columns)
        lookup, seen = self._lookup(source), set(self.names)
        found: dict[str, str] = {}
        strange: list[str] = []
        for column in columns:
            name = lookup.get(_normalise(column))
            if name is None or name not in seen:
                strange.append(column)
            elif name in found:
                raise InputError(f"{context}: columns {found[name]!r} and {column!r} both stand for label {name!r}")
            else:
                found[name] = column
        absent = [name for name in self.names if name not in found]
        bad_missing, bad_unknown = missing == "error" and absent, unknown == "error" and strange
        if bad_missing or bad_unknown:
            parts = []
            if bad_missing:
                parts.append(f"labels without a column: {', '.join(absent)}")
            if strange:
                parts.append(f"columns that are no label: {', '.join(strange)}")
            raise InputError(
                f"{context} does not fit label set {self.name!r}; {'; '.join(parts)}. "
                f"Rename the columns, or add aliases to the label set"
            )
        return {name: found[name] for name in self.names if name in found}


def find(path: str | Path) -> Path:
    """Find a label-set file: a path, or the name of a file in `configs/labels`.

    Raises:
        InputError: Where there is none; the message lists the names that exist.
    """
    given = Path(path)
    if given.is_file():
        return given
    folders = [Path("configs/labels"), Path(__file__).parent / "configs/labels"]
    folders.append(Path(__file__).parents[2] / "configs/labels")
    for folder in folders:
        candidate = folder / f"{given.name.removesuffix('.yaml')}.yaml"
        if len(given.parts) == 1 and candidate.is_file():
            return candidate
    known = sorted({file.stem for folder in folders if folder.is_dir() for file in folder.glob("*.yaml")})
    raise InputError(f"no label set {str(path)!r}: give a YAML file or one of {', '.join(known) or '(none found)'}")


def groups(
    names: Sequence[str],
    positives: Iterable[float],
    observed: Iterable[float],
    head: float = 0.10,
    tail: float = 0.01,
) -> dict[str, list[str]]:
    """Sort labels into head, medium and tail by their prevalence among the rows that know them.

    Args:
        names: L label names.
        positives: L sums of positive (or soft) training labels.
        observed: L numbers of training rows whose value is not NaN.
        head: Labels above this share are head.
        tail: Labels below this share are tail; those between are medium. The thresholds of the CXR-LT zones.

    Returns:
        `{"head": [...], "medium": [...], "tail": [...]}`; a label that no row knows is in none.
    """
    result: dict[str, list[str]] = {"head": [], "medium": [], "tail": []}
    for name, positive, total in zip(names, positives, observed, strict=True):
        if total > 0:
            share = float(positive) / float(total)
            result["head" if share > head else "tail" if share < tail else "medium"].append(name)
    return result
