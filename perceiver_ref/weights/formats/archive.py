"""Zip archives that come from anywhere (`.npz` and PyTorch's files): sizes are checked before anything is read."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

from .zip_layout import check_layout

_CHUNK = 1 << 20
_FREE = 1 << 28
_RATIO = 100
"""An archive may expand to `_FREE` bytes, or to `_RATIO` times its size: weights hardly shrink, masks and zeros do."""
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


class Archive:
    """The members of an archive by name; none is larger than the archive says, and all together fit the bound above."""

    def __init__(self, opened: zipfile.ZipFile, size: int) -> None:
        self._zip = opened
        self._members: dict[str, zipfile.ZipInfo] = {}
        members = [member for member in opened.infolist() if not member.is_dir()]
        for member in members:
            if member.filename in self._members:
                raise ValueError(f"it holds {member.filename!r} twice")
            if member.compress_type not in _METHODS or member.flag_bits & 1:
                raise ValueError(f"{member.filename!r} is encrypted or compressed in an uncommon way")
            self._members[member.filename] = member
        if sum(member.compress_size for member in members) > size:
            raise ValueError("its members overlap")
        if sum(member.file_size for member in members) > max(_FREE, _RATIO * size):
            raise ValueError(f"it would expand to more than {_RATIO} times its size")

    def __iter__(self) -> Iterator[str]:
        return iter(self._members)

    def __contains__(self, name: str) -> bool:
        return name in self._members

    def size(self, name: str) -> int:
        """The bytes that a member has when read."""
        return self._members[name].file_size

    def open(self, name: str) -> IO[bytes]:
        """A member to read from."""
        member = self._members[name]
        if member.compress_type == zipfile.ZIP_STORED and self._zip.fp is not None:
            return _Stored(self._zip.fp, member)  # type: ignore[return-value]
        return self._zip.open(member)

    def read(self, name: str, limit: int) -> bytes:
        """A whole member, which may have up to `limit` bytes."""
        if self.size(name) > limit:
            raise ValueError(f"{name!r} has {self.size(name):,} bytes, more than {limit:,}")
        with self.open(name) as file:
            return file.read()


class _Stored(io.RawIOBase):
    """A member that is not compressed: read in place, where `zipfile` copies what it has read twice more.

    The checksum is compared at its end, as there.
    """

    def __init__(self, file: IO[bytes], member: zipfile.ZipInfo) -> None:
        self._file, self._member, self._checksum, self._read = file, member, 0, 0
        file.seek(member.header_offset + 26)
        name, extra = struct.unpack("<HH", file.read(4))
        self._start = member.header_offset + 30 + name + extra

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._read

    def readinto(self, buffer: Any) -> int:
        target = memoryview(buffer).cast("B")[: self._member.file_size - self._read]
        self._file.seek(self._start + self._read)
        count: int = self._file.readinto(target)  # type: ignore[attr-defined]
        self._checksum = zlib.crc32(target[:count], self._checksum)
        self._read += count
        if self._read == self._member.file_size and self._checksum != self._member.CRC:
            raise zipfile.BadZipFile(f"Bad CRC-32 for file {self._member.filename!r}")
        return count


def read_into(file: IO[bytes], array: np.ndarray) -> None:
    """Fill an array from a file in pieces, so that nothing else of its size is ever in memory."""
    target = array.reshape(-1, order="A").view(np.uint8).data
    filled = 0
    while filled < len(target):
        count = file.readinto(target[filled : filled + _CHUNK])  # type: ignore[attr-defined]
        if not count:
            raise ValueError(f"{len(target):,} bytes of data are announced, {filled:,} are there")
        filled += count


@contextmanager
def open_archive(path: Path) -> Iterator[Archive]:
    """The archive in a file; raises what `zipfile` does, and `ValueError` for what no archive of weights needs."""
    size = path.stat().st_size
    with path.open("rb") as file, zipfile.ZipFile(file) as opened:
        archive = Archive(opened, size)
        if check_layout(file, size) != len(opened.infolist()):
            raise ValueError("its directory is damaged")
        yield archive
