"""The process of one implementation: `python -m bench.worker SPEC`, a JSON request a line in, an answer a line out.

It builds what SPEC says and answers {"ready": ...}, or {"missing": reason}. Requests: {"do": "check", "pass": ...}
gives the vector to compare; "peak" the memory and "time" the seconds of each of `calls` calls, and of the processor.
"""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import asdict
from typing import Any

import numpy as np

from .base import Built, MissingError, Spec
from .case import COMMAND, STEP
from .implementations import build

CHECKED_STEPS = 3
"""Of training: their losses are compared."""


class Server:
    """Answers requests about one `Built`."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        self.built: Built = build(spec)
        self._checked = 0.0

    def ready(self) -> dict[str, Any]:
        made = self.built
        return {
            "ready": {"passes": list(made.passes), "held": made.held, "versions": made.versions, **asdict(self.spec)}
        }

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """The answer to one request."""
        run = self.built.passes[request["pass"]]
        return {"check": self._check, "peak": self._peak, "time": self._time}[request["do"]](request, run)

    def _check(self, request: dict[str, Any], run: Any) -> dict[str, Any]:
        name = request["pass"]
        summary = self.built.summaries[name]
        started = time.perf_counter()
        vector = np.concatenate([summary(run()) for _ in range(CHECKED_STEPS if name == STEP else 1)])
        self._checked = time.perf_counter() - started
        flops = self.built.flops(name) if self.built.flops and name != STEP else None
        return {"vector": vector.tolist(), "flops": flops}

    def _peak(self, request: dict[str, Any], run: Any) -> dict[str, Any]:
        if request["pass"] == COMMAND:  # which takes long, and the first time as long as ever
            return {"peak": None, "seconds": self._checked}
        started = time.perf_counter()
        peak = None if self.built.peak is None else self.built.peak(lambda: self._once(run))
        if self.built.peak is None:
            self._once(run)
        return {"peak": peak, "seconds": time.perf_counter() - started}

    def _time(self, request: dict[str, Any], run: Any) -> dict[str, Any]:
        started, busy = time.perf_counter(), time.process_time()
        for _ in range(request["calls"]):
            run()
        self.built.wait()
        passed, busy = time.perf_counter() - started, time.process_time() - busy
        return {"seconds": passed / request["calls"], "cpu": busy / request["calls"]}

    def _once(self, run: Any) -> None:
        run()
        self.built.wait()


def serve() -> None:
    """Requests from stdin until it ends; what libraries print goes to stderr, answers to what was stdout."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def say(value: dict[str, Any]) -> None:
        answers.write(json.dumps(value) + "\n")
        answers.flush()

    try:
        server = Server(Spec(**json.loads(sys.argv[1])))
    except MissingError as error:
        return say({"missing": str(error)})
    except Exception as error:
        return say({"missing": _line(error)})
    say(server.ready())
    for line in sys.stdin:
        try:
            say(server.answer(json.loads(line)))
        except Exception as error:  # of a peer, or memory: the table's line says it, the others go on
            say({"failed": _line(error)})


def _line(error: Exception) -> str:
    """One line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:120]


if __name__ == "__main__":
    serve()
