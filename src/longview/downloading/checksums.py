"""SHA-256 sums of downloaded files against those that their owner published.

What was found right is noted in the user's cache folder (the raw data are only read), so that a check that was stopped
goes on, and a second one looks only at files that changed.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from longview import InputError
from longview.outputs import sha256

logger = logging.getLogger(__name__)

SUMS_FILE = "SHA256SUMS.txt"
_LINE = re.compile(r"([0-9a-fA-F]{64})[ \t]+\*?(?:\./)?(.+)")
_SHOWN = 5  # names in a message before it says how many more there are
_THREADS = 4  # hashing gives the lock away; more threads keep a network disk busy
_AT_ONCE = 256  # files handed to the threads before the first is noted


@dataclass(frozen=True)
class Checked:
    """What a comparison found.

    Args:
        right: Number of files with the published sum.
        missing: Names of listed files that are not there.
        differing: Names of files with another sum.
    """

    right: int
    missing: list[str]
    differing: list[str]


def check_folder(folder: Path) -> None:
    """Compare a folder with its owner's sums, `SHA256SUMS.txt` in it, and say what was found.

    Raises:
        InputError: Where there is no such file, or files differ.
    """
    sums = folder / SUMS_FILE
    if not sums.is_file():
        raise InputError(
            f"{sums} is not there: download it with the data, from the page of the data set (`main.py download` names "
            f"it); sets without one publish no sums"
        )
    found = compare(folder, read_sums(sums), state_file(folder))
    if found.missing:
        logger.warning("%d listed files are not there, first %s", len(found.missing), _first(found.missing))
    if found.differing:
        raise InputError(
            f"{len(found.differing)} of {found.right + len(found.differing)} files in {folder} differ from what "
            f"{sums.name} says, first {_first(found.differing)}; remove them and download again"
        )
    logger.info("%s: %d files are as published", folder, found.right)


def read_sums(file: Path) -> dict[str, str]:
    """Read a file of sums as `sha256sum` writes it: path below the folder -> sum in lower case.

    Raises:
        InputError: For a line of another form, or a path that leads out of the folder.
    """
    sums: dict[str, str] = {}
    for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        found = _LINE.fullmatch(line.rstrip())
        if found is None or found[2].startswith("/") or ".." in Path(found[2]).parts:
            raise InputError(f"{file}: line {number} is not `SUM  PATH`: {line[:80]!r}; download that file again")
        sums[found[2]] = found[1].lower()
    return sums


def state_file(folder: Path) -> Path:
    """Where it is noted which files of a folder were found right."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "longview" / "checked" / f"{hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:32]}.jsonl"


def compare(folder: Path, sums: dict[str, str], state: Path) -> Checked:
    """Compare files with their sums; those that are noted as right and have not changed since are not read again.

    Args:
        folder: The data.
        sums: Path below the folder -> SHA-256 sum.
        state: Where right ones are noted; made where it is not there.
    """
    known = _known(state)
    missing: list[str] = []
    differing: list[str] = []
    left: list[tuple[str, list[object]]] = []
    right = 0
    for name, wanted in sums.items():
        try:
            status = (folder / name).stat()
        except (FileNotFoundError, NotADirectoryError):
            missing.append(name)
            continue
        note = [name, status.st_size, status.st_mtime_ns, wanted]
        if known.get(name) == note:
            right += 1
        else:
            left.append((name, note))
    state.parent.mkdir(parents=True, exist_ok=True)
    with state.open("a", encoding="utf-8") as notes, _progress() as bar:
        task = bar.add_task("", total=len(sums) - len(missing), completed=right)
        for (name, note), found in _sums(folder, left):
            if found == note[-1]:
                right += 1
                notes.write(json.dumps(note) + "\n")
            else:
                differing.append(name)
            bar.advance(task)
    return Checked(right, missing, differing)


def _sums(folder: Path, left: list[tuple[str, list[object]]]) -> Iterator[tuple[tuple[str, list[object]], str]]:
    """Files with their sums, in order, some at a time so that an interrupt is quick."""
    with ThreadPoolExecutor(_THREADS) as pool:
        for begin in range(0, len(left), _AT_ONCE):
            some = left[begin : begin + _AT_ONCE]
            yield from zip(some, pool.map(lambda item: sha256(folder / item[0]), some), strict=True)


def _known(state: Path) -> dict[str, list[object]]:
    """What was noted; a last line that a kill cut is left out."""
    if not state.is_file():
        return {}
    known: dict[str, list[object]] = {}
    for line in state.read_text(encoding="utf-8").splitlines():
        try:
            note = json.loads(line)
        except ValueError:
            continue
        known[note[0]] = note
    return known


def _progress() -> Progress:
    console = Console(stderr=True)
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("files"), TimeRemainingColumn())
    return Progress(*columns, console=console, disable=not console.is_terminal)


def _first(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
