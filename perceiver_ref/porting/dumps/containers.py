"""Containers that the readers of weights know: `.npz`, a single `.npy`, `.safetensors`, `.pt` and `.gguf`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ...errors import InputError, listed
from ...host.memory import require
from ...weights.formats.dtypes import BFLOAT16
from ...weights.formats.foreign import Foreign, foreign_of
from ...weights.formats.gguf import read_gguf
from ...weights.formats.npz import read_npy, read_npz
from ...weights.formats.opcodes import first_line, shown
from ...weights.formats.pytorch import is_tensor, read_pytorch
from ...weights.formats.safetensors_file import read_contents
from ...weights.formats.state_dict import Found
from ...weights.formats.tensors import Tensor
from .held import GROUPS, META, Held, text_array


def held_npz(path: Path) -> Held:
    """An `.npz` file."""
    widened: set[str] = set()
    arrays = read_npz(path, widened=widened)
    return Held(dict(arrays), dtypes=dict.fromkeys(widened, BFLOAT16))


def read_npy_file(path: Path) -> tuple[np.ndarray, str]:
    """The array of one `.npy` file, and its dtype there if another ("" if not); `InputError` for any damage."""
    widened: set[str] = set()
    try:
        size = path.stat().st_size
        require(str(path), size)
        with path.open("rb") as file:
            array = read_npy(path, path.stem, file, size, widened)
            return array, BFLOAT16 if widened else ""
    except InputError:
        raise
    except Exception as error:  # NumPy raises almost anything
        raise InputError(f"{path} is not a readable .npy file ({first_line(error)})") from None


def held_npy(path: Path) -> Held:
    """A single `.npy` file, by the name of the file."""
    made = Held({})
    made.add(path, path.stem, *read_npy_file(path))
    return made


def held_safetensors(path: Path) -> Held:
    """A `.safetensors` file; the metadata's entry `meta` is that of a case."""
    found = read_contents(path)
    made = _readable(path, found.arrays, found.dtypes)
    meta = found.metadata.get(META) if isinstance(found.metadata, dict) else None
    if meta is not None:
        if not isinstance(meta, str):
            raise InputError(f"{path}: meta in the metadata must be text, JSON of an object")
        made.add(path, META, np.array(meta))
    return made


def held_gguf(path: Path) -> Held:
    """A `.gguf` file's tensors."""
    return _readable(path, *read_gguf(path))


def held_pytorch(path: Path) -> Held:
    """All tensors of a file of `torch.save`: dicts in dicts and lists have names joined by dots.

    A group of the vector format, `{"output": {"logits": ...}}`, is joined by a slash; `meta` is a dict or JSON as text.
    """
    meta: list[Any] = []
    dtypes: dict[str, str] = {}

    def find(where: object, tree: Any, key: str | None) -> Found:
        if isinstance(tree, dict) and META in tree and not is_tensor(tree[META]):
            meta.append(tree[META])
            tree = {name: value for name, value in tree.items() if name != META}
        leaves = {} if not is_tensor(tree) else {path.stem: tree}
        left: list[str] = []
        if not leaves:
            _flatten(where, tree, "", leaves, left)
        if not leaves:
            raise InputError(f"{where} holds no tensors; expected a dict of tensors by name")
        dtypes.update({name: tensor.storage.dtype.name for name, tensor in leaves.items()})
        notes = [f"{where}: left out what are no tensors: {listed(left)}"] if left else []
        return Found(dict(leaves), notes)

    found = read_pytorch(path, find=find)
    made = Held({}, list(found.notes))
    for name, array in found.arrays.items():
        made.add(path, name, array, dtypes[name])
    for value in meta:
        made.add(path, META, text_array(value, path))
    return made


def _flatten(where: object, value: Any, name: str, leaves: dict[str, Tensor], left: list[str]) -> None:
    """The tensors of a tree; its depth is bounded by what reads it."""
    if isinstance(value, Tensor):
        if name in leaves:
            raise InputError(f"{where}: the name {shown(name)!r} is there twice")
        leaves[name] = value
        return
    if isinstance(value, dict):
        items = [("?" if isinstance(key, Foreign) else str(key), child) for key, child in value.items()]
    elif isinstance(value, (list, tuple)):
        items = [(str(i), child) for i, child in enumerate(value)]
    else:
        left.append(shown(name, 40))
        return
    between = "/" if name in GROUPS else "." if name else ""
    for key, child in items:
        _flatten(where, child, f"{name}{between}{key}", leaves, left)


def _readable(path: Path, arrays: dict[str, np.ndarray], dtypes: dict[str, str]) -> Held:
    """Without those that no reader knows, which a note names."""
    left = {name: foreign for name, array in arrays.items() if (foreign := foreign_of(array)) is not None}
    made = Held({})
    for name, array in arrays.items():
        if name not in left:
            made.add(path, name, array, dtypes.get(name, ""))
    if left:
        why = next(iter(left.values())).why
        made.notes.append(f"{path}: left out {listed(map(shown, left), 4)}: {why}")
    return made
