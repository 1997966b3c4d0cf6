"""Folders of results that are never seen half-written, and what tells one file from another."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from longview import InputError


def make_folder(folder: Path, output: Path) -> None:
    """Make a folder that results are written to, and those above it.

    Args:
        folder: The folder; it may exist.
        output: What the user asked for, for the message.

    Raises:
        InputError: Where a file is in the way, or the place may not or cannot be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise InputError(
            f"{output} cannot be written: {_file_in_the_way(folder)} is a file, not a folder; choose another --output"
        ) from error
    except (FileNotFoundError, PermissionError) as error:
        raise InputError(
            f"{output} cannot be written: {error.strerror} on making the folder {folder}; choose an --output in a "
            f"folder that you may write to"
        ) from error


def _file_in_the_way(folder: Path) -> Path:
    return next((path for path in (folder, *folder.parents) if path.exists()), folder)


def keep_apart(written: Sequence[tuple[str, Path]], read: Sequence[tuple[str, Path | None]]) -> None:
    """Refuse to write a file over one that is read, or two files to one place; only before anything is written.

    Args:
        written: Option and file, for each file that will be written.
        read: Option and file, for each that is read; a folder that `prepare` wrote stands for its table. None where
            the option is not given.

    Raises:
        InputError: Naming both options and the file.
    """
    taken: dict[Path, str] = {}
    for option, file in read:
        if file is not None:
            taken.setdefault((file / "manifest.parquet" if file.is_dir() else file).resolve(), f"{option} reads")
    for option, file in written:
        place = file.resolve()
        if place in taken:
            raise InputError(f"{option} would write {file}, which {taken[place]}; give {option} another name or folder")
        taken[place] = f"{option} writes"


@contextmanager
def staged(output: Path) -> Iterator[Path]:
    """Give a temporary folder beside `output`; what was written there is moved to `output` on success.

    A new folder appears whole. In one that exists, files of the same name are replaced one by one, each
    whole, and others stay. After an error, or a kill while writing, `output` is as it was; what a killed run
    left aside is removed by the next.

    Raises:
        InputError: Where `output` is a file, or cannot be made.
    """
    if output.exists() and not output.is_dir():
        raise InputError(f"{output} is a file; give a folder to write to")
    asked, output = output, output.absolute()
    aside = output.with_name(f".{output.name}.partial")
    shutil.rmtree(aside, ignore_errors=True)
    make_folder(aside, asked)
    try:
        yield aside
        if not output.exists():
            aside.rename(output)
            return
        for file in sorted(aside.iterdir()):
            os.replace(file, output / file.name)  # noqa: PTH105 - atomic, and says that it replaces
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def sha256(file: Path) -> str:
    """Hash of a file's bytes, hexadecimal."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
