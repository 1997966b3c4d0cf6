"""`main.py soup`: the weights of several checkpoints as one."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

from longview import InputError
from longview.outputs import make_folder

if TYPE_CHECKING:
    from longview.ensembling.averaging import Checkpoint

logger = logging.getLogger(__name__)


def soup(
    checkpoints: list[Path],
    output: Path,
    *,
    fit: list[str] | None = None,
    greedy: bool = False,
    monitor: str = "val/map",
    batch_norm: Literal["measure", "average"] = "measure",
) -> None:
    """Average the weights of several checkpoints of one experiment into one checkpoint (a model soup).

    It costs no more to run than one of them. This works for checkpoints of one run, or of runs that were fine-tuned
    from the same weights (Wortsman et al., arXiv:2203.05482); runs from different random weights have no useful mean,
    and `ensemble` serves them. Checkpoints of other labels, preprocessing or architecture are refused.

        uv run main.py soup --checkpoints a/best.ckpt b/best.ckpt c/best.ckpt --output soup.ckpt --greedy
        uv run main.py predict --ckpt_path soup.ckpt --output soup.parquet

    With --greedy each checkpoint is validated, and the better ones are taken in turn, each only where the mean with it
    validates no worse: the result is at least as good as the best of them, on the validation part. Otherwise all count.

    Batch norms keep statistics that fit no mean of weights: they are measured on the training images, in one pass of
    each mean. Options of `predict` and `validate` with a dot (--data.stores, --data.num_workers, --trainer.accelerator)
    go to these runs.

    Args:
        checkpoints: The .ckpt files.
        output: The .ckpt file to write: for `predict`, `test`, `validate`, and `fit --model.pretrained`.
        fit: Options of those runs; there is no need to write --fit before them.
        greedy: Take only checkpoints that help, by really validating.
        monitor: Figure of the validation that --greedy goes by: val/map, val/auroc, val/map_tail, ...; of val/loss and
            val/ece a low one is good.
        batch_norm: measure: on the training images; average: take the mean of the statistics, which is wrong by as much
            as the checkpoints differ.
    """
    # idle OpenMP threads that spin slow down data loading and each other; must be set before torch is imported
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if output.suffix != ".ckpt":
        raise InputError(f"--output {output}: give the name of a .ckpt file")
    if output.resolve() in [file.resolve() for file in checkpoints]:
        raise InputError(f"--output {output} is one of the checkpoints; give another name")
    strange = [word for word in fit or [] if word.startswith("-") and "." not in word]
    if strange:
        raise InputError(f"soup has no option {strange[0]}")
    if not monitor.startswith("val/"):
        raise InputError(f"--monitor {monitor}: give a figure of the validation, as val/map")
    from longview.ensembling.averaging import read_ingredients, starts_alike, write_checkpoint

    ingredients = read_ingredients(checkpoints)
    if not starts_alike(ingredients):
        logger.warning(
            "these runs began with different weights, as far as their configurations tell: a mean of theirs is rarely "
            "worth anything; validate it, or average predictions with `ensemble`"
        )
    make_folder(output.parent, output)
    kitchen = _Kitchen(checkpoints, ingredients, output, fit or [], monitor, batch_norm == "measure")
    try:
        result = kitchen.greedy() if greedy else kitchen.mean(range(len(checkpoints)))
        write_checkpoint(result, output)
    finally:
        kitchen.aside.unlink(missing_ok=True)
    kitchen.report(greedy)


@dataclass
class _Kitchen:
    """Makes means and scores them.

    Args:
        files: The checkpoints' files.
        ingredients: The checkpoints.
        output: Where the result goes.
        options: Options of the runs.
        monitor: Figure of the validation.
        measure: Whether statistics of batch norms are measured.
    """

    files: Sequence[Path]
    ingredients: Sequence[Checkpoint]
    output: Path
    options: Sequence[str]
    monitor: str
    measure: bool
    alone: dict[int, float] = field(default_factory=dict)
    taken: list[int] = field(default_factory=list)
    value: float | None = None
    told: bool = False

    @property
    def aside(self) -> Path:
        """The temporary checkpoint of the runs."""
        return self.output.with_name(f".{self.output.stem}.trial.ckpt")

    def mean(self, chosen: Iterable[int]) -> Checkpoint:
        """The mean of some of the checkpoints, with batch norms that fit it."""
        from longview.ensembling.averaging import average, stale_statistics
        from longview.ensembling.trial_runs import measure_statistics

        places = sorted(chosen)
        parts, files = [self.ingredients[place] for place in places], [self.files[place] for place in places]
        self.taken = places
        result = average(parts, files)
        stale = stale_statistics(parts)
        if stale and not self.told:
            way = "are measured on the training images" if self.measure else "are averaged, and do not fit the weights"
            logger.log(
                logging.INFO if self.measure else logging.WARNING, "statistics of %d batch norms %s", len(stale), way
            )
            self.told = True
        if stale and self.measure:
            measure_statistics(result, self.aside, self.options)
        return result

    def greedy(self) -> Checkpoint:
        """The mean of the checkpoints that help, best first (Wortsman et al., recipe 1)."""
        from longview.ensembling.trial_runs import validate, whole

        sign = -1 if self.monitor in {"val/loss", "val/ece"} else 1
        for place, file in enumerate(self.files):
            self.alone[place] = validate(whole(file), self.aside, self.options, self.monitor)
        order = sorted(self.alone, key=lambda place: -sign * self.alone[place])
        taken, best = [order[0]], self.alone[order[0]]
        result = self.mean(taken)
        for place in order[1:]:
            candidate = self.mean([*taken, place])
            value = validate(candidate, self.aside, self.options, self.monitor)
            logger.info("with %s: %s %.4f, without it %.4f", self.files[place], self.monitor, value, best)
            if sign * value >= sign * best:
                taken, best, result = [*taken, place], value, candidate
        self.taken, self.value = sorted(taken), best
        return result

    def report(self, greedy: bool) -> None:
        """Say what was averaged."""
        console = Console()
        if greedy:
            table = Table(title="checkpoints")
            for column in ("checkpoint", self.monitor, "taken"):
                table.add_column(column, justify="left" if column == "checkpoint" else "right")
            for place, file in enumerate(self.files):
                table.add_row(Text(str(file)), f"{self.alone[place]:.4f}", "yes" if place in self.taken else "")
            console.print(table)
            console.print(f"soup: {self.monitor} {self.value:.4f} on the validation part, which it was chosen on")
        told = f"Soup of {len(self.taken)} checkpoints: {self.output}"
        if not greedy:
            told += f"\nNext: uv run main.py validate --ckpt_path {self.output}"
        console.print(told, soft_wrap=True, markup=False)
