"""Shapes of published models, read off a trace of the model itself, and the symbols that stand for their sizes.

The model runs on arrays without elements (`ledger.sketch`): every point of a trace has its shape, nothing is computed.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from perceiver_ref.autograd import tree
from perceiver_ref.errors import InputError
from perceiver_ref.models.ledger import default_sizes, example
from perceiver_ref.models.ledger.record import sketched
from perceiver_ref.models.published import INPUTS, preset
from perceiver_ref.models.tracing import trace

Shape = tuple[int, ...]


def traced(name: str) -> dict[str, Shape]:
    """Shapes of a preset by the name of the traced point, in order; besides these `given.<argument>` and
    `parameter.<path>`. The batch is 1, and the inputs are those of the ledger.
    """
    model = preset(name)
    inputs = example(model, INPUTS.get(name) or default_sizes(model))
    return shapes(model, inputs)


def shapes(model: Any, inputs: Any) -> dict[str, Shape]:
    """The same for any model on any inputs, a tuple of them where `apply` takes several arguments."""
    with trace(lambda _: True) as points:
        sketched(model, inputs, np.float32, training=False)
    given = inputs if isinstance(inputs, tuple) else (inputs,)
    return {
        **{f"given.{i}": tuple(array.shape) for i, value in enumerate(given) for _, array in tree.leaves(value)},
        **{f"parameter.{path.replace('/', '.')}": p.shape for path, p in tree.leaves(model.parameters())},
        **{point: tuple(array.shape) for point, array in points.items()},
    }


class Symbols(dict[str, int]):
    """Symbol -> size, learned from shapes: each symbol has one size in all of them."""

    def learn(self, shapes: list[tuple[str, str, Shape]]) -> None:
        """Shapes as (where, symbols, shape), in any order; symbols such as "B, T S + N, w D".

        Raises `InputError` where the symbols do not fit, or leave a size open.
        """
        axes = []
        for where, symbols, shape in shapes:
            names = [axis.strip() for axis in symbols.split(",")] if symbols else []
            if len(names) != len(shape):
                raise InputError(f"{where} is {shape}, not ({symbols})")
            axes += [(where, axis, size) for axis, size in zip(names, shape)]
        while axes:
            left = [axis for axis in axes if not self._fits(*axis)]
            if len(left) == len(axes):
                raise InputError(f"{left[0][0]}: {left[0][1]!r} is left open by {dict(self)}")
            axes = left

    def _fits(self, where: str, axis: str, size: int) -> bool:
        """Whether all symbols of the axis are known, now; `InputError` where they give another size."""
        terms = [term.split() for term in axis.split("+")]
        unknown = [f for term in terms for f in term if not f.isdigit() and f not in self]
        if len(terms) == 1 and len(unknown) == 1:
            self[unknown[0]] = size // math.prod(self._value(f) for f in terms[0] if f != unknown[0])
        elif unknown:
            return False
        value = sum(math.prod(map(self._value, term)) for term in terms)
        if value != size:
            raise InputError(f"{where}: {axis} is {value}, not {size}, with {dict(self)}")
        return True

    def _value(self, factor: str) -> int:
        return int(factor) if factor.isdigit() else self[factor]
