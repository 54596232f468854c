"""Our own checkpoint: one `.npz` with parameters by our paths, and everything that leads back to the peer's file.

| key | what |
| --- | --- |
| `meta` | JSON in a 0-d text array: `format`, `version`, `perceiver_ref`, `peer`, `class`, `config`, `dtype`, |
| | `shapes` (by the peer's names, in its order), `tied` (alias: the parameter that it shares), `inputs` (shapes of |
| | the arguments, for classes that take sizes from them); `task` where `save` was told what the model is for |
| `param/<path>`, `state/<path>` | parameters and running statistics |
| `peer/<name>` | what the peer stores beyond them, such as counters of steps |
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from ...autograd import tree
from ...autograd.tree import Tree
from ...errors import InputError, listed
from ...host import json_text
from ...peers import Rebuilt
from ...peers.names import Binding
from ...version import __version__
from .fit import Fitted, same_bits
from .opcodes import first_line
from .read import Arrays

FORMAT, VERSION = "perceiver-ref checkpoint", 1
_TYPES = {"peer": str, "class": str, "config": dict, "shapes": dict, "tied": dict, "inputs": dict}


def to_own(
    fitted: Fitted,
    peer: str,
    cls: str,
    config: Mapping[str, Any],
    where: object,
    inputs: Mapping[str, tuple[int, ...]] | None = None,
) -> Arrays:
    """The arrays of our checkpoint for a peer's; `InputError` for missing, unused or unfit ones.

    `inputs` are the shapes of the arguments that the class was rebuilt with, if any.
    """
    rebuilt, theirs = fitted.rebuilt, fitted.arrays
    params, state = rebuilt.load(theirs, where)
    shapes = {name: array.shape for name, array in theirs.items()}
    meta = own_header(peer, cls, config, theirs.values(), shapes, fitted.tied, inputs or {})
    made = by_key(params, state)
    kept = {f"peer/{name}": array for name, array in beyond(rebuilt, made, theirs).items()}
    return {"meta": np.array(json.dumps(meta)), **made, **kept}


def own_header(
    peer: str,
    cls: str,
    config: Mapping[str, Any],
    arrays: Iterable[np.ndarray],
    shapes: Mapping[str, tuple[int, ...]],
    tied: Mapping[str, str],
    inputs: Mapping[str, tuple[int, ...]],
) -> dict[str, Any]:
    """`meta` of our checkpoint of these arrays; `shapes` and `tied` are by the peer's names."""
    return {
        "format": FORMAT,
        "version": VERSION,
        "perceiver_ref": __version__,
        "peer": peer,
        "class": cls,
        "config": dict(config),
        "dtype": ", ".join(sorted({str(array.dtype) for array in arrays if array.dtype.kind == "f"})),
        "shapes": {name: list(shape) for name, shape in shapes.items()},
        "tied": dict(tied),
        "inputs": {name: list(shape) for name, shape in inputs.items()},
    }


def by_key(params: Tree, state: Tree) -> Arrays:
    """Parameters and running statistics by the keys of our checkpoint."""
    made = {f"param/{path}": array for path, array in tree.flatten(params).items()}
    return made | {f"state/{path}": array for path, array in tree.flatten(state).items()}


def beyond(rebuilt: Rebuilt, ours: Arrays, theirs: Arrays) -> Arrays:
    """Those of the peer's arrays that ours, by key, do not give back bit for bit."""
    bindings = _by_name(rebuilt)
    return {name: a for name, a in theirs.items() if not _restored_exactly(bindings.get(name, []), name, ours, a)}


def tuned(rebuilt: Rebuilt, ours: Arrays, kept: Arrays, shapes: Mapping[str, tuple[int, ...]], where: object) -> Arrays:
    """What is to be written beside our arrays, once they have other values: `kept`, the `beyond` of those before.

    Raises `InputError` where two of ours are one array of the peer's, and have become different.
    """
    made: Arrays = {}
    for name, parts in _by_name(rebuilt).items():
        array = kept.get(name)
        if array is not None:
            dtype = np.result_type(*(ours[key].dtype for key, _ in parts))
            made[name] = array = array.astype(dtype, copy=True)
        if array is None and len(parts) == 1:
            continue  # its own view, and nothing else
        restored = _restored(parts, tuple(shapes[name]), ours, array, f"{where}: {name}")
        if wrong := [key for key, b in parts if not np.array_equal(b.view(restored), ours[key])]:
            keys = " and ".join(sorted(key for key, _ in parts))
            raise InputError(
                f"{where}: {keys} are one array, {name}, where they come from, and {wrong[0]} has become another: "
                "give them one gradient, their sum, or save without the peer's names"
            )
    return {**kept, **made}


def meta_of(arrays: Arrays, where: object) -> dict[str, Any] | None:
    """The object that `meta` holds, in our checkpoints and in cases; None where there is none. `InputError` for what is
    no JSON."""
    text = arrays.get("meta")
    if text is None or text.dtype.kind != "U" or text.shape:
        return None
    try:
        meta = json_text.parse(str(text))
    except ValueError as error:
        raise InputError(f"{where}: meta is not JSON ({first_line(error)})") from None
    return meta if isinstance(meta, dict) else None


def own_meta(arrays: Arrays, where: object) -> dict[str, Any] | None:
    """`meta` of our checkpoint, taken out of its arrays; None for any other file. `InputError` when it is broken."""
    meta = meta_of(arrays, where)
    if meta is not None and meta.get("format") == "perceiver-ref training":
        raise InputError(f"{where} is a checkpoint of a training run; its model is model.npz, in the same folder")
    if meta is None or meta.get("format") != FORMAT:
        return None
    if meta.get("version") != VERSION:
        raise InputError(f"{where} is a checkpoint of version {meta.get('version')!r}; this release reads {VERSION}")
    if wrong := [key for key, kind in _TYPES.items() if not isinstance(meta.get(key), kind)]:
        raise InputError(f"{where}: meta lacks {', '.join(wrong)}")
    shapes = meta["shapes"]
    for sizes in (*shapes.values(), *meta["inputs"].values()):
        if not isinstance(sizes, list) or not all(type(n) is int and n >= 0 for n in sizes):
            raise InputError(f"{where}: meta: shapes must be lists of sizes")
    if not isinstance(meta.get("task", {}), dict):
        raise InputError(f"{where}: meta: task must be an object")
    if not all(isinstance(n, str) and n in shapes and a not in shapes for a, n in meta["tied"].items()):
        raise InputError(f"{where}: meta: tied must map other names to those of shapes")
    if not all(name.isprintable() for name in [*shapes, *meta["tied"], meta["peer"], meta["class"]]):
        raise InputError(f"{where}: meta: a name is no printable text")
    del arrays["meta"]
    return meta


def from_own(rebuilt: Rebuilt, meta: Mapping[str, Any], arrays: Arrays, where: object) -> Arrays:
    """The peer's arrays of our checkpoint, by its names; takes each out of `arrays`. `InputError` when some do not fit.

    A parameter that the peer keeps transposed comes back as a view.
    """
    bindings = _by_name(rebuilt)
    _check(bindings, meta["shapes"], arrays, where)
    uses: dict[str, int] = {}
    for keys in bindings.values():
        for key, _ in keys:
            uses[key] = uses.get(key, 0) + 1
    made: Arrays = {}
    for name, shape in meta["shapes"].items():
        kept = arrays.pop(f"peer/{name}", None)
        parts = bindings.get(name, [])
        made[name] = _restored(parts, tuple(shape), arrays, kept, f"{where}: {name}")
        for key, _ in parts:
            uses[key] -= 1
            if not uses[key]:
                del arrays[key]
    return made


def _by_name(rebuilt: Rebuilt) -> dict[str, list[tuple[str, Binding]]]:
    """For each of the peer's names, the keys of our checkpoint that hold it, with their bindings."""
    found: dict[str, list[tuple[str, Binding]]] = {}
    for group, bindings in (("param", rebuilt.bindings), ("state", rebuilt.state)):
        for b in bindings:
            found.setdefault(b.name, []).append((f"{group}/{b.path}", b))
    return found


def _check(
    bindings: Mapping[str, list[tuple[str, Binding]]], shapes: Mapping[str, Any], arrays: Arrays, where: object
) -> None:
    expected = {key for parts in bindings.values() for key, _ in parts}
    known = expected | {f"peer/{name}" for name in shapes}
    problems = [f"missing: {key}" for key in sorted(expected - set(arrays))]
    problems += [f"unused: {key}" for key in sorted(set(arrays) - known)]
    problems += [f"missing in shapes: {name}" for name in sorted(set(bindings) - set(shapes))]
    problems += [f"neither bound nor kept: {n}" for n in shapes if n not in bindings and f"peer/{n}" not in arrays]
    problems += [
        f"{key} has shape {arrays[key].shape}, expected {b.shape}"
        for parts in bindings.values()
        for key, b in parts
        if key in arrays and arrays[key].shape != b.shape
    ]
    if problems:
        raise InputError(f"{where}: the checkpoint does not fit its class; {listed(problems, between='; ')}")


def _involution(b: Binding, ours: np.ndarray, shape: tuple[int, ...]) -> np.ndarray | None:
    """The peer's array as a view of ours, where the binding's view is its own inverse (as transposing is)."""
    try:
        theirs = b.view(ours)
        back = b.view(theirs)
    except (IndexError, ValueError):
        return None
    same = back.__array_interface__ == ours.__array_interface__ and theirs.shape == shape
    return theirs if same else None


def _restored(
    parts: list[tuple[str, Binding]], shape: tuple[int, ...], ours: Arrays, kept: np.ndarray | None, what: str
) -> np.ndarray:
    """The peer's array: what was kept of it, with each part of ours written over it."""
    if not parts and kept is not None and kept.shape == shape:
        return kept
    if kept is None and len(parts) == 1:
        ((key, b),) = parts
        if (whole := _involution(b, ours[key], shape)) is not None:
            return whole
    dtype = np.result_type(*(ours[key].dtype for key, _ in parts)) if parts else None
    if kept is not None and (kept.shape != shape or dtype is None or kept.dtype != dtype):
        raise InputError(f"{what} has another shape or dtype than meta and the parameters say")
    if kept is None and math.prod(shape) > 4 * sum(ours[key].size for key, _ in parts) + 1024:
        raise InputError(f"{what} has the shape {shape} in meta, larger than its parameters")
    made = np.zeros(shape, dtype) if kept is None else kept
    for key, b in parts:
        try:
            b.view(made)[...] = ours[key]
        except (IndexError, ValueError):
            raise InputError(f"{what} has the shape {shape} in meta, which does not fit {key}") from None
    return made


def _restored_exactly(parts: list[tuple[str, Binding]], name: str, ours: Arrays, theirs: np.ndarray) -> bool:
    """Whether our arrays alone give the peer's back, bit for bit."""
    if not parts:
        return False
    restored = _restored(parts, theirs.shape, ours, None, name)
    return restored.__array_interface__ == theirs.__array_interface__ or same_bits(restored, theirs)
