"""A port's case, or its weights, translated by a map into the target's names, and gradients back into the port's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from ...errors import InputError, input_errors
from ...peers import Given, Rebuilt, peer
from ...peers.names import Binding, same
from ...peers.reference import NAME
from ..cases import Case
from .maps import Map, read_part, read_source
from .solve import overlap
from .sources import Source

Arrays = dict[str, np.ndarray]
_STATE = "state/"


def rebuild(made: Map, inputs: Mapping[str, np.ndarray], outputs: Mapping[str, np.ndarray] | None = None) -> Rebuilt:
    """The map's class; `inputs` by its names."""
    shapes = [{name: tuple(a.shape) for name, a in (arrays or {}).items()} for arrays in (inputs, outputs)]
    to = made.to
    return peer(to.peer).rebuild(to.cls, Given(to.config, shapes[0], to.params, to.call, shapes[1]))


def translate(case: Case, made: Map) -> Case:
    """The case as one of the map's class: parameters, inputs, outputs, gradients and the values that the map has points
    for. Raises `InputError` where the map is of another port."""
    where = case.name
    inputs = {name: read_part(part, case.inputs, f"{where}: input {name}") for name, part in made.inputs.items()}
    outputs = {
        name: read_part(part, case.outputs, f"{where}: output {name}")
        for name, part in made.outputs.items()
        if part.name in case.outputs
    }
    if not outputs:
        raise InputError(f"{where} has none of the outputs that the map reads; record one of them")
    rebuilt = rebuild(made, inputs, outputs)
    params, state = peer_arrays(made, rebuilt, case.params | case.state, where)
    meta = {
        **{key: value for key, value in case.meta.items() if key not in ("tied", "points", "peer_version")},
        "peer": made.to.peer,
        "class": made.to.cls,
        "config": dict(made.to.config),
        "call": dict(made.to.call),
        "case": where,
        "tied": {},
        "points": {},
    }
    new = Case(meta, params, state, inputs, outputs)
    for name, point in made.points.items():
        if point.part.name in case.trace:
            new.trace[name] = read_part(point.part, case.trace, f"{where}: point {name}")
            meta["points"][name] = point.ours
    _cotangents(new, case, made)
    return new


def _cotangents(new: Case, case: Case, made: Map) -> None:
    """Cotangents and gradients, where every output of the loss is one of the map's."""
    names = {part.name for part in made.outputs.values()}
    if not case.cotangents or not set(case.cotangents) <= names:
        return
    for name, part in made.outputs.items():
        if part.name in case.cotangents and name in new.outputs:
            new.cotangents[name] = read_part(part, case.cotangents, f"{case.name}: cotangent {name}")
    for name, part in made.inputs.items():
        if part.name in case.grad_inputs and not part.view.invert:
            new.grad_inputs[name] = read_part(part, case.grad_inputs, f"{case.name}: gradient of {name}")
    new.grad_params = _peer_gradients(made, rebuild(made, new.inputs, new.outputs), case, new.params)


def own_names(made: Map, rebuilt: Rebuilt, arrays: Mapping[str, np.ndarray], where: str) -> tuple[Rebuilt, Arrays]:
    """The class and the port's arrays under our paths in place of its peer's names; statistics below `state/`."""
    bindings = [Binding(b.path, b.shape, b.path, same) for b in rebuilt.bindings]
    state = [Binding(b.path, b.shape, f"{_STATE}{b.path}", same) for b in rebuilt.state]
    own = replace(rebuilt, bindings=list({b.path: b for b in bindings}.values()), state=state, ignored=())
    wanted = {b.name for b in (*own.bindings, *own.state)}
    found = {
        path: read_source(source, arrays, f"{where}: {path}")
        for path, source in made.parameters.items()
        if path in wanted
    }
    return own, found


def peer_arrays(made: Map, rebuilt: Rebuilt, arrays: Mapping[str, np.ndarray], where: str) -> tuple[Arrays, Arrays]:
    """Parameters and running statistics by the target's names, from the port's arrays."""
    ours = {path: read_source(source, arrays, f"{where}: {path}") for path, source in made.parameters.items()}
    missing = sorted({b.path for b in rebuilt.bindings} - set(ours)) + sorted(
        {f"{_STATE}{b.path}" for b in rebuilt.state} - set(ours)
    )
    if missing:
        raise InputError(
            f"{where}: the map has nothing for {missing[0]}" + f" and {len(missing) - 1} more" * (len(missing) > 1)
        )
    params = _stored(rebuilt.bindings, ours, made)
    state = _stored(rebuilt.state, {p.removeprefix(_STATE): a for p, a in ours.items() if p.startswith(_STATE)}, made)
    return params, state


def _stored(bindings: Any, ours: Mapping[str, np.ndarray], made: Map) -> Arrays:
    by_name: dict[str, list[Binding]] = {}
    for b in bindings:
        by_name.setdefault(b.name, []).append(b)
    arrays: Arrays = {}
    for name, parts in by_name.items():
        arrays[name] = np.zeros(_shape(name, parts, made), ours[parts[0].path].dtype)
        for b in parts:
            with input_errors(f"{name} of {made.to.said} cannot be made of the port's arrays"):
                b.view(arrays[name])[...] = ours[b.path]
    return arrays


def _shape(name: str, parts: list[Binding], made: Map) -> tuple[int, ...]:
    """The shape of one of the target's arrays: known, or that which our parts of it cover."""
    from ..export.subject import shape_of

    if made.to.peer == NAME:
        return parts[0].shape
    return made.to.params.get(name) or shape_of(parts)


def _peer_gradients(made: Map, rebuilt: Rebuilt, case: Case, params: Mapping[str, np.ndarray]) -> Arrays:
    """Gradients by the target's names, of those of its arrays all parts of which the port has a gradient of."""
    tied = case.meta.get("tied", {})
    grads = {name: array for name, array in case.grad_params.items() if name not in tied}
    sources = made.parameters
    shared = _shared(sources)
    by_name: dict[str, list[Binding]] = {}
    for b in rebuilt.bindings:
        by_name.setdefault(b.name, []).append(b)
    arrays: Arrays = {}
    for name, parts in by_name.items():
        whole = all(sources[b.path].parts and set(sources[b.path].names) <= set(grads) for b in parts)
        inside = {b.path for b in parts}
        if not whole or any(not shared.get(path, set()) <= inside for path in inside):
            continue  # the port's gradient of an array that is used elsewhere too holds both
        arrays[name] = np.zeros_like(params[name], dtype=grads[sources[parts[0].path].names[0]].dtype)
        added: list[Source] = []
        for b in parts:
            if not any(overlap(sources[b.path], other) for other in added):
                part = b.view(arrays[name])
                part[...] += read_source(sources[b.path], grads, f"{case.name}: gradient of {name}")
                added.append(sources[b.path])
    return arrays


def _shared(sources: Mapping[str, Source]) -> dict[str, set[str]]:
    """For paths whose source is read by others too: those."""
    by_name: dict[str, list[str]] = {}
    for path, source in sources.items():
        for name in source.names:
            by_name.setdefault(name, []).append(path)
    made: dict[str, set[str]] = {}
    for paths in by_name.values():
        for path in paths if len(paths) > 1 else ():
            for other in paths:
                if other != path and overlap(sources[path], sources[other]):
                    made.setdefault(path, set()).add(other)
    return made


def back(made: Map, ours: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]]) -> Arrays:
    """Gradients by our paths in the port's names; parts that are used twice add up."""
    arrays: Arrays = {}
    for path, source in made.parameters.items():
        if path not in ours:
            continue
        value = np.asarray(ours[path])
        sizes = [1 if part.shape is None or not part.shape else part.shape[source.axis] for part in source.parts]
        pieces = np.split(value, np.cumsum(sizes)[:-1], axis=source.axis) if len(source.parts) > 1 else [value]
        for part, piece in zip(source.parts, pieces):
            into = arrays.setdefault(part.name, np.zeros(shapes[part.name], value.dtype))
            part.view.add(into, np.ascontiguousarray(piece))
    return arrays


def outputs_back(made: Map, outputs: Mapping[str, np.ndarray]) -> Arrays:
    """The target's outputs by the port's names, axes in the port's order where the map only reorders them."""
    arrays: Arrays = {}
    for name, value in outputs.items():
        part = made.outputs.get(name)
        if part is None:
            continue
        order = part.view.order
        plain = part.shape is None and part.view.plain and part.view.shape is None and part.view.split is None
        arrays[part.name] = value.transpose(np.argsort(order)) if plain and order is not None else value
    return arrays
