"""perceiver-ref itself as a peer, for the vectors that `perceiver-ref export` makes.

A class is a published model ("perceiver-io/language"), a class of ours ("Encoder"), an operation ("layer_norm") or a
few of them in a row ("steps"). The configuration is the whole model as JSON (see `configuration`); a published model
may leave it out, and then is of the published size, in the `dialect` that it names. Parameters have our own paths, such
as "encoder/block/0/attention/query/weight", and traced values our own names.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from ...autograd import tree
from ...autograd.tree import Tree
from ...errors import InputError
from ...models.call import Call
from ...models.module import Module
from ...models.published import PRESETS, VARIANTS, preset
from ..base import Arguments, Given, Outputs, Peer, Rebuilt, options, read_call
from ..names import Binding, same
from .configuration import TYPES, from_config, to_config
from .models import CALLERS, caller
from .operations import OPERATIONS, operation
from .steps import NAME as STEPS
from .steps import rebuild as rebuild_steps

NAME = "perceiver-ref"


def rebuilt(model: Module) -> Rebuilt:
    """A model of ours with the identity as its renaming."""
    calls = caller(model)

    def run(model: Any, params: Tree, arguments: Arguments, called: Mapping[str, Any], call: Call) -> Outputs:
        known = {*calls.required, *calls.optional}
        what = type(model).__name__
        defaults = {**calls.options, "is_training": False}
        values, chosen = read_call(what, arguments, called, known, defaults, calls.required)
        return calls.outputs(model, params, values, chosen, call)

    def bindings(spec: Tree) -> list[Binding]:
        return [Binding(path, parameter.shape, path, same) for path, parameter in tree.flatten(spec).items()]

    return Rebuilt(model, bindings(model.parameters()), run, [("(.+)", r"\1")], bindings(model.state()))


def _published(name: str, given: Given) -> Rebuilt:
    if "type" in given.config:
        return rebuilt(_model(given))
    chosen = options(name, given.config, {"dialect": None})
    return rebuilt(preset(name, dialect=chosen["dialect"]))


def _typed(name: str, given: Given) -> Rebuilt:
    return rebuilt(_model(Given({"type": name, **given.config})))


def _model(given: Given) -> Module:
    model = from_config(given.config)
    if not any(isinstance(model, made) for made in CALLERS):
        raise InputError(f"a {type(model).__name__} cannot be run by itself")
    return model  # type: ignore[no-any-return]


_CLASSES: dict[str, Callable[[Given], Rebuilt]] = {
    **{name: partial(_published, name) for name in (*PRESETS, *VARIANTS)},
    **{name: partial(_typed, name) for name, made in TYPES.items() if any(issubclass(made, c) for c in CALLERS)},
    **{name: operation(name) for name in OPERATIONS},
    STEPS: rebuild_steps,
}

PEER = Peer(NAME, _CLASSES)

__all__ = ["NAME", "OPERATIONS", "PEER", "from_config", "rebuilt", "to_config"]
