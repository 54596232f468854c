"""Finding the BLAS library whose number of threads is set, by the functions that it has."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path
from typing import Any

import pytest

from perceiver_ref.autograd import threads

module = sys.modules["perceiver_ref.autograd.kernels.cpu.blas"]


class Function:
    """Of a library that is not there; called, it reads or sets one number."""

    def __init__(self, number: list[int], sets: bool) -> None:
        self.number, self.sets = number, sets
        self.argtypes = self.restype = None

    def __call__(self, *given: int) -> int | None:
        if self.sets:
            self.number[0] = given[0]
            return None
        return self.number[0]


class Library:
    """One with such functions."""

    def __init__(self, get: str, put: str, number: int = 4) -> None:
        self.number = [number]
        setattr(self, get, Function(self.number, sets=False))
        setattr(self, put, Function(self.number, sets=True))


@pytest.mark.parametrize(
    ("path", "get", "put"),
    [
        (
            "/v/numpy.libs/libscipy_openblas64_-32a4.so",
            "scipy_openblas_get_num_threads64_",
            "scipy_openblas_set_num_threads64_",
        ),
        ("/v/numpy.libs/libscipy_openblas-1d.so", "scipy_openblas_get_num_threads", "scipy_openblas_set_num_threads"),
        ("/v/numpy.libs/libopenblas64_p-r0.so", "openblas_get_num_threads64_", "openblas_set_num_threads64_"),
        ("/usr/lib/libopenblas.so.0", "openblas_get_num_threads", "openblas_set_num_threads"),
        ("/conda/lib/libmkl_rt.so.2", "MKL_Get_Max_Threads", "MKL_Set_Num_Threads"),
        ("/usr/lib/libblis.so.4", "bli_thread_get_num_threads", "bli_thread_set_num_threads"),
    ],
)
def test_each_family_is_controlled_by_its_own_names(path: str, get: str, put: str) -> None:
    library = Library(get, put)
    found = module.find(["/usr/lib/libm.so.6", path], {path: library}.__getitem__)
    assert found.read() == 4
    found.write(2)
    assert found.read() == library.number[0] == 2
    assert getattr(library, put).argtypes == [ctypes.c_int64 if "blis" in path else ctypes.c_int]


def test_a_number_that_was_never_set_is_one() -> None:
    """As BLIS has it, which says -1."""
    library = Library("bli_thread_get_num_threads", "bli_thread_set_num_threads", number=-1)
    assert module.find(["/usr/lib/libblis.so.4"], lambda path: library).read() == 1


@pytest.mark.parametrize("paths", [[], ["/usr/lib/libcblas.so.3"], ["/usr/lib/libopenblas.so.0"]])
def test_where_none_is_found_there_is_no_control(paths: list[str]) -> None:
    """No library, one of another name, and one without the functions."""
    assert module.find(paths, lambda path: object()) is None


def test_a_library_that_cannot_be_opened_is_passed_over() -> None:
    library = Library("openblas_get_num_threads", "openblas_set_num_threads")

    def load(path: str) -> Any:
        if "first" in path:
            raise OSError
        return library

    assert module.find(["/first/libopenblas.so", "/second/libopenblas.so"], load).read() == 4


def test_libraries_of_other_packages_are_not_numpys(tmp_path: Path) -> None:
    """A process has them beside NumPy's: SciPy's, PyTorch's."""
    lines = [
        "7f0000-7f1000 r-xp 00000000 08:01 11  /usr/lib/x86_64/libopenblas.so.0",
        "7f2000-7f3000 r-xp 00000000 08:01 12  /v/lib/python3.12/site-packages/scipy.libs/libscipy_openblas-5b.so",
        "7f4000-7f5000 rw-p 00000000 00:00 0",
        "7f6000-7f7000 r-xp 00000000 08:01 13  [heap]",
    ]
    (tmp_path / "maps").write_text("\n".join(lines))
    assert module._loaded(tmp_path / "maps") == ["/usr/lib/x86_64/libopenblas.so.0"]
    assert module._loaded(tmp_path / "none") == []


def test_nothing_is_set_without_a_library(monkeypatch: pytest.MonkeyPatch) -> None:
    found = module.control()
    before = found.read() if found else 0
    kernels = sys.modules["perceiver_ref.autograd.kernels.cpu.threads"]
    monkeypatch.setattr(kernels, "control", lambda: None)
    monkeypatch.setattr(kernels, "_setting", kernels._Setting())
    with threads(2), kernels.single():
        assert kernels.count() == 2
        assert (found.read() if found else 0) == before
