"""optax's optimizers, and the chain that DeepMind trained Perceivers with, over recorded gradients."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from ...autograd import optim
from ...autograd.optim import Optimizer
from ...autograd.tree import Tree
from ...errors import one_of
from ...models.call import Call
from ...models.tracing import point
from ..base import REQUIRED, Arguments, Given, Outputs, Rebuilt, options
from ..names import Binding, same
from ..replay import Named, recording, replay
from .schedules import deepmind_schedule, schedule

Rate = Callable[[int], float]
_NORMS = ("layer_norm", "batchnorm")
_ADAM = {"b1": 0.9, "b2": 0.999, "eps": 1e-8, "eps_root": 0.0}
_RATE = {"learning_rate": None, "schedule": None}


def _deepmind(config: Mapping[str, Any]) -> tuple[Optimizer, Rate]:
    """`make_optimizer`: neither biases, called "b", nor norms decay; positions, called "pos_embs", only if asked to."""
    rate = deepmind_schedule(config)
    o = config["optimizer"]
    if o["optimizer"] not in ("adam", "lamb"):
        raise one_of("optimizer", str(o["optimizer"]), ("adam", "lamb"))
    kept = ("b",) if o.get("decay_pos_embs") in (None, True) else ("b", "pos_embs")

    def decays(path: str) -> bool:
        module, _, name = path.rpartition("/")
        return name not in kept and not any(norm in module for norm in _NORMS)

    make = optim.adamw if o["optimizer"] == "adam" else optim.lamb
    kwargs = options(f"scale_by_{o['optimizer']}", o[f"{o['optimizer']}_kwargs"], {**_ADAM, "nesterov": False})
    max_norm = o["max_norm"] if o["max_norm"] > 0 else None
    return make(rate, weight_decay=o["weight_decay"], decays=decays, max_norm=max_norm, **kwargs), rate


def _named(
    make: Callable[..., Optimizer], known: Mapping[str, Any], config: Mapping[str, Any]
) -> tuple[Optimizer, Rate | None]:
    """An optimizer with a learning rate or a schedule; with a `max_norm` where it is chained to a clipping."""
    chosen = options("the optimizer", config, {**_RATE, **known})
    described, value = chosen.pop("schedule"), chosen.pop("learning_rate")
    rate = None if described is None else schedule(described)
    return make(value if rate is None else rate, **chosen), rate


def _sgd(rate: Any, momentum: float | None, nesterov: bool, **clipping: Any) -> Optimizer:
    return optim.sgd(rate, momentum=momentum or 0.0, nesterov=nesterov, **clipping)


def _clip(rate: Any, max_norm: float) -> Optimizer:
    """No optimizer: the clipped gradients are added as they are."""
    return Optimizer(-1.0, max_norm=max_norm)


_AMSGRAD = partial(optim.adam, amsgrad="corrected")
_NAMED: dict[str, tuple[Callable[..., Optimizer], dict[str, Any]]] = {
    "sgd": (_sgd, {"momentum": None, "nesterov": False}),
    "adam": (optim.adam, {**_ADAM, "nesterov": False}),
    "nadam": (partial(optim.adam, nesterov=True), _ADAM),
    "amsgrad": (_AMSGRAD, _ADAM),
    "adamw": (optim.adamw, {**_ADAM, "weight_decay": 1e-4, "nesterov": False}),
    "nadamw": (partial(optim.adamw, nesterov=True), {**_ADAM, "weight_decay": 1e-4}),
    "lamb": (optim.lamb, {**_ADAM, "eps": 1e-6, "weight_decay": 0.0}),
}
_MAKERS: dict[str, Callable[[Mapping[str, Any]], tuple[Optimizer, Rate | None]]] = {
    "make_optimizer": _deepmind,
    "clip_by_global_norm": partial(_named, _clip, {"max_norm": REQUIRED}),
    **{name: partial(_named, make, known) for name, (make, known) in _NAMED.items()},
    **{
        f"optax.chain(clip_by_global_norm, {name})": partial(_named, make, {**known, "max_norm": REQUIRED})
        for name, (make, known) in _NAMED.items()
    },
}


def _rebuild(make: Callable[[Mapping[str, Any]], tuple[Optimizer, Rate | None]], given: Given) -> Rebuilt:
    """An optimizer over recorded gradients, in either layout of `replay`."""
    optimizer, rate = make(given.config)
    optimizer = replace(optimizer, own_counts=False)  # one count, in the state of the whole
    shapes = tuple(given.params.items())

    def run(model: Any, params: Tree, arguments: Arguments, called: Mapping[str, Any], call: Call) -> Outputs:
        options("a call of an optimizer", called, {"steps": None})
        if not shapes:
            names = [name for name in arguments if f"grad_{name}" in arguments]
            after, _, _ = replay(optimizer, recording({n: arguments[n] for n in names}, arguments, "grad_"))
            return {f"{name}_after": values for name, values in after.items()}
        recorded = recording(params, arguments, "grads/")
        after, added, state = replay(optimizer, recorded)
        for slot, theirs in (("mean", "mu"), ("square", "nu"), ("momentum", "trace")):
            for name, array in state.get(slot, {}).items():
                point(f"final_{theirs}/{name}", array)
        outputs: Outputs = {"global_grad_norm": recorded.norms()}
        if rate is not None:
            outputs["learning_rate"] = np.array([rate(count) for count in range(len(recorded.gradients))])
        outputs |= {f"params/{name}": values for name, values in after.items()}
        return outputs | {f"updates/{name}": values for name, values in added.items()}

    bindings = [Binding(name, tuple(shape), name, same) for name, shape in shapes]
    return Rebuilt(Named(shapes), bindings, run, [(r"(final_\w+/.*)", r"\1")])


OPTIMIZERS: dict[str, Callable[[Given], Rebuilt]] = {name: partial(_rebuild, make) for name, make in _MAKERS.items()}
