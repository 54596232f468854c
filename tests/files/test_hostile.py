"""Files made to exhaust memory or time, to reach other files, or to run something: one clear error each."""

from __future__ import annotations

import io
import json
import os
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from files.fuzz import limited
from files.torch_files import save, zipped

from perceiver_ref import InputError
from perceiver_ref.weights.checkpoints import read_config, read_weights
from perceiver_ref.weights.formats.safetensors_file import write_safetensors

BIG = 1 << 20


def refused(path: Path, data: bytes, text: str) -> None:
    """One line with this text, within the fuzzer's limits of time, memory and what may be done."""
    path.write_bytes(data)
    with pytest.raises(InputError) as error, limited(traced=len(data) <= BIG + 40_000):  # tracing is slow
        read_weights(path)
    assert text in str(error.value), str(error.value)
    assert str(error.value).isprintable()


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, array, allow_pickle=False)
    return file.getvalue()


def archive(*members: tuple[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as made:
        for name, content in members:
            made.writestr(zipfile.ZipInfo(name), content, method, 1)
    return file.getvalue()


HEADER = "{'descr': '<f8', 'fortran_order': False, 'shape': (%s,), }"


def header(text: str, version: bytes = b"\x01\x00") -> bytes:
    text = text.ljust(118) + "\n"
    return b"\x93NUMPY" + version + struct.pack("<H" if version == b"\x01\x00" else "<I", len(text)) + text.encode()


NPZ: dict[str, tuple[bytes, str]] = {
    "a huge shape": (archive(("x.npy", header(HEADER % (1 << 50)))), "announces"),
    "a shape beyond 64 bits": (archive(("x.npy", header(HEADER % (1 << 70)))), "an impossible shape"),
    "a negative shape": (archive(("x.npy", header(HEADER % -1))), "an impossible shape"),
    "a shape of text": (archive(("x.npy", header(HEADER % "'a'"))), "shape is not valid"),
    "true as a size": (archive(("x.npy", header(HEADER % "True") + bytes(8))), "an impossible shape"),
    "an expression": (archive(("x.npy", header("__import__('os').system('touch marker')"))), "malformed node"),
    "a deep header": (archive(("x.npy", header("(" * 5000))), "not a readable .npz file"),
    "a long header": (archive(("x.npy", header(" " * 60_000))), "Header info length"),
    "objects": (
        archive(("x.npy", header("{'descr': '|O', 'fortran_order': False, 'shape': (1,), }") + b"cos\n")),
        "obj",
    ),
    "a version to come": (archive(("x.npy", header(HEADER % 1, b"\x03\x00"))), "version (3, 0)"),
    "more data than the shape": (archive(("x.npy", npy(np.zeros(3)) + bytes(8))), "announces 24 bytes of 32"),
    "less data than the shape": (archive(("x.npy", npy(np.zeros(3))[:-8])), "announces 24 bytes of 16"),
    "no array": (archive(("x.txt", b"x")), "is there twice or no .npy"),
    "a path upwards": (archive(("../../x\n.npy", npy(np.zeros(1)))), "is no printable text"),
    "a single array": (npy(np.zeros(3)), "holds a single array"),
}


@pytest.mark.parametrize("what", NPZ)
def test_npz(tmp_path: Path, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    refused(tmp_path / "x.npz", *NPZ[what])
    assert [path.name for path in tmp_path.iterdir()] == ["x.npz"]


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("ending", [".npz", ".pt"])
def test_a_name_that_is_there_twice(tmp_path: Path, ending: str) -> None:
    members = [("x.npy", npy(np.zeros(1)))] if ending == ".npz" else [("archive/data.pkl", b".")]
    refused(tmp_path / f"x{ending}", archive(*members, *members), "twice")


@pytest.mark.parametrize("ending", [".npz", ".pt"])
def test_zip_bombs(tmp_path: Path, ending: str) -> None:
    zeros = npy(np.zeros(1 << 20)) if ending == ".npz" else bytes(8 << 20)
    names = [f"x{i}.npy" for i in range(40)] if ending == ".npz" else [f"archive/data/{i}" for i in range(40)]
    bomb = archive(*((name, zeros) for name in names), method=zipfile.ZIP_DEFLATED)
    refused(tmp_path / f"x{ending}", bomb, "would expand to more than 100 times its size")


def test_members_that_share_their_data(tmp_path: Path) -> None:
    """Fifield's bomb: a thousand names for one piece of the file."""
    data = archive(("x.npy", npy(np.zeros(BIG))))
    start = data.index(b"PK\x01\x02")
    entry = data[start : data.index(b"PK\x05\x06")]
    entries = b"".join(entry.replace(b"x.npy", b"%05d" % i) for i in range(1000))
    end = struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, 1000, 1000, len(entries), start, 0)
    refused(tmp_path / "x.npz", data[:start] + entries + end, "overlap")


def test_encrypted_and_uncommon_members(tmp_path: Path) -> None:
    data = bytearray(archive(("x.npy", npy(np.zeros(3)))))
    data[data.index(b"PK\x01\x02") + 8] |= 1
    refused(tmp_path / "x.npz", bytes(data), "encrypted or compressed in an uncommon way")
    lzma = archive(("x.npy", npy(np.zeros(3))), method=zipfile.ZIP_LZMA)
    refused(tmp_path / "x.npz", lzma, "encrypted or compressed in an uncommon way")


def safetensors(entries: Any, data: bytes = bytes(16), length: int | None = None) -> bytes:
    text = entries if isinstance(entries, bytes) else json.dumps(entries).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def entry(**changes: Any) -> dict[str, Any]:
    return {"x": {"dtype": "F64", "shape": [2], "data_offsets": [0, 16], **changes}}


TWO = {"y": {"dtype": "F64", "shape": [1], "data_offsets": [16, 24]}}
SAFETENSORS = {
    "a header longer than the file": safetensors(entry(), length=1 << 40),
    "the longest header": safetensors(entry(), length=(1 << 64) - 1),
    "no header": safetensors(b"", bytes(16)),
    "a header of a list": safetensors([1, 2]),
    "a header that is no JSON": safetensors(b"{'x'}"),
    "a header that is no UTF-8": safetensors(b'{"\xff": 1}'),
    "a deep header": safetensors(b'{"x":' + b"[" * BIG),
    "a name twice": safetensors(json.dumps(entry())[:-1].encode() + b"," + json.dumps(entry())[1:].encode()),
    "no dtype": safetensors({"x": {"shape": [2], "data_offsets": [0, 16]}}),
    "an unknown dtype": safetensors(entry(dtype="F8_E9")),
    "a dtype that is no text": safetensors(entry(dtype=["F64"])),
    "a negative shape": safetensors(entry(shape=[-2])),
    "a huge shape": safetensors(entry(shape=[1 << 60])),
    "a shape that overflows": safetensors(entry(shape=[1 << 32, 1 << 32, 0, 1 << 62], data_offsets=[0, 0])),
    "a shape of numbers with points": safetensors(entry(shape=[2.0])),
    "another shape than its data": safetensors(entry(shape=[3])),
    "data beyond the file": safetensors(entry(data_offsets=[0, 1 << 50], shape=[1 << 47])),
    "data that ends before it begins": safetensors(entry(data_offsets=[16, 0])),
    "data before the first": safetensors(entry(data_offsets=[-8, 8])),
    "data left over": safetensors(entry(), bytes(24)),
    "data too short": safetensors(entry(), bytes(15)),
    "a gap": safetensors({**entry(shape=[1], data_offsets=[0, 8]), **TWO}, bytes(24)),
    "an overlap": safetensors({**entry(), "y": {"dtype": "F64", "shape": [2], "data_offsets": [8, 24]}}, bytes(24)),
    "three offsets": safetensors(entry(data_offsets=[0, 8, 16])),
    "text": b"weights",
    "nothing": b"",
}


@pytest.mark.parametrize("package", ["with the package", "without"])
@pytest.mark.parametrize("what", SAFETENSORS)
def test_safetensors(tmp_path: Path, what: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if package == "without":
        monkeypatch.setitem(__import__("sys").modules, "safetensors", None)
    refused(tmp_path / "x.safetensors", SAFETENSORS[what], "x.safetensors is not a readable safetensors file")


def test_a_safetensors_name_must_be_printable(tmp_path: Path) -> None:
    data = safetensors({"a\nb": entry()["x"]})
    refused(tmp_path / "x.safetensors", data, "the name 'a?b' is no printable text")


OPCODES: dict[str, tuple[bytes, str]] = {
    "no end": (b"\x80\x02]", "not a readable pickle"),
    "an empty stack": (b"\x80\x020.", "not a readable pickle"),
    "bytes that are not there": (b"\x80\x04\x8e" + struct.pack("<Q", 1 << 62) + b".", "are announced"),
    "text that is not there": (b"\x80\x04\x8d" + struct.pack("<Q", (1 << 64) - 1) + b".", "not a readable pickle"),
    "a number that is not there": (b"\x80\x02\x8b\xff\xff\xff\x7f.", "are announced"),
    "a number of many digits": (b"L" + b"9" * BIG + b"L\n.", "not a readable pickle"),
    "a memo of huge numbers": (b"]p" + b"9" * 4000 + b"\n.", "a number as a key"),
    "a memo that is empty": (b"\x80\x02j\xff\xff\xff\xff.", "not a readable pickle"),
    "millions of lists": (b"\x80\x02" + b"]" * 1_100_000 + b".", "the same containers again and again"),
    "a marker that is kept": (b"\x80\x02(\x85.", "an unfinished object"),
    "a name": (b"\x80\x02cos\nsystem\n.", "the name os.system"),
    "a name on two lines": (b"\x80\x04\x8c\x04a\nb\n\x8c\x01c\x93.", "the name a?b?.c"),
    "a name that is no text": (b"\x80\x04K\x01K\x02\x93.", "a name that is no text"),
    "a call of nothing": (b"\x80\x02K\x01)R.", "a call"),
    "a call with a list": (b"\x80\x02ccollections\nOrderedDict\n]R.", "a call"),
    "an instance": (b"(ibuiltins\neval\n.", "the opcode INST"),
    "an object": (b"(cbuiltins\nobject\no.", "the opcode OBJ"),
    "an extension": (b"\x80\x02\x82\x01.", "the opcode EXT1"),
    "a persistent id": (b"\x80\x02K\x01Q.", "the opcode BINPERSID"),
    "a persistent line": (b"Px\n.", "the opcode PERSID"),
    "a set": (b"\x80\x04\x8f.", "holds a set"),
    "a buffer elsewhere": (b"\x80\x05\x97.", "the opcode NEXT_BUFFER"),
    "a state of a list": (b"\x80\x02]}b.", "an object with a state"),
    "a list in itself": (b"\x80\x02]q\x00h\x00a.", "more than 64 levels"),
    "a dict in itself": (b"\x80\x02}q\x00K\x01h\x00s.", "more than 64 levels"),
    "a dict of odd items": (b"\x80\x02}(K\x01u.", "not a readable pickle"),
    "a key of a tuple": (b"\x80\x02})K\x01s.", "a key of type tuple"),
    "a key of a huge number": (b"\x80\x02}\x8a\x09" + b"\x7f" * 9 + b"Ns.", "a number as a key"),
    "a dtype of objects": (b"\x80\x02cnumpy\ndtype\nX\x01\0\0\0O\x85R.", "a dtype that is no number's"),
    "a dtype of many": (b"\x80\x02cnumpy\ndtype\nX\x05\0\0\0f4,f4\x85R.", "a dtype that is no number's"),
    "an array without data": (b"\x80\x02cnumpy\nndarray\n)R.", "an unfinished object"),
}


@pytest.mark.parametrize("what", OPCODES)
def test_pickles(tmp_path: Path, what: str) -> None:
    refused(tmp_path / "x.pystate", *OPCODES[what])


@pytest.mark.parametrize("what", [name for name in OPCODES if name not in ("a persistent id", "an empty stack")])
def test_the_same_within_pytorch_files(tmp_path: Path, what: str) -> None:
    data, text = OPCODES[what]
    refused(tmp_path / "x.pt", zipped(data, {}), text)


def test_one_text_encoded_again_and_again(tmp_path: Path) -> None:
    text = b"X" + struct.pack("<I", BIG) + b"a" * BIG + b"q\x01"
    once = b"c_codecs\nencode\nh\x01X\x06\0\0\0latin1\x86R"
    refused(tmp_path / "x.pystate", b"\x80\x02" + text + b"(" + once * 1000 + b"l.", "the same data again and again")


def test_one_array_built_again_and_again(tmp_path: Path) -> None:
    parts = [
        *(b"\x80\x03B" + struct.pack("<I", BIG) + bytes(BIG) + b"q\x01", b"cnumpy\ndtype\nX\x03\0\0\0>f4\x85Rq\x02"),
        *(b"J" + struct.pack("<I", BIG // 4) + b"\x85q\x03", b"("),
    ]
    once = b"cnumpy._core.numeric\n_frombuffer\n(h\x01h\x02h\x03X\x01\0\0\0CtR"
    refused(tmp_path / "x.pystate", b"".join(parts) + once * 1000 + b"l.", "the same data again and again")


def test_a_pickle_in_a_pickle_stays_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    inner = b"cos\nsystem\n(X\x0c\0\0\0touch markertR."
    refused(tmp_path / "x.pystate", pickle.dumps({"a": {"w": inner}}), "expected a Haiku parameter tree")
    refused(tmp_path / "x.pt", save({}, lambda _: {"state_dict": inner}), "holds no state dict")
    assert not (tmp_path / "marker").exists()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs POSIX")
@pytest.mark.parametrize("name", ["x.npz", "x.safetensors", "x.pt", "x.bin", "x.pystate"])
def test_pipes_devices_and_links(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    os.mkfifo(path)
    for change in (lambda: None, lambda: path.symlink_to("/dev/zero"), lambda: path.symlink_to(path)):
        change()
        with pytest.raises(InputError, match=r"is no regular file|does not exist"), limited(traced=True):
            read_weights(path)
        path.unlink()
    path.symlink_to(tmp_path)
    with pytest.raises(InputError, match="holds neither"):
        read_weights(path)


def test_a_link_to_a_file_is_followed(tmp_path: Path) -> None:
    """As in the cache of the Hugging Face hub, whose snapshots are links."""
    write_safetensors(tmp_path / "blob", {"x": np.ones(2)})
    (tmp_path / "snapshot").mkdir()
    (tmp_path / "snapshot" / "model.safetensors").symlink_to(tmp_path / "blob")
    assert read_weights(tmp_path / "snapshot")["x"].tolist() == [1, 1]


@pytest.mark.parametrize("text", ["[" * BIG, '{"a":' * BIG, "9" * BIG, '"' * 3, "[1]", "\xff"])
def test_configurations(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError) as error, limited(traced=True):
        read_config(tmp_path)
    assert str(error.value).isprintable()


def test_a_configuration_is_not_gigabytes(tmp_path: Path) -> None:
    with (tmp_path / "config.json").open("wb") as file:
        file.truncate(1 << 40)  # takes no space
    with pytest.raises(InputError, match="has more than 64 MiB"):
        read_config(tmp_path)
