"""The threads that NumPy's matrix products and these kernels use: one number, which is OpenBLAS's own setting.

A kernel cuts its work into as many shares as there are threads. While they run, each matrix product inside a share is
computed by the thread that asks for it, so that threads never make threads. NumPy's functions let other threads
compute meanwhile (they release the interpreter's lock). Results are the same bit for bit whenever the number of
threads is the same.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import copy_context
from functools import lru_cache, partial
from itertools import pairwise
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TypeVar

import numpy as np

Share = TypeVar("Share")

VARIABLE = "PERCEIVER_REF_THREADS"
"""The environment variable that sets the number at the start."""

_MOST = 4096  # of any machine; the library's own number is a C int
_PREFIXES = ("scipy_openblas", "openblas")
_SUFFIXES = ("64_", "")


@lru_cache(maxsize=1)
def openblas() -> tuple[Any, Any] | None:
    """OpenBLAS's functions that read and set the number of threads, from the library in NumPy's wheel."""
    package = Path(np.__file__).parent
    folders = (package.parent / "numpy.libs", package / ".dylibs", package / ".libs")
    for path in sorted(path for folder in folders if folder.is_dir() for path in folder.glob("*openblas*")):
        try:
            library = ctypes.PyDLL(str(path))  # the one that NumPy has loaded; calls keep the lock
        except OSError:
            continue
        for prefix in _PREFIXES:
            for suffix in _SUFFIXES:
                names = [f"{prefix}_{verb}_num_threads{suffix}" for verb in ("get", "set")]
                if all(hasattr(library, name) for name in names):
                    return getattr(library, names[0]), getattr(library, names[1])
    return None


class _Setting:
    """The number of threads; while kernels run it is kept here, and OpenBLAS's is 1."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.running = 0  # kernels under way, in any thread
        self.kept = 1
        self.asked: dict[object, int] = {}  # by the contexts under way, in any thread, the last entered last
        self.before = 1  # the first of them

    def read(self) -> int:
        functions = openblas()
        if self.running or functions is None:
            return self.kept
        return int(functions[0]())

    def write(self, number: int) -> None:
        with self.lock:
            self._write(number)

    def _write(self, number: int) -> None:
        functions = openblas()
        if self.running or functions is None:
            self.kept = number
        else:
            functions[1](number)

    @contextmanager
    def asking(self, number: int) -> Iterator[None]:
        """Within this context the number is this one, or that of a context entered later; all may end in any order."""
        key = object()
        with self.lock:
            if not self.asked:
                self.before = self.read()
            self.asked[key] = number
            self._write(number)
        try:
            yield
        finally:
            with self.lock:
                del self.asked[key]
                self._write(next(reversed(self.asked.values()), self.before))

    @contextmanager
    def single(self) -> Iterator[None]:
        functions = openblas()
        if functions is None:
            yield
            return
        with self.lock:
            if not self.running:
                self.kept = int(functions[0]())
                functions[1](1)
            self.running += 1
        try:
            yield
        finally:
            with self.lock:
                self.running -= 1
                if not self.running:
                    functions[1](self.kept)


class _Worker:
    """A thread that does one piece of work after another, and says how each ended.

    Two bare queues: work is handed over and its end awaited in a fifth of the time that an executor's futures take.
    """

    def __init__(self) -> None:
        self._given: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._ended: SimpleQueue[BaseException | None] = SimpleQueue()
        threading.Thread(target=self._serve, name="perceiver_ref", daemon=True).start()

    def start(self, work: Callable[[], None]) -> None:
        """Begin the work."""
        self._given.put(work)

    def wait(self) -> BaseException | None:
        """When it has ended: the error that it ended with."""
        return self._ended.get()

    def _serve(self) -> None:
        while True:
            self._ended.put(_outcome(self._given.get()))  # no name here holds on to the work, and so to arrays


def _outcome(work: Callable[[], None]) -> BaseException | None:
    try:
        work()
    except BaseException as error:
        return error
    return None


_setting = _Setting()
_idle: deque[_Worker] = deque()
"""Threads that wait for work. They are made when first needed, and a forked process makes its own."""
_inside = threading.local()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_idle.clear)


def count() -> int:
    """The number of threads that kernels and products use: OpenBLAS's setting; 1 with another BLAS, until set."""
    return 1 if getattr(_inside, "share", False) else _setting.read()


@contextmanager
def threads(number: int) -> Iterator[None]:
    """Within this context kernels and matrix products of every thread of the process use `number` threads.

    `ValueError` unless it is a positive integer up to 4,096. The environment variable PERCEIVER_REF_THREADS sets the
    number from the start; without it, it is OpenBLAS's (OPENBLAS_NUM_THREADS, or the number of cores). With another
    BLAS than OpenBLAS it says how many threads kernels use, and the products are left alone. Of several such contexts,
    of any threads, the one that was entered last counts; when the last of them has ended, the number is what it was.
    """
    with _setting.asking(_positive(number)):
        yield


def spread(work: Callable[[Share], None], shares: Sequence[Share]) -> None:
    """`work(share)` for each share, all at the same time; the calling thread takes the first.

    Raises what the first failing share raised, when all have ended.
    """
    if len(shares) < 2 or count() < 2:
        for share in shares:
            work(share)
        return

    def run(share: Share) -> None:
        _inside.share = True
        try:
            work(share)
        finally:
            _inside.share = False

    with _setting.single():
        others = [_worker() for _ in shares[1:]]
        for other, share in zip(others, shares[1:], strict=True):
            other.start(partial(copy_context().run, run, share))
        try:
            run(shares[0])
        finally:
            errors = [other.wait() for other in others]
            _idle.extend(others)
    if error := next((e for e in errors if e is not None), None):
        raise error


def _worker() -> _Worker:
    try:
        return _idle.pop()
    except IndexError:
        return _Worker()


def cut(items: Sequence[Share], parts: int) -> list[Sequence[Share]]:
    """The items in at most so many consecutive parts of about equal length, none of them empty."""
    parts = max(1, min(parts, len(items)))
    ends = [len(items) * i // parts for i in range(parts + 1)]
    return [items[start:stop] for start, stop in pairwise(ends)]


def _positive(number: Any) -> int:
    if isinstance(number, bool) or not isinstance(number, int) or number < 1:
        raise ValueError(f"the number of threads must be a positive integer, got {number!r}")
    if number > _MOST:
        raise ValueError(f"the number of threads must be at most {_MOST:,}, got {number:,}")
    return number


def _from_environment(text: str) -> None:
    if text:
        try:
            _setting.write(_positive(int(text)))
        except ValueError:
            raise ValueError(f"{VARIABLE} must be a positive integer, got {text[:40]!r}") from None


_from_environment(os.environ.get(VARIABLE, ""))
