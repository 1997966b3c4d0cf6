"""`main.py explain`: heat-maps of films and studies, by one or several models and methods."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from longview import InputError
from longview.data.views import View
from longview.explain import Method
from longview.explain.inputs import Study, files_as_study, read_input
from longview.outputs import make_folder

logger = logging.getLogger(__name__)


def explain(
    model: list[str],
    output: Path,
    *,
    input: Path | None = None,  # noqa: A002 - the option's name
    study: list[Path] | None = None,
    views: list[View] | None = None,
    method: list[Method] | None = None,
    labels: list[str] | None = None,
    threshold: float = 0.5,
    studies: bool = False,
    split: Literal["train", "val", "test", "none"] | None = None,
    limit: int | None = None,
    weights: Path | None = None,
    device: str = "auto",
    uncertainty: Literal["mc-dropout"] | None = None,
    samples: int = 10,
) -> None:
    r"""Draw heat-maps: where in a film a label's score comes from, in the frame of the film itself.

        uv run main.py explain --model runs/nih_1000/version_0/checkpoints/best.ckpt --input film.png --output results
        uv run main.py explain --model a.ckpt b.ckpt --input films --method gradcam++ layercam --labels Cardiomegaly \
            --output results
        uv run main.py explain --model fusion.ckpt --study pa.png lateral.png --views PA lateral --method attention \
            --output results

    Each image has a folder: the film under its map (P0), the map alone (P1.png) and as float32 in [0, 1] (P1.npy), its
    mask from --threshold on (P3), comparison.png of all labels, methods and models, and metadata.json. Runs into one
    --output add to each other; images that are done are passed over, unless settings, weights or film changed. A map
    without any evidence stays 0, and is named.

    All labels share one pass of the encoder; what comes after it is asked for all of them at once. What is exact:
    - linear head on the mean (torchxrayvision's too): cam, gradcam, hirescam and xgradcam are one map, the logit itself
      place by place, but for the bias and what speaks against the label; gradients are the weights, in closed form
    - other heads (label decoder, maxima, view fusion): gradients are exact, from one backward pass of the head for all
      labels; that gradient times activation says what a place contributes is an approximation of first order
    - label decoder: attention is exactly what the label's query looks at, which is not yet what raises its score;
      gradattention weights it by that; after a transformer over views, tokens stand for more than their own place
    - scorecam and ablationcam score masked films, or features without a channel: exact, and up to a thousand passes
    - eigencam asks for no label, and is the same for all

    With --studies (a store or table that knows them) or --study (files), views are explained together: a map per view,
    all divided by the study's hottest value, and each view's share in the evidence, which sum to 1 per label.

    Args:
        model: Checkpoints, and names of torchxrayvision's classifiers; several are compared.
        output: Folder for the results.
        input: A film (PNG, JPEG, TIFF, BMP, DICOM), a folder of them, a table with a path column, or a store.
        study: Files that are the views of one study, instead of --input.
        views: View type of each file of --study: PA, AP, lateral, unknown.
        method: gradcam, gradcam++ (default), scorecam, hirescam, ablationcam, xgradcam, eigencam, layercam; cam (linear
            heads); attention, gradattention (label decoders).
        labels: Names of labels, all, or top-3 (default): the three most probable of each image.
        threshold: Where the mask begins, in (0, 1]; 1 is the hottest place.
        studies: Explain the films of a study together.
        split: Of a store, only its train, val, test or none part.
        limit: Only so many images (or studies).
        weights: Folder of torchxrayvision's weights; see `classify`.
        device: auto, cpu, cuda, cuda:1 or mps.
        uncertainty: mc-dropout: how far samples of the network with its dropout on agree on a probability, in
            metadata.json and as ± its standard deviation in headings; and on the map, place by place, in SD.npy and
            SD.png (gradcam, gradcam++, hirescam, xgradcam, layercam).
        samples: How many, at least 2.
    """
    # idle OpenMP threads that spin slow down each other; must be set before torch is imported
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if not 0 < threshold <= 1:
        raise InputError(f"--threshold is {threshold}; it must be above 0 and at most 1, the hottest place")
    if limit is not None and limit < 1:
        raise InputError(f"--limit is {limit}; it must be at least 1")
    every = _work(input, study, views, studies, split)[:limit]
    from longview.explain.running import Run, check_dropout, check_labels, open_models  # torch; not for --help
    from longview.uncertainty.dropout import MonteCarlo

    sampler = MonteCarlo(samples) if uncertainty else None
    methods: list[Method] = list(dict.fromkeys(method or ["gradcam++"]))
    wishes = list(dict.fromkeys(labels or ["top-3"]))
    models = open_models(model, weights, device)
    check_labels(wishes, models)
    if sampler:
        check_dropout(models)
    make_folder(output, output)
    for each in models:
        logger.info("%s: %d labels, %d px, on %s", each.name, len(each.names), each.image_size, each.device)
    Run(models, methods, wishes, threshold, output, sampler).over(every)


def _work(
    path: Path | None, study: list[Path] | None, views: Sequence[str] | None, studies: bool, split: str | None
) -> list[Study]:
    if (path is None) == (not study):
        raise InputError("give either --input (a film, folder, table or store) or --study (the files of one study)")
    if path is None:
        return [files_as_study(study or [], views)]
    if views is not None:
        raise InputError("--views belongs to --study; a store or table says itself what each view is")
    return read_input(path, studies=studies, split=split)
