"""Dumps made to reach other files, to exhaust memory or time, or to be taken for what they are not: one clear error."""

from __future__ import annotations

import base64
import json
import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from files import dump_writers
from files.dump_writers import message, npy_folder, tensor_proto, varint
from files.fuzz import limited

from perceiver_ref import InputError
from perceiver_ref.porting.cases import read_case
from perceiver_ref.porting.dumps import read_held
from perceiver_ref.weights.checkpoints import read_weights
from perceiver_ref.weights.formats.gguf import TYPES

ONE = np.arange(6, dtype=np.float32).reshape(2, 3)


def refused(path: Path, text: str, read: Any = read_held) -> None:
    """One line with this text and the path, within the fuzzer's limits of time, memory and what may be done."""
    with pytest.raises(InputError) as error, limited(traced=True):
        read(path)
    assert text in str(error.value), str(error.value)
    assert str(error.value).isprintable()
    assert str(path.parent) in str(error.value)


def index(folder: Path, **entries: Any) -> Path:
    (folder / "a.bin").write_bytes(ONE.tobytes())
    usual = {"file": "a.bin", "dtype": "float32", "shape": [2, 3]}
    made = {name: {**usual, **entry} if isinstance(entry, dict) else entry for name, entry in entries.items()}
    (folder / "index.json").write_text(json.dumps({"arrays": made}))
    return folder / "index.json"


RAW: dict[str, tuple[Any, str]] = {
    "an absolute path": ({"file": "/etc/passwd"}, "is no file in its folder"),
    "a path upwards": ({"file": "../secret.bin"}, "is no file in its folder"),
    "a path upwards from below": ({"file": "b/../../secret.bin"}, "is no file in its folder"),
    "a path of Windows": ({"file": "..\\secret.bin"}, "is no file in its folder"),
    "a link out": ({"file": "link.bin"}, "is no file in its folder"),
    "a folder that is a link out": ({"file": "out/secret.bin"}, "is no file in its folder"),
    "a link in a circle": ({"file": "circle.bin"}, ""),
    "a pipe": ({"file": "pipe"}, "is no regular file"),
    "no file": ({"file": "missing.bin"}, "does not exist"),
    "a number as a file": ({"file": 3}, "is no file in its folder"),
    "a null in a name": ({"file": "a\0.bin"}, "is no file in its folder"),
    "another size": ({"shape": [2, 2]}, "shape [2, 2] of float32 has 16 bytes, a.bin has 24"),
    "a huge shape": ({"shape": [1 << 50]}, "bytes, a.bin has 24"),
    "a product beyond 64 bits": ({"shape": [1 << 40, 1 << 40]}, "bytes, a.bin has 24"),
    "a negative shape": ({"shape": [-2, 3]}, "shape must be a list of sizes"),
    "a shape of text": ({"shape": "2x3"}, "shape must be a list of sizes"),
    "a truth value in a shape": ({"shape": [True, 6]}, "shape must be a list of sizes"),
    "an offset beyond the end": ({"offset": 28, "shape": [0]}, "offset must be a number of bytes within a.bin"),
    "an offset too far": ({"offset": 4}, "has 24 bytes, a.bin has 20 from the offset on"),
    "a negative offset": ({"offset": -4}, "offset must be a number of bytes within a.bin"),
    "an unknown dtype": ({"dtype": "complex64"}, "unknown dtype"),
    "no dtype": ({"dtype": None}, "unknown dtype"),
    "truth values of other bytes": ({"dtype": "bool", "shape": [24]}, "a bool is a byte, 0 or 1"),
    "no object": (["a.bin"], "must be an object with file, dtype and shape"),
}


@pytest.mark.parametrize("what", RAW)
def test_indexes_of_raw_numbers(what: str, tmp_path: Path) -> None:
    folder = tmp_path / "dump"
    folder.mkdir()
    (tmp_path / "secret.bin").write_bytes(ONE.tobytes())
    (folder / "link.bin").symlink_to(tmp_path / "secret.bin")
    (folder / "out").symlink_to(tmp_path)
    (folder / "circle.bin").symlink_to(folder / "circle.bin")
    os.mkfifo(folder / "pipe")
    entry, text = RAW[what]
    refused(index(folder, x=entry), text)


def test_arrays_that_share_bytes(tmp_path: Path) -> None:
    """One file named a thousand times would be a thousand arrays."""
    refused(index(tmp_path, x={}, y={"offset": 0, "shape": [2]}), "'y' and 'x' share bytes of one file")
    (tmp_path / "same.bin").symlink_to(tmp_path / "a.bin")
    refused(index(tmp_path, x={}, y={"file": "same.bin"}), "share bytes of one file")
    index(tmp_path, x={"shape": [2], "offset": 0}, y={"offset": 8, "shape": [3]})
    assert read_held(tmp_path).arrays["y"].tolist() == [2, 3, 4]  # type: ignore[union-attr]


def test_json_that_is_deep_long_or_something_else(tmp_path: Path) -> None:
    path = tmp_path / "index.json"
    for text, said in (
        ('{"arrays": ' + "[" * 100_000 + "]" * 100_000 + "}", ""),
        ('{"arrays": {}, "x": [' + "[]," * 2_000_000 + "[]]}", ""),
        ('{"arrays": {"x": 1}, "format": "other"}', "is of format 'other'"),
        ('{"arrays": {"x": 1}, "version": 2}', "version 2; expected"),
        ('{"module_path": "M", "children": [3]}', "are no list of calls"),
        ('{"lst": [["a", 3]]}', "expected a list of iterations"),
        ('[{"x": {"array": "!!!", "polygraphy_class": "ndarray"}}]', "is no readable array"),
        ('[{"x": {"tensor": "AAAA", "polygraphy_class": "Tensor"}}]', "'x' is Tensor; expected an ndarray"),
        ("[1, 2]", "is JSON; expected arrays"),
        ("{", "expected arrays"),
    ):
        path.write_text(text)
        with pytest.raises(InputError, match=r"dex\.json") as error:
            read_held(path)
        assert said in str(error.value), str(error.value)


def test_a_bomb_in_base64(tmp_path: Path) -> None:
    """A header that announces more than the text holds."""
    header = b"\x93NUMPY\x01\x00v\x00" + b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000,), }".ljust(
        117
    )
    array = base64.b64encode(header + b"\n").decode()
    (tmp_path / "x.json").write_text(json.dumps([{"x": {"array": array, "polygraphy_class": "ndarray"}}]))
    refused(tmp_path / "x.json", "announces")


def test_folders_of_arrays(tmp_path: Path) -> None:
    root = npy_folder(tmp_path, {"a/b": ONE})
    np.save(tmp_path / "secret.npy", ONE)
    (root / "link.npy").symlink_to(tmp_path / "secret.npy")
    refused(root, "'link.npy' is no file in its folder")
    (root / "link.npy").unlink()
    (root / "meta.json").symlink_to(tmp_path / "secret.npy")
    refused(root, "'meta.json' is no file in its folder")
    (root / "meta.json").unlink()
    (root / "objects.npy").write_bytes(b"")
    refused(root, "is not a readable .npy file")
    np.save(root / "objects.npy", np.array([{}, None]), allow_pickle=True)
    refused(root, "is an object array")
    with (root / "objects.npy").open("wb") as file:  # a sparse file: large, and nothing on the disk
        np.lib.format.write_array_header_1_0(file, {"descr": "<f8", "fortran_order": False, "shape": (1 << 37,)})
        file.truncate((1 << 40) + file.tell())
    refused(root, "more than the")
    refused(tmp_path / "dump" / "a" / "nothing", "does not exist")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "is a directory without arrays")
    refused(tmp_path / "empty", "is a directory without arrays", read_case)


def test_links_of_onnx_folders_and_debuggers(tmp_path: Path) -> None:
    root, outside = tmp_path / "dump", tmp_path / "secret.pb"
    root.mkdir()
    outside.write_bytes(tensor_proto("x", ONE))
    (root / "a.pb").symlink_to(outside)
    refused(root, "'a.pb' is no file in its folder")
    (root / "a.pb").unlink()
    dump_writers.safetensors(tmp_path, {"data": ONE})
    value = {"shape": "torch.Size([2, 3])", "dtype": "torch.float32", "value": "./../dump.safetensors"}
    tree = {"module_path": "M", "children": [{"module_path": "M.a", "outputs": value}]}
    for named in (
        "./../dump.safetensors",
        str(tmp_path / "dump.safetensors"),
        "link.safetensors",
        "M_outputs.safetensors",
    ):
        for link in ("link.safetensors", "M_outputs.safetensors"):
            if not (root / link).is_symlink():
                (root / link).symlink_to(tmp_path / "dump.safetensors")
        value["value"] = named
        (root / "M_FULL_TENSORS.json").write_text(json.dumps(tree))
        refused(root, "is no file in its folder")


PROTOS: dict[str, tuple[bytes, str]] = {
    "a huge shape": (message((1, 1 << 50), (2, 1), (9, bytes(8))), "bytes are there"),
    "a negative size": (message((1, -1), (2, 1), (9, b"")), "an impossible shape"),
    "many axes": (message(*[(1, 1)] * 40, (2, 1), (9, bytes(4))), "more than 32 axes"),
    "no type": (message((1, 2), (9, bytes(8))), "of type 0"),
    "text": (message((1, 1), (2, 8), (6, b"x")), "a field 6"),
    "complex numbers": (message((1, 1), (2, 14), (9, bytes(8))), "of type 14"),
    "another file": (message((1, 1), (2, 1), (13, message((1, b"location"), (2, b"/etc/passwd")))), "in another file"),
    "numbers twice": (message((1, 1), (2, 1), (9, bytes(4)), (4, bytes(4))), "holds its numbers twice"),
    "numbers elsewhere": (message((1, 1), (2, 1), (5, varint(3))), "not where those of float32 are"),
    "a cut length": (message((1, 2), (2, 1)) + b"\x4a\xff\xff\xff\xff\x0f", "bytes are announced"),
    "a cut number": (message((1, 2), (2, 1)) + b"\x08\xff", "cut off or too long"),
    "a number without end": (message((1, 2), (2, 1)) + b"\x3a\x0b" + b"\xff" * 11, "a list of numbers is cut off"),
    "a group": (b"\x0b\x0c", "in the way 3"),
    "field after field": (message((2, 1)) * 70_000, "more than 65,536 fields"),
    "truth values of other bytes": (message((1, 1), (2, 9), (9, b"\2")), "neither 0 nor 1"),
}


@pytest.mark.parametrize("what", PROTOS)
def test_tensors_of_onnx(what: str, tmp_path: Path) -> None:
    data, text = PROTOS[what]
    (tmp_path / "x.pb").write_bytes(data)
    refused(tmp_path / "x.pb", text)


def gguf(shape: tuple[int, ...] = (2, 3), number: int = 0, data: bytes = ONE.tobytes(), **changes: int) -> bytes:
    """A file, with other numbers at some of its places."""
    whole = dump_writers.gguf_bytes({"x": (shape, number, data)}, changes.pop("alignment", 32))
    for name, value in changes.items():
        at = {"version": 4, "tensors": 8, "pairs": 16}[name]
        size = 4 if name == "version" else 8
        whole = whole[:at] + value.to_bytes(size, "little") + whole[at + size :]
    return whole


GGUF: dict[str, tuple[bytes, str]] = {
    "another version": (gguf(version=1), "version 1 of the format"),
    "big-endian": (gguf(version=3 << 24), "it is big-endian"),
    "many tensors": (gguf(tensors=1 << 60), "tensors and"),
    "many entries": (gguf(pairs=1 << 60), "entries are announced"),
    "a tensor more": (gguf(tensors=2), ""),
    "an entry less": (gguf(pairs=5), ""),
    "no tensors": (gguf(tensors=0), "it holds no tensors"),
    "a huge shape": (gguf((1 << 40, 1 << 40)), "reaches beyond the file"),
    "a shape beyond": (gguf((1 << 61,)), "an impossible shape"),
    "an unknown type": (gguf(number=77), "is of type 77, which is not known"),
    "half a block": (gguf((3, 33), 8, bytes(34 * 3)), "an impossible shape"),
    "too few bytes": (gguf((9, 9)), "bytes of data are announced"),
    "too many bytes": (gguf((1, 3), data=bytes(100)), "bytes of data are announced"),
    "an alignment of none": (
        gguf(alignment=1).replace(struct.pack("<II", 4, 1), struct.pack("<II", 4, 0), 1),
        "power of",
    ),
    "cut off": (gguf()[:-12], ""),
    "cut in the names": (gguf()[:150], ""),
    "a text of all": (
        gguf().replace(struct.pack("<Q", 9) + b"perceiver", struct.pack("<Q", 1 << 40) + b"perceiver"),
        "",
    ),
}


@pytest.mark.parametrize("what", GGUF)
def test_gguf(what: str, tmp_path: Path) -> None:
    data, text = GGUF[what]
    (tmp_path / "x.gguf").write_bytes(data)
    refused(tmp_path / "x.gguf", text)
    refused(tmp_path / "x.gguf", text, read_weights)


def test_weights_in_gguf(tmp_path: Path) -> None:
    """A quantized tensor is listed, and refused where a weight is needed."""
    (tmp_path / "x.gguf").write_bytes(gguf())
    assert read_weights(tmp_path / "x.gguf")["x"].tolist() == ONE.tolist()
    sizes = {name: (block, size) for name, block, size in TYPES.values()}
    (tmp_path / "x.gguf").write_bytes(gguf((2, 256), 12, bytes(2 * sizes["Q4_K"][1])))
    refused(tmp_path / "x.gguf", "Q4_K", read_weights)


HEAD = "ggml_debug: x = (f32) ADD(a{3, 2, 1, 1}, }) = {3, 2, 1, 1}\n"
ROW = "[ 1.0000, 2.0000, 3.0000 ],\n"
TEXTS: dict[str, tuple[str, str]] = {
    "a row less": (HEAD + f"[\n[\n{ROW}],\n]\nsum = 1.0\n", "3 numbers and 1 sums"),
    "a row more": (HEAD + f"[\n[\n{ROW * 3}],\n]\nsum = 1.0\n", "shows more"),
    "cut off": (HEAD + f"[\n[\n{ROW}", "0 sums are shown"),
    "no number": (HEAD + f"[\n[\n{ROW}[ x, 2.0, 3.0 ],\n],\n]\nsum = 1.0\n", "'x' is no number"),
    "no sum": (HEAD + f"[\n[\n{ROW * 2}],\n]\nsum = x\n", "'x' is no number"),
    "a log within": (HEAD + f"[\n[\n{ROW}load: done\n{ROW}],\n]\nsum = 1.0\n", "is no number"),
    "a huge shape": (
        HEAD.replace("{3, 2, 1, 1}\n", "{3, 2, 1, 999999999999}\n") + f"[\n[\n{ROW * 2}],\n]\nsum = 1\n",
        "1 sums",
    ),
    "brackets": (HEAD + "[" * 4000 + "\n", "shows more"),
    "nothing shown": (HEAD, "shows the numbers of no tensor"),
}


@pytest.mark.parametrize("what", TEXTS)
def test_texts_of_ggml(what: str, tmp_path: Path) -> None:
    text, said = TEXTS[what]
    (tmp_path / "x.txt").write_text(text)
    refused(tmp_path / "x.txt", said)


def test_long_lines_take_no_time(tmp_path: Path) -> None:
    line = ": " * 100_000 + " = (" * 100_000 + ") = {" * 100_000 + "\n"
    (tmp_path / "x.txt").write_text(HEAD + line * 3)
    refused(tmp_path / "x.txt", "shows the numbers of no tensor")


def test_metadata_of_safetensors(tmp_path: Path) -> None:
    path = dump_writers.safetensors(tmp_path, {"output/x": ONE}, {"meta": "[" * 3000})
    refused(path, "meta is not JSON", read_case)
    refused(dump_writers.safetensors(tmp_path, {"output/x": ONE}), "has no 'meta'", read_case)
    refused(dump_writers.safetensors(tmp_path, {"meta": ONE}, {"meta": "{}"}), "the name 'meta' is there twice")
