"""ONNX's tensors, files of one TensorProto each: test data sets (`output_0.pb`) and ONNX Runtime's dumps of nodes.

A message of protocol buffers is a row of fields: a number that holds the field's own number and how it is written
(0: a varint, 1: 8 bytes, 2: a length and as many bytes, 5: 4 bytes), then the value. (onnx.proto: TensorProto.)
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import InputError
from ...host.files import existing_file
from ...host.memory import require
from ...weights.formats.dtypes import BFLOAT16, decoded, stored
from ...weights.formats.opcodes import first_line
from .held import MOST, Held, beside

ENDINGS = (".pb", ".tensorproto")
_KINDS = {
    1: "float32",
    2: "uint8",
    3: "int8",
    4: "uint16",
    5: "int16",
    6: "int32",
    7: "int64",
    9: "bool",
    10: "float16",
    11: "float64",
    12: "uint32",
    13: "uint64",
    16: BFLOAT16,
    17: "float8_e4m3fn",
    18: "float8_e4m3fnuz",
    19: "float8_e5m2",
    20: "float8_e5m2fnuz",
    24: "float8_e8m0fnu",
}
"""TensorProto.DataType; text, complex numbers and those of fewer than 8 bits are refused."""
_DIMS, _TYPE, _SEGMENT, _FLOATS, _INT32S, _INT64S, _NAME, _RAW, _DOUBLES, _UINT64S, _EXTERNAL, _LOCATION = (
    *(1, 2, 3, 4, 5, 7, 8, 9, 10, 11, 13, 14),
)
_TEXT = (12, 16)  # documentation and metadata
_FIELDS = 1 << 16
"""The most fields of a tensor: lists of numbers are packed, and are one field."""
_ROLE = re.compile(r"(input|output)_\d+")


def held_onnx(path: Path) -> Held:
    """One file, or all of a folder: by the name in it, or else by the file's; `input_0.pb` is an `input/`."""
    if not path.is_dir():
        files, index = [path], path
    else:
        index = path / "folder"
        files = onnx_files(path)
        if len(files) > MOST:
            raise InputError(f"{path} holds more than {MOST:,} files")
    made = Held({})
    total = 0
    for file in files:
        beside(index, file.name)
        total += file.stat().st_size
        require(str(path), 3 * total)
        name, kind, array = read_tensor(file)
        role = _ROLE.fullmatch(file.stem)
        made.add(path, f"{role[1]}/{name or file.stem}" if role else name or file.stem, array, kind)
    return made


def onnx_files(folder: Path) -> list[Path]:
    """The files of tensors in a folder, `output_10` after `output_9`."""
    files = [path for path in folder.iterdir() if path.suffix in ENDINGS and not path.is_dir()]
    return sorted(
        files, key=lambda path: [int(s) if s.isdigit() and s.isascii() else s for s in re.split(r"(\d+)", path.name)]
    )


def read_tensor(path: Path) -> tuple[str, str, np.ndarray]:
    """(name, dtype, array) of a file; `InputError` for any damage."""
    existing_file(path, "a tensor of ONNX")
    require(str(path), 3 * path.stat().st_size)
    try:
        return _tensor(path.read_bytes())
    except (ValueError, OSError, OverflowError) as error:
        raise InputError(f"{path} is not a readable tensor of ONNX ({first_line(error)})") from None


def _tensor(data: bytes) -> tuple[str, str, np.ndarray]:
    name, number = "", 0
    dims: list[int] = []
    typed: dict[int, list[np.ndarray]] = {}
    raw: bytes | None = None
    for field, value in _fields(memoryview(data)):
        if field == _DIMS:
            dims += [int(n) for n in _varints(value)]
            if len(dims) > 32:
                raise ValueError("it has more than 32 axes")
        elif field == _TYPE:
            number = _one(value)
        elif field == _NAME:
            name = _bytes(value).decode("utf-8")
        elif field == _RAW:
            raw = _bytes(value)
        elif field in (_FLOATS, _DOUBLES):
            size = 4 if field == _FLOATS else 8
            part = _bytes(value)
            if len(part) % size:
                raise ValueError("a list of numbers is cut off")
            typed.setdefault(field, []).append(np.frombuffer(part, f"<f{size}"))
        elif field in (_INT32S, _INT64S, _UINT64S):
            typed.setdefault(field, []).append(_varints(value))
        elif field == _LOCATION and _one(value) == 0:
            pass
        elif field in (_EXTERNAL, _LOCATION):
            raise ValueError("its numbers are in another file; save it with them")
        elif field == _SEGMENT:
            raise ValueError("it is a segment of a tensor")
        elif field not in _TEXT:
            raise ValueError(f"it has a field {field}, which no tensor has")
    if number not in _KINDS:
        raise ValueError(f"its numbers are of type {number}, which no array here has")
    if any(n < 0 or n >= 1 << 60 for n in dims):
        raise ValueError("it has an impossible shape")
    return name, _KINDS[number], _array(_KINDS[number], tuple(dims), raw, typed)


def _array(kind: str, shape: tuple[int, ...], raw: bytes | None, typed: dict[int, list[np.ndarray]]) -> np.ndarray:
    dtype = stored(kind)
    count = math.prod(shape)
    if raw is not None and typed:
        raise ValueError("it holds its numbers twice")
    if raw is not None:
        if len(raw) != count * dtype.itemsize:
            raise ValueError(f"shape {list(shape)} of {kind} is announced, {len(raw):,} bytes are there")
        bits = np.frombuffer(raw, dtype.newbyteorder("<")).astype(dtype)
    else:
        bits = _typed(kind, dtype, typed)
        if bits.size != count:
            raise ValueError(f"shape {list(shape)} is announced, {bits.size:,} numbers are there")
    if kind == "bool" and (bits.view(np.uint8) > 1).any():
        raise ValueError("it holds truth values that are neither 0 nor 1")
    return decoded(bits.reshape(shape), kind)


def _typed(kind: str, dtype: np.dtype[Any], typed: dict[int, list[np.ndarray]]) -> np.ndarray:
    """Numbers in the field for their type: those of 16 and fewer bits are in that of int32, floating-point ones as
    their bits."""
    wanted = {"float32": _FLOATS, "float64": _DOUBLES, "int64": _INT64S, "uint64": _UINT64S, "uint32": _UINT64S}
    field = wanted.get(kind, _INT32S)
    if set(typed) - {field}:
        raise ValueError(f"its numbers are not where those of {kind} are")
    values = np.concatenate(typed.get(field, [np.empty(0, np.int64)]))
    if field in (_FLOATS, _DOUBLES):
        return values.astype(dtype)
    bits = np.dtype(f"u{dtype.itemsize}") if kind in ("float16", BFLOAT16) else dtype
    if field == _UINT64S:
        values = values.view(np.uint64)
    if bits != np.bool_ and values.size and (bits.kind != "i" or bits.itemsize < 8):
        limits = np.iinfo(bits)
        if int(values.min()) < limits.min or int(values.max()) > limits.max:
            raise ValueError(f"it holds numbers beyond {kind}")
    made = values.astype(bits)
    if bits == np.bool_ and not np.isin(values, (0, 1)).all():
        raise ValueError("it holds truth values that are neither 0 nor 1")
    return made.view(dtype) if bits != dtype else made


def _fields(data: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """The fields of a message: numbers and their values; those of 4 and 8 bytes as bytes."""
    position = count = 0
    while position < len(data):
        count += 1
        if count > _FIELDS:
            raise ValueError(f"it has more than {_FIELDS:,} fields")
        key, position = _varint(data, position)
        field, form = key >> 3, key & 7
        if form == 0:
            value, position = _varint(data, position)
            yield field, value
            continue
        if form not in (1, 2, 5):
            raise ValueError(f"a field is written in the way {form}")
        length = {1: 8, 5: 4}.get(form, 0)
        if form == 2:
            length, position = _varint(data, position)
        if length > len(data) - position:
            raise ValueError(f"{length:,} bytes are announced, {len(data) - position:,} are there")
        yield field, data[position : position + length]
        position += length


def _varint(data: memoryview, position: int) -> tuple[int, int]:
    """Seven bits a byte, the lowest first, the highest bit set on all but the last."""
    value = 0
    for i, byte in enumerate(data[position : position + 10]):
        value |= (byte & 127) << 7 * i
        if byte < 128:
            return value & (1 << 64) - 1, position + i + 1
    raise ValueError("a number is cut off or too long")


def _varints(value: int | memoryview) -> np.ndarray:
    """A number, or several that are packed, as signed ones of 64 bits."""
    if isinstance(value, int):
        return np.array([value], np.uint64).view(np.int64)
    data = np.frombuffer(value, np.uint8)
    ends = np.flatnonzero(data < 128)
    if data.size and (not ends.size or ends[-1] != data.size - 1):
        raise ValueError("a list of numbers is cut off")
    lengths = np.diff(ends, prepend=-1)
    if lengths.size and lengths.max() > 10:
        raise ValueError("a number is too long")
    made = np.zeros(ends.size, np.uint64)
    for i in range(int(lengths.max(initial=0))):
        some = lengths > i
        byte = data[ends[some] - lengths[some] + 1 + i].astype(np.uint64) & np.uint64(127)
        made[some] |= byte << np.uint64(7 * i)
    return made.view(np.int64)


def _one(value: int | memoryview) -> int:
    if not isinstance(value, int):
        raise ValueError("a number is written as text")
    return value


def _bytes(value: int | memoryview) -> bytes:
    if isinstance(value, int):
        raise ValueError("text is written as a number")
    return bytes(value)
