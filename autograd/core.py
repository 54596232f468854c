"""The engine, first half: functions of arrays that record what they did. Read it from top to bottom:

    Node, Tensor   what is remembered of an op that ran, and an array that knows the node which it came from
    Rule           a forward function with its backward one
    Op, op         what runs when an op is called, and what is recorded of it

Then `gradients`, the second half: the walk back, `value_and_grad` and `vjp`.

Arrays in, arrays out: an op called on arrays only computes; with a `Tensor` among its arguments it computes the same
and records one node. The rule that ran is captured in the node: a kernel keeps what it likes for its own way back.
First order only: backward rules run on plain arrays. Beside these two files, for a second sitting: `checks` (arguments
and messages), `handlers` (what may happen in place of an op that is called), `half` (float16), `sums` (over any axes),
`modes` (kernels or definitions), `observing` (what ran, and NaN found at once), `checkpointing`.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple, overload

import numpy as np

from . import checks, half
from .backend import Array, as_array, name, of_base_class
from .checks import Traits
from .handlers import Step

registry: dict[str, Op] = {}
"""Every op by name."""


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


class Sum(NamedTuple):
    """What has arrived so far of a gradient; `own`: nothing else holds the array, which may be added to."""

    array: Array
    own: bool


class Added(tuple[Any, ...]):
    """Gradients that hold what had arrived before, of their arguments' shapes, in memory that nothing else holds."""


@dataclass(slots=True, weakref_slot=True, eq=False)
class Node:
    """One op that ran, or a leaf (`op` is None). `serial` grows with time: parents are always older.

    `rule` is what computed it, `options` what it was given beside arrays, `needs` which arrays need a gradient. `again`
    computes the output a second time, for nodes that need it and hold an `Again` in its place.
    """

    tape: Tape
    outputs: tuple[Slot, ...]
    op: Op | None = None
    rule: Rule | None = None
    needs: tuple[bool, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)
    edges: tuple[Edge, ...] | None = ()
    residuals: tuple[Any, ...] | None = ()
    again: Callable[[], Array] | None = None
    made: Array | None = None  # by `again`, for the next one that needs it
    serial: int = field(default_factory=itertools.count().__next__)

    def arrays(self) -> tuple[Any, ...]:
        """The residuals, with those that are not kept computed again."""
        return tuple([r.array() if type(r) is Again else r for r in self.residuals or ()])

    def used(self) -> None:
        """Free what the backward rule needed."""
        self.edges = self.residuals = self.again = self.made = None


class Again(NamedTuple):
    """A residual that is the output of `node`, and is computed again, with the same bits, when it is needed."""

    node: Node

    def array(self) -> Array:
        """The output."""
        if self.node.made is None:
            if self.node.again is None:
                raise checks.walked(self.node.op)
            self.node.made = self.node.again()
        return self.node.made


class Tensor:
    """An array that remembers how it was computed: `data` is the array, and its arithmetic is that of the ops.

    Made by `leaf` and by ops that record, not by hand.
    """

    __slots__ = ("__weakref__", "data", "node", "output")
    __array_ufunc__ = None  # NumPy and CuPy arrays on the left then leave the operation to this class
    __hash__ = object.__hash__

    def __init__(self, data: Array, node: Node, output: int = 0) -> None:
        self.data, self.node, self.output = data, node, output

    shape = property(lambda self: self.data.shape, doc="The array's shape.")
    dtype = property(lambda self: self.data.dtype, doc="The array's dtype.")
    ndim = property(lambda self: self.data.ndim, doc="The number of axes.")
    size = property(lambda self: self.data.size, doc="The number of elements.")

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


def _operator(op: str, swapped: bool = False) -> Callable[..., Any]:
    if swapped:
        return lambda self, other: registry[op](other, self)
    return lambda self, *other: registry[op](self, *other)


_BINARY = {"add": "add", "mul": "multiply", "sub": "subtract", "truediv": "divide", "pow": "power", "matmul": "matmul"}
_COMPARED = {"eq": "equal", "ne": "not_equal", "lt": "less", "le": "less_equal", "gt": "greater", "ge": "greater_equal"}
for _method, _op in {**_BINARY, **_COMPARED, "neg": "negative", "abs": "absolute"}.items():
    setattr(Tensor, f"__{_method}__", _operator(_op))
    if _method in _BINARY:
        setattr(Tensor, f"__r{_method}__", _operator(_op, swapped=True))


def array_of(value: Any) -> Any:
    """The plain array of a `Tensor`; anything else as it is."""
    return value.data if type(value) is Tensor else value


def leaf(array: Array, tape: Tape) -> Tensor:
    """A `Tensor` to differentiate with respect to; a NumPy scalar counts as an array of no axes."""
    if type(array) is not np.ndarray:
        array = of_base_class(as_array(array))
    return Tensor(array, Node(tape, (Slot(array.shape, array.dtype),)))


class Rule:
    """One way to compute an op and its gradients: the definition, or a kernel.

    `forward(*arrays, **options) -> output, residuals`; a tuple of outputs makes an op with several. Residuals are what
    `backward` needs. A third value, a function of no arguments, says that the output can be had again for little: ops
    that need it on the way back then do not keep it.

    `backward(gradient, *residuals, **options) -> gradients`: one for each array, None where there is none, or a bare
    array where there is but one. `gradient` is that of the output, a tuple where there are several; of the options it
    gets those that it names. A residual that is an argument of `forward` itself has that argument's name here.

    Either is told which arrays need a gradient, as a tuple of bools, if it has a parameter `needs`. `held(*arrays)`:
    how many elements a kernel holds at a time where the definition holds more than its output.

    A `backward` with a parameter `onto` may add to what has arrived before: it is given a `Sum` or None for each array,
    and returns `Added` where it has.
    """

    def __init__(
        self,
        forward: Callable[..., Any],
        backward: Callable[..., Any] | None = None,
        held: Callable[..., int] | None = None,
    ) -> None:
        self.forward, self.held = forward, held
        self.backward: Any = backward

    @cached_property
    def adds(self) -> bool:
        """Whether `backward` adds to gradients that have arrived before."""
        return "onto" in self.names[1]

    @cached_property
    def names(self) -> tuple[frozenset[str], tuple[str, ...]]:
        """The parameters of `forward`, and those of `backward` in order."""
        both = [inspect.signature(f).parameters if f else () for f in (self.forward, self.backward)]
        return frozenset(both[0]), tuple(both[1])

    def run(self, arrays: Sequence[Any], options: dict[str, Any], needs: tuple[bool, ...]) -> Any:
        """What `forward` returns."""
        if "needs" in self.names[0]:
            return self.forward(*arrays, **options, needs=needs)
        return self.forward(*arrays, **options)

    def pull(
        self, gradient: Any, residuals: Sequence[Any], options: Mapping[str, Any], needs: tuple[bool, ...]
    ) -> Sequence[Any]:
        """The gradients that `backward` returns."""
        names = self.names[1]
        named = {key: value for key, value in options.items() if key in names} if options else {}
        if "needs" in names:
            named["needs"] = needs
        gradients = self.backward(gradient, *residuals, **named)
        return gradients if isinstance(gradients, (tuple, list)) else (gradients,)


class Op(Step):
    """A differentiable function of arrays: its positional parameters are arrays, its keyword-only parameters options.

    Called, it runs, unless a handler does something else (see `handlers`). `definition` is the rule of `ops/`;
    `kernels` holds faster ones by backend, tried in order: each may return `NotImplemented` for what it is not made
    for. A keyword-only parameter `needs` is no option (see `Rule`). A variadic op (`checks.Traits`) is called with one
    sequence of arrays, which its rules get one by one. An op that is not `differentiable` returns plain arrays and
    records nothing; its function returns the output alone, without residuals.
    """

    is_op = True

    def __init__(self, forward: Callable[..., Any], *, differentiable: bool = True, **traits: Any) -> None:
        super().__init__(forward)
        self.differentiable, self.traits = differentiable, Traits(**traits)
        parameters = inspect.signature(forward).parameters.values()
        keyword = inspect.Parameter.KEYWORD_ONLY
        self.defaults = {p.name: p.default for p in parameters if p.kind is keyword and p.name != "needs"}
        self.arrays = [p.name for p in parameters if p.kind is not keyword]
        self.definition = Rule(forward if differentiable else lambda *a, **o: (forward(*a, **o), ()))
        self.kernels: dict[str, tuple[Rule, ...]] = {}

    def __repr__(self) -> str:
        return f"<op {self.name}>"

    def backward(self, rule: Callable[..., Any]) -> Callable[..., Any]:
        """Decorator: the backward rule of this op's definition."""
        self.definition = Rule(self.definition.forward, rule)
        return rule

    @cached_property
    def plain(self) -> Op:
        """The same op by its definition, whatever kernels there are."""
        return self._fixed(kernels={})

    @cached_property
    def fast(self) -> Op:
        """The same op by its kernels, whatever mode holds around."""
        return self._fixed()

    def _fixed(self, **changes: Any) -> Op:
        """A copy that modes leave as it is."""
        copy = type(self).__new__(type(self))
        copy.__dict__.update(self.__dict__, **changes)
        copy.__dict__["plain"] = copy.__dict__["fast"] = copy
        return copy

    def run(self, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
        """Compute, and record when a `Tensor` is among the arguments: `Tensor`s are returned then, else arrays."""
        if self.traits.variadic or options:
            arguments, options = checks.bound(self, arguments, options)
        needs = tuple([type(argument) is Tensor for argument in arguments])
        arrays, backend, narrow = checks.arrays(self, [a.data if type(a) is Tensor else a for a in arguments])
        try:
            for rule in (*self.kernels.get(backend, ()), self.definition):
                rule = half.widened(rule) if narrow and self.traits.numbers == "computed" else rule
                result = rule.run(arrays, options, needs)
                if result is not NotImplemented:
                    break
        except (ValueError, TypeError, IndexError, AttributeError) as error:
            raise checks.refused(self, arrays, error) from error
        out, residuals, *again = result
        out = checks.result(self, arrays, out)
        if True not in needs or not self.differentiable:
            return out
        outputs = out if isinstance(out, tuple) else (out,)
        edges = tuple([Edge(i, a.node, a.output) for i, a in enumerate(arguments) if needs[i]])
        tape, slots = edges[0].node.tape, tuple([Slot(o.shape, o.dtype) for o in outputs])
        if len({edge.node.tape for edge in edges}) > 1:
            raise TypeError(f"{self.name} mixes values of two differentiations: {checks.FIRST_ORDER}")
        node = Node(tape, slots, self, rule, needs, options, edges, self._kept(rule, residuals, edges), *again)
        if not isinstance(out, tuple):
            return Tensor(out, node)
        return tuple([Tensor(o, node, i) for i, o in enumerate(out)])

    def _kept(self, rule: Rule, residuals: tuple[Any, ...], edges: Sequence[Edge]) -> tuple[Any, ...]:
        """The residuals; arguments among them that their own nodes can make again are not kept."""
        cheap = [edge for edge in edges if edge.node.again is not None]
        if not cheap or self.traits.variadic or len(residuals) >= len(rule.names[1]):  # not each has a name
            return residuals
        again = {self.arrays[edge.position]: Again(edge.node) for edge in cheap}
        named = zip(residuals, rule.names[1][1:])
        return tuple([again.get(n, r) if r is not None else r for r, n in named])

    def pull(
        self, node: Node, gradient: Any, residuals: Sequence[Any], onto: tuple[Sum | None, ...] = ()
    ) -> Sequence[Any]:
        """The gradients of the arguments of a node of this op, before they are summed over broadcast axes."""
        assert node.rule is not None
        options = {**self.defaults, **node.options} if self.defaults else {}
        if onto:
            options["onto"] = onto
        return node.rule.pull(gradient, residuals, options, node.needs)


@overload
def op(forward: Callable[..., Any]) -> Op: ...
@overload
def op(*, differentiable: bool = ..., **traits: Any) -> Callable[[Callable[..., Any]], Op]: ...
def op(forward: Callable[..., Any] | None = None, **options: Any) -> Any:
    """Decorator: make a forward function an `Op`, with these `checks.Traits`, and put it into the registry."""

    def register(function: Callable[..., Any]) -> Op:
        if function.__name__ in registry:
            raise ValueError(f"two ops are named {function.__name__}")
        made = registry[function.__name__] = Op(function, **options)
        return made

    return register if forward is None else register(forward)
