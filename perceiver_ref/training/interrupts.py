"""Ctrl-C, SIGTERM and SIGHUP: the step under way is finished and saved; a second one stops at once."""

from __future__ import annotations

import signal
import sys
import threading
from contextlib import suppress
from types import FrameType, TracebackType
from typing import Any

from ..host.signals import NUMBERS, Stopped, stop


class Interrupted(Stopped):
    """A run that was stopped; the message says how to go on."""

    def __init__(self, text: str, number: int = signal.SIGINT) -> None:
        super().__init__(number, text)


class Interrupts:
    """Within this context `asked` tells whether a signal came, `number` which. Outside of the main thread none does.

    Signals that are ignored, or that the program itself handles, are left to it; but for Ctrl-C.
    """

    def __init__(self) -> None:
        self.asked = False
        self.number = int(signal.SIGINT)
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            for number in NUMBERS:
                if number == signal.SIGINT or signal.getsignal(number) in (signal.SIG_DFL, stop):
                    self._before[number] = signal.signal(number, self._pressed)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, before in self._before.items():
            signal.signal(number, before)

    def _pressed(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            stop(number)
            return
        self.asked, self.number = True, number
        with suppress(OSError, RuntimeError):  # a closed stream, or one that is written to just now
            print("\nstopping after this step; once more stops at once", file=sys.stderr, flush=True)
