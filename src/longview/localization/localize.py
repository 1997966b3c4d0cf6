"""`main.py localize`: heat-maps to boxes, and what they are worth."""

from __future__ import annotations

import logging
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from rich.console import Console
from rich.progress import track

from longview import InputError
from longview.labels import LabelSet
from longview.localization.annotated import Truth
from longview.localization.boxes import BoxOptions, Extent, Threshold
from longview.localization.consolidate import How
from longview.localization.explained import Explained, Heat, read_explained
from longview.localization.fitting import Fitted
from longview.localization.inputs import Given, check, chosen_weights, parts, single_map, true_boxes
from longview.localization.localising import CENTRE, OnFilm, Plan, Shown, common_pairs, localised
from longview.localization.pictures import draw
from longview.localization.report import FILES, label_table, overall_table, write_boxes, write_figures
from longview.localization.summary import Summary, summarise
from longview.outputs import staged

logger = logging.getLogger(__name__)

FOLDERS = ("pictures", "masks")
"""Folders of the output."""

_FEW = 5  # names up to which a table per label fits a terminal


def localize(
    output: Path,
    *,
    maps: list[Path] | None = None,
    mask: Path | None = None,
    boxes: Path | None = None,
    ground_truth: str | None = None,
    frame: str | None = None,
    stretched: bool = False,
    labels: Path | None = None,
    threshold: str = "0.5",
    min_area: str = "0.1%",
    top_k: int | None = None,
    merge: str = "0",
    consolidate: list[How] | None = None,
    weights: str | None = None,
    fit_maps: list[Path] | None = None,
    fit_boxes: Path | None = None,
    bootstrap: int = 1000,
    seed: int = 0,
    pictures: int = 50,
) -> None:
    """Make boxes of heat-maps, in pixels of the original films, and score them against true boxes.

    A map is cut at a threshold, what is in the mask falls into connected components, and each of these is a box,
    scored by the mean of the map in it. A map that is the same everywhere has no boxes, and is named.

        uv run main.py explain --model demo.ckpt --input data/phantom --method gradcam --output maps
        uv run main.py localize --maps maps --boxes data/phantom --output boxes
        uv run main.py localize --maps maps --boxes BBox_List_2017.csv --consolidate union mean --output boxes
        uv run main.py localize --mask mask.png --ground-truth "Cardiomegaly,277,459,540,301" --output boxes

    True boxes are those of a store, or of a table: image_id, label, x, y, width, height (or x_min, y_min, x_max,
    y_max), or the lists of NIH, VinBigData, RSNA and TBX11K as they are. Boxes in a frame that the table states, or
    --frame, are scaled to the film; boxes outside of it are an error.

    Scored are films that have a true box of the label: pointing game, IoU, IoBB, CorLoc at 0.1 to 0.7, Dice and IoU
    of the masks. AP and mAP@[.5:.95] as COCO defines them rank the boxes of all films by probability times score,
    films that are known to be without the finding included. All with 95 % intervals: patients are drawn again.
    `centre` is a baseline that looks at nothing: a box of half the width and height in the middle of the film.

    With --consolidate, the maps of several models or methods become one: union, intersection or majority of their
    masks, or the weighted mean of their values. All are scored on the same films, those that every member explained.

    Writes boxes.csv, pictures of films with found and true boxes, masks of what was consolidated, and with true boxes
    metrics.csv and .json, per_film.csv and differences.csv.

    Args:
        output: Folder to write to.
        maps: Folders that `explain` wrote; those of several are put together.
        mask: A single map (.npy) or mask (.npy, or .png of 0 and 255) instead.
        boxes: True boxes: a store, or a .csv or .parquet table.
        ground_truth: True boxes of a single film, as "LABEL,x,y,width,height" in its pixels; several with ; between.
        frame: WIDTHxHEIGHT of the frame that boxes are in, where the table does not state it.
        stretched: Films were squashed to another shape: scale boxes along each side by itself.
        labels: Label set (file, or name of one in configs/labels) whose aliases count; only its labels are taken.
        threshold: Where maps are cut: a share of the map's maximum, a percentile such as p90, or otsu.
        min_area: Mask pixels that a box must hold, or a share of the film.
        top_k: How many boxes per film and label are kept, the best-scored ones. Default: all.
        merge: Components with so many pixels between them or fewer are one (or a share of the longer side).
        consolidate: How several members become one: union, intersection, majority, mean; several of these are
            compared.
        weights: Weights for the mean: NAME=WEIGHT with commas between, a name being MODEL/METHOD (or either), or
            fit. Default: all alike.
        fit_maps: Maps of validation films, by the same members, for --weights fit.
        fit_boxes: True boxes of these films. Default: --boxes.
        bootstrap: Resamples for intervals; 0: none.
        seed: Of the resamples.
        pictures: How many films are drawn at most, those with true boxes first; 0: none.
    """
    options = BoxOptions(Threshold.parse(threshold), Extent.parse(min_area, "--min_area"), top_k,
                         Extent.parse(merge, "--merge"))  # fmt: skip
    given = Given(maps, mask, boxes, parts(ground_truth), fit_maps, fit_boxes, frame, stretched)
    check(given, top_k, consolidate, weights, bootstrap, pictures)
    label_set = LabelSet.load(labels) if labels else None
    explained = single_map(given) if mask else read_explained(maps or [], label_set)
    truth = true_boxes(given, explained)
    fitted = chosen_weights(weights, given, explained, truth, label_set, options)
    plan = Plan(options, list(dict.fromkeys(consolidate or [])), fitted.weights if fitted else {})
    if plan.consolidations and len(explained.members) < 2:
        raise InputError(f"--consolidate needs maps of several models or methods; there are {explained.members[0]}'s")
    pairs, lacking = common_pairs(explained)
    if lacking:
        logger.warning("left out: %d films and labels that not every member has a map of", lacking)
    with staged(output) as folder:
        films = _each(explained, pairs, truth, plan, pictures, folder)
        write_boxes(films, folder)
        names = plan.names(explained.members, baseline=truth is not None)
        summary = None
        if truth:
            summary = summarise(films, truth, names, bootstrap, seed)
            about = _about(given, explained, plan, fitted, threshold, min_area, merge, lacking)
            write_figures(films, summary, about, _compared(explained.members, plan), folder)
        _remove_earlier(output)
    _report(Console(), films, summary, names, output)


def _remove_earlier(output: Path) -> None:
    """Remove what an earlier run left, which this one may not write again."""
    for name in FOLDERS:
        shutil.rmtree(output / name, ignore_errors=True)
    for name in FILES:
        (output / name).unlink(missing_ok=True)


def _each(
    explained: Explained,
    pairs: Mapping[tuple[str, str], Mapping[str, Heat]],
    truth: Truth | None,
    plan: Plan,
    pictures: int,
    folder: Path,
) -> list[OnFilm]:
    """What is found on each film, without its masks; draws pictures and writes consolidated masks on the way."""
    every = list(dict.fromkeys(image for image, _ in pairs))
    boxed = {image for image, label in pairs if truth and (image, label) in truth.boxes}
    drawn = set(sorted(every, key=lambda image: image not in boxed)[:pictures])
    if drawn:
        (folder / "pictures").mkdir()
    films = []
    film_names, label_names = _names(every), _names(list(dict.fromkeys(label for _, label in pairs)))
    steps = localised(explained, pairs, truth, plan)
    console = Console(stderr=True)
    for result in track(
        steps, "films", total=len(every), console=console, transient=True, disable=not console.is_terminal
    ):
        if result.film.image_id in drawn:
            draw(result, folder / "pictures" / f"{film_names[result.film.image_id]}.png")
        _write_masks(result, plan, folder / "masks" / film_names[result.film.image_id], label_names)
        films.append(_without_masks(result))
    return films


def _write_masks(result: OnFilm, plan: Plan, place: Path, label_names: Mapping[str, str]) -> None:
    for label, shown in result.shown.items():
        for how in plan.consolidations:
            place.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(place / f"{how}_{label_names[label]}.png"), shown[how].found.mask.astype(np.uint8) * 255)


def _without_masks(result: OnFilm) -> OnFilm:
    """The masks of thousands of films would not fit into memory."""
    none: npt.NDArray[np.bool_] = np.zeros((0, 0), np.bool_)

    def bare(item: Shown) -> Shown:
        return replace(item, found=replace(item.found, mask=none))

    return replace(
        result, shown={label: {name: bare(item) for name, item in of.items()} for label, of in result.shown.items()}
    )


def _names(texts: Sequence[str]) -> dict[str, str]:
    """Texts as names of files, no two alike: the second of two that would be gets `-2`."""
    taken: dict[str, str] = {}  # upper and lower case are the same file on some disks
    found = {}
    for text in texts:
        plain = re.sub(r"[^A-Za-z0-9._-]", "", re.sub(r"\s+", "_", text)).strip(".") or "film"
        name, number = plain, 1
        while taken.setdefault(name.lower(), text) != text:
            number += 1
            name = f"{plain}-{number}"
        found[text] = name
    return found


def _compared(members: Sequence[str], plan: Plan) -> list[tuple[str, str]]:
    """Pairs of names whose differences are told: all against the baseline, consolidations against each member."""
    names = [*members, *plan.consolidations]
    return [(name, CENTRE) for name in names] + [(how, member) for how in plan.consolidations for member in members]


def _about(
    given: Given, explained: Explained, plan: Plan, fitted: Fitted | None, threshold: str, min_area: str, merge: str,
    lacking: int,
) -> dict[str, Any]:  # fmt: skip
    return {
        "maps": [str(path) for path in given.maps or []] or [str(given.mask)],
        "true_boxes": given.truth_name,
        "members": explained.members,
        "consolidations": list(plan.consolidations),
        "weights": None if fitted is None else vars(fitted),
        "boxes": {"threshold": threshold, "min_area": min_area, "top_k": plan.options.top_k, "merge": merge},
        "left_out": lacking,
    }


def _report(
    console: Console, films: Sequence[OnFilm], summary: Summary | None, names: Sequence[str], output: Path
) -> None:
    empty = [
        (film.film.image_id, label, name, item.found.why)
        for film in films
        for label, shown in film.shown.items()
        for name, item in shown.items()
        if not item.found.boxes
    ]
    if empty:
        image, label, name, why = empty[0]
        logger.warning("%d maps have no box: %s of %s by %s (%s), ...", len(empty), label, image, name, why)
    if summary:
        if len(summary.labels) > 1 and len(names) <= _FEW:
            console.print(label_table(summary))
        console.print(overall_table(summary))
    else:
        for film in films[:20]:
            for label, shown in film.shown.items():
                for name, item in shown.items():
                    told = [
                        f"{box.x:g},{box.y:g},{box.width:g},{box.height:g} ({box.score:.2f})"
                        for box in item.found.boxes
                    ]
                    console.print(
                        f"{film.film.image_id} {label} {name}: {'; '.join(told) or item.found.why}", soft_wrap=True
                    )
    console.print(f"Boxes of {len(films):,} film{'s' if len(films) > 1 else ''}: {output}", soft_wrap=True)
