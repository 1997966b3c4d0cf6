"""Weights of torchxrayvision's published classifiers: where they come from, and reading them without running them.

Its DenseNets are whole pickled modules. Reading one the usual way executes what is in it; here a restricted reader
takes the tensors out of empty shells, and anything that is not a layer of torch or of torchxrayvision is refused.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import logging
import math
import pickle
import sys
import warnings
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, Literal

import torch
from huggingface_hub import constants
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from longview import InputError
from longview.models import hub
from longview.outputs import make_folder, sha256

log = logging.getLogger(__name__)

HOME = Path("~/.torchxrayvision/models_data")
"""Where torchxrayvision keeps what it has downloaded."""

_RELEASE = "https://github.com/mlmed/torchxrayvision/releases/download/v1"
_DENSENET = "{}-densenet121-d121-tw-lr001-rot45-tr15-sc15-seed0-best.pt"
_METADATA = "longview.xrv"  # in a converted file: the model's name; its labels and thresholds stand beside it

_LAYERS = ("DenseNet", "_DenseLayer", "_DenseBlock", "_Transition")  # torchxrayvision's, in a pickled DenseNet


@dataclass(frozen=True)
class Published:
    """One of torchxrayvision's classifiers.

    Args:
        architecture: timm's name of its encoder.
        size: Side of its input in px.
        file: Its file, as the release has it.
        head: Its head's name in that file; empty for the head of JF Healthcare, which is a network of its own.
    """

    architecture: Literal["densenet121", "resnet50"]
    size: int
    file: str
    head: str

    @property
    def url(self) -> str:
        """Where its file is published."""
        return f"{_RELEASE}/{self.file}"


def _densenet(data: str) -> Published:
    return Published("densenet121", 224, _DENSENET.format(data), "classifier")


JF = "jfhealthcare-densenet121"

XRV: dict[str, Published] = {
    "densenet121-res224-all": _densenet("nih-pc-chex-mimic_ch-google-openi-kaggle"),
    "densenet121-res224-rsna": _densenet("kaggle"),
    "densenet121-res224-nih": _densenet("nih"),
    "densenet121-res224-pc": _densenet("pc"),
    "densenet121-res224-chex": _densenet("chex"),
    "densenet121-res224-mimic_nb": _densenet("mimic_nb"),
    "densenet121-res224-mimic_ch": _densenet("mimic_ch"),
    "resnet50-res512-all": Published("resnet50", 512, "pc-nih-rsna-siim-vin-resnet50-test512-e400-state.pt", "fc"),
    JF: Published("densenet121", 512, "baseline_models_jfhealthcare-DenseNet121_pre_train.pth", ""),
}
"""Name, as torchxrayvision has it (JF Healthcare's apart) -> what is published under it."""

XRV_NAMES = tuple(XRV)


@dataclass(frozen=True)
class XrvWeights:
    """The weights of one published classifier, on disk.

    Args:
        name: One of :data:`XRV_NAMES`.
        file: Its pickled file, or the safetensors that :meth:`convert` made of it.
    """

    name: str
    file: Path

    @classmethod
    def find(cls, name: str, weights: str | Path | None = None) -> XrvWeights:
        """Find a model's file, or download it.

        Args:
            name: One of :data:`XRV_NAMES`.
            weights: A file (.safetensors, .pt, .pth); a folder that holds NAME.safetensors or the file as published,
                or is to receive it; None: torchxrayvision's own folder, :data:`HOME`.

        Raises:
            InputError: Where it is not there and cannot be downloaded: says what to fetch and where to put it.
        """
        published = XRV[name]
        if weights is not None:
            given = Path(weights).expanduser()
            if given.is_file():
                return cls(name, given)
            if not given.is_dir():
                raise InputError(
                    f"weights {given} do not exist; give a folder with {published.file}, from {published.url}"
                )
        folder = HOME.expanduser() if weights is None else Path(weights).expanduser()
        for file in (folder / f"{name}.safetensors", folder / published.file):
            if file.is_file():
                return cls(name, file)
        return cls(name, _download(published, folder))

    @property
    def _converted(self) -> bool:
        return self.file.suffix == ".safetensors"

    @cached_property
    def _described(self) -> tuple[list[str], list[float]]:
        """Targets, blank where there is none, and operating points, NaN where there is none."""
        if self._converted:
            found = _metadata(self.file)
            if found.get(_METADATA) != self.name:
                raise InputError(
                    f"{self.file} holds {found.get(_METADATA) or 'no converted model'}, not {self.name}; write it "
                    f"with: main.py classify --model {self.name} --convert FOLDER"
                )
            points = [math.nan if value is None else float(value) for value in json.loads(found["op_threshs"])]
            return [str(target) for target in json.loads(found["labels"])], points
        if self.name == JF:
            targets = [str(target) for target in jf_module().DenseNet.targets]
            return targets, [0.5] * len(targets)
        entry = torchxrayvision().models.model_urls[self.name]
        return list(entry["labels"]), [float(value) for value in entry["op_threshs"]]

    @property
    def targets(self) -> list[str]:
        """Names of the outputs in order; blank for one that was never trained.

        Those that the model gives a name but no operating point (two of ResNet50's, absent from its training data)
        always answer 0.5 in torchxrayvision; they are blank here.
        """
        named = zip(*self._described, strict=True)
        return ["" if math.isnan(point) else target for target, point in named]

    @property
    def thresholds(self) -> list[float]:
        """Operating points: what the sigmoid must reach for a positive; NaN for an output that was never trained."""
        return self._described[1]

    def state(self) -> dict[str, Tensor]:
        """Tensors by name, as timm's `densenet121` or `resnet50` has them; JF Healthcare's under its own names.

        Raises:
            InputError: Where the file is damaged, or holds anything but layers and tensors.
        """
        if self._converted:
            try:
                with safe_open(self.file, framework="pt") as file:
                    return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - no mapping
            except SafetensorError as error:
                raise InputError(f"{self.file} cannot be read: {error}") from error
        state = {key: value for key, value in _unpickle(self.file).items() if key != "op_threshs"}
        if not state:
            raise InputError(f"{self.file} holds no weights; fetch {XRV[self.name].url} again")
        return state

    def convert(self, folder: Path) -> Path:
        """Write FOLDER/NAME.safetensors: tensors, labels and operating points, nothing that could run.

        Returns:
            The file.
        """
        make_folder(folder, folder)
        output = folder / f"{self.name}.safetensors"
        points = [None if math.isnan(value) else value for value in self.thresholds]
        metadata = {
            _METADATA: self.name,
            "labels": json.dumps(self._described[0]),
            "op_threshs": json.dumps(points),
            "source": XRV[self.name].url,
            "source_sha256": sha256(self.file),
        }
        aside = output.with_name(f".{output.name}.partial")
        save_file({key: value.contiguous() for key, value in self.state().items()}, aside, metadata)
        aside.replace(output)
        return output


# ---- torchxrayvision itself --------------------------------------------------------------------------------


def torchxrayvision() -> ModuleType:
    """The library, without what its import does to the rest of the process.

    It silences every warning, and puts the folder of JF Healthcare's network on the path to import its module `model`.

    Raises:
        InputError: Where the extra `xrv` is not installed.
    """
    before, known = list(sys.path), set(sys.modules)
    try:
        with warnings.catch_warnings():
            return importlib.import_module("torchxrayvision")
    except ModuleNotFoundError as error:
        raise InputError(
            f"{error.name} is not installed, which torchxrayvision's own files need: run with the extra, `uv run "
            f"--extra xrv main.py ...`; a DenseNet or ResNet50 that `classify --convert` has written does without it"
        ) from error
    finally:
        sys.path[:] = before
        for name in [name for name in sys.modules if name.partition(".")[0] == "model" and name not in known]:
            del sys.modules[name]


def jf_module() -> Any:
    """JF Healthcare's network in torchxrayvision.

    Raises:
        InputError: Where the extra `xrv` is not installed.
    """
    return torchxrayvision().baseline_models.jfhealthcare


def _download(published: Published, folder: Path) -> Path:
    """Fetch a file by torchxrayvision's own download, which resumes, once a probe has found something there."""
    remedy = f"Fetch {published.url} and put it into {folder}"
    if reason := hub.unreachable(published.url, offline=constants.HF_HUB_OFFLINE):
        raise InputError(f"{published.file} is not in {folder}, and cannot be downloaded: {reason}. {remedy}")
    library = torchxrayvision()
    make_folder(folder, folder)
    log.info("downloading %s to %s", published.url, folder)
    try:
        with contextlib.redirect_stdout(sys.stderr):  # its progress bar
            library.utils.download(published.url, str(folder / published.file))
    except OSError as error:
        raise InputError(f"{published.file} cannot be downloaded: {error}. {remedy}") from error
    return folder / published.file


# ---- files -------------------------------------------------------------------------------------------------


def _metadata(file: Path) -> dict[str, str]:
    try:
        with safe_open(file, framework="pt") as opened:
            return dict(opened.metadata() or {})
    except (SafetensorError, OSError) as error:
        raise InputError(f"{file} cannot be read: {error}") from error


class _Shell:
    """Stands for every layer in a pickled module: keeps what the layer held, and can do nothing."""

    dump_patches = False  # torch's old format asks for it
    _parameters: dict[str, Tensor | None]
    _buffers: dict[str, Tensor | None]
    _modules: dict[str, _Shell | None]

    def tensors(self, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
        """Parameters and buffers by name, as `state_dict` has them."""
        for name, value in {**self._parameters, **self._buffers}.items():
            if value is not None:
                yield prefix + name, value.detach()
        for name, child in self._modules.items():
            if child is not None:
                yield from child.tensors(f"{prefix}{name}.")


class _Unpickler(pickle.Unpickler):
    """Finds shells for layers, and the few functions that make tensors; nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        """What a name in the file stands for."""
        found = _allowed().get(f"{module}.{name}")
        if found is None:
            raise pickle.UnpicklingError(f"it holds {module}.{name}, which is neither a layer nor a tensor")
        return found


@cache
def _allowed() -> dict[str, Any]:
    layers = [f"torchxrayvision.models.{name}" for name in _LAYERS]
    layers += [
        f"{kind.__module__}.{kind.__name__}"
        for kind in vars(nn).values()
        if isinstance(kind, type) and issubclass(kind, nn.Module)
    ]
    rebuild = ("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_parameter")
    return {
        **dict.fromkeys(layers, _Shell),
        **{f"torch._utils.{name}": getattr(torch._utils, name) for name in rebuild},
        "collections.OrderedDict": OrderedDict,
        "builtins.set": set,
        "__builtin__.set": set,
    }


def _unpickle(file: Path) -> dict[str, Tensor]:
    """Tensors of a pickled module or of a table of weights; nothing in the file is executed.

    torch's own safe reader refuses modules in the format before torch 1.6, which the published files have.
    """
    reader = SimpleNamespace(Unpickler=_Unpickler, load=_load, __name__=__name__)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that format compares a layer's source with the shell's
            found = torch.load(file, map_location="cpu", pickle_module=reader, weights_only=False)
    except (pickle.UnpicklingError, RuntimeError, EOFError, AttributeError, ValueError, TypeError, KeyError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise InputError(f"{file} is damaged, or no weights of torchxrayvision: {reason}") from error
    table = dict(found.tensors()) if isinstance(found, _Shell) else found
    if not isinstance(table, dict) or not all(isinstance(value, Tensor) for value in table.values()):
        raise InputError(f"{file} holds no weights of torchxrayvision")
    return table


def _load(file: Any, **options: Any) -> Any:
    return _Unpickler(file, **options).load()
