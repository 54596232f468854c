"""Whether threads are worth their hand-over: what either way took, while the machine was idle, and whether it is.

A thread is woken, and says that it has ended, in some 30 microseconds: on an idle machine small work is done sooner by
the calling thread alone, how small hangs on the machine, and so does whether two threads are faster at all (two
hyperthreads of one core hardly are). So either way is tried for every kind of work, a few times at first and seldom
ever after, and the one whose best time is less is taken. Long work left to one thread costs most: once some has shown
that threads have cores of their own, all of it is done together. On a busy machine times say nothing: there each thread
gets a share of a core, and two of them get more than one; what a late one has not begun the calling thread does itself.
That the machine is busy is seen from the share of a core that the calling thread gets while it computes.

Results do not hang on the choice: the same shares are computed, each by the same calls, whoever does.
"""

from __future__ import annotations

import math
from collections.abc import Hashable

TRIALS = 4
"""Of either way, for each kind of work, before it is tried but seldom."""

OFTEN, SPACED, SELDOM = 2, 16, 128
"""One in so many calls tries the other way: at first, at first where work is long, and later."""

LONG = 2e-3
"""Seconds from which work is long: threads are worth it there unless they are hyperthreads, and a trial is dear."""

CLEAR = 1.3
"""Where long work takes one thread so many times as long as two, threads have cores of their own: from then on all long
work is done together. A single trial that was disturbed would otherwise leave a kind of it to one thread for long."""

WINDOW = 0.02
"""Seconds of computing over which the share of a core is taken: several slices of a scheduler."""

BUSY, IDLE = 0.8, 0.92
"""Shares of a core below which the machine is taken for busy, and above which for idle again."""


class _Kind:
    """What is known of one kind of work: by way, alone and together, the best time and how often it was tried."""

    __slots__ = ("best", "calls", "short", "tried")

    def __init__(self) -> None:
        self.calls, self.short, self.tried, self.best = 0, True, [0, 0], [math.inf, math.inf]


class Choice:
    """Whether work is done by the calling thread alone or together with others.

    `together(kind)` says so, and `took(...)` is told how long it was. A kind is work of one function and of about one
    size. While the machine is busy nothing is measured.
    """

    def __init__(self) -> None:
        self.busy = False
        self._apart = False  # threads have been seen to have cores of their own
        self._kinds: dict[Hashable, _Kind] = {}
        self._wall = self._cpu = 0.0

    def together(self, kind: Hashable) -> bool:
        """Whether the next work of this kind is done together."""
        if self.busy:
            return True
        known = self._kinds.get(kind)
        if known is None:
            known = self._kinds[kind] = _Kind()
        if self._apart and not known.short:
            return True
        known.calls += 1
        better = known.best[True] <= known.best[False]
        every = (OFTEN if known.short else SPACED) if known.tried[not better] < TRIALS else SELDOM
        return better != (known.calls % every == 0)

    def took(self, kind: Hashable, together: bool, size: int, seconds: float, own: tuple[float, float]) -> None:
        """Work of this kind, of a size in any unit, took so many seconds; `own`: the calling thread's part of it, in
        seconds by the clock and on a core."""
        known = self._kinds.get(kind)
        if known is not None and not self.busy:
            known.short = seconds < LONG
            known.tried[together] += 1
            known.best[together] = min(known.best[together], seconds / size)
            if not known.short and math.inf > known.best[False] > CLEAR * known.best[True]:
                self._apart = True
        self._wall += own[0]
        self._cpu += own[1]
        if self._wall < WINDOW:
            return
        share, self._wall, self._cpu = self._cpu / self._wall, 0.0, 0.0
        if share < BUSY or share > IDLE:
            self.busy = share < BUSY
