"""`longview download`: what each data set demands, and the commands of its owner's own tool, run or only shown.

Nothing is fetched by code of ours, and no password, key or link is asked for, stored or shown: the tools read what
their own set-up keeps (`~/.netrc`, `kaggle.json`, gcloud's), or ask for it themselves.
"""

from __future__ import annotations

import importlib.util
import logging
import netrc
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from longview import InputError
from longview.downloading.archives import ARCHIVES, Archive, Credentials, Step
from longview.downloading.checksums import check_folder
from longview.outputs import make_folder

logger = logging.getLogger(__name__)

_HOST = "physionet.org"
_LINK = "AIMI_URL"
_INSTALL = {
    "kaggle": "pip install kaggle",
    "kagglehub": "pip install kagglehub",
    "gsutil": "https://cloud.google.com/sdk/docs/install",
    "azcopy": "https://learn.microsoft.com/azure/storage/common/storage-use-azcopy-v10",
}
"""Where to get a tool that no system's own packages have under its name."""


def download(
    dataset: str | None = None,
    output: Path | None = None,
    way: str | None = None,
    project: str | None = None,
    run: bool = False,
    check: Path | None = None,
) -> None:
    """Show how to download a data set with its owner's own tool, or run that tool; check what was downloaded.

    Example: main.py download --dataset mimic --output /data/mimic-cxr-jpg

    Without --dataset, all sets are listed. Without --run true nothing is fetched. The same command goes on where it was
    stopped: all tools skip what is there. No password is asked for or kept here: wget reads ~/.netrc, the kaggle tools
    ~/.kaggle/kaggle.json, gsutil what `gcloud auth login` left, and azcopy's personal link is taken from the
    variable AIMI_URL.

    Args:
        dataset: mimic, cxr-lt-2023, cxr-lt-2024, cxr-lt-2026, chexpert, nih, nih-google, vinbig, vindr, padchest, rsna,
            openi or covid-chestxray; default: list them all.
        output: Folder to download to: the root for `prepare`.
        way: Tool to use where there are several: wget, gsutil, azcopy, kaggle, kagglehub; default: the first listed.
        project: Google Cloud project that gsutil bills.
        run: Run the commands instead of showing them.
        check: Folder whose files are compared with the SHA-256 sums that the owner published, SHA256SUMS.txt in it.
    """
    if check is not None:
        if dataset is not None and not _archive(dataset).checksums:
            raise InputError(f"the owner of {dataset} publishes no sums, so {check} cannot be checked")
        check_folder(check)
        return
    if dataset is None:
        _list_all()
        return
    archive = _archive(dataset)
    steps = _steps(dataset, archive, way)
    if not run:
        _show(dataset, archive, steps, _places(output, project))
        return
    if output is None:
        raise InputError("--run needs --output DIR, the folder to download to")
    _check_before(dataset, archive, steps, output, project)
    make_folder(output, output)
    for step in steps:
        _run(step, output, _places(output, project))
    for step in steps:
        if not step.command:
            logger.warning("left to do by hand: %s (%s)", step.what, archive.page)
    if archive.checksums:
        logger.info("check it with: main.py download --dataset %s --check %s", dataset, output)


def _archive(name: str) -> Archive:
    if name not in ARCHIVES:
        raise InputError(f"no data set {name!r}; there are {', '.join(ARCHIVES)}")
    return ARCHIVES[name]


def _steps(name: str, archive: Archive, way: str | None) -> tuple[Step, ...]:
    if way is not None and way not in archive.ways:
        raise InputError(f"--way {way}: {name} comes by {', '.join(archive.ways)}")
    return archive.ways[way or next(iter(archive.ways))]


def _places(output: Path | None, project: str | None) -> dict[str, str]:
    return {"output": "DIR" if output is None else str(output), "project": project or "YOUR_PROJECT"}


def words(step: Step, places: Mapping[str, str]) -> list[str]:
    """The words of a step's command, with the user's folder and project; a `$NAME` stays as it is."""
    return [_fill(word, places) for word in step.command]


def _fill(text: str, places: Mapping[str, str]) -> str:
    for name, value in places.items():
        text = text.replace(f"{{{name}}}", value)
    return text


def shown(step: Step, places: Mapping[str, str]) -> str:
    """A command as one line for a shell; wget, which has a password to ask for, is told to ask for it."""
    line = words(step, places)
    if step.credentials == "physionet":
        line[1:1] = ["--user", "YOUR_NAME", "--ask-password"]
    quoted = [f'"{word}"' if word.startswith("$") else shlex.quote(word) for word in line]
    return " ".join([*(f"{name}={shlex.quote(_fill(value, places))}" for name, value in step.environment), *quoted])


def _making(places: Mapping[str, str]) -> str:
    """The command that makes the folder: most of the tools do not, and stop or write elsewhere."""
    return f"mkdir -p {shlex.quote(places['output'])}"


def _list_all() -> None:
    table = Table(title="main.py download --dataset NAME says what a set demands, and how it is downloaded")
    table.add_column("name", no_wrap=True)
    for column in ("what", "size", "by"):
        table.add_column(column)
    for name, archive in ARCHIVES.items():
        table.add_row(*map(Text, (name, archive.title, archive.size, ", ".join(archive.ways))))
    Console().print(table)


def _show(name: str, archive: Archive, steps: tuple[Step, ...], places: Mapping[str, str]) -> None:
    """Print what a set demands and its commands; these as plain lines, to be copied."""
    console = Console()
    table = Table(title=Text(archive.title), show_header=False)
    about = {"size": archive.size, "licence": archive.licence, "you need": archive.access, "page": archive.page}
    about |= {"checksums": archive.checksums or "none published", "note": archive.note}
    about |= {"ways": ", ".join(archive.ways)} if len(archive.ways) > 1 else {}
    for label, text in about.items():
        if text:
            table.add_row(label, Text(text, overflow="fold"))  # an address stays whole
    console.print(table)
    if any(step.command for step in steps):
        console.print(Text(_making(places)), soft_wrap=True)
    for number, step in enumerate(steps, start=1):
        console.print(Text(f"# {number}. {_fill(step.what, places)}"), soft_wrap=True)
        if step.command:
            console.print(Text(shown(step, places)), soft_wrap=True)
    if archive.checksums:
        check = f"main.py download --dataset {name} --check {shlex.quote(places['output'])}"
        console.print(Text(f"# compare with the published sums\n{check}"), soft_wrap=True)


def _check_before(name: str, archive: Archive, steps: tuple[Step, ...], output: Path, project: str | None) -> None:
    """All that can stand in the way, before anything is fetched.

    Raises:
        InputError: For a tool that is not there, missing credentials or project, or nothing that a tool could do.
    """
    commands = [step for step in steps if step.command]
    if not commands:
        raise InputError(f"{name} is not to be had by a command: {steps[0].what}; see {archive.page}")
    faults = []
    for step in commands:
        faults += [fault for fault in (_missing_tool(step), missing_credentials(step.credentials)) if fault]
        if any("{project}" in word for word in step.command) and not project:
            faults.append("gsutil needs a project to bill: --project NAME")
    if faults:
        places = _places(output, project)
        lines = "\n".join([_making(places), *(shown(step, places) for step in commands)])
        raise InputError(f"{name} cannot be downloaded: {'; '.join(dict.fromkeys(faults))}. The commands:\n{lines}")


def _missing_tool(step: Step) -> str:
    """What is missing to run a command; empty where nothing is."""
    tool = step.command[0]
    there = importlib.util.find_spec("kagglehub") if tool == "python" else shutil.which(tool)
    tool = "kagglehub" if tool == "python" else tool
    return "" if there else f"{tool} is not installed ({_INSTALL.get(tool, 'a package of your system')})"


def missing_credentials(kind: Credentials) -> str:
    """What the user has yet to set up for a tool; empty where it is there. Values are never read, but in ~/.netrc."""
    if kind == "physionet" and not _in_netrc():
        return f"wget finds no account in ~/.netrc (a line `machine {_HOST} login NAME password ...`, mode 600)"
    if kind == "kaggle" and not _has_kaggle():
        return "Kaggle's tools find no account (~/.kaggle/kaggle.json, from your account's settings, mode 600)"
    if kind == "google" and not _has_google():
        return "gsutil finds no account (run: gcloud auth login)"
    if kind == "link" and not os.environ.get(_LINK):
        return f"the variable {_LINK} does not hold the personal link that the page gives"
    return ""


def _in_netrc() -> bool:
    try:
        return netrc.netrc(Path.home() / ".netrc").authenticators(_HOST) is not None
    except FileNotFoundError:
        return False
    except (OSError, netrc.NetrcParseError) as error:
        # the error's own text may quote the password
        where = f" (line {error.lineno})" if isinstance(error, netrc.NetrcParseError) else f": {error.strerror}"
        raise InputError(f"{Path.home() / '.netrc'} cannot be read{where}; correct it") from None


def _has_kaggle() -> bool:
    home = Path.home()
    folders = [Path(os.environ.get("KAGGLE_CONFIG_DIR", home / ".kaggle")), home / ".kaggle", home / ".config/kaggle"]
    files = [folder / name for folder in folders for name in ("kaggle.json", "access_token")]
    pair = "KAGGLE_USERNAME" in os.environ and "KAGGLE_KEY" in os.environ
    return pair or "KAGGLE_API_TOKEN" in os.environ or any(file.is_file() for file in files)


def _has_google() -> bool:
    folder = Path(os.environ.get("CLOUDSDK_CONFIG", Path.home() / ".config/gcloud"))
    return (Path.home() / ".boto").is_file() or any(folder.glob("*credentials*"))


def _run(step: Step, output: Path, places: Mapping[str, str]) -> None:
    """Run a command; its own output goes to the terminal.

    Raises:
        InputError: Where it fails.
    """
    if not step.command or (step.unless and (output / step.unless).exists()):
        return
    logger.info("%s: %s", _fill(step.what, places), shlex.join(words(step, places)))
    line = [os.environ[word[1:]] if word.startswith("$") else word for word in words(step, places)]
    line[0] = sys.executable if line[0] == "python" else str(shutil.which(line[0]))
    environment = os.environ | {name: _fill(value, places) for name, value in step.environment}
    code = subprocess.run(line, env=environment, check=False).returncode  # noqa: S603 - words of ours, no shell
    if code:
        raise InputError(
            f"{step.command[0]} ended with code {code} (its own messages are above); the same command goes on where it "
            f"stopped"
        )
