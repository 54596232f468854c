"""Run a rebuilt class forward and backward on arrays, by the peer's names."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ...autograd import Tensor, ops, tree, value_and_grad
from ...autograd import backend as backends
from ...autograd.backend import is_array, to_backend, to_host
from ...autograd.observing import observe
from ...errors import InputError, input_errors, listed
from ...host.progress import counting, is_shown
from ...models.call import Call
from ...models.tracing import Only, trace
from ...peers import Given, Rebuilt, peer
from .case import Case, check_gradients

Arrays = dict[str, np.ndarray]


@dataclass
class Run:
    """What the reference computed, on the host: everything by the peer's names but `trace`, which has ours."""

    outputs: Arrays
    grad_params: Arrays = field(default_factory=dict)
    grad_inputs: Arrays = field(default_factory=dict)
    state: Arrays = field(default_factory=dict)
    trace: Arrays = field(default_factory=dict)


def rebuild(case: Case) -> tuple[Rebuilt, Arrays]:
    """The class of a case, and the arrays that it is run with: parameters and buffers, each tied one once.

    Where its meta has `points` (name of a traced value -> our name), these stand for the peer's own names of them.
    Raises `InputError` for what the reference does not know, and for gradients of an unknown loss.
    """
    if "probe" in case.meta:
        raise InputError(f"{case.name} is a probe, which holds samples: check takes it, this needs whole arrays")
    check_gradients(case, case.name)
    aliases = case.meta.get("tied", {})
    arrays = {name: array for name, array in (case.params | case.state).items() if name not in aliases}
    given = Given(
        case.meta["config"],
        inputs={name: array.shape for name, array in case.inputs.items()},
        params={name: array.shape for name, array in arrays.items()},
        call=case.meta["call"],
        outputs={name: array.shape for name, array in case.outputs.items()},
    )
    rebuilt = peer(case.meta["peer"]).rebuild(case.meta["class"], given)
    if points := case.meta.get("points"):
        rebuilt = replace(
            rebuilt, points=[(re.escape(name), ours.replace("\\", r"\\")) for name, ours in points.items()]
        )
    return rebuilt, arrays


def run(
    rebuilt: Rebuilt,
    arrays: Mapping[str, np.ndarray],
    inputs: Mapping[str, np.ndarray],
    options: Mapping[str, Any],
    *,
    cotangents: Mapping[str, np.ndarray] | None = None,
    points: Only = None,
    kept: Callable[[str, Any], Any] | None = None,
    backend: str = "numpy",
    dtype: Any = np.float64,
    where: object = "the weights",
) -> Run:
    """Outputs of `rebuilt` with these parameters and buffers and on these inputs, computed in `dtype` on `backend`.

    With `cotangents` also the gradients of the sum of output * cotangent, for every parameter and floating-point
    input. `options` are the peer's other arguments. `points` says which of our trace points to keep (None: none), and
    `kept(name, array)` what of each, where that is not the array.
    Raises `InputError`, naming `where` the arrays come from, when they do not fit; and for an output that has a
    cotangent but does not exist, or has another shape.
    """
    backends.module(backend)

    def prepared(array: np.ndarray) -> Any:
        return to_backend(array.astype(dtype, copy=False) if array.dtype.kind == "f" else array, backend)

    params, state = (tree.map(prepared, part) for part in rebuilt.load(arrays, where))
    arguments = tree.map(prepared, dict(inputs))
    weights = None if cotangents is None else tree.map(prepared, dict(cotangents))
    variables = {
        "params": params,
        "inputs": {name: array for name, array in arguments.items() if array.dtype.kind == "f"},
    }
    call = Call(training=bool(options.get("is_training", False)), state=state)

    def forward(variables: dict[str, Any]) -> tuple[Any, tuple[Any, Any]]:
        with (
            trace(frozenset() if points is None else points, kept=kept) as traced,
            input_errors("the inputs do not fit the model"),
        ):
            outputs = rebuilt.run(
                rebuilt.model, variables["params"], {**arguments, **variables["inputs"]}, options, call
            )
        # what depends on no array, such as a grid of positions, was made on the host, in a dtype of its own
        outputs = tree.map(lambda o: o if type(o) is Tensor else prepared(o), outputs)
        loss = None if weights is None else sum_of_products(outputs, weights)
        return loss, (outputs, dict(traced))

    gradients = None
    with _counted():
        if weights is None:
            _, (outputs, traced) = forward(variables)
        else:
            (_, (outputs, traced)), gradients = value_and_grad(forward, has_aux=True)(variables)
    shapes = {name: array.shape for name, array in arrays.items()}
    made = Run(
        outputs=tree.map(to_host, outputs),
        state=rebuilt.store_state(tree.map(to_host, call.updates), shapes),
        trace={name: to_host(value) if is_array(value) else value for name, value in traced.items()},
    )
    if gradients is not None:
        made.grad_params = rebuilt.store(tree.map(to_host, gradients["params"]), shapes)
        made.grad_inputs = tree.map(to_host, gradients["inputs"])
    return made


@contextmanager
def _counted() -> Iterator[None]:
    """Operations are counted where somebody looks."""
    if not is_shown():
        yield
        return
    count = counting("operation")
    with observe(lambda event: count()):
        yield


def named_points(rebuilt: Rebuilt, names: Iterable[str]) -> dict[str, list[str]]:
    """For each of a peer's trace points our names, the first that exists being meant; none for an unknown one.

    What an implementation calls more often than the peer has calls by number: the first is meant.
    """
    return {name: rebuilt.points_of(name) or rebuilt.points_of(name.removesuffix("@0")) for name in names}


def unknown_points(names: Sequence[str]) -> list[str]:
    """What is to be said of traced values whose names the reference does not know, or that its run does not have."""
    if not names:
        return []
    count = "1 traced value is" if len(names) == 1 else f"{len(names)} traced values are"
    return [f"{count} not compared, as the reference knows no such point: {listed(sorted(names), 4)}"]


def require(kind: str, wanted: Iterable[str], given: Iterable[str], where: str) -> None:
    """Raise `InputError` unless every array of this kind that a case has is among the reference's."""
    if absent := sorted(set(wanted) - set(given)):
        raise InputError(f"{where}: the reference gives no {kind} {', '.join(absent)}; it gives {', '.join(given)}")


def spread(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """Our value in the peer's shape: repeated where the peer repeats it for the whole batch, or has axes of length 1
    before it; one of all equal items, where the peer has it once."""
    if ours.ndim and theirs.shape == (1, *ours.shape[1:]) and len(ours) and (ours == ours[:1]).all():
        return ours[:1]
    first = theirs.ndim - ours.ndim
    return np.broadcast_to(ours, theirs.shape) if first > 0 and ours.shape == theirs.shape[first:] else ours


def sum_of_products(outputs: Mapping[str, Any], cotangents: Mapping[str, Any]) -> Any:
    """The loss of the vector format: the sum of output * cotangent over all outputs that have one."""
    total: Any = 0.0
    for name, cotangent in cotangents.items():
        if name not in outputs:
            raise InputError(f"cotangent/{name}: there is no such output; the outputs are {', '.join(outputs)}")
        if outputs[name].shape != cotangent.shape:
            raise InputError(f"cotangent/{name} has shape {cotangent.shape}, but the output has {outputs[name].shape}")
        with input_errors(f"cotangent/{name}"):
            total = ops.add(ops.sum(ops.multiply(outputs[name], cotangent)), total)
    return total
