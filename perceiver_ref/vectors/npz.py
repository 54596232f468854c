"""Reading and writing `.npz` files that come from anywhere: no pickles, one clear error, nothing half-written."""

from __future__ import annotations

import os
import tempfile
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ..errors import InputError

_KINDS = {"b", "i", "u", "f", "U"}


def read_npz(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Every array of an `.npz` file by name.

    Raises `InputError`, one line that names the file, when it is missing, a directory, truncated, corrupted, no `.npz`,
    or holds anything but bool, integer, floating-point and text arrays.
    """
    path = Path(path)
    existing_file(path, ".npz file")
    try:
        with np.load(path, allow_pickle=False) as archive:
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise InputError(f"{path} holds a single array, not an .npz archive; write it with numpy.savez")
            arrays = {}
            for name in archive.files:
                try:
                    arrays[name] = archive[name]
                except ValueError as error:
                    if "allow_pickle" in str(error):
                        raise InputError(f"{path}: {name!r} is an object array; store plain numbers instead") from None
                    raise
    except InputError:
        raise
    except (OSError, ValueError, EOFError, KeyError, NotImplementedError, zipfile.BadZipFile, zlib.error) as error:
        text = str(error).splitlines()[0] if str(error) else type(error).__name__
        if "pickle" in text:
            text = "not a zip archive of arrays"
        raise InputError(f"{path} is not a readable .npz file ({text}); write it again with numpy.savez") from None
    for name, array in arrays.items():
        if not isinstance(array, np.ndarray) or array.dtype.kind not in _KINDS:
            raise InputError(f"{path}: {name!r} has dtype {getattr(array, 'dtype', 'none')}; expected numbers or text")
    return arrays


def write_npz(path: str | os.PathLike[str], arrays: Mapping[str, np.ndarray]) -> None:
    """Write all arrays or, on any error, nothing: a temporary file beside `path` is renamed at the end."""
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{path} is a directory; give the name of the file to write")
    if not path.parent.is_dir():
        raise InputError(f"the folder {path.parent} does not exist; create it first")
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        raise InputError(f"cannot write to {path.parent}: {error.strerror}") from None
    try:
        with os.fdopen(handle, "wb") as file:
            np.savez(file, **arrays)  # type: ignore[arg-type] # names with slashes are no keyword arguments to mypy
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def existing_file(path: Path, what: str) -> None:
    """Raise `InputError` unless `path` is a file that can be read."""
    if path.is_dir():
        raise InputError(f"{path} is a directory; expected one {what}")
    if not path.exists():
        raise InputError(f"{path} does not exist; expected an {what}" if what[0] == "." else f"{path} does not exist")
    if not os.access(path, os.R_OK):
        raise InputError(f"{path} cannot be read: permission denied")
