"""The number of threads of the BLAS library that NumPy calls, read and set by the library's own functions.

NumPy has no function for it. Its wheels carry OpenBLAS in a folder of their own; a NumPy of a distribution or of conda
calls a library that the process has loaded, OpenBLAS, MKL or BLIS. Where none of them is found nothing is set.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np


class Control(NamedTuple):
    """Functions that return and take the number of threads."""

    read: Callable[[], int]
    write: Callable[[int], Any]


class Family(NamedTuple):
    """Libraries by the beginning of a file's name, and their pairs of functions: the first one there counts."""

    stem: str
    pairs: Sequence[tuple[str, str]]
    integer: Any = ctypes.c_int


_OPENBLAS = [
    (f"{prefix}_get_num_threads{suffix}", f"{prefix}_set_num_threads{suffix}")
    for prefix in ("scipy_openblas", "openblas")  # the first is that of NumPy's wheels
    for suffix in ("64_", "")
]

FAMILIES = (
    Family("libscipy_openblas", _OPENBLAS),
    Family("libopenblas", _OPENBLAS),
    Family("mkl_rt", [("MKL_Get_Max_Threads", "MKL_Set_Num_Threads")]),
    Family("libmkl_rt", [("MKL_Get_Max_Threads", "MKL_Set_Num_Threads")]),
    Family("libblis", [("bli_thread_get_num_threads", "bli_thread_set_num_threads")], ctypes.c_int64),
)
"""In the order in which they are asked; a process may have several, of which NumPy's own folder comes first."""


@lru_cache(maxsize=1)
def control() -> Control | None:
    """Of the library that NumPy calls; None if it is none of `FAMILIES`."""
    return find([*_carried(), *_loaded()])


def find(paths: Iterable[str], load: Callable[[str], Any] = ctypes.PyDLL) -> Control | None:
    """The first of these libraries that has a pair of functions. `load` keeps the interpreter's lock in calls."""
    candidates = list(paths)
    for family in FAMILIES:
        for path in candidates:
            if not Path(path).name.startswith(family.stem):
                continue
            try:
                library = load(path)
            except OSError:
                continue
            for get, put in family.pairs:
                if hasattr(library, get) and hasattr(library, put):
                    return _control(getattr(library, get), getattr(library, put), family.integer)
    return None


def _control(get: Any, put: Any, integer: Any) -> Control:
    get.restype, get.argtypes, put.restype, put.argtypes = integer, [], None, [integer]
    return Control(lambda: max(1, int(get())), put)  # BLIS says -1 where nothing has been set


def _carried() -> list[str]:
    """The libraries in NumPy's wheel."""
    package = Path(np.__file__).parent
    folders = (package.parent / "numpy.libs", package / ".dylibs", package / ".libs")
    return sorted(str(path) for folder in folders if folder.is_dir() for path in folder.iterdir())


def _loaded(maps: Path = Path("/proc/self/maps")) -> list[str]:
    """The libraries that this process has loaded, without those that other Python packages carry, on Linux."""
    try:
        lines = maps.read_text().splitlines()
    except OSError:
        return []
    paths = dict.fromkeys(line.split(maxsplit=5)[5] for line in lines if len(line.split(maxsplit=5)) == 6)
    return [path for path in paths if path.startswith("/") and not re.search(r"/(site|dist)-packages/", path)]
