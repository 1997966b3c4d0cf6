"""What `explain` explains: films of a file, a folder, a table or a store, one by one or as studies."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from longview import VIEWS, InputError
from longview.data.files import ImageFiles
from longview.data.frames import Frame
from longview.data.images import read_image
from longview.data.store import Store
from longview.data.transforms import Preprocessing, resize_only

if TYPE_CHECKING:
    import pandas as pd

    from longview.inference import OpenModel

logger = logging.getLogger(__name__)

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Seen:
    """A film as a model sees it.

    Args:
        pixels: (S, S) uint8.
        frame: Where the film is in that square.
    """

    pixels: Pixels
    frame: Frame


@dataclass(frozen=True)
class Film:
    """A film to explain.

    Args:
        image_id: Its id: the file's name without its ending, or what the store says.
        path: Its file.
        view: Position in `longview.VIEWS`.
        store: The store that it is from; its square stands in where the file is gone.
        row: Row of the store's manifest.
    """

    image_id: str
    path: Path
    view: int
    store: Store | None = None
    row: int = -1

    @property
    def from_store(self) -> bool:
        """Whether the store's square has to do, since the file is not there."""
        return self.store is not None and not self.path.is_file()

    def whole(self) -> Pixels:
        """The film in its own size, (height, width) uint8.

        Raises:
            InputError: Where its file cannot be read.
        """
        if not self.from_store:
            return read_image(self.path).pixels
        square, frame = self._stored()
        return np.asarray(np.rint(frame.to_original(square.astype(np.float32))), np.uint8)

    def seen(self, model: OpenModel, whole: Pixels) -> Seen:
        """The film as a model sees it.

        Args:
            model: The model.
            whole: What :meth:`whole` gives.

        Raises:
            InputError: Where its file is gone and the store resized it in another way than the model wants.
        """
        if not self.from_store:
            read = model.read(self.path)
            return Seen(read.pixels[0].numpy(), read.frame)
        square, frame = self._stored()
        wanted, (height, width) = model.preprocessing.resize, whole.shape
        if wanted != frame.resize and height != width:
            raise InputError(
                f"{self.path} is not there, and its store {self._of()} holds it as {frame.resize}, which {model.name} "
                f"was not trained on ({wanted}); put the raw files back"
            )
        return Seen(resize_only(square, model.image_size), Frame(height, width, model.image_size, wanted, frame.size))

    def _stored(self) -> tuple[Pixels, Frame]:
        assert self.store is not None
        row = self.store.manifest.table.iloc[self.row]
        size = self.store.info.size
        height, width = (int(row.get(f"meta_{side}", 0) or 0) or size for side in ("height", "width"))
        return np.ascontiguousarray(self.store.image(self.row)), Frame(height, width, size, self.store.info.resize)  # type: ignore[arg-type]

    def _of(self) -> Path:
        return self.store.path if self.store is not None else self.path


@dataclass(frozen=True)
class Study:
    """Films that are explained together; one alone, unless studies were asked for.

    Args:
        films: Its films.
        together: Whether it is a study, whose views have shares.
    """

    films: list[Film]
    together: bool = False

    @property
    def name(self) -> str:
        """Of its first film, for messages."""
        return self.films[0].image_id


def read_input(path: Path, *, studies: bool = False, split: str | None = None) -> list[Study]:
    """The films at a path.

    Args:
        path: A store, a folder, an image, or a table with a path column.
        studies: Put the films of a study together; only a store or a table knows studies.
        split: Of a store, only the films of this part.

    Raises:
        InputError: Where there is nothing, or no film of that split.
    """
    store: Store | None = None
    if Store.is_store(path):
        store = Store(path)
        table, root = store.manifest.table, Path(store.info.root)
        if not root.is_dir() and store.info.settings.get("root"):
            root = Path(str(store.info.settings["root"]))
    elif ImageFiles.fits(path):
        table, root = ImageFiles(path, Preprocessing()).manifest.table, path if path.is_dir() else path.parent
        if split is not None:
            raise InputError(f"--split {split}: {path} is no store, and only stores have splits")
    else:
        what = "does not exist" if not path.exists() else "is neither an image, a folder, a table nor a store"
        raise InputError(f"--input {path} {what}")
    films = _films(table, root, store, split)
    if not films:
        raise InputError(f"--split {split}: {path} has no image in it; its splits: {_splits(table)}")
    gone = sum(film.from_store for _, film in films)
    if gone:
        logger.warning(
            "%s: %d of %d raw files are not below %s; the store's own images of %d px stand in for them",
            path, gone, len(films), root, store.info.size if store else 0,
        )  # fmt: skip
    if not studies:
        return [Study([film]) for _, film in films]
    grouped: dict[str, list[Film]] = {}
    for study, film in films:
        grouped.setdefault(study, []).append(film)
    return [Study(members, together=True) for members in grouped.values()]


def files_as_study(files: Sequence[Path], views: Sequence[str] | None) -> Study:
    """Several files as the views of one study.

    Args:
        files: The files.
        views: Their view types; None: unknown.

    Raises:
        InputError: For a file that is missing or given twice, or another number of views.
    """
    missing = next((file for file in files if not file.is_file()), None)
    if missing is not None:
        raise InputError(f"--study {missing} does not exist, or is no file; give the files of one study")
    if len({file.resolve() for file in files}) < len(files):
        raise InputError("--study: a file is given twice; each view counts once")
    if views is not None and len(views) != len(files):
        raise InputError(f"--views has {len(views)} entries for {len(files)} files of --study; give one per file")
    codes = [VIEWS.index(view) for view in views or ["unknown"] * len(files)]
    stems = [file.stem for file in files]
    names = stems if len(set(stems)) == len(stems) else [file.name for file in files]
    if len(set(names)) < len(names):
        names = ["_".join(file.absolute().parts[-2:]) for file in files]
    return Study([Film(*item) for item in zip(names, files, codes, strict=True)], together=True)


def _films(table: pd.DataFrame, root: Path, store: Store | None, split: str | None) -> list[tuple[str, Film]]:
    """Study and film of each row."""
    columns = [table[name].astype(str) for name in ("study_id", "image_id", "path", "view", "split")]
    return [
        (study, Film(image, root / file, VIEWS.index(view), store, row))
        for row, (study, image, file, view, part) in enumerate(zip(*columns, strict=True))
        if split is None or part == split
    ]


def _splits(table: pd.DataFrame) -> str:
    return ", ".join(sorted(table["split"].astype(str).unique()))
