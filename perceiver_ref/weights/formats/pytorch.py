"""PyTorch's files (`torch.save`) without PyTorch: zip archives, and the format before version 1.6.

Both hold a pickle whose tensors are views (offset, sizes, strides) of storages, and the storages' bytes apart from it.
The pickle is interpreted (`opcodes`) and may name only what `tensors` lists. A storage is read when a tensor of the
state dict that was looked for needs it, and once; its tensors share its memory.
"""

from __future__ import annotations

import io
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import InputError
from ...host.contents import MAGIC
from ...host.files import existing_file
from .archive import Archive, open_archive, read_into
from .dtypes import WIDENED, cast, decoded, unread
from .foreign import RefusedError
from .opcodes import Bounded, interpret, pickle_errors, plain, shown
from .state_dict import Found, find_state_dict
from .tensors import PYTORCH, Quantizer, Storage, Tensor, finish, part_of, reach, saved_storage

_WHAT = "what torch.save(model.state_dict(), path) writes, tensors and containers"
_PICKLE_LIMIT, _PICKLE_FREE = 1 << 28, 1 << 24
"""Bytes of the pickle, which torch.save does not compress: the most, and what a compressed one may grow by."""
_ZIP = b"PK\x03\x04"
_PROTOCOL = 1001


Find = Callable[[object, Any, str | None], Found]
"""From a path, the object of a file and a key to the tensors that are meant, by name."""


def read_pytorch(
    path: Path, dtype: Any = None, key: str | None = None, prefix: str = "", *, find: Find | None = None
) -> Found:
    """The arrays of the state dict in a file, and notes (see `find_state_dict`); floating-point ones in `dtype`.

    `find` chooses among the file's tensors in place of it. Tensors that are the same view of a storage are the same
    array. Raises `InputError` when the file is damaged, or
    holds no state dict, or several of which none is known to be preferred.
    """
    existing_file(path, "a file of torch.save")
    with pickle_errors(path, _WHAT):
        with path.open("rb") as file:
            start = file.read(512)
        if start.startswith(_ZIP):
            with open_archive(path) as archive:
                return _read_zip(path, archive, dtype, key, prefix, find or _weights)
        if start[257:262] == b"ustar":
            raise InputError(
                f"{path} is in PyTorch's tar format of 2016; load it with torch.load and save it again with torch.save"
            )
        return _read_legacy(path, dtype, key, prefix, find or _weights)


def _read_zip(path: Path, archive: Archive, dtype: Any, key: str | None, prefix: str, find: Find) -> Found:
    pickles = [name for name in archive if name == "data.pkl" or name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise InputError(f"{path} is no file of torch.save: it holds {len(pickles)} members data.pkl, expected one")
    root = pickles[0].removesuffix("data.pkl")
    if root + "constants.pkl" in archive:
        raise InputError(f"{path} is a TorchScript program; save its weights: torch.save(module.state_dict(), path)")
    order = archive.read(root + "byteorder", 16) if root + "byteorder" in archive else b"little"
    if order not in (b"little", b"big"):
        raise ValueError("an unknown byte order")
    data = archive.read(pickles[0], min(_PICKLE_LIMIT, _PICKLE_FREE + 2 * path.stat().st_size))

    def persistent(saved: Any) -> Storage:
        return saved_storage(saved)

    tree = plain(interpret(Bounded(io.BytesIO(data), len(data)), len(data), PYTORCH, persistent), finish)

    def read(key: str) -> np.ndarray:
        member = f"{root}data/{key}"
        if member not in archive:
            raise ValueError(f"the storage {shown(key)} is missing")
        buffer = np.empty(archive.size(member), np.uint8)
        with archive.open(member) as file:
            read_into(file, buffer)
            file.read(1)  # the end, where the checksum is compared
        return buffer

    return _arrays(path, find(path, tree, key), read, "<" if order == b"little" else ">", dtype, prefix)


def _read_legacy(path: Path, dtype: Any, wanted: str | None, prefix: str, find: Find) -> Found:
    """Pickles of a number, a version, the machine, the object and the storages' keys; then each storage."""
    size = path.stat().st_size
    storages: dict[str, Storage] = {}

    def persistent(saved: Any) -> Storage:
        whole = saved_storage(saved[:5] if isinstance(saved, tuple) else saved)
        if storages.setdefault(whole.key, whole).size != whole.size:
            raise ValueError("a storage of two sizes")
        return part_of(whole, saved[5]) if len(saved) == 6 and saved[5] is not None else whole

    with path.open("rb") as file:
        bounded = Bounded(file, size)

        def read_next() -> Any:
            return plain(interpret(bounded, size, PYTORCH, persistent), finish)

        if read_next() != MAGIC or read_next() != _PROTOCOL:
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

        return _arrays(path, find(path, tree, wanted), read, "<" if little else ">", dtype, prefix)


def _weights(path: object, tree: Any, key: str | None) -> Found:
    return find_state_dict(path, tree, is_tensor, _is_weight, key)


def _arrays(path: Path, found: Found, read: Callable[[str], np.ndarray], order: str, dtype: Any, prefix: str) -> Found:
    tensors = {n: v for n, v in found.arrays.items() if isinstance(v, Tensor) and n.startswith(prefix)}
    budget = 4 * path.stat().st_size + (1 << 20)
    buffers: dict[str, np.ndarray] = {}
    distinct = {part for tensor in tensors.values() for part in _parts(tensor)}
    uses = {tensor.storage.key: 0 for tensor in distinct}
    for tensor in distinct:
        uses[tensor.storage.key] += 1
        budget -= math.prod(tensor.shape) * _itemsize(tensor)
    if budget < 0:
        raise RefusedError("tensors of far more data than it has")
    made: dict[Tensor, np.ndarray] = {}
    raw: dict[Tensor, np.ndarray] = {}  # scales and zero points of others, in their own precision
    for name, whole in tensors.items():
        for tensor in _parts(whole):  # the last is the whole itself
            if tensor in (made if tensor is whole else raw):
                continue
            key = tensor.storage.key
            if key not in buffers:
                buffers[key] = read(key)
            numbers = decoded(_view(tensor, buffers[key], order), tensor.storage.dtype.name)
            if tensor.quantizer is not None:
                numbers = _dequantized(numbers, tensor.quantizer, raw)
            if tensor is whole:
                made[tensor] = cast(numbers, dtype, name, path)
            else:
                raw[tensor] = numbers
            uses[key] -= 1
            if not uses[key]:
                del buffers[key]
    others = {n: unread(v.shape) for n, v in found.arrays.items() if isinstance(v, Tensor) and n not in tensors}
    return Found(found.arrays | {name: made[tensor] for name, tensor in tensors.items()} | others, found.notes)


def is_tensor(value: Any) -> bool:
    """Whether a leaf of a file's object is a tensor."""
    return isinstance(value, Tensor)


def _is_weight(value: Any) -> bool:
    if not isinstance(value, Tensor) or not value.shape:
        return False
    return value.quantizer is not None or "float" in value.storage.dtype.name


def _itemsize(tensor: Tensor) -> int:
    """The bytes of an element as it is read."""
    dtype = tensor.storage.dtype
    return 4 if dtype.name in WIDENED or tensor.quantizer is not None else dtype.stored.itemsize


def _parts(tensor: Tensor) -> list[Tensor]:
    """A tensor, after those that its values depend on."""
    q = tensor.quantizer
    return [part for part in (q.scale, q.zero) if isinstance(part, Tensor)] + [tensor] if q else [tensor]


def _dequantized(numbers: np.ndarray, quantizer: Quantizer, raw: dict[Tensor, np.ndarray]) -> np.ndarray:
    """(number - zero point) * scale in float32, as `Tensor.dequantize` computes it."""
    scale, zero = (raw[part] if isinstance(part, Tensor) else part for part in (quantizer.scale, quantizer.zero))
    shape = [-1 if i == quantizer.axis else 1 for i in range(numbers.ndim)] if quantizer.axis is not None else ()
    scale, zero = (np.asarray(part, np.float32).reshape(shape) for part in (scale, zero))
    return np.asarray((numbers.astype(np.float32) - zero) * scale)


def _view(tensor: Tensor, buffer: np.ndarray, order: str) -> np.ndarray:
    """The elements of a tensor, as a view of its storage's bytes where the machine's byte order is the file's."""
    storage = tensor.storage
    stored = storage.dtype.stored
    first = (storage.first + tensor.offset) * stored.itemsize
    length = reach(tensor.shape, tensor.strides)
    if not math.prod(tensor.shape):
        return np.empty(tensor.shape, stored)
    if (storage.first + storage.size) * stored.itemsize > buffer.nbytes:
        raise ValueError("a storage has less data than its tensors say")
    elements = buffer[first : first + length * stored.itemsize].view(stored)
    strides = [stride * stored.itemsize if n > 1 else 0 for n, stride in zip(tensor.shape, tensor.strides)]
    view = np.lib.stride_tricks.as_strided(elements, tensor.shape, strides)
    if 0 in (stride for n, stride in zip(tensor.shape, tensor.strides) if n > 1):
        view = view.copy()  # expanded: its elements share memory
    if order != ("<" if sys.byteorder == "little" else ">"):
        view = view.byteswap()
    return view.view(bool) if storage.dtype.name == "bool" else view
