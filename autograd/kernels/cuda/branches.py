"""Calls that need nothing of each other, as branches of a CUDA graph that is recorded.

At small batches a product has fewer tiles than the GPU multiprocessors, and the last tiles of any leave most of them
idle: what runs beside it fills them. Only recordings have branches: without one the host would spend more on events
than the GPU gains. The order of all launches on the host, and what each computes, are the same either way.

Memory: each stream of a recording takes its arrays from a part of the pool that is its own. One is written anew only by
work that was launched after all that read it: by the same stream, or after branches have joined. That holds as long as
no array that is read beside a branch is given up before they join, which is why the caller holds them.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from ...branches import one_after_the_other


class _Streams:
    """The streams of a recording beside its main one, and the events that order them, which it keeps."""

    def __init__(self) -> None:
        self.free: list[Any] = []
        self.taken: list[Any] = []
        self.events: list[Any] = []
        self.depth = 0

    def take(self, count: int) -> list[Any]:
        """So many that nothing uses which has not joined: the same ones whenever the same calls are made."""
        import cupy

        taken = [self.free.pop() if self.free else cupy.cuda.Stream(non_blocking=True) for _ in range(count)]
        self.taken += taken
        return taken

    def joined(self) -> None:
        """All branches have: their streams may be taken again."""
        self.free += reversed(self.taken)
        self.taken = []

    def event(self, stream: Any) -> Any:
        """What waits for all that has been launched on a stream."""
        import cupy

        event = cupy.cuda.Event(disable_timing=True)
        event.record(stream)
        self.events.append(event)
        return event


class _Recording(threading.local):
    """The streams of what this thread records; None where it does not."""

    streams: _Streams | None = None


_recording = _Recording()


@contextmanager
def branching() -> Iterator[None]:
    """Within this context, in which a graph is prepared and recorded, `run` makes branches."""
    before, _recording.streams = _recording.streams, _Streams()
    try:
        yield
    finally:
        _recording.streams = before


def run(calls: Sequence[Callable[[], Any]]) -> list[Any]:
    """As `branches.one_after_the_other`; while a graph is recorded, the first goes on and each other one branches."""
    streams = _recording.streams
    if streams is None or len(calls) < 2:
        return one_after_the_other(calls)
    import cupy

    main, sides = cupy.cuda.get_current_stream(), streams.take(len(calls) - 1)
    start = streams.event(main)
    streams.depth += 1
    results = [calls[0]()]
    for call, side in zip(calls[1:], sides):
        side.wait_event(start)
        with side:
            results.append(call())
    for side in sides:
        main.wait_event(streams.event(side))
    streams.depth -= 1
    if not streams.depth:
        streams.joined()
    return results
