"""LightningCLI for longview: what `fit`, `validate`, `test` and `predict` do with a configuration."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
import yaml
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from longview import InputError
from longview.callbacks import PredictionWriter, ResultTable, SeededSteps, TensorBoardReport
from longview.data.datamodule import StudyData
from longview.tasks import ClassificationTask, described, read_checkpoint

log = logging.getLogger(__name__)

_LOGGED = ("fit", "test")  # commands that keep a run folder


class LongviewCLI(LightningCLI):
    """Adds to LightningCLI: a run's name, checkpoints, linked arguments, default loggers and callbacks."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add longview's own options and links."""
        parser.add_argument(
            "--name",
            type=str,
            default="run",
            help="Name of the run: its folder is <trainer.default_root_dir>/<name>.",
        )
        parser.add_argument(
            "--test_after_fit",
            type=bool,
            default=False,
            help="fit: test the best checkpoint when training is over (other commands take no notice).",
        )
        parser.add_lightning_class_args(ModelCheckpoint, "checkpoint")
        parser.set_defaults(
            {
                "checkpoint.monitor": "val/map",
                "checkpoint.mode": "max",
                "checkpoint.filename": "best",
                "checkpoint.save_last": True,
                "checkpoint.auto_insert_metric_name": False,
                "checkpoint.enable_version_counter": False,
            }
        )
        parser.link_arguments("data.init_args.labels", "model.init_args.labels")
        parser.link_arguments("data.init_args.image_size", "model.init_args.image_size")
        parser.link_arguments("seed_everything", "data.init_args.seed", compute_fn=int)

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> LightningArgumentParser:
        parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        parser.set_defaults({"weights_only": True})  # a checkpoint is data: nothing in it is executed
        if subcommand in {"validate", "test"}:
            parser.set_defaults({"verbose": False})  # longview prints the per-label table instead
        if subcommand == "predict":
            parser.add_argument(
                "--output",
                type=str,
                default="predictions.parquet",
                help="The .parquet or .csv file for the probabilities, one row per study (or image).",
            )
            # the writer keeps them on disk; returning them too would hold a whole data set in memory
            parser.set_defaults({"return_predictions": False})
        return parser

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse `args` (LightningCLI's own would warn that a program was called from within Python)."""
        self.config = parser.parse_args(args)

    def _parse_ckpt_path(self) -> None:
        # LightningCLI lets the checkpoint's hyper-parameters override the command line; here the checkpoint's
        # configuration comes first (`with_checkpoint`) and whatever the user names comes after it
        return

    def before_instantiate_classes(self) -> None:
        """Name the saved configuration after the command, and keep none where there is no run folder."""
        self.save_config_kwargs = {"config_filename": f"{self.subcommand}.yaml"}
        if self.subcommand not in _LOGGED:
            self.save_config_callback = None
        torch.set_float32_matmul_precision("high")

    def after_instantiate_classes(self) -> None:
        """Hand the task the configuration that its checkpoints carry."""
        dump = self.parser.dump(self.config, skip_link_targets=True, skip_none=False, format="yaml")
        config: dict[str, Any] = yaml.safe_load(dump)[self.subcommand]
        self.model.run_config = {key: config[key] for key in config if key not in {"config", "ckpt_path", "output"}}

    def after_fit(self) -> None:
        """Test the best checkpoint where asked."""
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

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        """The trainer, with longview's loggers (where none are configured) and callbacks."""
        config = self._get(self.config_init, "trainer")
        config["callbacks"] = [*_as_list(config.get("callbacks")), *self.own_callbacks()]
        if config.get("logger") in (None, True):
            config["logger"] = self.own_loggers(config["default_root_dir"]) if self.subcommand in _LOGGED else False
        return super().instantiate_trainer(**kwargs)

    def own_callbacks(self) -> list[Callback]:
        """Callbacks that every run has."""
        if self.subcommand == "predict":
            output = Path(self._get(self.config_init, "output"))
            if output.suffix not in {".parquet", ".csv"}:
                raise InputError(f"--output {output} must end in .parquet or .csv")
            return [PredictionWriter(output)]
        return [
            SeededSteps(int(self._get(self.config, "seed_everything"))),
            ResultTable(),
            TensorBoardReport(),
        ]

    def own_loggers(self, root: str) -> list[Any]:
        """TensorBoard and a CSV of the same figures, in one folder of the run."""
        name = self._get(self.config_init, "name")
        board = TensorBoardLogger(root, name=name, default_hp_metric=False)
        return [board, CSVLogger(root, name=name, version=f"version_{board.version}")]


def _as_list(value: Any) -> list[Any]:
    return [] if value is None else list(value) if isinstance(value, (list, tuple)) else [value]


def option(arguments: list[str], name: str) -> str | None:
    """Value of `--name value` or `--name=value`, the last one given; None where it is absent."""
    found = None
    for index, word in enumerate(arguments):
        if word == name and index + 1 < len(arguments):
            found = arguments[index + 1]
        elif word.startswith(f"{name}="):
            found = word.split("=", 1)[1]
    return found


def with_checkpoint(arguments: list[str]) -> list[str]:
    """Put the configuration that a checkpoint carries before the user's own options.

    `validate`, `test` and `predict` take model and data from it; `fit` without a `--config` takes the whole run.

    Raises:
        InputError: Where the checkpoint is missing or is none, or where `predict` or `test` has none at all.
    """
    verb, path = arguments[0], option(arguments, "--ckpt_path")
    has_config = any(word in {"-c", "--config"} or word.startswith("--config=") for word in arguments)
    if {"-h", "--help", "--print_config"} & set(arguments) or any(
        word.startswith("--model.help") for word in arguments
    ):
        return arguments
    if path in {None, "last", "best", "hpc", "registry"}:
        if not has_config:
            raise InputError(
                f"{verb} needs --config FILE"
                + ("" if verb == "fit" else " or --ckpt_path CHECKPOINT (which carries its own configuration)")
            )
        return arguments
    checkpoint = read_checkpoint(str(path))
    if verb == "fit" and has_config:
        return arguments
    part = described(checkpoint)
    config = dict(part["config"])
    if not config:
        raise InputError(f"{path} carries no configuration (made outside the command line); give --config FILE")
    if verb != "fit":
        config = {key: config[key] for key in ("seed_everything", "name", "model", "data") if key in config}
        # what the images went through is fixed by training, whatever the new images come from
        config["data"].setdefault("init_args", {})["preprocessing"] = part["preprocessing"]
    return [verb, "--config", yaml.safe_dump(config, sort_keys=False), *arguments[1:]]


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
    verbs = {verb: {"allow_abbrev": False, "usage": usage.format(verb)} for verb in cli.subcommands()}
    return cli(
        ClassificationTask,
        StudyData,
        args=arguments,
        subclass_mode_model=True,
        subclass_mode_data=True,
        auto_configure_optimizers=False,
        seed_everything_default=0,
        trainer_defaults={"use_distributed_sampler": False, "default_root_dir": "runs"},
        parser_kwargs={"allow_abbrev": False, "prog": "main.py", "usage": usage.format("fit|…"), **verbs},
    )


def parse(arguments: list[str]) -> Any:
    """The parsed configuration of a command, without building anything or touching data."""
    return _build(_ParseOnly, with_checkpoint(arguments)).config


def run(arguments: list[str]) -> LongviewCLI:
    """Build the command line for a Lightning verb and run it."""
    for name in ("lightning", "lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).handlers.clear()  # its lines go where ours go, once
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    # two loggers share the run's folder on purpose, and the folder is new
    warnings.filterwarnings("ignore", message=".*Experiment logs directory .* exists and is not empty.*")
    # a checkpoint's best path and callbacks are those of the run that made it, not of one that predicts or resumes
    warnings.filterwarnings("ignore", message=".*The dirpath has changed from.*")
    warnings.filterwarnings("ignore", message=".*callbacks used to create the checkpoint need to be provided.*")
    # Lightning 2.6 calls older names of jsonargparse and torch
    warnings.filterwarnings("ignore", message=".*was deprecated in v4.49.0.*", module="jsonargparse|lightning")
    warnings.filterwarnings("ignore", message=".*`isinstance\\(treespec, LeafSpec\\)` is deprecated.*")
    try:
        return _build(LongviewCLI, with_checkpoint(arguments))
    except RuntimeError as error:
        if "Error(s) in loading state_dict" in str(error):
            path = option(arguments, "--ckpt_path")
            raise InputError(f"{path} does not fit the configured network: {str(error)[:1000]}") from error
        raise
