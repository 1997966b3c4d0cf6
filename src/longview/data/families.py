"""Sources that share patients, and the check that no patient stands in two splits of a run's stores."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from longview import InputError

logger = logging.getLogger(__name__)

FAMILIES: dict[str, tuple[str, ...]] = {
    "nih": ("nih", "nih-google", "rsna"),
    "mimic": ("mimic", "cxr-lt-2023", "cxr-lt-2024"),
    "padchest": ("padchest", "cxr-lt-2026"),
    "vindr": ("vinbig", "vindr"),
}
"""Family -> sources with the same films, and so the same patient ids. Any other source is a family of its own."""

_FAMILY_OF = {source: family for family, sources in FAMILIES.items() for source in sources}
_NIH_PATIENT = r"\d{8}"  # NIH's ids, zero-padded; RSNA's rows have them where its mapping file was there
_SHOWN = 5


def family_of(source: str) -> str:
    """The family of a source: its own name where it shares its patients with none."""
    return _FAMILY_OF.get(source, source)


def check_apart(tables: Mapping[str, pd.DataFrame]) -> None:
    """Refuse stores that together put a patient, or an image, of one family into two splits.

    Each store by itself has been checked as a manifest. Prepared twice with another seed, two stores of one data set
    would train on each other's validation patients, and so would a data set and the relabelling of it.

    Args:
        tables: Path of a store -> its manifest's table.

    Raises:
        InputError: Naming the patients, the sources, the stores and the remedy.
    """
    columns = ["source", "patient_id", "image_id", "split"]
    parts = [table[columns].assign(store=path) for path, table in tables.items()]
    known = pd.concat(parts, ignore_index=True)
    known["family"] = known["source"].map({name: family_of(name) for name in known["source"].unique()})
    stores = known.groupby("family")["store"].nunique()
    known = known[known["family"].isin(stores[stores > 1].index)]
    _warn_unchecked(known)
    known = known[known["split"] != "none"]  # what was not assigned leaks nothing
    for what, key in (("patients", "patient_id"), ("images", "image_id")):
        _check(known[["family", "source", key, "split", "store"]].drop_duplicates(), what, key)


def check_once(tables: Mapping[str, pd.DataFrame], images: Mapping[str, Path]) -> None:
    """Refuse stores that show the very same films, and warn of films that two sources of one family have.

    Such a film would be trained twice, and counted twice in the validation that chooses the best checkpoint.

    Args:
        tables: Path of a store -> its manifest's table.
        images: Path of a store -> the folder that its images are read from.

    Raises:
        InputError: For a store named twice, or beside one that borrows its images.
    """
    first: dict[Path, str] = {}
    for path, folder in images.items():
        other = first.setdefault(folder.resolve(), path)
        if other != path:
            raise InputError(
                f"data.stores: {other} and {path} show the same films, of {folder}, which would count twice; give one "
                f"of them, with a weight if it shall be shown more often"
            )
    columns = ["source", "image_id"]
    known = pd.concat([table[columns].drop_duplicates() for table in tables.values()], ignore_index=True)
    known["family"] = known["source"].map({name: family_of(name) for name in known["source"].unique()})
    twice = known.duplicated(["family", "image_id"])
    if twice.any():
        logger.warning(
            "%d films stand in more than one of %s, such as %r: they are shown, and scored, once for each",
            int(twice.sum()),
            ", ".join(tables),
            known.loc[twice, "image_id"].iloc[0],
        )


def _check(known: pd.DataFrame, what: str, key: str) -> None:
    splits = known[["family", key, "split"]].drop_duplicates()
    torn = splits.loc[splits.duplicated(["family", key]), ["family", key]].drop_duplicates()
    if torn.empty:
        return
    family, first = torn.iloc[0]
    rows = known[(known["family"] == family) & (known[key] == first)]
    sources = sorted(rows["source"].unique())
    where = "; ".join(f"{row.split} in {row.store}" for row in rows.itertuples())
    ids = ", ".join(map(repr, torn[key].iloc[:_SHOWN])) + (" ..." if len(torn) > _SHOWN else "")
    remedy = (
        "Prepare both with the same splits (the same --seed and fractions), or use one of them"
        if len(sources) == 1
        else f"{' and '.join(sources)} have the same {what}: use one of them, or prepare one from a table (--source "
        f"table) whose column `split` says of these {what} what the other store says"
    )
    raise InputError(
        f"{len(torn)} {what} are in two splits of the stores together ({ids}); {first!r} of {'/'.join(sources)}: "
        f"{where}. {remedy}"
    )


def _warn_unchecked(known: pd.DataFrame) -> None:
    """RSNA's films are NIH's, but its tables name other patients where its mapping file was not there."""
    rsna = known["source"] == "rsna"
    unmapped = rsna & ~known["patient_id"].str.fullmatch(_NIH_PATIENT)
    if unmapped.any() and (known["source"].isin(FAMILIES["nih"]) & ~rsna).any():
        logger.warning(
            "%s: %d films of rsna do not say which patient of NIH they show, so nobody can check that none is in two "
            "splits; put pneumonia-challenge-dataset-mappings_2018.json beside its tables and prepare it again",
            known.loc[unmapped, "store"].iloc[0],
            int(unmapped.sum()),
        )
