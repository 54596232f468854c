"""CUDA graphs: a function's launches are recorded once and then replayed at one call, without Python between them.

At batch 1 a model's layers take the GPU less time than their launches take Python. A replay does the same launches at
the cost of one, which leaves the GPU's own time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import wraps
from itertools import count
from typing import Any

import numpy as np

from ... import tree
from ...backend import name
from ...core import Tensor
from ...modes import mode
from ...tree import Tree
from . import blas
from .branches import branching
from .launch import function as kernel

_CHUNK = 16384
_BLOCK = 256
_WORD = 4

_SOURCE = """
// chunks: (array, first byte, bytes); sixteen bytes at a time, or whole words, where both ends are aligned
extern "C" __global__ void copies(const Int* chunks, const Int* from, const Int* to) {
    Int which = chunks[3 * blockIdx.x], begin = chunks[3 * blockIdx.x + 1], length = chunks[3 * blockIdx.x + 2];
    const char* x = (const char*)from[which] + begin;
    char* y = (char*)to[which] + begin;
    Int both = (Int)x | (Int)y | length;
    if (both & 3) {
        for (Int i = threadIdx.x; i < length; i += blockDim.x) y[i] = x[i];
    } else if (both & 15) {
        for (Int i = threadIdx.x; i < length / 4; i += blockDim.x) ((int*)y)[i] = ((const int*)x)[i];
    } else {
        #pragma unroll 4
        for (Int i = threadIdx.x; i < length / 16; i += blockDim.x) ((int4*)y)[i] = ((const int4*)x)[i];
    }
}
"""


def recorded(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same function of trees of CuPy arrays, recorded at its first call with arguments of a kind and then replayed.

    What differs from call to call must be an array among the arguments: a recording keeps everything else, and holds
    the memory that the function needs. It reads the arguments of its first call where they lie, and holds them; at a
    call with others in their places it is made anew, and those are copied from then on. Results are copies. A function
    that waits for the device, or moves arrays from the host to it, cannot be recorded, which is an error. With a
    `Tensor` among the arguments, or without a CuPy array, the function is called as it is.
    """
    kept: dict[Any, _Recording] = {}

    @wraps(function)
    def wrapped(*arguments: Tree) -> Any:
        named = list(tree.leaves(list(arguments)))
        arrays = [x for _, x in named if hasattr(x, "dtype") and not isinstance(x, (np.ndarray, np.generic))]
        if not arrays or any(type(x) is Tensor for x in arrays):
            return function(*arguments)
        kind = (
            *(mode(), blas.precision("f"), arrays[0].device.id),
            tuple((path, x.shape, x.dtype.char) if _there(x) else (path, x) for path, x in named),
        )
        if kind not in kept:
            kept[kind] = _Recording(function, arguments, _strided(arrays))
        elif moved := kept[kind].moved(arrays):
            again = kept.pop(kind).again
            kept[kind] = _Recording(function, arguments, set(range(len(arrays))) if again else moved, again=True)
        return kept[kind].replay(arrays)

    return wrapped


def _there(x: Any) -> bool:
    return not isinstance(x, (np.ndarray, np.generic)) and hasattr(x, "dtype") and name(x) == "cupy"


def _strided(arrays: list[Any]) -> set[int]:
    """The places of arrays that are copied at every call, as the order of their elements is not theirs in memory."""
    return {i for i, x in enumerate(arrays) if not x.flags.c_contiguous}


class _Recording:
    """A graph, the arrays that it reads and writes, and the memory that it works in.

    It reads its own copies of the arguments at the places `copied`, and the others where they lie. `again`: one has
    been made before this for arguments of this kind.
    """

    def __init__(
        self, function: Callable[..., Any], arguments: tuple[Tree, ...], copied: set[int], *, again: bool = False
    ) -> None:
        import cupy

        self.again, places = again, count()
        self._pool = cupy.cuda.MemoryPool()
        stream = cupy.cuda.Stream(non_blocking=True)
        cupy.cuda.get_current_stream().synchronize()
        with cupy.cuda.using_allocator(self._pool.malloc), stream, branching():
            inputs = tree.map(
                lambda x: x.copy(order="C") if _there(x) and next(places) in copied else x, list(arguments)
            )
            function(*inputs)  # compiles, plans and takes memory, none of which a recording may
            stream.synchronize()  # and with it all branches, which have joined
            with _no_uploads():
                stream.begin_capture()
                try:
                    self._out = function(*inputs)
                except BaseException:
                    with suppress(Exception):  # the recording is broken by what went wrong, which is what to report
                        stream.end_capture()
                    raise
                self._graph = stream.end_capture()
            stream.synchronize()
        # beside the memory that replays write to, which has been given back
        inputs = [x for _, x in tree.leaves(inputs) if _there(x)]
        self._places = sorted(copied)
        self._read = {i: x for i, x in enumerate(inputs) if i not in copied}
        self._in = _Copies([inputs[i] for i in self._places])
        self._results = _Copies([x for _, x in tree.leaves(self._out) if _there(x)])

    def moved(self, arrays: list[Any]) -> set[int]:
        """The places of arguments that would have to be copied, empty where the recording is right for these."""
        given = {i: arrays[i] for i in self._read}
        places = {i for i, x in self._read.items() if (x.data.ptr, x.strides) != (given[i].data.ptr, given[i].strides)}
        return places | set(self._places) if places else places

    def replay(self, arrays: list[Any]) -> Any:
        """The results for other arrays of the same kind."""
        import cupy

        self._in.fill([arrays[i] for i in self._places])
        self._graph.launch(cupy.cuda.get_current_stream())
        made = iter(self._results.made())
        return tree.map(lambda x: next(made) if _there(x) else x, self._out)


class _Copies:
    """Arrays that are filled from others, or copied to new ones, by one launch."""

    def __init__(self, arrays: list[Any]) -> None:
        import cupy

        self._arrays = arrays
        self._whole = [bool(x.flags.c_contiguous) for x in arrays]
        sizes = [x.nbytes * whole for x, whole in zip(arrays, self._whole)]
        starts = [(i, start) for i, size in enumerate(sizes) for start in range(0, size, _CHUNK)]
        chunks = [(i, start, min(_CHUNK, sizes[i] - start)) for i, start in starts]
        self._chunks = cupy.asarray(np.asarray(chunks, np.int64))
        self._here = _addresses(arrays)
        self._there: Any = None
        self._addresses: list[int] = []

    def fill(self, arrays: list[Any]) -> None:
        """Write these over what is here."""
        arrays = [x if x.flags.c_contiguous else x.copy(order="C") for x in arrays]
        addresses = [x.data.ptr for x in arrays]
        if addresses != self._addresses:
            self._there, self._addresses = _addresses(arrays), addresses
        self._launch(self._there, self._here)

    def made(self) -> list[Any]:
        """Copies of what is here."""
        import cupy

        made = [cupy.empty_like(x) if whole else x.copy() for x, whole in zip(self._arrays, self._whole)]
        self._launch(self._here, _addresses(made))
        return made

    def _launch(self, source: Any, target: Any) -> None:
        if len(self._chunks):
            kernel(_SOURCE, "copies", "f")((len(self._chunks),), (_BLOCK,), (self._chunks, source, target))


def _addresses(arrays: list[Any]) -> Any:
    import cupy

    return cupy.asarray(np.asarray([x.data.ptr for x in arrays], np.int64))


@contextmanager
def _no_uploads() -> Iterator[None]:
    """Within this context an array that moves from the host raises: a replay would read memory that is gone."""
    import cupy

    def refuse(size: int) -> Any:
        raise RuntimeError(
            f"a recorded function moves {size} bytes from the host to the device; give them among its arguments"
        )

    cupy.cuda.set_pinned_memory_allocator(refuse)
    try:
        yield
    finally:
        cupy.cuda.set_pinned_memory_allocator(cupy.get_default_pinned_memory_pool().malloc)
