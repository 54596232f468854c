"""What a pickle of PyTorch may name: tensors, as views of storages, with parameters, dtypes and a script's settings.

Each constructor is a function here that checks what it is given and describes it; nothing is read or allocated.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .dtypes import BFLOAT16, UNREAD, WIDENED, stored
from .foreign import Foreign, RefusedError
from .opcodes import Buildable, Names, shown
from .pickles import NUMPY

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
    "ComplexFloat": "complex64",
    "ComplexDouble": "complex128",
    "QInt8": "int8",
    "QUInt8": "uint8",
    "QInt32": "int32",
    "QUInt4x2": "quint4x2",
    "QUInt2x4": "quint2x4",
}
_DTYPES = ("float64", "float32", "float16", "int64", "int32", "int16", "int8", "bool", *sorted(WIDENED), *UNREAD)
_UNSIGNED = ("uint8", "uint16", "uint32", "uint64")


@dataclass(frozen=True)
class Dtype:
    """A dtype by name."""

    name: str

    @property
    def stored(self) -> np.dtype[Any]:
        """How NumPy reads it: the bits of what it lacks."""
        return stored(self.name)


@dataclass(frozen=True)
class _Class:
    """A class that a file may name but not call."""

    name: str


@dataclass(frozen=True)
class Storage:
    """`size` elements from `first` on of the data under `key`."""

    key: str
    dtype: Dtype
    size: int
    first: int = 0


@dataclass(frozen=True)
class Tensor:
    """A view of a storage: the element at index i is element offset + sum of i * strides.

    What a `quantizer` is given for stands for (element - its zero point) * its scale.
    """

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    quantizer: Quantizer | None = None


@dataclass(frozen=True)
class Quantizer:
    """Scales and zero points, one for all, or one for each index of an axis."""

    scale: float | Tensor
    zero: int | Tensor
    axis: int | None = None


def saved_storage(saved: Any) -> Storage:
    """A persistent id: ("storage", class, key, device, elements)."""
    if isinstance(saved, tuple) and (foreign := next((part for part in saved if isinstance(part, Foreign)), None)):
        raise RefusedError(foreign.why)
    if not isinstance(saved, tuple) or len(saved) != 5 or saved[0] not in ("storage", b"storage"):
        what = shown(saved[0], 20) if isinstance(saved, tuple) and saved and isinstance(saved[0], str) else "unknown"
        raise RefusedError(f"a persistent id of kind {what}")
    _, dtype, key, _, size = saved
    if not isinstance(dtype, Dtype) or not isinstance(key, str) or type(size) is not int or not 0 <= size < _LARGE:
        raise RefusedError("a malformed storage")
    return Storage(key, dtype, size)


def part_of(whole: Storage, view: Any) -> Storage:
    """The older format's part of a storage: (key, first element, elements)."""
    if not isinstance(view, tuple) or len(view) != 3:
        raise RefusedError("a malformed part of a storage")
    first, size = _sizes(view[1:])
    if first + size > whole.size:
        raise RefusedError("a part beyond its storage")
    return Storage(whole.key, whole.dtype, size, first)


def _sizes(values: Any) -> tuple[int, ...]:
    if not isinstance(values, tuple) or len(values) > 32:
        raise RefusedError("a tensor of impossible shape")
    if not all(type(n) is int and 0 <= n < _LARGE for n in values):
        raise RefusedError("a tensor of impossible shape")
    return values


def _rebuild(storage: Any, offset: Any, shape: Any, strides: Any, *rest: Any) -> Tensor:
    """`torch._utils._rebuild_tensor` and `_rebuild_tensor_v2`: `rest` is requires_grad, hooks, metadata."""
    if isinstance(storage, Storage) and storage.dtype.name in UNREAD:
        raise RefusedError(f"{storage.dtype.name} numbers, which no parameter has")
    if not isinstance(storage, Storage) or any(rest[1:]):
        raise RefusedError("a tensor with hooks, metadata or a foreign storage")
    (offset,), shape, strides = _sizes((offset,)), _sizes(shape), _sizes(strides)
    if len(shape) != len(strides):
        raise RefusedError("a tensor of impossible shape")
    if math.prod(shape) and offset + reach(shape, strides) > storage.size:
        raise RefusedError("a tensor that reaches beyond its storage")
    if math.prod(shape) > storage.size:
        raise RefusedError("a tensor with more elements than its storage")
    return Tensor(storage, offset, shape, strides)


def reach(shape: tuple[int, ...], strides: tuple[int, ...]) -> int:
    """The elements from a tensor's first to its last, both included."""
    return sum((n - 1) * stride for n, stride in zip(shape, strides)) + 1


def _rebuild_v3(
    storage: Any, offset: Any, shape: Any, strides: Any, grad: Any, hooks: Any, dtype: Any, *rest: Any
) -> Tensor:
    """`torch._utils._rebuild_tensor_v3`: the storage is untyped, and sizes count elements of `dtype`."""
    if not isinstance(storage, Storage) or not isinstance(dtype, Dtype) or storage.dtype.name != "uint8":
        raise RefusedError("a tensor with a foreign storage")
    typed = Storage(storage.key, dtype, storage.size // dtype.stored.itemsize)
    return _rebuild(typed, offset, shape, strides, grad, hooks, *rest)


def _quantized(storage: Any, offset: Any, shape: Any, strides: Any, quantizer: Any, *rest: Any) -> Tensor:
    """`torch._utils._rebuild_qtensor`: `quantizer` is (scheme, scale, zero point), or with an axis behind these."""
    plain = _rebuild(storage, offset, shape, strides, *rest)
    whole = plain.storage.dtype.name in ("int8", "uint8", "int32")
    if not whole or not isinstance(quantizer, tuple) or not quantizer or not isinstance(quantizer[0], _Class):
        raise RefusedError("a tensor quantized in an unknown way")
    scheme, *values = quantizer
    single = scheme.name == "per_tensor_affine"
    kinds = [type(value) for value in values]
    if kinds != ([float, int] if single else [Tensor, Tensor, int]):
        raise RefusedError("a malformed quantized tensor")
    if single:
        return replace(plain, quantizer=Quantizer(*values))
    scale, zero, axis = values
    channels = plain.shape[axis : axis + 1] if axis >= 0 else ()
    if not channels or scale.shape != channels or zero.shape != channels or scale.quantizer or zero.quantizer:
        raise RefusedError("a malformed quantized tensor")
    return replace(plain, quantizer=Quantizer(scale, zero, axis))


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


def _settings(*arguments: Any) -> dict[str, Any]:
    """What scripts keep their settings in: an empty dict stands for it, and its attributes are left out."""
    if arguments:
        raise RefusedError("settings that are made by a call")
    return {}


def _path(*parts: Any) -> str:
    """A path, as text."""
    if not all(isinstance(part, str) for part in parts):
        raise RefusedError("a malformed path")
    return shown("/".join(parts))


def finish(value: Any) -> Any:
    """The leaf of the finished tree for what a constructor made."""
    if isinstance(value, Tensor):
        return value
    if isinstance(value, (Dtype, _Class)):
        return value.name
    made = getattr(value, "array", value)
    if not isinstance(made, np.ndarray):
        raise RefusedError((value.refused if isinstance(value, Buildable) else "") or "an unfinished object")
    return made


_REBUILDS = (_rebuild, _rebuild_v3, _quantized, _parameter)
PYTORCH: Names = {
    **NUMPY,
    ("torch._utils", "_rebuild_tensor"): _rebuild,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild,
    ("torch._utils", "_rebuild_tensor_v3"): _rebuild_v3,
    ("torch._utils", "_rebuild_qtensor"): _quantized,
    **{("torch", name): _Class(name) for name in ("per_tensor_affine", "per_channel_affine")},
    ("torch._utils", "_rebuild_parameter"): _parameter,
    ("torch._utils", "_rebuild_parameter_with_state"): _parameter,
    ("torch._tensor", "_rebuild_from_type_v2"): _from_type,
    ("argparse", "Namespace"): _settings,
    ("lightning_fabric.utilities.data", "AttributeDict"): _settings,
    ("lightning.fabric.utilities.data", "AttributeDict"): _settings,
    ("pytorch_lightning.utilities.parsing", "AttributeDict"): _settings,
    ("pathlib", "PosixPath"): _path,
    ("pathlib", "WindowsPath"): _path,
    ("torch", "Tensor"): _Class("Tensor"),
    ("torch.nn.parameter", "Parameter"): _Class("Parameter"),
    ("torch.nn.parameter", "Buffer"): _Class("Buffer"),
    ("torch", "Size"): _shape,
    ("torch", "device"): _device,
    **{("torch", f"{kind}Storage"): Dtype(name) for kind, name in _STORAGES.items()},
    ("torch.storage", "UntypedStorage"): Dtype("uint8"),
    **{("torch", name): Dtype(name) for name in (*_DTYPES, *_UNSIGNED)},
}
"""What a file of PyTorch may name."""
