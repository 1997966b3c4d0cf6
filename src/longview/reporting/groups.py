"""Groups of labels that a user names, beside head, medium and tail."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from longview import InputError
from longview.curves import GROUPS


def read_groups(file: Path) -> dict[str, list[str]]:
    """Read a YAML file of groups, `name: [label, label]`.

    Raises:
        InputError: Where it is missing or holds anything else, or a group has the name of one that counts make.
    """
    if not file.is_file():
        raise InputError(f"--groups {file} does not exist; give a YAML file with lines such as `lung: [Mass, Nodule]`")
    try:
        found = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"--groups {file} is no YAML: {error}") from error
    fits = isinstance(found, dict) and all(
        isinstance(name, str) and isinstance(labels, list) and labels and all(isinstance(item, str) for item in labels)
        for name, labels in found.items()
    )
    if not fits or not found:
        raise InputError(f"--groups {file}: give a list of labels for each group, such as `lung: [Mass, Nodule]`")
    taken = [name for name in found if name in GROUPS]
    if taken:
        raise InputError(f"--groups {file}: {', '.join(taken)} are groups by counts; give yours other names")
    return {name: list(labels) for name, labels in found.items()}


def named_groups(groups: Mapping[str, Sequence[str]], names: Sequence[str]) -> dict[str, list[str]]:
    """Groups of labels that are scored.

    Raises:
        InputError: For a label that is not.
    """
    for group, labels in groups.items():
        strange = [label for label in labels if label not in names]
        if strange:
            raise InputError(
                f"group {group!r} has labels that are not scored: {', '.join(strange)}; there are {', '.join(names)}"
            )
    return {group: list(labels) for group, labels in groups.items()}
