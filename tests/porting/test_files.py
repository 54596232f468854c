"""Writing is all or nothing, and whatever a file holds, reading gives arrays or one `InputError`."""

from __future__ import annotations

import errno
import io
import json
import os
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from perceiver_ref import InputError
from perceiver_ref.host.files import check_writable, existing_file, read_json, write_json, write_whole
from perceiver_ref.weights.formats.npz import read_npz, write_npz

not_root = pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="root may write anywhere")
names = st.text(st.characters(codec="utf-8", exclude_characters="\0/\\", exclude_categories=["Cs"]), min_size=1)
arrays = hnp.arrays(
    st.sampled_from([np.bool_, np.int64, np.uint8, np.float16, np.float32, np.float64, "<U3"]),
    hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3),
)


def saved(**contents: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **contents)
    return buffer.getvalue()


SMALL = saved(a=np.arange(6.0), b=np.eye(2, dtype=np.float32))


def said(path: Path) -> str:
    """The error of reading a file: one line that begins with its name."""
    with pytest.raises(InputError) as raised:
        read_npz(path)
    assert str(raised.value).startswith(str(path))
    assert len(str(raised.value).splitlines()) == 1
    return str(raised.value)


@given(contents=st.dictionaries(names.filter(lambda name: name != "file"), arrays, max_size=4))
def test_what_is_written_is_read_back(tmp_path: Path, contents: dict[str, np.ndarray]) -> None:
    path = tmp_path / "arrays.npz"
    write_npz(path, contents)
    back = read_npz(path)
    assert list(back) == list(contents)
    for name, array in contents.items():
        assert back[name].dtype == array.dtype
        np.testing.assert_array_equal(back[name], array)
    assert [path.name for path in tmp_path.iterdir()] == ["arrays.npz"]


@pytest.mark.parametrize("name", ["file", "allow_pickle", "arr_0", "a/b/c", "param/weight", "meta"])
def test_no_name_is_special(tmp_path: Path, name: str) -> None:
    write_npz(tmp_path / "arrays.npz", {name: np.arange(3)})
    assert read_npz(tmp_path / "arrays.npz")[name].tolist() == [0, 1, 2]


CONTENTS = {
    "empty": (b"", "is not a readable .npz file"),
    "text": (b"weights", "is not a readable .npz file"),
    "a pickle": (b"\x80\x04K\x01.", "is not a readable .npz file"),
    "the start of a single array": (b"\x93NUMPY", "is not a readable .npz file"),
    "object array": (saved(a=np.zeros(1), b=np.array([{}, None])), "'b' is an object array"),
    "complex array": (saved(a=np.zeros(1, complex)), "'a' has dtype complex128; expected numbers or text"),
    "dates": (saved(a=np.zeros(1, "M8[s]")), "'a' has dtype datetime64[s]; expected numbers or text"),
    "bytes": (saved(a=np.array([b"x"])), "'a' has dtype |S1; expected numbers or text"),
    "records": (saved(a=np.zeros(1, [("x", float)])), "'a' has dtype"),
}


@pytest.mark.parametrize("what", CONTENTS)
def test_what_cannot_be_used_is_said(tmp_path: Path, what: str) -> None:
    content, text = CONTENTS[what]
    path = tmp_path / "arrays.npz"
    path.write_bytes(content)
    assert text in said(path)


def test_a_single_npy_is_no_archive(tmp_path: Path) -> None:
    path = tmp_path / "array.npz"
    with path.open("wb") as file:
        np.save(file, np.zeros(3))
    assert "holds a single array, not an .npz archive" in said(path)


def test_a_zip_of_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "arrays.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")
    assert "readme.txt" in said(path)


def test_text_arrays_are_read(tmp_path: Path) -> None:
    write_npz(tmp_path / "a.npz", {"meta": np.array(json.dumps({"é": "\N{SNOWMAN}"}))})
    assert json.loads(str(read_npz(tmp_path / "a.npz")["meta"])) == {"é": "\N{SNOWMAN}"}


def test_missing_files_and_directories_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"absent.npz does not exist; expected an .npz file"):
        read_npz(tmp_path / "absent.npz")
    with pytest.raises(InputError, match=r"is a directory; expected an .npz file"):
        read_npz(tmp_path)


@not_root
def test_a_file_without_permission_is_said(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_bytes(b"")
    path.chmod(0)
    with pytest.raises(InputError, match=r"cannot be read \(permission denied\)"):
        existing_file(path, "a file")


@pytest.mark.parametrize("length", range(0, len(SMALL), 7))
def test_every_truncated_file_is_refused(tmp_path: Path, length: int) -> None:
    path = tmp_path / "arrays.npz"
    path.write_bytes(SMALL[:length])
    said(path)


@settings(max_examples=300)
@given(flips=st.lists(st.tuples(st.integers(0, len(SMALL) - 1), st.integers(1, 255)), min_size=1, max_size=4))
def test_a_damaged_file_is_read_or_refused(tmp_path: Path, flips: list[tuple[int, int]]) -> None:
    """A checksum covers the data of arrays; damage elsewhere may be harmless, but nothing else is raised."""
    content = bytearray(SMALL)
    for position, bits in flips:
        content[position] ^= bits
    path = tmp_path / "arrays.npz"
    path.write_bytes(content)
    try:
        read = read_npz(path)
    except InputError:
        said(path)
    else:
        for name, array in read.items():  # what was read under its own name is what was written
            original = {"a": np.arange(6.0), "b": np.eye(2, dtype=np.float32)}.get(name)
            assert original is None or np.array_equal(array, original)


def fails_halfway(file: BinaryIO) -> None:
    file.write(b"half")
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_failed_write_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space left"):
        write_whole(tmp_path / "new", fails_halfway)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_keeps_the_file_that_was_there(tmp_path: Path) -> None:
    (tmp_path / "old").write_text("before")
    with pytest.raises(OSError, match="No space left"):
        write_whole(tmp_path / "old", fails_halfway)
    assert (tmp_path / "old").read_text() == "before"
    assert [path.name for path in tmp_path.iterdir()] == ["old"]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_nothing_is_left_when_the_last_steps_fail(tmp_path: Path, step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os if step == "fsync" else Path, step, refuse)
    with pytest.raises(OSError, match="Input/output error"):
        write_npz(tmp_path / "arrays.npz", {"a": np.zeros(3)})
    assert list(tmp_path.iterdir()) == []


def test_arrays_that_cannot_be_stored_leave_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="pickle"):
        write_npz(tmp_path / "arrays.npz", {"a": np.zeros(3), "b": np.array([{}])})
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "value.json", {"error": float("nan")})
    assert list(tmp_path.iterdir()) == []


def test_new_files_have_ordinary_permissions(tmp_path: Path) -> None:
    write_json(tmp_path / "value.json", {})
    (tmp_path / "ordinary").touch()
    assert (tmp_path / "value.json").stat().st_mode == (tmp_path / "ordinary").stat().st_mode


def test_a_place_that_cannot_be_written_to_is_said_beforehand(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is a directory; give the name of the file to write"):
        check_writable(tmp_path)
    with pytest.raises(InputError, match=r"the folder .*absent does not exist; create it first"):
        check_writable(tmp_path / "absent" / "file")
    assert check_writable(tmp_path / "file") == tmp_path / "file"


@not_root
def test_a_folder_without_permission_is_said_beforehand(tmp_path: Path) -> None:
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o500)
    with pytest.raises(InputError, match=r"cannot write to the folder .*locked \(permission denied\)"):
        check_writable(folder / "file")


JSON = {
    "no JSON": (b"{", "is not JSON"),
    "no text": (b"\xff\xfe", "is not JSON"),
    "too deep": (b"[" * 100_000, "is not JSON"),
    "a list": (b"[1]", "holds a JSON list; expected a configuration, an object"),
    "a number": (b"3", "holds a JSON int"),
}


@pytest.mark.parametrize("what", JSON)
def test_json_that_is_no_object_is_said(tmp_path: Path, what: str) -> None:
    content, text = JSON[what]
    path = tmp_path / "value.json"
    path.write_bytes(content)
    with pytest.raises(InputError) as raised:
        read_json(path, "a configuration")
    assert text in str(raised.value)
    assert len(str(raised.value).splitlines()) == 1


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(value=st.dictionaries(st.text(), values, max_size=3))
def test_json_is_read_as_it_was_written(tmp_path: Path, value: dict[str, Any]) -> None:
    write_json(tmp_path / "value.json", value)
    assert read_json(tmp_path / "value.json", "a value") == value
