"""Automatic mixed precision: products in a narrow format, the rest in whatever format its arguments have.

As `torch.autocast` does: linear maps, convolutions and attention take everything cast down and give narrow results;
another op gives a narrow result when all its arguments are narrow, and float32 otherwise, so that residual sums with
what was not narrow stay wide. On a GPU norms give float32, on a CPU the format of what they norm.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any
from weakref import WeakValueDictionary

from ...autograd.backend import is_array
from ...autograd.core import Op, array_of
from ..rounding.arithmetic import MOVING, PRODUCTS
from ..rounding.grid import Cast, cast_to
from .base import Candidate, Change, OpReplacement, Survey
from .narrow import Manner, narrowed
from .norms import NORMS

FORMATS = ("bfloat16", "float16")
_WIDE = (*NORMS, "softmax", "log_softmax", "exp", "log", "logsumexp", "sum", "cross_entropy", "squared_error")
"""What a GPU computes and gives in float32"""


def autocast(found: Survey, manners: tuple[Manner, ...]) -> Iterator[Candidate]:
    """Everything under autocast, in the manners of a model's family, on a CPU and on a GPU."""
    for name in FORMATS:
        for manner in manners:
            for device, wide in (("a CPU", ()), ("a GPU", _WIDE)):
                change = Change(ops=_table(found, cast_to(name), manner, wide))
                yield Candidate("dtype", f"autocast in {name}, as on {device}{manner}", change)


def _table(
    found: Survey, cast: Cast, manner: Manner, wide: tuple[str, ...]
) -> Callable[[Callable[[Any], str]], Mapping[str, OpReplacement]]:
    product = narrowed(cast, manner._replace(apart=False))
    tables = found.used.get("take", set())

    def table(path: Callable[[Any], str]) -> Mapping[str, OpReplacement]:
        known: WeakValueDictionary[int, Any] = WeakValueDictionary()

        def noted(out: Any) -> Any:
            for array in _arrays(out):
                known[id(array)] = array
            return out

        def run(op: Op, arguments: Any, static: Any) -> Any:
            if op.name == "linear" and len(arguments) > 2 and (manner.apart or path(arguments[1]) in tables):
                # a product with a bias, which is wide, added to it: written as two operations
                return array_of(product(op, arguments[:2], static)) + array_of(arguments[2])
            if op.name in PRODUCTS:
                return noted(product(op, arguments, static))
            given = _arrays(arguments[:1] if op.name in NORMS else arguments)
            is_narrow = bool(given) and all(known.get(id(array)) is array for array in given)
            out = op(*arguments, **static)
            if not is_narrow or op.name in wide:
                return out
            return noted(out if op.name in MOVING else _cast(cast, out))

        return dict.fromkeys(found.ops, run)

    return table


def _cast(cast: Cast, out: Any) -> Any:
    return tuple(_cast(cast, o) for o in out) if isinstance(out, (tuple, list)) else cast(array_of(out))


def _arrays(values: Any) -> list[Any]:
    """The floating-point arrays among values."""
    if isinstance(values, (tuple, list)):
        return [array for value in values for array in _arrays(value)]
    data = array_of(values)
    return [data] if is_array(data) and data.dtype.kind == "f" else []
