"""How a training step scales over processes that share a batch: `python -m bench.parallel --processes 1 2`.

Needs the extra `distributed` and an MPI launcher. The batch stays the same, so that n processes would at best take a
n-th of the time; with `--weak` each process has a whole batch, and n would at best take the same time. Efficiency is
the share of that which is reached. The sums over processes begin when all gradients are there: none of their time, a
column of its own, is hidden behind the walk back. That column is of steps of their own, which wait for the device
before and after a sum; the steps that are timed wait for nothing but their loss.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from perceiver_ref.autograd import ops, optim, threads, tree
from perceiver_ref.autograd.backend import module, to_backend
from perceiver_ref.errors import InputError
from perceiver_ref.models.call import Call
from perceiver_ref.training.distributed import INSTALL, Reducer, reducer
from perceiver_ref.training.memory import used
from perceiver_ref.training.recipe import Batch, Task
from perceiver_ref.training.recipes.language import Size
from perceiver_ref.training.recipes.language import model as language
from perceiver_ref.training.step import Way, training_step

SIZES = {
    "full": (Size(128, 64, 128, 128, 256, 2), 32),
    "large": (Size(2048, 256, 768, 1280, 768, 26), 32),  # about the published language model, for GPUs
    "quick": (Size(16, 4, 16, 16, 32, 1), 4),
}
"""Model and batch."""


class Timed(Reducer):
    """Another reducer, and the seconds that its sums take, those before them waited for."""

    def __init__(self, inner: Reducer, wait: Callable[[], None]) -> None:
        self.inner, self.wait, self.seconds = inner, wait, 0.0
        self.rank, self.size = inner.rank, inner.size

    def total(self, arrays: dict[str, Any], scale: float = 1.0) -> dict[str, Any]:
        self.wait()
        started = time.perf_counter()
        made = self.inner.total(arrays, scale)
        self.wait()
        self.seconds += time.perf_counter() - started
        return made


class Filled(Task):
    """Bytes given back by the language recipe's model, of other sizes."""

    def __init__(self, size: Size, batch: int) -> None:
        super().__init__(0, batch)
        object.__setattr__(self, "model", language(size))
        object.__setattr__(self, "length", size.length)

    def init(self, before: Any = None) -> Any:
        return self.model.init(0)  # type: ignore[attr-defined]

    def batch(self, step: int) -> dict[str, np.ndarray]:
        length = self.length  # type: ignore[attr-defined]
        return {"ids": np.random.default_rng(step).integers(6, 262, size=(self.batch_size, length))}

    def loss(self, params: Any, batch: Batch, call: Call) -> tuple[Any, dict[str, Any]]:
        return ops.cross_entropy(self.model.apply(params, batch["ids"]), batch["ids"]), {}  # type: ignore[attr-defined]

    def evaluate(self, params: Any) -> dict[str, float]:
        return {}


def worker(size: str, backend: str, steps: int, weak: bool) -> None:
    """Time some steps in this process, one of several; the first prints them."""
    processes = reducer(None, backend)
    synchronize = module("cupy").cuda.runtime.deviceSynchronize if backend == "cupy" else lambda: None
    given, batch = SIZES[size]
    task = Filled(given, batch * processes.size if weak else batch)
    params = {path: to_backend(p, backend) for path, p in tree.flatten(task.init()).items()}
    optimizer = optim.adamw(1e-3)
    state = optimizer.init(params)
    timed = Timed(processes, synchronize)
    ways = [training_step(task, task.init(), optimizer, backend, Way(1, each)) for each in (processes, timed)]
    kinds: tuple[list[float], list[float]] = ([], [])
    share = []
    with threads(1):
        for i in range(2 * (steps + 2)):
            started, timed.seconds = time.perf_counter(), 0.0
            params, state, loss, _ = ways[i % 2](params, state, task.batch(i), Call(training=True))
            value = float(loss)  # waits for a device
            synchronize()
            kinds[i % 2].append(time.perf_counter() - started)
            share.append(timed.seconds / kinds[i % 2][-1])
    if processes.rank == 0:
        made = {"processes": processes.size, "seconds": statistics.median(kinds[0][2:]), "loss": value}
        print(json.dumps({**made, "sums": statistics.median(share[5::2]), "bytes": used(backend)}))


def measured(count: int, size: str, backend: str, steps: int, weak: bool) -> dict[str, Any]:
    """What so many processes take."""
    beside = Path(sys.executable).with_name("mpiexec")
    launcher = str(beside) if beside.exists() else shutil.which("mpiexec")
    if launcher is None:
        raise InputError(f"several processes need an MPI launcher, mpiexec; {INSTALL} mpich")
    command = [sys.executable, "-m", "bench.parallel", "--worker", "--size", size, "--backend", backend]
    command = [*([launcher, "-n", str(count)] if count > 1 else []), *command, "--steps", str(steps)]
    command += ["--weak"] * weak
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False
    )
    if done.returncode:
        raise InputError(f"{count} processes failed: {(done.stderr or done.stdout).strip().splitlines()[-1]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a row for each number of processes."""
    parser = argparse.ArgumentParser(prog="python -m bench.parallel", description=__doc__)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--size", choices=tuple(SIZES), default="full")
    parser.add_argument("--backend", choices=("numpy", "cupy"), default="numpy")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--weak", action="store_true", help="a whole batch for each process, not a part of one")
    parser.add_argument("--json", metavar="FILE")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.worker:
        worker(given.size, given.backend, given.steps, given.weak)
        return 0
    rows: list[dict[str, Any]] = []
    print("processes  ms/step  speed-up  efficiency  sums  GiB a process")
    try:
        for count in given.processes:
            row = measured(count, given.size, given.backend, given.steps, given.weak)
            first = rows[0] if rows else row
            work = row["processes"] / first["processes"] if given.weak else 1.0
            speed = work * first["seconds"] / row["seconds"]
            share = speed * first["processes"] / row["processes"]
            rows.append({**row, "speed_up": speed, "efficiency": share})
            print(
                f"{row['processes']:9}  {1000 * row['seconds']:7.1f}  {speed:8.2f}  {share:10.0%}  {row['sums']:4.0%}  "
                f"{row['bytes'] / 2**30:13.2f}"
            )
    except InputError as error:
        print(f"bench.parallel: error: {error}", file=sys.stderr)
        return 2
    if given.json:
        Path(given.json).write_text(json.dumps({"version": 1, "rows": rows}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
