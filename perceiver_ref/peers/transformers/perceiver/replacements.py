"""The key `hard_coded_replacements` of cases of task classes: pairs [old text, new text] of a class's source.

The texts are keyword arguments (`num_heads=8,`), items of a dict (`"num_bands": 64`), or values (`(56, 56)`); new ones
may compute with `config.<field>`. They are replaced wherever they occur among the constants of `tasks`. A comment of
the source stands for the place where it is.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from ....errors import InputError
from .tasks import Computed, Config, PartSpec, Specs

_COMMENTS = {"# decoder kwargs": "decoder", "# position_encoding_kwargs": "input_preprocessor"}
"""Comments in the source of PerceiverForOpticalFlow, by the part whose arguments they are among."""
_FLOW = "PerceiverForOpticalFlow"
_OPERATORS: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Pow: operator.pow,
}


class _Text(NamedTuple):
    """What a text holds: arguments of a part, items of a dict, or one value by the name ""."""

    kind: type
    values: dict[str, ast.expr]


def replaced(cls: str, parts: Specs, replacements: Any) -> Specs:
    """The parts of a task class with all pairs replaced, one after the other; `InputError` for what cannot be."""
    for pair in replacements or ():
        if not (isinstance(pair, (list, tuple)) and len(pair) == 2 and all(isinstance(text, str) for text in pair)):
            raise InputError(f"hard_coded_replacements must hold pairs of texts, got {pair!r}")
        parts = _replaced(cls, parts, *pair)
    return parts


def _replaced(cls: str, parts: Specs, old: str, new: str) -> Specs:
    try:
        if cls == _FLOW and old in _COMMENTS:
            part = parts[_COMMENTS[old]]
            return {**parts, _COMMENTS[old]: PartSpec(part.cls, {**part.kwargs, **_constants(_read(new))})}
        sought = _read(old)
        left_out = not new.strip() and sought.kind is not ast.expr
        put = _Text(sought.kind, {}) if left_out else _read(new)
        if sought.kind is not put.kind:
            raise ValueError(f"{new!r} cannot take the place of {old!r}")
        texts, constants = {name: ast.unparse(node) for name, node in sought.values.items()}, _constants(put)
    except (SyntaxError, ValueError) as error:
        raise InputError(f"hard_coded_replacements of {cls} cannot be read: {error}") from None
    found = False

    def entries(kind: type, own: Mapping[str, Any]) -> dict[str, Any]:
        """Arguments or items, all those that are sought exchanged."""
        nonlocal found
        inner = {name: visited(value) for name, value in own.items()}
        if kind is not sought.kind or any(name not in own or _text(own[name]) != t for name, t in texts.items()):
            return inner
        found = True
        return {name: value for name, value in inner.items() if name not in texts} | constants

    def visited(value: Any) -> Any:
        nonlocal found
        if sought.kind is ast.expr and _text(value) == texts[""]:
            found = True
            return constants[""]
        match value:
            case PartSpec():
                return PartSpec(value.cls, entries(PartSpec, value.kwargs))
            case Mapping():
                return entries(dict, value)
            case tuple():
                return tuple(visited(item) for item in value)
        return value

    changed = {name: visited(part) for name, part in parts.items()}
    if not found:
        raise InputError(f"hard_coded_replacements: {old!r} is not among the constants of {cls}")
    return changed


def _read(text: str) -> _Text:
    if text.lstrip().startswith(('"', "'")) and ":" in text:
        items = ast.parse(f"{{{text}}}", mode="eval").body
        if isinstance(items, ast.Dict):
            return _Text(dict, {ast.literal_eval(k): v for k, v in zip(items.keys, items.values) if k is not None})
    call = ast.parse(f"_({text})", mode="eval").body
    if isinstance(call, ast.Call) and call.keywords and not call.args:
        return _Text(PartSpec, {keyword.arg or "": keyword.value for keyword in call.keywords})
    if isinstance(call, ast.Call) and len(call.args) == 1 and not call.keywords:
        return _Text(ast.expr, {"": call.args[0]})
    raise ValueError(f"{text!r} is neither arguments nor items nor a value")


def _text(value: Any) -> str | None:
    """A constant as the source has it, in the spacing of `ast.unparse`; None for parts and dicts."""
    match value:
        case Computed():
            return value.text
        case PartSpec() | Mapping():
            return None
        case tuple():
            return f"({', '.join(str(_text(item)) for item in value)}{',' * (len(value) == 1)})"
    return repr(value)


def _constants(text: _Text) -> dict[str, Any]:
    return {name: _constant(node) for name, node in text.values.items()}


def _constant(node: ast.expr) -> Any:
    try:
        return ast.literal_eval(node)
    except ValueError:
        return Computed(ast.unparse(node), _function(node))


def _function(node: ast.expr) -> Callable[[Config], Any]:
    """What gives the value of an expression for a configuration."""
    match node:
        case ast.Constant(value=value):
            return lambda config: value
        case ast.Attribute(value=ast.Name(id="config"), attr=field):
            return lambda config: config[field]
        case ast.BinOp(op=op, right=exponent) if type(op) in _OPERATORS:
            if isinstance(op, ast.Pow) and not (isinstance(exponent, ast.Constant) and exponent.value in range(9)):
                raise ValueError(f"{ast.unparse(node)} is too large")
            left, right, combined = _function(node.left), _function(exponent), _OPERATORS[type(op)]
            return lambda config: combined(left(config), right(config))
    raise ValueError(f"{ast.unparse(node)} is neither a constant nor computed from config")
