"""`Tensor`: an array that remembers how it was computed; and the record it remembers, made of `Node`s."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .backend import Array, name, of_base_class

if TYPE_CHECKING:
    from .engine import Op

registry: dict[str, Op] = {}
"""Every op by name."""

FIRST_ORDER = "only first-order gradients are supported, so value_and_grad and vjp do not nest"
_serial = itertools.count()


class Tape:
    """The identity of one differentiation; nodes of two tapes never mix."""


class Slot(NamedTuple):
    """Shape and dtype of one output of a node."""

    shape: tuple[int, ...]
    dtype: Any


class Edge(NamedTuple):
    """The argument at `position` came from output `output` of `node`."""

    position: int
    node: Node
    output: int


class Node:
    """One recorded op (or a leaf, with `op` None). `serial` grows with time: parents are always older.

    `again` computes the output a second time, for nodes that need it and hold an `Again` in its place.
    """

    __slots__ = (
        "__weakref__",
        "again",
        "edges",
        "made",
        "op",
        "outputs",
        "residuals",
        "serial",
        "site",
        "static",
        "tape",
    )

    def __init__(self, tape: Tape, outputs: tuple[Slot, ...], op: Op | None = None) -> None:
        self.serial = next(_serial)
        self.tape = tape
        self.outputs = outputs
        self.op = op
        self.edges: tuple[Edge, ...] | None = ()
        self.residuals: tuple[Any, ...] | None = ()
        self.static: dict[str, Any] = {}
        self.site: str | None = None
        self.again: Callable[[], Array] | None = None
        self.made: Array | None = None  # by `again`, for the next one that needs it

    def arrays(self) -> tuple[Any, ...]:
        """The residuals, with those that are not kept computed again."""
        return tuple([r.array() if type(r) is Again else r for r in self.residuals or ()])

    def used(self) -> None:
        """Free what the backward rule needed."""
        self.edges = self.residuals = self.again = self.made = None


class Again(NamedTuple):
    """A residual that is the output of `node`, and is computed again when it is needed."""

    node: Node

    def array(self) -> Array:
        """The output, with the same bits."""
        if self.node.made is None:
            assert self.node.again is not None, "an op is used up only after those that came from it"
            self.node.made = self.node.again()
        return self.node.made


def _operator(op: str, *, swapped: bool = False) -> Callable[..., Any]:
    if swapped:
        return lambda self, other: registry[op](other, self)
    return lambda self, *other: registry[op](self, *other)


class Tensor:
    """An array that remembers how it was computed.

    `data` is the array; `shape`, `dtype`, `ndim`, `size` are the array's. Arithmetic, comparisons, `@` and basic
    indexing are the ops of the same meaning. Made by `value_and_grad` and `vjp`, not by hand.
    """

    __slots__ = ("__weakref__", "data", "node", "output")
    __array_ufunc__ = None  # NumPy and CuPy arrays on the left then leave the operation to this class
    __hash__ = object.__hash__

    def __init__(self, data: Array, node: Node, output: int = 0) -> None:
        self.data = data
        self.node = node
        self.output = output

    @property
    def shape(self) -> tuple[int, ...]:
        """The array's shape."""
        return self.data.shape  # type: ignore[no-any-return]

    @property
    def dtype(self) -> Any:
        """The array's dtype."""
        return self.data.dtype

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return self.data.ndim  # type: ignore[no-any-return]

    @property
    def size(self) -> int:
        """The number of elements."""
        return self.data.size  # type: ignore[no-any-return]

    def __len__(self) -> int:
        return len(self.data)

    def __repr__(self) -> str:
        return f"Tensor(shape={self.shape}, dtype={self.dtype}, backend={name(self.data)})"

    def __bool__(self) -> bool:
        return bool(self.data)

    def __float__(self) -> float:
        return float(self.data)

    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError("a Tensor was given to a function that needs a plain array; use the ops, or its .data")

    def __getitem__(self, index: Any) -> Any:
        return registry["getitem"](self, index=index)

    __add__ = __radd__ = _operator("add")
    __mul__ = __rmul__ = _operator("multiply")
    __sub__, __rsub__ = _operator("subtract"), _operator("subtract", swapped=True)
    __truediv__, __rtruediv__ = _operator("divide"), _operator("divide", swapped=True)
    __pow__, __rpow__ = _operator("power"), _operator("power", swapped=True)
    __matmul__, __rmatmul__ = _operator("matmul"), _operator("matmul", swapped=True)
    __neg__, __abs__ = _operator("negative"), _operator("absolute")
    __eq__, __ne__ = _operator("equal"), _operator("not_equal")
    __lt__, __le__ = _operator("less"), _operator("less_equal")
    __gt__, __ge__ = _operator("greater"), _operator("greater_equal")


def array_of(value: Any) -> Any:
    """The plain array of a `Tensor`; anything else as it is."""
    return value.data if type(value) is Tensor else value


def leaf(array: Array, tape: Tape) -> Tensor:
    """A `Tensor` to differentiate with respect to; a NumPy scalar counts as an array of no axes."""
    array = of_base_class(as_array(array))
    return Tensor(array, Node(tape, (Slot(array.shape, array.dtype),)))


def as_array(value: Any) -> Any:
    """NumPy arithmetic on 0-d arrays and full reductions return scalars: make them arrays again."""
    return np.asarray(value) if isinstance(value, np.generic) else value
