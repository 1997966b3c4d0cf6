"""What the command line of `serve` was given, checked before torch is imported, which takes seconds."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from longview import InputError
from longview.calibration.file import Calibration

logger = logging.getLogger(__name__)

_WEIGHTS = "model.safetensors"  # of an exported folder, as `longview.exported.weights`, which imports torch, has it
_DEFAULT_PORTS = {"http": 80, "https": 443}
_HOST = frozenset("abcdefghijklmnopqrstuvwxyz0123456789.-:[]_")


def check_numbers(workers: int, port: int, threshold: float) -> None:
    """Refuse numbers out of their range.

    Raises:
        InputError: Naming the one that is wrong.
    """
    if workers < 1:
        raise InputError(f"--workers {workers}: give at least 1")
    if not 0 <= port < 65_536:
        raise InputError(f"--port {port}: give 1 to 65535, or 0 for any that is free")
    if not 0 <= threshold <= 1:
        raise InputError(f"--threshold {threshold:g}: give a probability, from 0 to 1")


def plain_host(host: str) -> str:
    """An address as a socket takes it: IPv6 without the brackets that it has in a URL.

    Raises:
        InputError: For none.
    """
    if not host.strip("[]"):
        raise InputError(f"--host {host!r}: give an address; 127.0.0.1 is this machine's own, 0.0.0.0 every one of it")
    return host[1:-1] if host.startswith("[") and host.endswith("]") else host


def checked_origins(origins: Sequence[str]) -> tuple[str, ...]:
    """Web origins as browsers send them; any other would never match.

    Raises:
        InputError: For what is none.
    """
    for given in origins:
        if given == "*":
            logger.warning(
                "--allow-origin '*': pages of every site may send films and read the answers; name the sites"
            )
        elif (origin := _origin(given)) != given:
            raise InputError(
                f"--allow-origin {given!r}: browsers send no such origin; give scheme://host[:port] in small letters, "
                f"such as {origin or 'https://films.example'}"
            )
    return tuple(origins)


def _origin(url: str) -> str | None:
    """The origin of an address (RFC 6454, 6.2): small letters, punycode, no default port; None where it has none."""
    try:
        parts = urlsplit(url)
        host, port = (parts.hostname or "").encode("idna").decode(), parts.port
    except ValueError:  # UnicodeError among these
        return None
    if not parts.scheme or not host or not set(host) <= _HOST:
        return None
    name = f"[{host}]" if ":" in host else host
    return f"{parts.scheme}://{name}" + (f":{port}" if port not in {None, _DEFAULT_PORTS.get(parts.scheme)} else "")


def check_models(checkpoints: Sequence[str], calibrations: Sequence[Path], rule: str | None) -> None:
    """Refuse files that are not there, and a rule that no calibration has.

    Raises:
        InputError: Naming the file, or the rules that there are.
    """
    if rule and not calibrations:
        raise InputError(f"--rule {rule} is one of a calibration's; give --calibration")
    for checkpoint in checkpoints:
        path = Path(checkpoint)
        if path.is_dir() and not (path / _WEIGHTS).is_file():
            raise InputError(
                f"--checkpoint {path} is a folder, and no exported model: it has no {_WEIGHTS}; give a .ckpt file, or "
                f"a folder that `main.py export --to hub-folder` wrote"
            )
        if (path.suffix or len(path.parts) > 1) and not path.exists():  # else it may be a published model's name
            raise InputError(f"--checkpoint {path} does not exist")
    for calibration in calibrations:
        if calibration.is_dir():
            raise InputError(f"--calibration {calibration} is a folder; give the .json file that `calibrate` wrote")
        file = Calibration.read(calibration)
        if rule:
            try:
                file.thresholds(rule)
            except InputError as error:
                raise InputError(f"--rule {rule}: {error}") from error
