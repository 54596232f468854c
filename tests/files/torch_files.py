"""Writing files as `torch.save` does, without PyTorch: whole ones for the readers' tests, and hostile ones."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
CLASSES = {
    "float64": "DoubleStorage",
    "float32": "FloatStorage",
    "float16": "HalfStorage",
    "bfloat16": "BFloat16Storage",
    "int64": "LongStorage",
    "int32": "IntStorage",
    "int16": "ShortStorage",
    "int8": "CharStorage",
    "uint8": "ByteStorage",
    "bool": "BoolStorage",
}


@dataclass(frozen=True)
class Global:
    """A name that the pickle holds, without importing it."""

    module: str
    name: str


@dataclass(frozen=True)
class Called:
    """A call that the pickle asks for, with a state if there is one."""

    function: Any
    arguments: tuple[Any, ...]
    state: Any = None


@dataclass(frozen=True)
class Persistent:
    """A persistent id."""

    saved: Any


class Pickler(pickle._Pickler):  # the one in Python, whose `save` can be extended
    """Writes the three above as opcodes."""

    def save(self, obj: Any, save_persistent_id: bool = True) -> None:
        if isinstance(obj, Global):
            self.write(pickle.GLOBAL + f"{obj.module}\n{obj.name}\n".encode())
        elif isinstance(obj, Called):
            self.save(obj.function)
            self.save(obj.arguments)
            self.write(pickle.REDUCE)
            if obj.state is not None:
                self.save(obj.state)
                self.write(pickle.BUILD)
        elif isinstance(obj, Persistent):
            self.save(obj.saved)
            self.write(pickle.BINPERSID)
        else:
            super().save(obj, save_persistent_id)


def dumps(content: Any) -> bytes:
    """A pickle of protocol 2, as PyTorch writes."""
    file = io.BytesIO()
    Pickler(file, 2).dump(content)
    return file.getvalue()


def storage(key: str, dtype: str, size: int, *more: Any) -> Persistent:
    """A storage's persistent id; the older format has a view, or None, behind it."""
    return Persistent(("storage", Global("torch", CLASSES[dtype]), key, "cpu", size, *more))


def tensor(stored: Any, offset: int, shape: Any, strides: Any, *rest: Any) -> Called:
    """A tensor as `torch._utils._rebuild_tensor_v2` makes it."""
    return Called(Global("torch._utils", "_rebuild_tensor_v2"), (stored, offset, shape, strides, False, {}, *rest))


def tensors(arrays: Mapping[str, np.ndarray], legacy: bool = False) -> tuple[dict[str, Called], dict[str, np.ndarray]]:
    """(tensors by name, storages by key) for arrays, each with a storage of its own; transposed ones by strides."""
    made, storages = {}, {}
    for i, (name, array) in enumerate(arrays.items()):
        strides = tuple(stride // array.itemsize for stride in array.strides)
        order = "F" if array.flags.f_contiguous and not array.flags.c_contiguous else "C"
        stored = storage(str(i), array.dtype.name, array.size, *([None] if legacy else []))
        made[name] = tensor(stored, 0, array.shape, strides)
        storages[str(i)] = array.ravel(order)
    return made, storages


def ordered(items: Any, **attributes: Any) -> Called:
    """An `OrderedDict`, with attributes as a module's state dict has them."""
    return Called(Global("collections", "OrderedDict"), (list(map(list, items.items())),), {"_metadata": attributes})


def zipped(content: Any, storages: Mapping[str, np.ndarray], root: str = "archive", order: str = "little") -> bytes:
    """The bytes of a file of torch.save."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(f"{root}/data.pkl", content if isinstance(content, bytes) else dumps(content))
        archive.writestr(f"{root}/byteorder", order)
        for key, array in storages.items():
            data = array.astype(array.dtype.newbyteorder("<" if order == "little" else ">"))
            archive.writestr(f"{root}/data/{key}", data.tobytes())
        archive.writestr(f"{root}/version", "3\n")
    return file.getvalue()


def legacy(content: Any, storages: Mapping[str, np.ndarray]) -> bytes:
    """The bytes of a file of torch.save before version 1.6."""
    machine = {"protocol_version": PROTOCOL, "little_endian": True, "type_sizes": {"int": 4}}
    parts = [dumps(part) for part in (MAGIC, PROTOCOL, machine, content, list(storages))]
    for array in storages.values():
        parts += [struct.pack("<q", array.size), array.tobytes()]
    return b"".join(parts)


def save(arrays: Mapping[str, np.ndarray], wrap: Any = ordered, old: bool = False) -> bytes:
    """A file of a state dict; `wrap` puts the tensors into what is saved."""
    made, storages = tensors(arrays, old)
    return (legacy if old else zipped)(wrap(made), storages)
