"""The table by which a live module is known: class path -> peer, class and configuration.

Each file has the `ROWS` of one package, by class path; a new peer is a row there, or a file and a line of `_FILES`.

base             what a row says
transformers     rows of transformers, whose modules keep their configuration
perceiver_parts  its Perceiver's preprocessors, decoders and postprocessors, read off their attributes
lucidrains       perceiver-pytorch and flamingo-pytorch, which keep no configuration: read off attributes and shapes
open_flamingo    the same for open_flamingo
krasserm         perceiver-io
torch_nn         PyTorch's own modules
"""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Iterator, Mapping
from importlib import import_module, metadata
from typing import Any

from ....errors import one_line
from ...cases.compare import TOLERANCES
from .base import UNKNOWN, Recognised, Row, Unread

__all__ = ["UNKNOWN", "Recognised", "Row", "Unread", "class_path", "recognise", "rows"]

_FILES = {
    "transformers": "transformers",
    "perceiver_pytorch": "lucidrains",
    "flamingo_pytorch": "lucidrains",
    "open_flamingo": "open_flamingo",
    "perceiver": "krasserm",
    "torch": "torch_nn",
}
"""Top-level package of a class -> the file of this folder that has its rows."""


def class_path(module: Any) -> str:
    """The module path and name of an object's class."""
    return f"{type(module).__module__}.{type(module).__qualname__}"


def rows() -> Iterator[tuple[str, Row]]:
    """Every row with its class path."""
    for file in dict.fromkeys(_FILES.values()):
        yield from _rows(file).items()


def recognise(module: Any) -> tuple[Recognised, list[str]]:
    """Which peer's class a module is, and notes; `UNKNOWN` for any other, of which its own configuration is kept."""
    path = class_path(module)
    file = _FILES.get(path.partition(".")[0])
    row = _rows(file).get(path) if file else None
    if row is None:
        return Recognised(UNKNOWN, path, own_configuration(module)), _ancestor(module)
    try:
        config, call, partial = dict(row.config(module)), dict(row.call(module)), row.partial(module)
        json.dumps([config, call])
    except Exception as error:  # a class of the same name in another version has other attributes
        why = f"{path} of {row.peer} is built in a way that is not known ({one_line(error, 80)})"
        return Recognised(UNKNOWN, path, own_configuration(module)), [why]
    parts = {type(part).__name__ for _, part in module.named_modules()}
    made = Recognised(
        row.peer,
        row.name or path,
        config,
        call,
        row.arguments,
        row.given,
        row.outputs,
        row.without,
        row.encoder,
        row.opened,
        partial,
        _version(row.distribution, path),
        _tolerance(module) if row.float32 & parts else None,
    )
    return made, []


def _tolerance(module: Any) -> dict[str, float]:
    """float32's, and more for Fourier positions in float32: their angles, up to pi times half the resolution, are off
    by a rounding or two, 2e-7 of the resolution."""
    grids = [size for _, part in module.named_modules() for size in getattr(part, "max_resolution", ())]
    more = max([2e-7 * size / TOLERANCES["float32"]["output"] for size in grids], default=1.0)
    return {kind: limit * max(more, 1.0) for kind, limit in TOLERANCES["float32"].items()}


def own_configuration(module: Any) -> dict[str, Any]:
    """What an unknown module says of itself: its `config`, as far as JSON holds it, else such attributes."""
    given: Any = getattr(module, "config", None)
    if hasattr(given, "to_dict"):
        given = given.to_dict()
    if not isinstance(given, Mapping):
        given = vars(given) if given is not None and hasattr(given, "__dict__") else vars(module)
    names = [key for key in given if isinstance(key, str) and not key.startswith("_") and key != "training"]
    kept = {name: given[name] for name in names if _simple(given[name])}
    return copy.deepcopy(kept)  # the module may change them


def _simple(value: Any, depth: int = 0) -> bool:
    """Whether a value is a number, a text or a flag, or a short list or dict of them."""
    if isinstance(value, (list, tuple)):
        return depth < 4 and len(value) <= 100 and all(_simple(part, depth + 1) for part in value)
    if isinstance(value, dict):
        return depth < 4 and all(isinstance(k, str) and _simple(part, depth + 1) for k, part in value.items())
    if isinstance(value, float):
        return value == value and abs(value) != float("inf")
    return value is None or isinstance(value, (bool, int, str))


def _ancestor(module: Any) -> list[str]:
    """A note where a module's class is derived from a known one, whose configuration need not tell what it does."""
    for cls in type(module).__mro__[1:]:
        path = f"{cls.__module__}.{cls.__qualname__}"
        file = _FILES.get(path.partition(".")[0])
        if file and path in _rows(file):
            return [f"the class is derived from {path}, which may say something else of it"]
    return []


def _rows(file: str) -> Mapping[str, Row]:
    made: Mapping[str, Row] = import_module(f".{file}", __name__).ROWS
    return made


def _version(distribution: str, path: str) -> str:
    """The version that is installed; "" where that cannot be told."""
    package = path.partition(".")[0]
    try:
        return metadata.version(distribution or package)
    except metadata.PackageNotFoundError:
        return str(getattr(sys.modules.get(package), "__version__", ""))
