"""What products are prepared from, whoever makes them, and how they are called."""

from __future__ import annotations

from typing import NamedTuple, Protocol


class Matrices(NamedTuple):
    """How a batch of matrices lies: elements from row to row, and bytes from matrix to matrix.

    `transposed`: in memory the axes are swapped, and `row` is from column to column.
    """

    row: int
    step: int = 0
    transposed: bool = False


class ProductSizes(NamedTuple):
    """Rows and columns of the result, and the length of the sums."""

    n: int
    m: int
    k: int


class Product(Protocol):
    """A prepared product: called with the addresses of x, y and out (or of tables of addresses)."""

    def __call__(self, x: int, y: int, out: int) -> None: ...
