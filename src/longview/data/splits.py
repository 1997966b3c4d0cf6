"""Splits: whole patients divided into train, val and test, with every label's share kept in each.

No maintained library stratifies several labels and groups rows at once, so this is iterative stratification
(Sechidis et al., ECML PKDD 2011: rarest label first) on patients instead of rows. A patient goes where the
squared distance from the wanted counts, relative to them, grows least; all splits are made at once.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Collection

import numpy as np
import numpy.typing as npt
import pandas as pd
from rich.console import Console
from rich.table import Table
from rich.text import Text

from longview import InputError
from longview.data.manifest import SPLITS, Manifest

logger = logging.getLogger(__name__)

_POSITIVE = 0.5  # a soft label counts as present from here on


def split_patients(
    patients: npt.NDArray[np.str_],
    targets: npt.NDArray[np.floating],
    fractions: dict[str, float],
    seed: int,
) -> npt.NDArray[np.str_]:
    """Divide rows into splits by patient, so that each split has its share of rows and of every label.

    Who goes where depends on the set of patients, their labels and the seed, not on the order of rows. A
    label of at least as many patients as there are splits is, as a rule, present in each of them; one of
    fewer patients is present in the largest splits. No split is empty while there are enough patients.

    Args:
        patients: Patient of each row, (n,) text.
        targets: Labels of each row, (n, L) in [0, 1], NaN where unknown; L may be 0. A soft label counts as
            present from 0.5 on.
        fractions: Split -> share of the rows, each at least 0, sum 1; nothing goes to a split of share 0.
        seed: Seed of the order among patients that are alike.

    Returns:
        Split of each row, (n,) text.

    Raises:
        InputError: Where the shares are negative or do not sum to 1.
        ValueError: Where patients and targets have different numbers of rows.
    """
    if targets.ndim != 2 or len(patients) != len(targets):
        raise ValueError(f"{len(patients)} patients do not fit targets of shape {targets.shape}")
    _check_fractions(fractions)
    # largest first: the first of equals is taken below
    names = sorted((name for name, share in fractions.items() if share > 0), key=lambda name: -fractions[name])
    _, of_row = np.unique(np.asarray(patients, dtype=object).astype(str), return_inverse=True)
    counts, labels = _patient_counts(of_row, targets)
    shares = np.array([fractions[name] for name in names])
    return np.array(names, dtype=np.str_)[_stratify(counts, labels, shares, seed)[of_row]]


def _check_fractions(fractions: dict[str, float]) -> None:
    bad = {name: share for name, share in fractions.items() if not 0 <= share <= 1}
    if bad or not math.isclose(sum(fractions.values()), 1, abs_tol=1e-6):
        raise InputError(f"fractions of the splits must lie in [0, 1] and sum to 1, not {fractions}")


def _patient_counts(
    of_row: npt.NDArray[np.intp], targets: npt.NDArray[np.floating]
) -> tuple[npt.NDArray[np.float64], int]:
    """What is balanced, (patients, F): positive rows of each label, known rows where some are unknown, rows.

    Also returns how many of the F columns are labels.
    """
    size = int(of_row.max()) + 1 if len(of_row) else 0
    known = ~np.isnan(targets)
    partial = [column for column in range(targets.shape[1]) if not known[:, column].all()]
    columns = [targets[:, column] >= _POSITIVE for column in range(targets.shape[1])]  # NaN >= x is False
    columns += [known[:, column] for column in partial]
    counts = [np.bincount(of_row[column], minlength=size) for column in columns]
    counts.append(np.bincount(of_row, minlength=size))
    return np.stack(counts, axis=1).astype(np.float64), targets.shape[1]


def _stratify(
    counts: npt.NDArray[np.float64], labels: int, shares: npt.NDArray[np.float64], seed: int
) -> npt.NDArray[np.intp]:
    """Split of each patient, (P,): one phase per label, rarest first, then the patients without labels."""
    totals = counts.sum(axis=0)
    # fill[s, f] runs from 0 to 1 as split s gets its share of column f; a patient adds gain[s] * counts to it
    with np.errstate(divide="ignore"):
        rarity = np.where(totals > 0, 1 / totals, 0.0)
    gain = rarity / shares[:, None]
    weights = counts * rarity  # rare labels weigh more in the choice
    fill = np.zeros_like(gain)
    result = np.full(len(counts), -1, dtype=np.intp)
    shuffle = np.random.default_rng(seed).permutation(len(counts))
    carrier = counts[:, :labels] > 0
    open_patients = np.ones(len(counts), dtype=bool)
    left = carrier.sum(axis=0)
    while open_patients.any():
        waiting = np.flatnonzero(left)
        label = int(waiting[left[waiting].argmin()]) if len(waiting) else -1  # -1: rows, all that are left
        phase = np.flatnonzero(open_patients & (carrier[:, label] if label >= 0 else True))
        phase = phase[np.lexsort((shuffle[phase], -counts[phase, label]))]  # many rows first: few correct many
        later = int(open_patients.sum()) - len(phase)
        for remaining, patient in zip(range(len(phase), 0, -1), phase, strict=True):
            need = (fill + gain * counts[patient] / 2) @ weights[patient]  # half the growth of the distance
            for column, chances in ((label, remaining), (-1, remaining + later)):
                lacking = fill[:, column] == 0
                if lacking.any() and lacking.sum() >= chances:  # the last chance not to stay without
                    need = np.where(lacking, -1.0, np.inf)
            split = int(need.argmin())
            result[patient] = split
            fill[split] += gain[split] * counts[patient]
        open_patients[phase] = False
        left -= carrier[phase].sum(axis=0)
    return result


def assign_splits(manifest: Manifest, val_fraction: float = 0.1, test_fraction: float = 0.1, seed: int = 0) -> Manifest:
    """Give every image a split, whole patients at a time.

    Official splits stay, but for validation: where there is no `val`, a share of the patients of `train`
    becomes it. Images with split `none` follow their patient where the patient has a split; the other
    patients are divided into train, val and test. A split that stays empty although it has a share is named
    in a warning.

    Args:
        manifest: Images with official splits or `none`.
        val_fraction: Share of images for validation, of those in `train` or of those without a split.
        test_fraction: Share of the images without a split that is kept for testing.
        seed: Seed of the division.

    Raises:
        InputError: Where a fraction or the seed is negative, or nothing is left for training.
    """
    check_division(val_fraction, test_fraction, seed)
    table = manifest.table.copy()
    split = table["split"].to_numpy(dtype=object)
    patients = table["patient_id"].to_numpy(dtype=object)
    targets = manifest.targets(manifest.labels)
    known = dict(zip(patients[split != "none"], split[split != "none"], strict=True))
    split = np.array([known.get(patient, "none") for patient in patients], dtype=object)
    pools = [("none", {"train": 1 - val_fraction - test_fraction, "val": val_fraction, "test": test_fraction})]
    if "val" not in known.values():
        pools.append(("train", {"train": 1 - val_fraction, "val": val_fraction}))
    for (pool, fractions), rows in [(entry, split == entry[0]) for entry in pools]:
        if rows.any():
            split[rows] = split_patients(patients[rows], targets[rows], fractions, seed)
            logger.info("%d images of split %r divided by patient: %s", int(rows.sum()), pool, fractions)
    table["split"] = pd.array(split, dtype="str")
    result = Manifest(table, origin=manifest.origin)
    wanted = {"train": 1.0, "val": val_fraction, "test": test_fraction}
    why = "too few patients, or official lists without it"
    warn_empty(result, [name for name, share in wanted.items() if share > 0], why)
    return result


def check_division(val_fraction: float, test_fraction: float, seed: int) -> None:
    """Check the options of :func:`assign_splits`.

    Raises:
        InputError: Where a fraction or the seed is negative, or nothing is left for training.
    """
    for name, fraction in (("val_fraction", val_fraction), ("test_fraction", test_fraction)):
        if not 0 <= fraction < 1:
            raise InputError(f"{name} must be at least 0 and below 1, not {fraction}")
    if val_fraction + test_fraction >= 1:
        raise InputError(
            f"val_fraction {val_fraction} and test_fraction {test_fraction} leave nothing for training; lower one"
        )
    if seed < 0:
        raise InputError(f"seed must be 0 or more, not {seed}")


def split_table(manifest: Manifest) -> pd.DataFrame:
    """Numbers of images, studies, patients, and positive images of each label, per split.

    Returns:
        One row per number (`images`, `studies`, `patients`, then the labels), one integer column per split
        that has images, in the order train, val, test, none.
    """
    table = manifest.table
    groups = table.groupby("split", sort=False)
    present = table[manifest.labels] >= _POSITIVE
    positives = present.groupby(table["split"], sort=False).sum()
    sizes = {
        "images": groups.size(),
        "studies": groups["study_id"].nunique(),
        "patients": groups["patient_id"].nunique(),
    }
    result = pd.concat([pd.DataFrame(sizes), positives], axis=1).T.astype(int)
    result.columns.name = None
    return result[[name for name in SPLITS if name in result.columns]]


def print_splits(manifest: Manifest) -> None:
    """Print :func:`split_table`."""
    counts = split_table(manifest)
    table = Table(title="images, studies, patients, and positive images per label")
    table.add_column("")
    for split in counts.columns:
        table.add_column(str(split), justify="right")
    for name, row in counts.iterrows():
        # Text: brackets in a label's name are no markup
        table.add_row(Text(str(name)), *(f"{value:,}" for value in row))
    Console().print(table)


def warn_empty(manifest: Manifest, wanted: Collection[str], why: str) -> None:
    """Log a warning that names each of the wanted splits that has no image."""
    there = set(manifest.table["split"].unique())
    for name in SPLITS:
        if name in wanted and name not in there:
            logger.warning("%s has no image in split %r: %s", manifest.origin, name, why)
