"""CUDA graphs: a function's launches are recorded once and then replayed at one call, without Python between them.

At batch 1 a model's layers take the GPU less time than their launches take Python. A replay does the same launches at
the cost of one, which leaves the GPU's own time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import wraps
from typing import Any

import numpy as np

from ... import tree
from ...backend import name
from ...core import Tensor
from ...modes import mode
from ...tree import Tree
from . import blas
from .launch import function as kernel

_CHUNK = 16384
_BLOCK = 256
_WORD = 4

_SOURCE = """
// chunks: (array, first byte, bytes); whole words where both ends are aligned
extern "C" __global__ void copies(const Int* chunks, const Int* from, const Int* to) {
    Int which = chunks[3 * blockIdx.x], begin = chunks[3 * blockIdx.x + 1], length = chunks[3 * blockIdx.x + 2];
    const char* x = (const char*)from[which] + begin;
    char* y = (char*)to[which] + begin;
    if (((Int)x | (Int)y | length) & 3) {
        for (Int i = threadIdx.x; i < length; i += blockDim.x) y[i] = x[i];
    } else {
        #pragma unroll 4
        for (Int i = threadIdx.x; i < length / 4; i += blockDim.x) ((int*)y)[i] = ((const int*)x)[i];
    }
}
"""


def recorded(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same function of trees of CuPy arrays, recorded at its first call with arguments of a kind and then replayed.

    What differs from call to call must be an array among the arguments: a recording keeps everything else, and holds
    the memory that the function needs. Results are copies. A function that waits for the device, or moves arrays from
    the host to it, cannot be recorded, which is an error. With a `Tensor` among the arguments, or without a CuPy array,
    the function is called as it is.
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
            kept[kind] = _Recording(function, arguments)
        return kept[kind].replay(arrays)

    return wrapped


def _there(x: Any) -> bool:
    return not isinstance(x, (np.ndarray, np.generic)) and hasattr(x, "dtype") and name(x) == "cupy"


class _Recording:
    """A graph, the arrays that it reads and writes, and the memory that it works in."""

    def __init__(self, function: Callable[..., Any], arguments: tuple[Tree, ...]) -> None:
        import cupy

        self._pool = cupy.cuda.MemoryPool()
        stream = cupy.cuda.Stream(non_blocking=True)
        cupy.cuda.get_current_stream().synchronize()
        with cupy.cuda.using_allocator(self._pool.malloc), stream:
            inputs = tree.map(lambda x: x.copy(order="C") if _there(x) else x, list(arguments))
            function(*inputs)  # compiles, plans and takes memory, none of which a recording may
            stream.synchronize()
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
        self._inputs = [x for _, x in tree.leaves(inputs) if _there(x)]
        sizes = [(i, start, x.nbytes) for i, x in enumerate(self._inputs) for start in range(0, x.nbytes, _CHUNK)]
        chunks = [(i, start, min(_CHUNK, size - start)) for i, start, size in sizes]
        self._chunks = cupy.asarray(np.asarray(chunks, np.int64))
        self._to = cupy.asarray(np.asarray([x.data.ptr for x in self._inputs], np.int64))
        self._addresses: list[int] = []
        self._from: Any = None

    def replay(self, arrays: list[Any]) -> Any:
        """The results for other arrays of the same kind."""
        import cupy

        arrays = [x if x.flags.c_contiguous else x.copy(order="C") for x in arrays]
        addresses = [x.data.ptr for x in arrays]
        if addresses != self._addresses:
            self._from, self._addresses = cupy.asarray(np.asarray(addresses, np.int64)), addresses
        if len(self._chunks):
            arguments = (self._chunks, self._from, self._to)
            kernel(_SOURCE, "copies", "f")((len(self._chunks),), (_BLOCK,), arguments)
        self._graph.launch(cupy.cuda.get_current_stream())
        return tree.map(lambda x: x.copy() if _there(x) else x, self._out)


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
