"""A map: which of a port's arrays is which of the reference's, as small JSON, and a case translated by it.

    {"format": "perceiver-ref map", "version": 1, "verified": true, "to": {"peer": ..., "class": ..., "config": ...},
     "parameters": {our path: {"from": the port's name, ...}}, "inputs": {...}, "outputs": {...}, "points": {...}}

How an array is read is a `View`, each of its fields there only where it does something. Several arrays joined are
{"parts": [...], "axis": a}, and what the port does not have is {"value": 0}.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...errors import InputError, listed, shortened
from ...host.files import AnyPath, read_json, write_json
from .sources import Part, Source
from .target import To, to_of
from .views import View

FORMAT = "perceiver-ref map"
_MOST = 16
_KEYS = {"format", "version", "verified", "to", "parameters", "inputs", "outputs", "points", "ambiguous", "notes"}
_FIELDS = {"from", "cut", "axes", "take", "order", "split", "invert", "shape", "point"}


@dataclass(frozen=True)
class Point:
    """A named value of ours, and the port's value that it is."""

    ours: str
    part: Part


@dataclass(frozen=True)
class Map:
    """What a case is translated by; `parameters` has our paths, running statistics below `state/`."""

    to: To
    parameters: Mapping[str, Source]
    inputs: Mapping[str, Part] = field(default_factory=dict)
    outputs: Mapping[str, Part] = field(default_factory=dict)
    points: Mapping[str, Point] = field(default_factory=dict)
    """By the name that the translated case has for it."""
    verified: bool = True
    """Whether the reference, run with these parameters, gave what the port had recorded."""
    ambiguous: tuple[str, ...] = ()
    """Our paths for which other arrays would do as well."""


def as_json(made: Map) -> dict[str, Any]:
    """What `write_map` writes."""
    to: dict[str, Any] = {"peer": made.to.peer, "class": made.to.cls, "config": dict(made.to.config)}
    if made.to.call:
        to["call"] = dict(made.to.call)
    if made.to.params:
        to["shapes"] = {name: list(shape) for name, shape in made.to.params.items()}
    return {
        "format": FORMAT,
        "version": 1,
        "verified": made.verified,
        "to": to,
        "parameters": {path: _source_json(source) for path, source in made.parameters.items()},
        "inputs": {name: _part_json(part) for name, part in made.inputs.items()},
        "outputs": {name: _part_json(part) for name, part in made.outputs.items()},
        "points": {name: {"point": p.ours, **_part_json(p.part)} for name, p in made.points.items()},
        "ambiguous": list(made.ambiguous),
    }


def write_map(path: AnyPath, made: Map) -> None:
    """Write a map as JSON."""
    write_json(path, as_json(made))


def read_map(path: AnyPath) -> Map:
    """Read and validate a map; `InputError` with one line for anything else."""
    value = read_json(path, "a map that `perceiver-ref bind --out` wrote, in JSON")
    return from_json(value, path)


def from_json(value: Mapping[str, Any], where: object) -> Map:
    """The inverse of `as_json`."""
    if value.get("format") != FORMAT:
        raise InputError(f'{where} is no map: expected "format": "{FORMAT}", as `perceiver-ref bind --out` writes it')
    if value.get("version") != 1:
        raise InputError(f"{where}: version {shortened(value.get('version'))} of a map is not known; this reads 1")
    if unknown := sorted(map(str, set(value) - _KEYS)):
        raise InputError(f"{where}: a map has no {listed(map(shortened, unknown), 4)}")
    groups: dict[str, Mapping[str, Any]] = {}
    for name in ("parameters", "inputs", "outputs", "points"):
        groups[name] = value.get(name, {})
        if not isinstance(groups[name], Mapping) or not all(isinstance(v, Mapping) for v in groups[name].values()):
            raise InputError(f"{where}: {name} must be an object of objects")
        if bad := next((n for n in groups[name] if not n.isprintable()), None):
            raise InputError(f"{where}: {name}: {shortened(bad)} is no printable name")
    if not isinstance(value.get("verified", False), bool) or not isinstance(value.get("ambiguous", []), list):
        raise InputError(f"{where}: verified must be true or false, and ambiguous a list of paths")
    points = {}
    for name, given in groups["points"].items():
        if not isinstance(given.get("point"), str) or not given["point"].isprintable():
            raise InputError(f'{where}: point {shortened(name)} must have the name of ours as "point"')
        points[name] = Point(given["point"], _part(given, f"{where}: point {shortened(name)}"))
    return Map(
        to_of(value.get("to"), where),
        {path: _source(given, f"{where}: {shortened(path)}") for path, given in groups["parameters"].items()},
        {name: _part(given, f"{where}: input {shortened(name)}") for name, given in groups["inputs"].items()},
        {name: _part(given, f"{where}: output {shortened(name)}") for name, given in groups["outputs"].items()},
        points,
        bool(value.get("verified", False)),
        tuple(str(path) for path in value.get("ambiguous", [])),
    )


def _part_json(part: Part) -> dict[str, Any]:
    view = part.view
    made: dict[str, Any] = {"from": part.name}
    if view.cut is not None:
        made["cut"] = list(view.cut)
    if view.shape is not None:
        made["axes"] = list(view.shape)
    if view.take:
        made["take"] = [list(pair) for pair in view.take]
    if view.split is not None:
        made["split"] = list(view.split)
    if view.order is not None:
        made["order"] = list(view.order)
    if view.invert:
        made["invert"] = True
    if part.shape is not None:
        made["shape"] = list(part.shape)
    return made


def _source_json(source: Source) -> dict[str, Any]:
    if not source.parts:
        return {"value": source.number, "shape": list(source.shape)}
    if len(source.parts) == 1:
        return _part_json(source.parts[0])
    return {"parts": [_part_json(part) for part in source.parts], "axis": source.axis, "shape": list(source.shape)}


def _whole(value: Any, least: int = 0) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value < 1 << 31


def _numbers(value: Any, where: str, what: str, least: int = 0) -> tuple[int, ...]:
    if not isinstance(value, list) or len(value) > _MOST or not all(_whole(n, least) for n in value):
        raise InputError(f"{where}: {what} must be a list of at most {_MOST} whole numbers, got {shortened(value)}")
    return tuple(value)


def _part(given: Mapping[str, Any], where: str) -> Part:
    if unknown := sorted(map(str, set(given) - _FIELDS)):
        raise InputError(f"{where} has no {listed(map(shortened, unknown), 4)}; known: {', '.join(sorted(_FIELDS))}")
    name = given.get("from")
    if not isinstance(name, str) or not name.isprintable():
        raise InputError(f'{where} must say what it is read "from", got {shortened(name)}')
    cut: tuple[int, ...] | None = None
    if "cut" in given:
        cut = _numbers(given["cut"], where, "cut")
        if len(cut) != 3 or cut[0] >= _MOST:
            raise InputError(f"{where}: cut must be [axis, start, stop], got {shortened(given['cut'])}")
    take = given.get("take", [])
    if not isinstance(take, list) or len(take) > _MOST or not all(isinstance(p, list) and len(p) == 2 for p in take):
        raise InputError(f"{where}: take must be a list of [axis, index], got {shortened(take)}")
    pairs = tuple(_numbers(pair, where, "take") for pair in take)
    axes, order, split, shape = (
        None if key not in given else _numbers(given[key], where, key, -1 if key != "order" else 0)
        for key in ("axes", "order", "split", "shape")
    )
    if order is not None and sorted(order) != list(range(len(order))):
        raise InputError(f"{where}: order must have each axis once, got {shortened(given['order'])}")
    if any(axis >= _MOST for axis, _ in pairs):
        raise InputError(f"{where}: take names an axis of more than {_MOST}")
    if not isinstance(given.get("invert", False), bool):
        raise InputError(f"{where}: invert must be true or false")
    view = View(cut, axes, pairs, order, split, bool(given.get("invert", False)))  # type: ignore[arg-type]
    return Part(name, view, shape)


def _source(given: Mapping[str, Any], where: str) -> Source:
    shape = _numbers(given.get("shape"), where, "shape")
    if "value" in given:
        number = given["value"]
        if set(given) != {"value", "shape"} or isinstance(number, bool) or number not in (0, 1):
            raise InputError(f"{where}: a value must be 0 or 1 beside a shape, got {shortened(number)}")
        return Source(shape, (), 0, float(number))
    if "parts" not in given:
        return Source(shape, (_part(given, where),))
    parts, axis = given["parts"], given.get("axis")
    if not isinstance(axis, int) or set(given) != {"parts", "axis", "shape"} or not _whole(axis) or axis >= len(shape):
        raise InputError(f"{where}: parts need an axis of the shape, and nothing else")
    if not isinstance(parts, list) or not 2 <= len(parts) <= 4096 or not all(isinstance(p, Mapping) for p in parts):
        raise InputError(f"{where}: parts must be a list of two or more")
    return Source(shape, tuple(_part(part, where) for part in parts), axis)


def read_source(source: Source, arrays: Mapping[str, np.ndarray], where: str) -> np.ndarray:
    """The values of a source among the port's arrays; `InputError` where they are missing or do not fit."""
    if not source.parts:
        size = int(np.prod(source.shape))
        if size > 1 << 31:
            raise InputError(f"{where}: a constant of {size:,} elements")
        return np.full(source.shape, source.number, next(iter(arrays.values())).dtype if arrays else np.float64)
    try:
        values = [read_part(part, arrays, where) for part in source.parts]
        made = values[0] if len(values) == 1 else np.concatenate(values, axis=source.axis)
    except ValueError as error:
        raise InputError(f"{where}: {error}") from None
    if made.shape != source.shape:
        raise InputError(f"{where}: the map gives the shape {made.shape}, not {source.shape}")
    return made


def read_part(part: Part, arrays: Mapping[str, np.ndarray], where: str) -> np.ndarray:
    """The values of a part among the port's arrays; `InputError` where they are missing or do not fit."""
    if part.name not in arrays:
        raise InputError(f"{where}: the map reads {part.name!r}, which is not there; there are {listed(arrays, 6)}")
    array = arrays[part.name]
    try:
        return part.read(arrays)
    except (ValueError, IndexError, TypeError) as error:
        shape = tuple(array.shape)
        raise InputError(f"{where}: {part.name} of shape {shape} does not fit the map ({error})") from None
