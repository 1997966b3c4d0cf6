"""The options that longview adds to those of Lightning's command line, and its defaults."""

from __future__ import annotations

from typing import Literal

from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser


def of_run(parser: LightningArgumentParser) -> None:
    """Add the options of every verb, and the links between model, data and seed."""
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
    parser.add_argument(
        "--save_minutes",
        type=float,
        default=10.0,
        help="fit: last.ckpt is saved after each epoch, and every so many minutes within it.",
    )
    parser.add_argument(
        "--feature_cache",
        type=str | None,
        default=None,
        help="fit: folder for the features of a frozen encoder, computed once; training then reads them instead of "
        "images.",
    )
    parser.add_lightning_class_args(ModelCheckpoint, "checkpoint")
    parser.set_defaults(
        {
            "checkpoint.monitor": "val/map",
            "checkpoint.mode": "max",
            "checkpoint.filename": "best",
            "checkpoint.auto_insert_metric_name": False,
            "checkpoint.enable_version_counter": False,
        }
    )
    parser.link_arguments("data.init_args.labels", "model.init_args.labels")
    parser.link_arguments("data.init_args.image_size", "model.init_args.image_size")
    parser.link_arguments("seed_everything", "data.init_args.seed", compute_fn=int)


def of_verb(parser: LightningArgumentParser, verb: str) -> None:
    """Add the options of one verb: `predict` says where it writes, and what calibrates it."""
    parser.set_defaults({"weights_only": True})  # a checkpoint is data: nothing in it is executed
    if verb in {"validate", "test"}:
        parser.set_defaults({"verbose": False})  # longview prints the per-label table instead
    if verb != "predict":
        return
    parser.add_argument(
        "--output",
        type=str,
        default="predictions.parquet",
        help="The .parquet or .csv file for the probabilities, one row per study (or image).",
    )
    parser.add_argument(
        "--calibration",
        type=str | None,
        default=None,
        help="File that `calibrate` wrote for this checkpoint: the probabilities are calibrated by it, and a .parquet "
        "file says that they are.",
    )
    parser.add_argument(
        "--uncertainty",
        type=Literal["mc-dropout"] | None,
        default=None,
        help="mc-dropout: also write <output>.uncertainty.parquet, how far samples of the network with its dropout on "
        "agree, by study and label. The probabilities stay those of the network as it is, and the table's are not "
        "calibrated.",
    )
    parser.add_argument("--samples", type=int, default=10, help="How many, at least 2; their seed is seed_everything.")
    # the writer keeps them on disk; returning them too would hold a whole data set in memory
    parser.set_defaults({"return_predictions": False})
