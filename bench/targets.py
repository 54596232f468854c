"""What the figures should be: a table of rows, and how a measured table compares."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from .case import BOTH, COMMAND, FORWARD, STEP
from .implementations import IMPLEMENTATIONS

Quantity = Literal["time", "memory", "seconds", "bytes", "share", "exponent", "memory exponent"]
GIB, GB = 2**30, 10**9
TORCH = "fastest PyTorch"
"""In place of an implementation: the one on PyTorch with the smallest time (or memory), not compiled."""


@dataclass(frozen=True)
class Goal:
    """At most `limit` (at least, for a "share") of a quantity of one row.

    "time" and "memory" are of `implementation` as a ratio to `against`; "bytes" includes parameters. Exponents are at
    most 0.05 off `limit` for time, at most so much above it for memory. `beside`: the number of busy processes.
    """

    case: str
    backend: str
    name: str
    quantity: Quantity
    limit: float
    against: str = ""
    implementation: str = "ours"
    tf32: bool = False
    beside: int = 0

    def text(self) -> str:
        """The condition, such as `<= 0.9`."""
        unit = {"seconds": (1e3, " ms"), "bytes": (1 / GB, " GB"), "share": (100, " %")}.get(self.quantity, (1, ""))
        number = f"{self.limit * unit[0]:.4g}{unit[1]}"
        if self.quantity == "exponent":
            return f"{number} ± {EXPONENT}"
        return f"{'>=' if self.quantity == 'share' else '<='} {number}"

    def met(self, value: float) -> bool:
        """Whether a measured value keeps it."""
        if self.quantity == "share":
            return value >= self.limit
        if self.quantity == "exponent":
            return abs(value - self.limit) <= EXPONENT
        return value <= self.limit


EXPONENT = 0.05


def _cpu() -> Iterable[Goal]:
    for case in ("imagenet-1", "language-1", "resampler"):
        for name, limit, memory in ((FORWARD, 0.9, 0.5), (BOTH, 0.95, 0.6)):
            yield Goal(case, "numpy", name, "time", limit, TORCH)
            yield Goal(case, "numpy", name, "time", 0.9, TORCH, beside=2)
            yield Goal(case, "numpy", name, "memory", memory, TORCH)
    yield Goal("training-step", "numpy", STEP, "time", 0.8, TORCH)
    yield Goal("training-step", "numpy", STEP, "time", 0.9, TORCH, beside=2)
    yield Goal("digits", "numpy", STEP, "time", 1.0, "torch")
    yield Goal("imagenet-1", "numpy", FORWARD, "share", 0.8)
    for case in ("imagenet-1", "language-1"):
        yield Goal(case, "numpy", BOTH, "memory", 0.3, TORCH, "checkpointed")
    for case, limit in (("check", 1.0), ("check-500", 30.0)):
        yield Goal(case, "numpy", COMMAND, "seconds", limit)
    yield Goal("flow", "numpy", FORWARD, "time", 0.45, TORCH)
    yield Goal("flow", "numpy", FORWARD, "bytes", 2.5 * GIB)
    for other in ("autograd", "mygrad"):
        yield Goal("engine", "numpy", BOTH, "time", 0.33, other)


def _gpu() -> Iterable[Goal]:
    for case in ("imagenet-8", "language-8"):
        for name in (FORWARD, BOTH):
            for which in ("ours", "recorded"):
                yield Goal(case, "cupy", name, "time", 0.97, "jax", which)
            yield Goal(case, "cupy", name, "time", 0.7, "jax", "recorded 3xtf32")
    for name in (FORWARD, BOTH):
        yield Goal("imagenet-1", "cupy", name, "time", 0.95, "jax", "recorded")
    yield Goal("imagenet-8", "cupy", BOTH, "bytes", 8 * GB)
    yield Goal("imagenet-8", "cupy", BOTH, "bytes", 4.5 * GB, implementation="checkpointed")
    for which in ("ours", "recorded"):
        yield Goal("flow", "cupy", FORWARD, "time", 0.45, "transformers", which)
        yield Goal("flow", "cupy", BOTH, "time", 0.6, "transformers", which)
    for case in ("imagenet-1", "imagenet-8", "language-1", "language-8"):
        for name in (FORWARD, BOTH):
            yield Goal(case, "cupy", name, "time", 0.6, TORCH, "recorded")
    for case, which in (("multimodal", "ours"), ("resampler", "recorded"), ("gated", "recorded")):
        for name in (FORWARD, BOTH):
            yield Goal(case, "cupy", name, "time", 1.0, TORCH, which)


def _both() -> Iterable[Goal]:
    for backend in ("numpy", "cupy"):
        for case in ("imagenet-1", "language-1") if backend == "numpy" else ("imagenet-8", "language-8"):
            yield Goal(case, backend, BOTH, "memory", 0.5, "ours", "checkpointed")
            yield Goal(case, backend, BOTH, "time", 1.35, "ours", "checkpointed")
        for name in (FORWARD, BOTH):
            yield Goal("scaling-M", backend, name, "exponent", 1.0)
            yield Goal("scaling-M", backend, name, "memory exponent", 1.0 + EXPONENT)
            yield Goal("scaling-O", backend, name, "memory exponent", 1.0 + EXPONENT)


TARGETS: tuple[Goal, ...] = (*_cpu(), *_gpu(), *_both())


@dataclass(frozen=True)
class Reached:
    """A target with the value measured; `against` is what stood for `TORCH`."""

    target: Goal
    value: float
    against: str

    @property
    def met(self) -> bool:
        return self.target.met(self.value)


def outcomes(result: Mapping[str, Any], targets: Sequence[Goal] = TARGETS) -> list[Reached]:
    """The targets that one run's rows and exponents say something about, in the table's order."""
    found = []
    for target in targets:
        if target.beside != result.get("beside", 0):
            continue
        if target.backend != result["backend"] or (target.backend == "cupy" and target.tf32 != result["tf32"]):
            continue
        value, against = _value(target, result)
        if value is not None:
            found.append(Reached(target, value, against))
    return found


def _value(target: Goal, result: Mapping[str, Any]) -> tuple[float | None, str]:
    if target.quantity in ("exponent", "memory exponent"):
        key = "seconds" if target.quantity == "exponent" else "peak"
        axis = target.case.removeprefix("scaling-")
        for fit in result["exponents"]:
            if (fit["axis"], fit["implementation"], fit["pass"]) == (axis, target.implementation, target.name):
                return fit[key], ""
        return None, ""
    rows = {
        row["implementation"]: row
        for row in result["rows"]
        if (row["case"], row["pass"]) == (target.case, target.name) and row.get("seconds") and not row.get("quick")
    }
    mine = rows.get(target.implementation)
    if mine is None:
        return None, ""
    if target.quantity in ("seconds", "bytes", "share"):
        key = {"seconds": "seconds", "bytes": "total", "share": "share"}[target.quantity]
        return mine.get(key), ""
    key = "seconds" if target.quantity == "time" else "peak"
    against = _fastest(rows, key) if target.against == TORCH else target.against
    other = rows.get(against, {}).get(key)
    if not other or mine.get(key) is None:
        return None, ""
    paired = target.quantity == "time" and target.implementation == "ours"
    return (rows[against]["ratio"] if paired else mine[key] / other), against


def _fastest(rows: Mapping[str, Mapping[str, Any]], key: str) -> str:
    """The PyTorch peer, not compiled, with the least of a figure."""
    peers = {
        name: row[key]
        for name, row in rows.items()
        if IMPLEMENTATIONS[name].torch and not IMPLEMENTATIONS[name].compiled and row.get(key)
    }
    return min(peers, key=peers.__getitem__) if peers else ""
