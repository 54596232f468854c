"""`.safetensors` files: a JSON header with dtype, shape and byte range of each tensor, then the bytes.

Read by hand, since the format's package has no bfloat16 for NumPy without further packages; where it is installed, its
own checks come first.
"""

from __future__ import annotations

import json
import math
from collections.abc import Container, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from ...errors import InputError
from ...host import json_text
from ...host.contents import SAFETENSORS, misnamed
from ...host.files import AnyPath, existing_file, write_whole
from .archive import read_into
from .dtypes import BFLOAT16, WIDENED, cast, decoded, stored, unread
from .foreign import Foreign, unreadable
from .opcodes import first_line

_HEADER = 32 << 20
_DTYPES = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "BF16": BFLOAT16,
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U64": "uint64",
    "U32": "uint32",
    "U16": "uint16",
    "U8": "uint8",
    "BOOL": "bool",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "F8_E8M0": "float8_e8m0fnu",
}
_CODES = {name: code for code, name in _DTYPES.items() if name not in WIDENED}
_UNREADABLE = {"C64": 64, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6}
"""Dtypes of arrays that are only listed, and how many bits a number has."""


def read_safetensors(path: Path, dtype: Any = None, prefix: str = "") -> dict[str, np.ndarray]:
    """Every array of a file by name; floating-point ones in `dtype` if given. `InputError` for any damage.

    Tensors that share their memory are written once, and the metadata name the others: these come back. In place of
    complex numbers, and others of no meaning here, `foreign.unreadable` stands, and in place of arrays whose names do
    not begin with `prefix`, `dtypes.unread`.
    """
    return read_contents(path, dtype, prefix).arrays


class Contents(NamedTuple):
    """A file's arrays, its metadata (None, or whatever stands there), and the dtype of each array in the file."""

    arrays: dict[str, np.ndarray]
    metadata: Any
    dtypes: dict[str, str]


def read_contents(path: Path, dtype: Any = None, prefix: str = "") -> Contents:
    """`read_safetensors`, with all else that a file holds."""
    existing_file(path, "a .safetensors file")
    try:
        _checked_by_the_package(path)
        with path.open("rb") as file:
            start, header, metadata = _header(file, path.stat().st_size)
            needed = {kept for name, kept in shared(metadata, header).items() if name.startswith(prefix)}
            arrays = {}
            for name, (code, shape, begin, _) in header.items():
                if code in _UNREADABLE:
                    arrays[name] = unreadable(Foreign(f"numbers of dtype {code}, which no parameter has", tensor=True))
                    continue
                kind = _DTYPES[code]
                if not name.startswith(prefix) and name not in needed:
                    arrays[name] = unread(shape)
                    continue
                file.seek(start + begin)
                array = np.empty(shape, stored(kind).newbyteorder("<"))
                read_into(file, array)
                native = array.astype(array.dtype.newbyteorder("="), copy=False)
                arrays[name] = cast(decoded(native, kind), dtype, name, path)
            dtypes = {name: _DTYPES.get(code, code) for name, (code, *_) in header.items()}
            return Contents(with_shared(arrays, metadata), metadata, dtypes)
    except InputError:
        raise
    except Exception as error:  # the package and JSON raise errors of their own
        why = misnamed(path, error, first_line, SAFETENSORS)
        raise InputError(f"{path} is not a readable safetensors file ({why})") from None


def with_shared(arrays: dict[str, np.ndarray], metadata: Any) -> dict[str, np.ndarray]:
    """The arrays with those that metadata name as left out, each mapped to the one whose memory it shares."""
    return arrays | {name: arrays[kept] for name, kept in shared(metadata, arrays).items()}


def shared(metadata: Any, names: Container[str]) -> dict[str, str]:
    """The names that metadata say were left out, with the one of `names` that each shares its memory with."""
    pairs = metadata.items() if isinstance(metadata, dict) else ()
    return {name: kept for name, kept in pairs if isinstance(kept, str) and kept in names and name not in names}


def write_safetensors(
    path: AnyPath, arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str] | None = None
) -> None:
    """Write all arrays, or nothing when that fails; the metadata say "pt", without which transformers reads none."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt", **(metadata or {})}}
    begin = 0
    ordered = sorted(arrays, key=lambda name: -arrays[name].dtype.itemsize)  # so that every array is aligned
    for name in ordered:
        array = arrays[name]
        if array.dtype.name not in _CODES:
            raise InputError(f"{path}: {name!r} has dtype {array.dtype}, which a .safetensors file cannot hold")
        end = begin + array.nbytes
        header[name] = {"dtype": _CODES[array.dtype.name], "shape": list(array.shape), "data_offsets": [begin, end]}
        begin = end
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)

    def write(file: BinaryIO) -> None:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in ordered:
            array = arrays[name]
            file.write(np.ascontiguousarray(array, array.dtype.newbyteorder("<")).reshape(-1).view(np.uint8).data)

    write_whole(path, write)


def _checked_by_the_package(path: Path) -> None:
    try:
        from safetensors import safe_open
    except ImportError:
        return
    with safe_open(path, framework="numpy"):
        pass


def _header(file: BinaryIO, size: int) -> tuple[int, dict[str, tuple[str, tuple[int, ...], int, int]], Any]:
    """Where the data start, by name (code of the dtype, shape, first byte, last byte + 1) in their order; metadata."""
    length = int.from_bytes(file.read(8), "little")
    if size < 8 or not 0 < length <= min(_HEADER, size - 8):
        raise ValueError(f"a header of {length:,} bytes is announced, the file has {size:,}")
    entries = json_text.parse(file.read(length), room=size, pairs=_unique)
    if not isinstance(entries, dict):
        raise ValueError("the header is no JSON object")
    metadata = entries.pop("__metadata__", None)
    found = {name: _entry(name, entry) for name, entry in entries.items()}
    found = dict(sorted(found.items(), key=lambda item: item[1][2:]))
    position = 0
    for name, (_, _, begin, end) in found.items():
        if not position == begin <= end:
            raise ValueError(f"the bytes of {name!r} overlap others or leave a gap")
        position = end
    if position != size - 8 - length:
        raise ValueError(f"{position:,} bytes of data are announced, {size - 8 - length:,} are there")
    return 8 + length, found, metadata


def _entry(name: str, entry: Any) -> tuple[str, tuple[int, ...], int, int]:
    if not isinstance(entry, dict) or not {"dtype", "shape", "data_offsets"} <= set(entry):
        raise ValueError(f"{name!r} has no dtype, shape and data_offsets")
    kind, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(kind, str) or kind not in {*_DTYPES, *_UNREADABLE}:
        raise ValueError(f"{name!r} has dtype {kind!r}; known are {', '.join(_DTYPES)}")
    if not _sizes(shape) or len(shape) > 32 or not _sizes(offsets) or len(offsets) != 2:
        raise ValueError(f"{name!r} has an impossible shape or impossible offsets")
    bits = _UNREADABLE[kind] if kind in _UNREADABLE else 8 * stored(_DTYPES[kind]).itemsize
    if math.prod(shape) * bits != 8 * (offsets[1] - offsets[0]):
        raise ValueError(f"{name!r} has shape {shape} and {offsets[1] - offsets[0]} bytes")
    return kind, tuple(shape), offsets[0], offsets[1]


def _sizes(values: Any) -> bool:
    return isinstance(values, list) and all(type(n) is int and 0 <= n < 1 << 60 for n in values)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("it holds a name twice")
    return made
