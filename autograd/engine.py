"""Reverse-mode differentiation: `Tensor`, the record of what was computed, and the walk back.

Arrays in, arrays out: an op called on arrays only computes. Called with a `Tensor` among its arguments it
computes the same and records one `Node`: the op, the residuals that its backward rule needs, and where its
differentiable arguments came from. `backward` walks those nodes from the newest to the oldest.

What every rule would otherwise repeat is done here once: converting Python numbers, summing gradients over
broadcast axes, checking shape and dtype, accumulating without aliasing, and freeing residuals on the way.
First order only: backward rules run on plain arrays.
"""

from __future__ import annotations

import heapq
import inspect
import itertools
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple, overload
from weakref import WeakKeyDictionary

import numpy as np

from . import debug
from .backend import Array, BackendError, is_array, name, xp

kernel_mode: ContextVar[str] = ContextVar("kernel_mode", default=os.environ.get("PERCEIVER_REF_KERNELS") or "fast")
"""`"fast"`: kernels of the table are used where there is one; `"plain"`: the definitions in `ops/` are."""

registry: dict[str, Op] = {}
"""Every op by name."""

FIRST_ORDER = "only first-order gradients are supported, so value_and_grad and vjp do not nest"
_serial = itertools.count()
_NUMBERS = (bool, int, float)
_BLOCK = 512  # rows that are summed in the gradient's own dtype


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
    """One recorded op (or a leaf, with `op` None). `serial` grows with time: parents are always older."""

    __slots__ = ("__weakref__", "edges", "op", "outputs", "residuals", "serial", "site", "static", "tape")

    def __init__(self, tape: Tape, outputs: tuple[Slot, ...], op: Op | None = None) -> None:
        self.serial = next(_serial)
        self.tape = tape
        self.outputs = outputs
        self.op = op
        self.edges: tuple[Edge, ...] | None = ()
        self.residuals: tuple[Any, ...] | None = ()
        self.static: dict[str, Any] = {}
        self.site: str | None = None


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
        return self.data.shape  # type: ignore[no-any-return]

    @property
    def dtype(self) -> Any:
        return self.data.dtype

    @property
    def ndim(self) -> int:
        return self.data.ndim  # type: ignore[no-any-return]

    @property
    def size(self) -> int:
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


def data(value: Any) -> Any:
    """The plain array of a `Tensor`; anything else as it is."""
    return value.data if type(value) is Tensor else value


class Rule(NamedTuple):
    """One way to compute an op."""

    forward: Callable[..., Any]
    backward: Callable[..., Any] | None

    @property
    def pull(self) -> Callable[..., Any]:
        """The backward function; `TypeError` when there is none."""
        if self.backward is None:
            raise TypeError(f"{self.forward.__name__} has no backward rule")
        return self.backward


class Op:
    """A differentiable function of arrays: its positional parameters are arrays, its keyword parameters are not.

    `forward(*arrays, **static) -> (output, residuals)`, where a tuple of outputs makes an op with several;
    `backward(gradient, *residuals, **static) -> gradients`, one for each array (None where there is none).
    A rule that has a parameter `needs` is told which arrays need a gradient, as a tuple of bools.
    """

    def __init__(self, forward: Callable[..., Any], *, variadic: bool, differentiable: bool) -> None:
        self.name = self.__name__ = forward.__name__
        self.__qualname__, self.__doc__, self.__wrapped__ = self.name, forward.__doc__, forward
        self.__module__ = forward.__module__
        self.variadic = variadic
        self.differentiable = differentiable
        parameters = inspect.signature(forward).parameters.values()
        keyword = inspect.Parameter.KEYWORD_ONLY
        self.static = {p.name: p.default for p in parameters if p.kind is keyword and p.name != "needs"}
        self.arrays = [p.name for p in parameters if p.kind is not keyword]
        self.rules = {"plain": Rule(forward, None)}

    def __repr__(self) -> str:
        return f"<op {self.name}>"

    def backward(self, rule: Callable[..., Any]) -> Callable[..., Any]:
        """Decorator: the backward rule of this op's definition."""
        self.rules["plain"] = self.rules["plain"]._replace(backward=rule)
        return rule

    def rule(self, backend: str) -> Rule:
        """The pair of functions in use for a backend: its kernel, or the definition."""
        if kernel_mode.get() == "fast" and backend in self.rules:
            return self.rules[backend]
        return self.rules["plain"]

    def __call__(self, *arguments: Any, **static: Any) -> Any:
        """Compute; record when a `Tensor` is among the arguments. Returns arrays or `Tensor`s accordingly."""
        if self.variadic:
            if len(arguments) != 1:
                raise TypeError(f"{self.name} takes one sequence of arrays, got {len(arguments)} arguments")
            arguments = tuple(arguments[0])
        if static:
            arguments = self._bind(arguments, static)
        plain, backend = self._plain(arguments)
        if not self.differentiable:
            return self._seen(plain, static, self._forward(plain, static, None, backend)[0])
        edges = []
        for position, argument in enumerate(arguments):
            if type(argument) is Tensor:
                edges.append(Edge(position, argument.node, argument.output))
        if not edges:
            return self._seen(plain, static, self._forward(plain, static, (False,) * len(plain), backend)[0])
        tape = edges[0].node.tape
        if any(edge.node.tape is not tape for edge in edges):
            raise TypeError(f"{self.name} mixes values of two differentiations: {FIRST_ORDER}")
        positions = {edge.position for edge in edges}
        needs = tuple(position in positions for position in range(len(plain)))
        out, residuals = self._forward(plain, static, needs, backend)
        outputs = out if isinstance(out, tuple) else (out,)
        node = Node(tape, tuple(Slot(o.shape, o.dtype) for o in outputs), self)
        node.edges, node.residuals, node.static = tuple(edges), residuals, {**static, "needs": needs}
        if debug.enabled():
            node.site = debug.call_site()
        self._seen(plain, static, out, node)
        tensors = tuple(Tensor(o, node, i) for i, o in enumerate(outputs))
        return tensors if isinstance(out, tuple) else tensors[0]

    def _seen(self, plain: list[Any], static: dict[str, Any], out: Any, node: Node | None = None) -> Any:
        """Tell whoever is observing; returns `out`."""
        for watch in _observers.get():
            watch(Event(self, tuple(plain), static, out if isinstance(out, tuple) else (out,), node))
        return out

    def _bind(self, arguments: tuple[Any, ...], static: dict[str, Any]) -> tuple[Any, ...]:
        """Move arrays given by keyword to their positions, and refuse unknown names."""
        named = [key for key in static if key not in self.static]
        if not named:
            return arguments
        if self.variadic or any(key not in self.arrays[len(arguments) :] for key in named):
            known = ", ".join([*self.arrays, *self.static])
            raise TypeError(f"{self.name} got an unexpected argument {named[0]!r}; its arguments are: {known}")
        bound = list(arguments)
        for key in self.arrays[len(arguments) :]:
            bound.append(static.pop(key, None))
        while bound and bound[-1] is None:
            bound.pop()
        return tuple(bound)

    def _plain(self, arguments: tuple[Any, ...]) -> tuple[list[Any], str]:
        """The arguments as arrays (and None or Python numbers) of one library, and that library's name."""
        plain = [data(argument) for argument in arguments]
        backend = None
        for i, value in enumerate(plain):
            if value is None or type(value) in _NUMBERS:
                continue
            if isinstance(value, np.generic):  # takes the dtype of the arrays beside it, as a Python number does
                alone = not any(is_array(other) for other in plain)
                plain[i] = np.asarray(value) if alone else value.item()
                continue
            if not is_array(value):
                raise TypeError(f"{self.name} needs arrays, got {type(value).__name__} as argument {i + 1}")
            if backend is None:
                backend = name(value)
            elif name(value) != backend and value.dtype.kind == "f":
                raise BackendError(f"{self._signature(plain)}: arrays of numpy and cupy are mixed; move one first")
        if backend is None:
            first = next((i for i, value in enumerate(plain) if value is not None), None)
            if first is None:
                raise TypeError(f"{self.name} needs at least one array")
            plain[first] = np.asarray(plain[first], None if is_array(plain[first]) else float)
            backend = "numpy"
        return plain, backend

    def _forward(
        self, plain: list[Any], static: dict[str, Any], needs: tuple[bool, ...] | None, backend: str
    ) -> tuple[Any, tuple[Any, ...]]:
        forward = self.rule(backend).forward
        try:
            result = forward(*plain, **(static if needs is None else _accepted(forward, static, needs)))
        except (ValueError, TypeError, IndexError, AttributeError) as error:
            # AttributeError: a number or None where the op needs an array
            kind = next((k for k in (IndexError, ValueError) if isinstance(error, k)), TypeError)
            raise kind(f"{self._signature(plain)}: {error}") from error
        out, residuals = result if self.differentiable else (result, ())
        if isinstance(out, tuple):
            out = tuple(self._checked(o, plain) for o in out)
        else:
            out = self._checked(out, plain)
        if debug.enabled():
            debug.check_forward(self.name, out, plain)
        return out, residuals

    def _checked(self, out: Any, plain: list[Any]) -> Any:
        out = _array(out)
        if out.dtype.kind == "f":
            for value in plain:
                if is_array(value) and value.dtype.kind == "f" and value.dtype != out.dtype:
                    raise TypeError(f"{self._signature(plain)}: dtypes are mixed; cast so that they agree")
        return out

    def _signature(self, plain: Sequence[Any]) -> str:
        return f"{self.name}({', '.join(debug.describe(value) for value in plain)})"


class Event(NamedTuple):
    """One op as it ran: plain arrays in and out, and its node where it was recorded."""

    op: Op
    arguments: tuple[Any, ...]
    static: dict[str, Any]
    outputs: tuple[Any, ...]
    node: Node | None


_observers: ContextVar[tuple[Callable[[Event], None], ...]] = ContextVar("_observers", default=())


@contextmanager
def observe(watch: Callable[[Event], None]) -> Iterator[None]:
    """Within this context, call `watch` after every op, recorded or not."""
    token = _observers.set((*_observers.get(), watch))
    try:
        yield
    finally:
        _observers.reset(token)


@overload
def op(forward: Callable[..., Any]) -> Op: ...
@overload
def op(*, variadic: bool = ..., differentiable: bool = ...) -> Callable[[Callable[..., Any]], Op]: ...
def op(forward: Callable[..., Any] | None = None, *, variadic: bool = False, differentiable: bool = True) -> Any:
    """Decorator: make a forward function an `Op` and put it into the registry.

    `variadic`: the op's callers pass one sequence of arrays. `differentiable=False`: `forward` returns the output
    alone, and the op always returns plain arrays.
    """

    def register(function: Callable[..., Any]) -> Op:
        if function.__name__ in registry:
            raise ValueError(f"two ops are named {function.__name__}")
        made = registry[function.__name__] = Op(function, variadic=variadic, differentiable=differentiable)
        return made

    return register if forward is None else register(forward)


def leaf(array: Array, tape: Tape) -> Tensor:
    """A `Tensor` to differentiate with respect to."""
    return Tensor(array, Node(tape, (Slot(array.shape, array.dtype),)))


def backward(outputs: Sequence[Tensor], cotangents: Sequence[Array], wrt: Sequence[Tensor]) -> list[Array]:
    """Gradients of sum(output * cotangent) over all outputs, with respect to each leaf of `wrt`.

    The graph is used up: its residuals are freed as the walk passes, so a second walk raises `RuntimeError`.
    Returned arrays share no memory with each other, with the cotangents or with any input; a leaf that the outputs do
    not depend on gets zeros.
    """
    pending: dict[Node, list[Any]] = {}  # per output of a node: None, or [sum so far, whether it may be added to]
    queue: list[tuple[int, Node]] = []
    found: dict[Node, Array] = {}

    def send(node: Node, output: int, gradient: Array) -> None:
        slots = pending.get(node)
        if slots is None:
            slots = pending[node] = [None] * len(node.outputs)
            heapq.heappush(queue, (-node.serial, node))
        if slots[output] is None:
            slots[output] = [gradient, False]  # borrowed: the rule may have returned one array twice
        elif slots[output][1]:
            slots[output][0] += gradient
        else:
            slots[output] = [_array(slots[output][0] + gradient), True]

    for tensor, cotangent in zip(outputs, cotangents, strict=True):
        send(tensor.node, tensor.output, _fit(cotangent, tensor.node.outputs[tensor.output], "cotangent", 0))
    leaf_nodes = {tensor.node for tensor in wrt}
    while queue:
        _, node = heapq.heappop(queue)
        slots = pending.pop(node)
        if node.op is None:
            if node in leaf_nodes:
                found[node] = slots[0][0]
            continue
        for edge, gradient in _pull(node, slots):
            send(edge.node, edge.output, gradient)
    return _separate([found.get(tensor.node) for tensor in wrt], wrt, cotangents)


def _pull(node: Node, slots: list[Any]) -> list[tuple[Edge, Array]]:
    """Run one node's backward rule on the gradients of its outputs, and use the node up."""
    assert node.op is not None
    if node.edges is None or node.residuals is None:
        raise RuntimeError(f"the graph through {node.op.name} was already walked back; compute the output again")
    sample = next(slot[0] for slot in slots if slot is not None)
    gradients = [_zeros(sample, out) if s is None else s[0] for s, out in zip(slots, node.outputs)]
    rule = node.op.rule(name(sample)).pull
    upstream = gradients[0] if len(gradients) == 1 else tuple(gradients)
    needs = node.static.pop("needs")
    try:
        result = rule(upstream, *node.residuals, **_accepted(rule, {**node.op.static, **node.static}, needs))
    except (ValueError, TypeError, IndexError) as error:
        raise ValueError(f"backward of {node.op.name}: {error}") from error
    if not isinstance(result, (tuple, list)):
        result = (result,)
    sent = []
    for edge in node.edges:
        if edge.position >= len(result):
            raise ValueError(f"backward of {node.op.name} gave argument {edge.position + 1} no gradient, not even None")
        gradient = result[edge.position]
        if gradient is None:
            continue
        gradient = _fit(gradient, edge.node.outputs[edge.output], node.op.name, edge.position)
        if debug.enabled():
            debug.check_backward(node.op.name, edge.position, gradient, gradients, node.site)
        sent.append((edge, gradient))
    node.edges = node.residuals = None
    return sent


def _fit(gradient: Array, slot: Slot, where: str, position: int) -> Array:
    """Sum a gradient over the axes along which its argument was broadcast; insist on its shape and dtype."""
    if gradient.shape != slot.shape:
        gradient = unbroadcast(gradient, slot.shape)
    gradient = _array(gradient)
    if gradient is None or gradient.shape != slot.shape or gradient.dtype != slot.dtype:
        came = "no matching shape" if gradient is None else debug.describe(gradient)
        want = f"{slot.dtype}{list(slot.shape)}"
        raise ValueError(f"{where} gave argument {position + 1} a gradient of {came}; expected {want}")
    return gradient


def unbroadcast(gradient: Array, shape: tuple[int, ...]) -> Array:
    """Sum `gradient` over the axes that broadcasting added to `shape`; None when it is no broadcast of `shape`.

    A running float32 sum over 200,000 rows loses two or three digits. Here blocks of rows of a contiguous array are
    summed by matrix products, which is fast, and their sums in float64; anything else is summed in float64.
    """
    extra = gradient.ndim - len(shape)
    if extra < 0 or any(want not in (1, got) for want, got in zip(shape, gradient.shape[extra:])):
        return None
    stretched = tuple(i for i, n in enumerate(shape) if n == 1 and gradient.shape[extra + i] != 1)
    if extra and not stretched and gradient.flags.c_contiguous and gradient.size:
        rows = gradient.reshape(-1, int(np.prod(shape)))
        whole = len(rows) // _BLOCK * _BLOCK
        blocks = xp(gradient).ones((1, _BLOCK), gradient.dtype) @ rows[:whole].reshape(-1, _BLOCK, rows.shape[1])
        total = blocks.sum((0, 1), dtype=np.float64) + rows[whole:].sum(0, dtype=np.float64)
    else:
        total = gradient.sum((*range(extra), *(extra + i for i in stretched)), dtype=np.float64)
    return total.reshape(shape).astype(gradient.dtype, copy=False)


def _accepted(function: Callable[..., Any], static: dict[str, Any], needs: tuple[bool, ...]) -> dict[str, Any]:
    """The keyword arguments that a rule has parameters for."""
    names = _parameters.get(function)
    if names is None:
        names = _parameters[function] = frozenset(inspect.signature(function).parameters)
    chosen = {key: value for key, value in static.items() if key in names}
    if "needs" in names:
        chosen["needs"] = needs
    return chosen


# weak: the rules of a checkpointed call live only as long as its node
_parameters: WeakKeyDictionary[Callable[..., Any], frozenset[str]] = WeakKeyDictionary()


def _array(value: Any) -> Any:
    """NumPy arithmetic on 0-d arrays and full reductions return scalars: make them arrays again."""
    return np.asarray(value) if isinstance(value, np.generic) else value


def _zeros(like: Array, slot: Slot) -> Array:
    return xp(like).zeros(slot.shape, slot.dtype)


def _separate(gradients: list[Any], wrt: Sequence[Tensor], cotangents: Sequence[Array]) -> list[Array]:
    """Copy what is shared: each returned gradient owns its memory."""
    taken = {_memory(array)[0] for array in (*cotangents, *(tensor.data for tensor in wrt))}
    result = []
    for gradient, tensor in zip(gradients, wrt):
        if gradient is None:
            result.append(_zeros(tensor.data, tensor.node.outputs[0]))
            continue
        buffer, size = _memory(gradient)
        if buffer in taken or size != gradient.nbytes or not getattr(gradient.flags, "writeable", True):
            gradient = gradient.copy()
        taken.add(_memory(gradient)[0])
        result.append(gradient)
    return result


def _memory(array: Array) -> tuple[int, int]:
    """Identity and size in bytes of the buffer that an array is a view of."""
    while is_array(array.base):
        array = array.base
    return id(array), array.nbytes
