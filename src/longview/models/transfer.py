"""Stages: the weights that a network takes over from another run's checkpoint, and the part of it that stays as it is.

Tensors are matched by name and shape. Those with one row per label are matched by the labels' names, so that a
label never gets another one's weights because two label sets are ordered differently.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field

from torch import Tensor, nn
from torch.nn import functional

from longview import InputError
from longview.labels import LabelSet
from longview.models.decoder import LabelDecoder
from longview.models.encoder import Encoder
from longview.models.network import Network
from longview.models.queries import PROBE_COSINE, TextQueries

log = logging.getLogger(__name__)

_SHOWN = 4


@dataclass
class Takeover:
    """What became of the tensors of a network and of a checkpoint.

    Args:
        matched: Tensors of the network that are the checkpoint's.
        by_label: Those of them whose rows were matched by label name, since the label sets differ.
        missing: Tensors of the network that the checkpoint lacks: left as initialised.
        unfit: Tensors that both have but that do not fit, name -> why: left as initialised.
        unused: Tensors of the checkpoint that the network lacks.
        fresh: Labels whose rows were left as initialised, since the checkpoint does not know them.
    """

    matched: set[str] = field(default_factory=set)
    by_label: set[str] = field(default_factory=set)
    missing: list[str] = field(default_factory=list)
    unfit: dict[str, str] = field(default_factory=dict)
    unused: list[str] = field(default_factory=list)
    fresh: list[str] = field(default_factory=list)

    def covers(self, network: nn.Module, name: str) -> bool:
        """Whether every tensor of a submodule is the checkpoint's."""
        return {key for key in network.state_dict() if key.startswith(f"{name}.")} <= self.whole

    @property
    def whole(self) -> set[str]:
        """Tensors of the network all of whose rows are the checkpoint's."""
        return self.matched - self.by_label if self.fresh else self.matched

    def report(self, origin: str) -> None:
        """Log what matched and what did not."""
        mine = Counter(map(_module, [*self.matched, *self.missing, *self.unfit]))
        taken = Counter(map(_module, self.matched))
        parts = ", ".join(f"{module} {taken[module]} of {count} tensors" for module, count in sorted(mine.items()))
        log.info("%s: took over %s", origin, parts)
        if self.missing:
            log.info("not in the checkpoint, left as initialised: %s", _summary(self.missing))
        if self.unused:
            log.info("in the checkpoint, but not used: %s", _summary(self.unused))
        for name, reason in self.unfit.items():
            log.warning("left as initialised: %s, since %s", name, reason)
        if self.by_label:
            log.info("matched by label name, since the label sets differ: %s", _summary(sorted(self.by_label)))
        if self.fresh:
            log.warning("labels that the checkpoint does not know, left as initialised: %s", ", ".join(self.fresh))


def take_over(
    network: Network, state: dict[str, Tensor], theirs: LabelSet, mine: LabelSet, origin: str = "the checkpoint"
) -> Takeover:
    """Copy a checkpoint's tensors into a network that is built.

    Label text is not taken over: it is what this run's prompts say, not what was learned.

    Args:
        network: The network; its tensors are changed in place.
        state: Tensors of the checkpoint's network, by name.
        theirs: The labels that the checkpoint was trained on.
        mine: The labels that the network was built for.
        origin: What the checkpoint is called in messages.

    Returns:
        What matched and what did not.

    Raises:
        InputError: Where no parameter matches.
    """
    own = {name: value for name, value in network.state_dict().items() if isinstance(value, Tensor)}
    rows, text, obstacles = set(network.per_label()), set(_label_text(network)), _obstacles(network, state)
    if others := theirs.names != mine.names:
        obstacles |= dict.fromkeys(_shared_by_labels(network), "labels share its rows, and the label sets differ")
    places = {name: place for place, name in enumerate(theirs.names)}
    common = [name for name in mine.names if name in places]
    result = Takeover(unused=[name for name in state if name not in own])
    for name, value in own.items():
        given = state.get(name)
        if name in text:
            continue
        wanted = (len(places), *value.shape[1:]) if others and name in rows else tuple(value.shape)
        if given is None:
            result.missing.append(name)
        elif name in obstacles:
            result.unfit[name] = obstacles[name]
        elif tuple(given.shape) != wanted:
            result.unfit[name] = f"it is {_shape(given)} in the checkpoint and {_shape(value)} here"
        elif others and name in rows:
            result.by_label.add(name)
            if common:  # a state's tensors are detached: no graph
                value[[mine.names.index(label) for label in common]] = given[[places[label] for label in common]].to(
                    value
                )
                result.matched.add(name)
        else:
            value.copy_(given)
            result.matched.add(name)
    result.fresh = [name for name in mine.names if name not in places] if result.by_label else []
    if result.matched.isdisjoint(name for name, _ in network.named_parameters()):
        raise InputError(
            f"{origin} holds no parameter of this network; network: {_summary(list(own))}; checkpoint: "
            f"{_summary(list(state))}. Give one that was trained with the same encoder"
        )
    return result


def build_from(
    network: Network,
    labels: LabelSet,
    image_size: int,
    state: dict[str, Tensor],
    theirs: LabelSet,
    origin: str = "the checkpoint",
) -> Takeover:
    """Create a network's parameters with the values of a checkpoint.

    An encoder that the checkpoint holds as a whole needs no pretrained weights of its own: none are read.

    Args:
        network: The network, not built yet.
        labels: The labels of this run.
        image_size: Side of the square input in px.
        state: Tensors of the checkpoint's network, by name.
        theirs: The labels that the checkpoint was trained on.
        origin: What the checkpoint is called in messages.

    Returns:
        What matched and what did not.

    Raises:
        InputError: Where no parameter matches.
    """
    encoders = [(name, module) for name, module in network.named_modules() if isinstance(module, Encoder)]
    wanted = [encoder.pretrained for _, encoder in encoders]
    for _, encoder in encoders:
        encoder.pretrained = False
    try:
        network.build(labels, image_size)
    finally:
        for (_, encoder), pretrained in zip(encoders, wanted, strict=True):
            encoder.pretrained = pretrained
    result = take_over(network, state, theirs, labels, origin)
    lacking = [encoder for name, encoder in encoders if encoder.pretrained and not result.covers(network, name)]
    for encoder in lacking:
        encoder.build(image_size)
    return take_over(network, state, theirs, labels, origin) if lacking else result


def freeze(network: Network, names: Sequence[str]) -> None:
    """Switch off the gradients of submodules; whoever trains the network keeps them in evaluation mode.

    Args:
        network: The network, built.
        names: Dotted names: `encoder`, `encoder.model.stem`.

    Raises:
        InputError: For a name that the network has not, and where nothing would be left to train.
    """
    for name in names:
        _submodule(network, name).requires_grad_(False)
    if names and not any(value.requires_grad for value in network.parameters()):
        raise InputError(f"model.freeze: nothing is left to train with {', '.join(names)} frozen; leave something out")


def check_frozen(network: Network, frozen: Sequence[str]) -> None:
    """Find out, before a network is built, whether what is to be frozen would have more than random weights.

    Raises:
        InputError: Where it would not.
    """
    encoder = getattr(network, "encoder", None)
    for name in frozen:
        if name.partition(".")[0] != "encoder" or not getattr(encoder, "pretrained", False):
            raise InputError(
                f"model.freeze: {name} would keep random weights; start from trained ones with "
                f"--model.pretrained STAGE_1.ckpt, or do not freeze it (--model.freeze null)"
            )


def warn_of_random(network: Network, names: Sequence[str], taken: Collection[str]) -> None:
    """Warn of frozen parameters that were never trained.

    Args:
        network: The network, built.
        names: Its frozen submodules.
        taken: Tensors that come from a checkpoint.

    Raises:
        InputError: Where there is a checkpoint, and it holds nothing of a frozen module.
    """
    encoders = [name for name, module in network.named_modules() if isinstance(module, Encoder) and module.pretrained]
    for frozen in names:
        parameters = [f"{frozen}.{name}" for name, _ in network.get_submodule(frozen).named_parameters()]
        random = [
            name
            for name in parameters
            if name not in taken and not any(name.startswith(f"{encoder}.") for encoder in encoders)
        ]
        if random and taken and len(random) == len(parameters):
            raise InputError(
                f"model.freeze: the checkpoint of model.pretrained holds nothing of {frozen} that fits, which would "
                f"stay random ({len(parameters)} parameters, such as {parameters[0]}); use the encoder of stage 1"
            )
        if random:
            log.warning(
                "model.freeze: %s has random weights, which now stay so (%d of its %d parameters, such as %s); "
                "give model.pretrained, a checkpoint that holds it",
                frozen,
                len(random),
                len(parameters),
                random[0],
            )


def _submodule(network: Network, name: str) -> nn.Module:
    module: nn.Module = network
    reached: list[str] = []
    for part in name.split("."):
        children = dict(module.named_children())
        if part not in children:
            where = ".".join(reached) or type(network).__name__
            raise InputError(
                f"model.freeze: {where} has no part {part!r}; it has {', '.join(children) or 'none'}"
                + ("" if name == part else f" (in {name!r})")
            )
        module = children[part]
        reached.append(part)
    return module


def _text_queries(network: Network) -> Iterator[tuple[str, TextQueries]]:
    for name, module in network.named_modules():
        if isinstance(module, TextQueries):
            yield name, module


def _label_text(network: Network) -> Iterator[str]:
    """Names of the tensors that hold label text."""
    for name, _ in _text_queries(network):
        yield from (f"{name}.{key}" for key in ("embeddings", "prompt_hashes", "probe"))


def _obstacles(network: Network, state: dict[str, Tensor]) -> dict[str, str]:
    """Tensors that mean something else here, name -> why: what maps the embeddings of another text encoder."""
    found: dict[str, str] = {}
    for name, queries in _text_queries(network):
        probe = state.get(f"{name}.probe")
        if probe is not None and not _alike(probe, queries.probe):
            keys = ("centre", "projection", "offset")
            found |= {f"{name}.{key}": "label text is embedded by another text encoder here" for key in keys}
    return found


def _alike(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and bool(functional.cosine_similarity(one, other, dim=0) > PROBE_COSINE)


def _shared_by_labels(network: Network) -> Iterator[str]:
    """Names of the tensors in which a row stands for several labels, where there are fewer queries than labels."""
    for name, module in network.named_modules():
        if isinstance(module, LabelDecoder) and module.queries.share > 1:
            yield f"{name}.readout"
            yield from (f"{name}.queries.{key}" for key, _ in module.queries.named_parameters())


def _module(name: str) -> str:
    return name.partition(".")[0]


def _shape(value: Tensor) -> str:
    return "x".join(map(str, value.shape)) or "a scalar"


def _summary(names: Sequence[str]) -> str:
    """Counts by module, and the first names."""
    counts = ", ".join(f"{count} of {module}" for module, count in sorted(Counter(map(_module, names)).items()))
    return f"{counts} ({', '.join(names[:_SHOWN])}{', …' if len(names) > _SHOWN else ''})" if names else "none"
