"""Changing files: anywhere, or inside a part whose lengths and checksums are then set right."""

from __future__ import annotations

import io
import json
import pickletools
import random
import warnings
import zipfile
from collections.abc import Callable
from itertools import pairwise
from typing import Any

Random = random.Random
NUMBERS = [0, 1, 0x7F, 0xFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 1 << 40, (1 << 63) - 1, (1 << 64) - 1]
VALUES: list[Any] = [None, -1, 0, 3, 1 << 70, 1.5, "F32", [], {}, [1 << 62, 4], [-1], True, "x" * 100, [[]], ["3"]]


def damaged(data: bytes, rng: Random) -> bytes:
    """Data with one to four changes anywhere."""
    for _ in range(rng.choice((1, 1, 1, 2, 3, 4))):
        data = rng.choice(_CHANGES)(data, rng)
    return data


def _flip(data: bytes, rng: Random) -> bytes:
    changed = bytearray(data or b"\0")
    changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _byte(data: bytes, rng: Random) -> bytes:
    changed = bytearray(data or b"\0")
    changed[rng.randrange(len(changed))] = rng.randrange(256)
    return bytes(changed)


def _number(data: bytes, rng: Random) -> bytes:
    size = rng.choice((1, 2, 4, 8))
    value = (rng.choice(NUMBERS) & ((1 << 8 * size) - 1)).to_bytes(size, rng.choice(("little", "big")))
    at = rng.randrange(len(data) + 1)
    return data[:at] + value + data[at + size :]


def _cut(data: bytes, rng: Random) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def _remove(data: bytes, rng: Random) -> bytes:
    at = rng.randrange(len(data) + 1)
    return data[:at] + data[at + rng.choice((1, 2, 4, 16, 64)) :]


def _insert(data: bytes, rng: Random) -> bytes:
    at = rng.randrange(len(data) + 1)
    return data[:at] + rng.randbytes(rng.choice((1, 2, 4, 16, 64))) + data[at:]


def _repeat(data: bytes, rng: Random) -> bytes:
    start, at = rng.randrange(len(data) + 1), rng.randrange(len(data) + 1)
    return data[:at] + data[start : start + rng.randrange(1, 100)] * rng.choice((1, 1, 2, 50)) + data[at:]


_CHANGES = (_flip, _byte, _number, _cut, _remove, _insert, _repeat)


def within_zip(data: bytes, rng: Random, change: Callable[[str, bytes, Random], bytes]) -> bytes:
    """An archive with one member changed, under right lengths and checksums; sometimes renamed, twice or gone."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = [(name, archive.read(name)) for name in archive.namelist()]
    i = rng.randrange(len(members))
    name, content = members[i]
    kind = rng.randrange(12)
    if kind == 0:
        members.pop(i)
    elif kind == 1:
        members.append((name, content))
    elif kind == 2:
        members[i] = (damaged(name.encode(), rng).decode("utf-8", "replace").replace("\0", "") or "x", content)
    else:
        members[i] = (name, change(name, content, rng))
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))) as archive:
        for name, content in members:
            with warnings.catch_warnings(action="ignore"):  # a name that is there twice
                archive.writestr(zipfile.ZipInfo(name), content, archive.compression)
    return file.getvalue()


def within_pickle(data: bytes, rng: Random) -> bytes:
    """A pickle with whole opcodes left out, repeated, exchanged or put in."""
    starts = [position for _, _, position in pickletools.genops(data)] + [len(data)]
    opcodes = [data[a:b] for a, b in pairwise(starts)]
    for _ in range(rng.choice((1, 1, 2, 3, 8))):
        i, j = rng.randrange(len(opcodes)), rng.randrange(len(opcodes))
        kind = rng.randrange(6)
        if kind == 0 and len(opcodes) > 1:
            opcodes.pop(i)
        elif kind == 1:
            opcodes.insert(i, opcodes[j] * rng.choice((1, 1, 2, 200)))
        elif kind == 2:
            opcodes[i], opcodes[j] = opcodes[j], opcodes[i]
        elif kind == 3:
            opcodes[i] = damaged(opcodes[i], rng)
        else:
            opcodes.insert(i, rng.choice(SNIPPETS))
    return b"".join(opcodes)


SNIPPETS = [
    *(b"(", b")", b"]", b"}", b"0", b"1", b"2", b".", b"N", b"R", b"b", b"s", b"u", b"e", b"a", b"t", b"\x85", b"\x86"),
    *(b"\x87", b"\x81", b"\x94", b"Q", b"o", b"\x93", b"h\x00", b"h\x01", b"q\x00", b"j\xff\xff\xff\xff", b"P0\n"),
    *(b"cos\nsystem\n", b"cbuiltins\neval\n", b"ctorch\nload\n", b"\x8c\x02os\x8c\x06system\x93", b"X\x02\0\0\0ls"),
    *(
        b"cos\nsystem\n(X\x04\0\0\0touchtR",
        b"ibuiltins\nprint\n",
        b"\x82\x01",
        b"\x83\x01\0",
        b"I99999999999999999999\n",
    ),
    *(b"\x8b\xff\xff\xff\x7f", b"\x8a\x09" + b"\xff" * 9, b"\x8e" + b"\xff" * 8, b"B\xff\xff\xff\x7f", b"L1L\n"),
    *(
        b"G" + b"\xff" * 8,
        b"S'x'\n",
        b"Vx\n",
        b"F1e999\n",
        b"K\xff",
        b"M\xff\xff",
        b"J\xff\xff\xff\xff",
        b"\x97",
        b"\x98",
    ),
    *(b"(h\x00h\x00t", b"(l(l(l", b"\x8f", b"\x90", b"\x91", b"]q\x00h\x00a", b"}q\x00K\x01h\x00s", b"2" * 64),
]


def within_header(data: bytes, rng: Random) -> bytes:
    """A .safetensors file whose header has one value replaced or is otherwise changed; its length is set right."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    name = rng.choice(list(header))
    kind = rng.randrange(5)
    if kind == 0:
        header[name] = rng.choice(VALUES)
    elif kind == 1:
        header[name][rng.choice(list(header[name]))] = rng.choice(VALUES)
    elif kind == 2:
        other = rng.choice(list(header))
        header[name] = header[other]
    elif kind == 3 and isinstance(header[name].get("data_offsets"), list):
        header[name]["data_offsets"][rng.randrange(2)] += rng.choice((-8, -1, 1, 8, 1 << 40))
    text = json.dumps(header).encode()
    text = damaged(text, rng) if kind == 4 else text
    return len(text).to_bytes(8, "little") + text + data[8 + length :]


def within_legacy(data: bytes, rng: Random) -> bytes:
    """The older PyTorch file with one of its pickles changed."""
    ends = [0]
    for _ in range(5):
        for opcode, _, position in pickletools.genops(data[ends[-1] :]):
            if opcode.name == "STOP":
                ends.append(ends[-1] + position + 1)
    i = rng.randrange(5)
    return data[: ends[i]] + within_pickle(data[ends[i] : ends[i + 1]], rng) + data[ends[i + 1] :]
