"""Rate, loss and time left: a bar where tqdm is installed and a terminal is there to see it, plain lines otherwise."""

from __future__ import annotations

import sys
import time
from typing import Any

from ..host.progress import duration

_SECONDS = 2.0
"""Plain lines are at least so far apart, but for those with an evaluation and the last."""


class Progress:
    """`total` steps, of which `done` were made before."""

    def __init__(self, total: int, done: int) -> None:
        self.total, self.first = total, done
        self.started, self.said = time.perf_counter(), 0.0
        self.bar = _bar(total, done)

    def step(self, done: int) -> None:
        """A step is made."""
        if self.bar is not None:
            self.bar.update(done - self.bar.n)

    def log(self, line: dict[str, Any]) -> None:
        """Show a line of metrics."""
        if self.bar is not None:
            self.bar.set_postfix_str(f"loss {line['loss']:.4g}")
            if "evaluation" in line:
                self.bar.write(self._text(line))
            return
        now = time.perf_counter()
        if "evaluation" in line or line["step"] == self.total or now - self.said >= _SECONDS:
            self.said = now
            print(self._text(line), flush=True)

    def close(self) -> None:
        """End the bar."""
        if self.bar is not None:
            self.bar.close()

    def _text(self, line: dict[str, Any]) -> str:
        done = line["step"]
        rate = (done - self.first) / max(time.perf_counter() - self.started, 1e-9)
        parts = [f"step {done}/{self.total}", f"loss {line['loss']:.4f}", f"{rate:.1f} steps/s"]
        parts.append(f"{duration((self.total - done) / rate)} left" if rate else "")
        parts += [f"{name} {value:.4g}" for name, value in line.get("evaluation", {}).items()]
        return "  ".join(part for part in parts if part)


def _bar(total: int, done: int) -> Any:
    if not sys.stderr.isatty():
        return None
    try:
        from tqdm import tqdm
    except ImportError:
        return None
    return tqdm(total=total, initial=done, unit="step", dynamic_ncols=True)
