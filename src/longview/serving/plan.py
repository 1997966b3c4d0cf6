"""What a worker opens and serves. Light to import: torch comes with the first model that is opened."""

from __future__ import annotations

import ipaddress
import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from longview import InputError
from longview.serving.memory import keep_memory
from longview.serving.settings import Settings

if TYPE_CHECKING:
    from fastapi import FastAPI

    from longview.serving.served import Served


@dataclass(frozen=True)
class Plan:
    """What each worker opens and serves; pickled, since workers are processes of their own.

    Args:
        checkpoints: The models.
        calibrations: Their calibrations.
        rule: Which thresholds.
        threshold: Where there are none.
        weights: Folder of published weights.
        device: Where they run.
        settings: Limits.
        workers: Processes that share the cores.
    """

    checkpoints: tuple[str, ...]
    calibrations: tuple[Path, ...]
    rule: str | None
    threshold: float
    weights: Path | None
    device: str
    settings: Settings
    workers: int = 1

    def __call__(self) -> FastAPI:
        """The application of one worker."""
        if not logging.getLogger().handlers:
            # as the parent's lines are
            logging.basicConfig(level=logging.INFO, format="[%(asctime)s] %(levelname)-8s %(message)s", datefmt="%x %X")
        from longview.serving.app import create_app
        from longview.serving.ending import end_with_parent
        from longview.serving.protocol import quieten

        quieten()
        end_with_parent(self.settings.timeout)
        return create_app(self.open(), self.settings)

    def bound_to(self, host: str) -> Plan:
        """The plan of a server that listens at an address.

        Without a token, one that only this machine reaches answers under this machine's own names alone: a page of
        another site, whose name leads here, would be asking with a browser that is on this machine.
        """
        if self.settings.token is not None:
            return self
        return replace(self, settings=replace(self.settings, hosts=local_names(host)))

    def open(self) -> list[Served]:
        """Open the models.

        Raises:
            InputError: Where one cannot be opened, or a calibration fits none of them.
        """
        import torch

        from longview.calibration.file import Calibration
        from longview.inference import open_models
        from longview.serving.served import Served, card_of

        keep_memory()
        torch.set_num_threads(self.settings.cores)
        if self.rule and not self.calibrations:
            raise InputError(f"--rule {self.rule} is one of a calibration's; give --calibration")
        files = [Calibration.read(file) for file in self.calibrations]
        opened = list(open_models(self.checkpoints, self.weights, self.device))
        served = []
        for checkpoint, model in opened:
            fits = [file for file in files if file.model == model.sha256 or (file.model is None and len(opened) == 1)]
            if len(fits) > 1:
                raise InputError(f"--calibration: {fits[0].origin} and {fits[1].origin} are both of {model.name}")
            files = [file for file in files if file not in fits]
            rule = self.rule if fits else None
            served.append(Served.of(model, fits[0] if fits else None, rule, self.threshold, card_of(checkpoint)))
        if files:
            names = ", ".join(model.name for _, model in opened)
            raise InputError(f"--calibration {files[0].origin} was fitted on another model than {names}")
        return served


def local_names(host: str) -> tuple[str, ...]:
    """The names under which a server that listens at an address is known; none where it is not this machine's alone."""
    if not ipaddress.ip_address(host).is_loopback:
        return ()
    return ("localhost", "127.0.0.1", "[::1]", f"[{host}]" if ":" in host else host)
