"""The number of threads that NumPy's matrix products use.

At the recipes' sizes a second thread costs more than it gives, most of all on a machine that is busy; and sums in
another order would end bit for bit repeatability between machines with other numbers of cores.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ..autograd.kernels.cpu.threads import openblas as _openblas


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
