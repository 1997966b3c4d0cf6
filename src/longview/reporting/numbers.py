"""Figures of a page, each taken from metrics.json by its place there, which the page names.

A figure is an HTML element `data` whose attribute `data-at` is its JSON pointer (RFC 6901) in metrics.json, so that
whoever reads the page, or a test, finds it in full precision.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from html import escape
from typing import Any, Literal

Form = Literal["figure", "count", "percent", "plain", "small"]
"""How a number is written: three decimals, thousands apart, as a percentage, with as few digits as it needs, or with
three digits after all zeros."""

DASH = "\u2013"
"""Between the ends of an interval, and for a figure that is not defined."""

NONE = f'<span class="none" title="not defined">{DASH}</span>'


def pointer(*keys: str | int) -> str:
    """The JSON pointer of a place in metrics.json."""
    return "".join("/" + str(key).replace("~", "~0").replace("/", "~1") for key in keys)


def written(value: float, form: Form = "figure") -> str:
    """A number as the page shows it."""
    if form == "count":
        return f"{value:,.0f}"
    if form == "plain":
        return f"{value:g}"
    if form == "small" and value != 0:
        return f"{value:.{min(max(2 - math.floor(math.log10(abs(value))), 3), 8)}f}"
    if form == "percent":
        share = 100 * value
        return f"{share:.0f} %" if share >= 10 else f"{share:.1f} %" if share >= 1 or share == 0 else f"{share:.2f} %"
    return f"{value:.3f}" if round(abs(value), 4) >= 0.01 or value == 0 else f"{value:.4f}"


class Numbers:
    """Writes figures of an evaluation as HTML.

    Args:
        report: The content of metrics.json, null for a figure that is not defined.
    """

    def __init__(self, report: Mapping[str, Any]) -> None:
        self.report = report

    def at(self, *keys: str | int) -> Any:
        """What stands at a place; KeyError or IndexError where there is none."""
        found: Any = self.report
        for key in keys:
            found = found[key]
        return found

    def has(self, *keys: str | int) -> bool:
        """Whether there is a number at a place."""
        found: Any = self.report
        for key in keys:
            if not isinstance(found, Mapping) or key not in found:
                return False
            found = found[key]
        return found is not None

    def show(self, *keys: str | int, form: Form = "figure") -> str:
        """One figure, by its place."""
        value = self.at(*keys)
        if value is None:
            return NONE
        return f'<data value="{value:.6g}" data-at="{escape(pointer(*keys))}">{written(value, form)}</data>'

    def with_interval(self, *keys: str | int, form: Form = "figure") -> str:
        """A figure with its interval, by the place of both (`value`, `low`, `high`)."""
        value = self.show(*keys, "value", form=form)
        if self.at(*keys, "low") is None:
            return value
        ends = DASH.join(self.show(*keys, end, form=form) for end in ("low", "high"))
        return f'{value} <span class="interval">({ends})</span>'
