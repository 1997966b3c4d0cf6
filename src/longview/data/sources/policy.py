"""Label policies: what a label becomes that a report leaves uncertain, or does not mention.

Labellers of reports (CheXpert, NegBio, CheXbert) say four things of a finding: present, absent, uncertain, or nothing
(blank). Which of them may be trained on, and as what, is a decision per label: Irvin et al. (CheXpert, AAAI 2019,
arXiv:1901.07031) find that uncertain atelectasis and edema are best taken as 1 and that other labels do better
otherwise. The codes stay beside the values (:attr:`longview.data.sources.base.Source.codes`), so that the decision can
be seen and taken anew.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from longview import InputError
from longview.data.sources.base import CODES, first

Rule = str | float
"""A word of :data:`WORDS`, or a number from 0 to 1."""

Rules = Rule | Mapping[str, Rule]
"""One rule for all labels, or label -> rule, with `default` for the labels that it does not name."""

WORDS = {"zero": 0.0, "one": 1.0, "soft": 0.5, "ignore": math.nan}
"""Words that a rule may be, and the label value each stands for; NaN: nothing is learned from the cell."""

DEFAULT = "default"
"""Key of a mapping for the labels that it does not name."""

_CELLS = {"1": 1, "0": 0, "-1": -1}


@dataclass(frozen=True)
class Policy:
    """What uncertain and blank cells become.

    Args:
        uncertain: Rule for cells that the report leaves open: `zero`, `one`, `ignore` (NaN), `soft` (0.5), a number
            from 0 to 1, or a mapping from labels to these, `{"Edema": "one", "default": "ignore"}`.
        blank: Rule for labels that the report does not mention, in the same form. With `ignore` hardly any negatives
            remain (CheXpert: 194,275 of 3.1 million cells are 0).

    A mapping's labels match like those of tables, without regard to case, underscores, hyphens and spaces. Labels that
    a mapping without `default` leaves out have the policy's own defaults: uncertain `ignore`, blank `zero`.

    Raises:
        InputError: For a word or number that is no rule.
    """

    uncertain: Rules = "ignore"
    blank: Rules = "zero"

    def __post_init__(self) -> None:
        for option, rules in (("uncertain", self.uncertain), ("blank", self.blank)):
            for rule in rules.values() if isinstance(rules, Mapping) else [rules]:
                value_of(rule, option)

    def values(self, labels: Iterable[str]) -> dict[str, dict[int, float]]:
        """Label -> code of :data:`~longview.data.sources.base.CODES` -> value, NaN where nothing is learned.

        Raises:
            InputError: Where a mapping names a label that is none of `labels`, or one twice.
        """
        names = list(labels)
        uncertain = _by_label("uncertain", self.uncertain, names, Policy.uncertain)
        blank = _by_label("blank", self.blank, names, Policy.blank)
        return {
            name: {
                CODES["present"]: 1.0,
                CODES["absent"]: 0.0,
                CODES["uncertain"]: uncertain[name],
                CODES["blank"]: blank[name],
                CODES["not in source"]: math.nan,
            }
            for name in names
        }


def apply(codes: pd.DataFrame, policy: Policy) -> pd.DataFrame:
    """Turn codes into label values.

    Args:
        codes: (N, L) int8 values of :data:`~longview.data.sources.base.CODES`, a column per label.
        policy: What uncertain and blank become.

    Returns:
        (N, L) float32 in [0, 1] or NaN, with the same index and columns.

    Raises:
        InputError: Where the policy names a label that is no column.
        ValueError: For a value that is no code.
    """
    lowest, highest = min(CODES.values()), max(CODES.values())
    columns: dict[str, pd.Series[float]] = {}
    for name, values in policy.values(map(str, codes.columns)).items():
        column = codes[name].to_numpy()
        if len(column) and (column.min() < lowest or column.max() > highest):
            raise ValueError(f"codes of {name!r} go from {column.min()} to {column.max()}, not {lowest} to {highest}")
        table = np.array([values[code] for code in range(lowest, highest + 1)], np.float32)
        columns[name] = pd.Series(table[column.astype(np.intp) - lowest], index=codes.index)
    return pd.DataFrame(columns, index=codes.index)


def codes_table(codes: pd.DataFrame) -> pd.DataFrame:
    """Count what the tables say: a row per label (index `label`), a column per key of `CODES`, int64."""
    counts = {str(name): codes[name].value_counts() for name in codes.columns}
    rows = {name: [int(found.get(code, 0)) for code in CODES.values()] for name, found in counts.items()}
    table = pd.DataFrame.from_dict(rows, orient="index", columns=list(CODES), dtype=np.int64)
    return table.rename_axis("label")


def label_table(table: pd.DataFrame, labels: Iterable[str], codes: pd.DataFrame | None = None) -> pd.DataFrame:
    """:func:`codes_table` for every source: of labels without codes, their values are counted.

    1 is present and 0 absent. An empty cell is blank where the label's column has others, else `not in source`.

    Args:
        table: (N, ...) rows of a manifest.
        labels: What to count: a row each, in this order; a label without a column or codes is not in the source.
        codes: (N, L) codes of the same rows, for the labels that have them.

    Returns:
        As :func:`codes_table`; with a last column `soft` where any values lie between 0 and 1.
    """
    counts = {} if codes is None else codes_table(codes).to_dict("index")
    rows: dict[str, dict[str, int]] = {}
    for name in labels:
        rows[name] = {str(word): int(count) for word, count in counts.get(name, {}).items()}
        if not rows[name]:
            values = table[name].to_numpy(np.float64) if name in table else np.full(len(table), np.nan)
            empty = int(np.isnan(values).sum())
            rows[name] = {"present": int((values == 1).sum()), "absent": int((values == 0).sum())}
            rows[name]["soft"] = len(values) - empty - sum(rows[name].values())
            rows[name]["blank" if empty < len(values) else "not in source"] = empty
    words = [*CODES, *(["soft"] if any(row.get("soft") for row in rows.values()) else [])]
    filled = {name: [row.get(word, 0) for word in words] for name, row in rows.items()}
    return pd.DataFrame.from_dict(filled, orient="index", columns=words, dtype=np.int64).rename_axis("label")


def read_codes(cells: pd.DataFrame, columns: Mapping[str, str], file: Path) -> pd.DataFrame:
    """Turn a labeller's cells into codes: 1.0, 0.0, -1.0 and blank, as text.

    Args:
        cells: The table, every cell as text, blanks as "".
        columns: Label -> column of the table.
        file: The table's file, for messages.

    Returns:
        (N, L) int8 codes in the order of `columns`, with the table's index.

    Raises:
        InputError: For any other cell; names file, column, line and what is allowed.
    """
    codes: dict[str, pd.Series[int]] = {}
    for label, column in columns.items():
        places, texts = pd.factorize(cells[column])
        meanings = [_code(str(text)) for text in texts]
        strange = [str(text) for text, meaning in zip(texts, meanings, strict=True) if meaning is None]
        if strange:
            line = int(np.argmax(cells[column].isin(strange))) + 2
            raise InputError(
                f"{file}: label column {column!r} holds {first(strange)}, first in line {line}; a label is 1, 0, "
                f"-1 (uncertain) or empty (not mentioned)"
            )
        codes[label] = pd.Series(np.array(meanings, np.int8)[places], index=cells.index)
    return pd.DataFrame(codes, index=cells.index)


def value_of(rule: object, option: str) -> float:
    """The label value that a rule stands for, in [0, 1] or NaN.

    Raises:
        InputError: For what is neither one of the words nor a number from 0 to 1.
    """
    if isinstance(rule, str) and rule.strip().casefold() in WORDS:
        return WORDS[rule.strip().casefold()]
    if isinstance(rule, str | float | int) and not isinstance(rule, bool):
        try:
            value = float(rule)
        except ValueError:
            value = math.nan
        if 0 <= value <= 1:
            return value
    raise InputError(f"{option} is {rule!r}; give {', '.join(WORDS)} or a number from 0 to 1")


def _by_label(option: str, rules: Rules, labels: list[str], otherwise: Rules) -> dict[str, float]:
    """The value of each label."""
    if not isinstance(rules, Mapping):
        return dict.fromkeys(labels, value_of(rules, option))
    matched = {name: _match(str(name), labels) for name in rules}
    strange = [str(name) for name, label in matched.items() if label is None]
    if strange:
        raise InputError(
            f"{option} names {first(strange)}, which this source has no label for; it has {', '.join(labels)}, and "
            f"{DEFAULT!r} stands for all that are not named"
        )
    own: dict[str, Rule] = {}
    for name, label in matched.items():
        if label in own:
            named = ", ".join(str(other) for other in matched if matched[other] == label)
            raise InputError(f"{option} names the label {label} twice: {named}; name it once")
        own[str(label)] = rules[name]
    rest = own.get(DEFAULT, otherwise)
    return {name: value_of(own.get(name, rest), option) for name in labels}


def _match(name: str, labels: list[str]) -> str | None:
    """The label (or :data:`DEFAULT`) that a key stands for: of that very name, else the only one that reads alike."""
    if name == DEFAULT or name in labels:
        return name
    alike = [label for label in (*labels, DEFAULT) if _folded(label) == _folded(name)]
    return alike[0] if len(alike) == 1 else None


def _folded(name: str) -> str:
    """A label's name without what label sets do not tell apart: case, underscores, hyphens and runs of spaces."""
    return re.sub(r"[\s_\-]+", " ", name).strip().casefold()


def _code(cell: str) -> int | None:
    """The code of a cell; None where it is no label."""
    text = cell.strip()
    return CODES["blank"] if not text else _CELLS.get(text.removesuffix(".0"))
