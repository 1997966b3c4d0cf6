"""Data sources: parsers that turn a raw archive, read only, into a manifest.

A source knows one data set's layout: its tables, folders, ids, views, label codes and official split. It
opens no image. `open_source("nih", root).read()` is the whole interface; to add a data set, write a subclass
of :class:`~longview.data.sources.base.Source` in a module here and name it in :data:`SOURCES`.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from longview import InputError
from longview.data.sources.base import Source
from longview.labels import LabelSet

SOURCES: dict[str, str] = {
    "nih": "longview.data.sources.nih.Nih",
    "covid-chestxray": "longview.data.sources.covid_chestxray.CovidChestXray",
    "chexpert": "longview.data.sources.chexpert.Chexpert",
    "mimic": "longview.data.sources.mimic.Mimic",
    "cxr-lt-2023": "longview.data.sources.cxr_lt.CxrLt2023",
    "cxr-lt-2024": "longview.data.sources.cxr_lt.CxrLt2024",
    "cxr-lt-2026": "longview.data.sources.cxr_lt_2026.CxrLt2026",
    "vinbig": "longview.data.sources.vinbig.VinBig",
    "vindr": "longview.data.sources.vindr.VinDr",
    "padchest": "longview.data.sources.padchest.PadChest",
    "rsna": "longview.data.sources.rsna.Rsna",
    "nih-google": "longview.data.sources.nih_google.NihGoogle",
    "openi": "longview.data.sources.openi.OpenI",
    "phantom": "longview.data.sources.phantom.Phantom",
    "table": "longview.data.sources.tabular.Table",
    "folder": "longview.data.sources.tabular.Folder",
}
"""Name on the command line -> class."""


def source_class(name: str) -> type[Source]:
    """The class of a source.

    Raises:
        InputError: For an unknown name; the message lists those that exist.
    """
    if name not in SOURCES:
        raise InputError(f"unknown source {name!r}; known: {', '.join(SOURCES)}")
    module, _, attribute = SOURCES[name].rpartition(".")
    found = getattr(import_module(module), attribute)
    if not (isinstance(found, type) and issubclass(found, Source)):
        raise TypeError(f"{SOURCES[name]} is not a Source")
    return found


def open_source(
    name: str,
    root: str | Path,
    labels: LabelSet | None = None,
    table: str | Path | None = None,
    columns: Mapping[str, str] | None = None,
    **options: Any,
) -> Source:
    """Set up the source `name` on the raw data in `root`; nothing is read before `read()`.

    Args:
        name: A key of :data:`SOURCES`.
        root: Folder of the raw data.
        labels: Label set to align to; None: the source's own (`Source.default_labels`).
        table: Table file, for the sources that take one (`table`).
        columns: Role -> column name, for the sources that take it (`table`).
        options: Further options of the source; those that are None count as not given.

    Raises:
        InputError: For an unknown source, or an option that this source does not take.
    """
    found = source_class(name)
    given = {"table": table, "columns": columns, **options}
    given = {option: value for option, value in given.items() if value is not None}
    known = [option for option in inspect.signature(found).parameters if option not in {"root", "labels"}]
    strange = [option for option in given if option not in known]
    if strange:
        raise InputError(
            f"source {name!r} takes no option {', '.join(map(repr, strange))}; "
            f"its options are: {', '.join(known) or '(none)'}"
        )
    return found(root, labels, **given)
