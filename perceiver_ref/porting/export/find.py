"""From what the user names, a preset or a configuration, to the subject that cases are made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...errors import InputError
from ...models.ledger import default_sizes, parse_sizes
from ...models.ledger.sizes import Sizes
from ...models.module import Module
from ...models.perceiver_ar import PerceiverAR
from ...models.published import INPUTS, is_preset, preset
from ...peers import Given, peer
from ...peers.reference import NAME, PEER, to_config
from ...weights.checkpoints import class_named, read_checkpoint, read_config, read_weights
from ...weights.formats.npz import read_npz
from . import layouts
from .small import parse_small, reductions, small
from .subject import Exported, Layout
from .theirs import theirs


@dataclass(frozen=True)
class Wanted:
    """What the command line was given: see `perceiver-ref export --help`."""

    model: str
    peer: str | None = None
    cls: str | None = None
    weights: str | None = None
    inputs: str | None = None
    sizes: str | None = None
    full: bool = False
    dialect: str | None = None


def find(wanted: Wanted) -> Exported:
    """The subject; `InputError` for anything unknown or contradictory."""
    arguments = _arguments(wanted.inputs)
    sizes = None if wanted.inputs is None or arguments is not None else parse_sizes(wanted.inputs)
    if is_preset(wanted.model, peer=wanted.peer, cls=wanted.cls):
        return _published(wanted, sizes, arguments)
    for option, given in (("--full", wanted.full), ("--sizes", wanted.sizes), ("--dialect", wanted.dialect)):
        if given:
            raise InputError(f"{option} goes with a preset; a configuration has its own sizes")
    return _configured(wanted, sizes, arguments)


def _arguments(inputs: str | None) -> dict[str, np.ndarray] | None:
    """The arrays of an .npz file, where inputs are not shapes."""
    return read_npz(inputs) if inputs is not None and inputs.endswith(".npz") else None


def _published(wanted: Wanted, sizes: Sizes | None, arguments: Mapping[str, np.ndarray] | None) -> Exported:
    published = preset(wanted.model, dialect=wanted.dialect)
    if wanted.full:
        if wanted.sizes:
            raise InputError("--full is the published size; leave out --sizes")
        model, usual = published, sizes or INPUTS.get(wanted.model) or default_sizes(published)
        notes = f"{wanted.model}, as published"
    else:
        model, usual = small(published, parse_small(wanted.sizes))
        notes = f"{wanted.model}, reduced: {'; '.join(reductions(published, model))}"
    return _own(wanted, wanted.model, model, sizes or usual, arguments, notes)


def _configured(wanted: Wanted, sizes: Sizes | None, arguments: Mapping[str, np.ndarray] | None) -> Exported:
    config = read_config(wanted.model)
    if wanted.peer in (None, NAME):
        if "type" not in config and wanted.cls is None:
            raise InputError(
                f"{wanted.model}: say which implementation the configuration is of, such as --peer hf; one of "
                f'perceiver-ref names its "type"'
            )
        rebuilt = PEER.rebuild(wanted.cls or str(config["type"]), Given(config))
        model = rebuilt.model
        if sizes is None and arguments is None:
            sizes = _default_sizes(model)
        return _own(wanted, wanted.cls or str(config["type"]), model, sizes, arguments, "")
    known = peer(str(wanted.peer))
    cls = wanted.cls or class_named(known, config, wanted.model)
    params = {} if wanted.weights is None else {n: a.shape for n, a in read_weights(wanted.weights).items()}
    if arguments is not None:
        shapes = {name: array.shape for name, array in arguments.items()}
        layout = Layout((), lambda batch, chosen: {})
    else:
        first = known.rebuild(cls, Given(config, params=params))
        layout = theirs(known.name, cls, first, config, sizes)
        shapes = {name: a.shape for name, a in layout.arguments(2, layout.sizes).items()}
    rebuilt = known.rebuild(cls, Given(config, shapes, params, layout.call))
    weights = _weights(wanted, known.name, cls, config, shapes)
    name = f"{known.name}/{cls.rpartition('.')[2]}"
    return Exported(name, known.name, cls, config, rebuilt, layout, "", weights, arguments)


def _own(
    wanted: Wanted, cls: str, model: Any, sizes: Sizes | None, arguments: Mapping[str, np.ndarray] | None, notes: str
) -> Exported:
    config = to_config(model)
    weights = _weights(wanted, NAME, cls, config, {})
    layout = Layout((), lambda batch, chosen: {}) if arguments is not None else layouts.layout(model, sizes or ())
    rebuilt = PEER.rebuild(cls, Given(config))
    return Exported(cls, NAME, cls, config, rebuilt, layout, notes, weights, arguments)


def _weights(
    wanted: Wanted, peer_name: str, cls: str, config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]
) -> dict[str, np.ndarray] | None:
    """The arrays of a weights file by the class's names."""
    if wanted.weights is None:
        return None
    arguments = {name: np.broadcast_to(np.zeros(()), shape) for name, shape in shapes.items()}
    return read_checkpoint(peer_name, wanted.weights, cls, config=config, inputs=arguments).arrays


def _default_sizes(model: Module) -> Sizes | None:
    """Where the model's own positions give them."""
    if isinstance(model, PerceiverAR):
        return (model.length,)
    return default_sizes(model)
