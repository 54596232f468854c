"""Raw numbers in files, and an index in JSON that says what and where they are.

    {"format": "perceiver-ref arrays", "version": 1, "meta": {...},
     "arrays": {"output/logits": {"file": "logits.bin", "dtype": "float32", "shape": [2, 3], "offset": 0}, ...}}

Elements are row-major and little-endian. Without an offset an array is its whole file. `meta` makes it a case.
"""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import InputError, one_of, shortened
from ...host.memory import require
from ...weights.formats.archive import read_into
from ...weights.formats.dtypes import BFLOAT16, decoded, stored
from ...weights.formats.opcodes import shown
from .held import META, Held, beside, read_json_of, text_array

FORMAT, VERSION = "perceiver-ref arrays", 1
INDEX = "index.json"
DTYPES = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    BFLOAT16: "BF16",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint64": "U64",
    "uint32": "U32",
    "uint16": "U16",
    "uint8": "U8",
    "bool": "BOOL",
}
"""NumPy's name and that of .safetensors; an index may use either, in any case of letters."""
_NAMES = {alias.lower(): name for name, code in DTYPES.items() for alias in (name, code)}
_LIMIT = 64 << 20


def is_index(value: Any) -> bool:
    """Whether a JSON value is an index."""
    return isinstance(value, dict) and isinstance(value.get("arrays"), dict)


def held_raw(path: Path) -> Held:
    """The arrays of an index, or of the folder whose `index.json` it is; two arrays may not share bytes."""
    index = path / INDEX if path.is_dir() else path
    content = read_json_of(index, "an index of raw arrays", _LIMIT)
    if not is_index(content):
        raise InputError(
            f'{index} is no index of raw arrays; expected {{"arrays": {{name: {{"file", "dtype", "shape"}}}}}}'
        )
    if (content.get("format", FORMAT), content.get("version", VERSION)) != (FORMAT, VERSION):
        said = f"{shortened(content.get('format'))}, version {shortened(content.get('version'))}"
        raise InputError(f"{index} is of format {said}; expected {FORMAT!r}, version {VERSION}")
    made = Held({})
    taken: dict[Path, list[tuple[int, int, str]]] = {}
    total = 0
    for name, entry in content["arrays"].items():
        file, kind, shape, begin, size = _entry(index, name, entry)
        total += size
        require(str(index), 2 * total)
        taken.setdefault(file.resolve(), []).append((begin, begin + size, name))
        made.add(index, name, _read(file, kind, shape, begin), kind)
    for ranges in taken.values():
        ranges.sort()
        for (_, end, one), (begin, _, other) in pairwise(ranges):
            if begin < end:
                raise InputError(f"{index}: {shown(one)!r} and {shown(other)!r} share bytes of one file")
    if META in content:
        made.add(index, META, text_array(content[META], index))
    return made


def _entry(index: Path, name: str, entry: Any) -> tuple[Path, str, tuple[int, ...], int, int]:
    """(file, dtype, shape, first byte, bytes) of an array."""
    where = f"{index}: {shown(name)!r}"
    if not isinstance(entry, dict) or not {"file", "dtype", "shape"} <= set(entry):
        raise InputError(f"{where} must be an object with file, dtype and shape")
    kind = _NAMES.get(entry["dtype"].lower()) if isinstance(entry["dtype"], str) else None
    if kind is None:
        raise InputError(f"{where}: {one_of('dtype', shown(entry['dtype']), DTYPES)}")
    shape = entry["shape"]
    if not isinstance(shape, list) or len(shape) > 32 or not all(type(n) is int and 0 <= n < 1 << 60 for n in shape):
        raise InputError(f"{where}: shape must be a list of sizes, got {shortened(shape)}")
    file = beside(index, entry["file"])
    there, size = file.stat().st_size, math.prod(shape) * stored(kind).itemsize
    begin = entry.get("offset")
    if begin is not None and (type(begin) is not int or not 0 <= begin <= there):
        raise InputError(f"{where}: offset must be a number of bytes within {file.name}, got {shortened(begin)}")
    if size > there - (begin or 0) or (begin is None and size != there):
        raise InputError(
            f"{where}: shape {shortened(shape)} of {kind} has {size:,} bytes, {file.name} has {there - (begin or 0):,}"
            + (" from the offset on" if begin else "")
        )
    return file, kind, tuple(shape), begin or 0, size


def _read(file: Path, kind: str, shape: tuple[int, ...], begin: int) -> np.ndarray:
    array = np.empty(shape, stored(kind).newbyteorder("<"))
    try:
        with file.open("rb") as opened:
            opened.seek(begin)
            if array.nbytes:
                read_into(opened, array)
    except (OSError, ValueError) as error:
        raise InputError(f"{file} cannot be read ({shown(error)})") from None
    if kind == "bool" and (array.view(np.uint8) > 1).any():
        raise InputError(f"{file}: a bool is a byte, 0 or 1; it holds others")
    return decoded(array.astype(array.dtype.newbyteorder("="), copy=False), kind)
