"""Joining the shards of a store.

The pixels are moved, block by block from the end of each shard, and what is moved is cut off the shard: joining takes
one block (:data:`BLOCK_BYTES`) more room than the store, never twice the store. A block is on disk in its new place
before it is cut off, so after a kill the length of each shard says what is left to move. The store grows in
`.<name>.partial`, as that of one process does, and its journal takes over a shard's lines when its pixels are there.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from longview import InputError
from longview.data.building import Plan, announce, make_place, standing, told
from longview.data.packing import Outcome, write_all
from longview.data.partial import PartialStore, clear_leftovers, lock, read_journal, settings_of, write_synced
from longview.data.room import bytes_needed, check_room
from longview.data.shards import (
    MERGE_FILE,
    Shard,
    cuts,
    rejected_of,
    shard_folder,
    shard_settings,
    shards_folder,
)
from longview.data.store import IMAGES_FILE, Store, describe_difference, partial_folder

logger = logging.getLogger(__name__)

BLOCK_BYTES = 64 * 2**20
"""Pixels that are moved at a time."""

_AT_WORK = "at work now"
_OTHER = "with other settings"


@dataclass(frozen=True)
class Part:
    """A finished shard.

    Args:
        shard: Which one.
        folder: Where it lies.
        start: Row of the store's manifest that its first row is.
        end: Row behind its last.
        rejected: Its row -> why the file was rejected.
    """

    shard: Shard
    folder: Path
    start: int
    end: int
    rejected: dict[int, str]


def check_merge(plan: Plan, count: int) -> Store | None:
    """Make all checks that can be made before shards are joined; the store, where it is there already.

    Raises:
        InputError: Where shards are missing, not finished, at work or of other settings, or something is in the way.
    """
    store = _before(plan)
    if store is None:
        with _ready(plan, count):
            pass
    return store


def merge_shards(plan: Plan, count: int) -> Store:
    """Join all shards into the store, or go on with that, and remove them.

    Args:
        plan: The store, with the options that the shards were made with.
        count: Number of shards.

    Raises:
        InputError: As :func:`check_merge`, and where no file could be read.
        OSError: Where the disk fills up or fails on the way; running again goes on.
    """
    store = _before(plan)
    if store is not None:
        clear_leftovers(plan.output)
        _clear(plan.output)
        return store
    with _ready(plan, count) as parts:
        make_place(partial_folder(plan.output), plan.output)
        begun = (shards_folder(plan.output) / MERGE_FILE).exists()
        with (
            PartialStore(plan.output, plan.manifest, plan.settings, plan.overwrite, anew=not begun) as whole,
            told(whole),
        ):
            _join(whole, parts, plan)
            whole.finish(plan.root, plan.annotations)
    _clear(plan.output)
    store = Store(plan.output)
    announce(store)
    return store


def _before(plan: Plan) -> Store | None:
    """The store, where it is there already: also where joining with --overwrite was killed just after it was."""
    spent = (shards_folder(plan.output) / MERGE_FILE).exists() and settings_of(partial_folder(plan.output)) is None
    store = standing(replace(plan, overwrite=False) if spent else plan)
    if store is None and spent:
        raise InputError(
            f"the shards in {shards_folder(plan.output)} were joined, but the store is not at {plan.output}; if it was "
            f"moved, give its new place, else remove that folder and make the shards again"
        )
    return store


@contextmanager
def _ready(plan: Plan, count: int) -> Iterator[list[Part]]:
    """All shards, locked, checked.

    Raises:
        InputError: Where one is missing, not finished, at work or of other settings; names each.
    """
    if count < 1:
        raise InputError(f"merge must be the number of shards, at least 1, not {count}")
    places = cuts(plan.manifest.table["study_id"], count)
    with ExitStack() as locks:
        parts: list[Part] = []
        faults: dict[str, list[int]] = {}
        for number in range(1, count + 1):
            shard = Shard(number, count)
            part = Part(shard, shard_folder(plan.output, shard), places[number - 1], places[number], {})
            fault = _fault(plan, part, locks)
            if fault:
                faults.setdefault(fault, []).append(number)
            else:
                parts.append(replace(part, rejected=rejected_of(part.folder) or {}))
        if faults:
            found = f"{len(parts)} of {count} shards in {shards_folder(plan.output)} are finished and can be joined"
            raise InputError(f"{found}. {_listed(faults)}. {_remedies(faults, count)}")
        _check_readable(plan, parts)
        check_room(plan.output, min(BLOCK_BYTES, bytes_needed(plan.settings)))
        yield parts


def _listed(faults: dict[str, list[int]]) -> str:
    return "; ".join(f"{fault}: {', '.join(map(str, numbers))}" for fault, numbers in faults.items())


def _remedies(faults: dict[str, list[int]], count: int) -> str:
    """What to do, once for each kind of fault."""
    lines: dict[str, str] = {}
    for fault, (first, *_) in faults.items():
        command = f"the same command with --shard {first}/{count}"
        instead = f"instead of --merge {count} makes shard {first}"
        if fault == _AT_WORK:
            lines.setdefault("wait", "Wait for those at work")
        elif _OTHER in fault:
            made = f"To use these options, {command} --overwrite true {instead} anew"
            lines.setdefault("anew", f"{made}; to use that shard's, give them with --merge {count}")
        else:
            lines.setdefault("make", f"T{command[1:]} {instead}, or goes on with it")
    return ". ".join(lines.values())


def _fault(plan: Plan, part: Part, locks: ExitStack) -> str:
    """Why a shard cannot be joined; empty where it can, and then it is locked."""
    made = settings_of(part.folder)
    if made is None:
        return "not begun"
    try:
        locks.callback(os.close, lock(part.folder, plan.output))
    except InputError:
        return _AT_WORK
    differing = describe_difference(made, shard_settings(plan, part.shard))
    rejected = rejected_of(part.folder)
    if differing:
        return f"{'half made' if rejected is None else 'finished, but'} {_OTHER} ({differing})"
    done = read_journal(part.folder)
    if rejected is None:
        return f"half made ({len(done):,} of {part.end - part.start:,} images)"
    if len(done.keys() | rejected.keys()) != part.end - part.start:
        return "damaged (its journal is not whole; remove it and make it again)"
    return ""


def _check_readable(plan: Plan, parts: list[Part]) -> None:
    """Refuse a store without images, or with files missing that may not be."""
    reasons = [reason for part in parts for reason in part.rejected.values()]
    if len(reasons) == len(plan.manifest):
        raise InputError(f"none of the {len(reasons)} files can be read: {'; '.join(reasons[:3])}")
    if reasons and plan.strict:
        raise InputError(f"{reasons[0]}; with --strict no file may be missing, but the shards lack {len(reasons)}")


def _join(whole: PartialStore, parts: list[Part], plan: Plan) -> None:
    """Move the pixels of every shard and take over its journal."""
    name = IMAGES_FILE[whole.packing]
    for part, (first, to) in zip(parts, _moves(whole, parts, plan), strict=True):
        _move(part.folder / name, whole.folder / name, first, to)
        outcomes = read_journal(part.folder).values()
        moved = [_moved(outcome, part.start, to - first) for outcome in outcomes]
        whole.record(outcome for outcome in moved if outcome.row not in whole.done)
        whole.save()
        whole.rejected |= {row + part.start: reason for row, reason in part.rejected.items()}
        logger.info("shard %s is joined: %d of %d images", part.shard, len(whole.done), len(plan.manifest))


def _moved(outcome: Outcome, rows: int, offset: int) -> Outcome:
    """A shard's outcome as one of the whole store."""
    start = outcome.start + offset if outcome.length else 0
    return outcome._replace(row=outcome.row + rows, start=start)


def _moves(whole: PartialStore, parts: list[Part], plan: Plan) -> list[tuple[int, int]]:
    """First byte of each shard's pixels, and where it goes in the whole store.

    They are worked out once, from the lengths of whole files, and kept in a file: the lengths shrink.
    """
    file = shards_folder(plan.output) / MERGE_FILE
    moves: list[tuple[int, int]] = []
    if file.exists():
        moves = [(first, to) for first, to in json.loads(file.read_text(encoding="utf-8"))["moves"]]
        if len(moves) != len(parts):
            raise InputError(f"joining {len(moves)} shards has begun already; go on with --merge {len(moves)}")
        return moves
    name, image = IMAGES_FILE[whole.packing], int(plan.settings["size"]) ** 2
    lengths = [(part.folder / name).stat().st_size for part in parts]
    if whole.packing == "npy":
        header = (whole.folder / name).stat().st_size - len(plan.manifest) * image
        for part, length in zip(parts, lengths, strict=True):
            moves.append((length - (part.end - part.start) * image, header + part.start * image))
    else:
        moves = [(0, sum(lengths[:number])) for number in range(len(parts))]
    write_synced(file, json.dumps({"moves": moves}))
    return moves


def _move(source: Path, target: Path, first: int, to: int) -> None:
    """Move the bytes of a file from `first` on to the place `to` of another, last block first.

    Args:
        source: The file; what is moved is cut off.
        target: The other file.
        first: First byte to move.
        to: Where it goes.
    """
    reading, writing = os.open(source, os.O_RDWR), os.open(target, os.O_WRONLY)
    try:
        end = os.fstat(reading).st_size
        while end > first:
            begin = max(first, end - BLOCK_BYTES)
            block = _read(reading, begin, end - begin)
            if block.count(0) < len(block):  # a hole stays a hole
                write_all(writing, block, to + begin - first)
                os.fsync(writing)
            os.ftruncate(reading, begin)
            end = begin
    finally:
        os.close(reading)
        os.close(writing)


def _read(file: int, position: int, length: int) -> bytes:
    """Read all bytes of a block; one call may give fewer."""
    pieces: list[bytes] = []
    while length:
        piece = os.pread(file, length, position)
        if not piece:
            raise EOFError("the file became shorter while it was read")
        pieces.append(piece)
        position, length = position + len(piece), length - len(piece)
    return b"".join(pieces)


def _clear(output: Path) -> None:
    """Remove the shards of a finished store, unless one is at work; what says that they are joined goes last."""
    place = shards_folder(output)
    if not place.is_dir():
        return
    with ExitStack() as locks:
        folders = [folder for folder in place.iterdir() if folder.is_dir()]
        try:
            for folder in folders:
                locks.callback(os.close, lock(folder, output))
        except InputError as error:
            logger.warning("%s stays: %s", place, error)
            return
        for folder in folders:
            shutil.rmtree(folder)
        shutil.rmtree(place)
