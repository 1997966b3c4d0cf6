"""A store with labels of its own for the films of another one: no image is copied."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from longview import InputError, __version__
from longview.data.manifest import Manifest, label_columns
from longview.data.store import (
    BOXES_FILE,
    CODES_FILE,
    LOCK_FILE,
    MANIFEST_FILE,
    REJECTED_FILE,
    Store,
    content_hash,
    partial_folder,
    replaced_folder,
)


def write_borrowing(
    store: Store, table: pd.DataFrame, output: Path, settings: Mapping[str, Any], notes: Mapping[str, str]
) -> Store:
    """Write a store of the same films with another manifest, which reads the images where they are.

    The images are found by the way from one folder to the other, so that both may be moved together; where the two
    have nothing above them in common but the root, by their absolute path. What lies beside the manifest (codes,
    boxes, rejected files) is copied.

    Args:
        store: The store that has the images, or borrows them itself.
        table: Its manifest's rows, in its order, with other label columns.
        output: Folder to write; a store that stands there is replaced, and is whole at any moment but for the one
            between two renames, after which opening it puts it back.
        settings: What it was made with, to compare with later.
        notes: File name -> text of further files.

    Raises:
        InputError: Where the folder cannot be made, another process writes it, or the table breaks a manifest's rule.
    """
    output, owner = output.resolve(), store.images_folder.resolve()
    apart = os.path.commonpath([owner, output]) == os.sep
    borrowed = {
        "path": str(owner) if apart else os.path.relpath(owner, output),
        "content_hash": Store(owner).info.content_hash,
    }
    info = replace(
        store.info,
        labels=label_columns(table.columns),
        settings=json.loads(json.dumps(settings)),
        content_hash=content_hash(table, [borrowed["content_hash"]]),
        longview_version=__version__,
        borrowed=borrowed,
    )
    with _in_place(output) as folder:
        Manifest(table, origin=str(output / MANIFEST_FILE)).write(folder / MANIFEST_FILE)
        for name in (CODES_FILE, BOXES_FILE, REJECTED_FILE):
            if (store.path / name).is_file():
                shutil.copy(store.path / name, folder / name)
        for name, text in notes.items():
            (folder / name).write_text(text, encoding="utf-8")
        info.write(folder)  # last: without it, it is no store
    return Store(output)


@contextmanager
def _in_place(output: Path) -> Iterator[Path]:
    """Give an empty folder under a lock, and put it in place of `output` when it is whole, as `prepare` does."""
    folder, old = partial_folder(output), replaced_folder(output)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError, PermissionError) as error:
        raise InputError(f"{output} cannot be made: {error.strerror}; give another --output") from error
    with (folder / LOCK_FILE).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise InputError(f"another process is writing {output} at this moment") from error
        for leftover in folder.iterdir():  # of a killed run
            if leftover.name != LOCK_FILE:
                leftover.unlink()
        try:
            yield folder
        except BaseException:
            shutil.rmtree(folder)
            raise
        shutil.rmtree(old, ignore_errors=True)
        if output.exists():
            output.rename(old)
        folder.rename(output)
        (output / LOCK_FILE).unlink()
    shutil.rmtree(old, ignore_errors=True)
