"""Batches of matrices with any leading axes and strides, as cuBLAS takes them: evenly spaced or by addresses.

Heads lie side by side in the rows of (B, N, H, d), so that no single step leads from one to the next over a whole
batch. One small launch then writes the addresses of all matrices, from offsets that are kept on the device.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from . import blas
from .blas import listed, spaced
from .launch import function
from .narrow import Narrow, suits
from .prepared import Matrices, Product, ProductSizes

_SLOTS = 12

_SOURCE = """
extern "C" __global__ void addresses(
    Int* out, const Int* offsets, Int size, Int count,
    Int b0, Int b1, Int b2, Int b3, Int b4, Int b5, Int b6, Int b7, Int b8, Int b9, Int b10, Int b11
) {
    Int i = (Int)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= size) return;
    Int bases[12] = {b0, b1, b2, b3, b4, b5, b6, b7, b8, b9, b10, b11};
    out[i] = bases[i / count] + offsets[i];
}
"""


class Operand(NamedTuple):
    """An array of a batch: leading shape and strides, and elements from row to row."""

    shape: tuple[int, ...]
    strides: tuple[int, ...]
    row: int


class Workspace(NamedTuple):
    """A buffer of `chunk` matrices one after the other, of `size` bytes each, used again for the next ones."""

    chunk: int
    size: int
    row: int


class MatrixBatch:
    """Where the matrices of a batch lie, from shapes and strides alone; kept from call to call.

    A call turns the arrays' addresses into `origins`; matrix `first` of operand i is then at origins[i] +
    offset(i, first), or there is its address, where `listed`. Workspaces are numbered after the arrays, and are asked
    for at multiples of their chunk.
    """

    def __init__(
        self,
        lead: tuple[int, ...],
        arrays: Sequence[Operand],
        workspaces: Sequence[Workspace],
        *,
        listed: bool,
        aligned: bool,
    ) -> None:
        """`listed`: make tables whatever the steps; `aligned`: matrices that lead are at multiples of 16 bytes."""
        import cupy

        self.count, self._arrays, self._spaces = math.prod(lead), len(arrays), workspaces
        self._aligned = aligned
        tables = [_offsets(lead, x.shape, x.strides) for x in arrays]
        self._steps = [int(table[1] - table[0]) if self.count > 1 else 0 for table in tables]
        even = all(self.count < 3 or not np.diff(table, n=2).any() for table in tables)
        self.listed = listed or not even or min(self._steps) < 0
        self._rows = [x.row for x in arrays] + [x.row for x in workspaces]
        self._sixteens = [not (table % 16).any() for table in tables] + [x.size % 16 == 0 for x in workspaces]
        if self.listed:
            tables += [np.arange(self.count) % x.chunk * x.size for x in workspaces]
            self._there = cupy.asarray(np.stack(tables))

    def origins(self, addresses: Sequence[int]) -> tuple[Sequence[int], Any]:
        """What offsets count from, for arrays and workspaces at these addresses; and what must be kept meanwhile."""
        if not self.listed:
            return addresses, None
        import cupy

        table = cupy.empty(self._there.shape, np.int64)
        padded = (*addresses, *[0] * (_SLOTS - len(addresses)))
        arguments = (table, self._there, table.size, self.count, *padded)
        function(_SOURCE, "addresses", "f")((-(-table.size // 256),), (256,), arguments)
        return [table.data.ptr] * len(addresses), table

    def offset(self, operand: int, first: int) -> int:
        """Bytes from an operand's origin to its matrix `first`, or to that one's address in the table."""
        if self.listed:
            return 8 * (self.count * operand + first)
        return first * self._steps[operand] if operand < self._arrays else 0

    def matrices(self, operand: int, transposed: bool = False) -> Matrices:
        """How an operand's matrices lie."""
        space = operand - self._arrays
        step = self._spaces[space].size if space >= 0 else self._steps[operand]
        return Matrices(self._rows[operand], step, transposed)

    def narrow(self, char: str, sizes: ProductSizes, x: int, y: int, count: int) -> bool:
        """Whether `narrow` makes the product of operand x and the transposed y."""
        if not (self._aligned and self._sixteens[x] and self._sixteens[y] and blas.single(char)):
            return False
        return suits(sizes, self.matrices(x), self.matrices(y, transposed=True), count)

    def product(
        self,
        char: str,
        sizes: ProductSizes,
        x: int,
        y: int,
        out: int,
        *,
        count: int,
        turned: str = "",
        alpha: float = 1.0,
        beta: float = 0.0,
    ) -> Product:
        """The product of operands x and y into `out` for `count` matrices; `turned` names the transposed of them."""
        matrices = [self.matrices(o, name in turned) for name, o in (("x", x), ("y", y), ("out", out))]
        if turned == "y" and not beta and self.narrow(char, sizes, x, y, count):
            return Narrow(sizes, *matrices, count=count, alpha=alpha, listed=self.listed)
        if self.listed:
            wide = (self._aligned and self._sixteens[x], self._aligned and self._sixteens[y])
            return listed(char, sizes, *matrices, count=count, alpha=alpha, beta=beta, wide=wide)
        aligned = self._aligned and all(x.step % 16 == 0 for x in matrices)
        return spaced(char, sizes, *matrices, count=count, alpha=alpha, beta=beta, aligned=aligned)


def _offsets(lead: tuple[int, ...], shape: tuple[int, ...], strides: tuple[int, ...]) -> np.ndarray:
    """Bytes from an operand's first matrix to each of a batch, in row-major order of `lead`, which it broadcasts to."""
    offsets = np.zeros(lead, np.int64)
    for axis, (n, stride) in enumerate(zip(shape, strides), len(lead) - len(shape)):
        if n > 1:
            offsets += (np.arange(n) * stride).reshape((n,) + (1,) * (len(lead) - axis - 1))
    return offsets.reshape(-1)
