"""Cases checked by several processes, their results in the order in which the cases were given."""

from __future__ import annotations

import argparse
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from functools import partial
from pathlib import Path

from ..autograd.modes import kernels
from ..errors import InputError
from ..porting import Result


def number(text: str) -> int:
    """The argument of --jobs: a whole number above 0."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number above 0, got {text!r}")
    return int(text)


def results(check: Callable[[Path], Result], paths: Sequence[Path], jobs: int, mode: str = "fast") -> Iterator[Result]:
    """`check(path)` of every path, as soon as it and all before it are there; `mode` of kernels in the processes.

    `check` must be a function of a module, or a partial one. `InputError` where a process was killed.
    """
    jobs = min(jobs, len(paths))
    if jobs <= 1:
        yield from map(check, paths)
        return
    # a fork of a process that has threads, as BLAS has, may hang: each begins anew
    pool = ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn"))
    try:
        yield from pool.map(partial(_checked, check, mode), paths)
    except BrokenProcessPool:
        raise InputError(
            "a process that checked cases was killed, perhaps for want of memory; give fewer --jobs"
        ) from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _checked(check: Callable[[Path], Result], mode: str, path: Path) -> Result:
    with kernels(mode):
        made = check(path)
    return replace(made, agreements=[a._replace(measures=dict(a.measures)) for a in made.agreements])
