"""`longview prepare`: from a raw data set to a store, once, with worker processes; safe to kill and resume."""

from __future__ import annotations

import errno
import inspect
import logging
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

from longview import InputError
from longview.data.derive import complete
from longview.data.images import Resize
from longview.data.manifest import Manifest
from longview.data.packing import Job, Outcome, pack_files
from longview.data.partial import Meter, PartialStore, bytes_done, check_partial, clear_leftovers
from longview.data.sources import open_source, source_class
from longview.data.splits import assign_splits, check_division, print_splits, warn_empty
from longview.data.store import (
    REJECTED_FILE,
    Packing,
    Store,
    build_settings,
    bytes_needed,
    check_room,
    describe_difference,
    existing_folder,
    folder_bytes,
    human_bytes,
    partial_folder,
    recover,
)
from longview.labels import LabelSet

logger = logging.getLogger(__name__)

_WORTH_BYTES, _WORTH_FILES = 50e6, 2000  # to read, for each second that a worker takes to start
_HOPELESS = 500  # files rejected in a row from the first on: the root or the disk is at fault, not the files
_STATTED = 2000  # files whose size is looked up for a dry run
_SHOWN_LABELS = 10  # labels in the table of a dry run


def prepare(
    source: str,
    root: Path,
    output: Path,
    *,
    size: int = 512,
    resize: Resize = "squash",
    packing: Packing = "npy",
    jpeg_quality: int = 92,
    labels: Path | None = None,
    table: Path | None = None,
    columns: dict[str, str] | None = None,
    uncertain: Literal["error", "zero", "one", "ignore"] | None = None,
    unknown: Literal["error", "ignore"] | None = None,
    task: Literal[1, 2, 3] | None = None,
    development: Literal["val", "test", "ignore"] | None = None,
    val_fraction: float = 0.1,
    test_fraction: float = 0.1,
    seed: int = 0,
    workers: int | None = None,
    strict: bool = False,
    dry_run: bool = False,
    overwrite: bool = False,
) -> None:
    """Read a raw data set once and write a store: a manifest with splits, and all images resized and packed.

    Example: main.py prepare --source nih --root ../shared/data/nih-1000 --size 64 --output data/nih-1000

    Raw files are only read. The store appears under its name when it is whole; until then it grows in
    .NAME.partial beside it, and the same command goes on where it was stopped or killed. Once it is whole the
    same command does nothing; with other settings it refuses to replace the store unless --overwrite true.

    Files that cannot be read are left out, and listed in rejected.csv of the store with the reason; with
    --strict true the first of them stops the run instead. --dry_run true makes all checks and writes nothing.

    Args:
        source: Raw layout: nih, covid-chestxray, cxr-lt-2024, cxr-lt-2026, phantom, table (your own CSV) or folder.
        root: Folder of the raw data.
        output: Folder of the store to make; it must lie outside of the root.
        size: Side of the square images in pixels; train at this size or below.
        resize: squash stretches films to the square, letterbox pads them with black, crop keeps the centre.
        packing: npy is the fastest to read; jpeg takes about a tenth of the room (1024 px on a small disk).
        jpeg_quality: Quality of the images in the store, 1 to 100; counts only for packing jpeg.
        labels: Label set to align to, a YAML file or a name in configs/labels; default: the source's own.
        table: CSV or parquet file with paths and labels, for source table.
        columns: Which column is what, for source table: '{"path": "file", "patient_id": "mrn"}'.
        uncertain: What -1 in a label becomes, for source table: zero, one or ignore (empty); default: an error.
        unknown: Findings outside of the labels, for nih and covid-chestxray: error (default) or ignore.
        task: Which task's files to read, for cxr-lt-2024; default: those that fit the labels.
        development: What the development images are, for cxr-lt-2024: val (default), test or ignore.
        val_fraction: Share for validation, whole patients; counts where images have no official split, or the
            official lists have no validation part; never for source folder.
        test_fraction: Share for testing, whole patients; counts only for images without an official split;
            never for source folder.
        seed: Seed of the division into splits, 0 or more; counts where a fraction does.
        workers: Worker processes; 0 works in this one; default: one per CPU, fewer for few images.
        strict: Stop at the first file that cannot be read, instead of listing it.
        dry_run: Say what would be read, how large the store would be and what stands in the way; write nothing.
        overwrite: Make the store anew where there is one; the old one stays until the new one is whole, and is put
            back by the next command that opens it if the run is killed in the very moment of the exchange.
    """
    _check_arguments(root, output, size, jpeg_quality, workers)
    check_division(val_fraction, test_fraction, seed)
    label_set = None if labels is None else LabelSet.load(labels)
    given = {"uncertain": uncertain, "unknown": unknown, "task": task, "development": development}
    manifest = complete(open_source(source, root, label_set, table=table, columns=columns, **given).read(), label_set)
    options: dict[str, Any] = {"source": source, "labels": None if labels is None else str(labels)}
    options |= {name: value for name, value in given.items() if value is not None}
    division = {"val_fraction": val_fraction, "test_fraction": test_fraction, "seed": seed}
    read = _division_read(source, manifest)
    if source_class(source).assign:
        manifest = assign_splits(manifest, val_fraction, test_fraction, seed)
    options |= {name: division[name] for name in read}
    unread = {name: value for name, value in division.items() if name not in read}
    _warn_unread(unread | ({} if packing == "jpeg" else {"jpeg_quality": jpeg_quality}), source, packing)
    if dry_run:
        settings = build_settings(
            manifest, root, size=size, resize=resize, packing=packing, jpeg_quality=jpeg_quality, options=options
        )
        _describe(manifest, root, output, bytes_needed(settings))
        _standing(output.resolve(), settings, strict, overwrite)
        return
    store = prepare_manifest(
        manifest, root, output, size=size, resize=resize, packing=packing, jpeg_quality=jpeg_quality,
        workers=workers, strict=strict, overwrite=overwrite, options=options,
    )  # fmt: skip
    before = set(manifest.table["split"].unique())
    warn_empty(store.manifest, before, f"none of its files can be read; see {output / REJECTED_FILE}")
    print_splits(store.manifest)


def _division_read(source: str, manifest: Manifest) -> list[str]:
    """Which options of the division count for what the source gave."""
    splits = set(manifest.table["split"].unique())
    if not source_class(source).assign or ("none" not in splits and "val" in splits):
        return []
    return ["val_fraction", "test_fraction", "seed"] if "none" in splits else ["val_fraction", "seed"]


def _warn_unread(unread: Mapping[str, object], source: str, packing: Packing) -> None:
    """Name the options that were given another value than their default, and change nothing."""
    why = f"the data set of source {source} has that split already"
    if not source_class(source).assign:
        why = f"source {source} leaves its images without a split"
    for name, value in unread.items():
        if value != inspect.signature(prepare).parameters[name].default:
            reason = f"packing is {packing}" if name == "jpeg_quality" else why
            logger.warning("--%s %s changes nothing: %s", name, value, reason)


def prepare_manifest(
    manifest: Manifest,
    root: Path,
    output: Path,
    *,
    size: int = 512,
    resize: Resize = "squash",
    packing: Packing = "npy",
    jpeg_quality: int = 92,
    workers: int | None = None,
    strict: bool = False,
    overwrite: bool = False,
    options: Mapping[str, Any] | None = None,
) -> Store:
    """Pack the images of a manifest into a store, or go on with a half-made one.

    Args:
        manifest: Images with their splits and labels; paths are relative to the root.
        root: Folder of the raw files.
        output: Folder of the store, outside of the root.
        size: Side of the square images in pixels.
        resize: squash, letterbox or crop; see :func:`longview.data.images.resize_image`.
        packing: npy or jpeg.
        jpeg_quality: 1 to 100.
        workers: Processes; 0: this one; None: one per CPU, fewer for few images.
        strict: Stop at the first file that cannot be read.
        overwrite: Replace a finished store, and drop a half-made one of other settings.
        options: What the manifest was made with, kept in the store's settings.

    Returns:
        The finished store; the one that is there already where it has the same settings and manifest.

    Raises:
        InputError: For a store of other settings at `output`, too little room, or no readable file.
        OSError: Where the disk fills up or fails on the way; running again goes on.
    """
    _check_arguments(root, output, size, jpeg_quality, workers)
    output = output.resolve()  # a link to another disk: the store is built there
    settings = build_settings(
        manifest, root, size=size, resize=resize, packing=packing, jpeg_quality=jpeg_quality, options=options or {}
    )
    store = _standing(output, settings, strict, overwrite)
    if store is not None:
        clear_leftovers(output)
        return store
    _make_place(output)
    return _build(output, root, manifest, settings, jpeg_quality, workers, strict, overwrite)


def _standing(output: Path, settings: Mapping[str, Any], strict: bool, overwrite: bool) -> Store | None:
    """The store that is wanted, where it is there already; else None, after all checks that can be made before.

    Raises:
        InputError: Where another store, a half-made one, another folder or too little room is in the way.
    """
    recover(output)
    if not overwrite and _is_done(output, settings, strict):
        logger.info("%s is there already, made with the same settings", output)
        store = Store(output)
        if store.info.rejected:
            text = "%d files were rejected, see %s; --overwrite true tries them again"
            logger.warning(text, store.info.rejected, output / REJECTED_FILE)
        return store
    _check_output(output, overwrite)
    done = check_partial(output, settings, restart=overwrite)
    if done:
        logger.info("going on: %d of %d images are done", done, settings["images"])
    check_room(output, bytes_needed(settings) - bytes_done(output))
    return None


def _build(
    output: Path,
    root: Path,
    manifest: Manifest,
    settings: Mapping[str, Any],
    jpeg_quality: int,
    workers: int | None,
    strict: bool,
    overwrite: bool,
) -> Store:
    """Read and pack what is not done yet, and move the store into place."""
    with PartialStore(output, manifest, settings, restart=overwrite) as partial:
        jobs = partial.jobs()
        count = _workers(workers, jobs, root)
        outcomes = pack_files(jobs, partial.pack_settings(root, settings["resize"], jpeg_quality), count)
        try:
            with closing(outcomes):
                _pack(partial, outcomes, strict)
            _check_any(partial)
            partial.finish(root)
        except KeyboardInterrupt:
            logger.warning(_stopped(partial, "interrupted"))
            raise
        except OSError as error:
            full = error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
            reason = "the disk is full" if full else f"writing failed ({error.strerror})"
            raise OSError(error.errno, _stopped(partial, reason), str(partial.folder)) from error
    store = Store(output)
    if partial.rejected:
        text = "%d files could not be read and were left out; see %s"
        logger.warning(text, len(partial.rejected), output / REJECTED_FILE)
    logger.info("%s: %d images of %d px, %s", output, len(store), store.info.size, human_bytes(folder_bytes(output)))
    return store


def _check_arguments(root: Path, output: Path, size: int, jpeg_quality: int, workers: int | None) -> None:
    if size < 1:
        raise InputError(f"size must be at least 1, not {size}")
    if not 1 <= jpeg_quality <= 100:
        raise InputError(f"jpeg_quality must be 1 to 100, not {jpeg_quality}")
    if workers is not None and workers < 0:
        raise InputError(f"workers must be 0 or more, not {workers}")
    _check_place("root", root)
    _check_place("output", output)
    if not root.is_dir():
        raise InputError(f"root {root} is not a folder; give the folder of the raw data")
    inner, outer = output.resolve(), root.resolve()
    if inner == outer or outer in inner.parents or inner in outer.parents:
        raise InputError(f"output {output} and root {root} lie in each other; raw data are never written to")
    _check_place("output", partial_folder(inner))


def _check_place(name: str, place: Path) -> None:
    try:
        place.lstat()
    except FileNotFoundError:
        pass
    except OSError as error:  # too long a name, a file where a folder should be, a folder that may not be read
        raise InputError(f"{name} {place} cannot be used: {error.strerror}; give another path") from error


def _is_done(output: Path, settings: Mapping[str, Any], strict: bool) -> bool:
    """Whether the store that is wanted is there.

    Raises:
        InputError: Where another one is there.
    """
    if not Store.is_store(output):
        return False
    store = Store(output)
    differing = describe_difference(store.info.settings, settings)
    if differing:
        raise InputError(f"{output} is a store already, made otherwise ({differing}); --overwrite replaces it")
    if strict and store.info.rejected:
        raise InputError(f"{output} was made without {store.info.rejected} files; see {output / REJECTED_FILE}")
    return True


def _make_place(output: Path) -> None:
    """Make the folder in which the store is built.

    Raises:
        InputError: Where it cannot be made.
    """
    try:
        partial_folder(output).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"output {output} cannot be made: {error.strerror}; give another path") from error


def _check_output(output: Path, overwrite: bool) -> None:
    """Never replace a folder that is not a store."""
    if output.exists() and not Store.is_store(output) and (output.is_file() or any(output.iterdir())):
        extra = "; --overwrite replaces stores only" if overwrite else ""
        raise InputError(f"{output} exists and is not a store{extra}; give another output, or remove it")


def _workers(asked: int | None, jobs: Sequence[Job], root: Path) -> int:
    """Number of processes; 0 for so little work that starting one costs more than it brings."""
    if asked is not None:
        return min(asked, len(jobs))
    if not jobs:
        return 0
    sizes = _file_sizes(root, [path for _, path in jobs[:: len(jobs) // 50 + 1]])
    share = sum(sizes) / max(len(sizes), 1) / _WORTH_BYTES + 1 / _WORTH_FILES
    # the CPUs that a job scheduler or container grants; macOS does not know of such
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    count = min(cpus, int(len(jobs) * share))
    return count if count > 1 else 0


def _file_sizes(root: Path, paths: Iterable[str]) -> list[int]:
    """Bytes of those files that are there."""
    return [(root / path).stat().st_size for path in paths if (root / path).is_file()]


def _pack(partial: PartialStore, outcomes: Iterable[list[Outcome]], strict: bool) -> None:
    """Record outcomes and show how far it is."""
    with Meter(len(partial.manifest), len(partial.done)) as meter:
        for some in outcomes:
            partial.record(some)
            bad = [outcome.reason for outcome in some if outcome.reason]
            if bad and strict:
                raise InputError(f"{bad[0]}; stopped, because of --strict, at the first file that cannot be read")
            if not partial.done and len(partial.rejected) >= _HOPELESS:
                raise InputError(f"the first {len(partial.rejected)} files cannot be read: {bad[0]}")
            meter.update(len(partial.done), len(partial.rejected))


def _check_any(partial: PartialStore) -> None:
    if not partial.done:
        reasons = "; ".join(list(partial.rejected.values())[:3])
        shutil.rmtree(partial.folder)
        raise InputError(f"none of the {len(partial.rejected)} files can be read: {reasons}")


def _stopped(partial: PartialStore, reason: str) -> str:
    return (
        f"{reason} after {partial.rescue()} of {len(partial.manifest)} images; they are kept: "
        f"the same command goes on from there"
    )


def _describe(manifest: Manifest, root: Path, output: Path, needed: int) -> None:
    """Print what a dry run found: rows per split and view, common labels, bytes to read and to write."""
    console, data = Console(), manifest.table
    looked = min(len(data), _STATTED)
    sizes = _file_sizes(root, data["path"].sample(looked, random_state=0))
    to_read = int(sum(sizes) / looked * len(data))
    how = "all files" if looked == len(data) else f"from the sizes of {looked}"
    existing = existing_folder(output)
    table = Table(title=Text(f"{manifest.origin}: would become {output}"), show_header=False)
    table.add_row("images", f"{len(data):,} of {data['patient_id'].nunique():,} patients")
    for column in ("split", "view"):
        counts = data[column].value_counts()
        table.add_row(column, ", ".join(f"{name} {count:,}" for name, count in counts.items()))
    positives = data[manifest.labels].sum().sort_values(ascending=False)
    top = [f"{name} {count:,.0f}" for name, count in positives.head(_SHOWN_LABELS).items()]
    table.add_row(f"labels ({len(manifest.labels)})", Text(", ".join(top) or "none"))
    if len(sizes) < looked:
        table.add_row("missing", f"{looked - len(sizes)} of {looked} files looked at are not there")
    table.add_row("to read", f"{human_bytes(to_read)} ({how})")
    free = human_bytes(shutil.disk_usage(existing).free)
    table.add_row("store", Text(f"{human_bytes(needed)}; {free} free at {existing}"))
    console.print(table)
