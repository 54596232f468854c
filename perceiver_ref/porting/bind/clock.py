"""The clock that bounds a search: seconds of computing by this thread, whatever else the machine does."""

from __future__ import annotations

import threading
import time

_EVERY = 0.01
"""Seconds between two readings: asking for a thread's time may cost as much as a step of the search."""


class _Read(threading.local):
    at = -1.0
    seconds = 0.0


_READ = _Read()


def clock() -> float:
    """Seconds that this thread has computed, up to some hundredths old."""
    now = time.monotonic()
    if now - _READ.at > _EVERY:
        _READ.at, _READ.seconds = now, time.thread_time()
    return _READ.seconds
