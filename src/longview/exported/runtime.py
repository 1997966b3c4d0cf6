"""Networks that a runtime computes: an .onnx file by ONNX Runtime or OpenVINO, in place of PyTorch."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from longview import InputError
from longview.exported.metadata import INPUTS, OUTPUTS, Metadata
from longview.labels import LabelSet
from longview.models.network import Network

Precision = Literal["f32", "bf16"]
Provider = str | tuple[str, dict[str, Any]]

OPENVINO = {"openvino": "f32", "openvino-bf16": "bf16"}
"""Device names of OpenVINO -> precision that it computes in."""
_CUDA = "CUDAExecutionProvider"
_CPU = "CPUExecutionProvider"


def extra(module: str, name: str, file: Path) -> Any:
    """A library of an extra.

    Raises:
        InputError: Where it is not installed; the message names the extra.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise InputError(
            f"{file} needs {module}, which is not installed: uv sync --extra {name} (or pip install 'longview[{name}]')"
        ) from error


def read_metadata(file: Path) -> Metadata:
    """What an .onnx file says of itself; its weights are not looked at.

    Raises:
        InputError: Where the file is missing, is no ONNX file, or is not longview's; or for want of the extra `onnx`.
    """
    if not file.is_file():
        raise InputError(f"model {file} does not exist; write one with: main.py export --to onnx --output {file}")
    onnx = extra("onnx", "onnx", file)
    try:
        model = onnx.load(str(file), load_external_data=False)
    except Exception as error:
        if type(error).__name__ != "DecodeError":  # protobuf's, which is no class of this package's libraries
            raise
        raise InputError(f"{file} is no ONNX file, or is damaged: {error}") from error
    return Metadata.from_texts({entry.key: entry.value for entry in model.metadata_props}, file)


def network_of(file: Path, device: str, providers: Sequence[str] = ()) -> RuntimeNetwork:
    """The network of an .onnx file, not yet built.

    Args:
        file: The file.
        device: `auto`, `cpu`, `cuda` or `cuda:1` of ONNX Runtime; `openvino` or `openvino-bf16`.
        providers: ONNX Runtime's own names of providers, the preferred one first, in place of `device`.

    Raises:
        InputError: For a device or provider that is not there, or a runtime that is not installed.
    """
    if device in OPENVINO and not providers:
        return OpenVinoNetwork(file, "bf16" if OPENVINO[device] == "bf16" else "f32")
    there = list(extra("onnxruntime", "onnx", file).get_available_providers())
    absent = [name for name in providers if name not in there]
    if absent:
        raise InputError(f"ONNX Runtime has no provider {', '.join(absent)} here; it has {', '.join(there)}")
    return OnnxNetwork(file, providers or _providers(device, there))


def _providers(device: str, there: Sequence[str]) -> list[Provider]:
    kind, _, number = device.partition(":")
    if device == "cpu" or (device == "auto" and _CUDA not in there):
        return [_CPU]
    if device == "auto" or (kind == "cuda" and (number or "0").isdigit()):
        if _CUDA not in there:
            raise InputError(
                f"--device {device}: ONNX Runtime has no {_CUDA} here, but {', '.join(there)}; install onnxruntime-gpu"
            )
        return [(_CUDA, {"device_id": int(number or 0)}), _CPU]
    raise InputError(
        f"--device {device}: an .onnx file runs on auto, cpu, cuda, cuda:1, {', '.join(OPENVINO)}; give one of these"
    )


class RuntimeNetwork(Network):
    """A network in a file, which a runtime computes: no features, no gradients, hence no heat-maps.

    Args:
        file: An .onnx file of `main.py export`.
    """

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.file = file

    def encode(self, images: Tensor) -> Tensor:  # noqa: ARG002
        """Refused.

        Raises:
            InputError: Always; a graph gives no features.
        """
        raise InputError(
            f"{self.file} scores images and shows nothing within: heat-maps, Monte-Carlo dropout and feature caches "
            f"need the checkpoint that it was exported from"
        )

    def forward(
        self,
        images: Tensor,
        study: Tensor,
        view: Tensor,
        studies: int,
        features: Tensor | None = None,
    ) -> Tensor:
        """Logits (B, L) float32, on the images' device."""
        if features is not None:
            return self.encode(images)
        present = study.bincount(minlength=studies)
        if len(present) != studies or not bool(present.all()):
            row = len(present) - 1 if len(present) > studies else int((present == 0).nonzero()[0])
            raise ValueError(f"study {row} of the batch's {studies} has no image; leave it out of the batch")
        arrays = {
            name: tensor.cpu().contiguous().numpy() for name, tensor in zip(INPUTS, (images, study, view), strict=True)
        }
        return torch.from_numpy(self.run(arrays)).to(images.device)

    @abstractmethod
    def run(self, inputs: Mapping[str, npt.NDArray[Any]]) -> npt.NDArray[np.float32]:
        """Logits (B, L) of `images` (N, 1, S, S) uint8, `study` (N,) and `view` (N,) int64; from several threads."""


class OnnxNetwork(RuntimeNetwork):
    """An .onnx file, computed by ONNX Runtime on as many threads as PyTorch would take.

    Args:
        file: An .onnx file of `main.py export`.
        providers: ONNX Runtime's execution providers, the preferred one first.
    """

    def __init__(self, file: Path, providers: Sequence[Provider] = (_CPU,)) -> None:
        super().__init__(file)
        self.providers = providers

    def build(self, labels: LabelSet, image_size: int, weights: bool = True) -> None:  # noqa: ARG002
        """Open the file.

        Raises:
            InputError: Where ONNX Runtime is not installed, or cannot run it.
        """
        runtime = extra("onnxruntime", "onnx", self.file)
        options = runtime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3  # errors; its warnings are about shapes that are free on purpose
        try:
            self.session = runtime.InferenceSession(str(self.file), options, providers=list(self.providers))
        except RuntimeError as error:
            raise InputError(f"ONNX Runtime cannot run {self.file}: {str(error).splitlines()[0][:300]}") from error

    def run(self, inputs: Mapping[str, npt.NDArray[Any]]) -> npt.NDArray[np.float32]:
        """Logits (B, L)."""
        logits: npt.NDArray[np.float32] = self.session.run([OUTPUTS[0]], dict(inputs))[0]
        return logits


class OpenVinoNetwork(RuntimeNetwork):
    """An .onnx file, computed by OpenVINO on the CPU, on as many threads as PyTorch would take.

    Args:
        file: An .onnx file of `main.py export`.
        precision: What it computes in. `bf16` is faster where the CPU has it (AVX-512 BF16, AMX), at 3 digits.
    """

    def __init__(self, file: Path, precision: Precision = "f32") -> None:
        super().__init__(file)
        self.precision = precision

    def build(self, labels: LabelSet, image_size: int, weights: bool = True) -> None:  # noqa: ARG002
        """Open and compile the file.

        Raises:
            InputError: Where OpenVINO is not installed, or cannot run it.
        """
        openvino = extra("openvino", "openvino", self.file)
        core = openvino.Core()
        options = {
            "INFERENCE_PRECISION_HINT": self.precision,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        }
        try:
            self.compiled = core.compile_model(core.read_model(str(self.file)), "CPU", options)
        except RuntimeError as error:
            raise InputError(f"OpenVINO cannot run {self.file}: {str(error).splitlines()[0][:300]}") from error

    def run(self, inputs: Mapping[str, npt.NDArray[Any]]) -> npt.NDArray[np.float32]:
        """Logits (B, L)."""
        request = self.compiled.create_infer_request()  # one per call: a request serves one thread
        logits: npt.NDArray[np.float32] = request.infer(dict(inputs))[OUTPUTS[0]].copy()
        return logits
