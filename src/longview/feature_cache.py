"""Features of a frozen encoder, computed once and kept on disk: training then reads them instead of films."""

from __future__ import annotations

import fcntl
import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn

from longview import InputError
from longview.data.datamodule import StudyData
from longview.data.features import FeatureFile, FeatureLayout, FeatureWriter, describe
from longview.data.store import human_bytes
from longview.data.studies import StudyDataset
from longview.tasks import ClassificationTask

log = logging.getLogger(__name__)

_RECIPE = 1  # raised when the same settings come to mean other features
_REMEDY = "or leave out --feature_cache"


class FeatureCache(Callback):
    """Trains and validates on features that are computed once, before the first epoch, and kept for later runs.

    The loss and the weights are those of a run without it: the encoder must be frozen and the films must not
    be augmented; view dropout and the random choice of views go on, for they choose among what is kept. What an
    encoder makes of a film depends on the other films of a batch by rounding only (1e-6 of its size in
    float32), and so far, and no further, do the two runs differ.

    A file of features serves all runs with the same encoder (every parameter and buffer), image size, precision
    and images; other files in the folder are left alone, and may be deleted at any time. Under DDP each process
    computes its share; the folder must be on a disk that all of them see.

    Args:
        folder: Where the files are; it is made where it does not exist.

    Raises:
        InputError: When training starts, where the encoder is trained, films are augmented, the weights are
            spread over processes, or the disk has too little room.
    """

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Find or make the features of the training and validation images, and give them to the datasets."""
        task, data = _check(trainer, pl_module)
        state = encoder_hash(task.network.encoder)
        parts = {part: data.datasets[part] for part in ("train", "val") if part in data.datasets}
        files = {part: self._file(state, trainer, dataset) for part, dataset in parts.items()}
        with self._alone(trainer):
            missing = [part for part, file in files.items() if not file.is_file()]
            missing = trainer.strategy.broadcast(missing)
            if missing:
                with _evaluating(task.network.encoder), torch.no_grad():
                    self._fill(trainer, task, data, {part: files[part] for part in missing})
        for part, dataset in parts.items():
            if part not in missing:
                log.info("feature cache: %s images from %s", part, files[part])
            features = FeatureFile(files[part])
            if len(features) != dataset.images:
                raise InputError(f"{files[part]} holds {len(features)} images, not {dataset.images}; delete it")
            dataset.features = features

    def _file(self, state: str, trainer: pl.Trainer, dataset: StudyDataset) -> Path:
        device = trainer.strategy.root_device.type  # a GPU may round otherwise
        what = (_RECIPE, state, dataset.image_size, trainer.precision, device, dataset.fingerprint())
        return self.folder / f"{blake2b(repr(what).encode(), digest_size=12).hexdigest()}.npy"

    @contextmanager
    def _alone(self, trainer: pl.Trainer) -> Iterator[None]:
        """Let no other run write here; one that wants the same features waits, and finds them."""
        if not trainer.is_global_zero:
            yield
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(
                f"--feature_cache {self.folder}: the folder cannot be made ({error.strerror}); give another one"
            ) from error
        with (self.folder / "lock").open("w", encoding="utf-8") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                log.info("feature cache: another run is writing in %s; waiting for it", self.folder)
                fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _fill(self, trainer: pl.Trainer, task: ClassificationTask, data: StudyData, files: dict[str, Path]) -> None:
        """Compute files that are missing; each process writes its share of the rows of one file."""
        datasets = {part: data.datasets[part] for part in files}
        layout = FeatureLayout.of(_encode(trainer, task, next(iter(datasets.values())).films([0])))
        self._check_room(trainer, layout, sum(dataset.images for dataset in datasets.values()))
        for part, file in files.items():
            writer = FeatureWriter(file.with_name(f".{file.name}.partial"), layout, datasets[part].images)
            try:
                if trainer.is_global_zero:
                    writer.begin()
                trainer.strategy.barrier("longview_features_begun")
                self._write(trainer, task, data, part, writer)
                trainer.strategy.barrier("longview_features_written")
                if trainer.is_global_zero:
                    describe(file, layout, self._made_of(trainer, task, part, datasets[part]))
                    writer.path.replace(file)
                trainer.strategy.barrier("longview_features_moved")
            finally:
                if trainer.is_global_zero:
                    writer.path.unlink(missing_ok=True)

    def _write(
        self, trainer: pl.Trainer, task: ClassificationTask, data: StudyData, part: str, writer: FeatureWriter
    ) -> None:
        """Write this process's share of a part."""
        rank, world = trainer.global_rank, trainer.world_size
        done, last = rank * writer.images // world, (rank + 1) * writer.images // world
        if not writer.path.is_file():
            raise InputError(
                f"--feature_cache {self.folder} is not on a disk that all processes see: {writer.path.name} of the "
                f"first one is missing; give a folder on a shared disk, {_REMEDY}"
            )
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        console = Console(stderr=True)
        with (
            Progress(*columns, console=console, disable=not trainer.is_global_zero) as progress,
            writer.path.open("r+b") as file,
        ):
            shown = progress.add_task(f"features: {part}", total=last - done)
            for films in data.film_loader(part, done, last):
                writer.write(file, done, _encode(trainer, task, films))
                done += len(films)
                progress.advance(shown, len(films))

    def _check_room(self, trainer: pl.Trainer, layout: FeatureLayout, images: int) -> None:
        """Say how much room the features take, and refuse on every process where the first one finds too little."""
        needed = images * layout.image_bytes
        free = trainer.strategy.broadcast(shutil.disk_usage(self.folder).free if trainer.is_global_zero else 0)
        size = f"{layout.dtype} {' x '.join(map(str, layout.shape))}"
        log.info("feature cache: %d images, %s each: %s in %s", images, size, human_bytes(needed), self.folder)
        if needed > free:
            raise InputError(
                f"--feature_cache {self.folder} needs {human_bytes(needed)} for {images} images ({size} each), and "
                f"{human_bytes(free)} are free; give a folder on another disk, {_REMEDY}"
            )

    @staticmethod
    def _made_of(
        trainer: pl.Trainer, task: ClassificationTask, part: str, dataset: StudyDataset
    ) -> dict[str, str | int | list[str]]:
        encoder = task.network.encoder
        return {
            "encoder": str(getattr(encoder, "name", type(encoder).__name__)),
            "image_size": dataset.image_size,
            "precision": str(trainer.precision),
            "part": part,
            "images": dataset.images,
            "stores": [str(store.path) for store in dataset.stores],
        }


def encoder_hash(encoder: nn.Module) -> str:
    """Hash of what an encoder computes: its structure and all its parameters and buffers."""
    total = blake2b(str(encoder).encode(), digest_size=16)
    for name, value in (*encoder.named_parameters(), *encoder.named_buffers()):
        total.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        plain = value.detach().cpu().contiguous().reshape(-1)  # a tensor without dimensions has no bytes to view
        total.update(plain.view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


def _encode(trainer: pl.Trainer, task: ClassificationTask, films: Tensor) -> Tensor:
    """Features (N, C, h, w) of films (N, 1, H, W), in the precision of training."""
    with trainer.precision_plugin.forward_context():
        return task.network.encode(films.to(task.device))


@contextmanager
def _evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode for a while; each part goes back to the mode that it was in."""
    modes = {part: part.training for part in module.modules()}
    module.eval()
    try:
        yield
    finally:
        for part, training in modes.items():
            part.training = training


def check_unchanging(task: ClassificationTask, data: StudyData) -> None:
    """Find out, before anything is made of a run, whether the features of its films are the same in every epoch.

    Raises:
        InputError: Where the encoder is to be trained, or films are augmented.
    """
    if "encoder" not in task.frozen:
        raise InputError(
            f"--feature_cache needs a frozen encoder, for the features of a trained one change; add "
            f"--model.freeze encoder, {_REMEDY}"
        )
    _check_films(data)


def _check_films(data: StudyData) -> None:
    if data.augment is not None:
        raise InputError(
            "--feature_cache needs films that are the same in every epoch, and data.augment changes them; set "
            f"data.augment to null, {_REMEDY}"
        )


def _check(trainer: pl.Trainer, module: pl.LightningModule) -> tuple[Any, StudyData]:
    """The task and its data, where the features of its films are the same in every epoch.

    Raises:
        InputError: Where they are not, or nobody could say so.
    """
    data = getattr(trainer, "datamodule", None)
    if not isinstance(module, ClassificationTask) or not isinstance(data, StudyData):
        raise InputError(
            f"--feature_cache needs a ClassificationTask and StudyData, not {type(module).__name__} and "
            f"{type(data).__name__}; leave it out"
        )
    network = module.network
    encoder = getattr(network, "encoder", None)
    if not isinstance(encoder, nn.Module):
        raise InputError(f"--feature_cache: {type(network).__name__} has no encoder; leave it out")
    parameters = list(encoder.parameters())
    trained = sum(parameter.requires_grad for parameter in parameters)
    if trained:
        raise InputError(
            f"--feature_cache needs a frozen encoder: {trained} of its {len(parameters)} parameters are trained, and "
            f"their features change; add --model.freeze encoder, {_REMEDY}"
        )
    _check_films(data)
    if trainer.strategy.restore_checkpoint_after_setup:
        raise InputError(
            f"--feature_cache needs the whole encoder on each process, which {type(trainer.strategy).__name__} "
            f"spreads; use trainer.strategy auto or ddp, {_REMEDY}"
        )
    return module, data
