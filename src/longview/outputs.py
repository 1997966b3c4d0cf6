"""Folders of results that are never seen half-written."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from longview import InputError


@contextmanager
def staged(output: Path) -> Iterator[Path]:
    """Give a temporary folder beside `output`; what was written there is moved to `output` on success.

    A new folder appears whole. In one that exists, files of the same name are replaced one by one, each
    whole, and others stay. After an error, or a kill while writing, `output` is as it was; what a killed run
    left aside is removed by the next.

    Raises:
        InputError: Where `output` is a file.
    """
    if output.exists() and not output.is_dir():
        raise InputError(f"{output} is a file; give a folder to write to")
    output = output.absolute()
    output.parent.mkdir(parents=True, exist_ok=True)
    aside = output.with_name(f".{output.name}.partial")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()
    try:
        yield aside
        if not output.exists():
            aside.rename(output)
            return
        for file in sorted(aside.iterdir()):
            os.replace(file, output / file.name)  # noqa: PTH105 - atomic, and says that it replaces
    finally:
        shutil.rmtree(aside, ignore_errors=True)
