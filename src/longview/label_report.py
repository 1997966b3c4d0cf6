"""Look at label sets: names, prompts, aliases, hierarchy, counts in a store, and how alike their texts are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from longview import InputError
from longview.labels import Label, LabelSet, find, groups
from longview.models.text_encoder import Pooling

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from longview.label_map import LabelMap

    FloatArray = npt.NDArray[np.floating]

Order = Literal["set", "similarity"]

_PARTS = ("train", "val", "test")
_DERIVED = {"": "", "any": "any child", "none": "no other"}


def labels(
    show: str | None = None,
    *,
    store: Path | None = None,
    encoder: str | None = None,
    pooling: Pooling = "mean",
    center: bool = False,
    order: Order = "set",
    output: Path | None = None,
    cache: Path = Path("data/label_text"),
) -> None:
    """List the label sets, or show one: its labels, hierarchy, counts in a store, and how alike their texts are.

        uv run main.py labels
        uv run main.py labels --show cxr_lt_2024_task3
        uv run main.py labels --show phantom --store data/phantom
        uv run main.py labels --show cxr_lt_2024_task3 --encoder minilm --order similarity

    With --encoder the labels' prompts are embedded as training with label text embeds them, and the cosine of each
    two labels is drawn as a heat-map, with a CSV of the same name beside it. Labels that a model cannot tell apart by
    text are red there, and an unseen label can only be scored as well as the text places it among the seen ones.

    The cosines are raw without --center: they show the encoder itself. Encoders that were not trained to compare
    texts tend to give any two a high cosine, which makes a flat map. With --center the mean vector of the seen labels
    is subtracted first, as TextQueries does by default, so that the map shows what the label decoder gets; the mean
    cosine is then near 0 whatever the encoder, and only the spread tells whether it knows the labels apart. The
    colours always span -1 to 1, so that maps can be compared.

    Args:
        show: A label set: YAML file, or name of one in configs/labels. Without it, all sets there are listed.
        store: Store that `prepare` wrote: counts each label's positives in it. Shares are of the images (studies) that
            know the label. Head is over 10 % of the training images, tail under 1 %.
        encoder: Text encoder: minilm (extra `text`), random (control), a folder with a transformers encoder, or a
            hub id.
        pooling: What a prompt's vector is: the mean of its tokens, its first token (cls), or the checkpoint's pooler.
        center: Subtract the seen labels' mean vector first (see above).
        order: Labels of the heat-map in the set's order, or so that similar ones stand together.
        output: Picture to write, .png, .pdf or .svg; default: results/labels_NAME.png.
        cache: Folder where embeddings are kept.

    Raises:
        InputError: For a set, store or encoder that does not exist, an option without the one that it needs, or an
            output that is no picture.
    """
    console = Console()
    given: dict[str, object] = {"--store": store, "--encoder": encoder, "--output": output}
    given |= {"--center": center or None, "--order": order if order != "set" else None}
    _check_options(given, show, encoder)
    if show is None:
        console.print(listing())
        console.print("Show one: main.py labels --show NAME", soft_wrap=True)
        return
    file = find(show)
    label_set = LabelSet.load(file)
    picture = output or Path("results") / f"labels_{file.stem}.png"
    if encoder:
        from longview.label_map import check_picture

        check_picture(picture)
    # all of it before the first is printed: a mistake is not to be looked for below a long table
    parts = [*describe(label_set), *(count(label_set, store) if store else [])]
    if encoder:
        from longview.label_map import write_map

        found = compare(label_set, encoder, pooling, center=center, order=order, cache=cache)
        table = write_map(
            found, f"Cosine of label texts: {label_set.name}", _how(found, encoder, pooling, center), picture
        )
        parts += [*describe_map(found), Text(f"Heat-map: {picture}, cosines: {table}")]
    for part in parts:
        console.print(part, soft_wrap=isinstance(part, Text))


def _check_options(given: dict[str, object], show: str | None, encoder: str | None) -> None:
    for option, value in given.items():
        if value is not None and show is None:
            raise InputError(f"{option} {value} needs a label set: add --show NAME (`main.py labels` lists them)")
        if value is not None and option in {"--output", "--center", "--order"} and encoder is None:
            raise InputError(f"{option} {value}: the picture shows label texts; add --encoder minilm, or another")


def listing() -> Table:
    """A table of all label sets in `configs/labels`: of the working folder, then of the package."""
    here = Path(__file__)
    folders = [root / "configs/labels" for root in (Path(), here.parent, here.parents[2])]  # where labels.find looks
    files: dict[str, Path] = {}
    for file in [file for folder in folders if folder.is_dir() for file in sorted(folder.glob("*.yaml"))]:
        files.setdefault(file.stem, file)
    table = Table(title="Label sets", box=box.SIMPLE_HEAD)
    table.add_column("name", no_wrap=True)
    table.add_column("seen", justify="right", no_wrap=True)
    table.add_column("unseen", justify="right", no_wrap=True)
    table.add_column("description", overflow="fold", ratio=3)
    table.add_column("aliases of", overflow="fold", ratio=2)
    for stem, file in sorted(files.items()):
        found = LabelSet.load(file)
        sources = sorted({source for label in found.labels for source in label.aliases})
        unseen = str(len(found.unseen_names) or "")
        table.add_row(stem, str(len(found.names)), unseen, Text(found.description), Text(", ".join(sources)))
    return table


def describe(label_set: LabelSet) -> list[Table | Tree | Text]:
    """A label set's labels in order, and its hierarchy as a tree; columns that would be empty are left out."""
    heading = f"{label_set.name}: {len(label_set.names)} labels"
    if label_set.unseen_names:
        heading = f"{label_set.name}: {len(label_set.names)} seen and {len(label_set.unseen_names)} unseen labels"
    table = Table(title=Text(heading), box=box.SIMPLE_HEAD, padding=(0, 1))
    columns: dict[str, Callable[[Label], Text]] = {
        "label": lambda label: Text(label.name),
        "": lambda label: Text("unseen" if label.unseen else _DERIVED[label.derived]),
        "prompts (aliases)": _texts,
        "parents": lambda label: Text(", ".join(parents(label_set, label.name))),
    }
    kept = {name: cell for name, cell in columns.items() if any(cell(label) for label in label_set.labels)}
    for name in kept:
        table.add_column(name, ratio={"label": 2, "prompts (aliases)": 5, "parents": 2}.get(name), no_wrap=name == "")
    for number, label in enumerate(label_set.labels, start=1):
        cells = [cell(label) for cell in kept.values()]
        table.add_row(*cells, style="yellow" if label.unseen else "", end_section=number % 5 == 0)
    shown: list[Table | Tree | Text] = [table]
    if label_set.description:
        shown.append(Text(label_set.description, style="dim"))
    if label_set.hierarchy:
        shown.append(hierarchy(label_set))
    return shown


def _texts(label: Label) -> Text:
    """Prompts, a line each; then aliases, sources that say the same together: `(nih, xrv: Effusion)`."""
    sources: dict[tuple[str, ...], list[str]] = {}
    for source, names in sorted(label.aliases.items()):
        sources.setdefault(tuple(names), []).append(source)
    aliases = "; ".join(f"{', '.join(found)}: {', '.join(names)}" for names, found in sources.items())
    lines = [Text(prompt) for prompt in label.prompts] + ([Text(f"({aliases})", style="dim")] if aliases else [])
    return Text("\n").join(lines)


def parents(label_set: LabelSet, name: str) -> list[str]:
    """Names directly above a label."""
    return [parent for parent, children in label_set.hierarchy.items() if name in children]


def hierarchy(label_set: LabelSet) -> Tree:
    """The hierarchy as a tree; a name with two parents stands under both, one that is no label in italics."""
    known = {label.name for label in label_set.labels}

    def text(name: str) -> Text:
        return Text(name) if name in known else Text(f"{name} (no label)", style="italic dim")

    def grow(branch: Tree, name: str) -> None:
        twig = branch.add(text(name))
        for child in label_set.hierarchy.get(name, []):
            grow(twig, child)

    root = Tree(Text("hierarchy", style="bold"))
    for parent in label_set.hierarchy:
        if not parents(label_set, parent):
            grow(root, parent)
    alone = sorted(
        known - set(label_set.hierarchy) - {name for names in label_set.hierarchy.values() for name in names}
    )
    if alone:
        root.add(Text(f"without parent or child: {', '.join(alone)}", style="dim"))
    return root


def count(label_set: LabelSet, folder: Path) -> list[Table | Text]:
    """Positives of each label in a store's parts, per image and per study, and what the two do not share.

    Raises:
        InputError: Where the folder is no store, or has none of the labels.
    """
    from longview.data.store import Store
    from longview.joining import columns_of

    table = Store(folder).manifest
    columns = columns_of(label_set, table.labels, str(folder))
    if not columns:
        raise InputError(
            f"{folder} has no label of set {label_set.name!r}; it has {', '.join(table.labels) or 'no labels'}"
        )
    ids = table.table[["study_id", "split"]].to_numpy(str)
    shown_names = [label.name for label in label_set.labels if label.name in columns or label.derived]
    values = table.targets([columns.get(name, name) for name in shown_names])
    images = {part: values[ids[:, 1] == part] for part in _PARTS}
    studies = {part: _by_study(images[part], ids[ids[:, 1] == part, 0]) for part in _PARTS}
    counts = {
        level: {part: Positives.of(shown_names, _derived(rows, shown_names, label_set)) for part, rows in parts.items()}
        for level, parts in (("images", images), ("studies", studies))
    }
    if all(counts["images"][part].rows == counts["studies"][part].rows for part in _PARTS):
        del counts["studies"]
    shown: list[Table | Text] = [_count_table(label_set, f"Positives in {folder}", counts)]
    missing = [label.name for label in label_set.labels if label.name not in columns and not label.derived]
    beyond = [name for name in table.labels if name not in columns.values()]
    for title, names in (("Not in the store", missing), (f"In the store, but not in {label_set.name}", beyond)):
        if names:
            shown.append(Text(f"{title}: {', '.join(names)}", style="yellow"))
    if label_set.hierarchy:
        from longview.data.derive import contradictions, label_values

        found = contradictions(label_values(table, label_set, columns), label_set, table.table["image_id"])
        shown += [Text(f"Against the hierarchy: {contradiction}", style="yellow") for contradiction in found]
    return shown


def _derived(values: FloatArray, names: list[str], label_set: LabelSet) -> FloatArray:
    """The values (rows, L) of the named labels, those of derived ones filled in from the others."""
    import numpy as np

    from longview.data.derive import derive

    seen = [name for name in names if name in label_set.names]
    known = np.full((len(values), len(label_set.names)), np.nan, np.float32)
    known[:, [label_set.names.index(name) for name in seen]] = values[:, [names.index(name) for name in seen]]
    filled, result = derive(known, label_set), values.copy()
    for label in label_set.labels:
        if label.derived:
            result[:, names.index(label.name)] = filled[:, label_set.names.index(label.name)]
    return result


@dataclass(frozen=True)
class Positives:
    """Counts of the labels in a part of a store.

    Args:
        rows: Images or studies.
        sums: Label -> sum of its values: its positives, a soft one counting its share.
        known: Label -> rows whose value is not NaN.
    """

    rows: int
    sums: dict[str, float]
    known: dict[str, int]

    @classmethod
    def of(cls, names: list[str], values: FloatArray) -> Positives:
        """Count values (rows, L) of the named labels."""
        import numpy as np  # 0.2 s, only for counts

        known = ~np.isnan(values)
        sums = values.sum(axis=0, dtype=float, where=known).tolist()
        return cls(
            len(values), dict(zip(names, sums, strict=True)), dict(zip(names, known.sum(0).tolist(), strict=True))
        )

    def cells(self, name: str) -> tuple[str, str]:
        """A label's sum, and its share of the rows that know the label; `-` where none does."""
        if not self.known.get(name):
            return "-", "-"
        total = self.sums[name]
        return f"{total:,.0f}" if total == round(total) else f"{total:,.1f}", f"{100 * total / self.known[name]:.2f} %"

    def group_of(self) -> dict[str, str]:
        """Label -> head, medium or tail."""
        found = groups(list(self.sums), self.sums.values(), self.known.values())
        return {name: group for group, names in found.items() for name in names}


def _by_study(values: FloatArray, study_ids: npt.NDArray[np.str_]) -> FloatArray:
    """(studies, L) of (images, L), as training on studies has it: the largest value of the images that know it."""
    import numpy as np

    if not len(values):
        return values
    order = np.argsort(study_ids, kind="stable")
    ids = study_ids[order]
    starts = np.flatnonzero(np.append(True, ids[1:] != ids[:-1]))
    largest: FloatArray = np.fmax.reduceat(values[order], starts)
    return largest


def _count_table(label_set: LabelSet, title: str, counts: dict[str, dict[str, Positives]]) -> Table:
    """Train counts by each level, val and test counts by the last."""
    table = Table(title=Text(title), box=box.SIMPLE_HEAD, padding=0)
    table.add_column("label", min_width=18)
    table.add_column("group", no_wrap=True)
    for level, parts in counts.items():
        table.add_column(f"train\n{level}\n{parts['train'].rows:,}", justify="right", no_wrap=True)
        table.add_column("\n\nshare", justify="right", no_wrap=True)
    for part in _PARTS[1:]:
        table.add_column(f"{part}\n{level}\n{parts[part].rows:,}", justify="right", no_wrap=True)
    by_level = [found["train"].group_of() for found in counts.values()]
    for label in label_set.labels:
        name = label.name
        if name not in parts["train"].sums:
            continue
        group = "unseen" if label.unseen else "/".join(dict.fromkeys(found.get(name, "-") for found in by_level))
        cells = [cell for found in counts.values() for cell in found["train"].cells(name)]
        cells += [parts[part].cells(name)[0] for part in _PARTS[1:]]
        table.add_row(Text(name), group, *cells, style="yellow" if label.unseen else "")
    if len(by_level) > 1 and by_level[0] != by_level[1]:
        table.caption = "Two groups: by images, then by studies."
    return table


def compare(
    label_set: LabelSet, encoder: str, pooling: Pooling, *, center: bool, order: Order, cache: Path
) -> LabelMap:
    """Embed the labels' prompts and take the cosine of each two, in the order to show.

    Raises:
        InputError: Where the encoder is absent.
    """
    from longview.label_map import LabelMap, by_similarity
    from longview.models.label_text import LabelText

    vectors = LabelText(encoder=encoder, pooling=pooling, cache=str(cache)).embed(label_set.prompts).numpy()
    found = LabelMap.of(list(label_set.prompts), label_set.unseen_names, vectors, center)
    return found.ordered(by_similarity(found.cosines)) if order == "similarity" else found


def _how(found: LabelMap, encoder: str, pooling: Pooling, center: bool) -> str:
    """The subtitle of the picture: how its vectors were made, and their mean cosine."""
    from longview.label_map import two_digits

    name = Path(encoder).name if Path(encoder).is_dir() else encoder
    words = [f"encoder {name}"] + ([] if encoder == "random" else [f"pooling {pooling}"])
    words += ["centred on the seen labels" if center else "not centred"]
    return ", ".join(words + ([f"mean of different labels {two_digits(_mean(found))}"] if len(found.names) > 1 else []))


def _mean(found: LabelMap) -> float:
    return float(found.pairs().mean())


def describe_map(found: LabelMap) -> list[Table | Text]:
    """The unseen labels' nearest seen labels, and the cosines' mean, spread and ends."""
    shown: list[Table | Text] = []
    if found.unseen:
        table = Table(title="Nearest seen labels", box=box.SIMPLE_HEAD, padding=(0, 1))
        for name in ("unseen label", "first", "second", "third"):
            table.add_column(name, overflow="fold")
        for name in [name for name in found.names if name in found.unseen]:
            table.add_row(Text(name), *(Text(f"{near} {value:.2f}") for near, value in found.nearest_seen(name)))
        shown.append(table)
    if len(found.names) > 1:
        low, high = found.extreme(-1), found.extreme(1)
        shown.append(
            Text(
                f"Cosines of different labels: mean {_mean(found):.3f}, standard deviation {found.pairs().std():.3f}, "
                f"from {low[2]:.2f} ({low[0]} and {low[1]}) to {high[2]:.2f} ({high[0]} and {high[1]})"
            )
        )
    return shown
