"""transformers' model debugger: what `model_addition_debugger_context(model, debug_path=...)` leaves in a folder.

`<Class>_debug_tree_FULL_TENSORS.json` is a tree of calls, each {"module_path", "inputs", "outputs", "children"}. A
tensor is {"shape", "dtype", "value", "mean", ...}: its text, or with use_repr=False the path of a `.safetensors` file.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import InputError
from ...weights.formats.opcodes import shown
from ...weights.formats.safetensors_file import read_contents
from .held import MOST, Held, Printed, beside, read_json_of
from .tensor_text import parse_dtype, parse_scalar, parse_shape, parse_tensor

FULL, SUMMARY = "_FULL_TENSORS.json", "_SUMMARY.json"
LIMIT = 256 << 20
_STATISTICS = ("mean", "min", "max")
_TENSOR = {"shape", "dtype", "value"}


def is_tree(value: Any) -> bool:
    """Whether a JSON value is a tree of calls."""
    return isinstance(value, dict) and isinstance(value.get("module_path"), str)


def held_debugger(path: Path) -> Held:
    """Outputs of every call by the module's path, without the class before it; the model's are `input/` and `output/`.

    Of a module that is called n times they are `path@0` to `path@n-1`. Where these went into one file, which is written
    over at each call, the last is there alone, and a note says so.
    """
    if path.name.endswith(SUMMARY):
        raise InputError(f"{path} holds no values; give the file *{FULL} beside it, or their folder")
    index = _index(path) if path.is_dir() else path
    root = read_json_of(index, "a tree of calls", LIMIT)
    if not is_tree(root):
        raise InputError(f"{index} is no tree of calls of transformers' model debugger")
    calls: dict[str, list[Any]] = {}
    top = root["module_path"].removesuffix(" (top-level)")
    for node in _nodes(index, root):
        name = node["module_path"].removeprefix(f"{top}.")
        if node is root:
            inputs = node.get("inputs")
            for key in ("args", "kwargs"):
                part = inputs.get(key) if isinstance(inputs, dict) else None
                _collect(part, "input/" if key == "kwargs" else "input/args", calls)
        _collect(node.get("outputs"), "output/" if node is root else name, calls)
    files = Counter(value["value"] for values in calls.values() for value in values if isinstance(value["value"], str))
    made = Held({})
    repeated = 0
    for name, values in calls.items():
        for i, value in enumerate(values):
            saved = value["value"]
            if isinstance(saved, str) and files[saved] > 1:
                files[saved] -= 1
                repeated += 1
                continue
            array, dtype = _tensor(index, name, value)
            made.add(path, name if len(values) == 1 else f"{name}@{i}", array, dtype)
    if repeated:
        were = "value was" if repeated == 1 else "values were"
        made.notes.append(
            f"{index}: {repeated} {were} written over by later calls of the same module, and the last one's are there; "
            "use_repr=True keeps each"
        )
    for name, file in _others(index, top, files):
        if name not in calls:
            array, dtype = _saved(index, file, None)
            made.add(path, name, array, dtype)
    return made


def _others(index: Path, top: str, files: Mapping[str, int]) -> Iterator[tuple[str, str]]:
    """Outputs in files that the tree does not name: those of the model, which it leaves out, and of layers that are
    pruned from it. (name, file)"""
    for path in sorted(index.parent.glob("*.safetensors")):
        before, found, rest = path.stem.rpartition("_outputs")
        if not found or f"./{path.name}" in files or not (before == top or before.startswith(f"{top}.")):
            continue
        key = rest.removeprefix("_")
        if before == top:
            yield f"output/{key or '0'}", path.name
        else:
            name = before.removeprefix(f"{top}.")
            yield name if key in ("", "0") else f"{name}.{key}", path.name


def _index(folder: Path) -> Path:
    found = sorted(path for path in folder.iterdir() if path.name.endswith(FULL))
    if len(found) != 1:
        raise InputError(f"{folder} holds {len(found)} files *{FULL}; expected one, or give it itself")
    return beside(found[0], found[0].name)


def _nodes(index: Path, root: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """All calls, in the order in which they end."""
    waiting: list[tuple[dict[str, Any], bool]] = [(root, False)]
    while waiting:
        node, done = waiting.pop()
        if done:
            yield node
            continue
        waiting.append((node, True))
        children = node.get("children", [])
        if not isinstance(children, list) or not all(is_tree(child) for child in children):
            raise InputError(f"{index}: children of {shown(node['module_path'])!r} are no list of calls")
        waiting += [(child, False) for child in reversed(children)]


def _collect(value: Any, name: str, calls: dict[str, list[Any]]) -> None:
    """The tensors of what a call got or gave: the first of a tuple has the call's own name, others a number behind it.

    The depth is bounded by what reads JSON."""
    if isinstance(value, dict) and set(value) >= _TENSOR:
        calls.setdefault(name if not name.endswith("/") else f"{name}0", []).append(value)
        return
    if isinstance(value, dict):
        items = list(value.items())
    elif isinstance(value, list):
        items = [("" if i == 0 and not name.endswith("/") else str(i), child) for i, child in enumerate(value)]
    else:
        return
    for key, child in items:
        between = "" if not key or name.endswith("/") else "."
        _collect(child, f"{name}{between}{key}", calls)


def _tensor(index: Path, name: str, value: dict[str, Any]) -> tuple[np.ndarray | Printed, str]:
    try:
        shape, dtype = parse_shape(value["shape"]), parse_dtype(value["dtype"])
        saved = value["value"]
        if isinstance(saved, str):
            return _saved(index, saved, shape)
        if not isinstance(saved, list) or not all(isinstance(line, str) for line in saved) or len(saved) > MOST:
            raise ValueError("its value is neither lines of text nor a file")
        printed = parse_tensor("\n".join(saved), shape, dtype)
    except ValueError as error:
        text = shown(error, 120)
        raise error if isinstance(error, InputError) else InputError(f"{index}: {shown(name)!r}: {text}") from None
    found = {key: number for key in _STATISTICS if (number := parse_scalar(value.get(key))) is not None}
    return replace(printed, statistics=found), ""


def _saved(index: Path, saved: str, shape: tuple[int, ...] | None) -> tuple[np.ndarray, str]:
    file = beside(index, saved.removeprefix("./"))
    found = read_contents(file)
    array = found.arrays.get("data")
    if array is None or array.dtype.kind not in "biuf":
        raise InputError(f"{file} holds no array 'data'; expected what transformers' model debugger writes")
    if shape is not None and array.shape != shape:
        raise InputError(f"{file} holds an array of shape {list(array.shape)}, {index.name} says {list(shape)}")
    return array, found.dtypes["data"]
