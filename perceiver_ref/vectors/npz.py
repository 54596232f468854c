"""Reading and writing `.npz` files that come from anywhere: no pickles, one clear error, nothing half-written."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from typing import BinaryIO

import numpy as np

from ..errors import InputError
from ..files import AnyPath, existing_file, write_whole

_KINDS = {"b", "i", "u", "f", "U"}


def read_npz(path: AnyPath) -> dict[str, np.ndarray]:
    """Every array of an `.npz` file by name.

    Raises `InputError`, one line that names the file, when it is missing, a directory, truncated, corrupted, no `.npz`,
    or holds anything but bool, integer, floating-point and text arrays.
    """
    path = existing_file(path, "an .npz file")
    arrays: dict[str, np.ndarray] = {}
    name = ""
    try:
        with path.open("rb") as file:
            archive = np.load(file, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise InputError(f"{path} holds a single array, not an .npz archive; write it with numpy.savez")
            with archive:
                for name in archive.files:
                    arrays[name] = archive[name]
    except InputError:
        raise
    except Exception as error:  # damaged files make zipfile, its decompressors and NumPy raise almost anything
        text = str(error).splitlines()[0] if str(error) else type(error).__name__
        if "allow_pickle=False" in text and name:
            raise InputError(f"{path}: {name!r} is an object array; store plain numbers instead") from None
        if "allow_pickle" in text or "pickle" in text:
            text = "it is no zip archive"
        raise InputError(f"{path} is not a readable .npz file ({text}); write it again with numpy.savez") from None
    for name, array in arrays.items():
        if not isinstance(array, np.ndarray) or array.dtype.kind not in _KINDS:
            raise InputError(f"{path}: {name!r} has dtype {getattr(array, 'dtype', 'none')}; expected numbers or text")
    return arrays


def write_npz(path: AnyPath, arrays: Mapping[str, np.ndarray]) -> None:
    """Write all arrays, or nothing when that fails."""
    write_whole(path, lambda file: _write_archive(file, arrays))


def _write_archive(file: BinaryIO, arrays: Mapping[str, np.ndarray]) -> None:
    """`numpy.savez`, with any names: its own parameters are names of arrays that it cannot write."""
    with zipfile.ZipFile(file, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asanyarray(array), allow_pickle=False)
