"""What a pipeline prints: its plan, and what came out."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from longview.pipeline.engine import states, typed
from longview.pipeline.plan import Plan, Step, wanted_parts


def print_plan(plan: Plan, steps: Sequence[Step], words: Sequence[str], missing: Sequence[str]) -> None:
    """Print each step's command, and whether it is done; and what stands in the way."""
    console = _console()
    done = states(words)
    for step in steps:
        is_done = done.get(step.output, False)
        resources = plan.resources(step.kind)
        goes_on = step.run is not None and not is_done and any(Path(step.run).glob("version_*/checkpoints/last.ckpt"))
        state = "done" if is_done else "goes on" if goes_on else "to do"
        gpus = f", {resources.gpus} GPUs" if resources.gpus else ""
        head = f"[{plan.steps.index(step) + 1}/{len(plan.steps)}] {step.name}: {state}"
        console.print(head, style="dim" if is_done else "bold", markup=False, highlight=False)
        console.print(f"    {typed(step)}", soft_wrap=True, markup=False, highlight=False)
        needs = f"{resources.threads} threads{gpus}, {resources.memory_gb:g} GB, {resources.minutes} min"
        told = f"    # {needs} -> {step.output}"
        console.print(told, soft_wrap=True, markup=False, highlight=False, style="dim")
    pending = sum(not done.get(step.output, False) for step in steps)
    console.print(f"{len(steps)} steps, {pending} to do, in {plan.config.output}", soft_wrap=True, highlight=False)
    for reason in missing:
        console.print(f"not there yet: {reason}", soft_wrap=True, markup=False, highlight=False, style="yellow")


def print_results(plan: Plan, steps: Sequence[Step]) -> None:
    """Print each task's scores and the files to submit."""
    made = {step.output for step in steps}
    table = Table(title=f"{plan.config.output}: {len(steps)} steps done")
    for column in ("task", "part", "labels", "rows", "mAP", "AUROC", "submission"):
        table.add_column(column, no_wrap=True)
    for name, task in plan.config.tasks.items():
        for part_name, _ in wanted_parts(task):
            metrics = plan.place("evaluation", f"{name}_{part_name}", "metrics.json")
            submission = plan.place("submissions", f"{name}_{part_name}", "submission.csv")
            scores = json.loads(Path(metrics).read_text(encoding="utf-8")) if metrics in made else {}
            cells = [str(scores.get("labels", "-")), str(scores.get("rows", "-"))]
            cells += [f"{scores[key]:.4f}" if scores.get(key) is not None else "-" for key in ("map", "auroc")]
            if {metrics, submission} & made:
                table.add_row(name, part_name, *cells, submission if submission in made else "-")
    if table.row_count:
        _console().print(table)


def _console() -> Console:
    return Console(width=None if sys.stdout.isatty() else 200)
