"""Files that come from anywhere and files that must never be half-written."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from . import json_text
from .errors import InputError

AnyPath = str | os.PathLike[str]


def existing_file(path: AnyPath, what: str) -> Path:
    """The path, or an `InputError` unless it is a file that can be read; `what` describes the file expected."""
    path = Path(path)
    try:
        _check_readable(path, what)
    except InputError:
        raise
    except (OSError, ValueError) as error:  # such as a name that is too long
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{path} cannot be read ({reason}); expected {what}") from None
    return path


def _check_readable(path: Path, what: str) -> None:
    if path.is_dir():
        raise InputError(f"{path} is a directory; expected {what}")
    if not path.exists():
        raise InputError(f"{path} does not exist; expected {what}")
    if not path.is_file():  # reading a pipe or a device may never end
        raise InputError(f"{path} is no regular file; expected {what}")
    if not os.access(path, os.R_OK):
        raise InputError(f"{path} cannot be read (permission denied); expected {what}")


def read_json(path: AnyPath, what: str) -> dict[str, Any]:
    """The object in a JSON file."""
    path = existing_file(path, what)
    if path.stat().st_size > json_text.LIMIT:
        raise InputError(f"{path} has more than {json_text.LIMIT >> 20} MiB; expected {what}")
    try:
        value = json_text.parse(path.read_bytes())
    except ValueError as error:
        raise InputError(f"{path} is not JSON ({error}); expected {what}") from None
    if not isinstance(value, dict):
        raise InputError(f"{path} holds a JSON {type(value).__name__}; expected {what}, an object")
    return value


def check_writable(path: AnyPath) -> Path:
    """The path, or an `InputError` unless a file can be written there: worth asking before long work."""
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{path} is a directory; give the name of the file to write")
    if not path.parent.is_dir():
        raise InputError(f"the folder {path.parent} does not exist; create it first")
    if not os.access(path.parent, os.W_OK):
        raise InputError(f"cannot write to the folder {path.parent} (permission denied); choose another")
    return path


def write_whole(path: AnyPath, write: Callable[[BinaryIO], None]) -> None:
    """Write a file or, on any error, nothing: a temporary file beside it is flushed and renamed at the end."""
    path = check_writable(path)
    with _temporary(path) as temporary:
        with temporary.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)


def write_json(path: AnyPath, value: Any) -> None:
    """Write JSON text, whole or not at all."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def write_text(path: AnyPath, text: str) -> None:
    """Write text as UTF-8, whole or not at all; what UTF-8 cannot hold, such as a half of a pair, is escaped."""
    write_whole(path, lambda file: _write_bytes(file, text.encode("utf-8", "backslashreplace")))


def replace_between(text: str, begin: str, end: str, made: str, what: str) -> str:
    """The text with `made` in place of what stands from `begin` to `end`; `InputError` without that pair of markers."""
    before, found, rest = text.partition(begin)
    _, ended, after = rest.partition(end)
    if not found or not ended:
        raise InputError(f"{what} has no table between {begin} and {end}")
    return before + made + after


@contextmanager
def _temporary(path: Path) -> Iterator[Path]:
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    temporary = Path(name)
    try:
        temporary.chmod(0o666 & ~umask())
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def umask() -> int:
    """The permissions that new files do not get."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _write_bytes(file: BinaryIO, data: bytes) -> None:
    file.write(data)
