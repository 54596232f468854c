"""Files that come from anywhere and files that must never be half-written."""

from __future__ import annotations

import os
import secrets
import shutil
import stat
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import InputError
from . import json_text
from .contents import JSON, misnamed
from .signals import held

AnyPath = str | os.PathLike[str]
_IN_MEMORY = 64 << 20


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
        why = misnamed(path, error, str, JSON)
        raise InputError(f"{path} is not JSON ({why}); expected {what}") from None
    if not isinstance(value, dict):
        raise InputError(f"{path} holds a JSON {type(value).__name__}; expected {what}, an object")
    return value


def check_writable(path: AnyPath) -> Path:
    """The path, or an `InputError` unless a file can be written there: worth asking before long work."""
    path = Path(path)
    place = _followed(path)
    if place.is_dir():
        raise InputError(f"{path} is a directory; give the name of the file to write")
    if place.exists() and not place.is_file():  # a device or a pipe, whose folder need not be writable
        if not os.access(place, os.W_OK):
            raise InputError(f"cannot write to {path} (permission denied); choose another")
        return path
    if not place.parent.is_dir():
        raise InputError(f"the folder {place.parent} does not exist; create it first")
    if not os.access(place.parent, os.W_OK):
        raise InputError(f"cannot write to the folder {place.parent} (permission denied); choose another")
    return path


def check_apart(outputs: Mapping[str, AnyPath | None], inputs: Iterable[AnyPath | None]) -> None:
    """Raise `InputError` where a file to write, by what it is called for the user, is read too or written twice.

    Whatever leads to a file counts: links, relative paths. Devices and pipes may be named again and again.
    """
    read = {_identity(Path(path)): path for path in inputs if path is not None}
    written: dict[object, str] = {}
    for what, path in outputs.items():
        if path is None or _is_special(Path(path)):
            continue
        same = _identity(Path(path))
        if same in read:
            raise InputError(f"{what} {path} would be written over {read[same]}, which is read; choose another file")
        if same in written:
            raise InputError(f"{written[same]} and {what} are one file, {path}; choose another for one of them")
        written[same] = what


def write_whole(path: AnyPath, write: Callable[[BinaryIO], None]) -> None:
    """Write a file or, on any error, nothing: a temporary file beside it is flushed and renamed at the end.

    Links are followed. What is no regular file (a device, a pipe, what stdout or stderr go to) is not replaced: the
    content, once it is complete, is written into it.
    """
    path = check_writable(path)
    if (stream := _standard_stream(path)) is not None or _is_special(path):
        _write_into(path, stream, write)
        return
    path = _followed(path)
    with temporary_file(path) as temporary:
        with temporary.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        if path.exists():
            temporary.chmod(path.stat().st_mode & 0o777)
        temporary.replace(path)


def write_json(path: AnyPath, value: Any) -> None:
    """Write JSON text, whole or not at all."""
    write_text(path, json_text.indented(value) + "\n")


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
def temporary_file(path: Path) -> Iterator[Path]:
    """A new empty file beside `path`, removed at the end unless it was renamed."""
    with _temporary(path, lambda made: os.close(os.open(made, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))) as made:
        yield made


@contextmanager
def temporary_folder(path: Path) -> Iterator[Path]:
    """The same for a folder."""
    with _temporary(path, Path.mkdir) as made:
        yield made


_temporaries: set[Path] = set()


def remove_temporaries() -> None:
    """Whatever of the temporary files and folders of this process is still there: a signal may come at any step."""
    for path in list(_temporaries):
        _remove(path)


@contextmanager
def _temporary(path: Path, make: Callable[[Path], None]) -> Iterator[Path]:
    with held():
        while True:
            made = path.parent / f".{path.name[:48]}.{secrets.token_hex(4)}"
            with suppress(FileExistsError):
                make(made)
                break
        _temporaries.add(made)
    try:
        yield made
    finally:
        _remove(made)


def _remove(path: Path) -> None:
    with held():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
        _temporaries.discard(path)


def _followed(path: Path) -> Path:
    """Where a path leads, whether anything is there or not."""
    try:
        return Path(os.path.realpath(path)) if not _exists(path) or path.is_file() else path
    except (OSError, ValueError) as error:
        raise InputError(f"cannot write {path} ({getattr(error, 'strerror', None) or error})") from None


def _exists(path: Path) -> bool:
    """As `Path.exists`, but a loop of links or a name that is too long raises."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def _is_special(path: Path) -> bool:
    """Whether something is there that is neither a regular file nor a folder."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):
        return False
    return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)


def _identity(path: Path) -> object:
    """Equal for all paths that lead to one file."""
    try:
        found = path.stat()
        return (found.st_dev, found.st_ino)
    except (OSError, ValueError):
        return os.path.normcase(os.path.realpath(path)) if "\0" not in str(path) else str(path)


def _standard_stream(path: Path) -> int | None:
    """1 or 2 where the path is what stdout or stderr go to, as /dev/stdout is; else None."""
    for number in (1, 2):
        with suppress(OSError, ValueError):
            there, stream = path.stat(), os.fstat(number)
            if os.path.samestat(there, stream) and there.st_ino:
                return number
    return None


def _write_into(path: Path, stream: int | None, write: Callable[[BinaryIO], None]) -> None:
    """Write, straight into what is there, what is complete before the first byte of it is written."""
    with tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY) as whole:
        write(whole)  # type: ignore[arg-type]
        whole.seek(0)
        try:
            if stream is not None:  # after what was printed
                for printed in (sys.stdout, sys.stderr):
                    if printed is not None:
                        printed.flush()
            handle = os.open(path, os.O_WRONLY) if stream is None else os.dup(stream)
            with open(handle, "wb") as file:  # noqa: PTH123
                shutil.copyfileobj(whole, file)
        except OSError as error:
            raise InputError(f"cannot write into {path} ({error.strerror or error})") from None


def _write_bytes(file: BinaryIO, data: bytes) -> None:
    file.write(data)
