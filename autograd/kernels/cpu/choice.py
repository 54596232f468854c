"""Whether threads are worth their hand-over: what either way took, while the machine was idle, and whether it is.

A thread is woken, and says that it has ended, in some 30 microseconds: on an idle machine small work is done sooner by
the calling thread alone, how small hangs on the machine, and so does whether two threads are faster at all (two
hyperthreads of one core hardly are). So either way is tried, a few times each, for every kind of work, and the one
whose best time is less is taken. On a busy machine the times say nothing: there each thread gets a share of a core, and
two of them get more than one; what a late one has not begun the calling thread does itself. That the machine is busy
is seen from the share of a core that the calling thread gets while it computes.

Results do not hang on the choice: the same shares are computed, each by the same calls, whoever does.
"""

from __future__ import annotations

from collections.abc import Hashable

TRIALS = 4
"""Of either way, for each kind of work; the best counts."""

WINDOW = 0.02
"""Seconds of computing over which the share of a core is taken: several slices of a scheduler."""

BUSY, IDLE = 0.8, 0.92
"""Shares of a core below which the machine is taken for busy, and above which for idle again."""


class Choice:
    """Whether work is done by the calling thread alone or together with others.

    `together(kind)` says so, and `took(...)` is told how long it was. A kind is work of one function and of about one
    size. When the machine has been busy and is idle again, all is measured anew.
    """

    def __init__(self) -> None:
        self.busy = False
        self._best: dict[Hashable, tuple[list[float], list[float]]] = {}
        self._wall = self._cpu = 0.0

    def together(self, kind: Hashable) -> bool:
        """Whether the next work of this kind is done together; on an idle machine both ways are tried first."""
        if self.busy:
            return True
        alone, shared = self._best.get(kind, ((), ()))
        if len(shared) < TRIALS or len(alone) < TRIALS:
            return len(shared) <= len(alone)
        return min(shared) < min(alone)

    def took(self, kind: Hashable, together: bool, seconds: float, own: tuple[float, float]) -> None:
        """Work of this kind took so many seconds (in any unit of work); `own`: the calling thread's part of it, in
        seconds by the clock and on a core."""
        if not self.busy:
            times = self._best.setdefault(kind, ([], []))[together]
            if len(times) < TRIALS:
                times.append(seconds)
        self._wall += own[0]
        self._cpu += own[1]
        if self._wall < WINDOW:
            return
        share, self._wall, self._cpu = self._cpu / self._wall, 0.0, 0.0
        if share < BUSY and not self.busy:
            self.busy = True
        elif share > IDLE and self.busy:
            self.busy = False
            self._best.clear()
