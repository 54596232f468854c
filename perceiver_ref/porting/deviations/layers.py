"""Deviations of linear maps, activations and residuals."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import takewhile
from typing import Any

from ...autograd import ops
from ...autograd.backend import xp
from ...autograd.tree import Tree
from ...models.activations import activations
from ...models.attention import CrossAttention
from ...models.layers import MLP
from ...models.tracing import where
from .base import (
    Candidate,
    Change,
    Exchange,
    Group,
    Match,
    OpReplacement,
    Survey,
    at,
    edits,
    exchanged,
    groups,
    replaced,
    role_of,
)

ACTIVATIONS: dict[str, Callable[[Any], Any]] = {
    **ops.activations,
    **{name: activations[name] for name in ("quick_gelu", "tanh", "sigmoid", "identity", "leaky_relu")},
    "elu": lambda x: ops.where(ops.greater(x, 0.0), x, ops.subtract(ops.exp(ops.minimum(x, 0.0)), 1.0)),
}


def activation(found: Survey) -> Iterator[Candidate]:
    """Another activation in the MLPs; or, where they are gated, the gate and what it multiplies swapped."""
    for used in ops.activations:
        for label, match, rare in groups(found.ops.get(used, [])):
            for other, function in ACTIVATIONS.items():
                if other != used and used in found.ops:
                    change = replaced(at({used: _other(function)}, match))
                    yield Candidate("activation", f"{other} in place of {used}, {label}", change, rare)
    if any("/gate/" in f"/{path}" for path in found.paths):
        yield Candidate("activation", "the gate and what it multiplies are swapped", Change(params=_gates_swapped))


def composed_activation(found: Survey) -> Iterator[Candidate]:
    """Another activation in the place of one that is several operations."""
    if "leaky_relu" in found.steps:
        for other, function in ACTIVATIONS.items():
            if other != "leaky_relu":
                change = exchanged({"leaky_relu": lambda original, x, function=function: function(x)})
                yield Candidate("activation", f"{other} in place of leaky_relu", change)
    used = {mlp.conventions.activation for mlp in found.of_class(MLP)} - {*ops.activations, "leaky_relu"}
    for name in activations if used else ():

        def other_mlp(original: Any, layer: Any, *arguments: Any, name: Any = name) -> Any:
            if layer.conventions.activation in used:
                layer = layer.with_fields(conventions=replace(layer.conventions, activation=name))
            return original(layer, *arguments)

        if name not in used:
            variant = f"{name} in place of {', '.join(sorted(used))}"
            yield Candidate("activation", variant, exchanged({MLP.apply: other_mlp}))


def second_activation(found: Survey) -> Iterator[Candidate]:
    """The MLP's activation once more, after its last map."""
    for label, match, rare in groups(found.ops.get("attention", [])) if found.of_class(MLP) else []:

        def twice(original: Any, layer: Any, p: Tree, x: Any, match: Match = match) -> Any:
            out = original(layer, p, x)
            return activations[layer.conventions.activation](out) if match(f"{where()}.attention") else out

        variant = f"once more after the MLP's last map, {label}"
        yield Candidate("activation", variant, exchanged({MLP.apply: twice}), rare)


def _other(function: Callable[[Any], Any]) -> OpReplacement:
    return lambda op, arguments, static: function(arguments[0])


def _gates_swapped(params: Tree) -> Tree:
    if isinstance(params, dict):
        swapped = {name: _gates_swapped(part) for name, part in params.items()}
        if {"gate", "hidden"} <= set(swapped):
            swapped["gate"], swapped["hidden"] = swapped["hidden"], swapped["gate"]
        return swapped
    return [_gates_swapped(part) for part in params] if isinstance(params, list) else params


def weight_transposed(found: Survey) -> Iterator[Candidate]:
    """A weight reshaped where it should be transposed, which transposes square ones: of one role, of all.

    As the peer stores it: keys' and values' weights, or those of an MLP and its gate, may be one array there.
    """
    weights = [
        path
        for path, array in found.paths.items()
        if path.split("/")[-1] == "weight" and array.ndim == 2 and path in found.bound and min(array.shape) > 1
    ]
    square = [path for path in weights if len(set(found.stored[found.bound[path][0]].shape)) == 1]
    for paths, variant in ((square, "transposed"), (weights, "reshaped in place of transposed")):
        for name, chosen in by_role(paths):
            for label, match, rare in groups(chosen):
                meant = {found.bound[path][0] for path in chosen if match(path)}
                change = found.restored(meant, lambda _, array: _reshaped(array))
                yield Candidate("weight-transposed", f"weights of {name} {variant}, {label}", change, rare)


def _reshaped(array: Any) -> Any:
    return array.reshape(array.shape[::-1]).T if array.ndim == 2 else array


_MOST = 64
"""Weights that are each tried alone"""


def one_weight_transposed(found: Survey) -> Iterator[Candidate]:
    """One square weight alone used the other way round."""
    square = [
        path
        for path, array in found.paths.items()
        if path.split("/")[-1] == "weight" and array.ndim == 2 and array.shape[0] == array.shape[1] > 1
    ]
    for path in square if len(square) <= _MOST else ():
        yield Candidate("weight-transposed", f"{path} alone transposed", edits({path}, lambda a: a.T), rare=True)


def one_bias_missing(found: Survey) -> Iterator[Candidate]:
    """One bias outside the layers left out, as that of the map to one output or one modality."""
    biases = [path for path in found.paths if path.split("/")[-1] == "bias"]
    for path in biases:
        if any(part.isdigit() for part in path.split("/")):
            continue
        yield Candidate("bias-missing", f"{path} alone", edits({path}, _zeros), rare=True)


def bias_missing(found: Survey) -> Iterator[Candidate]:
    """A bias, or a norm's offset, left out: of one role, of attention, of MLPs, of all."""
    for kind, ending in (("bias", "bias"), ("offset", "offset")):
        paths = [p for p in found.paths if p.split("/")[-1] == ending]
        for name, chosen in by_role(paths):
            for label, match, rare in (*groups(chosen), *_after_inputs(chosen)):
                meant = {path for path in chosen if match(path)}
                yield Candidate("bias-missing", f"{kind} of {name}, {label}", edits(meant, _zeros), rare)


def _after_inputs(paths: list[str]) -> list[Group]:
    """All but what prepares inputs, which is often another's code, where there is such."""
    inner = Group("in the encoder and decoder", lambda path: path.split("/")[0] in ("encoder", "decoder"))
    return [inner] if len({inner.match(path) for path in paths}) == 2 else []


def _zeros(array: Any) -> Any:
    return xp(array).zeros_like(array)


def by_role(paths: list[str]) -> Iterator[tuple[str, list[str]]]:
    """These paths by what they are for, and then by sets of such."""
    roles: dict[str, list[str]] = {}
    for path in paths:
        roles.setdefault(role_of(path), []).append(path)
    sets = {
        "queries, keys and values": {"attention/query", "attention/key", "attention/value"},
        "queries and keys": {"attention/query", "attention/key"},
        "attention": {"attention/query", "attention/key", "attention/value", "attention/output"},
        "the MLP": {"mlp/hidden", "mlp/output", "mlp/gate"},
        "the MLP's first map": {"mlp/hidden", "mlp/gate"},
        "keys and values": {"attention/key", "attention/value"},
        "everything": set(roles),
    }
    yield from roles.items()
    for name, wanted in sets.items():
        if len(wanted & set(roles)) > 1:
            yield name, [path for role in roles if role in wanted for path in roles[role]]


def query_residual(found: Survey) -> Iterator[Candidate]:
    """The residual around attention left out where there is one, added where there is none."""
    crosses = [place for place in found.ops.get("attention", []) if "cross_attention" in place]
    for label, match, rare in groups(crosses) if crosses else []:

        def flipped(original: Any, layer: Any, *arguments: Any, match: Match = match, **options: Any) -> Any:
            if match(f"{where()}.attention"):
                layer = layer.with_fields(query_residual=not layer.query_residual)
            return original(layer, *arguments, **options)

        kinds = {_has_residual(found, place.rpartition(".")[0]) for place in crosses if match(place)}
        what = "missing or extra" if len(kinds) != 1 else "missing" if kinds.pop() else "extra"
        change = exchanged({CrossAttention.apply: flipped})
        yield Candidate("query-residual", f"of cross-attention {what}, {label}", change, rare)
    everywhere = found.ops.get("attention", [])
    for label, match, rare in groups(everywhere) if everywhere else []:
        normed = _joined_with("attention_residual", lambda place, match=match: match(f"{place}.attention"), "normed")  # type: ignore[misc]
        yield Candidate("query-residual", f"the normed queries are added, {label}", Change(parts=normed), rare)
        missing = Change(
            parts=_without("attention_residual", lambda place, match=match: match(f"{place}.attention"))  # type: ignore[misc]
        )
        yield Candidate("query-residual", f"around attention missing, {label}", missing, rare)


def _has_residual(found: Survey, layer: str) -> bool:
    """Whether the reference adds what a layer's attention gives: before its MLP there is a sum."""
    inside = [used for used in found.events if f"{used.place}.".startswith(f"{layer}.")]
    begins = next((i for i, used in enumerate(inside) if used.op == "attention"), len(inside))
    before_mlp = takewhile(lambda used: not used.place.startswith(f"{layer}.mlp"), inside[begins:])
    return any(used.op == "add" and used.place == layer for used in before_mlp)


def mlp_residual(found: Survey) -> Iterator[Candidate]:
    """The residual around the MLP left out."""
    places = [p.rpartition(".")[0] for p in found.ops.get("linear", []) if p.split(".")[-1] == "mlp"]
    for label, match, rare in groups(places) if places else []:
        yield Candidate("mlp-residual", f"missing {label}", Change(parts=_without("", match)), rare)
        for what, name in (("normed", "the normed input"), ("input", "the layer's input")):
            change = Change(parts=_joined_with("", match, what))
            yield Candidate("mlp-residual", f"{name} is added to the MLP's output, {label}", change, rare)


_NORMED = {"attention_residual": ("query_norm", "norm", "latents_norm"), "": ("mlp_norm",)}


def _joined_with(sum_point: str, match: Match, what: str) -> Callable[[], Exchange]:
    """A residual sum adds the branch to its normed input, or to the input of the layer."""
    branch = "mlp" if sum_point == "" else "attention"

    def made() -> Exchange:
        newest: dict[tuple[str, str], Any] = {}

        def point(original: Any, name: str, value: Any) -> Any:
            place = where()
            for kind in ("mlp", "attention"):
                if name == "" and place.split(".")[-1] == kind:
                    newest[place.rpartition(".")[0], kind] = value
                elif name in (f"{kind}_gated", f"{kind}_seen"):
                    newest[place, kind] = value
            if name in _NORMED[sum_point]:
                newest[place, "normed"] = value
            if name == "attention_residual" and (added := newest.get((place, "attention"))) is not None:
                newest[place, "input"] = ops.subtract(value, added)
            added, instead = newest.get((place, branch)), newest.get((place, what))
            if name == sum_point and match(place) and added is not None and instead is not None:
                newest.pop((place, branch))
                return original(name, ops.add(instead, added))
            return original(name, value)

        return {"point": point}

    return made


def _without(sum_point: str, match: Match) -> Callable[[], Exchange]:
    """A residual sum is only what was to be added: the newest branch of the same layer."""
    branch = "mlp" if sum_point == "" else "attention"

    def made() -> Exchange:
        newest: dict[str, Any] = {}

        def point(original: Any, name: str, value: Any) -> Any:
            place = where()
            if name == "" and place.split(".")[-1] == branch:
                newest[place.rpartition(".")[0]] = value
            elif name in (f"{branch}_gated", f"{branch}_seen"):
                newest[place] = value
            elif name == sum_point and match(place) and (added := newest.pop(place, None)) is not None:
                return original(name, added)
            return original(name, value)

        return {"point": point}

    return made
