"""Several processes give the losses of one, write what one writes, and go on from what another number of them saved.

Needs mpi4py and an MPI library with its launcher: python -m pip install mpi4py mpich
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from training import processes

from perceiver_ref.errors import InputError
from perceiver_ref.training import distributed
from perceiver_ref.training.distributed import ALONE, reducer, started_together
from perceiver_ref.training.interrupts import Interrupted

OPEN_MPI = {  # which starts neither for the superuser nor more processes than cores, unless it is told
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
}
beside = Path(sys.executable).with_name("mpiexec")
LAUNCHER = str(beside) if beside.exists() else shutil.which("mpiexec")
mpi = pytest.mark.skipif(
    find_spec("mpi4py") is None or LAUNCHER is None, reason="needs mpi4py and mpiexec: pip install mpi4py mpich"
)


def together(count: int, *arguments: object) -> subprocess.CompletedProcess[str]:
    """The script, or a command that starts with -m, in so many processes."""
    command = [sys.executable, *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **OPEN_MPI}
    given = [LAUNCHER, "-n", str(count), *command] if count > 1 else command
    return subprocess.run(given, capture_output=True, text=True, timeout=120, env=environment, check=False)


def run(count: int, out: Path, *options: object) -> dict[str, Any]:
    done = together(count, processes.__file__, out, *options)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@mpi
def test_two_processes_are_one_and_each_goes_on_from_the_other(tmp_path: Path) -> None:
    one = processes.main([str(tmp_path / "one")])
    two = run(2, tmp_path / "two")
    assert (one["size"], two["size"]) == (1, 2)
    assert len(one["losses"]) == 16
    np.testing.assert_allclose(two["losses"], one["losses"], rtol=2e-5)  # float32 sums in another order, 16 steps
    assert {p.name for p in (tmp_path / "two").iterdir()} == {p.name for p in (tmp_path / "one").iterdir()}
    stopped = together(2, processes.__file__, tmp_path / "21", "--stop", 7)
    assert "after step 7, which is saved" in stopped.stderr, stopped.stderr
    with pytest.raises(Interrupted):
        processes.main([str(tmp_path / "12"), "--stop", "7"])
    for found in (processes.main([str(tmp_path / "21"), "--resume"]), run(2, tmp_path / "12", "--resume")):
        np.testing.assert_allclose(found["losses"], one["losses"], rtol=2e-5)
        assert found["evaluation"]["loss"] == pytest.approx(one["evaluation"]["loss"], rel=2e-5)
    again = run(2, tmp_path / "22", "--resume")  # from the beginning: there is none
    assert again == two, "the same order, whatever comes first"


@mpi
def test_the_command_by_two_processes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    np.savez(tmp_path / "d.npz", inputs=rng.normal(size=(20, 3)), labels=np.arange(20) % 2)
    sizes = ("--steps", 4, "--channels", 8, "--latents", 2, "--layers", 1)
    given = ("-m", "perceiver_ref", "train", "classify", "--data", tmp_path / "d.npz", *sizes)
    done = together(2, *given, "--out", tmp_path / "run")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("classify: test_accuracy") == 1, "the first process speaks"
    assert {"model.npz", "result.json"} <= {path.name for path in (tmp_path / "run").iterdir()}


@mpi
def test_fifty_steps_are_those_of_one_process(tmp_path: Path) -> None:
    """In float64, where sums in another order differ by 1e-16; 52 steps multiply that by some thousands at most."""
    options = ["--epochs", "13", "--float64"]
    one, two = processes.main([str(tmp_path / "one"), *options]), run(2, tmp_path / "two", *options)
    assert len(one["losses"]) == 52
    np.testing.assert_allclose(two["losses"], one["losses"], rtol=1e-11)


@mpi
def test_a_process_that_fails_ends_all(tmp_path: Path) -> None:
    done = together(2, processes.__file__, tmp_path / "run", "--fail", 1)
    assert done.returncode != 0
    assert "process 1: this one fails" in done.stderr


def test_sums_are_in_the_order_of_ranks() -> None:
    """1e8 + 1 - 1e8 in float32 is 0 in this order, and 1 in another."""
    parts = [np.full(5, v, np.float32) for v in (1e8, 1, -1e8)]

    class Played(distributed.Mpi):
        def __init__(self, rank: int) -> None:
            self.rank, self.size = rank, 3
            self.communicator = self

        def Alltoall(self, mine: np.ndarray, theirs: np.ndarray) -> None:  # noqa: N802
            theirs[:] = [np.append(part, 0).reshape(3, 2)[self.rank].astype(np.float32) for part in parts]
            np.testing.assert_array_equal(mine, np.append(parts[self.rank], 0).reshape(3, 2))

        def Allgather(self, mine: np.ndarray, every: np.ndarray) -> None:  # noqa: N802
            every[:] = mine

    for rank in range(3):
        found = Played(rank).total({"a": parts[rank][:4].reshape(2, 2), "b": parts[rank][4:]})
        np.testing.assert_array_equal(found["a"], np.zeros((2, 2)))
        assert found["b"].shape == (1,)


def test_it_is_alone_without_a_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in distributed._SIZES:
        monkeypatch.delenv(name, raising=False)
    assert not started_together()
    assert reducer(None, "numpy") is ALONE
    monkeypatch.setenv("PMI_SIZE", "2")
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    assert started_together()
    with pytest.raises(InputError, match=r"several processes need mpi4py .*pip install 'perceiver-ref\[distributed\]'"):
        reducer(None, "numpy")
