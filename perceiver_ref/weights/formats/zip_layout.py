"""Whether a zip archive is one piece: its end record, its directory and its members fill the file, without a gap.

An archive's data have checksums; the numbers that say where they are, and how many there are, have none. One flipped
bit in them can make a reader leave out half of the members and see nothing wrong. Here every byte must be accounted
for, and each thing that is said twice be said alike: by a member's own header and the directory, by the directory and
the end record.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import BinaryIO

_END, _END64, _LOCATOR = b"PK\x05\x06", b"PK\x06\x06", b"PK\x06\x07"
_ENTRY, _MEMBER, _DESCRIPTOR = b"PK\x01\x02", b"PK\x03\x04", b"PK\x07\x08"
_END_SIZE, _END64_SIZE, _LOCATOR_SIZE, _ENTRY_SIZE, _MEMBER_SIZE = 22, 56, 20, 46, 30
_DIRECTORY = 1 << 28  # bytes: a million members
_SIZES_FOLLOW = 8  # the flag of a member whose sizes and checksum stand behind its data


@dataclass(frozen=True)
class _Entry:
    """What the directory says of a member."""

    name: bytes
    flags: int
    method: int
    checksum: int
    packed: int
    size: int
    start: int


def check_layout(file: BinaryIO, size: int) -> int:
    """The number of members of the archive in a file of `size` bytes; `ValueError` unless it is one whole piece."""
    count, start, end = _directory(file, size)
    entries = _entries(_at(file, start, end - start), count)
    position = 0
    for entry in sorted(entries, key=lambda entry: entry.start):
        if entry.start != position:
            raise ValueError("its members overlap or leave a gap")
        position = _end_of(file, entry, start)
    if position != start:
        raise ValueError("there is a gap before its directory")
    return count


def _directory(file: BinaryIO, size: int) -> tuple[int, int, int]:
    """(number of members, where the directory starts, where it ends)."""
    if size < _END_SIZE:
        raise ValueError("it has no end record")
    end = size - _END_SIZE
    signature, *disks, here, count, length, start, comment = struct.unpack("<4s4H2IH", _at(file, end, _END_SIZE))
    if signature != _END or comment:
        raise ValueError("it does not end with its end record")
    said = [*disks, here, count, length, start]
    if end >= _LOCATOR_SIZE and _at(file, end - _LOCATOR_SIZE, 4) == _LOCATOR:
        locator = end - _LOCATOR_SIZE
        _, disk, end, total = struct.unpack("<4sIQI", _at(file, locator, _LOCATOR_SIZE))
        if disk or total != 1 or end + _END64_SIZE != locator:
            raise ValueError("its end record is not where its locator says")
        record = struct.unpack("<4sQ2H2I4Q", _at(file, end, _END64_SIZE))
        if record[0] != _END64 or record[1] != _END64_SIZE - 12:
            raise ValueError("its end record is malformed")
        large = record[4:]
        limits = [0xFFFF] * 4 + [0xFFFFFFFF] * 2
        if any(small not in (number, limit) for small, number, limit in zip(said, large, limits)):
            raise ValueError("its two end records differ")
        said = list(large)
    *disks, here, count, length, start = said
    if any(disks) or here != count:
        raise ValueError("it is a part of an archive")
    if start + length != end or length > _DIRECTORY:
        raise ValueError("its directory is not where its end record says")
    return count, start, end


def _entries(directory: bytes, count: int) -> list[_Entry]:
    """The directory, all of which must be `count` entries."""
    made: list[_Entry] = []
    position = 0
    while position < len(directory):
        head = directory[position : position + _ENTRY_SIZE]
        if len(head) < _ENTRY_SIZE or head[:4] != _ENTRY:
            raise ValueError("its directory is damaged")
        _, _, _, flags, method, _, checksum, packed, size = struct.unpack("<4s4H4I", head[:28])
        name_size, extra_size, comment_size, disk, _, _, start = struct.unpack("<5H2I", head[28:])
        name_end = position + _ENTRY_SIZE + name_size
        name, extra = directory[name_end - name_size : name_end], directory[name_end : name_end + extra_size]
        position = name_end + extra_size + comment_size
        if disk:
            raise ValueError("it is a part of an archive")
        size, packed, start = _large(extra, [size, packed, start])
        made.append(_Entry(name, flags, method, checksum, packed, size, start))
    if position != len(directory) or len(made) != count:
        raise ValueError(f"its directory has {len(made)} members, its end record says {count}")
    return made


def _end_of(file: BinaryIO, entry: _Entry, limit: int) -> int:
    """Where a member ends: its header, which must agree with the directory, its data and what may follow them."""
    head = _at(file, entry.start, _MEMBER_SIZE)
    signature, _, flags, method, _, checksum, packed, size = struct.unpack("<4s3HI3I", head[:26])
    name_size, extra_size = struct.unpack("<2H", head[26:])
    rest = _at(file, entry.start + _MEMBER_SIZE, name_size + extra_size)
    if (signature, flags, method, rest[:name_size]) != (_MEMBER, entry.flags, entry.method, entry.name):
        raise ValueError("a member's header and the directory differ")
    size, packed = _large(rest[name_size:], [size, packed])
    follow = bool(flags & _SIZES_FOLLOW)
    said, meant = (checksum, packed, size), (entry.checksum, entry.packed, entry.size)
    if said != meant and not (follow and all(a in (0, b) for a, b in zip(said, meant))):
        raise ValueError("a member's header and the directory differ")
    end = entry.start + _MEMBER_SIZE + len(rest) + entry.packed
    if end > limit:
        raise ValueError("a member reaches into the directory")
    return end + _descriptor(_at(file, end, min(24, limit - end)), meant) if follow else end


def _descriptor(data: bytes, meant: tuple[int, int, int]) -> int:
    """The bytes of the checksum and sizes that stand behind a member's data, with a signature or not, 4 or 8 each."""
    for form in ("<4sIQQ", "<4sIII", "<IQQ", "<III"):
        length = struct.calcsize(form)
        if len(data) < length:
            continue
        found = struct.unpack(form, data[:length])
        if found[-3:] == meant and found[:-3] in ((), (_DESCRIPTOR,)):
            return length
    raise ValueError("what stands behind a member's data and the directory differ")


def _large(extra: bytes, numbers: list[int]) -> list[int]:
    """Numbers of 32 bits, each replaced by one of 64 bits from the extra field where it is the largest of 32."""
    if 0xFFFFFFFF not in numbers:
        return numbers
    while len(extra) >= 4:
        kind, length = struct.unpack("<2H", extra[:4])
        if kind == 1:
            field = extra[4 : 4 + length]
            made = []
            for number in numbers:
                if number == 0xFFFFFFFF:
                    if len(field) < 8:
                        raise ValueError("a member's size is missing")
                    number, field = int.from_bytes(field[:8], "little"), field[8:]
                made.append(number)
            return made
        extra = extra[4 + length :]
    return numbers


def _at(file: BinaryIO, position: int, size: int) -> bytes:
    file.seek(position)
    data = file.read(size)
    if len(data) != size:
        raise ValueError("it ends too early")
    return data
