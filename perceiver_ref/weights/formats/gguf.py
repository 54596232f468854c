"""GGUF files, versions 2 and 3: metadata, names with shapes and types, then the tensors' bytes.

A file is the magic "GGUF", a version (4 bytes), the counts of tensors and of metadata (8 each), the metadata (a key,
a type, a value), for each tensor its name, axes, sizes with the fastest first, type and offset, and from the next
multiple of the alignment on the data, each tensor at such a multiple. All numbers are little-endian. (Specification:
docs/gguf.md of ggml.) Quantized types but Q8_0 are listed and not read.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ...errors import InputError
from ...host.contents import GGUF, misnamed
from ...host.files import existing_file
from ...host.memory import require
from .archive import read_into
from .dtypes import BFLOAT16, WIDENED, cast, decoded, stored, unread
from .foreign import Foreign, unreadable
from .opcodes import first_line

Q8_0 = "Q8_0"
_BLOCK = np.dtype([("scale", "<f2"), ("numbers", "i1", 32)])
"""Q8_0: 32 numbers in 8 bits with one scale in float16; value = scale * number, in float32."""
TYPES: dict[int, tuple[str, int, int]] = {
    0: ("float32", 1, 4),
    1: ("float16", 1, 2),
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24),
    8: (Q8_0, 32, 34),
    9: ("Q8_1", 32, 40),
    10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210),
    15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66),
    17: ("IQ2_XS", 256, 74),
    18: ("IQ3_XXS", 256, 98),
    19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18),
    21: ("IQ3_S", 256, 110),
    22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136),
    24: ("int8", 1, 1),
    25: ("int16", 1, 2),
    26: ("int32", 1, 4),
    27: ("int64", 1, 8),
    28: ("float64", 1, 8),
    29: ("IQ1_M", 256, 56),
    30: (BFLOAT16, 1, 2),
    34: ("TQ1_0", 256, 54),
    35: ("TQ2_0", 256, 66),
    39: ("MXFP4", 32, 17),
    40: ("NVFP4", 64, 36),
    41: ("Q1_0", 128, 18),
}
"""By ggml's number: the type, the elements of a block and its bytes."""
_PLAIN = frozenset({"float32", "float16", "int8", "int16", "int32", "int64", "float64", BFLOAT16})
_SCALARS = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
"""Bytes of a metadata value, by its type."""
_UINT32, _STRING, _ARRAY = 4, 8, 9
_STRINGS, _NAME, _AXES = 1 << 22, 1 << 12, 8
"""The most texts in the metadata, bytes of a key or name, and axes."""


@dataclass(frozen=True)
class _Tensor:
    kind: str
    shape: tuple[int, ...]
    begin: int
    size: int


def read_gguf(path: Path, dtype: Any = None, prefix: str = "") -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Every tensor of a file by name, in NumPy's order of axes (the last is the fastest), and the type of each.

    Floating-point ones come in `dtype` if given; bfloat16 and Q8_0 in float32 if not. In place of those in other
    quantized types `foreign.unreadable` stands, and in place of those whose names do not begin with `prefix`,
    `dtypes.unread`. `InputError` for any damage.
    """
    existing_file(path, "a .gguf file")
    try:
        with path.open("rb") as file:
            tensors = _header(file, path.stat().st_size)
            arrays = {name: _array(path, file, name, tensor, dtype, prefix) for name, tensor in tensors.items()}
            return arrays, {name: tensor.kind for name, tensor in tensors.items()}
    except InputError:
        raise
    except (ValueError, OSError, OverflowError) as error:
        why = misnamed(path, error, first_line, GGUF)
        raise InputError(f"{path} is not a readable GGUF file ({why})") from None


def _array(path: Path, file: BinaryIO, name: str, tensor: _Tensor, dtype: Any, prefix: str) -> np.ndarray:
    if tensor.kind not in _PLAIN and tensor.kind != Q8_0:
        return unreadable(Foreign(f"numbers of type {tensor.kind}; F32, F16, BF16 and Q8_0 are read", tensor=True))
    if not name.startswith(prefix):
        return unread(tensor.shape)
    require(f"{path}: {name!r}", 4 * tensor.size if tensor.kind == Q8_0 else 2 * tensor.size)
    file.seek(tensor.begin)
    if tensor.kind == Q8_0:
        blocks = np.empty(tensor.size // _BLOCK.itemsize, _BLOCK)
        read_into(file, blocks)
        values = blocks["scale"].astype(np.float32)[:, None] * blocks["numbers"]
        return cast(values.reshape(tensor.shape), dtype, name, path)
    array = np.empty(tensor.shape, stored(tensor.kind).newbyteorder("<"))
    read_into(file, array)
    native = array.astype(array.dtype.newbyteorder("="), copy=False)
    return cast(decoded(native, tensor.kind if tensor.kind in WIDENED else native.dtype.name), dtype, name, path)


class _Reader:
    """What stands in a file from its beginning on; `ValueError` at its end."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file, self.left = file, size

    def bytes(self, count: int, most: int) -> bytes:
        if not 0 <= count <= min(most, self.left):
            raise ValueError(f"{count:,} bytes are announced, {self.left:,} are left")
        self.left -= count
        data = self._file.read(count)
        if len(data) != count:
            raise ValueError("it ends too early")
        return data

    def number(self, size: int) -> int:
        return int.from_bytes(self.bytes(size, 8), "little")

    def text(self) -> str:
        return self.bytes(self.number(8), _NAME).decode("utf-8")

    def skip(self, count: int) -> None:
        if not 0 <= count <= self.left:
            raise ValueError(f"{count:,} bytes are announced, {self.left:,} are left")
        self._file.seek(count, 1)
        self.left -= count


def _header(file: BinaryIO, size: int) -> dict[str, _Tensor]:
    """The tensors by name, in the order of the file, which that of their data must be."""
    reader = _Reader(file, size)
    if reader.bytes(4, 4) != b"GGUF":
        raise ValueError("it does not begin with GGUF")
    version = reader.number(4)
    if version not in (2, 3):
        other = "big-endian" if version in (2 << 24, 3 << 24) else f"version {version} of the format"
        raise ValueError(f"it is {other}; versions 2 and 3, little-endian, are read")
    count, pairs = reader.number(8), reader.number(8)
    if count > size // 24 or pairs > size // 13:
        raise ValueError(f"{count:,} tensors and {pairs:,} entries are announced in {size:,} bytes")
    alignment = _alignment(reader, pairs)
    found: dict[str, tuple[str, tuple[int, ...], int, int]] = {}
    position = 0
    for _ in range(count):
        name = reader.text()
        if name in found:
            raise ValueError(f"it holds {name[:80]!r} twice")
        axes = reader.number(4)
        if axes > _AXES:
            raise ValueError(f"{name[:80]!r} has {axes} axes")
        sizes = [reader.number(8) for _ in range(axes)]
        number, offset = reader.number(4), reader.number(8)
        if number not in TYPES:
            raise ValueError(f"{name[:80]!r} is of type {number}, which is not known")
        kind, block, unit = TYPES[number]
        if any(n >= 1 << 60 for n in sizes) or (block > 1 and (not sizes or sizes[0] % block)):
            raise ValueError(f"{name[:80]!r} has an impossible shape")
        if offset != position:
            raise ValueError(f"{name[:80]!r} begins at {offset:,}, expected {position:,}")
        length = math.prod(sizes) // block * unit
        found[name] = (kind, tuple(reversed(sizes)), offset, length)
        position = _aligned(offset + length, alignment)
        if position > size + alignment:
            raise ValueError(f"{name[:80]!r} reaches beyond the file")
    start = _aligned(size - reader.left, alignment)
    end = max((offset + length for _, _, offset, length in found.values()), default=0)
    if not found:
        raise ValueError("it holds no tensors")
    if not 0 <= size - start - end < alignment:
        raise ValueError(f"{end:,} bytes of data are announced, {size - start:,} are there")
    return {name: _Tensor(kind, shape, start + begin, length) for name, (kind, shape, begin, length) in found.items()}


def _alignment(reader: _Reader, pairs: int) -> int:
    """Read past the metadata; what they say of the alignment."""
    alignment, texts = 32, 0
    for _ in range(pairs):
        key, kind = reader.text(), reader.number(4)
        if key == "general.alignment":
            alignment = reader.number(4) if kind == _UINT32 else 0
            if not 0 < alignment <= 1 << 20 or alignment & (alignment - 1):
                raise ValueError("its alignment is no power of two")
            continue
        texts += _skip(reader, kind)
        if texts > _STRINGS:
            raise ValueError(f"it has more than {_STRINGS:,} texts")
    return alignment


def _skip(reader: _Reader, kind: int) -> int:
    """Read past one value; how many texts it is, or 1."""
    count = 1
    if kind == _ARRAY:
        kind, count = reader.number(4), reader.number(8)
    if kind in _SCALARS:
        reader.skip(count * _SCALARS[kind])
        return 1
    if kind != _STRING or count > _STRINGS:
        raise ValueError(f"it has a value of type {kind}, {count:,} times")
    for _ in range(count):
        reader.skip(reader.number(8))
    return count


def _aligned(position: int, alignment: int) -> int:
    return position + -position % alignment
