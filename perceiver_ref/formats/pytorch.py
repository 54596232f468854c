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

from ..errors import InputError
from ..files import existing_file
from .archive import Archive, open_archive, read_into
from .dtypes import cast, decoded
from .opcodes import Bounded, RefusedError, interpret, pickle_errors, plain, shown
from .state_dict import find_state_dict
from .tensors import PYTORCH, Storage, Tensor, finish, part_of, reach, saved_storage

_WHAT = "what torch.save(model.state_dict(), path) writes, tensors and containers"
_PICKLE_LIMIT, _PICKLE_FREE = 1 << 28, 1 << 24
"""Bytes of the pickle, which torch.save does not compress: the most, and what a compressed one may grow by."""
_ZIP = b"PK\x03\x04"
_MAGIC = 0x1950A86A20F9469CFC6C
_PROTOCOL = 1001


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

    return _arrays(path, tree, read, "<" if order == b"little" else ">", dtype)


def _read_legacy(path: Path, dtype: Any) -> tuple[dict[str, np.ndarray], list[str]]:
    """Pickles of a number, a version, the machine, the object and the storages' keys; then each storage."""
    size = path.stat().st_size
    storages: dict[str, Storage] = {}

    def persistent(saved: Any) -> Storage:
        whole = saved_storage(saved[:5] if isinstance(saved, tuple) else saved)
        if storages.setdefault(whole.key, whole).size != whole.size:
            raise RefusedError("a storage of two sizes")
        return part_of(whole, saved[5]) if len(saved) == 6 and saved[5] is not None else whole

    with path.open("rb") as file:
        bounded = Bounded(file, size)

        def read_next() -> Any:
            return plain(interpret(bounded, size, PYTORCH, persistent), finish)

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
