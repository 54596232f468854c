"""PyTorch's files (`torch.save`) without PyTorch: zip archives, and the format before version 1.6.

Both hold a pickle whose tensors are views (offset, sizes, strides) of storages, and the storages' bytes apart from it.
The pickle is interpreted (`opcodes`); it may name tensors, parameters, storages, dtypes and containers only. A storage
is read when a tensor of the state dict that was looked for needs it, and once; its tensors share its memory.
"""

from __future__ import annotations

import io
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError
from ..files import existing_file
from ..pickles import NUMPY
from .archive import Archive, open_archive, read_into
from .dtypes import BFLOAT16, cast, decoded
from .opcodes import Bounded, Names, RefusedError, interpret, pickle_errors, plain, shown
from .state_dict import find_state_dict

_WHAT = "what torch.save(model.state_dict(), path) writes, tensors and containers"
_PICKLE_LIMIT = 1 << 28
_ZIP = b"PK\x03\x04"
_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001
_LARGE = 1 << 60

_STORAGES = {
    "Double": "float64",
    "Float": "float32",
    "Half": "float16",
    "BFloat16": BFLOAT16,
    "Long": "int64",
    "Int": "int32",
    "Short": "int16",
    "Char": "int8",
    "Byte": "uint8",
    "Bool": "bool",
    "Untyped": "uint8",
}
_DTYPES = ("float64", "float32", "float16", BFLOAT16, "int64", "int32", "int16", "int8", "bool")
_UNSIGNED = ("uint8", "uint16", "uint32", "uint64")


@dataclass(frozen=True)
class _Dtype:
    """A dtype by name; `itemsize` in bytes."""

    name: str

    @property
    def stored(self) -> np.dtype[Any]:
        """How NumPy reads it: bfloat16 as its bits."""
        return np.dtype("uint16" if self.name == BFLOAT16 else self.name)


@dataclass(frozen=True)
class _Class:
    """A class that a file may name but not call."""

    name: str


@dataclass(frozen=True)
class _Storage:
    """`size` elements from `first` on of the data under `key`."""

    key: str
    dtype: _Dtype
    size: int
    first: int = 0


@dataclass(frozen=True)
class Tensor:
    """A view of a storage: the element at index i is element offset + sum of i * strides."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def read_pytorch(path: Path, dtype: Any = None) -> tuple[dict[str, np.ndarray], list[str]]:
    """(arrays by name, notes for the user) of the state dict in a file; floating-point ones in `dtype` if given.

    Tensors that are the same view of a storage are the same array. Raises `InputError` when the file is damaged, holds
    anything but tensors and containers, or several state dicts.
    """
    existing_file(path, "a file of torch.save")
    with pickle_errors(path, _WHAT):
        with path.open("rb") as file:
            start = file.read(512)
        if start.startswith(_ZIP):
            with open_archive(path) as archive:
                return _read_zip(path, archive, dtype)
        if start[257:262] == b"ustar":
            raise InputError(
                f"{path} is in PyTorch's tar format of 2016; load it with torch.load and save it again with torch.save"
            )
        return _read_legacy(path, dtype)


def is_pytorch(path: Path) -> bool:
    """Whether a file of any name is PyTorch's: a zip archive, or begins with the older format's number."""
    with path.open("rb") as file:
        start = file.read(16)
    return start.startswith(_ZIP) or (start[2:4] == b"\x8a\x0a" and start[4:14] == _MAGIC.to_bytes(10, "little"))


def _read_zip(path: Path, archive: Archive, dtype: Any) -> tuple[dict[str, np.ndarray], list[str]]:
    pickles = [name for name in archive if name == "data.pkl" or name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise InputError(f"{path} is no file of torch.save: it holds {len(pickles)} members data.pkl, expected one")
    root = pickles[0].removesuffix("data.pkl")
    if root + "constants.pkl" in archive:
        raise InputError(f"{path} is a TorchScript program; save its weights: torch.save(module.state_dict(), path)")
    order = archive.read(root + "byteorder", 16) if root + "byteorder" in archive else b"little"
    if order not in (b"little", b"big"):
        raise ValueError("an unknown byte order")
    data = archive.read(pickles[0], _PICKLE_LIMIT)

    def persistent(saved: Any) -> _Storage:
        return _storage(saved, 5)

    tree = plain(interpret(Bounded(io.BytesIO(data), len(data)), len(data), PYTORCH, persistent), _finish)

    def read(key: str) -> np.ndarray:
        member = f"{root}data/{key}"
        if member not in archive:
            raise ValueError(f"the storage {shown(key)} is missing")
        buffer = np.empty(archive.size(member), np.uint8)
        with archive.open(member) as file:
            read_into(file, buffer)
            file.read(1)  # the end, where the checksum is compared
        return buffer

    return _arrays(path, tree, read, "<" if order == b"little" else ">", dtype)


def _read_legacy(path: Path, dtype: Any) -> tuple[dict[str, np.ndarray], list[str]]:
    """Pickles of a number, a version, the machine, the object and the storages' keys; then each storage."""
    size = path.stat().st_size
    storages: dict[str, _Storage] = {}

    def persistent(saved: Any) -> _Storage:
        whole = _storage(saved[:5] if isinstance(saved, tuple) else saved, 5)
        if storages.setdefault(whole.key, whole).size != whole.size:
            raise RefusedError("a storage of two sizes")
        return _part(whole, saved[5]) if len(saved) == 6 and saved[5] is not None else whole

    with path.open("rb") as file:
        bounded = Bounded(file, size)

        def read_next() -> Any:
            return plain(interpret(bounded, size, PYTORCH, persistent), _finish)

        if read_next() != _MAGIC or read_next() != _PROTOCOL:
            raise InputError(f"{path} is no file of torch.save; expected a zip archive or its older format")
        machine = read_next()
        little = not isinstance(machine, dict) or machine.get("little_endian", True) is not False
        tree, keys = read_next(), read_next()
        if not isinstance(keys, list) or not all(isinstance(key, str) and key in storages for key in keys):
            raise RefusedError("storages that no tensor has")
        places: dict[str, tuple[int, int]] = {}
        position = file.tell()
        for key in keys:
            file.seek(position)
            count = int.from_bytes(file.read(8), "little" if little else "big")
            length = count * storages[key].dtype.stored.itemsize
            position += 8
            places[key] = (position, length)
            position += length
            if count != storages[key].size or position > size:
                raise ValueError(f"the storage {shown(key)} has another size than its tensors say")

        def read(key: str) -> np.ndarray:
            if key not in places:
                raise ValueError(f"the storage {shown(key)} is missing")
            start, length = places[key]
            buffer = np.empty(length, np.uint8)
            file.seek(start)
            read_into(file, buffer)
            return buffer

        return _arrays(path, tree, read, "<" if little else ">", dtype)


def _arrays(
    path: Path, tree: Any, read: Callable[[str], np.ndarray], order: str, dtype: Any
) -> tuple[dict[str, np.ndarray], list[str]]:
    tensors, notes = find_state_dict(path, tree, lambda value: isinstance(value, Tensor))
    budget = 4 * path.stat().st_size + (1 << 20)
    buffers: dict[str, np.ndarray] = {}
    uses = {tensor.storage.key: 0 for tensor in tensors.values()}
    distinct = set(tensors.values())
    for tensor in distinct:
        uses[tensor.storage.key] += 1
        budget -= math.prod(tensor.shape) * tensor.storage.dtype.stored.itemsize
    if budget < 0:
        raise RefusedError("tensors of far more data than it has")
    made: dict[Tensor, np.ndarray] = {}
    for name, tensor in tensors.items():
        if tensor in made:
            continue
        key = tensor.storage.key
        if key not in buffers:
            buffers[key] = read(key)
        view = _view(tensor, buffers[key], order)
        made[tensor] = cast(decoded(view, tensor.storage.dtype.name), dtype, name, path)
        uses[key] -= 1
        if not uses[key]:
            del buffers[key]
    return {name: made[tensor] for name, tensor in tensors.items()}, notes


def _view(tensor: Tensor, buffer: np.ndarray, order: str) -> np.ndarray:
    """The elements of a tensor, as a view of its storage's bytes where the machine's byte order is the file's."""
    storage = tensor.storage
    stored = storage.dtype.stored
    first = (storage.first + tensor.offset) * stored.itemsize
    reach = _reach(tensor.shape, tensor.strides)
    if not math.prod(tensor.shape):
        return np.empty(tensor.shape, stored)
    if (storage.first + storage.size) * stored.itemsize > buffer.nbytes:
        raise ValueError("a storage has less data than its tensors say")
    elements = buffer[first : first + reach * stored.itemsize].view(stored)
    strides = [stride * stored.itemsize if n > 1 else 0 for n, stride in zip(tensor.shape, tensor.strides)]
    view = np.lib.stride_tricks.as_strided(elements, tensor.shape, strides)
    if 0 in (stride for n, stride in zip(tensor.shape, tensor.strides) if n > 1):
        view = view.copy()  # expanded: its elements share memory
    if order != ("<" if sys.byteorder == "little" else ">"):
        view = view.byteswap()
    return view.view(bool) if storage.dtype.name == "bool" else view


def _storage(saved: Any, length: int) -> _Storage:
    """A persistent id: ("storage", class, key, device, elements)."""
    if not isinstance(saved, tuple) or len(saved) != length or saved[0] not in ("storage", b"storage"):
        what = shown(saved[0], 20) if isinstance(saved, tuple) and saved and isinstance(saved[0], str) else "unknown"
        raise RefusedError(f"a persistent id of kind {what}")
    _, dtype, key, _, size = saved
    if not isinstance(dtype, _Dtype) or not isinstance(key, str) or type(size) is not int or not 0 <= size < _LARGE:
        raise RefusedError("a malformed storage")
    return _Storage(key, dtype, size)


def _part(whole: _Storage, view: Any) -> _Storage:
    """The older format's part of a storage: (key, first element, elements)."""
    if not isinstance(view, tuple) or len(view) != 3:
        raise RefusedError("a malformed part of a storage")
    first, size = _sizes(view[1:])
    if first + size > whole.size:
        raise RefusedError("a part beyond its storage")
    return _Storage(whole.key, whole.dtype, size, first)


def _sizes(values: Any) -> tuple[int, ...]:
    if not isinstance(values, tuple) or len(values) > 32:
        raise RefusedError("a tensor of impossible shape")
    if not all(type(n) is int and 0 <= n < _LARGE for n in values):
        raise RefusedError("a tensor of impossible shape")
    return values


def _rebuild(storage: Any, offset: Any, shape: Any, strides: Any, *rest: Any) -> Tensor:
    """`torch._utils._rebuild_tensor` and `_rebuild_tensor_v2`: `rest` is requires_grad, hooks, metadata."""
    if not isinstance(storage, _Storage) or any(rest[1:]):
        raise RefusedError("a tensor with hooks, metadata or a foreign storage")
    (offset,), shape, strides = _sizes((offset,)), _sizes(shape), _sizes(strides)
    if len(shape) != len(strides):
        raise RefusedError("a tensor of impossible shape")
    if math.prod(shape) and offset + _reach(shape, strides) > storage.size:
        raise RefusedError("a tensor that reaches beyond its storage")
    if math.prod(shape) > storage.size:
        raise RefusedError("a tensor with more elements than its storage")
    return Tensor(storage, offset, shape, strides)


def _reach(shape: tuple[int, ...], strides: tuple[int, ...]) -> int:
    """The elements from a tensor's first to its last, both included."""
    return sum((n - 1) * stride for n, stride in zip(shape, strides)) + 1


def _rebuild_v3(
    storage: Any, offset: Any, shape: Any, strides: Any, grad: Any, hooks: Any, dtype: Any, *rest: Any
) -> Tensor:
    """`torch._utils._rebuild_tensor_v3`: the storage is untyped, and sizes count elements of `dtype`."""
    if not isinstance(storage, _Storage) or not isinstance(dtype, _Dtype) or storage.dtype.name != "uint8":
        raise RefusedError("a tensor with a foreign storage")
    typed = _Storage(storage.key, dtype, storage.size // dtype.stored.itemsize)
    return _rebuild(typed, offset, shape, strides, grad, hooks, *rest)


def _parameter(tensor: Any, *rest: Any) -> Tensor:
    """`torch._utils._rebuild_parameter`, with or without attributes, which are left out."""
    if not isinstance(tensor, Tensor):
        raise RefusedError("a parameter that is no tensor")
    return tensor


def _from_type(function: Any, kind: Any, arguments: Any, state: Any) -> Tensor:
    """`torch._tensor._rebuild_from_type_v2`: a tensor with attributes, which are left out."""
    if not any(function is known for known in _REBUILDS) or not isinstance(kind, _Class):
        raise RefusedError("a tensor of a foreign class")
    if not isinstance(arguments, tuple):
        raise RefusedError("a call")
    made: Tensor = function(*arguments)
    return made


def _shape(items: Any = ()) -> tuple[int, ...]:
    """`torch.Size`."""
    return _sizes(tuple(items))


def _device(*arguments: Any) -> str:
    """`torch.device`, as text."""
    if not all(isinstance(argument, (str, int)) for argument in arguments):
        raise RefusedError("a malformed device")
    return shown(":".join(map(str, arguments)))


def _finish(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value
    if isinstance(value, (_Dtype, _Class)):
        return value.name
    made = getattr(value, "array", value)
    if not isinstance(made, np.ndarray):
        raise RefusedError("an unfinished object")
    return made


_REBUILDS = (_rebuild, _rebuild_v3, _parameter)
PYTORCH: Names = {
    **NUMPY,
    ("torch._utils", "_rebuild_tensor"): _rebuild,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild,
    ("torch._utils", "_rebuild_tensor_v3"): _rebuild_v3,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("torch._utils", "_rebuild_parameter_with_state"): _parameter,
    ("torch._tensor", "_rebuild_from_type_v2"): _from_type,
    ("torch", "Tensor"): _Class("Tensor"),
    ("torch.nn.parameter", "Parameter"): _Class("Parameter"),
    ("torch.nn.parameter", "Buffer"): _Class("Buffer"),
    ("torch", "Size"): _shape,
    ("torch", "device"): _device,
    **{("torch", f"{kind}Storage"): _Dtype(name) for kind, name in _STORAGES.items()},
    ("torch.storage", "UntypedStorage"): _Dtype("uint8"),
    **{("torch", name): _Dtype(name) for name in (*_DTYPES, *_UNSIGNED)},
}
"""What a file of PyTorch may name."""
