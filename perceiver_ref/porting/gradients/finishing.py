"""What may be done to gradients when they are finished: clipping and narrower formats."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from ..rounding.grid import cast_to
from .backward import norm_of
from .target import Target

_ROUND = 1e-6
"""A limit is a round number when it has so few digits: two significant ones."""

Named = Mapping[str, np.ndarray]
_Change = Callable[[np.ndarray], np.ndarray]


class Finish(NamedTuple):
    """What is done to finished gradients, by name."""

    cause: str
    variant: str
    changes: Mapping[str, _Change]


def finished_alike(target: Target, order: Sequence[str]) -> Iterator[Finish]:
    """What may have been done to gradients that are wrong for another reason besides: what they have in common tells.

    Several elements, or arrays' norms, are at the limit; all are numbers of a format; or the norm is a round number.
    order: the wrong gradients as they come on the way back.
    """
    yield from _clipped_parameters(target, order)
    params = [name for name in target.expected if name.startswith("grad_param/")]
    theirs = target.expected
    for what, names in (("", list(theirs)), (" of parameters", params)):
        limit = max((float(np.abs(theirs[n]).max(initial=0.0)) for n in names), default=0.0)
        at = sum(int((np.abs(theirs[n]) >= limit * (1 - _ROUND)).sum()) for n in names)
        if limit and at > 1 and any((np.abs(target.named[n]) > limit).any() for n in names):
            yield Finish("gradient-clipped", f"values{what} to {limit:.4g}", dict.fromkeys(names, _clipped(limit)))
        lengths = [norm_of([theirs[n]]) for n in names]
        limit = max(lengths, default=0.0)
        if limit and sum(length >= limit * (1 - _ROUND) for length in lengths) > 1:
            variant = f"each gradient{what} to a norm of {limit:.4g}"
            yield Finish("gradient-clipped", variant, dict.fromkeys(names, _shortened(limit)))
        for dtype in ("bfloat16", "float16", "float32"):
            cast = cast_to(dtype)
            if all(np.array_equal(cast(theirs[n]), theirs[n]) for n in names):
                yield Finish("gradient-dtype", f"finished gradients{what} in {dtype}", dict.fromkeys(names, cast))
                break


def clipped_by_norm(theirs: Named, names: Sequence[str]) -> tuple[str, str] | None:
    """Cause and variant where these gradients have a norm that is a round number."""
    length = norm_of([theirs[name] for name in names])
    of = "all" if len(names) == len(theirs) else "parameters'"
    return ("gradient-clipped", f"{of} gradients to a norm of {length:.2g}") if _is_round(length) else None


def _clipped_parameters(target: Target, order: Sequence[str]) -> Iterator[Finish]:
    """Those of parameters clipped by their norm: the first that is right but for a factor tells."""
    params = [name for name in target.expected if name.startswith("grad_param/")]
    said = clipped_by_norm(target.expected, params)
    for name in order if said and len(params) < len(target.expected) else ():
        wanted, ours = target.expected[name], target.named[name]
        factor = float((wanted * ours).sum()) / max(float(np.square(ours).sum()), 1e-300)
        apart = float(np.abs(wanted - factor * ours).max(initial=0.0))
        if said and name in params and 0 < factor < 1 and ours.size > 1 and apart <= _ROUND * np.abs(wanted).max():
            yield Finish(*said, dict.fromkeys(params, partial(np.multiply, factor)))
            return


def finishes(target: Target, norm: float | None = None) -> Iterator[tuple[str, str, dict[str, np.ndarray]]]:
    """(cause, variant, gradients) of every way; with `norm` only whether a factor on all is clipping by their norm."""
    params = {name: array for name, array in target.named.items() if name.startswith("grad_param/")}
    theirs = {name: target.expected[name] for name in params}
    if norm is not None:
        for what, arrays in (("parameters'", theirs), ("all", target.expected)):
            length = norm_of(list(arrays.values()))
            if norm < 1 and _is_round(length):
                yield "gradient-clipped", f"{what} gradients to a norm of {length:.2g}", {}
        return
    for what, arrays in (("", target.named), (" of parameters", params)):
        values = {name: float(np.abs(target.expected[name]).max(initial=0.0)) for name in arrays}
        limit = max(values.values(), default=0.0)
        if limit and any(np.abs(array).max(initial=0.0) > limit * (1 + _ROUND) for array in arrays.values()):
            yield "gradient-clipped", f"values{what} to {limit:.4g}", _made(target, arrays, _clipped(limit))
        lengths = [norm_of([target.expected[name]]) for name, array in arrays.items()]
        limit = max(lengths, default=0.0)
        yield (
            "gradient-clipped",
            f"each gradient{what} to a norm of {limit:.4g}",
            _made(target, arrays, _shortened(limit)),
        )
        length = norm_of([target.expected[n] for n in arrays])
        factor = length / max(norm_of(list(arrays.values())), 1e-300)
        if factor < 1 and _is_round(length):
            yield (
                "gradient-clipped",
                f"gradients{what} to a norm of {length:.2g}",
                _made(target, arrays, partial(np.multiply, factor)),
            )
        for dtype in ("float16", "bfloat16", "float32"):
            yield "gradient-dtype", f"finished gradients{what} in {dtype}", _made(target, arrays, cast_to(dtype))


def _made(
    target: Target, arrays: dict[str, np.ndarray], change: Callable[[np.ndarray], np.ndarray]
) -> dict[str, np.ndarray]:
    return {name: change(array) if name in arrays else array for name, array in target.named.items()}


def _clipped(limit: float) -> Callable[[np.ndarray], np.ndarray]:
    return lambda array: np.clip(array, -limit, limit)


def _shortened(limit: float) -> Callable[[np.ndarray], np.ndarray]:
    return lambda array: array * min(1.0, limit / max(norm_of([array]), 1e-300))


def _is_round(value: float) -> bool:
    return value > 0 and abs(value / float(f"{value:.1e}") - 1) <= _ROUND
