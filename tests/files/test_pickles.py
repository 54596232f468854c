"""Pickles of arrays are read; everything that could run code, lie about sizes or blow up is refused in one line."""

from __future__ import annotations

import collections
import contextlib
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perceiver_ref import InputError
from perceiver_ref.autograd import tree
from perceiver_ref.weights.formats.pickles import read_pickle

DTYPES = ["<f8", "<f4", "<f2", ">f4", "<i4", ">i8", "|b1", "|u1"]


def write(folder: Path, data: bytes) -> Path:
    path = folder / "weights.pystate"
    path.write_bytes(data)
    return path


class Calls:
    """Pickles as a call of any function."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("dtype", DTYPES)
def test_trees_of_arrays_come_back(tmp_path: Path, protocol: int, dtype: str) -> None:
    array = np.arange(24).reshape(2, 3, 4).astype(dtype)
    written = {
        "params": {"encoder/~/linear": {"w": array, "b": np.asfortranarray(array[0]), "empty": array[:0]}},
        "state": collections.OrderedDict(
            count=np.array(3, dtype), scalar=array.dtype.type(1), more=[1, 2.5, None, ("x",)]
        ),
        "step": 7,
    }
    found = read_pickle(write(tmp_path, pickle.dumps(written, protocol=protocol)))
    want, have = tree.flatten(written), tree.flatten(found)
    assert list(want) == list(have)
    for path, value in want.items():
        np.testing.assert_array_equal(have[path], value)
        if isinstance(value, np.ndarray):
            assert have[path].dtype == value.dtype.newbyteorder("=")


@pytest.mark.parametrize(
    "hostile",
    [
        Calls(os.system, "touch {marker}"),
        Calls(eval, "open('{marker}', 'w')"),
        Calls(exec, "open('{marker}', 'w')"),
        Calls(getattr, "text", "upper"),
        Calls(np.load, "{marker}"),
        Calls(np.memmap, "{marker}"),
        Calls(open, "{marker}", "w"),
        Calls(np.dtype, "O"),
        np.array([{}], dtype=object),
        np.zeros(2, dtype=[("a", "f4"), ("b", "O")]),
        np.array(["text"]),
        {(1, 2): 3},
        {1.5: 2},
        {"set": {1, 2}},
        {"complex": np.zeros(2, complex)},
        {"function": os.system},
        {"class": np.ndarray},
    ],
    ids=lambda value: type(value).__name__,
)
def test_anything_but_arrays_and_containers_is_refused(tmp_path: Path, hostile: Any) -> None:
    marker = tmp_path / "marker"
    if isinstance(hostile, Calls):
        function, arguments = hostile.call
        hostile = Calls(function, *(a.replace("{marker}", str(marker)) for a in arguments))
    for protocol in (0, 2, 4, 5):
        with pytest.raises(InputError, match=r"refused|not a readable pickle") as error:
            read_pickle(write(tmp_path, pickle.dumps(hostile, protocol=protocol)))
        assert "\n" not in str(error.value)
        assert not marker.exists()


def doubled(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels):
        value = [value, value]
    return value


def nested(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize("value", [doubled(40), doubled(90), nested(100)], ids=["wide", "wide and deep", "deep"])
def test_nesting_and_sharing_cannot_blow_up(tmp_path: Path, value: Any) -> None:
    with pytest.raises(InputError, match="refused"):
        read_pickle(write(tmp_path, pickle.dumps(value)))


def test_a_cycle_is_refused(tmp_path: Path) -> None:
    cycle: list[Any] = []
    cycle.append(cycle)
    with pytest.raises(InputError, match="refused"):
        read_pickle(write(tmp_path, pickle.dumps(cycle)))


def test_an_array_that_claims_more_than_the_file_holds_is_refused(tmp_path: Path) -> None:
    data = pickle.dumps(np.zeros(3), protocol=2)
    small, huge = b"K\x03\x85", b"\x8a\x05" + (3 << 32).to_bytes(5, "little") + b"\x85"  # the tuple (n,)
    assert small in data
    with pytest.raises(InputError, match="refused"):
        read_pickle(write(tmp_path, data.replace(small, huge)))


@given(cut=st.integers(0, 400), flips=st.lists(st.tuples(st.integers(0, 400), st.integers(1, 255)), max_size=4))
def test_damage_gives_one_clear_error_or_other_values(tmp_path: Path, cut: int, flips: list[tuple[int, int]]) -> None:
    data = bytearray(pickle.dumps({"params": {"w": np.arange(6.0).reshape(2, 3), "b": np.ones(3, np.float32)}}))
    for position, flip in flips:
        data[position % len(data)] ^= flip
    damaged = bytes(data[: max(len(data) - cut, 0)] if cut % 2 else data)
    with contextlib.suppress(InputError):  # and nothing else
        read_pickle(write(tmp_path, damaged))
