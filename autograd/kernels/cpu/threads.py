"""The threads of these kernels, and what BLAS does meanwhile: one number, which is BLAS's own setting.

Work is cut into as many shares as there are threads, by its shapes alone. Each share is computed by one thread, and so
are the matrix products in it: BLAS's own threads turn idly after a product, and within one wait for each other, which
on a busy machine takes many times as long as the product. NumPy's functions let other threads compute meanwhile (they
release the interpreter's lock). The calling thread begins with the first share and goes on until none is left, the
others help: what a thread that comes late has not begun is not waited for. Whether they are called at all is measured
(see `choice`). Results are the same bit for bit whenever the number of threads is the same, whoever computed them.
"""

from __future__ import annotations

import _thread
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import Context, copy_context
from itertools import pairwise
from time import perf_counter, thread_time
from typing import Any, TypeVar

from .blas import control
from .choice import Choice

Share = TypeVar("Share")

VARIABLE = "PERCEIVER_REF_THREADS"
"""The environment variable that sets the number at the start."""

_MOST = 4096  # of any machine; the library's own number is a C int


class _Setting:
    """The number of threads; while kernels run it is kept here, and BLAS's is 1."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.running = 0  # kernels under way, in any thread
        self.kept = 1
        self.asked: dict[object, int] = {}  # by the contexts under way, in any thread, the last entered last
        self.before = 1  # the first of them

    def read(self) -> int:
        functions = control()
        return self.kept if self.running or functions is None else functions.read()

    def write(self, number: int) -> None:
        with self.lock:
            self._write(number)

    def _write(self, number: int) -> None:
        functions = control()
        if self.running or functions is None:
            self.kept = number
        else:
            functions.write(number)

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

    def hold(self) -> None:
        """BLAS computes on the calling thread until `release`; such holds may overlap, of any threads."""
        functions = control()
        with self.lock:
            if not self.running and functions is not None:
                self.kept = functions.read()
                functions.write(1)
            self.running += 1

    def release(self) -> None:
        """The end of a `hold`: after the last of them the number is what it was, or was set to meanwhile."""
        functions = control()
        with self.lock:
            self.running -= 1
            if not self.running and functions is not None:
                functions.write(self.kept)


class _Job:
    """The shares of one piece of work: each is taken once, by the thread that comes first."""

    __slots__ = ("_ended", "_left", "_lock", "_next", "_shares", "_work", "error")

    def __init__(self, work: Callable[[Any], None], shares: Sequence[Any]) -> None:
        self._work: Callable[[Any], None] | None = work
        self._shares, self._next, self._left = shares, 0, len(shares)
        self._lock, self._ended = _thread.allocate_lock(), _thread.allocate_lock()
        self._ended.acquire()
        self.error: tuple[int, BaseException] | None = None

    def help(self) -> None:
        """Compute shares until none is left that nobody has begun."""
        before, _inside.share = getattr(_inside, "share", False), True
        try:
            while self._one():
                pass
        finally:
            _inside.share = before

    def _one(self) -> bool:
        with self._lock:
            work, i = self._work, self._next
            if work is None or i == len(self._shares):
                return False
            share, self._next = self._shares[i], i + 1
        error = None
        try:
            work(share)
        except BaseException as raised:
            error = raised
        with self._lock:
            if error is not None and (self.error is None or i < self.error[0]):
                self.error = i, error
            self._left -= 1
            last = not self._left
        if last:
            self._ended.release()
        return True

    def wait(self) -> None:
        """Until the shares that others have begun have ended. A thread that comes later finds no work and no arrays."""
        try:
            self._ended.acquire()
        finally:
            with self._lock:
                self._work, self._shares = None, ()


class _Worker:
    """A thread that helps with the newest job that it was told of."""

    def __init__(self) -> None:
        self._told: deque[tuple[Context, _Job]] = deque(maxlen=1)
        self._awake = _thread.allocate_lock()
        self._awake.acquire()
        threading.Thread(target=self._serve, name="perceiver_ref", daemon=True).start()

    def tell(self, job: _Job) -> None:
        """Help with this job, in the caller's context: its handling of floating-point errors, say."""
        self._told.append((copy_context(), job))
        with suppress(RuntimeError):  # it has been woken before, and has not looked yet
            self._awake.release()

    def _serve(self) -> None:
        while True:
            self._awake.acquire()
            with suppress(IndexError):
                self._help(*self._told.pop())  # no name here holds on to the job

    def _help(self, context: Context, job: _Job) -> None:
        context.run(job.help)


_setting = _Setting()
_workers: list[_Worker] = []
"""Threads that wait for work. They are made when first needed, and a forked process makes its own."""
choice = Choice()
_inside = threading.local()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_workers.clear)


def count() -> int:
    """The number of threads that work is divided over: BLAS's setting; 1 with an unknown BLAS, until set."""
    return 1 if getattr(_inside, "share", False) else _setting.read()


@contextmanager
def threads(number: int) -> Iterator[None]:
    """Within this context kernels and matrix products of every thread of the process use `number` threads.

    `ValueError` unless it is a positive integer up to 4,096. The environment variable PERCEIVER_REF_THREADS sets the
    number from the start; without it, it is BLAS's (OPENBLAS_NUM_THREADS, say, or the number of cores). With another
    BLAS than OpenBLAS, MKL and BLIS it says how many threads kernels use, and other products are left alone. Of
    several such contexts, of any threads, the one that was entered last counts; when the last of them has ended, the
    number is what it was. Kernels divide their work over threads of their own, on which BLAS's number is 1 for as long.
    """
    with _setting.asking(_positive(number)):
        yield


def held() -> bool:
    """Whether BLAS computes each product on the thread that asks for it."""
    return _setting.running > 0


@contextmanager
def single() -> Iterator[None]:
    """Within this context BLAS computes each product on the thread that asks for it; kernels have their threads."""
    _setting.hold()
    try:
        yield
    finally:
        _setting.release()


def spread(work: Callable[[Share], None], shares: Sequence[Share], size: int = 0) -> None:
    """`work(share)` for each share, each once, by the calling thread and others that help it, or by itself alone.

    `size`, in any unit, tells small work from large: where it is given, either way may be chosen. Raises what the first
    failing share raised, when all have ended.
    """
    _setting.hold()
    try:
        helpers = min(len(shares), count()) - 1
        kind = (getattr(work, "__code__", None), size.bit_length(), len(shares))
        if helpers < 1 or (size and not choice.together(kind)):
            started, busy = perf_counter(), thread_time()
            _alone(work, shares)
            if helpers > 0:
                seconds = perf_counter() - started
                choice.took(kind, False, size, seconds, (seconds, thread_time() - busy))
            return
        job = _Job(work, shares)
        started, busy = perf_counter(), thread_time()
        for worker in _helpers(helpers):
            worker.tell(job)
        job.help()
        own = perf_counter() - started, thread_time() - busy
        job.wait()
        if size:
            choice.took(kind, True, size, perf_counter() - started, own)
    finally:
        _setting.release()
    if job.error is not None:
        raise job.error[1]


def _alone(work: Callable[[Share], None], shares: Sequence[Share]) -> None:
    before, _inside.share = getattr(_inside, "share", False), True
    try:
        for share in shares:
            work(share)
    finally:
        _inside.share = before


def _helpers(number: int) -> Sequence[_Worker]:
    if len(_workers) < number:
        with _setting.lock:
            while len(_workers) < number:
                _workers.append(_Worker())
    return _workers[:number]


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
