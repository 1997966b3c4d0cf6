"""Loaders whose worker processes read into few pieces of shared memory again and again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from longview import Batch
from longview.data.sampler import StudySampler
from longview.data.studies import StudyDataset

_AHEAD = 2  # batches that each worker reads ahead
_SMALL = ("study", "view", "target", "store")
_LARGE = ("images", "features")


class StudyLoader(DataLoader[Batch]):
    """A loader of whole batches that starts when the first one is asked for.

    Worker processes read into few pieces of shared memory again and again; images and features are copied out of them
    (or pinned) on arrival. What is small travels as plain bytes, for each piece of shared memory costs a round trip.
    The place in the epoch is in the trainer's checkpoint and in that of `StudyData`.
    """

    def __iter__(self) -> Any:
        """Yield batches that are the caller's own."""
        for batch in super().__iter__():
            if self.num_workers > 0:
                batch.update((name, torch.from_numpy(batch[name])) for name in _SMALL if name in batch)
                if not self.pin_memory:
                    batch.update((name, batch[name].clone()) for name in _LARGE if name in batch)
            yield batch

    def state_dict(self) -> dict[str, Any]:
        """Nothing; with :meth:`load_state_dict` it tells Lightning that a resume in mid-epoch is no mistake."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Nothing to load."""


def study_loader(
    dataset: StudyDataset, sampler: StudySampler, batch_size: int, num_workers: int, keep: bool
) -> DataLoader[Batch]:
    """A loader of a dataset's batches; `keep` lets its processes live on between epochs."""
    return StudyLoader(
        dataset,
        sampler=sampler,
        batch_size=batch_size,
        collate_fn=_for_transport,
        persistent_workers=keep and num_workers > 0,
        worker_init_fn=_reuse_memory,
        **_reading(num_workers),
    )


def film_loader(dataset: StudyDataset, places: range, batch_size: int, num_workers: int) -> DataLoader[Tensor]:
    """A loader of the images at these places of a dataset, (N, 1, H, W) uint8, in order, nothing random."""
    return DataLoader(
        _Films(dataset),
        batch_sampler=[list(places[first : first + batch_size]) for first in range(0, len(places), batch_size)],
        collate_fn=_as_it_is,
        # its own: a loader draws a seed for its workers, and must not shift the random numbers of training
        generator=torch.Generator(),
        **_reading(num_workers),
    )


def _reading(num_workers: int) -> dict[str, Any]:
    # before the workers are forked, not in them: a forked OpenCV waits for ever for the threads left behind
    cv2.setNumThreads(0)
    return {
        "num_workers": num_workers,
        "pin_memory": torch.cuda.is_available(),
        "prefetch_factor": _AHEAD if num_workers else None,
    }


class _Films(Dataset[Tensor]):
    """The images of a dataset, whole batches at once."""

    def __init__(self, dataset: StudyDataset) -> None:
        self.dataset = dataset

    def __getitem__(self, place: int) -> Tensor:
        return self.dataset.films([place])

    def __getitems__(self, places: Sequence[int]) -> Tensor:
        return self.dataset.films(places)


def _as_it_is(films: Any) -> Any:
    return films


def _for_transport(batch: Any) -> dict[str, Any]:
    """Datasets give whole batches; there is nothing to collate, but in a worker, what is small becomes an array."""
    values: dict[str, Any] = {**batch}  # a Batch
    if get_worker_info() is not None:
        values.update((name, values[name].numpy()) for name in _SMALL if name in values)
    return values


def _reuse_memory(worker: int) -> None:  # noqa: ARG001  # DataLoader's signature
    """In a worker: as many buffers as batches may be on their way, one that is being copied, and one being filled."""
    info = get_worker_info()
    assert info is not None
    assert isinstance(info.dataset, StudyDataset)
    info.dataset.reuse(_AHEAD + 2)
