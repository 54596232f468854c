"""Deviations of rotary position embedding."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from ...autograd import ops
from ...autograd.backend import xp
from ...autograd.core import array_of
from ...autograd.tree import Tree
from ...models.attention import Attention, KeysValues
from ...models.rotary import Rotary, rotate
from ...models.tracing import where
from .base import Candidate, Match, Survey, exchanged, groups

Turned = Callable[[Rotary, Any, Any], Any]
"""(rotary, x (..., H, N, d), positions (..., N)) -> x turned"""
_OTHER: dict[str, Any] = {"interleaved": "half_split", "half_split": "interleaved"}
_SAID = {"interleaved": "neighbouring channels", "half_split": "channels half the width apart"}


def _pairs_of_other_angles(rotary: Rotary, x: Any, positions: Any) -> Any:
    cosine, sine = rotary.turn(positions, array_of(x))
    return rotate(x, cosine, sine, _OTHER[rotary.pairing])


def _with(**changed: Callable[[Rotary], Any]) -> Turned:
    def turned(rotary: Rotary, x: Any, positions: Any) -> Any:
        return replace(rotary, **{name: made(rotary) for name, made in changed.items()}).apply(x, positions)

    return turned


def _powers(base: float, *, closed: bool = False) -> Callable[[Rotary], tuple[float, ...]]:
    def made(rotary: Rotary) -> tuple[float, ...]:
        n = len(rotary.frequencies)
        return tuple(float(w) for w in base ** -np.linspace(0, 1, n, endpoint=closed))

    return made


_WAYS: dict[str, Turned] = {
    "pairs as {pairs}": _with(pairing=lambda rotary: _OTHER[rotary.pairing]),
    "pairs as {pairs}, angles in the order before": _pairs_of_other_angles,
    "turned the other way": _with(frequencies=lambda rotary: tuple(-w for w in rotary.frequencies)),
    "none": lambda rotary, x, positions: x,
    "frequencies of the base 10000": _with(frequencies=_powers(1e4)),
    "frequencies with both ends": _with(frequencies=_powers(1e4, closed=True)),
    "frequencies of the base 100000": _with(frequencies=_powers(1e5)),
    "frequencies of the base 1000": _with(frequencies=_powers(1e3)),
    "frequencies in reverse": _with(frequencies=lambda rotary: rotary.frequencies[::-1]),
    "half of the frequencies": _with(
        frequencies=lambda rotary: rotary.frequencies[: max(len(rotary.frequencies) // 2, 1)]
    ),
    "all heads": _with(heads=lambda rotary: None),
}
_ORDER: dict[str, Callable[[Any], Any]] = {
    "counted from 0": lambda places: places - places.min(-1, keepdims=True),
    "one later": lambda places: places + 1,
    "one earlier": lambda places: places - 1,
    "in reverse": lambda places: places[..., ::-1],
}


def rotary(found: Survey) -> Iterator[Candidate]:
    """Pairs of other channels, other frequencies, none; positions of queries or keys counted otherwise."""
    turning = [layer.rotary for layer in found.of_class(Attention) if layer.rotary is not None]
    if not turning:
        return
    pairs = _SAID[_OTHER[turning[0].pairing]]
    for name, way in _WAYS.items():

        def rotated(original: Any, layer: Any, x: Any, positions: Any, way: Turned = way) -> Any:
            if layer.rotary is None or positions is None:
                return original(layer, x, positions)
            return way(layer.rotary, x, positions)

        yield Candidate("rotary", name.format(pairs=pairs), exchanged({Attention._rotated: rotated}))
    for label, match, rare in groups(found.ops.get("attention", [])):
        for name, order in _ORDER.items():
            variant = f"positions of queries {name}, {label}"
            yield Candidate("rotary", variant, exchanged({Attention.apply: _queries(order, match)}), rare)
        unturned = exchanged({Attention.apply: _queries(None, match)})
        yield Candidate("rotary", f"queries not turned, {label}", unturned, rare)
    yield Candidate("rotary", "keys not turned", exchanged({Attention.keys_values: _keys_unturned}))
    yield Candidate("rotary", "values turned too", exchanged({Attention.keys_values: _values_turned}))


def _queries(order: Callable[[Any], Any] | None, match: Match) -> Callable[..., Any]:
    """Queries at other positions, or, without an order, not turned; keys as they are."""

    def attend(original: Any, layer: Any, p: Tree, x: Any, z: Any, **options: Any) -> Any:
        if layer.rotary is not None and match(f"{where()}.attention"):
            if not isinstance(z, KeysValues):
                names = {"positions": options.get("key_positions"), "values": options.pop("values", None)}
                z = layer.keys_values(p, z, **names)
            if order is None:
                layer = layer.with_fields(rotary=None)
            elif options.get("positions") is not None:
                places = options["positions"]
                options["positions"] = order(xp(places).asarray(places))
        return original(layer, p, x, z, **options)

    return attend


def _keys_unturned(original: Any, layer: Any, p: Tree, z: Any, **options: Any) -> Any:
    return original(layer.with_fields(rotary=None), p, z, **options)


def _values_turned(original: Any, layer: Any, p: Tree, z: Any, **options: Any) -> Any:
    made = original(layer, p, z, **options)
    positions = options.get("positions")
    if layer.rotary is None or positions is None or made.keys.shape != made.values.shape:
        return made
    return KeysValues(made.keys, ops.add(layer.rotary.apply(made.values, positions), 0.0))
