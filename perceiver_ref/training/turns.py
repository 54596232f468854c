"""Runs of one process take turns: their matrix products share one number of threads, on which last digits depend."""

from __future__ import annotations

import threading
from collections import deque


class Turns:
    """A lock that waiting threads get in the order in which they came: `with` it, one of them computes."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._taken = False
        self._waiting: deque[threading.Lock] = deque()

    def __enter__(self) -> None:
        with self._guard:
            if not self._taken:
                self._taken = True
                return
            mine = threading.Lock()
            mine.acquire()
            self._waiting.append(mine)
        try:
            mine.acquire()  # until whoever leaves hands over
        except BaseException:  # Ctrl-C while waiting
            with self._guard:
                if mine in self._waiting:
                    self._waiting.remove(mine)
                else:
                    self._hand_over()
            raise

    def __exit__(self, *exception: object) -> None:
        with self._guard:
            self._hand_over()

    def _hand_over(self) -> None:
        if self._waiting:
            self._waiting.popleft().release()
        else:
            self._taken = False


TURNS = Turns()
"""Of this process."""
