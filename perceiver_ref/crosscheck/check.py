"""Rebuild a case in the reference from its own parameters, run it forward and backward, and compare everything."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..autograd import backend as backends
from ..autograd import ops, tree, value_and_grad
from ..autograd.backend import to_backend, to_host
from ..errors import InputError
from ..peers import Rebuilt, peer
from ..peers.names import load, store
from ..tracing import trace
from ..vectors import TOLERANCES, Agreement, Case, agreement, read_case


@dataclass
class Run:
    """What the reference computed, by the peer's names, on the host."""

    outputs: dict[str, np.ndarray]
    grad_params: dict[str, np.ndarray] = field(default_factory=dict)
    grad_inputs: dict[str, np.ndarray] = field(default_factory=dict)
    trace: dict[str, np.ndarray] = field(default_factory=dict)


@dataclass
class Result:
    """The verdict on one case. `status` is "pass", "fail" or "error" (the case could not be run: see `message`)."""

    path: str
    status: str
    agreements: list[Agreement] = field(default_factory=list)
    message: str = ""

    def error(self, *kinds: str) -> float | None:
        """The largest error among these kinds of arrays; None when none was compared."""
        return max((a.error for a in self.agreements if a.kind in kinds), default=None)

    @property
    def worst(self) -> Agreement | None:
        """The array that is farthest beyond, or closest to, its tolerance."""
        return max(self.agreements, key=lambda a: a.error / a.tolerance, default=None)


def check_file(path: str | os.PathLike[str], *, backend: str = "numpy", dtype: str | None = None) -> Result:
    """`check_case` on a file; what is wrong with the file or its contents becomes a result with status "error"."""
    try:
        return check_case(read_case(path), str(path), backend=backend, dtype=dtype)
    except InputError as error:
        text = str(error)
        return Result(str(path), "error", message=text if text.startswith(str(path)) else f"{path}: {text}")


def check_case(case: Case, path: str = "", *, backend: str = "numpy", dtype: str | None = None) -> Result:
    """Compare every output, gradient and traced value of a case with the reference's.

    `dtype` computes in another dtype than the case's; tolerances are those of the coarser of the two. Raises
    `InputError` when the case names a peer, class, option or parameter that the reference does not know.
    """
    rebuilt = peer(case.meta["peer"]).rebuild(case.meta["class"], case.meta["config"])
    gradients = bool(case.cotangents) and case.meta.get("compare_gradients", True)
    points = {name: rebuilt.point(name) for name in case.trace}
    run = run_case(case, rebuilt, points, gradients=gradients, backend=backend, dtype=dtype)
    limit = _tolerances(case, dtype)
    found = [agreement("output", name, run.outputs[name], case.outputs[name], limit["output"]) for name in case.outputs]
    found += [agreement("trace", name, run.trace[name], case.trace[name], limit["output"]) for name in case.trace]
    if gradients:
        for kind, ours, theirs in (
            ("grad_param", run.grad_params, case.grad_params),
            ("grad_input", run.grad_inputs, case.grad_inputs),
        ):
            found += [agreement(kind, name, ours[name], theirs[name], limit["gradient"]) for name in theirs]
    return Result(path, "pass" if all(a.passed for a in found) else "fail", found)


def run_case(
    case: Case,
    rebuilt: Rebuilt,
    points: Mapping[str, str],
    *,
    gradients: bool,
    backend: str = "numpy",
    dtype: str | None = None,
) -> Run:
    """Run the reference on a case's parameters and inputs; `points` maps the peer's trace points to ours."""
    where = case.meta.get("case", case.meta["class"])
    aliases: dict[str, str] = case.meta.get("tied", {})
    own = {name: array for name, array in case.params.items() if name not in aliases}
    params = load(rebuilt.model, rebuilt.bindings, own, where)

    def prepared(array: np.ndarray) -> Any:
        wanted = array.astype(dtype or case.dtype, copy=False) if array.dtype.kind == "f" else array
        return to_backend(wanted, backend)

    backends.module(backend)
    params = tree.map(prepared, params)
    inputs = {name: prepared(array) for name, array in case.inputs.items()}
    cotangents = {name: prepared(array) for name, array in case.cotangents.items()}
    floats = {name: array for name, array in inputs.items() if array.dtype.kind == "f"}

    def loss(variables: dict[str, Any]) -> tuple[Any, tuple[Any, Any]]:
        arguments = {**inputs, **variables["inputs"]}
        with trace(set(points.values()).__contains__) as traced:
            outputs = rebuilt.call(variables["params"], arguments, case.meta["call"])
        if absent := sorted((set(case.outputs) | set(cotangents)) - set(outputs)):
            raise InputError(f"{where}: the reference gives no output {', '.join(absent)}; it gives {', '.join(outputs)}")
        total = sum_products(outputs, cotangents) if gradients else None
        return total, (outputs, dict(traced))

    variables = {"params": params, "inputs": floats}
    if gradients:
        (_, (outputs, traced)), found = value_and_grad(loss, has_aux=True)(variables)
    else:
        _, (outputs, traced) = loss(variables)
        found = None
    if absent := sorted(set(points.values()) - set(traced)):
        raise InputError(f"{where}: the reference has no trace point {', '.join(absent)}")
    run = Run(tree.map(to_host, outputs), trace={name: to_host(traced[ours]) for name, ours in points.items()})
    if found is not None:
        shapes = {name: array.shape for name, array in own.items()}
        run.grad_params = store(rebuilt.bindings, tree.map(to_host, found["params"]), shapes)
        run.grad_params |= {alias: run.grad_params[name] for alias, name in aliases.items()}
        run.grad_inputs = tree.map(to_host, found["inputs"])
    return run


def sum_products(outputs: Mapping[str, Any], cotangents: Mapping[str, Any]) -> Any:
    """The loss of the vector format: the sum of output * cotangent over all outputs that have one."""
    total: Any = 0.0
    for name, cotangent in cotangents.items():
        if tuple(outputs[name].shape) != tuple(cotangent.shape):
            got = tuple(outputs[name].shape)
            raise InputError(f"cotangent/{name} has shape {tuple(cotangent.shape)}, but the output has {got}")
        total = ops.add(ops.sum(ops.multiply(outputs[name], cotangent)), total)
    return total


def _tolerances(case: Case, dtype: str | None) -> dict[str, float]:
    computed = max((case.meta["dtype"], dtype or case.meta["dtype"]), key=lambda name: TOLERANCES[name]["output"])
    limits = TOLERANCES[computed]
    own = case.meta.get("tolerance", {})
    if computed == case.meta["dtype"]:
        return {**limits, **own}
    return {kind: max(limits[kind], own.get(kind, 0.0)) for kind in limits}
