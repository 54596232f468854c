"""Rebuild a case in the reference from its own parameters, run it forward and backward, and compare everything."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from ..autograd import BackendError
from ..errors import InputError
from ..files import AnyPath
from ..vectors import TOLERANCES, Agreement, Case, agreement, read_case
from ..vectors.compare import gradient_tolerance, largest_of
from .execution import rebuild, run


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


def check_file(path: AnyPath, *, backend: str = "numpy", dtype: str | None = None) -> Result:
    """`check_case` on a file; what is wrong with the file or its contents becomes a result with status "error"."""
    try:
        return check_case(read_case(path), str(path), backend=backend, dtype=dtype)
    except BackendError:
        raise  # concerns every file
    except InputError as error:
        text = str(error)
        return Result(str(path), "error", message=text if text.startswith(str(path)) else f"{path}: {text}")


def check_case(case: Case, path: str = "", *, backend: str = "numpy", dtype: str | None = None) -> Result:
    """Compare every output, gradient and traced value of a case with the reference's.

    `dtype` computes in another dtype than the case's; tolerances are those of the coarser of the two. Raises
    `InputError` when the case names a peer, class, option or parameter that the reference does not know.
    """
    where = case.name
    aliases: dict[str, str] = case.meta.get("tied", {})
    rebuilt, arrays = rebuild(case)
    points = {name: rebuilt.point(name) for name in case.trace}
    gradients = bool(case.cotangents) and case.meta.get("compare_gradients", True)
    ours = run(
        rebuilt,
        arrays,
        case.inputs,
        case.meta["call"],
        cotangents=case.cotangents if gradients else None,
        points={ours for names in points.values() for ours in names}.__contains__,
        backend=backend,
        dtype=dtype or case.dtype,
        where=where,
    )
    _require("output", case.outputs, ours.outputs, where)
    traced = {name: next((n for n in names if n in ours.trace), names[-1]) for name, names in points.items()}
    _require("point", traced.values(), ours.trace, where)
    _require("state", case.state_out, ours.state, where)
    if gradients:
        _require("grad_param", (aliases.get(name, name) for name in case.grad_params), ours.grad_params, where)
        _require("grad_input", case.grad_inputs, ours.grad_inputs, where)
    limit = tolerances(case, dtype)
    pairs = [("output", name, ours.outputs[name], case.outputs[name]) for name in case.outputs]
    pairs += [("trace", name, spread(ours.trace[traced[name]], array), array) for name, array in case.trace.items()]
    pairs += [("state", name, ours.state[name], array) for name, array in case.state_out.items()]
    if gradients:
        pairs += [
            ("grad_param", name, ours.grad_params[aliases.get(name, name)], array)
            for name, array in case.grad_params.items()
        ]
        pairs += [("grad_input", name, ours.grad_inputs[name], array) for name, array in case.grad_inputs.items()]
    scale = Scale(case, dtype)
    found = [
        agreement(kind, name, a, b, scale.tolerance(a, b) if kind.startswith("grad") else limit["output"])
        for kind, name, a, b in pairs
    ]
    return Result(path, "pass" if all(a.passed for a in found) else "fail", found)


def _require(kind: str, wanted: Iterable[str], given: Iterable[str], where: str) -> None:
    if absent := sorted(set(wanted) - set(given)):
        raise InputError(f"{where}: the reference gives no {kind} {', '.join(absent)}; it gives {', '.join(given)}")


def spread(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    """A value that we compute once for the whole batch, where the peer repeats it."""
    return np.broadcast_to(ours, theirs.shape) if ours.shape == theirs.shape[1:] else ours


class Scale:
    """What the gradients of a case are held to (`gradient_tolerance`), computed in `dtype` if not in the case's."""

    def __init__(self, case: Case, dtype: str | None = None) -> None:
        self.usual, self.dtype = tolerances(case, dtype)["gradient"], _coarser(case, dtype)
        self.largest = largest_of(case.grad_params, case.grad_inputs, case.cotangents)

    def tolerance(self, ours: np.ndarray, theirs: np.ndarray) -> float:
        """That of one gradient."""
        return gradient_tolerance(self.usual, self.dtype, ours, theirs, self.largest)


def _coarser(case: Case, dtype: str | None) -> str:
    """Of the case's dtype and the one computed in."""
    given: str = case.meta["dtype"]
    return max((given, dtype or given), key=lambda name: TOLERANCES[name]["output"])


def tolerances(case: Case, dtype: str | None = None) -> dict[str, float]:
    """By kind: the case's own, else those of the coarser of the case's dtype and the one computed in."""
    given, computed = case.meta["dtype"], _coarser(case, dtype)
    limits, own = TOLERANCES[computed], case.meta.get("tolerance", {})
    if computed == given:
        return {**limits, **own}
    return {kind: max(limit, own.get(kind, 0.0)) for kind, limit in limits.items()}
