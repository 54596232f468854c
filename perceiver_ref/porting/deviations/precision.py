"""Deviations of precision: one part of the model computed in fewer digits than the rest."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from ...autograd import ops
from ...autograd.backend import xp
from ...autograd.core import Op, array_of
from ...models.positions import TrainablePositions
from ...models.tracing import where
from ..exchange import Replacement
from ..rounding.arithmetic import MOVING, apart, is_exempt
from ..rounding.grid import Cast, cast_to
from .autocast import autocast
from .base import (
    Candidate,
    Change,
    Exchange,
    Match,
    OpReplacement,
    Survey,
    at,
    exchanged,
    groups,
    module_of,
    only,
    replaced,
)
from .layers import by_role
from .narrow import AFTER, BEFORE, STABLE, Manner, in_steps, logits_and_softmax, narrowed, softmax_alone
from .norms import NORMS
from .weights import weights

FORMATS = ("bfloat16", "float16", "float32")

_ATTENTION, _MLP, _NORM, _MLP_NORM, _SUM, _MLP_SUM, _REST = range(7)
_PARTS = {
    "attention": {_ATTENTION},
    "attention and its norms": {_ATTENTION, _NORM},
    "attention, its norms and its residual": {_ATTENTION, _NORM, _SUM},
    "attention and its residual": {_ATTENTION, _SUM},
    "the MLP": {_MLP},
    "the MLP and its norm": {_MLP, _MLP_NORM},
    "the MLP, its norm and its residual": {_MLP, _MLP_NORM, _MLP_SUM},
    "whole layers": {_ATTENTION, _NORM, _SUM, _MLP, _MLP_NORM, _MLP_SUM, _REST},
}


class _Made(NamedTuple):
    """A part in less precision: what it is in words, what it changes, and all that two of the same kind share."""

    part: str
    label: str
    change: Change
    rare: bool
    key: Any


def dtype(found: Survey) -> Iterator[Candidate]:
    """A part computed in float32, float16 or bfloat16: its inputs cast down, its result cast up again; or weights in
    fewer bits, or everything under autocast."""
    yield from weights(found)
    yield from autocast(found, _manners(found)[:4])
    seen: set[Any] = set()
    for name in FORMATS:
        for made in _made(found, cast_to(name)):
            if (name, made.key) not in seen:
                seen.add((name, made.key))
                yield Candidate("dtype", f"{made.part} in {name}, {made.label}", made.change, made.rare)


def _made(found: Survey, cast: Cast) -> Iterator[_Made]:
    manners = _manners(found)
    yield from _norms(found, cast)
    yield from _of_layers(found, cast, manners)
    yield from _of_attention(found, cast, manners)
    yield from _positions(cast)
    yield from _linear_maps(found, cast, manners)
    yield from _scopes(found, cast, manners)


def _manners(found: Survey) -> tuple[Manner, ...]:
    """Where rounding may happen within attention and linear maps, the usual way of the model's family first.

    Flamingo's attention scales queries before the product; JAX adds biases to rounded products.
    """
    jax = any(name.endswith("/w") for name in found.stored)
    flamingo = any(path.endswith(("attention_gate", "features_norm/scale")) for path in found.paths)
    first = (STABLE, BEFORE, AFTER) if flamingo else (AFTER, BEFORE, STABLE)
    made = tuple(manner._replace(apart=jax) for manner in (*first, Manner(fused=True)))
    return (*made, made[0]._replace(apart=not jax))


def _norms(found: Survey, cast: Cast) -> Iterator[_Made]:
    """Norms, all of them and by role."""
    paths = [path for op in NORMS for path in sorted(found.used.get(op, ())) if path.endswith("scale")]
    for role, chosen in [("norms", paths), *by_role(paths)]:
        for label, match, rare in groups(chosen) if chosen else []:
            meant = {path for path in chosen if match(path)}
            yield _Made(role, label, _of_paths(meant, narrowed(cast)), rare, frozenset(meant))


def _linear_maps(found: Survey, cast: Cast, manners: tuple[Manner, ...]) -> Iterator[_Made]:
    """Linear maps by role."""
    paths = [path for path in sorted(found.used.get("linear", ())) if path.endswith("weight")]
    for role, chosen in by_role(paths):
        for label, match, rare in groups(chosen):
            meant = {path for path in chosen if match(path)}
            for manner in (manners[0], manners[-1]):
                other = manner is manners[-1]
                words = str(Manner(apart=manner.apart))
                change = _of_paths(meant, narrowed(cast, manner))
                yield _Made(role, f"{label}{words}", change, rare or other, (frozenset(meant), words))


def _of_paths(meant: set[str], replacement: OpReplacement) -> Change:
    """The linear maps or norms with these weights."""

    def table(path: Callable[[Any], str]) -> Mapping[str, OpReplacement]:
        def run(op: Op, arguments: Any, static: Any) -> Any:
            return replacement(op, arguments, static) if path(arguments[1]) in meant else op(*arguments, **static)

        return dict.fromkeys(("linear", *NORMS), run)

    return Change(ops=table)


def _of_layers(found: Survey, cast: Cast, manners: tuple[Manner, ...]) -> Iterator[_Made]:
    """Parts of layers, or whole ones: everywhere, in a kind of layer, in one layer."""
    branches = [p for p in dict.fromkeys([*_places(found, "attention"), *_places(found, "linear")]) if _branch(p)]
    layers = list(dict.fromkeys(_layer(place) for place in branches))
    for part, kinds in _PARTS.items():
        here = [p for p in branches if {"attention": _ATTENTION, "mlp": _MLP}[_branch(p)] in kinds]
        used = [layer for layer in layers if any(_layer(p) == layer for p in here)]
        if not used:
            continue
        chosen = [(label, [x for x in used if match(f"{x}.attention")], rare) for label, match, rare in groups(used)]
        chosen += [(f"in {layer or 'the only layer'}", [layer], True) for layer in used[1:-1]]
        for label, meant, rare in chosen:
            if kinds == set(range(_REST + 1)) and _is_all(found, set(meant)):
                continue  # that is rounding
            for i, manner in enumerate(manners if _ATTENTION in kinds else (manners[0], manners[-1])):
                change = _in_layers(found, set(meant), kinds, narrowed(cast, manner))
                key = (part, frozenset(meant), manner)
                yield _Made(part, f"{label}{manner}", change, rare or i > 0, key)


def _is_all(found: Survey, layers: set[str]) -> bool:
    """Whether nothing is computed outside these layers."""
    return all(_layer(place) in layers for op, places in found.ops.items() if op not in MOVING for place in places)


def _in_layers(found: Survey, layers: set[str], kinds: set[int], replacement: OpReplacement) -> Change:
    """What belongs to these parts of these layers."""

    def table(path: Callable[[Any], str]) -> Mapping[str, OpReplacement]:
        newest = [""]

        def run(op: Op, arguments: Any, static: Any) -> Any:
            place = where()
            branch = _branch(place)
            newest[0] = branch or newest[0]
            module = module_of(path(arguments[1])) if op.name in NORMS else ""
            meant = _layer(place) in layers and _kind(op, branch, module, newest[0]) in kinds
            return replacement(op, arguments, static) if meant else op(*arguments, **static)

        return dict.fromkeys(found.ops, run)

    return Change(ops=table)


def _kind(op: Op, branch: str, module: str, newest: str) -> int:
    if branch:
        return _ATTENTION if branch == "attention" else _MLP
    if op.name in NORMS:
        return _MLP_NORM if module.endswith("mlp_norm") else _NORM
    if op.name == "add":
        return _SUM if newest == "attention" else _MLP_SUM
    return _REST


def _branch(place: str) -> str:
    """ "attention" or "mlp" for what is inside one."""
    parts = place.split(".")
    return next((name for name in ("attention", "mlp") if name in parts), "")


def _layer(place: str) -> str:
    """The layer that a place is in: its scopes up to the branch."""
    parts, branch = place.split("."), _branch(place)
    return ".".join(parts[: parts.index(branch)]) if branch else place


def _places(found: Survey, *names: str) -> list[str]:
    return list(dict.fromkeys(place for name in names for place in found.ops.get(name, [])))


def _of_attention(found: Survey, cast: Cast, manners: tuple[Manner, ...]) -> Iterator[_Made]:
    """Steps of attention without its linear maps; activations; gates."""
    steps = {"the softmax": softmax_alone, "logits and softmax": logits_and_softmax, "attention alone": in_steps}
    for part, function in steps.items():
        for i, manner in enumerate(manners[: 4 if part == "attention alone" else 3]):
            if part == "the softmax" and manner.scaled_first != manner.lowered:
                continue  # rounds as one of the others
            yield from _at(found, part, {"attention": function(cast, manner)}, str(manner), rare=i > 0)
    yield from _at(found, "activations", dict.fromkeys(ops.activations, narrowed(cast)))
    yield from _at(found, "linear maps", {"linear": narrowed(cast, manners[0])})
    yield from _at(found, "gates", {"tanh": narrowed(cast)})


def _at(
    found: Survey, part: str, table: Mapping[str, OpReplacement], words: str = "", *, rare: bool = False
) -> Iterator[_Made]:
    used = _places(found, *table)
    for label, match, single in groups(used) if used else []:
        key = (part, words, frozenset(place for place in used if match(place)))
        yield _Made(part, f"{label}{words}", replaced(at(table, match)), single or rare, key)


def everything(found: Survey, name: str) -> Iterator[Candidate]:
    """All of the model in a format: no deviation, but what a part that holds all its arithmetic cannot be told from."""
    for manner in _manners(found):
        table = dict.fromkeys(found.ops, _but_positions(narrowed(cast_to(name), manner)))
        change = replace(replaced(table), parts=lambda: _POSITIONS_APART)
        yield Candidate("dtype", f"everything in {name}, everywhere{manner}", change)
    if name == "float32":
        # PyTorch and JAX make angles of positions of the same format, step by step
        angles = replace(replaced(table), parts=lambda: {"fourier_features": _angles(cast_to(name))})
        yield Candidate("dtype", f"everything in {name}, angles too, everywhere", angles)


def _scopes(found: Survey, cast: Cast, manners: tuple[Manner, ...]) -> Iterator[_Made]:
    """Everything in a part of the model; everything everywhere is rounding."""
    places = _places(found, *found.ops)
    for label, match, rare in groups(places)[1:]:
        table = dict.fromkeys(found.ops, _but_positions(narrowed(cast, manners[0])))
        change = replace(replaced(at(table, match)), parts=lambda: _POSITIONS_APART)
        yield _Made("everything", label, change, rare, ("everything", label))


_POSITIONS_APART: Exchange = {"fourier_features": apart}
"""Libraries make features of positions in float32, in models of every dtype; that they do not is of `_positions`."""


def _but_positions(replacement: OpReplacement) -> OpReplacement:
    def run(op: Op, arguments: Any, static: Any) -> Any:
        return op(*arguments, **static) if is_exempt() else replacement(op, arguments, static)

    return run


def _positions(cast: Cast) -> Iterator[_Made]:
    """The coordinates, angles or features of positions, or a learned table."""
    tables: dict[str, Exchange] = {
        "positions": {"fourier_features": _features(cast, cast)},
        "the grid": {"linear_positions": _rounded_result(cast)},
        "the table of positions": dict.fromkeys(("fourier_features", TrainablePositions.apply), _rounded_result(cast)),
        "coordinates": {"fourier_features": _features(cast, lambda a: a)},
        "points": {"subsampled_positions": _rounded_result(cast)},
        "Fourier features step by step": {"fourier_features": _stepwise(cast)},
        "angles": {"fourier_features": _angles(cast)},
    }
    for part, table in tables.items():
        yield _Made(part, "everywhere", exchanged(table), rare=False, key=part)
        for label, match in _SIDES.items():
            held = exchanged({name: only(made, lambda match=match: match(where())) for name, made in table.items()})  # type: ignore[misc]
            yield _Made(part, label, held, rare=True, key=(part, label))


_SIDES: dict[str, Match] = {
    "in the decoder": lambda place: place.split(".")[0] == "decoder",
    "outside the decoder": lambda place: place.split(".")[0] != "decoder",
}


def _features(before: Cast, after: Cast) -> Replacement:
    def run(original: Any, positions: Any, *arguments: Any, **options: Any) -> Any:
        return after(array_of(original(before(array_of(positions)), *arguments, **options)))

    return run


def _rounded_result(cast: Cast) -> Replacement:
    return lambda original, *arguments, **options: cast(array_of(original(*arguments, **options)))


def _angles(cast: Cast) -> Replacement:
    """Positions, frequencies and their products in float32."""

    def run(original: Any, positions: Any, *arguments: Any, **options: Any) -> Any:
        narrow_positions = cast(array_of(positions)).astype(np.float32)
        return array_of(original(narrow_positions, *arguments, **options)).astype(np.float64)

    return run


def _stepwise(cast: Cast) -> Replacement:
    """Every step rounded: positions, frequencies, their products, those with pi, sines and cosines."""

    def run(
        original: Any,
        positions: Any,
        num_bands: int,
        max_resolution: tuple[int, ...],
        *,
        concat_pos: bool = True,
        sine_only: bool = False,
    ) -> Any:
        x = cast(array_of(positions))
        made = np.stack([_linspace(cast, 1.0, size / 2, num_bands) for size in max_resolution])
        bands = xp(x).asarray(made)
        angles = cast(cast(x[..., None] * bands) * np.pi).reshape(*x.shape[:-1], bands.size)
        parts = [cast(np.sin(angles))] if sine_only else [cast(np.sin(angles)), cast(np.cos(angles))]
        return np.concatenate([x, *parts] if concat_pos else parts, axis=-1)

    return run


def _linspace(cast: Cast, start: float, stop: float, n: int) -> np.ndarray:
    """As PyTorch makes it: a rounded step, from the start for the first half and from the end for the second."""
    low, high = cast(np.array(start)), cast(np.array(stop))
    step = cast((high - low) / max(n - 1, 1))
    i = np.arange(n)
    made: np.ndarray = cast(np.where(i < n // 2, low + step * i, high - step * (n - 1 - i)))
    return made
