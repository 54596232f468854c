"""Data parallel: processes that each compute a part of every batch, and add up in an order that is always the same.

    mpiexec -n 4 perceiver-ref train digits --out digits          any backend; the extra `distributed`

Every process makes the same batches and holds the same parameters; only the first one writes. A sum over processes is
exact in its order: each process adds up one share of all numbers, in the order of the processes' ranks, and gathers the
shares of the others (a reduce-scatter and an all-gather, 2 (N - 1) / N times the bytes of the gradients a process).

    Alone     one process
    Mpi       over MPI (mpi4py), between hosts or CPUs; arrays pass through the host
    Nccl      over NCCL (CuPy's), one process a device; MPI says who takes part
"""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Callable
from typing import Any, Literal

import numpy as np

from ..autograd.backend import Array, as_array, module, to_host
from ..errors import InputError, one_of

Kind = Literal["mpi", "nccl"]
_SIZES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "PMIX_SIZE", "MPI_LOCALNRANKS", "SLURM_NTASKS_PER_NODE")
"""What the launchers of Open MPI, MPICH and their relatives tell a process."""
INSTALL = "python -m pip install 'perceiver-ref[distributed]'"


class Reducer:
    """Process `rank` of `size`. By itself, it is alone."""

    rank, size = 0, 1

    def total(self, arrays: dict[str, Array], scale: float = 1.0) -> dict[str, Array]:
        """Arrays (or scalars) by name, the same names and shapes in every process -> their sums over all of them, each
        process's multiplied by its `scale` first."""
        return arrays if scale == 1.0 else {name: as_array(array * scale) for name, array in arrays.items()}

    def share(self, value: Any) -> Any:
        """The value of the first process, in every one."""
        return value

    def any(self, asked: bool) -> bool:
        """Whether it is so in any process."""
        return asked

    def abort(self, code: int) -> None:
        """End all processes: what went wrong in one of them would leave the others waiting."""


ALONE = Reducer()


class Mpi(Reducer):
    """The processes of an MPI communicator (default: all that were started together)."""

    def __init__(self, communicator: Any = None) -> None:
        self.communicator = _mpi().COMM_WORLD if communicator is None else communicator
        self.rank, self.size = self.communicator.Get_rank(), self.communicator.Get_size()

    def total(self, arrays: dict[str, Array], scale: float = 1.0) -> dict[str, Array]:
        return _by_dtype(arrays, scale, self.size, self._summed, to_host)

    def _summed(self, shares: np.ndarray) -> None:
        """Each process's share (one row) of an array (processes, n), in its place the sum of all processes' arrays."""
        theirs = np.empty_like(shares)
        self.communicator.Alltoall(shares, theirs)
        mine = theirs[0]
        for share in theirs[1:]:
            mine += share
        self.communicator.Allgather(mine, shares)

    def share(self, value: Any) -> Any:
        return self.communicator.bcast(value, root=0)

    def any(self, asked: bool) -> bool:
        return bool(self.communicator.allreduce(int(asked)))

    def abort(self, code: int) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        self.communicator.Abort(code)


class Nccl(Mpi):
    """The same on GPUs: process r of a host computes on its device r; numbers never leave the devices."""

    def __init__(self, communicator: Any = None) -> None:
        super().__init__(communicator)
        cupy = module("cupy")
        try:
            from cupy.cuda import nccl
        except ImportError as error:
            raise InputError("this CuPy has no NCCL; install its wheel, cupy-cuda12x or cupy-cuda13x") from error
        there = self.communicator.Split_type(_mpi().COMM_TYPE_SHARED)
        devices, here = cupy.cuda.runtime.getDeviceCount(), there.Get_rank()
        if lacking := [rank for rank, has in self.communicator.allgather((here, devices > here)) if not has]:
            raise InputError(f"process {lacking[0]} of this host has no device of its own: there are {devices}")
        cupy.cuda.Device(here).use()
        self.cupy, self.nccl = cupy, nccl
        self.ring = nccl.NcclCommunicator(self.size, self.share(nccl.get_unique_id()), self.rank)

    def total(self, arrays: dict[str, Array], scale: float = 1.0) -> dict[str, Array]:
        host = {name for name, array in arrays.items() if isinstance(array, (np.ndarray, np.generic))}
        there = {name: array for name, array in arrays.items() if name not in host}
        here = super().total({name: arrays[name] for name in arrays if name in host}, scale)
        made = here | _by_dtype(there, scale, self.size, self._on_devices, lambda array: array)
        return {name: made[name] for name in arrays}

    def _on_devices(self, shares: Any) -> None:
        """The same on devices: it is queued, nothing waits for it."""
        theirs = self.cupy.empty_like(shares)
        kind = {"f": {2: self.nccl.NCCL_FLOAT16, 4: self.nccl.NCCL_FLOAT32, 8: self.nccl.NCCL_FLOAT64}}[
            shares.dtype.kind
        ][shares.dtype.itemsize]
        count, stream = shares.shape[1], self.cupy.cuda.get_current_stream().ptr
        self.nccl.groupStart()
        for other in range(self.size):
            self.ring.send(shares[other].data.ptr, count, kind, other, stream)
            self.ring.recv(theirs[other].data.ptr, count, kind, other, stream)
        self.nccl.groupEnd()
        mine = theirs[0]
        for share in theirs[1:]:
            mine += share
        self.ring.allGather(mine.data.ptr, shares.data.ptr, count, kind, stream)


def reducer(kind: Kind | Reducer | None, backend: str) -> Reducer:
    """The processes that take part: those that an MPI launcher started, by NCCL where they compute on GPUs.

    `kind` None: MPI where a launcher started several processes, else none. Raises `InputError` for an unknown kind, and
    with the line that installs mpi4py.
    """
    if isinstance(kind, Reducer):
        return kind
    if kind is None:
        if not started_together():
            return ALONE
        kind = "nccl" if backend == "cupy" else "mpi"
    known: dict[str, Callable[[], Reducer]] = {"mpi": Mpi, "nccl": Nccl}
    if kind not in known:
        raise one_of("way between processes", kind, known)
    made = known[kind]()
    return made if made.size > 1 else ALONE


def started_together() -> bool:
    """Whether a launcher of MPI says that there are several processes."""
    return any(os.environ.get(name, "1").isdigit() and int(os.environ.get(name, "1")) > 1 for name in _SIZES)


def first() -> bool:
    """Whether this is the first of the processes, or the only one: the one that speaks."""
    return not started_together() or bool(_mpi().COMM_WORLD.Get_rank() == 0)


def _mpi() -> Any:
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        raise InputError(f"several processes need mpi4py and an MPI library ({error}); {INSTALL}") from None
    return MPI


def _by_dtype(
    arrays: dict[str, Array], scale: float, size: int, summed: Callable[[Array], None], placed: Callable[[Any], Array]
) -> dict[str, Array]:
    """All arrays of one dtype together, by one sum; each comes back in the library that it had.

    They are laid end to end in `size` equal shares, filled up with zeros; `summed` puts the sums in their place.
    """
    made: dict[str, Array] = {}
    groups: dict[Any, list[str]] = {}
    for key, array in arrays.items():
        groups.setdefault(np.dtype(array.dtype), []).append(key)
    for dtype, names in groups.items():
        parts = [placed(arrays[name]).reshape(-1) for name in names]
        library = np if isinstance(parts[0], np.ndarray) else module("cupy")
        ends = list(itertools.accumulate(part.size for part in parts))
        each = -(-ends[-1] // size)
        shares = library.empty((size, each), dtype)
        flat = shares.reshape(-1)
        flat[ends[-1] :] = 0
        places = [flat[end - part.size : end] for end, part in zip(ends, parts)]
        for place, part in zip(places, parts):
            if scale == 1.0:
                place[...] = part
            else:
                library.multiply(part, dtype.type(scale), out=place)
        summed(shares)
        for name, place in zip(names, places):
            piece, array = place.reshape(arrays[name].shape), arrays[name]
            if isinstance(piece, np.ndarray) and not isinstance(array, (np.ndarray, np.generic)):
                piece = module("cupy").asarray(piece)
            made[name] = piece
    return made
