"""Which studies a process sees, in which order and with which random seed.

Training order is a function of (seed, epoch) alone: one permutation of all studies, cut into global batches,
of which each process takes its slice. So one process with a batch of 8 and two with 4 each see the same
global batches, augmented alike, and a run that stops in mid-epoch goes on with exactly the rest.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, TypedDict

import numpy as np
import numpy.typing as npt
from torch.utils.data import DistributedSampler

from longview import InputError
from longview.data.sampling import Sampling

logger = logging.getLogger(__name__)

_ORDER, _AUGMENT = 0, 1  # streams of random numbers, so that order and augmentation are independent


class Draw(NamedTuple):
    """One study to read: its place in the dataset, and the seed of its augmentation and choice of views."""

    study: int
    seed: int


class OrderState(TypedDict):
    """What the order of samples depends on, as a checkpoint says it."""

    epoch: int
    seed: int
    studies: int
    global_batch: int
    sampling: str


class StudySampler(DistributedSampler[Draw]):
    """The draws of one process, in order; a plain :class:`~torch.utils.data.BatchSampler` may group them.

    *Training* (`shuffle`): store `s` gives `round(passes[s] * sizes[s])` draws to each epoch: with 1 each of
    its studies once, with 0.5 a random half (another half each epoch), with 2 each twice; the epoch's length
    is their sum. Draws repeat a study only where `passes` is above 1, and as evenly as can be. All draws are
    permuted together, or `sampling` draws as many among them: a label's positives in stores with `passes` 1 and 0.5
    then come as 2 to 1, whatever share of the epoch the label gets. The last global batch is dropped where it is not
    full, so that all processes have equally many full batches; an epoch smaller than one global batch is one
    batch of `draws // world` per process.

    *Evaluation*: the processes divide all studies, in order, into contiguous parts whose sizes differ by at
    most one; nothing is repeated or dropped, and a part may be empty.

    It is a `DistributedSampler` so that Lightning recognises it and injects none of its own.

    Args:
        sizes: Number of studies of each store, in the order of the dataset.
        passes: How often each store's studies are drawn per epoch, each > 0; 1 for all where None.
        batch_size: Studies per process and batch.
        rank: Which process this is.
        world: Number of processes.
        seed: Seed of order and augmentation, >= 0.
        shuffle: True for training, False for evaluation.
        place: Asked at the start of each iteration for the epoch and the number of batches of it that this process
            is to skip; None: the epoch that was set, from its beginning.
        sampling: Shows rare labels more often, in training; None: the draws as they are.
        targets: (n, L) of all studies, for `sampling`.
        epochs: Epochs of the whole run, for a sampling that starts late; None where their number is not limited.

    Raises:
        InputError: For a batch size or seed out of range, for `passes` that are not positive, for fewer draws per
            epoch than processes in training, or for a sampling that starts late in a run without end.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        *,
        passes: Sequence[float] | None = None,
        batch_size: int = 32,
        rank: int = 0,
        world: int = 1,
        seed: int = 0,
        shuffle: bool = True,
        place: Callable[[], tuple[int, int]] | None = None,
        sampling: Sampling | None = None,
        targets: npt.NDArray[np.float32] | None = None,
        epochs: int | None = None,
    ) -> None:
        # DistributedSampler.__init__ is left out on purpose: it pads, and asks for a process group
        if batch_size < 1:
            raise InputError(f"batch_size is {batch_size}; it must be at least 1")
        if seed < 0:
            raise InputError(f"seed is {seed}; it must be at least 0")
        passes = [1.0] * len(sizes) if passes is None else list(passes)
        if len(passes) != len(sizes) or any(not 0 < number < float("inf") for number in passes):
            raise InputError(f"store weights are {passes}; give each of the {len(sizes)} stores a number above 0")
        self.sizes, self.batch_size, self.rank, self.num_replicas = list(sizes), batch_size, rank, world
        self.seed, self.shuffle, self.epoch = seed, shuffle, 0
        self._quotas = (
            [round(share * size) for share, size in zip(passes, sizes, strict=True)] if shuffle else self.sizes
        )
        self.place = place
        self.sampling, self.targets, self.epochs = sampling, targets, epochs
        if sampling is not None:
            sampling.check(epochs)
        self._skip = 0  # draws of this process that were seen before a resume in this epoch
        if shuffle and sum(self._quotas) < world:
            raise InputError(f"an epoch of {sum(self._quotas)} studies is too small for {world} processes")

    @property
    def studies(self) -> int:
        """Draws of an epoch, over all processes, before any are dropped."""
        return sum(self._quotas)

    def __len__(self) -> int:
        """Draws of this process in a whole epoch, whether or not a resume skips some of them."""
        if not self.shuffle:
            start, stop = self._part()
            return stop - start
        batches = self.studies // (self.batch_size * self.num_replicas)
        return batches * self.batch_size if batches else self.studies // self.num_replicas

    def __iter__(self) -> Iterator[Draw]:
        """Yield this process's draws of the current epoch, without those that a resume skips."""
        if self.place is not None:
            self.resume(*self.place())
        indices, seeds = self._draws()
        skip = self._skip
        for index, seed in zip(indices[skip:], seeds[skip:], strict=True):
            yield Draw(int(index), int(seed))

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, as for any distributed sampler; `place` goes before it."""
        self.epoch, self._skip = epoch, 0

    def resume(self, epoch: int, batches: int) -> None:
        """Stand in `epoch` after `batches` batches of this process; the length stays that of the whole epoch."""
        self.epoch, self._skip = epoch, batches * min(self.batch_size, len(self))

    def state(self) -> OrderState:
        """What the order of samples depends on."""
        return OrderState(
            epoch=self.epoch,
            seed=self.seed,
            studies=self.studies,
            global_batch=self.batch_size * self.num_replicas,
            sampling=self._sampling(),
        )

    def _sampling(self) -> str:
        if self.sampling is None:
            return ""
        late = f" of {self.epochs} epochs" if self.sampling.start else ""
        return f"{type(self.sampling).__name__}{vars(self.sampling)}{late}"

    def _part(self) -> tuple[int, int]:
        total = self.studies
        return self.rank * total // self.num_replicas, (self.rank + 1) * total // self.num_replicas

    def _draws(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.unsignedinteger[Any]]]:
        """Indices and seeds of this process's draws in the current epoch."""
        if self.shuffle:
            order = self._global_order()
            mine = len(self)
            batch = min(self.batch_size, mine)
            used = np.arange(mine * self.num_replicas).reshape(-1, self.num_replicas, batch)
            places = used[:, self.rank].ravel()
        else:
            order = np.arange(self.studies)
            places = np.arange(*self._part())
        base = np.random.SeedSequence([self.seed, self.epoch, _AUGMENT]).generate_state(1, np.uint64)
        return order[places], base + places.astype(np.uint64)  # wraps around; the generator mixes neighbours well

    def _global_order(self) -> npt.NDArray[np.int64]:
        rng = np.random.default_rng([self.seed, self.epoch, _ORDER])
        chosen, first = [], 0
        for size, quota in zip(self.sizes, self._quotas, strict=True):
            whole, rest = divmod(quota, size) if size else (0, 0)
            chosen += [np.arange(first, first + size)] * whole
            if rest:
                chosen.append(first + rng.choice(size, rest, replace=False))
            first += size
        drawn: npt.NDArray[np.int64] = np.concatenate(chosen)
        if self.sampling is not None and self.sampling.begun(self.epoch, self.epochs):
            assert self.targets is not None
            order: npt.NDArray[np.int64] = drawn[self.sampling.draw(self.targets[drawn], rng)]
            return order
        return rng.permutation(drawn)


def even_batch(studies: int, batch_size: int, world: int) -> int:
    """The largest batch size up to `batch_size` with which all processes evaluate equally many batches.

    Under DDP each forward pass may exchange buffers (batch norm), in validation too: a process with one batch
    more than the others would wait for ever. Parts differ by one study at most, so any size will do that does
    not divide the smaller part; with 8 and more there is always one unless there are fewer studies than
    processes.
    """
    smaller, rest = divmod(studies, world)
    if not rest:
        return batch_size
    for size in range(batch_size, 1, -1):
        if smaller % size:
            return size
    logger.warning(
        "%d studies cannot be divided into equally many batches of at most %d for %d processes; if "
        "validation hangs, use a larger batch size or a strategy with broadcast_buffers: false.",
        studies,
        batch_size,
        world,
    )
    return batch_size
