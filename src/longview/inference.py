"""A trained model, opened by its checkpoint or by the name of a published one, ready to score films."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from longview import VIEWS, Batch, InputError, StudyKey
from longview.checkpoints import described, read_checkpoint
from longview.data.frames import Frame
from longview.data.images import read_image, resize_image
from longview.data.transforms import Pixels, Preprocessing, resize_only
from longview.exported.runtime import network_of, read_metadata
from longview.exported.weights import read_weights
from longview.hierarchy import columns_of_edges, consistent
from longview.labels import LabelSet
from longview.models.network import Network
from longview.models.xrv import XRV_NAMES, XrvNetwork
from longview.outputs import sha256
from longview.tasks import load
from longview.test_time import Averaging
from longview.uncertainty.dropout import MonteCarlo

_READERS = 4  # threads


@dataclass(frozen=True)
class FilmImage:
    """A film as a model sees it, and what leads back to the film itself.

    Args:
        path: Its file.
        pixels: (1, S, S) uint8, what the network is given.
        frame: Where the film's pixels are in that square, and back.
    """

    path: Path
    pixels: Tensor
    frame: Frame

    @property
    def height(self) -> int:
        """Rows of the film in its file."""
        return self.frame.height

    @property
    def width(self) -> int:
        """Columns of the film in its file."""
        return self.frame.width

    @cached_property
    def film(self) -> Pixels:
        """The whole film, (height, width) uint8, read from its file on first use.

        Raises:
            InputError: Where the file is gone or cannot be read.
        """
        return read_image(self.path).pixels


@dataclass(frozen=True)
class OpenModel:
    """A model on its device, in evaluation mode.

    Args:
        name: Short name, safe in a file's name: `densenet121-res224-all`, or `nih_1000-version_0-best` of a run.
        labels: The label set that it was trained on.
        names: The L labels that it scores, in the order of its logits.
        network: Images to logits.
        image_size: S, side of its square input in px.
        preprocessing: How a film became a stored square before that.
        sha256: Hash of the file of its weights; of an exported model that of the checkpoint that it was made of.
        device: Where it is.
        averaging: Versions of each image that `probabilities` averages over; by itself the image alone.
        edges: (parent, child) positions in `names`: no label is scored above its parent.
    """

    name: str
    labels: LabelSet
    names: list[str]
    network: Network
    image_size: int
    preprocessing: Preprocessing
    sha256: str
    device: torch.device
    averaging: Averaging = Averaging()  # noqa: RUF009  # frozen
    edges: Sequence[tuple[int, int]] = field(default=())

    def read(self, path: str | Path) -> FilmImage:
        """Read a PNG, JPEG, TIFF, BMP or DICOM film as `prepare` and training did, to the network's input size.

        Raises:
            InputError: Where the file cannot be read; the message names it.
        """
        size, policy = self.preprocessing.size, self.preprocessing.resize
        image = read_image(Path(path), min_size=size)
        square = resize_only(resize_image(image.pixels, size, policy), self.image_size)
        frame = Frame(image.height, image.width, self.image_size, policy, size)
        return FilmImage(Path(path), torch.from_numpy(square[None]), frame)

    @torch.inference_mode()
    def probabilities(
        self,
        images: Tensor,
        study: Tensor | None = None,
        view: Tensor | None = None,
        studies: int | None = None,
        sampler: MonteCarlo | None = None,
    ) -> Tensor:
        """Probabilities (B, L) float32 on the CPU, as `predict` writes them; with a sampler (1 + T, B, L).

        Args:
            images: (N, 1, S, S) uint8, the views of all studies, in any order.
            study: (N,) int64, the row in 0..B-1 that an image belongs to; None: each image is its own study.
            view: (N,) int64, position in `longview.VIEWS`; None: unknown.
            studies: B; None: N.
            sampler: Also samples the network T times with its dropout on: the first row is the network's own answer.

        Raises:
            InputError: For images of another size than the network's, or a sampler where the network drops nothing.
        """
        count = len(images)
        if images.shape[1:] != (1, self.image_size, self.image_size):
            raise InputError(
                f"{self.name} takes images of shape (N, 1, {self.image_size}, {self.image_size}), found "
                f"{tuple(images.shape)}"
            )
        rows = count if studies is None else studies
        batch: Batch = {
            "images": images.to(self.device),
            "study": (torch.arange(count) if study is None else study).to(self.device),
            "view": (torch.full((count,), VIEWS.index("unknown")) if view is None else view).to(self.device),
            "target": torch.empty(rows, 0),
            "ids": [StudyKey("", str(row), "") for row in range(rows)],
        }
        forward = self._logits if sampler is None else sampler.over(self.network)
        result = self.averaging.predict(forward, batch)
        if self.edges:
            result = consistent(result, self.edges)
        return result.cpu()

    def _logits(self, batch: Batch) -> Tensor:
        logits: Tensor = self.network(batch["images"], batch["study"], batch["view"], len(batch["ids"]))
        return logits


def open_model(
    model: str | Path, weights: Path | None = None, device: str = "auto", providers: Sequence[str] = ()
) -> OpenModel:
    """Open a model for scoring.

    Args:
        model: A longview checkpoint (`runs/NAME/version_K/checkpoints/best.ckpt`), one of
            :data:`longview.models.xrv.XRV_NAMES`, or what `main.py export` wrote: an .onnx or .safetensors file, or a
            hub's folder.
        weights: For a model by name: folder of its weights, or their file; None: torchxrayvision's own folder in the
            home directory, to which they are downloaded where they are not there.
        device: `auto` (a GPU where there is one), `cpu`, `cuda`, `cuda:1`, `mps`; of an .onnx file also `openvino` and
            `openvino-bf16`.
        providers: Of an .onnx file: ONNX Runtime's execution providers, the preferred one first, in place of `device`.

    Raises:
        InputError: For a name or checkpoint that does not exist, weights that cannot be had, a device or provider that
            is not there, or an extra (`onnx`, `openvino`) that is not installed.
    """
    if Path(model).suffix == ".onnx":
        return _open_onnx(Path(model), device, providers)
    if providers:
        raise InputError(f"providers are for .onnx files, not for {model}")
    place = device_of(device)
    if str(model) in XRV_NAMES:
        return _open_published(str(model), weights, place)
    if not Path(model).suffix and not Path(model).exists():
        raise InputError(f"no model {str(model)!r}: give a checkpoint (.ckpt) or one of {', '.join(XRV_NAMES)}")
    if Path(model).suffix == ".safetensors" or Path(model).is_dir():
        return _open_weights(Path(model), place)
    return _open_checkpoint(Path(model), place)


def open_models(
    models: Sequence[str], weights: Path | None = None, device: str = "auto"
) -> Iterator[tuple[str, OpenModel]]:
    """Open one model after the other, as :func:`open_model` does: what was asked for, and it with a name of its own."""
    taken: set[str] = set()
    for model in models:
        opened = open_model(model, weights, device)
        name, number = opened.name, 1
        while name in taken:
            number += 1
            name = f"{opened.name}-{number}"
        taken.add(name)
        yield model, replace(opened, name=name)


def score_files(
    model: OpenModel, paths: Mapping[str, Path], failed: dict[str, str], batch_size: int = 16
) -> Iterator[tuple[int, dict[str, npt.NDArray[np.float32]]]]:
    """Score films batch by batch, each film as a study of its own; the next batch is read meanwhile.

    Args:
        model: The model.
        paths: Image -> its file.
        failed: Image -> why it could not be read; added to.
        batch_size: Films per step.

    Yields:
        Number of films done in this step, and image -> probabilities (L,) of those that could be read.
    """

    def read(image: str) -> FilmImage | str:
        try:
            return model.read(paths[image])
        except InputError as error:
            return str(error)

    images = list(paths)
    parts = [images[start : start + batch_size] for start in range(0, len(images), batch_size)]
    with ThreadPoolExecutor(_READERS) as pool:  # decoding releases the interpreter's lock
        waiting = [pool.submit(read, image) for image in parts[0]] if parts else []
        for part, following in zip(parts, [*parts[1:], []], strict=True):
            found = {image: future.result() for image, future in zip(part, waiting, strict=True)}
            waiting = [pool.submit(read, image) for image in following]
            failed |= {image: text for image, text in found.items() if isinstance(text, str)}
            films = {image: film.pixels for image, film in found.items() if not isinstance(film, str)}
            pixels = torch.stack(list(films.values())) if films else None
            values = [] if pixels is None else list(model.probabilities(pixels).numpy())
            yield len(part), dict(zip(films, values, strict=True))


def device_of(name: str) -> torch.device:
    """The device of a name; `auto` is the first GPU, or the CPU where there is none.

    Raises:
        InputError: For a name that torch does not know, or a device that this machine lacks.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"--device {name}: {reason}; give auto, cpu, cuda, cuda:1 or mps") from error
    if device.type == "meta":
        raise InputError(f"--device {name} computes nothing; give auto, cpu, cuda, cuda:1 or mps")
    return device


def _open_published(name: str, weights: Path | None, device: torch.device) -> OpenModel:
    network = XrvNetwork(name, weights=None if weights is None else str(weights))
    labels, file = network.own_labels(), network.weights_file()
    network.build(labels, network.own_size)
    return OpenModel(
        name=name,
        labels=labels,
        names=labels.names,
        network=_ready(network, device),
        image_size=network.own_size,
        preprocessing=Preprocessing(network.own_size, "crop"),
        sha256=sha256(file),
        device=device,
    )


def _open_onnx(path: Path, device: str, providers: Sequence[str]) -> OpenModel:
    """An exported graph, computed by a runtime, which is handed tensors on the CPU wherever it computes."""
    metadata = read_metadata(path)
    network = network_of(path, device, providers)
    opened = metadata.opened()
    network.build(opened["labels"], metadata.image_size)
    # rounding to 8 bits makes another model of it, whose probabilities want a calibration of their own
    digest = sha256(path) if metadata.quantized else metadata.checkpoint_sha256
    return OpenModel(network=network.eval(), sha256=digest, device=torch.device("cpu"), **opened)


def _open_weights(path: Path, device: torch.device) -> OpenModel:
    """Exported weights, in a file or a hub's folder."""
    task, metadata = read_weights(path)
    task.on_predict_start()
    return OpenModel(
        network=_ready(task.network, device), sha256=metadata.checkpoint_sha256, device=device, **metadata.opened()
    )


def _open_checkpoint(path: Path, device: torch.device) -> OpenModel:
    part = described(read_checkpoint(path), path)
    task = load(path)
    task.on_predict_start()  # a network that scores labels from their text learns what it is asked here
    names = task.predicted_names
    edges = columns_of_edges(task.labels.edges_among(names), names) if task.consistent else []
    if part["preprocessing"] is None:
        raise InputError(
            f"{path} does not say how its films were prepared, since it was trained without longview's data; score it "
            f"with the trainer, on its own data"
        )
    return OpenModel(
        name=_short_name(path),
        labels=task.labels,
        names=names,
        network=_ready(task.network, device),
        image_size=task.image_size,
        preprocessing=Preprocessing(**part["preprocessing"]),
        sha256=sha256(path),
        device=device,
        averaging=task.tta,
        edges=edges,
    )


def _ready(network: Network, device: torch.device) -> Network:
    return network.eval().requires_grad_(requires_grad=False).to(device)


def _short_name(path: Path) -> str:
    """`runs/nih_1000/version_0/checkpoints/best.ckpt` -> `nih_1000-version_0-best`; the stem of any other file."""
    parts = [path.stem]
    if path.absolute().parent.name == "checkpoints":
        run = path.absolute().parent.parent
        parts = [run.parent.name, run.name, path.stem] if run.name.startswith("version_") else [run.name, path.stem]
    return re.sub(r"[^\w.=-]+", "_", "-".join(parts))
