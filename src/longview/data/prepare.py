"""`longview prepare`: from a raw data set to a store, once, with worker processes; safe to kill and resume."""

from __future__ import annotations

import inspect
import logging
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from rich.console import Console
from rich.table import Table
from rich.text import Text

from longview import InputError
from longview.data.annotations import Annotations
from longview.data.building import (
    Plan,
    announce,
    check_arguments,
    file_sizes,
    make_place,
    pack,
    plan_store,
    standing,
    told,
)
from longview.data.derive import complete
from longview.data.images import Resize
from longview.data.manifest import Manifest
from longview.data.merging import check_merge, merge_shards
from longview.data.partial import PartialStore, bytes_done, check_partial, clear_leftovers
from longview.data.room import bytes_needed, check_room, existing_folder, human_bytes
from longview.data.shards import Shard, check_shard, make_shard, refuse_shards
from longview.data.sources import open_source, source_class
from longview.data.sources.policy import label_table
from longview.data.splits import assign_splits, check_division, print_splits, warn_empty
from longview.data.store import REJECTED_FILE, Packing, Store, partial_folder
from longview.labels import LabelSet

logger = logging.getLogger(__name__)

_STATTED = 2000  # files whose size is looked up for a dry run
_SHOWN_LABELS = 10  # labels in the table of a dry run

PolicyOption = str | float | dict[str, str | float]
"""What a code becomes: a word, a number, a mapping label -> either with `default`, or a YAML file of such a mapping."""


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
    uncertain: PolicyOption | None = None,
    blank: PolicyOption | None = None,
    unknown: Literal["error", "ignore"] | None = None,
    task: Literal[1, 2, 3] | None = None,
    development: Literal["val", "test", "ignore"] | None = None,
    labeler: str | None = None,
    votes: Literal["any", "majority", "all", "fraction"] | None = None,
    findings: Literal["four", "all"] | None = None,
    val_fraction: float = 0.1,
    test_fraction: float = 0.1,
    seed: int = 0,
    workers: int | None = None,
    shard: str | None = None,
    merge: int | None = None,
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

    On a cluster, several jobs share the work: sbatch --array=1-8 ... prepare ... --shard $SLURM_ARRAY_TASK_ID/8,
    and when all are finished, once, prepare ... --merge 8. The store is the one that a single process makes.

    Args:
        source: Raw layout: nih, nih-google, rsna, chexpert, mimic, cxr-lt-2023, cxr-lt-2024, cxr-lt-2026, padchest,
            vinbig, vindr, openi, covid-chestxray, phantom, table (your own CSV) or folder.
        root: Folder of the raw data.
        output: Folder of the store to make; it must lie outside of the root.
        size: Side of the square images in pixels; train at this size or below.
        resize: squash stretches films to the square, letterbox pads them with black, crop keeps the centre.
        packing: npy is the fastest to read; jpeg takes about a tenth of the room (1024 px on a small disk).
        jpeg_quality: Quality of the images in the store, 1 to 100; counts only for packing jpeg.
        labels: Label set to align to, a YAML file or a name in configs/labels; default: the source's own.
        table: CSV or parquet file with paths and labels, for source table.
        columns: Which column is what, for source table: '{"path": "file", "patient_id": "mrn"}'.
        uncertain: What an uncertain label becomes, for sources with label codes and for source table: zero, one,
            ignore (empty), soft (0.5) or a number between; or per label: --uncertain.Edema one --uncertain.default
            ignore, or a YAML file of labels and values. Default: the source's own; for source table, -1 is an error.
        blank: What a label that the report does not mention becomes, for sources with label codes; as uncertain.
        unknown: Findings outside of the labels, for nih, vinbig, vindr, padchest, covid-chestxray: error (default) or
            ignore.
        task: Which task's files to read, for cxr-lt-2024; default: those that fit the labels.
        development: What the development images are, for cxr-lt-2024: val (default), test or ignore.
        labeler: Whose label file to read, where the data set has several: for chexpert chexpert, chexbert or
            visualchexbert; for mimic chexpert or negbio; default: chexpert.
        votes: How several readers of an image become one label, for vinbig and vindr: any, majority (default), all,
            or fraction (their share, a soft label).
        findings: Which of Google's relabels to read, for nih-google: four (default) or all.
        val_fraction: Share for validation, whole patients; counts where images have no official split, or the
            official lists have no validation part; never for source folder.
        test_fraction: Share for testing, whole patients; counts only for images without an official split;
            never for source folder.
        seed: Seed of the division into splits, 0 or more; counts where a fraction does.
        workers: Worker processes; 0 works in this one; default: one per CPU, fewer for few images.
        shard: Pack only this share of the images, number/count: 3/8 is the third of eight. It waits beside the output.
        merge: Join this number of finished shards into the store and remove them; says which are missing.
        strict: Stop at the first file that cannot be read, instead of listing it.
        dry_run: Say what would be read, how large the store would be and what stands in the way; write nothing.
        overwrite: Make the store anew where there is one; the old one stays until the new one is whole, and is put
            back by the next command that opens it if the run is killed in the very moment of the exchange.
    """
    check_arguments(root, output, size, jpeg_quality, workers)
    check_division(val_fraction, test_fraction, seed)
    share = _share(shard, merge)
    label_set = None if labels is None else LabelSet.load(labels)
    given = {
        "uncertain": _policy("uncertain", uncertain), "blank": _policy("blank", blank), "unknown": unknown,
        "task": task, "development": development, "labeler": labeler, "votes": votes, "findings": findings,
    }  # fmt: skip
    opened = open_source(source, root, label_set, table=table, columns=columns, **given)
    manifest = complete(opened.read(), label_set)
    options: dict[str, Any] = {"source": source, "labels": None if labels is None else str(labels)}
    options |= {name: value for name, value in given.items() if value is not None}
    division = {"val_fraction": val_fraction, "test_fraction": test_fraction, "seed": seed}
    read = _division_read(source, manifest)
    if source_class(source).assign:
        manifest = assign_splits(manifest, val_fraction, test_fraction, seed)
    options |= {name: division[name] for name in read}
    unread = {name: value for name, value in division.items() if name not in read}
    _warn_unread(unread | ({} if packing == "jpeg" else {"jpeg_quality": jpeg_quality}), source, packing)
    plan = plan_store(
        manifest, root, output, size=size, resize=resize, packing=packing, jpeg_quality=jpeg_quality, workers=workers,
        strict=strict, overwrite=overwrite, options=options, annotations=Annotations(opened.codes, opened.boxes),
    )  # fmt: skip
    known = label_set or opened.labels
    names = list(dict.fromkeys([*([] if known is None else [label.name for label in known.labels]), *manifest.labels]))
    if dry_run:
        _describe(plan, share)
        _print_labels(plan, plan.manifest, names)
        _check(plan, share)
    elif isinstance(share, Shard):
        make_shard(plan, share)
    else:
        store = make_store(plan) if share is None else merge_shards(plan, share)
        _report(store, plan)
        _print_labels(plan, store.manifest, names)


def _share(shard: str | None, merge: int | None) -> Shard | int | None:
    """The shard to make, the number of shards to join, or None: all in one process."""
    if shard is not None and merge is not None:
        raise InputError("give --shard to make a shard or --merge to join them, not both")
    if merge is not None and merge < 1:
        raise InputError(f"merge must be the number of shards, at least 1, not {merge}")
    return merge if shard is None else Shard.parse(shard)


def _policy(name: str, value: PolicyOption | None) -> PolicyOption | None:
    """A policy as a source takes it: one that names a YAML file is read."""
    if not isinstance(value, str) or not value.endswith((".yaml", ".yml")):
        return value
    file = Path(value)
    try:
        read = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise InputError(f"--{name} {file} cannot be read: {error}") from error
    if not isinstance(read, dict):
        raise InputError(f"--{name} {file} must hold a mapping of labels to values, not {type(read).__name__}")
    return read


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
    annotations: Annotations | None = None,
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
        annotations: Codes and boxes of the images, kept beside the manifest.

    Returns:
        The finished store; the one that is there already where it has the same settings and manifest.

    Raises:
        InputError: For a store of other settings at `output`, too little room, or no readable file.
        OSError: Where the disk fills up or fails on the way; running again goes on.
    """
    return make_store(
        plan_store(
            manifest, root, output, size=size, resize=resize, packing=packing, jpeg_quality=jpeg_quality,
            workers=workers, strict=strict, overwrite=overwrite, options=options, annotations=annotations,
        )
    )  # fmt: skip


def make_store(plan: Plan) -> Store:
    """Make a store in this process and its workers, or go on with a half-made one; see :func:`prepare_manifest`."""
    store = _check_whole(plan)
    if store is not None:
        clear_leftovers(plan.output)
        return store
    make_place(partial_folder(plan.output), plan.output)
    with PartialStore(plan.output, plan.manifest, plan.settings, plan.overwrite) as partial, told(partial):
        pack(partial, plan)
        _check_any(partial)
        partial.finish(plan.root, plan.annotations)
    store = Store(plan.output)
    announce(store)
    return store


def _check_any(partial: PartialStore) -> None:
    if not partial.done:
        reasons = "; ".join(list(partial.rejected.values())[:3])
        shutil.rmtree(partial.folder)
        raise InputError(f"none of the {len(partial.rejected)} files can be read: {reasons}")


def _check(plan: Plan, share: Shard | int | None) -> Store | None:
    """All checks that can be made before anything is packed; the store, where it is there already.

    Raises:
        InputError: Where something is in the way.
    """
    if isinstance(share, Shard):
        return check_shard(plan, share)
    return _check_whole(plan) if share is None else check_merge(plan, share)


def _check_whole(plan: Plan) -> Store | None:
    store = standing(plan)
    if store is not None:
        return store
    refuse_shards(plan.output)
    folder = partial_folder(plan.output)
    done = check_partial(folder, plan.settings, restart=plan.overwrite)
    if done:
        logger.info("going on: %d of %d images are done", done, plan.settings["images"])
    check_room(plan.output, bytes_needed(plan.settings) - bytes_done(folder))
    return None


def _report(store: Store, plan: Plan) -> None:
    """Print what a finished store holds."""
    before = set(plan.manifest.table["split"].unique())
    warn_empty(store.manifest, before, f"none of its files can be read; see {plan.output / REJECTED_FILE}")
    print_splits(store.manifest)


def _print_labels(plan: Plan, manifest: Manifest, names: Sequence[str]) -> None:
    """Print how often each label is present, absent, uncertain, blank and not in the source.

    Args:
        plan: Its codes count where there are any, before any policy; else the manifest's values do.
        manifest: The images that count.
        names: The labels, also those that the source lacks.
    """
    if not names:
        return
    codes = plan.annotations.codes
    if codes is not None:
        codes = codes[plan.manifest.table["image_id"].isin(manifest.table["image_id"]).to_numpy()]
    counts = label_table(manifest.table, names, codes)
    sources = ", ".join(sorted(manifest.table["source"].unique()))
    policy = "" if codes is None else ", before any policy"
    after = [name for name in names if codes is not None and name in manifest.labels and name not in codes]
    caption = Text(f"derived, so after the policy: {', '.join(after)}") if after else None
    title = Text(f"what source {sources} says of its {len(manifest):,} images{policy}")
    table = Table(title=title, caption=caption)
    table.add_column("", overflow="fold")
    for column in counts.columns:
        table.add_column(str(column), justify="right", no_wrap=True)
    for name, row in counts.iterrows():
        table.add_row(Text(str(name)), *(f"{value:,}" for value in row))
    Console().print(table)


def _describe(plan: Plan, share: Shard | int | None) -> None:
    """Print what a dry run found: rows per split and view, common labels, bytes to read and to write."""
    console, manifest, data = Console(), plan.manifest, plan.manifest.table
    start, end = share.rows(data) if isinstance(share, Shard) else (0, len(data))
    looked = min(end - start, _STATTED)
    sizes = file_sizes(plan.root, data["path"].iloc[start:end].sample(looked, random_state=0))
    to_read = int(sum(sizes) / looked * (end - start))
    how = "all files" if looked == end - start else f"from the sizes of {looked}"
    existing = existing_folder(plan.output)
    table = Table(title=Text(f"{manifest.origin}: would become {plan.output}"), show_header=False)
    table.add_row("images", f"{len(data):,} of {data['patient_id'].nunique():,} patients")
    if isinstance(share, Shard):
        table.add_row("shard", f"{share}: {end - start:,} images, {start:,} to {end - 1:,} of the manifest")
    for column in ("split", "view"):
        counts = data[column].value_counts()
        table.add_row(column, ", ".join(f"{name} {count:,}" for name, count in counts.items()))
    positives = data[manifest.labels].sum().sort_values(ascending=False)
    top = [f"{name} {count:,.0f}" for name, count in positives.head(_SHOWN_LABELS).items()]
    table.add_row(f"labels ({len(manifest.labels)})", Text(", ".join(top) or "none"))
    if plan.annotations.boxes is not None:
        boxes = plan.annotations.boxes
        table.add_row("boxes", f"{len(boxes):,} in {boxes['image_id'].nunique():,} images")
    if len(sizes) < looked:
        table.add_row("missing", f"{looked - len(sizes)} of {looked} files looked at are not there")
    table.add_row("to read", f"{human_bytes(to_read)} ({how})")
    free = human_bytes(shutil.disk_usage(existing).free)
    table.add_row("store", Text(f"{human_bytes(bytes_needed(plan.settings))}; {free} free at {existing}"))
    console.print(table)
