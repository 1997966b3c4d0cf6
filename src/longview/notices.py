"""What Lightning and torch say: what is left out, and what is said in a line instead of a page."""

from __future__ import annotations

import logging
import re
import warnings


def quiet(verb: str) -> None:
    """Send Lightning's log lines where ours go, and leave out warnings that say nothing here."""
    for name in ("lightning", "lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).handlers.clear()
    unhelpful = [
        ".*does not have many workers.*",
        ".*Experiment logs directory .* exists and is not empty.*",  # two loggers share it; earlier figures are kept
        ".*in eval mode at the start of training.*",  # what `freeze` names; nothing else is
        '.*`.test\\(ckpt_path="best"\\)` is called with Trainer configured with multiple.*',  # the first is the best
        ".*Checkpoint directory .* exists and is not empty.*",  # a run that goes on in its own folder
        ".*You.re using the WeightAveraging callback with a model that overrides.*",  # no layer of ours is sharded
        ".*`isinstance\\(treespec, LeafSpec\\)` is deprecated.*",  # Lightning 2.6 calls older names of torch
    ]
    if verb != "fit":  # the checkpoint's own best path and callbacks are its run's affair
        unhelpful += [".*The dirpath has changed from.*", ".*callbacks used to create the checkpoint need to.*"]
    for message in unhelpful:
        warnings.filterwarnings("ignore", message=message)
    # Lightning 2.6 calls older names of jsonargparse
    warnings.filterwarnings("ignore", message=".*was deprecated in v4.49.0.*", module="jsonargparse|lightning")


def mismatch(message: str, path: str | None) -> str:
    """One line of what torch lists over pages: the tensors of a checkpoint that do not fit."""
    names = re.findall(r'"([\w.]+)"', message) + re.findall(r"size mismatch for ([\w.]+):", message)
    shown = ", ".join(names[:2])
    return (
        f"{path} does not fit the configured network: {len(names)} tensors differ, such as {shown}. --ckpt_path goes "
        f"on with the same run; to start another stage from its weights give --model.pretrained {path} instead"
    )
