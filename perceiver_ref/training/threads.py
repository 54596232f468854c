"""The number of threads that NumPy's matrix products use.

At the recipes' sizes a second thread costs more than it gives, most of all on a machine that is busy; and sums in
another order would end bit for bit repeatability between machines with other numbers of cores.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

_PREFIXES = ("scipy_openblas", "openblas")
_SUFFIXES = ("64_", "")


@contextmanager
def blas_threads(count: int) -> Iterator[bool]:
    """Within this context OpenBLAS computes in so many threads; gives False where NumPy has another BLAS."""
    functions = _openblas()
    if functions is None:
        yield False
        return
    read, write = functions
    before = read()
    write(count)
    try:
        yield True
    finally:
        write(before)


def _openblas() -> tuple[Any, Any] | None:
    """OpenBLAS's functions that read and set the number of threads, from the library in NumPy's wheel."""
    package = Path(np.__file__).parent
    folders = (package.parent / "numpy.libs", package / ".dylibs", package / ".libs")
    for path in sorted(path for folder in folders if folder.is_dir() for path in folder.glob("*openblas*")):
        try:
            library = ctypes.CDLL(str(path))  # NumPy has loaded it: this is the same one
        except OSError:
            continue
        for prefix in _PREFIXES:
            for suffix in _SUFFIXES:
                names = [f"{prefix}_{verb}_num_threads{suffix}" for verb in ("get", "set")]
                if all(hasattr(library, name) for name in names):
                    return getattr(library, names[0]), getattr(library, names[1])
    return None
