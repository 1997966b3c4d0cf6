"""From raw archives to submissions in one command: noisy student, last stages, calibration, scores, submissions.

A workflow engine, Snakemake, does the graph, the resuming, SLURM and containers; here is only what it is given:
:mod:`.config` is the YAML file, :mod:`.plan` the steps that follow from it, :mod:`.engine` how they are handed over.
"""

from __future__ import annotations

import importlib.util
import logging
from pathlib import Path

from longview import InputError

__all__ = ["pipeline"]

logger = logging.getLogger(__name__)


def pipeline(
    config: Path,
    *,
    dry_run: bool = False,
    cores: int | None = None,
    until: str | None = None,
    executor: str | None = None,
    profile: str | None = None,
    check_stores: bool = False,
    snakemake: list[str] | None = None,
) -> None:
    """Run a whole noisy-student pipeline: raw archives, teacher, students, last stages, scores, submissions.

    Each step is a command that can be typed: --dry_run prints them all, done or to do. A finished step is not run
    again unless what it reads, its options or its configuration files say something else; a training that was
    stopped goes on from its last checkpoint. So after a kill, a crash or a full disk the same command goes on.

    What a step prints is in OUTPUT/logs/STEP.log. Ctrl-C stops at once, SIGTERM after the running steps.
    Needs the extra `pipeline` (Snakemake); on a cluster --executor slurm sends each step to SLURM.

        main.py pipeline --config configs/pipeline/phantom.yaml --dry-run
        main.py pipeline --config configs/pipeline/cxr_lt_2024_task1.yaml --executor slurm --cores 20

    Args:
        config: The pipeline's YAML file, as in configs/pipeline.
        dry_run: Print the steps, check their options, and run nothing.
        cores: CPU cores that steps share, by default all; with an executor, the jobs that may be queued at a time, by
            default 20.
        until: Run only this step and those that it needs.
        executor: Snakemake's executor plugin, such as slurm; default: this machine.
        profile: Snakemake's profile folder, with a cluster's own settings.
        check_stores: Only check that no patient stands in two splits of the stores that are there; the pipeline does so
            by itself between preparing and training.
        snakemake: Further options of Snakemake: write them behind `--`, as in `-- --retries 2 --slurm-requeue`.
    """
    if check_stores:
        _check_stores(config)
        return
    if importlib.util.find_spec("snakemake") is None:
        raise InputError("pipeline needs Snakemake: uv sync --extra pipeline")
    if cores is not None and cores < 1:
        raise InputError(f"--cores {cores}: give at least 1")
    from longview.pipeline.check import check
    from longview.pipeline.config import here, load
    from longview.pipeline.engine import arguments, execute
    from longview.pipeline.plan import Plan
    from longview.pipeline.report import print_plan, print_results

    plan = Plan(load(config), config)
    wanted = plan.steps if until is None else plan.upto(until)
    missing = check(plan)
    words = arguments(plan, cores=cores, until=until, executor=executor, profile=profile, extra=snakemake or [])
    if dry_run:
        print_plan(plan, wanted, words, missing)
        return
    if missing:
        raise InputError(f"{config}: {missing[0]}{here('')}")
    execute(plan, words)
    print_results(plan, wanted)


def _check_stores(config: Path) -> None:
    from longview.pipeline.archives import check_stores
    from longview.pipeline.config import load
    from longview.pipeline.plan import Plan

    count = check_stores(Plan(load(config), config))
    logger.info("%s: no patient stands in two splits of its %d stores", config, count)
