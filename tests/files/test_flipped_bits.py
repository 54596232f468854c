"""A flipped bit in a case's file never turns a mismatch into a pass, and never ends in a traceback."""

from __future__ import annotations

import io
import json
import random
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from files.torch_files import save

from perceiver_ref import InputError
from perceiver_ref.porting import check_file
from perceiver_ref.porting.cases import Case, read_case, write_case
from perceiver_ref.weights.formats.archive import open_archive
from perceiver_ref.weights.formats.npz import read_npz

META = {"peer": "perceiver-ref", "class": "relu", "config": {}, "dtype": "float64"}
X, C = np.array([[1.0, -2.0], [3.0, 4.0]]), np.array([[1.0, 1.0], [2.0, 0.5]])
PADDING = b" "
ENTRY = 64  # bytes of each member in the directory: a power of two, so that one bit can leave one out


def small_case(gradient: np.ndarray) -> Case:
    return Case(
        {**META, "call": {}, "tied": {}, "tolerance": {}, "compare_gradients": True},
        inputs={"x": X},
        outputs={"out": np.maximum(X, 0)},
        cotangents={"out": C},
        grad_inputs={"x": gradient},
    )


RIGHT, WRONG = C * (X > 0), C


def padded(path: Path) -> bytes:
    """The same archive, each entry of its directory made `ENTRY` bytes by a comment."""
    file = io.BytesIO()
    with zipfile.ZipFile(path) as given, zipfile.ZipFile(file, "w") as made:
        for name in given.namelist():
            member = zipfile.ZipInfo(name)
            member.comment = PADDING * (ENTRY - 46 - len(name))
            made.writestr(member, given.read(name))
    return file.getvalue()


def unlisted(case: Case, path: Path) -> bytes:
    """The case in a file that does not list its arrays, which alone would find what is missing."""
    arrays = read_npz_of(case, path)
    np.savez(path, **{"meta": np.array(json.dumps(case.meta)), **arrays})
    return padded(path)


def read_npz_of(case: Case, path: Path) -> dict[str, np.ndarray]:
    write_case(path, case)
    arrays = read_npz(path)
    del arrays["meta"]
    return arrays


def data_of(content: bytes) -> set[int]:
    """The places of the members' data, which have checksums."""
    places: set[int] = set()
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        for member in archive.infolist():
            name, extra = struct.unpack("<2H", content[member.header_offset + 26 : member.header_offset + 30])
            start = member.header_offset + 30 + name + extra
            places |= set(range(start, start + member.compress_size))
    return places


def statuses(path: Path, content: bytes, places: list[tuple[int, int]]) -> set[str]:
    found = set()
    for place, bit in places:
        changed = bytearray(content)
        changed[place] ^= 1 << bit
        path.write_bytes(changed)
        found.add(check_file(path).status)
    return found


def test_no_bit_makes_a_wrong_case_pass(tmp_path: Path) -> None:
    path = tmp_path / "case.npz"
    content = unlisted(small_case(WRONG), path)
    path.write_bytes(content)
    assert check_file(path).status == "fail"
    data = data_of(content)
    rng = random.Random(0)
    directory = content.index(b"PK\x01\x02")
    structure = [(p, bit) for p in range(directory, len(content)) if content[p] != PADDING[0] for bit in range(8)]
    structure += [(place, bit) for place in range(directory) if place not in data for bit in rng.sample(range(8), 2)]
    within = [(place, rng.randrange(8)) for place in rng.sample(sorted(data), 100)]
    assert statuses(path, content, structure) == {"fail", "error"}  # dates and such change nothing
    assert statuses(path, content, within) == {"error"}


def test_no_bit_of_a_right_case_is_a_traceback(tmp_path: Path) -> None:
    path = tmp_path / "case.npz"
    write_case(path, small_case(RIGHT))
    content = path.read_bytes()
    assert check_file(path).status == "pass"
    rng = random.Random(1)
    places = [(rng.randrange(len(content)), rng.randrange(8)) for _ in range(600)]
    assert statuses(path, content, places) <= {"pass", "error"}


def hidden(content: bytes) -> bytes:
    """With the comment of the directory's last entry but one made as long as to cover the last."""
    changed = bytearray(content)
    last = content.rindex(b"PK\x01\x02")
    changed[last - ENTRY + 32] ^= ENTRY
    return bytes(changed)


def test_a_bit_that_hides_an_array(tmp_path: Path) -> None:
    """What `zipfile` alone reads without a word."""
    content = hidden(unlisted(small_case(WRONG), tmp_path / "case.npz"))
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert "grad_input/x.npy" not in archive.namelist()
    (tmp_path / "case.npz").write_bytes(content)
    assert check_file(tmp_path / "case.npz").status == "error"


def test_a_case_lists_its_arrays(tmp_path: Path) -> None:
    path = tmp_path / "case.npz"
    arrays = read_npz_of(small_case(RIGHT), path)
    meta = np.load(path)["meta"]
    assert "arrays" not in read_case(path).meta
    for change, said in (
        ({"grad_input/x": None}, "lacks 1 of its arrays: 'grad_input/x'"),
        ({"trace/more": X}, "holds beside its list 1 of its arrays: 'trace/more'"),
    ):
        changed = {key: array for key, array in {**arrays, **change}.items() if array is not None}
        np.savez(path, meta=meta, **changed)
        with pytest.raises(InputError, match=said):
            read_case(path)


@pytest.mark.parametrize(
    "listed", ["x", {"x": 1}, [1], [["x"]], 3, [None]], ids=["text", "object", "numbers", "lists", "number", "nothing"]
)
def test_the_list_must_be_one(listed: object, tmp_path: Path) -> None:
    arrays = read_npz_of(small_case(RIGHT), tmp_path / "case.npz")
    np.savez(tmp_path / "case.npz", meta=np.array(json.dumps({**META, "arrays": listed})), **arrays)
    with pytest.raises(InputError, match="arrays must be a list of the keys"):
        read_case(tmp_path / "case.npz")


def whole() -> bytes:
    file = io.BytesIO()
    np.savez(file, a=X, b=C, c=np.zeros((0, 3)))
    return file.getvalue()


def with_end(content: bytes, **fields: int) -> bytes:
    """With other numbers in the end record."""
    names = ("disk", "start_disk", "here", "count", "length", "start", "comment")
    end = len(content) - 22
    values = dict(zip(names, struct.unpack("<4H2IH", content[end + 4 :]))) | fields
    return content[: end + 4] + struct.pack("<4H2IH", *values.values())


def without_entry(content: bytes) -> bytes:
    """The directory without its first entry: what is left is an archive, but for a gap."""
    start = content.index(b"PK\x01\x02")
    following = content.index(b"PK\x01\x02", start + 4)
    made = content[:start] + content[following:]
    return with_end(made, here=2, count=2, length=len(made) - 22 - start)


def in_the_middle(content: bytes) -> bytes:
    start = content.index(b"PK\x01\x02")
    middle = content.index(b"PK\x01\x02", start + 4)
    last = content.index(b"PK\x01\x02", middle + 4)
    made = content[:middle] + content[last:]
    return with_end(made, here=2, count=2, length=len(made) - 22 - start)


SPOILT = {
    "a count of one less": lambda c: with_end(c, here=2, count=2),
    "counts that differ": lambda c: with_end(c, here=2),
    "a second disk": lambda c: with_end(c, disk=1),
    "a comment that is not there": lambda c: with_end(c, comment=4),
    "a comment": lambda c: with_end(c, comment=4) + b"abcd",
    "bytes at the end": lambda c: c + b"\0" * 7,
    "bytes at the beginning": lambda c: b"\0" * 64 + c,
    "a shorter directory": lambda c: with_end(c, length=len(c) - 22 - c.index(b"PK\x01\x02") - 10),
    "a directory elsewhere": lambda c: with_end(c, start=c.index(b"PK\x01\x02") + 46),
    "the first member unlisted": without_entry,
    "a member in the middle unlisted": in_the_middle,
    "a gap before the directory": lambda c: with_end(
        c[: c.index(b"PK\x01\x02")] + b"\0" * 8 + c[c.index(b"PK\x01\x02") :], start=c.index(b"PK\x01\x02") + 8
    ),
    "two end records that differ": lambda _: large(count=2, here=2),
    "another name in a member": lambda c: c.replace(b"b.npy", b"d.npy", 1),
    "another name in the directory": lambda c: c[: c.rindex(b"b.npy")] + b"d.npy" + c[c.rindex(b"b.npy") + 5 :],
}


@pytest.mark.parametrize("what", SPOILT)
def test_an_archive_must_be_one_whole_piece(what: str, tmp_path: Path) -> None:
    (tmp_path / "x.npz").write_bytes(SPOILT[what](whole()))
    with pytest.raises(InputError, match=r"is not a readable .npz file"):
        read_npz(tmp_path / "x.npz")


class Stream(io.RawIOBase):
    """A file that cannot be gone back in, so that sizes follow the data."""

    def __init__(self) -> None:
        self.content = b""

    def writable(self) -> bool:
        return True

    def write(self, data: object) -> int:
        self.content += bytes(data)
        return len(bytes(data))


def streamed() -> bytes:
    file = Stream()
    np.savez(file, a=X, b=C)
    return file.content


def appended() -> bytes:
    file = io.BytesIO(whole())
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr("d.npy", b"x")
    return file.getvalue()


def large(**fields: int) -> bytes:
    """With the end record of 64 bits, too, as PyTorch writes it for any size."""
    content = whole()
    end = len(content) - 22
    _, _, here, count, length, start, _ = struct.unpack("<4H2IH", content[end + 4 :])
    values = {"here": here, "count": count, "length": length, "start": start} | fields
    record = struct.pack("<4sQ2H2I4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, *values.values())
    return content[:end] + record + struct.pack("<4sIQI", b"PK\x06\x07", 0, end, 1) + content[end:]


def compressed() -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, a=X, b=C)
    return file.getvalue()


WHOLE = {
    "numpy": (whole, 3),
    "numpy, compressed": (compressed, 2),
    "numpy, to a stream": (streamed, 2),
    "appended to": (appended, 4),
    "numbers of 64 bits": (large, 3),
    "torch": (lambda: save({"w": X}), 4),
    "nothing in it": (lambda: b"PK\x05\x06" + bytes(18), 0),
}


@pytest.mark.parametrize("what", WHOLE)
def test_whole_archives_are_read(what: str, tmp_path: Path) -> None:
    make, count = WHOLE[what]
    (tmp_path / "x").write_bytes(make())
    with open_archive(tmp_path / "x") as archive:
        members = list(archive)
        assert len(members) == count
        for name in members[:10]:
            archive.read(name, 1 << 20)
