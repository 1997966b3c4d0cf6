"""What Lightning and torch say: what is left out, and what is said in a line instead of a page."""

from __future__ import annotations

import logging
import re
import warnings

from lightning.fabric.utilities.exceptions import MisconfigurationException

from longview import InputError


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


def explained(error: Exception, checkpoint: str | None) -> InputError | None:
    """What the user can mend of an error of Lightning, torch or the parser; None where that is nothing.

    Args:
        error: What was raised; the parser wraps what a constructor raises, tells every type that it tried too, and has
            the reason as its cause.
        checkpoint: The checkpoint that was loaded.
    """
    if "Error(s) in loading state_dict" in str(error):
        return InputError(mismatch(str(error), checkpoint))
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, InputError):
        cause = cause.__cause__ or cause.__context__
    if cause is not None:
        return cause
    cause = error
    while cause is not None and not isinstance(cause, MisconfigurationException):
        cause = cause.__cause__
    if cause is None:
        return None
    remedy = "; to run on the CPU add --config configs/overlay/cpu.yaml" if "backend found" in str(cause) else ""
    return InputError(" ".join(str(cause).split()).rstrip("!.") + remedy)


def refused(part: str, error: Exception) -> InputError:
    """One line of what a constructor of Lightning says of its arguments.

    Args:
        part: The section of the configuration that they are in.
        error: What it raised.
    """
    found = explained(error, None)
    return found or InputError(f"{part}: {' '.join(str(error).split()).rstrip('!.')}")
