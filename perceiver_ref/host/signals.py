"""Ctrl-C, SIGTERM and SIGHUP as exceptions, so that whatever is under way puts its files in order.

    with stopping():            # the command line: all of a command
        ...
        with held():            # a few steps of which all are done, or none
            ...

A shell's convention for how a command ends that a signal stopped is 128 and the signal's number.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

NAMES = ("SIGINT", "SIGTERM", "SIGHUP")
"""What stops a command: the key, the system, and a terminal that is closed."""
NUMBERS = tuple(int(getattr(signal, name)) for name in NAMES if hasattr(signal, name))


class Stopped(KeyboardInterrupt):
    """A signal came."""

    def __init__(self, number: int, text: str = "") -> None:
        super().__init__(text or ("interrupted" if number == signal.SIGINT else f"stopped by {name(number)}"))
        self.number = number


class _State:
    depth = 0
    waiting: int | None = None
    over = False


_state = _State()


def name(number: int) -> str:
    """SIGTERM and the like."""
    return signal.Signals(number).name


def exit_code(error: BaseException) -> int:
    """How a process ends that was stopped so: 128 and the signal's number."""
    return 128 + (error.number if isinstance(error, Stopped) else int(signal.SIGINT))


def stop(number: int, frame: FrameType | None = None) -> None:
    """A handler: raises `Stopped`, at once or where the steps end that must not be torn apart."""
    if _state.over:
        return
    if _state.depth:
        _state.waiting = _state.waiting or number
        return
    raise Stopped(number)


@contextmanager
def stopping() -> Iterator[None]:
    """Within this context the signals raise `Stopped` in the main thread, but for those that are ignored (nohup)."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    defaults = (signal.SIG_DFL, signal.default_int_handler)
    before = {number: signal.getsignal(number) for number in NUMBERS}
    _state.over, _state.waiting = False, None
    try:
        for number in (number for number, handler in before.items() if handler in defaults):
            signal.signal(number, stop)
        yield
    finally:
        for number, handler in before.items():
            if signal.getsignal(number) is stop:
                signal.signal(number, handler)


def settle() -> None:
    """From here to the end of `stopping` no more signals are heeded: what is left is to put things in order."""
    _state.over = True


@contextmanager
def held() -> Iterator[None]:
    """Within this context signals wait: `Stopped` is raised at its end. For steps of milliseconds."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _state.depth += 1
    try:
        yield
    finally:
        _state.depth -= 1
        if not _state.depth and _state.waiting is not None:
            number, _state.waiting = _state.waiting, None
            stop(number)
