"""Rate, loss and time left: a bar where tqdm is installed and a terminal is there to see it, plain lines otherwise."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import Any

from ..host.progress import duration
from .memory import shown

WIDTH = 80
"""Columns of a line, where it can be broken."""
_SECONDS = 2.0
"""Plain lines are at least so far apart, but for those with an evaluation and the last."""


class Progress:
    """`total` steps, of which `done` were made before. A `quiet` one shows nothing."""

    def __init__(self, total: int, done: int, quiet: bool = False) -> None:
        self.total, self.first, self.quiet = total, done, quiet
        self.started, self.said = time.perf_counter(), 0.0
        self.bar = None if quiet else _bar(total, done)

    def step(self, done: int) -> None:
        """A step is made."""
        if self.bar is not None:
            self.bar.update(done - self.bar.n)

    def log(self, line: dict[str, Any], memory: int = 0) -> None:
        """Show a line of metrics, and how much memory (bytes) the run has needed."""
        if self.quiet:
            return
        if self.bar is not None:
            self.bar.set_postfix_str(f"loss {line['loss']:.4g}")
            if "evaluation" in line:
                self.bar.write(self._text(line, memory))
            return
        now = time.perf_counter()
        if "evaluation" in line or line["step"] == self.total or now - self.said >= _SECONDS:
            self.said = now
            print(self._text(line, memory), flush=True)

    def close(self) -> None:
        """End the bar."""
        if self.bar is not None:
            self.bar.close()

    def _text(self, line: dict[str, Any], memory: int) -> str:
        done = line["step"]
        rate = (done - self.first) / max(time.perf_counter() - self.started, 1e-9)
        parts = [f"step {done}/{self.total}", f"loss {line['loss']:.4f}", f"{rate:.1f} steps/s"]
        parts.append(f"{duration((self.total - done) / rate)} left" if rate else "")
        parts.append(shown(memory) if memory else "")
        first = "  ".join(part for part in parts if part)
        found = [f"{name} {value:.4g}" for name, value in line.get("evaluation", {}).items()]
        return wrapped([first, *found])


def wrapped(parts: Sequence[str], width: int = WIDTH) -> str:
    """Parts two spaces apart, on as many lines as they need; those after the first line are set in."""
    lines: list[str] = []
    for part in parts:
        if lines and len(lines[-1]) + 2 + len(part) <= width:
            lines[-1] += f"  {part}"
        else:
            lines.append(f"    {part}" if lines else part)
    return "\n".join(lines)


def _bar(total: int, done: int) -> Any:
    if not sys.stderr.isatty():
        return None
    try:
        from tqdm import tqdm
    except ImportError:
        return None
    return tqdm(total=total, initial=done, unit="step", dynamic_ncols=True)
