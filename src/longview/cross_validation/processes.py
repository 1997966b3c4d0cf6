"""Commands of longview as processes of their own, each with a log."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from longview import InputError, launch

_SHOWN = 15  # last lines of a failed command's log
_MAIN = "from longview.cli import main; main()"


def run(words: Sequence[str], log: Path) -> None:
    """Run a command to its end; what it prints goes to a log, behind what is there.

    Ctrl-C reaches it from the terminal, SIGTERM is handed on: a `fit` saves where it is, and this waits for it.

    Args:
        words: Verb and options.
        log: The file.

    Raises:
        InputError: Where the command says that the user made a mistake.
        KeyboardInterrupt: Where it was interrupted.
        SystemExit: With its exit code where it failed otherwise; the end of its log is on standard error.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8") as text:
        begin = log.stat().st_size
        process = subprocess.Popen([sys.executable, "-c", _MAIN, *words], stdout=text, stderr=subprocess.STDOUT)  # noqa: S603
        code = launch.wait_for(process)
    if not code:
        return
    with log.open("rb") as stream:
        stream.seek(begin)
        lines = stream.read().decode("utf-8", "replace").splitlines()
    told = next((line.removeprefix("error: ") for line in reversed(lines) if line.startswith("error: ")), None)
    if code == 2 and told is not None:
        raise InputError(f"{words[0]}: {told}")
    if code == 130:
        raise KeyboardInterrupt
    told = f"error: {words[0]} ended with code {code}, see {log}; the same command goes on where it was"
    sys.stderr.write("\n".join([*lines[-_SHOWN:], told, ""]))
    raise SystemExit(code if code > 0 else 128 - code)
