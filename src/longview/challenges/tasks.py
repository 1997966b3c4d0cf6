"""Tasks of the challenges: which labels a submission scores, in which order, and what its image column is called."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from longview import InputError
from longview.labels import LabelSet

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Task:
    """A task of a challenge.

    Args:
        label_set: Name of its label set in configs/labels, whose order is that of the challenge's files.
        image: Name of the image column.
        unseen: Whether the unseen labels are scored, and only those (zero-shot).
    """

    label_set: str
    image: str
    unseen: bool = False

    def labels(self) -> LabelSet:
        """The label set, for names and aliases."""
        return LabelSet.load(self.label_set)

    def columns(self) -> list[str]:
        """Label columns of a submission, in order."""
        labels = self.labels()
        return labels.unseen_names if self.unseen else labels.names


TASKS: dict[str, Task] = {
    "cxr-lt-2023": Task("cxr_lt_2023", "dicom_id"),
    "cxr-lt-2024-task1": Task("cxr_lt_2024_task1", "dicom_id"),
    "cxr-lt-2024-task2": Task("cxr_lt_2024_task2", "dicom_id"),
    "cxr-lt-2024-task3": Task("cxr_lt_2024_task3", "dicom_id", unseen=True),
    "cxr-lt-2026-task1": Task("cxr_lt_2026", "ImageID"),
    "cxr-lt-2026-task2": Task("cxr_lt_2026", "ImageID", unseen=True),
}
"""Name on the command line -> task."""


def task_of(name: str) -> Task:
    """A task by its name.

    Raises:
        InputError: Naming those that there are.
    """
    if name not in TASKS:
        raise InputError(f"--task {name}: there is no such task; there are {', '.join(TASKS)}")
    return TASKS[name]


def wanted_columns(task: Task, template: Sequence[str], origin: Path) -> list[str]:
    """Label columns of a submission, in order: the template's, where it has any, which must be the task's.

    Args:
        task: The task.
        template: The template's label columns; none in a mere list of images.
        origin: The template, for messages.

    Raises:
        InputError: Where the template has other labels than the task; names both sides.
    """
    columns, labels = task.columns(), task.labels()
    if not template:
        return columns
    given = {labels.canonical(column) or column: column for column in template}
    absent, strange = [name for name in columns if name not in given], [name for name in given if name not in columns]
    if absent or strange:
        raise InputError(
            f"{origin} is not of this task; labels of the task that it lacks: {', '.join(absent) or 'none'}; columns "
            f"that are none of the task's: {', '.join(strange) or 'none'}"
        )
    if list(given) != columns:
        logger.warning(
            "%s has the task's labels in another order than label set %s; its own is kept", origin, labels.name
        )
    return list(template)
