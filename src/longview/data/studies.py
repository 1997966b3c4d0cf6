"""Studies as packed batches: the real views of each study, read and augmented straight into one uint8 tensor.

Everything that `__getitems__` needs is a NumPy array by then: rows, offsets, views, targets and ids. No table
is looked into per item, no tensor is made per image, and worker processes do not grow.
"""

from __future__ import annotations

import logging
import operator
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from torch.utils.data import Dataset

from longview import VIEWS, Batch, InputError, StudyKey
from longview.data.derive import derive, label_values
from longview.data.features import FeatureFile
from longview.data.manifest import Manifest
from longview.data.sampler import Draw
from longview.data.store import Store, table_hash
from longview.data.store_names import store_names
from longview.data.transforms import Augment, Pixels, resize_only
from longview.data.views import View, check_dropout, check_views, choose, of_types, viewing_order
from longview.labels import LabelSet

logger = logging.getLogger(__name__)

Level = Literal["image", "study"]
"""What a row of a batch's target is: each image by itself, or a study with all its views."""


class ImageStore(Protocol):
    """What a dataset reads from: a store, or files that are read on the fly."""

    @property
    def path(self) -> Path:
        """Where it is, for messages."""

    @property
    def manifest(self) -> Manifest:
        """One row per image."""

    def image(self, row: int, /) -> Pixels:
        """The (S, S) uint8 film of a manifest row; it may be read-only."""


class StudyDataset(Dataset[Batch]):
    """Studies of one or several stores; whole batches are read at once with :meth:`__getitems__`.

    Labels are aligned by name or alias, whatever the order of a store's columns; what a store does not know
    is NaN. The images of a study share its labels: where they disagree (among known values) the largest one
    counts, and a warning says in how many studies. Derived labels follow from what the study then has, whether a
    store carries them or not. Studies keep the order in which the manifests first name them.

    A study with more views than `max_views` shows, in evaluation, one image of each view type in the order of
    :data:`~longview.VIEWS`, then a second one of each, and so on, by image id; in training, a random choice.
    Views of a study come in that order, too.

    With `views`, images of other types are left out, but a study that has none of these types keeps all of its
    images: every study is scored, whichever view types a run looks at. The same images stay at both levels, and
    the labels of a study are still those of all its images.

    Args:
        stores: Where the images are; several may know different labels.
        labels: The L labels of the run.
        split: Keep images of these splits; None: of all.
        level: `image`: each image is a study of its own, and its key has an image id. `study`: views are
            packed.
        image_size: Side of the images in a batch, in pixels.
        training: Change films, choose among views and leave views out at random. False: nothing is random,
            whatever `augment` and `view_dropout` are.
        augment: Random changes of the films in training; None for none.
        max_views: Most images of a study in a batch (level `study`), at least 1.
        view_dropout: Probability in [0, 1) with which each view of a study with several is left out in
            training; at least one stays (level `study`). See :func:`~longview.data.views.choose`.
        views: The view types to keep; None: all.
        missing_labels: What to do about labels that no store has: `error`, `warn` (but an error if that is
            all of them), or `ignore` for prediction, where targets may be all NaN.

    Raises:
        InputError: For labels that no store has, a split without images, a size or view limit below 1, a view
            type that there is not, or a dropout outside of [0, 1).
    """

    features: FeatureFile | None = None
    """What an encoder made of the images, in the order of :meth:`films`: batches then have `features` and no images,
    and films are neither read nor changed."""

    def __init__(
        self,
        stores: Sequence[ImageStore],
        labels: LabelSet,
        *,
        split: Collection[str] | None = None,
        level: Level = "image",
        image_size: int = 384,
        training: bool = False,
        augment: Augment | None = None,
        max_views: int = 4,
        view_dropout: float = 0.0,
        views: Sequence[View] | None = None,
        missing_labels: Literal["error", "warn", "ignore"] = "error",
    ) -> None:
        for name, value in (("image_size", image_size), ("max_views", max_views)):
            if value < 1:
                raise InputError(f"{name} is {value}; it must be at least 1")
        check_dropout(view_dropout)
        check_views(views)
        self.stores, self.labels, self.level, self.image_size = list(stores), labels, level, image_size
        self.training, self.augment, self.max_views, self.view_dropout = training, augment, max_views, view_dropout
        self._buffers: list[torch.Tensor | None] = []  # filled by `reuse`
        columns = [_columns(store.manifest, labels) for store in stores]
        _check_labels(columns, self.stores, labels, missing_labels)
        parts = [
            _index(store, found, labels, split, level, views) for store, found in zip(stores, columns, strict=True)
        ]
        self.sizes = [len(part.targets) for part in parts]
        """Number of studies of each store."""
        self.store_names = store_names(self.stores, self.sizes)
        """What the stores with studies are called, by their number; empty where it is one. Batches of evaluation then
        say which store each study is from."""
        if not sum(self.sizes):
            raise InputError(_no_images(self.stores, split))
        self._store = np.repeat(np.arange(len(parts)), self.sizes)  # (n,) the store of a study
        self._rows = np.concatenate([part.rows for part in parts])  # (M,) manifest row of each image
        self._views = np.concatenate([part.views for part in parts])  # (M,)
        self._offsets = np.concatenate([[0], np.cumsum(np.concatenate([part.counts for part in parts]))])  # (n + 1,)
        self._keys = [np.concatenate([part.keys[i] for part in parts]) for i in range(len(StudyKey._fields))]
        self.targets: npt.NDArray[np.float32] = np.concatenate([part.targets for part in parts])
        """(n, L) label values, NaN where unknown."""

    def __len__(self) -> int:
        """Number of studies."""
        return len(self.targets)

    @property
    def images(self) -> int:
        """Number of images, of which a batch may show at most `max_views` per study."""
        return len(self._rows)

    @property
    def positives(self) -> npt.NDArray[np.float64]:
        """(L,) sums of the known label values: positive studies, soft labels counted as they are."""
        total: npt.NDArray[np.float64] = np.nansum(self.targets, axis=0, dtype=np.float64)
        return total

    @property
    def observed(self) -> npt.NDArray[np.float64]:
        """(L,) numbers of studies whose label is known."""
        known: npt.NDArray[np.float64] = (~np.isnan(self.targets)).sum(axis=0, dtype=np.float64)
        return known

    def key(self, study: int) -> StudyKey:
        """Who a study is; without an image id at level `study`."""
        return StudyKey(*(str(column[study]) for column in self._keys))

    def __getitem__(self, draw: Draw | int) -> Batch:
        """A batch of one study."""
        return self.__getitems__([draw])

    def __getitems__(self, items: Sequence[Draw | int]) -> Batch:
        """Read the studies of a batch.

        Args:
            items: B draws; a plain index counts as its own seed.

        Returns:
            The batch, a pure function of the draws.
        """
        draws = [item if isinstance(item, Draw) else self._draw_of(item) for item in items]
        # one generator per study: a study looks the same in whatever batch and process it is read
        generators = [np.random.Generator(np.random.PCG64(draw.seed)) if self.training else None for draw in draws]
        shown = [self._choose(draw.study, rng) for draw, rng in zip(draws, generators, strict=True)]
        counts = [len(chosen) for chosen in shown]
        places = np.concatenate(shown)
        studies = [draw.study for draw in draws]
        batch = Batch(
            images=torch.empty((len(places), 1, 0, 0), dtype=torch.uint8),
            study=torch.from_numpy(np.repeat(np.arange(len(draws)), counts)),
            view=torch.from_numpy(self._views[places]),
            target=torch.from_numpy(self.targets[studies]),
            ids=list(map(StudyKey, *(column[studies].tolist() for column in self._keys))),
        )
        if self.store_names and not self.training:
            batch["store"] = torch.from_numpy(self._store[studies])
        if self.features is None:
            batch["images"] = self._read(studies, generators, shown)
        else:
            layout = self.features.layout
            room = self._room((len(places), *layout.stored_shape), layout.torch_dtype)
            batch["features"] = self.features.read(places, room)
        return batch

    def films(self, places: Sequence[int]) -> torch.Tensor:
        """Read images as they are in evaluation, (N, 1, H, W) uint8.

        Args:
            places: N of 0..images-1, study after study.
        """
        studies = np.searchsorted(self._offsets, places, side="right") - 1
        return self._read(studies.tolist(), [None] * len(places), [np.array([place]) for place in places])

    def _read(
        self,
        studies: Sequence[int],
        generators: Sequence[np.random.Generator | None],
        shown: Sequence[npt.NDArray[np.int64]],
    ) -> torch.Tensor:
        """Images (N, 1, H, W) of studies, changed at random where there is a generator.

        Args:
            studies: B places of studies.
            generators: B, None in evaluation.
            shown: B arrays of places in `_rows`.
        """
        images = self._room((sum(map(len, shown)), 1, self.image_size, self.image_size), torch.uint8)
        results = iter(images.numpy()[:, 0])
        for study, rng, chosen in zip(studies, generators, shown, strict=True):
            store = self.stores[self._store[study]]
            for row in self._rows[chosen].tolist():
                if self.augment is None or rng is None:
                    resize_only(store.image(row), self.image_size, next(results))
                else:
                    self.augment(store.image(row), self.image_size, rng, next(results))
        return images

    def fingerprint(self) -> str:
        """Hash of which images there are, in which order, and of what their stores hold."""
        total = blake2b(digest_size=16)
        for number, store in enumerate(self.stores):
            rows = self._rows[np.repeat(self._store, np.diff(self._offsets)) == number]
            content = store.info.content_hash if isinstance(store, Store) else str(store.path.resolve())
            total.update(f"{content}:{table_hash(store.manifest.table[['source', 'image_id']].iloc[rows])}".encode())
        return total.hexdigest()

    def _draw_of(self, index: int) -> Draw:
        place = operator.index(index)
        if not -len(self) <= place < len(self):
            raise IndexError(f"study {place} of {len(self)}")
        place %= len(self)
        return Draw(place, place)

    def reuse(self, buffers: int) -> None:
        """Read into this many pieces of shared memory in turn, so that a batch is overwritten by a later one.

        For worker processes whose batches are copied on arrival: fresh pages of shared memory cost several times
        as much as reading and augmenting the films that they hold.
        """
        self._buffers = [None] * buffers

    def _room(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        """A tensor to read into, contiguous; the first dimension counts images."""
        if not self._buffers:
            return torch.empty(shape, dtype=dtype)
        buffer = self._buffers.pop(0)
        if buffer is None or len(buffer) < shape[0]:
            buffer = torch.empty(shape, dtype=dtype).share_memory_()  # type: ignore[no-untyped-call]
        self._buffers.append(buffer)
        return buffer[: shape[0]]

    def _choose(self, study: int, rng: np.random.Generator | None) -> npt.NDArray[np.int64]:
        """Which images of a study to show, as places in `_rows`; at random with a generator, else the first."""
        first, last = int(self._offsets[study]), int(self._offsets[study + 1])
        return first + choose(last - first, self.max_views, self.view_dropout, rng)


@dataclass(frozen=True)
class _Part:
    """The studies of one store: n studies of M images."""

    rows: npt.NDArray[np.int64]  # (M,)
    views: npt.NDArray[np.int64]  # (M,)
    counts: npt.NDArray[np.int64]  # (n,)
    targets: npt.NDArray[np.float32]  # (n, L)
    keys: list[npt.NDArray[np.str_]]  # 3 of (n,)


def _columns(manifest: Manifest, labels: LabelSet) -> dict[str, str]:
    """Label -> column of a manifest; names and aliases of its own source come before those of others."""
    sources = manifest.table["source"].unique()
    found: dict[str, str] = {}
    for source in (str(sources[0]) if len(sources) == 1 else None, None):
        aligned = labels.align(manifest.labels, source, "ignore", "ignore", context=manifest.origin)
        found = aligned | found
    return found


def _check_labels(
    columns: Sequence[dict[str, str]],
    stores: Sequence[ImageStore],
    labels: LabelSet,
    missing: Literal["error", "warn", "ignore"],
) -> None:
    absent = [name for name in labels.source_names if not any(name in found for found in columns)]
    if not absent or missing == "ignore":
        return
    if missing == "warn" and len(absent) < len(labels.source_names):
        logger.warning("No store has the labels %s; they are left out.", ", ".join(absent))
        return
    sides = "; ".join(f"{store.path} has {', '.join(store.manifest.labels) or 'no labels'}" for store in stores)
    raise InputError(
        f"label set {labels.name!r} has labels that no store has: {', '.join(absent)}; {sides}. "
        f"Use the label set that the store was made with, or add aliases to the label set"
    )


def _no_images(stores: Sequence[ImageStore], split: Collection[str] | None) -> str:
    counts = [store.manifest.table["split"].value_counts() for store in stores]
    sides = "; ".join(
        f"{store.path} has {', '.join(f'{name}: {count}' for name, count in found.items())}"
        for store, found in zip(stores, counts, strict=True)
    )
    wanted = " or ".join(sorted(split or []))
    return f"no images of split {wanted!r}; {sides}. Prepare the data with such a part, or choose another split"


def _index(
    store: ImageStore,
    columns: dict[str, str],
    labels: LabelSet,
    split: Collection[str] | None,
    level: Level,
    types: Sequence[View] | None,
) -> _Part:
    """Find the studies of a store and put their images in the order in which they are shown."""
    manifest = store.manifest
    table = manifest.table
    rows = np.arange(len(table)) if split is None else np.flatnonzero(table["split"].isin(list(split)).to_numpy())
    table = table.iloc[rows]
    views = np.asarray(pd.Categorical(table["view"], categories=list(VIEWS)).codes, np.int64)
    values = label_values(manifest, labels, columns)[rows]
    ids = [table[name].to_numpy(str) for name in StudyKey._fields]
    study = pd.factorize(table["study_id"])[0].astype(np.int64)  # numbered in the order of first appearance
    stays = np.ones(len(rows), bool) if types is None else of_types(study, views, types, store.path)
    if level == "image" or not len(rows):
        values = derive(values, labels)[stays]
        return _Part(
            rows[stays], views[stays], np.ones(stays.sum(), np.int64), values, [column[stays] for column in ids]
        )
    order = viewing_order(study, views, ids[2])
    rows, views, values, study = rows[order], views[order], values[order], study[order]
    counts = np.bincount(study)
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    largest = np.fmax.reduceat(values, starts)  # fmax: NaN only where all images say nothing
    differ = int((largest != np.fmin.reduceat(values, starts)).any(axis=1, where=~np.isnan(largest)).sum())
    if differ:
        logger.warning(
            "%s: the images of %d of %d studies disagree about a label; the largest value counts.",
            store.path,
            differ,
            len(counts),
        )
    keys = [ids[0][order][starts], ids[1][order][starts], np.full(len(counts), "")]
    stays = stays[order]
    # of the study's own labels: an image that shows nothing may stand beside one that does
    return _Part(rows[stays], views[stays], np.bincount(study[stays]), derive(largest, labels), keys)
