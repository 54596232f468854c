"""stdout and stderr whose reader may be gone, or that were never open.

`check case.npz | head -1` closes the pipe after a line; `check >&-` starts without a stdout. The
command does its work, writes its reports and answers all the same.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any


class Stream:
    """A text stream in front of another: what cannot be written is dropped, and `error` says why."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.error: OSError | None = None

    def write(self, text: str) -> int:
        """Write, or drop."""
        self._tried(lambda: self._stream.write(text))
        return len(text)

    def flush(self) -> None:
        """Hand over what is buffered."""
        self._tried(self._stream.flush)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _tried(self, do: Any) -> None:
        if self.error is not None:
            return
        try:
            do()
        except OSError as error:
            self.error = error
            with suppress(OSError, ValueError):  # what is buffered must not fail again at the end of the process
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, self._stream.fileno())
                os.close(null)


@contextmanager
def patient_streams() -> Iterator[Stream]:
    """Within this context `sys.stdout` and `sys.stderr` are such streams; gives that of stdout."""
    before = sys.stdout, sys.stderr
    _fill_numbers()
    streams = [Stream(io.StringIO() if stream is None else stream) for stream in before]
    sys.stdout, sys.stderr = streams
    try:
        yield streams[0]
    finally:
        for stream in streams:
            stream.flush()
        sys.stdout, sys.stderr = before


def _fill_numbers() -> None:
    """Open what stands for stdin, stdout and stderr where it is closed: the next file to be opened would be taken for
    it."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
