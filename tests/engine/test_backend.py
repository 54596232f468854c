"""Which library an array belongs to, moving between libraries, and what is said when CuPy or a GPU is missing.

CuPy and its failures are stood in for by small objects, so that these run where it is not installed as well.
"""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perceiver_ref.autograd import BackendError, ops
from perceiver_ref.autograd import backend as backends
from perceiver_ref.autograd.backend import to_host

_CUPY = {"__module__": "cupy", "__cuda_array_interface__": {}, "dtype": np.dtype("f4"), "shape": (), "strides": ()}
FakeArray = type("ndarray", (), _CUPY)


def fake_cupy(count: Any) -> Any:
    """A module like cupy, on which counting devices calls `count`."""
    return SimpleNamespace(cuda=SimpleNamespace(runtime=SimpleNamespace(getDeviceCount=count)))


def test_arrays_name_their_library(backend: str, xp: ModuleType) -> None:
    array = xp.ones(2)
    assert backends.is_array(array)
    assert backends.xp(array) is xp
    assert backends.name(array) == backend
    assert backends.module(backend) is xp


def test_cupy_arrays_are_recognised_without_importing_cupy() -> None:
    assert backends.is_array(FakeArray())


@pytest.mark.parametrize("value", [1.0, [1.0], None, "cupy", SimpleNamespace(__cuda_array_interface__={})])
def test_other_values_are_no_arrays(value: Any) -> None:
    assert not backends.is_array(value)
    with pytest.raises(TypeError, match=f"expected an array, got {type(value).__name__}; convert it first"):
        backends.xp(value)


def test_scalars_are_numpy_but_no_arrays() -> None:
    assert not backends.is_array(np.float32(1))
    assert backends.xp(np.float32(1)) is np


def test_an_unknown_backend_lists_the_known() -> None:
    with pytest.raises(BackendError, match="unknown backend 'torch'; known: numpy, cupy"):
        backends.module("torch")


def test_a_missing_cupy_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", None)
    with pytest.raises(BackendError, match=r"python -m pip install cupy-cuda12x \(or cupy-cuda13x\)"):
        backends.module("cupy")
    with pytest.raises(BackendError, match="not installed"):
        backends.to_backend(np.ones(2), "cupy")


def test_a_missing_gpu_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cupy", fake_cupy(lambda: 0))
    with pytest.raises(BackendError, match="backend cupy found no GPU; use --backend numpy"):
        backends.module("cupy")


def test_a_failing_driver_is_reported_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> int:
        raise RuntimeError("cudaErrorInsufficientDriver")

    monkeypatch.setitem(sys.modules, "cupy", fake_cupy(fail))
    with pytest.raises(BackendError, match=r"found no usable GPU \(cudaErrorInsufficientDriver\); use --backend numpy"):
        backends.module("cupy")


def test_a_working_cupy_is_returned(monkeypatch: pytest.MonkeyPatch) -> None:
    module = fake_cupy(lambda: 1)
    monkeypatch.setitem(sys.modules, "cupy", module)
    assert backends.module("cupy") is module


def test_mixed_libraries_are_refused(monkeypatch: pytest.MonkeyPatch, backend: str) -> None:
    if backend == "cupy":
        cupy = backends.module("cupy")
        one, other = np.ones((), np.float32), cupy.ones((), np.float32)
    else:
        monkeypatch.setitem(sys.modules, "cupy", SimpleNamespace(__name__="cupy"))
        one, other = np.ones((), np.float32), FakeArray()
    with pytest.raises(BackendError, match=r"add\(float32\[\], float32\[\]\): arrays of numpy and cupy are mixed"):
        ops.add(one, other)


def test_moving_keeps_contents_and_copies_only_when_it_must(backend: str, xp: ModuleType) -> None:
    host = np.arange(6, dtype=np.int32).reshape(2, 3).T
    there = backends.to_backend(host, backend)
    assert backends.name(there) == backend
    np.testing.assert_array_equal(to_host(there), host, strict=True)
    assert backends.to_backend(there, backend) is there
    assert backends.to_backend(there, "numpy") is to_host(there) or backend == "cupy"
    assert to_host(host) is host


def test_lists_come_to_the_host_as_arrays() -> None:
    np.testing.assert_array_equal(to_host([1.0, 2.0]), np.array([1.0, 2.0]), strict=True)


@given(indices=st.lists(st.integers(0, 3), max_size=12), dtype=st.sampled_from([np.float32, np.float64]))
def test_scatter_add_adds_repeated_elements(indices: list[int], dtype: Any, xp: ModuleType) -> None:
    target = xp.ones((2, 4), dtype)
    values = np.arange(2 * len(indices), dtype=dtype).reshape(2, -1)
    want = np.ones((2, 4), dtype)
    for position, index in enumerate(indices):
        want[:, index] += values[:, position]
    backends.scatter_add(target, (slice(None), xp.asarray(indices, np.int64)), xp.asarray(values))
    np.testing.assert_array_equal(to_host(target), want, strict=True)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize(("function", "value"), [("erf", 0.0), ("expit", 0.5)])
def test_special_functions_keep_the_dtype(function: str, value: float, dtype: Any, xp: ModuleType) -> None:
    out = backends.special(function, xp.zeros(2, dtype))
    np.testing.assert_array_equal(to_host(out), np.full(2, value, dtype), strict=True)


def test_peak(xp: ModuleType) -> None:
    x = xp.asarray([[1.0, 5.0], [7.0, -1.0]], np.float32)
    np.testing.assert_array_equal(to_host(backends.peak(x, 0)), np.array([[7, 5]], np.float32), strict=True)
    np.testing.assert_array_equal(to_host(backends.peak(xp.ones((2, 0)), -1)), np.zeros((2, 1)), strict=True)


@pytest.mark.parametrize("axis", [0, 1, -1, -3])
def test_joining_array_by_array_gives_what_the_library_does(
    xp: Any, axis: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of several lengths, an empty one and several dtypes, as within a recording."""
    shapes = [[2, 3, 5] for _ in range(4)]
    for shape, n in zip(shapes, (1, 4, 0, 7)):
        shape[axis] = n
    arrays = [xp.asarray(np.full(s, i, t)) for i, (s, t) in enumerate(zip(shapes, "fdfl"))]
    want = xp.concatenate(arrays, axis=axis)
    monkeypatch.setattr(backends, "recording", lambda _: True)
    made = backends.joined(arrays, axis)
    assert made.dtype == want.dtype
    np.testing.assert_array_equal(to_host(made), to_host(want))
