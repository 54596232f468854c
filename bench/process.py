"""The parent's end of a worker: starts it, asks it, and turns whatever goes wrong into a reason."""

from __future__ import annotations

import json
import math
import os
import selectors
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import asdict
from typing import Any

from perceiver_ref.autograd.modes import PRODUCTS_VARIABLE

from .base import ROOT, Spec

SECONDS = 1800
"""An answer that takes longer counts as none."""
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")


class LostError(Exception):
    """The worker gave no answer, and why."""


class Worker:
    """One implementation in a process of its own."""

    def __init__(self, spec: Spec, threads: int, until: float = math.inf, *, wait: bool = True) -> None:
        """`until`: the `time.monotonic` after which there are no answers. Without `wait`, `begin` is still to come."""
        self.spec, self.until = spec, until
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  (closed by stop)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.worker", json.dumps(asdict(spec))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            cwd=ROOT,
            env=environment(spec, threads),
        )
        self._buffer = b""
        if wait:
            self.begin()

    def begin(self) -> None:
        """Wait until it can be asked; `LostError` when it cannot, and then it has ended."""
        try:
            said = self._read()
            if "ready" not in said:
                raise LostError(said["missing"])
            self.ready: dict[str, Any] = said["ready"]
        except BaseException:
            self.kill()
            self.stop()
            raise

    def ask(self, do: str, name: str, **more: Any) -> dict[str, Any]:
        """The answer to a request about a pass; `LostError` when there is none."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write((json.dumps({"do": do, "pass": name, **more}) + "\n").encode())
            self._process.stdin.flush()
        except OSError:
            raise LostError(self._ended()) from None
        said = self._read()
        if "failed" in said:
            raise LostError(said["failed"])
        return said

    def kill(self) -> None:
        """End the process at once, whatever it is doing; `stop` is still to come."""
        self._process.kill()

    def stop(self) -> None:
        """End the process."""
        if self._process.stdin and not self._process.stdin.closed:
            with suppress(OSError):
                self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout:
            self._process.stdout.close()
        self._errors.close()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            while b"\n" not in self._buffer:
                left = min(SECONDS, self.until - time.monotonic())
                if left <= 0 or not selector.select(left):
                    self.kill()
                    raise LostError("out of time" if left < SECONDS else f"no answer within {SECONDS} s")
                piece = os.read(self._process.stdout.fileno(), 1 << 16)
                if not piece:
                    raise LostError(self._ended())
                self._buffer += piece
        line, _, self._buffer = self._buffer.partition(b"\n")
        said: dict[str, Any] = json.loads(line)
        return said

    def _ended(self) -> str:
        """How the process ended: a signal is mostly memory."""
        code = self._process.wait()
        self._errors.seek(0)
        last = self._errors.read().decode(errors="replace").strip().splitlines()[-1:]
        how = f"killed by signal {-code}, perhaps for memory" if code < 0 else f"ended with exit code {code}"
        return " ".join([how, *last])[:120]


def environment(spec: Spec, threads: int) -> dict[str, str]:
    """The variables of a worker: threads of every library, TF32, products, and no pool of GPU memory from the start."""
    made = {**os.environ, **dict.fromkeys(THREAD_VARIABLES, str(threads))}
    made |= {"CUPY_TF32": "1" if spec.tf32 else "0", "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    made |= {PRODUCTS_VARIABLE: "default", "HF_HUB_OFFLINE": "1"}  # of three only where an implementation says so
    return made
