"""Ctrl-C: the step under way is finished and saved; a second one stops at once."""

from __future__ import annotations

import signal
import sys
import threading
from types import FrameType, TracebackType


class Interrupted(KeyboardInterrupt):
    """A run that was stopped; the message says how to go on."""


class Interrupts:
    """Within this context `asked` tells whether Ctrl-C was pressed. Outside of the main thread it is always False."""

    def __init__(self) -> None:
        self.asked = False
        self._before: object = None

    def __enter__(self) -> Interrupts:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._pressed)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)  # type: ignore[arg-type]

    def _pressed(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        print("\nstopping after this step; Ctrl-C again stops at once", file=sys.stderr, flush=True)
