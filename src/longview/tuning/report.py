"""What a search found: a table of its trials, two plots, and the best configuration."""

from __future__ import annotations

import logging
import math
import os
import tempfile
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import yaml
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState
from rich.table import Table

from longview.outputs import make_folder
from longview.tuning.study import counted, finished

if TYPE_CHECKING:
    from matplotlib.figure import Figure

log = logging.getLogger(__name__)

_FEWEST = 4  # complete trials from which an importance is computed


def value_of(trial: FrozenTrial, maximise: bool) -> float:
    """The best validation of a trial, of a pruned one until then; NaN without any."""
    known = [value for value in trial.intermediate_values.values() if not math.isnan(value)]
    if trial.state == TrialState.COMPLETE:
        return float(trial.value if trial.value is not None else math.nan)
    return math.nan if not known else max(known) if maximise else min(known)


def default_trial(study: Study) -> FrozenTrial | None:
    """The trial of the experiment as it stands, where it has finished."""
    found = [trial for trial in finished(study) if trial.user_attrs.get("default")]
    return found[-1] if found else None


def best_trial(study: Study) -> FrozenTrial | None:
    """The best complete trial; None where there is none."""
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return study.best_trial if complete else None


def results(study: Study) -> pd.DataFrame:
    """One row per trial, the best first: number, state, value, seconds, folder, error and what was tried."""
    maximise = study.direction == StudyDirection.MAXIMIZE
    rows = []
    for trial in counted(study):
        seconds = trial.duration.total_seconds() if trial.duration is not None else math.nan
        rows.append(
            {
                "trial": trial.number,
                "state": trial.state.name.lower(),
                "value": value_of(trial, maximise),
                "validations": len(trial.intermediate_values),
                "seconds": round(seconds, 1),
                "default": bool(trial.user_attrs.get("default")),
                "folder": trial.user_attrs.get("folder", ""),
                "error": trial.user_attrs.get("error", ""),
                **trial.params,
            }
        )
    table = pd.DataFrame(rows)
    # a complete trial stands above a pruned one: the best is the first row
    rank = table["state"].map({"complete": 0, "pruned": 1}).fillna(2)
    order = pd.DataFrame({"rank": rank, "value": -table["value"] if maximise else table["value"]})
    return table.loc[order.sort_values(["rank", "value"], kind="stable").index].reset_index(drop=True)


def results_table(study: Study, monitor: str, top: int = 10) -> Table:
    """The best trials, as a rich table."""
    rows = results(study).head(top)
    total = len(counted(study))
    table = Table(title=f"{study.study_name}: the best {len(rows)} of {total} trials" if total > top
                  else f"{study.study_name}: {total} trials")  # fmt: skip
    settings = list(rows.columns[8:])
    for column in ("trial", monitor, "state", "seconds"):
        table.add_column(column, justify="left" if column == "state" else "right")
    for column in settings:
        table.add_column(column.rpartition(".")[2], overflow="fold")
    for row in rows.to_dict("records"):
        default = " (default)" if row["default"] else ""
        value = "-" if math.isnan(row["value"]) else f"{row['value']:.4f}"
        table.add_row(f"{row['trial']}{default}", value, row["state"], f"{row['seconds']:.0f}",
                      *(short(row[name]) for name in settings))  # fmt: skip
    errors = [f"trial {row['trial']}: {row['error']}" for row in rows.to_dict("records") if row["error"]]
    table.caption = "\n".join(errors) or None
    return table


def short(value: Any) -> str:
    """A value that was tried, in few characters."""
    if value is None or value != value:  # noqa: PLR0124 - pandas makes NaN of None
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}"
    text = str(value)
    return Path(text).stem if text.endswith(".yaml") else text


def write_report(study: Study, monitor: str, best: Callable[[FrozenTrial], str], output: Path) -> None:
    """Write trials.csv, history.png, importance.png and best.yaml, each whole.

    Where another worker finishes a trial meanwhile they are written once more, so that whoever comes last leaves all.

    Args:
        study: At least one of its trials has run.
        monitor: The figure that was searched for.
        best: Text of best.yaml for the best trial.
        output: The folder.

    Raises:
        InputError: Where the folder cannot be made.
    """
    make_folder(output, output)
    while True:
        done = len(finished(study))
        # workers that end together each have a folder of their own
        with tempfile.TemporaryDirectory(prefix=f".{output.name}.", dir=output.absolute().parent) as aside:
            folder = Path(aside)
            results(study).to_csv(folder / "trials.csv", index=False)
            winner = best_trial(study)
            if winner is not None:
                (folder / "best.yaml").write_text(best(winner), encoding="utf-8")
                _plot_history(study, monitor, folder / "history.png")
                _plot_importance(study, monitor, folder / "importance.png")
            for file in sorted(folder.iterdir()):
                os.replace(file, output / file.name)  # noqa: PTH105 - atomic, and says that it replaces
        if len(finished(study)) == done:
            return


def best_yaml(config: Mapping[str, Any], study: Study, trial: FrozenTrial, monitor: str, output: Path) -> str:
    """The best trial's configuration as a file for `fit`, with a comment on where it is from.

    Args:
        config: Its whole configuration, as plain data.
        study: The study.
        trial: Its best trial.
        monitor: The figure that was searched for.
        output: The folder that it is written to, for the command.
    """
    settings = [f"#   {key}: {value}" for key, value in trial.params.items()]
    start = default_trial(study)
    as_it_was = math.nan if start is None else value_of(start, study.direction == StudyDirection.MAXIMIZE)
    lines = [
        f"# uv run main.py fit --config {output / 'best.yaml'}",
        f"# Trial {trial.number} of study {study.study_name}: {monitor} {trial.value:.4f}; "
        f"the experiment as it was: {as_it_was:.4f}",
        *settings,
    ]
    dumped = yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True, width=120)
    return "\n".join(lines) + "\n" + dumped


def importances(study: Study) -> dict[str, float]:
    """Share of each setting in what told good trials from bad ones; empty for too few trials.

    Source: PED-ANOVA, Watanabe et al., IJCAI 2023, arXiv 2304.10255.
    """
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    settings = {name for trial in complete for name, kind in trial.distributions.items() if not kind.single()}
    if len(complete) < _FEWEST or not settings or len({trial.value for trial in complete}) == 1:
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is experimental, and inexact for few trials: so is every importance
        return dict(get_param_importances(study, evaluator=PedAnovaImportanceEvaluator()))


def _figure(width: float, height: float) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _plot_history(study: Study, monitor: str, file: Path) -> None:
    """Draw the value of each trial in the order of their numbers, and the best so far."""
    from matplotlib.ticker import MaxNLocator

    maximise = study.direction == StudyDirection.MAXIMIZE
    figure = _figure(7, 4)
    axis = figure.subplots()
    styles = {TrialState.COMPLETE: ("o", "#1b6ca8", "complete"), TrialState.PRUNED: ("x", "0.55", "pruned so far at")}
    for state, (marker, colour, label) in styles.items():
        trials = study.get_trials(deepcopy=False, states=(state,))
        if trials:
            values = [value_of(trial, maximise) for trial in trials]
            axis.plot([trial.number for trial in trials], values, marker, color=colour, label=label, zorder=3)
    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    so_far = (np.maximum if maximise else np.minimum).accumulate([value_of(trial, maximise) for trial in complete])
    axis.step([trial.number for trial in complete], so_far, where="post", color="#c4552d", label="best so far")
    start = default_trial(study)
    if start is not None:
        axis.axhline(
            value_of(start, maximise), color="0.4", linewidth=0.9, linestyle="--", label="experiment as it was"
        )
    axis.set(xlabel="trial", ylabel=monitor, title=study.study_name)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(fontsize=8, frameon=False)
    figure.savefig(file, dpi=130)


def _plot_importance(study: Study, monitor: str, file: Path) -> None:
    """Draw a bar for each setting; nothing where there are too few trials."""
    shares = importances(study)
    if not shares:
        log.info("importance.png needs at least %d complete trials of different values", _FEWEST)
        return
    names = sorted(shares, key=lambda name: shares[name])
    figure = _figure(7, 1.2 + 0.35 * len(names))
    axis = figure.subplots()
    places = np.arange(len(names))
    axis.barh(places, [shares[name] for name in names], color="#1b6ca8", height=0.7)
    for place, name in zip(places, names, strict=True):
        axis.text(shares[name] + 0.01, float(place), f"{shares[name]:.2f}", va="center", fontsize=8)
    axis.set_yticks(places, names, fontsize=8)
    count = len(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)))
    axis.set(xlim=(0, 1.1), xlabel="share", title=f"importance for {monitor}, {count} complete trials")
    axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(file, dpi=130)
