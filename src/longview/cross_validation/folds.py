"""`main.py folds`: an experiment trained on k folds of its patients, in one command."""

from __future__ import annotations

import json
import logging
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console
from rich.table import Table

from longview import InputError
from longview.cross_validation.division import Division, divide
from longview.cross_validation.processes import run
from longview.data.manifest import write_table
from longview.data.phantom_store import PhantomSpec, make_phantom
from longview.data.store import Store
from longview.ensembling.combining import Scale, combine
from longview.ensembling.members import read_members
from longview.ensembling.weights import identity
from longview.labels import LabelSet
from longview.outputs import make_folder
from longview.predictions import KEYS, MODEL, labels_of, read_predictions, write_predictions
from longview.ranking import LabelScores, macro, per_label

logger = logging.getLogger(__name__)

_SETTINGS, _TRUTH, _HELD_OUT, _TEST = "folds.json", "truth.parquet", "held_out.parquet", "test.parquet"


def folds(
    output: Path,
    *,
    fit: list[str] | None = None,
    folds: int = 5,
    only: int | None = None,
    validation: float = 0.1,
    on: Scale = "probability",
    seed: int = 0,
) -> None:
    """Train an experiment on k folds of its patients, and predict each fold by the model that never saw it.

    The patients of the train and val parts are divided into folds with every label's share kept; the test part stays
    apart. For each fold `fit` runs on the others, and chooses its checkpoint on a share of *their* patients, so that
    held-out predictions are of a model that had no part in them. Options of `fit` go between those of `folds`.

        uv run main.py folds --config configs/experiment/nih_1000.yaml --folds 5 --output results/nih_folds

    Writes oof.parquet (each train and val row, predicted once), truth.parquet (their labels, for `evaluate --truth`;
    the fold in meta_fold), test.parquet (the folds' mean on the test part, where there is one), scores.csv, and for
    each fold its checkpoint, predictions and log. Images are not copied.

    The same command goes on where it was stopped, within a fold too. For an array of jobs give each --only its fold;
    whichever ends last joins them.

    Args:
        output: Folder for all of it.
        fit: Options of `fit`; there is no need to write --fit before them.
        folds: How many.
        only: Run this fold alone, from 0.
        validation: Share of a fold's training images that its checkpoint is chosen on, by patient.
        on: What is averaged over the folds' test predictions: probability, logit or rank.
        seed: Seed of the division; training has the experiment's own.
    """
    # idle OpenMP threads that spin slow down data loading and each other; the runs inherit it
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if only is not None and not 0 <= only < folds:
        raise InputError(f"--only {only}: folds are 0 to {folds - 1}")
    plan = make_plan(output, fit or [], folds, validation, seed)
    plan.keep_settings(on)
    for fold in range(folds) if only is None else [only]:
        plan.run_fold(fold)
    waiting = [fold for fold in range(folds) if not plan.is_done(fold)]
    if waiting:
        logger.info("not joined yet: folds %s are not there", ", ".join(map(str, waiting)))
        return
    plan.join(on)


@dataclass(frozen=True)
class Plan:
    """The runs of all folds.

    Args:
        output: Folder for all of it.
        options: Options of `fit`.
        config: The experiment's whole configuration, as plain data.
        labels: Its label set.
        passes: Path of a store -> how often its studies are drawn.
        division: Who is held out when.
    """

    output: Path
    options: Sequence[str]
    config: dict[str, Any]
    labels: LabelSet
    passes: dict[str, float]
    division: Division

    def folder(self, fold: int) -> Path:
        """Of a fold."""
        return self.output / f"fold_{fold}"

    def is_done(self, fold: int) -> bool:
        """Whether a fold's predictions are there."""
        wanted = [_HELD_OUT, *([_TEST] if self.division.has_test() else [])]
        return all((self.folder(fold) / name).is_file() for name in wanted)

    def keep_settings(self, on: Scale) -> None:
        """Note what the folder is for.

        Raises:
            InputError: Where it holds folds of other settings.
        """
        make_folder(self.output, self.output)
        contents = {path: store.info.content_hash for path, store in self.division.stores.items()}
        settings = {
            "folds": self.division.folds,
            "validation": self.division.held_for_choice,
            "seed": self.division.seed,
            "stores": contents,
            "model": self.config["model"],
            "data": self.config["data"],
            "on": on,
        }
        settings = json.loads(json.dumps(settings))
        file = self.output / _SETTINGS
        if file.is_file():
            before = json.loads(file.read_text(encoding="utf-8"))
            differing = [key for key in settings if before.get(key) != settings[key] and key != "on"]
            if differing:
                raise InputError(
                    f"{self.output} holds folds of other settings ({', '.join(differing)}); give another --output, or "
                    f"remove it"
                )
        elif any(self.output.iterdir()):
            raise InputError(f"{self.output} is not empty, and holds no folds; give another --output")
        _write_text(file, json.dumps(settings, indent=2) + "\n")
        write_table(self.division.table.drop(columns=["store", "view"]), self.output / _TRUTH)

    def run_fold(self, fold: int) -> None:
        """Train a fold, and predict what it held out and the test part; what is there is kept."""
        folder, count = self.folder(fold), self.division.folds
        if self.is_done(fold):
            logger.info("fold %d of %d is there", fold, count)
            return
        stores = self.division.write(fold, folder / "stores")
        mine = _as_option({str(stores[path]): weight for path, weight in self.passes.items()})
        best = folder / "best.ckpt"
        if not best.is_file():
            sizes = {part: int((self.division.inner[fold] == part).sum()) for part in ("train", "val", "test")}
            logger.info("fold %d of %d: training on %s images, log in %s", fold, count, sizes, folder / "fit.log")
            self._train(fold, mine)
        logger.info("fold %d of %d: predicting", fold, count)
        self._predict(best, mine, folder / _HELD_OUT)
        tested = self.division.has_test()
        if tested:
            self._predict(best, _as_option(dict.fromkeys(tested, 1.0)), folder / _TEST)

    def _train(self, fold: int, stores: str) -> None:
        folder = self.folder(fold)
        name = f"fold_{fold}"
        words = ["fit", *self.options, f"--data.stores={stores}", "--data.phantom=null", "--test_after_fit=false"]
        words += [f"--trainer.default_root_dir={folder / 'runs'}", f"--name={name}"]
        last = _newest(folder / "runs" / name, "last.ckpt")
        if last is not None:
            logger.info("fold %d goes on from %s", fold, last)
            words.append(f"--ckpt_path={last}")
        run(words, folder / "fit.log")
        found = _newest(folder / "runs" / name, "best.ckpt")
        if found is None:
            raise InputError(f"fold {fold} kept no best.ckpt: was no validation run? See {folder / 'fit.log'}")
        aside = folder / ".best.ckpt.partial"
        shutil.copyfile(found, aside)
        aside.replace(folder / "best.ckpt")

    def _predict(self, checkpoint: Path, stores: str, output: Path) -> None:
        if output.is_file():
            return
        trainer = self.config["trainer"]
        words = ["predict", f"--ckpt_path={checkpoint}", f"--data.stores={stores}", "--data.predict_split=test"]
        words += [f"--trainer.{key}={trainer[key]}" for key in ("accelerator", "precision") if trainer.get(key)]
        words += ["--trainer.devices=1", f"--output={output}", "--trainer.enable_progress_bar=false"]
        run(words, output.with_suffix(".log"))

    def join(self, on: Scale) -> None:
        """Join the folds' predictions, average those of the test part, and score.

        Raises:
            InputError: Where a row was held out twice or never.
        """
        tables = [read_predictions(self.folder(fold) / _HELD_OUT) for fold in range(self.division.folds)]
        whole = self._joined(tables)
        write_predictions(whole, self.output / "oof.parquet")
        console = Console(width=None if sys.stdout.isatty() else 160)
        names = [name for name in labels_of(whole) if name in self.labels.names]
        rows = [(str(fold), *self._score(table, names)) for fold, table in enumerate(tables)]
        rows.append(("all", *self._score(whole, names)))
        self._report(rows, names, console)
        console.print(f"Out-of-fold predictions: {self.output / 'oof.parquet'}", soft_wrap=True)
        if self.division.has_test():
            files = [self.folder(fold) / _TEST for fold in range(self.division.folds)]
            members = read_members(files)
            weights = pd.DataFrame(1.0, index=range(len(files)), columns=members.names).to_numpy()
            table = members.table(combine(members.scores, weights, on))
            model = identity(members, weights, on, {})
            if model is not None:
                table.attrs[MODEL] = model
            write_predictions(table, self.output / _TEST)
            console.print(f"Mean of the folds on the test part: {self.output / _TEST}", soft_wrap=True)
        truth = self.output / _TRUTH
        console.print(
            f"Next: uv run main.py evaluate --predictions {self.output / 'oof.parquet'} --truth {truth} --output "
            f"{self.output / 'report'}",
            soft_wrap=True,
        )

    def _joined(self, tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
        whole = pd.concat(tables, ignore_index=True)
        studies = [set(table["study_id"]) for table in tables]
        missing = set(self.division.table["study_id"]).difference(*studies)
        key = "image_id" if "image_id" in whole else "study_id"
        if missing or whole[key].duplicated().any():
            raise InputError(
                f"{self.output}: {len(missing)} studies were never held out, {int(whole[key].duplicated().sum())} rows "
                f"twice; remove the folders fold_… and run again"
            )
        return whole.sort_values([name for name in KEYS if name in whole], kind="stable", ignore_index=True)

    def _score(self, table: pd.DataFrame, names: Sequence[str]) -> tuple[int, LabelScores]:
        """Rows, and scores of the labels."""
        key = "image_id" if "image_id" in table else "study_id"
        truth = self.division.table.drop_duplicates(key).set_index(key)[list(names)]
        targets = truth.reindex(table[key]).to_numpy("float64")
        return len(table), per_label(table[list(names)].to_numpy("float64"), targets, names)

    def _report(self, rows: Sequence[tuple[str, int, LabelScores]], names: Sequence[str], console: Console) -> None:
        figures = pd.DataFrame(
            {
                "fold": [fold for fold, _, _ in rows],
                "rows": [count for _, count, _ in rows],
                "labels": [int(scores.scored.sum()) for _, _, scores in rows],
                "map": [macro(scores.ap, names)[0] for _, _, scores in rows],
                "auroc": [macro(scores.auroc, names)[0] for _, _, scores in rows],
            }
        )
        write_table(figures, self.output / "scores.csv")
        table = Table(title="held-out folds")
        for column in ("fold", "rows", "labels scored", "macro AP", "macro AUROC"):
            table.add_column(column, justify="right")
        for row in figures.itertuples(index=False):
            table.add_row(str(row.fold), f"{row.rows:,}", str(row.labels), f"{row.map:.4f}", f"{row.auroc:.4f}")
        console.print(table)
        each = figures.iloc[:-1]
        spread = ", ".join(f"{key} {each[key].mean():.4f} ± {each[key].std():.4f}" for key in ("map", "auroc"))
        console.print(f"over the folds, mean ± standard deviation: {spread}", highlight=False)


def make_plan(output: Path, options: Sequence[str], folds: int, validation: float, seed: int) -> Plan:
    """Parse the experiment and divide its patients, before anything is trained.

    Raises:
        InputError: For options that `fit` does not know, or that folds cannot have.
    """
    from longview.training import describe

    if seed < 0:
        raise InputError(f"--seed {seed}: give 0 or a positive whole number")
    if not any(word in {"-c", "--config"} or word.startswith("--config=") for word in options):
        raise InputError("folds needs --config EXPERIMENT, as fit does")
    config = describe(["fit", *options])
    for key, value in (("ckpt_path", config["ckpt_path"]), ("checkpoint.dirpath", config["checkpoint"]["dirpath"])):
        if value is not None:
            raise InputError(f"folds: --{key} {value}: every fold is a run of its own; leave it out")
    data = config["data"]["init_args"]
    pretrained = config["model"]["init_args"].get("pretrained")
    if pretrained is not None:
        logger.warning(
            "model.pretrained %s: if it was trained on these patients, it has seen what the folds hold out, and "
            "out-of-fold figures are too good",
            pretrained,
        )
    labels = LabelSet.from_dict(data["labels"])
    given = data["stores"]
    passes = {given: 1.0} if isinstance(given, str) else given if isinstance(given, dict) else dict.fromkeys(given, 1.0)
    if data.get("phantom") is not None:
        make_phantom(PhantomSpec(**data["phantom"]), Path(next(iter(passes))), labels)
    stores = {path: Store(path) for path in passes}
    return Plan(output, list(options), config, labels, passes, divide(stores, labels, folds, validation, seed))


def _newest(folder: Path, name: str) -> Path | None:
    """A checkpoint of the newest version of a run that has it."""
    found = [path for path in folder.glob(f"version_*/checkpoints/{name}") if path.is_file()]
    return max(found, key=lambda path: int(path.parent.parent.name.removeprefix("version_")), default=None)


def _as_option(stores: dict[str, float]) -> str:
    return json.dumps(stores)


def _write_text(file: Path, text: str) -> None:
    aside = file.with_name(f".{file.name}.{os.getpid()}.partial")
    aside.write_text(text, encoding="utf-8")
    aside.replace(file)
