"""A store made by several jobs: each packs a shard, and a last step joins them.

    sbatch --array=1-8 ... main.py prepare ... --shard $SLURM_ARRAY_TASK_ID/8
    main.py prepare ... --merge 8

Every job reads the whole source and divides it into splits before it takes its share, so that nothing depends on the
number of shards: the joined store equals the one that a single process makes. The shards lie in `.<name>.shards`
beside the output, `3-of-8` and so on, each like a store under construction (:mod:`longview.data.partial`), with a
`done.json` when it is finished. They have files of their own because not every network disk keeps two machines'
writes to one file apart.

Joining is in :mod:`longview.data.merging`.
"""

from __future__ import annotations

import json
import logging
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from longview import InputError
from longview.data.building import Plan, make_place, pack, standing, told
from longview.data.manifest import Manifest
from longview.data.partial import (
    DONE_FILE,
    PartialStore,
    bytes_done,
    check_partial,
    settings_of,
    write_synced,
)
from longview.data.room import bytes_needed, check_room
from longview.data.store import Store, describe_difference, partial_folder

logger = logging.getLogger(__name__)

MERGE_FILE = "merge.json"
"""In the folder of all shards, from the moment when joining begins to move their pixels."""

_SHOWN = 3  # rejected files of a shard that are named
_NAME = re.compile(r"(\d+)-of-(\d+)")


@dataclass(frozen=True)
class Shard:
    """A share of a store's images.

    Args:
        number: Which one, from 1.
        count: How many there are.
    """

    number: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Read `3/8`.

        Raises:
            InputError: For another form, or a number beyond the count.
        """
        found = re.fullmatch(r"\s*(\d+)\s*/\s*(\d+)\s*", text)
        shard = cls(int(found[1]), int(found[2])) if found else None
        if shard is None or not 1 <= shard.number <= shard.count:
            raise InputError(
                f"shard is {text!r}; give number/count, the number from 1 to the count: --shard 3/8, or in a SLURM job "
                f"array of 1-8, --shard $SLURM_ARRAY_TASK_ID/8"
            )
        return shard

    def __str__(self) -> str:
        return f"{self.number}/{self.count}"

    def rows(self, table: pd.DataFrame) -> tuple[int, int]:
        """First row of a manifest's table that is its own, and first that is not any more; see :func:`cuts`."""
        places = cuts(table["study_id"], self.count)
        return places[self.number - 1], places[self.number]


def cuts(studies: pd.Series[str], count: int) -> list[int]:
    """Where to cut a manifest into shards of about the same number of images: count + 1 rows, from 0 to its length.

    A cut moves on to where the next study begins, so that the images of a folder are read by one machine, unless that
    would leave a shard empty.

    Raises:
        InputError: For more shards than images.
    """
    if not 1 <= count <= len(studies):
        raise InputError(f"{count} shards of {len(studies)} images cannot be made; give 1 to {len(studies)}")
    ids = studies.to_numpy(dtype=object)
    begins = np.flatnonzero(np.append(np.append(True, ids[1:] != ids[:-1]), True))
    ideal = np.arange(count + 1) * len(ids) // count
    moved = begins[np.searchsorted(begins, ideal)]
    places: list[int] = (moved if (np.diff(moved) > 0).all() else ideal).tolist()
    return places


def shards_folder(output: Path) -> Path:
    """Where the shards of the store `output` lie until they are joined."""
    return output.with_name(f".{output.name}.shards")


def shard_folder(output: Path, shard: Shard) -> Path:
    """Where one shard lies."""
    return shards_folder(output) / f"{shard.number}-of-{shard.count}"


def refuse_shards(output: Path) -> None:
    """Keep one process from making a store whose shards are being made.

    Raises:
        InputError: Where there are shards.
    """
    found = sorted(_counts(output))
    if found:
        counts = " or ".join(map(str, found))
        raise InputError(
            f"{shards_folder(output)} holds shards of this store: join them with --merge {counts}, or remove that "
            f"folder to make the store without them"
        )


def _counts(output: Path) -> set[int]:
    """Numbers of shards of which some are there."""
    names = [place.name for place in shards_folder(output).iterdir()] if shards_folder(output).is_dir() else []
    return {int(found[2]) for name in names if (found := _NAME.fullmatch(name))}


def check_shard(plan: Plan, shard: Shard) -> Store | None:
    """Make all checks that can be made before a shard is packed; the store, where it is there already.

    Raises:
        InputError: Where something is in the way, or there is too little room.
    """
    start, end = shard.rows(plan.manifest.table)
    store = standing(plan)
    if store is not None:
        return store
    _refuse_joining(plan.output)
    others = sorted(_counts(plan.output) - {shard.count})
    if others:
        text = "%s holds shards of another division too, into %s; --merge %d will use this one only"
        logger.warning(text, shards_folder(plan.output), " and ".join(map(str, others)), shard.count)
    _check_siblings(plan, shard)
    done = check_partial(shard_folder(plan.output, shard), shard_settings(plan, shard), restart=plan.overwrite)
    if done:
        logger.info("shard %s: %d of %d images are done", shard, done, end - start)
    check_room(plan.output, bytes_needed(plan.settings) - _bytes_done(plan.output))
    return None


def _check_siblings(plan: Plan, shard: Shard) -> None:
    """Refuse a shard that could not be joined with the others, for its options differ; with overwrite only say so.

    Raises:
        InputError: Naming the others, the difference and what to do.
    """
    differing: dict[str, list[Shard]] = {}
    for other in (Shard(number, shard.count) for number in range(1, shard.count + 1) if number != shard.number):
        made = settings_of(shard_folder(plan.output, other))
        if made is not None and (found := describe_difference(made, shard_settings(plan, other))):
            differing.setdefault(found, []).append(other)
    if not differing:
        return
    which = "; ".join(f"shards {', '.join(map(str, others))} ({found})" for found, others in differing.items())
    text = f"{shards_folder(plan.output)} holds shards that were made with other options: {which}"
    if plan.overwrite:
        logger.warning("%s; they cannot be joined with this one until they are made anew, with --overwrite true", text)
        return
    first = next(iter(differing.values()))[0]
    raise InputError(
        f"{text}; they could not be joined with shard {shard}. Give the options that they were made with, or make each "
        f"of them anew first: the same command with --shard {first} --overwrite true"
    )


def _refuse_joining(output: Path) -> None:
    if (shards_folder(output) / MERGE_FILE).exists():
        raise InputError(
            f"the shards in {shards_folder(output)} are being joined: finish that with the same command with --merge, "
            f"or remove that folder and {partial_folder(output)} to begin anew"
        )


def shard_settings(plan: Plan, shard: Shard) -> dict[str, Any]:
    """The settings of a shard: the store's, and which shard it is."""
    return {**plan.settings, "shard": str(shard)}


def _bytes_done(output: Path) -> int:
    """Room that all shards take; other jobs may write and remove files there at this moment."""
    total = 0
    for place in shards_folder(output).glob("*-of-*"):
        with suppress(OSError):
            total += bytes_done(place)
    return total


def make_shard(plan: Plan, shard: Shard) -> None:
    """Pack a shard, or go on with it; does nothing where it is finished, or the store is there.

    Files that were rejected are tried again with `overwrite` or `strict`.

    Raises:
        InputError: Where something is in the way, too little room, or a file that may not be rejected cannot be read.
        OSError: Where the disk fills up or fails on the way; running again goes on.
    """
    if check_shard(plan, shard) is not None:
        return
    folder, settings = shard_folder(plan.output, shard), shard_settings(plan, shard)
    rejected = rejected_of(folder)
    finished = rejected is not None and not describe_difference(settings_of(folder) or {}, settings)
    if finished and not (rejected and (plan.overwrite or plan.strict)):
        logger.info("shard %s is finished already", shard)
        return
    make_place(folder, plan.output)
    start, end = shard.rows(plan.manifest.table)
    manifest = Manifest(plan.manifest.table.iloc[start:end].reset_index(drop=True), plan.manifest.origin)
    with PartialStore(plan.output, manifest, settings, plan.overwrite, folder) as partial, told(partial):
        _refuse_joining(plan.output)  # which may have begun, and been killed, before the lock was ours
        (folder / DONE_FILE).unlink(missing_ok=True)
        pack(partial, plan)
        partial.save()
        write_synced(folder / DONE_FILE, json.dumps({"rejected": partial.rejected}))
    for reason in list(partial.rejected.values())[:_SHOWN]:
        logger.warning("left out: %s", reason)
    text = "shard %s is finished: %d images, %d files rejected; when all are, join them with --merge %d"
    logger.info(text, shard, len(partial.done), len(partial.rejected), shard.count)


def rejected_of(folder: Path) -> dict[int, str] | None:
    """Files that a finished shard rejected, row of the shard -> reason; None where it is not finished."""
    file = folder / DONE_FILE
    if not file.is_file():
        return None
    return {int(row): reason for row, reason in json.loads(file.read_text(encoding="utf-8"))["rejected"].items()}
