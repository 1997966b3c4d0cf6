"""Which studies an epoch shows where rare labels are to be seen more often than they occur."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
import numpy.typing as npt

from longview import InputError

Indices = npt.NDArray[np.int64]
Weights = npt.NDArray[np.float64]
Members = npt.NDArray[np.bool_]


class Sampling(ABC):
    """Draws as many studies as an epoch has, with repetition, in the order in which they are shown.

    A study is positive for a label whose target is at least 0.5; unknown ones are not positive. Studies that are known
    to be positive for none (in a label set without `Normal` the healthy ones) count as one label more. Studies of
    which nothing is known are not drawn.

    Draws are a function of (seed, epoch): the same for any number of processes, and after a resume. Losses and
    head, medium and tail go on counting each study once.

    Args:
        start: Share of the training epochs after which this begins; before it, each study is shown once. 0.8 is the
            deferred re-balancing of two-stage training (Cao et al. 2019, arXiv 1906.07413; Kang et al. 2020,
            arXiv 1910.09217).
        negatives: Draw studies that are positive for no label. False leaves them out, as where a `Normal` label
            stands for the healthy and the others are few.

    Raises:
        InputError: For a start outside of [0, 1).
    """

    def __init__(self, start: float = 0.0, negatives: bool = True) -> None:
        if not 0 <= start < 1:
            raise InputError(f"{type(self).__name__}: start must be in [0, 1), found {start}")
        self.start = start
        self.negatives = negatives

    def check(self, epochs: int | None) -> None:
        """Find out whether the start will come in a run of so many epochs; None where they are not limited.

        Raises:
            InputError: Where nobody can say.
        """
        if self.start and epochs is None:
            raise InputError(
                f"data.sampling: {type(self).__name__} starts after {self.start:g} of the epochs, and their number is "
                f"not limited; set trainer.max_epochs, or start: 0"
            )

    def begun(self, epoch: int, epochs: int | None) -> bool:
        """Whether this holds in an epoch: of several epochs it always holds in the last."""
        return not self.start or epoch >= self.start * max((epochs or 0) - 1, 1) - 1e-9

    def draw(self, targets: npt.NDArray[np.float32], rng: np.random.Generator) -> Indices:
        """Draw an epoch; without any label to go by, each study once.

        Args:
            targets: (n, L) of the studies that an epoch would show, NaN where unknown.
            rng: The epoch's random numbers.

        Returns:
            (n,) places in `targets`.
        """
        member = membership(targets, self.negatives)
        return self.choose(member, rng) if member.any() else rng.permutation(len(targets))

    @abstractmethod
    def choose(self, member: Members, rng: np.random.Generator) -> Indices:
        """Draw an epoch.

        Args:
            member: (n, K) which studies are positive for which labels, with at least one that is.
            rng: The epoch's random numbers.

        Returns:
            (n,) places in `member`.
        """


class ClassAware(Sampling):
    """Each label gets its turn, and shows the next of its positive studies (Shen et al. 2016, arXiv 1512.05830).

    In a round every label with positives has one turn, in random order, so that a batch sees them all alike; the
    last round may be cut short. A label's studies come in random order, each once before any comes again. As a
    study shows all of its labels, frequent ones are still seen more often than in their own turns.
    """

    def choose(self, member: Members, rng: np.random.Generator) -> Indices:
        """Draw (n,) places in rounds of turns."""
        order, _ = self.turns(member, rng)
        return order

    def turns(self, member: Members, rng: np.random.Generator) -> tuple[Indices, Indices]:
        """As :meth:`choose`; with (n,) whose turn each draw was, a column of `member`."""
        labels = np.flatnonzero(member.any(axis=0))
        studies = len(member)
        rounds = -(-studies // len(labels))
        shown = np.stack([_in_turn(np.flatnonzero(member[:, label]), rounds, rng) for label in labels])  # (K, rounds)
        turn = np.stack([rng.permutation(len(labels)) for _ in range(rounds)], axis=1)  # (K, rounds)
        order = np.take_along_axis(shown, turn, axis=0).T.ravel()[:studies]
        return order, labels[turn].T.ravel()[:studies]


class Weighted(Sampling):
    """A study is drawn in proportion to the weight of its rarest label; how often is as even as whole numbers allow.

    The rarest counts, since a study shown for it shows its frequent labels too; systematic re-sampling leaves no
    study that is due once or more out by chance.
    """

    @abstractmethod
    def weights(self, counts: Weights) -> Weights:
        """Weights (K,), each above 0, of labels with `counts` (K,) positive studies, each at least 1."""

    def choose(self, member: Members, rng: np.random.Generator) -> Indices:
        """Draw (n,) places in random order."""
        member = member[:, member.any(axis=0)]
        each = np.where(member, self.weights(member.sum(axis=0).astype(np.float64)), 0.0).max(axis=1)  # (n,)
        studies = rng.permutation(len(each))  # neighbours share what chance rounds up
        reach = np.cumsum(each[studies])
        marks = (rng.random() + np.arange(len(each))) * (reach[-1] / len(each))
        places = np.minimum(np.searchsorted(reach, marks, side="right"), len(each) - 1)
        drawn: Indices = rng.permutation(studies[places])
        return drawn


class SquareRoot(Weighted):
    """Weights 1 / n^power of labels with n positive studies (Mahajan et al. 2018, arXiv 1805.00932).

    Args:
        power: 0.5 is square-root sampling; 0 shows each study once, 1 makes labels about equally frequent.
        start: See :class:`Sampling`.
        negatives: See :class:`Sampling`.

    Raises:
        InputError: For a power outside of [0, 1], or a start outside of [0, 1).
    """

    def __init__(self, power: float = 0.5, start: float = 0.0, negatives: bool = True) -> None:
        super().__init__(start, negatives)
        if not 0 <= power <= 1:
            raise InputError(f"SquareRoot: power must be in [0, 1], found {power}")
        self.power = power

    def weights(self, counts: Weights) -> Weights:
        """Weights (K,): `counts ** -power`."""
        powers: Weights = counts**-self.power
        return powers


class EffectiveNumber(Weighted):
    """Weights (1 - beta) / (1 - beta^n) of labels with n positive studies (Cui et al. 2019, arXiv 1901.05555).

    Args:
        beta: 0 shows each study once; towards 1 labels become about equally frequent, those with fewer than about
            1 / (1 - beta) positives first.
        start: See :class:`Sampling`.
        negatives: See :class:`Sampling`.

    Raises:
        InputError: For a beta or start outside of [0, 1).
    """

    def __init__(self, beta: float = 0.999, start: float = 0.0, negatives: bool = True) -> None:
        super().__init__(start, negatives)
        if not 0 <= beta < 1:
            raise InputError(f"EffectiveNumber: beta must be in [0, 1), found {beta}")
        self.beta = beta

    def weights(self, counts: Weights) -> Weights:
        """Weights (K,): the inverse of the effective number of positives."""
        inverse: Weights = (1 - self.beta) / (1 - self.beta**counts)
        return inverse


def membership(targets: npt.NDArray[np.float32], negatives: bool = True) -> Members:
    """Which studies (n, L + 1) are positive for which labels.

    The last column is of those that are positive for none and of which something is known; empty unless `negatives`.
    """
    positive = targets >= 0.5  # NaN is not
    none = ~positive.any(axis=1, keepdims=True) & ~np.isnan(targets).all(axis=1, keepdims=True)  # (n, 1)
    return np.concatenate([positive, none & negatives], axis=1)


def _in_turn(studies: Indices, draws: int, rng: np.random.Generator) -> Indices:
    """So many draws of these studies, each once in random order before any comes again."""
    passes = [rng.permutation(studies) for _ in range(-(-draws // len(studies)))]
    return np.concatenate(passes)[:draws]
