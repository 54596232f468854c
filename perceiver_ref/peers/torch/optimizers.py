"""PyTorch's optimizers over recorded gradients, with `clip_grad_norm_` and a learning rate for each step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from ...autograd import optim
from ...autograd.backend import to_host
from ...autograd.core import array_of
from ...autograd.optim import Optimizer
from ...autograd.tree import Tree
from ...errors import InputError
from ...models.call import Call
from ..base import Arguments, Function, Given, Outputs, Rebuilt, options
from ..replay import recording, replay

_CLIP_EPS = 1e-6  # added to the norm by clip_grad_norm_
_HOW = frozenset(["foreach", "fused", "capturable", "differentiable"])  # how it is computed, not what
_ADAM: dict[str, Any] = {
    "lr": 1e-3,
    "betas": (0.9, 0.999),
    "eps": 1e-8,
    "weight_decay": 0.0,
    "amsgrad": False,
    "maximize": False,
}
_SGD: dict[str, Any] = {
    "lr": 1e-3,
    "momentum": 0.0,
    "dampening": 0.0,
    "weight_decay": 0.0,
    "nesterov": False,
    "maximize": False,
}
_STATE = {
    "mean": "exp_avg",
    "square": "exp_avg_sq",
    "largest_square": "max_exp_avg_sq",
    "momentum": "momentum_buffer",
}
"""Our slots by PyTorch's names."""


def _sgd(rate: Any, o: dict[str, Any]) -> Optimizer:
    if o["nesterov"] and (not o["momentum"] or o["dampening"]):
        raise InputError("nesterov needs a momentum and no dampening")
    return optim.sgd(rate, **{key: o[key] for key in ("momentum", "dampening", "weight_decay", "nesterov")})


def _adam(rate: Any, o: dict[str, Any]) -> Optimizer:
    """AMSGrad's maximum is of the second moments before their correction."""
    b1, b2 = o["betas"]
    make = optim.adamw if o.get("decoupled_weight_decay", True) else optim.adam
    amsgrad = "raw" if o["amsgrad"] else None
    return make(rate, b1=b1, b2=b2, eps=o["eps"], weight_decay=o["weight_decay"], amsgrad=amsgrad)


def _rebuild(make: Callable[[Any, dict[str, Any]], Optimizer], known: Mapping[str, Any], given: Given) -> Rebuilt:
    o = options("the optimizer", given.config, known, _HOW)
    make(o["lr"], o)  # so that a configuration that cannot be used is known before any call

    def run(model: Any, params: Tree, arguments: Arguments, called: Mapping[str, Any], call: Call) -> Outputs:
        wanted = options("a call of an optimizer", called, {"steps": None, "clip_grad_norm": None})
        rate: Any = o["lr"]
        if "lr" in arguments:
            rates = to_host(array_of(arguments["lr"])).tolist()
            rate = rates.__getitem__
        names = [name for name in arguments if f"grad_{name}" in arguments]
        recorded, outputs = recording({name: arguments[name] for name in names}, arguments, "grad_"), {}
        if wanted["clip_grad_norm"] is not None:
            outputs["grad_norms"] = recorded.norms()
            recorded = recorded.clipped(wanted["clip_grad_norm"], eps=_CLIP_EPS)
        recorded = recorded.scaled(-1.0) if o["maximize"] else recorded
        after, _, state = replay(make(rate, o), recorded)
        outputs |= {f"{name}_after": values for name, values in after.items()}
        for name in names:
            outputs |= {f"{name}_state.{_STATE[slot]}": state[slot][name] for slot in state if slot != "count"}
            if "mean" in state:
                outputs[f"{name}_state.step"] = state["count"][""]
        return outputs

    return Rebuilt(Function(run), [], run)


OPTIMIZERS: dict[str, Callable[[Given], Rebuilt]] = {
    "SGD": partial(_rebuild, _sgd, _SGD),
    "Adam": partial(_rebuild, _adam, {**_ADAM, "decoupled_weight_decay": False}),
    "AdamW": partial(_rebuild, _adam, {**_ADAM, "weight_decay": 1e-2}),
}
