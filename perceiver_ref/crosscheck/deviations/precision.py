"""Deviations of precision: one part of the model computed in fewer digits than the rest."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from ...autograd import ops
from ...autograd.backend import is_array, xp
from ...autograd.engine import Op
from ...autograd.ops.attention import scale_factor
from ...autograd.tensor import array_of
from ...variation import Replacement
from ..rounding import DIGITS, rounded
from .base import Candidate, Change, OpReplacement, Survey, at, exchanged, groups, replaced
from .layers import by_role
from .norms import NORMS

_FORMATS = ("float32", "bfloat16", "float16")
Cast = Callable[[Any], Any]


def dtype(found: Survey) -> Iterator[Candidate]:
    """A part computed in float32, float16 or bfloat16: its inputs cast down, its result cast up again."""
    places = list(dict.fromkeys(place for op in found.ops for place in found.ops[op]))
    for name in _FORMATS:
        cast = _cast(name)
        step = _narrow(cast)
        parts: dict[str, Mapping[str, OpReplacement]] = {
            "norms": dict.fromkeys(NORMS, step),
            "activations": dict.fromkeys(ops.activations, step),
            "attention without its linear maps": {"attention": _in_steps(cast)},
            "attention without its linear maps, in one step": {"attention": step},
            "the softmax": {"attention": _softmax_alone(cast)},
            "logits and softmax": {"attention": _weights_alone(cast)},
            "linear maps": {"linear": step},
            "the MLP": {**_within("mlp", {"linear": step, "multiply": step, **dict.fromkeys(ops.activations, step)})},
            "attention": {**_within("attention", {"linear": step}), "attention": _in_steps(cast)},
            "everything in it": {
                **dict.fromkeys(("linear", "add", "multiply", "concatenate", *NORMS, *ops.activations), step),
                "attention": _in_steps(cast),
            },
            "gates": {"tanh": step},
        }
        for part, table in parts.items():
            used = [place for place in places if any(place in found.ops.get(op, ()) for op in table)]
            for label, match, rare in groups(used) if used else []:
                if part == "everything in it" and label == "everywhere":
                    continue  # that is rounding
                yield Candidate("dtype", f"{part} in {name}, {label}", replaced(at(table, match)), rare)
        for role, paths in by_role([path for op in ("linear", *NORMS) for path in sorted(found.used.get(op, ()))]):
            for label, match, rare in groups(paths):
                meant = {path for path in paths if match(path)}
                yield Candidate("dtype", f"{role} in {name}, {label}", Change(ops=_of_paths(meant, step)), rare)
        yield Candidate("dtype", f"positions in {name}", exchanged(_positions(cast)))
        yield Candidate("dtype", f"the grid in {name}", exchanged(_grid(cast)))
        yield Candidate("dtype", f"angles in {name}", exchanged(_angles(cast)))
        yield Candidate("dtype", f"the table of positions in {name}", exchanged(_table(cast)))


def _cast(name: str) -> Cast:
    """Values as they are after a cast to a narrower format and back."""
    if name == "bfloat16":
        return lambda a: rounded(a.astype(np.float32).astype(np.float64), DIGITS[name]).astype(a.dtype)
    return lambda a: a.astype(name).astype(a.dtype)


def _narrow(cast: Cast) -> OpReplacement:
    """The op on narrowed arguments, in float32 inside, with a narrowed result."""

    def run(op: Op, arguments: Any, static: Any) -> Any:
        if op.name == "concatenate":
            return cast(array_of(op(*arguments, **static)))
        out = op(*(_down(cast, a) for a in arguments), **static)
        return cast(array_of(out).astype(np.float64))

    return run


def _down(cast: Cast, value: Any) -> Any:
    data = array_of(value)
    return cast(data).astype(np.float32) if is_array(data) and data.dtype.kind == "f" else value


def _within(part: str, table: Mapping[str, OpReplacement]) -> Mapping[str, OpReplacement]:
    return at(table, lambda place: part in place.split("."))


def _of_paths(
    meant: set[str], replacement: OpReplacement
) -> Callable[[Callable[[Any], str]], Mapping[str, OpReplacement]]:
    """The linear maps or norms with these weights."""

    def table(path: Callable[[Any], str]) -> Mapping[str, OpReplacement]:
        def run(op: Op, arguments: Any, static: Any) -> Any:
            return replacement(op, arguments, static) if path(arguments[1]) in meant else op(*arguments, **static)

        return dict.fromkeys(("linear", *NORMS), run)

    return table


def _masked(scores: Any, static: Any) -> Any:
    mask = static.get("mask")
    if mask is None:
        return scores
    library = xp(scores)
    scores = library.where(mask, scores, library.asarray(-np.inf, scores.dtype))
    return library.where(mask.any(-1, keepdims=True), scores, library.zeros((), scores.dtype))


def _scores(arguments: Any, static: Any) -> Any:
    q, k, _, *rest = (array_of(a) for a in arguments)
    s = q @ k.swapaxes(-1, -2) * scale_factor(q, static.get("scale"))
    return _masked(s if not rest or rest[0] is None else s + rest[0], static)


def _mix(weights: Any, arguments: Any, static: Any) -> Any:
    mask = static.get("mask")
    if mask is not None and static.get("masked_rows", "zero") == "zero":
        weights = xp(weights).where(mask.any(-1, keepdims=True), weights, 0.0)
    return weights @ array_of(arguments[2])


def _in_steps(cast: Cast) -> OpReplacement:
    """Each step of attention rounded: scaled queries, logits, weights, mixture."""

    def run(op: Op, arguments: Any, static: Any) -> Any:
        q, k, v, *rest = (array_of(a) for a in arguments)
        q, k, v = cast(q), cast(k), cast(v)
        s = cast(cast(q * scale_factor(q, static.get("scale"))) @ k.swapaxes(-1, -2))
        if rest and rest[0] is not None:
            s = cast(s + rest[0])
        weights = cast(array_of(ops.softmax(_masked(s, static).astype(np.float32))).astype(np.float64))
        return cast(_mix(weights, (q, k, v), static))

    return run


def _softmax_alone(cast: Cast) -> OpReplacement:
    def run(op: Op, arguments: Any, static: Any) -> Any:
        scores = cast(_scores(arguments, static)).astype(np.float32)
        return _mix(cast(array_of(ops.softmax(scores)).astype(np.float64)), arguments, static)

    return run


def _weights_alone(cast: Cast) -> OpReplacement:
    def run(op: Op, arguments: Any, static: Any) -> Any:
        q, k, *rest = arguments
        narrowed = (cast(array_of(q)), cast(array_of(k)), *rest)
        scores = cast(_scores(narrowed, static)).astype(np.float32)
        return _mix(cast(array_of(ops.softmax(scores)).astype(np.float64)), arguments, static)

    return run


def _positions(cast: Cast) -> Mapping[str, Replacement]:
    """Positions and what is made of them."""

    def features(original: Any, positions: Any, *arguments: Any, **options: Any) -> Any:
        return cast(array_of(original(cast(array_of(positions)), *arguments, **options)))

    return {"fourier_features": features}


def _table(cast: Cast) -> Mapping[str, Replacement]:
    """The finished features alone, or a learned table."""

    def features(original: Any, *arguments: Any, **options: Any) -> Any:
        return cast(array_of(original(*arguments, **options)))

    return {"fourier_features": features, "TrainablePositions": features}


def _grid(cast: Cast) -> Mapping[str, Replacement]:
    return {"linear_positions": lambda original, *arguments, **options: cast(original(*arguments, **options))}


def _angles(cast: Cast) -> Mapping[str, Replacement]:
    """Positions, frequencies and their products in float32."""

    def features(original: Any, positions: Any, *arguments: Any, **options: Any) -> Any:
        narrow = cast(array_of(positions)).astype(np.float32)
        return array_of(original(narrow, *arguments, **options)).astype(np.float64)

    return {"fourier_features": features}
