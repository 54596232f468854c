"""Reading and writing `.npz` files that come from anywhere: no pickles, one clear error, nothing half-written."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Mapping
from functools import lru_cache
from io import BytesIO
from typing import IO, Any, BinaryIO

import numpy as np

from ...errors import InputError
from ...host.contents import NPZ, contents, misnamed
from ...host.files import AnyPath, existing_file, write_whole
from .archive import open_archive, read_into
from .dtypes import BFLOAT16, cast, decoded
from .opcodes import first_line, shown

_KINDS = {"b", "i", "u", "f", "U"}
_NAME = 1000  # characters
_HEADERS = {(1, 0): (2, np.lib.format.read_array_header_1_0), (2, 0): (4, np.lib.format.read_array_header_2_0)}
"""By version of the format: the bytes of a header's length, and NumPy's reader of both."""
_LONGEST = 1 << 16
"""Bytes of a header, of which NumPy takes fewer."""


def read_npz(path: AnyPath, dtype: Any = None, widened: set[str] | None = None) -> dict[str, np.ndarray]:
    """Every array of an `.npz` file by name; floating-point ones in `dtype` if given.

    bfloat16, which NumPy stores as two bytes of no dtype, becomes float32, and its name is added to `widened`. Raises
    `InputError`, one line that names the file, when it is missing, a directory, truncated, corrupted, no `.npz`, holds
    a name twice, or anything but bool, integer, floating-point and text arrays.
    """
    path = existing_file(path, "an .npz file")
    arrays: dict[str, np.ndarray] = {}
    try:
        with path.open("rb") as file:
            if file.read(6) == np.lib.format.MAGIC_PREFIX:
                np.load(path, mmap_mode="r", allow_pickle=False)  # whether it is a whole one
                raise InputError(f"{path} holds a single array, not an .npz archive; write it with numpy.savez")
        with open_archive(path) as archive:
            for member in archive:
                name = member.removesuffix(".npy")
                if name in arrays or not member.endswith(".npy"):
                    other = contents(path)
                    if other not in ("", NPZ):
                        raise ValueError(other)
                    raise InputError(f"{path}: {shown(name)!r} is there twice or no .npy; expected numbers or text")
                with archive.open(member) as opened:
                    arrays[name] = cast(read_npy(path, name, opened, archive.size(member), widened), dtype, name, path)
    except InputError:
        raise
    except Exception as error:  # damaged files make zipfile, its decompressors and NumPy raise almost anything
        why = misnamed(path, error, first_line, NPZ)
        raise InputError(f"{path} is not a readable .npz file ({why}); write it again with numpy.savez") from None
    return arrays


def check_name(path: object, name: str) -> None:
    """Names of arrays are printed and joined: `InputError` unless one is printable text, and not long."""
    if not name.isprintable() or len(name) > _NAME:
        raise InputError(f"{path}: the name {shown(name)!r} is no printable text of up to {_NAME} characters")


def read_npy(path: object, name: str, file: IO[bytes], size: int, widened: set[str] | None = None) -> np.ndarray:
    """One `.npy` file or member of `size` bytes; its header must announce what it holds, else `ValueError`.

    The name of one that is bfloat16 is added to `widened`.
    """
    version = np.lib.format.read_magic(file)
    if version not in _HEADERS:
        raise ValueError(f"{name!r} is written in version {version} of the format")
    wide, _ = _HEADERS[version]
    length = file.read(wide)
    text = length + file.read(min(int.from_bytes(length, "little"), _LONGEST))
    shape, fortran, dtype = _header(version, text)
    if dtype.hasobject:
        raise InputError(f"{path}: {shown(name)!r} is an object array; store plain numbers instead")
    bfloat16 = dtype == np.dtype("V2") and dtype.names is None  # what NumPy makes of the bfloat16 of ml_dtypes
    if bfloat16:
        dtype = np.dtype("<u2")
        if widened is not None:
            widened.add(name)
    if dtype.kind not in _KINDS:
        raise InputError(f"{path}: {shown(name)!r} has dtype {dtype}; expected numbers or text")
    if len(shape) > 32 or not all(type(n) is int and 0 <= n < 1 << 60 for n in shape):
        raise ValueError(f"{name!r} has an impossible shape")
    if math.prod(shape) * dtype.itemsize != size - file.tell():
        raise ValueError(f"{name!r} announces {math.prod(shape) * dtype.itemsize} bytes of {size - file.tell()}")
    array = np.empty(shape, dtype, "F" if fortran else "C")
    if array.nbytes:
        read_into(file, array)
    file.read(1)  # the end, where the checksum is compared
    return decoded(array.astype(dtype.newbyteorder("="), copy=False), BFLOAT16 if bfloat16 else dtype.name)


@lru_cache(maxsize=1024)
def _header(version: tuple[int, int], text: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether in Fortran's order, and dtype: as many of a file's arrays have them."""
    _, read = _HEADERS[version]
    return read(BytesIO(text))


def write_npz(path: AnyPath, arrays: Mapping[str, np.ndarray]) -> None:
    """Write all arrays, or nothing when that fails."""
    write_whole(path, lambda file: _write_archive(file, arrays))


def _write_archive(file: BinaryIO, arrays: Mapping[str, np.ndarray]) -> None:
    """`numpy.savez`, with any names: its own parameters are names of arrays that it cannot write."""
    with zipfile.ZipFile(file, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asanyarray(array), allow_pickle=False)
