"""How time and memory grow with inputs M, latents N, outputs O and depth: points of four axes, fitted exponents.

A point is a case like any other, of perceiver-pytorch's PerceiverIO, whose sizes are all free. On each axis the other
sizes are such that what grows is most of the work; the exponent of the FLOPs says what to expect.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from perceiver_ref.errors import InputError

from .case import BenchCase
from .figures import exponent


@dataclass(frozen=True)
class Axis:
    """Sizes along one argument of `subjects.perceiver_io`; the others stay.

    `gpu`: the sizes there, where launches take longer than the work of smaller ones.
    """

    name: str
    what: str
    argument: str
    full: tuple[int, ...]
    quick: tuple[int, ...]
    rest: Mapping[str, int]
    gpu: tuple[int, ...] = ()

    def sizes(self, backend: str) -> tuple[int, ...]:
        """The full sizes on a backend."""
        return self.gpu or self.full if backend == "cupy" else self.full


AXES: dict[str, Axis] = {
    axis.name: axis
    for axis in (
        Axis(
            "M",
            "inputs",
            "inputs",
            (262144, 524288, 1048576),
            (8, 16),
            {"latents": 128, "outputs": 1, "depth": 1, "channels": 256},
            gpu=(2097152, 4194304, 8388608),
        ),
        Axis(
            "N",
            "latents",
            "latents",
            (256, 512, 1024, 2048),
            (4, 8),
            {"inputs": 1024, "outputs": 1, "depth": 2, "channels": 256},
        ),
        Axis(
            "O",
            "outputs",
            "outputs",
            (32768, 65536, 131072, 262144),
            (8, 16),
            {"inputs": 64, "latents": 128, "depth": 1, "channels": 256},
            gpu=(1048576, 2097152, 4194304),
        ),
        Axis(
            "depth",
            "self-attention layers",
            "depth",
            (4, 8, 16, 32),
            (1, 2),
            {"inputs": 64, "latents": 256, "outputs": 1, "channels": 256},
        ),
    )
}


def _points(axis: Axis) -> Iterable[BenchCase]:
    for number, size in enumerate(dict.fromkeys((*axis.full, *axis.gpu))):
        quick = axis.quick[min(number, len(axis.quick) - 1)]
        yield BenchCase(
            f"scaling-{axis.name}-{size}",
            f"{axis.what} {axis.name} = {size}",
            "perceiver_io",
            {**axis.rest, axis.argument: size},
            {"inputs": 8, "latents": 4, "outputs": 3, "depth": 1, "channels": 16, axis.argument: quick},
            ("ours", "perceiver-pytorch"),
        )


POINTS: dict[str, BenchCase] = {row.name: row for axis in AXES.values() for row in _points(axis)}


def points(backend: str) -> list[BenchCase]:
    """The rows of all axes at a backend's sizes."""
    return [POINTS[f"scaling-{axis.name}-{size}"] for axis in AXES.values() for size in axis.sizes(backend)]


def exponents(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Fitted over the measured points of each axis, implementation and pass: {axis, ..., time, memory, flops}.

    Those of a quick run have two sizes, whose names are the full ones: they are not fitted.
    """
    rows = list(rows)
    found = []
    for axis in AXES.values():
        named = {f"scaling-{axis.name}-{size}": size for size in (*axis.full, *axis.gpu)}
        mine = [row for row in rows if row["case"] in named and row.get("seconds") and not row.get("quick")]
        for implementation, name in dict.fromkeys((row["implementation"], row["pass"]) for row in mine):
            line = [row for row in mine if (row["implementation"], row["pass"]) == (implementation, name)]
            fitted = {"axis": axis.name, "implementation": implementation, "pass": name, "points": len(line)}
            for figure in ("seconds", "peak", "flops"):
                sizes = [named[row["case"]] for row in line if row.get(figure)]
                values = [row[figure] for row in line if row.get(figure)]
                try:
                    fitted[figure] = exponent(sizes, values)
                except InputError:
                    fitted[figure] = None
            found.append(fitted)
    return found
