"""Small files that ask for gigabytes or minutes: refused within seconds, and within a few times their own size."""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from files.fuzz import limited
from files.torch_files import zipped

from perceiver_ref import InputError
from perceiver_ref.host import json_text
from perceiver_ref.porting.cases import read_case
from perceiver_ref.weights.checkpoints import read_config, read_weights
from perceiver_ref.weights.formats import account
from perceiver_ref.weights.formats.npz import write_npz
from perceiver_ref.weights.formats.opcodes import Bounded, interpret

SECONDS = 5.0  # of computing: a million instructions, the most, take two; all else ends within a tenth


@contextmanager
def quick() -> Iterator[None]:
    """Within `SECONDS` and the fuzzer's 64 MiB."""
    started = time.process_time()
    with limited(traced=False):
        yield
    assert time.process_time() - started < SECONDS


def text(content: bytes) -> bytes:
    """A long text, as memo entry 1."""
    return b"X" + struct.pack("<I", len(content)) + content + b"q\x01"


def ints(count: int) -> bytes:
    return b"".join(b"J" + struct.pack("<i", i) for i in range(count))


def joined(name: bytes, times: int) -> bytes:
    """A call whose arguments are one long text again and again."""
    return b"\x80\x02" + text(b"a" * 1_000_000) + b"0" + name + b"(" + b"h\x01" * times + b"tR."


def copied(function: bytes, container: bytes, times: int) -> bytes:
    """A container that a constructor copies again and again."""
    return b"\x80\x02" + container + b"q\x01(" + (function + b"h\x01\x85R") * times + b"l."


A_DICT = b"}(" + b"".join(b"J" + struct.pack("<i", i) + b"N" for i in range(30_000)) + b"u"
A_LIST = b"](" + ints(50_000) + b"e"
PAIRS = b"](" + b"".join(b"J" + struct.pack("<i", i) + b"N\x86" for i in range(30_000)) + b"e"
ORDERED, SIZE = b"ccollections\nOrderedDict\n", b"ctorch\nSize\n"
BOMBS: dict[str, tuple[bytes, str]] = {
    "a path joined of one text": (joined(b"cpathlib\nPosixPath\n", 4000), "the same data again and again"),
    "a path for another system": (joined(b"cpathlib\nWindowsPath\n", 4000), "the same data again and again"),
    "a device joined of one text": (joined(b"ctorch\ndevice\n", 4000), "the same data again and again"),
    "many paths of a few texts": (
        b"\x80\x02" + text(b"a" * 100_000) + b"0(" + (b"cpathlib\nPosixPath\n(" + b"h\x01" * 40 + b"tR") * 900 + b"l.",
        "the same data again and again",
    ),
    "a dict copied": (copied(ORDERED, A_DICT, 3000), "the same containers again and again"),
    "a dict of pairs": (copied(ORDERED, PAIRS, 3000), "the same containers again and again"),
    "a list made sizes": (copied(SIZE, A_LIST, 3000), "the same containers again and again"),
    "empty dicts": (b"\x80\x04" + b"}\x94" * 200_000 + b".", "the same containers again and again"),
    "a wide text": (b"\x80\x02" + text(b"a" * account.WIDE_TEXT + "\U0001f600".encode()) + b".", "wide letters"),
    "a wide line": (b"\x80\x02V" + b"a" * account.WIDE_TEXT + b"\\U0001f600\n.", "text that is too long"),
    "a wide text of 8 bytes' length": (
        b"\x80\x04\x8d" + struct.pack("<Q", account.WIDE_TEXT + 2) + b"a" * account.WIDE_TEXT + "Ā".encode() + b".",
        "wide letters",
    ),
}


@pytest.mark.parametrize("what", BOMBS)
def test_pickle_bombs(what: str, tmp_path: Path) -> None:
    data, said = BOMBS[what]
    for name, content in (("x.pt", zipped(data, {})), ("x.pystate", data)):
        (tmp_path / name).write_bytes(content)
        if name == "x.pystate" and b"torch" in data + b"torch" * (b"pathlib" in data):
            continue  # names that only PyTorch's files may hold
        with quick(), pytest.raises(InputError) as error:
            read_weights(tmp_path / name)
        assert said in str(error.value)


def test_names_are_not_joined_before_they_are_measured(tmp_path: Path) -> None:
    array = b"cnumpy._core.multiarray\nscalar\ncnumpy\ndtype\nX\x02\0\0\0f4\x85RC\x04\0\0\0\0\x86Rq\x02"
    inner = b"}(" + b"".join(b"X\x04\0\0\0" + b"%04d" % i + b"h\x02" for i in range(5000)) + b"u"
    data = b"\x80\x03" + array + b"0}" + text(b"a" * 200_000) + inner + b"s."
    (tmp_path / "x.pkl").write_bytes(data)  # joined, a gigabyte
    with quick(), pytest.raises(InputError, match="more than 1000 characters"):
        read_weights(tmp_path / "x.pkl")


def test_latin_text_of_any_length_is_read() -> None:
    """Python 2's way to hold an array: its bytes as letters up to U+00FF."""
    content = ("\xff" * (account.WIDE_TEXT // 2 + 1)).encode()
    data = b"\x80\x02" + text(content) + b"."
    assert len(interpret(Bounded(_file(data), len(data)), len(data), {})) == account.WIDE_TEXT // 2 + 1


def _file(data: bytes):
    import io

    return io.BytesIO(data)


@pytest.mark.parametrize("shape", [(64, 64), (1,)])
def test_what_pickles_of_arrays_need_is_within_the_account(shape: tuple[int, ...], tmp_path: Path) -> None:
    """Arrays are text, bytes and array in turn in protocol 2: thrice, of zeros in letters of one byte."""
    import pickle

    tree = {f"layer_{i}": {"w": np.zeros(shape, np.float32), "b": np.ones(3)} for i in range(300)}
    for protocol in range(6):
        (tmp_path / "x.pkl").write_bytes(pickle.dumps(tree, protocol))
        assert len(read_weights(tmp_path / "x.pkl")) == 600


JSON = {
    "lists": "[" + "[]," * (2 << 20) + "[]]",
    "objects": "[" + "{}," * (2 << 20) + "{}]",
    "numbers": "[" + "1," * (4 << 20) + "1]",
    "wide letters": '{"x": "' + "a" * json_text.FREE + '\U0001f600"}',
    "levels": "[" * 100_000 + "]" * 100_000,
    "levels of objects": '{"a":' * 100_000 + "1" + "}" * 100_000,
    "a few levels too many": '{"a":' * 70 + "1" + "}" * 70,
    "a number of many digits": '{"a": ' + "9" * 100_000 + "}",
}


@pytest.mark.parametrize("what", JSON)
def test_json_bombs(what: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(JSON[what], encoding="utf-8")
    with quick(), pytest.raises(InputError) as error:
        read_config(tmp_path)
    assert len(str(error.value).removeprefix(str(tmp_path))) < 200
    header = JSON[what].encode()
    (tmp_path / "x.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    with quick(), pytest.raises(InputError, match="is not a readable safetensors file"):
        read_weights(tmp_path / "x.safetensors")
    if what != "wide letters":  # the file has 4 bytes for each letter
        write_npz(tmp_path / "x.npz", {"meta": np.array(JSON[what])})
        with limited(traced=False), pytest.raises(InputError, match="meta is not JSON"):
            read_case(tmp_path / "x.npz")


def test_ordinary_json_is_read() -> None:
    labels = {"id2label": {str(i): f"label {i}" for i in range(100_000)}}
    index = {"weight_map": {f"model.layers.{i}.weight": "model-00001.safetensors" for i in range(100_000)}}
    for value in (labels, index, {"é": "\U0001f600"}, {"a": [[[[1.5, None, True]]]]}):
        for said in (json.dumps(value), json.dumps(value, ensure_ascii=False).encode()):
            assert json_text.parse(said) == value
