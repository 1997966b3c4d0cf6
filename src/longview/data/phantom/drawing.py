"""Drawing many studies on all cores: the same bytes whatever the number of processes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np

from longview.data.phantom.layouts import LAYOUTS
from longview.data.phantom.layouts.base import Drawn
from longview.data.phantom.population import plan_patient, study_counts
from longview.data.phantom.study import draw_study, study_labels

_CHUNK = 40  # patients that a process draws at a time: about a second
_PER_WORKER = 300  # studies below which one more process costs more time than it saves


@dataclass(frozen=True)
class _Chunk:
    """Patients to draw, as (number, studies, studies of all patients before)."""

    root: Path
    layout: str
    size: int
    seed: int
    patients: tuple[tuple[int, int, int], ...]


def draw_images(
    root: Path, layout: str, studies: int, size: int, seed: int, workers: int | None
) -> Iterator[list[Drawn]]:
    """Draw all images below `root`; yields what is known of them, a few patients at a time, in order.

    Args:
        root: Folder to write to.
        layout: Name of a layout.
        studies: Number of studies.
        size: Side of the images in pixels.
        seed: Seed of everything.
        workers: Processes; 0 draws in this one, None takes as many as there are cores and work for them.
    """
    counts = study_counts(studies, seed)
    before = np.concatenate([[0], np.cumsum(counts)[:-1]]).tolist()
    patients = list(zip(range(len(counts)), counts, before, strict=True))
    chunks = [
        _Chunk(root, layout, size, seed, tuple(patients[start : start + _CHUNK]))
        for start in range(0, len(patients), _CHUNK)
    ]
    if workers is None:
        workers = min(len(os.sched_getaffinity(0)), studies // _PER_WORKER)
    if workers == 0:
        yield from map(_draw_chunk, chunks)
        return
    # spawn: a fork would copy the locks of threads that the parent may run
    with ProcessPoolExecutor(workers, get_context("spawn"), _start_worker) as pool:
        try:
            yield from pool.map(_draw_chunk, chunks)
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _start_worker() -> None:
    cv2.setNumThreads(1)  # the processes are the parallelism


def _draw_chunk(chunk: _Chunk) -> list[Drawn]:
    """Draw and write some patients."""
    layout = LAYOUTS[chunk.layout]
    result: list[Drawn] = []
    for patient, count, before in chunk.patients:
        for plan in plan_patient(chunk.seed, patient, count, layout.frontal_only):
            views = draw_study(plan, chunk.size)
            labels = frozenset(study_labels(views))
            for index, view in enumerate(views):
                place = layout.place(plan, index, before + plan.number)
                _write(chunk.root / place.path, layout.encode(view.image))
                result.append(Drawn(place, patient, plan.number, view.view, plan.age, plan.female, labels, view.boxes))
    return result


def _write(file: Path, encoded: bytes) -> None:
    try:
        file.write_bytes(encoded)
    except FileNotFoundError:  # the first image of its folder
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(encoded)
