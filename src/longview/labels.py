"""Label sets: ordered names, prompts, aliases per source and hierarchy, read from `configs/labels/*.yaml`.

A label set is the only place where labels are named. Tables are aligned to it by name or alias, never by
position, and a column that cannot be placed is an error that lists both sides.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import yaml

from longview import InputError

OnMismatch = Literal["error", "ignore"]

Derived = Literal["", "any", "none"]
"""How a label follows from others: not at all, present where any of its children is, or where no other label is."""


def _normalise(text: str) -> str:
    """Fold case, underscores, hyphens and runs of spaces: `Pleural_Thickening` == `pleural thickening`."""
    return re.sub(r"[\s_\-]+", " ", text).strip().casefold()


@dataclass(frozen=True)
class Label:
    """One label of a label set.

    Args:
        name: The canonical name, as it stands in manifests, predictions and metrics.
        prompts: Texts that describe the label to a text encoder; the name where none is given.
        aliases: What other sources call it: source name -> names there. A source's narrower finding may stand
            here too (PadChest's `rib fracture` for `fracture`); a wider or vaguer one never.
        unseen: True for a label without training data, scored only by a zero-shot model.
        derived: `any`: no table carries the label; it is present where any of its children in the hierarchy is.
            `none`: present where none of the set's labels that are not derived is. See
            :func:`longview.data.derive.derive`.
    """

    name: str
    prompts: list[str] = field(default_factory=list)
    aliases: dict[str, list[str]] = field(default_factory=dict)
    unseen: bool = False
    derived: Derived = ""


@dataclass(frozen=True)
class LabelSet:
    """An ordered set of labels.

    Args:
        name: Short name; that of the file without its ending.
        labels: The labels, in the order of the challenge's or data set's own files.
        description: Where the labels come from.
        hierarchy: Parent name -> names of its children, where the source defines one. Names that are not
            labels of the set may stand as parents.

    Raises:
        InputError: For no labels, a name or alias that stands for two labels, an edge to an unknown child, a circle
            of edges, or a derived label that cannot be derived.
    """

    name: str
    labels: list[Label]
    description: str = ""
    hierarchy: dict[str, list[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.names:
            raise InputError(f"label set {self.name!r} has no (seen) labels; give `labels:` at least one entry")
        owners: dict[str, str] = {}
        for label in self.labels:
            if not label.name.strip():
                raise InputError(f"label set {self.name!r} has a label without a name")
            key = _normalise(label.name)
            if key in owners:
                raise InputError(f"label set {self.name!r}: {owners[key]!r} and {label.name!r} are the same name")
            owners[key] = label.name
        for source in sorted({source for label in self.labels for source in label.aliases}):
            self._build_lookup(source)
        self._check_hierarchy()
        self._check_derived(owners)

    def _check_hierarchy(self) -> None:
        known = {label.name for label in self.labels} | set(self.hierarchy)
        for parent, children in self.hierarchy.items():
            for child in children:
                if child not in known:
                    raise InputError(
                        f"label set {self.name!r}: hierarchy names {child!r} under {parent!r}, which is "
                        f"neither a label nor a parent; labels are {', '.join(sorted(known))}"
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

    def _check_derived(self, owners: Mapping[str, str]) -> None:
        """Refuse derived labels that nothing can fill, and parents that only look like a label (of key -> label)."""
        where = f"label set {self.name!r}"
        for parent in self.hierarchy:
            if owners.get(_normalise(parent), parent) != parent:
                raise InputError(f"{where}: hierarchy names {parent!r}; write it {owners[_normalise(parent)]!r}")
        parents = {parent for parent, _ in self.edges}
        for label in self.labels:
            if label.derived not in get_args(Derived):
                raise InputError(f"{where}: `derived:` of label {label.name!r} is {label.derived!r}, not any or none")
            if label.derived and label.unseen:
                raise InputError(f"{where}: label {label.name!r} is both unseen and derived; it can be one of them")
            if label.derived == "any" and label.name not in parents:
                raise InputError(
                    f"{where}: label {label.name!r} is derived from its children, but has none (seen ones)"
                )
            if label.derived == "none" and label.name in parents:
                raise InputError(f"{where}: label {label.name!r} is present where no other is, so it has no children")
        if not self.source_names:
            raise InputError(f"{where} has derived labels only; add those that they follow from")

    @property
    def names(self) -> list[str]:
        """Names of the labels that have training data, in order: the L columns of a target."""
        return [label.name for label in self.labels if not label.unseen]

    @property
    def source_names(self) -> list[str]:
        """Those of `names` that tables carry, in order: all but the derived ones."""
        return [label.name for label in self.labels if not label.unseen and not label.derived]

    @property
    def edges(self) -> list[tuple[str, str]]:
        """(parent, child) pairs of the hierarchy among the (seen) labels; see :meth:`edges_among`."""
        return self.edges_among(self.names)

    def edges_among(self, names: Iterable[str]) -> list[tuple[str, str]]:
        """(parent, child) pairs of the hierarchy among some names, each once, in the hierarchy's order.

        A name between two that is not among them is stepped over: a child whose parent is absent stands below the
        nearest ancestors that are there.
        """
        kept = set(names)

        def below(parent: str) -> Iterator[str]:
            for child in self.hierarchy.get(parent, []):
                yield from [child] if child in kept else below(child)

        pairs = [(parent, child) for parent in self.hierarchy if parent in kept for child in below(parent)]
        return list(dict.fromkeys(pairs))

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
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise InputError(f"{file} is not readable as YAML: {error}") from error
        entries = data.get("labels") if isinstance(data, Mapping) else None
        bare = [entry for entry in entries if not isinstance(entry, Mapping)] if isinstance(entries, list) else []
        if bare:  # jsonargparse, which reads the same files for `fit`, takes mappings only
            raise InputError(f"{file}: write a label as {{name: TEXT, ...}}, not {bare[0]!r}")
        return cls.from_dict(data, origin=str(file))

    @classmethod
    def from_dict(cls, data: Any, origin: str = "label set") -> LabelSet:
        """Build a label set from plain data (the inverse of :meth:`to_dict`); a label may be its name alone.

        Raises:
            InputError: Where keys are missing, unknown or of the wrong type.
        """
        wanted = {"name": str, "labels": list}  # as a command line wants them of the dataclass
        if not isinstance(data, Mapping) or not all(isinstance(data.get(k), t) for k, t in wanted.items()):
            raise InputError(f"{origin} is not a label set: it needs `name:` (text) and a list `labels:`")
        unknown = set(data) - {"name", "labels", "description", "hierarchy"}
        if unknown:
            raise InputError(
                f"{origin}: unknown keys {sorted(map(str, unknown))}; known: name, labels, description, hierarchy"
            )
        return cls(
            name=data["name"],
            labels=[_label(entry, origin) for entry in data["labels"]],
            description=str(data.get("description", "")),
            hierarchy=_lists(data.get("hierarchy"), f"{origin}: hierarchy"),
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain data that a checkpoint or a YAML file can hold."""
        return asdict(self)

    @cached_property
    def _lookups(self) -> dict[str | None, dict[str, str]]:
        """Look-up tables built so far: parsers ask for a name per row of 100,000."""
        return {}

    def _lookup(self, source: str | None) -> dict[str, str]:
        """Normalised name or alias -> label name; aliases of one source, or of all where `source` is None."""
        if source not in self._lookups:
            self._lookups[source] = self._build_lookup(source)
        return self._lookups[source]

    def _build_lookup(self, source: str | None) -> dict[str, str]:
        names = {_normalise(label.name): label.name for label in self.labels}
        aliases: dict[str, str] = {}
        ambiguous: set[str] = set()
        for label, alias in self._aliases(source):
            key = _normalise(alias)
            other = names.get(key, aliases.setdefault(key, label.name))
            if other != label.name:
                if source is not None:
                    raise InputError(
                        f"label set {self.name!r}: alias {alias!r} of source {source!r} stands for both "
                        f"{other!r} and {label.name!r}; take it from one of them"
                    )
                ambiguous.add(key)
        return {key: name for key, name in aliases.items() if key not in ambiguous} | names

    def _aliases(self, source: str | None) -> Iterator[tuple[Label, str]]:
        """Pairs of label and alias; a source's name may be written with hyphens or underscores."""
        for label in self.labels:
            for origin, names in label.aliases.items():
                if source is None or _normalise(origin) == _normalise(source):
                    for alias in names:
                        yield label, alias

    def canonical(self, column: str, source: str | None = None) -> str | None:
        """The label that a column or finding of `source` stands for, or None.

        Aliases of one source count, or everyone's where `source` is None and they are not ambiguous.
        """
        return self._lookup(source).get(_normalise(column))

    def ancestors(self, name: str) -> list[str]:
        """Names above `name` in the hierarchy, each once, nearest first; derived parents are among them.

        Where a child is present, so is each of its ancestors: COVID-19 -> Viral Pneumonia, Pneumonia.
        """
        found: list[str] = []
        level = [name]
        while level:
            level = [up for up, down in self.hierarchy.items() if not set(down).isdisjoint(level) and up not in found]
            found += level
        return found

    def align(
        self,
        columns: Iterable[str],
        source: str | None = None,
        missing: OnMismatch = "error",
        unknown: OnMismatch = "error",
        context: str = "the table",
    ) -> dict[str, str]:
        """Match a table's label columns to this set's (seen) labels by name or alias.

        Columns of unseen labels are left out, so that no training table can show them to a model. Derived labels
        are never missing; a column that carries one is found like any other.

        Args:
            columns: Candidate label columns, in any order (leave id columns out).
            source: Whose aliases count; None: everyone's, where they are not ambiguous.
            missing: What to do about (seen) labels that no column stands for.
            unknown: What to do about columns that stand for no label, seen or unseen.
            context: What the table is (a file name), for the message.

        Returns:
            Label name -> column, in the label set's order; labels that are missing are left out.

        Raises:
            InputError: For two columns of one label and, unless ignored, for missing or unknown columns; the
                message lists both sides.
        """
        columns, lookup = list(columns), self._lookup(source)
        found: dict[str, str] = {}
        strange: list[str] = []
        for column in columns:
            name = lookup.get(_normalise(column))
            if name is None:
                strange.append(column)
            elif name in found:
                raise InputError(f"{context}: columns {found[name]!r} and {column!r} both stand for label {name!r}")
            else:
                found[name] = column
        absent = [name for name in self.source_names if name not in found]
        if (missing == "error" and absent) or (unknown == "error" and strange):
            raise InputError(
                f"{context} does not fit label set {self.name!r}; labels without a column: "
                f"{_listed(absent)}; columns that are no label: {_listed(strange)}. Rename the columns, or "
                f"add aliases to the label set"
            )
        return {name: found[name] for name in self.names if name in found}


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) or "none"


def _lists(value: Any, where: str) -> dict[str, list[str]]:
    """A mapping of text to lists of text, as hierarchy and aliases are; empty where nothing is given."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise InputError(f"{where} must map a name to a list of names, found {value!r}")
    return {str(key): _texts(names, f"{where} of {key!r}") for key, names in value.items()}


def _texts(value: Any, where: str) -> list[str]:
    # a bare text would be taken apart into letters, and YAML reads `no` and `1` as other things than text
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise InputError(f"{where} must be a list of texts, [like, this], found {value!r}; quote what is not text")
    return list(value)


def _label(entry: Any, origin: str) -> Label:
    """One entry of `labels:`: a name, or a mapping with the fields of :class:`Label`."""
    fields: Any = {"name": entry} if isinstance(entry, str) else entry
    if not isinstance(fields, Mapping) or not isinstance(fields.get("name"), str):
        raise InputError(f"{origin}: write a label as {{name: TEXT, ...}}, not {entry!r}")
    name = fields["name"]
    extra = set(fields) - {"name", "prompts", "aliases", "unseen", "derived"}
    if extra:
        raise InputError(f"{origin}: label {name!r} has unknown keys {sorted(map(str, extra))}")
    unseen = fields.get("unseen", False)
    if not isinstance(unseen, bool):
        raise InputError(f"{origin}: `unseen:` of label {name!r} must be true or false, found {unseen!r}")
    prompts = _texts(fields.get("prompts") or [], f"{origin}: prompts of label {name!r}")
    aliases = _lists(fields.get("aliases"), f"{origin}: aliases of label {name!r}")
    return Label(name, prompts, aliases, unseen, fields.get("derived", ""))


def find(path: str | Path) -> Path:
    """Find a label-set file: a path, or the name of one in `configs/labels` (hyphens serve as underscores).

    Raises:
        InputError: Where there is none; the message lists the names that exist.
    """
    given = Path(path)
    if given.is_file() and given.suffix:  # a folder or file that happens to be called `nih` does not hide the set
        return given
    folders = [Path("configs/labels"), Path(__file__).parent / "configs/labels"]
    folders.append(Path(__file__).parents[2] / "configs/labels")
    for folder in folders:
        candidate = folder / f"{given.name.removesuffix('.yaml').replace('-', '_')}.yaml"
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
