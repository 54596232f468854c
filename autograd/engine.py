"""Ops: functions of arrays that compute, and that record what they did when a `Tensor` is among their arguments.

Arrays in, arrays out: an op called on arrays only computes. Called with a `Tensor` among its arguments it
computes the same and records one `Node`: the op, the residuals that its backward rule needs, and where its
differentiable arguments came from; `walk.backward` goes back over those nodes. Python numbers and NumPy scalars take
the dtype of the arrays beside them, and so do integers and bools that it can hold; other mixtures of dtypes, and mixed
libraries, are errors. Where results are fractions (exp, mean, softmax), integers and bools alone get the floating-point
dtype that `numpy.exp` gives them. First order only: backward rules run on plain arrays.

On float16 every op computes in float32 and rounds its results once, forward and backward, as PyTorch does: rules never
see float16, in which squares and sums overflow. What goes from op to op is float16.
"""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Literal, NamedTuple, overload
from weakref import WeakKeyDictionary

import numpy as np

from . import debug
from .backend import Array, BackendError, is_array, name, refusal, rounded_to, wide, xp
from .tensor import FIRST_ORDER, Again, Edge, Node, Slot, Tensor, as_array, registry

kernel_mode: ContextVar[str] = ContextVar("kernel_mode", default=os.environ.get("PERCEIVER_REF_KERNELS") or "fast")
"""`"fast"`: kernels of the table are used where there is one; `"plain"`: the definitions in `ops/` are."""

_NUMBERS = (bool, int, float)
_FLOATS = tuple(np.dtype(code) for code in "fde")

Numbers = Literal["computed", "moved", "cast"]
"""What an op does with numbers. "computed": in float32 where they are float16; "moved": they stay what they are, in any
dtype; "cast": as "moved", but the result has a dtype of its own."""


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
    A rule that has a parameter `needs` is told which arrays need a gradient, as a tuple of bools. A forward rule whose
    residuals give the output again for little may return a third value, a function of no arguments that does: ops that
    need the output on the way back then do not keep it.

    `floats`: its values are floating-point, so that integers and bools are made so first. `scalars`: its arguments may
    be numbers. `numbers`: what it does with them, see `Numbers`. `labels`: the array parameters that hold no values, but
    indices, classes or conditions.
    """

    def __init__(
        self,
        forward: Callable[..., Any],
        *,
        variadic: bool = False,
        differentiable: bool = True,
        numbers: Numbers = "computed",
        floats: bool = False,
        scalars: bool = False,
        labels: tuple[str, ...] = (),
    ) -> None:
        self.name = self.__name__ = forward.__name__
        self.__qualname__, self.__doc__, self.__wrapped__ = self.name, forward.__doc__, forward
        self.__module__ = forward.__module__
        self.variadic = variadic
        self.differentiable = differentiable
        self.numbers: Numbers = numbers
        parameters = inspect.signature(forward).parameters.values()
        keyword = inspect.Parameter.KEYWORD_ONLY
        self.static = {p.name: p.default for p in parameters if p.kind is keyword and p.name != "needs"}
        self.arrays = [p.name for p in parameters if p.kind is not keyword]
        self.floats, self.scalars = floats, scalars
        self.labels = frozenset(map(self.arrays.index, labels))
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
        if handlers := _handlers.get():
            return self._handled(handlers, arguments, static)
        if self.variadic:
            if len(arguments) != 1:
                raise TypeError(f"{self.name} takes one sequence of arrays, got {len(arguments)} arguments")
            arguments = tuple(arguments[0])
        if static:
            arguments = self._bind(arguments, static)
            for key, value in static.items():
                if isinstance(value, np.ndarray):
                    static[key] = self._usable(value, key)
        plain, backend = self._plain(arguments)
        if not self.differentiable:
            return self._seen(plain, static, self._forward(plain, static, None, backend)[0])
        needs = tuple([type(argument) is Tensor for argument in arguments])
        if True in needs:
            return self._recorded(arguments, plain, static, needs, backend)
        return self._seen(plain, static, self._forward(plain, static, needs, backend)[0])

    def _handled(self, handlers: tuple[Handler, ...], arguments: tuple[Any, ...], static: dict[str, Any]) -> Any:
        """Let the innermost handler decide; ops that it calls itself go to the ones around it."""
        token = _handlers.set(handlers[:-1])
        try:
            return handlers[-1](self, arguments, static)
        finally:
            _handlers.reset(token)

    def _recorded(
        self,
        arguments: tuple[Any, ...],
        plain: list[Any],
        static: dict[str, Any],
        needs: tuple[bool, ...],
        backend: str,
    ) -> Any:
        edges = [Edge(i, argument.node, argument.output) for i, argument in enumerate(arguments) if needs[i]]
        tape = edges[0].node.tape
        for edge in edges:
            if edge.node.tape is not tape:
                raise TypeError(f"{self.name} mixes values of two differentiations: {FIRST_ORDER}")
        out, residuals, again = self._forward(plain, static, needs, backend)
        several = isinstance(out, tuple)
        slots = tuple([Slot(o.shape, o.dtype) for o in out]) if several else (Slot(out.shape, out.dtype),)
        node = Node(tape, slots, self)
        for edge in edges:
            if edge.node.again is not None:
                source, value = edge.node, plain[edge.position]
                residuals = tuple([Again(source) if r is value else r for r in residuals])
        node.edges, node.residuals, node.static = tuple(edges), residuals, {**static, "needs": needs}
        node.again = again
        if debug.enabled():
            node.site = debug.call_site()
        self._seen(plain, static, out, node)
        return tuple([Tensor(o, node, i) for i, o in enumerate(out)]) if several else Tensor(out, node)

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
        plain, ordinary = [], True
        for argument in arguments:
            value = argument.data if type(argument) is Tensor else argument
            plain.append(value)
            ordinary = ordinary and type(value) is np.ndarray and value.dtype in _FLOATS
        if plain and ordinary:
            return plain, "numpy"
        backend, others = None, bool(self.labels)
        for i, value in enumerate(plain):
            if value is None or type(value) in _NUMBERS:
                continue
            if isinstance(value, np.generic):
                others = True
                continue
            if not is_array(value):
                raise TypeError(f"{self.name} needs arrays, got {type(value).__name__} as argument {i + 1}")
            library = name(value)
            if value.dtype not in _FLOATS or (library == "numpy" and type(value) is not np.ndarray):
                plain[i] = value = self._usable(value, f"argument {i + 1}")
                others = True
            if library == "cupy" and min(value.strides, default=0) < 0:
                plain[i] = value.copy()  # CuPy's batched matrix product fails on negative strides
            if backend is None:
                backend = library
            elif library != backend and value.dtype.kind == "f":
                raise BackendError(f"{self._signature(plain)}: arrays of numpy and cupy are mixed; move one first")
        if others:
            self._convert(plain, backend or "numpy")
        if backend is None and not any(is_array(value) for value in plain):
            first = next((i for i, value in enumerate(plain) if value is not None), None)
            if first is None:
                raise TypeError(f"{self.name} needs at least one array")
            plain[first] = np.asarray(plain[first], float)
        return plain, backend or "numpy"

    def _usable(self, value: Array, what: str) -> Array:
        """The array, of NumPy's base class where it is of a subclass; `TypeError` where it cannot be computed with."""
        if reason := refusal(value):
            raise TypeError(f"{self.name}: {what} {reason}")
        return np.asarray(value) if isinstance(value, np.ndarray) else value

    def _convert(self, plain: list[Any], backend: str) -> None:
        """Make what is no floating-point array one where an array is needed: scalars, integers and bools."""
        library = xp(np.empty(())) if backend == "numpy" else sys.modules[backend]
        values = [v for i, v in enumerate(plain) if i not in self.labels and is_array(v)]
        dtype = next((v.dtype for v in values if v.dtype.kind == "f"), None)
        for i, value in enumerate(plain):
            label, scalar = i in self.labels, isinstance(value, np.generic)
            if scalar:
                self._usable(np.asarray(value), f"argument {i + 1}")
            if label and (scalar or type(value) is bool):
                plain[i] = library.asarray(value)
            elif scalar and self.scalars and values:  # takes the dtype of the arrays beside it, as a Python number does
                plain[i] = value.item()
            elif scalar:
                plain[i] = library.asarray(value.item() if dtype else value, dtype)
                values.append(plain[i])
                dtype = dtype or (plain[i].dtype if plain[i].dtype.kind == "f" else None)
        whole = [v.dtype for v in values if v.dtype.kind in "biu"]
        if not whole or not (self.floats or (dtype and self.differentiable)):
            return
        target = np.result_type(*whole, dtype or np.float16)
        if dtype and target != dtype:
            raise TypeError(f"{self._signature(plain)}: dtypes are mixed; cast so that they agree")
        for i, value in enumerate(plain):
            if i not in self.labels and is_array(value) and value.dtype.kind in "biu":
                plain[i] = value.astype(target)

    def _forward(
        self, plain: list[Any], static: dict[str, Any], needs: tuple[bool, ...] | None, backend: str
    ) -> tuple[Any, tuple[Any, ...], Callable[[], Any] | None]:
        forward = self.rule(backend).forward
        options = static if needs is None else accepted(forward, static, needs)
        given, narrow = plain, self.numbers == "computed" and any(map(_is_float16, plain))
        if narrow:
            given, options = [wide(value) for value in plain], {key: wide(value) for key, value in options.items()}
        try:
            result = forward(*given, **options)
        except (ValueError, TypeError, IndexError, AttributeError) as error:
            # AttributeError: a number or None where the op needs an array
            kind = next((k for k in (IndexError, ValueError) if isinstance(error, k)), TypeError)
            raise kind(f"{self._signature(plain)}: {error}") from error
        out, residuals, *again = result if self.differentiable else (result, ())
        if narrow:
            out, residuals, again = self._narrowed(out, residuals, again, plain, given)
        if isinstance(out, tuple):
            out = tuple(self._checked(o, plain) for o in out)
        else:
            out = self._checked(out, plain)
        if debug.enabled():
            debug.check_forward(self.name, out, plain)
        return out, residuals, again[0] if again else None

    def _narrowed(
        self, out: Any, residuals: tuple[Any, ...], again: list[Any], plain: list[Any], given: list[Any]
    ) -> tuple[Any, tuple[Any, ...], list[Any]]:
        """What a rule made in float32, rounded; of the residuals, arguments are kept as they were given."""

        def rounded(made: Any) -> Any:
            return rounded_to(np.float16, made) if made.dtype == np.float32 else made

        kept = {id(value): plain[i] for i, value in enumerate(given) if value is not plain[i]}
        residuals = tuple([kept.get(id(r), r) for r in residuals])
        if again and again[0] is not None:
            make = again[0]
            again = [lambda: rounded(make())]
        return (tuple(map(rounded, out)) if isinstance(out, tuple) else rounded(out)), residuals, again

    def _checked(self, out: Any, plain: list[Any]) -> Any:
        out = as_array(out)
        dtype = out.dtype
        if dtype.kind == "f" and self.numbers != "cast":
            for value in plain:
                other = getattr(value, "dtype", dtype)
                if other is not dtype and other.kind == "f" and other != dtype:
                    raise TypeError(f"{self._signature(plain)}: dtypes are mixed; cast so that they agree")
        return out

    def _signature(self, plain: Sequence[Any]) -> str:
        return f"{self.name}({', '.join(debug.describe(value) for value in plain)})"


def _is_float16(value: Any) -> bool:
    return getattr(value, "dtype", None) == np.float16


class Event(NamedTuple):
    """One op as it ran: plain arrays in and out, and its node where it was recorded."""

    op: Op
    arguments: tuple[Any, ...]
    static: dict[str, Any]
    outputs: tuple[Any, ...]
    node: Node | None


_observers: ContextVar[tuple[Callable[[Event], None], ...]] = ContextVar("_observers", default=())


Handler = Callable[[Op, tuple[Any, ...], dict[str, Any]], Any]
_handlers: ContextVar[tuple[Handler, ...]] = ContextVar("_handlers", default=())


@contextmanager
def handle(handler: Handler) -> Iterator[None]:
    """Within this context every op is `handler(op, arguments, static)`, which may call the op, or others, itself.

    For experiments on a model that leave its code alone: an op left out, computed otherwise or in less precision.
    """
    token = _handlers.set((*_handlers.get(), handler))
    try:
        yield
    finally:
        _handlers.reset(token)


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
def op(
    *,
    variadic: bool = ...,
    differentiable: bool = ...,
    numbers: Numbers = ...,
    floats: bool = ...,
    scalars: bool = ...,
    labels: tuple[str, ...] = ...,
) -> Callable[[Callable[..., Any]], Op]: ...
def op(
    forward: Callable[..., Any] | None = None,
    *,
    variadic: bool = False,
    differentiable: bool = True,
    numbers: Numbers = "computed",
    floats: bool = False,
    scalars: bool = False,
    labels: tuple[str, ...] = (),
) -> Any:
    """Decorator: make a forward function an `Op` and put it into the registry.

    `variadic`: the op's callers pass one sequence of arrays. `differentiable=False`: `forward` returns the output
    alone, and the op always returns plain arrays. The other options are those of `Op`.
    """

    def register(function: Callable[..., Any]) -> Op:
        if function.__name__ in registry:
            raise ValueError(f"two ops are named {function.__name__}")
        options: dict[str, Any] = {"numbers": numbers, "floats": floats, "scalars": scalars, "labels": labels}
        made = Op(function, variadic=variadic, differentiable=differentiable, **options)
        registry[function.__name__] = made
        return made

    return register if forward is None else register(forward)


def accepted(function: Callable[..., Any], static: dict[str, Any], needs: tuple[bool, ...]) -> dict[str, Any]:
    """The keyword arguments that a rule has parameters for."""
    names = _parameters.get(function)
    if names is None:
        names = _parameters[function] = frozenset(inspect.signature(function).parameters)
    chosen = {key: value for key, value in static.items() if key in names} if static else {}
    if "needs" in names:
        chosen["needs"] = needs
    return chosen


# weak: the rules of a checkpointed call live only as long as its node
_parameters: WeakKeyDictionary[Callable[..., Any], frozenset[str]] = WeakKeyDictionary()
