"""Arrays written aside as they come, in bounded memory, and put together as a case when all is known.

Names are only known at the end (a module that is called again is `path@0` from then on), gradients come last and may
come in several parts. So arrays go into one temporary file beside the case, and from there into the case.
"""

from __future__ import annotations

import json
import os
import tempfile
import threading
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any, BinaryIO

import numpy as np

from ...errors import InputError
from ...host.files import AnyPath, check_writable, temporary_file, write_whole

_CHUNK = 1 << 20


class Stored:
    """Where in the file an array is."""

    __slots__ = ("dtype", "length", "shape", "start")

    def __init__(self, start: int, length: int, array: np.ndarray) -> None:
        self.start, self.length = start, length
        self.shape, self.dtype = array.shape, array.dtype


class Spool:
    """A temporary file of arrays beside the `path` of the case that they become; removed at the end, come what may."""

    def __init__(self, path: AnyPath) -> None:
        self.path = check_writable(path)
        self._open = ExitStack()
        self._file: BinaryIO | None = None
        self._lock = threading.Lock()  # gradients may come from threads of their devices

    def __enter__(self) -> Spool:
        with ExitStack() as stack:
            made = stack.enter_context(temporary_file(_beside(self.path)))
            self._file = stack.enter_context(made.open("w+b"))
            self._open = stack.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        self._open.close()
        self._file = None

    def add(self, array: np.ndarray) -> Stored:
        """Write an array at the end of the file."""
        with self._lock:
            file = self._opened()
            start = file.seek(0, 2)
            plain = np.asarray(array, array.dtype.newbyteorder("<"), order="C")  # as other languages read it
            np.lib.format.write_array(file, plain, allow_pickle=False)
            return Stored(start, file.tell() - start, array)

    def read(self, stored: Stored) -> np.ndarray:
        """An array again."""
        with self._lock:
            file = self._opened()
            file.seek(stored.start)
            made: np.ndarray = np.lib.format.read_array(file, allow_pickle=False)
        return made

    def total(self, parts: list[Stored]) -> np.ndarray:
        """The sum of several arrays, read one at a time."""
        made = self.read(parts[0])
        for part in parts[1:]:
            made = made + self.read(part)
        return made

    def write(self, meta: Mapping[str, Any], arrays: Mapping[str, list[Stored]]) -> None:
        """The case, whole or not at all: under each key one array, or the sum of several, one at a time in memory."""
        text = json.dumps({**meta, "arrays": list(arrays)})

        def write(file: BinaryIO) -> None:
            with zipfile.ZipFile(file, "w") as archive:
                with archive.open("meta.npy", "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, np.array(text), allow_pickle=False)
                for key, parts in arrays.items():
                    with archive.open(f"{key}.npy", "w", force_zip64=True) as member:
                        self._copy(parts, member)

        write_whole(self.path, write)

    def _copy(self, parts: list[Stored], member: IO[bytes]) -> None:
        if len(parts) > 1:
            np.lib.format.write_array(member, self.total(parts), allow_pickle=False)
            return
        for piece in self._pieces(parts[0]):
            member.write(piece)

    def _pieces(self, stored: Stored) -> Iterator[bytes]:
        file = self._opened()
        file.seek(stored.start)
        left = stored.length
        while left:
            piece = file.read(min(_CHUNK, left))
            if not piece:
                raise InputError(f"the temporary file beside {self.path} was cut; is the disk full?")
            left -= len(piece)
            yield piece

    def _opened(self) -> BinaryIO:
        if self._file is None:
            raise InputError("nothing is being recorded; use record(...) in a `with`")
        return self._file


def _beside(path: Path) -> Path:
    """The file that a path leads to; a name in the folder of temporary files where that is a device or a pipe."""
    place = Path(os.path.realpath(path))
    return place if place.is_file() or not place.exists() else Path(tempfile.gettempdir()) / (place.name or "case")
