"""Label text: one vector per label, from its prompts, computed once and kept in a cache."""

from __future__ import annotations

import hashlib
import json
import logging
import re
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import numpy as np

from longview import InputError
from longview.models.text_encoder import Pooling, encode, files_of, locate

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger(__name__)

RECIPE = 1
"""Part of every cache key: raise it when the same files and prompts would give other vectors."""
RANDOM_WIDTH = 384
BLOCK = 1 << 24
"""Bytes that are hashed at once."""


class LabelText:
    """Embeddings of a label set's prompts from a text encoder.

    A label's vector is the mean of its prompts' vectors, each scaled to length 1 first: an encoder's lengths vary with
    the number and frequency of a prompt's words, which says nothing about the finding, and a long vector would
    outweigh the other prompts. The mean is scaled to length 1 again, so that inner products of labels are cosines.

    Args:
        encoder: `minilm`: all-MiniLM-L6-v2, 384-d, general English, from the optional extra `text`, without any
            network. `random`: the control of an ablation, a fixed Gaussian vector (384-d) per text, made from a hash
            of the text: equal texts have equal vectors on every machine, and different ones are unrelated, so that a
            model may learn its labels with it but knows nothing of an unseen one. Else a folder with any
            `transformers` encoder (UmlsBERT as distributed, BiomedBERT), or a hub id `org/name`.
        pooling: `mean` over the tokens of a prompt, `cls` its first token, `pooler` the checkpoint's trained pooler
            (what the reference took; made for next-sentence prediction, not for similarity). `random` has none.
        cache: Folder of computed embeddings. A file is found by a hash of the encoder's files, the pooling and the
            prompts, so that whatever changes one of them makes another file; none needs ever be deleted.

    Raises:
        InputError: For another pooling.
    """

    def __init__(self, encoder: str = "minilm", pooling: Pooling = "mean", cache: str = "data/label_text") -> None:
        if pooling not in get_args(Pooling):
            raise InputError(f"LabelText: pooling must be one of {', '.join(get_args(Pooling))}, found {pooling!r}")
        self.encoder = encoder
        self.pooling = pooling
        self.cache = cache

    def embed(self, prompts: dict[str, list[str]]) -> Tensor:
        """Embed labels.

        Args:
            prompts: Label name -> its prompts, at least one. Names are not read.

        Returns:
            (L, E) float32 on the CPU, rows of length 1 in the order of `prompts`.

        Raises:
            InputError: For a label without prompts, or an encoder that is absent or cannot be read.
        """
        if not prompts:
            raise InputError("LabelText: there are no labels to embed")
        for name, texts in prompts.items():
            if not texts or not all(text.strip() for text in texts):
                raise InputError(f"label {name!r} has no prompt, or an empty one; give its `prompts:` a text")
        if self.encoder == "random":
            return _average(prompts, _random)
        folder = locate(self.encoder)
        key = self._key(folder, prompts)
        name = re.sub(r"[^\w.-]+", "_", self.encoder.rstrip("/").rpartition("/")[2])
        file = Path(self.cache).expanduser() / f"{name}-{key}.safetensors"
        found = _read(file, len(prompts))
        if found is None:
            found = self._compute(folder, prompts)
            metadata = {"encoder": self.encoder, "pooling": self.pooling, "prompts": json.dumps(prompts)}
            _write(file, found, metadata)
        return found

    def _compute(self, folder: Path, prompts: dict[str, list[str]]) -> Tensor:
        start = time.monotonic()
        count = len({text for texts in prompts.values() for text in texts})
        log.info("embedding %d prompts of %d labels with text encoder %s", count, len(prompts), self.encoder)
        found = _average(prompts, lambda texts: encode(folder, texts, self.pooling))
        log.info("embedded in %.1f s: %d numbers per label", time.monotonic() - start, found.shape[1])
        return found

    def _key(self, folder: Path, prompts: dict[str, list[str]]) -> str:
        """32 hex digits that differ where any byte that the embeddings depend on does."""
        digest = hashlib.blake2b(digest_size=16)
        digest.update(json.dumps([RECIPE, self.pooling, list(prompts.values())]).encode())
        for file in files_of(folder):
            digest.update(file.name.encode() + b"\0" + _content(file))
        return digest.hexdigest()


def _content(file: Path) -> bytes:
    """Hashes of a file's blocks, one after the other: several at a time, since weights of 440 MB take a second else."""

    def block(start: int) -> bytes:
        with file.open("rb") as opened:
            opened.seek(start)
            return hashlib.sha256(opened.read(BLOCK)).digest()

    with ThreadPoolExecutor(4) as pool:
        return b"".join(pool.map(block, range(0, file.stat().st_size, BLOCK)))


def _average(prompts: dict[str, list[str]], encoder: Callable[[list[str]], Tensor]) -> Tensor:
    """Embed each text once, then average those of a label: (L, E), rows of length 1."""
    import torch
    from torch.nn import functional

    texts = list(dict.fromkeys(text for given in prompts.values() for text in given))
    rows = functional.normalize(encoder(texts), dim=1)  # (texts, E)
    place = {text: row for row, text in enumerate(texts)}
    means = [rows[[place[text] for text in given]].mean(dim=0) for given in prompts.values()]
    return functional.normalize(torch.stack(means), dim=1)


def _random(texts: list[str]) -> Tensor:
    """(n, 384) float32, unit variance, from a hash of each text."""
    import torch

    rows = []
    for text in texts:
        seed = np.frombuffer(hashlib.blake2b(text.encode(), digest_size=32).digest(), dtype="<u4")
        # the legacy generator, since NumPy promises that its numbers never change
        rows.append(np.random.RandomState(seed).standard_normal(RANDOM_WIDTH))
    return torch.from_numpy(np.stack(rows).astype(np.float32))


def _read(file: Path, labels: int) -> Tensor | None:
    """A file of the cache, or None where there is none that can be used."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not file.is_file():
        return None
    try:
        found = load_file(file, device="cpu")["embeddings"]
    except (SafetensorError, KeyError, OSError) as error:
        log.warning("cached label embeddings %s are damaged and are computed again: %s", file, error)
        return None
    if found.ndim != 2 or len(found) != labels or not found.isfinite().all():
        log.warning("cached label embeddings %s are not those of %d labels and are computed again", file, labels)
        return None
    return found


def _write(file: Path, embeddings: Tensor, metadata: dict[str, str]) -> None:
    """Add a file to the cache, whole or not at all; a place that cannot be written to costs only time."""
    from safetensors.torch import save

    aside = file.with_name(f".{file.name}.{uuid.uuid4().hex}.partial")  # several processes may compute at once
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        aside.write_bytes(save({"embeddings": embeddings.contiguous()}, metadata=metadata))
        aside.replace(file)
    except OSError as error:
        with suppress(OSError):
            aside.unlink()
        log.warning("label embeddings cannot be kept in %s, and are computed again next time: %s", file.parent, error)
