"""Two GPUs of one host, a process each: the losses of one, and sums in the order of the processes.

Needs two devices, CuPy with NCCL, mpi4py and mpiexec; by itself: python -m pytest tests/training/test_nccl.py
"""

from __future__ import annotations

import json
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from training import processes
from training.test_distributed import LAUNCHER, run, together


def devices() -> int:
    if find_spec("cupy") is None or find_spec("mpi4py") is None or LAUNCHER is None:
        return 0
    import cupy

    try:
        return int(cupy.cuda.runtime.getDeviceCount())
    except cupy.cuda.runtime.CUDARuntimeError:
        return 0


pytestmark = pytest.mark.skipif(devices() < 2, reason="needs two GPUs, CuPy, mpi4py and mpiexec")

SUMS = """
import json
import numpy as np
from perceiver_ref.training.distributed import Nccl

made = Nccl()
cupy = made.cupy
rng = np.random.default_rng(made.rank)
given = {
    "small": cupy.asarray(rng.normal(size=(3, 5)).astype(np.float32)),
    "large": cupy.asarray(rng.normal(size=100_003)),
    "half": cupy.asarray(rng.normal(size=7).astype(np.float16)),
    "host": np.float64(made.rank + 1),
}
total = made.total(given)
assert cupy.cuda.runtime.getDevice() == made.rank % cupy.cuda.runtime.getDeviceCount()
if made.rank == 0:
    print(json.dumps({name: np.asarray(a.get() if hasattr(a, "get") else a, np.float64).ravel()[:20].tolist()
                      for name, a in total.items()}))
"""


def test_sums_are_those_of_the_processes(tmp_path: Path) -> None:
    (tmp_path / "sums.py").write_text(SUMS)
    done = together(2, tmp_path / "sums.py")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    parts = []
    for rank in range(2):
        rng = np.random.default_rng(rank)
        parts.append(
            {
                "small": rng.normal(size=(3, 5)).astype(np.float32).ravel(),
                "large": rng.normal(size=100_003)[:20],
                "half": rng.normal(size=7).astype(np.float16),
                "host": np.array([rank + 1.0]),
            }
        )
    for name in found:
        np.testing.assert_array_equal(found[name], (parts[0][name] + parts[1][name]).astype(float)[:20], err_msg=name)


def test_two_devices_are_one_and_each_goes_on_from_the_other(tmp_path: Path) -> None:
    one = processes.main([str(tmp_path / "one"), "--backend", "cupy"])
    two = run(2, tmp_path / "two", "--backend", "cupy")
    assert two["size"] == 2
    np.testing.assert_allclose(two["losses"], one["losses"], rtol=5e-5)  # float32 sums in other orders, 16 steps
    assert run(2, tmp_path / "again", "--backend", "cupy") == two
    stopped = together(2, processes.__file__, tmp_path / "21", "--backend", "cupy", "--stop", 7)
    assert "after step 7, which is saved" in stopped.stderr, stopped.stderr
    found = processes.main([str(tmp_path / "21"), "--backend", "cupy", "--resume"])
    np.testing.assert_allclose(found["losses"], one["losses"], rtol=5e-5)


def test_fifty_steps_are_those_of_one_device(tmp_path: Path) -> None:
    """In float64: see the same test of processes on the CPU."""
    options = ["--backend", "cupy", "--epochs", "13", "--float64"]
    one, two = processes.main([str(tmp_path / "one"), *options]), run(2, tmp_path / "two", *options)
    assert len(one["losses"]) == 52
    np.testing.assert_allclose(two["losses"], one["losses"], rtol=1e-11)


def test_a_process_that_fails_ends_all(tmp_path: Path) -> None:
    done = together(2, processes.__file__, tmp_path / "run", "--backend", "cupy", "--fail", 1)
    assert done.returncode != 0
    assert "process 1: this one fails" in done.stderr


def test_a_process_without_a_device_is_one_line(tmp_path: Path) -> None:
    count = devices() + 1
    done = together(count, processes.__file__, tmp_path / "run", "--backend", "cupy")
    assert done.returncode != 0
    assert f"process {count - 1} of this host has no device of its own" in done.stderr
    assert sys.executable not in done.stdout
