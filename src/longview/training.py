"""LightningCLI for longview: what `fit`, `validate`, `test` and `predict` do with a configuration."""

from __future__ import annotations

import logging
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
import yaml
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Callback, EarlyStopping
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from longview import InputError, launch, options
from longview.arguments import option, with_checkpoint
from longview.board import BestBoard
from longview.calibration.file import Calibration
from longview.callbacks import LastCheckpoint, ResultTable, SeededSteps, TensorBoardReport, keep_figures
from longview.checkpoints import labels_of, read_checkpoint
from longview.data.datamodule import StudyData
from longview.feature_cache import FeatureCache, check_unchanging
from longview.labels import LabelSet
from longview.monitoring import logged_figures
from longview.notices import explained, quiet, refused
from longview.parsers import OneLineErrors
from longview.prediction_writer import PredictionWriter
from longview.preemption import Preemption
from longview.tasks import ClassificationTask
from longview.together import check_callbacks, check_launch, forget_averages
from longview.uncertainty.dropout import MonteCarlo

log = logging.getLogger(__name__)

_BATCHES = {f"trainer.limit_{part}_batches" for part in ("train", "val", "test", "predict")} | {
    "trainer.overfit_batches",
    "trainer.val_check_interval",
}
"""Trainer options of which 1 is one batch, and 1.0 all of them."""


class _Parser(OneLineErrors, LightningArgumentParser):
    """LightningCLI's parser with longview's errors."""

    def dump(self, *args: Any, **kwargs: Any) -> str:
        """The configuration as text; it was checked as it was parsed, and is not checked again (half of the time)."""
        text: str = super().dump(*args, **_as_parsed(kwargs))
        return text

    def save(self, *args: Any, **kwargs: Any) -> None:
        """The same into a file."""
        super().save(*args, **_as_parsed(kwargs))


def _as_parsed(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Arguments of the parser's writing, by their newer names (Lightning 2.6 knows `skip_none`)."""
    renamed = {"skip_unset" if key == "skip_none" else key: value for key, value in kwargs.items()}
    return {**renamed, "skip_validation": True}


class LongviewCLI(LightningCLI):
    """Adds to LightningCLI: a run's name, checkpoints, linked arguments, default loggers and callbacks."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add longview's own options and links."""
        options.of_run(parser)

    def _add_subcommands(self, parser: LightningArgumentParser, **kwargs: Any) -> None:
        every = self.subcommands()
        vars(self)["subcommands"] = lambda: {
            verb: every[verb] for verb in kwargs
        }  # the parsers of other verbs cost time
        super()._add_subcommands(parser, **kwargs)

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> LightningArgumentParser:
        parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        for action in parser._actions:
            if action.dest in _BATCHES:  # `Union[float, int]`, cached by typing for either order, makes 1.0 of 1
                vars(action)["_typehint"] = int | float | None
        options.of_verb(parser, subcommand)
        return parser

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse `args` (LightningCLI's own would warn that a program was called from within Python)."""
        self.config = parser.parse_args(args)

    def _parse_ckpt_path(self) -> None:
        # LightningCLI lets the checkpoint's hyper-parameters override the command line; here the checkpoint's
        # configuration comes first (`with_checkpoint`) and whatever the user names comes after it
        return

    def before_instantiate_classes(self) -> None:
        """Decide where the run is kept, and that only a run of `fit` keeps anything."""
        launch.listen()
        self.claims = launch.Claims()
        self.resumed = self.resumed_folder() if self.subcommand == "fit" else None
        # a run that goes on in its own folder replaces its own configuration
        self.save_config_kwargs = {"config_filename": f"{self.subcommand}.yaml", "overwrite": self.resumed is not None}
        if self.subcommand != "fit" or self._get(self.config, "trainer").get("logger") is False:
            self.save_config_callback = None
        torch.set_float32_matmul_precision("high")

    def resumed_folder(self) -> Path | None:
        """The folder of the run that is continued: that of this SLURM job, queued again, or that of `--ckpt_path`.

        The latter where the new run has the same root and name.
        """
        config = self._get(self.config, "trainer")
        home = Path(config["default_root_dir"]) / self._get(self.config, "name")
        mine = launch.folder_of_job(home)
        if mine is not None:
            last = mine / "checkpoints" / "last.ckpt"
            if last.is_file():
                self.config[self.subcommand]["ckpt_path"] = str(last)
            log.info("the job goes on in %s, %s", mine, f"from {last.name}" if last.is_file() else "from its start")
            return mine
        path = self._get(self.config, "ckpt_path")
        if path is None:
            return None
        folder = Path(path).resolve().parent.parent
        is_run = folder.name.startswith("version_") and folder.parent == home.resolve()
        return folder if is_run else None

    def after_instantiate_classes(self) -> None:
        """Hand the task the labels of the checkpoint that it loads, and the configuration that its own ones carry."""
        path = self._get(self.config, "ckpt_path")
        self.model.checkpoint_follows = path is not None
        if path is not None and self.subcommand != "fit":
            self.use_labels(labels_of(read_checkpoint(path)), path)
        dump = self.parser.dump(self.config, skip_link_targets=True, skip_none=False, format="yaml")
        config: dict[str, Any] = yaml.safe_load(dump)[self.subcommand]
        asides = {"config", "ckpt_path", "output", "calibration", "uncertainty", "samples"}
        self.model.run_config = {key: config[key] for key in config if key not in asides}

    def use_labels(self, trained: LabelSet, path: str) -> None:
        """Build the network for the labels that it was trained on; those of the configuration are what is predicted.

        Raises:
            InputError: Where it cannot score them, or is to be tested on others than it was trained on.
        """
        asked: LabelSet = self.model.labels
        if self.subcommand != "predict" and asked.names != trained.names:
            raise InputError(
                f"{self.subcommand}: {path} was trained on label set {trained.name!r} ({', '.join(trained.names)}), "
                f"not on {asked.name!r} ({', '.join(asked.names)}); score other labels with: main.py predict "
                f"--ckpt_path {path} --data.labels FILE, then main.py evaluate"
            )
        self.model.trained_on(trained)
        if self.subcommand == "predict":
            self.model.ask(asked)

    def before_fit(self) -> None:
        """Find mistakes that would show after an epoch, or would leave an empty run folder."""
        monitor = self._get(self.config, "checkpoint")["monitor"]
        callbacks: list[Callback] = self.trainer.callbacks  # type: ignore[attr-defined]  # Lightning sets it
        watched = [callback.monitor for callback in callbacks if isinstance(callback, EarlyStopping)]
        known = logged_figures(self.datamodule, [monitor, *watched])
        if monitor is not None and monitor not in known:
            raise InputError(f"checkpoint.monitor is {monitor!r}; there are {', '.join(known)}")
        check_callbacks(self.trainer, known, self._get(self.config, "feature_cache") is not None)
        self.model.loss.set_labels(self.model.labels)
        self.datamodule.check_sampling(self.trainer.max_epochs)
        path = self._get(self.config, "ckpt_path")
        if path is None:
            self.model.check_pretrained()
        else:
            self.model.check_labels(labels_of(read_checkpoint(path)))
        self.datamodule.check_paths()
        if self._get(self.config, "feature_cache") is not None:
            check_unchanging(self.model, self.datamodule)

    def before_predict(self) -> None:
        """Refuse a calibration of other labels or of another model before anything is read."""
        for callback in self.kept:
            if isinstance(callback, PredictionWriter):
                callback.check(self.model, Path(self._get(self.config, "ckpt_path")))

    def after_fit(self) -> None:
        """Say where nothing was left to do, and test the best checkpoint where asked."""
        seeded = [callback for callback in self.kept if isinstance(callback, SeededSteps)]
        if not any(callback.trained for callback in seeded):
            log.warning(
                "nothing was left to train: the checkpoint is at the end of its %s epochs; raise trainer.max_epochs",
                self.trainer.max_epochs,
            )
        forget_averages(self.trainer)
        if self._get(self.config_init, "test_after_fit"):
            # a debugging run (fast_dev_run) keeps no checkpoint: it tests the weights it has
            best = getattr(self.trainer.checkpoint_callback, "best_model_path", "")
            self.trainer.test(
                self.model,
                datamodule=self.datamodule,
                ckpt_path="best" if best else None,
                verbose=False,
                weights_only=True,
            )

    def _run_subcommand(self, subcommand: str) -> None:
        """Run it; an interrupted run says how to go on, and its exit code says that it did not finish."""
        terminated = False
        try:
            super()._run_subcommand(subcommand)
        except launch.Terminated:
            terminated = True
        except SystemExit:
            if not self.trainer.interrupted and not self.trainer.received_sigterm:
                raise
        finally:
            self.claims.release()
        if terminated or self.trainer.received_sigterm:
            self._say_how_to_go_on()
            requeue = any(callback.requeue for callback in self.kept if isinstance(callback, Preemption))
            # 128 + SIGTERM, as a shell reports it; of the first process alone, for a launcher ends the others with it
            raise SystemExit((launch.INTERRUPTED if requeue else 143) if self.trainer.is_global_zero else 0)
        if self.trainer.interrupted:
            self._say_how_to_go_on()
            raise KeyboardInterrupt

    def _say_how_to_go_on(self) -> None:
        if self.subcommand != "fit":
            return
        paths = [callback.best_model_path for callback in self.kept if isinstance(callback, LastCheckpoint)]
        last = [path for path in paths if Path(path).is_file()]
        came_from = self._get(self.config, "ckpt_path")
        trained = any(callback.trained for callback in self.kept if isinstance(callback, SeededSteps))
        if not last or not trained:
            log.warning("stopped before anything %swas saved", "" if came_from is None else "new ")
        if last or came_from:
            log.warning("to go on: uv run main.py fit --ckpt_path %s", [*last, came_from][0])

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        """The trainer, with longview's loggers (where none are configured) and callbacks."""
        launch.check_start(self._get(self.config_init, "trainer"))
        try:
            trainer = self._trainer(**kwargs)
            check_launch(trainer)
            if trainer.world_size > 1:
                launch.end_at_sigterm()
        except BaseException:
            self.claims.release()
            raise
        return trainer

    def _trainer(self, **kwargs: Any) -> pl.Trainer:
        config = self._get(self.config_init, "trainer")
        self.kept = self.own_callbacks()
        lasts = [callback for callback in self.kept if isinstance(callback, LastCheckpoint)]
        seeds = [callback for callback in self.kept if isinstance(callback, SeededSteps)]
        others = [callback for callback in self.kept if callback not in [*lasts, *seeds]]
        # a step is seeded before any other callback draws a number in it
        config["callbacks"] = [*seeds, *_as_list(config.get("callbacks")), *others]
        # after the configured checkpoint: Lightning takes the first one for the best
        self.trainer_defaults = {**self.trainer_defaults, "callbacks": lasts}
        given = config.get("logger")
        others = [] if given in (None, True, False) else _as_list(given)
        # behind our own, the first of which names the run's folder
        own = self.own_loggers(config["default_root_dir"]) if self.subcommand == "fit" and given is not False else []
        config["logger"] = [*own, *others] or False
        try:
            return super().instantiate_trainer(**kwargs)
        except (MisconfigurationException, ValueError, TypeError, ModuleNotFoundError) as error:
            raise refused("trainer", error) from None

    def own_callbacks(self) -> list[Callback]:
        """Callbacks that every run has."""
        if self.subcommand == "predict":
            output = Path(self._get(self.config_init, "output"))
            if output.suffix not in {".parquet", ".csv"}:
                raise InputError(f"--output {output} must end in .parquet or .csv")
            calibration = self._get(self.config_init, "calibration")
            known = None if calibration is None else Calibration.read(calibration)
            return [PredictionWriter(output, known, self.sampler())]
        seed = int(self._get(self.config, "seed_everything"))
        if self.subcommand != "fit":
            return [ResultTable()]
        if self._get(self.config, "trainer").get("enable_checkpointing") is False:
            raise InputError(
                "trainer.enable_checkpointing false: a run without checkpoints cannot be used; leave it out"
            )
        minutes = self._get(self.config, "save_minutes")
        if minutes <= 0:
            raise InputError(f"save_minutes is {minutes}; it must be above 0")
        folder = self._get(self.config, "checkpoint")["dirpath"]
        cache = self._get(self.config, "feature_cache")
        if folder is not None:
            self.claims.take(Path(folder))
        # Lightning's own `save_last` only copies the best one
        last = LastCheckpoint(folder, every_n_epochs=1, save_on_train_epoch_end=True)
        return [
            *([] if cache is None else [FeatureCache(Path(cache))]),
            SeededSteps(seed),
            ResultTable(),
            TensorBoardReport(),
            BestBoard(),
            Preemption(last),
            last,
            LastCheckpoint(folder, train_time_interval=timedelta(minutes=minutes)),
        ]

    def sampler(self) -> MonteCarlo | None:
        """What `predict --uncertainty` samples with."""
        if self._get(self.config_init, "uncertainty") is None:
            return None
        seed = int(self._get(self.config_init, "seed_everything"))
        return MonteCarlo(self._get(self.config_init, "samples"), seed)

    def own_loggers(self, root: str) -> list[Any]:
        """TensorBoard and a CSV of the same figures, in one folder of the run."""
        name = self._get(self.config_init, "name")
        folder = self.resumed or self.claims.new(Path(root) / name)
        if self.resumed is not None:
            self.claims.take(self.resumed)
        version = None if folder is None else int(folder.name.removeprefix("version_"))
        board = TensorBoardLogger(root, name=name, version=version, default_hp_metric=False)
        if self.resumed is not None:
            keep_figures(self.resumed)
        return [board, CSVLogger(root, name=name, version=f"version_{board.version}")]


def _as_list(value: Any) -> list[Any]:
    return [] if value is None else list(value) if isinstance(value, (list, tuple)) else [value]


class _ParseOnly(LongviewCLI):
    """Stops after parsing: for checking a command without its data."""

    def instantiate_classes(self) -> None:
        pass

    def after_instantiate_classes(self) -> None:
        pass

    def _run_subcommand(self, subcommand: str) -> None:
        pass


def _build(cli: type[LongviewCLI], arguments: list[str]) -> LongviewCLI:
    usage = "main.py {} --config FILE [--config OVERLAY] [--key value ...]"
    verb = arguments[0]
    return cli(
        ClassificationTask,
        StudyData,
        args=arguments,
        subclass_mode_model=True,
        subclass_mode_data=True,
        auto_configure_optimizers=False,
        seed_everything_default=0,
        trainer_defaults={"use_distributed_sampler": False, "default_root_dir": "runs"},
        parser_class=_Parser,
        parser_kwargs={"allow_abbrev": False, "prog": "main.py", "usage": usage.format("COMMAND")}
        | {verb: {"allow_abbrev": False, "usage": usage.format(verb), "prog": f"main.py {verb}"}},
    )


def parse(arguments: list[str]) -> Any:
    """The parsed configuration of a command, without building anything or touching data."""
    return _build(_ParseOnly, arguments).config


def describe(arguments: list[str]) -> dict[str, Any]:
    """The whole configuration of a command as plain data, as its YAML file would have it."""
    quiet(arguments[0])
    cli = _build(_ParseOnly, arguments)
    text = cli.parser.dump(cli.config, skip_link_targets=True, skip_none=False, format="yaml")
    config: dict[str, Any] = yaml.safe_load(text)[arguments[0]]
    return {key: value for key, value in config.items() if key != "config"}


def run(arguments: list[str], cli: type[LongviewCLI] = LongviewCLI) -> LongviewCLI:
    """Build the command line for a Lightning verb and run it.

    Args:
        arguments: The verb and its options.
        cli: What to build.

    Raises:
        InputError: For whatever the user can mend.
    """
    quiet(arguments[0])
    try:
        with launch.leaving_at_sigterm() if arguments[0] == "fit" else nullcontext():
            return _build(cli, with_checkpoint(arguments))
    except launch.Terminated:
        log.warning("stopped before anything was saved")
        raise
    except (MisconfigurationException, RuntimeError, ValueError, TypeError) as error:
        known = explained(error, option(arguments, "--ckpt_path"))
        if known is None or known is error:
            raise
        raise known from None
