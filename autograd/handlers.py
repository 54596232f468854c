"""What happens when an op is called: one stack of handlers, asked from the innermost outwards, and below them the op.

    Step            what can be called: an `Op`, or a function of plain values that handlers may exchange
    Handler         an entry of the stack
    handle          a context that adds one
    always          those around all others

Observing, kernels by name, finite checks, experiments on a model and its arithmetic are handlers, all of them functions
`(step, arguments, options) -> result`, which may call the step themselves: that goes to the next one out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

Function = Callable[[Any, tuple[Any, ...], dict[str, Any]], Any]
"""Given an op, or a step, with its arguments and options: what is to be its result."""


class Handler:
    """An entry of the stack, asked about ops or, with `steps`, about the steps that are none; about nothing once its
    context is left. One that `watches` changes nothing of what is made."""

    __slots__ = ("ended", "function", "steps", "watches")

    def __init__(self, function: Function, steps: bool = False, watches: bool = False) -> None:
        self.function, self.steps, self.watches, self.ended = function, steps, watches, False

    def asked(self, step: Step) -> bool:
        """Whether this handler is asked about a step."""
        return not self.ended and step.is_op != self.steps


always: list[Handler] = []
"""The handlers around all others, in every thread; environment variables put them here."""
_stack: ContextVar[tuple[tuple[Handler, ...], int] | None] = ContextVar("_stack", default=None)
"""The handlers, outermost first, and how many are still to be asked: inside one it is those around it."""


class Step:
    """A function that handlers are asked about, by its name, before it runs."""

    is_op = False

    def __init__(self, function: Callable[..., Any]) -> None:
        self.name = self.__name__ = function.__name__
        self.__qualname__, self.__doc__, self.__wrapped__ = function.__qualname__, function.__doc__, function
        self.__module__ = function.__module__

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        """What the innermost handler makes of it, or below them all the function itself."""
        state = _stack.get()
        if not (always if state is None else state[0]):
            return self.run(arguments, options)
        entries, remaining = state or (tuple(always), len(always))
        while remaining and not entries[remaining - 1].asked(self):
            remaining -= 1
        token = _stack.set((entries, remaining - 1 if remaining else len(entries)))  # inside it, calls begin anew
        try:
            if remaining:
                return entries[remaining - 1].function(self, arguments, options)
            return self.run(arguments, options)
        finally:
            _stack.reset(token)

    def run(self, arguments: tuple[Any, ...], options: dict[str, Any]) -> Any:
        """What a call does below all handlers."""
        return self.__wrapped__(*arguments, **options)


def handlers() -> tuple[Handler, ...]:
    """The handlers that are asked here, outermost first."""
    entries, remaining = _stack.get() or (tuple(always), len(always))
    return tuple([entry for entry in entries[:remaining] if not entry.ended])


@contextmanager
def handle(function: Function, *, steps: bool = False, watches: bool = False) -> Iterator[None]:
    """Within this context every op is `function(op, arguments, options)`, which may call the op, or others, itself.

    The innermost handler is asked first; what it calls goes to the next one out, and below the outermost the op runs.
    With `steps` it is asked about the `Step`s that are no ops, in their place. `watches`: it changes nothing of what is
    made.
    """
    entry = Handler(function, steps, watches)
    entries = (*handlers(), entry)
    _stack.set((entries, len(entries)))
    try:
        yield
    finally:  # a generator may leave its context late, or in another thread: it takes away its own entry alone
        entry.ended = True
        if state := _stack.get():
            entries, remaining = state
            kept = tuple([other for other in entries if not other.ended])
            _stack.set((kept, sum(not other.ended for other in entries[:remaining])))
