"""Run a rebuilt class forward and backward on arrays, by the peer's names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..autograd import backend as backends
from ..autograd import ops, tree, value_and_grad
from ..autograd.backend import to_backend, to_host
from ..autograd.tree import Tree
from ..errors import InputError, input_errors
from ..peers import Rebuilt
from ..peers.names import store
from ..tracing import trace

Arrays = dict[str, np.ndarray]


@dataclass
class Run:
    """What the reference computed, on the host: everything by the peer's names but `trace`, which has ours."""

    outputs: Arrays
    grad_params: Arrays = field(default_factory=dict)
    grad_inputs: Arrays = field(default_factory=dict)
    trace: Arrays = field(default_factory=dict)


def run(
    rebuilt: Rebuilt,
    params: Tree,
    inputs: Mapping[str, np.ndarray],
    call: Mapping[str, Any],
    *,
    cotangents: Mapping[str, np.ndarray] | None = None,
    points: Callable[[str], bool] | None = None,
    backend: str = "numpy",
    dtype: Any = np.float64,
) -> Run:
    """Outputs of `rebuilt` on these parameters and inputs, computed in `dtype` on `backend`.

    With `cotangents` also the gradients of the sum of output * cotangent, for every parameter and floating-point
    input. `points` says which of our trace points to keep (None: none). Raises `InputError` for an output that has a
    cotangent but does not exist, or another shape.
    """
    backends.module(backend)

    def prepared(array: np.ndarray) -> Any:
        return to_backend(array.astype(dtype, copy=False) if array.dtype.kind == "f" else array, backend)

    arguments = tree.map(prepared, dict(inputs))
    weights = None if cotangents is None else tree.map(prepared, dict(cotangents))
    variables = {
        "params": tree.map(prepared, params),
        "inputs": {name: array for name, array in arguments.items() if array.dtype.kind == "f"},
    }

    def forward(variables: dict[str, Any]) -> tuple[Any, tuple[Any, Any]]:
        with trace(points or (lambda name: False)) as traced, input_errors("the inputs do not fit the model"):
            outputs = rebuilt.call(variables["params"], {**arguments, **variables["inputs"]}, call)
        loss = None if weights is None else sum_of_products(outputs, weights)
        return loss, (outputs, dict(traced))

    if weights is None:
        _, (outputs, traced) = forward(variables)
        return Run(tree.map(to_host, outputs), trace=tree.map(to_host, traced))
    (_, (outputs, traced)), gradients = value_and_grad(forward, has_aux=True)(variables)
    return Run(
        outputs=tree.map(to_host, outputs),
        grad_params=store(rebuilt.bindings, tree.map(to_host, gradients["params"])),
        grad_inputs=tree.map(to_host, gradients["inputs"]),
        trace=tree.map(to_host, traced),
    )


def sum_of_products(outputs: Mapping[str, Any], cotangents: Mapping[str, Any]) -> Any:
    """The loss of the vector format: the sum of output * cotangent over all outputs that have one."""
    total: Any = 0.0
    for name, cotangent in cotangents.items():
        if name not in outputs:
            raise InputError(f"cotangent/{name}: there is no such output; the outputs are {', '.join(outputs)}")
        if outputs[name].shape != cotangent.shape:
            raise InputError(f"cotangent/{name} has shape {cotangent.shape}, but the output has {outputs[name].shape}")
        total = ops.add(ops.sum(ops.multiply(outputs[name], cotangent)), total)
    return total
