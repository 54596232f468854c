"""The schemas of configurations, by peer and class.

Of other implementations: each class is rebuilt from all stored cases of it, and from nothing, and the tables of options
that it reads on the way say what its configuration may hold, also inside. Of our own: from the fields of `TYPES`.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
import types
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from perceiver_ref.errors import InputError
from perceiver_ref.models.constraints import Exchangeable, Within
from perceiver_ref.models.published import PRESETS, VARIANTS
from perceiver_ref.peers import PEERS, Given, bounds
from perceiver_ref.peers.base import REQUIRED, Option, Peer, Read, tables_read
from perceiver_ref.peers.reference import NAME, OPERATIONS
from perceiver_ref.peers.reference.configuration import TYPES
from perceiver_ref.peers.reference.models import CALLERS
from perceiver_ref.peers.reference.steps import MOST
from perceiver_ref.peers.reference.steps import NAME as STEPS
from perceiver_ref.porting.cases import PACKAGED, Case, read_case
from perceiver_ref.porting.cases.execution import rebuild

from . import DRAFT

ROOT = Path(__file__).resolve().parents[3]
FOLDERS = (PACKAGED, ROOT / "tests" / "vectors")
Path_ = tuple[str, ...]
_NAMED = ("modalities",)
"""Options whose values are by names that are anyone's own."""


@dataclass
class Place:
    """An object in configurations of a class: the tables that were read there, by whom, and what is inside."""

    tables: dict[str, Read] = field(default_factory=dict)
    inside: dict[str, Place] = field(default_factory=dict)
    seen: set[str] = field(default_factory=set)
    """Keys that stored cases have there"""
    open: bool = False
    """Whether a stored case has there what no table takes: a class that reads it in parts"""

    def at(self, path: Path_) -> Place:
        """The place inside."""
        place = self
        for name in path:
            place = place.inside.setdefault(name, Place())
        return place


def schemas() -> dict[str, dict[str, Any]]:
    """Peer -> its schema, which holds for `meta` of a case: its `config` by its `class`."""
    stored: dict[str, list[Case]] = {name: [] for name in PEERS}
    for _, case in cases():
        stored[case.meta["peer"]].append(case)
    found = {name: _others(name, stored[name]) for name in PEERS if name != NAME}
    return {**found, NAME: _document(NAME, _own(), {"part": _part(), **{n: _fields(t) for n, t in TYPES.items()}})}


@cache
def cases() -> tuple[tuple[Path, Case], ...]:
    """All stored cases, with their files."""
    return tuple((path, read_case(path)) for folder in FOLDERS for path in sorted(folder.rglob("*.npz")))


def _document(peer: str, classes: Mapping[str, Any], parts: Mapping[str, Any] | None = None) -> dict[str, Any]:
    rules = [
        {
            "if": {"properties": {"class": _class(name, classes)}},
            "then": {"properties": {"config": {"$ref": f"#/$defs/{_pointer(name)}"}}},
        }
        for name in classes
    ]
    exact = type(PEERS[peer]) is Peer  # a class may have options in its name otherwise
    return {
        "$schema": DRAFT,
        "title": f"configurations of {peer}, by class: of a case's meta, or of a $defs alone",
        "type": "object",
        "required": ["class", "config"],
        "properties": {"class": {"anyOf": [{"pattern": _pattern(name)} for name in classes]} if exact else True},
        "allOf": rules,
        "$defs": {**classes, **(parts or {})},
    }


def _pattern(name: str) -> str:
    """A class by its name, after any module path."""
    escaped = re.sub(r"([.*+?^${}()|\[\]\\/])", r"\\\1", name)
    return rf"(^|\.){escaped}$"


def _class(name: str, classes: Iterable[str]) -> dict[str, Any]:
    """What `class` is for a name, the longest that fits being meant."""
    longer = [other for other in classes if other.endswith(f".{name}")]
    other = {"not": {"anyOf": [{"pattern": _pattern(n)} for n in longer]}} if longer else {}
    return {"pattern": _pattern(name), **other}


def _pointer(name: str) -> str:
    """A name in a JSON pointer, in a URI."""
    return "".join(
        c if re.match(r"[\w.\-]", c) else "".join(f"%{b:02X}" for b in c.encode())
        for c in name.replace("~", "~0").replace("/", "~1").replace("~", "~")
    )


# ---- other implementations


def _others(peer: str, stored: list[Case]) -> dict[str, Any]:
    known = PEERS[peer].classes
    places = {name: Place() for name in known}
    for name, place in places.items():
        with tables_read() as rows:
            config: dict[str, Any] = {}
            _attempt(lambda name=name, config=config: PEERS[peer].rebuild(name, Given(config)))
        for row in rows[:1]:
            if row.given is config:
                place.tables[row.what] = row
    for case in stored:
        name = _class_of(peer, case.meta["class"])
        if name is None:
            continue
        config = case.meta["config"]
        with tables_read() as rows:
            _attempt(lambda case=case: rebuild(case))
        for path, value in _objects(config):
            places[name].at(path).seen |= set(value)
        for row in rows:
            for path in _paths(config, row):
                places[name].at(path).tables.setdefault(row.what, row)
        for path, value in _objects(config):
            place = places[name].at(path)
            place.open |= not any(_takes(row, value) for row in place.tables.values())
    made = {name: _schema(place) for name, place in places.items()}
    shared: dict[str, str] = {}
    taken = set(made)
    classes = {name: _shared(schema, shared, taken) for name, schema in made.items()}
    return _document(peer, classes, {name: json.loads(text) for text, name in shared.items()})


def _shared(schema: Any, known: dict[str, str], taken: set[str]) -> Any:
    """A schema with references in place of its tables; `known` takes each once, as text, with its name."""
    if isinstance(schema, list):
        return [_shared(part, known, taken) for part in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: value if key == "default" else _shared(value, known, taken) for key, value in schema.items()}
    if "title" not in made or "properties" not in made:
        return made
    text = json.dumps(made)
    if text not in known:
        start = f"options of {made['title']}"
        name = next(n for i in range(len(taken) + 1) if (n := f"{start} {i + 1}" if i else start) not in taken)
        taken.add(name)
        known[text] = name
    return {"$ref": f"#/$defs/{_pointer(known[text])}"}


def _attempt(do: Any) -> None:
    with suppress(InputError):
        do()


def _class_of(peer: str, cls: str) -> str | None:
    path = cls.split(".")
    return next((name for i in range(len(path)) if (name := ".".join(path[i:])) in PEERS[peer].classes), None)


def _objects(value: Any, path: Path_ = ()) -> Iterator[tuple[Path_, Mapping[str, Any]]]:
    """Every object of a configuration with its place; names of modalities are "*"."""
    if isinstance(value, Mapping):
        yield path, value
        for key, inner in value.items():
            yield from _objects(inner, (*path, "*" if path and path[-1] in _NAMED else key))


def _takes(row: Read, value: Mapping[str, Any]) -> bool:
    """Whether a table has all keys of an object, and the object all that it needs."""
    return _needed(row) <= set(value) <= set(row.known) | set(row.passed)


def _needed(row: Read) -> set[str]:
    return {k for k, d in row.known.items() if d is REQUIRED or (isinstance(d, Option) and d.required)}


def _paths(config: Mapping[str, Any], row: Read) -> list[Path_]:
    """Where in a configuration a table was read: the object itself, or else what is equal to it."""
    if not isinstance(row.given, Mapping):
        return []
    objects = list(_objects(config))
    if itself := [path for path, value in objects if value is row.given]:
        return itself
    equal = [path for path, value in objects if value == row.given and path]
    return equal if row.given else []


def _schema(place: Place) -> dict[str, Any]:
    inside = {name: _schema(inner) for name, inner in place.inside.items() if name != "*"}
    if "*" in place.inside:
        return {"type": ["object", "null"], "additionalProperties": _schema(place.inside["*"])}
    made = [_table(row, inside, place.seen) for row in place.tables.values()]
    if not made or place.open:
        return {"type": "object", "properties": {**dict.fromkeys(sorted(place.seen), True), **_or_other(inside)}}
    return made[0] if len(made) == 1 else {"anyOf": made}


def _table(row: Read, inside: Mapping[str, Any], seen: set[str]) -> dict[str, Any]:
    """What `options` takes; what stored cases have beside it is read by somebody else."""
    others = dict.fromkeys(sorted((seen | set(row.passed)) - set(row.known)), True)
    properties = {key: _option(row.what, key, default) for key, default in sorted(row.known.items())}
    needed = sorted(_needed(row))
    inner = {key: value for key, value in _or_other(inside).items() if key in properties or key in others}
    made: dict[str, Any] = {"title": row.what, "type": "object", "properties": {**properties, **others, **inner}}
    if needed:
        made["required"] = needed
    return {**made, "additionalProperties": False}


def _or_other(inside: Mapping[str, Any]) -> dict[str, Any]:
    """Objects have schemas of their own; what else may stand there instead is for the class to say."""
    return {
        name: {"if": {"type": "object"}, "then": schema}
        for name, schema in sorted(inside.items())
        if schema is not True
    }


def _option(what: str, key: str, default: Any) -> Any:
    bound = bounds.row(what, key)
    kind = default.kind if isinstance(default, Option) else type(default)
    null = isinstance(default, Option) and not default.required
    known = {bool: "boolean", int: "integer", float: "number", str: "string"}
    made: dict[str, Any]
    if kind in known:
        made = {"type": [known[kind], "null"] if null or kind is float else known[kind]}
        if kind is int:
            made["minimum"] = min(default, 0) if isinstance(default, int) else 0
        if bound is not None and kind in (int, float):
            limits = {"minimum": max(bound.lowest, made.get("minimum", -math.inf)), "maximum": bound.highest}
            limits = {key: value for key, value in limits.items() if math.isfinite(value)}
            exact = isinstance(default, (int, float)) and not (bound.lowest <= default <= bound.highest)
            made = {"anyOf": [{"const": default}, {**made, **limits}]} if exact else {**made, **limits}
    elif isinstance(default, Mapping):
        made = {"type": "object"}
    else:
        return True
    plain = not isinstance(default, (Option, Mapping))
    return {**made, "default": default} if plain and default is not REQUIRED else made


# ---- our own


def _own() -> dict[str, Any]:
    dialect = {"dialect": {"type": ["string", "null"]}}
    preset = {
        "if": {"required": ["type"]},
        "then": {"$ref": "#/$defs/part"},
        "else": {"type": "object", "properties": dialect, "additionalProperties": False},
    }
    typed = [name for name, made in TYPES.items() if any(issubclass(made, c) for c in CALLERS)]
    names = {"type": "array", "items": {"type": "string"}}
    step = {
        "type": "object",
        "required": ["op", "arguments", "results"],
        "properties": {
            "op": {"type": "string"},
            "arguments": {"type": "array", "items": {"type": ["string", "number", "boolean", "null"]}},
            "options": {"type": "object"},
            "results": {**names, "minItems": 1},
        },
        "additionalProperties": False,
    }
    steps = {
        "type": "object",
        "required": ["steps", "outputs"],
        "properties": {
            "steps": {"type": "array", "items": step, "minItems": 1, "maxItems": MOST},
            "outputs": {"type": "object", "additionalProperties": {"type": "string"}, "minProperties": 1},
        },
        "additionalProperties": False,
    }
    return {
        **dict.fromkeys((*PRESETS, *VARIANTS), preset),
        **{name: _fields(TYPES[name]) for name in typed},
        **{name: {"type": "object"} for name in OPERATIONS},
        STEPS: steps,
    }


def _part() -> dict[str, Any]:
    """Any part of a model, by its type."""
    return {
        "type": "object",
        "required": ["type"],
        "properties": {"type": {"enum": sorted(TYPES)}},
        "allOf": [
            {"if": {"properties": {"type": {"const": name}}}, "then": {"$ref": f"#/$defs/{name}"}}
            for name in sorted(TYPES)
        ],
    }


def _fields(cls: type) -> dict[str, Any]:
    """A dataclass: every field by its annotation, with its default."""
    hints = get_type_hints(cls, include_extras=True)
    properties: dict[str, Any] = {"type": {"const": cls.__name__}}
    needed = []
    for f in dataclasses.fields(cls):
        made = _hint(hints[f.name])
        if f.default is not dataclasses.MISSING and isinstance(f.default, (bool, int, float, str, type(None))):
            made = {**made, "default": f.default} if isinstance(made, dict) else made
        if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING:
            needed.append(f.name)
        properties[f.name] = made
    made = {"type": "object", "properties": properties, "additionalProperties": False}
    return {**made, "required": needed} if needed else made


def _hint(hint: Any) -> Any:
    within: Within | None = None
    if get_origin(hint) is Annotated:
        hint, within = get_args(hint)[:2]
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is int:
        return {"type": "integer", **_limits(within or Within(1))}
    if hint is float:
        return {"type": "number", **_limits(within or Within())}
    if hint in (bool, str, type(None)):
        return {"type": {bool: "boolean", str: "string"}.get(hint, "null")}
    if origin is Literal:
        return {"enum": list(arguments)}
    if origin in (Union, types.UnionType):
        made = [_hint(argument) for argument in arguments]
        unique = [m for i, m in enumerate(made) if m not in made[:i]]
        return True if True in unique else unique[0] if len(unique) == 1 else {"anyOf": unique}
    if origin is tuple:
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return {"type": "array", "items": _hint(arguments[0])}
        items = [_hint(argument) for argument in arguments]
        return {"type": "array", "prefixItems": items, "minItems": len(items), "maxItems": len(items)}
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return {"type": "object", "additionalProperties": _hint(arguments[1])}
    if isinstance(hint, type) and issubclass(hint, Exchangeable):
        return {"$ref": "#/$defs/part"}
    if isinstance(hint, type) and hint.__name__ in TYPES:
        return {"$ref": f"#/$defs/{hint.__name__}"}
    return True


def _limits(within: Within) -> dict[str, Any]:
    limits = {"minimum": within.least, "maximum": within.most}
    return {key: value for key, value in limits.items() if math.isfinite(value)}
