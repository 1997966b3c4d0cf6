"""Stores as train, validation, test and prediction loaders for Lightning, with exact resume in mid-epoch."""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path
from typing import Any, Literal, cast

import lightning as L  # noqa: N812  # Lightning's own abbreviation
import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import DataLoader

from longview import Batch, InputError
from longview.data.families import check_apart, check_once
from longview.data.files import ImageFiles
from longview.data.images import Resize
from longview.data.loader import film_loader, study_loader
from longview.data.phantom_store import PhantomSpec, make_phantom
from longview.data.sampler import OrderState, StudySampler, even_batch
from longview.data.sampling import Sampling
from longview.data.store import Store, partial_folder
from longview.data.studies import ImageStore, Level, StudyDataset
from longview.data.transforms import Augment, Preprocessing
from longview.data.views import View, check_dropout, check_views
from longview.labels import LabelSet

logger = logging.getLogger(__name__)

PredictSplit = Literal["train", "val", "test", "all"]


class StudyData(L.LightningDataModule):
    """Chest films of one or several stores.

    Training order, augmentation and choice of views depend on (seed, epoch) alone: not on the number of workers,
    and with the same global batch not on the number of processes. A run that is resumed in mid-epoch sees
    exactly the rest.

    Args:
        labels: The label set of the run; a store's columns are matched by name or alias.
        stores: Folder of a store, several, or folder -> how often its studies are drawn per training epoch
            (see :class:`~longview.data.sampler.StudySampler`). Stores may know different labels: what one does not
            know is NaN there. For prediction and testing also a folder of plain images, an image, or a table with a
            path column, which are then read on the fly.
        level: `image`: each image is a study of its own; `study`: all views of a study stand together.
        image_size: Side of the images that the network sees, in pixels; stores may hold larger ones.
        batch_size: Studies per process and batch.
        num_workers: Processes that read, per loader; 0 reads in the main one.
        augment: Random changes in training; null for none.
        seed: Seed of the order of samples and of augmentation.
        predict_split: Part of a store to predict on; plain images are all predicted on.
        max_views: Most images of a study in a batch, at level `study`; of more, training shows a random choice,
            evaluation always the same ones.
        view_dropout: Probability, from 0 to below 1, with which training leaves out each view of a study with
            several, at level `study`; at least one stays.
        views: Keep only views of these types (`[PA, AP]`) in all parts, at both levels; a study that has none of them
            keeps all of its views, so that every study is scored. Null: all views.
        preprocessing: How plain images are brought to a square first; must be that of the model's training
            store (stores that differ are refused). Null: what the store says, else `image_size`, squashed.
        phantom: A phantom to make where the (one) store does not exist yet.
        skip_unreadable: Leave out plain images that cannot be read, with a warning, instead of stopping.
        sampling: Show studies with rare labels more often in training; null: each study once per epoch.

    Raises:
        InputError: From `setup`, for stores that are missing, differ or lack labels or a split.
    """

    # a part of an evaluation is empty only where there are fewer studies than processes
    allow_zero_length_dataloader_with_multiple_devices = True

    def __init__(
        self,
        labels: LabelSet,
        stores: str | list[str] | dict[str, float],
        *,
        level: Level = "image",
        image_size: int = 384,
        batch_size: int = 32,
        num_workers: int = 4,
        augment: Augment | None = Augment(),  # noqa: B008  # frozen
        seed: int = 0,
        predict_split: PredictSplit = "test",
        max_views: int = 4,
        view_dropout: float = 0.0,
        views: list[View] | None = None,
        preprocessing: Preprocessing | None = None,
        phantom: PhantomSpec | None = None,
        skip_unreadable: bool = False,
        sampling: Sampling | None = None,
    ) -> None:
        super().__init__()
        for name, value, least in (
            ("image_size", image_size, 1),
            ("batch_size", batch_size, 1),
            ("max_views", max_views, 1),
            ("num_workers", num_workers, 0),
            ("seed", seed, 0),
        ):
            if value < least:
                raise InputError(f"data.{name} is {value}; it must be at least {least}")
        check_dropout(view_dropout)
        check_views(views)
        self.view_dropout, self.views, self.sampling = view_dropout, views, sampling
        self.labels, self.level, self.image_size, self.max_views = labels, level, image_size, max_views
        self.batch_size, self.num_workers, self.augment, self.seed = batch_size, num_workers, augment, seed
        self.predict_split, self.phantom, self.skip_unreadable = predict_split, phantom, skip_unreadable
        passes = {stores: 1.0} if isinstance(stores, str) else stores
        if isinstance(passes, list) and len(set(passes)) < len(passes):
            raise InputError(f"data.stores names a store twice: {', '.join(passes)}; give it a weight instead")
        self.passes = passes if isinstance(passes, dict) else dict.fromkeys(passes, 1.0)
        if not self.passes:
            raise InputError("data.stores is empty; give the folder of at least one store")
        if phantom is not None and len(self.passes) != 1:
            raise InputError("data.phantom is made at the one path of data.stores; give a single store")
        self._given = preprocessing
        self._stores: list[ImageStore] = []
        self._datasets: dict[str, StudyDataset] = {}
        self._epoch = -1  # the last one that was begun
        self._order: OrderState | None = None
        self._restored: OrderState | None = None

    def prepare_data(self) -> None:
        """Draw and prepare the phantom where its store does not exist; one process does it."""
        if self.phantom is not None:
            make_phantom(self.phantom, Path(next(iter(self.passes))), self.labels)

    def check_paths(self) -> None:
        """Find stores that are missing before anything is made of the run; a phantom is drawn later."""
        if self.phantom is None:
            for path in self.passes:
                self._open(Path(path))

    def setup(self, stage: str) -> None:
        """Open the stores and index the studies of this stage; no image is read."""
        if not self._stores:
            self._stores = [self._open(Path(path)) for path in self.passes]
            self._check_preprocessing()
        if stage in ("fit", "validate"):
            self._check_prepared(stage)
        if stage in ("fit", "validate", "test") and len(self._stores) > 1:
            tables = {str(store.path): store.manifest.table for store in self._stores}
            images = {str(store.path): store.images_folder for store in self._stores if isinstance(store, Store)}
            check_once(tables, images)
            check_apart(tables)
        if stage == "fit":
            self._epoch = self.trainer.current_epoch - 1 if self.trainer else -1
            self._datasets["train"] = self._dataset(["train"], training=True)
            _check_known(self._datasets["train"])
            self.positives: npt.NDArray[np.float64] = self._datasets["train"].positives
            """(L,) sums of the known label values of the training part, each study counted once."""
            self.observed: npt.NDArray[np.float64] = self._datasets["train"].observed
            """(L,) numbers of training studies whose label is known."""
            self.targets: npt.NDArray[np.float32] = self._datasets["train"].targets
            """(S, L) label values of the training studies, NaN where unknown."""
        if stage == "validate" or (stage == "fit" and (self.trainer is None or self.trainer.limit_val_batches)):
            missing: Literal["error", "warn"] = "warn" if stage == "validate" else "error"
            self._datasets["val"] = self._dataset(["val"], missing_labels=missing)
        if stage == "test":
            self._datasets["test"] = self._dataset(self._unless_plain("test"), missing_labels="warn")
        if stage == "predict":
            self._datasets["predict"] = self._dataset(self._unless_plain(self.predict_split), missing_labels="ignore")
            _check_keys(self._datasets["predict"])

    def store_names(self, part: str) -> dict[int, str]:
        """What the stores of a part are called, by their number; empty where its studies come from one.

        Args:
            part: `train`, `val`, `test` or `predict`, once its stage was set up.
        """
        return self._datasets[part].store_names

    @property
    def preprocessing(self) -> Preprocessing:
        """Size and resize policy of the stores: known after `setup`, or as given."""
        if self._given is not None:
            return self._given
        infos = [store.info for store in self._stores if isinstance(store, Store)]
        if not infos:
            return Preprocessing(self.image_size)
        return Preprocessing(min(info.size for info in infos), cast("Resize", infos[0].resize))

    def check_sampling(self, epochs: int | None) -> None:
        """Find a sampling that could not say when it starts, before anything is made of the run."""
        if self.sampling is not None:
            self.sampling.check(epochs if epochs is not None and epochs > 0 else None)

    def train_dataloader(self) -> DataLoader[Batch]:
        """All training studies in random order, or the rest of an epoch after a resume."""
        sampler = self._train_sampler()
        self._order = sampler.state()
        if self._restored is not None:
            _compare_orders(self._restored, self._order)
            self._restored = None
        return study_loader(self._datasets["train"], sampler, self.batch_size, self.num_workers, keep=True)

    def train_batches(self) -> int:
        """Batches of a whole training epoch on each process, known without making a loader."""
        return -(-len(self._train_sampler()) // self.batch_size)

    def _train_sampler(self) -> StudySampler:
        trainer = self.trainer
        return StudySampler(
            self._datasets["train"].sizes,
            passes=list(self.passes.values()),
            batch_size=self.batch_size,
            rank=trainer.global_rank if trainer else 0,
            world=trainer.world_size if trainer else 1,
            seed=self.seed,
            place=self._place if trainer else None,
            sampling=self.sampling,
            targets=self._datasets["train"].targets,
            epochs=trainer.max_epochs if trainer and (trainer.max_epochs or -1) > 0 else None,
        )

    def val_dataloader(self) -> DataLoader[Batch] | list[Any]:
        """The validation studies, divided among the processes."""
        return self._evaluation("val", keep=True) if "val" in self._datasets else []

    def test_dataloader(self) -> DataLoader[Batch]:
        """The test studies, divided among the processes."""
        return self._evaluation("test")

    def predict_dataloader(self) -> DataLoader[Batch]:
        """The studies to predict on, divided among the processes, in the order of the manifests."""
        return self._evaluation("predict")

    @property
    def datasets(self) -> dict[str, StudyDataset]:
        """`train`, `val`, `test`, `predict`: those of the stage that was set up."""
        return self._datasets

    def film_loader(self, part: str, first: int, last: int) -> DataLoader[torch.Tensor]:
        """Batches (N, 1, H, W) of the images `first` to `last - 1` of a part, in its order, nothing random."""
        return film_loader(self._datasets[part], range(first, last), self.batch_size, self.num_workers)

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run must know of the order of samples; Lightning puts it into each checkpoint."""
        if self._order is None or self.trainer is None:
            return {}
        loop: Any = self.trainer.fit_loop.epoch_loop
        begun = self._epoch >= 0 and loop.batch_progress.current.processed == 0
        return {**self._order, "epoch": self._epoch - begun}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with the order of a checkpoint."""
        if state_dict:
            self._restored = cast("OrderState", state_dict)
            self._epoch = self._restored["epoch"]

    def _place(self) -> tuple[int, int]:
        """The epoch to train on, and how many of its batches are done, when its first batch is asked for.

        Asked only then, for a loader may be made before the trainer has restored its loops (for
        `estimated_stepping_batches`). Epochs are counted here, by those that were begun: the trainer counts twice an
        epoch at whose end a run with `max_steps` was stopped. It goes through it again, and finds no batch left.
        """
        assert self.trainer is not None
        if not self.trainer.training:
            return max(self._epoch, 0), 0
        progress: Any = self.trainer.fit_loop.epoch_loop.batch_progress
        done = int(progress.current.ready)
        self._epoch += done == 0
        # A batch that was begun when the run failed counts as never begun. Lightning corrects this epoch's counts
        # only, and would misread the next checkpoint, taking that batch for one that had no `on_train_batch_end`.
        progress.total.ready = progress.total.started = progress.total.processed
        return self._epoch, done

    def teardown(self, stage: str) -> None:  # noqa: ARG002  # Lightning's signature
        """Forget the indices; counts and preprocessing stay."""
        self._datasets = {}

    def _open(self, path: Path) -> ImageStore:
        if Store.is_store(path) or partial_folder(path).is_dir():
            return Store(path)  # which says so where it is only half made
        if ImageFiles.fits(path):
            return ImageFiles(path, self.preprocessing, self.skip_unreadable)
        state = "is neither a store, nor images, nor a table of images" if path.exists() else "does not exist"
        raise InputError(
            f"data.stores: {path} {state}. Make the store with: "
            f"main.py prepare --source SOURCE --root RAW_FOLDER --output {path} --size 512"
        )

    def _check_prepared(self, stage: str) -> None:
        for store in self._stores:
            if isinstance(store, ImageFiles):
                command = str(stage).rpartition(".")[2].lower()
                raise InputError(
                    f"data.stores: {store.path} is no store, and {command} needs one. Make it with: "
                    f"main.py prepare --source SOURCE --root {store.path} --output STORE --size 512"
                )

    def _check_preprocessing(self) -> None:
        wanted, stores = self.preprocessing, [store for store in self._stores if isinstance(store, Store)]
        for store in stores:
            if store.info.resize != wanted.resize:
                other = "the model was trained on" if self._given else f"{stores[0].path} has"
                raise InputError(
                    f"store {store.path} was made with --resize {store.info.resize}, but {other} "
                    f"{wanted.resize}; prepare it again with --resize {wanted.resize}"
                )
            least = self.image_size if self._given is None else max(self.image_size, wanted.size)
            if store.info.size < least:
                logger.warning(
                    "store %s holds images of %d px, fewer than %d: they are enlarged and show less detail.",
                    store.path,
                    store.info.size,
                    least,
                )

    def _unless_plain(self, split: PredictSplit) -> list[str] | None:
        """The split to keep; all where asked for, or where the images are plain files in no split at all."""
        tables = [store.manifest.table for store in self._stores if isinstance(store, ImageFiles)]
        plain = len(tables) == len(self._stores) and all((table["split"] == "none").all() for table in tables)
        return None if plain or split == "all" else [split]

    def _dataset(
        self,
        split: list[str] | None,
        training: bool = False,
        missing_labels: Literal["error", "warn", "ignore"] = "error",
    ) -> StudyDataset:
        return StudyDataset(
            self._stores,
            self.labels,
            split=split,
            level=self.level,
            image_size=self.image_size,
            training=training,
            augment=self.augment,
            max_views=self.max_views,
            view_dropout=self.view_dropout,
            views=self.views,
            missing_labels=missing_labels,
        )

    def _evaluation(self, part: str, keep: bool = False) -> DataLoader[Batch]:
        dataset, trainer = self._datasets[part], self.trainer
        world = trainer.world_size if trainer else 1
        sampler = StudySampler(
            dataset.sizes,
            rank=trainer.global_rank if trainer else 0,
            world=world,
            seed=self.seed,
            shuffle=False,
        )
        batch_size = even_batch(len(dataset), self.batch_size, world)
        return study_loader(dataset, sampler, batch_size, self.num_workers, keep)


def _compare_orders(before: OrderState, now: OrderState) -> None:
    """Warn where a resumed run cannot see exactly the rest of the stopped run's epoch."""
    for name, first, second in (
        ("seed", before["seed"], now["seed"]),
        ("studies", before["studies"], now["studies"]),
        ("global batch", before["global_batch"], now["global_batch"]),
        ("sampling", before.get("sampling", "") or "off", now["sampling"] or "off"),
    ):
        if first != second:
            logger.warning(
                "The run stopped with %s %s and goes on with %s: the rest of its epoch cannot be exact.",
                name,
                first,
                second,
            )


def _check_known(dataset: StudyDataset) -> None:
    """Refuse to train labels of which no training study says anything, though some store has their column."""
    unknown = [name for name, count in zip(dataset.labels.names, dataset.observed, strict=True) if not count]
    if not unknown:
        return
    named, paths = ", ".join(unknown), ", ".join(str(store.path) for store in dataset.stores)
    if set(unknown) & set(dataset.labels.source_names):
        raise InputError(
            f"no training study of {paths} says whether it has {named}: add a store that knows, fill them with "
            f"`main.py pseudo`, or give --data.labels a label set without"
        )
    logger.warning("%s: derived, but no training study knows enough to derive them; nothing trains them", named)


def _check_keys(dataset: StudyDataset) -> None:
    """Refuse to predict where two stores have a study of the same id, for predictions are joined by id."""
    if len(dataset.stores) == 1:
        return
    counts = Counter(dataset.key(study) for study in range(len(dataset)))
    twice = [key for key, count in counts.items() if count > 1]
    if twice:
        paths = ", ".join(str(store.path) for store in dataset.stores)
        raise InputError(
            f"{len(twice)} studies are in more than one of {paths}, first {twice[0]}; predict on each store by itself"
        )
