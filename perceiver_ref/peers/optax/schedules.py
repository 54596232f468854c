"""optax's schedules by their names and arguments, and DeepMind's choice among them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ...autograd.optim import schedules as doubles
from ...autograd.optim.schedules import Schedule
from ...autograd.tree import Tree
from ...errors import one_of
from ...models.call import Call
from ...models.tracing import point
from ..base import REQUIRED, Arguments, Function, Given, Outputs, Rebuilt, options
from . import int32


def _warmup_cosine(make: Any, o: dict[str, Any]) -> Schedule:
    warm = make.linear(o["init_value"], o["peak_value"], o["warmup_steps"])
    down = make.cosine(o["peak_value"], o["end_value"], o["decay_steps"] - o["warmup_steps"], power=o["exponent"])
    joined: Schedule = make.join([warm, down], [o["warmup_steps"]])
    return joined


def _exponential(make: Any, o: dict[str, Any], start: str = "init_value") -> Schedule:
    made: Schedule = make.exponential(
        o[start],
        o["decay_rate"],
        o["transition_steps"],
        begin=o["transition_begin"],
        staircase=o["staircase"],
        bound=o["end_value"],
    )
    return made


def _warmup_exponential(make: Any, o: dict[str, Any]) -> Schedule:
    warm = make.linear(o["init_value"], o["peak_value"], o["warmup_steps"])
    joined: Schedule = make.join([warm, _exponential(make, o, "peak_value")], [o["warmup_steps"]])
    return joined


_LINEAR = {"init_value": REQUIRED, "end_value": REQUIRED, "transition_steps": REQUIRED, "transition_begin": 0}
_WARMUP = {"init_value": REQUIRED, "peak_value": REQUIRED, "warmup_steps": REQUIRED}
_EXPONENTIAL = {
    "transition_steps": REQUIRED,
    "decay_rate": REQUIRED,
    "transition_begin": 0,
    "staircase": False,
    "end_value": None,
}

# name -> (arguments with defaults, how `make`, which has the schedules of one precision, makes it)
SCHEDULES: dict[str, tuple[dict[str, Any], Callable[[Any, dict[str, Any]], Schedule]]] = {
    "constant_schedule": ({"value": REQUIRED}, lambda make, o: make.constant(o["value"])),
    "linear_schedule": (
        _LINEAR,
        lambda make, o: make.linear(
            o["init_value"], o["end_value"], o["transition_steps"], begin=o["transition_begin"]
        ),
    ),
    "polynomial_schedule": (
        {**_LINEAR, "power": REQUIRED},
        lambda make, o: make.polynomial(
            o["init_value"], o["end_value"], o["transition_steps"], power=o["power"], begin=o["transition_begin"]
        ),
    ),
    "piecewise_constant_schedule": (
        {"init_value": REQUIRED, "boundaries_and_scales": None},
        lambda make, o: make.piecewise(
            o["init_value"], {int(at): scale for at, scale in (o["boundaries_and_scales"] or {}).items()}
        ),
    ),
    "exponential_decay": ({"init_value": REQUIRED, **_EXPONENTIAL}, _exponential),
    "cosine_decay_schedule": (
        {"init_value": REQUIRED, "decay_steps": REQUIRED, "alpha": 0.0, "exponent": 1.0},
        lambda make, o: make.cosine(
            o["init_value"], o["alpha"] * o["init_value"], o["decay_steps"], power=o["exponent"]
        ),
    ),
    "warmup_constant_schedule": (
        _WARMUP,
        lambda make, o: make.linear(o["init_value"], o["peak_value"], o["warmup_steps"]),
    ),
    "warmup_cosine_decay_schedule": (
        {**_WARMUP, "decay_steps": REQUIRED, "end_value": 0.0, "exponent": 1.0},
        _warmup_cosine,
    ),
    "warmup_exponential_decay_schedule": ({**_WARMUP, **_EXPONENTIAL}, _warmup_exponential),
}


def schedule(config: Mapping[str, Any], make: Any = doubles, key: str = "name") -> Schedule:
    """The schedule that {`key`: name, arguments...} describes, made of the schedules in the module `make`."""
    name = str(config.get(key)).rpartition(".")[2]
    if name == "get_learning_rate_schedule":
        return deepmind_schedule(config, make, frozenset({key}))
    if name not in SCHEDULES:
        raise one_of("schedule", name, [*SCHEDULES, "get_learning_rate_schedule"])
    arguments, build = SCHEDULES[name]
    return build(make, options(name, config, arguments, frozenset({key})))


def deepmind_schedule(
    config: Mapping[str, Any], make: Any = doubles, ignored: frozenset[str] = frozenset()
) -> Schedule:
    """DeepMind's `get_learning_rate_schedule`: steps, warm-up and cosine, or flat and cosine (Perceiver IO's ImageNet).

    All rates are for a batch of 256, and grow with the batch when `scale_by_batch`; but the last of "constant_cosine"
    does not.
    """
    known = {"optimizer": REQUIRED, "total_batch_size": REQUIRED, "steps_per_epoch": REQUIRED, "total_steps": REQUIRED}
    chosen = options("get_learning_rate_schedule", config, known, ignored)
    o, total = chosen["optimizer"], chosen["total_steps"]
    larger = chosen["total_batch_size"] / 256 if o["scale_by_batch"] else 1.0
    peak, kind = o["base_lr"] * larger, o["schedule_type"]
    if kind == "steps":
        drop = o["step_decay_kwargs"]
        made = make.piecewise(peak, {int(at * total): drop["decay_rate"] for at in drop["decay_boundaries"]})
    elif kind == "cosine":
        ends = o["cosine_decay_kwargs"]
        warmup = ends["warmup_epochs"] * chosen["steps_per_epoch"]
        warm = make.linear(ends["init_value"] * larger, peak, warmup)
        made = make.join([warm, make.cosine(peak, ends["end_value"] * larger, total - warmup)], [warmup])
    elif kind == "constant_cosine":
        ends = o["constant_cosine_decay_kwargs"]
        made = doubles.flat_cosine(peak, int(ends["constant_fraction"] * total), total, end=ends["end_value"])
    else:
        raise one_of("schedule_type", str(kind), ("steps", "cosine", "constant_cosine"))
    result: Schedule = made
    return result


def schedules(given: Given) -> Rebuilt:
    """Every configured schedule at counts 0 to `steps` - 1; traced as they are with JAX's own 32-bit counts."""

    def run(model: Any, params: Tree, arguments: Arguments, called: Mapping[str, Any], call: Call) -> Outputs:
        steps = options("a call of optax schedules", called, {"steps": REQUIRED})["steps"]
        outputs: Outputs = {}
        for name, config in given.config.items():
            double, single = (schedule(config, make, "function") for make in (doubles, int32))
            outputs[name] = np.array([double(count) for count in range(steps)], np.float64)
            point(f"int32_count/{name}", np.array([single(count) for count in range(steps)], np.float64))
        return outputs

    return Rebuilt(Function(run), [], run, [(r"int32_count/(.*)", r"int32_count/\1")])
