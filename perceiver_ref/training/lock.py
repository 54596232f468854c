"""One run in a folder: a lock that ends with its process, however that ends."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType

from ..errors import InputError

NAME = ".lock"
"""The file in the folder of a run, as long as it is under way; it holds the number of the process."""


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Within this context no other run may be in the folder, which is made; `InputError` while another one is.

    The system gives the lock of a process that was killed to the next one. Where it knows no locks, on some network
    folders, there is none.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = _locked(folder / NAME)
    except OSError as error:
        raise InputError(f"cannot write to the folder {folder} ({error.strerror}); choose another") from None
    try:
        yield
    finally:
        with suppress(OSError):
            (folder / NAME).unlink()  # while it is held: whoever opened it before sees that it is gone
        os.close(handle)


def _locked(path: Path) -> int:
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            if not _lock(handle):
                who = os.read(handle, 32).decode("ascii", "replace").strip()
                by = f"process {who}" if who.isdigit() else "another process"
                raise InputError(
                    f"{path.parent} is in use: {by} is training in it; wait for its end, or choose another folder"
                )
            if _is_there(path, handle):
                os.truncate(handle, 0)
                os.write(handle, f"{os.getpid()}\n".encode())
                return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)  # its owner has just removed it


def _lock(handle: int) -> bool:
    """Whether this is the one lock on the file; True where there are none."""
    fcntl = _fcntl()
    if fcntl is None:
        return True
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def _is_there(path: Path, handle: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(handle))
    except FileNotFoundError:
        return False


def _fcntl() -> ModuleType | None:
    try:
        import fcntl
    except ImportError:  # on Windows
        return None
    return fcntl
