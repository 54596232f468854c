"""torch_optimizer 0.3.0: its LAMB, which is not the paper's, and which krasserm's Perceiver IO trains with.

Read off its source: no bias correction of the moments, unless `debias`, which multiplies the learning rate by Adam's
whole correction; the norm of a parameter counts for at most `clamp_value`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ...autograd.backend import Array
from ...autograd.optim import Optimizer, Part
from ...autograd.optim import parts as part
from ...autograd.tree import Tree
from ...models.call import Call
from ...models.module import Module
from ..base import Arguments, Function, Given, Outputs, Peer, Rebuilt, options
from ..replay import recording, replay

_LAMB: dict[str, Any] = {
    "lr": 1e-3,
    "betas": (0.9, 0.999),
    "eps": 1e-6,
    "weight_decay": 0.0,
    "clamp_value": 10.0,
    "adam": False,
    "debias": False,
}
_STATE = {"mean": "exp_avg", "square": "exp_avg_sq"}


def lamb(config: Mapping[str, Any]) -> Optimizer:
    """`torch_optimizer.Lamb`, which also remembers each parameter's last norms and their ratio."""
    o = options("Lamb", config, _LAMB)
    b1, b2 = o["betas"]

    def debiased(u: Array, p: Array, slots: part.Slots, t: int) -> tuple[Array, part.Slots]:
        return u * (math.sqrt(1 - b2**t) / (1 - b1**t)), slots

    def trust(u: Array, p: Array, slots: part.Slots, t: int) -> tuple[Array, part.Slots]:
        ratio, size, length = part.ratio_of_norms(u, p, 0.0, o["clamp_value"])
        return u if o["adam"] else u * ratio, {"weight_norm": size, "adam_norm": length, "trust_ratio": ratio}

    adaptive = part.adaptive(b1, b2, o["eps"], bias_correction=False)
    ratio = Part(trust, ("weight_norm", "adam_norm", "trust_ratio"), counts=False)
    last = (Part(debiased),) if o["debias"] else ()
    return Optimizer(float(o["lr"]), (adaptive, part.decay(o["weight_decay"]), ratio, *last))


def _rebuild(given: Given) -> Rebuilt:
    optimizer = lamb(given.config)

    def run(model: Any, params: Tree, arguments: Arguments, called: Mapping[str, Any], call: Call) -> Outputs:
        options("a call of Lamb", called, {"steps": None})
        names = [name for name in arguments if f"grad_{name}" in arguments]
        after, _, state = replay(optimizer, recording({n: arguments[n] for n in names}, arguments, "grad_"))
        outputs: Outputs = {f"{name}_after": values for name, values in after.items()}
        for name in names:
            outputs[f"{name}_state.step"] = state["count"][""]
            outputs |= {f"{name}_state.{_STATE.get(s, s)}": state[s][name] for s in state if s != "count"}
        return outputs

    model: Module = Function(run)
    return Rebuilt(model, [], run)


PEER = Peer("torch-optimizer", {"Lamb": _rebuild})
