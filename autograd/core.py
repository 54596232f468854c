"""The engine, first half: functions of arrays that record what they did. Read it from top to bottom:

    Tensor, Node   an array that remembers how it was computed, and what is remembered of an op that ran
    Rule, Op       a forward function with its backward one, and what happens when an op is called
    handle         what else may happen then: one stack of handlers

Then `gradients`, the second half: the walk back, `value_and_grad` and `vjp`.

Arrays in, arrays out: an op called on arrays only computes; with a `Tensor` among its arguments it computes the same
and records one node. The rule that ran is captured in the node: a kernel keeps what it likes for its own way back.
First order only: backward rules run on plain arrays. Beside these two files, for a second sitting: `checks` (arguments
and messages), `half` (float16), `sums` (over any axes), `modes` (kernels or definitions), `observing` (what ran, and
NaN found at once), `checkpointing`.
"""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cached_property
from typing import Any, NamedTuple, overload

from . import checks, half
from .backend import Array, as_array, name, of_base_class
from .checks import Traits

registry: dict[str, Op] = {}
"""Every op by name."""
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
    """One op that ran, or a leaf (`op` is None). `serial` grows with time: parents are always older.

    `rule` is what computed it, `options` what it was given beside arrays, `needs` which arrays need a gradient. `again`
    computes the output a second time, for nodes that need it and hold an `Again` in its place.
    """

    __slots__ = (
        *("__weakref__", "again", "edges", "made", "needs", "op", "options", "outputs"),
        *("residuals", "rule", "serial", "tape"),
    )

    def __init__(self, tape: Tape, outputs: tuple[Slot, ...], op: Op | None = None) -> None:
        self.serial, self.tape, self.outputs, self.op = next(_serial), tape, outputs, op
        self.rule: Rule | None = None
        self.needs: tuple[bool, ...] = ()
        self.options: dict[str, Any] = {}
        self.edges: tuple[Edge, ...] | None = ()
        self.residuals: tuple[Any, ...] | None = ()
        self.again: Callable[[], Array] | None = None
        self.made: Array | None = None  # by `again`, for the next one that needs it

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
            assert self.node.again is not None, "an op is used up only after those that came from it"
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
    array = of_base_class(as_array(array))
    return Tensor(array, Node(tape, (Slot(array.shape, array.dtype),)))


class Rule:
    """One way to compute an op and its gradients: the definition, or a kernel.

    `forward(*arrays, **options) -> output, residuals`, where a tuple of outputs makes an op with several. A third
    value, a function of no arguments, says that the output can be had again for little: ops that need it on the way
    back then do not keep it. `backward(gradient, *residuals, **options) -> gradients`, one for each array, None where
    there is none. Either is told which arrays need a gradient, as a tuple of bools, if it has a parameter `needs`. A
    residual that is an argument itself has that argument's name in `backward`. `held(*arrays)`: how many elements a
    kernel holds at a time where the definition holds more than its output.
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
    def names(self) -> tuple[frozenset[str], tuple[str, ...]]:
        """The parameters of `forward`, and those of `backward` in order."""
        both = [inspect.signature(f).parameters if f else () for f in (self.forward, self.backward)]
        return frozenset(both[0]), tuple(both[1])

    def run(self, arrays: Sequence[Any], options: dict[str, Any], needs: tuple[bool, ...]) -> Any:
        """What `forward` returns."""
        if "needs" in self.names[0]:
            options = {**options, "needs": needs}
        return self.forward(*arrays, **options)

    def pull(
        self, gradient: Any, residuals: Sequence[Any], options: Mapping[str, Any], needs: tuple[bool, ...]
    ) -> Sequence[Any]:
        """The gradients that `backward` returns; of the options it gets those that it names."""
        names = self.names[1]
        chosen = {key: value for key, value in options.items() if key in names} if options else {}
        if "needs" in names:
            chosen["needs"] = needs
        made = self.backward(gradient, *residuals, **chosen)
        return made if isinstance(made, (tuple, list)) else (made,)


class Step:
    """A function of plain values that handlers may be asked about, by its name, as they are about ops."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.name = self.__name__ = function.__name__
        self.__qualname__, self.__doc__, self.__wrapped__ = function.__qualname__, function.__doc__, function
        self.__module__ = function.__module__

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        """What the innermost handler makes of it, or below them all the function itself."""
        state = _stack.get()
        if not (always if state is None else state[0]):
            return self.run(arguments, options)
        entries, left = state or (tuple(always), len(always))
        while left and not entries[left - 1].asked(self):
            left -= 1
        token = _stack.set((entries, left - 1 if left else len(entries)))  # what the step itself calls begins anew
        try:
            return entries[left - 1].function(self, arguments, options) if left else self.run(arguments, options)
        finally:
            _stack.reset(token)

    def run(self, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
        """What a call does below all handlers."""
        return self.__wrapped__(*arguments, **options)


class Op(Step):
    """A differentiable function of arrays: its positional parameters are arrays, its keyword parameters options.

    `definition` is the rule of `ops/`; `kernels` holds faster ones by backend, tried in order: each may return
    `NotImplemented` for what it is not made for. An op that is not `differentiable` returns plain arrays, its function
    the output alone.
    """

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
        made = type(self).__new__(type(self))
        made.__dict__.update(self.__dict__, kernels={})
        made.__dict__["plain"] = made.__dict__["fast"] = made
        return made

    @cached_property
    def fast(self) -> Op:
        """The same op by its kernels, whatever mode holds around."""
        made = type(self).__new__(type(self))
        made.__dict__.update(self.__dict__)
        made.__dict__["plain"] = made.__dict__["fast"] = made
        return made

    def run(self, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
        """Compute; record when a `Tensor` is among the arguments. Returns arrays or `Tensor`s accordingly."""
        if self.traits.variadic or options:
            arguments, options = checks.bound(self, arguments, options)
        needs = tuple([type(argument) is Tensor for argument in arguments])
        arrays, backend, narrow = checks.arrays(self, [a.data if n else a for a, n in zip(arguments, needs)])
        try:
            for rule in (*self.kernels.get(backend, ()), self.definition):
                rule = half.widened(rule) if narrow and self.traits.numbers == "computed" else rule
                made = rule.run(arrays, options, needs)
                if made is not NotImplemented:
                    break
        except (ValueError, TypeError, IndexError, AttributeError) as error:
            raise checks.refused(self, arrays, error) from error
        out, residuals, *again = made
        out = checks.result(self, arrays, out)
        if True not in needs or not self.differentiable:
            return out
        edges = [Edge(i, a.node, a.output) for i, a in enumerate(arguments) if needs[i]]
        tape = edges[0].node.tape
        if any(edge.node.tape is not tape for edge in edges):
            raise TypeError(f"{self.name} mixes values of two differentiations: {checks.FIRST_ORDER}")
        node = Node(tape, tuple([Slot(o.shape, o.dtype) for o in (out if isinstance(out, tuple) else (out,))]), self)
        node.rule, node.options, node.needs, node.edges = rule, options, needs, tuple(edges)
        node.residuals, node.again = self._kept(rule, residuals, edges), (again[0] if again else None)
        return tuple([Tensor(o, node, i) for i, o in enumerate(out)]) if isinstance(out, tuple) else Tensor(out, node)

    def _kept(self, rule: Rule, residuals: tuple[Any, ...], edges: Sequence[Edge]) -> tuple[Any, ...]:
        """The residuals; arguments among them that their own nodes can make again are not kept."""
        cheap = {e.position: e.node for e in edges if e.node.again is not None}
        if not cheap or self.traits.variadic or len(residuals) >= len(rule.names[1]):  # not each has a name
            return residuals
        again = {self.arrays[position]: node for position, node in cheap.items()}
        named = zip(residuals, rule.names[1][1:])
        return tuple([Again(again[n]) if r is not None and n in again else r for r, n in named])

    def pull(self, node: Node, gradient: Any, residuals: Sequence[Any]) -> Sequence[Any]:
        """The gradients of the arguments of a node of this op, before they are summed over broadcast axes."""
        assert node.rule is not None
        options = {**self.defaults, **node.options} if self.defaults else {}
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


# ---- what happens when an op runs

Function = Callable[[Any, tuple[Any, ...], dict[str, Any]], Any]
"""Given an op, or a step, with its arguments and options: what is to be its result."""


class Handler:
    """An entry of the stack: asked about ops, or about other `steps`; about nothing once its context is `left`."""

    __slots__ = ("function", "left", "steps")

    def __init__(self, function: Function, steps: bool = False) -> None:
        self.function, self.steps, self.left = function, steps, False

    def asked(self, step: Step) -> bool:
        """Whether this handler is asked about a step."""
        return not self.left and isinstance(step, Op) is not self.steps


_stack: ContextVar[tuple[tuple[Handler, ...], int] | None] = ContextVar("_stack", default=None)
"""The handlers, outermost first, and how many are still to be asked: inside one it is those around it."""
always: list[Handler] = []
"""The handlers around all others, in every thread; environment variables put them here."""


def handlers() -> tuple[Handler, ...]:
    """The handlers that are asked here, outermost first."""
    entries, left = _stack.get() or (tuple(always), len(always))
    return tuple([entry for entry in entries[:left] if not entry.left])


@contextmanager
def handle(function: Function, *, steps: bool = False) -> Iterator[None]:
    """Within this context every op is `function(op, arguments, options)`, which may call the op, or others, itself.

    The innermost handler is asked first; what it calls goes to the next one out, and below the outermost the op runs.
    Observing, kernels by name, finite checks, experiments on a model and its arithmetic are all functions like this.
    With `steps` it is asked about the `Step`s that are no ops, in their place.
    """
    entry = Handler(function, steps)
    entries = (*handlers(), entry)
    _stack.set((entries, len(entries)))
    try:
        yield
    finally:  # a generator may leave its context late, or in another thread: it takes away its own entry alone
        entry.left = True
        if state := _stack.get():
            entries, left = state
            kept = tuple([other for other in entries if not other.left])
            _stack.set((kept, sum(not other.left for other in entries[:left])))
