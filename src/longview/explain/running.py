"""The work of `main.py explain`: models over studies, image by image."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from longview import InputError, inference
from longview.explain import Method
from longview.explain.inputs import Film, Study
from longview.explain.maps import Explainer, deviation, heat_map
from longview.explain.results import ImageResults, MapEntry, Request, folder_name
from longview.inference import OpenModel
from longview.outputs import sha256
from longview.test_time import Averaging
from longview.uncertainty.dropout import MonteCarlo, check
from longview.uncertainty.summary import MEASURES, Uncertainty

logger = logging.getLogger(__name__)

_SHOWN = 10  # empty maps named in a warning


def open_models(names: Sequence[str], weights: Path | None, device: str) -> list[OpenModel]:
    """The models, under names that differ."""
    models: list[OpenModel] = []
    for name in dict.fromkeys(names):
        opened = inference.open_model(name, weights, device)
        if any(other.name == opened.name for other in models):
            opened = replace(opened, name=f"{opened.name}-{opened.sha256[:6]}")
        models.append(opened)
    if not models:
        raise InputError("--model: give a checkpoint, or the name of a classifier")
    return models


def check_dropout(models: Sequence[OpenModel]) -> None:
    """Refuse a model that drops nothing, by name."""
    for model in models:
        try:
            check(model.network)
        except InputError as error:
            raise InputError(f"--uncertainty mc-dropout, {model.name}: {error}") from error


def _top(wish: str) -> int | None:
    """Number of `top-3`; None for anything else."""
    number = wish.removeprefix("top-")
    return int(number) if wish.startswith("top-") and number.isdigit() and int(number) > 0 else None


def _known(model: OpenModel, wish: str) -> str | None:
    """The label of a model that a name stands for."""
    name = wish if wish in model.names else model.labels.canonical(wish)
    return name if name in model.names else None


def check_labels(wishes: Sequence[str], models: Sequence[OpenModel]) -> None:
    """Refuse labels that no model knows; say which model lacks one that others know."""
    for wish in wishes:
        if wish == "all" or _top(wish) is not None:
            continue
        lacking = [model for model in models if _known(model, wish) is None]
        if len(lacking) == len(models):
            known = list(dict.fromkeys(name for model in models for name in model.names))
            raise InputError(
                f"--labels: no label {wish!r} in {', '.join(model.name for model in models)}; there are "
                f"{', '.join(known)}; or all, or top-3"
            )
        for model in lacking:
            logger.warning("%s does not score %s, and has no map of it", model.name, wish)


@dataclass(frozen=True)
class Run:
    """What is asked of every study."""

    models: Sequence[OpenModel]
    methods: Sequence[Method]
    wishes: Sequence[str]
    threshold: float
    output: Path
    sampler: MonteCarlo | None = None
    empty: Counter[str] = field(default_factory=Counter)
    """Maps without any evidence, by label, method and model."""

    def over(self, studies: Sequence[Study]) -> None:
        """Explain study after study.

        Raises:
            InputError: Where a film cannot be read; with several studies, where none can.
        """
        _check_folders([film.image_id for study in studies for film in study.films])
        done, passed, failed = 0, 0, list[str]()
        for study in _with_progress(studies):
            try:
                fresh = self._explain(study)
            except _UnreadableError as error:
                if len(studies) == 1:
                    raise InputError(str(error)) from error
                failed.append(str(error))
                logger.warning("left out: %s", error)
                continue
            done, passed = done + fresh, passed + (not fresh)
        if failed and not done and not passed:
            raise InputError(f"none of the {len(failed)} images can be read; first: {failed[0]}")
        if self.empty:
            named = [f"{name} ({count} of {done})" for name, count in self.empty.most_common(_SHOWN)]
            logger.warning(
                "no evidence anywhere, so that map and mask are 0: %s%s",
                ", ".join(named), f" and {len(self.empty) - _SHOWN} more" if len(self.empty) > _SHOWN else "",
            )  # fmt: skip
        logger.info("%s: %d explained, %d were there, %d left out", self.output, done, passed, len(failed))

    def _explain(self, study: Study) -> bool:
        """Explain one study; False where its results are there."""
        images = [_described(film) for film in study.films]
        ids = [film.image_id for film in study.films] if study.together else []
        sampled = None if self.sampler is None else self.sampler.describe()
        requests = [
            Request(model.name, model.sha256, method, list(self.wishes), ids, sampled)
            for model in self.models
            for method in self.methods
        ]
        results = [ImageResults(self.output / folder_name(film.image_id)) for film in study.films]
        pairs = list(zip(results, images, strict=True))
        if all(each.holds(image, requests, self.threshold) for each, image in pairs):
            return False
        wholes = [_read(film) for film in study.films]
        for image, whole in zip(images, wholes, strict=True):
            image["height"], image["width"] = whole.shape
        with ExitStack() as stack:
            writers = [
                stack.enter_context(each.changing(image, whole, requests, self.threshold))
                for (each, image), whole in zip(pairs, wholes, strict=True)
            ]
            for model in self.models:
                for entries, maps, spreads in self._maps(model, study, wholes, ids):
                    for writer, entry, values, spread in zip(writers, entries, maps, spreads, strict=True):
                        writer.add(entry, values, spread)
        return True

    def _maps(
        self, model: OpenModel, study: Study, wholes: Sequence[Any], ids: list[str]
    ) -> Iterator[tuple[list[MapEntry], list[Any], list[Any]]]:
        """For each method and label, an entry, a map and, where there are samples, their deviation per film."""
        seen = [film.seen(model, whole) for film, whole in zip(study.films, wholes, strict=True)]
        frames = [each.frame for each in seen]
        images = torch.stack([torch.from_numpy(each.pixels)[None] for each in seen]).to(model.device)
        view = torch.tensor([film.view for film in study.films])
        explainer = Explainer(model.network, images, view, model.name)
        probabilities = _probabilities(model, explainer, images, view)
        chosen = self._chosen(model, probabilities)
        spread = self._spread(model, images, view) if chosen else []
        for method in self.methods:
            raw = explainer.raw(method, chosen) if chosen else ()
            samples = explainer.samples(method, chosen, self.sampler) if self.sampler and chosen else None
            for number, (place, values) in enumerate(zip(chosen, raw, strict=True)):
                found = heat_map(values, frames)
                name = model.names[place]
                if found.empty:
                    self.empty[f"{name} by {method} of {model.name}"] += 1
                entry = MapEntry(
                    model.name, name, method, explainer.layer(method), probabilities[place], model.sha256,
                    study=ids, empty=found.empty, uncertainty=spread[place] if spread else None,
                )  # fmt: skip
                shares = found.shares.tolist() if study.together else [None] * len(seen)
                spreads: list[Any] = [None] * len(seen)
                if samples is not None and not found.empty:  # else there is no scale to tell it on
                    spreads = deviation(samples[:, number], frames, found.top)
                yield [replace(entry, view_share=share) for share in shares], found.maps, spreads

    def _spread(self, model: OpenModel, images: Tensor, view: Tensor) -> list[dict[str, float]]:
        """For each label, what the study's samples say of its probability; empty where none are asked for."""
        if self.sampler is None:
            return []
        samples = model.probabilities(images, torch.zeros(len(view), dtype=torch.int64), view, 1, self.sampler)
        found = Uncertainty.of(samples[1:].numpy())
        return [{name: float(getattr(found, name)[0, place]) for name in MEASURES} for place in range(len(model.names))]

    def _chosen(self, model: OpenModel, probabilities: Sequence[float]) -> list[int]:
        """Positions of the labels asked for, each once, in the order of the wishes."""
        places: list[int] = []
        for wish in self.wishes:
            count = len(model.names) if wish == "all" else _top(wish)
            if count is None:
                name = _known(model, wish)
                places += [] if name is None else [model.names.index(name)]
            elif wish == "all":
                places += range(count)
            else:
                places += sorted(range(len(model.names)), key=lambda place: -probabilities[place])[:count]
        return list(dict.fromkeys(places))


def _check_folders(image_ids: Sequence[str]) -> None:
    """Refuse films whose results would share a folder, before anything is computed."""
    owner: dict[str, str] = {}
    for image_id in image_ids:
        # upper and lower case are the same file on some disks
        other = owner.setdefault(folder_name(image_id).lower(), image_id)
        if other != image_id:
            raise InputError(
                f"images {other!r} and {image_id!r} would both be explained in the folder {folder_name(image_id)!r}; "
                f"rename one of them, or explain them into two outputs"
            )


class _UnreadableError(Exception):
    """A film that cannot be read."""


def _described(film: Film) -> dict[str, Any]:
    """What metadata says of a film; its size is added once it is read.

    Raises:
        _UnreadableError: Where its file cannot be opened.
    """
    if film.from_store:
        assert film.store is not None
        digest = film.store.info.content_hash
    else:
        try:
            digest = sha256(film.path)
        except OSError as error:
            raise _UnreadableError(f"{film.path} cannot be opened: {error.strerror}") from error
    return {"path": str(film.path), "image_id": film.image_id, "sha256": digest}


def _read(film: Film) -> Any:
    try:
        return film.whole()
    except InputError as error:
        raise _UnreadableError(str(error)) from error


def _probabilities(model: OpenModel, explainer: Explainer, images: Any, view: Any) -> list[float]:
    """Probabilities (L,) of the study as `predict` and `classify` have them."""
    if model.averaging == Averaging() and not model.edges:  # the encoder has run already
        found = explainer.logits().sigmoid().cpu()
    else:
        found = model.probabilities(images, torch.zeros(len(view), dtype=torch.int64), view, 1)[0]
    values: list[float] = found.tolist()
    return values


def _with_progress(studies: Sequence[Study]) -> Iterator[Study]:
    """Pass studies on under a bar, on a terminal."""
    columns = (TextColumn("explaining"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not console.is_terminal or len(studies) < 2) as bar:
        task = bar.add_task("", total=len(studies))
        for study in studies:
            yield study
            bar.advance(task)
